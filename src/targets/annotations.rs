//! The scrape annotations of pods and Services.
//!
//! The annotations are those that users write already: prometheus-community's `kubernetes-pods` job, the defaults of the
//! predecessor of this program, and Istio's list. `docs/reference/annotations.md` describes them for users.

use std::collections::{BTreeMap, BTreeSet};

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::skip::Skip;
use super::{ContainerPort, DefaultPort, Pod, Protocol, Scheme, SkipReason};

const SCRAPE: &str = "prometheus.io/scrape";
const PORT: &str = "prometheus.io/port";
const PATH: &str = "prometheus.io/path";
const SCHEME: &str = "prometheus.io/scheme";
const PARAM: &str = "prometheus.io/param_";
const SCRAPE_TARGETS: &str = "prometheus.istio.io/scrape-targets";
const DEFAULT_PATH: &str = "/metrics";
/// The port on which Istio's agent serves the merged metrics of the pod.
const ISTIO_MERGED_PORT: &str = "15020";

/// An endpoint that an annotation or a monitor asks for, at whatever address the pod has.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Endpoint {
    pub(super) port: u16,
    /// Path and query as they are sent.
    pub(super) path_and_query: String,
    /// The path as a label, if the form of the request can name several paths.
    pub(super) path_label: Option<String>,
    /// Whether the form of the request can name several endpoints, so that the port becomes a label.
    pub(super) port_label: bool,
    pub(super) scheme: Scheme,
}

/// The endpoints that something asks for, and the parts of the request that cannot be used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Endpoints {
    /// In order of precedence.
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) skipped: Vec<Skip>,
}

impl Endpoints {
    pub(super) fn is_empty(&self) -> bool {
        self.endpoints.is_empty() && self.skipped.is_empty()
    }

    pub(super) fn push(&mut self, endpoint: Result<Endpoint, Skip>) {
        match endpoint {
            Ok(endpoint) => self.endpoints.push(endpoint),
            Err(skip) => self.skipped.push(skip),
        }
    }

    pub(super) fn extend(&mut self, other: Self) {
        self.endpoints.extend(other.endpoints);
        self.skipped.extend(other.skipped);
    }
}

/// Annotations by name.
pub(super) type Annotations = BTreeMap<Box<str>, Box<str>>;

/// Returns whether the annotations ask for a scrape, and otherwise why not.
pub(super) fn opts_in(annotations: &Annotations) -> Result<(), Skip> {
    match annotation(annotations, SCRAPE) {
        Some("1" | "t" | "T" | "true" | "True" | "TRUE") => Ok(()),
        Some("0" | "f" | "F" | "false" | "False" | "FALSE") => Err(Skip::new(
            SkipReason::AnnotatedOff,
            format!("the annotation {SCRAPE} says not to scrape it"),
        )),
        Some(value) => Err(Skip::new(
            SkipReason::BadAnnotation,
            format!(
                "the annotation {SCRAPE} is {}; use \"true\" or \"false\"",
                quoted(value)
            ),
        )),
        None if annotation(annotations, SCRAPE_TARGETS).is_some() => Ok(()),
        None => Err(Skip::new(
            SkipReason::NotAnnotated,
            format!("it has no annotation {SCRAPE}; set it to \"true\""),
        )),
    }
}

/// Reads the annotations of a pod that asks for a scrape.
///
/// # Errors
/// The reason why nothing can be scraped. A bad entry of a list is in [`Endpoints::skipped`] instead.
pub(super) fn endpoints_of_pod(pod: &Pod, default_port: DefaultPort) -> Result<Endpoints, Skip> {
    let annotations = &pod.annotations;
    let scheme = scheme(annotations)?;
    let query = query(annotations)?;
    let port = annotation(annotations, PORT);
    let mut found = match annotation(annotations, SCRAPE_TARGETS) {
        // Istio's injector points the plain annotations at its agent, which serves the metrics of the whole list.
        Some(list) if port != Some(ISTIO_MERGED_PORT) => scrape_targets(pod, list, scheme, &query),
        _ => {
            let template = EndpointTemplate {
                path: normal_path(annotation(annotations, PATH).unwrap_or(DEFAULT_PATH)),
                query,
                scheme,
            };
            match port {
                Some(list) => listed_ports(pod, list, &template),
                None => default_ports(pod, default_port, &template),
            }
        }
    };
    if found.is_empty() {
        return Err(Skip::new(
            SkipReason::NoPort,
            format!("the annotation {SCRAPE_TARGETS} names no target"),
        ));
    }
    // If nothing is left, a single bad entry is the reason for the whole pod.
    if found.endpoints.is_empty() && found.skipped.len() == 1 {
        return Err(found.skipped.remove(0));
    }
    Ok(found)
}

/// Reads `prometheus.io/port`: a port or a comma-separated list.
fn listed_ports(pod: &Pod, list: &str, template: &EndpointTemplate) -> Endpoints {
    let is_list = list.contains(',');
    let place = format!("the annotation {PORT}");
    let mut found = Endpoints::default();
    for entry in list.split(',') {
        let port = resolve_port(pod, entry.trim(), &place);
        found.push(port.map(|port| template.at_port(port, is_list)));
    }
    found
}

/// Returns the endpoints of a pod without a port annotation.
fn default_ports(pod: &Pod, default_port: DefaultPort, template: &EndpointTemplate) -> Endpoints {
    let mut found = Endpoints::default();
    match default_port {
        DefaultPort::Number(port) => found.push(Ok(template.at_port(port, false))),
        DefaultPort::Declared => {
            for port in tcp_ports(pod) {
                found.push(Ok(template.at_port(port.number, true)));
            }
            if found.is_empty() {
                found.push(Err(Skip::new(
                    SkipReason::NoPort,
                    format!("no container declares a TCP port, and it has no annotation {PORT}"),
                )));
            }
        }
    }
    found
}

/// Reads Istio's list of `port:path` entries.
fn scrape_targets(pod: &Pod, list: &str, scheme: Scheme, query: &str) -> Endpoints {
    let place = format!("the annotation {SCRAPE_TARGETS}");
    let mut found = Endpoints::default();
    for entry in list.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        let (port, path) = entry.split_once(':').unwrap_or((entry, ""));
        let path = match path.trim() {
            "" => normal_path(DEFAULT_PATH),
            path => normal_path(path),
        };
        let port = resolve_port(pod, port.trim(), &place);
        found.push(port.map(|port| Endpoint {
            port,
            path_and_query: with_query(&path, query),
            path_label: Some(path),
            port_label: true,
            scheme,
        }));
    }
    found
}

/// An endpoint that lacks only its port.
#[derive(Debug, Clone, PartialEq, Eq)]
struct EndpointTemplate {
    path: String,
    query: String,
    scheme: Scheme,
}

impl EndpointTemplate {
    fn at_port(&self, port: u16, port_label: bool) -> Endpoint {
        Endpoint {
            port,
            path_and_query: with_query(&self.path, &self.query),
            path_label: None,
            port_label,
            scheme: self.scheme,
        }
    }
}

/// The annotations of a Service that asks for a scrape. The numbers of its ports stand in its EndpointSlices only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServiceAnnotations {
    template: EndpointTemplate,
    /// Names or numbers; `None` means all ports of the Service.
    pub(super) ports: Option<Vec<String>>,
}

impl ServiceAnnotations {
    /// Reads the annotations.
    ///
    /// # Errors
    /// The reason why nothing can be scraped.
    pub(super) fn read(annotations: &Annotations) -> Result<Self, Skip> {
        let ports = annotation(annotations, PORT);
        Ok(Self {
            template: EndpointTemplate {
                path: normal_path(annotation(annotations, PATH).unwrap_or(DEFAULT_PATH)),
                query: query(annotations)?,
                scheme: scheme(annotations)?,
            },
            ports: ports.map(|ports| ports.split(',').map(|port| port.trim().to_owned()).collect()),
        })
    }

    /// Returns the endpoint at a port. The port is a label unless the annotation names exactly one.
    pub(super) fn at_port(&self, port: u16) -> Endpoint {
        let names_one = self.ports.as_ref().is_some_and(|ports| ports.len() == 1);
        self.template.at_port(port, !names_one)
    }
}

fn scheme(annotations: &Annotations) -> Result<Scheme, Skip> {
    match annotation(annotations, SCHEME)
        .map(str::to_ascii_lowercase)
        .as_deref()
    {
        None | Some("http") => Ok(Scheme::Http),
        Some("https") => Ok(Scheme::Https),
        Some(other) => Err(Skip::new(
            SkipReason::BadScheme,
            format!("the annotation {SCHEME} is {}; use http or https", quoted(other)),
        )),
    }
}

/// Returns the number of a port that is given by number or by name. `place` says in error texts where it is given.
pub(super) fn resolve_port(pod: &Pod, text: &str, place: &str) -> Result<u16, Skip> {
    if text.is_empty() {
        return Err(Skip::new(
            SkipReason::BadPort,
            format!("{place} has an empty entry"),
        ));
    }
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse().ok().filter(|port| *port != 0).ok_or_else(|| {
            Skip::new(
                SkipReason::BadPort,
                format!("{place} names port {}; use 1 to 65535", quoted(text)),
            )
        });
    }
    named_port(pod, text, place)
}

/// Looks up a port by its name among the ports that the containers declare.
fn named_port(pod: &Pod, text: &str, place: &str) -> Result<u16, Skip> {
    let named = |port: &&ContainerPort| port.name.as_deref() == Some(text);
    let numbers: BTreeSet<u16> = tcp_ports(pod).filter(named).map(|port| port.number).collect();
    let mut numbers = numbers.into_iter();
    match (numbers.next(), numbers.next()) {
        (Some(number), None) => Ok(number),
        (Some(first), Some(second)) => Err(Skip::new(
            SkipReason::AmbiguousPort,
            format!(
                "{place} names port {}, which is {first} in one container and {second} in another; use the number",
                quoted(text)
            ),
        )),
        (None, _) if pod.ports.iter().any(|port| named(&port)) => Err(Skip::new(
            SkipReason::UnknownPort,
            format!("{place} names port {}, which is not a TCP port", quoted(text)),
        )),
        (None, _) => Err(Skip::new(
            SkipReason::UnknownPort,
            format!("{place} names port {}, which no container declares", quoted(text)),
        )),
    }
}

fn tcp_ports(pod: &Pod) -> impl Iterator<Item = &ContainerPort> {
    pod.ports
        .iter()
        .filter(|port| port.protocol == Protocol::Tcp && port.number != 0)
}

/// Returns an annotation's value without the spaces around it. An empty value counts as no annotation.
fn annotation<'a>(annotations: &'a Annotations, name: &str) -> Option<&'a str> {
    annotations
        .get(name)
        .map(|value| value.trim())
        .filter(|value| !value.is_empty())
}

/// What a request line must not contain as it is. A `#` would cut off the rest of the path.
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

/// Returns a path as it is sent: it starts with a slash, keeps a query, and is percent-encoded where that is needed.
pub(super) fn normal_path(path: &str) -> String {
    let slash = if path.starts_with('/') { "" } else { "/" };
    format!("{slash}{}", utf8_percent_encode(path, NOT_IN_PATH))
}

/// Returns the `param_<name>` annotations as a query without a question mark, sorted by name.
fn query(annotations: &Annotations) -> Result<String, Skip> {
    let mut pairs = Vec::new();
    for (key, value) in annotations {
        match key.strip_prefix(PARAM) {
            None => {}
            Some("") => {
                return Err(Skip::new(
                    SkipReason::BadAnnotation,
                    format!("the annotation {PARAM} names no parameter; write it as {PARAM}NAME"),
                ));
            }
            Some(name) => pairs.push((name, &**value)),
        }
    }
    Ok(encode_query(pairs))
}

/// Encodes parameters as a query without a question mark.
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

/// Returns a value from outside for use in a sentence: quoted, escaped, and cut if it is long.
fn quoted(text: &str) -> String {
    const MOST: usize = 64;
    if text.chars().count() <= MOST {
        return format!("{text:?}");
    }
    let start: String = text.chars().take(MOST).collect();
    format!("{start:?}…")
}
