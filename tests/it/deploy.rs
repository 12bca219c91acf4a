//! The manifests of `deploy/`: by the schemas, by a real API server, and what each role lets a real token do. The overlays and
//! the chart are rendered by kustomize and helm and go through the same API server.

mod chart;
mod controllers;
mod overlays;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use metrics_proxy::config::SETTINGS;
use serde::Deserialize as _;
use serde_json::{Value, json};

use crate::support::app::App;
use crate::support::kube::{ADMIN, Cluster};
use crate::support::tools::{self, tool_or_skip};

/// The namespace that the manifests name; the tests put one of their own in its place.
const NAMESPACE: &str = "metrics";

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy")
}

/// The manifests of a file of `deploy/`, by its name without the folders.
pub(crate) fn manifests(file: &str) -> Vec<Value> {
    let path = files()
        .into_iter()
        .find(|path| path.file_name().is_some_and(|name| name == file))
        .unwrap_or_else(|| panic!("deploy/ has no {file}"));
    let text =
        std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()));
    documents(&text)
}

/// The documents of a YAML text.
pub(crate) fn documents(text: &str) -> Vec<Value> {
    serde_yaml::Deserializer::from_str(text)
        .map(|document| Value::deserialize(document).expect("the manifests are YAML"))
        .filter(|value| !value.is_null())
        .collect()
}

/// Every manifest of `deploy/` and its folders, apart from what kustomize and helm read.
fn files() -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![deploy()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("the checkout can be read") {
            let path = entry.expect("the checkout can be read").path();
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            if path.is_dir() && name != "chart" {
                folders.push(path);
            } else if name.to_lowercase().ends_with(".yaml") && name != "kustomization.yaml" {
                files.push(path);
            }
        }
    }
    files.sort();
    assert!(files.len() > 15, "deploy/ has its manifests: {files:?}");
    files
}

/// The name of a manifest without the folders.
fn name_of(file: &Path) -> String {
    let name = file.file_name().expect("a file has a name");
    name.to_string_lossy().into_owned()
}

/// Whether Kubernetes itself knows the kinds of these objects, so that no CRD is needed.
fn is_built_in(objects: &[Value]) -> bool {
    objects.iter().all(|object| {
        let version = object["apiVersion"].as_str().unwrap_or_default();
        !version.starts_with("monitoring.coreos.com/") && !version.starts_with("gateway.networking.k8s.io/")
    })
}

/// Where an object of this kind is applied.
fn collection(object: &Value, namespace: &str) -> String {
    let version = object["apiVersion"].as_str().expect("an object has a version");
    let kind = object["kind"].as_str().expect("an object has a kind");
    let base = if version.contains('/') {
        format!("/apis/{version}")
    } else {
        format!("/api/{version}")
    };
    let plural = match kind {
        "NetworkPolicy" => "networkpolicies".to_owned(),
        "Ingress" => "ingresses".to_owned(),
        kind => format!("{}s", kind.to_lowercase()),
    };
    if kind.starts_with("Cluster") || kind == "CustomResourceDefinition" {
        format!("{base}/{plural}")
    } else {
        format!("{base}/namespaces/{namespace}/{plural}")
    }
}

/// Applies an object as `kubectl apply --server-side` does, unknown fields being errors.
async fn apply(
    cluster: &Cluster,
    namespace: &str,
    object: &Value,
    dry_run: bool,
) -> Result<Value, ::kube::Error> {
    let name = object["metadata"]["name"]
        .as_str()
        .expect("a manifest has a name");
    let path = format!(
        "{}/{name}?fieldManager=it&force=true&fieldValidation=Strict{}",
        collection(object, namespace),
        if dry_run { "&dryRun=All" } else { "" }
    );
    let request = http::Request::patch(path)
        .header("content-type", "application/apply-patch+yaml")
        .body(object.to_string().into_bytes())
        .expect("names in manifests make a path");
    cluster.client(ADMIN).request(request).await
}

/// The manifests of a file, for this namespace instead of the one that they name.
fn for_namespace(file: &str, namespace: &str) -> Vec<Value> {
    let mut objects = manifests(file);
    for object in &mut objects {
        let subjects = object.get_mut("subjects").and_then(Value::as_array_mut);
        for subject in subjects.into_iter().flatten() {
            assert_eq!(subject["namespace"], NAMESPACE, "{file}");
            subject["namespace"] = namespace.into();
        }
    }
    objects
}

#[test]
fn every_manifest_is_valid_by_the_schemas_of_kubernetes() {
    let _python = tool_or_skip!("python");
    let validate = tools::path("python").with_file_name("kubernetes-validate");
    let mut ours = files();
    ours.retain(|file| is_built_in(&manifests(&name_of(file))));
    // The oldest Kubernetes that Juju 3.6 is commonly run on, and the one that the other tests run.
    for version in ["1.28", "1.35"] {
        let output = Command::new(&validate)
            .args(["--strict", "-k", version])
            .args(&ours)
            .output()
            .unwrap_or_else(|e| panic!("cannot run {}: {e}", validate.display()));
        assert!(
            output.status.success(),
            "{version}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

/// Installs the kinds of Prometheus Operator and of the Gateway API that `deploy/` uses.
async fn install_crds(cluster: &Cluster) {
    let operator = tools::path("prometheus-operator-crds");
    let gateway = tools::path("gateway-api-crds");
    for file in [
        operator.join("monitoring.coreos.com_podmonitors.yaml"),
        operator.join("monitoring.coreos.com_servicemonitors.yaml"),
        operator.join("monitoring.coreos.com_prometheusrules.yaml"),
        gateway.join("gateway.networking.k8s.io_httproutes.yaml"),
    ] {
        let text = std::fs::read_to_string(&file).expect("tools/get fetched it");
        for crd in documents(&text) {
            apply(cluster, "", &crd, false).await.expect("a CRD is accepted");
            let path = format!(
                "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{}",
                crd["metadata"]["name"].as_str().expect("a CRD has a name")
            );
            let served = async || {
                let crd = cluster.request("GET", &path, None).await;
                let conditions = crd["status"]["conditions"].as_array()?.clone();
                conditions
                    .iter()
                    .any(|c| c["type"] == "Established" && c["status"] == "True")
                    .then_some(())
            };
            crate::support::process::wait_for(
                "the CRD is established",
                std::time::Duration::from_secs(30),
                || cluster.log_tail(),
                served,
            )
            .await;
        }
    }
}

#[tokio::test]
async fn an_api_server_accepts_every_manifest() {
    let cluster = Cluster::shared().await;
    let namespace = cluster.namespace().await;
    install_crds(cluster).await;
    for file in files().iter().map(|file| name_of(file)) {
        for object in for_namespace(&file, &namespace) {
            // An object that a dry run accepts can still be refused, and the other way round.
            for dry_run in [true, false] {
                let response = apply(cluster, &namespace, &object, dry_run).await;
                let applied = response.unwrap_or_else(|e| panic!("{file}: {e}"));
                assert_eq!(applied["metadata"]["name"], object["metadata"]["name"], "{file}");
            }
        }
    }
    // An unknown field is refused, so that the above means something.
    let mut wrong = manifests("deployment.yaml").remove(0);
    wrong["spec"]["template"]["spec"]["containers"][0]["portz"] = json!([]);
    let refused = apply(cluster, &namespace, &wrong, true)
        .await
        .expect_err("an unknown field");
    assert!(refused.to_string().contains("portz"), "{refused}");
}

/// Whether the API server's authorizer allows a token to do something.
async fn may(client: &::kube::Client, namespace: &str, verb: &str, resource: &str) -> bool {
    let (group, resource) = resource.split_once('/').unwrap_or(("", resource));
    let (resource, name) = resource.split_once(':').unwrap_or((resource, ""));
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {
            "namespace": namespace, "verb": verb, "group": group, "resource": resource, "name": name,
        }},
    });
    let request = http::Request::post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews")
        .header("content-type", "application/json")
        .body(review.to_string().into_bytes())
        .expect("a fixed path is valid");
    let answer: Value = client
        .request(request)
        .await
        .unwrap_or_else(|e| panic!("cannot ask for permissions: {e}"));
    answer["status"]["allowed"].as_bool().unwrap_or(false)
}

#[tokio::test]
async fn each_role_gives_its_permissions_and_no_others() {
    let cluster = Cluster::shared().await;
    // Verbs on pods in the own namespace, and in all; and the way that the program then reads pods.
    let both: &[&str] = &["list", "watch"];
    for (file, own, all, mode) in [
        ("role-cluster.yaml", both, both, "cluster_watch"),
        ("role-namespace.yaml", both, &[], "namespace_watch"),
        ("role-list-only.yaml", &["list"], &[], "namespace_list"),
        ("role-shards.yaml", &[], &[], ""),
    ] {
        let namespace = cluster.namespace().await;
        let account = manifests("serviceaccount.yaml").remove(0);
        apply(cluster, &namespace, &account, false)
            .await
            .expect("a ServiceAccount is taken");
        let token = cluster.token(&namespace, "metrics-proxy").await;
        for mut object in for_namespace(file, &namespace) {
            if object["kind"]
                .as_str()
                .is_some_and(|kind| kind.starts_with("Cluster"))
            {
                // Cluster objects are shared by all tests: a name of its own.
                object["metadata"]["name"] = format!("metrics-proxy-{namespace}").into();
                if object.get("roleRef").is_some() {
                    object["roleRef"]["name"] = format!("metrics-proxy-{namespace}").into();
                }
            }
            apply(cluster, &namespace, &object, false)
                .await
                .unwrap_or_else(|e| panic!("{file}: {e}"));
        }
        let client = cluster.client(&token);
        // The authorizer reads roles from caches.
        let mut wanted = BTreeMap::new();
        for verb in ["get", "list", "watch", "create", "update", "patch", "delete"] {
            wanted.insert((namespace.as_str(), verb, "pods"), own.contains(&verb));
            wanted.insert(("", verb, "pods"), all.contains(&verb));
            let shards = file == "role-shards.yaml" && verb == "get";
            wanted.insert(
                (namespace.as_str(), verb, "apps/statefulsets:metrics-proxy"),
                shards,
            );
            wanted.insert((namespace.as_str(), verb, "apps/statefulsets:other"), false);
            wanted.insert((namespace.as_str(), verb, "secrets"), false);
            wanted.insert((namespace.as_str(), verb, "pods/exec"), false);
        }
        for ((scope, verb, resource), allowed) in wanted {
            crate::support::process::wait_for(
                &format!("{file}: {verb} {resource} in {scope:?} is {allowed}"),
                std::time::Duration::from_secs(10),
                || cluster.log_tail(),
                async || (may(&client, scope, verb, resource).await == allowed).then_some(()),
            )
            .await;
        }
        if !mode.is_empty() {
            let kubeconfig = cluster.kubeconfig(&token, Some(&namespace));
            let environment = [
                (
                    "KUBECONFIG",
                    kubeconfig.to_str().expect("a temporary folder's name"),
                ),
                ("POD_LABEL_SELECTOR", "app=none"),
            ];
            let mut app = App::start(&["--pebble", "off"], &environment).await;
            let found = format!("metrics_proxy_discovery_mode{{mode=\"{mode}\"}} 1");
            let limit = std::time::Duration::from_secs(30);
            app.wait_metrics(&format!("{file}: {mode}"), limit, |text| text.contains(&found))
                .await;
        }
    }
}

/// The container of the Deployment and of the StatefulSet.
fn containers() -> [(&'static str, Value); 2] {
    ["deployment.yaml", "statefulset.yaml"].map(|file| {
        let mut workload = manifests(file).remove(0);
        (file, workload["spec"]["template"]["spec"]["containers"][0].take())
    })
}

#[tokio::test]
async fn both_workloads_satisfy_the_restricted_pod_security_standard() {
    let cluster = Cluster::shared().await;
    let namespace = cluster.namespace().await;
    let labels = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}});
    cluster
        .request("PATCH", &format!("/api/v1/namespaces/{namespace}"), Some(&labels))
        .await;
    let path = format!("/api/v1/namespaces/{namespace}/pods?dryRun=All");
    for file in ["deployment.yaml", "statefulset.yaml"] {
        let template = &manifests(file).remove(0)["spec"]["template"];
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "proxy"}, "spec": template["spec"],
        });
        cluster.request("POST", &path, Some(&pod)).await;
        pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = true.into();
        let refused = cluster
            .try_request("POST", &path, Some(&pod))
            .await
            .expect_err("the namespace is restricted");
        assert!(refused.to_string().contains("PodSecurity"), "{file}: {refused}");
    }
}

#[test]
fn the_two_workloads_differ_in_the_shard_alone() {
    let [(_, deployment), (_, mut stateful)] = containers();
    let env = stateful["env"].as_array_mut().expect("a list");
    let before = env.len();
    env.retain(|variable| variable["name"] != "METRICS_PROXY_SHARD");
    assert_eq!(env.len() + 1, before, "the StatefulSet names its shard");
    assert_eq!(deployment, stateful);
}

#[test]
fn the_manifests_set_only_what_the_program_knows() {
    let known: Vec<String> = SETTINGS
        .iter()
        .flat_map(metrics_proxy::config::Setting::env_names)
        .collect();
    for (file, container) in containers() {
        for variable in container["env"].as_array().expect("a list") {
            let name = variable["name"].as_str().expect("a variable has a name");
            // Pebble's own.
            let pebbles = name == "PEBBLE_COPY_ONCE";
            assert!(
                pebbles || known.iter().any(|k| k == name),
                "{file}: {name} is no setting"
            );
        }
    }
}

#[test]
fn every_port_that_is_named_is_one_of_the_container() {
    let [(_, container), _] = containers();
    let ports: BTreeMap<&str, u64> = container["ports"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|port| {
            (
                port["name"].as_str().expect("named"),
                port["containerPort"].as_u64().expect("a number"),
            )
        })
        .collect();
    assert_eq!(ports, BTreeMap::from([("metrics", 15090), ("pebble", 38813)]));
    let service = manifests("service.yaml").remove(0);
    for port in service["spec"]["ports"].as_array().expect("a list") {
        let target = port["targetPort"].as_str().expect("by name");
        assert_eq!(Some(&port["port"].as_u64().expect("a number")), ports.get(target));
    }
    for (file, number) in [
        ("ingress-metrics.yaml", 15090),
        ("ingress-pebble-metrics.yaml", 38813),
    ] {
        let ingress = manifests(file).remove(0);
        let backend = &ingress["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"];
        assert_eq!(backend["name"], service["metadata"]["name"]);
        assert_eq!(backend["port"]["number"], number);
    }
    for (file, number) in [
        ("httproute-metrics.yaml", 15090),
        ("httproute-pebble-metrics.yaml", 38813),
    ] {
        let route = manifests(file).remove(0);
        let rule = &route["spec"]["rules"][0];
        assert_eq!(rule["backendRefs"][0]["name"], service["metadata"]["name"]);
        assert_eq!(rule["backendRefs"][0]["port"], number);
        // One exact path, rewritten to one exact path.
        assert_eq!(rule["matches"].as_array().map(Vec::len), Some(1), "{file}");
        assert_eq!(rule["matches"][0]["path"]["type"], "Exact", "{file}");
        let rewrite = &rule["filters"][0]["urlRewrite"]["path"];
        assert_eq!(rewrite["type"], "ReplaceFullPath", "{file}");
        let ingress = manifests(&file.replace("httproute", "ingress")).remove(0);
        let target = &ingress["metadata"]["annotations"]["nginx.ingress.kubernetes.io/rewrite-target"];
        assert_eq!(&rewrite["replaceFullPath"], target, "{file}");
        assert!(
            ingress["spec"]["tls"]
                .as_array()
                .is_some_and(|tls| !tls.is_empty()),
            "{file}"
        );
    }
    for file in ["networkpolicy.yaml", "podmonitor.yaml", "servicemonitor.yaml"] {
        let mut named = Vec::new();
        collect_ports(&manifests(file).remove(0)["spec"], &mut named);
        assert!(!named.is_empty(), "{file} names ports");
        for name in named {
            assert!(ports.contains_key(name.as_str()), "{file}: {name}");
        }
    }
}

/// The values of every field `port` that is a name.
fn collect_ports(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if let (true, Some(port)) = (name == "port", value.as_str()) {
                    found.push(port.to_owned());
                }
                collect_ports(value, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect_ports(item, found)),
        _ => {}
    }
}

/// The memory budget is 60 % of the container's limit unless it is set.
#[test]
fn the_memory_limit_decides_the_memory_budget() {
    for (file, container) in containers() {
        let limit = container["resources"]["limits"]["memory"].as_str();
        assert!(
            limit.is_some_and(|limit| limit.ends_with('i')),
            "{file}: {limit:?}"
        );
        let env = container["env"].as_array().expect("variables");
        let budget = env.iter().find(|v| v["name"] == "METRICS_PROXY_MEMORY_BUDGET");
        assert!(budget.is_none(), "{file}: the default follows the limit");
    }
}
