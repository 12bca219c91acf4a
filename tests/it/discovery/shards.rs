//! Units that share the pods: each pod by one of them, by two for a moment when their number changes, never by none.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Running;
use crate::support::kube::{ADMIN, Cluster, NewPod, Scope, UNTRUSTED};
use metrics_proxy::discovery::Handle;

/// How often units look for their number here; 5 s by default.
const LOOK: &str = "300ms";
const PODS: u8 = 120;

fn pod(name: &str, n: u8) -> NewPod {
    NewPod::scraped(name, format!("127.3.0.{n}:8080").parse().expect("an address")).label("app", "x")
}

/// What tells the number of units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Counts {
    /// The `StatefulSet`, as soon as it is scaled.
    Declared,
    /// Its pods, once they are there.
    Pods,
}

/// A `StatefulSet` named `unit`, and its pods as a controller and kubelets would keep them.
struct Set<'a> {
    cluster: &'a Cluster,
    namespace: String,
    kubeconfig: std::path::PathBuf,
    units: BTreeMap<u32, Running>,
    /// The UID of the StatefulSet.
    uid: String,
}

impl Set<'_> {
    async fn replicas(&mut self, replicas: u32) {
        let path = format!("/apis/apps/v1/namespaces/{}/statefulsets", self.namespace);
        let labels = json!({"units": "yes"});
        let set = json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "unit"},
            "spec": {
                "replicas": replicas, "serviceName": "unit", "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {"containers": [{"name": "main", "image": "none"}]},
                },
            },
        });
        let created = self.cluster.try_request("POST", &path, Some(&set)).await;
        let set = if let Ok(created) = created {
            created
        } else {
            let body = json!({"spec": {"replicas": replicas}});
            let path = format!("{path}/unit");
            self.cluster.request("PATCH", &path, Some(&body)).await
        };
        set["metadata"]["uid"]
            .as_str()
            .expect("an object has a UID")
            .clone_into(&mut self.uid);
    }

    /// A unit's pod is made, its process starts, and it is ready once that is synced.
    async fn start(&mut self, n: u32) {
        let name = format!("unit-{n}");
        let pod = NewPod::new(&name)
            .label("units", "yes")
            .of_stateful_set("unit", &self.uid)
            .ip(&format!("127.4.0.{}", n + 1));
        self.cluster.create_pod(&self.namespace, &pod).await;
        let running = Running::on_cluster(
            &self.kubeconfig,
            &[
                ("shard", "auto"),
                ("pod-name", &name),
                ("shard-interval", LOOK),
                ("list-interval", "500ms"),
            ],
        )
        .await;
        running
            .until("synced", |snapshot| {
                snapshot.confirmed_at.is_some() && is_synced(snapshot)
            })
            .await;
        self.units.insert(n, running);
        self.ready(n, true).await;
    }

    async fn ready(&self, n: u32, ready: bool) {
        let status = if ready { "True" } else { "False" };
        let conditions: Value = json!({"conditions": [{"type": "Ready", "status": status}]});
        let name = format!("unit-{n}");
        self.cluster
            .patch_status(&self.namespace, &name, &conditions)
            .await;
    }

    /// Waits until a unit has found out the number of units so many times more.
    async fn until_counted_again(&self, unit: u32, times: u32) {
        let counted = || self.units[&unit].metric("metrics_proxy_discovery_requests_total{verb=\"get\"}");
        let (before, started) = (counted(), Instant::now());
        while counted() < before + f64::from(times) {
            assert!(started.elapsed() < super::LIMIT, "it counts every {LOOK}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn served(&self) -> Vec<BTreeSet<String>> {
        self.units.values().map(|unit| served(&unit.handle)).collect()
    }

    /// Waits until every pod is served by exactly one unit, and each unit by none but its own; returns how long.
    #[track_caller]
    fn settled(&self, units: usize, pods: usize) -> impl Future<Output = Duration> {
        let caller = std::panic::Location::caller();
        async move {
            let started = Instant::now();
            loop {
                let served = self.served();
                let sum: usize = served.iter().map(BTreeSet::len).sum();
                let union: BTreeSet<_> = served.iter().flatten().collect();
                let busy = served.iter().filter(|share| !share.is_empty()).count();
                if sum == pods && union.len() == pods && busy == units {
                    return started.elapsed();
                }
                assert!(
                    started.elapsed() < super::LIMIT,
                    "{caller}: {sum} targets of {} pods at {busy} units",
                    union.len()
                );
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

fn is_synced(snapshot: &metrics_proxy::discovery::Snapshot) -> bool {
    snapshot.sync == metrics_proxy::discovery::SyncState::Synced
}

fn served(handle: &Handle) -> BTreeSet<String> {
    let snapshot = handle.latest();
    let targets = snapshot.targets.targets.iter();
    targets.map(|target| target.pod.name.clone()).collect()
}

/// Looks all the time whether some pod that was there from the beginning is served by nobody.
async fn find_gaps(handles: Vec<Handle>, done: Arc<AtomicBool>) -> (BTreeSet<String>, usize) {
    let all: BTreeSet<String> = (1..=PODS).map(|n| format!("p{n}")).collect();
    let (mut gaps, mut doubles) = (BTreeSet::new(), 0);
    while !done.load(Ordering::Relaxed) {
        let shares: Vec<_> = handles.iter().map(served).collect();
        let union: BTreeSet<String> = shares.iter().flatten().cloned().collect();
        gaps.extend(all.difference(&union).cloned());
        doubles = doubles.max(
            shares
                .iter()
                .map(BTreeSet::len)
                .sum::<usize>()
                .saturating_sub(union.len()),
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    (gaps, doubles)
}

/// 1 to 5 to 3 units while pods change.
#[allow(clippy::print_stdout, reason = "the figures are part of what two tests show")]
async fn scale_up_and_down(set: &mut Set<'_>, counts: Counts) {
    let cluster = set.cluster;
    set.replicas(1).await;
    set.start(0).await;
    set.settled(1, usize::from(PODS)).await;

    let mut watched = vec![set.units[&0].handle.clone()];
    let done = Arc::new(AtomicBool::new(false));
    // From one unit there is one place to look; the new ones only add to it.
    let gaps = tokio::spawn(find_gaps(watched.clone(), Arc::clone(&done)));
    set.replicas(5).await;
    // Nobody else is there yet: the first one serves all pods, also after the time in which the others would have
    // learnt of the change.
    if counts == Counts::Declared {
        set.units[&0]
            .until("handing over", |snapshot| {
                !snapshot.targets.handing_over.is_empty()
            })
            .await;
    }
    set.until_counted_again(0, 8).await;
    done.store(true, Ordering::Relaxed);
    assert_eq!(gaps.await.expect("no panic").0, BTreeSet::new());

    // Anybody who may create pods can choose a name; such a pod is no replica.
    let namesake = NewPod::new("unit-999999999").label("units", "yes");
    cluster.create_pod(&set.namespace, &namesake).await;
    for n in 1..5 {
        set.start(n).await;
        watched.push(set.units[&n].handle.clone());
    }
    let done = Arc::new(AtomicBool::new(false));
    let gaps = tokio::spawn(find_gaps(watched.clone(), Arc::clone(&done)));
    let changed = pod("late", 200);
    cluster.create_pod("default", &changed).await;
    let took = set.settled(5, usize::from(PODS) + 1).await;
    println!("1 to 5: settled {took:?} after the last was ready");
    let shares: Vec<usize> = set.served().iter().map(BTreeSet::len).collect();
    println!("shares {shares:?}");

    set.replicas(3).await;
    // A controller asks the last ones to end; they take their time for it.
    let started = Instant::now();
    for n in [4, 3] {
        cluster
            .terminate_pod(&set.namespace, &format!("unit-{n}"), 30)
            .await;
    }
    let took = set.settled(3, usize::from(PODS) + 1).await;
    println!(
        "5 to 3: settled after {took:?}, {:?} with the requests",
        started.elapsed()
    );
    done.store(true, Ordering::Relaxed);
    let (gaps, doubles) = gaps.await.expect("no panic");
    println!("at most {doubles} pods twice at a time");
    assert_eq!(gaps, BTreeSet::new(), "served by nobody for a moment");
    assert!(doubles > 0, "what moves is served twice for a moment");
    for n in [4, 3] {
        set.units.remove(&n);
        cluster.delete_pod(&set.namespace, &format!("unit-{n}")).await;
    }
    set.settled(3, usize::from(PODS) + 1).await;
    let first = &set.units[&0];
    assert!(first.metric("metrics_proxy_shard_handovers_total{reason=\"ready\"}") > 0.0);
    assert!((first.metric("metrics_proxy_shards") - 3.0).abs() < 0.1);
    assert!(first.metric("metrics_proxy_shard_pods{state=\"handover\"}") < 0.1);
}

async fn pods(cluster: &Cluster) {
    for n in 1..=PODS {
        cluster.create_pod("default", &pod(&format!("p{n}"), n)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn units_share_the_pods_as_the_stateful_set_says() {
    let cluster = Cluster::start().await;
    pods(&cluster).await;
    let mut set = Set {
        cluster: &cluster,
        namespace: "default".to_owned(),
        kubeconfig: cluster.kubeconfig(ADMIN, Some("default")),
        units: BTreeMap::new(),
        uid: String::new(),
    };
    scale_up_and_down(&mut set, Counts::Declared).await;
}

/// Without `--trust` the set may not be read, but its pods may be listed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn untrusted_units_count_their_pods() {
    let cluster = Cluster::start().await;
    let token = cluster.service_account("default", "app").await;
    cluster.grant("default", "app", Scope::Namespace, UNTRUSTED).await;
    pods(&cluster).await;
    let mut set = Set {
        cluster: &cluster,
        namespace: "default".to_owned(),
        kubeconfig: cluster.kubeconfig(&token, Some("default")),
        units: BTreeMap::new(),
        uid: String::new(),
    };
    scale_up_and_down(&mut set, Counts::Pods).await;
}

#[tokio::test]
async fn fixed_shards_split_a_pods_file() {
    let directory = tempfile::tempdir().expect("a folder");
    let path = directory.path().join("pods.json");
    let items: Vec<Value> = (1..=PODS)
        .map(|n| {
            json!({
                "metadata": {"name": format!("p{n}"), "annotations": {"prometheus.io/scrape": "true"}},
                "status": {"phase": "Running", "podIP": format!("10.0.0.{n}")},
            })
        })
        .collect();
    std::fs::write(&path, json!({"kind": "PodList", "items": items}).to_string()).expect("written");
    let mut all = BTreeSet::new();
    for shard in ["0", "1", "2"] {
        let running = Running::start(&[
            ("pods-file", path.to_str().expect("text")),
            ("shard", shard),
            ("total-shards", "3"),
        ])
        .await;
        running.until("synced", is_synced).await;
        let share = served(&running.handle);
        assert!(!share.is_empty() && share.is_disjoint(&all));
        all.extend(share);
        let skipped = &running.handle.latest().targets.skipped[0];
        assert_eq!(skipped.reason.as_str(), "other_shard");
        assert!(skipped.detail.contains("of 3 serves it"), "{}", skipped.reason);
    }
    assert_eq!(all.len(), usize::from(PODS));
}
