//! What a pod's annotations ask for.
//!
//! The set that users write already: prometheus-community's `kubernetes-pods` job, the predecessor's defaults, Istio's
//! list. `docs/reference/annotations.md` tells users the same; keep both in step.

use std::collections::BTreeSet;

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::{ContainerPort, DefaultPort, Pod, Protocol, Scheme};

const SCRAPE: &str = "prometheus.io/scrape";
const PORT: &str = "prometheus.io/port";
const PATH: &str = "prometheus.io/path";
const SCHEME: &str = "prometheus.io/scheme";
const PARAM: &str = "prometheus.io/param_";
const SCRAPE_TARGETS: &str = "prometheus.istio.io/scrape-targets";
const DEFAULT_PATH: &str = "/metrics";
/// Where Istio's agent serves what it has merged of the application's targets.
const ISTIO_MERGED_PORT: &str = "15020";

/// An endpoint that the annotations ask for. Which address it is at is not their business.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Wanted {
    /// The port.
    pub(super) port: u16,
    /// Path and query, as they are sent.
    pub(super) path_and_query: String,
    /// The path as its own label, where the form names paths.
    pub(super) path_label: Option<String>,
    /// Whether the form can name several endpoints, so that the port is a label.
    pub(super) port_label: bool,
}

/// Something that is not scraped: a stable word and a sentence.
pub(super) type Refusal = (&'static str, String);

/// What the annotations of one pod come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) scheme: Scheme,
    /// Sorted, each once.
    pub(super) wanted: Vec<Wanted>,
    /// Parts that cannot be used, while others can.
    pub(super) refused: Vec<Refusal>,
}

/// Whether the annotations ask for a scrape at all, and else why not.
pub(super) fn asks_for_scrape(pod: &Pod) -> Result<(), Refusal> {
    match annotation(pod, SCRAPE) {
        Some("1" | "t" | "T" | "true" | "True" | "TRUE") => Ok(()),
        Some("0" | "f" | "F" | "false" | "False" | "FALSE") => Err((
            "annotated_off",
            format!("the annotation {SCRAPE} says not to scrape it"),
        )),
        Some(value) => Err((
            "bad_annotation",
            format!(
                "the annotation {SCRAPE} is {}; use \"true\" or \"false\"",
                quoted(value)
            ),
        )),
        None if annotation(pod, SCRAPE_TARGETS).is_some() => Ok(()),
        None => Err((
            "not_annotated",
            format!("it has no annotation {SCRAPE}; set it to \"true\""),
        )),
    }
}

/// Reads the annotations of a pod that asks for a scrape.
///
/// # Errors
/// The one reason why nothing of it can be scraped. A bad part of a list is in [`Plan::refused`] instead.
pub(super) fn plan(pod: &Pod, default_port: DefaultPort) -> Result<Plan, Refusal> {
    let scheme = match annotation(pod, SCHEME).map(str::to_ascii_lowercase).as_deref() {
        None | Some("http") => Scheme::Http,
        Some("https") => Scheme::Https,
        Some(other) => {
            return Err((
                "bad_scheme",
                format!("the annotation {SCHEME} is {}; use http or https", quoted(other)),
            ));
        }
    };
    let query = query(pod)?;
    let mut plan = Plan {
        scheme,
        wanted: Vec::new(),
        refused: Vec::new(),
    };
    let port = annotation(pod, PORT);
    match annotation(pod, SCRAPE_TARGETS) {
        // Istio's injector points the plain annotations at its agent, which answers for the whole list.
        Some(list) if port != Some(ISTIO_MERGED_PORT) => plan.take_scrape_targets(pod, list, &query),
        _ => {
            let path = normal_path(annotation(pod, PATH).unwrap_or(DEFAULT_PATH));
            plan.take_plain(pod, port, &path, &query, default_port);
        }
    }
    plan.wanted.sort();
    // The same endpoint asked for twice is scraped once.
    plan.wanted
        .dedup_by(|a, b| a.port == b.port && a.path_and_query == b.path_and_query);
    if plan.wanted.is_empty() {
        // Each form pushes at least one of the two; the first refusal tells why nothing is left.
        if plan.refused.len() == 1 {
            return Err(plan.refused.remove(0));
        }
        if plan.refused.is_empty() {
            return Err((
                "no_port",
                format!("the annotation {SCRAPE_TARGETS} names no target"),
            ));
        }
    }
    Ok(plan)
}

impl Plan {
    fn take_plain(
        &mut self,
        pod: &Pod,
        port: Option<&str>,
        path: &str,
        query: &str,
        default_port: DefaultPort,
    ) {
        let want = |port, port_label| Wanted {
            port,
            path_and_query: with_query(path, query),
            path_label: None,
            port_label,
        };
        match (port, default_port) {
            (Some(text), _) => {
                let is_list = text.contains(',');
                for entry in text.split(',') {
                    match resolve_port(pod, entry.trim(), PORT) {
                        Ok(port) => self.wanted.push(want(port, is_list)),
                        Err(refusal) => self.refused.push(refusal),
                    }
                }
            }
            (None, DefaultPort::Number(port)) => self.wanted.push(want(port, false)),
            (None, DefaultPort::Declared) => {
                let declared = tcp_ports(pod).map(|port| port.number);
                self.wanted.extend(declared.map(|port| want(port, true)));
                if self.wanted.is_empty() {
                    self.refused.push((
                        "no_port",
                        format!("no container declares a TCP port, and it has no annotation {PORT}"),
                    ));
                }
            }
        }
    }

    fn take_scrape_targets(&mut self, pod: &Pod, list: &str, query: &str) {
        for entry in list.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            let (port, path) = entry.split_once(':').unwrap_or((entry, ""));
            let path = normal_path(if path.trim().is_empty() {
                DEFAULT_PATH
            } else {
                path.trim()
            });
            match resolve_port(pod, port.trim(), SCRAPE_TARGETS) {
                Ok(port) => self.wanted.push(Wanted {
                    port,
                    path_and_query: with_query(&path, query),
                    path_label: Some(path),
                    port_label: true,
                }),
                Err(refusal) => self.refused.push(refusal),
            }
        }
    }
}

/// A port from its number or its name.
fn resolve_port(pod: &Pod, text: &str, annotation: &str) -> Result<u16, Refusal> {
    if text.is_empty() {
        return Err((
            "bad_port",
            format!("the annotation {annotation} has an empty entry"),
        ));
    }
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse().ok().filter(|port| *port != 0).ok_or_else(|| {
            (
                "bad_port",
                format!(
                    "the annotation {annotation} names port {}; use 1 to 65535",
                    quoted(text)
                ),
            )
        });
    }
    let named = |port: &&ContainerPort| port.name.as_deref() == Some(text);
    let numbers: BTreeSet<u16> = tcp_ports(pod).filter(named).map(|port| port.number).collect();
    let mut numbers = numbers.into_iter();
    match (numbers.next(), numbers.next()) {
        (Some(number), None) => Ok(number),
        (Some(first), Some(second)) => Err((
            "ambiguous_port",
            format!(
                "the annotation {annotation} names port {}, which is {first} in one container and {second} in another; use the number",
                quoted(text)
            ),
        )),
        (None, _) if pod.ports.iter().any(|port| named(&port)) => Err((
            "unknown_port",
            format!(
                "the annotation {annotation} names port {}, which is not a TCP port",
                quoted(text)
            ),
        )),
        (None, _) => Err((
            "unknown_port",
            format!(
                "the annotation {annotation} names port {}, which no container declares",
                quoted(text)
            ),
        )),
    }
}

fn tcp_ports(pod: &Pod) -> impl Iterator<Item = &ContainerPort> {
    pod.ports
        .iter()
        .filter(|port| port.protocol == Protocol::Tcp && port.number != 0)
}

/// An annotation's value without the spaces around it; an empty one counts as none.
fn annotation<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    pod.annotations
        .get(name)
        .map(|value| value.trim())
        .filter(|value| !value.is_empty())
}

/// What a URI may not hold as it is. A `#` would cut off the rest.
const NOT_IN_PATH: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'<')
    .add(b'>')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

const NOT_IN_PARAMETER: &AsciiSet = &NOT_IN_PATH.add(b'%').add(b'&').add(b'+').add(b'=');

/// A path as it is sent: a slash first, a query kept, what a request line cannot hold percent-encoded.
fn normal_path(path: &str) -> String {
    let slash = if path.starts_with('/') { "" } else { "/" };
    format!("{slash}{}", utf8_percent_encode(path, NOT_IN_PATH))
}

/// The `param_<name>` annotations as a query without its question mark, sorted by name.
fn query(pod: &Pod) -> Result<String, Refusal> {
    let mut query = String::new();
    for (key, value) in &pod.annotations {
        let Some(name) = key.strip_prefix(PARAM) else {
            continue;
        };
        if name.is_empty() {
            return Err((
                "bad_annotation",
                format!("the annotation {PARAM} names no parameter; write it as {PARAM}NAME"),
            ));
        }
        if !query.is_empty() {
            query.push('&');
        }
        query.extend(utf8_percent_encode(name, NOT_IN_PARAMETER));
        query.push('=');
        query.extend(utf8_percent_encode(value, NOT_IN_PARAMETER));
    }
    Ok(query)
}

fn with_query(path: &str, query: &str) -> String {
    match (query.is_empty(), path.contains('?')) {
        (true, _) => path.to_owned(),
        (false, false) => format!("{path}?{query}"),
        (false, true) => format!("{path}&{query}"),
    }
}

/// A value from outside in a sentence: quoted, escaped, and cut where it is long.
fn quoted(text: &str) -> String {
    const MOST: usize = 64;
    if text.chars().count() <= MOST {
        return format!("{text:?}");
    }
    let start: String = text.chars().take(MOST).collect();
    format!("{start:?}…")
}
