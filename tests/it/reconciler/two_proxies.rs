//! Two proxies under one Pebble, each with a secret of its own: neither touches the other's identity.

use std::path::PathBuf;

use super::rig::{LIMIT, SHORT, names, pair, push, works};
use crate::support::app;
use crate::support::http as client;
use crate::support::pebble::{Options, Pebble, VERSIONS};
use crate::support::process::{self, Process, wait_for};

struct Proxy {
    port: u16,
    secret: PathBuf,
    process: Process,
}

impl Proxy {
    fn start(pebble: &Pebble, name: &str, username: &str, password: &str) -> Self {
        let pods = pebble.scratch().join("pods");
        let _ = std::fs::create_dir(&pods);
        let secret = pebble.scratch().join(name);
        push(&secret, &pair(username, password));
        let port = process::free_port();
        let mut command = app::command(&[], &SHORT);
        command
            .env("PEBBLE_SOCKET", pebble.socket())
            .env("METRICS_SECRET_PATH", &secret)
            .env("METRICS_PROXY_PODS_FILE", pods)
            .env("PORT", port.to_string());
        let log = pebble.scratch().join(format!("{name}.log"));
        let process = Process::spawn("metrics-proxy", command, &log);
        Self {
            port,
            secret,
            process,
        }
    }

    async fn readyz(&self) -> String {
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], self.port));
        match client::get(address, "/readyz?verbose").send().await {
            Ok(response) => response.text(),
            Err(_) => "no response".to_owned(),
        }
    }

    async fn wait_readyz(&self, words: &str) {
        let log = || self.process.log_tail();
        wait_for(&format!("/readyz says {words:?}"), LIMIT, log, async || {
            self.readyz().await.contains(words).then_some(())
        })
        .await;
    }
}

async fn wait_works(pebble: &Pebble, username: &str, password: &str) {
    let log = || process::tail("pebble", &pebble.log());
    wait_for(&format!("{username} works"), LIMIT, log, async || {
        works(pebble, username, password).await.then_some(())
    })
    .await;
}

/// Waits until both proxies have made several more passes.
async fn passes(pebble: &Pebble) {
    let count = || pebble.log().matches("GET /v1/identities").count();
    let before = count();
    wait_for("more passes", LIMIT, String::new, async || {
        (count() > before + 12).then_some(())
    })
    .await;
}

fn writes(pebble: &Pebble) -> usize {
    let log = pebble.log();
    let is_write = |line: &&str| line.contains("POST /v1/identities") && line.contains(" 200");
    log.lines().filter(is_write).count()
}

#[tokio::test]
async fn each_proxy_keeps_its_own_identity() {
    for version in VERSIONS {
        let pebble = Pebble::start(version, &[], Options::default()).await;
        let mut first = Proxy::start(&pebble, "first", "alice", "one");
        wait_works(&pebble, "alice", "one").await;
        let second = Proxy::start(&pebble, "second", "bob", "two");
        wait_works(&pebble, "bob", "two").await;
        passes(&pebble).await;
        assert!(works(&pebble, "alice", "one").await);
        assert!(works(&pebble, "bob", "two").await);
        assert_eq!(names(&pebble).await, ["@alice", "@bob", "alice", "bob"]);
        assert_eq!(writes(&pebble), 2, "one for each identity");
        // The checks ask one of them, and the other one says so instead of posting them again.
        let posts = pebble.log().matches("Adding layer metrics-proxy-self").count();
        assert_eq!(posts, 2, "one by each proxy");
        first
            .wait_readyz(&format!(
                "[note] layer: the checks of this plan ask the proxy on port {}; add checks",
                second.port
            ))
            .await;

        // The second one asks for the first one's username.
        push(&second.secret, &pair("alice", "three"));
        second
            .wait_readyz(&format!(
                "[bad] identity: used by proxy :{}; pick another (each proxy",
                first.port
            ))
            .await;
        passes(&pebble).await;
        assert!(works(&pebble, "alice", "one").await);
        assert!(!works(&pebble, "alice", "three").await);
        assert!(works(&pebble, "bob", "two").await, "what was in force stays");

        // A proxy that has ended does not keep the name.
        first.process.kill();
        wait_works(&pebble, "alice", "three").await;
        second.wait_readyz("[ok] identity").await;
        assert_eq!(names(&pebble).await, ["@alice", "alice"]);
    }
}

/// A version before this one wrote markers without a port.
#[tokio::test]
async fn markers_of_an_earlier_version_are_taken_over() {
    let pebble = Pebble::start(VERSIONS[0], &[], Options::default()).await;
    let body = serde_json::json!({"action": "add", "identities": {
        "alice": {"access": "metrics", "basic": {"password": "!"}},
        "metrics-proxy-owner--alice": {"access": "untrusted", "basic": {"password": "!"}},
    }});
    pebble.api_post("/v1/identities", &body).await;
    let proxy = Proxy::start(&pebble, "secret", "bob", "two");
    wait_works(&pebble, "bob", "two").await;
    assert_eq!(names(&pebble).await, ["@bob", "bob"]);
    let identities = pebble.identities().await;
    assert!(
        identities[format!("metrics-proxy-owner--{}-bob", proxy.port)].is_object(),
        "{identities}"
    );
}
