{{/* serveConfigV2: what `serve deploy` reads. JSON, which is YAML, keeps large numbers whole. */}}
{{- define "rootstock.serveConfig" -}}
{{- $s := include "rootstock.settings" . | fromJson -}}
{{- $args := deepCopy .Values.settings -}}
{{- if .Values.tokens.secret -}}
{{- $_ := set $args "token_file" (printf "%s/%s" (include "rootstock.tokensFolder" .) .Values.tokens.key) -}}
{{- end -}}
{{- $engine := dict "num_cpus" (max 1 ($s.threads | int)) "resources" (dict "rootstock_engine" 1) -}}
{{- if hasPrefix "cuda" $s.device -}}
{{- $_ := set $engine "num_gpus" 1 -}}
{{- end -}}
{{- $door := dict "num_cpus" ($s.decode_threads | int) "num_gpus" 0 "resources" (dict "rootstock_door" 1) -}}
{{- $deployments := list -}}
{{- if eq $s.topology "split" -}}
{{- $deployments = list
  (include "rootstock.deployment" (dict "root" . "name" "rootstock" "needs" $door "group" .Values.door "most" $s.doors) | fromJson)
  (include "rootstock.deployment" (dict "root" . "name" "engine" "needs" $engine "group" .Values.engine "most" $s.replicas) | fromJson) -}}
{{- else -}}
{{- $deployments = list
  (include "rootstock.deployment" (dict "root" . "name" "rootstock" "needs" $engine "group" .Values.engine "most" $s.replicas) | fromJson) -}}
{{- end -}}
{{- $application := dict
  "name" "rootstock"
  "route_prefix" "/"
  "import_path" "serving.app:build"
  "args" $args
  "deployments" $deployments -}}
{{- if .Values.restart -}}
{{- $_ := set $application "runtime_env" (dict "env_vars" (dict "ROOTSTOCK_RESTART" .Values.restart)) -}}
{{- end -}}
{{- dict
  "proxy_location" "EveryNode"
  "http_options" (dict "host" $s.host "port" ($s.port | int) "request_timeout_s" (include "rootstock.requestTimeout" . | int))
  "logging_config" (dict "log_level" "WARNING" "enable_access_log" false "encoding" (upper $s.log_format))
  "tracing_config" (dict "enabled" (ne $s.traces "") "exporter_import_path" $s.traces "sampling_ratio" $s.traces_share)
  "applications" (list $application) | toPrettyJson -}}
{{- end -}}

{{/* One deployment's part, as JSON; `most` replicas where Serve scales them. */}}
{{- define "rootstock.deployment" -}}
{{- $update := .root.Values.rollingUpdate -}}
{{- $deployment := dict
  "name" .name
  "ray_actor_options" .needs
  "max_surge_percent" ($update.maxSurgePercent | int)
  "rolling_update_percentage" $update.percentage -}}
{{- if (include "rootstock.settings" .root | fromJson).autoscale -}}
{{- $scaling := deepCopy .group.scaling -}}
{{- $_ := set $scaling "max_replicas" (.most | int) -}}
{{- $_ := set $deployment "autoscaling_config" $scaling -}}
{{- end -}}
{{- $deployment | toJson -}}
{{- end -}}
