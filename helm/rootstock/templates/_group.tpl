{{/* dict root, component, values, engine, door, store, most, cpus → a worker group; one replica a pod */}}
{{- define "rootstock.group" -}}
{{- $s := include "rootstock.settings" .root | fromJson -}}
{{- $accelerated := and .engine (hasPrefix "cuda" $s.device) -}}
{{- $room := ternary 2 1 (and .values.overlap (not $accelerated) (not $s.autoscale)) -}}
{{- $spare := int .values.spare -}}
{{- $least := add .most $spare -}}
{{- $most := $least -}}
{{- if $s.autoscale -}}
{{- $least = add .values.scaling.min_replicas $spare -}}
{{- $surge := ceil (divf (mulf .most .root.Values.rollingUpdate.maxSurgePercent) 100) -}}
{{- $most = add .most $spare $surge -}}
{{- end -}}
groupName: {{ .component }}
replicas: {{ $least }}
minReplicas: {{ $least }}
maxReplicas: {{ $most }}
rayStartParams:
  num-cpus: {{ mul $room .cpus | quote }}
  num-gpus: {{ ternary "1" "0" $accelerated | quote }}
  # Quoted for the shell of whose command KubeRay makes it a part.
  resources: {{ printf "'%s'" (dict (printf "rootstock_%s" .component) $room | toJson) | quote }}
  {{- include "rootstock.rayStart" .root | nindent 2 }}
template:
  {{- include "rootstock.pod" . | nindent 2 }}
{{- end -}}
