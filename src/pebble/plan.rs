//! Pebble's plan, read for what it means.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use crate::config::parse_go_duration;

/// A plan, as far as we look at it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// The services, by name, as they are written.
    pub services: BTreeMap<String, serde_yaml::Value>,
    /// The checks, by name.
    pub checks: BTreeMap<String, Meaning>,
}

/// A plan that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot understand Pebble's plan")]
pub struct PlanError(#[from] serde_yaml::Error);

/// What a check does, with Pebble's defaults filled in. Fields that we know nothing of are left out, so that a newer
/// Pebble that shows more of a check is not taken for somebody who changed ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meaning {
    /// The level, where it has one.
    pub level: Option<String>,
    /// Whether it starts by itself.
    pub enabled: bool,
    /// How often it runs; `None` where the text is no duration of ours.
    pub period: Option<Duration>,
    /// How long a run may take.
    pub timeout: Option<Duration>,
    /// Failures in a row before it counts as down.
    pub threshold: u64,
    /// The URL of an HTTP check.
    pub url: Option<String>,
    /// Headers of an HTTP check.
    pub headers: BTreeMap<String, String>,
    /// Whether it is a TCP or exec check, or several things at once.
    pub other_kind: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawPlan {
    services: Option<BTreeMap<String, serde_yaml::Value>>,
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
    /// Reads what `GET /v1/plan` shows.
    pub fn parse(yaml: &str) -> Result<Self, PlanError> {
        let raw: Option<RawPlan> = serde_yaml::from_str(yaml)?;
        let raw = raw.unwrap_or_default();
        Ok(Self {
            services: raw.services.unwrap_or_default(),
            checks: raw
                .checks
                .unwrap_or_default()
                .into_iter()
                .map(|(name, check)| (name, check.meaning()))
                .collect(),
        })
    }

    /// Whether the plan holds all of these checks as they are meant.
    pub fn holds(&self, checks: &BTreeMap<String, Meaning>) -> bool {
        checks
            .iter()
            .all(|(name, check)| self.checks.get(name) == Some(check))
    }

    /// What the plan holds under the names of these checks.
    pub fn under_names_of(&self, checks: &BTreeMap<String, Meaning>) -> BTreeMap<String, Meaning> {
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
    fn meaning(self) -> Meaning {
        let duration = |text: Option<String>, default: Duration| match text {
            None => Some(default),
            Some(text) => parse_go_duration(&text).ok(),
        };
        let period = duration(self.period, Duration::from_secs(10));
        let timeout = duration(self.timeout, Duration::from_secs(3));
        let http = self.http;
        Meaning {
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
