//! The alert rules by promtool, and the dashboard's queries by a real Prometheus that scrapes the real program.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::app::PROGRAM;
use crate::support::kube::{Cluster, NewPod, Scope};
use crate::support::pebble::{Options, Pebble};
use crate::support::pod::{self, Answer, Pod};
use crate::support::process;
use crate::support::prometheus::{self, Prometheus};
use crate::support::tools::{self, tool_or_skip};

const SOON: Duration = Duration::from_mins(1);

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("cannot read {path}: {e}"))
}

fn promtool(program: &Path, args: &[&str]) {
    let output = Command::new(program)
        .current_dir(root().join("observability"))
        .args(args)
        .output()
        .unwrap_or_else(|e| panic!("cannot run promtool: {e}"));
    assert!(
        output.status.success(),
        "{args:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn the_alert_rules_pass_their_tests_in_prometheus_3() {
    let program = tools::path("promtool");
    promtool(&program, &["check", "rules", "--lint-fatal", "alerts.yaml"]);
    promtool(&program, &["test", "rules", "alerts.test.yaml"]);
}

#[test]
fn the_alert_rules_pass_their_tests_in_prometheus_2_42() {
    promtool(
        &tool_or_skip!("promtool-2.42"),
        &["test", "rules", "alerts.test.yaml"],
    );
}

#[test]
fn every_alert_has_a_test_in_which_it_fires_and_a_runbook() {
    let rules: Value = serde_yaml::from_str(&read("observability/alerts.yaml")).expect("it is YAML");
    let tests = read("observability/alerts.test.yaml");
    let runbook = read("docs/reference/alerts.md");
    let rules = rules["groups"][0]["rules"].as_array().expect("a list");
    assert!(rules.len() > 8);
    for rule in rules {
        let name = rule["alert"].as_str().expect("an alert has a name");
        assert!(
            tests.contains(&format!("alertname=\"{name}\"")),
            "{name} has no test"
        );
        for needed in ["summary", "description"] {
            assert!(rule["annotations"][needed].is_string(), "{name} has no {needed}");
        }
        let url = rule["annotations"]["runbook_url"].as_str().unwrap_or_default();
        let anchor = format!("docs/reference/alerts.md#{}", name.to_lowercase());
        assert!(url.ends_with(&anchor), "{name}: {url}");
        assert!(
            runbook.contains(&format!("\n## {name}\n")),
            "{name} has no entry in the runbook"
        );
    }
}

#[test]
fn charm_chart_and_manifests_ship_the_same_rules_and_the_same_dashboard() {
    let output = std::process::Command::new(
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/observability"),
    )
    .arg("--check")
    .output()
    .unwrap_or_else(|e| panic!("cannot run tools/observability: {e}"));
    assert!(
        output.status.success(),
        "run tools/observability: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    for (ours, charms) in [
        ("alerts.yaml", "prometheus_alert_rules/metrics-proxy.yaml"),
        ("dashboard.json", "grafana_dashboards/metrics-proxy.json"),
    ] {
        assert_eq!(
            read(&format!("observability/{ours}")),
            read(&format!("examples/charm/src/{charms}")),
            "run tools/observability"
        );
    }
}

#[test]
fn the_rules_of_prometheus_operator_pass_the_tests_of_their_source() {
    let manifest: Value =
        serde_yaml::from_str(&read("deploy/prometheusrule.yaml")).expect("the manifest is YAML");
    let dir = process::fresh_dir();
    let promtool = |arguments: &[&str]| {
        let output = std::process::Command::new(crate::support::tools::path("promtool"))
            .args(arguments)
            .current_dir(dir.path())
            .output()
            .unwrap_or_else(|e| panic!("cannot run promtool: {e}"));
        let printed = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&printed));
    };
    std::fs::write(dir.path().join("alerts.yaml"), manifest["spec"].to_string()).expect("a fresh folder");
    promtool(&["check", "rules", "alerts.yaml"]);
    let tests = read("observability/alerts.test.yaml");
    std::fs::write(dir.path().join("alerts.test.yaml"), tests).expect("a fresh folder");
    promtool(&["test", "rules", "alerts.test.yaml"]);
    let rules = manifest["spec"]["groups"][0]["rules"].as_array().expect("a list");
    for rule in rules {
        let expression = rule["expr"].as_str().expect("a rule has an expression");
        // An AlertmanagerConfig routes by the namespace, so an aggregation adds it.
        let aggregates = expression.contains(" by (");
        assert!(
            !aggregates || expression.contains("group_left (namespace)"),
            "{expression}"
        );
    }
}

/// Metrics of the proxy that a text names.
fn names(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.match_indices("metrics_proxy_")
        .map(|(at, _)| {
            text[at..]
                .split(|c| !is_part(c))
                .next()
                .unwrap_or_default()
                .to_owned()
        })
        .collect()
}

#[test]
fn alerts_and_dashboard_name_documented_metrics_only() {
    let documented = names(&read("docs/reference/metrics.md"));
    for file in ["observability/alerts.yaml", "observability/dashboard.json"] {
        for name in names(&read(file)) {
            let family = ["_bucket", "_count"]
                .iter()
                .find_map(|suffix| name.strip_suffix(suffix))
                .unwrap_or(&name);
            assert!(
                documented.contains(family),
                "{file}: {name} is not in docs/reference/metrics.md"
            );
        }
    }
}

/// Every query of the dashboard with its panel, as Grafana would send it.
fn queries() -> Vec<(String, String)> {
    let dashboard: Value = serde_json::from_str(&read("observability/dashboard.json")).expect("it is JSON");
    let panels = dashboard["panels"].as_array().expect("a list");
    let mut queries = Vec::new();
    for panel in panels {
        let title = panel["title"].as_str().expect("a panel has a title");
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expr = target["expr"].as_str().expect("a target has a query");
            let expr = expr
                .replace("$__rate_interval", "1m")
                .replace("$job", ".*")
                .replace("$instance", ".*");
            assert!(!expr.contains('$'), "{title}: {expr}");
            queries.push((title.to_owned(), expr));
        }
    }
    assert!(queries.len() > 25, "{queries:?}");
    queries
}

#[test]
fn the_dashboard_says_what_each_panel_means() {
    let text = read("observability/dashboard.json");
    // The library of grafana-k8s renames the data source of panels to this and removes other variables of the type, so
    // that any other name breaks the lists of the variables in COS.
    assert!(
        text.contains("\"name\": \"prometheusds\""),
        "the variable of the data source"
    );
    assert!(!text.contains("${datasource}"), "a data source with another name");
    let dashboard: Value = serde_json::from_str(&text).expect("it is JSON");
    let mut seen = BTreeSet::new();
    for panel in dashboard["panels"].as_array().expect("a list") {
        assert!(seen.insert(panel["id"].as_u64()), "two panels with one id");
        let at = &panel["gridPos"];
        assert!(at["x"].as_u64().unwrap_or(99) + at["w"].as_u64().unwrap_or(99) <= 24);
        if panel["type"] != "row" {
            assert!(
                panel["description"].as_str().is_some_and(|d| d.len() > 20),
                "{}",
                panel["title"]
            );
            assert_eq!(
                panel["datasource"]["uid"], "${prometheusds}",
                "{}: not bound to one Grafana",
                panel["title"]
            );
        }
    }
}

#[tokio::test]
async fn every_query_of_the_dashboard_returns_data() {
    let cluster = Cluster::shared().await;
    let namespace = cluster.namespace().await;
    let port = process::free_port();
    // Two that disagree on a type and have a series twice, one that answers HTML, one with a bad port.
    let counter = Pod::serving("# TYPE shared counter\nshared 1\nshared 2\nfine 1\n").await;
    let gauge =
        Pod::serving("# TYPE shared histogram\nshared_bucket{le=\"+Inf\"} 1\nshared_count 1\nshared_sum 1\n")
            .await;
    let html = Pod::start(Answer::html()).await;
    for (name, pod) in [("counter", &counter), ("gauge", &gauge), ("html", &html)] {
        let new = NewPod::scraped(name, pod.address).label("app", "dash");
        cluster.create_pod(&namespace, &new).await;
    }
    let odd = NewPod::new("odd")
        .label("app", "dash")
        .ip(&pod::address().to_string())
        .annotation("prometheus.io/scrape", "true")
        .annotation("prometheus.io/port", "no-such-port");
    cluster.create_pod(&namespace, &odd).await;

    // Rights in its namespace alone: the refusal of the whole cluster is a failure to be shown.
    let token = cluster.service_account(&namespace, "dash").await;
    let rights: &[(&str, &[&str])] = &[("pods", &["list", "watch"])];
    cluster.grant(&namespace, "dash", Scope::Namespace, rights).await;

    let dir = process::fresh_dir();
    std::fs::create_dir(dir.path().join("secret")).expect("a fresh folder can be written");
    for (key, value) in [("username", "prometheus"), ("password", "secret")] {
        std::fs::write(dir.path().join("secret").join(key), value).expect("a fresh folder can be written");
    }
    let layer = json!({"services": {"metrics-proxy": {
        "override": "replace", "startup": "enabled", "command": PROGRAM,
        "environment": {
            "METRICS_PROXY_TARGET_CIDR": "127.0.0.0/8",
            "PORT": port.to_string(),
            "KUBECONFIG": cluster.kubeconfig(&token, Some(&namespace)),
            "METRICS_PROXY_FORBIDDEN_GRACE": "100ms",
            "POD_LABEL_SELECTOR": "app=dash",
            "METRICS_SECRET_PATH": dir.path().join("secret"),
            "METRICS_PROXY_SECRET_DEBOUNCE": "100ms",
            "SCRAPE_TIMEOUT": "2s",
        },
    }}});
    let pebble = Pebble::start(
        "pebble-1.26",
        &[("001-app.yaml", &layer.to_string())],
        Options::default(),
    )
    .await;
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let mut prometheus = Prometheus::start(
        &tools::path("prometheus"),
        &[prometheus::job("metrics-proxy", address)],
    )
    .await;
    prometheus.wait_target("metrics-proxy", "up", SOON).await;

    for (title, query) in queries() {
        let log = || process::tail("pebble", &pebble.log());
        process::wait_for(&format!("{title}: {query} returns data"), SOON, log, async || {
            let found = prometheus.query(&query).await;
            // Rates need two samples; what cannot be a number yet is no data.
            found.iter().any(|(_, value)| value != "NaN").then_some(())
        })
        .await;
    }
    // And it says what is the case here.
    let down = queries()
        .into_iter()
        .find(|(title, _)| title == "Pods down")
        .expect("it is there")
        .1;
    prometheus.wait_value(&down, SOON, |value| value == "1").await;
}
