//! The layers that the proxy writes: its checks and, by the command `bootstrap`, its service.
//!
//! The files under `pebble-layers/` are the one source: the rock ships them, and the program posts the same, rendered
//! for its own address, port and level. A layer depends on the configuration only, so that posting it again changes
//! nothing.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{EffectiveCheck, Plan};
use crate::config::CheckLevel;

/// The label of the layer with the checks.
pub const LABEL: &str = "metrics-proxy-self";

/// The label of the layer with the service, posted by the command `bootstrap` only.
pub const SERVICE_LABEL: &str = "metrics-proxy-service";

/// The name of the service.
pub const SERVICE: &str = "metrics-proxy";

const SERVICE_YAML: &str = include_str!("../../pebble-layers/001-metrics-proxy.yaml");
const CHECKS_YAML: &str = include_str!("../../pebble-layers/002-metrics-proxy-self.yaml");
/// The port in the files, replaced by the configured one.
const SHIPPED_PORT: u16 = 15090;

/// The configuration that a layer depends on; nothing else may change its bytes.
#[derive(Debug, Clone, Copy)]
pub struct LayerInputs<'a> {
    /// The address that the proxy listens on.
    pub address: IpAddr,
    /// The port that the proxy listens on.
    pub port: u16,
    /// The level of the checks.
    pub level: Option<CheckLevel>,
    /// The mounted secret.
    pub secret: Option<&'a Path>,
}

impl LayerInputs<'_> {
    /// The host of the checks' URLs: a proxy that listens on every address is asked at `localhost`.
    fn host(&self) -> String {
        match self.address {
            address if address.is_unspecified() => "localhost".to_owned(),
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("[{address}]"),
        }
    }
}

/// A layer with the fields that the proxy writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    summary: String,
    description: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    services: BTreeMap<String, Service>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    checks: BTreeMap<String, Check>,
}

/// A service, with every field stated and no field that Pebble 1.19 lacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Service {
    r#override: String,
    summary: String,
    description: String,
    startup: String,
    command: String,
    environment: BTreeMap<String, String>,
    on_success: String,
    on_failure: String,
    backoff_delay: String,
    backoff_factor: u32,
    backoff_limit: String,
    kill_delay: String,
}

/// An HTTP check, with every field stated and no field that Pebble 1.19 lacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Check {
    r#override: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    level: Option<String>,
    startup: String,
    period: String,
    timeout: String,
    threshold: u32,
    http: HttpCheck,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HttpCheck {
    url: String,
}

impl Layer {
    /// The layer with the checks, for this configuration.
    pub fn checks(inputs: LayerInputs<'_>) -> Self {
        let mut layer = Self::shipped(CHECKS_YAML);
        let shipped = format!("localhost:{SHIPPED_PORT}/");
        let configured = format!("{}:{}/", inputs.host(), inputs.port);
        for check in layer.checks.values_mut() {
            check.http.url = check.http.url.replace(&shipped, &configured);
            check.level = inputs.level.map(|level| level.as_str().to_owned());
        }
        layer
    }

    /// The layer with the service. What differs from the defaults goes into its environment, so that the checks ask the
    /// address that it listens on.
    pub fn service(inputs: LayerInputs<'_>) -> Self {
        let mut layer = Self::shipped(SERVICE_YAML);
        for service in layer.services.values_mut() {
            if !inputs.address.is_unspecified() {
                service
                    .environment
                    .insert("METRICS_PROXY_ADDRESS".to_owned(), inputs.address.to_string());
            }
            if inputs.port != SHIPPED_PORT {
                service
                    .environment
                    .insert("PORT".to_owned(), inputs.port.to_string());
            }
            if let Some(level) = inputs.level {
                service
                    .environment
                    .insert("METRICS_PROXY_CHECK_LEVEL".to_owned(), level.as_str().to_owned());
            }
            if let Some(secret) = inputs.secret {
                service.environment.insert(
                    "METRICS_SECRET_PATH".to_owned(),
                    secret.to_string_lossy().into_owned(),
                );
            }
        }
        layer
    }

    fn shipped(yaml: &str) -> Self {
        serde_yaml::from_str(yaml).expect("files under pebble-layers/ are layers; a test reads them")
    }

    /// The layer in YAML. Equal layers give equal bytes.
    pub fn to_yaml(&self) -> String {
        serde_yaml::to_string(self).expect("strings, numbers and maps with string keys are YAML")
    }

    /// The checks of this layer as Pebble runs them, by name.
    pub fn effective_checks(&self) -> BTreeMap<String, EffectiveCheck> {
        Plan::parse(&self.to_yaml())
            .expect("a layer reads as a plan")
            .checks
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};
    use std::time::Duration;

    use super::*;

    const INPUTS: LayerInputs<'static> = LayerInputs {
        address: IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        port: 15090,
        level: None,
        secret: None,
    };

    #[test]
    fn the_default_layers_are_the_files() {
        for (layer, file) in [
            (Layer::checks(INPUTS), CHECKS_YAML),
            (Layer::service(INPUTS), SERVICE_YAML),
        ] {
            let without_comments: String = file
                .split_inclusive('\n')
                .filter(|line| !line.starts_with('#'))
                .collect();
            assert_eq!(layer.to_yaml(), without_comments);
        }
    }

    #[test]
    fn port_and_level_reach_every_check() {
        let layer = Layer::checks(LayerInputs {
            port: 8080,
            level: Some(CheckLevel::Ready),
            ..INPUTS
        });
        let urls: Vec<_> = layer
            .checks
            .values()
            .map(|check| check.http.url.as_str())
            .collect();
        assert_eq!(
            urls,
            [
                "http://localhost:8080/healthz",
                "http://localhost:8080/readyz?only=identity",
                "http://localhost:8080/readyz"
            ]
        );
        assert!(
            layer
                .checks
                .values()
                .all(|check| check.level.as_deref() == Some("ready"))
        );
    }

    #[test]
    fn the_checks_ask_the_address_that_is_served() {
        let urls = |address: &str| {
            let inputs = LayerInputs {
                address: address.parse().unwrap(),
                ..INPUTS
            };
            Layer::checks(inputs).checks["metrics-proxy-alive"]
                .http
                .url
                .clone()
        };
        for (address, url) in [
            ("::", "http://localhost:15090/healthz"),
            ("0.0.0.0", "http://localhost:15090/healthz"),
            ("127.0.0.1", "http://127.0.0.1:15090/healthz"),
            ("127.0.0.7", "http://127.0.0.7:15090/healthz"),
            ("::1", "http://[::1]:15090/healthz"),
        ] {
            assert_eq!(urls(address), url);
        }
    }

    #[test]
    fn the_service_is_told_what_differs_from_its_defaults() {
        let layer = Layer::service(LayerInputs {
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 8080,
            level: Some(CheckLevel::Alive),
            secret: Some(Path::new("/secret")),
        });
        let environment: Vec<_> = layer.services[SERVICE]
            .environment
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        assert_eq!(
            environment,
            [
                "METRICS_PROXY_ADDRESS=127.0.0.1",
                "METRICS_PROXY_CHECK_LEVEL=alive",
                "METRICS_SECRET_PATH=/secret",
                "PORT=8080"
            ]
        );
    }

    #[test]
    fn the_layer_defines_checks_of_its_own_names_only() {
        let layer = Layer::checks(INPUTS);
        assert!(layer.services.is_empty());
        assert!(
            layer
                .effective_checks()
                .keys()
                .all(|name| name.starts_with("metrics-proxy-"))
        );
    }

    /// As both Pebbles print the layer, and as a rock's layer, which has no `startup`, is printed.
    #[test]
    fn a_plan_in_pebbles_own_words_has_the_same_checks() {
        let ours = Layer::checks(INPUTS).effective_checks();
        let shown = Layer::checks(INPUTS).to_yaml().replace("    ", "        ");
        assert_eq!(Plan::parse(&shown).unwrap().checks, ours);
        let of_a_rock: String = shown
            .split_inclusive('\n')
            .filter(|line| !line.contains("startup") && !line.contains("threshold"))
            .collect();
        assert_eq!(Plan::parse(&of_a_rock).unwrap().checks, ours);
    }

    #[test]
    fn effective_checks_have_pebbles_defaults() {
        let plan = Plan::parse(
            "checks:\n  a: {override: merge, period: 1m0s, timeout: 1.5s, http: {url: 'http://x'}}\n  \
             b: {override: replace, period: 1s, tcp: {port: 1}}\n",
        )
        .unwrap();
        let a = &plan.checks["a"];
        assert_eq!(a.period, Some(Duration::from_mins(1)));
        assert_eq!(a.timeout, Some(Duration::from_millis(1500)));
        assert_eq!(a.threshold, 3);
        assert!(a.enabled);
        let b = &plan.checks["b"];
        assert_eq!(b.timeout, Some(Duration::from_secs(1)), "capped to the period");
        assert_eq!(b.url, None);
    }

    #[test]
    fn an_empty_plan_is_a_plan() {
        assert!(Plan::parse("{}\n").unwrap().checks.is_empty());
        assert!(Plan::parse("").unwrap().checks.is_empty());
        assert!(Plan::parse("checks: 5").is_err());
    }
}
