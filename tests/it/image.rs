//! The image, assembled without rockcraft and run in isolation: Pebble as PID 1, its own network, a mounted secret.
//!
//! `tools/image` and `tools/run-image` do the work; both need root and Debian's buildah, and where either is missing these
//! tests are skipped by name. The program in it is the one that Cargo built for these tests, with its libraries; the
//! release (`tools/release`) has the same inside as one static file.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::app::PROGRAM;
use crate::support::kube::NewPod;
use crate::support::process::{self, Process, Signal};
use crate::support::tools::{self, tool_or_skip};

const LIMIT: Duration = Duration::from_secs(40);
/// How deploy/ starts the image, for Pebble's own flags.
const PEBBLE: &str = "/usr/bin/pebble enter --verbose --http :38813";
/// The uid of _daemon_, the user of the image.
const DAEMON: u32 = 584_792;
const BINARY: &str = "/usr/bin/pebble ";

fn tool(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tools").join(name)
}

/// Skips the test where this machine cannot run the image.
macro_rules! root_or_skip {
    () => {
        let _python = tool_or_skip!("python");
        let buildah = tool_or_skip!("buildah");
        if let Err(missing) = isolation() {
            fn here() {}
            tools::skipped(std::any::type_name_of_val(&here), &missing);
            return;
        }
        let _ = buildah;
    };
}

/// Whether namespaces can be made here.
fn isolation() -> Result<(), tools::Missing> {
    let tried = Command::new("unshare")
        .args(["--mount", "--pid", "--net", "--fork", "--mount-proc", "true"])
        .output();
    match tried {
        Ok(output) if output.status.success() => Ok(()),
        _ => Err(tools::Missing::because(
            "image: cannot make namespaces; run as root, with unshare and nsenter (util-linux)",
        )),
    }
}

/// The image with the program of these tests, in a folder of its own.
fn image() -> TempDir {
    let dir = process::fresh_dir();
    let output = Command::new(tool("image"))
        .arg(PROGRAM)
        .arg(tools::path("pebble-1.32"))
        .arg(dir.path())
        .output()
        .unwrap_or_else(|e| panic!("cannot run tools/image: {e}"));
    assert!(
        output.status.success(),
        "tools/image: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    dir
}

struct Running {
    process: Process,
    /// The image, what is mounted into it, and the log.
    dir: TempDir,
}

impl Running {
    /// Runs the image with a mounted secret and one pod from a file. Pebble responds when this returns.
    async fn start(options: &[&str]) -> Self {
        Self::with(options, true).await
    }

    /// As `deploy/` starts it, with Pebble's own flags in place of the entrypoint.
    async fn with(options: &[&str], pods: bool) -> Self {
        let options = [&["--entrypoint", PEBBLE], options].concat();
        let mut running = Self::spawn(&options, &[], pods);
        running
            .wait(
                "Pebble responds",
                |answer| answer.0 == 200,
                38813,
                "/v1/health",
                None,
            )
            .await;
        running
    }

    fn spawn(options: &[&str], arguments: &[&str], pods: bool) -> Self {
        let dir = image();
        let mounted = dir.path().join("mounted");
        std::fs::create_dir_all(mounted.join("secret")).expect("a fresh folder can be written");
        for (key, value) in [("username", "prometheus"), ("password", "mounted\n")] {
            let file = mounted.join("secret").join(key);
            std::fs::write(&file, value).expect("a fresh folder can be written");
            if !options.contains(&"--uid") {
                // As the kubelet mounts a Secret with `defaultMode: 0440` and `fsGroup`.
                std::os::unix::fs::chown(&file, Some(0), Some(DAEMON)).expect("this test runs as root");
                std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o440))
                    .expect("our own file");
            }
        }
        // Nothing listens at its address: the test needs a target that is known and reported.
        let pod = NewPod::scraped("web-0", ([127, 0, 0, 1], 9).into())
            .label("app", "web")
            .printed("shop");
        std::fs::write(mounted.join("pods.json"), pod.to_string()).expect("a fresh folder can be written");
        for path in [&mounted, &mounted.join("secret")] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("our own folder");
        }
        let mut command = Command::new(tool("run-image"));
        command
            .arg(dir.path())
            .args(options)
            .arg("--volume")
            .arg(format!("{}:/etc/metrics-proxy", mounted.display()))
            .args(["--env", "METRICS_SECRET_PATH=/etc/metrics-proxy/secret"]);
        if pods {
            command.args(["--env", "METRICS_PROXY_PODS_FILE=/etc/metrics-proxy/pods.json"]);
        }
        command.arg("--").args(arguments);
        let process =
            Process::spawn("run-image", command, &dir.path().join("log")).with_grace(Duration::from_secs(8));
        Self { process, dir }
    }

    /// The pid of Pebble outside of the image's namespaces.
    fn pebble(&self) -> Option<u32> {
        let mut all = process::descendants(self.process.pid()).into_iter();
        all.find(|pid| process::command_line(*pid).starts_with(BINARY))
    }

    /// A GET in the image's own network.
    fn get(&self, port: u16, path: &str, credential: Option<&str>) -> (u16, String) {
        const ASK: &str = "import base64, sys, urllib.request as r, urllib.error as e\n\
             q = r.Request(sys.argv[1])\n\
             if sys.argv[2]: q.add_header('Authorization', 'Basic ' + base64.b64encode(sys.argv[2].encode()).decode())\n\
             try: a = r.urlopen(q, timeout=10)\n\
             except e.HTTPError as x: a = x\n\
             except OSError as x: print('0'); print(x); sys.exit()\n\
             print(a.status); sys.stdout.write(a.read().decode())\n";
        let Some(pid) = self.pebble() else {
            return (0, "no Pebble yet".to_owned());
        };
        let output = Command::new("nsenter")
            .args(["--net", "--target", &pid.to_string()])
            .arg(tools::path("python"))
            .args([
                "-c",
                ASK,
                &format!("http://localhost:{port}{path}"),
                credential.unwrap_or_default(),
            ])
            .output()
            .unwrap_or_else(|e| panic!("cannot run nsenter: {e}"));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (status, body) = text.split_once('\n').unwrap_or(("0", ""));
        (status.parse().unwrap_or(0), body.to_owned())
    }

    async fn wait(
        &mut self,
        what: &str,
        wanted: impl Fn(&(u16, String)) -> bool,
        port: u16,
        path: &str,
        credential: Option<&str>,
    ) -> String {
        let log = || self.process.log_tail();
        process::wait_for(what, LIMIT, log, async || {
            let answer = self.get(port, path, credential);
            wanted(&answer).then_some(answer.1)
        })
        .await
    }

    /// The output of the image's own `pebble` in the image.
    fn run_pebble(&self, args: &[&str], dir: &str) -> String {
        let pid = self.pebble().expect("Pebble runs").to_string();
        let output = Command::new("nsenter")
            .args(["--net", "--mount", "--pid", "--root", "--target", &pid, "--"])
            .args(["/usr/bin/pebble"])
            .args(args)
            .env_clear()
            .env("PEBBLE", dir)
            .output()
            .unwrap_or_else(|e| panic!("cannot run nsenter: {e}"));
        format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    }

    /// Everything that the image must do as any user.
    async fn does_its_work(&mut self, pebble_dir: &str) {
        self.wait("the program responds", |a| a.0 == 200, 15090, "/healthz", None)
            .await;
        self.wait(
            "the mounted secret opens Pebble's metrics",
            |a| a.0 == 200 && a.1.contains("pebble_service_active"),
            38813,
            "/v1/metrics",
            Some("prometheus:mounted"),
        )
        .await;
        assert_eq!(self.get(38813, "/v1/metrics", None).0, 401);
        assert_eq!(self.get(38813, "/v1/metrics", Some("prometheus:wrong")).0, 401);
        self.wait("everything is done", |a| a.0 == 200, 15090, "/readyz", None)
            .await;
        let (status, metrics) = self.get(15090, "/metrics", None);
        assert_eq!(status, 200, "{metrics}");
        assert!(
            metrics.contains("up{k8s_pod_name=\"web-0\",k8s_namespace=\"shop\"} 0"),
            "{metrics}"
        );
        let services = self.run_pebble(&["services"], pebble_dir);
        assert!(
            services
                .lines()
                .any(|line| line.starts_with("metrics-proxy") && line.contains("active")),
            "{services}"
        );
        for check in [
            "metrics-proxy-alive",
            "metrics-proxy-identity",
            "metrics-proxy-ready",
        ] {
            let refreshed = self.run_pebble(&["check", check, "--refresh"], pebble_dir);
            assert!(refreshed.contains("status: up"), "{check}: {refreshed}");
        }
    }

    /// SIGTERM to Pebble, as the kubelet sends it.
    fn stops(&mut self) {
        self.terminate();
        let log = self.process.log();
        assert!(
            log.contains("Stopped"),
            "the program ended by itself, in time: {log}"
        );
    }

    fn terminate(&mut self) {
        let pid = self.pebble().expect("Pebble runs");
        let raw = rustix::process::Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("not 0");
        rustix::process::kill_process(raw, Signal::TERM).expect("it runs");
        let status = self.process.wait(Duration::from_secs(8));
        assert!(status.success(), "{status}\n{}", self.process.log_tail());
    }
}

#[tokio::test]
async fn the_image_runs_as_root_as_juju_runs_it() {
    root_or_skip!();
    let mut running = Running::start(&["--uid", "0"]).await;
    running.does_its_work("/var/lib/pebble/default").await;
    running.stops();
}

#[tokio::test]
async fn the_image_runs_as_its_own_user_with_a_secret_of_mode_0440_and_the_default_layers() {
    root_or_skip!();
    let mut running = Running::start(&[]).await;
    let status = std::fs::read_to_string(format!("/proc/{}/status", running.pebble().expect("it runs")))
        .expect("its status");
    assert!(status.contains("Uid:\t584792\t584792"), "{status}");
    running.does_its_work("/var/lib/pebble/default").await;
    running.stops();
}

#[tokio::test]
async fn arguments_reach_the_program_as_in_the_deployment_of_the_go_program() {
    root_or_skip!();
    for (selector, served) in [("--labels=app=web", true), ("--labels=app=other", false)] {
        let mut running = Running::spawn(&[], &[selector], true);
        let metrics = running
            .wait("it serves", |a| a.0 == 200, 15090, "/metrics", None)
            .await;
        assert_eq!(
            metrics.contains("up{k8s_pod_name=\"web-0\""),
            served,
            "{selector}: {metrics}"
        );
        // Without --verbose Pebble does not pass the program's log on.
        running.terminate();
    }
}

#[tokio::test]
async fn the_image_runs_with_a_read_only_root_and_any_uid_as_deploy_has_it() {
    root_or_skip!();
    let options = [
        "--uid",
        "1234567",
        "--read-only",
        "--env",
        "PEBBLE=/run/pebble",
        "--env",
        "PEBBLE_COPY_ONCE=/var/lib/pebble/default",
    ];
    let mut running = Running::start(&options).await;
    let status = std::fs::read_to_string(format!("/proc/{}/status", running.pebble().expect("it runs")))
        .expect("its status");
    assert!(status.contains("Uid:\t1234567\t1234567"), "{status}");
    running.does_its_work("/run/pebble").await;
    // Read-only it is: the image's own folder was not written to.
    let state = running
        .dir
        .path()
        .join("rootfs/var/lib/pebble/default/.pebble.state");
    assert!(!state.exists());
    running.stops();
}

#[tokio::test]
async fn without_a_selector_the_image_starts_and_reports_it() {
    root_or_skip!();
    let mut running = Running::with(&[], false).await;
    let said = running
        .wait(
            "it reports what is missing",
            |a| a.0 == 503,
            15090,
            "/readyz",
            None,
        )
        .await;
    assert!(said.starts_with("selector: "), "{said}");
    assert_eq!(running.get(15090, "/healthz", None).0, 200);
    running.stops();
}

#[test]
fn the_image_is_an_oci_image_with_pebble_as_its_entrypoint() {
    root_or_skip!();
    let dir = image();
    let blob = |digest: &Value| -> Value {
        let digest = digest.as_str().expect("a digest").replace(':', "/");
        let bytes = std::fs::read(dir.path().join("oci/blobs").join(digest)).expect("the blob is there");
        serde_json::from_slice(&bytes).expect("it is JSON")
    };
    let index: Value =
        serde_json::from_slice(&std::fs::read(dir.path().join("oci/index.json")).expect("an OCI layout"))
            .expect("it is JSON");
    let manifest = blob(&index["manifests"][0]["digest"]);
    let config = blob(&manifest["config"]["digest"]);
    assert_eq!(
        config["config"]["Entrypoint"],
        serde_json::json!(["/usr/bin/pebble", "enter", "--args", "metrics-proxy"])
    );
    assert_eq!(config["config"]["User"], "_daemon_");
    assert_eq!(manifest["layers"].as_array().map(Vec::len), Some(1));
    // buildah runs what is in it, from the image's own layers.
    let container = std::fs::read_to_string(dir.path().join("container")).expect("tools/image wrote it");
    let output = Command::new(tools::path("buildah"))
        .arg("--root")
        .arg(dir.path().join("storage"))
        .arg("--runroot")
        .arg(dir.path().join("run"))
        .args([
            "--storage-driver",
            "vfs",
            "run",
            "--isolation",
            "chroot",
            "--user",
            "584792",
        ])
        .arg(container.trim())
        .args(["--", "/usr/bin/metrics-proxy", "--version"])
        .env("HOME", dir.path())
        .output()
        .unwrap_or_else(|e| panic!("cannot run buildah: {e}"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        said.contains(env!("CARGO_PKG_VERSION")),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
