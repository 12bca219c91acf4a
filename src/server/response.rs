//! Responses and their bodies.

use std::io;

use bytes::Bytes;
use exposition::{GzipStream, deflate_block};
use http::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderMap, HeaderValue, VARY,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use serde::Serialize;

/// A complete or a streamed body. A stream that fails ends the connection without its last chunk, so that no reader takes
/// half a response for a complete one.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A plain text response.
pub(super) fn text(status: StatusCode, text: String) -> Response<Body> {
    let content_type = HeaderValue::from_static("text/plain; charset=utf-8");
    complete(status, content_type, text.into_bytes())
}

/// An HTML response. The policy forbids everything that does not come with the page itself.
pub(super) fn html(page: String, encoding: Encoding) -> Response<Body> {
    let content_type = HeaderValue::from_static("text/html; charset=utf-8");
    let mut response = encoded(content_type, page.into_bytes(), encoding);
    let policy =
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; form-action 'self'";
    response
        .headers_mut()
        .insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    response
}

/// A JSON response.
pub(super) fn json(value: &impl Serialize, encoding: Encoding) -> Response<Body> {
    let body = serde_json::to_vec(value).expect("reports have string keys only");
    encoded(HeaderValue::from_static("application/json"), body, encoding)
}

/// How a complete body is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Identity,
    Gzip,
}

impl Encoding {
    /// The encoding that the client accepts.
    pub(super) fn negotiate(headers: &HeaderMap) -> Self {
        let accepted = headers.get(ACCEPT_ENCODING).and_then(|value| value.to_str().ok());
        if exposition::negotiate(None, accepted, None).gzip() {
            Self::Gzip
        } else {
            Self::Identity
        }
    }
}

fn encoded(content_type: HeaderValue, body: Vec<u8>, encoding: Encoding) -> Response<Body> {
    let body = match encoding {
        Encoding::Identity => body,
        Encoding::Gzip => {
            let mut stream = GzipStream::default();
            let mut compressed = stream.push(deflate_block(&body));
            compressed.extend(stream.finish());
            compressed
        }
    };
    let mut response = complete(StatusCode::OK, content_type, body);
    let headers = response.headers_mut();
    headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if encoding == Encoding::Gzip {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

fn complete(status: StatusCode, content_type: HeaderValue, body: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(
        Full::new(Bytes::from(body))
            .map_err(|never| match never {})
            .boxed_unsync(),
    );
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}
