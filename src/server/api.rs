//! `/api/v1/targets` in the shape of Prometheus' own API, with the proxy's fields beside.
//!
//! Source: Prometheus `web/api/v1/api.go`, `Target`, `DroppedTarget` and `TargetDiscovery`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::report::{
    ConflictReport, LastRequest, LastScrape, Report, SkippedReport, TargetReport, cause_and_remedy,
};

/// The time of a target's latest scrape where there was none, as Go writes it.
const NEVER: &str = "0001-01-01T00:00:00Z";

const SCRAPE_POOL: &str = "metrics-proxy";
const NAMESPACE: &str = "__meta_kubernetes_namespace";
const POD: &str = "__meta_kubernetes_pod_name";

/// The complete response.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TargetsResponse {
    /// Always `success`.
    status: String,
    data: Data,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data {
    active_targets: Vec<ActiveTarget>,
    dropped_targets: Vec<DroppedTarget>,
    dropped_target_counts: BTreeMap<String, usize>,
    discovery: Discovery,
    #[serde(default)]
    conflicts: Vec<ConflictReport>,
    #[serde(default)]
    unsupported: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_request: Option<LastRequest>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ActiveTarget {
    discovered_labels: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
    scrape_pool: String,
    scrape_url: String,
    global_url: String,
    last_error: String,
    last_scrape: String,
    last_scrape_duration: f64,
    health: String,
    namespace: String,
    pod: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
    samples: usize,
    body_bytes: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    health_seconds: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    age_seconds: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DroppedTarget {
    discovered_labels: BTreeMap<String, String>,
    scrape_pool: String,
    namespace: String,
    pod: String,
    reason: String,
    detail: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Discovery {
    state: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    age_seconds: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    outage: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    no_match: Option<String>,
}

/// Which targets a request asks for (`?state=`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    Any,
    Active,
    Dropped,
}

impl Wanted {
    /// Reads the query; as in Prometheus, an unknown word means any.
    pub(super) fn parse(query: &str) -> Self {
        match query.split('&').find_map(|part| part.strip_prefix("state=")) {
            Some("active") => Self::Active,
            Some("dropped") => Self::Dropped,
            _ => Self::Any,
        }
    }
}

fn discovered(namespace: &str, pod: &str) -> BTreeMap<String, String> {
    [(NAMESPACE, namespace), (POD, pod)]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

impl ActiveTarget {
    fn new(target: TargetReport) -> Self {
        let last = target.last_scrape;
        let error = last
            .as_ref()
            .and_then(|last| last.error.clone())
            .unwrap_or_default();
        let (_, remedy) = cause_and_remedy(&error);
        Self {
            discovered_labels: discovered(&target.namespace, &target.pod),
            labels: target.labels,
            scrape_pool: SCRAPE_POOL.to_owned(),
            global_url: target.url.clone(),
            scrape_url: target.url,
            remedy: remedy.map(str::to_owned),
            last_error: error,
            last_scrape: last
                .as_ref()
                .map_or_else(|| NEVER.to_owned(), |last| last.at.clone()),
            last_scrape_duration: last.as_ref().map_or(0.0, |last| last.duration_seconds),
            health: target.health,
            namespace: target.namespace,
            pod: target.pod,
            samples: last.as_ref().map_or(0, |last| last.samples),
            body_bytes: last.as_ref().map_or(0, |last| last.body_bytes),
            reason: last.and_then(|last| last.error_kind),
            health_seconds: target.health_seconds,
            age_seconds: target.age_seconds,
        }
    }

    fn into_report(self) -> TargetReport {
        let last_scrape = (self.last_scrape != NEVER).then(|| LastScrape {
            at: self.last_scrape,
            duration_seconds: self.last_scrape_duration,
            samples: self.samples,
            body_bytes: self.body_bytes,
            error: Some(self.last_error).filter(|error| !error.is_empty()),
            error_kind: self.reason,
        });
        TargetReport {
            namespace: self.namespace,
            pod: self.pod,
            url: self.scrape_url,
            labels: self.labels,
            health: self.health,
            health_seconds: self.health_seconds,
            age_seconds: self.age_seconds,
            last_scrape,
        }
    }
}

impl TargetsResponse {
    /// The report as a response, with the targets that are asked for.
    pub(super) fn new(report: Report, wanted: Wanted) -> Self {
        let n_dropped = report.skipped.len();
        let mut data = Data {
            active_targets: report.targets.into_iter().map(ActiveTarget::new).collect(),
            dropped_targets: report
                .skipped
                .into_iter()
                .map(|skipped| DroppedTarget {
                    discovered_labels: discovered(&skipped.namespace, &skipped.pod),
                    scrape_pool: SCRAPE_POOL.to_owned(),
                    namespace: skipped.namespace,
                    pod: skipped.pod,
                    reason: skipped.kind,
                    detail: skipped.reason,
                })
                .collect(),
            dropped_target_counts: BTreeMap::from([(SCRAPE_POOL.to_owned(), n_dropped)]),
            discovery: Discovery {
                state: report.discovery,
                reason: report.reason,
                age_seconds: report.age_seconds,
                outage: report.outage,
                no_match: report.no_match,
            },
            conflicts: report.conflicts,
            unsupported: report.unsupported,
            last_request: report.last_request,
        };
        match wanted {
            Wanted::Any => {}
            Wanted::Active => data.dropped_targets.clear(),
            Wanted::Dropped => data.active_targets.clear(),
        }
        Self {
            status: "success".to_owned(),
            data,
        }
    }

    /// The report that a response holds.
    pub fn into_report(self) -> Report {
        let data = self.data;
        Report {
            discovery: data.discovery.state,
            reason: data.discovery.reason,
            age_seconds: data.discovery.age_seconds,
            outage: data.discovery.outage,
            no_match: data.discovery.no_match,
            targets: data
                .active_targets
                .into_iter()
                .map(ActiveTarget::into_report)
                .collect(),
            skipped: data
                .dropped_targets
                .into_iter()
                .map(|dropped| SkippedReport {
                    namespace: dropped.namespace,
                    pod: dropped.pod,
                    kind: dropped.reason,
                    reason: dropped.detail,
                })
                .collect(),
            unsupported: data.unsupported,
            conflicts: data.conflicts,
            last_request: data.last_request,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report {
            discovery: "synced".to_owned(),
            age_seconds: Some(1.0),
            outage: None,
            no_match: None,
            targets: vec![
                TargetReport {
                    namespace: "shop".to_owned(),
                    pod: "web-0".to_owned(),
                    url: "http://10.0.0.1:80/metrics".to_owned(),
                    labels: [("k8s_pod_name".to_owned(), "web-0".to_owned())].into(),
                    health: "down".to_owned(),
                    health_seconds: Some(60.0),
                    age_seconds: Some(2.0),
                    last_scrape: Some(LastScrape {
                        at: "2026-01-01T00:00:00Z".to_owned(),
                        duration_seconds: 0.5,
                        samples: 0,
                        body_bytes: 0,
                        error: Some("HTTP status 404; set prometheus.io/path".to_owned()),
                        error_kind: Some("status".to_owned()),
                    }),
                },
                TargetReport {
                    pod: "web-1".to_owned(),
                    health: "unknown".to_owned(),
                    ..TargetReport::default()
                },
            ],
            skipped: vec![SkippedReport {
                namespace: "shop".to_owned(),
                pod: "db-0".to_owned(),
                kind: "no_ip".to_owned(),
                reason: "it has no IP address yet".to_owned(),
            }],
            ..Report::default()
        }
    }

    #[test]
    fn a_response_holds_the_whole_report() {
        let response = TargetsResponse::new(report(), Wanted::Any);
        let text = serde_json::to_string(&response).expect("it can be written");
        let read: TargetsResponse = serde_json::from_str(&text).expect("it can be read");
        assert_eq!(read.into_report(), report());
    }

    #[test]
    fn the_fields_of_prometheus_are_there() {
        let json =
            serde_json::to_value(TargetsResponse::new(report(), Wanted::Any)).expect("it can be written");
        assert_eq!(json["status"], "success");
        let target = &json["data"]["activeTargets"][0];
        assert_eq!(target["labels"]["k8s_pod_name"], "web-0");
        assert_eq!(target["health"], "down");
        assert_eq!(target["lastError"], "HTTP status 404; set prometheus.io/path");
        assert_eq!(target["remedy"], "set prometheus.io/path");
        assert_eq!(target["lastScrapeDuration"], 0.5);
        assert_eq!(json["data"]["activeTargets"][1]["lastScrape"], NEVER);
        assert_eq!(json["data"]["droppedTargets"][0]["discoveredLabels"][POD], "db-0");
    }

    #[test]
    fn state_asks_for_one_kind_of_targets() {
        assert_eq!(Wanted::parse("scrapePool=x&state=active"), Wanted::Active);
        assert_eq!(Wanted::parse("state=other"), Wanted::Any);
        let data = TargetsResponse::new(report(), Wanted::Dropped).data;
        assert_eq!((data.active_targets.len(), data.dropped_targets.len()), (0, 1));
        let data = TargetsResponse::new(report(), Wanted::parse("state=active")).data;
        assert_eq!((data.active_targets.len(), data.dropped_targets.len()), (2, 0));
        assert_eq!(data.dropped_target_counts[SCRAPE_POOL], 1);
    }
}
