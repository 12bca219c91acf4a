//! The page `/targets` for people: problems by cause, targets with the failing ones first, pods that are not scraped.
//!
//! The template escapes by construction. The page loads nothing from elsewhere; its filters work without JavaScript.

mod problems;
mod query;

use std::time::Duration;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::report::{Report, SkippedReport, TargetReport, cause_and_remedy};
use super::target_log::age;
use crate::health::{Condition, Severity, State};
use problems::{Problem, problems};
pub(super) use query::Query;

const STYLE: &str = include_str!("page/style.css");
const SCRIPT: &str = include_str!("page/filter.js");

/// Rows of one page: 2,000 pods stay below 200 kB compressed.
const ROWS_PER_PAGE: usize = 500;

/// Problems that are listed. More causes than this are no summary any more.
const MAX_PROBLEMS: usize = 50;

/// Everything that the page shows.
pub(super) struct View<'a> {
    pub(super) report: &'a Report,
    pub(super) conditions: &'a [(Condition, State)],
    /// Settings in force, by flag.
    pub(super) limits: &'a [(&'static str, String)],
    pub(super) query: &'a Query,
}

/// One row of the table.
enum Row<'a> {
    Target(&'a TargetReport),
    Skipped(&'a SkippedReport),
}

impl Row<'_> {
    fn state(&self) -> &str {
        match self {
            Self::Target(target) => &target.health,
            Self::Skipped(_) => "skipped",
        }
    }

    /// The order on the page: failing targets first.
    fn rank(&self) -> u8 {
        match self.state() {
            "down" => 0,
            "unknown" => 1,
            "up" => 2,
            _ => 3,
        }
    }

    fn matches(&self, query: &Query) -> bool {
        match self {
            Self::Target(target) => {
                let last = target.last_scrape.as_ref();
                let error = last.and_then(|last| last.error.as_deref()).unwrap_or_default();
                let reason = last
                    .and_then(|last| last.error_kind.as_deref())
                    .unwrap_or_default();
                let (namespace, pod, url) = (&target.namespace, &target.pod, &target.url);
                query.matches(namespace, &format!("{namespace}/{pod} {url} {reason} {error}"))
            }
            Self::Skipped(skipped) => {
                let (namespace, pod) = (&skipped.namespace, &skipped.pod);
                let text = format!("{namespace}/{pod} {} {}", skipped.kind, skipped.reason);
                query.matches(namespace, &text)
            }
        }
    }
}

/// Renders the page.
pub(super) fn render(view: &View<'_>) -> String {
    let (report, query) = (view.report, view.query);
    let rows = report.targets.iter().map(Row::Target);
    let mut rows: Vec<Row<'_>> = rows.chain(report.skipped.iter().map(Row::Skipped)).collect();
    rows.sort_by_key(Row::rank);
    let count = |state: &str| rows.iter().filter(|row| row.state() == state).count();
    let tabs = ["down", "unknown", "up", "skipped"].map(|state| (state, count(state)));
    let n_all = rows.len();
    rows.retain(|row| query.state.as_deref().is_none_or(|state| row.state() == state) && row.matches(query));
    let n_pages = rows.len().div_ceil(ROWS_PER_PAGE).max(1);
    let page = query.page.min(n_pages);
    let shown = rows.iter().skip((page - 1) * ROWS_PER_PAGE).take(ROWS_PER_PAGE);
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width,initial-scale=1";
                @if let Some(seconds) = query.refresh_seconds {
                    meta http-equiv="refresh" content=(seconds);
                }
                title { (title(tabs[0].1)) }
                style { (PreEscaped(STYLE)) }
            }
            body data-pages=(n_pages) {
                (header(query, n_all, &tabs, rows.len()))
                main {
                    (not_ready(view))
                    (context(view))
                    (problem_list(&problems(report), query))
                    h2 { "Targets" }
                    (pager(query, page, n_pages))
                    table {
                        thead { (table_head()) }
                        tbody { @for row in shown { (table_row(row)) } }
                    }
                    (pager(query, page, n_pages))
                    (conflicts(report))
                    (limits(view.limits))
                    (conditions(view.conditions))
                }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    }
    .into_string()
}

fn title(n_down: usize) -> String {
    match n_down {
        0 => "metrics-proxy".to_owned(),
        n => format!("{n} down · metrics-proxy"),
    }
}

fn header(query: &Query, n_all: usize, tabs: &[(&str, usize)], n_shown: usize) -> Markup {
    html! {
        header {
            h1 { "metrics-proxy " (crate::VERSION) }
            nav.links aria-label="Other pages" {
                a href="metrics" { "Metrics" } a href="readyz?verbose" { "Readiness" } a href="api/v1/targets" { "JSON" }
            }
            div.tabs {
                a href=(query.with_state(None).link()) aria-current=[query.state.is_none().then_some("true")] {
                    "All " (n_all)
                }
                @for (state, count) in tabs {
                    @if *count > 0 || query.state.as_deref() == Some(state) {
                        a class=(state) href=(query.with_state(Some(state)).link())
                            aria-current=[(query.state.as_deref() == Some(state)).then_some("true")] {
                            (label(state)) " " (count)
                        }
                    }
                }
                form {
                    @if let Some(state) = &query.state { input type="hidden" name="state" value=(state); }
                    @if let Some(namespace) = &query.namespace {
                        input type="hidden" name="namespace" value=(namespace);
                    }
                    input #q name="q" type="search" value=(query.search) aria-label="Filter"
                        placeholder="pod, namespace, address, error";
                    button { "Filter" }
                }
                span #n { (n_shown) " shown" }
                @if let Some(namespace) = &query.namespace {
                    a href=(Query { namespace: None, page: 1, ..query.clone() }.link()) { "namespace " (namespace) " ×" }
                }
            }
        }
    }
}

fn label(state: &str) -> &str {
    match state {
        "down" => "Down",
        "up" => "Up",
        "unknown" => "Not scraped yet",
        _ => "Skipped",
    }
}

/// A box for each problem of the proxy itself.
fn not_ready(view: &View<'_>) -> Markup {
    html! {
        @for (condition, state) in view.conditions {
            @if let State::Bad(text) = state {
                @let (cause, remedy) = cause_and_remedy(text);
                div.bad role="alert" {
                    b { (condition.as_str()) } ": " (cause)
                    @if let Some(remedy) = remedy { br; "→ " (remedy) }
                }
            }
        }
        @if let Some(no_match) = &view.report.no_match {
            @let (cause, remedy) = cause_and_remedy(no_match);
            div.bad role="alert" {
                "No pod is selected: " (cause)
                @if let Some(remedy) = remedy { br; "→ " (remedy) }
            }
        } @else if view.report.discovery == "synced"
            && view.report.targets.is_empty()
            && view.report.skipped.is_empty()
        {
            div.bad role="alert" {
                "No pod is selected." br; "→ compare: "
                code { "kubectl get pods -A -l '" (selector(view)) "'" }
            }
        }
    }
}

fn selector<'a>(view: &'a View<'_>) -> &'a str {
    let selector = view
        .conditions
        .iter()
        .find(|(condition, _)| *condition == Condition::Selector);
    selector.and_then(|(_, state)| state.text()).unwrap_or_default()
}

/// One line: which pods, how fresh, and who scraped them last.
fn context(view: &View<'_>) -> Markup {
    let report = view.report;
    let refresh = Query {
        refresh_seconds: Some(5),
        ..view.query.clone()
    };
    html! {
        p {
            @if report.no_match.is_none() { "Pods that match " code { (selector(view)) } }
            @match (&report.reason, report.age_seconds) {
                (Some(reason), _) => { " · discovery is " (report.discovery) ": " (reason) }
                (None, Some(seconds)) => { " · confirmed " (ago(seconds)) }
                (None, None) => {}
            }
            @if let Some(outage) = &report.outage { " · this is the last known set: " (outage) }

            @match &report.last_request {
                None => " · not scraped yet",
                Some(last) => {
                    " · last scraped " (ago(last.age_seconds)) " by " (last.by)
                    @if let Some(timeout) = &last.timeout { ", timeout " (timeout) " s" }
                    "; targets had " (format!("{:.1}", last.targets_had_seconds)) " s"
                }
            }
            " · "
            @if view.query.refresh_seconds.is_some() {
                a href=(Query { refresh_seconds: None, ..view.query.clone() }.link()) { "stop refreshing" }
            } @else {
                a href=(refresh.link()) { "refresh every 5 s" }
            }
        }
    }
}

fn problem_list(problems: &[Problem], query: &Query) -> Markup {
    html! {
        @if !problems.is_empty() {
            h2 { "Problems" }
            @for problem in problems.iter().take(MAX_PROBLEMS) {
                @let link = Query {
                    state: Some(problem.state.to_owned()),
                    search: problem.reason.clone(),
                    page: 1,
                    ..query.clone()
                };
                div.p {
                    b class=(problem.state) { (problem.count) }
                    div {
                        (problem.cause)
                        @if let Some(remedy) = &problem.remedy { " " small { "→ " (remedy) } }
                        br;
                        small {
                            (problem.example)
                            @if problem.count > 1 { " and " (problem.count - 1) " more" }
                            " · " a href=(link.link()) { "show " (problem.reason) }
                        }
                    }
                }
            }
            @if problems.len() > MAX_PROBLEMS { p { "and " (problems.len() - MAX_PROBLEMS) " further causes" } }
        }
    }
}

fn table_head() -> Markup {
    html! {
        tr {
            th { "State" } th { "Pod" } th { "Address" } th.n { "Scraped" } th.n { "Took" } th.n { "Samples" }
            th.n { "Bytes" } th { "Error" }
        }
    }
}

fn table_row(row: &Row<'_>) -> Markup {
    match row {
        Row::Target(target) => target_row(target),
        Row::Skipped(skipped) => html! {
            tr {
                td class="s skipped" { "skipped" }
                td { span.ns { (skipped.namespace) "/" } (skipped.pod) }
                td {} td.n {} td.n {} td.n {} td.n {}
                td.e { (skipped.reason) " " small { "(" (skipped.kind) ")" } }
            }
        },
    }
}

fn target_row(target: &TargetReport) -> Markup {
    let last = target.last_scrape.as_ref();
    html! {
        tr {
            td class={ "s " (target.health) } {
                (target.health)
                @if let Some(seconds) = target.health_seconds { " " small { (age(Duration::from_secs_f64(seconds))) } }
            }
            td { span.ns { (target.namespace) "/" } (target.pod) }
            td { a href=(target.url) { (target.url.strip_prefix("http://").unwrap_or(&target.url)) } }
            td.n data-l="scraped" { @if let Some(seconds) = target.age_seconds { (ago(seconds)) } }
            @match last {
                None => { td.n {} td.n {} td.n {} td.e {} }
                Some(last) => {
                    td.n data-l="took" { (milliseconds(last.duration_seconds)) }
                    td.n data-l="samples" { (last.samples) }
                    td.n data-l="bytes" { (last.body_bytes) }
                    td.e { (details(target, last.error.as_deref())) }
                }
            }
        }
    }
}

/// The error with its remedy; labels and a command on demand.
fn details(target: &TargetReport, error: Option<&str>) -> Markup {
    let Some(error) = error else {
        return html! {};
    };
    let (cause, remedy) = cause_and_remedy(error);
    html! {
        details {
            summary { (cause) }
            dl {
                @if let Some(remedy) = remedy { dt { "Remedy" } dd { (remedy) } }
                dt { "Labels" }
                dd { @for (name, value) in &target.labels { code { (name) "=" (value) } " " } }
                dt { "Look" }
                dd { code { "metrics-proxy targets " (target.namespace) "/" (target.pod) } }
            }
        }
    }
}

fn pager(query: &Query, page: usize, n_pages: usize) -> Markup {
    let link = |page| {
        Query {
            page,
            ..query.clone()
        }
        .link()
    };
    html! {
        @if n_pages > 1 {
            p {
                @if page > 1 { a href=(link(page - 1)) { "previous" } " · " }
                "page " (page) " of " (n_pages)
                @if page < n_pages { " · " a href=(link(page + 1)) { "next" } }
            }
        }
    }
}

fn conflicts(report: &Report) -> Markup {
    html! {
        @if !report.conflicts.is_empty() {
            h2 { "Conflicts between targets" }
            p { "No sample is lost. Such families are written without what the targets disagree on." }
            @for conflict in &report.conflicts {
                div.p {
                    b.unknown { (conflict.kind) }
                    div { code { (conflict.family) } ": " (conflict.detail) br; small { (conflict.pods.join(", ")) } }
                }
            }
        }
        @if !report.unsupported.is_empty() {
            h2 { "Not supported in monitors" }
            ul { @for line in &report.unsupported { li { (line) } } }
        }
    }
}

fn limits(limits: &[(&'static str, String)]) -> Markup {
    html! {
        h2 { "Limits in force" }
        p { @for (flag, value) in limits { code { (flag) "=" (value) } " " } }
    }
}

fn conditions(conditions: &[(Condition, State)]) -> Markup {
    html! {
        h2 { "Conditions" }
        @for (condition, state) in conditions {
            @let class = match state.severity() { Severity::Ok => "up", Severity::Note => "note", Severity::Bad => "down" };
            div.p {
                b class=(class) { (state.severity().as_str()) }
                div { (condition.as_str()) @if let Some(text) = state.text() { ": " (text) } }
            }
        }
    }
}

fn ago(seconds: f64) -> String {
    format!(
        "{} ago",
        age(Duration::try_from_secs_f64(seconds).unwrap_or_default())
    )
}

fn milliseconds(seconds: f64) -> String {
    format!("{:.0} ms", seconds * 1000.0)
}

#[cfg(test)]
mod tests;
