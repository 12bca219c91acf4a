//! What the log says, and how often.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::app::App;
use crate::support::process;

/// An API server that ends every connection in the TLS handshake; how many there were.
///
/// A fake, since a real API server does not end connections on demand and leaves no count of those it never accepted.
fn broken_api_server() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has free ports");
    let port = listener.local_addr().expect("it is bound").port();
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            drop(connection);
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    (port, connections)
}

/// The Kubernetes client's own error lines, without address, cause or remedy, do not appear at any level; our sentence
/// does, once.
#[tokio::test]
async fn an_unreachable_api_server_is_logged_once_and_in_our_words() {
    let (port, connections) = broken_api_server();
    let dir = process::fresh_dir();
    let kubeconfig = dir.path().join("kubeconfig");
    std::fs::write(
        &kubeconfig,
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
             clusters: [{{name: c, cluster: {{server: \"https://127.0.0.1:{port}\"}}}}]\n\
             users: [{{name: c, user: {{token: t}}}}]\n\
             contexts: [{{name: c, context: {{cluster: c, user: c}}}}]\n"
        ),
    )
    .expect("a fresh folder can be written");
    let kubeconfig = kubeconfig
        .to_str()
        .expect("temporary folders have names in UTF-8");
    let arguments = [
        "--kubeconfig",
        kubeconfig,
        "--labels",
        "app=x",
        "--pebble",
        "off",
        "--log-level",
        "debug,kube_client=debug",
    ];
    let mut app = App::start(&arguments, &[]).await;
    app.process()
        .wait_for("five attempts", Duration::from_mins(1), async || {
            (connections.load(Ordering::SeqCst) >= 5).then_some(())
        })
        .await;
    let log = app.process().log();
    assert!(!log.contains("failed with error"), "{log}");
    assert!(!log.contains("ERROR"), "{log}");
    let ours = log
        .lines()
        .filter(|line| line.contains("Cannot read pods"))
        .count();
    assert_eq!(ours, 1, "{log}");
}
