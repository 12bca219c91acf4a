//! Settings: from strings to one checked [`Config`].
//!
//! Core: no environment, files or clock here. The command line hands over what it found as [`Raw`], this module
//! says what it means and reports every problem at once. [`SETTINGS`] is the one table behind the flags, the
//! environment variables, the help text and `docs/reference/flags.md`.

mod environment;
mod settings;
mod units;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

pub use environment::{Environment, UnknownVariable};
pub use settings::{Kind, SETTINGS, Setting};
pub use units::{format_go_duration, parse_bytes, parse_go_duration};

use crate::targets::{Cidr, CidrError, DefaultPort, Discover, Selector};

/// Where a value came from, for error texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A flag, named without its dashes.
    Flag(&'static str),
    /// An environment variable, by name.
    Env(String),
    /// A variable of a service in Pebble's plan.
    Service {
        /// The name of the service.
        service: String,
        /// The name of the variable.
        variable: String,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) => write!(f, "--{name}"),
            Self::Env(name) => f.write_str(name),
            Self::Service { service, variable } => write!(f, "{variable} of the service {service}"),
        }
    }
}

/// What was given on the command line and in the environment, before it is understood.
///
/// One entry a setting, keyed by [`Setting::name`]; a repeatable setting has several values.
#[derive(Debug, Clone, Default)]
pub struct Raw {
    values: BTreeMap<&'static str, (Origin, Vec<String>)>,
}

impl Raw {
    /// Collects the values of all settings: flags win over environment, and the `METRICS_PROXY_` name wins over the
    /// older one.
    pub fn collect(flag: impl Fn(&Setting) -> Option<Vec<String>>, environment: &Environment) -> Self {
        let mut raw = Self::default();
        for setting in SETTINGS {
            if let Some(values) = flag(setting) {
                raw.values
                    .insert(setting.name, (Origin::Flag(setting.name), values));
                continue;
            }
            if let Some((variable, values)) = variable(setting, environment) {
                raw.values.insert(setting.name, (Origin::Env(variable), values));
            }
        }
        raw
    }

    /// Fills in what was not given, from the environment of a service, for the settings that `has_setting` allows.
    /// Returns the names of the variables that were used.
    pub fn complete(
        &mut self,
        service: &str,
        environment: &Environment,
        has_setting: impl Fn(&str) -> bool,
    ) -> Vec<String> {
        let mut used = Vec::new();
        for setting in SETTINGS {
            if self.values.contains_key(setting.name) || !has_setting(setting.name) {
                continue;
            }
            if let Some((variable, values)) = variable(setting, environment) {
                used.push(variable.clone());
                let service = service.to_owned();
                self.values
                    .insert(setting.name, (Origin::Service { service, variable }, values));
            }
        }
        used
    }

    /// The last given text of a setting, before it is parsed.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.values.get(name)?.1.last().map(String::as_str)
    }

    /// Sets one value as if it had been given as a flag. For tests and for commands that imply a setting.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.values
            .entry(name)
            .or_insert_with(|| (Origin::Flag(name), Vec::new()))
            .1
            .push(value.into());
        self
    }
}

/// The variable of a setting in an environment, with its values.
fn variable(setting: &Setting, environment: &Environment) -> Option<(String, Vec<String>)> {
    setting.env_names().into_iter().find_map(|name| {
        let value = environment.get(&name)?;
        let values = if setting.repeatable {
            value.split(',').map(|part| part.trim().to_owned()).collect()
        } else {
            vec![value.to_owned()]
        };
        Some((name, values))
    })
}

/// One thing wrong with the configuration: where, what was there, what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{origin}={value:?}: {problem}")]
pub struct Problem {
    /// The flag or variable.
    pub origin: String,
    /// The text that was given.
    pub value: String,
    /// What is wrong with it and what would be right.
    pub problem: String,
}

/// The whole configuration of a serving proxy. Every field is checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen.
    pub listen: Listen,
    /// Which pods, found how.
    pub discovery: Discovery,
    /// How targets are scraped.
    pub scrape: Scrape,
    /// How to meet Pebble, and the identity to keep there.
    pub pebble: Pebble,
    /// How to log.
    pub log: Log,
}

/// Where to listen.
#[derive(Debug, Clone)]
pub struct Listen {
    /// The address; the IPv6 wildcard serves IPv4 as well.
    pub address: IpAddr,
    /// The TCP port.
    pub port: u16,
    /// How long in-flight requests may take after a stop signal; shorter than Pebble's kill-delay of 5 s.
    pub grace: Duration,
    /// How long a client may take to send its request head.
    pub header_timeout: Duration,
    /// How long a client may read nothing of its response.
    pub write_timeout: Duration,
    /// Responses of `/metrics` in progress at the same time.
    pub max_concurrent_responses: usize,
    /// Connections of one client address.
    pub max_connections_per_client: usize,
}

/// Which pods are found, and how.
#[derive(Debug, Clone)]
pub struct Discovery {
    /// The pods to take; `None` takes none and makes the proxy say so.
    pub selector: Option<Selector>,
    /// Where pods come from.
    pub source: PodSource,
    /// The namespaces to look into; empty means all of them, or the own one where rights end there.
    pub namespaces: Vec<String>,
    /// What a pod without a port annotation means.
    pub default_port: DefaultPort,
    /// Where targets of the selected pods are looked for.
    pub discover: Discover,
    /// The namespaces whose monitors may select Services and pods of other namespaces.
    pub monitor_namespaces: Vec<String>,
    /// Ranges of addresses that are scraped although a pod of a cluster should not have them.
    pub target_cidrs: Vec<Cidr>,
    /// The most targets of one pod.
    pub max_targets_per_pod: usize,
    /// The longest label value in bytes, also of labels that the proxy adds; 0 is no limit.
    pub max_label_value_length: u64,
    /// Our own pod's UID, where the deployment tells it.
    pub pod_uid: Option<String>,
    /// Our own pod's name, where it is not the host name.
    pub pod_name: Option<String>,
    /// Whether the pods are shared among units.
    pub sharding: Sharding,
    /// How often the number of units is looked for.
    pub shard_interval: Duration,
    /// How often to list where watching is not allowed.
    pub list_interval: Duration,
    /// The oldest list that a scrape may use where watching is not allowed.
    pub list_max_age: Duration,
    /// How often a missing right is asked for again.
    pub permission_interval: Duration,
    /// How long a refusal must last before it is believed.
    pub forbidden_grace: Duration,
    /// How often the watched pods file or directory is read besides its change events.
    pub files_poll: Duration,
}

/// Whether the pods are shared among units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharding {
    /// This one serves all.
    Off,
    /// This one is number `index`, from 0, of `total`.
    Fixed {
        /// Below `total`.
        index: u32,
        /// At least 1.
        total: u32,
    },
    /// As the `StatefulSet` says that our pod belongs to.
    Auto,
}

/// Where pods come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodSource {
    /// A Kubernetes API server: the kubeconfig named here, else the in-cluster ServiceAccount, else the user's default.
    Cluster {
        /// A kubeconfig file, where one was named.
        kubeconfig: Option<PathBuf>,
    },
    /// A file or directory of pod manifests.
    Files(PathBuf),
}

/// How targets are scraped.
#[derive(Debug, Clone)]
pub struct Scrape {
    /// The longest that one answer may wait for its targets.
    pub timeout: Duration,
    /// What is kept back from the scraper's own timeout for sending the answer.
    pub timeout_offset: Duration,
    /// When a connection attempt is given up.
    pub connect_timeout: Duration,
    /// Connections in use to one IP address at the same time.
    pub max_connections_per_target_ip: usize,
    /// Bodies read at the same time, over all requests.
    pub max_concurrent: usize,
    /// Largest body of one target after decompression.
    pub max_body_bytes: u64,
    /// Largest sum of bodies held for one answer.
    pub max_held_bytes: u64,
    /// Most samples of one target; 0 is no limit.
    pub max_samples: u64,
    /// Most labels of one sample; 0 is no limit.
    pub max_labels: u64,
    /// Longest label name in bytes; 0 is no limit.
    pub max_label_name_length: u64,
    /// Longest label value in bytes; 0 is no limit.
    pub max_label_value_length: u64,
    /// A PEM file of certificate authorities for https targets, instead of the system's.
    pub target_ca: Option<PathBuf>,
    /// Accept any certificate of an https target.
    pub target_insecure_skip_verify: bool,
}

/// Whether Pebble must be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PebbleMode {
    /// Used where its socket is.
    Auto,
    /// Not ready without it.
    Required,
    /// Never asked.
    Off,
}

/// How to meet Pebble, and the identity to keep there.
#[derive(Debug, Clone)]
pub struct Pebble {
    /// Whether Pebble must be there.
    pub mode: PebbleMode,
    /// Its API socket.
    pub socket: PathBuf,
    /// The level that our checks carry; none by default, since a level couples the pod's probes to us.
    pub check_level: Option<CheckLevel>,
    /// The mounted secret: a directory or a file.
    pub secret: Option<PathBuf>,
    /// Take over an identity of our secret's name that carries no marker of ours.
    pub adopt_identity: bool,
    /// Serve Pebble's own metrics in our answer.
    pub own_metrics: bool,
    /// How often plan, identities and (over HTTP) the credential are looked at.
    pub resync_interval: Duration,
    /// How often the credential is proved over the socket, where Pebble logs each proof.
    pub verify_interval: Duration,
    /// How often refused writes are tried again; each one makes Pebble log a CRITICAL line.
    pub denied_retry_interval: Duration,
    /// How often the secret is read besides its change events.
    pub secret_poll: Duration,
    /// How long a secret must stay unchanged before it is believed.
    pub secret_debounce: Duration,
    /// How long the secret must be gone before the identity goes.
    pub secret_removal_grace: Duration,
}

/// The level of a Pebble check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckLevel {
    /// Restarts the container when down.
    Alive,
    /// Takes the pod out of its Service when down.
    Ready,
}

impl CheckLevel {
    /// The word in a layer.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Ready => "ready",
        }
    }
}

/// How to log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// JSON lines instead of text.
    pub json: bool,
    /// A `tracing` filter such as `info` or `metrics_proxy=debug`.
    pub filter: String,
}

impl Config {
    /// Understands all settings.
    ///
    /// # Errors
    /// Every problem there is, in the order of [`SETTINGS`].
    pub fn try_new(raw: &Raw) -> Result<Self, Vec<Problem>> {
        let mut r = Reader {
            raw,
            problems: Vec::new(),
        };
        let max_label_value_length = r.required("max-label-value-length", count);
        let config = Self {
            discovery: Discovery {
                selector: r
                    .optional("labels", |text| match text.trim() {
                        "" => Ok(None),
                        text => Selector::parse(text).map(Some).map_err(|e| e.to_string()),
                    })
                    .flatten(),
                source: match r.optional("pods-file", path) {
                    Some(path) => PodSource::Files(path),
                    None => PodSource::Cluster { kubeconfig: None },
                },
                namespaces: r.repeated("namespace", namespace),
                default_port: r.required("default-port", default_port),
                discover: r.required("discover", discover),
                monitor_namespaces: r.repeated("monitor-namespaces", namespace),
                target_cidrs: r.repeated("target-cidr", |text| {
                    text.parse().map_err(|e: CidrError| e.to_string())
                }),
                max_targets_per_pod: r.required("max-targets-per-pod", |text| {
                    text.parse()
                        .ok()
                        .filter(|n| (1..=65_536).contains(n))
                        .ok_or("not a number from 1 to 65536".to_owned())
                }),
                max_label_value_length,
                pod_uid: r.optional("pod-uid", |text| Ok(text.to_owned())),
                pod_name: r.optional("pod-name", |text| Ok(text.to_owned())),
                sharding: r.sharding(),
                shard_interval: r.required("shard-interval", positive_duration),
                list_interval: r.required("list-interval", positive_duration),
                list_max_age: r.required("list-max-age", positive_duration),
                permission_interval: r.required("permission-interval", positive_duration),
                forbidden_grace: r.required("forbidden-grace", duration),
                files_poll: r.required("pods-file-poll", positive_duration),
            },
            scrape: Scrape {
                timeout: r.required("timeout", positive_duration),
                timeout_offset: r.required("timeout-offset", duration),
                connect_timeout: r.required("connect-timeout", positive_duration),
                max_connections_per_target_ip: r
                    .required("max-connections-per-target-ip", |text| at_most(text, 65_536)),
                max_concurrent: r.required("max-concurrent-scrapes", |text| at_most(text, 65_536)),
                max_body_bytes: r.required("max-body-bytes", bytes),
                max_held_bytes: r.required("max-held-bytes", bytes),
                max_samples: r.required("max-samples", count),
                max_labels: r.required("max-labels", count),
                max_label_name_length: r.required("max-label-name-length", count),
                max_label_value_length,
                target_ca: r.optional("target-ca", path),
                target_insecure_skip_verify: r.required("target-insecure-skip-verify", boolean),
            },
            listen: Listen {
                address: r.required("address", |text| {
                    text.parse().map_err(|_| {
                        "not an IP address; use :: for IPv6 and IPv4, or 0.0.0.0, 127.0.0.1".to_owned()
                    })
                }),
                port: r.required("port", |text| {
                    text.parse()
                        .ok()
                        .filter(|port| *port != 0)
                        .ok_or("not a port; use a number from 1 to 65535".to_owned())
                }),
                grace: r.required("shutdown-grace", duration),
                header_timeout: r.required("header-timeout", positive_duration),
                write_timeout: r.required("write-timeout", positive_duration),
                max_concurrent_responses: r.required("max-concurrent-responses", |text| at_most(text, 1_000)),
                max_connections_per_client: r
                    .required("max-connections-per-client", |text| at_most(text, 512)),
            },
            pebble: Pebble {
                mode: r.required("pebble", |text| match text {
                    "auto" => Ok(PebbleMode::Auto),
                    "required" => Ok(PebbleMode::Required),
                    "off" => Ok(PebbleMode::Off),
                    _ => Err("use auto, required or off".to_owned()),
                }),
                socket: PathBuf::new(),
                check_level: r
                    .optional("check-level", |text| match text {
                        "none" => Ok(None),
                        "alive" => Ok(Some(CheckLevel::Alive)),
                        "ready" => Ok(Some(CheckLevel::Ready)),
                        _ => Err("use none, alive or ready".to_owned()),
                    })
                    .flatten(),
                secret: r.optional("secret", path),
                adopt_identity: r.required("adopt-identity", boolean),
                own_metrics: r.required("pebble-metrics", boolean),
                resync_interval: r.required("resync-interval", positive_duration),
                verify_interval: r.required("verify-interval", positive_duration),
                denied_retry_interval: r.required("denied-retry-interval", positive_duration),
                secret_poll: r.required("secret-poll", positive_duration),
                secret_debounce: r.required("secret-debounce", duration),
                secret_removal_grace: r.required("secret-removal-grace", duration),
            },
            log: Log {
                json: r.required("log-format", |text| match text {
                    "text" => Ok(false),
                    "json" => Ok(true),
                    _ => Err("use text or json".to_owned()),
                }),
                filter: r.required("log-level", |text| Ok(text.to_owned())),
            },
        };
        let kubeconfig = r.optional("kubeconfig", path);
        let socket = r.optional("pebble-socket", path);
        let directory = r.optional("pebble-dir", path);
        if r.problems.is_empty() {
            let mut config = config;
            if let PodSource::Cluster { kubeconfig: slot } = &mut config.discovery.source {
                *slot = kubeconfig;
            }
            config.pebble.socket = resolve_socket(socket, directory);
            Ok(config)
        } else {
            r.problems.sort_by_key(|(at, _)| *at);
            Err(r.problems.into_iter().map(|(_, problem)| problem).collect())
        }
    }
}

/// The socket as Pebble's own client finds it: named, else in Pebble's directory, else in the default one.
///
/// Source: Pebble `internals/cli/cli.go`, withDefaultRunOptions.
pub fn resolve_socket(socket: Option<PathBuf>, directory: Option<PathBuf>) -> PathBuf {
    socket.unwrap_or_else(|| {
        directory
            .unwrap_or_else(|| PathBuf::from("/var/lib/pebble/default"))
            .join(".pebble.socket")
    })
}

/// Reads settings one by one and keeps every problem with the place of its setting in [`SETTINGS`].
struct Reader<'a> {
    raw: &'a Raw,
    problems: Vec<(usize, Problem)>,
}

impl Reader<'_> {
    /// The given value, else the table's default; a problem is noted and the default goes on.
    fn required<T>(&mut self, name: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> T {
        let given = self.optional(name, &parse);
        given.unwrap_or_else(|| {
            parse(setting(name).1.default).expect("defaults in SETTINGS parse; a test reads them all")
        })
    }

    fn optional<T>(&mut self, name: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let (origin, values) = self.raw.values.get(name)?;
        let value = values.last()?;
        self.note(name, origin, value, parse(value))
    }

    fn repeated<T>(&mut self, name: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
        let Some((origin, values)) = self.raw.values.get(name) else {
            return Vec::new();
        };
        values
            .iter()
            .filter_map(|value| self.note(name, origin, value, parse(value)))
            .collect()
    }

    /// `--shard` and `--total-shards`, which make sense together only.
    fn sharding(&mut self) -> Sharding {
        let index = self.optional("shard", |text| match text {
            "auto" => Ok(None),
            _ => text
                .parse::<u32>()
                .map(Some)
                .map_err(|_| "use auto, or a number from 0 with --total-shards".to_owned()),
        });
        let total = self.optional("total-shards", |text| {
            text.parse::<u32>()
                .ok()
                .filter(|total| (1..=MOST_SHARDS).contains(total))
                .ok_or(format!("use a number from 1 to {MOST_SHARDS}"))
        });
        let is_given = |name| self.raw.values.contains_key(name);
        let (name, problem) = match (index, total) {
            (Some(None), None) => return Sharding::Auto,
            (Some(Some(index)), Some(total)) if index < total => return Sharding::Fixed { index, total },
            (Some(Some(_)), Some(_)) => (
                "shard",
                "must be less than --total-shards, since it counts from 0",
            ),
            (Some(None), Some(_)) => ("total-shards", "goes with a number as --shard; auto finds it out"),
            (Some(Some(_)), None) if !is_given("total-shards") => ("shard", "needs --total-shards"),
            (None, Some(_)) if !is_given("shard") => ("total-shards", "needs --shard"),
            // Nothing was given, or a partner that was refused and has been reported already.
            (Some(Some(_)), None) | (None, _) => return Sharding::Off,
        };
        if let Some((origin, values)) = self.raw.values.get(name)
            && let Some(value) = values.last()
        {
            self.note::<()>(name, origin, value, Err(problem.to_owned()));
        }
        Sharding::Off
    }

    fn note<T>(&mut self, name: &str, origin: &Origin, value: &str, parsed: Result<T, String>) -> Option<T> {
        parsed
            .map_err(|problem| {
                let problem = Problem {
                    origin: origin.to_string(),
                    value: value.to_owned(),
                    problem,
                };
                self.problems.push((setting(name).0, problem));
            })
            .ok()
    }
}

fn setting(name: &str) -> (usize, &'static Setting) {
    SETTINGS
        .iter()
        .enumerate()
        .find(|(_, setting)| setting.name == name)
        .expect("names here are in SETTINGS; a test reads them all")
}

/// More units than any cluster has use for; a number too many by mistake must not cost a hash each.
const MOST_SHARDS: u32 = 1000;

fn positive_duration(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("must be more than zero".to_owned()),
        duration => Ok(duration),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_go_duration(text).map_err(|e| e.to_string())
}

fn bytes(text: &str) -> Result<u64, String> {
    match parse_bytes(text).ok_or("not a size; use bytes, or a number with kB, MB, GB, KiB, MiB or GiB")? {
        0 => Err("must be more than zero".to_owned()),
        bytes => Ok(bytes),
    }
}

fn count(text: &str) -> Result<u64, String> {
    text.parse()
        .map_err(|_| "not a whole number; 0 is no limit".to_owned())
}

fn at_most(text: &str, max: usize) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|n| (1..=max).contains(n))
        .ok_or_else(|| format!("not a number from 1 to {max}"))
}

fn boolean(text: &str) -> Result<bool, String> {
    parse_boolean(text).ok_or("use true or false".to_owned())
}

/// Parses the value of a switch.
pub fn parse_boolean(text: &str) -> Option<bool> {
    match text {
        "true" | "1" | "yes" => Some(true),
        "false" | "0" | "no" => Some(false),
        _ => None,
    }
}

fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        Err("an empty path".to_owned())
    } else {
        Ok(PathBuf::from(text))
    }
}

fn namespace(text: &str) -> Result<String, String> {
    let valid = !text.is_empty()
        && text.len() <= 63
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-');
    if valid {
        Ok(text.to_owned())
    } else {
        Err("not a namespace name".to_owned())
    }
}

fn discover(text: &str) -> Result<Discover, String> {
    let mut discover = Discover {
        pods: false,
        ..Discover::PODS
    };
    for word in text.split(',') {
        match word.trim() {
            "pods" => discover.pods = true,
            "services" => discover.services = true,
            "podmonitors" => discover.pod_monitors = true,
            "servicemonitors" => discover.service_monitors = true,
            _ => {
                return Err(
                    "use one or more of pods, services, podmonitors, servicemonitors, with commas".to_owned(),
                );
            }
        }
    }
    Ok(discover)
}

fn default_port(text: &str) -> Result<DefaultPort, String> {
    if text == "declared" {
        return Ok(DefaultPort::Declared);
    }
    match text.parse() {
        Ok(port) if port != 0 => Ok(DefaultPort::Number(port)),
        _ => Err("use a port from 1 to 65535, or declared for every declared container port".to_owned()),
    }
}

impl Default for Config {
    /// What a start without any setting would use.
    fn default() -> Self {
        Self::try_new(&Raw::default()).expect("defaults in SETTINGS parse; a test reads them all")
    }
}

impl Listen {
    /// Whether the address stands for every interface of both families.
    pub fn is_dual_stack(&self) -> bool {
        self.address == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    }
}

#[cfg(test)]
mod tests;
