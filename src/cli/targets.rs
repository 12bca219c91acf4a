//! `metrics-proxy targets`: the targets of every selected pod with their last scrape, or why a pod is not scraped.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use clap::{ArgMatches, Args};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

use super::identity::{Output, print};
use crate::config::{Config, Group, Listen, SETTINGS};
use crate::discovery::{self, SyncState};
use crate::health::Health;
use crate::server::{Report, ScrapeStatus, TargetsResponse, report};
use crate::shutdown::Shutdown;
use crate::telemetry::Telemetry;

/// How long the running proxy may take to respond, and the first list of pods with `--once`.
const LIMIT: Duration = Duration::from_secs(15);

/// Arguments of `targets`.
#[derive(Debug, Clone, Args)]
pub(crate) struct TargetsArgs {
    /// Read the pods from the cluster (or --pods-file) instead of asking the running proxy; nothing is scraped
    #[arg(long)]
    pub(crate) once: bool,
    /// Output format
    #[arg(short, long, value_enum, default_value = "text")]
    pub(crate) output: Output,
    /// Exit with code 1 if a target is down
    #[arg(long)]
    pub(crate) exit_code: bool,
}

/// Checks that no flag is given that would be ignored.
///
/// # Errors
/// A sentence that names the flag and the remedy.
pub(super) fn check(matches: &ArgMatches) -> Result<(), String> {
    let given = |name: &str| matches.try_contains_id(name).unwrap_or(false);
    let names = SETTINGS.iter().filter(|setting| given(setting.name));
    let is_of_source =
        |group, name: &str| (group == Group::Pods && name != "namespace") || name.starts_with("max-");
    for setting in names {
        let name = setting.name;
        if matches.get_flag("once") {
            if setting.group == Group::Serving {
                return Err(format!(
                    "--{name} has no effect with --once, which asks no running proxy"
                ));
            }
        } else if is_of_source(setting.group, name) {
            return Err(format!(
                "--{name} has no effect on a running proxy, which has its own settings; add --once to read the pods here"
            ));
        }
    }
    Ok(())
}

/// Prints the report of the running proxy, or of the pods themselves. `namespaces` limits it to these namespaces, if there
/// are any.
///
/// # Errors
/// If no proxy responds or, with `--once`, the pods cannot be listed.
pub(crate) async fn run(args: &TargetsArgs, config: Config, namespaces: &[String]) -> anyhow::Result<u8> {
    let mut report = if args.once {
        from_source(config).await?
    } else {
        from_proxy(&config.listen).await?
    };
    if !namespaces.is_empty() {
        report
            .targets
            .retain(|target| namespaces.contains(&target.namespace));
        report
            .skipped
            .retain(|skipped| namespaces.contains(&skipped.namespace));
    }
    print(args.output, &report, table)?;
    if let Some(reason) = report.reason {
        bail!("discovery is {}: {reason}", report.discovery);
    }
    let is_down = report.targets.iter().any(|target| target.health == "down");
    Ok(u8::from(args.exit_code && is_down))
}

async fn from_proxy(listen: &Listen) -> anyhow::Result<Report> {
    let port = listen.port;
    // A wildcard address is served on localhost too; any other one is served there only.
    let host = match listen.address {
        address if address.is_unspecified() => "localhost".to_owned(),
        IpAddr::V6(address) => format!("[{address}]"),
        IpAddr::V4(address) => address.to_string(),
    };
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let uri = format!("http://{host}:{port}/api/v1/targets")
        .parse()
        .context("cannot make the address")?;
    let response = tokio::time::timeout(LIMIT, async {
        let response = client.get(uri).await?;
        anyhow::Ok((
            response.status(),
            response.into_body().collect().await?.to_bytes(),
        ))
    });
    let (status, body) = response.await.context("no response in time")?.with_context(|| {
        format!(
            "cannot ask the proxy on port {port}; is it running? With --once the pods are listed without it"
        )
    })?;
    if !status.is_success() {
        bail!("what listens on port {port} responded with {status}; is it metrics-proxy?");
    }
    serde_json::from_slice::<TargetsResponse>(&body)
        .map(TargetsResponse::into_report)
        .with_context(|| format!("what listens on port {port} is not metrics-proxy"))
}

async fn from_source(config: Config) -> anyhow::Result<Report> {
    let shutdown = Shutdown::new();
    let (discovery, watching) = discovery::start(
        &config.discovery,
        Arc::new(Health::default()),
        Arc::new(Telemetry::default()),
        shutdown.clone(),
    )
    .await
    .context("cannot start discovery")?;
    let watching = tokio::spawn(watching);
    let mut snapshots = discovery.snapshots();
    let synced = snapshots.wait_for(|snapshot| !matches!(snapshot.sync, SyncState::Pending(_)));
    // What is known after the limit is printed too: it says what is missing.
    let _ = tokio::time::timeout(LIMIT, synced).await;
    let snapshot = discovery.latest();
    shutdown.cancel();
    let _ = watching.await;
    Ok(report(&ScrapeStatus::default(), &snapshot))
}

/// Returns the report as a table.
fn table(report: &Report) -> String {
    let mut text = String::new();
    match (&report.reason, report.age_seconds) {
        (Some(reason), _) => {
            let _ = writeln!(text, "Discovery is {}: {reason}", report.discovery);
        }
        (None, Some(age)) => {
            let _ = writeln!(
                text,
                "{}, confirmed {age:.0} s ago",
                match &report.outage {
                    Some(outage) => format!("The last known set is in use: {outage}"),
                    None => format!("Discovery is {}", report.discovery),
                }
            );
        }
        (None, None) => {
            let _ = writeln!(text, "Discovery is {}", report.discovery);
        }
    }
    if let Some(no_match) = &report.no_match {
        let _ = writeln!(text, "{no_match}");
    }
    let mut rows = vec![["STATE", "NAMESPACE", "POD", "URL", "SAMPLES", "TOOK", "WHY"].map(str::to_owned)];
    for target in &report.targets {
        let last = target.last_scrape.as_ref();
        rows.push([
            target.health.clone(),
            target.namespace.clone(),
            target.pod.clone(),
            target.url.clone(),
            last.map_or_else(|| "-".to_owned(), |last| last.samples.to_string()),
            last.map_or_else(|| "-".to_owned(), |last| format!("{:.3}s", last.duration_seconds)),
            last.and_then(|last| last.error.clone()).unwrap_or_default(),
        ]);
    }
    for skipped in &report.skipped {
        let [dash, samples, took] = ["-", "-", "-"].map(str::to_owned);
        rows.push([
            "skipped".to_owned(),
            skipped.namespace.clone(),
            skipped.pod.clone(),
            dash,
            samples,
            took,
            skipped.reason.clone(),
        ]);
    }
    let widths: Vec<usize> = (0..7)
        .map(|column| {
            rows.iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    for row in &rows {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
    }
    for line in &report.unsupported {
        let _ = writeln!(text, "{line}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::{LastScrape, SkippedReport, TargetReport};

    #[test]
    fn every_pod_has_a_row_with_its_state_or_its_reason() {
        let report = Report {
            discovery: "synced".to_owned(),
            reason: None,
            age_seconds: Some(3.2),
            outage: None,
            no_match: None,
            targets: vec![TargetReport {
                namespace: "ns".to_owned(),
                pod: "web-0".to_owned(),
                url: "http://10.0.0.1:80/metrics".to_owned(),
                health: "down".to_owned(),
                last_scrape: Some(LastScrape {
                    at: "2026-01-01T00:00:00Z".to_owned(),
                    duration_seconds: 1.0,
                    samples: 0,
                    body_bytes: 0,
                    error: Some("answered 500 Internal Server Error".to_owned()),
                    error_kind: Some("status".to_owned()),
                }),
                ..TargetReport::default()
            }],
            skipped: vec![SkippedReport {
                namespace: "ns".to_owned(),
                pod: "web-1".to_owned(),
                kind: "no_ip".to_owned(),
                reason: "it has no IP yet".to_owned(),
            }],
            unsupported: vec!["PodMonitor ns/m: spec.jobLabel is not supported".to_owned()],
            ..Report::default()
        };
        let expected = "\
Discovery is synced, confirmed 3 s ago
STATE    NAMESPACE  POD    URL                         SAMPLES  TOOK    WHY
down     ns         web-0  http://10.0.0.1:80/metrics  0        1.000s  answered 500 Internal Server Error
skipped  ns         web-1  -                           -        -       it has no IP yet
PodMonitor ns/m: spec.jobLabel is not supported
";
        assert_eq!(table(&report), expected);
    }
}
