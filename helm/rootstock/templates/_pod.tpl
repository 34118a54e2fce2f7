{{/* Pods of Ray: one template for head and groups. */}}

{{/* Variables of Ray and of the server, the same in every pod of a cluster. */}}
{{- define "rootstock.environment" -}}
{{- $generated := include "rootstock.generated" . | fromJson -}}
{{- $s := include "rootstock.settings" . | fromJson -}}
{{- $variables := merge (dict) $generated.environment (get $generated.ingress $s.ingress) -}}
{{- if eq $s.ingress "haproxy" -}}
{{- $timeout := include "rootstock.serverTimeout" . | int -}}
{{- $_ := set $variables "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S" ($timeout | toString) -}}
{{- $_ := set $variables "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S" (max 120 (add $timeout 5) | toString) -}}
{{- end -}}
{{- range $name, $value := $variables }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
# Else lines of replicas lie in files of the pod, and `kubectl logs` shows none of them.
- name: RAY_LOG_TO_STDERR
  value: "1"
{{ include "rootstock.home" . }}
{{- end -}}

{{/* Where a process may write: the root file system is read-only. */}}
{{- define "rootstock.home" -}}
- name: HOME
  value: /tmp
- name: HF_HOME
  value: {{ ternary "/cache/huggingface" "/tmp/huggingface" (eq .Values.weights.source "hub") }}
{{- end -}}

{{/* Credentials of the store and of the hub. */}}
{{- define "rootstock.envFrom" -}}
{{- if .Values.storeSecret }}
- secretRef:
    name: {{ .Values.storeSecret }}
{{- end }}
{{- if .Values.weights.hubTokenSecret }}
- secretRef:
    name: {{ .Values.weights.hubTokenSecret }}
{{- end }}
{{- end -}}

{{/* dict root, component, values, engine, door, store (each whether it is one, or has one) → a pod template */}}
{{- define "rootstock.pod" -}}
{{- $root := .root -}}
{{- $head := eq .component "head" -}}
{{- $s := include "rootstock.settings" .root | fromJson -}}
{{- $accelerated := and .engine (hasPrefix "cuda" $s.device) -}}
metadata:
  labels:
    {{- /* No version: whatever changes here makes KubeRay build a second cluster. */}}
    {{- include "rootstock.selector" $root | nindent 4 }}
    app.kubernetes.io/component: {{ .component }}
    {{- with $root.Values.commonLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    {{- with .values.labels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .values.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "rootstock.serviceAccount" $root }}
  # The autoscaler beside the head talks to Kubernetes; nobody else does.
  automountServiceAccountToken: {{ and $head $s.autoscale }}
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ ternary 60 (add $root.Values.drainSeconds 60) $head }}
  {{- with $root.Values.image.pullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    {{- toYaml $root.Values.podSecurityContext | nindent 4 }}
  {{- range $key := list "priorityClassName" "runtimeClassName" "nodeSelector" "tolerations" "affinity" }}
  {{- with get $.values $key }}
  {{ $key }}:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- end }}
  {{- with .values.spread }}
  topologySpreadConstraints:
    {{- range . }}
    - {{- toYaml . | nindent 6 }}
      labelSelector:
        matchLabels:
          {{- include "rootstock.selector" $root | nindent 10 }}
          app.kubernetes.io/component: {{ $.component }}
    {{- end }}
  {{- end }}
  {{- $fetch := and .engine (eq $root.Values.weights.source "store") }}
  {{- if or $fetch .values.initContainers }}
  initContainers:
    {{- if $fetch }}
    - {{- include "rootstock.fetch" . | nindent 6 }}
    {{- end }}
    {{- with .values.initContainers }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- end }}
  containers:
    - name: {{ ternary "ray-head" "ray-worker" $head }}
      image: {{ include "rootstock.image" $root }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      securityContext:
        {{- toYaml $root.Values.securityContext | nindent 8 }}
      env:
        {{- include "rootstock.environment" $root | trim | nindent 8 }}
        {{- if not $head }}
        - name: RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S
          value: {{ $root.Values.drainSeconds | quote }}
        {{- end }}
        {{- with .values.env }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- $secrets := include "rootstock.envFrom" $root }}
      {{- if and $secrets (not $head) }}
      envFrom:
        {{- $secrets | nindent 8 }}
      {{- end }}
      resources:
        {{- $resources := deepCopy .values.resources }}
        {{- if $accelerated }}
        {{- $one := dict "limits" (dict $root.Values.engine.acceleratorResource 1) "requests" (dict $root.Values.engine.acceleratorResource 1) }}
        {{- $resources = mergeOverwrite $resources $one }}
        {{- end }}
        {{- toYaml $resources | nindent 8 }}
      ports:
        {{- include "rootstock.ports" (dict "head" $head "settings" $s) | nindent 8 }}
      {{- include "rootstock.probes" (dict "head" $head "settings" $s) | nindent 6 }}
      {{- if not $head }}
      lifecycle:
        preStop:
          exec:
            command: [python, {{ include "rootstock.scriptsFolder" $root }}/drain.py]
      {{- end }}
      volumeMounts:
        {{- include "rootstock.mounts" . | nindent 8 }}
        {{- with .values.volumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    {{- include "rootstock.volumes" . | nindent 4 }}
    {{- with .values.volumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}

{{/* Tokens between Ray's own processes; empty where there are none. */}}
{{- define "rootstock.authOptions" -}}
{{- if ne .Values.rayAuth.mode "disabled" -}}
authOptions:
  mode: {{ .Values.rayAuth.mode }}
  {{- with .Values.rayAuth.secretName }}
  secretName: {{ . }}
  {{- end }}
{{- end -}}
{{- end -}}

{{/* What every `ray start` is told. */}}
{{- define "rootstock.rayStart" -}}
metrics-export-port: "8080"
# Given, so that nothing waits for them: a raylet gives its agent 15 s to say which it took, and
# dies without, which is little where a pod may use little CPU.
dashboard-agent-listen-port: "52365"
dashboard-agent-grpc-port: "52366"
runtime-env-agent-port: "52367"
# Images go from door to engine in messages; the object store stays empty.
object-store-memory: "268435456"
{{- end -}}

{{- define "rootstock.ports" -}}
- {name: serve, containerPort: {{ .settings.port }}}
- {name: metrics, containerPort: 8080}
{{- if eq .settings.ingress "haproxy" }}
- {name: haproxy-metrics, containerPort: 9101}
{{- end }}
{{- if .head }}
- {name: gcs, containerPort: 6379}
- {name: dashboard, containerPort: 8265}
- {name: client, containerPort: 10001}
- {name: as-metrics, containerPort: 44217}
- {name: dash-metrics, containerPort: 44227}
{{- end }}
{{- end -}}

{{/* Alive: Ray's own agent answers. Ready: the proxy on this pod reaches a replica. */}}
{{- define "rootstock.probes" -}}
{{- $alive := ternary "{path: /api/gcs_healthz, port: 8265}" "{path: /api/local_raylet_healthz, port: 52365}" .head -}}
{{- $ready := ternary $alive (printf "{path: /-/healthz, port: %d}" (int .settings.port)) .head -}}
startupProbe:
  httpGet: {{ $alive }}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 60
livenessProbe:
  httpGet: {{ $alive }}
  periodSeconds: 10
  timeoutSeconds: 10
  failureThreshold: 12
readinessProbe:
  httpGet: {{ $ready }}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: {{ ternary 6 1 .head }}
{{- end -}}

{{- define "rootstock.mounts" -}}
{{- $v := .root.Values -}}
- {name: tmp, mountPath: /tmp}
- {name: shm, mountPath: /dev/shm}
- {name: scripts, mountPath: {{ include "rootstock.scriptsFolder" .root }}, readOnly: true}
{{- if and .store (include "rootstock.storeClaim" .root) }}
- {name: store, mountPath: /store}
{{- end }}
{{- if and .door $v.tokens.secret }}
- {name: tokens, mountPath: {{ include "rootstock.tokensFolder" .root }}, readOnly: true}
{{- end }}
{{- if .engine }}
{{- if eq $v.weights.source "hub" }}
- {name: cache, mountPath: /cache}
{{- else if ne $v.weights.source "bundled" }}
- {name: weights, mountPath: /weights}
{{- end }}
{{- end }}
{{- end -}}

{{- define "rootstock.volumes" -}}
{{- $v := .root.Values -}}
- name: tmp
  emptyDir: {}
- name: shm
  emptyDir: {medium: Memory, sizeLimit: {{ .values.shm }}}
- name: scripts
  configMap:
    name: {{ include "rootstock.fullname" .root }}-scripts
{{- if .store }}
{{- with include "rootstock.storeClaim" .root }}
- name: store
  persistentVolumeClaim:
    claimName: {{ . }}
{{- end }}
{{- end }}
{{- if and .door $v.tokens.secret }}
- name: tokens
  secret:
    secretName: {{ $v.tokens.secret }}
    defaultMode: 0440
{{- end }}
{{- if .engine }}
{{- if eq $v.weights.source "hub" }}
- name: cache
  {{- if $v.weights.claim }}
  persistentVolumeClaim:
    claimName: {{ $v.weights.claim }}
  {{- else }}
  emptyDir:
    sizeLimit: {{ $v.weights.cacheSize }}
  {{- end }}
{{- else if eq $v.weights.source "volume" }}
- name: weights
  persistentVolumeClaim:
    claimName: {{ $v.weights.claim }}
    readOnly: true
{{- else if eq $v.weights.source "store" }}
- name: weights
  emptyDir:
    sizeLimit: {{ $v.weights.cacheSize }}
{{- end }}
{{- end }}
{{- end -}}

{{/* The container that brings weights from the store before an engine starts. */}}
{{- define "rootstock.fetch" -}}
{{- $v := .root.Values -}}
name: weights
image: {{ include "rootstock.image" .root }}
imagePullPolicy: {{ $v.image.pullPolicy }}
command: [python, {{ include "rootstock.scriptsFolder" .root }}/fetch.py]
args:
  - {{ $v.settings.store | quote }}
  - {{ $v.weights.object | quote }}
  - {{ $v.settings.weights | quote }}
env:
  {{- include "rootstock.home" .root | nindent 2 }}
{{- with include "rootstock.envFrom" .root }}
envFrom:
  {{- . | nindent 2 }}
{{- end }}
securityContext:
  {{- toYaml $v.securityContext | nindent 2 }}
resources:
  requests: {cpu: 100m, memory: 2Gi}
  limits: {memory: 8Gi}
volumeMounts:
  {{- include "rootstock.mounts" . | nindent 2 }}
{{- end -}}
