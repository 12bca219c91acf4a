//! How the API server is reached: tokens, certificates, and what is said where one of them is wrong.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Running;
use crate::support::kube::{ADMIN, Cluster, NewPod, Scope};
use crate::support::process;

const CONTEXT: &str = r#"{"cluster": "it", "user": "it"}"#;

fn context() -> Value {
    serde_json::from_str(CONTEXT).expect("it is JSON")
}

fn pod(name: &str, ip: &str) -> NewPod {
    NewPod::scraped(name, format!("{ip}:8080").parse().expect("an address")).label("app", "x")
}

/// A token file that ends in a newline, and its renewal (kubernetes/kubernetes#52919, prometheus/prometheus#5221).
#[tokio::test]
async fn k19_a_token_file_may_end_in_a_newline() {
    let mut cluster = Cluster::start().await;
    let own = cluster.namespace().await;
    let token = cluster.service_account(&own, "app").await;
    cluster
        .grant(
            &own,
            "app",
            Scope::Cluster,
            &[("pods", &["get", "list", "watch"])],
        )
        .await;
    cluster.create_pod(&own, &pod("a", "127.0.21.1")).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("token");
    std::fs::write(&file, format!("{token}\n")).expect("written");
    let server = json!({"server": cluster.url(), "certificate-authority": cluster.ca_file()});
    let kubeconfig = cluster.kubeconfig_of(&server, &json!({"tokenFile": file}), &context());
    let running = Running::on_cluster(&kubeconfig, &[]).await;
    running.until_targets(&["a 127.0.21.1:8080/metrics"]).await;

    // A wrong token is named; the right one is used as soon as the file has it.
    std::fs::write(&file, "no-such-token\n").expect("written");
    cluster.kill_api_server();
    // The token is read again after ten seconds, so the server stays away for more attempts than fit into these.
    let attempts = || running.metric("metrics_proxy_discovery_failures_total{reason=\"unreachable\"}");
    let started = Instant::now();
    while attempts() < 8.0 {
        assert!(started.elapsed() < super::LIMIT, "requests are repeated");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    cluster.start_api_server().await;
    running
        .until_readyz(
            "[note] discovery: the last known set is in use: the API server does not accept the token (401)",
        )
        .await;
    let renewed = cluster.token(&own, "app").await;
    std::fs::write(&file, format!("{renewed}\n")).expect("written");
    cluster.create_pod(&own, &pod("b", "127.0.21.2")).await;
    let both = ["a 127.0.21.1:8080/metrics", "b 127.0.21.2:8080/metrics"];
    running.until_targets(&both).await;
    running.until_readyz("[ok] discovery\n").await;
}

/// The certificate that `openssl req -x509` makes by default, with CA:TRUE, as server certificate and as the kubeconfig's
/// authority (rustls/webpki#205).
#[tokio::test]
async fn k22_the_kubeconfig_may_pin_a_self_signed_certificate() {
    let folder = process::fresh_dir();
    let (certificate, key) = self_signed(folder.path());
    let (flag, key_flag) = (
        format!("--tls-cert-file={}", certificate.display()),
        format!("--tls-private-key-file={}", key.display()),
    );
    let cluster = Cluster::start_with(move |_| vec![flag, key_flag]).await;
    cluster.create_pod("default", &pod("a", "127.0.22.1")).await;
    let server = json!({"server": cluster.url(), "certificate-authority": certificate});
    let kubeconfig = cluster.kubeconfig_of(&server, &json!({"token": ADMIN}), &context());
    let running = Running::on_cluster(&kubeconfig, &[]).await;
    running.until_targets(&["a 127.0.22.1:8080/metrics"]).await;

    // Another authority in the same file is used as soon as it is there.
    let other = process::fresh_dir();
    let (wrong, _) = self_signed(other.path());
    let pinned = folder.path().join("pinned.crt");
    std::fs::copy(&wrong, &pinned).expect("copied");
    let server = json!({"server": cluster.url(), "certificate-authority": pinned});
    let kubeconfig = cluster.kubeconfig_of(&server, &json!({"token": ADMIN}), &context());
    let running = Running::on_cluster(&kubeconfig, &[]).await;
    let address = cluster.url().replace("https://", "");
    running
        .until_readyz(&format!(
            "[bad] discovery: the API server cannot be reached: TLS to {address}: the certificate is signed by an unknown \
             authority; check certificate-authority in the kubeconfig"
        ))
        .await;
    std::fs::copy(&certificate, &pinned).expect("copied");
    running.until_targets(&["a 127.0.22.1:8080/metrics"]).await;
}

/// A self-signed certificate with CA:TRUE for 127.0.0.1, and its key.
fn self_signed(folder: &Path) -> (PathBuf, PathBuf) {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut parameters = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("a name");
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let certificate = parameters.self_signed(&key).expect("a certificate");
    let (certificate_file, key_file) = (folder.join("server.crt"), folder.join("server.key"));
    std::fs::write(&certificate_file, certificate.pem()).expect("written");
    std::fs::write(&key_file, key.serialize_pem()).expect("written");
    (certificate_file, key_file)
}

async fn check_unreachable(server: Value, expect: String) {
    let cluster = Cluster::shared().await;
    let kubeconfig = cluster.kubeconfig_of(&server, &json!({"token": ADMIN}), &context());
    let running = Running::on_cluster(&kubeconfig, &[]).await;
    running.until_readyz(&format!("[bad] discovery: {expect}")).await;
}

#[tokio::test]
async fn each_step_that_fails_is_named_with_the_address() {
    let cluster = Cluster::shared().await;
    let nobody = process::free_address();
    check_unreachable(
        json!({"server": format!("https://{nobody}")}),
        format!("the API server cannot be reached: connection refused by {nobody}; check that"),
    )
    .await;
    // An HTTP server: nothing is said in TLS there.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let plain = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            use std::io::Write as _;
            let _ = stream.and_then(|mut stream| stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n"));
        }
    });
    check_unreachable(
        json!({"server": format!("https://{plain}"), "certificate-authority": cluster.ca_file()}),
        format!("the API server cannot be reached: TLS to {plain}: the server speaks plain HTTP"),
    )
    .await;
    let address = cluster.url().replace("https://", "");
    check_unreachable(
        json!({
            "server": cluster.url(), "certificate-authority": cluster.ca_file(), "tls-server-name": "api.example",
        }),
        format!("the API server cannot be reached: TLS to {address}: the certificate is valid for "),
    )
    .await;
}

/// A selector with a typing error leaves the proxy ready, and says what to compare.
#[tokio::test]
async fn a_selector_that_matches_nothing_is_a_note() {
    let cluster = Cluster::shared().await;
    let kubeconfig = cluster.kubeconfig(ADMIN, None).display().to_string();
    let running = Running::start(&[("labels", "app=no-such-app"), ("kubeconfig", &kubeconfig)]).await;
    running
        .until_readyz(
            "[note] selector: no pod matches app=no-such-app in any namespace; compare: kubectl get pods -A -l \
             'app=no-such-app'",
        )
        .await;
    assert!(running.health.readiness(None, false).ready);
    let own = cluster.namespace().await;
    let pod = NewPod::scraped("late", "127.0.23.1:8080".parse().expect("an address"));
    cluster.create_pod(&own, &pod.label("app", "no-such-app")).await;
    running.until_readyz("[ok] selector: app=no-such-app\n").await;
    assert_eq!(running.handle.latest().no_match, None);
    cluster.delete_pod(&own, "late").await;
}
