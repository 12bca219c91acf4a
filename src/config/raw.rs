//! The values of settings as they are given, before they are parsed.

use std::collections::BTreeMap;
use std::fmt;

use super::{Environment, SETTINGS, Setting};

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

/// The values that the command line and the environment give.
///
/// There is one entry for each given setting, by [`Setting::name`]. A repeatable setting has several values.
#[derive(Debug, Clone, Default)]
pub struct Raw {
    pub(super) values: BTreeMap<&'static str, (Origin, Vec<String>)>,
}

impl Raw {
    /// Collects the values of all settings. A flag wins over the environment, and the variable with the prefix
    /// `METRICS_PROXY_` wins over an older one.
    pub fn collect(flag: impl Fn(&Setting) -> Option<Vec<String>>, environment: &Environment) -> Self {
        let mut raw = Self::default();
        for setting in SETTINGS.iter() {
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

    /// Fills in settings that are not given from the environment of a service, if `has_setting` allows the setting.
    /// Returns the names of the variables that were used.
    pub fn complete(
        &mut self,
        service: &str,
        environment: &Environment,
        has_setting: impl Fn(&str) -> bool,
    ) -> Vec<String> {
        let mut used = Vec::new();
        for setting in SETTINGS.iter() {
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

    /// Returns the last text that is given for a setting.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.values.get(name)?.1.last().map(String::as_str)
    }

    /// Adds a value as if a flag had given it. For tests and for commands that imply a setting.
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

/// Returns the variable that gives a setting in an environment, with its values.
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
