//! Parameters of a scrape may be credentials. They reach the target, and nothing else.

use crate::support::app::App;
use crate::support::kube::NewPod;
use crate::support::pod::{Answer, Pod};

/// Source: newrelic/nri-prometheus#47, VictoriaMetrics/VictoriaMetrics#5825, prometheus/prometheus#2614.
#[tokio::test]
async fn values_of_parameters_are_in_no_series_page_or_log_line() {
    const SECRET: &str = "hush-6f1c4d2e";
    let good = Pod::serving("a 1\n").await;
    let bad = Pod::start(Answer::status(500)).await;
    let pods = [("good", &good), ("bad", &bad)].map(|(name, pod)| {
        NewPod::scraped(name, pod.address)
            .annotation("prometheus.io/param_token", SECRET)
            .annotation("prometheus.io/path", "/metrics?key=hush-6f1c4d2e")
    });
    let mut app = App::with_pods(&pods, &["--log-level", "metrics_proxy=trace"]).await;
    let metrics = app.metrics().await;
    assert!(metrics.contains("metrics_proxy_target_samples{"), "{metrics}");
    assert!(metrics.contains("/metrics\"}"), "the path stays: {metrics}");
    for path in ["/targets", "/api/v1/targets", "/readyz?verbose", "/metrics"] {
        let body = app.get(path, &[]).await.text();
        assert!(!body.contains(SECRET), "{path}: {body}");
    }
    assert!(!metrics.contains(SECRET), "{metrics}");
    let sent = &good.requests()[0].path;
    assert_eq!(sent, "/metrics?key=hush-6f1c4d2e&token=hush-6f1c4d2e");
    let log = app.process().log();
    assert!(!log.is_empty(), "the log is written");
    assert!(!log.contains(SECRET), "{log}");
}
