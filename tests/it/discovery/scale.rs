//! Ten thousand pods: what they cost in memory, requests and time. Minutes long, so run by hand:
//!
//!     cargo test --test it discovery::scale -- --ignored --nocapture
//!
//! `SCALE_PODS` sets another number, `SCALE_IDLE_SECONDS` how long to count requests with nothing changing. Discovery
//! runs in a process of its own (this test binary again), so that its memory is not the test's.

use std::process::Command;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use serde_json::json;

use super::Running;
use crate::support::kube::{ADMIN, Cluster, NewPod};

const KUBECONFIG: &str = "SCALE_KUBECONFIG";
const NAMESPACES: usize = 10;

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name)
        .ok()
        .and_then(|value| value.parse().ok())
        .unwrap_or(default)
}

/// `VmRSS` or `VmHWM` of this process in kB.
fn memory(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status
        .lines()
        .find(|line| line.starts_with(field))
        .expect("the field");
    let number = line.split_whitespace().nth(1).expect("a number");
    number.parse().expect("a number")
}

fn request(method: &str, path: &str, body: &serde_json::Value) -> http::Request<Vec<u8>> {
    let content_type = if method == "PATCH" {
        "application/merge-patch+json"
    } else {
        "application/json"
    };
    http::Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", content_type)
        .body(body.to_string().into_bytes())
        .expect("method and path come from the test and are valid")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "minutes long; see above"]
async fn ten_thousand_pods() {
    let n_pods = setting("SCALE_PODS", 10_000);
    let cluster = Cluster::start().await;
    let mut namespaces = Vec::new();
    for _ in 0..NAMESPACES {
        namespaces.push(cluster.namespace().await);
    }
    let client = cluster.client(ADMIN);
    let started = Instant::now();
    futures::stream::iter(0..n_pods)
        .for_each_concurrent(16, |n| {
            let (client, namespace) = (client.clone(), namespaces[n % NAMESPACES].clone());
            async move {
                let name = format!("workload-deployment-7d9c5b7f4-{n:05}");
                let address = format!("10.{}.{}.{}:8080", 1 + n / 60_000, n / 250 % 240, 1 + n % 250);
                let pod = NewPod::scraped(&name, address.parse().expect("an address"))
                    .label("app", "x")
                    .label("pod-template-hash", "7d9c5b7f4")
                    .annotation("filler", &"what others keep here ".repeat(200))
                    .start_time("2026-01-01T00:00:00Z");
                let path = format!("/api/v1/namespaces/{namespace}/pods");
                let create = request("POST", &path, &pod.manifest());
                let body = request(
                    "PATCH",
                    &format!("{path}/{name}/status"),
                    &json!({"status": pod.status_fields()}),
                );
                for request in [create, body] {
                    client
                        .request_text(request)
                        .await
                        .unwrap_or_else(|e| panic!("{name}: {e}"));
                }
            }
        })
        .await;
    println!("{n_pods} pods made in {:?}", started.elapsed());
    let child = Command::new(std::env::current_exe().expect("a test binary"))
        .args([
            "--exact",
            "discovery::scale::in_a_process_of_its_own",
            "--ignored",
            "--nocapture",
        ])
        .env(KUBECONFIG, cluster.kubeconfig(ADMIN, None))
        .env("SCALE_NAMESPACE", &namespaces[0])
        .env("SCALE_PODS", n_pods.to_string())
        .status()
        .expect("it runs");
    assert!(child.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the other half of the test above"]
async fn in_a_process_of_its_own() {
    let Some(kubeconfig) = std::env::var_os(KUBECONFIG) else {
        return;
    };
    let log = metrics_proxy::config::Log {
        json: false,
        filter: std::env::var("RUST_LOG").unwrap_or_else(|_| "warn".to_owned()),
    };
    metrics_proxy::telemetry::start_logging(&log).expect("a filter");
    let n_pods = setting("SCALE_PODS", 0);
    let before = memory("VmRSS");
    let started = Instant::now();
    let running = Running::on_cluster(kubeconfig.as_ref(), &[]).await;
    running
        .until("all of them", |snapshot| snapshot.targets.targets.len() == n_pods)
        .await;
    println!("first set after {:?}", started.elapsed());
    let (after, peak) = (memory("VmRSS"), memory("VmHWM"));
    println!(
        "memory: {before} kB before, {after} kB with {n_pods} pods ({} bytes a pod), peak {peak} kB",
        (after - before) * 1024 / n_pods as u64
    );

    // One change at a time, from the API server's answer to the set.
    let client = running_client(kubeconfig.as_ref()).await;
    let namespace = std::env::var("SCALE_NAMESPACE").expect("set by the parent");
    let path = |n: usize| {
        format!(
            "/api/v1/namespaces/{namespace}/pods/workload-deployment-7d9c5b7f4-{:05}",
            n * NAMESPACES
        )
    };
    let mut latencies = Vec::new();
    for n in 0..100 {
        let port = 9000 + u16::try_from(n).expect("small");
        let body = json!({"metadata": {"annotations": {"prometheus.io/port": port.to_string()}}});
        client
            .request_text(request("PATCH", &path(n), &body))
            .await
            .expect("patched");
        let answered = Instant::now();
        running
            .until("the change", |snapshot| {
                snapshot
                    .targets
                    .targets
                    .iter()
                    .any(|target| target.address.port() == port)
            })
            .await;
        latencies.push(answered.elapsed());
    }
    latencies.sort();
    println!(
        "event to set: median {:?}, p99 {:?}",
        latencies[50], latencies[99]
    );

    // Many at once, as a rollout makes them.
    let (builds, seconds) = (
        running.metric("metrics_proxy_discovery_builds_total"),
        running.metric("metrics_proxy_discovery_build_seconds_total"),
    );
    let started = Instant::now();
    let storm = n_pods / NAMESPACES;
    futures::stream::iter(0..storm)
        .for_each_concurrent(16, |n| {
            let (client, path) = (client.clone(), path(n));
            async move {
                let body = json!({"metadata": {"annotations": {"prometheus.io/port": "7000"}}});
                client
                    .request_text(request("PATCH", &path, &body))
                    .await
                    .expect("patched");
            }
        })
        .await;
    let (made, last) = (started.elapsed(), Instant::now());
    running
        .until("the storm", |snapshot| {
            let mut targets = snapshot.targets.targets.iter();
            targets
                .by_ref()
                .filter(|target| target.address.port() == 7000)
                .count()
                == storm
        })
        .await;
    println!(
        "{storm} changes in {made:?}: in the set {:?} after the last, {} sets made, {:.3} s spent on them",
        last.elapsed(),
        running.metric("metrics_proxy_discovery_builds_total") - builds,
        running.metric("metrics_proxy_discovery_build_seconds_total") - seconds,
    );
    println!(
        "memory after it: {} kB, peak {} kB",
        memory("VmRSS"),
        memory("VmHWM")
    );

    let idle = setting("SCALE_IDLE_SECONDS", 20);
    let requests = || {
        ["list", "watch", "review"].map(|verb| {
            running.metric(&format!(
                "metrics_proxy_discovery_requests_total{{verb=\"{verb}\"}}"
            ))
        })
    };
    let at_first = requests();
    tokio::time::sleep(Duration::from_secs(idle as u64)).await;
    println!(
        "requests in {idle} s of nothing: list, watch, review {at_first:?} to {:?}; memory {} kB",
        requests(),
        memory("VmRSS")
    );
}

async fn running_client(kubeconfig: &std::path::Path) -> kube::Client {
    let kubeconfig = kube::config::Kubeconfig::read_from(kubeconfig).expect("the parent wrote it");
    let config =
        kube::Config::from_custom_kubeconfig(kubeconfig, &kube::config::KubeConfigOptions::default()).await;
    kube::Client::try_from(config.expect("it is a kubeconfig")).expect("a client")
}

/// Fifty proxies lose the API server at the same moment and meet it again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "half a minute, and busy"]
async fn fifty_proxies_do_not_stampede() {
    let mut cluster = Cluster::start().await;
    let pod = |name: &str, ip: &str| {
        NewPod::scraped(name, format!("{ip}:8080").parse().expect("an address")).label("app", "x")
    };
    for n in 1..=100u8 {
        cluster
            .create_pod("default", &pod(&format!("p{n}"), &format!("127.2.0.{n}")))
            .await;
    }
    let kubeconfig = cluster.kubeconfig(ADMIN, None);
    let mut proxies = Vec::new();
    for _ in 0..50 {
        proxies.push(Running::on_cluster(&kubeconfig, &[]).await);
    }
    for proxy in &proxies {
        proxy
            .until("all pods", |snapshot| snapshot.targets.targets.len() == 100)
            .await;
    }
    let watches = |proxies: &[Running]| -> f64 {
        let watch = "metrics_proxy_discovery_requests_total{verb=\"watch\"}";
        proxies.iter().map(|proxy| proxy.metric(watch)).sum()
    };
    let at_first = watches(&proxies);
    cluster.kill_api_server();
    tokio::time::sleep(Duration::from_secs(15)).await;
    let tried = watches(&proxies) - at_first;
    cluster.start_api_server().await;
    let ready = Instant::now();
    cluster.create_pod("default", &pod("new", "127.2.1.1")).await;
    let mut healed = Vec::new();
    for proxy in &proxies {
        proxy
            .until("the new pod", |snapshot| snapshot.targets.targets.len() == 101)
            .await;
        healed.push(ready.elapsed());
    }
    let all = healed.last().expect("fifty");
    println!(
        "50 proxies: {:.1} attempts a second while the server was away, all right {all:?} after it was ready, with {} requests",
        tried / 15.0,
        watches(&proxies) - at_first - tried,
    );
    assert!(tried / 15.0 < 50.0, "less than one a second each");
    assert!(*all < Duration::from_secs(15), "about 6 s: {all:?}");
}
