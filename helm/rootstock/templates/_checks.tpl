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
{{- $timeout := include "rootstock.requestTimeout" . | int -}}
{{- if lt (float64 .Values.drainSeconds) (float64 $s.budget_s) -}}
{{- fail (printf "drainSeconds must be at least settings.budget_s, %v: calls under way in a pod that must go may take so long" $s.budget_s) -}}
{{- end -}}
{{- if lt (int .Values.upgrade.deletionDelaySeconds) $timeout -}}
{{- fail (printf "upgrade.deletionDelaySeconds must be at least %d: a call that the old cluster has may take so long" $timeout) -}}
{{- end -}}
{{- if has ($s.port | int) (list 6379 8080 8265 8404 9101 10001 44217 44227 52365 52366 52367) -}}
{{- fail (printf "settings.port must be another: %d is taken in every pod, by Ray or HAProxy" ($s.port | int)) -}}
{{- end -}}
{{- if eq .Values.upgrade.type "NewClusterWithIncrementalUpgrade" -}}
{{- if not .Values.upgrade.gatewayClassName -}}
{{- fail "upgrade.type NewClusterWithIncrementalUpgrade needs upgrade.gatewayClassName" -}}
{{- end -}}
{{- if not $s.autoscale -}}
{{- fail "upgrade.type NewClusterWithIncrementalUpgrade needs settings.autoscale: KubeRay scales one cluster down and the other up" -}}
{{- end -}}
{{- if or .Values.ingress.enabled .Values.httpRoute.enabled (ne .Values.monitoring.scrape.kind "none") .Values.test.enabled -}}
{{- fail "upgrade.type NewClusterWithIncrementalUpgrade: each cluster has a Service of its own name, behind a Gateway that KubeRay makes; ingress, httpRoute, monitoring.scrape and test find none and must be off" -}}
{{- end -}}
{{- end -}}
{{- if and .Values.trainJob.enabled (not (and .Values.trainJob.task .Values.trainJob.claim)) -}}
{{- fail "trainJob needs task, and claim: the volume with its images" -}}
{{- end -}}
{{- if and .Values.trainJob.enabled $s.backbone_kwargs -}}
{{- fail "trainJob cannot make this backbone: `rootstock train` takes no settings.backbone_kwargs" -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) -}}
{{- fail "ingress needs hosts" -}}
{{- end -}}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) -}}
{{- fail "httpRoute needs parentRefs: the Gateway" -}}
{{- end -}}
{{- end -}}
