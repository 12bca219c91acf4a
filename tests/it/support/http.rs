//! A small HTTP/1.1 client over TCP and unix sockets: one connection per request, every request with a time limit.
//!
//! Not the program's own client on purpose: what judges it should not share its faults.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// Where a request goes.
#[derive(Debug, Clone)]
pub(crate) enum Via {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl From<SocketAddr> for Via {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl From<&Path> for Via {
    fn from(path: &Path) -> Self {
        Self::Unix(path.to_owned())
    }
}

/// A request being put together; [`Request::send`] sends it.
#[derive(Debug)]
pub(crate) struct Request {
    via: Via,
    method: Method,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    limit: Duration,
}

/// Starts a GET of `path` (with its query).
pub(crate) fn get(via: impl Into<Via>, path: &str) -> Request {
    request(Method::GET, via, path)
}

/// Starts a POST of a JSON value.
pub(crate) fn post(via: impl Into<Via>, path: &str, json: &serde_json::Value) -> Request {
    request(Method::POST, via, path)
        .header("content-type", "application/json")
        .body(json.to_string())
}

/// Starts a request of any method.
pub(crate) fn request(method: Method, via: impl Into<Via>, path: &str) -> Request {
    Request {
        via: via.into(),
        method,
        path: path.to_owned(),
        headers: Vec::new(),
        body: Vec::new(),
        limit: Duration::from_secs(30),
    }
}

impl Request {
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn headers(mut self, headers: &[(&str, &str)]) -> Self {
        self.headers.extend(
            headers
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        );
        self
    }

    pub(crate) fn basic(self, user: &str, password: &str) -> Self {
        let pair = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
        self.header("authorization", &format!("Basic {pair}"))
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// The limit on connecting, sending and reading the whole answer; 30 s unless set.
    pub(crate) fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Sends it and reads the whole answer, as it came: nothing is decompressed, no redirect is followed.
    ///
    /// # Errors
    /// No connection, no answer within the limit, an answer cut short. A status is never an error.
    pub(crate) async fn send(self) -> Result<Answer, Failed> {
        let what = format!("{} {} of {:?}", self.method, self.path, self.via);
        let failed = |why: String| Failed(format!("cannot {what}: {why}"));
        let limit = self.limit;
        let sent = async {
            match &self.via {
                Via::Tcp(address) => {
                    let io = TcpStream::connect(address)
                        .await
                        .map_err(|e| failed(e.to_string()))?;
                    self.exchange(io, &address.to_string()).await.map_err(failed)
                }
                Via::Unix(path) => {
                    let io = UnixStream::connect(path)
                        .await
                        .map_err(|e| failed(e.to_string()))?;
                    self.exchange(io, "localhost").await.map_err(failed)
                }
            }
        };
        tokio::time::timeout(limit, sent)
            .await
            .unwrap_or_else(|_| Err(failed(format!("no answer in {limit:?}"))))
    }

    async fn exchange<S>(&self, io: S, host: &str) -> Result<Answer, String>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io))
            .await
            .map_err(chain)?;
        let mut request = http::Request::builder()
            .method(&self.method)
            .uri(&self.path)
            .header("host", host);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let request = request
            .body(Full::new(Bytes::from(self.body.clone())))
            .map_err(|e| e.to_string())?;
        let answer = async {
            let response = sender.send_request(request).await.map_err(chain)?;
            let (head, body) = response.into_parts();
            let body = body.collect().await.map_err(chain)?.to_bytes();
            Ok(Answer {
                status: head.status,
                headers: head.headers,
                body,
            })
        };
        // Driven together rather than spawned: giving up the request closes the connection.
        tokio::pin!(connection, answer);
        tokio::select! {
            answer = &mut answer => answer,
            ended = &mut connection => match ended {
                // What has arrived before the end is still to be read.
                Ok(()) => answer.await,
                Err(error) => Err(chain(error)),
            },
        }
    }
}

/// A whole answer.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    /// The body as text; bytes that are not UTF-8 are replaced.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("not JSON ({e}): {}", self.text()))
    }

    /// A header's value, empty where it is missing.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }
}

/// Why there is no answer.
#[derive(Debug, Clone)]
pub(crate) struct Failed(pub(crate) String);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failed {}

// By value, as `map_err` gives it.
#[allow(clippy::needless_pass_by_value)]
fn chain(error: hyper::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
