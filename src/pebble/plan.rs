//! Pebble's plan, with every check as Pebble runs it.
//!
//! Pebble prints a plan in its own words: `60s` as `1m0s`, and some defaults filled in. Plans are therefore compared by
//! [`EffectiveCheck`] and never by text.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use crate::config::parse_go_duration;

/// The parts of a plan that the proxy reads.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// The services, by name.
    pub services: BTreeMap<String, PlannedService>,
    /// The checks, by name.
    pub checks: BTreeMap<String, EffectiveCheck>,
}

/// The parts of a service that the proxy reads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PlannedService {
    /// The command with its arguments, as Pebble splits it.
    pub command: String,
    /// The variables that Pebble sets beside its own environment.
    pub environment: BTreeMap<String, String>,
}

/// A plan that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot parse Pebble's plan")]
pub struct PlanError(#[from] serde_yaml::Error);

/// A check as Pebble runs it, with Pebble's defaults filled in. Unknown fields are ignored, so that a newer Pebble that
/// prints more of a check does not look like another writer who changed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EffectiveCheck {
    /// The level, where it has one.
    pub level: Option<String>,
    /// Whether it starts by itself.
    pub enabled: bool,
    /// How often it runs; `None` where the text is not a duration.
    pub period: Option<Duration>,
    /// How long a run may take.
    pub timeout: Option<Duration>,
    /// Failures in a row before it counts as down.
    pub threshold: u64,
    /// The URL of an HTTP check.
    pub url: Option<String>,
    /// Headers of an HTTP check.
    pub headers: BTreeMap<String, String>,
    /// Whether it is a TCP or exec check, or of several kinds at once.
    pub other_kind: bool,
}

/// Where an HTTP check on this machine sends its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckTarget<'a> {
    /// The port.
    pub port: u16,
    /// The path, with its query.
    pub path: &'a str,
}

impl EffectiveCheck {
    /// The target of an HTTP check; `None` where it is of another kind or its URL names no port.
    pub fn target(&self) -> Option<CheckTarget<'_>> {
        let rest = self.url.as_deref()?.strip_prefix("http://")?;
        let (authority, path) = rest.split_at(rest.find('/')?);
        let (_, port) = authority.rsplit_once(':')?;
        Some(CheckTarget {
            port: port.parse().ok()?,
            path,
        })
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawPlan {
    services: Option<BTreeMap<String, PlannedService>>,
    checks: Option<BTreeMap<String, RawCheck>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawCheck {
    level: String,
    startup: String,
    period: Option<String>,
    timeout: Option<String>,
    threshold: u64,
    http: Option<RawHttp>,
    tcp: Option<serde_yaml::Value>,
    exec: Option<serde_yaml::Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawHttp {
    url: String,
    headers: BTreeMap<String, String>,
}

impl Plan {
    /// Parses the response of `GET /v1/plan`.
    pub fn parse(yaml: &str) -> Result<Self, PlanError> {
        let raw: Option<RawPlan> = serde_yaml::from_str(yaml)?;
        let raw = raw.unwrap_or_default();
        Ok(Self {
            services: raw.services.unwrap_or_default(),
            checks: raw
                .checks
                .unwrap_or_default()
                .into_iter()
                .map(|(name, check)| (name, check.effective()))
                .collect(),
        })
    }

    /// Whether the plan contains all of these checks.
    pub fn contains(&self, checks: &BTreeMap<String, EffectiveCheck>) -> bool {
        checks
            .iter()
            .all(|(name, check)| self.checks.get(name) == Some(check))
    }

    /// The checks that the plan has under the names of these.
    pub fn checks_named_as(
        &self,
        checks: &BTreeMap<String, EffectiveCheck>,
    ) -> BTreeMap<String, EffectiveCheck> {
        self.checks
            .iter()
            .filter(|(name, _)| checks.contains_key(*name))
            .map(|(name, check)| (name.clone(), check.clone()))
            .collect()
    }
}

impl RawCheck {
    /// Source of the defaults: Pebble `internals/plan/plan.go` (period 10 s, timeout 3 s capped to the period,
    /// threshold 3, started unless disabled).
    fn effective(self) -> EffectiveCheck {
        let duration = |text: Option<String>, default: Duration| match text {
            None => Some(default),
            Some(text) => parse_go_duration(&text).ok(),
        };
        let period = duration(self.period, Duration::from_secs(10));
        let timeout = duration(self.timeout, Duration::from_secs(3));
        let http = self.http;
        EffectiveCheck {
            level: Some(self.level).filter(|level| !level.is_empty()),
            enabled: self.startup != "disabled",
            timeout: match (timeout, period) {
                (Some(timeout), Some(period)) => Some(timeout.min(period)),
                _ => timeout,
            },
            period,
            threshold: if self.threshold == 0 { 3 } else { self.threshold },
            other_kind: self.tcp.is_some() || self.exec.is_some(),
            headers: http.as_ref().map(|http| http.headers.clone()).unwrap_or_default(),
            url: http.map(|http| http.url),
        }
    }
}
