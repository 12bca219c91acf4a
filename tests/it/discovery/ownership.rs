//! The program itself: no sample under the name of a pod that had lost the address before the body was complete.

use std::time::Duration;

use crate::support::app::App;
use crate::support::kube::{ADMIN, Cluster, NewPod, Scope, UNTRUSTED};
use crate::support::pod::{Answer, Pod};

/// How long the pod takes for its answer; meanwhile its address moves on.
const SLOW: Duration = Duration::from_millis(1500);

fn pod(name: &str, at: &Pod, started: &str) -> NewPod {
    NewPod::scraped(name, at.address)
        .label("app", "x")
        .start_time(started)
}

/// The address moves on while a scrape of it is under way.
async fn check_moving(cluster: &Cluster, namespace: &str, token: &str, more: &[&str]) {
    let exporter = Pod::serving("whose 1\n").await;
    let steady = Pod::serving("steady 1\n").await;
    cluster
        .create_pod(namespace, &pod("early", &exporter, "2026-01-01T00:00:00Z"))
        .await;
    cluster
        .create_pod(namespace, &pod("steady", &steady, "2026-01-01T00:00:00Z"))
        .await;
    let kubeconfig = cluster.kubeconfig(token, Some(namespace)).display().to_string();
    let args = [
        "--labels",
        "app=x",
        "--kubeconfig",
        &kubeconfig,
        "--namespace",
        namespace,
        "--pebble",
        "off",
    ];
    let mut app = App::start(&[&args[..], more].concat(), &[]).await;
    app.ready(Duration::from_secs(30)).await;
    let before = app.metrics().await;
    assert!(before.contains("whose{k8s_pod_name=\"early\""), "{before}");

    exporter.set(Answer::text("whose 1\n").after(SLOW));
    let n_asked = exporter.requests().len();
    let (answer, ()) = tokio::join!(app.metrics(), async {
        while exporter.requests().len() == n_asked {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        cluster
            .create_pod(namespace, &pod("late", &exporter, "2026-01-01T00:00:01Z"))
            .await;
    });
    let early = format!("{{k8s_pod_name=\"early\",k8s_namespace=\"{namespace}\"}}");
    assert!(
        !answer.contains("whose{"),
        "nobody knows whose body that was: {answer}"
    );
    assert!(answer.contains(&format!("up{early} 0")), "{answer}");
    assert!(answer.contains("steady{k8s_pod_name=\"steady\""), "{answer}");
    exporter.set(Answer::text("whose 1\n"));
    let after = app.metrics().await;
    assert!(after.contains("whose{k8s_pod_name=\"late\""), "{after}");
    assert!(!after.contains("early"), "{after}");
}

#[tokio::test]
async fn an_address_that_moves_during_a_scrape_costs_its_body() {
    let cluster = Cluster::shared().await;
    let namespace = cluster.namespace().await;
    check_moving(cluster, &namespace, ADMIN, &[]).await;
}

/// Where only listing is allowed, a list tells before and after the scrape.
#[tokio::test]
async fn an_address_that_moves_between_lists_costs_its_body() {
    let cluster = Cluster::shared().await;
    let namespace = cluster.namespace().await;
    let token = cluster.service_account(&namespace, "app").await;
    cluster
        .grant(&namespace, "app", Scope::Namespace, UNTRUSTED)
        .await;
    let seldom = ["--list-interval", "1h", "--list-max-age", "500ms"];
    check_moving(cluster, &namespace, &token, &seldom).await;
}
