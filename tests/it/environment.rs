//! Environment variables that Kubernetes sets for Services, and misspelled ones.

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::app::App;
use crate::support::tools;

/// The variables that the kubelet's own code makes for these Services.
fn kubelet_variables(services: &Value) -> Vec<(String, String)> {
    let mut child = Command::new(tools::path("kubelet-envvars"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("tools/get has tried to run it");
    let mut stdin = child.stdin.take().expect("it was asked for with Stdio::piped");
    stdin
        .write_all(services.to_string().as_bytes())
        .expect("kubelet-envvars reads its input");
    drop(stdin);
    let output = child.wait_with_output().expect("it was started");
    assert!(output.status.success());
    let variables: Vec<Value> = serde_json::from_slice(&output.stdout).expect("a JSON list");
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    variables
        .iter()
        .map(|variable| (text(&variable["name"]), text(&variable["value"])))
        .collect()
}

fn service(name: &str, ip: &str, ports: &Value) -> Value {
    json!({"metadata": {"name": name, "namespace": "shop"}, "spec": {"clusterIP": ip, "ports": ports}})
}

/// A Service named like the program sets `METRICS_PROXY_PORT=tcp://…` in every container of its namespace.
///
/// References: kubernetes/kubernetes#35189, juju/juju#20198, gpustack/gpustack#5908.
#[tokio::test]
async fn service_links_do_not_stop_the_program() {
    let services = json!([
        service(
            "metrics-proxy",
            "10.152.183.7",
            &json!([
                {"name": "metrics", "port": 15090, "protocol": "TCP"},
                {"name": "pebble", "port": 38813, "protocol": "TCP"},
            ])
        ),
        service(
            "metrics-proxy-default",
            "fd00::7",
            &json!([
                {"port": 53, "protocol": "UDP"},
                {"name": "signals", "port": 36412, "protocol": "SCTP"},
            ])
        ),
        service(
            "metrics-proxy-check-level",
            "10.152.183.8",
            &json!([{"port": 1, "protocol": "TCP"}])
        ),
        service(
            "postgres",
            "10.152.183.9",
            &json!([{"port": 5432, "protocol": "TCP"}])
        ),
    ]);
    let variables = kubelet_variables(&services);
    let variables: Vec<(&str, &str)> = variables
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    assert!(variables.contains(&("METRICS_PROXY_PORT", "tcp://10.152.183.7:15090")));
    assert!(
        variables
            .iter()
            .any(|(name, _)| *name == "METRICS_PROXY_DEFAULT_PORT")
    );

    let arguments = ["--pods-file", "/dev/null", "--pebble", "off"];
    let mut app = App::start(&arguments, &variables).await;
    let log = app.process().log();
    let lines: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("Ignored the variables that Kubernetes sets"))
        .collect();
    let [line] = lines[..] else {
        panic!("one line names the ignored variables:\n{log}");
    };
    let (_, listed) = line.split_once("variables=\"").expect("they are a field");
    let listed: Vec<&str> = listed.trim_end_matches('"').split(' ').collect();
    let mut expected: Vec<&str> = variables
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| name.starts_with("METRICS_PROXY_"))
        .collect();
    expected.sort_unstable();
    assert_eq!(listed, expected);
    assert!(!log.contains("unknown environment variable"), "{log}");
}

/// A misspelled variable is a warning that names the variable that was probably meant.
#[tokio::test]
async fn an_unknown_variable_is_a_warning_that_names_the_nearest_known_one() {
    let arguments = ["--pods-file", "/dev/null", "--pebble", "off"];
    let mut app = App::start(&arguments, &[("METRICS_PROXY_TIMEOT", "5s")]).await;
    let log = app.process().log();
    let warning = log
        .lines()
        .find(|line| line.contains("unknown environment variable"));
    let warning = warning.unwrap_or_else(|| panic!("no warning:\n{log}"));
    assert!(warning.contains("WARN"), "{warning}");
    assert!(warning.contains("variable=\"METRICS_PROXY_TIMEOT\""), "{warning}");
    assert!(warning.contains("nearest=\"METRICS_PROXY_TIMEOUT\""), "{warning}");
}
