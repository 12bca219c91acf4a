//! Thousands of random changes, and after them the set that a fresh list gives.
//!
//! The seed is printed; `DISCOVERY_SEED` repeats a run's choices (not its timing).

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};

use super::Running;
use crate::support::kube::{ADMIN, Cluster, NewPod, Scope};

/// Few names and fewer addresses, so that both are used again all the time.
const NAMES: usize = 60;
const ADDRESSES: u8 = 25;
/// Changes a round; as many as are under way at once.
const CHANGES: usize = 400;
const AT_ONCE: usize = 8;
/// Scrapes at once.
const SCRAPES: usize = 32;
/// How long the API server may take to tell us of a change that it has answered.
const TELLING: Duration = Duration::from_secs(1);

const WATCH: &[(&str, &[&str])] = &[("pods", &["get", "list", "watch"])];

/// What the test knows of a pod that it made: enough to change it.
#[derive(Debug, Clone)]
struct Made {
    uid: String,
    ip: String,
}

/// Addresses that pods have lost, by the API server's own answers, and when.
type Lost = Arc<Mutex<HashMap<(String, String), Instant>>>;

struct World {
    /// One client for all requests: a handshake for each would be most of the work.
    client: kube::Client,
    namespaces: Vec<String>,
    pods: Arc<Mutex<BTreeMap<(String, String), Made>>>,
    lost: Lost,
}

impl World {
    async fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, kube::Error> {
        let content_type = if method == "PATCH" {
            "application/merge-patch+json"
        } else {
            "application/json"
        };
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", content_type)
            .body(body.map(Value::to_string).unwrap_or_default().into_bytes())
            .expect("method and path come from the test and are valid");
        self.client.request(request).await
    }

    /// One random change of one random pod. Requests that come too late for another one's are no fault.
    async fn change(&self, mut rng: StdRng) {
        let namespace = self.namespaces[rng.random_range(0..self.namespaces.len())].clone();
        let name = format!("p{}", rng.random_range(0..NAMES));
        let key = (namespace.clone(), name.clone());
        let ip = format!("127.1.0.{}", rng.random_range(1..=ADDRESSES));
        let known = self.pods.lock().expect("no panic").get(&key).cloned();
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
        let status = format!("{path}/status");
        let Some(made) = known else {
            return self.create(&mut rng, key, ip).await;
        };
        let loses = |made: &Made| {
            let key = (made.uid.clone(), made.ip.clone());
            self.lost
                .lock()
                .expect("no panic")
                .entry(key)
                .or_insert_with(Instant::now);
        };
        match rng.random_range(0..10) {
            0 | 1 => {
                let now = json!({"gracePeriodSeconds": 0});
                if self.request("DELETE", &path, Some(&now)).await.is_ok() {
                    loses(&made);
                    self.pods.lock().expect("no panic").remove(&key);
                }
            }
            2 => {
                let later = json!({"gracePeriodSeconds": 600});
                let _ = self.request("DELETE", &path, Some(&later)).await;
            }
            3 | 4 if ip != made.ip => {
                let body = json!({"status": {"podIP": ip, "podIPs": [{"ip": ip}]}});
                if self.request("PATCH", &status, Some(&body)).await.is_ok() {
                    loses(&made);
                    let regained = (made.uid.clone(), ip.clone());
                    self.lost.lock().expect("no panic").remove(&regained);
                    self.pods
                        .lock()
                        .expect("no panic")
                        .insert(key, Made { ip, ..made });
                }
            }
            5 => {
                let phase = ["Pending", "Running", "Succeeded", "Failed", "Unknown"][rng.random_range(0..5)];
                let body = json!({"status": {"phase": phase}});
                let _ = self.request("PATCH", &status, Some(&body)).await;
            }
            6 => {
                let value = [json!("true"), json!("false"), Value::Null][rng.random_range(0..3)].clone();
                let body = json!({"metadata": {"annotations": {"prometheus.io/scrape": value}}});
                let _ = self.request("PATCH", &path, Some(&body)).await;
            }
            7 => {
                let port = ["8080", "8080,9090", "m", "none"][rng.random_range(0..4)];
                let body = json!({"metadata": {"annotations": {"prometheus.io/port": port}}});
                let _ = self.request("PATCH", &path, Some(&body)).await;
            }
            8 => {
                let app = ["x", "y"][rng.random_range(0..2)];
                let body = json!({"metadata": {"labels": {"app": app}}});
                let _ = self.request("PATCH", &path, Some(&body)).await;
            }
            _ => {
                // What most updates are: nothing of ours.
                let body =
                    json!({"metadata": {"annotations": {"other": rng.random_range(0..9).to_string()}}});
                let _ = self.request("PATCH", &path, Some(&body)).await;
            }
        }
    }

    async fn create(&self, rng: &mut StdRng, key: (String, String), ip: String) {
        let second = rng.random_range(0..60);
        let address = format!("{ip}:8080").parse().expect("an address");
        let mut pod = NewPod::scraped(&key.1, address)
            .label("app", "x")
            .port("m", 9102)
            .start_time(&format!("2026-01-01T00:00:{second:02}Z"));
        if rng.random_bool(0.2) {
            pod = pod.host_network();
        }
        // Another task may make or delete the same pod meanwhile.
        let path = format!("/api/v1/namespaces/{}/pods", key.0);
        let Ok(created) = self.request("POST", &path, Some(&pod.manifest())).await else {
            return;
        };
        let status = format!("{path}/{}/status", key.1);
        let body = json!({"status": pod.status_fields()});
        let _ = self.request("PATCH", &status, Some(&body)).await;
        let uid = created["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        self.pods.lock().expect("no panic").insert(key, Made { uid, ip });
    }

    async fn round(&self, rng: &mut StdRng) {
        let seeds: Vec<u64> = (0..CHANGES).map(|_| rng.random()).collect();
        futures::stream::iter(seeds)
            .for_each_concurrent(AT_ONCE, |seed| self.change(StdRng::seed_from_u64(seed)))
            .await;
    }
}

/// Takes targets as scrapes do, long ones, and asks as they do at the end whether the pods still own their addresses.
/// Returns each body that would have been published under the name of a pod that had lost the address.
async fn scrape_until(
    done: Arc<AtomicBool>,
    handle: metrics_proxy::discovery::Handle,
    lost: Lost,
    mut rng: StdRng,
) -> Vec<String> {
    let mut wrong = Vec::new();
    while !done.load(Ordering::Relaxed) {
        let set = Arc::clone(&handle.latest().targets);
        if set.targets.is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        }
        let target = Arc::clone(&set.targets[rng.random_range(0..set.targets.len())]);
        tokio::time::sleep(TELLING + Duration::from_millis(rng.random_range(100..800))).await;
        let key = (target.pod.uid.clone(), target.address.ip().to_string());
        let since = lost.lock().expect("no panic").get(&key).copied();
        if let Some(since) = since
            && since.elapsed() > TELLING
            && handle.latest().targets.confirms(&target)
        {
            wrong.push(format!(
                "{} at {} lost it {:?} ago",
                target.pod,
                target.address,
                since.elapsed()
            ));
        }
    }
    wrong
}

/// Waits until the set equals that of a discovery which starts only now.
async fn check_settled(running: &Running, kubeconfig: &std::path::Path) -> Duration {
    let started = Instant::now();
    let fresh = Running::on_cluster(kubeconfig, &[]).await;
    fresh
        .until("a fresh set", |snapshot| snapshot.confirmed_at.is_some())
        .await;
    let expect = Arc::clone(&fresh.handle.latest().targets);
    running
        .until(
            format!("the set of a fresh list, {} targets", expect.targets.len()),
            move |snapshot| snapshot.targets == expect,
        )
        .await;
    started.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_any_history_the_set_is_that_of_a_fresh_list() {
    let seed = std::env::var("DISCOVERY_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(rand::random);
    println!("DISCOVERY_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut cluster = Cluster::start().await;
    let own = cluster.namespace().await;
    let token = cluster.service_account(&own, "app").await;
    let mut trusted = cluster.grant(&own, "app", Scope::Cluster, WATCH).await;
    let namespaces = vec![own.clone(), "default".to_owned(), cluster.namespace().await];
    let kubeconfig = cluster.kubeconfig(&token, Some(&own));
    let running = Running::on_cluster(&kubeconfig, &[("list-interval", "1s")]).await;
    running.until_targets(&[]).await;
    let pods = Arc::default();
    let lost: Lost = Arc::default();
    for round in 0..6 {
        let done = Arc::new(AtomicBool::new(false));
        let scrapes: Vec<_> = (0..SCRAPES)
            .map(|_| {
                let (handle, lost) = (running.handle.clone(), Arc::clone(&lost));
                let rng = StdRng::seed_from_u64(rng.random());
                tokio::spawn(scrape_until(Arc::clone(&done), handle, lost, rng))
            })
            .collect();
        let world = World {
            client: cluster.client(ADMIN),
            namespaces: namespaces.clone(),
            pods: Arc::clone(&pods),
            lost: Arc::clone(&lost),
        };
        world.round(&mut rng).await;
        let took = check_settled(&running, &kubeconfig).await;
        done.store(true, Ordering::Relaxed);
        for scrape in scrapes {
            assert_eq!(scrape.await.expect("no panic"), Vec::<String>::new());
        }
        let shown = running.handle.latest();
        println!(
            "round {round}: {} pods, {} targets, {} skipped; settled in {took:?}",
            shown.targets.n_pods,
            shown.targets.targets.len(),
            shown.targets.skipped.len()
        );
        assert!(
            shown.targets.n_pods > 20,
            "a round leaves something to be right about"
        );
        match round {
            // The server goes away and pods change before we are back: what we know is old, and often too old (410).
            0 | 2 => {
                for _ in 0..3 {
                    cluster.namespace().await;
                }
                cluster.kill_api_server();
                cluster.start_api_server().await;
                let world = World {
                    client: cluster.client(ADMIN),
                    namespaces: namespaces.clone(),
                    pods: Arc::clone(&pods),
                    lost: Arc::clone(&lost),
                };
                world.round(&mut rng).await;
                check_settled(&running, &kubeconfig).await;
            }
            // Rights go and come back, seen when the watch is opened anew.
            1 => {
                cluster.revoke(trusted).await;
                cluster.kill_api_server();
                cluster.start_api_server().await;
                running
                    .until("refused", |snapshot| {
                        matches!(snapshot.sync, metrics_proxy::discovery::SyncState::Refused(_))
                    })
                    .await;
                trusted = cluster.grant(&own, "app", Scope::Cluster, WATCH).await;
                check_settled(&running, &kubeconfig).await;
            }
            3 => cluster.compact().await,
            _ => {}
        }
    }
    println!(
        "events {}, syncs {}, gone {}, builds {}",
        running.metric("metrics_proxy_discovery_events_total{event=\"apply\"}")
            + running.metric("metrics_proxy_discovery_events_total{event=\"delete\"}"),
        running.metric("metrics_proxy_discovery_syncs_total{how=\"stream\"}"),
        running.metric("metrics_proxy_discovery_failures_total{reason=\"gone\"}"),
        running.metric("metrics_proxy_discovery_builds_total"),
    );
}
