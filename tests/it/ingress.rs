//! The Ingress rules of `deploy/`, in a real nginx in front of a real Pebble and of a stand-in for the proxy.
//!
//! There is no cluster with an ingress controller here: the rules are written into nginx' own configuration the way that
//! ingress-nginx writes them (an `Exact` path is a `location =`, `rewrite-target` a `rewrite … break` in it).

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::json;

use crate::deploy::manifests;
use crate::support::http as client;
use crate::support::pebble::{self, Options, Pebble};
use crate::support::pod::{Answer, Pod};
use crate::support::process::{self, Process};
use crate::support::tools::tool_or_skip;

/// The sha512-crypt of `opensesame`, as `openssl passwd -6` writes it.
const HASH: &str = "$6$abcdefghijklmnop$gB78i3SFhHdktPpQ53FQztikszzGMJnAKI09Jhj5BtX3o8yYCNRRoShAx0BLfUfTUB22LXyFhynEUi/u8ecRC/";
const USER: &str = "prometheus";
const PASSWORD: &str = "opensesame";

/// The `location`s that ingress-nginx makes of an Ingress, its backend being at `backend`.
fn locations(file: &str, backend: SocketAddr, htpasswd: &Path) -> String {
    let mut text = String::new();
    for ingress in manifests(file) {
        let annotation = |name: &str| {
            ingress["metadata"]["annotations"][format!("nginx.ingress.kubernetes.io/{name}")]
                .as_str()
                .map(str::to_owned)
        };
        assert_eq!(
            annotation("force-ssl-redirect").as_deref(),
            Some("true"),
            "no password in clear"
        );
        for rule in ingress["spec"]["rules"].as_array().expect("a list") {
            for path in rule["http"]["paths"].as_array().expect("a list") {
                let from = path["path"].as_str().expect("a path");
                // Anything else would need the rest of ingress-nginx' rules here, and publishes more than one path.
                assert_eq!(path["pathType"], "Exact", "{file}: {from}");
                let _ = writeln!(text, "    location = \"{from}\" {{");
                if let Some(target) = annotation("rewrite-target") {
                    let _ = writeln!(text, "      rewrite \"(?i){from}\" {target} break;");
                }
                if annotation("auth-type").as_deref() == Some("basic") {
                    let _ = write!(
                        text,
                        "      auth_basic closed;\n      auth_basic_user_file {};\n      proxy_set_header Authorization \"\";\n",
                        htpasswd.display()
                    );
                }
                let _ = write!(
                    text,
                    "      proxy_set_header Host $http_host;\n      proxy_http_version 1.1;\n      \
                     proxy_pass http://{backend};\n    }}\n"
                );
            }
        }
    }
    text
}

struct Nginx {
    address: SocketAddr,
    _process: Process,
    _dir: tempfile::TempDir,
}

impl Nginx {
    /// With both Ingresses, and the response of ingress-nginx for every other path.
    async fn start(program: &Path, pebble: SocketAddr, proxy: SocketAddr) -> Self {
        let dir = process::fresh_dir();
        let at = dir.path();
        std::fs::write(at.join("htpasswd"), format!("scraper:{HASH}\n")).expect("a fresh folder");
        let user = if rustix::process::getuid().is_root() {
            "user root;"
        } else {
            ""
        };
        loop {
            let address = process::free_address();
            let config = format!(
                "daemon off;\n{user}\npid {at}/pid;\nerror_log stderr;\nworker_processes 1;\nevents {{}}\nhttp {{\n  \
                 access_log off;\n  client_body_temp_path {at}/body;\n  proxy_temp_path {at}/proxy;\n  \
                 fastcgi_temp_path {at}/fastcgi;\n  uwsgi_temp_path {at}/uwsgi;\n  scgi_temp_path {at}/scgi;\n  \
                 server {{\n    listen {address};\n{}{}    location / {{ return 404; }}\n  }}\n}}\n",
                locations("ingress-pebble-metrics.yaml", pebble, &at.join("htpasswd")),
                locations("ingress-metrics.yaml", proxy, &at.join("htpasswd")),
                at = at.display(),
            );
            std::fs::write(at.join("nginx.conf"), config).expect("a fresh folder can be written");
            let mut command = Command::new(program);
            command
                .arg("-p")
                .arg(at)
                .arg("-c")
                .arg(at.join("nginx.conf"))
                .args(["-e", "stderr"]);
            let mut process = Process::spawn("nginx", command, &at.join("log"));
            let is_up = async || client::get(address, "/").send().await.is_ok();
            if process
                .wait_until_up("nginx responds", Duration::from_secs(20), is_up)
                .await
            {
                return Self {
                    address,
                    _process: process,
                    _dir: dir,
                };
            }
        }
    }

    async fn status(&self, method: Method, path: &str, basic: Option<(&str, &str)>) -> (StatusCode, String) {
        let mut request = client::request(method, self.address, path);
        if let Some((user, password)) = basic {
            request = request.basic(user, password);
        }
        let answer = request.send().await.unwrap_or_else(|e| panic!("{e}"));
        (answer.status, answer.text())
    }
}

#[tokio::test]
async fn the_ingress_lets_pebbles_metrics_through_and_nothing_else() {
    let nginx = tool_or_skip!("nginx");
    for version in pebble::VERSIONS {
        let layer = "services: {sleeper: {override: replace, startup: enabled, command: sleep 86399}}";
        let pebble = Pebble::start(version, &[("001-sleeper.yaml", layer)], Options::default()).await;
        let identity = json!({USER: {"access": "metrics", "basic": {"password": HASH}}});
        pebble
            .api_post(
                "/v1/identities",
                &json!({"action": "replace", "identities": identity}),
            )
            .await;
        let proxy = Pod::start(Answer::text("up 1\n")).await;
        let front = Nginx::start(
            &nginx,
            ([127, 0, 0, 1], pebble.port()).into(),
            (proxy.ip(), proxy.port()).into(),
        )
        .await;
        let credential = Some((USER, PASSWORD));

        let (status, body) = front
            .status(Method::GET, "/my-charm/v1/metrics", credential)
            .await;
        assert_eq!(status, StatusCode::OK, "{version}: {body}");
        assert!(
            body.contains("pebble_service_active{service=\"sleeper\"} 1"),
            "{version}: {body}"
        );
        for basic in [None, Some((USER, "wrong")), Some(("scraper", PASSWORD))] {
            let (status, body) = front.status(Method::GET, "/my-charm/v1/metrics", basic).await;
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{version} {basic:?}: {body}");
        }
        // Pebble serves health and system-info to anyone, so a refusal shows that no other path passes.
        for path in [
            "/my-charm/v1/services",
            "/my-charm/v1/files?action=read&path=/etc/passwd",
            "/my-charm/v1/health",
            "/my-charm/v1/system-info",
            "/my-charm/v1/identities",
            "/my-charm/v1/metrics/",
            "/my-charm/v1/metrics/../services",
            "/my-charm/v1/metrics/..%2fhealth",
            "/my-charm/v1/metrics%2f..%2fhealth",
            "/my-charm/v1/metricsx",
            "/my-charm/",
            "/v1/metrics",
            "/v1/health",
            "/metrics",
            "/my-charm/targets",
        ] {
            let (status, body) = front.status(Method::GET, path, credential).await;
            assert_eq!(status, StatusCode::NOT_FOUND, "{version} {path}: {body}");
            assert!(body.contains("nginx"), "{version} {path} came to Pebble: {body}");
        }
        // A query cannot turn it into another request, another method does nothing.
        let (status, _) = front
            .status(
                Method::GET,
                "/my-charm/v1/metrics?action=read&path=/etc/passwd",
                credential,
            )
            .await;
        assert_eq!(status, StatusCode::OK);
        let (status, _) = front
            .status(Method::POST, "/my-charm/v1/metrics", credential)
            .await;
        assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
    }
}

#[tokio::test]
async fn the_ingress_asks_for_a_password_before_the_pods_metrics() {
    let nginx = tool_or_skip!("nginx");
    let proxy = Pod::start(Answer::text("up{k8s_pod_name=\"web-0\"} 1\n")).await;
    let nowhere = process::free_address();
    let front = Nginx::start(&nginx, nowhere, (proxy.ip(), proxy.port()).into()).await;
    let (status, _) = front.status(Method::GET, "/my-charm/metrics", None).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert!(
        proxy.requests().is_empty(),
        "a request without a password reached the proxy"
    );
    let (status, body) = front
        .status(Method::GET, "/my-charm/metrics", Some(("scraper", PASSWORD)))
        .await;
    assert_eq!((status, body.contains("web-0")), (StatusCode::OK, true));
    let seen = proxy.requests();
    assert_eq!(seen[0].path, "/metrics");
    assert_eq!(
        seen[0].header("authorization"),
        "",
        "the password ends at the Ingress"
    );
    let (status, _) = front
        .status(
            Method::GET,
            "/my-charm/api/v1/targets",
            Some(("scraper", PASSWORD)),
        )
        .await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}
