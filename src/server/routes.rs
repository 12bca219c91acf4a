//! Routes: every request gets a response.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt as _;
use http::header::{ALLOW, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::api::{TargetsResponse, Wanted};
use super::connection::{ConnectionState, GuardedBody};
use super::response::{Body, Encoding, html, json, text};
use super::{AppState, metrics_handler, page, status};
use crate::config;
use crate::health::{Condition, Health};
use crate::telemetry::Request as RequestLabels;

/// Responds to one request. A bug in a handler gives 500 and a log line, never silence.
pub(super) async fn handle(
    state: Arc<AppState>,
    connection: Arc<ConnectionState>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let guard = connection.begin_request();
    let (head, _) = request.into_parts();
    let handler = route_name(head.uri.path());
    let telemetry = Arc::clone(&state.telemetry);
    let response = AssertUnwindSafe(route(state, &connection, &head))
        .catch_unwind()
        .await
        .unwrap_or_else(|_| {
            tracing::error!(handler, "A handler panicked; please report this");
            text(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal error; see the log\n".to_owned(),
            )
        });
    let code = response.status().as_u16();
    telemetry
        .scrape
        .requests
        .get_or_create(&RequestLabels { handler, code })
        .inc();
    tracing::debug!(method = %head.method, path = head.uri.path(), code, "Responded");
    Ok(response.map(|body| GuardedBody::new(body, guard).boxed_unsync()))
}

fn route_name(path: &str) -> &'static str {
    match path {
        "/" => "/",
        "/metrics" => "/metrics",
        "/healthz" => "/healthz",
        "/readyz" => "/readyz",
        "/targets" => "/targets",
        "/api/v1/targets" => "/api/v1/targets",
        _ => "other",
    }
}

async fn route(state: Arc<AppState>, connection: &ConnectionState, head: &Parts) -> Response<Body> {
    let handler = route_name(head.uri.path());
    if handler == "other" {
        let known = "not found; use /metrics, /healthz, /readyz, /targets or /api/v1/targets\n";
        return text(StatusCode::NOT_FOUND, known.to_owned());
    }
    if head.method != Method::GET && head.method != Method::HEAD {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "use GET or HEAD\n".to_owned());
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match handler {
        "/metrics" => metrics_handler::handle(state, connection, head).await,
        "/healthz" => text(StatusCode::OK, "ok\n".to_owned()),
        "/readyz" => readyz(&state.health, head.uri.query()),
        "/api/v1/targets" => {
            let report = status::report(&state.scrape_status, &state.discovery.latest());
            let wanted = Wanted::parse(head.uri.query().unwrap_or_default());
            let response = TargetsResponse::new(report, wanted);
            json(&response, Encoding::negotiate(&head.headers))
        }
        _ => targets_page(&state, head),
    }
}

fn targets_page(state: &AppState, head: &Parts) -> Response<Body> {
    let view = page::View {
        report: &status::report(&state.scrape_status, &state.discovery.latest()),
        conditions: &state.health.all(),
        limits: &limits(&state.settings),
        query: &page::Query::parse(head.uri.query().unwrap_or_default()),
    };
    html(page::render(&view), Encoding::negotiate(&head.headers))
}

/// The settings that a target can exceed.
fn limits(settings: &config::Scrape) -> Vec<(&'static str, String)> {
    let count = |limit: u64| match limit {
        0 => "unlimited".to_owned(),
        limit => limit.to_string(),
    };
    vec![
        ("--timeout", format!("{:?}", settings.timeout)),
        ("--max-body-bytes", count(settings.max_body_bytes)),
        ("--max-samples", count(settings.max_samples)),
        ("--max-labels", count(settings.max_labels)),
        ("--max-label-name-length", count(settings.max_label_name_length)),
        ("--max-label-value-length", count(settings.max_label_value_length)),
    ]
}

/// `/readyz`, `/readyz?verbose`, `/readyz?only=identity`. An unknown word is an error: a misspelled probe that always
/// passed would hide every problem.
fn readyz(health: &Health, query: Option<&str>) -> Response<Body> {
    let mut only = None;
    let mut verbose = false;
    for part in query.unwrap_or_default().split('&') {
        match part.split_once('=') {
            Some(("only", word)) => match Condition::parse(word) {
                Ok(condition) => only = Some(condition),
                Err(problem) => return text(StatusCode::BAD_REQUEST, format!("{problem}\n")),
            },
            Some(("verbose", value)) => verbose = value != "false" && value != "0",
            None if part == "verbose" => verbose = true,
            _ => {}
        }
    }
    let readiness = health.readiness(only, verbose);
    let status = if readiness.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    text(status, readiness.body)
}
