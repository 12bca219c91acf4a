//! The connection to Pebble: who may be trusted with a credential, what a lost request costs, which address is checked.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::sync::atomic::Ordering;

use serde_json::json;

use super::killed::{At, Between};
use super::rig::{LIMIT, Rig, Setup, pair, push, root_or_skip, works};
use super::{Keeper, secret_path, settings};
use crate::support::pebble::{Options, Pebble, VERSIONS};
use crate::support::process::{self, Process, wait_for};
use crate::support::tools::tool_or_skip;

/// One broken request is no reason to be unready: the credential works all the while.
#[tokio::test]
async fn one_broken_request_does_not_make_the_proxy_unready() {
    const BROKEN: usize = 40;
    let pebble = Pebble::start(VERSIONS[0], &[], Options::default()).await;
    push(&secret_path(&pebble), &pair("alice", "one"));
    let between = pebble.scratch().join("between");
    let proxy = Between::start(&between, pebble.socket(), At::Broken(BROKEN));
    let mut settings = settings(&pebble);
    settings.socket = between;
    let keeper = Keeper::start(settings);
    keeper.wait_readyz("ready").await;
    assert!(
        proxy.requests.load(Ordering::Relaxed) < BROKEN,
        "it is broken after that"
    );
    wait_for(
        "the broken request and ten more",
        LIMIT,
        || keeper.readyz(),
        async || {
            let body = keeper.readyz();
            assert!(body.starts_with("ready\n"), "{body}");
            (proxy.requests.load(Ordering::Relaxed) > BROKEN + 10).then_some(())
        },
    )
    .await;
    let metrics = keeper.telemetry.encode();
    assert!(
        metrics.contains("metrics_proxy_pebble_errors_total{reason=\"broken\"} 1\n"),
        "{metrics}"
    );
    keeper.stop().await;
}

/// A program of another user that answers on the socket as Pebble does, and records what it is sent.
const IMPOSTOR: &str = r#"
import http.server, json, os, socketserver, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        with open(sys.argv[2], "a") as log:
            log.write(f"{self.command} {self.path} {self.headers.get('Authorization')}\n")
        body = json.dumps({"type": "sync", "status-code": 200, "status": "OK",
                           "result": {"version": "v1.26.0", "boot-id": "x"}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    do_POST = do_GET
    def address_string(self):
        return "unix"
    def log_message(self, *args):
        pass
os.setgid(65534)
os.setuid(65534)
os.umask(0)
socketserver.ThreadingUnixStreamServer(sys.argv[1], Handler).serve_forever()
"#;

/// Who serves the socket is checked before anything secret is sent to it.
#[tokio::test]
async fn a_socket_of_another_user_gets_no_credential() {
    root_or_skip!();
    let python = tool_or_skip!("python");
    let dir = process::fresh_dir();
    let folder = dir.path().join("open");
    std::fs::create_dir(&folder).expect("a fresh folder can be written");
    for path in [dir.path(), &folder] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777))
            .expect("a folder of this test");
    }
    let (socket, requests) = (folder.join("socket"), folder.join("requests"));
    let mut command = Command::new(python);
    command.args(["-c", IMPOSTOR]).arg(&socket).arg(&requests);
    let mut impostor = Process::spawn("impostor", command, &dir.path().join("impostor.log"));
    impostor
        .wait_for("the socket", LIMIT, async || socket.exists().then_some(()))
        .await;
    let secret = dir.path().join("secret");
    push(&secret, &pair("alice", "one"));
    let settings = metrics_proxy::config::Pebble {
        socket,
        secret: Some(secret),
        resync_interval: std::time::Duration::from_millis(100),
        secret_debounce: std::time::Duration::ZERO,
        ..metrics_proxy::config::Config::default().pebble
    };
    let keeper = Keeper::start(settings);
    keeper.wait_readyz("identity: Pebble cannot be reached").await;
    let body = keeper.readyz();
    assert!(
        body.contains("[note] pebble: socket served by uid 65534; no credential is sent to it"),
        "{body}"
    );
    let log = || std::fs::read_to_string(&requests).unwrap_or_default();
    wait_for("more requests", LIMIT, log, async || {
        (log().lines().count() > 4).then_some(())
    })
    .await;
    assert!(
        log().lines().all(|line| line == "GET /v1/system-info None"),
        "{}",
        log()
    );
    keeper.stop().await;
}

/// A folder of mode 0700 that belongs to another user: the cause is named everywhere, and what to do.
#[tokio::test]
async fn a_socket_out_of_reach_is_named() {
    root_or_skip!();
    let rig = Rig::start(
        VERSIONS[0],
        Setup {
            service: "    user-id: 65534\n    group-id: 65534\n".to_owned(),
            ..Setup::default()
        },
    )
    .await;
    rig.push_pair("alice", "one");
    // Reached at first, since the rig opens the folder; then as `--create-dirs` makes it.
    std::fs::set_permissions(rig.pebble.dir(), std::fs::Permissions::from_mode(0o700))
        .expect("a folder of this test");
    rig.wait("permission denied", async || {
        let body = rig.readyz("?verbose").await;
        let note = format!(
            "[note] pebble: permission denied; let uid 65534 reach the socket, or run the service as Pebble's user: {}\n",
            rig.pebble.socket().display()
        );
        (body.contains(&note) && body.contains("[bad] identity: Pebble cannot be reached\n")).then_some(())
    })
    .await;
    let log = rig.pebble.log();
    assert!(
        log.contains("permission denied; let uid 65534 reach the socket"),
        "{log}"
    );
}

/// A secret that only another user may read: the user who cannot is named.
#[tokio::test]
async fn a_secret_out_of_reach_names_the_user() {
    root_or_skip!();
    let setup = Setup {
        service: "    user-id: 65534\n    group-id: 65534\n".to_owned(),
        ..Setup::default()
    };
    let rig = Rig::start(VERSIONS[0], setup).await;
    rig.push_pair("alice", "one");
    std::fs::set_permissions(rig.secret(), std::fs::Permissions::from_mode(0o600))
        .expect("a folder of this test");
    let line = "[bad] secret: permission denied for uid 65534; let it read the files\n";
    rig.wait("the user", async || {
        rig.readyz("?verbose").await.contains(line).then_some(())
    })
    .await;
}

/// With an address of its own, the checks ask that address.
#[tokio::test]
async fn the_checks_ask_the_address_that_is_served() {
    for version in VERSIONS {
        let rig = Rig::start(
            version,
            Setup::default().env("METRICS_PROXY_ADDRESS", "127.0.0.5"),
        )
        .await;
        rig.push_pair("alice", "one");
        rig.wait("the credential works", async || {
            works(&rig.pebble, "alice", "one").await.then_some(())
        })
        .await;
        for name in [
            "metrics-proxy-alive",
            "metrics-proxy-identity",
            "metrics-proxy-ready",
        ] {
            rig.wait(&format!("{name} succeeds"), async || {
                let body = json!({"name": name});
                let refreshed = rig.pebble.api_post("/v1/checks/refresh", &body).await;
                refreshed["result"]["error"].is_null().then_some(())
            })
            .await;
        }
        let plan = rig.pebble.plan_text().await;
        assert_eq!(
            plan.matches(&format!("http://127.0.0.5:{}/", rig.port)).count(),
            3,
            "{plan}"
        );
    }
}
