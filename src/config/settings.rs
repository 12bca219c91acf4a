//! All settings, by section of the configuration. See [`settings!`] for what a row says.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use super::reader::Reader;
use super::setting::{Group, Setting, settings};
use super::{CheckLevel, PebbleMode, PodSource, Sharding, parse};
use crate::targets::{Cidr, DefaultPort, Discover, Selector};

/// Every setting, in the order of the help text.
pub static SETTINGS: LazyLock<Vec<Setting>> = LazyLock::new(|| {
    let mut all = [DISCOVERY, SCRAPE, LISTEN, PEBBLE, LOG].concat();
    all.sort_by_key(|setting| setting.group);
    all
});

settings! {
    /// Which pods are found, and how.
    Discovery, DISCOVERY {
        nullable selector: Option<Selector> = selector, Pods "labels" ["POD_LABEL_SELECTOR"] "SELECTOR" "",
            "Label selector of the pods to scrape, in Kubernetes' full syntax. Without it (and without --pods-file) nothing is scraped, and /readyz says so.";
        repeated namespaces: Vec<String> = namespace, Pods "namespace" [] "NAME" "",
            "Look for pods in this namespace only; may be repeated. Without it: in all namespaces, or in the proxy's own one where permissions end there.";
        required discover: Discover = discover, Pods "discover" [] "LIST" "pods",
            "Where to look for targets of the selected pods: pods (their annotations), services (annotations of Services), podmonitors, servicemonitors, or several of them, separated by commas.";
        repeated monitor_namespaces: Vec<String> = namespace, Pods "monitor-namespaces" [] "NAME" "",
            "Monitors of this namespace may select Services and pods of other namespaces; may be repeated. Monitors of all other namespaces select in their own namespace only.";
        repeated target_cidrs: Vec<Cidr> = cidr, Pods "target-cidr" [] "CIDR" "",
            "Also scrape pods of a cluster at addresses in this range, such as 127.0.0.0/8; may be repeated. Without it, pods with a loopback, link-local or broadcast address are not scraped.";
        required default_port: DefaultPort = default_port, Pods "default-port" [] "PORT" "80",
            "Port of a pod without a port annotation; `declared` takes every declared container port, as Prometheus' own pod discovery does.";
        optional pod_uid: Option<String> = text, Pods "pod-uid" ["POD_UID"] "UID" "",
            "UID of the proxy's own pod, which is never scraped. Without it, the pod is recognized by host name and namespace, or by its address.";
        optional pod_name: Option<String> = text, Pods "pod-name" [] "NAME" "",
            "Name of the proxy's own pod. Without it: the host name, which is a different one on the host network.";
        required max_targets_per_pod: usize = up_to_65536, Limits "max-targets-per-pod" [] "N" "16",
            "Most targets of one pod. A pod that names more is scraped at the first ones.";
        required list_interval: Duration = positive_duration, Intervals "list-interval" [] "DURATION" "30s",
            "How often pods are listed where watching is not allowed.";
        required list_max_age: Duration = positive_duration, Intervals "list-max-age" [] "DURATION" "5s",
            "Oldest list that a scrape may use where watching is not allowed.";
        required permission_interval: Duration = positive_duration, Intervals "permission-interval" [] "DURATION" "30s",
            "How often a request that was forbidden is tried again.";
        required forbidden_grace: Duration = duration, Intervals "forbidden-grace" [] "DURATION" "10s",
            "How long requests must be forbidden before a permission that once existed counts as lost.";
        required shard_interval: Duration = positive_duration, Intervals "shard-interval" [] "DURATION" "5s",
            "How often --shard auto reads the number of shards. After a change, pods that move are served by both shards for up to three times as long.";
        required files_poll: Duration = positive_duration, Intervals "pods-file-poll" [] "DURATION" "5s",
            "How often --pods-file is read in addition to its change events.";
    }
    derived {
        /// Where pods come from.
        source: PodSource = Reader::pod_source;
        /// Which pods this shard serves.
        sharding: Sharding = Reader::sharding;
        /// The longest label value in bytes, also of labels that the proxy adds; 0 means no limit.
        max_label_value_length: u64 = |reader: &mut Reader<'_>| reader.required("max-label-value-length", parse::count);
    }
    rows {
        Pods "kubeconfig" ["KUBECONFIG"] "FILE" "",
            "Kubeconfig file for the cluster. Without it: the pod's ServiceAccount, or ~/.kube/config.";
        Pods "pods-file" [] "PATH" "",
            "Take pods from this file or directory of manifests (YAML or JSON) instead of a cluster. It is watched for changes.";
        Pods "shard" [] "I|auto" "",
            "Serve one share of the pods: shard I, counted from 0, of --total-shards; auto takes both numbers from the StatefulSet that the proxy's own pod belongs to.";
        Pods "total-shards" [] "N" "",
            "Number of shards, with --shard I.";
    }
}

settings! {
    /// How targets are scraped.
    Scrape, SCRAPE {
        required timeout: Duration = positive_duration, Scraping "timeout" ["SCRAPE_TIMEOUT"] "DURATION" "9s",
            "Longest wait for the targets of one response. A shorter scrape timeout of the scraper wins.";
        required connect_timeout: Duration = positive_duration, Scraping "connect-timeout" [] "DURATION" "3s",
            "How long to wait for a connection to a target. Linux repeats a lost connection request after 1 s, so a shorter time fails whenever one packet is lost.";
        optional target_ca: Option<PathBuf> = path, Scraping "target-ca" [] "FILE" "",
            "PEM file of certificate authorities for https targets, instead of the system's.";
        required target_insecure_skip_verify: bool = boolean, Scraping "target-insecure-skip-verify" [] "BOOL" "false",
            "Accept any certificate of an https target.";
        required max_connections_per_target_ip: usize = up_to_65536, Limits "max-connections-per-target-ip" [] "N" "64",
            "Connections in use to one IP address at the same time. More requests to that address wait.";
        required max_concurrent: usize = up_to_65536, Limits "max-concurrent-scrapes" [] "N" "256",
            "Bodies that are read at the same time, over all requests.";
        required max_body_bytes: u64 = bytes, Limits "max-body-bytes" [] "SIZE" "64MiB",
            "Largest body of one target, after decompression.";
        optional memory_budget: Option<u64> = memory_budget, Limits "memory-budget" [] "SIZE" "",
            "Memory for all scrapes and responses at the same time: bodies as received and decompressed, what is known about them, and memory kept for the next scrape. Beyond it the most expensive targets are refused. Without it: 60 % of the container's memory limit, else 2GiB.";
        required max_samples: u64 = count, Limits "max-samples" [] "N" "0",
            "Most samples of one target; 0 means no limit.";
        required max_labels: u64 = count, Limits "max-labels" [] "N" "0",
            "Most labels of one sample; 0 means no limit.";
        required max_label_name_length: u64 = count, Limits "max-label-name-length" [] "BYTES" "0",
            "Longest label name; 0 means no limit.";
        required max_label_value_length: u64 = count, Limits "max-label-value-length" [] "BYTES" "0",
            "Longest label value, also of labels that the proxy adds; 0 means no limit.";
    }
    derived {
        /// What is subtracted from the scraper's own timeout for sending the response.
        timeout_offset: Duration = Reader::timeout_offset;
    }
    rows {
        Scraping "timeout-offset" [] "DURATION" "500ms",
            "Subtracted from the scraper's timeout for sending the response. Must be less than --timeout.";
    }
}

settings! {
    /// Where and how the proxy listens.
    Listen, LISTEN {
        required address: IpAddr = address, Serving "address" [] "IP" "::",
            "Address to listen on; :: serves IPv6 and IPv4.";
        required port: u16 = port, Serving "port" ["PORT"] "PORT" "15090",
            "Port to listen on.";
        required header_timeout: Duration = positive_duration, Serving "header-timeout" [] "DURATION" "5s",
            "How long a client may take to send a request's head. An idle connection is kept for five minutes.";
        required write_timeout: Duration = positive_duration, Serving "write-timeout" [] "DURATION" "30s",
            "A client that reads nothing of its response for this long is disconnected.";
        required max_concurrent_responses: usize = up_to_1000, Serving "max-concurrent-responses" [] "N" "16",
            "Responses of /metrics in progress at the same time; a further request gets 503 with Retry-After.";
        required max_connections_per_client: usize = up_to_512, Serving "max-connections-per-client" [] "N" "64",
            "Connections of one client address; a further one closes the client's connection that has waited longest.";
        required grace: Duration = duration, Serving "shutdown-grace" [] "DURATION" "4s",
            "How long requests in flight may take after a stop signal. Keep it below the service's kill-delay (5s).";
    }
    derived {}
    rows {}
}

settings! {
    /// How to use Pebble, and the identity to keep there.
    Pebble, PEBBLE {
        required mode: PebbleMode = pebble_mode, Pebble "pebble" [] "MODE" "auto",
            "auto: use Pebble if its socket exists; required: not ready without Pebble; off: do not use Pebble.";
        nullable check_level: Option<CheckLevel> = check_level, Pebble "check-level" [] "LEVEL" "none",
            "Level of the proxy's checks: none, alive or ready. A level couples the probes of the whole pod to this proxy.";
        optional secret: Option<PathBuf> = path, Pebble "secret" ["METRICS_SECRET_PATH"] "PATH" "",
            "The mounted secret: a directory with the files `username` and `password`, or one YAML or JSON file.";
        required adopt_identity: bool = boolean, Pebble "adopt-identity" [] "BOOL" "false",
            "Take over a Pebble identity of the secret's username that another program has made.";
        required own_metrics: bool = boolean, Pebble "pebble-metrics" [] "BOOL" "true",
            "Serve Pebble's own metrics in the response of /metrics.";
        required resync_interval: Duration = positive_duration, Intervals "resync-interval" [] "DURATION" "1m",
            "How often Pebble's plan, identities and (over HTTP) the credential are read and corrected.";
        required verify_interval: Duration = positive_duration, Intervals "verify-interval" [] "DURATION" "10m",
            "How often the credential is verified over the socket, where each verification makes Pebble log a line.";
        required denied_retry_interval: Duration = positive_duration, Intervals "denied-retry-interval" [] "DURATION" "10m",
            "How often writes that Pebble denied are tried again. Each one makes Pebble log a line.";
        required secret_poll: Duration = positive_duration, Intervals "secret-poll" [] "DURATION" "30s",
            "How often the secret is read in addition to its change events.";
        required secret_debounce: Duration = duration, Intervals "secret-debounce" [] "DURATION" "1s",
            "How long a changed secret must stay the same before it is used.";
        required secret_removal_grace: Duration = duration, Intervals "secret-removal-grace" [] "DURATION" "30s",
            "Grace period after the secret disappears before its identity is removed.";
    }
    derived {
        /// Pebble's API socket.
        socket: PathBuf = Reader::pebble_socket;
    }
    rows {
        Pebble "pebble-socket" ["PEBBLE_SOCKET"] "PATH" "",
            "Pebble's API socket. Without it: .pebble.socket in --pebble-dir.";
        Pebble "pebble-dir" ["PEBBLE"] "PATH" "/var/lib/pebble/default",
            "Pebble's directory.";
    }
}

settings! {
    /// How to log.
    Log, LOG {
        required json: bool = log_format, Logging "log-format" [] "FORMAT" "text",
            "text or json.";
        required filter: String = log_filter, Logging "log-level" [] "FILTER" "info,kube_client=error",
            "off, error, warn, info, debug or trace, or levels of modules such as metrics_proxy=debug, separated by commas.";
    }
    derived {}
    rows {}
}
