//! Answers and their bodies.

use std::io;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use serde::Serialize;

/// A whole or a streamed body. A stream that breaks off ends the connection without its last chunk, so that no reader
/// takes half an answer for a whole one.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A plain text answer.
pub(super) fn text(status: StatusCode, text: String) -> Response<Body> {
    with_type(
        status,
        HeaderValue::from_static("text/plain; charset=utf-8"),
        text.into_bytes(),
    )
}

/// A JSON answer.
pub(super) fn json(value: &impl Serialize) -> Response<Body> {
    let body = serde_json::to_vec_pretty(value).expect("reports have string keys only");
    with_type(StatusCode::OK, HeaderValue::from_static("application/json"), body)
}

fn with_type(status: StatusCode, content_type: HeaderValue, body: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(
        Full::new(Bytes::from(body))
            .map_err(|never| match never {})
            .boxed_unsync(),
    );
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}
