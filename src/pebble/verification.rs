//! Verification of a credential: Pebble never shows a hash, so the credential is tried.
//!
//! The requests are written without an HTTP library, which would leave the Authorization header in buffers that nothing
//! wipes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use zeroize::Zeroizing;

use super::{Client, Peer};
use crate::credential::Credential;

/// How long a verification may take: one or two hashes under Pebble's global lock.
const LIMIT: Duration = Duration::from_secs(5);
/// Longer than any status line.
const LINE_LIMIT_BYTES: usize = 256;

/// The result of trying a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verification {
    /// Pebble accepts it, with metrics access.
    Works,
    /// Pebble rejects it.
    Fails,
    /// The response does not tell.
    Unknown,
}

impl Verification {
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
    /// Tries a credential on Pebble's TCP address. This costs Pebble one hash, and it logs no security line.
    ///
    /// The password travels in clear text: the address is one of [`super::SystemInfo::http_address`], which is loopback.
    pub async fn verify_over_http(&self, address: SocketAddr, credential: &Credential) -> Verification {
        let status = async {
            let stream = TcpStream::connect(address).await.ok()?;
            get(stream, "/v1/metrics", &address.to_string(), Some(credential)).await
        };
        match within_limit(status).await {
            Some(200) => Verification::Works,
            Some(401) => Verification::Fails,
            _ => Verification::Unknown,
        }
    }

    /// Tries a credential on the socket, where Pebble does not listen on TCP. A credential that works gets metrics access
    /// only, so that `/v1/services` is refused; with one that does not work Pebble falls back to the user of this
    /// process, who may read the services. Pebble logs a security line when the credential works.
    pub async fn verify_over_socket(&self, credential: &Credential) -> Verification {
        let services = async |credential| {
            let stream = UnixStream::connect(self.socket()).await.ok()?;
            // Of this very connection: another program may have put its socket at the path since the last request.
            if !Peer::of(&stream)
                .ok()?
                .is_trusted(rustix::process::geteuid().as_raw())
            {
                return None;
            }
            get(stream, "/v1/services", "localhost", credential).await
        };
        // A user who may not read the services would otherwise look like a credential that works.
        if within_limit(services(None)).await != Some(200) {
            return Verification::Unknown;
        }
        match within_limit(services(Some(credential))).await {
            Some(401) => Verification::Works,
            Some(200) => Verification::Fails,
            _ => Verification::Unknown,
        }
    }
}

/// Whether a program on this machine responds with 200 on this port.
pub(crate) async fn responds_on_loopback(port: u16, path: &str) -> bool {
    for host in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        let address = SocketAddr::new(host, port);
        let status = async {
            let stream = TcpStream::connect(address).await.ok()?;
            get(stream, path, &address.to_string(), None).await
        };
        if within_limit(status).await == Some(200) {
            return true;
        }
    }
    false
}

async fn within_limit(status: impl Future<Output = Option<u16>>) -> Option<u16> {
    tokio::time::timeout(LIMIT, status).await.ok().flatten()
}

/// Sends a GET; returns the status of the response, `None` where there is none.
async fn get(
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

/// The head of a request, in one buffer that is large enough: a buffer that grows leaves copies in memory.
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

    /// What a response over TCP tells; `None` is a server that closes the connection.
    #[tokio::test]
    async fn each_response_has_its_result() {
        for (response, expect) in [
            (Some("200 OK"), Verification::Works),
            (Some("401 Unauthorized"), Verification::Fails),
            (Some("404 Not Found"), Verification::Unknown),
            (Some("503 Service Unavailable"), Verification::Unknown),
            (None, Verification::Unknown),
        ] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let server = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = vec![0; 4096];
                let n = stream.read(&mut request).await.unwrap();
                assert!(n > 0);
                if let Some(response) = response {
                    // In two pieces, as a network may.
                    stream.write_all(b"HTTP/1.").await.unwrap();
                    tokio::task::yield_now().await;
                    let rest = format!("1 {response}\r\ncontent-length: 0\r\n\r\n");
                    stream.write_all(rest.as_bytes()).await.unwrap();
                }
            };
            let client = Client::new("/nonexistent");
            let credential = credential();
            let (result, ()) = tokio::join!(client.verify_over_http(address, &credential), server);
            assert_eq!(result, expect, "{response:?}");
        }
        let client = Client::new("/nonexistent");
        assert_eq!(
            client.verify_over_socket(&credential()).await,
            Verification::Unknown
        );
    }
}
