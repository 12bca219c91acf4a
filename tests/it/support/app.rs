//! The program itself, as its binary, run as a person or Pebble would.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use http::StatusCode;
use tempfile::TempDir;

use super::http::{self as client, Answer};
use super::kube::NewPod;
use super::process::{self, Process};

/// The binary that Cargo built for these tests.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_metrics-proxy");

/// A command with nothing in its environment but what the test gives: what the caller's shell has set
/// (`KUBECONFIG`, `PEBBLE`, a proxy) must not decide a test.
pub(crate) fn command(args: &[&str], env: &[(&str, &str)]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.env_clear();
    for name in ["PATH", "HOME", "TMPDIR", "LLVM_PROFILE_FILE", "RUST_BACKTRACE"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    // Test pods have loopback addresses, which a pod of a real cluster never has.
    command.env("METRICS_PROXY_TARGET_CIDR", "127.0.0.0/8,::1/128");
    command.args(args).envs(env.iter().copied());
    command
}

/// Runs a command of the program to its end, with `input` on its standard input.
pub(crate) fn run(args: &[&str], env: &[(&str, &str)], input: &str) -> Output {
    use std::io::Write as _;
    let mut command = command(args, env);
    let child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.unwrap_or_else(|e| panic!("cannot run {PROGRAM}: {e}"));
    let mut stdin = child.stdin.take().expect("it was asked for with Stdio::piped");
    let input = input.as_bytes().to_vec();
    // From a thread, since the program may write much before it has read all; one that reads nothing is no fault.
    let writer = std::thread::spawn(move || {
        let _ = stdin.write_all(&input);
    });
    let output = child
        .wait_with_output()
        .unwrap_or_else(|e| panic!("cannot wait for {PROGRAM}: {e}"));
    writer.join().expect("writing to a pipe does not panic");
    output
}

/// A serving program.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) address: SocketAddr,
    process: Process,
    _dir: TempDir,
    /// Where its pods file is, to be removed with it.
    pods: Option<TempDir>,
}

impl App {
    /// Serves on a free port with these arguments and this environment; `/healthz` answers when this returns.
    pub(crate) async fn start(args: &[&str], env: &[(&str, &str)]) -> Self {
        let dir = process::fresh_dir();
        loop {
            let address = process::free_address();
            let mut command = command(args, env);
            command.env("PORT", address.port().to_string());
            let mut process = Process::spawn("metrics-proxy", command, &dir.path().join("log"));
            let is_up = async || {
                let answer = client::get(address, "/healthz").send().await;
                answer.is_ok_and(|answer| answer.status == StatusCode::OK)
            };
            if process
                .wait_until_up("/healthz answers", Duration::from_secs(20), is_up)
                .await
            {
                return Self {
                    address,
                    process,
                    _dir: dir,
                    pods: None,
                };
            }
        }
    }

    /// Serves these pods of the namespace `ns` from a file, without Pebble; it is ready when this returns.
    pub(crate) async fn with_pods(pods: &[NewPod], args: &[&str]) -> Self {
        let dir = process::fresh_dir();
        let file = dir.path().join("pods.json");
        let items: Vec<_> = pods.iter().map(|pod| pod.printed("ns")).collect();
        let list = serde_json::json!({"apiVersion": "v1", "kind": "PodList", "items": items});
        std::fs::write(&file, list.to_string()).expect("a fresh folder can be written");
        let mut app = Self::with_pods_file(&file, args).await;
        app.ready(Duration::from_secs(10)).await;
        app.pods = Some(dir);
        app
    }

    /// Serves the pods of a file or folder, without Pebble.
    pub(crate) async fn with_pods_file(pods: &Path, args: &[&str]) -> Self {
        let pods = pods.to_str().expect("temporary folders have names in UTF-8");
        Self::start(&[&["--pods-file", pods, "--pebble", "off"], args].concat(), &[]).await
    }

    /// A GET, whatever it answers.
    pub(crate) async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let answer = client::get(self.address, path).headers(headers).send().await;
        answer.unwrap_or_else(|e| panic!("{e}\n{}", self.process.log_tail()))
    }

    /// The text of `/metrics`.
    ///
    /// # Panics
    /// Any status but 200.
    pub(crate) async fn metrics(&self) -> String {
        let answer = self.get("/metrics", &[]).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        answer.text()
    }

    /// Waits until `/readyz` answers 200.
    pub(crate) async fn ready(&mut self, limit: Duration) {
        let address = self.address;
        self.process
            .wait_for("/readyz answers 200", limit, async || {
                let answer = client::get(address, "/readyz").send().await.ok()?;
                (answer.status == StatusCode::OK).then_some(())
            })
            .await;
    }

    /// Waits until the text of `/metrics` is as `wanted` says.
    pub(crate) async fn wait_metrics(
        &mut self,
        what: &str,
        limit: Duration,
        wanted: impl Fn(&str) -> bool,
    ) -> String {
        let address = self.address;
        self.process
            .wait_for(what, limit, async || {
                let answer = client::get(address, "/metrics").send().await.ok()?;
                let text = answer.text();
                (answer.status == StatusCode::OK && wanted(&text)).then_some(text)
            })
            .await
    }

    /// The process, for signals, its log and its end.
    pub(crate) fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// SIGTERM, and the exit status.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        self.process.stop(Duration::from_secs(10))
    }
}
