//! The memory account: what hostile pods make of the process, read from the kernel.

use std::io::Write as _;
use std::time::{Duration, Instant};

use super::error_kind;
use crate::support::app::App;
use crate::support::http;
use crate::support::kube::NewPod;
use crate::support::pod::{Answer, Pod};

const BUDGET: &str = "128MiB";

/// With the budget above, the process stays below this under every attack.
const MAX_RESIDENT_MIB: u64 = 200;

/// The most memory that a process ever had resident, in MiB.
fn peak_resident_mib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.expect("a number of kB") / 1024
}

/// A gzip body that becomes so many MiB of a legal exposition.
fn bomb(mib: usize) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    let block = "a 1\n".repeat(1 << 18);
    for _ in 0..mib {
        encoder
            .write_all(block.as_bytes())
            .expect("a Vec takes every byte");
    }
    encoder.finish().expect("a Vec takes every byte")
}

/// Scrapes five good pods beside `n` bad ones, and returns the peak of the resident memory and the slowest response of
/// `/healthz` meanwhile.
async fn attack(bad: Answer, n: usize) -> (u64, Duration, App) {
    let mut servers = Vec::new();
    let mut pods = Vec::new();
    for i in 0..5 {
        let server = Pod::serving("good 1\n").await;
        pods.push(NewPod::scraped(&format!("good-{i}"), server.address));
        servers.push(server);
    }
    for i in 0..n {
        let server = Pod::start(bad.clone()).await;
        pods.push(NewPod::scraped(&format!("bad-{i}"), server.address));
        servers.push(server);
    }
    let mut app = App::with_pods(&pods, &["--memory-budget", BUDGET]).await;
    let address = app.address;
    let mut slowest = Duration::ZERO;
    let probing = async {
        loop {
            let started = Instant::now();
            let healthy = http::get(address, "/healthz").send().await;
            healthy.expect("/healthz answers");
            slowest = slowest.max(started.elapsed());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let text = tokio::select! {
        text = app.metrics() => text,
        () = probing => unreachable!("it probes for ever"),
    };
    let n_good = text.lines().filter(|line| line.starts_with("good{")).count();
    assert_eq!(n_good, 5, "the good pods lose nothing\n{text}");
    (peak_resident_mib(app.process().pid()), slowest, app)
}

#[track_caller]
fn check(what: &str, peak_mib: u64, slowest: Duration) {
    assert!(peak_mib < MAX_RESIDENT_MIB, "{what}: {peak_mib} MiB");
    assert!(
        slowest < Duration::from_secs(2),
        "{what}: /healthz took {slowest:?}"
    );
}

#[tokio::test]
async fn small_gzip_bombs_cost_no_more_than_the_budget() {
    let bad = Answer::text(bomb(12)).with_header("Content-Encoding", "gzip");
    let (peak_mib, slowest, _app) = attack(bad, 60).await;
    check("60 bombs of 12 MiB", peak_mib, slowest);
}

#[tokio::test]
async fn large_gzip_bombs_that_hold_their_end_back_cost_no_more_than_the_budget() {
    let body = bomb(60);
    let held_back = Answer::text(body)
        .with_header("Content-Encoding", "gzip")
        .drip(60_000, Duration::from_millis(400));
    let (peak_mib, slowest, _app) = attack(held_back, 40).await;
    check("40 bombs of 60 MiB", peak_mib, slowest);
}

#[tokio::test]
async fn bodies_that_never_end_cost_no_more_than_the_budget() {
    let endless = Answer::text(format!("# {}", "x".repeat(940_000))).stuck_after(930_000);
    let (peak_mib, slowest, app) = attack(endless, 250).await;
    check("250 endless bodies", peak_mib, slowest);
    let mut refused = 0;
    for i in 0..250 {
        let kind = error_kind(&app, &format!("bad-{i}")).await;
        refused += usize::from(kind.as_deref() == Some("memory_budget"));
    }
    assert!((100..250).contains(&refused), "{refused} refused for the budget");
}
