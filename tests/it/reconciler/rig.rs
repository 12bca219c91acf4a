//! The real program as the service of a real Pebble, with a secret of its own and short intervals.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::StatusCode;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::app::PROGRAM;
use crate::support::http::{self as client, Answer};
use crate::support::pebble::{Options, Pebble};
use crate::support::process::{self, wait_for};

/// Generous: a loaded machine is slow, and a condition that holds sooner ends the wait.
pub(super) const LIMIT: Duration = Duration::from_secs(30);

pub(super) struct Rig {
    pub(super) pebble: Pebble,
    pub(super) port: u16,
    dir: TempDir,
}

/// How the service is set up.
pub(super) struct Setup {
    /// For Pebble itself.
    pub(super) options: Options,
    /// More environment for the service, which wins over the short intervals.
    pub(super) env: Vec<(&'static str, String)>,
    /// More lines for the service, indented as in a layer.
    pub(super) service: String,
    /// Whether METRICS_SECRET_PATH is set.
    pub(super) secret: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            options: Options::default(),
            env: Vec::new(),
            service: String::new(),
            secret: true,
        }
    }
}

impl Setup {
    pub(super) fn env(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.env.push((name, value.into()));
        self
    }
}

/// Intervals that let a test end soon. Verifications over the socket and denied writes keep their ten minutes.
pub(super) const SHORT: [(&str, &str); 4] = [
    ("METRICS_PROXY_RESYNC_INTERVAL", "100ms"),
    ("METRICS_PROXY_SECRET_POLL", "200ms"),
    ("METRICS_PROXY_SECRET_DEBOUNCE", "100ms"),
    ("METRICS_PROXY_SECRET_REMOVAL_GRACE", "1s"),
];

impl Rig {
    /// Starts Pebble with the program as a service of the layers in its folder, as a rock has it.
    pub(super) async fn start(version: &str, setup: Setup) -> Self {
        let dir = process::fresh_dir();
        // Services may run as other users.
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755))
            .expect("a folder of this test");
        std::fs::create_dir(dir.path().join("pods")).expect("a fresh folder can be written");
        let port = process::free_port();
        let mut environment = vec![
            ("PORT".to_owned(), port.to_string()),
            (
                "METRICS_PROXY_PODS_FILE".to_owned(),
                dir.path().join("pods").display().to_string(),
            ),
        ];
        if setup.secret {
            let path = dir.path().join("secret").display().to_string();
            environment.push(("METRICS_SECRET_PATH".to_owned(), path));
        }
        environment.extend(SHORT.map(|(name, value)| (name.to_owned(), value.to_owned())));
        for (name, value) in setup.env {
            environment.retain(|(there, _)| there != name);
            environment.push((name.to_owned(), value));
        }
        let environment: Vec<String> = environment
            .iter()
            .map(|(name, value)| format!("      {name}: '{value}'\n"))
            .collect();
        let environment = environment.concat();
        let layer = format!(
            "services:\n  metrics-proxy:\n    override: replace\n    startup: enabled\n    command: {PROGRAM}\n{}    environment:\n{environment}",
            setup.service
        );
        let pebble = Pebble::start(version, &[("001-app.yaml", &layer)], setup.options).await;
        // For services that run as other users, who reach Pebble's socket under Juju.
        for path in [pebble.scratch().to_owned(), pebble.dir()] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
                .expect("a folder of this test");
        }
        Self { pebble, port, dir }
    }

    /// Where the mounted secret is, if it is.
    pub(super) fn secret(&self) -> PathBuf {
        self.dir.path().join("secret")
    }

    /// Pushes the secret as one file, as a charm does: written beside and renamed.
    pub(super) fn push(&self, content: &str) {
        push(&self.secret(), content);
    }

    pub(super) fn push_pair(&self, username: &str, password: &str) {
        self.push(&pair(username, password));
    }

    /// A GET of the program.
    pub(super) async fn get(&self, path: &str) -> Option<Answer> {
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], self.port));
        client::get(address, path).send().await.ok()
    }

    /// The body of `/readyz`, all conditions where asked for.
    pub(super) async fn readyz(&self, query: &str) -> String {
        match self.get(&format!("/readyz{query}")).await {
            Some(response) => response.text(),
            None => "no response".to_owned(),
        }
    }

    pub(super) async fn wait_readyz(&self, body: &str) {
        self.wait(&format!("/readyz says {body:?}"), async || {
            (self.readyz("").await == format!("{body}\n")).then_some(())
        })
        .await;
    }

    /// Waits for a condition; a failure shows the log.
    pub(super) async fn wait<T>(&self, what: &str, condition: impl AsyncFnMut() -> Option<T>) -> T {
        let log = || process::tail("pebble", &self.pebble.log());
        wait_for(what, LIMIT, log, condition).await
    }

    /// Waits for `n` more passes, so that whatever a pass does has been done.
    pub(super) async fn passes(&self, n: usize) {
        let count = || self.pebble.log().matches("GET /v1/plan").count();
        let before = count();
        self.wait("more passes", async || (count() >= before + n).then_some(()))
            .await;
    }

    /// Whether Pebble takes a credential for its metrics.
    pub(super) async fn works(&self, username: &str, password: &str) -> bool {
        works(&self.pebble, username, password).await
    }

    pub(super) async fn wait_works(&self, username: &str, password: &str) {
        self.wait(&format!("{username} works"), async || {
            self.works(username, password).await.then_some(())
        })
        .await;
    }

    /// Changes of identities that Pebble took, by the proxy and by others.
    pub(super) fn identity_writes(&self) -> usize {
        self.pebble
            .log()
            .lines()
            .filter(|line| line.contains("POST /v1/identities") && line.contains(" 200"))
            .count()
    }

    /// The names of all identities, markers shown as `@name`.
    pub(super) async fn names(&self) -> Vec<String> {
        names(&self.pebble).await
    }

    /// Changes identities as another writer does.
    pub(super) async fn change_identities(&self, identities: Value) {
        self.pebble
            .api_post(
                "/v1/identities",
                &json!({"action": "replace", "identities": identities}),
            )
            .await;
    }

    /// The process of the service; waits until there is one.
    pub(super) async fn pid(&self) -> u32 {
        self.wait("the service has a process", async || {
            self.pebble.service_pid(program_name())
        })
        .await
    }

    /// Runs a check until it is in a state that says something (three failures make it down; Pebble 1.26 has the reason again with the fourth), and returns its line in
    /// `pebble checks`.
    pub(super) async fn check(&self, name: &str) -> String {
        let body = json!({"name": name});
        for _ in 0..4 {
            self.pebble.api_post("/v1/checks/refresh", &body).await;
        }
        let text = self.pebble.cli_text(&["checks"]);
        text.lines()
            .find(|line| line.starts_with(name))
            .unwrap_or_else(|| panic!("no check {name} in {text}"))
            .to_owned()
    }
}

/// The program as `ps` shows it.
fn program_name() -> &'static str {
    PROGRAM
}

/// Writes a file beside and renames it, as Pebble's push does.
pub(super) fn push(path: &Path, content: &str) {
    let beside = path.with_extension("new");
    std::fs::write(&beside, content).expect("a folder of this test can be written");
    std::fs::rename(&beside, path).expect("a folder of this test can be written");
}

/// A secret as a YAML map.
pub(super) fn pair(username: &str, password: &str) -> String {
    format!("username: '{username}'\npassword: '{password}'\n")
}

pub(super) async fn works(pebble: &Pebble, username: &str, password: &str) -> bool {
    pebble
        .http("/v1/metrics", Some((username, password)))
        .await
        .status
        == StatusCode::OK
}

/// A name as these tests show it: the owner marker of a secret is `@name`, whatever the port of its proxy.
fn shown(name: &str) -> String {
    match name.strip_prefix("metrics-proxy-owner--") {
        Some(owned) => format!(
            "@{}",
            owned
                .trim_start_matches(|c: char| c.is_ascii_digit())
                .trim_start_matches('-')
        ),
        None => name.to_owned(),
    }
}

/// The names of all identities, markers shown as `@name`.
pub(super) async fn names(pebble: &Pebble) -> Vec<String> {
    let mut names: Vec<String> = pebble
        .identities()
        .await
        .as_object()
        .map(|identities| identities.keys().map(|name| shown(name)).collect())
        .unwrap_or_default();
    names.sort_unstable();
    names
}

/// Returns from a test, as skipped, where it does not run as root: only root's Pebble runs services as other users.
macro_rules! root_or_skip {
    () => {
        if !rustix::process::geteuid().is_root() {
            fn here() {}
            let missing =
                $crate::support::tools::Missing::because("only root's Pebble runs services as other users");
            $crate::support::tools::skipped(std::any::type_name_of_val(&here), &missing);
            return;
        }
    };
}
pub(super) use root_or_skip;
