{{/* Name of everything the chart makes: the release's, completed by the chart's unless it says it already. Services are named by it: they have no
dots, begin with a letter, and have 63 characters at most, `-metrics-api` included. */}}
{{- define "triton-operator.fullname" -}}
{{- $chart := default .Chart.Name .Values.nameOverride -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $chart) (contains $chart .Release.Name) -}}
{{- $name := default $full .Values.fullnameOverride | replace "." "-" | trunc 51 | trimSuffix "-" -}}
{{- if regexMatch "^[0-9]" $name -}}
{{- fail (printf "the name of the release, '%s', begins with a digit, which no Service may: set fullnameOverride" .Release.Name) -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{- define "triton-operator.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "triton-operator.labels" -}}
{{ include "triton-operator.selector" . }}
app.kubernetes.io/component: operator
app.kubernetes.io/part-of: triton-operator
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* The activators are pods of their own: no selector of the operator's finds them. */}}
{{- define "triton-operator.activator.selector" -}}
app.kubernetes.io/name: {{ printf "%s-activator" (default .Chart.Name .Values.nameOverride) | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "triton-operator.activator.labels" -}}
{{ include "triton-operator.activator.selector" . }}
app.kubernetes.io/component: activator
app.kubernetes.io/part-of: triton-operator
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "triton-operator.serviceAccount" -}}
{{- $own := ternary (include "triton-operator.fullname" .) "default" .Values.serviceAccount.create -}}
{{- default $own .Values.serviceAccount.name -}}
{{- end -}}

{{/* Reference of an image. Takes a list: the image's values, and the root. */}}
{{- define "triton-operator.image" -}}
{{- $image := index . 0 -}}
{{- $root := index . 1 -}}
{{- $variant := default "onnx" $image.variant -}}
{{- $suffix := ternary "" (printf "-%s" $variant) (eq $variant "onnx") -}}
{{- $name := printf "%s/%s%s" $root.Values.registry $image.repository $suffix -}}
{{- if $image.digest -}}
{{ printf "%s@%s" $name $image.digest }}
{{- else -}}
{{ printf "%s:%s" $name (default $root.Chart.AppVersion $image.tag) }}
{{- end -}}
{{- end -}}
