//! A real Pebble in a folder of its own, run as Juju runs it, and its API.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::time::Duration;

use http::StatusCode;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::http::{self as client, Answer};
use super::process::{self, Process, Signal, Started};
use super::tools;

/// The versions that the program is tried on: Juju's and upstream's, by their names in `tools/get --list`.
pub(crate) const VERSIONS: [&str; 2] = ["pebble-1.26", "pebble-1.32"];

const UP: Duration = Duration::from_secs(20);

/// How Pebble is started.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// `--hold`, as Juju has it: services with `startup: enabled` wait for a replan.
    pub(crate) hold: bool,
    /// Listen on HTTP too, on a free port of 127.0.0.1.
    pub(crate) http: bool,
    /// For Pebble and so for its services, beside `PEBBLE` (and `PATH`, `HOME`, `TMPDIR` of the test).
    pub(crate) env: Vec<(String, String)>,
    /// More arguments for `pebble run`.
    pub(crate) args: Vec<String>,
}

impl Default for Options {
    /// Nothing held, HTTP on.
    fn default() -> Self {
        Self {
            hold: false,
            http: true,
            env: Vec::new(),
            args: Vec::new(),
        }
    }
}

impl Options {
    pub(crate) fn hold(mut self) -> Self {
        self.hold = true;
        self
    }

    pub(crate) fn without_http(mut self) -> Self {
        self.http = false;
        self
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// A running (or stopped) Pebble and its folder.
#[derive(Debug)]
pub(crate) struct Pebble {
    program: PathBuf,
    options: Options,
    port: Option<u16>,
    // An Option only because it is taken out when Pebble is started again.
    process: Option<Process>,
    orphans: Vec<Started>,
    // Last, so that it is removed after everything that uses it.
    dir: TempDir,
}

impl Pebble {
    /// Starts a Pebble by its name in [`VERSIONS`], with `layers` (file name such as `001-app.yaml`, YAML) in its folder.
    ///
    /// It responds on its socket, and on HTTP where asked, when this returns.
    pub(crate) async fn start(version: &str, layers: &[(&str, &str)], options: Options) -> Self {
        let dir = process::fresh_dir();
        let folder = dir.path().join("pebble/layers");
        std::fs::create_dir_all(&folder).expect("a fresh folder can be written");
        for (name, yaml) in layers {
            std::fs::write(folder.join(name), yaml).expect("a fresh folder can be written");
        }
        let mut pebble = Self {
            program: tools::path(version),
            options,
            port: None,
            process: None,
            orphans: Vec::new(),
            dir,
        };
        pebble.run().await;
        pebble
    }

    async fn run(&mut self) {
        loop {
            if self.options.http && self.port.is_none() {
                self.port = Some(process::free_port());
            }
            let mut command = self.command();
            command
                .args(["run", "--create-dirs", "--verbose"])
                .args(&self.options.args);
            if self.options.hold {
                command.arg("--hold");
            }
            if let Some(port) = self.port {
                command.arg(format!("--http=127.0.0.1:{port}"));
            }
            // Longer than the 5 s that Pebble gives its services.
            let grace = Duration::from_secs(8);
            let mut process = Process::spawn("pebble", command, &self.log_path()).with_grace(grace);
            let socket = self.socket();
            let is_up = async || {
                let response = client::get(socket.as_path(), "/v1/system-info").send().await;
                response.is_ok_and(|response| response.status == StatusCode::OK)
            };
            if process
                .wait_until_up("Pebble responds on its socket", UP, is_up)
                .await
            {
                self.process = Some(process);
                return;
            }
            self.port = None;
        }
    }

    /// The command line with this Pebble's environment and no other.
    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.env_clear();
        for name in ["PATH", "HOME", "TMPDIR"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command
            .env("PEBBLE", self.dir())
            .envs(self.options.env.iter().cloned());
        command
    }

    /// The folder that `PEBBLE` names.
    pub(crate) fn dir(&self) -> PathBuf {
        self.dir.path().join("pebble")
    }

    /// A folder beside Pebble's, for secrets, pod files and the like.
    pub(crate) fn scratch(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir().join(".pebble.socket")
    }

    /// The port of its HTTP listener on 127.0.0.1.
    pub(crate) fn port(&self) -> u16 {
        self.port.expect("the test asked for HTTP")
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("pebble.log")
    }

    fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("set by start and restart")
    }

    /// Pebble's own process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.as_ref().expect("set by start and restart").pid()
    }

    /// What Pebble and its services wrote, earlier runs included (services only with `--verbose`, which is on).
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log_path()).unwrap_or_default()).into_owned()
    }

    /// SIGTERM, and the end: services are stopped first.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        self.process().stop(Duration::from_secs(15))
    }

    /// SIGKILL to Pebble and to all its services, as the end of a container does.
    pub(crate) fn kill(&mut self) {
        self.process().kill();
    }

    /// SIGKILL to Pebble alone: its services go on as orphans, and the next Pebble starts them a second time.
    /// Returns their pids; they are ended with this value.
    pub(crate) fn kill_alone(&mut self) -> Vec<u32> {
        let orphans = Started::of(self.pid());
        let pids = orphans.pids();
        self.orphans.push(orphans);
        self.process().signal(Signal::KILL);
        self.process().wait(Duration::from_secs(10));
        pids
    }

    /// Starts Pebble on the same folder and port, after [`Pebble::stop`] or [`Pebble::kill`]; stops it where it runs.
    pub(crate) async fn restart(&mut self) {
        if self.process().status().is_none() {
            self.stop();
        }
        self.process = None;
        self.run().await;
    }

    /// Runs Pebble's command line against this Pebble.
    pub(crate) fn cli(&self, args: &[&str]) -> Output {
        let output = self.command().args(args).output();
        output.unwrap_or_else(|e| panic!("cannot run pebble {args:?}: {e}"))
    }

    /// As [`Pebble::cli`], and gives what it printed.
    ///
    /// # Panics
    /// It failed.
    #[track_caller]
    pub(crate) fn cli_text(&self, args: &[&str]) -> String {
        let output = self.cli(args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "pebble {args:?} failed ({}): {stderr}",
            output.status
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A response on the socket, whatever its status.
    pub(crate) async fn api(&self, request: client::Request) -> Answer {
        request
            .send()
            .await
            .unwrap_or_else(|e| panic!("{e}\n{}", process::tail("pebble", &self.log())))
    }

    /// The `result` of a GET on the socket.
    ///
    /// # Panics
    /// Any status but 200.
    pub(crate) async fn api_get(&self, path: &str) -> Value {
        let response = self.api(client::get(self.socket().as_path(), path)).await;
        assert_eq!(response.status, StatusCode::OK, "GET {path}: {}", response.text());
        response.json()["result"].take()
    }

    /// The whole envelope of a POST on the socket.
    ///
    /// # Panics
    /// It is an error.
    pub(crate) async fn api_post(&self, path: &str, body: &Value) -> Value {
        let response = self.api(client::post(self.socket().as_path(), path, body)).await;
        assert!(
            response.status.is_success(),
            "POST {path} {body}: {}",
            response.text()
        );
        response.json()
    }

    /// A GET on the HTTP listener, with a credential where one is given.
    pub(crate) async fn http(&self, path: &str, basic: Option<(&str, &str)>) -> Answer {
        let mut request = client::get(Self::loopback(self.port()), path);
        if let Some((user, password)) = basic {
            request = request.basic(user, password);
        }
        self.api(request).await
    }

    fn loopback(port: u16) -> std::net::SocketAddr {
        (std::net::Ipv4Addr::LOCALHOST, port).into()
    }

    /// The merged plan as Pebble writes it, in YAML.
    pub(crate) async fn plan_text(&self) -> String {
        let plan = self.api_get("/v1/plan?format=yaml").await;
        plan.as_str().expect("a plan is a string of YAML").to_owned()
    }

    /// The merged plan as a value.
    pub(crate) async fn plan(&self) -> Value {
        serde_yaml::from_str(&self.plan_text().await).expect("Pebble writes YAML")
    }

    pub(crate) async fn services(&self) -> Vec<Value> {
        list(self.api_get("/v1/services").await)
    }

    /// What a service is just now: `active`, `inactive`, `backoff` or `error`.
    pub(crate) async fn service_state(&self, name: &str) -> String {
        let services = list(self.api_get(&format!("/v1/services?names={name}")).await);
        services
            .first()
            .and_then(|one| one["current"].as_str())
            .unwrap_or_default()
            .to_owned()
    }

    /// Waits until a service is in a state.
    pub(crate) async fn wait_service(&self, name: &str, state: &str, limit: Duration) {
        let log = || process::tail("pebble", &self.log());
        process::wait_for(&format!("service {name} is {state}"), limit, log, async || {
            (self.service_state(name).await == state).then_some(())
        })
        .await;
    }

    /// The process of a running service, known by a part of its command line; Pebble's API does not tell it.
    pub(crate) fn service_pid(&self, part: &str) -> Option<u32> {
        let mut children = process::descendants(self.pid()).into_iter();
        children.find(|child| process::command_line(*child).contains(part))
    }

    pub(crate) async fn checks(&self) -> Vec<Value> {
        list(self.api_get("/v1/checks").await)
    }

    /// One check by name, as `/v1/checks` has it.
    pub(crate) async fn check(&self, name: &str) -> Option<Value> {
        self.checks()
            .await
            .into_iter()
            .find(|check| check["name"] == name)
    }

    pub(crate) async fn identities(&self) -> Value {
        self.api_get("/v1/identities").await
    }

    pub(crate) async fn notices(&self) -> Vec<Value> {
        list(self.api_get("/v1/notices?users=all").await)
    }

    /// Adds a layer as a charm does.
    pub(crate) async fn add_layer(&self, label: &str, combine: bool, yaml: &str) {
        let body =
            json!({"action": "add", "combine": combine, "label": label, "format": "yaml", "layer": yaml});
        self.api_post("/v1/layers", &body).await;
    }

    /// Replans and waits for the end; the change is returned, whatever came of it.
    pub(crate) async fn replan(&self) -> Value {
        self.services_action("replan", &[]).await
    }

    pub(crate) async fn start_services(&self, names: &[&str]) -> Value {
        self.services_action("start", names).await
    }

    pub(crate) async fn stop_services(&self, names: &[&str]) -> Value {
        self.services_action("stop", names).await
    }

    async fn services_action(&self, action: &str, names: &[&str]) -> Value {
        let response = self
            .api_post("/v1/services", &json!({"action": action, "services": names}))
            .await;
        match response["change"].as_str() {
            Some(change) => self.wait_change(change).await,
            None => Value::Null,
        }
    }

    /// Waits until a change is ready and returns it: `status` is `Done` or `Error`, `err` says why.
    pub(crate) async fn wait_change(&self, id: &str) -> Value {
        self.api_get(&format!("/v1/changes/{id}/wait?timeout=25s")).await
    }

    /// Waits until a check is in a state: `up`, `down` or `inactive`.
    pub(crate) async fn wait_check(&self, name: &str, state: &str, limit: Duration) -> Value {
        let log = || process::tail("pebble", &self.log());
        process::wait_for(&format!("check {name} is {state}"), limit, log, async || {
            self.check(name).await.filter(|check| check["status"] == state)
        })
        .await
    }
}

/// The items of a result that is null where there are none.
fn list(result: Value) -> Vec<Value> {
    match result {
        Value::Array(items) => items,
        _ => Vec::new(),
    }
}
