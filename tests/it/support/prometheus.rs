//! A real Prometheus server that scrapes what a test names, and promtool as a judge.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::http as client;
use super::process::{self, Process};

/// The labels of a series, its name as `__name__`.
pub(crate) type Labels = BTreeMap<String, String>;

/// A running Prometheus.
#[derive(Debug)]
pub(crate) struct Prometheus {
    pub(crate) address: SocketAddr,
    process: Process,
    _dir: TempDir,
}

/// A job that scrapes one address every second, within a second; to be changed where a test needs otherwise.
pub(crate) fn job(name: &str, target: SocketAddr) -> Value {
    json!({
        "job_name": name,
        "scrape_interval": "1s",
        "scrape_timeout": "1s",
        "static_configs": [{"targets": [target.to_string()]}],
    })
}

impl Prometheus {
    /// Starts a server (`program` is what `tools` gives for `prometheus` or `prometheus-2.42`) with these scrape
    /// configurations; it answers when this returns.
    pub(crate) async fn start(program: &Path, jobs: &[Value]) -> Self {
        let dir = process::fresh_dir();
        let config = dir.path().join("prometheus.yml");
        // JSON is YAML.
        std::fs::write(&config, json!({"scrape_configs": jobs}).to_string())
            .expect("a fresh folder can be written");
        loop {
            let address = process::free_address();
            let mut command = Command::new(program);
            command
                .arg(format!("--config.file={}", config.display()))
                .arg(format!(
                    "--storage.tsdb.path={}",
                    dir.path().join("data").display()
                ))
                .arg(format!("--web.listen-address={address}"))
                .arg("--enable-feature=exemplar-storage")
                // Debug names the line for which a scrape was refused.
                .arg("--log.level=debug");
            let mut process = Process::spawn("prometheus", command, &dir.path().join("log"));
            let is_up = async || {
                client::get(address, "/-/ready")
                    .send()
                    .await
                    .is_ok_and(|a| a.status.is_success())
            };
            if process
                .wait_until_up("Prometheus is ready", Duration::from_mins(1), is_up)
                .await
            {
                return Self {
                    address,
                    process,
                    _dir: dir,
                };
            }
        }
    }

    /// The `data` of an API answer.
    ///
    /// # Panics
    /// It is an error.
    pub(crate) async fn api(&self, path: &str) -> Value {
        let answer = client::get(self.address, path).send().await;
        let answer = answer.unwrap_or_else(|e| panic!("{e}\n{}", self.process.log_tail()));
        let mut value = answer.json();
        assert_eq!(value["status"], "success", "GET {path}: {value}");
        value["data"].take()
    }

    /// The active targets: `health` (`up`, `down`, `unknown`), `lastError`, `labels`, `scrapeUrl` ….
    pub(crate) async fn targets(&self) -> Vec<Value> {
        let mut data = self.api("/api/v1/targets?state=active").await;
        serde_json::from_value(data["activeTargets"].take()).expect("active targets are a list")
    }

    /// An instant query: labels and the value as Prometheus writes it.
    pub(crate) async fn query(&self, expression: &str) -> Vec<(Labels, String)> {
        let data = self
            .api(&format!("/api/v1/query?query={}", encode(expression)))
            .await;
        assert_eq!(data["resultType"], "vector", "{expression}: {data}");
        let items = data["result"].as_array().cloned().unwrap_or_default();
        items
            .iter()
            .map(|item| {
                (
                    labels(&item["metric"]),
                    item["value"][1].as_str().unwrap_or_default().to_owned(),
                )
            })
            .collect()
    }

    /// The one value of an instant query; none where it gives none or several.
    pub(crate) async fn value(&self, expression: &str) -> Option<String> {
        match self.query(expression).await.as_slice() {
            [(_, value)] => Some(value.clone()),
            _ => None,
        }
    }

    /// Every series that matches a selector, at any time since the start.
    pub(crate) async fn series(&self, selector: &str) -> Vec<Labels> {
        let data = self
            .api(&format!("/api/v1/series?match[]={}", encode(selector)))
            .await;
        data.as_array()
            .map(|all| all.iter().map(labels).collect())
            .unwrap_or_default()
    }

    /// What is known of families, by name: `[{"type", "help", "unit"}]`.
    pub(crate) async fn metadata(&self) -> Value {
        self.api("/api/v1/metadata").await
    }

    /// Waits until a job's only target has been scraped with this outcome (`up` or `down`), and gives the target.
    pub(crate) async fn wait_target(&mut self, job: &str, health: &str, limit: Duration) -> Value {
        let this = (self.address, format!("job {job} is {health}"));
        let (address, what) = (this.0, this.1.as_str());
        let found = self.process.wait_for(what, limit, async || {
            let answer = client::get(address, "/api/v1/targets?state=active")
                .send()
                .await
                .ok()?
                .json();
            let targets = answer["data"]["activeTargets"].as_array()?.clone();
            let mut of_job = targets
                .into_iter()
                .filter(|target| target["labels"]["job"] == job);
            of_job.next().filter(|target| target["health"] == health)
        });
        found.await
    }

    /// Waits until a query has a single value as wanted, and gives it.
    pub(crate) async fn wait_value(
        &self,
        expression: &str,
        limit: Duration,
        wanted: impl Fn(&str) -> bool,
    ) -> String {
        let what = format!("{expression} is as wanted");
        process::wait_for(
            &what,
            limit,
            || self.process.log_tail(),
            async || self.value(expression).await.filter(|value| wanted(value)),
        )
        .await
    }

    pub(crate) fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

fn labels(value: &Value) -> Labels {
    serde_json::from_value(value.clone()).expect("labels are a map of strings")
}

fn encode(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// What `promtool check metrics` finds wrong with a text, its lint apart: only what no Prometheus could read.
///
/// `program` is what `tools` gives for `promtool` or `promtool-2.42`.
pub(crate) fn promtool_check_metrics(program: &Path, text: &str) -> Result<(), String> {
    let mut command = Command::new(program);
    command
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = command.spawn();
    let mut child = child.unwrap_or_else(|e| panic!("cannot run {}: {e}", program.display()));
    let mut stdin = child.stdin.take().expect("it was asked for with Stdio::piped");
    let text = text.as_bytes().to_vec();
    // From a thread, since it may complain before it has read all.
    let writer = std::thread::spawn(move || {
        let _ = stdin.write_all(&text);
    });
    let output = child
        .wait_with_output()
        .unwrap_or_else(|e| panic!("cannot wait for promtool: {e}"));
    writer.join().expect("writing to a pipe does not panic");
    match output.status.code() {
        // 3 is lint alone.
        Some(0 | 3) => Ok(()),
        _ => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}
