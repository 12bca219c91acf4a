// Prometheus Operator's CustomResourceDefinitions, which its module holds as files; nothing is built.
module metrics-proxy.invalid/tools/prometheus-operator-crds

go 1.24.0

require github.com/prometheus-operator/prometheus-operator v0.85.0
