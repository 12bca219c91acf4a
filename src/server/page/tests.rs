//! The page as text: escaping, order, filters, size.

use std::collections::BTreeMap;

use super::super::report::{ConflictReport, LastRequest, LastScrape};
use super::*;

fn target(n: usize, error: Option<&str>) -> TargetReport {
    TargetReport {
        namespace: format!("ns-{}", n % 3),
        pod: format!("web-{n}"),
        url: format!("http://10.0.{}.{}:8080/metrics", n / 250, n % 250),
        labels: BTreeMap::from([("k8s_pod_name".to_owned(), format!("web-{n}"))]),
        health: if error.is_some() { "down" } else { "up" }.to_owned(),
        health_seconds: Some(60.0),
        age_seconds: Some(5.0),
        last_scrape: Some(LastScrape {
            at: "2026-01-01T00:00:00Z".to_owned(),
            duration_seconds: 0.012,
            samples: 100 + n,
            body_bytes: 9000 + n,
            error: error.map(str::to_owned),
            error_kind: error.map(|_| "status".to_owned()),
        }),
    }
}

fn show(report: &Report, query: &str) -> String {
    let conditions = [
        (Condition::Selector, State::ok("app=web")),
        (Condition::Pebble, State::note("not there, running without")),
    ];
    render(&View {
        report,
        conditions: &conditions,
        limits: &[("--timeout", "9s".to_owned())],
        query: &Query::parse(query),
    })
}

fn report(n_targets: usize) -> Report {
    let error = |n| (n % 13 == 0).then_some("HTTP status 404 Not Found; set prometheus.io/path");
    Report {
        discovery: "synced".to_owned(),
        age_seconds: Some(4.0),
        outage: None,
        no_match: None,
        targets: (0..n_targets).map(|n| target(n, error(n))).collect(),
        skipped: vec![SkippedReport {
            namespace: "ns-0".to_owned(),
            pod: "db-0".to_owned(),
            kind: "no_ip".to_owned(),
            reason: "it has no IP address yet".to_owned(),
        }],
        ..Report::default()
    }
}

#[test]
fn what_a_pod_says_never_becomes_markup() {
    let hostile = "<script>alert('x')</script>\"onload=x";
    let mut report = report(1);
    report.targets[0] = TargetReport {
        namespace: hostile.to_owned(),
        pod: hostile.to_owned(),
        url: hostile.to_owned(),
        labels: BTreeMap::from([(hostile.to_owned(), hostile.to_owned())]),
        ..target(0, Some(hostile))
    };
    report.skipped[0].reason = hostile.to_owned();
    report.unsupported = vec![hostile.to_owned()];
    report.conflicts = vec![ConflictReport {
        family: hostile.to_owned(),
        kind: hostile.to_owned(),
        detail: hostile.to_owned(),
        pods: vec![hostile.to_owned()],
    }];
    report.last_request = Some(LastRequest {
        by: hostile.to_owned(),
        timeout: Some(hostile.to_owned()),
        targets_had_seconds: 1.0,
        age_seconds: 1.0,
    });
    let page = show(&report, &format!("q={hostile}"));
    assert!(!page.contains("<script>alert"), "{page}");
    assert!(!page.contains("\"onload"), "{page}");
    // The only script is the page's own.
    assert_eq!(page.matches("<script").count(), 1);
    assert!(page.matches("&lt;script&gt;alert").count() > 1);
}

#[test]
fn failing_targets_come_first_and_are_grouped_by_cause() {
    let page = show(&report(30), "");
    assert!(page.contains("<title>3 down · metrics-proxy</title>"), "{page}");
    assert!(page.contains("HTTP status 404 Not Found <small>→ set prometheus.io/path</small>"));
    assert!(page.contains("and 2 more"));
    let rows: Vec<&str> = page.split("<tr>").skip(2).collect();
    assert_eq!(rows.len(), 31);
    assert!(
        rows[..3].iter().all(|row| row.contains("s down")),
        "{:?}",
        rows[0]
    );
    assert!(rows[30].contains("s skipped") && rows[30].contains("it has no IP address yet"));
}

#[test]
fn filters_work_without_javascript() {
    let report = report(30);
    let rows = |query: &str| show(&report, query).matches("<tr>").count() - 1;
    assert_eq!(rows(""), 31);
    assert_eq!(rows("state=down"), 3);
    assert_eq!(rows("state=skipped"), 1);
    assert_eq!(rows("namespace=ns-1"), 10);
    assert_eq!(rows("q=web-1+404"), 1);
    assert_eq!(rows("state=up&q=404"), 0);
}

#[test]
fn two_thousand_pods_are_pages_below_200_kb_compressed() {
    use std::io::Write as _;
    let report = report(2000);
    let page = show(&report, "");
    assert!(page.contains("page 1 of 5"));
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(page.as_bytes()).expect("into memory");
    let n_bytes = gzip.finish().expect("into memory").len();
    assert!(n_bytes < 200_000, "{n_bytes}");
    let last = show(&report, "page=99");
    assert!(last.contains("page 5 of 5") && last.contains("previous") && !last.contains("next"));
}

#[test]
fn no_pod_at_all_names_the_command_to_compare() {
    let report = Report {
        discovery: "synced".to_owned(),
        ..Report::default()
    };
    let page = show(&report, "");
    assert!(page.contains("No pod is selected."), "{page}");
    assert!(page.contains("kubectl get pods -A -l 'app=web'"), "{page}");
}
