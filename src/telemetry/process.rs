//! Metrics of the process, read from `/proc` at the moment of the scrape.
//!
//! They have the proxy's prefix: without it they would join the families `process_…` of the pods.

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

/// Clock ticks per second in `/proc`, fixed by Linux' interface to user programs (USER_HZ).
const TICKS_PER_SECOND: f64 = 100.0;

/// The process. Its start time is that of this value.
#[derive(Debug)]
pub(super) struct Process {
    started: SystemTime,
}

/// What `/proc/self` says.
#[derive(Debug, Default, PartialEq)]
struct Reading {
    cpu_seconds: f64,
    resident_bytes: u64,
    virtual_bytes: u64,
    n_threads: u64,
}

impl Reading {
    /// Reads the texts of `/proc/self/stat` and `/proc/self/status`.
    ///
    /// Source: proc_pid_stat(5) and proc_pid_status(5).
    fn parse(stat: &str, status: &str) -> Option<Self> {
        // The second field is the command in parentheses, which may hold blanks and parentheses.
        let (_, fields) = stat.rsplit_once(") ")?;
        let mut times = fields
            .split(' ')
            .skip(11)
            .map_while(|field| field.parse::<f64>().ok());
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().trim_end_matches(" kB").parse::<u64>().ok()
        };
        Some(Self {
            cpu_seconds: (times.next()? + times.next()?) / TICKS_PER_SECOND,
            resident_bytes: field("VmRSS:")? * 1024,
            virtual_bytes: field("VmSize:")? * 1024,
            n_threads: field("Threads:")?,
        })
    }

    fn now() -> Option<Self> {
        let read = |file| std::fs::read_to_string(format!("/proc/self/{file}")).ok();
        Self::parse(&read("stat")?, &read("status")?)
    }
}

impl Default for Process {
    fn default() -> Self {
        Self {
            started: SystemTime::now(),
        }
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut gauge = |name: &str, help: &str, unit: Option<Unit>, value: f64| {
            let gauge = ConstGauge::new(value);
            let encoder = encoder.encode_descriptor(name, help, unit.as_ref(), gauge.metric_type())?;
            gauge.encode(encoder)
        };
        let started = self.started.duration_since(UNIX_EPOCH).unwrap_or_default();
        let help = "Unix time of the start of the process";
        gauge(
            "process_start_time",
            help,
            Some(Unit::Seconds),
            started.as_secs_f64(),
        )?;
        if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
            gauge(
                "process_open_fds",
                "Open file descriptors",
                None,
                open.count() as f64,
            )?;
        }
        if let Some(max) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
            gauge(
                "process_max_fds",
                "Limit of open file descriptors",
                None,
                max as f64,
            )?;
        }
        let Some(reading) = Reading::now() else {
            return Ok(());
        };
        let bytes = || Some(Unit::Bytes);
        let resident = reading.resident_bytes as f64;
        gauge("process_resident_memory", "Resident memory", bytes(), resident)?;
        let size = reading.virtual_bytes as f64;
        gauge("process_virtual_memory", "Virtual memory", bytes(), size)?;
        gauge("process_threads", "Threads", None, reading.n_threads as f64)?;
        let cpu = ConstCounter::new(reading.cpu_seconds);
        let help = "CPU time in user and system mode";
        let encoder =
            encoder.encode_descriptor("process_cpu", help, Some(&Unit::Seconds), cpu.metric_type())?;
        cpu.encode(encoder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_texts_of_proc_are_read() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 100 0 0 0 250 150 0 0 20 0 9 0 12345 1000 10";
        let status = "Name:\ta\nVmSize:\t  2048 kB\nVmRSS:\t  1024 kB\nThreads:\t9\n";
        let expect = Reading {
            cpu_seconds: 4.0,
            resident_bytes: 1 << 20,
            virtual_bytes: 2 << 20,
            n_threads: 9,
        };
        assert_eq!(Reading::parse(stat, status), Some(expect));
        assert_eq!(Reading::parse("42 (a) S 1", status), None);
    }
}
