//! The table of settings. Flags, environment, help and the reference page all come from here.

/// What a setting's value is, as far as a command line must know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Takes a value.
    Value,
    /// May stand alone, which means `true`.
    Switch,
}

/// One setting.
#[derive(Debug)]
pub struct Setting {
    /// The flag, without dashes.
    pub name: &'static str,
    /// Environment variables kept for compatibility, besides `METRICS_PROXY_<FLAG>`.
    pub older_env: &'static [&'static str],
    /// The word for its value in help texts.
    pub value: &'static str,
    /// Used when nothing was given; empty where absence has a meaning of its own.
    pub default: &'static str,
    /// Whether it may be given more than once (in the environment: separated by commas).
    pub repeatable: bool,
    /// Whether the flag may stand alone.
    pub kind: Kind,
    /// The heading it belongs under.
    pub group: &'static str,
    /// One or two sentences.
    pub help: &'static str,
}

impl Setting {
    /// The variables that set it, the one that wins first.
    pub fn env_names(&self) -> Vec<String> {
        let own = format!("METRICS_PROXY_{}", self.name.to_uppercase().replace('-', "_"));
        std::iter::once(own)
            .chain(self.older_env.iter().map(|name| (*name).to_owned()))
            .collect()
    }
}

const fn value(
    group: &'static str,
    name: &'static str,
    value: &'static str,
    default: &'static str,
    help: &'static str,
) -> Setting {
    Setting {
        name,
        older_env: &[],
        value,
        default,
        repeatable: false,
        kind: Kind::Value,
        group,
        help,
    }
}

const fn switch(
    group: &'static str,
    name: &'static str,
    default: &'static str,
    help: &'static str,
) -> Setting {
    Setting {
        kind: Kind::Switch,
        ..value(group, name, "BOOL", default, help)
    }
}

const PODS: &str = "Pods";
const SCRAPING: &str = "Scraping";
const LIMITS: &str = "Limits";
const SERVING: &str = "Serving";
const PEBBLE: &str = "Pebble and the secret";
const INTERVALS: &str = "Intervals";
const LOGGING: &str = "Logging";

/// Every setting, in the order of the help text.
pub const SETTINGS: &[Setting] = &[
    Setting {
        older_env: &["POD_LABEL_SELECTOR"],
        ..value(
            PODS,
            "labels",
            "SELECTOR",
            "",
            "Label selector of the pods to scrape, in Kubernetes' full syntax. Without one (and without --pods-file) nothing is scraped and /readyz says so.",
        )
    },
    Setting {
        older_env: &["KUBECONFIG"],
        ..value(
            PODS,
            "kubeconfig",
            "FILE",
            "",
            "Kubeconfig to reach the cluster with. Without one: the pod's ServiceAccount, else ~/.kube/config.",
        )
    },
    value(
        PODS,
        "pods-file",
        "PATH",
        "",
        "Take pods from this file or directory of manifests (YAML or JSON) instead of a cluster; watched for changes.",
    ),
    Setting {
        repeatable: true,
        ..value(
            PODS,
            "namespace",
            "NAME",
            "",
            "Look for pods in this namespace only; may be repeated. Without it: all namespaces, or the own one where rights end there.",
        )
    },
    value(
        PODS,
        "discover",
        "LIST",
        "pods",
        "Where to look for targets of the selected pods: any of pods (their annotations), services (annotations of Services), podmonitors, servicemonitors.",
    ),
    Setting {
        repeatable: true,
        ..value(
            PODS,
            "monitor-namespaces",
            "NAME",
            "",
            "Monitors of this namespace may select Services and pods of other namespaces; may be repeated. Monitors of all other namespaces select in their own namespace only.",
        )
    },
    Setting {
        repeatable: true,
        ..value(
            PODS,
            "target-cidr",
            "CIDR",
            "",
            "Also scrape pods of a cluster at addresses in this range, such as 127.0.0.0/8; may be repeated. Without it, pods with a loopback, link-local or broadcast address are not scraped.",
        )
    },
    value(
        PODS,
        "default-port",
        "PORT",
        "80",
        "Port of a pod without a port annotation; `declared` takes every declared container port, as Prometheus' own pod discovery does.",
    ),
    Setting {
        older_env: &["POD_UID"],
        ..value(
            PODS,
            "pod-uid",
            "UID",
            "",
            "UID of our own pod, so that it is never scraped; without it the host name and namespace tell.",
        )
    },
    value(
        PODS,
        "pod-name",
        "NAME",
        "",
        "Name of our own pod; without it the host name, which differs on the host network.",
    ),
    value(
        PODS,
        "shard",
        "I|auto",
        "",
        "Serve one share of the pods: number I, from 0, of --total-shards; auto takes both from the StatefulSet that our pod belongs to.",
    ),
    value(
        PODS,
        "total-shards",
        "N",
        "",
        "How many units share the pods, with --shard I.",
    ),
    Setting {
        older_env: &["SCRAPE_TIMEOUT"],
        ..value(
            SCRAPING,
            "timeout",
            "DURATION",
            "9s",
            "Longest wait for the targets of one answer. A shorter scrape timeout of the scraper wins.",
        )
    },
    value(
        SCRAPING,
        "timeout-offset",
        "DURATION",
        "500ms",
        "Kept back from the scraper's timeout for sending the answer.",
    ),
    value(
        SCRAPING,
        "connect-timeout",
        "DURATION",
        "3s",
        "How long to wait for a connection to a target. Linux repeats a lost connection request after 1 s, so a shorter time fails whenever one packet is lost.",
    ),
    value(
        SCRAPING,
        "target-ca",
        "FILE",
        "",
        "PEM file of certificate authorities for https targets, instead of the system's.",
    ),
    switch(
        SCRAPING,
        "target-insecure-skip-verify",
        "false",
        "Accept any certificate of an https target.",
    ),
    value(
        LIMITS,
        "max-connections-per-target-ip",
        "N",
        "64",
        "Connections in use to one IP address at the same time. More requests to that address wait.",
    ),
    value(
        LIMITS,
        "max-concurrent-scrapes",
        "N",
        "256",
        "Bodies read at the same time, over all requests.",
    ),
    value(
        LIMITS,
        "max-targets-per-pod",
        "N",
        "16",
        "Most targets of one pod; a pod that names more is scraped at the first ones.",
    ),
    value(
        LIMITS,
        "max-body-bytes",
        "SIZE",
        "64MiB",
        "Largest body of one target, after decompression.",
    ),
    value(
        LIMITS,
        "max-held-bytes",
        "SIZE",
        "2GiB",
        "Largest sum of bodies (and what is noted about them) held for one answer; the largest are refused first.",
    ),
    value(
        LIMITS,
        "max-samples",
        "N",
        "0",
        "Most samples of one target; 0 is no limit.",
    ),
    value(
        LIMITS,
        "max-labels",
        "N",
        "0",
        "Most labels of one sample; 0 is no limit.",
    ),
    value(
        LIMITS,
        "max-label-name-length",
        "BYTES",
        "0",
        "Longest label name; 0 is no limit.",
    ),
    value(
        LIMITS,
        "max-label-value-length",
        "BYTES",
        "0",
        "Longest label value; 0 is no limit.",
    ),
    value(
        SERVING,
        "address",
        "IP",
        "::",
        "Address to listen on; :: serves IPv6 and IPv4.",
    ),
    Setting {
        older_env: &["PORT"],
        ..value(SERVING, "port", "PORT", "15090", "Port to listen on.")
    },
    value(
        SERVING,
        "header-timeout",
        "DURATION",
        "5s",
        "How long a client may take to send a request's head. An idle connection is kept for five minutes.",
    ),
    value(
        SERVING,
        "write-timeout",
        "DURATION",
        "30s",
        "A client that reads nothing of its response for this long is disconnected.",
    ),
    value(
        SERVING,
        "max-concurrent-responses",
        "N",
        "16",
        "Responses of /metrics in progress at the same time; a further request gets 503 with Retry-After.",
    ),
    value(
        SERVING,
        "max-connections-per-client",
        "N",
        "64",
        "Connections of one client address; a further one closes the client's connection that has waited longest.",
    ),
    value(
        SERVING,
        "shutdown-grace",
        "DURATION",
        "4s",
        "How long requests in flight may take after a stop signal; keep it below the service's kill-delay (5s).",
    ),
    value(
        PEBBLE,
        "pebble",
        "MODE",
        "auto",
        "auto: use Pebble where its socket is; required: not ready without it; off: never ask.",
    ),
    Setting {
        older_env: &["PEBBLE_SOCKET"],
        ..value(
            PEBBLE,
            "pebble-socket",
            "PATH",
            "",
            "Pebble's API socket. Without it: .pebble.socket in --pebble-dir.",
        )
    },
    Setting {
        older_env: &["PEBBLE"],
        ..value(
            PEBBLE,
            "pebble-dir",
            "PATH",
            "/var/lib/pebble/default",
            "Pebble's directory.",
        )
    },
    value(
        PEBBLE,
        "check-level",
        "LEVEL",
        "none",
        "Level of our checks: none, alive or ready. A level couples the whole pod's probes to this proxy.",
    ),
    Setting {
        older_env: &["METRICS_SECRET_PATH"],
        ..value(
            PEBBLE,
            "secret",
            "PATH",
            "",
            "The mounted secret: a directory with files `username` and `password`, or one YAML or JSON file.",
        )
    },
    switch(
        PEBBLE,
        "adopt-identity",
        "false",
        "Take over a Pebble identity of the secret's username that carries no marker of ours.",
    ),
    switch(
        PEBBLE,
        "pebble-metrics",
        "true",
        "Serve Pebble's own metrics in the answer of /metrics.",
    ),
    value(
        INTERVALS,
        "list-interval",
        "DURATION",
        "30s",
        "How often pods are listed where watching is not allowed.",
    ),
    value(
        INTERVALS,
        "list-max-age",
        "DURATION",
        "5s",
        "Oldest list that a scrape may use where watching is not allowed.",
    ),
    value(
        INTERVALS,
        "permission-interval",
        "DURATION",
        "30s",
        "How often a missing right is asked for again.",
    ),
    value(
        INTERVALS,
        "forbidden-grace",
        "DURATION",
        "10s",
        "How long a refusal must last before a right that once worked counts as lost.",
    ),
    value(
        INTERVALS,
        "shard-interval",
        "DURATION",
        "5s",
        "How often --shard auto looks for the number of units; what moves is kept for three times that.",
    ),
    value(
        INTERVALS,
        "pods-file-poll",
        "DURATION",
        "5s",
        "How often --pods-file is read besides its change events.",
    ),
    value(
        INTERVALS,
        "resync-interval",
        "DURATION",
        "1m",
        "How often Pebble's plan, identities and (over HTTP) the credential are looked at.",
    ),
    value(
        INTERVALS,
        "verify-interval",
        "DURATION",
        "10m",
        "How often the credential is proved over the socket, where each proof makes Pebble log a line.",
    ),
    value(
        INTERVALS,
        "denied-retry-interval",
        "DURATION",
        "10m",
        "How often writes that Pebble refused are tried again.",
    ),
    value(
        INTERVALS,
        "secret-poll",
        "DURATION",
        "30s",
        "How often the secret is read besides its change events.",
    ),
    value(
        INTERVALS,
        "secret-debounce",
        "DURATION",
        "1s",
        "How long a changed secret must stay the same before it is believed.",
    ),
    value(
        INTERVALS,
        "secret-removal-grace",
        "DURATION",
        "30s",
        "How long the secret must be gone before its identity goes.",
    ),
    value(LOGGING, "log-format", "FORMAT", "text", "text or json."),
    value(
        LOGGING,
        "log-level",
        "FILTER",
        "info,kube_client=error",
        "error, warn, info, debug, trace, or a filter such as metrics_proxy=debug.",
    ),
];
