//! Speed of the exposition engine as ratios, measured side by side in one process.
//!
//! `cargo bench --package exposition` prints a table: min, median and max of 11 interleaved rounds beside the gate and the
//! value that would be ahead of it. Processor time of one thread, and only ratios count: the same copy runs at half the
//! speed minutes later on a shared machine.
//!
//! The gates are meant for corpus S (100 pods of a service mesh, 588 kB each): exits 1 where a median of it misses its
//! gate. Corpus R (Prometheus' own, a declaration for every three samples) is held against the same values, for what
//! many small families cost.
//!
//! | id | what is timed | against |
//! | --- | --- | --- |
//! | M1 | relabelling alone: writing what is indexed, 64 kB chunks | a copy of the output |
//! | M2 | parsing, planning, looking for doubles, writing; warm buffers | a copy of the output |
//! | M3 | the crate prometheus-parse, parsing only | M2's time |
//! | M4 | memory newly mapped by a warm M2 | the bytes of the bodies |
//!
//! M1 to M4 are measured with responses in text. The last row is M2 in OpenMetrics, as Prometheus 3 asks for it, against M2.

#![allow(clippy::print_stdout, reason = "the table is what this program is for")]

mod corpus;

use std::hint::black_box;
use std::process::ExitCode;
use std::time::Duration;

use exposition::{Input, Limits, OutputFormat, Pool, negotiate};

const ROUNDS: usize = 11;

fn main() -> ExitCode {
    // `cargo test` runs benches too, with this flag: one quick round proves that it works.
    let quick = std::env::args().any(|arg| arg == "--test");
    let rounds = if quick { 1 } else { ROUNDS };
    let mut all_met = true;
    for (name, bodies) in [
        ("S", corpus::many_pods(if quick { 2 } else { 100 })),
        ("R", corpus::prometheus_itself(if quick { 2 } else { 100 })),
    ] {
        let bytes: usize = bodies.iter().map(Vec::len).sum();
        println!("corpus {name}: {} pods, {bytes} bytes", bodies.len());
        println!(
            "{:<22}{:>9}{:>9}{:>9}{:>8}{:>8}  ",
            "", "min", "median", "max", "gate", "ahead"
        );
        for row in measure(&bodies, rounds) {
            all_met &= row.print() || quick || name == "R";
        }
        println!();
    }
    if all_met {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// A moment of this thread's own processor time: what others do on the machine does not count.
#[derive(Clone, Copy)]
struct Instant(Duration);

impl Instant {
    fn now() -> Self {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Self(time.try_into().expect("processor time is not negative"))
    }

    fn seconds_since(self, start: Self) -> f64 {
        self.0.saturating_sub(start.0).as_secs_f64()
    }
}

struct Row {
    what: &'static str,
    values: Vec<f64>,
    /// Gate and ahead; none for figures that only explain.
    wanted: Option<(f64, f64)>,
    more_is_better: bool,
}

impl Row {
    /// Prints the row; whether its median meets the gate.
    fn print(mut self) -> bool {
        self.values.sort_by(f64::total_cmp);
        let median = self.values[self.values.len() / 2];
        let meets = |limit: f64| {
            if self.more_is_better {
                median >= limit
            } else {
                median <= limit
            }
        };
        let (gate, ahead, verdict) = match self.wanted {
            None => (String::new(), String::new(), ""),
            Some((gate, ahead)) => {
                let verdict = if meets(ahead) {
                    "ahead"
                } else if meets(gate) {
                    "met"
                } else {
                    "MISSED"
                };
                (gate.to_string(), ahead.to_string(), verdict)
            }
        };
        let (min, max) = (self.values[0], self.values[self.values.len() - 1]);
        println!(
            "{:<22}{min:>9.3}{median:>9.3}{max:>9.3}{gate:>8}{ahead:>8}  {verdict}",
            self.what
        );
        verdict != "MISSED"
    }
}

fn measure(bodies: &[Vec<u8>], rounds: usize) -> Vec<Row> {
    let format = negotiate(Some("text/plain;version=0.0.4"), None, None);
    let accept = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8,text/plain;q=0.5";
    let open_metrics = negotiate(Some(accept), None, Some("Prometheus/3.16.0"));
    let pool = Pool::default();
    let mut buffers: Vec<Vec<u8>> = bodies.to_vec();
    // Two rounds to warm the pool up and to have an output to copy.
    let mut output = Vec::new();
    let mut n_samples = 0;
    for _ in 0..2 {
        output.clear();
        let scrape = scrape(&pool, &format, buffers, 256 << 10, |chunk| {
            output.extend_from_slice(chunk);
        });
        n_samples = scrape.n_samples;
        buffers = scrape.buffers;
    }
    let mut target = output.clone();
    let (mut m1, mut m2, mut m3, mut m4) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut parse, mut plan, mut write) = (Vec::new(), Vec::new(), Vec::new());
    let (mut copies, mut nanos, mut as_open_metrics) = (Vec::new(), Vec::new(), Vec::new());
    let bytes_in: usize = bodies.iter().map(Vec::len).sum();
    for round in 0..rounds {
        let copy = copy(&output, &mut target);
        let before = mapped_bytes();
        let scrape_256 = scrape(&pool, &format, buffers, 256 << 10, |_| ());
        let mapped = mapped_bytes() - before;
        let scrape_64 = scrape(&pool, &format, scrape_256.buffers, 64 << 10, |_| ());
        let other = scrape(&pool, &open_metrics, scrape_64.buffers, 256 << 10, |_| ());
        buffers = other.buffers;
        m1.push(scrape_64.write / copy);
        let total = scrape_256.parse + scrape_256.merge + scrape_256.write;
        m2.push(total / copy);
        as_open_metrics.push((other.parse + other.merge + other.write) / total);
        nanos.push(total * 1e9 / n_samples as f64);
        m4.push(mapped as f64 / bytes_in as f64);
        parse.push(scrape_256.parse / copy);
        plan.push(scrape_256.merge / copy);
        write.push(scrape_256.write / copy);
        copies.push(copy * 1e9 / n_samples as f64);
        // The slow one: three rounds are enough to tell 40 from 70.
        if round < 3 {
            m3.push(reference(bodies) / total);
        }
    }
    let row = |what, values, wanted| Row {
        what,
        values,
        wanted,
        more_is_better: false,
    };
    vec![
        row("copy, ns a sample", copies, None),
        row("all, ns a sample", nanos, None),
        row("  of M2: parse", parse, None),
        row("  of M2: plan", plan, None),
        row("  of M2: write", write, None),
        row("M1 relabel / copy", m1, Some((2.2, 1.5))),
        row("M2 all / copy", m2, Some((3.5, 2.5))),
        Row {
            more_is_better: true,
            ..row("M3 crate / all", m3, Some((40.0, 70.0)))
        },
        row("M4 mapped / bodies", m4, Some((0.05, 0.01))),
        row("OpenMetrics / M2", as_open_metrics, None),
    ]
}

struct Scrape {
    /// Seconds.
    parse: f64,
    merge: f64,
    write: f64,
    n_samples: usize,
    buffers: Vec<Vec<u8>>,
}

fn scrape(
    pool: &Pool,
    format: &OutputFormat,
    bodies: Vec<Vec<u8>>,
    chunk_bytes: usize,
    mut seen: impl FnMut(&[u8]),
) -> Scrape {
    let start = Instant::now();
    let parts: Vec<Input> = bodies
        .into_iter()
        .enumerate()
        .map(|(index, body)| Input {
            labels: vec![
                ("k8s_pod_name".to_owned(), format!("istiod-7d4f9c6b5-{index:05}")),
                ("k8s_namespace".to_owned(), "istio-system-of-the-model".to_owned()),
            ],
            up: Some(true),
            exposition: Some(
                pool.parse(body, None, &Limits::default())
                    .expect("the corpus is well-formed"),
            ),
            own: false,
        })
        .collect();
    let parsed = Instant::now();
    let merged = pool.merge(parts, format);
    let planned = Instant::now();
    merged.write(chunk_bytes, &mut |chunk| {
        seen(black_box(&chunk));
        pool.release(chunk);
        true
    });
    let written = Instant::now();
    let n_samples = merged.n_samples();
    let exposed = merged
        .into_inputs()
        .into_iter()
        .filter_map(|part| part.exposition);
    Scrape {
        parse: parsed.seconds_since(start),
        merge: planned.seconds_since(parsed),
        write: written.seconds_since(planned),
        n_samples,
        buffers: exposed.map(exposition::Exposition::into_body).collect(),
    }
}

/// Seconds to copy the output once, from memory to memory that was mapped before.
fn copy(output: &[u8], target: &mut [u8]) -> f64 {
    let start = Instant::now();
    target.copy_from_slice(black_box(output));
    black_box(target);
    Instant::now().seconds_since(start)
}

/// Seconds that the crate prometheus-parse takes for the same bodies, parsing only.
fn reference(bodies: &[Vec<u8>]) -> f64 {
    let start = Instant::now();
    for body in bodies {
        let text = std::str::from_utf8(body).expect("the corpus is ASCII");
        let lines = text.lines().map(|line| Ok(line.to_owned()));
        black_box(prometheus_parse::Scrape::parse(lines).expect("the corpus is well-formed"));
    }
    Instant::now().seconds_since(start)
}

/// Bytes of pages that this process has had mapped in so far.
fn mapped_bytes() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name in parentheses may hold blanks; the count of minor faults is the eighth field after it.
    let after = stat.rsplit(')').next().unwrap_or_default();
    let faults: u64 = after
        .split_whitespace()
        .nth(7)
        .and_then(|field| field.parse().ok())
        .unwrap_or(0);
    faults * 4096
}
