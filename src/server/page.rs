//! The page for people: conditions, targets, and pods that are not scraped.

use std::fmt::Write as _;

use super::status::Report;
use crate::health::Readiness;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;margin:2rem;color:#222;background:#fff}\
table{border-collapse:collapse;width:100%;margin:.5rem 0 2rem}th,td{text-align:left;padding:.3rem .8rem .3rem 0;\
border-bottom:1px solid #ddd;vertical-align:top}th{font-weight:600}td.n{text-align:right}.up{color:#176f2c}\
.down{color:#b00020}.unknown{color:#666}pre{background:#f5f5f5;padding:.8rem;overflow:auto}\
@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}th,td{border-color:#444}pre{background:#242424}\
.up{color:#6fcf87}.down{color:#ff8a80}a{color:#8ab4f8}}";

/// Renders the page; nothing is loaded from elsewhere.
pub(super) fn render(report: &Report, readiness: &Readiness) -> String {
    let mut page = String::with_capacity(4096 + 512 * report.targets.len());
    let up = report
        .targets
        .iter()
        .filter(|target| target.health == "up")
        .count();
    let _ = write!(
        page,
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>metrics-proxy</title><style>{STYLE}</style><h1>metrics-proxy {}</h1>\
         <p><a href=metrics>Metrics</a> · <a href=\"readyz?verbose\">Readiness</a> · <a href=api/v1/targets>Targets as JSON</a></p>\
         <h2>Conditions</h2><pre>{}</pre>",
        crate::VERSION,
        escaped(&readiness.body)
    );
    let _ = write!(page, "<h2>Targets ({up} of {} up)</h2>", report.targets.len());
    match (&report.reason, report.age_seconds) {
        (Some(reason), _) => {
            let _ = write!(
                page,
                "<p>Discovery is {}: {}</p>",
                report.discovery,
                escaped(reason)
            );
        }
        (None, Some(age)) => {
            let _ = write!(page, "<p>The set of pods was confirmed {age:.0} s ago.</p>");
        }
        (None, None) => {}
    }
    page.push_str(
        "<table><tr><th>Namespace<th>Pod<th>Address<th>State<th>Last scrape<th>Took<th>Samples<th>Why not</tr>",
    );
    for target in &report.targets {
        let _ = write!(
            page,
            "<tr><td>{}<td>{}<td>{}<td class={}>{}",
            escaped(&target.namespace),
            escaped(&target.pod),
            escaped(&target.url),
            target.health,
            target.health
        );
        match &target.last_scrape {
            None => page.push_str("<td><td><td><td>"),
            Some(last) => {
                let _ = write!(
                    page,
                    "<td>{}<td class=n>{:.3} s<td class=n>{}<td>{}",
                    escaped(&last.at),
                    last.duration_seconds,
                    last.samples,
                    escaped(last.error.as_deref().unwrap_or_default())
                );
            }
        }
        page.push_str("</tr>");
    }
    let _ = write!(
        page,
        "</table><h2>Selected but not scraped ({})</h2>",
        report.skipped.len()
    );
    page.push_str("<table><tr><th>Namespace<th>Pod<th>Why</tr>");
    for skipped in &report.skipped {
        let _ = write!(
            page,
            "<tr><td>{}<td>{}<td>{}</tr>",
            escaped(&skipped.namespace),
            escaped(&skipped.pod),
            escaped(&skipped.reason)
        );
    }
    page.push_str("</table>");
    if !report.unsupported.is_empty() {
        page.push_str("<h2>Unsupported fields of monitors</h2><ul>");
        for line in &report.unsupported {
            let _ = write!(page, "<li>{}", escaped(line));
        }
        page.push_str("</ul>");
    }
    page.push_str("</html>\n");
    page
}

/// Text for HTML: what a pod says never becomes markup.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::status::{SkippedReport, TargetReport};

    #[test]
    fn what_a_pod_says_never_becomes_markup() {
        let hostile = "<script>alert('x')</script>";
        let report = Report {
            discovery: "synced".to_owned(),
            reason: None,
            age_seconds: Some(1.0),
            targets: vec![TargetReport {
                namespace: hostile.to_owned(),
                pod: hostile.to_owned(),
                url: hostile.to_owned(),
                labels: Vec::new(),
                health: "unknown".to_owned(),
                last_scrape: None,
            }],
            skipped: vec![SkippedReport {
                namespace: hostile.to_owned(),
                pod: hostile.to_owned(),
                kind: "no_ip".to_owned(),
                reason: hostile.to_owned(),
            }],
            unsupported: vec![hostile.to_owned()],
        };
        let readiness = Readiness {
            ready: false,
            body: hostile.to_owned(),
        };
        let page = render(&report, &readiness);
        assert!(!page.contains("<script>"));
        assert_eq!(page.matches("&lt;script&gt;alert(&#39;x&#39;)").count(), 8);
    }
}
