//! What the predecessor of this program has and every version keeps, so that it can be replaced without a change of the
//! charm: names, variables, flags, annotations, series and labels.

use std::path::Path;
use std::time::Duration;

use metrics_proxy::config::{Config, Environment, PodSource, Raw};

use crate::support::app::{App, PROGRAM};
use crate::support::kube::NewPod;
use crate::support::pod::Pod;

#[track_caller]
fn config(flags: &[(&str, &str)], variables: &[(&str, &str)]) -> Config {
    let flag = |name: &str| {
        let given = flags.iter().find(|(key, _)| *key == name);
        given.map(|(_, value)| vec![(*value).to_owned()])
    };
    let variables = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let raw = Raw::collect(|setting| flag(setting.name), &Environment::new(variables));
    Config::try_new(&raw).unwrap_or_else(|problems| panic!("{problems:?}"))
}

#[test]
fn the_name_of_the_program_never_changes() {
    let name = Path::new(PROGRAM).file_name().and_then(|name| name.to_str());
    assert_eq!(name, Some("metrics-proxy"));
}

#[test]
fn the_port_never_changes() {
    assert_eq!(Config::default().listen.port, 15090);
}

#[test]
fn the_variables_never_change() {
    let config = config(
        &[],
        &[
            ("POD_LABEL_SELECTOR", "app=web"),
            ("SCRAPE_TIMEOUT", "7s"),
            ("PORT", "8080"),
            ("KUBECONFIG", "/some/kubeconfig"),
        ],
    );
    let selector = config.discovery.selector.map(|selector| selector.to_string());
    assert_eq!(selector.as_deref(), Some("app=web"));
    assert_eq!(config.scrape.timeout, Duration::from_secs(7));
    assert_eq!(config.listen.port, 8080);
    let PodSource::Cluster { kubeconfig } = config.discovery.source else {
        panic!("pods come from a cluster");
    };
    assert_eq!(kubeconfig.as_deref(), Some(Path::new("/some/kubeconfig")));
}

#[test]
fn the_flags_never_change() {
    let config = config(&[("labels", "app=web"), ("timeout", "7s")], &[]);
    let selector = config.discovery.selector.map(|selector| selector.to_string());
    assert_eq!(selector.as_deref(), Some("app=web"));
    assert_eq!(config.scrape.timeout, Duration::from_secs(7));
}

#[tokio::test]
async fn annotations_series_and_labels_never_change() {
    let pod = Pod::serving("requests_total 1\n").await;
    let pods = [NewPod::new("web-0")
        .ip(&pod.address.ip().to_string())
        .phase("Running")
        .annotation("prometheus.io/scrape", "true")
        .annotation("prometheus.io/port", &pod.address.port().to_string())
        .annotation("prometheus.io/path", "/other")];
    let app = App::with_pods(&pods, &[]).await;
    let metrics = app.metrics().await;
    assert_eq!(pod.requests()[0].path, "/other");
    for line in [
        "up{k8s_pod_name=\"web-0\",k8s_namespace=\"ns\"} 1\n",
        "requests_total{k8s_pod_name=\"web-0\",k8s_namespace=\"ns\"} 1\n",
    ] {
        assert!(metrics.contains(line), "{line}{metrics}");
    }
}
