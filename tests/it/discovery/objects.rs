//! `--discover`: Services and monitors beside the pods' own annotations.

use serde_json::{Value, json};

use super::Running;
use crate::support::kube::{ADMIN, Cluster, NewPod, Scope, UNTRUSTED};
use crate::support::tools;

const EVERYTHING: (&str, &str) = ("discover", "pods,services,podmonitors,servicemonitors");

/// The sample application of prometheus-operator's getting-started page: a port named web, no annotation.
fn example(name: &str, ip: &str) -> NewPod {
    NewPod::new(name)
        .ip(ip)
        .label("app", "x")
        .label("example", "yes")
        .port("web", 8080)
}

/// Installs one of prometheus-operator's own definitions.
async fn install(cluster: &Cluster, plural: &str) {
    let group = "monitoring.coreos.com";
    let file = tools::path("prometheus-operator-crds").join(format!("{group}_{plural}.yaml"));
    let text = std::fs::read_to_string(file).expect("tools/get fetched it");
    let definition: Value = serde_yaml::from_str(&text).expect("it is YAML");
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    cluster.request("POST", path, Some(&definition)).await;
    // Served a moment after it was taken.
    let path = format!("/apis/{group}/v1/{plural}");
    let started = std::time::Instant::now();
    while cluster.try_request("GET", &path, None).await.is_err() {
        assert!(started.elapsed() < super::LIMIT, "{plural} are served");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

async fn create(cluster: &Cluster, namespace: &str, api: &str, plural: &str, object: Value) {
    let prefix = if api.contains('/') {
        format!("/apis/{api}")
    } else {
        format!("/api/{api}")
    };
    let path = format!("{prefix}/namespaces/{namespace}/{plural}");
    cluster.request("POST", &path, Some(&object)).await;
}

async fn create_service(cluster: &Cluster, namespace: &str, name: &str, annotations: Value) {
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "labels": {"example": "yes"}, "annotations": annotations},
        "spec": {"ports": [{"name": "web", "port": 80, "targetPort": "web"}]},
    });
    create(cluster, namespace, "v1", "services", service).await;
}

/// What the controller of endpoints would make.
async fn create_slice(cluster: &Cluster, namespace: &str, service: &str, pods: &[&Value]) {
    let endpoints: Vec<Value> = pods
        .iter()
        .map(|pod| {
            json!({
                // Loopback addresses are refused here; the pod tells its own.
                "addresses": ["192.0.2.1"], "conditions": {"ready": true},
                "targetRef": {"kind": "Pod", "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]},
            })
        })
        .collect();
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": format!("{service}-1"), "labels": {"kubernetes.io/service-name": service}},
        "ports": [{"name": "web", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints,
    });
    create(cluster, namespace, "discovery.k8s.io/v1", "endpointslices", slice).await;
}

fn monitor(kind: &str, endpoints: &str, endpoint: &Value) -> Value {
    json!({
        "apiVersion": "monitoring.coreos.com/v1", "kind": kind,
        "metadata": {"name": "example", "labels": {"team": "frontend"}},
        "spec": {"selector": {"matchLabels": {"example": "yes"}}, endpoints: [endpoint]},
    })
}

#[tokio::test]
async fn monitors_and_services_add_targets_as_they_come_and_go() {
    let cluster = Cluster::start().await;
    let ns = cluster.namespace().await;
    let first = cluster.create_pod(&ns, &example("first", "127.5.0.1")).await;
    let second = cluster.create_pod(&ns, &example("second", "127.5.0.2")).await;
    let annotated = NewPod::scraped("annotated", "127.5.0.3:9".parse().unwrap()).label("app", "x");
    cluster.create_pod(&ns, &annotated).await;
    let running = Running::on_cluster(&cluster.kubeconfig(ADMIN, None), &[EVERYTHING]).await;
    // prometheus-operator is not there: said, and no obstacle.
    running.until_targets(&["annotated 127.5.0.3:9/metrics"]).await;
    running
        .until_readyz("[note] permissions: podmonitors are not installed in this cluster")
        .await;
    assert!(
        running.readyz().contains("servicemonitors are not installed"),
        "{}",
        running.readyz()
    );

    // An annotated Service.
    let annotations =
        json!({"prometheus.io/scrape": "true", "prometheus.io/path": "/svc", "prometheus.io/port": "web"});
    create_service(&cluster, &ns, "svc", annotations).await;
    create_slice(&cluster, &ns, "svc", &[&first]).await;
    let with_service = ["annotated 127.5.0.3:9/metrics", "first 127.5.0.1:8080/svc"];
    running.until_targets(&with_service).await;
    cluster
        .request(
            "PATCH",
            &format!("/apis/discovery.k8s.io/v1/namespaces/{ns}/endpointslices/svc-1"),
            Some(&json!({"endpoints": [
                {"addresses": ["192.0.2.1"], "targetRef": {"kind": "Pod", "uid": second["metadata"]["uid"]}},
            ]})),
        )
        .await;
    running
        .until_targets(&["annotated 127.5.0.3:9/metrics", "second 127.5.0.2:8080/svc"])
        .await;

    // The operator is installed while we run.
    install(&cluster, "podmonitors").await;
    install(&cluster, "servicemonitors").await;
    let api = "monitoring.coreos.com/v1";
    let endpoint = json!({"port": "web", "interval": "15s"});
    let pod_monitor = monitor("PodMonitor", "podMetricsEndpoints", &endpoint);
    create(&cluster, &ns, api, "podmonitors", pod_monitor).await;
    running
        .until_targets(&[
            "annotated 127.5.0.3:9/metrics",
            "first 127.5.0.1:8080/metrics",
            "second 127.5.0.2:8080/metrics",
            "second 127.5.0.2:8080/svc",
        ])
        .await;
    assert_eq!(
        running.handle.latest().targets.unsupported,
        [format!(
            "PodMonitor {ns}/example: spec.podMetricsEndpoints[0].interval is not supported"
        )]
    );
    cluster
        .request(
            "DELETE",
            &format!("/apis/{api}/namespaces/{ns}/podmonitors/example"),
            None,
        )
        .await;
    let service_monitor = monitor(
        "ServiceMonitor",
        "endpoints",
        &json!({"port": "web", "path": "/mon"}),
    );
    create(&cluster, &ns, api, "servicemonitors", service_monitor).await;
    running
        .until_targets(&[
            "annotated 127.5.0.3:9/metrics",
            "second 127.5.0.2:8080/mon",
            "second 127.5.0.2:8080/svc",
        ])
        .await;
    let snapshot = running.handle.latest();
    let labels: Vec<Vec<&str>> = snapshot.targets.targets[1..]
        .iter()
        .map(|target| target.labels[2..].iter().map(|(key, _)| key.as_str()).collect())
        .collect();
    assert_eq!(labels, [vec!["k8s_pod_port", "k8s_pod_path"], vec![]]);
    // A new pod behind nothing is a reason, not a target.
    cluster.create_pod(&ns, &example("third", "127.5.0.4")).await;
    running.until_skipped("third", "not_annotated").await;
    cluster
        .request("DELETE", &format!("/api/v1/namespaces/{ns}/services/svc"), None)
        .await;
    running.until_targets(&["annotated 127.5.0.3:9/metrics"]).await;
    running.until_readyz("[ok] permissions\n").await;
}

/// Without `--trust` Services may be listed, and nothing else of this. Said, with the remedy, and put right by a grant.
#[tokio::test]
async fn what_may_not_be_read_is_said() {
    let cluster = Cluster::start().await;
    let ns = cluster.namespace().await;
    let token = cluster.service_account(&ns, "app").await;
    cluster.grant(&ns, "app", Scope::Namespace, UNTRUSTED).await;
    let first = cluster.create_pod(&ns, &example("first", "127.5.1.1")).await;
    let annotated = NewPod::scraped("annotated", "127.5.1.3:9".parse().unwrap()).label("app", "x");
    cluster.create_pod(&ns, &annotated).await;
    create_service(&cluster, &ns, "svc", json!({"prometheus.io/scrape": "true"})).await;
    create_slice(&cluster, &ns, "svc", &[&first]).await;
    let kubeconfig = cluster.kubeconfig(&token, Some(&ns));
    let running = Running::on_cluster(
        &kubeconfig,
        &[("discover", "pods,services"), ("list-interval", "500ms")],
    )
    .await;
    running.until_targets(&["annotated 127.5.1.3:9/metrics"]).await;
    running
        .until_readyz(&format!(
            "may not list or watch endpointslices in all namespaces or in {ns}; run juju trust APP --scope=cluster"
        ))
        .await;
    assert!(running.health.readiness(None, false).ready);
    assert!(
        running.readyz().contains("only those of namespace"),
        "{}",
        running.readyz()
    );
    let group = "rbac.authorization.k8s.io";
    let role = json!({
        "apiVersion": format!("{group}/v1"), "kind": "Role", "metadata": {"name": "slices"},
        "rules": [{"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["get", "list", "watch"]}],
    });
    create(&cluster, &ns, &format!("{group}/v1"), "roles", role).await;
    let binding = json!({
        "apiVersion": format!("{group}/v1"), "kind": "RoleBinding", "metadata": {"name": "slices"},
        "roleRef": {"apiGroup": group, "kind": "Role", "name": "slices"},
        "subjects": [{"kind": "ServiceAccount", "name": "app", "namespace": ns}],
    });
    create(&cluster, &ns, &format!("{group}/v1"), "rolebindings", binding).await;
    running
        .until_targets(&["annotated 127.5.1.3:9/metrics", "first 127.5.1.1:8080/metrics"])
        .await;
}
