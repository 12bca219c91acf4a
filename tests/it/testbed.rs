//! The real parts start, answer, and end: each test proves one fact about one of them.

use std::time::Duration;

use serde_json::json;

use crate::support::kube::{Cluster, NewPod, Scope, UNTRUSTED};
use crate::support::pebble::{self, Options, Pebble};
use crate::support::pod::{self, Answer, NodeExporter, Pod};
use crate::support::process;
use crate::support::prometheus::{self, Prometheus, promtool_check_metrics};
use crate::support::tools::{self, tool_or_skip};
use crate::support::{app, http};

const SOON: Duration = Duration::from_secs(20);

const SLEEPER: &str = "
summary: a service that sleeps
services:
  sleeper:
    override: replace
    startup: enabled
    command: sleep 86399
";

async fn each_pebble(test: impl AsyncFn(&'static str)) {
    for version in pebble::VERSIONS {
        test(version).await;
    }
}

#[tokio::test]
async fn pebble_says_its_pinned_version() {
    each_pebble(async |version| {
        let pebble = Pebble::start(version, &[], Options::default()).await;
        let info = pebble.api_get("/v1/system-info").await;
        let said = info["version"].as_str().expect("a version").to_owned();
        assert!(
            said.starts_with(&version.replace("pebble-", "v")),
            "{version} says {said}"
        );
        assert!(
            info["http-address"]
                .as_str()
                .expect("it listens")
                .ends_with(&pebble.port().to_string())
        );
        assert_eq!(pebble.http("/v1/services", None).await.status, 401);
        assert_eq!(pebble.cli_text(&["version", "--client"]).trim(), said);
    })
    .await;
}

#[tokio::test]
async fn pebble_holds_services_until_a_replan_and_takes_layers() {
    each_pebble(async |version| {
        let layers = [("001-sleeper.yaml", SLEEPER)];
        let pebble = Pebble::start(version, &layers, Options::default().hold().without_http()).await;
        assert_eq!(pebble.service_state("sleeper").await, "inactive");
        assert_eq!(pebble.replan().await["status"], "Done");
        assert_eq!(pebble.service_state("sleeper").await, "active");
        let running = pebble.service_pid("sleep 86399").expect("Pebble runs it");

        let check = "checks: {probe: {override: replace, period: 200ms, exec: {command: 'true'}}}";
        pebble.add_layer("later", true, check).await;
        pebble.replan().await;
        assert_eq!(pebble.wait_check("probe", "up", SOON).await["name"], "probe");
        assert_eq!(pebble.plan().await["checks"]["probe"]["period"], "200ms");
        assert_eq!(
            pebble.service_pid("sleep 86399"),
            Some(running),
            "{}",
            pebble.log()
        );

        assert_eq!(pebble.stop_services(&["sleeper"]).await["status"], "Done");
        assert_eq!(pebble.service_state("sleeper").await, "inactive");
    })
    .await;
}

#[tokio::test]
async fn pebble_restarts_in_its_folder_and_a_killed_one_leaves_nothing_behind() {
    each_pebble(async |version| {
        let layers = [("001-sleeper.yaml", SLEEPER)];
        let mut pebble = Pebble::start(version, &layers, Options::default()).await;
        pebble.wait_service("sleeper", "active", SOON).await;
        let first = pebble
            .service_pid("sleep 86399")
            .expect("it has startup: enabled");
        let port = pebble.port();
        pebble.restart().await;
        assert_eq!(pebble.port(), port);
        pebble.wait_service("sleeper", "active", SOON).await;
        let second = pebble.service_pid("sleep 86399").expect("started anew");
        assert_ne!(first, second);
        assert_eq!(process::command_line(first), "");

        let orphans = pebble.kill_alone();
        assert!(orphans.contains(&second) && !process::command_line(second).is_empty());
        pebble.restart().await;
        pebble.wait_service("sleeper", "active", SOON).await;
        let third = pebble
            .service_pid("sleep 86399")
            .expect("started beside the orphan");
        pebble.kill();
        drop(pebble);
        for pid in [second, third] {
            gone(pid).await;
        }
    })
    .await;
}

/// Runs itself once more as a test run that is aborted in the middle, where no drop happens.
#[tokio::test]
async fn an_aborted_test_run_leaves_no_process_and_no_folder_behind() {
    const NOTE: &str = "METRICS_PROXY_IT_ABORTED_NOTE";
    if let Some(note) = std::env::var_os(NOTE) {
        let dir = process::fresh_dir();
        let mut command = std::process::Command::new("sleep");
        command.arg("86398");
        let child = process::Process::spawn("sleep", command, &dir.path().join("log"));
        std::fs::write(note, format!("{} {}", child.pid(), dir.path().display()))
            .expect("the note is written");
        std::process::abort();
    }
    let dir = process::fresh_dir();
    let note = dir.path().join("note");
    let run = std::process::Command::new(std::env::current_exe().expect("this test run has a program"))
        .args([
            "--exact",
            "testbed::an_aborted_test_run_leaves_no_process_and_no_folder_behind",
        ])
        .env(NOTE, &note)
        .output()
        .expect("a test run starts");
    assert!(!run.status.success());
    let text = std::fs::read_to_string(note).expect("it got as far as its note");
    let (pid, folder) = text.split_once(' ').expect("a pid and a folder");
    gone(pid.parse().expect("a pid")).await;
    process::wait_for("its folder has gone", SOON, String::new, async || {
        (!std::path::Path::new(folder).exists()).then_some(())
    })
    .await;
}

/// Waits until a killed process has gone (init may take a moment to collect it).
async fn gone(pid: u32) {
    let line = || process::command_line(pid);
    process::wait_for("a killed process has gone", SOON, line, async || {
        line().is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_api_server_lists_and_deletes_a_pod_that_was_made() {
    let cluster = Cluster::shared().await;
    let namespace = cluster.namespace().await;
    let pod = NewPod::scraped("one", "127.9.8.7:9100".parse().expect("an address"))
        .label("app", "x")
        .port("metrics", 9100)
        .start_time("2026-01-02T03:04:05Z");
    let made = cluster.create_pod(&namespace, &pod).await;
    assert_eq!(made["status"]["podIP"], "127.9.8.7");
    let path = format!("/api/v1/namespaces/{namespace}/pods?labelSelector=app%3Dx");
    let listed = cluster.request("GET", &path, None).await;
    assert_eq!(listed["items"][0]["metadata"]["uid"], made["metadata"]["uid"]);
    assert_eq!(listed["items"][0]["status"]["phase"], "Running");
    assert_eq!(
        listed["items"][0]["spec"]["containers"][0]["ports"][0]["name"],
        "metrics"
    );

    let removed = json!({"metadata": {"annotations": {"prometheus.io/scrape": null}}});
    let patched = cluster.patch_pod(&namespace, "one", &removed).await;
    assert_eq!(
        patched["metadata"]["annotations"],
        json!({"prometheus.io/port": "9100"})
    );

    cluster.terminate_pod(&namespace, "one", 30).await;
    let listed = cluster.request("GET", &path, None).await;
    assert!(listed["items"][0]["metadata"]["deletionTimestamp"].is_string());
    cluster.delete_pod(&namespace, "one").await;
    assert_eq!(cluster.request("GET", &path, None).await["items"], json!([]));
}

#[tokio::test]
async fn a_service_account_has_the_rights_that_it_was_given() {
    let cluster = Cluster::shared().await;
    let namespace = cluster.namespace().await;
    let token = cluster.service_account(&namespace, "proxy").await;
    // Through a kubeconfig and with the certificate verified, as the program does.
    let kubeconfig =
        kube::config::Kubeconfig::read_from(cluster.kubeconfig(&token, None)).expect("it is one");
    let options = kube::config::KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options)
        .await
        .expect("a whole kubeconfig");
    assert!(!config.accept_invalid_certs);
    let client = kube::Client::try_from(config).expect("a client");
    let list = async |path: String| {
        let request = http_request(&path);
        match client.request::<serde_json::Value>(request).await {
            Ok(_) => 200,
            Err(kube::Error::Api(status)) => status.code,
            Err(other) => panic!("{other}"),
        }
    };
    let own = format!("/api/v1/namespaces/{namespace}/pods");
    assert_eq!(list(own.clone()).await, 403);
    let granted = cluster
        .grant(&namespace, "proxy", Scope::Namespace, UNTRUSTED)
        .await;
    let wait_for = async |path: &str, code: u16| {
        let what = format!("GET {path} answers {code}");
        process::wait_for(&what, SOON, String::new, async || {
            (list(path.to_owned()).await == code).then_some(())
        })
        .await;
    };
    wait_for(&own, 200).await;
    assert_eq!(list(format!("{own}?watch=true&timeoutSeconds=1")).await, 403);
    assert_eq!(list("/api/v1/pods".to_owned()).await, 403);
    cluster.revoke(granted).await;
    wait_for(&own, 403).await;
    cluster
        .grant(
            &namespace,
            "proxy",
            Scope::Cluster,
            &[("pods", &["list", "watch"])],
        )
        .await;
    wait_for("/api/v1/pods", 200).await;
}

fn http_request(path: &str) -> ::http::Request<Vec<u8>> {
    ::http::Request::get(path).body(Vec::new()).expect("a path")
}

#[tokio::test]
async fn an_api_server_of_its_own_is_killed_and_comes_back_on_its_port_with_its_pods() {
    let mut cluster = Cluster::start().await;
    let namespace = cluster.namespace().await;
    cluster.create_pod(&namespace, &NewPod::pending("kept")).await;
    let url = cluster.url();
    cluster.kill_api_server();
    assert!(!cluster.is_ready().await);
    cluster.start_api_server().await;
    assert_eq!(cluster.url(), url);
    let path = format!("/api/v1/namespaces/{namespace}/pods/kept");
    assert_eq!(
        cluster.request("GET", &path, None).await["status"]["phase"],
        "Pending"
    );
    cluster.stop_api_server();
}

#[tokio::test]
async fn prometheus_3_scrapes_node_exporter_and_a_hanging_pod_is_down() {
    prometheus_scrapes(&tools::path("prometheus"), "Prometheus/3.16.0").await;
}

#[tokio::test]
async fn prometheus_2_42_scrapes_node_exporter_and_a_hanging_pod_is_down() {
    prometheus_scrapes(&tool_or_skip!("prometheus-2.42"), "Prometheus/2.42.0").await;
}

async fn prometheus_scrapes(program: &std::path::Path, agent: &str) {
    let node = NodeExporter::start(pod::address()).await;
    let pod = Pod::serving("# TYPE a counter\na{b=\"c\"} 1\n").await;
    let hanging = Pod::start(Answer::hang()).await;
    let jobs = [
        prometheus::job("node", node.address),
        prometheus::job("pod", pod.address),
        prometheus::job("hanging", hanging.address),
    ];
    let mut server = Prometheus::start(program, &jobs).await;
    server.wait_target("node", "up", SOON).await;
    server.wait_target("pod", "up", SOON).await;
    assert_eq!(
        server.wait_target("hanging", "down", SOON).await["labels"]["job"],
        "hanging"
    );
    assert_eq!(
        server
            .wait_value("up{job=\"hanging\"}", SOON, |value| value == "0")
            .await,
        "0"
    );
    server
        .wait_value("node_exporter_build_info", SOON, |value| value == "1")
        .await;
    let series = server.series("a").await;
    assert_eq!(series.len(), 1, "{series:?}");
    assert_eq!(series[0]["b"], "c");
    assert_eq!(server.metadata().await["a"][0]["type"], "counter");
    let request = pod.requests().pop().expect("it was scraped");
    assert!(request.header("user-agent").starts_with(agent), "{request:?}");
    assert_eq!(request.header("x-prometheus-scrape-timeout-seconds"), "1");
    // Prometheus gives up after its second, and the pod sees that.
    process::wait_for("a scrape is given up", SOON, String::new, async || {
        (hanging.hangups() > 0).then_some(())
    })
    .await;
}

#[test]
fn promtool_3_refuses_what_cannot_be_read_and_only_that() {
    promtool_judges(&tools::path("promtool"));
}

#[test]
fn promtool_2_42_refuses_what_cannot_be_read_and_only_that() {
    promtool_judges(&tool_or_skip!("promtool-2.42"));
}

fn promtool_judges(program: &std::path::Path) {
    assert_eq!(
        promtool_check_metrics(program, "# HELP a_total A.\n# TYPE a_total counter\na_total 1\n"),
        Ok(())
    );
    // Lint: no HELP, and a counter without `_total`.
    assert_eq!(promtool_check_metrics(program, "# TYPE a counter\na 1\n"), Ok(()));
    for bad in [
        "a{b=\"c} 1\n",
        "a one\n",
        "<html>\n",
        "# TYPE a counter\n# TYPE a gauge\na 1\n",
    ] {
        let refused = promtool_check_metrics(program, bad).expect_err(bad);
        assert!(
            refused.contains("line") || refused.contains("pars"),
            "{bad}: {refused}"
        );
    }
}

#[test]
fn the_reference_parser_of_python_reads_text() {
    let _python = tool_or_skip!("python");
    let output = std::process::Command::new(tools::path("python"))
        .args(["-c", "from prometheus_client.parser import text_string_to_metric_families as p; print(len(list(p('a 1\\n'))))"])
        .output()
        .expect("python runs");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "1");
}

#[tokio::test]
async fn a_pod_answers_by_its_script_and_remembers_what_it_was_asked() {
    let pod = Pod::serving("a 1\n").await;
    let ask = async |limit_ms| {
        let limit = Duration::from_millis(limit_ms);
        http::get(pod.address, "/metrics?x=y")
            .header("Accept", "text/plain")
            .limit(limit)
            .send()
            .await
    };
    let answer = ask(5000).await.expect("an answer");
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, "a 1\n"));
    assert_eq!(answer.header("content-type"), pod::TEXT);
    assert_eq!(pod.requests()[0].path, "/metrics?x=y");
    assert_eq!(pod.requests()[0].header("accept"), "text/plain");

    pod.set(Answer::text("a 1\n").gzip());
    let answer = ask(5000).await.expect("an answer");
    assert_eq!(
        (answer.header("content-encoding"), &answer.body[..2]),
        ("gzip", &[0x1f, 0x8b][..])
    );
    pod.set(Answer::redirect("/other"));
    assert_eq!(ask(5000).await.expect("an answer").header("location"), "/other");
    pod.set(Answer::text("abc").drip(1, Duration::from_millis(1)));
    assert_eq!(ask(5000).await.expect("an answer").text(), "abc");
    for broken in [
        Answer::text("abc").truncated(2),
        Answer::text("abc").reset_after(2),
        Answer::raw("HTP\n"),
    ] {
        pod.set(broken.clone());
        let error = ask(5000).await.expect_err("a broken answer").0;
        assert!(!error.contains("no answer in"), "{broken:?}: {error}");
    }
    let hangups = pod.hangups();
    for late in [
        Answer::hang(),
        Answer::text("abc").stuck_after(2),
        Answer::text("a").after(SOON),
    ] {
        pod.set(late);
        assert!(
            ask(50)
                .await
                .expect_err("it does not end")
                .0
                .contains("no answer in 50ms")
        );
    }
    process::wait_for(
        "the pod sees that its clients went away",
        SOON,
        String::new,
        async || (pod.hangups() == hangups + 3 && pod.answering() == 0).then_some(()),
    )
    .await;
    assert_eq!(pod.connections(), pod.requests().len());
}

#[test]
fn the_program_that_cargo_built_runs() {
    let output = app::run(&["--version"], &[], "");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
