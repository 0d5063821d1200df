{{- /* The configuration as YAML; what in it cannot be in these Pods is refused. All else the processes check when they start. */}}
{{- define "sdp.config" }}
{{- $text := .Values.config | default (.Files.Get "base/run.toml") }}
{{- $config := fromToml $text }}
{{- if $config.Error }}{{ fail (printf "config is not TOML: %s" $config.Error) }}{{ end }}
{{- range list "run" "checkpoint" "data" "cluster" "worker" }}
  {{- if not (kindIs "map" (get $config . | default dict)) }}{{ fail (printf "config: %s is not a section" .) }}{{ end }}
{{- end }}
{{- range list
      (list "run" "dir" "/state/" "the coordinator's volume, such as /state/run")
      (list "checkpoint" "dir" "/shared/" "the shared volume, such as /shared/checkpoints") }}
  {{- $value := dig (index . 0) (index . 1) "" $config }}
  {{- if not (hasPrefix (index . 2) $value) }}
    {{- fail (printf "config: %s.%s = %q: in Pods it is on %s" (index . 0) (index . 1) $value (index . 3)) }}
  {{- end }}
{{- end }}
{{- range $key := list "train" "validation" }}
  {{- range dig "data" $key list $config }}
    {{- if not (hasPrefix "/shared/" .) }}
      {{- fail (printf "config: data.%s = %q: Pods see the shared volume at /shared, so give the path there" $key .) }}
    {{- end }}
  {{- end }}
{{- end }}
{{- range $key := list "workers" "shards" }}
  {{- $value := dig "cluster" $key 1 $config }}
  {{- if not (regexMatch "^[1-9][0-9]*$" (toString $value)) }}
    {{- fail (printf "config: cluster.%s = %v: it is a whole number, at least 1" $key $value) }}
  {{- end }}
{{- end }}
{{- $device := dig "worker" "device" "cpu" $config }}
{{- if not (has $device (list "cpu" "cuda")) }}{{ fail (printf "config: worker.device = %q: allowed are \"cpu\" and \"cuda\"" $device) }}{{ end }}
{{- toYaml $config }}
{{- end }}
