//! Bodies shaped like those of real pods, from a seed.

use std::fmt::Write as _;

/// A small generator of its own, so that the corpus is the same everywhere.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn value(&mut self) -> String {
        match self.below(4) {
            0 => self.below(100).to_string(),
            1 => self.below(10_000_000).to_string(),
            2 => format!("{}.{:09}", self.below(100), self.below(1_000_000_000)),
            _ => format!(
                "{}.{:08}e+{:02}",
                1 + self.below(9),
                self.below(100_000_000),
                6 + self.below(5)
            ),
        }
    }

    fn hex(&mut self, digits: usize) -> String {
        format!("{:0digits$x}", self.next() >> (64 - 4 * digits.min(16)))
    }
}

const BOUNDS: &[&str] = &[
    "0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "5", "10", "+Inf",
];

fn head(out: &mut String, name: &str, kind: &str) {
    let _ = writeln!(
        out,
        "# HELP {name} The {} of this process, as its library counts it.",
        name.replace('_', " ")
    );
    let _ = writeln!(out, "# TYPE {name} {kind}");
}

fn histogram(out: &mut String, rng: &mut Rng, name: &str, labels: &[String]) {
    head(out, name, "histogram");
    for labels in labels {
        let mut count = 0;
        for bound in BOUNDS {
            count += rng.below(50);
            let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {count}");
        }
        let _ = writeln!(
            out,
            "{name}_sum{{{labels}}} {}.{:06}",
            rng.below(1000),
            rng.below(1_000_000)
        );
        let _ = writeln!(out, "{name}_count{{{labels}}} {count}");
    }
}

fn family(out: &mut String, rng: &mut Rng, name: &str, kind: &str, labels: &[String]) {
    head(out, name, kind);
    for labels in labels {
        let open = if labels.is_empty() { "" } else { "{" };
        let close = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(out, "{name}{open}{labels}{close} {}", rng.value());
    }
}

/// Bodies like those of a service mesh's pods: 47 families, 4,449 samples, 588 kB and 132 bytes a sample.
pub(crate) fn many_pods(n: usize) -> Vec<Vec<u8>> {
    (0..n as u64).map(|pod| one_pod(&mut Rng(pod))).collect()
}

#[allow(clippy::too_many_lines, reason = "a list of families, one after the other")]
fn one_pod(rng: &mut Rng) -> Vec<u8> {
    let mut out = String::new();
    let none = [String::new()];
    for name in [
        "go_goroutines",
        "go_threads",
        "go_memstats_alloc_bytes",
        "go_memstats_sys_bytes",
        "go_memstats_heap_idle_bytes",
        "go_memstats_heap_inuse_bytes",
        "go_memstats_heap_objects",
        "go_memstats_stack_inuse_bytes",
        "go_memstats_mspan_inuse_bytes",
        "go_memstats_mcache_inuse_bytes",
        "go_memstats_next_gc_bytes",
        "process_open_fds",
        "process_max_fds",
        "process_resident_memory_bytes",
        "process_virtual_memory_bytes",
        "process_start_time_seconds",
    ] {
        family(&mut out, rng, name, "gauge", &none);
    }
    for name in [
        "go_memstats_mallocs_total",
        "go_memstats_frees_total",
        "process_cpu_seconds_total",
    ] {
        family(&mut out, rng, name, "counter", &none);
    }
    head(&mut out, "go_gc_duration_seconds", "summary");
    for quantile in ["0", "0.25", "0.5", "0.75", "1"] {
        let _ = writeln!(
            out,
            "go_gc_duration_seconds{{quantile=\"{quantile}\"}} {}",
            rng.value()
        );
    }
    let _ = writeln!(
        out,
        "go_gc_duration_seconds_sum {}\ngo_gc_duration_seconds_count {}",
        rng.value(),
        rng.below(9999)
    );
    let handlers: Vec<String> = (0..40)
        .map(|index| {
            let method = ["GET", "POST", "PUT"][index % 3];
            format!(
                "handler=\"/api/v1/{}\",method=\"{method}\",code=\"{}\"",
                ["pods", "nodes", "services", "query"][index % 4],
                200 + index
            )
        })
        .collect();
    for name in ["http_request_duration_seconds", "http_response_size_bytes"] {
        histogram(&mut out, rng, name, &handlers);
    }
    family(&mut out, rng, "http_requests_total", "counter", &handlers);
    let calls: Vec<String> = (0..40)
        .map(|index| {
            format!(
                "grpc_type=\"unary\",grpc_service=\"envoy.service.discovery.v3.{}\",grpc_method=\"Stream{index}\"",
                ["AggregatedDiscoveryService", "ClusterDiscoveryService", "SecretDiscoveryService"][index % 3]
            )
        })
        .collect();
    histogram(&mut out, rng, "grpc_server_handling_seconds", &calls);
    for name in [
        "grpc_server_started_total",
        "grpc_server_handled_total",
        "grpc_server_msg_received_total",
    ] {
        family(&mut out, rng, name, "counter", &calls);
    }
    let devices: Vec<String> = (0..40)
        .map(|index| format!("device=\"veth{:08x}\"", index * 7919))
        .collect();
    for name in [
        "node_network_receive_bytes_total",
        "node_network_receive_packets_total",
        "node_network_transmit_bytes_total",
        "node_network_transmit_packets_total",
        "node_network_receive_drop_total",
        "node_network_transmit_drop_total",
    ] {
        family(&mut out, rng, name, "counter", &devices);
    }
    let disks: Vec<String> = (0..16).map(|index| format!("device=\"nvme{index}n1\"")).collect();
    for name in [
        "node_disk_read_bytes_total",
        "node_disk_written_bytes_total",
        "node_disk_io_time_seconds_total",
    ] {
        family(&mut out, rng, name, "counter", &disks);
    }
    let cpus: Vec<String> = (0..16)
        .flat_map(|cpu| {
            [
                "idle", "iowait", "irq", "nice", "softirq", "steal", "system", "user",
            ]
            .map(|mode| format!("cpu=\"{cpu}\",mode=\"{mode}\""))
        })
        .collect();
    family(&mut out, rng, "node_cpu_seconds_total", "counter", &cpus);
    let objects: Vec<String> = (0..80)
        .map(|index| {
            format!(
                "namespace=\"model-{}\",pod=\"app-{}-{}\",uid=\"{}-{}\"",
                index % 7,
                rng.hex(9),
                rng.hex(5),
                rng.hex(8),
                rng.hex(12)
            )
        })
        .collect();
    family(&mut out, rng, "kube_pod_start_time", "gauge", &objects);
    family(&mut out, rng, "kube_pod_restart_policy", "gauge", &objects);
    let phases: Vec<String> = objects
        .iter()
        .flat_map(|object| {
            ["Pending", "Succeeded", "Failed", "Unknown", "Running"]
                .map(|phase| format!("{object},phase=\"{phase}\""))
        })
        .collect();
    family(&mut out, rng, "kube_pod_status_phase", "gauge", &phases);
    let owners: Vec<String> = objects
        .iter()
        .map(|object| {
            format!("{object},owner_kind=\"ReplicaSet\",owner_name=\"\",owner_is_controller=\"true\"")
        })
        .collect();
    family(&mut out, rng, "kube_pod_owner", "gauge", &owners);
    let mesh: Vec<String> = (0..9)
        .map(|index| {
            let mut labels = format!("reporter=\"{}\"", ["source", "destination"][index % 2]);
            for (name, value) in [
                ("source_workload", "productpage-v1"),
                ("source_canonical_service", "productpage"),
                ("source_canonical_revision", "v1"),
                ("source_workload_namespace", "bookinfo"),
                (
                    "source_principal",
                    "spiffe://cluster.local/ns/bookinfo/sa/productpage",
                ),
                ("source_app", "productpage"),
                ("source_version", "v1"),
                ("source_cluster", "Kubernetes"),
                ("destination_workload", "reviews-v2"),
                ("destination_workload_namespace", "bookinfo"),
                (
                    "destination_principal",
                    "spiffe://cluster.local/ns/bookinfo/sa/reviews",
                ),
                ("destination_app", "reviews"),
                ("destination_version", "v2"),
                ("destination_service", "reviews.bookinfo.svc.cluster.local"),
                ("destination_canonical_service", "reviews"),
                ("destination_canonical_revision", "v2"),
                ("destination_service_name", "reviews"),
                ("destination_service_namespace", "bookinfo"),
                ("destination_cluster", "Kubernetes"),
                ("request_protocol", "http"),
                ("grpc_response_status", ""),
                ("response_flags", "-"),
                ("connection_security_policy", "mutual_tls"),
            ] {
                let _ = write!(labels, ",{name}=\"{value}\"");
            }
            let _ = write!(labels, ",response_code=\"{}\"", 200 + index);
            labels
        })
        .collect();
    family(&mut out, rng, "istio_requests_total", "counter", &mesh);
    histogram(&mut out, rng, "istio_request_duration_milliseconds", &mesh);
    for name in ["workqueue_adds_total", "workqueue_retries_total"] {
        family(&mut out, rng, name, "counter", &objects);
    }
    for name in [
        "rest_client_request_duration_seconds",
        "rest_client_rate_limiter_duration_seconds",
    ] {
        let hosts: Vec<String> = (0..44)
            .map(|index| format!("host=\"10.152.183.{index}:443\",verb=\"GET\""))
            .collect();
        histogram(&mut out, rng, name, &hosts);
    }
    out.into_bytes()
}

/// Bodies like Prometheus' own: 190 kB, many small families, few labels, long help texts.
pub(crate) fn prometheus_itself(n: usize) -> Vec<Vec<u8>> {
    (0..n as u64)
        .map(|pod| {
            let rng = &mut Rng(1_000_000 + pod);
            let mut out = String::new();
            for index in 0..180 {
                family(
                    &mut out,
                    rng,
                    &format!(
                        "prometheus_tsdb_{}_{index}",
                        ["head", "wal", "compaction"][index % 3]
                    ),
                    "gauge",
                    &[String::new()],
                );
            }
            for index in 0..40 {
                let labels: Vec<String> = ["a", "b", "c"]
                    .iter()
                    .map(|name| format!("config=\"{name}\""))
                    .collect();
                family(
                    &mut out,
                    rng,
                    &format!("prometheus_sd_{index}_refreshes_total"),
                    "counter",
                    &labels,
                );
            }
            let handlers: Vec<String> = (0..38)
                .map(|index| format!("handler=\"/api/v1/path{index}\""))
                .collect();
            for name in [
                "prometheus_http_request_duration_seconds",
                "prometheus_http_response_size_bytes",
            ] {
                histogram(&mut out, rng, name, &handlers);
            }
            let codes: Vec<String> = handlers
                .iter()
                .map(|handler| format!("{handler},code=\"200\""))
                .collect();
            family(&mut out, rng, "prometheus_http_requests_total", "counter", &codes);
            for index in 0..12 {
                let name = format!("prometheus_engine_{index}_duration_seconds");
                head(&mut out, &name, "summary");
                for quantile in ["0.5", "0.9", "0.99"] {
                    let _ = writeln!(
                        out,
                        "{name}{{slice=\"inner_eval\",quantile=\"{quantile}\"}} {}",
                        rng.value()
                    );
                }
                let _ = writeln!(
                    out,
                    "{name}_sum{{slice=\"inner_eval\"}} {}\n{name}_count{{slice=\"inner_eval\"}} 17",
                    rng.value()
                );
            }
            out.into_bytes()
        })
        .collect()
}
