{{- /*
As much of kustomize as the kustomizations of this chart use. tests/kubernetes/helm_test compares what comes out with kustomize's own.

sdp.kustomization: adds the objects of the kustomization in .folder to .objects, by "Kind/name", and does to all that are there what it
says. .files: the chart's.
*/}}
{{- define "sdp.kustomization" }}
{{- $folder := .folder }}{{ $objects := .objects }}{{ $files := .files }}
{{- $said := include "sdp.read" (dict "files" $files "path" (printf "%s/kustomization.yaml" $folder)) | fromYaml }}
{{- range concat (default list $said.resources) (default list $said.components) }}
  {{- $path := printf "%s/%s" $folder . | clean }}
  {{- if not (hasSuffix ".yaml" .) }}
    {{- include "sdp.kustomization" (dict "folder" $path "objects" $objects "files" $files) }}
  {{- else }}
    {{- range include "sdp.read" (dict "files" $files "path" $path) | splitList "\n---\n" }}
      {{- $object := fromYaml . }}
      {{- $_ := set $objects (printf "%s/%s" $object.kind $object.metadata.name) $object }}
    {{- end }}
  {{- end }}
{{- end }}
{{- range $said.configMapGenerator }}
  {{- $data := dict }}
  {{- range .files }}
    {{- $_ := set $data (base .) (include "sdp.read" (dict "files" $files "path" (printf "%s/%s" $folder .))) }}
  {{- end }}
  {{- $object := dict "apiVersion" "v1" "kind" "ConfigMap" "metadata" (dict "name" .name) "data" $data }}
  {{- $_ := set $objects (printf "ConfigMap/%s" .name) $object }}
{{- end }}
{{- range $object := $objects }}
  {{- range $said.patches }}
    {{- $kind := printf "^(%s)$" (default ".*" .target.kind) }}{{ $name := printf "^(%s)$" (default ".*" .target.name) }}
    {{- if and (regexMatch $kind $object.kind) (regexMatch $name $object.metadata.name) }}
      {{- range fromYamlArray .patch }}{{ include "sdp.patch" (dict "object" $object "patch" .) }}{{ end }}
    {{- end }}
  {{- end }}
  {{- range $said.labels }}{{ include "sdp.label" (dict "object" $object "pairs" .pairs) }}{{ end }}
  {{- range $image := $said.images }}
    {{- range dig "spec" "template" "spec" "containers" list $object }}
      {{- if eq .image $image.name }}{{ $_ := set . "image" (printf "%s:%s" $image.newName $image.newTag) }}{{ end }}
    {{- end }}
  {{- end }}
{{- end }}
{{- end }}

{{- /* The text of the file .path, which must be there. */}}
{{- define "sdp.read" }}
{{- if not (.files.Get .path) }}{{ fail (printf "there is no file %s in the chart" .path) }}{{ end }}
{{- .files.Get .path }}
{{- end }}

{{- /* Carries out one operation of a JSON patch (RFC 6902) on .object: add, remove, replace or test. */}}
{{- define "sdp.patch" }}
{{- $said := toJson .patch }}
{{- $at := .object }}{{ $map := dict }}{{ $key := "" }}  {{- /* $map: where the list $at is, by $key, as a list is replaced by another */}}
{{- $steps := list }}
{{- range rest (splitList "/" .patch.path) }}{{ $steps = append $steps (. | replace "~1" "/" | replace "~0" "~") }}{{ end }}
{{- range initial $steps }}
  {{- if kindIs "slice" $at }}
    {{- $at = index $at (int .) }}
  {{- else }}
    {{- if not (hasKey $at .) }}{{ fail (printf "%s: there is no %s" $said .) }}{{ end }}
    {{- $map = $at }}{{ $key = . }}{{ $at = get $at . }}
  {{- end }}
{{- end }}
{{- $last := last $steps }}
{{- $op := .patch.op }}{{ $value := .patch.value }}
{{- if not (has $op (list "add" "remove" "replace" "test")) }}{{ fail (printf "%s: not an operation that the chart knows" $said) }}{{ end }}
{{- if kindIs "slice" $at }}
  {{- $n := eq $last "-" | ternary (len $at) (int $last) }}
  {{- $before := slice $at 0 $n | default list }}{{ $from := slice $at $n | default list }}
  {{- if and (ne $op "add") (not $from) }}{{ fail (printf "%s: there is no such element" $said) }}{{ end }}
  {{- if eq $op "add" }}{{ $_ := set $map $key (concat $before (list $value) $from) }}
  {{- else if eq $op "remove" }}{{ $_ := set $map $key (concat $before (rest $from)) }}
  {{- else if eq $op "replace" }}{{ $_ := set $map $key (concat $before (list $value) (rest $from)) }}
  {{- else if not (deepEqual (first $from) $value) }}{{ fail (printf "%s: it is %v" $said (first $from)) }}{{ end }}
{{- else }}
  {{- if and (ne $op "add") (not (hasKey $at $last)) }}{{ fail (printf "%s: there is no %s" $said $last) }}{{ end }}
  {{- if or (eq $op "add") (eq $op "replace") }}{{ $_ := set $at $last $value }}
  {{- else if eq $op "remove" }}{{ $_ := unset $at $last }}
  {{- else if not (deepEqual (get $at $last) $value) }}{{ fail (printf "%s: it is %v" $said (get $at $last)) }}{{ end }}
{{- end }}
{{- end }}

{{- /* Gives .object the labels .pairs, wherever kustomize puts them with includeSelectors and includeTemplates. */}}
{{- define "sdp.label" }}
{{- $object := .object }}{{ $spec := default dict $object.spec }}
{{- $labelled := list $object.metadata }}
{{- with $spec.template }}{{ $labelled = append $labelled .metadata }}{{ end }}
{{- range $spec.volumeClaimTemplates }}{{ $labelled = append $labelled .metadata }}{{ end }}
{{- range $labelled }}{{ $_ := set . "labels" (merge (default dict .labels) (deepCopy $.pairs)) }}{{ end }}
{{- $selectors := list }}
{{- if eq $object.kind "Service" }}{{ $selectors = list $spec.selector }}{{ end }}
{{- with dig "selector" "matchLabels" nil $spec }}{{ $selectors = append $selectors . }}{{ end }}
{{- if eq $object.kind "StatefulSet" }}
  {{- range $spec.template.spec.topologySpreadConstraints }}{{ $selectors = append $selectors .labelSelector.matchLabels }}{{ end }}
{{- end }}
{{- range $selectors }}{{ $_ := merge . (deepCopy $.pairs) }}{{ end }}
{{- end }}
