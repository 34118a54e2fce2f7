{{/* Names, labels and what is derived from several values; renders no object. */}}

{{- define "rootstock.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* At most 40 characters: KubeRay appends to it, and Services end at 63. */}}
{{- define "rootstock.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "rootstock.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "rootstock.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* The Service that KubeRay makes in front of all doors. */}}
{{- define "rootstock.service" -}}
{{- printf "%s-serve-svc" (include "rootstock.fullname" .) -}}
{{- end -}}

{{/* What finds our pods. No `name`: KubeRay finds the head by a name of its own, and pods keep it. */}}
{{- define "rootstock.selector" -}}
app.kubernetes.io/part-of: {{ include "rootstock.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "rootstock.labels" -}}
app.kubernetes.io/name: {{ include "rootstock.name" . }}
{{ include "rootstock.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "rootstock.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "rootstock.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "rootstock.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* What the code says, as JSON: Ray's version, environment, defaults of the settings. */}}
{{- define "rootstock.generated" -}}
{{- .Files.Get "files/generated.json" -}}
{{- end -}}

{{/* Every setting, given or by default, as JSON. */}}
{{- define "rootstock.settings" -}}
{{- $defaults := (include "rootstock.generated" . | fromJson).settings -}}
{{- mergeOverwrite $defaults (deepCopy .Values.settings) | toJson -}}
{{- end -}}

{{/* Seconds after which Serve gives a request up. */}}
{{- define "rootstock.requestTimeout" -}}
{{- $s := include "rootstock.settings" . | fromJson -}}
{{- add (ceil (addf $s.budget_s $s.load_s) | int) 10 -}}
{{- end -}}

{{/* Seconds after which HAProxy gives a replica up. */}}
{{- define "rootstock.serverTimeout" -}}
{{- add (include "rootstock.requestTimeout" . | int) 5 -}}
{{- end -}}

{{/* The claim of the store's volume; empty where the store is no volume. */}}
{{- define "rootstock.storeClaim" -}}
{{- if hasPrefix "file://" .Values.settings.store -}}
{{- default (printf "%s-store" (include "rootstock.fullname" .)) .Values.storeVolume.claim -}}
{{- end -}}
{{- end -}}

{{- define "rootstock.tokensFolder" -}}/etc/rootstock/tokens{{- end -}}
{{- define "rootstock.scriptsFolder" -}}/etc/rootstock/scripts{{- end -}}
