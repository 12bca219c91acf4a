//! Responses and their bodies.

use std::io;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
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

/// An HTML response.
pub(super) fn html(page: String) -> Response<Body> {
    let content_type = HeaderValue::from_static("text/html; charset=utf-8");
    complete(StatusCode::OK, content_type, page.into_bytes())
}

/// A JSON response.
pub(super) fn json(value: &impl Serialize) -> Response<Body> {
    let body = serde_json::to_vec(value).expect("reports have string keys only");
    complete(StatusCode::OK, HeaderValue::from_static("application/json"), body)
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
