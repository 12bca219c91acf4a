//! Environment variables as Kubernetes, Pebble and people set them.
//!
//! For each Service of a pod's namespace the kubelet sets variables in every container of the pod ("service links").
//! A Service named `metrics-proxy` so sets `METRICS_PROXY_PORT=tcp://10.1.2.3:15090`, which has the name of a setting.
//! [`Environment`] tells these variables and misspelled ones apart from settings.
//!
//! Source: Kubernetes, `pkg/kubelet/envvars/envvars.go`.

use std::collections::BTreeMap;

use super::SETTINGS;

const PREFIX: &str = "METRICS_PROXY_";

/// A variable with our prefix that belongs to no setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownVariable {
    /// Its name.
    pub name: String,
    /// The known variable whose name is the most similar.
    pub nearest: String,
}

/// The environment of the process, without the variables that the kubelet sets for Services.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    values: BTreeMap<String, String>,
    /// Names of the variables that come from service links and are ignored, sorted.
    pub service_links: Vec<String>,
    /// Variables with our prefix that belong to no setting and are ignored, sorted by name.
    pub unknown: Vec<UnknownVariable>,
}

impl Environment {
    /// Sorts the variables of an environment, given as pairs of name and value.
    pub fn new(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let known: Vec<String> = SETTINGS
            .iter()
            .flat_map(super::Setting::env_names)
            .filter(|name| name.starts_with(PREFIX))
            .collect();
        let mut environment = Self::default();
        for (name, value) in variables {
            if name.starts_with(PREFIX) {
                if is_service_link(&name, &value) {
                    environment.service_links.push(name);
                    continue;
                }
                if !known.contains(&name) {
                    let nearest = nearest(&name, &known);
                    environment.unknown.push(UnknownVariable { name, nearest });
                    continue;
                }
            }
            environment.values.insert(name, value);
        }
        environment.service_links.sort_unstable();
        environment.unknown.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        environment
    }

    /// The value of a variable. An empty variable counts as unset, since charms clear an option by emptying it.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }
}

/// Whether the kubelet sets such a variable for a Service whose name begins with `metrics-proxy`.
///
/// The value decides first: no setting has an address with one of these schemes, and a Service named
/// `metrics-proxy-default` sets `METRICS_PROXY_DEFAULT_PORT`. The other variables of a Service have plain values (an
/// address, a number, a protocol) and are known by their names, which no setting has.
fn is_service_link(name: &str, value: &str) -> bool {
    let has_scheme = ["tcp://", "udp://", "sctp://"]
        .iter()
        .any(|scheme| value.starts_with(scheme));
    has_scheme || is_service_variable(name) || is_port_variable(name)
}

/// `*_SERVICE_HOST`, `*_SERVICE_PORT` and, for a named port, `*_SERVICE_PORT_<NAME>`.
fn is_service_variable(name: &str) -> bool {
    name.ends_with("_SERVICE_HOST") || name.ends_with("_SERVICE_PORT") || name.contains("_SERVICE_PORT_")
}

/// `*_PORT_<N>_<PROTO>`, alone or followed by `_PROTO`, `_PORT` or `_ADDR`.
fn is_port_variable(name: &str) -> bool {
    let name = ["_PROTO", "_PORT", "_ADDR"]
        .iter()
        .find_map(|end| name.strip_suffix(end))
        .unwrap_or(name);
    let mut words = name.rsplit('_');
    let protocol = words.next();
    let number = words.next();
    let port = words.next();
    matches!(protocol, Some("TCP" | "UDP" | "SCTP"))
        && number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
        && port == Some("PORT")
}

fn nearest(name: &str, known: &[String]) -> String {
    known
        .iter()
        .min_by_key(|candidate| strsim::damerau_levenshtein(name, candidate))
        .cloned()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Environment {
        Environment::new(
            pairs
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        )
    }

    #[track_caller]
    fn check_link(name: &str, value: &str) {
        let environment = environment(&[(name, value)]);
        assert_eq!(environment.service_links, [name]);
        assert_eq!(environment.unknown, []);
        assert_eq!(environment.get(name), None);
    }

    #[test]
    fn an_address_with_a_scheme_is_a_service_link_whatever_setting_has_that_name() {
        check_link("METRICS_PROXY_PORT", "tcp://10.152.183.7:15090");
        check_link("METRICS_PROXY_PORT", "udp://10.152.183.7:15090");
        check_link("METRICS_PROXY_PORT", "sctp://[fd00::7]:15090");
        check_link("METRICS_PROXY_DEFAULT_PORT", "tcp://[fd00::7]:80");
        check_link("METRICS_PROXY_SECRET", "tcp://10.152.183.7:1");
        check_link("METRICS_PROXY_FOR_ISTIO_PORT", "tcp://10.152.183.7:1");
    }

    #[test]
    fn the_other_variables_of_a_service_are_known_by_their_names() {
        check_link("METRICS_PROXY_SERVICE_HOST", "10.152.183.7");
        check_link("METRICS_PROXY_SERVICE_PORT", "15090");
        check_link("METRICS_PROXY_SERVICE_PORT_PEBBLE_METRICS", "38813");
        check_link("METRICS_PROXY_OF_A_TEAM_SERVICE_HOST", "fd00::7");
        check_link("METRICS_PROXY_PORT_15090_TCP", "tcp://10.152.183.7:15090");
        check_link("METRICS_PROXY_PORT_15090_TCP_PROTO", "tcp");
        check_link("METRICS_PROXY_PORT_15090_TCP_PORT", "15090");
        check_link("METRICS_PROXY_PORT_15090_UDP_ADDR", "10.152.183.7");
        check_link("METRICS_PROXY_FOR_ISTIO_PORT_1_SCTP_ADDR", "10.152.183.7");
    }

    #[test]
    fn a_setting_is_no_service_link() {
        for (name, value) in [
            ("METRICS_PROXY_PORT", "15090"),
            ("METRICS_PROXY_DEFAULT_PORT", "declared"),
            ("PORT", "15090"),
            ("SOME_SERVICE_HOST", "10.152.183.7"),
        ] {
            let environment = environment(&[(name, value)]);
            assert_eq!(environment.get(name), Some(value));
            assert!(environment.service_links.is_empty(), "{name}");
            assert!(environment.unknown.is_empty(), "{name}");
        }
    }

    #[test]
    fn no_setting_has_a_name_that_a_service_could_set_with_a_plain_value() {
        for setting in SETTINGS.iter() {
            for name in setting.env_names() {
                assert!(!is_service_variable(&name) && !is_port_variable(&name), "{name}");
            }
        }
    }

    #[test]
    fn an_unknown_variable_is_named_with_the_nearest_known_one() {
        let environment = environment(&[
            ("METRICS_PROXY_TIMEOT", "5s"),
            ("METRICS_PROXY_NAMESPACES", "shop"),
            ("METRICS_PROXY_TIMEOUT", "5s"),
        ]);
        let unknown = |name: &str, nearest: &str| UnknownVariable {
            name: name.to_owned(),
            nearest: nearest.to_owned(),
        };
        assert_eq!(
            environment.unknown,
            [
                unknown("METRICS_PROXY_NAMESPACES", "METRICS_PROXY_NAMESPACE"),
                unknown("METRICS_PROXY_TIMEOT", "METRICS_PROXY_TIMEOUT"),
            ]
        );
        assert_eq!(environment.get("METRICS_PROXY_TIMEOT"), None);
        assert_eq!(environment.get("METRICS_PROXY_TIMEOUT"), Some("5s"));
    }
}
