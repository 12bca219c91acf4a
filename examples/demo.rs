//! The main job on one machine: a real Pebble runs the real program, with its layer, a mounted secret and three
//! sample pods, without a cluster. `make demo` builds what this needs and starts it.
//!
//! With `KUBECONFIG` and `LABELS` set, that cluster's pods are scraped instead of the samples. `DEMO_ONCE=1` ends
//! after the tour; otherwise Ctrl-C ends everything. `DEMO_PORT` and `DEMO_PEBBLE_PORT` move the two ports.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a demo talks to the person who started it"
)]

use std::error::Error;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as STANDARD;
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rand::Rng as _;
use rand::distr::Alphanumeric;
use tokio::process::{Child, Command};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const USERNAME: &str = "prometheus";

/// Everything that the demo started, and where it lives.
struct Demo {
    directory: tempfile::TempDir,
    pebble: PathBuf,
    port: u16,
    pebble_port: u16,
    password: String,
    cluster: Option<(String, String)>,
    http: Client<HttpConnector, Empty<Bytes>>,
    children: Vec<Child>,
}

#[tokio::main]
async fn main() {
    if let Err(error) = run().await {
        eprintln!("demo: {error}");
        std::process::exit(1);
    }
}

async fn run() -> Result<()> {
    let mut demo = Demo::prepare()?;
    let toured = async {
        demo.start()?;
        demo.wait_until_up().await?;
        demo.tour().await
    };
    let result = tokio::select! {
        result = toured => result,
        stopped = asked_to_stop() => stopped.and(Err("stopped before everything was up".into())),
    };
    if result.is_ok() && std::env::var_os("DEMO_ONCE").is_none() {
        println!("\nEverything keeps running; Ctrl-C stops it.");
        asked_to_stop().await?;
    }
    demo.stop().await;
    result
}

/// Waits for Ctrl-C or SIGTERM.
async fn asked_to_stop() -> Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => Ok(interrupted?),
        _ = terminate.recv() => Ok(()),
    }
}

impl Demo {
    fn prepare() -> Result<Self> {
        let pebble = std::env::var_os("METRICS_PROXY_DEMO_PEBBLE")
            .ok_or("METRICS_PROXY_DEMO_PEBBLE names no pebble; start with `make demo`")?
            .into();
        let port = port_of("DEMO_PORT", 15090)?;
        let pebble_port = port_of("DEMO_PEBBLE_PORT", 38813)?;
        let cluster = match (std::env::var("KUBECONFIG"), std::env::var("LABELS")) {
            (Ok(kubeconfig), Ok(labels)) => Some((kubeconfig, labels)),
            _ => None,
        };
        let password: String = rand::rng()
            .sample_iter(Alphanumeric)
            .take(24)
            .map(char::from)
            .collect();
        let directory = tempfile::Builder::new().prefix("metrics-proxy-demo-").tempdir()?;
        let at = directory.path();
        std::fs::create_dir_all(at.join("pebble/layers"))?;
        for layer in std::fs::read_dir("pebble-layers")? {
            let layer = layer?;
            if layer
                .path()
                .extension()
                .is_some_and(|extension| extension == "yaml")
            {
                std::fs::copy(layer.path(), at.join("pebble/layers").join(layer.file_name()))?;
            }
        }
        std::fs::create_dir(at.join("secret"))?;
        std::fs::write(at.join("secret/username"), USERNAME)?;
        std::fs::write(at.join("secret/password"), &password)?;
        let http = Client::builder(TokioExecutor::new()).build_http();
        Ok(Self {
            directory,
            pebble,
            port,
            pebble_port,
            password,
            cluster,
            http,
            children: Vec::new(),
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Starts the sample pods and Pebble; Pebble starts the proxy from its layer.
    fn start(&mut self) -> Result<()> {
        let built = std::env::current_exe()?;
        let examples = built.parent().ok_or("the demo has no folder")?;
        let binaries = examples
            .parent()
            .ok_or("the demo has no target folder")?
            .to_owned();
        let mut pebble = Command::new(&self.pebble);
        if let Some((kubeconfig, labels)) = &self.cluster {
            println!("Using the cluster of {kubeconfig}, pods with {labels}");
            pebble
                .env("KUBECONFIG", kubeconfig)
                .env("POD_LABEL_SELECTOR", labels);
        } else {
            let mut manifest = String::new();
            for (name, kind) in [("web-0", "good"), ("web-1", "slow"), ("web-2", "html")] {
                let port = free_port()?;
                println!("Starting sample pod {name} ({kind}) on 127.0.0.1:{port}");
                let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
                let child = Command::new(examples.join("sample_pod"))
                    .args([address.to_string().as_str(), kind, name])
                    .kill_on_drop(true)
                    .spawn()?;
                self.children.push(child);
                manifest.push_str(&pod_manifest(name, port));
            }
            std::fs::write(self.path("pods.yaml"), manifest)?;
            pebble.env("METRICS_PROXY_PODS_FILE", self.path("pods.yaml"));
        }
        println!("Starting Pebble with the layers of pebble-layers/; Pebble starts metrics-proxy");
        let log = std::fs::File::create(self.path("pebble.log"))?;
        let search = std::env::join_paths(std::iter::once(binaries).chain(std::env::split_paths(
            &std::env::var_os("PATH").unwrap_or_default(),
        )))?;
        pebble
            .args([
                "run",
                "--verbose",
                "--http",
                &format!("127.0.0.1:{}", self.pebble_port),
            ])
            .env("PEBBLE", self.path("pebble"))
            .env_remove("PEBBLE_SOCKET")
            .env("PATH", search)
            .env("PORT", self.port.to_string())
            // The slow pod would hold each answer for the whole of the default 9 s.
            .env("SCRAPE_TIMEOUT", "2s")
            .env("METRICS_SECRET_PATH", self.path("secret"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true);
        self.children.push(pebble.spawn()?);
        Ok(())
    }

    /// Waits until every check has succeeded at least once since it was added.
    async fn wait_until_up(&mut self) -> Result<()> {
        println!("Waiting until `pebble checks` is up ...");
        let limit = Instant::now() + Duration::from_mins(1);
        let mut seen = String::new();
        while Instant::now() < limit {
            for child in &mut self.children {
                if let Some(status) = child.try_wait()? {
                    return Err(self.failed(&format!("a part ended early ({status})")));
                }
            }
            let ready = self
                .get(self.port, "/readyz", None)
                .await
                .is_ok_and(|(status, _)| status == StatusCode::OK);
            if ready {
                // Otherwise Pebble runs a check for the first time after its whole period.
                for check in ["alive", "identity", "ready"] {
                    self.pebble(&["check", "--refresh", &format!("metrics-proxy-{check}")])
                        .await?;
                }
            }
            seen = self.pebble(&["checks"]).await.unwrap_or_default();
            // Check, level, startup, status, successes.
            let checks: Vec<Vec<&str>> = seen
                .lines()
                .skip(1)
                .map(|line| line.split_whitespace().collect())
                .collect();
            let ours = checks
                .iter()
                .filter(|check| check[0].starts_with("metrics-proxy-"))
                .count();
            let is_up =
                |check: &Vec<&str>| check.get(3) == Some(&"up") && check.get(4).is_some_and(|n| *n != "0");
            if ready && ours >= 3 && checks.iter().all(is_up) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Err(self.failed(&format!("the checks were not up within a minute:\n{seen}")))
    }

    fn failed(&self, what: &str) -> Box<dyn Error> {
        let log = std::fs::read_to_string(self.path("pebble.log")).unwrap_or_default();
        let tail: Vec<&str> = log.lines().rev().take(30).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        format!("{what}\nthe end of Pebble's log:\n{}", tail.join("\n")).into()
    }

    /// Shows what a person would try next, and what each answered.
    async fn tour(&self) -> Result<()> {
        let (port, pebble_port) = (self.port, self.pebble_port);
        println!("\n$ curl -s localhost:{port}/metrics");
        let (status, body) = self.get(port, "/metrics", None).await?;
        show(
            status,
            &body,
            |line| !line.contains("metrics_proxy_") && !line.contains("pebble_"),
            40,
        );
        if self.cluster.is_none() {
            for needed in ["sample_requests_total{", "k8s_pod_name=\"web-0\"", "up{"] {
                if !body.contains(needed) {
                    return Err(self.failed(&format!("the answer has no {needed}:\n{body}")));
                }
            }
        }
        println!(
            "\n$ curl -s -u {USERNAME}:PASSWORD localhost:{pebble_port}/v1/metrics   # PASSWORD is in {}",
            self.path("secret").display()
        );
        let (status, body) = self.get(pebble_port, "/v1/metrics", Some(&self.password)).await?;
        show(status, &body, |line| !line.is_empty(), 12);
        if status != StatusCode::OK {
            return Err(self.failed("Pebble refused the credential"));
        }
        println!("\n$ curl -s localhost:{pebble_port}/v1/metrics   # without the credential");
        let (status, body) = self.get(pebble_port, "/v1/metrics", None).await?;
        show(status, &body, |_| true, 3);
        for arguments in [["checks"], ["services"], ["identities"]] {
            println!(
                "\n$ PEBBLE={} pebble {}",
                self.path("pebble").display(),
                arguments.join(" ")
            );
            print!("{}", self.pebble(&arguments).await?);
        }
        println!(
            "\nMore: http://localhost:{port}/ in a browser; change {}/password and ask again.",
            self.path("secret").display()
        );
        Ok(())
    }

    async fn get(&self, port: u16, path: &str, password: Option<&str>) -> Result<(StatusCode, String)> {
        let mut request = Request::get(format!("http://127.0.0.1:{port}{path}"));
        if let Some(password) = password {
            request = request.header(
                header::AUTHORIZATION,
                format!("Basic {}", STANDARD.encode(format!("{USERNAME}:{password}"))),
            );
        }
        let response = tokio::time::timeout(
            Duration::from_secs(10),
            self.http.request(request.body(Empty::new())?),
        )
        .await??;
        let status = response.status();
        Ok((
            status,
            String::from_utf8_lossy(&response.into_body().collect().await?.to_bytes()).into_owned(),
        ))
    }

    async fn pebble(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new(&self.pebble)
            .args(arguments)
            .env("PEBBLE", self.path("pebble"))
            .env_remove("PEBBLE_SOCKET")
            .output()
            .await?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
    }

    /// Stops Pebble first: it stops its service, the proxy, in order.
    async fn stop(&mut self) {
        println!("Stopping ...");
        for mut child in std::mem::take(&mut self.children).into_iter().rev() {
            if let Some(pid) = child
                .id()
                .and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed()))
            {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
            if tokio::time::timeout(Duration::from_secs(10), child.wait())
                .await
                .is_err()
            {
                let _ = child.kill().await;
            }
        }
    }
}

/// The port named by a variable, checked to be free now so that the report is clear.
fn port_of(name: &str, default: u16) -> Result<u16> {
    let port = match std::env::var(name) {
        Ok(text) => text
            .parse()
            .map_err(|_| format!("{name}={text:?} is not a port"))?,
        Err(_) => default,
    };
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .map_err(|error| format!("port {port} is taken ({error}); set {name}"))?;
    Ok(port)
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// A pod as `kubectl get pod -o yaml` prints it, shortened to what matters. On the host network, so that all three may
/// share the loopback address.
fn pod_manifest(name: &str, port: u16) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  namespace: demo\n  uid: demo-{name}\n  \
         labels: {{app: web}}\n  annotations:\n    prometheus.io/scrape: \"true\"\n    prometheus.io/port: \"{port}\"\n\
         spec:\n  hostNetwork: true\n  containers:\n  - name: web\n    ports:\n    - containerPort: {port}\n\
         status:\n  phase: Running\n  podIP: 127.0.0.1\n"
    )
}

/// Prints an answer: its status and the lines that matter here.
fn show(status: StatusCode, body: &str, wanted: impl Fn(&str) -> bool, most: usize) {
    let mut text = format!("{status}\n");
    let lines: Vec<&str> = body.lines().filter(|line| wanted(line)).collect();
    for line in lines.iter().take(most) {
        let _ = writeln!(text, "{line}");
    }
    let left = body.lines().count() - lines.len().min(most);
    if left > 0 {
        let _ = writeln!(text, "... and {left} more lines");
    }
    print!("{text}");
}
