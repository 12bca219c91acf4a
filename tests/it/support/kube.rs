//! A real Kubernetes API server with its etcd on loopback, and the pods, rights and tokens that tests put into it.
//!
//! There is no kubelet: a pod's status is what the test patches, and a deleted pod stays Terminating until it is deleted
//! with a grace period of 0. No admission beyond the built-in kind, RBAC as authorizer.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ::kube::{Client, Config};
use serde_json::{Map, Value, json};
use tempfile::TempDir;
use tokio::sync::OnceCell;

use super::http as client;
use super::process::{self, Process, Signal};
use super::tools;

const UP: Duration = Duration::from_mins(1);

/// The token of an administrator of the whole cluster.
pub(crate) const ADMIN: &str = "admin-of-the-test-cluster";

/// An API server with its etcd.
#[derive(Debug)]
pub(crate) struct Cluster {
    address: SocketAddr,
    // Before its etcd, so that it is ended first.
    api_server: Option<Process>,
    etcd: Process,
    etcd_address: SocketAddr,
    /// Further arguments of kube-apiserver.
    arguments: Vec<String>,
    // Last, so that it goes when nobody uses it any more.
    dir: TempDir,
}

impl Cluster {
    /// The cluster that tests of one run share, each in namespaces of its own; it ends with the test run.
    ///
    /// For tests that neither stop it nor count what is in it as a whole.
    pub(crate) async fn shared() -> &'static Self {
        static SHARED: OnceCell<Cluster> = OnceCell::const_new();
        SHARED.get_or_init(Self::start).await
    }

    /// A cluster of its own, for a test that stops it. Its `/readyz` says ok when this returns.
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| Vec::new()).await
    }

    /// As [`Cluster::start`], with further arguments of kube-apiserver; they are made from the cluster's folder.
    pub(crate) async fn start_with(arguments: impl FnOnce(&Path) -> Vec<String>) -> Self {
        let dir = process::fresh_dir();
        write_keys(dir.path());
        let (etcd, etcd_address) = start_etcd(dir.path()).await;
        let mut cluster = Self {
            address: process::free_address(),
            api_server: None,
            etcd,
            etcd_address,
            arguments: arguments(dir.path()),
            dir,
        };
        while !cluster.run_api_server().await {
            cluster.address = process::free_address();
        }
        cluster
    }

    /// Starts the API server; false where its port is taken.
    async fn run_api_server(&mut self) -> bool {
        let dir = self.dir.path();
        let file = |name: &str| dir.join(name).display().to_string();
        let mut command = Command::new(tools::path("kube-apiserver"));
        command
            .arg(format!("--etcd-servers=http://{}", self.etcd_address))
            .arg(format!("--cert-dir={}", file("certs")))
            .arg(format!("--secure-port={}", self.address.port()))
            .args([
                "--bind-address=127.0.0.1",
                "--advertise-address=127.0.0.1",
                "--endpoint-reconciler-type=none",
            ])
            .arg(format!("--service-account-key-file={}", file("sa.pub")))
            .arg(format!("--service-account-signing-key-file={}", file("sa.key")))
            .arg("--service-account-issuer=https://kubernetes.default.svc")
            .arg(format!("--token-auth-file={}", file("tokens.csv")))
            .args([
                "--authorization-mode=RBAC",
                "--service-cluster-ip-range=10.0.0.0/24",
            ])
            .arg("--disable-admission-plugins=ServiceAccount")
            .args(&self.arguments);
        let log = dir.join("kube-apiserver.log");
        let mut process = Process::spawn("kube-apiserver", command, &log);
        let is_up = async || self.is_ready().await;
        let up = process
            .wait_until_up("the API server says that it is ready", UP, is_up)
            .await;
        if up {
            self.api_server = Some(process);
        }
        up
    }

    /// Whether `/readyz` says ok just now.
    pub(crate) async fn is_ready(&self) -> bool {
        let asked = async {
            let client = Client::try_from(self.config(ADMIN)).ok()?;
            client
                .request_text(request("GET", "/readyz", "", None))
                .await
                .ok()
        };
        let answer = tokio::time::timeout(Duration::from_secs(5), asked).await;
        answer.ok().flatten().is_some_and(|text| text == "ok")
    }

    /// `https://127.0.0.1:PORT`.
    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The file of the certificate authority that signed the API server's certificate.
    pub(crate) fn ca_file(&self) -> PathBuf {
        self.dir.path().join("certs/apiserver.crt")
    }

    fn config(&self, token: &str) -> Config {
        let mut config = Config::new(self.url().parse().expect("an address makes a URL"));
        // What the tests put in is not at stake; that the program verifies is seen with its kubeconfig.
        config.accept_invalid_certs = true;
        config.default_retry = false;
        config.auth_info.token = Some(token.to_owned().into());
        config
    }

    /// A client with somebody's token, for many requests. It belongs to the runtime (so to the test) that made it.
    pub(crate) fn client(&self, token: &str) -> Client {
        Client::try_from(self.config(token)).unwrap_or_else(|e| panic!("cannot make a client: {e}"))
    }

    /// Writes a kubeconfig with this token and the CA, and `namespace` as the context's own where given.
    pub(crate) fn kubeconfig(&self, token: &str, namespace: Option<&str>) -> PathBuf {
        let mut context = json!({"cluster": "it", "user": "it"});
        if let Some(namespace) = namespace {
            context["namespace"] = namespace.into();
        }
        let cluster = json!({"server": self.url(), "certificate-authority": self.ca_file()});
        self.kubeconfig_of(&cluster, &json!({"token": token}), &context)
    }

    /// Writes a kubeconfig with this cluster, user and context, whose names are `it`.
    pub(crate) fn kubeconfig_of(&self, cluster: &Value, user: &Value, context: &Value) -> PathBuf {
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "it", "cluster": cluster}],
            "users": [{"name": "it", "user": user}],
            "contexts": [{"name": "it", "context": context}],
            "current-context": "it",
        });
        let path = self.dir.path().join(unique("kubeconfig"));
        std::fs::write(&path, config.to_string()).expect("a fresh folder can be written");
        path
    }

    /// A request as the administrator: the object that it gives.
    pub(crate) async fn try_request(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, ::kube::Error> {
        let content_type = if method == "PATCH" {
            "application/merge-patch+json"
        } else {
            "application/json"
        };
        self.client(ADMIN)
            .request(request(method, path, content_type, body))
            .await
    }

    /// As [`Cluster::try_request`].
    ///
    /// # Panics
    /// It is refused.
    pub(crate) async fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let answer = self.try_request(method, path, body).await;
        answer.unwrap_or_else(|e| panic!("{method} {path}: {e}"))
    }

    /// Makes a namespace of its own for a test.
    pub(crate) async fn namespace(&self) -> String {
        let name = unique("ns");
        let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        self.request("POST", "/api/v1/namespaces", Some(&body)).await;
        name
    }

    /// Creates a pod and patches its status; gives the pod as it is then.
    pub(crate) async fn create_pod(&self, namespace: &str, pod: &NewPod) -> Value {
        let path = format!("/api/v1/namespaces/{namespace}/pods");
        let created = self.request("POST", &path, Some(&pod.manifest())).await;
        let name = pod.name.as_str();
        if pod.status.is_empty() {
            created
        } else {
            self.patch_status(namespace, name, &json!(pod.status)).await
        }
    }

    /// Merges into a pod: `{"metadata": {"annotations": {"prometheus.io/scrape": null}}}` removes one.
    pub(crate) async fn patch_pod(&self, namespace: &str, name: &str, patch: &Value) -> Value {
        self.request("PATCH", &pod_path(namespace, name), Some(patch))
            .await
    }

    /// Merges into a pod's status: `{"phase": "Succeeded"}`.
    pub(crate) async fn patch_status(&self, namespace: &str, name: &str, status: &Value) -> Value {
        let path = format!("{}/status", pod_path(namespace, name));
        self.request("PATCH", &path, Some(&json!({"status": status})))
            .await
    }

    /// Deletes a pod at once, as a kubelet ends it.
    pub(crate) async fn delete_pod(&self, namespace: &str, name: &str) {
        let now = json!({"gracePeriodSeconds": 0});
        self.request("DELETE", &pod_path(namespace, name), Some(&now))
            .await;
    }

    /// Asks for a pod's end: it stays, with a `deletionTimestamp` this many seconds ahead, as on a lost node.
    pub(crate) async fn terminate_pod(&self, namespace: &str, name: &str, grace_seconds: u32) {
        let later = json!({"gracePeriodSeconds": grace_seconds});
        self.request("DELETE", &pod_path(namespace, name), Some(&later))
            .await;
    }

    /// Makes a `ServiceAccount` without rights and gives a token of it.
    pub(crate) async fn service_account(&self, namespace: &str, name: &str) -> String {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
        let body = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}});
        self.request("POST", &path, Some(&body)).await;
        self.token(namespace, name).await
    }

    /// Another token of a `ServiceAccount`, through `TokenRequest`.
    pub(crate) async fn token(&self, namespace: &str, account: &str) -> String {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
        let answer = self.request("POST", &path, Some(&body)).await;
        answer["status"]["token"]
            .as_str()
            .expect("a TokenRequest answers with a token")
            .to_owned()
    }

    /// Gives a `ServiceAccount` rights, in its own namespace or everywhere. The handle takes them away again.
    pub(crate) async fn grant(
        &self,
        namespace: &str,
        account: &str,
        scope: Scope,
        rights: &[(&str, &[&str])],
    ) -> Grant {
        let rules: Vec<Value> = rights
            .iter()
            .map(|(resource, verbs)| json!({"apiGroups": [""], "resources": [resource], "verbs": verbs}))
            .collect();
        let (group, prefix) = ("rbac.authorization.k8s.io", "/apis/rbac.authorization.k8s.io/v1");
        let (base, kind, plural) = match scope {
            Scope::Namespace => (format!("{prefix}/namespaces/{namespace}"), "Role", "role"),
            Scope::Cluster => (prefix.to_owned(), "ClusterRole", "clusterrole"),
        };
        let name = unique(account);
        let role = json!({
            "apiVersion": format!("{group}/v1"), "kind": kind, "metadata": {"name": name}, "rules": rules,
        });
        self.request("POST", &format!("{base}/{plural}s"), Some(&role))
            .await;
        let binding = json!({
            "apiVersion": format!("{group}/v1"), "kind": format!("{kind}Binding"), "metadata": {"name": name},
            "roleRef": {"apiGroup": group, "kind": kind, "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": namespace}],
        });
        self.request("POST", &format!("{base}/{plural}bindings"), Some(&binding))
            .await;
        Grant {
            binding: format!("{base}/{plural}bindings/{name}"),
        }
    }

    /// Takes granted rights away.
    pub(crate) async fn revoke(&self, grant: Grant) {
        self.request("DELETE", &grant.binding, None).await;
    }

    fn api_server(&mut self) -> &mut Process {
        self.api_server
            .as_mut()
            .expect("the API server was started and not stopped")
    }

    /// Has etcd forget everything before now.
    pub(crate) async fn compact(&self) {
        let post = async |path: &str, body: Value| {
            let answer = client::post(self.etcd_address, path, &body).send().await;
            let answer = answer.unwrap_or_else(|e| panic!("cannot ask etcd: {e}"));
            answer.json()
        };
        let status = post("/v3/maintenance/status", json!({})).await;
        let revision = status["header"]["revision"].clone();
        post(
            "/v3/kv/compaction",
            json!({"revision": revision, "physical": true}),
        )
        .await;
    }

    /// The end of the API server's log, for a failure's text.
    pub(crate) fn log_tail(&self) -> String {
        let log = std::fs::read(self.dir.path().join("kube-apiserver.log")).unwrap_or_default();
        process::tail("kube-apiserver", &String::from_utf8_lossy(&log))
    }

    /// SIGKILL: open watches end at once.
    pub(crate) fn kill_api_server(&mut self) {
        self.api_server().kill();
        self.api_server = None;
    }

    /// SIGTERM. With watches open it takes up to a minute, in which they are silent and connections are refused.
    pub(crate) fn stop_api_server(&mut self) {
        self.api_server().stop(Duration::from_secs(90));
        self.api_server = None;
    }

    /// SIGTERM or SIGSTOP and the like, with nothing waited for.
    pub(crate) fn signal_api_server(&mut self, signal: Signal) {
        self.api_server().signal(signal);
    }

    /// Starts the API server again, on its port; ready when this returns.
    pub(crate) async fn start_api_server(&mut self) {
        assert!(
            self.run_api_server().await,
            "somebody took the API server's port {}",
            self.address
        );
    }
}

/// Where rights hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    Namespace,
    Cluster,
}

/// Rights that were given to a `ServiceAccount`.
#[derive(Debug)]
pub(crate) struct Grant {
    binding: String,
}

/// What a charm's `ServiceAccount` may do without `juju deploy --trust`, in its own namespace.
pub(crate) const UNTRUSTED: &[(&str, &[&str])] = &[
    ("pods", &["get", "list", "patch"]),
    ("services", &["get", "list", "patch"]),
    ("pods/exec", &["create"]),
    ("namespaces", &["get", "list"]),
];

/// A pod to create: by default running, started, with one container and nothing that is scraped.
#[derive(Debug, Clone)]
pub(crate) struct NewPod {
    name: String,
    labels: Map<String, Value>,
    annotations: Map<String, Value>,
    ports: Vec<Value>,
    owners: Vec<Value>,
    spec: Map<String, Value>,
    status: Map<String, Value>,
}

impl NewPod {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            labels: Map::new(),
            annotations: Map::new(),
            ports: Vec::new(),
            owners: Vec::new(),
            spec: Map::new(),
            status: Map::new(),
        }
        .phase("Running")
    }

    /// A pod as the scheduler left it: no status at all.
    pub(crate) fn pending(name: &str) -> Self {
        Self {
            status: Map::new(),
            ..Self::new(name)
        }
    }

    /// A pod with this address and `prometheus.io/scrape` and `/port`.
    pub(crate) fn scraped(name: &str, address: SocketAddr) -> Self {
        Self::new(name)
            .ip(&address.ip().to_string())
            .annotation("prometheus.io/scrape", "true")
            .annotation("prometheus.io/port", &address.port().to_string())
    }

    pub(crate) fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), value.into());
        self
    }

    pub(crate) fn annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations.insert(key.to_owned(), value.into());
        self
    }

    /// Declares a container port, named where `name` is not empty.
    pub(crate) fn port(mut self, name: &str, number: u16) -> Self {
        let mut port = json!({"containerPort": number});
        if !name.is_empty() {
            port["name"] = name.into();
        }
        self.ports.push(port);
        self
    }

    /// Controlled by this StatefulSet.
    pub(crate) fn of_stateful_set(mut self, name: &str, uid: &str) -> Self {
        self.owners.push(json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet", "name": name, "uid": uid, "controller": true,
        }));
        self
    }

    /// On the host network.
    pub(crate) fn host_network(self) -> Self {
        self.spec("hostNetwork", json!(true))
    }

    /// Sets any field of the spec.
    pub(crate) fn spec(mut self, field: &str, value: Value) -> Self {
        self.spec.insert(field.to_owned(), value);
        self
    }

    /// Sets any field of the status.
    pub(crate) fn status(mut self, field: &str, value: Value) -> Self {
        self.status.insert(field.to_owned(), value);
        self
    }

    pub(crate) fn phase(self, phase: &str) -> Self {
        self.status("phase", phase.into())
    }

    /// The pod's address, of either family.
    pub(crate) fn ip(self, ip: &str) -> Self {
        self.ips(&[ip])
    }

    /// The pod's addresses, the first one its own.
    pub(crate) fn ips(self, ips: &[&str]) -> Self {
        let all: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip})).collect();
        self.status("podIP", json!(ips.first()))
            .status("podIPs", all.into())
    }

    /// `status.startTime`, such as `2026-01-02T03:04:05Z`.
    pub(crate) fn start_time(self, time: &str) -> Self {
        self.status("startTime", time.into())
    }

    /// The pod as `kubectl get pod -o json` prints it, for `--pods-file`; its UID is its name.
    pub(crate) fn printed(&self, namespace: &str) -> Value {
        let mut pod = self.manifest();
        pod["metadata"]["namespace"] = namespace.into();
        pod["metadata"]["uid"] = format!("uid-{namespace}-{}", self.name).into();
        pod["status"] = self.status.clone().into();
        pod
    }

    /// The status that [`Cluster::create_pod`] patches.
    pub(crate) fn status_fields(&self) -> Value {
        json!(self.status)
    }

    /// The pod as it is created, without its status.
    pub(crate) fn manifest(&self) -> Value {
        let mut spec = self.spec.clone();
        spec.entry("nodeName").or_insert_with(|| "node".into());
        spec.entry("containers")
            .or_insert_with(|| json!([{"name": "main", "image": "none", "ports": self.ports}]));
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": self.name, "labels": self.labels, "annotations": self.annotations,
                "ownerReferences": self.owners,
            },
            "spec": spec,
        })
    }
}

fn pod_path(namespace: &str, name: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/pods/{name}")
}

/// A name that no other part of this test run uses.
fn unique(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("{prefix}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

fn request(method: &str, path: &str, content_type: &str, body: Option<&Value>) -> http::Request<Vec<u8>> {
    let body = body.map(Value::to_string).unwrap_or_default();
    let mut request = http::Request::builder().method(method).uri(path);
    if !body.is_empty() {
        request = request.header("content-type", content_type);
    }
    request
        .body(body.into_bytes())
        .expect("method and path come from the tests and are valid")
}

/// The key that signs `ServiceAccount` tokens, and the administrator's token.
fn write_keys(dir: &Path) {
    let key = rcgen::KeyPair::generate().unwrap_or_else(|e| panic!("cannot make a key: {e}"));
    for (name, text) in [
        ("sa.key", key.serialize_pem()),
        ("sa.pub", key.public_key_pem()),
        ("tokens.csv", format!("{ADMIN},admin,admin,system:masters\n")),
    ] {
        std::fs::write(dir.join(name), text).expect("a fresh folder can be written");
    }
}

async fn start_etcd(dir: &Path) -> (Process, SocketAddr) {
    let program = tools::path("etcd");
    loop {
        let (clients, peers) = (process::free_address(), process::free_address());
        let data = dir.join(unique("etcd"));
        let mut command = Command::new(&program);
        command
            .arg(format!("--data-dir={}", data.display()))
            .arg(format!("--listen-client-urls=http://{clients}"))
            .arg(format!("--advertise-client-urls=http://{clients}"))
            .arg(format!("--listen-peer-urls=http://{peers}"))
            .arg(format!("--initial-advertise-peer-urls=http://{peers}"))
            .arg(format!("--initial-cluster=default=http://{peers}"))
            // A crash of the machine may cost the test's data.
            .args(["--unsafe-no-fsync", "--log-level=warn"]);
        let mut process = Process::spawn("etcd", command, &dir.join("etcd.log"));
        let is_up = async || {
            client::get(clients, "/readyz")
                .send()
                .await
                .is_ok_and(|a| a.status.is_success())
        };
        if process
            .wait_until_up("etcd says that it is ready", UP, is_up)
            .await
        {
            return (process, clients);
        }
    }
}
