//! Other users, other layers, other writers, no Pebble, an old one.

use std::time::Duration;

use serde_json::json;

use super::rig::{LIMIT, Rig, Setup, root_or_skip};
use crate::support::pebble::{Options, VERSIONS};
use crate::support::process::wait_for;

/// A service with another user than Pebble's.
const NOBODY: &str = "    user-id: 65534\n    group-id: 65534\n";

#[tokio::test]
async fn another_user_serves_and_names_both_remedies() {
    root_or_skip!();
    for version in VERSIONS {
        let setup = Setup {
            service: NOBODY.to_owned(),
            ..Setup::default()
        };
        let rig = Rig::start(version, setup).await;
        rig.push_pair("alice", "one");
        let remedy = "[bad] unprivileged: uid 65534 may not write in Pebble; run the service as Pebble's uid 0 (in Juju: no uid in charmcraft.yaml, no user in the layer), or add \
                      an identity with access admin and local user-id 65534\n";
        rig.wait("the remedy", async || {
            let body = rig.readyz("?verbose").await;
            (body.starts_with("unprivileged: uid 65534 may not write") && body.contains(remedy)).then_some(())
        })
        .await;
        let metrics = rig.get("/metrics").await.expect("a response");
        assert_eq!(metrics.status, 200, "it serves all the same");
        rig.wait("several passes", async || {
            (rig.pebble.log().matches("GET /v1/metrics").count() >= 4).then_some(())
        })
        .await;
        assert_eq!(
            rig.pebble.log().matches("CRITICAL").count(),
            1,
            "one refused write and no more"
        );
        let notices = format!("{:?}", rig.pebble.notices().await);
        assert!(notices.contains("metrics-proxy/permission-missing"), "{notices}");
        // The charm may set the same credential itself: nothing is missing then.
        let hash = hash_of("one");
        rig.change_identities(json!({"alice": {"access": "metrics", "basic": {"password": hash}}}))
            .await;
        rig.wait_readyz("ready").await;
        assert!(
            rig.readyz("?verbose")
                .await
                .contains("[note] unprivileged: uid 65534")
        );
    }
}

#[tokio::test]
async fn an_admin_identity_of_its_own_makes_another_user_privileged() {
    root_or_skip!();
    let setup = Setup {
        service: NOBODY.to_owned(),
        ..Setup::default()
    };
    let rig = Rig::start(
        VERSIONS[0],
        setup.env("METRICS_PROXY_DENIED_RETRY_INTERVAL", "300ms"),
    )
    .await;
    rig.push_pair("alice", "one");
    rig.wait("unprivileged", async || {
        rig.readyz("").await.starts_with("unprivileged: ").then_some(())
    })
    .await;
    rig.change_identities(json!({"proxy": {"access": "admin", "local": {"user-id": 65534}}}))
        .await;
    rig.wait_readyz("ready").await;
    rig.wait_works("alice", "one").await;
    assert_eq!(rig.pebble.checks().await.len(), 3);
}

#[tokio::test]
async fn unprivileged_without_a_secret_is_ready_with_a_note() {
    root_or_skip!();
    let setup = Setup {
        secret: false,
        service: NOBODY.to_owned(),
        ..Setup::default()
    };
    let rig = Rig::start(VERSIONS[1], setup).await;
    rig.wait_readyz("ready").await;
    rig.wait("the note", async || {
        let body = rig.readyz("?verbose").await;
        body.contains("[note] unprivileged: uid 65534 may not write")
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn shadowed_checks_are_posted_once_and_reported() {
    for version in VERSIONS {
        let rig = Rig::start(version, Setup::default()).await;
        rig.push_pair("alice", "one");
        rig.wait_readyz("ready").await;
        let posts = || {
            rig.pebble
                .log()
                .matches("Adding layer metrics-proxy-self")
                .count()
        };
        assert_eq!(posts(), 1);
        let charms = "checks:\n  metrics-proxy-ready:\n    override: replace\n    period: 11s\n    exec: {command: 'true'}\n";
        rig.pebble.add_layer("later", true, charms).await;
        rig.wait_readyz("layer: metrics-proxy-ready shadowed").await;
        rig.passes(3).await;
        assert_eq!(posts(), 2, "once more, then never");
        // The charm defines the same checks.
        let url = format!("http://localhost:{}/readyz", rig.port);
        let same = format!(
            "checks:\n  metrics-proxy-ready:\n    override: replace\n    startup: enabled\n    period: 10000ms\n    timeout: 3s\n    http: {{url: '{url}'}}\n"
        );
        rig.pebble.add_layer("later", true, &same).await;
        rig.wait_readyz("ready").await;
        assert_eq!(posts(), 2);
    }
}

/// A rock's checks come without `startup`, which rockcraft does not know.
#[tokio::test]
async fn checks_that_a_rock_ships_are_not_posted_again() {
    for version in VERSIONS {
        let setup = Setup {
            options: Options::default().hold(),
            ..Setup::default()
        };
        let rig = Rig::start(version, setup).await;
        let shipped = include_str!("../../../pebble-layers/002-metrics-proxy-self.yaml");
        let lines = shipped.lines().filter(|line| !line.contains("startup:"));
        let rocks = lines.collect::<Vec<_>>().join("\n");
        let rocks = rocks.replace("localhost:15090", &format!("localhost:{}", rig.port));
        rig.pebble
            .add_layer("rockcraft-metrics-proxy", false, &rocks)
            .await;
        rig.push_pair("alice", "one");
        rig.pebble.replan().await;
        rig.wait_readyz("ready").await;
        rig.passes(2).await;
        assert!(!rig.pebble.log().contains("Adding layer metrics-proxy-self"));
        assert!(rig.readyz("?verbose").await.contains("[ok] layer\n"));
    }
}

#[tokio::test]
async fn repeated_changes_by_another_writer_are_given_up() {
    let rig = Rig::start(VERSIONS[0], Setup::default()).await;
    rig.push_pair("alice", "one");
    rig.wait_readyz("ready").await;
    let mut n_changes = 0;
    while rig.readyz("").await != "identity: contested; stop the other writer\n" {
        assert!(n_changes < 20, "it never stops");
        rig.change_identities(json!({"alice": null})).await;
        n_changes += 1;
        rig.passes(2).await;
    }
    let ours = rig.identity_writes() - n_changes;
    assert_eq!(ours, 4, "the first write and three rounds");
    assert!(
        !rig.works("alice", "one").await,
        "left as the other writer wants it"
    );
    rig.push_pair("alice", "two");
    rig.wait_works("alice", "two").await;
    rig.wait_readyz("ready").await;
}

#[tokio::test]
async fn adopting_takes_over_without_a_gap() {
    for version in VERSIONS {
        let setup = Setup {
            // The identity comes before the service.
            options: Options::default().hold(),
            ..Setup::default()
        };
        let rig = Rig::start(version, setup.env("METRICS_PROXY_ADOPT_IDENTITY", "true")).await;
        let hash = hash_of("one");
        rig.change_identities(json!({"alice": {"access": "metrics", "basic": {"password": hash}}}))
            .await;
        rig.push_pair("alice", "one");
        rig.pebble.replan().await;
        rig.wait_readyz("ready").await;
        assert_eq!(rig.names().await, ["@alice", "alice"]);
        let log = rig.pebble.log();
        assert_eq!(
            log.matches("_updated:0,alice,").count() + log.matches("_created:0,alice,").count(),
            1,
            "it worked already, so only the marker was written"
        );
        rig.push_pair("alice", "two");
        rig.wait_works("alice", "two").await;
    }
}

#[tokio::test]
async fn without_http_the_credential_is_verified_over_the_socket() {
    for version in VERSIONS {
        let setup = Setup {
            options: Options::default().without_http(),
            ..Setup::default()
        };
        let mut rig = Rig::start(version, setup).await;
        rig.push_pair("alice", "one");
        rig.wait_readyz("ready").await;
        let verifications = || rig.pebble.log().matches("authz_fail:alice,/v1/services").count();
        assert_eq!(verifications(), 1, "verified after the write");
        rig.passes(4).await;
        assert_eq!(verifications(), 1, "and not again soon");
        assert_eq!(rig.identity_writes(), 1);
        rig.pebble.restart().await;
        rig.wait_readyz("ready").await;
        assert_eq!(rig.identity_writes(), 1, "what works is not written");
        assert_eq!(
            rig.pebble.log().matches("authz_fail:alice,/v1/services").count(),
            2
        );
        // A removed identity is seen in the list, long before the next verification.
        rig.change_identities(json!({"alice": null})).await;
        rig.wait("put back", async || {
            (rig.names().await == ["@alice", "alice"]).then_some(())
        })
        .await;
        rig.wait_readyz("ready").await;
    }
}

/// 1.19 has no `http-address`, no refresh of checks, and no other access than metrics for a password.
#[tokio::test]
async fn the_oldest_pebble_has_all_of_it() {
    let mut rig = Rig::start("pebble-1.19", Setup::default()).await;
    rig.push_pair("alice", "one");
    rig.wait_readyz("ready").await;
    assert!(rig.works("alice", "one").await);
    assert!(
        !rig.works(&format!("metrics-proxy-owner--{}-alice", rig.port), "!")
            .await,
        "a marker cannot log in"
    );
    rig.push_pair("alice", "two");
    rig.wait_works("alice", "two").await;
    rig.push_pair("bob", "two");
    rig.wait_works("bob", "two").await;
    assert!(!rig.works("alice", "two").await);
    assert_eq!(rig.names().await, ["@bob", "bob"]);
    rig.pebble.restart().await;
    rig.wait_readyz("ready").await;
    assert_eq!(rig.identity_writes(), 3, "what works is not written");
    assert_eq!(rig.pebble.checks().await.len(), 3);
    std::fs::remove_file(rig.secret()).expect("a folder of this test");
    rig.wait("the identity goes", async || {
        rig.names().await.is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn clearing_the_option_revokes_the_credential() {
    let rig = Rig::start(VERSIONS[0], Setup::default()).await;
    rig.push_pair("alice", "one");
    rig.wait_works("alice", "one").await;
    let layer =
        "services:\n  metrics-proxy:\n    override: merge\n    environment: {METRICS_SECRET_PATH: ''}\n";
    rig.pebble.add_layer("charm", true, layer).await;
    rig.pebble.replan().await;
    rig.wait("the identity goes", async || {
        rig.names().await.is_empty().then_some(())
    })
    .await;
    rig.wait_readyz("ready").await;
    assert_eq!(rig.identity_writes(), 2);
}

#[tokio::test]
async fn pebble_may_be_absent_for_a_while() {
    // The reconciler is not its child here, so that it outlives this Pebble.
    let mut pebble = crate::support::pebble::Pebble::start(VERSIONS[0], &[], Options::default()).await;
    let secret = super::secret_path(&pebble);
    super::rig::push(&secret, &super::rig::pair("alice", "one"));
    let keeper = super::Keeper::start(super::settings(&pebble));
    keeper.wait_readyz("ready").await;
    pebble.stop();
    keeper.wait_readyz("identity: Pebble cannot be reached").await;
    assert!(
        keeper
            .readyz()
            .contains("[note] pebble: not at its socket, running without: ")
    );
    // Changed while Pebble is away.
    super::rig::push(&secret, &super::rig::pair("bob", "two"));
    pebble.restart().await;
    keeper.wait_readyz("ready").await;
    assert!(super::works(&pebble, "bob", "two").await);
    assert!(!super::works(&pebble, "alice", "one").await);
    assert_eq!(
        pebble.checks().await.len(),
        3,
        "layers went with Pebble and are back"
    );
    keeper.stop().await;
}

/// SIGSTOP: the socket exists, and no response comes.
#[tokio::test]
async fn a_pebble_that_hangs_costs_a_second_and_no_more() {
    let rig = Rig::start(VERSIONS[1], Setup::default()).await;
    rig.push_pair("alice", "one");
    rig.wait_readyz("ready").await;
    let pid = rustix::process::Pid::from_raw(i32::try_from(rig.pebble.pid()).expect("a pid")).expect("not 0");
    let signal = |signal| rustix::process::kill_process(pid, signal).expect("the Pebble of this test");
    signal(rustix::process::Signal::STOP);
    let since = std::time::Instant::now();
    let answer = rig.get("/metrics").await.expect("a response");
    assert_eq!(answer.status, 200);
    let took = since.elapsed();
    assert!(took < Duration::from_secs(4), "the response took {took:?}");
    rig.wait_readyz("identity: Pebble cannot be reached").await;
    assert!(
        rig.readyz("?verbose")
            .await
            .contains("[note] pebble: does not respond; see ")
    );
    signal(rustix::process::Signal::CONT);
    rig.wait_readyz("ready").await;
    assert_eq!(rig.identity_writes(), 1);
}

#[tokio::test]
async fn pebbles_own_metrics_are_in_the_response_once() {
    for version in VERSIONS {
        let rig = Rig::start(version, Setup::default()).await;
        rig.push_pair("alice", "one");
        rig.wait_readyz("ready").await;
        // The body is kept for ten seconds, and the first may be from before the checks.
        let text = rig
            .wait("Pebble's metrics of the checks", async || {
                let text = rig.get("/metrics").await?.text();
                text.contains("pebble_check_up{check=\"metrics-proxy-alive\"} ")
                    .then_some(text)
            })
            .await;
        assert!(
            text.contains("pebble_service_active{service=\"metrics-proxy\"} 1\n"),
            "{text}"
        );
        for family in [
            "pebble_service_active",
            "pebble_check_up",
            "pebble_check_success_count",
        ] {
            assert_eq!(text.matches(&format!("# TYPE {family} ")).count(), 1, "{text}");
        }
        let asked = || {
            let log = rig.pebble.log();
            log.lines()
                .filter(|line| line.contains("GET /v1/metrics") && line.ends_with("(http+unix)"))
                .count()
        };
        let before = asked();
        for _ in 0..20 {
            rig.get("/metrics").await.expect("a response");
        }
        assert!(asked() <= before + 1, "asked at most every ten seconds");
    }
    let rig = Rig::start(
        VERSIONS[0],
        Setup::default().env("METRICS_PROXY_PEBBLE_METRICS", "false"),
    )
    .await;
    rig.push_pair("alice", "one");
    rig.wait_readyz("ready").await;
    let text = rig.get("/metrics").await.expect("a response").text();
    assert!(
        !text.contains("\npebble_") && text.contains("metrics_proxy_build_info"),
        "{text}"
    );
}

/// What Kubernetes does not allow is told to the charm through Pebble.
#[tokio::test]
async fn a_missing_permission_in_kubernetes_becomes_a_notice() {
    use metrics_proxy::health::{Condition, State};
    let pebble = crate::support::pebble::Pebble::start(VERSIONS[0], &[], Options::default()).await;
    let keeper = super::Keeper::start(super::settings(&pebble));
    keeper.health.set(
        Condition::Permissions,
        State::note("own namespace only; deploy with --trust"),
    );
    wait_for(
        "the notice",
        LIMIT,
        || keeper.readyz(),
        async || {
            pebble
            .notices()
            .await
            .iter()
            .any(|notice| {
                notice["key"] == "canonical.com/metrics-proxy/permission-missing"
                    && notice["last-data"]
                        == json!({"what": "kubernetes", "message": "own namespace only; deploy with --trust"})
            })
            .then_some(())
        },
    )
    .await;
    keeper.stop().await;
}

#[tokio::test]
async fn each_mode_says_what_no_pebble_means() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut settings = metrics_proxy::config::Config::default().pebble;
    settings.socket = dir.path().join(".pebble.socket");
    let keeper = super::Keeper::start(settings.clone());
    wait_for(
        "auto runs without",
        LIMIT,
        || keeper.readyz(),
        async || {
            let note = format!(
                "[note] pebble: not at its socket, running without: {}",
                settings.socket.display()
            );
            (keeper.readyz() == format!("ready\n{note}\n")).then_some(())
        },
    )
    .await;
    keeper.stop().await;
    settings.mode = metrics_proxy::config::PebbleMode::Required;
    let keeper = super::Keeper::start(settings.clone());
    keeper
        .wait_readyz("pebble: not at its socket; start Pebble")
        .await;
    keeper.stop().await;
    settings.mode = metrics_proxy::config::PebbleMode::Off;
    settings.secret = Some(dir.path().join("secret"));
    let keeper = super::Keeper::start(settings);
    assert_eq!(
        keeper.readyz(),
        "identity: needs Pebble, which is off\n[bad] identity: needs Pebble, which is off\n"
    );
    keeper.stop().await;
}

/// As a Pebble that is built without SHA-crypt would.
#[tokio::test]
async fn a_credential_that_pebble_never_accepts_is_not_written_for_ever() {
    use super::killed::{At, Between};
    let pebble = crate::support::pebble::Pebble::start(VERSIONS[1], &[], Options::default()).await;
    super::rig::push(&super::secret_path(&pebble), &super::rig::pair("alice", "one"));
    let between = pebble.scratch().join("between");
    let _proxy = Between::start(&between, pebble.socket(), At::Spoil);
    let mut settings = super::settings(&pebble);
    settings.socket = between;
    let keeper = super::Keeper::start(settings);
    keeper
        .wait_readyz("identity: written, but Pebble rejects it")
        .await;
    let count = |words: &str| pebble.log().matches(words).count();
    let passes = count("GET /v1/plan");
    wait_for(
        "many passes",
        LIMIT,
        || keeper.readyz(),
        async || (count("GET /v1/plan") > passes + 8).then_some(()),
    )
    .await;
    assert_eq!(count("POST /v1/identities"), 4, "the first write and three more");
    assert!(
        keeper
            .readyz()
            .starts_with("identity: written, but Pebble rejects it\n")
    );
    keeper.stop().await;
}

/// A Pebble of before 1.19, which has no metrics and no identities with passwords.
#[tokio::test]
async fn an_old_pebble_is_named_and_left_alone() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let dir = tempfile::tempdir().expect("a temporary folder");
    let socket = dir.path().join(".pebble.socket");
    let listener = tokio::net::UnixListener::bind(&socket).expect("a fresh folder can be written");
    let asked = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let paths = std::sync::Arc::clone(&asked);
    let server = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let n = stream.read(&mut request).await.unwrap_or(0);
            let line = String::from_utf8_lossy(&request[..n]);
            let Some(line) = line.lines().next() else { continue };
            paths.lock().expect("no panic").push(line.to_owned());
            let body = r#"{"type":"sync","status-code":200,"status":"OK","result":{"version":"v1.10.2","boot-id":"x"}}"#;
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    let secret = dir.path().join("secret");
    super::rig::push(&secret, &super::rig::pair("alice", "one"));
    let mut settings = metrics_proxy::config::Config::default().pebble;
    settings.socket = socket.clone();
    settings.secret = Some(secret);
    settings.resync_interval = Duration::from_millis(100);
    settings.secret_debounce = Duration::ZERO;
    let keeper = super::Keeper::start(settings);
    keeper.wait_readyz("identity: needs Pebble 1.19 or later").await;
    assert!(
        keeper
            .readyz()
            .contains("[note] pebble: v1.10.2 is older than 1.19; upgrade Pebble")
    );
    wait_for(
        "more passes",
        LIMIT,
        || keeper.readyz(),
        async || (asked.lock().expect("no panic").len() > 4).then_some(()),
    )
    .await;
    assert!(
        asked
            .lock()
            .expect("no panic")
            .iter()
            .all(|line| line.contains("/v1/system-info")),
        "{asked:?}"
    );
    keeper.stop().await;
    // The command says the same.
    let output = tokio::task::spawn_blocking(move || {
        let socket = socket.display().to_string();
        crate::support::app::run(&["identity", "status"], &[("PEBBLE_SOCKET", &socket)], "")
    })
    .await
    .expect("it does not panic");
    assert_eq!(output.status.code(), Some(1));
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(
        stdout.contains("Pebble v1.10.2 is older than 1.19; upgrade Pebble (Juju 3.6.4 or later brings it)"),
        "{stdout}"
    );
    server.abort();
}

fn hash_of(password: &str) -> String {
    let password = metrics_proxy::credential::Password::try_new(zeroize::Zeroizing::new(password.into()))
        .expect("a good password");
    metrics_proxy::pebble::hash_password(&password).to_string()
}
