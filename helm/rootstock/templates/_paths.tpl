{{/* What may be reached from outside, one prefix a line: the API, never /metrics. */}}
{{- define "rootstock.paths" -}}
/v1
/v2
/healthz
/readyz
{{- if .documentation }}
/docs
/openapi.json
{{- end }}
{{- end -}}
