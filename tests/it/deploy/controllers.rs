//! The workloads of `deploy/` with Kubernetes' own controllers, scheduler and kubelet (kubemark's, over a fake runtime).
//!
//! The fake runtime runs no program: for each Ready pod of the `StatefulSet` the test runs the real program with the pod's name.
//! Probes are removed from the manifests, since kubemark gives its pods an address that is not of this machine.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{apply, manifests};
use crate::support::app::App;
use crate::support::kube::{ADMIN, Cluster, NewPod};
use crate::support::process::{self, Process};
use crate::support::tools;

const LIMIT: Duration = Duration::from_mins(3);
const PODS: u8 = 24;

/// A cluster in which workloads come to life.
struct Controlled {
    cluster: Cluster,
    namespace: String,
    kubeconfig: std::path::PathBuf,
    // Ended when the test ends.
    _processes: Vec<Process>,
    _dir: tempfile::TempDir,
}

impl Controlled {
    async fn start() -> Self {
        let cluster = Cluster::start().await;
        let namespace = cluster.namespace().await;
        let kubeconfig = cluster.kubeconfig(ADMIN, Some(&namespace));
        let dir = process::fresh_dir();
        let of_kubeconfig = format!("--kubeconfig={}", kubeconfig.display());
        let kubelet = format!("--kubelet-port={}", process::free_port());
        let read_only = format!("--kubelet-read-only-port={}", process::free_port());
        let spawn = |name: &str, arguments: &[&str]| {
            let mut command = Command::new(tools::path(name));
            command
                .arg(&of_kubeconfig)
                .args(arguments)
                .current_dir(dir.path());
            Process::spawn(name, command, &dir.path().join(format!("{name}.log")))
        };
        let alone = ["--leader-elect=false", "--secure-port=0"];
        // The lifecycle controller removes the taint of a new node. The controller that removes pods of unknown nodes is left
        // out, since the targets below belong to one.
        let controllers = "--controllers=deployment-controller,replicaset-controller,statefulset-controller,node-lifecycle-controller";
        let processes = vec![
            spawn("kube-controller-manager", &[&alone[..], &[controllers]].concat()),
            spawn("kube-scheduler", &alone),
            spawn(
                "kubemark",
                &[
                    "--morph=kubelet",
                    "--name=hollow-0",
                    "--use-host-image-service=false",
                    kubelet.as_str(),
                    read_only.as_str(),
                ],
            ),
        ];
        let controlled = Self {
            cluster,
            namespace,
            kubeconfig,
            _processes: processes,
            _dir: dir,
        };
        for object in manifests("serviceaccount.yaml") {
            controlled.apply(&object).await;
        }
        controlled
    }

    async fn apply(&self, object: &Value) {
        apply(&self.cluster, &self.namespace, object, false)
            .await
            .unwrap_or_else(|e| panic!("{}: {e}", object["kind"]));
    }

    fn path(&self, kind: &str) -> String {
        format!("/apis/apps/v1/namespaces/{}/{kind}/metrics-proxy", self.namespace)
    }

    /// Waits until every replica is of the newest template and ready; calls `meanwhile` again and again.
    async fn rolled_out(&self, kind: &str, mut meanwhile: impl AsyncFnMut(&Value)) {
        let started = Instant::now();
        loop {
            let workload = self.cluster.request("GET", &self.path(kind), None).await;
            meanwhile(&workload).await;
            let (status, replicas) = (&workload["status"], &workload["spec"]["replicas"]);
            let is_observed = status["observedGeneration"] == workload["metadata"]["generation"];
            let is_complete = ["updatedReplicas", "readyReplicas", "replicas"]
                .iter()
                .all(|field| status[field] == *replicas);
            if is_observed && is_complete {
                return;
            }
            assert!(
                started.elapsed() < LIMIT,
                "{kind}: {status}\n{}",
                self.cluster.log_tail()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Changes the template, as a new image does.
    async fn roll_out(&self, kind: &str, round: &str) {
        let patch = json!({"spec": {"template": {"metadata": {"annotations": {"round": round}}}}});
        self.cluster
            .request("PATCH", &self.path(kind), Some(&patch))
            .await;
    }
}

/// A workload of `deploy/` without what kubemark cannot do.
fn workload(file: &str) -> Value {
    let mut workload = manifests(file).remove(0);
    let container = workload["spec"]["template"]["spec"]["containers"][0]
        .as_object_mut()
        .expect("a container");
    container.remove("livenessProbe");
    container.remove("readinessProbe");
    workload
}

#[tokio::test]
#[ignore = "builds Kubernetes' controllers, some 5 minutes the first time; make test-real runs it"]
async fn a_deployment_comes_up_and_a_rollout_keeps_one_replica_available() {
    let controlled = Controlled::start().await;
    controlled.apply(&workload("deployment.yaml")).await;
    controlled.rolled_out("deployments", async |_| ()).await;
    controlled.roll_out("deployments", "second").await;
    controlled
        .rolled_out("deployments", async |deployment| {
            assert!(
                deployment["status"]["availableReplicas"].as_u64() >= Some(1),
                "{}",
                deployment["status"]
            );
        })
        .await;
}

/// The real programs that stand for the containers of a `StatefulSet`, by the uid of their pod.
#[derive(Default)]
struct Replicas(BTreeMap<String, App>);

impl Replicas {
    /// Starts a program for each pod that became Ready and ends that of each pod that ends.
    async fn follow(&mut self, controlled: &Controlled) {
        let path = format!(
            "/api/v1/namespaces/{}/pods?labelSelector=app.kubernetes.io%2Fname%3Dmetrics-proxy",
            controlled.namespace
        );
        let listed = controlled.cluster.request("GET", &path, None).await;
        let mut present = BTreeSet::new();
        for pod in listed["items"].as_array().expect("a list") {
            let conditions = pod["status"]["conditions"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            let is_ready = conditions
                .iter()
                .any(|c| c["type"] == "Ready" && c["status"] == "True");
            if !is_ready || pod["metadata"]["deletionTimestamp"].is_string() {
                continue;
            }
            let uid = pod["metadata"]["uid"].as_str().expect("a uid").to_owned();
            if !self.0.contains_key(&uid) {
                let name = pod["metadata"]["name"].as_str().expect("a name");
                let options = [
                    "--pebble",
                    "off",
                    "--shard",
                    "auto",
                    "--shard-interval",
                    "300ms",
                    "--pod-name",
                    name,
                ];
                let kubeconfig = controlled.kubeconfig.display().to_string();
                let environment = [
                    ("KUBECONFIG", kubeconfig.as_str()),
                    ("POD_LABEL_SELECTOR", "app=x"),
                ];
                self.0
                    .insert(uid.clone(), App::start(&options, &environment).await);
            }
            present.insert(uid);
        }
        self.0.retain(|uid, _| present.contains(uid));
    }

    /// The pods that each program serves at this moment.
    async fn shares(&self) -> Vec<BTreeSet<String>> {
        let mut shares = Vec::new();
        for app in self.0.values() {
            let response = app.get("/metrics", &[]).await;
            // 503 while it does not know its pods.
            let text = if response.status == 200 {
                response.text()
            } else {
                String::new()
            };
            let served = text
                .lines()
                .filter_map(|line| line.strip_prefix("up{k8s_pod_name=\""));
            shares.push(
                served
                    .filter_map(|rest| rest.split('"').next())
                    .map(str::to_owned)
                    .collect(),
            );
        }
        shares
    }

    async fn check_disjoint(&self) {
        let shares = self.shares().await;
        let sum: usize = shares.iter().map(BTreeSet::len).sum();
        let union: BTreeSet<_> = shares.iter().flatten().collect();
        assert_eq!(sum, union.len(), "a pod in two shards: {shares:?}");
    }

    async fn wait_complete(&self, replicas: usize) {
        process::wait_for(
            &format!("each pod is in exactly one of {replicas} shards"),
            LIMIT,
            String::new,
            async || {
                let shares = self.shares().await;
                let sum: usize = shares.iter().map(BTreeSet::len).sum();
                let union: BTreeSet<_> = shares.iter().flatten().collect();
                let is_complete = shares.len() == replicas && sum == usize::from(PODS) && union.len() == sum;
                is_complete.then_some(())
            },
        )
        .await;
    }
}

#[tokio::test]
#[ignore = "builds Kubernetes' controllers, some 5 minutes the first time; make test-real runs it"]
async fn a_stateful_set_comes_up_and_a_rollout_keeps_every_pod_in_one_shard() {
    let controlled = Controlled::start().await;
    for n in 1..=PODS {
        let address = format!("127.5.0.{n}:8080").parse().expect("an address");
        let pod = NewPod::scraped(&format!("p{n}"), address)
            .label("app", "x")
            .spec("nodeName", "elsewhere".into());
        controlled.cluster.create_pod(&controlled.namespace, &pod).await;
    }
    controlled.apply(&workload("statefulset.yaml")).await;
    let mut replicas = Replicas::default();
    controlled.rolled_out("statefulsets", async |_| ()).await;
    replicas.follow(&controlled).await;
    replicas.wait_complete(2).await;

    controlled.roll_out("statefulsets", "second").await;
    controlled
        .rolled_out("statefulsets", async |_| {
            replicas.follow(&controlled).await;
            replicas.check_disjoint().await;
        })
        .await;
    replicas.follow(&controlled).await;
    replicas.wait_complete(2).await;

    let three = json!({"spec": {"replicas": 3}});
    controlled
        .cluster
        .request("PATCH", &controlled.path("statefulsets"), Some(&three))
        .await;
    controlled
        .rolled_out("statefulsets", async |_| replicas.follow(&controlled).await)
        .await;
    replicas.follow(&controlled).await;
    replicas.wait_complete(3).await;
}
