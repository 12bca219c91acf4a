//! The arguments of all commands.

use std::ffi::OsString;

use clap::{Arg, ArgAction, Args as _, Command};

use super::{bootstrap, identity, merge, targets};
use crate::config::{Group, SETTINGS, Setting, parse_boolean};

/// The settings of `targets` besides those under [`Group::Pods`].
const OF_TARGETS: [&str; 6] = [
    "address",
    "port",
    "max-targets-per-pod",
    "max-label-value-length",
    "log-format",
    "log-level",
];
/// The settings of `identity`.
const OF_IDENTITY: [&str; 7] = [
    "pebble",
    "pebble-socket",
    "pebble-dir",
    "secret",
    "adopt-identity",
    "log-format",
    "log-level",
];
/// The settings of `bootstrap`.
const OF_BOOTSTRAP: [&str; 9] = [
    "pebble",
    "pebble-socket",
    "pebble-dir",
    "check-level",
    "secret",
    "address",
    "port",
    "log-format",
    "log-level",
];

/// Returns the whole command line.
pub fn command() -> Command {
    Command::new("metrics-proxy")
        .version(crate::VERSION)
        .about("Scrapes the selected pods on request and serves their metrics as one /metrics")
        .after_help("Each flag has an environment variable METRICS_PROXY_<FLAG>. Without a command, the program serves.")
        .max_term_width(110)
        .args(setting_args(|_| true))
        .subcommand(
            Command::new("serve")
                .about("Serve (the default)")
                .args(setting_args(|_| true)),
        )
        .subcommand(
            targets::TargetsArgs::augment_args(Command::new("targets"))
                .about("Show the targets of every selected pod with their last scrape, or why a pod is not scraped")
                .args(
                    setting_args(|setting| setting.group == Group::Pods || OF_TARGETS.contains(&setting.name))
                        .into_iter()
                        .map(with_short),
                )
                .arg(service_arg()),
        )
        .subcommand(
            merge::MergeArgs::augment_args(Command::new("merge"))
                .about("Print what /metrics would serve for bodies that are stored in files"),
        )
        .subcommand(
            identity::IdentityArgs::augment_args(Command::new("identity"))
                .about("Set, remove and show Pebble identities")
                .arg(service_arg().global(true))
                .args(
                    setting_args(|setting| OF_IDENTITY.contains(&setting.name))
                        .into_iter()
                        .map(|arg| arg.global(true)),
                ),
        )
        .subcommand(
            bootstrap::BootstrapArgs::augment_args(Command::new("bootstrap"))
                .about("Install the service and its checks in Pebble's plan, and start the service")
                .arg(service_arg())
                .args(setting_args(|setting| OF_BOOTSTRAP.contains(&setting.name))),
        )
}

/// Adds the short flags that kubectl has for the same things.
fn with_short(arg: Arg) -> Arg {
    match arg.get_id().as_str() {
        "namespace" => arg.short('n'),
        "labels" => arg.short('l'),
        _ => arg,
    }
}

/// Returns the argument that names the service whose settings a command takes.
fn service_arg() -> Arg {
    Arg::new("service")
        .long("service")
        .value_name("NAME")
        .help("The service of Pebble's plan whose environment fills in settings that are not given; needed where several services run metrics-proxy")
}

/// Returns the arguments of the settings that `wanted` selects. A command has only those that it uses, so that it refuses
/// all others instead of ignoring them.
fn setting_args(wanted: impl Fn(&Setting) -> bool) -> Vec<Arg> {
    SETTINGS
        .iter()
        .filter(|setting| wanted(setting))
        .map(setting_arg)
        .collect()
}

fn setting_arg(setting: &'static Setting) -> Arg {
    let mut help = setting.help.to_owned();
    if !setting.default.is_empty() {
        help.push_str(&format!(" [default: {}]", setting.default));
    }
    if let [older, ..] = setting.older_env {
        help.push_str(&format!(" [env: {older}]"));
    }
    let arg = Arg::new(setting.name)
        .long(setting.name)
        .value_name(setting.value)
        .help(help)
        .help_heading(setting.group.as_str())
        .action(ArgAction::Append)
        .allow_hyphen_values(true);
    if setting.is_switch() {
        arg.num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
    } else {
        arg
    }
}

/// Writes the value of a switch that follows after a blank (`--pebble-metrics false`) behind an equals sign.
///
/// A switch may stand alone, so that clap would take the next argument for a command. Only the words that a switch accepts
/// are joined: `--adopt-identity serve` still is a switch and a command.
pub(super) fn with_joined_switches(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let is_switch = |argument: &OsString| {
        let name = argument.to_str().and_then(|argument| argument.strip_prefix("--"));
        SETTINGS
            .iter()
            .any(|setting| setting.is_switch() && Some(setting.name) == name)
    };
    let mut joined: Vec<OsString> = Vec::new();
    for argument in arguments {
        let is_value = argument
            .to_str()
            .is_some_and(|text| parse_boolean(text).is_some());
        match joined.last_mut().filter(|last| is_value && is_switch(last)) {
            Some(switch) => {
                switch.push("=");
                switch.push(argument);
            }
            None => joined.push(argument),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn each_command_names_settings_that_exist() {
        let names = OF_TARGETS.iter().chain(&OF_IDENTITY).chain(&OF_BOOTSTRAP);
        for name in names {
            assert!(SETTINGS.iter().any(|setting| setting.name == *name), "{name}");
        }
    }

    #[test]
    fn a_command_refuses_flags_that_it_would_ignore() {
        let accepts = |line: &str| command().try_get_matches_from(line.split(' ')).is_ok();
        assert!(accepts("m targets --once -n shop -l app=web -o json --exit-code"));
        assert!(accepts("m targets --port 15090"));
        assert!(accepts("m identity status --secret /run/secret"));
        assert!(accepts("m bootstrap --port 1 --check-level ready"));
        for line in [
            "m targets --header-timeout 1s",
            "m targets --shutdown-grace 1s",
            "m targets --secret /run/secret",
            "m identity status --check-level ready",
            "m identity status --pebble-metrics",
            "m bootstrap --write-timeout 1s",
            "m bootstrap --labels app=web",
            "m merge --port 1 a=f",
        ] {
            assert!(!accepts(line), "{line}");
        }
    }
}
