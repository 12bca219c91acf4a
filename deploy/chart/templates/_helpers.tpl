{{- define "metrics-proxy.name" -}}
{{- if contains "metrics-proxy" .Release.Name }}{{ .Release.Name | trunc 52 | trimSuffix "-" }}{{ else }}{{ printf "%s-metrics-proxy" .Release.Name | trunc 52 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "metrics-proxy.selector" -}}
app.kubernetes.io/name: metrics-proxy
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "metrics-proxy.labels" -}}
{{ include "metrics-proxy.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}
