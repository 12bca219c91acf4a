//! The headers that real Prometheus servers send. The tests of `negotiate` repeat them.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::common::*;
use super::pages::{Headers, PageServer};
use crate::support::prometheus::Prometheus;
use crate::support::tools::{self, tool_or_skip};

const LIMIT: Duration = Duration::from_mins(1);

/// Lets a server scrape with each of these settings, and returns the headers that it sends.
async fn headers_for(program: &Path, settings: &[(&str, Value)]) -> HashMap<String, Headers> {
    let pages = settings.iter().map(|(name, _)| {
        (
            format!("/{name}"),
            ("text/plain; version=0.0.4", "a 1\n".to_owned()),
        )
    });
    let pages = PageServer::start(pages.collect());
    let jobs: Vec<Value> = settings
        .iter()
        .map(|(name, settings)| {
            let mut job = json!({
                "job_name": name,
                "metrics_path": format!("/{name}"),
                "scrape_interval": "1s",
                "scrape_timeout": "1s",
                "static_configs": [{"targets": [pages.address.to_string()]}],
            });
            for (key, value) in settings.as_object().into_iter().flatten() {
                job[key] = value.clone();
            }
            job
        })
        .collect();
    let mut server = Prometheus::start(program, &jobs).await;
    let mut found = HashMap::new();
    for (name, _) in settings {
        server.wait_target(name, "up", LIMIT).await;
        let headers = pages.request(&format!("/{name}"));
        found.insert((*name).to_owned(), headers.expect("the target was scraped"));
    }
    found
}

/// Content-Type and encoding of the response to a request with these headers.
fn response_to(headers: &Headers) -> (&'static str, bool) {
    let header = |name: &str| headers.get(name).map(String::as_str);
    let format = negotiate(header("accept"), header("accept-encoding"), header("user-agent"));
    (format.content_type(), format.gzip())
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_3_16_sends_these_headers() {
    let found = headers_for(
        &tools::path("prometheus"),
        &[
            ("default", json!({})),
            ("legacy", json!({"metric_name_validation_scheme": "legacy"})),
            (
                "underscores",
                json!({"metric_name_escaping_scheme": "underscores"}),
            ),
            ("text", json!({"scrape_protocols": ["PrometheusText0.0.4"]})),
            ("native", json!({"scrape_native_histograms": true})),
        ],
    )
    .await;
    let accept = |name: &str| found[name]["accept"].clone();
    let default = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.7,\
                   application/openmetrics-text;version=0.0.1;q=0.6,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.5,\
                   text/plain;version=0.0.4;q=0.4,*/*;q=0.3";
    assert_eq!(accept("default"), default);
    let underscores = default.replace("allow-utf-8", "underscores");
    assert_eq!(accept("legacy"), underscores);
    assert_eq!(accept("underscores"), underscores);
    // No escaping: only the User-Agent tells it from a Prometheus 2.
    assert_eq!(accept("text"), "text/plain;version=0.0.4;q=0.7,*/*;q=0.6");
    assert_eq!(
        accept("native"),
        "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.7,\
         application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,\
         text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
    );
    for (name, headers) in &found {
        // A build without a version sends the product only.
        assert!(
            headers["user-agent"].starts_with("Prometheus/"),
            "{name}: {headers:?}"
        );
        assert_eq!(headers["accept-encoding"], "gzip", "{name}");
    }
    let open_metrics = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!(
        response_to(&found["default"]),
        (&*format!("{open_metrics}; escaping=allow-utf-8"), true)
    );
    assert_eq!(
        response_to(&found["legacy"]),
        (&*format!("{open_metrics}; escaping=underscores"), true)
    );
    assert_eq!(
        response_to(&found["text"]),
        ("text/plain; version=0.0.4; charset=utf-8", true)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_2_42_sends_these_headers() {
    let program = tool_or_skip!("prometheus-2.42");
    let found = headers_for(&program, &[("default", json!({}))]).await;
    assert_eq!(
        found["default"]["accept"],
        "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
         text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
    );
    assert!(
        found["default"]["user-agent"].starts_with("Prometheus/2.42"),
        "{found:?}"
    );
    let open_metrics = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!(response_to(&found["default"]), (open_metrics, true));
}
