{{/* What a schema cannot say: values that contradict each other. Renders nothing. */}}
{{- define "rootstock.checks" -}}
{{- $s := include "rootstock.settings" . | fromJson -}}
{{- $split := eq $s.topology "split" -}}
{{- $cuda := hasPrefix "cuda" $s.device -}}
{{- if lt ($s.slots | int) ($s.batch_max | int) -}}
{{- fail "settings.slots must be at least settings.batch_max: every sample may want another task" -}}
{{- end -}}
{{- if and (gt ($s.doors | int) 1) (not $split) -}}
{{- fail "settings.doors needs settings.topology split: fused replicas are doors themselves" -}}
{{- end -}}
{{- if and $s.merged_pin (eq (int64 $s.merged_bytes) 0) -}}
{{- fail "settings.merged_pin needs settings.merged_bytes: the memory that pinned tasks may take" -}}
{{- end -}}
{{- if and (not $cuda) (eq ($s.threads | int) 0) -}}
{{- fail "settings.threads must be set: a container sees every core of its node, not its own limit" -}}
{{- end -}}
{{- if or $s.tokens $s.token_file -}}
{{- fail "settings.tokens and settings.token_file are the chart's: put tokens into a Secret and name it in tokens.secret" -}}
{{- end -}}
{{- if not (regexMatch "^(s3|gs|az)://.|^file:///store(/|$)" $s.store) -}}
{{- fail (printf "settings.store is %q: it must be s3://…, gs://…, az://… or file:///store, the volume of storeVolume" $s.store) -}}
{{- end -}}
{{- if has $s.host (list "127.0.0.1" "localhost" "::1") -}}
{{- fail "settings.host must be 0.0.0.0: other pods could not reach the doors" -}}
{{- end -}}
{{- $inWeights := hasPrefix "/weights/" (default "" $s.weights) -}}
{{- if and (has .Values.weights.source (list "volume" "store")) (not $inWeights) -}}
{{- fail (printf "weights.source %s needs settings.weights, a file below /weights/" .Values.weights.source) -}}
{{- end -}}
{{- if and $s.weights (not (has .Values.weights.source (list "volume" "store"))) -}}
{{- fail "settings.weights needs weights.source volume or store" -}}
{{- end -}}
{{- if and (eq .Values.weights.source "volume") (not .Values.weights.claim) -}}
{{- fail "weights.source volume needs weights.claim, which holds them" -}}
{{- end -}}
{{- if and (eq .Values.weights.source "store") (not .Values.weights.object) -}}
{{- fail "weights.source store needs weights.object, the object's path below settings.store" -}}
{{- end -}}
{{- if and (eq .Values.weights.source "bundled") (ne $s.backbone "rootstock_nano") -}}
{{- fail (printf "backbone %s is not bundled: set weights.source to hub, volume or store" $s.backbone) -}}
{{- end -}}
{{- $groups := dict "engine" .Values.engine -}}
{{- if $split -}}{{- $_ := set $groups "door" .Values.door -}}{{- end -}}
{{- range $name, $group := $groups -}}
{{- $most := ternary $s.replicas $s.doors (eq $name "engine") | int -}}
{{- if and $s.autoscale (gt ($group.scaling.min_replicas | int) $most) -}}
{{- fail (printf "%s.scaling.min_replicas is more than the most that settings allow, %d" $name $most) -}}
{{- end -}}
{{- $roomy := and $group.overlap (not (and $cuda (eq $name "engine"))) -}}
{{- if and (gt ($.Values.rollingUpdate.maxSurgePercent | int) 0) (not $s.autoscale) (not $roomy) (eq ($group.spare | int) 0) -}}
{{- fail (printf "a rolling change would wait for room for ever: set %s.spare, settings.autoscale, or rollingUpdate.maxSurgePercent 0 (which stops the old replica first)" $name) -}}
{{- end -}}
{{- end -}}
{{- if and (eq .Values.upgrade.type "NewClusterWithIncrementalUpgrade") (not .Values.upgrade.gatewayClassName) -}}
{{- fail "upgrade.type NewClusterWithIncrementalUpgrade needs upgrade.gatewayClassName" -}}
{{- end -}}
{{- if and .Values.trainJob.enabled (not (and .Values.trainJob.task .Values.trainJob.claim)) -}}
{{- fail "trainJob needs task, and claim: the volume with its images" -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) -}}
{{- fail "ingress needs hosts" -}}
{{- end -}}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) -}}
{{- fail "httpRoute needs parentRefs: the Gateway" -}}
{{- end -}}
{{- end -}}
