//! What a pod's annotations ask for.
//!
//! The set that users write already: prometheus-community's `kubernetes-pods` job, the predecessor's defaults, Istio's
//! list. `docs/reference/annotations.md` tells users the same; keep both in step.

use std::collections::{BTreeMap, BTreeSet};

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
    /// http or https.
    pub(super) scheme: Scheme,
}

impl Wanted {
    /// Stands where a port was refused.
    pub(super) fn unknown() -> Self {
        Self {
            port: 0,
            path_and_query: String::new(),
            path_label: None,
            port_label: false,
            scheme: Scheme::Http,
        }
    }
}

/// Something that is not scraped: a stable word and a sentence.
pub(super) type Refusal = (&'static str, String);

/// What the annotations of one pod come to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// In the order in which they count.
    pub(super) wanted: Vec<Wanted>,
    /// Parts that cannot be used, while others can.
    pub(super) refused: Vec<Refusal>,
}

/// Annotations by name.
type Annotations = BTreeMap<Box<str>, Box<str>>;

/// Whether the annotations ask for a scrape at all, and else why not.
pub(super) fn asks(annotations: &Annotations) -> Result<(), Refusal> {
    match annotation(annotations, SCRAPE) {
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
        None if annotation(annotations, SCRAPE_TARGETS).is_some() => Ok(()),
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
    let annotations = &pod.annotations;
    let scheme = scheme(annotations)?;
    let query = query(annotations)?;
    let mut plan = Plan {
        wanted: Vec::new(),
        refused: Vec::new(),
    };
    let port = annotation(annotations, PORT);
    match annotation(annotations, SCRAPE_TARGETS) {
        // Istio's injector points the plain annotations at its agent, which answers for the whole list.
        Some(list) if port != Some(ISTIO_MERGED_PORT) => plan.take_scrape_targets(pod, list, scheme, &query),
        _ => {
            let form = Plain {
                path: normal_path(annotation(annotations, PATH).unwrap_or(DEFAULT_PATH)),
                query,
                scheme,
            };
            plan.take_plain(pod, port, &form, default_port);
        }
    }
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
    fn take_plain(&mut self, pod: &Pod, port: Option<&str>, form: &Plain, default_port: DefaultPort) {
        let want = |port, port_label| form.want(port, port_label);
        match (port, default_port) {
            (Some(text), _) => {
                let is_list = text.contains(',');
                for entry in text.split(',') {
                    match resolve_port(pod, entry.trim(), &place(PORT)) {
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

    fn take_scrape_targets(&mut self, pod: &Pod, list: &str, scheme: Scheme, query: &str) {
        for entry in list.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            let (port, path) = entry.split_once(':').unwrap_or((entry, ""));
            let path = normal_path(if path.trim().is_empty() {
                DEFAULT_PATH
            } else {
                path.trim()
            });
            match resolve_port(pod, port.trim(), &place(SCRAPE_TARGETS)) {
                Ok(port) => self.wanted.push(Wanted {
                    port,
                    path_and_query: with_query(&path, query),
                    path_label: Some(path),
                    port_label: true,
                    scheme,
                }),
                Err(refusal) => self.refused.push(refusal),
            }
        }
    }
}

fn place(annotation: &str) -> String {
    format!("the annotation {annotation}")
}

/// One path, query and scheme for any port.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Plain {
    path: String,
    query: String,
    scheme: Scheme,
}

impl Plain {
    fn want(&self, port: u16, port_label: bool) -> Wanted {
        Wanted {
            port,
            path_and_query: with_query(&self.path, &self.query),
            path_label: None,
            port_label,
            scheme: self.scheme,
        }
    }
}

/// What the annotations of a Service ask for; its ports have numbers in its endpoints only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServicePlan {
    form: Plain,
    /// Names or numbers; none means all ports of the Service.
    pub(super) ports: Option<Vec<String>>,
    pub(super) is_list: bool,
}

impl ServicePlan {
    pub(super) fn want(&self, port: u16, port_label: bool) -> Wanted {
        self.form.want(port, port_label)
    }
}

/// Reads the annotations of a Service that asks for a scrape.
pub(super) fn of_service(annotations: &Annotations) -> Result<ServicePlan, Refusal> {
    let port = annotation(annotations, PORT);
    Ok(ServicePlan {
        form: Plain {
            path: normal_path(annotation(annotations, PATH).unwrap_or(DEFAULT_PATH)),
            query: query(annotations)?,
            scheme: scheme(annotations)?,
        },
        ports: port.map(|ports| ports.split(',').map(|port| port.trim().to_owned()).collect()),
        is_list: port.is_some_and(|port| port.contains(',')),
    })
}

fn scheme(annotations: &Annotations) -> Result<Scheme, Refusal> {
    match annotation(annotations, SCHEME)
        .map(str::to_ascii_lowercase)
        .as_deref()
    {
        None | Some("http") => Ok(Scheme::Http),
        Some("https") => Ok(Scheme::Https),
        Some(other) => Err((
            "bad_scheme",
            format!("the annotation {SCHEME} is {}; use http or https", quoted(other)),
        )),
    }
}

/// A port from its number or its name, as `place` says it.
pub(super) fn resolve_port(pod: &Pod, text: &str, place: &str) -> Result<u16, Refusal> {
    if text.is_empty() {
        return Err(("bad_port", format!("{place} has an empty entry")));
    }
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse().ok().filter(|port| *port != 0).ok_or_else(|| {
            (
                "bad_port",
                format!("{place} names port {}; use 1 to 65535", quoted(text)),
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
                "{place} names port {}, which is {first} in one container and {second} in another; use the number",
                quoted(text)
            ),
        )),
        (None, _) if pod.ports.iter().any(|port| named(&port)) => Err((
            "unknown_port",
            format!("{place} names port {}, which is not a TCP port", quoted(text)),
        )),
        (None, _) => Err((
            "unknown_port",
            format!("{place} names port {}, which no container declares", quoted(text)),
        )),
    }
}

fn tcp_ports(pod: &Pod) -> impl Iterator<Item = &ContainerPort> {
    pod.ports
        .iter()
        .filter(|port| port.protocol == Protocol::Tcp && port.number != 0)
}

/// An annotation's value without the spaces around it; an empty one counts as none.
fn annotation<'a>(annotations: &'a Annotations, name: &str) -> Option<&'a str> {
    annotations
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
pub(super) fn normal_path(path: &str) -> String {
    let slash = if path.starts_with('/') { "" } else { "/" };
    format!("{slash}{}", utf8_percent_encode(path, NOT_IN_PATH))
}

/// The `param_<name>` annotations as a query without its question mark, sorted by name.
fn query(annotations: &Annotations) -> Result<String, Refusal> {
    let mut pairs = Vec::new();
    for (key, value) in annotations {
        match key.strip_prefix(PARAM) {
            None => {}
            Some("") => {
                return Err((
                    "bad_annotation",
                    format!("the annotation {PARAM} names no parameter; write it as {PARAM}NAME"),
                ));
            }
            Some(name) => pairs.push((name, &**value)),
        }
    }
    Ok(encode_query(pairs))
}

/// A query of these parameters, without its question mark.
pub(super) fn encode_query<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut query = String::new();
    for (name, value) in pairs {
        if !query.is_empty() {
            query.push('&');
        }
        query.extend(utf8_percent_encode(name, NOT_IN_PARAMETER));
        query.push('=');
        query.extend(utf8_percent_encode(value, NOT_IN_PARAMETER));
    }
    query
}

pub(super) fn with_query(path: &str, query: &str) -> String {
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
