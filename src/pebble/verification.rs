//! The proof that a credential works: Pebble never shows a hash again, so it is tried.
//!
//! Spoken by hand, a head out and a status line back: an HTTP library would leave the Authorization header in buffers
//! that nobody wipes.

use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use zeroize::Zeroizing;

use super::Client;
use crate::credential::Credential;

/// How long a proof may take: a hash or two under Pebble's global lock.
const LIMIT: Duration = Duration::from_secs(5);
/// More than any status line.
const LINE_LIMIT_BYTES: usize = 256;

/// What trying a credential showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// It is in force, with metrics access.
    Works,
    /// It is not.
    Fails,
    /// Could not be told.
    Unknown,
}

impl Proof {
    /// The word for metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Works => "works",
            Self::Fails => "fails",
            Self::Unknown => "unknown",
        }
    }
}

impl Client {
    /// Tries a credential on Pebble's TCP address. Costs Pebble one hash, and no security line.
    pub async fn prove_over_http(&self, address: SocketAddr, credential: &Credential) -> Proof {
        let status = async {
            let stream = TcpStream::connect(address).await.ok()?;
            ask(stream, "/v1/metrics", &address.to_string(), Some(credential)).await
        };
        match within_limit(status).await {
            Some(200) => Proof::Works,
            Some(401) => Proof::Fails,
            _ => Proof::Unknown,
        }
    }

    /// Tries a credential on the socket, where Pebble does not listen on TCP: what matches is let in with metrics access
    /// only, which is refused the services; what does not match is let in as our own user, who may read them. Makes
    /// Pebble log a security line when the credential works.
    pub async fn prove_over_socket(&self, credential: &Credential) -> Proof {
        let services = async |credential| {
            let stream = UnixStream::connect(self.socket()).await.ok()?;
            ask(stream, "/v1/services", "localhost", credential).await
        };
        // Without this, a user of ours that may not even read would count as proof.
        if within_limit(services(None)).await != Some(200) {
            return Proof::Unknown;
        }
        match within_limit(services(Some(credential))).await {
            Some(401) => Proof::Works,
            Some(200) => Proof::Fails,
            _ => Proof::Unknown,
        }
    }
}

async fn within_limit(status: impl Future<Output = Option<u16>>) -> Option<u16> {
    tokio::time::timeout(LIMIT, status).await.ok().flatten()
}

/// Sends a GET; returns the status of the answer, `None` where there is none.
async fn ask(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    path: &str,
    host: &str,
    credential: Option<&Credential>,
) -> Option<u16> {
    let head = head(path, host, credential);
    stream.write_all(&head).await.ok()?;
    drop(head);
    let mut line = Vec::with_capacity(LINE_LIMIT_BYTES);
    while !line.contains(&b'\n') && line.len() < LINE_LIMIT_BYTES {
        if stream.read_buf(&mut line).await.ok()? == 0 {
            return None;
        }
    }
    parse_status(&line)
}

/// The head of a request, made in one buffer that is large enough: one that grows leaves copies behind.
fn head(path: &str, host: &str, credential: Option<&Credential>) -> Zeroizing<Vec<u8>> {
    let authorization = credential.map(authorization);
    let n_credential = authorization.as_ref().map_or(0, |value| value.len());
    let mut head = Zeroizing::new(Vec::with_capacity(path.len() + host.len() + n_credential + 100));
    head.extend_from_slice(b"GET ");
    head.extend_from_slice(path.as_bytes());
    head.extend_from_slice(b" HTTP/1.1\r\nHost: ");
    head.extend_from_slice(host.as_bytes());
    head.extend_from_slice(b"\r\nConnection: close\r\n");
    if let Some(authorization) = authorization {
        head.extend_from_slice(b"Authorization: Basic ");
        head.extend_from_slice(authorization.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head
}

fn authorization(credential: &Credential) -> Zeroizing<String> {
    let (username, password) = (credential.username.as_str(), credential.password.expose());
    let mut pair = Zeroizing::new(Vec::with_capacity(username.len() + 1 + password.len()));
    pair.extend_from_slice(username.as_bytes());
    pair.push(b':');
    pair.extend_from_slice(password);
    Zeroizing::new(BASE64_STANDARD.encode(&*pair))
}

/// `HTTP/1.1 200 OK` → 200.
fn parse_status(line: &[u8]) -> Option<u16> {
    let line = std::str::from_utf8(line.split(|b| *b == b'\n').next()?).ok()?;
    let rest = line.strip_prefix("HTTP/1.")?;
    rest.split(' ').nth(1)?.trim_end().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::{Password, Username};

    fn credential() -> Credential {
        Credential {
            username: Username::parse("alice").unwrap(),
            password: Password::try_new(Zeroizing::new(b"p:w".to_vec())).unwrap(),
        }
    }

    #[test]
    fn a_head_is_http() {
        let with = head("/v1/metrics", "127.0.0.1:1", Some(&credential()));
        assert_eq!(
            std::str::from_utf8(&with).unwrap(),
            "GET /v1/metrics HTTP/1.1\r\nHost: 127.0.0.1:1\r\nConnection: close\r\nAuthorization: Basic YWxpY2U6cDp3\r\n\r\n"
        );
        let without = head("/v1/services", "localhost", None);
        assert!(!without.windows(13).any(|window| window == b"Authorization"));
        assert!(with.capacity() >= with.len());
    }

    #[test]
    fn status_lines() {
        assert_eq!(parse_status(b"HTTP/1.1 200 OK\r\nX: y"), Some(200));
        assert_eq!(parse_status(b"HTTP/1.0 401 Unauthorized\r\n"), Some(401));
        assert_eq!(parse_status(b"HTTP/1.1 401\r\n"), Some(401));
        for line in [
            &b""[..],
            b"\n",
            b"SSH-2.0-x\r\n",
            b"HTTP/1.1\r\n",
            b"HTTP/1.1 x y\r\n",
            b"\xff\n",
        ] {
            assert_eq!(parse_status(line), None, "{line:?}");
        }
    }

    /// What an answer proves, over TCP: `None` is a server that hangs up.
    #[tokio::test]
    async fn answers_prove_or_do_not() {
        for (answer, expect) in [
            (Some("200 OK"), Proof::Works),
            (Some("401 Unauthorized"), Proof::Fails),
            (Some("404 Not Found"), Proof::Unknown),
            (Some("503 Service Unavailable"), Proof::Unknown),
            (None, Proof::Unknown),
        ] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let server = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = vec![0; 4096];
                let n = stream.read(&mut request).await.unwrap();
                assert!(n > 0);
                if let Some(answer) = answer {
                    // In two pieces, as a network may.
                    stream.write_all(b"HTTP/1.").await.unwrap();
                    tokio::task::yield_now().await;
                    let rest = format!("1 {answer}\r\ncontent-length: 0\r\n\r\n");
                    stream.write_all(rest.as_bytes()).await.unwrap();
                }
            };
            let client = Client::new("/nonexistent");
            let credential = credential();
            let (proof, ()) = tokio::join!(client.prove_over_http(address, &credential), server);
            assert_eq!(proof, expect, "{answer:?}");
        }
        let client = Client::new("/nonexistent");
        assert_eq!(client.prove_over_socket(&credential()).await, Proof::Unknown);
    }
}
