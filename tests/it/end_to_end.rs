//! The whole way on real parts: a real API server names the pods, real exporters are scraped through the real binary,
//! and a real Prometheus reads the answer.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use crate::support::app::App;
use crate::support::http as client;
use crate::support::kube::{ADMIN, Cluster, NewPod};
use crate::support::pebble::{Options, Pebble};
use crate::support::pod::{self, Answer, NodeExporter, Pod};
use crate::support::process;
use crate::support::prometheus::{self, Labels, Prometheus, promtool_check_metrics};
use crate::support::tools::{self, tool_or_skip};

const SOON: Duration = Duration::from_secs(30);

#[tokio::test]
async fn prometheus_3_reads_every_series_of_every_good_pod() {
    whole_way(&tools::path("prometheus")).await;
}

#[tokio::test]
async fn prometheus_2_42_reads_every_series_of_every_good_pod() {
    whole_way(&tool_or_skip!("prometheus-2.42")).await;
}

/// The bodies of the API server and of Pebble, as they are now. They want credentials, and targets get none, so the
/// test fetches them and serves them on loopback.
async fn live_bodies(cluster: &Cluster) -> [Pod; 2] {
    let request = http::Request::get("/metrics")
        .body(Vec::new())
        .expect("a request");
    let api_server = cluster
        .client(ADMIN)
        .request_text(request)
        .await
        .expect("the API server's metrics");
    let layer = "services:\n  sleeper: {override: replace, command: sleep 86399, startup: enabled}\n\
                 checks:\n  a: {override: replace, exec: {command: 'true'}}\n  b: {override: replace, exec: {command: 'true'}}\n";
    let pebble = Pebble::start("pebble-1.26", &[("001-sleeper.yaml", layer)], Options::default()).await;
    pebble.wait_service("sleeper", "active", SOON).await;
    let pebble = client::get(pebble.socket().as_path(), "/v1/metrics")
        .send()
        .await
        .expect("Pebble's metrics")
        .text();
    assert!(pebble.contains("pebble_service_active"), "{pebble}");
    [Pod::serving(&api_server).await, Pod::serving(&pebble).await]
}

async fn whole_way(program: &Path) {
    let cluster = Cluster::shared().await;
    let namespace = cluster.namespace().await;
    let node = NodeExporter::start(pod::address()).await;
    let exporter = Prometheus::start(&tools::path("prometheus"), &[]).await;
    let [api_server, pebble] = live_bodies(cluster).await;
    let own_label = Pod::serving("mine{k8s_pod_name=\"me\",le=\"1\"} 1\n").await;
    let html = Pod::start(Answer::html()).await;
    let truncated = Pod::start(Answer::text("cut 1\ncut_too 2\n").truncated(8)).await;
    let hanging = Pod::start(Answer::hang()).await;
    let good: [(&str, SocketAddr); 5] = [
        ("api-server", api_server.address),
        ("node", node.address),
        ("own-label", own_label.address),
        ("pebble", pebble.address),
        ("prometheus", exporter.address),
    ];
    let bad = [
        ("html", html.address),
        ("truncated", truncated.address),
        ("hanging", hanging.address),
    ];
    for (name, address) in good.iter().chain(&bad) {
        let pod = NewPod::scraped(name, *address).label("app", "whole-way");
        // The real Prometheus listens where everything of this machine does.
        let pod = if address.ip() == SocketAddr::from(([127, 0, 0, 1], 0)).ip() {
            pod.host_network()
        } else {
            pod
        };
        cluster.create_pod(&namespace, &pod).await;
    }
    let kubeconfig = cluster.kubeconfig(ADMIN, None);
    let env = [
        ("KUBECONFIG", kubeconfig.to_str().expect("UTF-8")),
        ("POD_LABEL_SELECTOR", "app=whole-way"),
        ("METRICS_PROXY_NAMESPACE", namespace.as_str()),
    ];
    let mut app = App::start(&["--pebble", "off"], &env).await;
    app.ready(SOON).await;

    let mut jobs = vec![prometheus::job("proxy", app.address)];
    // 2 s: the hanging pod costs all that the scraper's timeout leaves, and nothing more.
    jobs[0]["scrape_timeout"] = "2s".into();
    jobs[0]["scrape_interval"] = "2s".into();
    for (name, address) in good {
        jobs.push(prometheus::job(&format!("direct-{name}"), address));
    }
    let mut server = Prometheus::start(program, &jobs).await;
    server.wait_target("proxy", "up", SOON).await;
    for (name, _) in good {
        server.wait_target(&format!("direct-{name}"), "up", SOON).await;
        let up = format!("up{{job=\"proxy\",k8s_pod_name=\"{name}\",k8s_namespace=\"{namespace}\"}}");
        server.wait_value(&up, SOON, |value| value == "1").await;
        // What a direct scrape stores and what comes through the proxy, the labels apart that tell them from each
        // other. Exporters change while they are watched, so it is the sets that have to meet, once.
        let describe = || format!("{name}: the series differ");
        process::wait_for("both ways give the same series", SOON, describe, async || {
            let direct = names(&server, &format!("{{job=\"direct-{name}\"}}")).await;
            let through = format!("{{job=\"proxy\",k8s_pod_name=\"{name}\",k8s_namespace=\"{namespace}\"}}");
            let through = names(&server, &through).await;
            (!direct.is_empty() && direct == through).then_some(())
        })
        .await;
    }
    for (name, _) in bad {
        let up = format!("up{{job=\"proxy\",k8s_pod_name=\"{name}\"}}");
        server.wait_value(&up, SOON, |value| value == "0").await;
        let series = server
            .query(&format!("{{job=\"proxy\",k8s_pod_name=\"{name}\"}}"))
            .await;
        assert_eq!(
            series.len(),
            1,
            "{name} leaves its up and nothing else: {series:?}"
        );
    }
    let mine = server.series("mine{job=\"proxy\"}").await;
    assert_eq!(mine.len(), 1, "{mine:?}");
    assert_eq!(
        (
            mine[0]["k8s_pod_name"].as_str(),
            mine[0]["exported_k8s_pod_name"].as_str()
        ),
        ("own-label", "me")
    );
    assert_eq!(
        server.metadata().await["node_cpu_seconds_total"][0]["type"],
        "counter"
    );

    let text = app.metrics().await;
    assert_eq!(promtool_check_metrics(&tools::path("promtool"), &text), Ok(()));
}

/// Names and labels of the latest series, without what a direct scrape and the proxy add of their own.
async fn names(server: &Prometheus, selector: &str) -> BTreeSet<Labels> {
    let added = ["job", "instance", "k8s_pod_name", "k8s_namespace"];
    let series = server.query(selector).await.into_iter().map(|(labels, _)| labels);
    series
        .filter(|labels| {
            let name = labels["__name__"].as_str();
            name != "up" && !name.starts_with("scrape_")
        })
        .map(|mut labels| {
            labels.retain(|name, _| !added.contains(&name.as_str()));
            if let Some(exported) = labels.remove("exported_k8s_pod_name") {
                labels.insert("k8s_pod_name".to_owned(), exported);
            }
            labels
                .into_iter()
                .filter(|(name, _)| name != "k8s_pod_name")
                .collect()
        })
        .collect()
}

#[tokio::test]
async fn a_pod_that_sleeps_30_s_does_not_cost_the_scrape_its_2_s_timeout() {
    let sleeping = Pod::start(Answer::text("late 1\n").after(Duration::from_secs(30))).await;
    let good = Pod::serving("good 1\n").await;
    let pods = [
        NewPod::scraped("sleeping", sleeping.address),
        NewPod::scraped("good", good.address),
    ];
    let app = App::with_pods(&pods, &[]).await;
    let mut job = prometheus::job("proxy", app.address);
    job["scrape_interval"] = "2s".into();
    job["scrape_timeout"] = "2s".into();
    let mut server = Prometheus::start(&tools::path("prometheus"), &[job]).await;
    server.wait_target("proxy", "up", SOON).await;
    server
        .wait_value("good{k8s_pod_name=\"good\"}", SOON, |value| value == "1")
        .await;
    server
        .wait_value("up{k8s_pod_name=\"sleeping\"}", SOON, |value| value == "0")
        .await;
}
