//! The rule `equality`, checked by real Prometheus servers: whatever bodies are merged, each series of each target is stored
//! as from a direct scrape, with the same name, labels, values, timestamps and exemplars.
//!
//! Every body is scraped twice: directly (with the target label `pod`), and in the merged response (where we add `pod`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::common::*;
use super::generate::{Taste, fixed};
use super::pages::{PageServer, Pages};
use crate::support::prometheus::{Labels, Prometheus};
use crate::support::tools::{self, tool_or_skip};

/// The samples of each series: values, each with its timestamp if the target gave one.
type Stored = BTreeMap<Labels, BTreeSet<(Option<i64>, String)>>;

async fn stored(server: &Prometheus, job: &str, case: usize, times: &BTreeSet<i64>) -> Stored {
    let selector = format!("{{job=\"{job}\",case=\"{case}\"}}[30m]");
    let selector = percent_encoding::utf8_percent_encode(&selector, percent_encoding::NON_ALPHANUMERIC);
    let data = server.api(&format!("/api/v1/query?query={selector}")).await;
    let mut found = Stored::new();
    for item in data["result"].as_array().into_iter().flatten() {
        let mut labels: Labels = serde_json::from_value(item["metric"].clone()).expect("labels are strings");
        let name = labels["__name__"].clone();
        if name == "up" && job == "direct" || name.starts_with("scrape_") {
            continue;
        }
        for ours in ["job", "instance", "case"] {
            labels.remove(ours);
        }
        // `up` is that of the merged response itself, or is compared by `our_up`.
        if name == "up" {
            continue;
        }
        let samples = found.entry(labels).or_default();
        for sample in item["values"].as_array().into_iter().flatten() {
            let seconds = sample[0].as_f64().unwrap_or_default();
            #[allow(clippy::cast_possible_truncation, reason = "milliseconds of this century")]
            let millis = (seconds * 1000.0).round() as i64;
            let value = sample[1].as_str().unwrap_or_default().to_owned();
            samples.insert((times.contains(&millis).then_some(millis), value));
        }
    }
    found
}

/// The `up` that our response gives a target.
async fn our_up(server: &Prometheus, case: usize, pod: &str) -> Option<String> {
    server
        .value(&format!(
            "up{{job=\"text\",case=\"{case}\",pod=\"{pod}\",x=\"\"}}"
        ))
        .await
}

fn static_configs(address: SocketAddr, pages: &[(String, usize, Option<String>)]) -> Vec<Value> {
    pages
        .iter()
        .map(|(path, case, pod)| {
            let mut labels = json!({"__metrics_path__": path, "case": case.to_string()});
            if let Some(pod) = pod {
                labels["pod"] = json!(pod);
            }
            json!({"targets": [address.to_string()], "labels": labels})
        })
        .collect()
}

/// By job: the path of a page, its case, its pod.
type Jobs<'a> = BTreeMap<&'a str, Vec<(String, usize, Option<String>)>>;

/// Pages for each target and each merged response, and the jobs that scrape them.
fn pages_and_jobs(client: Client, cases: &[Vec<String>]) -> (Pages, Jobs<'static>) {
    let mut pages = Pages::new();
    let mut jobs = Jobs::new();
    for (case, bodies) in cases.iter().enumerate() {
        for (index, body) in bodies.iter().enumerate() {
            let path = format!("/{case}/p{index}");
            let content_type = if body.ends_with("# EOF\n") {
                OPEN_METRICS
            } else {
                "text/plain; version=0.0.4"
            };
            pages.insert(path.clone(), (content_type, body.clone()));
            let pod = Some(format!("p{index}"));
            jobs.entry("direct").or_default().push((path, case, pod));
        }
        for (job, format) in [("text", Format::Text), ("om", Format::OpenMetrics)] {
            let format = response_format(client, format);
            let path = format!("/{case}/{job}");
            pages.insert(path.clone(), (format.content_type(), merged(bodies, &format)));
            jobs.entry(job).or_default().push((path, case, None));
        }
    }
    (pages, jobs)
}

/// Starts a server, and waits until it has scraped every page.
async fn scrape_all(program: &Path, pages: &PageServer, jobs: &Jobs<'_>) -> Prometheus {
    let configs: Vec<Value> = jobs
        .iter()
        .map(|(job, targets)| {
            json!({
                "job_name": job, "scrape_interval": "3s", "scrape_timeout": "3s",
                "static_configs": static_configs(pages.address, targets),
            })
        })
        .collect();
    let mut server = Prometheus::start(program, &configs).await;
    let n_targets: usize = jobs.values().map(Vec::len).sum();
    let address = server.address;
    server
        .process()
        .wait_for(
            "every target has been scraped",
            Duration::from_mins(1),
            async || {
                let response = crate::support::http::get(address, "/api/v1/targets?state=active")
                    .send()
                    .await
                    .ok()?;
                let targets = response.json()["data"]["activeTargets"].as_array()?.clone();
                let done = targets
                    .iter()
                    .filter(|target| target["health"] != "unknown")
                    .count();
                (done == n_targets).then_some(())
            },
        )
        .await;
    server
}

/// The targets whose direct scrape failed: case and pod. Panics if a scrape of one of our responses failed.
async fn failed_targets(server: &Prometheus, pages: &Pages) -> BTreeSet<(String, String)> {
    let mut failed = BTreeSet::new();
    for target in server.targets().await {
        if target["health"] == "up" {
            continue;
        }
        let labels = &target["labels"];
        let url = target["scrapeUrl"].as_str().unwrap_or_default();
        let path = url
            .split_once("//")
            .and_then(|(_, rest)| rest.find('/').map(|at| &rest[at..]));
        let body = path
            .and_then(|path| pages.get(path))
            .map_or("", |(_, body)| body.as_str());
        assert_eq!(
            labels["job"], "direct",
            "our response was refused: {}\n{body}",
            target["lastError"]
        );
        let text = |name: &str| labels[name].as_str().unwrap_or_default().to_owned();
        failed.insert((text("case"), text("pod")));
    }
    failed
}

/// Removes series that have samples with and without timestamps: what is stored of them depends on the moment of the
/// scrape.
fn without_mixed_series(direct: &mut Stored, merged: &mut Stored) {
    let is_mixed = |samples: &BTreeSet<(Option<i64>, String)>| {
        samples.len() > 1 && samples.iter().any(|(time, _)| time.is_none())
    };
    let mixed: Vec<Labels> = direct
        .iter()
        .filter(|(_, samples)| is_mixed(samples))
        .map(|(labels, _)| labels.clone())
        .collect();
    for labels in &mixed {
        direct.remove(labels);
        merged.remove(labels);
    }
}

/// Serves every case, lets it be scraped, and compares what is stored. Returns how many series were compared.
async fn compare(program: &Path, client: Client, cases: &[Vec<String>], times: &BTreeSet<i64>) -> usize {
    let (pages, jobs) = pages_and_jobs(client, cases);
    let page_server = PageServer::start(pages.clone());
    let server = scrape_all(program, &page_server, &jobs).await;
    let failed = failed_targets(&server, &pages).await;
    let mut n_compared = 0;
    for (case, bodies) in cases.iter().enumerate() {
        for (index, body) in bodies.iter().enumerate() {
            let pod = format!("p{index}");
            if !failed.contains(&(case.to_string(), pod.clone())) {
                let up = our_up(&server, case, &pod).await;
                assert_eq!(
                    up.as_deref(),
                    Some("1"),
                    "Prometheus accepts what we refuse:\n{body}"
                );
            }
        }
        let direct = stored(&server, "direct", case, times).await;
        for job in ["text", "om"] {
            let mut direct = direct.clone();
            let mut merged = stored(&server, job, case, times).await;
            // What only we can read has nothing to be compared with.
            merged.retain(|labels, _| !failed.contains(&(case.to_string(), labels["pod"].clone())));
            without_mixed_series(&mut direct, &mut merged);
            n_compared += direct.len();
            let only_in = |a: &Stored, b: &Stored| -> Vec<_> {
                a.iter()
                    .filter(|(labels, samples)| b.get(*labels) != Some(*samples))
                    .map(|(labels, samples)| (labels.clone(), samples.clone()))
                    .collect()
            };
            assert!(
                direct == merged,
                "case {case} for {client:?} as {job}\ndirect: {:?}\nmerged: {:?}\n--- bodies\n{}\n--- response\n{}",
                only_in(&direct, &merged),
                only_in(&merged, &direct),
                bodies.join("---\n"),
                pages[&format!("/{case}/{job}")].1
            );
        }
    }
    n_compared
}

/// A quarter of an hour ago: within what a server stores, and before any scrape.
fn a_while_ago() -> i64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("the clock is past 1970");
    i64::try_from(now.as_millis()).expect("the clock is before the year 292 million") - 900_000
}

fn cases(client: Client, n: usize, seed: u8) -> (Vec<Vec<String>>, BTreeSet<i64>) {
    let time = a_while_ago();
    let taste = Taste {
        // A Prometheus 2 loses a direct scrape over one quoted name: nothing to compare.
        quoted: client == Client::Prometheus3,
        wild: true,
        time: Some(time),
        odd: true,
    };
    (
        fixed(taste, n, seed),
        (0..4).map(|step| time + step * 777).collect(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_3_stores_each_series_as_from_a_direct_scrape() {
    let program = tools::path("prometheus");
    let (cases, times) = cases(Client::Prometheus3, 150, 11);
    let n = compare(&program, Client::Prometheus3, &cases, &times).await;
    assert!(n > 1000, "only {n} series were compared");
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_2_42_stores_each_series_as_from_a_direct_scrape() {
    let program = tool_or_skip!("prometheus-2.42");
    let (cases, times) = cases(Client::Prometheus2, 150, 12);
    let n = compare(&program, Client::Prometheus2, &cases, &times).await;
    assert!(n > 1000, "only {n} series were compared");
}

/// Targets whose declarations and timestamps differ, with exemplars.
fn conflicting_targets(client: Client) -> Vec<String> {
    let seconds = a_while_ago() / 1000;
    let mut bodies = vec![
        "# TYPE x counter\nx_total 1 # {t=\"a\"} 1\n# EOF\n".to_owned(),
        "# TYPE x_total gauge\nx_total 2\n".to_owned(),
        "# TYPE h histogram\nh_bucket{le=\"1.0\"} 1 # {t=\"b\"} 1\nh_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 1\n# EOF\n"
            .to_owned(),
        "# TYPE h gauge\nh 3\n".to_owned(),
        format!("# TYPE c counter\nc_total 1 {seconds}\nc_created {seconds}\n# EOF\n"),
        format!("# TYPE c counter\nc_total 2 # {{t=\"c\"}} 1\nc_created {seconds}\n# EOF\n"),
        format!("up 0 {seconds}000\nup{{x=\"1\"}} 5\n"),
        "# TYPE istio_build info\nistio_build_info 1\n# EOF\n".to_owned(),
        "# TYPE istio_build gauge\nistio_build 1\n".to_owned(),
    ];
    if client == Client::Prometheus3 {
        bodies.push("# TYPE g gauge\ng 1 # {t=\"d\"} 1\n# EOF\n".to_owned());
    }
    bodies
}

/// The exemplars that a job has, by series: labels and values.
async fn exemplars(server: &Prometheus, job: &str) -> BTreeMap<Labels, Vec<(Labels, String)>> {
    let selector = format!("{{job=\"{job}\"}}");
    let selector = percent_encoding::utf8_percent_encode(&selector, percent_encoding::NON_ALPHANUMERIC);
    let start = a_while_ago() / 1000 - 600;
    let data = server
        .api(&format!(
            "/api/v1/query_exemplars?query={selector}&start={start}&end={}",
            start + 7200
        ))
        .await;
    let mut found = BTreeMap::new();
    for series in data.as_array().into_iter().flatten() {
        let mut labels: Labels =
            serde_json::from_value(series["seriesLabels"].clone()).expect("labels are strings");
        labels.retain(|name, _| !["job", "instance", "case"].contains(&name.as_str()));
        let exemplars = series["exemplars"].as_array().into_iter().flatten();
        let exemplars: BTreeSet<(Labels, String)> = exemplars
            .map(|exemplar| {
                let labels = serde_json::from_value(exemplar["labels"].clone()).expect("labels are strings");
                (labels, exemplar["value"].as_str().unwrap_or_default().to_owned())
            })
            .collect();
        found.insert(labels, exemplars.into_iter().collect());
    }
    found
}

/// Rules `exemplars`, `mixed-timestamps` and `up`.
async fn compare_conflicting_targets(program: &Path, client: Client) {
    let bodies = conflicting_targets(client);
    let n_with_exemplars = bodies.iter().filter(|body| body.contains(" # {")).count();
    let (pages, jobs) = pages_and_jobs(client, std::slice::from_ref(&bodies));
    let page_server = PageServer::start(pages.clone());
    let server = scrape_all(program, &page_server, &jobs).await;
    assert_eq!(failed_targets(&server, &pages).await, BTreeSet::new());
    let direct = exemplars(&server, "direct").await;
    assert_eq!(direct.len(), n_with_exemplars, "{direct:?}");
    assert_eq!(exemplars(&server, "om").await, direct, "{}", pages["/0/om"].1);
    let pod = bodies
        .iter()
        .position(|body| body.starts_with("up "))
        .expect("it is one of them");
    for job in ["text", "om"] {
        // At every moment, not only at the last scrape.
        let lowest = format!("min_over_time(up{{job=\"{job}\",pod=\"p{pod}\",x=\"\"}}[30m])");
        assert_eq!(server.value(&lowest).await.as_deref(), Some("1"), "{job}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_3_16_stores_exemplars_and_up_of_conflicting_targets() {
    compare_conflicting_targets(&tools::path("prometheus"), Client::Prometheus3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_2_42_stores_exemplars_and_up_of_conflicting_targets() {
    let program = tool_or_skip!("prometheus-2.42");
    compare_conflicting_targets(&program, Client::Prometheus2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conflicting_targets_are_stored_as_from_a_direct_scrape() {
    for (program, client) in [
        (tools::path("prometheus"), Client::Prometheus3),
        (tool_or_skip!("prometheus-2.42"), Client::Prometheus2),
    ] {
        let time = a_while_ago() / 1000 * 1000;
        // The timestamps in the bodies, give or take the second in which they were made.
        let times = [time - 1000, time, time + 1000].into();
        let n = compare(&program, client, &[conflicting_targets(client)], &times).await;
        assert!(n > 20, "only {n} series were compared");
    }
}
