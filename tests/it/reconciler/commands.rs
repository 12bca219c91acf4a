//! The commands `identity` and `bootstrap`, as a person or a charm runs them.

use std::os::unix::fs::symlink;

use serde_json::{Value, json};

use super::rig::{LIMIT, Rig, Setup, names, pair, push, root_or_skip, works};
use crate::support::app;
use crate::support::pebble::{Options, Pebble, VERSIONS};
use crate::support::process::{self, wait_for};
use crate::support::tools::tool_or_skip;

struct Finished {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Finished {
    #[track_caller]
    fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{}{}", self.stdout, self.stderr);
        self.stdout
    }

    #[track_caller]
    fn json(self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {}{}", self.stdout, self.stderr))
    }

    #[track_caller]
    fn fails(self, words: &str) {
        assert_eq!(self.code, Some(1), "{}{}", self.stdout, self.stderr);
        assert!(self.stderr.contains(words), "{}", self.stderr);
    }
}

async fn run(pebble: &Pebble, args: &[&str], input: &str) -> Finished {
    let socket = pebble.socket().display().to_string();
    let (args, input): (Vec<String>, String) = (
        args.iter().map(|arg| (*arg).to_owned()).collect(),
        input.to_owned(),
    );
    let output = tokio::task::spawn_blocking(move || {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        app::run(&args, &[("PEBBLE_SOCKET", &socket)], &input)
    })
    .await
    .expect("it does not panic");
    Finished {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

#[tokio::test]
async fn identities_are_set_shown_and_removed() {
    for version in VERSIONS {
        let pebble = Pebble::start(version, &[], Options::default()).await;
        assert_eq!(
            run(&pebble, &["identity", "set", "alice"], "one\n").await.ok(),
            "alice: created\n"
        );
        assert!(works(&pebble, "alice", "one").await);
        assert_eq!(names(&pebble).await, ["@_alice", "alice"]);
        assert_eq!(
            run(&pebble, &["identity", "set", "alice"], "one").await.ok(),
            "alice: unchanged\n"
        );
        let again = run(
            &pebble,
            &["identity", "set", "alice", "--output", "json"],
            "two\n",
        )
        .await;
        assert_eq!(again.json(), json!({"result": "rotated", "usernames": ["alice"]}));
        assert!(works(&pebble, "alice", "two").await);
        assert!(!works(&pebble, "alice", "one").await);
        run(&pebble, &["identity", "set", "bob"], "three\n").await.ok();
        // Of another writer.
        let body = json!({"action": "add", "identities": {
            "carol": {"access": "metrics", "basic": {"password": "!"}},
            "dora": {"access": "admin", "local": {"user-id": 4711}},
        }});
        pebble.api_post("/v1/identities", &body).await;
        run(&pebble, &["identity", "set", "carol"], "x")
            .await
            .fails("has no owner marker of metrics-proxy; --adopt-identity takes it over");
        run(&pebble, &["identity", "set", "dora", "--adopt-identity"], "x")
            .await
            .fails("has other access than metrics");
        run(&pebble, &["identity", "remove", "carol"], "")
            .await
            .fails("has no owner marker of metrics-proxy");
        run(&pebble, &["identity", "remove", "nobody"], "")
            .await
            .fails("there is no such identity");
        let status = run(&pebble, &["identity", "status"], "").await.ok();
        assert!(status.contains("Secret:   none\n"), "{status}");
        assert!(
            status.contains(
                "Identity: alice (metrics), of metrics-proxy, set by command\nIdentity: bob (metrics), of metrics-proxy, set by command\n\
                 Identity: carol (metrics), of another writer\nIdentity: dora (admin), of another writer\n"
            ),
            "{status}"
        );
        assert_eq!(
            run(&pebble, &["identity", "remove", "alice"], "").await.ok(),
            "alice: removed\n"
        );
        assert_eq!(names(&pebble).await, ["@_bob", "bob", "carol", "dora"]);
        assert_eq!(
            run(&pebble, &["identity", "remove"], "").await.ok(),
            "bob: removed\n"
        );
        assert_eq!(
            run(&pebble, &["identity", "remove"], "").await.ok(),
            "no identity of metrics-proxy is there\n"
        );
        let adopted = run(&pebble, &["identity", "set", "carol", "--adopt-identity"], "four").await;
        assert_eq!(adopted.ok(), "carol: adopted\n");
        assert!(works(&pebble, "carol", "four").await);
        assert_eq!(names(&pebble).await, ["@_carol", "carol", "dora"]);
    }
}

/// Juju's own identity in a workload container is an admin. It is never removed, and what the charm sets in the
/// service's environment decides nothing here.
#[tokio::test]
async fn only_identities_with_metrics_access_are_removed() {
    let pebble = Pebble::start(VERSIONS[0], &[], Options::default()).await;
    let body = json!({"action": "add", "identities": {
        "charm": {"access": "admin", "local": {"user-id": 170}},
        "carol": {"access": "metrics", "basic": {"password": "!"}},
    }});
    pebble.api_post("/v1/identities", &body).await;
    run(&pebble, &["identity", "remove", "charm", "--adopt-identity"], "")
        .await
        .fails("cannot remove charm: it has other access than metrics");
    let socket = pebble.socket().display().to_string();
    let env = [
        ("PEBBLE_SOCKET", socket.as_str()),
        ("METRICS_PROXY_ADOPT_IDENTITY", "true"),
    ];
    let output = app::run(&["identity", "remove", "carol"], &env, "");
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        stderr.contains("--adopt-identity removes it all the same"),
        "{stderr}"
    );
    assert_eq!(names(&pebble).await, ["carol", "charm"]);
    run(&pebble, &["identity", "remove", "carol", "--adopt-identity"], "")
        .await
        .ok();
    assert_eq!(names(&pebble).await, ["charm"]);
}

/// What a person types in the container has none of the settings of the service: they come from the plan.
#[tokio::test]
async fn commands_use_the_settings_of_the_service_in_the_plan() {
    for version in VERSIONS {
        let rig = Rig::start(version, Setup::default()).await;
        rig.push("username: alice\n");
        rig.wait_readyz("secret: password missing; add that key").await;
        let status = run(&rig.pebble, &["identity", "status"], "").await;
        assert_eq!(status.code, Some(1), "{}", status.stdout);
        assert!(
            status
                .stdout
                .contains("Secret:   refused: password missing; add that key\n"),
            "{}",
            status.stdout
        );
        assert!(
            status
                .stderr
                .contains("using METRICS_SECRET_PATH of the service metrics-proxy in Pebble's plan\n")
                || status.stderr.contains("METRICS_SECRET_PATH, "),
            "{}",
            status.stderr
        );
        let targets = run(&rig.pebble, &["targets", "--output", "json"], "").await;
        assert!(targets.stderr.contains("PORT"), "{}", targets.stderr);
        targets.json();
        // A flag wins.
        let missing = rig.pebble.scratch().join("nothing").display().to_string();
        let status = run(&rig.pebble, &["identity", "status", "--secret", &missing], "").await;
        assert!(status.stdout.contains("Secret:   absent\n"), "{}", status.stdout);
        // A second service of this program makes it ambiguous.
        let layer = format!(
            "services:\n  second:\n    override: replace\n    command: {} --port 1\n",
            app::PROGRAM
        );
        rig.pebble.add_layer("second", true, &layer).await;
        let ambiguous = run(&rig.pebble, &["identity", "status"], "").await;
        assert_eq!(ambiguous.code, Some(2));
        assert!(
            ambiguous
                .stderr
                .contains("choose one with --service: metrics-proxy, second"),
            "{}",
            ambiguous.stderr
        );
        let chosen = run(
            &rig.pebble,
            &["identity", "status", "--service", "metrics-proxy"],
            "",
        )
        .await;
        assert!(
            chosen.stdout.contains("refused: password missing"),
            "{}",
            chosen.stdout
        );
    }
}

/// From 1.28 on only an admin may read the plan: one refused request, one line, and the defaults.
#[tokio::test]
async fn a_plan_that_may_not_be_read_is_named_once() {
    root_or_skip!();
    let rig = Rig::start(VERSIONS[1], Setup::default()).await;
    rig.push_pair("alice", "one");
    rig.wait_readyz("ready").await;
    let socket = rig.pebble.socket();
    let output = tokio::task::spawn_blocking(move || {
        use std::os::unix::process::CommandExt as _;
        let mut command = app::command(&["identity", "status"], &[]);
        command.env("PEBBLE_SOCKET", socket).uid(65534).gid(65534);
        command.output()
    })
    .await
    .expect("it does not panic")
    .expect("the program runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        stderr.matches("does not let this user read its plan").count(),
        1,
        "{stderr}"
    );
    assert_eq!(rig.pebble.log().matches("authz_fail:65534,/v1/plan").count(), 1);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(stdout.contains("Secret:   none\n"), "{stdout}");
}

/// Typed at a terminal: nothing of it is shown, and it is asked twice.
#[tokio::test]
async fn a_password_is_prompted_for_without_echo() {
    const SCRIPT: &str = r#"
import os, pty, sys, termios, time

def ask(first, second):
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.argv[1], [sys.argv[1], "identity", "hash"])
    seen = b""
    answers = [(b"Password: ", first), (b"Once more: ", second)]
    while True:
        try:
            read = os.read(terminal, 4096)
        except OSError:
            break
        if not read:
            break
        seen += read
        if answers and seen.endswith(answers[0][0]):
            # The prompt is printed a moment before the echo is switched off.
            while termios.tcgetattr(terminal)[3] & termios.ECHO:
                time.sleep(0.001)
            os.write(terminal, answers.pop(0)[1] + b"\n")
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), seen

code, seen = ask(b"hunter2", b"hunter2")
assert code == 0 and b"$6$" in seen and b"hunter2" not in seen, (code, seen)
code, seen = ask(b"hunter2", b"hunter3")
assert code == 1 and b"the two passwords differ" in seen and b"hunter" not in seen, (code, seen)
"#;
    let python = tool_or_skip!("python");
    let output = tokio::task::spawn_blocking(|| {
        std::process::Command::new(python)
            .args(["-c", SCRIPT, app::PROGRAM])
            .output()
    })
    .await
    .expect("it does not panic")
    .expect("python runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[tokio::test]
async fn bad_passwords_and_names_are_refused() {
    let pebble = Pebble::start(VERSIONS[1], &[], Options::default()).await;
    for (name, password, words) in [
        ("alice", "", "password empty"),
        ("alice", "\n", "password empty"),
        ("alice", &"x".repeat(129), "password over 128 bytes"),
        ("alice", "a\0b", "NUL byte in password"),
        ("charm", "x", "username charm is Juju's own"),
        ("a.b", "x", "use username"),
    ] {
        run(&pebble, &["identity", "set", name], password)
            .await
            .fails(words);
    }
    assert_eq!(names(&pebble).await, [""; 0]);
}

#[tokio::test]
async fn a_printed_hash_is_one_that_pebble_verifies() {
    for version in VERSIONS {
        let pebble = Pebble::start(version, &[], Options::default()).await;
        let hash = run(&pebble, &["identity", "hash"], "one\n").await.ok();
        let body = json!({"action": "add", "identities": {
            "alice": {"access": "metrics", "basic": {"password": hash.trim_end()}},
        }});
        pebble.api_post("/v1/identities", &body).await;
        assert!(works(&pebble, "alice", "one").await);
        let json = run(&pebble, &["identity", "hash", "--output", "json"], "one")
            .await
            .json();
        assert!(
            json["hash"].as_str().is_some_and(|hash| hash.starts_with("$6$")),
            "{json}"
        );
    }
}

/// The service removes what came from its secret, and nothing that a person set.
#[tokio::test]
async fn what_a_command_has_set_outlives_the_secret() {
    let rig = Rig::start(VERSIONS[0], Setup::default()).await;
    run(&rig.pebble, &["identity", "set", "byhand"], "one").await.ok();
    rig.push_pair("alice", "two");
    rig.wait_works("alice", "two").await;
    let secret = rig.secret().display().to_string();
    let status = run(
        &rig.pebble,
        &["identity", "status", "--secret", &secret, "--output", "json"],
        "",
    )
    .await;
    assert_eq!(status.code, Some(0));
    let status = status.json();
    assert_eq!(status["in_force"], true, "{status}");
    assert_eq!(
        status["identities"],
        json!([
            {"name": "alice", "access": "metrics", "owner": "secret"},
            {"name": "byhand", "access": "metrics", "owner": "by-hand"},
        ])
    );
    run(&rig.pebble, &["identity", "set", "alice"], "three")
        .await
        .fails("it comes from the mounted secret");
    push(&rig.pebble.scratch().join("other"), &pair("alice", "wrong"));
    let other = rig.pebble.scratch().join("other").display().to_string();
    let status = run(&rig.pebble, &["identity", "status", "--secret", &other], "").await;
    assert_eq!(status.code, Some(1));
    assert!(
        status.stdout.contains("Secret:   alice, not in force\n"),
        "{}",
        status.stdout
    );
    std::fs::remove_file(rig.secret()).expect("a folder of this test");
    rig.wait("the secret's identity goes", async || {
        (rig.names().await == ["@_byhand", "byhand"]).then_some(())
    })
    .await;
    rig.passes(3).await;
    assert!(rig.works("byhand", "one").await);
}

#[tokio::test]
async fn a_missing_pebble_is_named() {
    let output = tokio::task::spawn_blocking(|| {
        let env = [("PEBBLE_SOCKET", "/nonexistent/.pebble.socket")];
        (
            app::run(&["identity", "status", "--output", "json"], &env, ""),
            app::run(&["bootstrap"], &env, ""),
            app::run(&["bootstrap", "--print"], &env, ""),
        )
    });
    let (status, bootstrap, print) = output.await.expect("it does not panic");
    assert_eq!(status.status.code(), Some(1));
    let status: Value = serde_json::from_slice(&status.stdout).expect("JSON all the same");
    assert!(
        status["pebble_error"]
            .as_str()
            .is_some_and(|error| error.contains("cannot connect to Pebble at /nonexistent/.pebble.socket")),
        "{status}"
    );
    assert_eq!(bootstrap.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&bootstrap.stderr).contains("cannot connect to Pebble"));
    assert_eq!(print.status.code(), Some(0));
    let print = String::from_utf8_lossy(&print.stdout).into_owned();
    assert!(
        print.contains("# Would add layer metrics-proxy-self\n") && print.contains("metrics-proxy-alive"),
        "{print}"
    );
}

#[tokio::test]
async fn bootstrap_installs_service_and_checks_and_starts_it() {
    for version in VERSIONS {
        let dir = process::fresh_dir();
        symlink(app::PROGRAM, dir.path().join("metrics-proxy")).expect("a fresh folder can be written");
        std::fs::create_dir(dir.path().join("pods")).expect("a fresh folder can be written");
        let path = format!(
            "{}:{}",
            dir.path().display(),
            std::env::var("PATH").unwrap_or_default()
        );
        let pods = dir.path().join("pods").display().to_string();
        let options = Options::default()
            .hold()
            .env("PATH", &path)
            .env("METRICS_PROXY_PODS_FILE", &pods);
        let pebble = Pebble::start(version, &[], options).await;
        let port = process::free_port().to_string();
        let args = ["bootstrap", "--port", &port, "--output", "json"];
        let shown = run(&pebble, &[args.as_slice(), &["--print"]].concat(), "")
            .await
            .json();
        assert_eq!(shown["done"], false);
        assert_eq!(pebble.plan().await, json!({}), "only shown");
        let installed = run(&pebble, &args, "").await.json();
        assert_eq!(installed["done"], true);
        assert_eq!(installed["tasks"], shown["tasks"]);
        let actions: Vec<_> = shown["tasks"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|task| task["action"].as_str().unwrap_or_default().to_owned())
            .collect();
        assert_eq!(actions, ["add-layer", "add-layer", "start-service"]);
        assert_eq!(pebble.service_state("metrics-proxy").await, "active");
        let log = || process::tail("pebble", &pebble.log());
        wait_for("it is ready", LIMIT, log, async || {
            let refreshed = pebble
                .api_post("/v1/checks/refresh", &json!({"name": "metrics-proxy-ready"}))
                .await;
            refreshed["result"]["error"].is_null().then_some(())
        })
        .await;
        let pid = pebble.service_pid("metrics-proxy").expect("it runs");
        let again = run(&pebble, &args, "").await.json();
        assert_eq!(
            again["tasks"],
            json!([{"action": "keep-service", "service": "metrics-proxy"}])
        );
        let text = run(&pebble, &["bootstrap", "--port", &port], "").await.ok();
        assert!(text.contains("# Nothing to do"), "{text}");
        assert_eq!(pebble.service_pid("metrics-proxy"), Some(pid));
        assert_eq!(
            pebble.log().matches("Adding layer metrics-proxy-self").count(),
            1,
            "the service found the same bytes"
        );
    }
}

/// The charm's own service stays as it is.
#[tokio::test]
async fn bootstrap_keeps_the_charms_service() {
    let pebble = Pebble::start(VERSIONS[0], &[], Options::default().hold()).await;
    let charms = "services:\n  metrics-proxy:\n    override: replace\n    command: sleep 1000\n    startup: disabled\n";
    pebble.add_layer("metrics-proxy", true, charms).await;
    run(&pebble, &["bootstrap"], "").await.ok();
    let plan = pebble.plan().await;
    assert_eq!(plan["services"]["metrics-proxy"]["command"], "sleep 1000");
    assert_eq!(pebble.service_state("metrics-proxy").await, "active");
    assert_eq!(plan["checks"].as_object().map(serde_json::Map::len), Some(3));
    let later = "checks:\n  metrics-proxy-alive:\n    override: replace\n    exec: {command: 'true'}\n";
    pebble.add_layer("later", true, later).await;
    run(&pebble, &["bootstrap"], "")
        .await
        .fails("a later layer of the plan defines checks of the same names: metrics-proxy-alive");
}
