//! From given texts to values and problems.

use std::path::PathBuf;
use std::time::Duration;

use super::raw::{Origin, Raw};
use super::{PodSource, Problem, SETTINGS, Setting, Sharding, parse, resolve_socket};
use crate::targets::MAX_SHARDS;

/// Reads settings one by one and collects every problem with the position of its setting in [`SETTINGS`].
pub(super) struct Reader<'a> {
    raw: &'a Raw,
    problems: Vec<(usize, Problem)>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(raw: &'a Raw) -> Self {
        Self {
            raw,
            problems: Vec::new(),
        }
    }

    /// Returns all problems in the order of [`SETTINGS`].
    pub(super) fn into_problems(mut self) -> Vec<Problem> {
        self.problems.sort_by_key(|(position, _)| *position);
        self.problems.into_iter().map(|(_, problem)| problem).collect()
    }

    /// Returns the given value, or the default. If the given value has a problem, the default stands in for it.
    pub(super) fn required<T>(&mut self, name: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> T {
        let given = self.optional(name, &parse);
        given.unwrap_or_else(|| default(name, parse))
    }

    /// Returns the given value, if there is one and it can be parsed.
    pub(super) fn optional<T>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let (origin, values) = self.raw.values.get(name)?;
        let value = values.last()?;
        self.record(name, origin, value, parse(value))
    }

    /// Returns all given values that can be parsed.
    pub(super) fn repeated<T>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        let Some((origin, values)) = self.raw.values.get(name) else {
            return Vec::new();
        };
        values
            .iter()
            .filter_map(|value| self.record(name, origin, value, parse(value)))
            .collect()
    }

    /// Returns the given value, which may be a word for none.
    pub(super) fn nullable<T>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&str) -> Result<Option<T>, String>,
    ) -> Option<T> {
        self.optional(name, parse).flatten()
    }

    /// Reads `--pods-file` and `--kubeconfig`.
    pub(super) fn pod_source(&mut self) -> PodSource {
        let kubeconfig = self.optional("kubeconfig", parse::path);
        match self.optional("pods-file", parse::path) {
            Some(path) => PodSource::Files(path),
            None => PodSource::Cluster { kubeconfig },
        }
    }

    /// Reads `--pebble-socket` and `--pebble-dir`.
    pub(super) fn pebble_socket(&mut self) -> PathBuf {
        let socket = self.optional("pebble-socket", parse::path);
        let directory = self.optional("pebble-dir", parse::path);
        resolve_socket(socket, directory)
    }

    /// Reads `--timeout-offset`. One that is given must leave something of `--timeout`.
    pub(super) fn timeout_offset(&mut self) -> Duration {
        let timeout = self.required("timeout", parse::positive_duration);
        let given = self.optional("timeout-offset", |text| match parse::duration(text)? {
            offset if offset >= timeout => Err(format!("must be less than --timeout, which is {timeout:?}")),
            offset => Ok(offset),
        });
        // The default goes with a short timeout as well: it is never subtracted from --timeout itself.
        given.unwrap_or_else(|| default("timeout-offset", parse::duration))
    }

    /// Reads `--shard` and `--total-shards`, which have a meaning only together.
    pub(super) fn sharding(&mut self) -> Sharding {
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
                .filter(|total| (1..=MAX_SHARDS).contains(total))
                .ok_or(format!("use a number from 1 to {MAX_SHARDS}"))
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
            // Nothing is given, or the other one has a problem that is recorded already.
            (Some(Some(_)), None) | (None, _) => return Sharding::Off,
        };
        if let Some((origin, values)) = self.raw.values.get(name)
            && let Some(value) = values.last()
        {
            self.record::<()>(name, origin, value, Err(problem.to_owned()));
        }
        Sharding::Off
    }

    /// Records the problem of a value that cannot be parsed, once.
    fn record<T>(
        &mut self,
        name: &str,
        origin: &Origin,
        value: &str,
        parsed: Result<T, String>,
    ) -> Option<T> {
        parsed
            .map_err(|problem| {
                let problem = Problem {
                    origin: origin.to_string(),
                    value: value.to_owned(),
                    problem,
                };
                let problem = (setting(name).0, problem);
                // Some settings are read twice, for two sections.
                if !self.problems.contains(&problem) {
                    self.problems.push(problem);
                }
            })
            .ok()
    }
}

fn default<T>(name: &str, parse: impl Fn(&str) -> Result<T, String>) -> T {
    parse(setting(name).1.default).expect("the defaults in SETTINGS are valid; a test reads all of them")
}

fn setting(name: &str) -> (usize, &'static Setting) {
    SETTINGS
        .iter()
        .enumerate()
        .find(|(_, setting)| setting.name == name)
        .expect("each name here is in SETTINGS; a test reads all of them")
}
