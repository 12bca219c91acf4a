//! Requests and responses: the socket, deadlines, the envelope.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::{Method, Request, StatusCode};
use hyper_util::client::legacy;
use hyper_util::rt::TokioExecutor;
use hyperlocal::UnixConnector;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::PebbleError;
use super::error::io_kind;

/// How long a read may take: Pebble responds within milliseconds, unless its state lock is jammed.
const READ_LIMIT: Duration = Duration::from_secs(5);
/// How long a write may take.
const WRITE_LIMIT: Duration = Duration::from_secs(10);
/// Larger than any response of Pebble's; a plan of megabytes is a mistake.
const LIMIT_BYTES: usize = 16 << 20;

/// A client of one Pebble. Cheap to clone.
///
/// Each request has a connection of its own: requests are rare, and a pooled connection would break when Pebble restarts.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    http: legacy::Client<UnixConnector, Full<Bytes>>,
}

/// Pebble's envelope. Source: Pebble `internals/daemon/response.go`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Envelope {
    #[serde(default)]
    result: serde_json::Value,
    #[serde(default)]
    change: String,
}

impl Client {
    /// A client of the Pebble at this socket. No request is sent yet.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
            http: legacy::Client::builder(TokioExecutor::new())
                .pool_max_idle_per_host(0)
                .build(UnixConnector),
        }
    }

    /// The socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Fetches a resource.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, PebbleError> {
        let (request, status, body) = self.send(Method::GET, path, Bytes::new(), READ_LIMIT).await?;
        let envelope = envelope(&request, status, &body)?;
        serde_json::from_value(envelope.result).map_err(|source| PebbleError::Response { request, source })
    }

    /// Posts to a resource; returns the result and the id of the change that Pebble started, empty where it did not.
    pub(super) async fn post(
        &self,
        path: &str,
        body: &serde_json::Value,
    ) -> Result<(serde_json::Value, String), PebbleError> {
        let body = Bytes::from(body.to_string());
        let (request, status, body) = self.send(Method::POST, path, body, WRITE_LIMIT).await?;
        let envelope = envelope(&request, status, &body)?;
        Ok((envelope.result, envelope.change))
    }

    /// Fetches the status and the bytes of a resource, whatever they are.
    pub(super) async fn get_raw(
        &self,
        path: &str,
        limit: Duration,
    ) -> Result<(StatusCode, Bytes), PebbleError> {
        let (_, status, body) = self.send(Method::GET, path, Bytes::new(), limit).await?;
        Ok((status, body))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        limit: Duration,
    ) -> Result<(String, StatusCode, Bytes), PebbleError> {
        let name = format!("{method} {}", path.split('?').next().unwrap_or(path));
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = hyperlocal::Uri::new(&self.socket, path).into();
        let exchange = async {
            let response = self
                .http
                .request(request)
                .await
                .map_err(|error| self.connection_error(&name, error))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), LIMIT_BYTES)
                .collect()
                .await
                .map_err(|error| {
                    if error.is::<LengthLimitError>() {
                        PebbleError::TooLarge {
                            request: name.clone(),
                            limit_bytes: LIMIT_BYTES,
                        }
                    } else {
                        PebbleError::Broken {
                            request: name.clone(),
                            source: error,
                        }
                    }
                })?
                .to_bytes();
            Ok((status, body))
        };
        match tokio::time::timeout(limit, exchange).await {
            Ok(Ok((status, body))) => Ok((name, status, body)),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(PebbleError::Timeout { request: name, limit }),
        }
    }

    fn connection_error(&self, request: &str, source: legacy::Error) -> PebbleError {
        if source.is_connect() {
            PebbleError::Connect {
                socket: self.socket.clone(),
                kind: io_kind(&source),
            }
        } else {
            PebbleError::Broken {
                request: request.to_owned(),
                source: source.into(),
            }
        }
    }
}

/// Parses the envelope. An error keeps Pebble's own words.
fn envelope(request: &str, status: StatusCode, body: &[u8]) -> Result<Envelope, PebbleError> {
    let parsed = serde_json::from_slice::<Envelope>(body);
    if status.is_success() {
        return parsed.map_err(|source| PebbleError::Response {
            request: request.to_owned(),
            source,
        });
    }
    let message = parsed
        .ok()
        .and_then(|envelope| envelope.result.get("message")?.as_str().map(str::to_owned))
        .unwrap_or_else(|| status.to_string());
    Err(PebbleError::Refused {
        request: request.to_owned(),
        status: status.as_u16(),
        message,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(status: u16, body: &str, expect: &str) {
        let status = StatusCode::from_u16(status).unwrap();
        let text = match envelope("GET /v1/x", status, body.as_bytes()) {
            Ok(envelope) => format!("{} {}", envelope.result, envelope.change),
            Err(error) => error.to_string(),
        };
        assert_eq!(text, expect);
    }

    #[test]
    fn envelopes_and_pebbles_own_words() {
        check(
            200,
            r#"{"type":"sync","status-code":200,"result":{"a":1}}"#,
            r#"{"a":1} "#,
        );
        check(200, r#"{"type":"sync","status-code":200}"#, "null ");
        check(
            202,
            r#"{"type":"async","status-code":202,"change":"7","result":null}"#,
            "null 7",
        );
        check(
            401,
            r#"{"type":"error","status-code":401,"result":{"message":"access denied","kind":"login-required"}}"#,
            "Pebble refused GET /v1/x (401): access denied",
        );
        check(502, "<html>", "Pebble refused GET /v1/x (502): 502 Bad Gateway");
        check(200, "<html>", "cannot parse the response to GET /v1/x");
    }

    #[tokio::test]
    async fn no_socket_is_unreachable() {
        let client = Client::new("/nonexistent/.pebble.socket");
        let error = client
            .get::<serde_json::Value>("/v1/system-info")
            .await
            .unwrap_err();
        assert!(error.is_unreachable());
        assert!(error.is_absent());
        assert!(!error.is_denied());
        assert_eq!(
            error.to_string(),
            "cannot connect to Pebble at /nonexistent/.pebble.socket: there is no socket; start Pebble, or set --pebble-socket"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_pebble_that_hangs_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let error = Client::new(&socket)
            .get::<serde_json::Value>("/v1/system-info")
            .await
            .unwrap_err();
        assert_eq!(error.to_string(), "no response to GET /v1/system-info within 5s");
        assert!(!error.is_absent());
    }
}
