//! The law of the house, with real Prometheus servers as judges: whatever bodies are merged, each series of each target
//! is stored exactly as from a direct scrape: same name, labels, values and timestamps.
//!
//! Every body is scraped twice: on its own (with the target label `pod`), and in the merged answer (where we add `pod`).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::common::*;
use super::generate::{Taste, fixed};
use crate::support::prometheus::{Labels, Prometheus};
use crate::support::tools::{self, tool_or_skip};

type Pages = HashMap<String, (&'static str, String)>;

/// Serves fixed pages on loopback until the test's process ends.
fn serve(pages: Pages) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port is free");
    let address = listener.local_addr().expect("a bound socket has an address");
    let pages = Arc::new(pages);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let pages = Arc::clone(&pages);
            std::thread::spawn(move || answer_requests(stream, &pages));
        }
    });
    address
}

/// Answers the requests of one connection; a client that goes away ends it.
fn answer_requests(mut stream: TcpStream, pages: &Pages) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    loop {
        let mut request = String::new();
        if reader.read_line(&mut request).ok()? == 0 {
            return None;
        }
        let mut header = String::new();
        while reader.read_line(&mut header).ok()? > 2 {
            header.clear();
        }
        let path = request.split(' ').nth(1)?;
        let (content_type, body) = pages.get(path)?;
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).ok()?;
        stream.write_all(body.as_bytes()).ok()?;
    }
}

/// Where a sample stands in time: as the target said, or at the scrape.
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
        // The proxy's own target, not one of its targets.
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

/// The `up` that our answer gives a target.
async fn our_up(server: &Prometheus, case: usize, pod: &str) -> Option<String> {
    server
        .value(&format!("up{{job=\"text\",case=\"{case}\",pod=\"{pod}\"}}"))
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

/// Serves every case, has it scraped, and compares what was stored. Returns how many series were compared.
async fn judge(program: &Path, client: Client, cases: &[Vec<String>], times: &BTreeSet<i64>) -> usize {
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
            jobs.entry("direct")
                .or_default()
                .push((path, case, Some(format!("p{index}"))));
        }
        for (job, format) in [("text", Format::Text), ("om", Format::OpenMetrics)] {
            let output = response_format(client, format);
            let path = format!("/{case}/{job}");
            pages.insert(path.clone(), (output.content_type(), merged(bodies, &output)));
            jobs.entry(job).or_default().push((path, case, None));
        }
    }
    let address = serve(pages.clone());
    let configs: Vec<Value> = jobs
        .iter()
        .map(|(job, pages)| {
            json!({
                "job_name": job, "scrape_interval": "3s", "scrape_timeout": "3s",
                "static_configs": static_configs(address, pages),
            })
        })
        .collect();
    let mut server = Prometheus::start(program, &configs).await;
    let n_targets: usize = jobs.values().map(Vec::len).sum();
    let server_address = server.address;
    server
        .process()
        .wait_for(
            "every target has been scraped",
            Duration::from_mins(1),
            async || {
                let answer = crate::support::http::get(server_address, "/api/v1/targets?state=active")
                    .send()
                    .await
                    .ok()?;
                let targets = answer.json()["data"]["activeTargets"].as_array()?.clone();
                let done = targets
                    .iter()
                    .filter(|target| target["health"] != "unknown")
                    .count();
                (done == n_targets).then_some(())
            },
        )
        .await;
    let mut down: BTreeSet<(String, String)> = BTreeSet::new();
    for target in server.targets().await {
        let labels = &target["labels"];
        let case = labels["case"].as_str().unwrap_or_default().to_owned();
        if target["health"] == "up" {
            continue;
        }
        let url = target["scrapeUrl"].as_str().unwrap_or_default();
        let path = url
            .split_once("//")
            .and_then(|(_, rest)| rest.find('/').map(|at| &rest[at..]));
        let body = path
            .and_then(|path| pages.get(path))
            .map_or("", |(_, body)| body.as_str());
        assert_eq!(
            labels["job"], "direct",
            "our answer was refused: {}\n{body}",
            target["lastError"]
        );
        down.insert((case, labels["pod"].as_str().unwrap_or_default().to_owned()));
    }
    let mut n_compared = 0;
    for (case, bodies) in cases.iter().enumerate() {
        let direct = stored(&server, "direct", case, times).await;
        for (index, body) in bodies.iter().enumerate() {
            let pod = format!("p{index}");
            if !down.contains(&(case.to_string(), pod.clone())) {
                let up = our_up(&server, case, &pod).await;
                assert_eq!(
                    up.as_deref(),
                    Some("1"),
                    "Prometheus takes what we refuse:\n{body}"
                );
            }
        }
        for job in ["text", "om"] {
            let mut through_us = stored(&server, job, case, times).await;
            // What only we could read has nothing to be compared with.
            through_us.retain(|labels, _| !down.contains(&(case.to_string(), labels["pod"].clone())));
            let mut direct = direct.clone();
            // A series both with and without timestamps: what is stored of it depends on the moment of the scrape.
            let mixed: Vec<Labels> = direct
                .iter()
                .filter(|(_, samples)| samples.len() > 1 && samples.iter().any(|(time, _)| time.is_none()))
                .map(|(labels, _)| labels.clone())
                .collect();
            for labels in &mixed {
                direct.remove(labels);
                through_us.remove(labels);
            }
            n_compared += direct.len();
            if direct != through_us {
                let page = &pages[&format!("/{case}/{job}")].1;
                let lost: Vec<_> = direct
                    .iter()
                    .filter(|(key, value)| through_us.get(*key) != Some(*value))
                    .collect();
                let new: Vec<_> = through_us
                    .iter()
                    .filter(|(key, value)| direct.get(*key) != Some(*value))
                    .collect();
                panic!(
                    "case {case} for {client:?} as {job}\ndirectly: {lost:?}\nthrough us: {new:?}\n--- bodies\n{}\n--- answer\n{page}",
                    bodies.join("---\n")
                );
            }
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
    let n = judge(&program, Client::Prometheus3, &cases, &times).await;
    assert!(n > 1000, "only {n} series were compared");
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_2_42_stores_each_series_as_from_a_direct_scrape() {
    let program = tool_or_skip!("prometheus-2.42");
    let (cases, times) = cases(Client::Prometheus2, 150, 12);
    let n = judge(&program, Client::Prometheus2, &cases, &times).await;
    assert!(n > 1000, "only {n} series were compared");
}
