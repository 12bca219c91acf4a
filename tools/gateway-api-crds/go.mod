// The CustomResourceDefinitions of the Gateway API, which its module holds as files; nothing is built.
module metrics-proxy.invalid/tools/gateway-api-crds

go 1.24.0

require sigs.k8s.io/gateway-api v1.4.1
