//! TLS to pods, on the real binary: which certificates are accepted, and what a person reads about the others.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{ServerConfig, version};

use super::last_scrape;
use crate::support::app::App;
use crate::support::kube::NewPod;
use crate::support::{pod, process};

/// A certificate of X.509 version 1, as `openssl x509 -req -signkey` makes it without extensions (rustls/rustls#124).
const VERSION_1: &str = "\
-----BEGIN CERTIFICATE-----
MIIBFzCBvwIUQ1+zNgaSwh5nfWTTdhv3K9eBav8wCgYIKoZIzj0EAwIwDjEMMAoG
A1UEAwwDb2xkMCAXDTI2MTEyNTIwNDA1N1oYDzIxMjYxMTAxMjA0MDU3WjAOMQww
CgYDVQQDDANvbGQwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAAS8VSbWO4942AQs
5oKLIeq/s41F10avyaNoQaA4hz6Ahqbwvb6jf7L2hBXaH+LAr842vfJZSQqK3iCS
MyiYwWg9MAoGCCqGSM49BAMCA0cAMEQCIBYSPEtr7oAIEoLnwo0rqO9okd8pKW/5
YJisbieIt+g8AiATn9m9Bkq8iI73mVS3t56SFy7B91LJaiuVV7S//gQyXQ==
-----END CERTIFICATE-----
";

/// Its key, made for this test.
const VERSION_1_KEY: &str = "\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg6JelEaUSVAsmk6sE
9W1/l1S0LF6lZWDeJ1yBLuemuKuhRANCAAS8VSbWO4942AQs5oKLIeq/s41F10av
yaNoQaA4hz6Ahqbwvb6jf7L2hBXaH+LAr842vfJZSQqK3iCSMyiYwWg9
-----END PRIVATE KEY-----
";

/// A pod that serves one series by TLS, with a certificate that can be replaced.
pub(super) struct TlsPod {
    pub(super) address: SocketAddr,
    certificate: Arc<Certificate>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Debug)]
struct Certificate(Mutex<Arc<CertifiedKey>>);

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.lock().expect("no panic")))
    }
}

fn certified_key(certificate: CertificateDer<'static>, key: &PrivateKeyDer<'_>) -> Arc<CertifiedKey> {
    let key = ring::sign::any_supported_type(key).expect("a usable key");
    Arc::new(CertifiedKey::new(vec![certificate], key))
}

impl TlsPod {
    /// Serves on an address, one request on each connection.
    pub(super) async fn start(address: SocketAddr, key: Arc<CertifiedKey>) -> Self {
        let listener = tokio::net::TcpListener::bind(address).await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let certificate = Arc::new(Certificate(Mutex::new(key)));
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&version::TLS13, &version::TLS12])
            .expect("default versions")
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&certificate) as Arc<dyn ResolvesServerCert>);
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    while matches!(stream.read(&mut [0; 4096]).await, Ok(1..)) {
                        let response = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\ntls 1\n";
                        if stream.write_all(response.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self {
            address,
            certificate,
            task,
        }
    }

    fn set(&self, key: Arc<CertifiedKey>) {
        *self.certificate.0.lock().expect("no panic") = key;
    }
}

impl Drop for TlsPod {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A certificate with its key, signed by itself.
pub(super) struct SelfSigned {
    pub(super) pem: String,
    pub(super) key: Arc<CertifiedKey>,
}

pub(super) fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new([name.to_owned()]).expect("a name");
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

pub(super) fn self_signed(params: CertificateParams) -> SelfSigned {
    let key = KeyPair::generate().expect("a key");
    let certificate = params.self_signed(&key).expect("a certificate");
    let private = PrivateKeyDer::try_from(key.serialize_der()).expect("a key in PKCS#8");
    SelfSigned {
        pem: certificate.pem(),
        key: certified_key(certificate.der().clone(), &private),
    }
}

fn authority(name: &str) -> CertificateParams {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

fn https(name: &str, address: SocketAddr) -> NewPod {
    NewPod::scraped(name, address).annotation("prometheus.io/scheme", "https")
}

fn write(dir: &tempfile::TempDir, text: &str) -> String {
    let path = dir.path().join("ca.pem");
    std::fs::write(&path, text).expect("a fresh folder can be written");
    path.to_str().expect("UTF-8").to_owned()
}

/// T01: rustls/webpki#205, denoland/deno#10312.
#[tokio::test]
async fn a_pinned_certificate_with_ca_true_is_accepted() {
    let ip = pod::address();
    let pinned = self_signed(authority(&ip.to_string()));
    let server = TlsPod::start((ip, 0).into(), Arc::clone(&pinned.key)).await;
    // The same certificate at an address that it does not name.
    let elsewhere = TlsPod::start((pod::address(), 0).into(), Arc::clone(&pinned.key)).await;
    let dir = process::fresh_dir();
    let ca = write(&dir, &pinned.pem);
    let pods = [
        https("pinned", server.address),
        https("elsewhere", elsewhere.address),
    ];
    let app = App::with_pods(&pods, &["--target-ca", &ca]).await;
    let text = app.metrics().await;
    assert!(text.contains("tls{k8s_pod_name=\"pinned\""), "{text}");
    let error = last_scrape(&app, "elsewhere").await["lastError"].clone();
    let other = elsewhere.address;
    let expected = format!(
        "TLS with {other} failed: the certificate is valid for {ip} and not for {}; \
         use a certificate with the pod's address, or --target-insecure-skip-verify",
        other.ip()
    );
    assert_eq!(error, expected);
}

/// T02: rustls/rustls#124.
#[tokio::test]
async fn skipping_verification_accepts_every_certificate() {
    let certificate = CertificateDer::from_pem_slice(VERSION_1.as_bytes()).expect("PEM");
    let key = PrivateKeyDer::from_pem_slice(VERSION_1_KEY.as_bytes()).expect("PEM");
    let mut expired = params("other.example");
    expired.not_after = date_time_ymd(2020, 1, 1);
    let servers = [
        ("version-1", certified_key(certificate, &key)),
        ("expired", self_signed(expired).key),
        (
            "not-der",
            certified_key(CertificateDer::from(b"no certificate".to_vec()), &key),
        ),
    ];
    let mut running = Vec::new();
    let mut pods = Vec::new();
    for (name, key) in servers {
        let server = TlsPod::start((pod::address(), 0).into(), key).await;
        pods.push(https(name, server.address));
        running.push(server);
    }
    let app = App::with_pods(&pods, &["--target-insecure-skip-verify"]).await;
    let text = app.metrics().await;
    for name in ["version-1", "expired", "not-der"] {
        let error = last_scrape(&app, name).await["lastError"].clone();
        assert!(
            text.contains(&format!("tls{{k8s_pod_name=\"{name}\"")),
            "{name}: {error}"
        );
    }
}

/// T04: prometheus/prometheus#4155.
#[tokio::test]
async fn a_changed_authority_is_in_force_at_the_next_scrape() {
    let ip = pod::address();
    let issue = |ca: &CertifiedIssuer<'_, KeyPair>| {
        let key = KeyPair::generate().expect("a key");
        let certificate = params(&ip.to_string())
            .signed_by(&key, ca)
            .expect("a certificate");
        let private = PrivateKeyDer::try_from(key.serialize_der()).expect("a key in PKCS#8");
        certified_key(certificate.der().clone(), &private)
    };
    let new_authority = || {
        let key = KeyPair::generate().expect("a key");
        CertifiedIssuer::self_signed(authority("ca"), key).expect("an authority")
    };
    let (old, new) = (new_authority(), new_authority());
    let server = TlsPod::start((ip, 0).into(), issue(&old)).await;
    let dir = process::fresh_dir();
    // As the kubelet mounts a ConfigMap: a link to a folder that is swapped.
    for (folder, ca) in [("v1", &old), ("v2", &new)] {
        std::fs::create_dir(dir.path().join(folder)).expect("a fresh folder");
        std::fs::write(dir.path().join(folder).join("ca.crt"), ca.pem()).expect("a fresh folder");
    }
    let link = |to: &str| {
        let next = dir.path().join("next");
        std::os::unix::fs::symlink(to, &next).expect("a link");
        std::fs::rename(&next, dir.path().join("..data")).expect("a rename");
    };
    link("v1");
    std::os::unix::fs::symlink("..data/ca.crt", dir.path().join("ca.crt")).expect("a link");
    let path = dir.path().join("ca.crt");
    let app = App::with_pods(
        &[https("p", server.address)],
        &["--target-ca", path.to_str().expect("UTF-8")],
    )
    .await;
    let is_up = |text: &str| text.contains("tls{k8s_pod_name=\"p\"");
    assert!(is_up(&app.metrics().await));
    link("v2");
    // The open connection was verified under the authority that was replaced.
    assert!(!is_up(&app.metrics().await));
    server.set(issue(&new));
    assert!(is_up(&app.metrics().await));
}
