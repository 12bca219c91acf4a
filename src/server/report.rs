//! What `/targets`, `/api/v1/targets` and `metrics-proxy targets` report at one moment: data only.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The latest scrape of one target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastScrape {
    /// When it began, as an RFC 3339 time.
    pub at: String,
    /// How long it took, in seconds.
    pub duration_seconds: f64,
    /// Samples in its body.
    pub samples: usize,
    /// Bytes of its body after decompression.
    pub body_bytes: usize,
    /// Why it failed: the cause and, after a semicolon, the remedy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The stable word of the error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_kind: Option<String>,
}

/// One target in the report.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetReport {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The URL that is scraped, without its query.
    pub url: String,
    /// The labels added to its samples.
    pub labels: BTreeMap<String, String>,
    /// `up`, `down`, or `unknown` before the first scrape.
    pub health: String,
    /// How long the target has been up or down, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_seconds: Option<f64>,
    /// How long ago the latest scrape was, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_seconds: Option<f64>,
    /// The latest scrape, where there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_scrape: Option<LastScrape>,
}

/// One selected pod, or port of one, that is not scraped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SkippedReport {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// A stable word.
    pub kind: String,
    /// A sentence.
    pub reason: String,
}

/// A metric family on which targets disagreed in the latest response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConflictReport {
    /// The family.
    pub family: String,
    /// What the targets disagree on: `type`, `name`, `help` or `unit`.
    pub kind: String,
    /// The claims, in words.
    pub detail: String,
    /// One pod for each claim, as NAMESPACE/POD.
    pub pods: Vec<String>,
}

/// The latest request for `/metrics`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastRequest {
    /// The User-Agent.
    pub by: String,
    /// The scraper's own timeout as it was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// The time that the targets had, in seconds.
    pub targets_had_seconds: f64,
    /// How long ago it was, in seconds.
    pub age_seconds: f64,
}

/// Everything that is selected, and what became of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// `pending`, `synced` or `refused`.
    pub discovery: String,
    /// Why discovery is pending or refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Age of the set, in seconds, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_seconds: Option<f64>,
    /// Why the set is the last known one and cannot be confirmed at the moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outage: Option<String>,
    /// Where no pod matches: what was looked for, and a command to compare with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_match: Option<String>,
    /// What is scraped, by namespace, pod, port.
    pub targets: Vec<TargetReport>,
    /// What is not scraped.
    pub skipped: Vec<SkippedReport>,
    /// What PodMonitors and ServiceMonitors say that is not supported, a sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unsupported: Vec<String>,
    /// Conflicts between targets in the latest response.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<ConflictReport>,
    /// The latest request for `/metrics`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_request: Option<LastRequest>,
}

/// An error's cause, and its remedy where there is one.
pub(super) fn cause_and_remedy(error: &str) -> (&str, Option<&str>) {
    match error.rsplit_once("; ") {
        Some((cause, remedy)) => (cause, Some(remedy)),
        None => (error, None),
    }
}
