//! The command line.
//!
//! This is part of the imperative shell. Flags and variables come from the settings of [`crate::config`]; each command is a
//! file that collects its arguments and calls other modules. Exit codes: 0 for success, 1 for a failure, 2 for bad usage or
//! a bad configuration.

mod args;
mod bootstrap;
mod identity;
mod merge;
mod serve;
mod service_settings;
mod targets;

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use clap::{ArgMatches, FromArgMatches};

pub use args::command;

use crate::config::{Config, Environment, Problem, Raw, Setting};
use crate::telemetry;

/// Runs the program with these arguments, the first being its name.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let matches = match command().try_get_matches_from(args::with_joined_switches(arguments)) {
        Ok(matches) => matches,
        Err(error) => {
            // For clap, help and version are errors with exit code 0.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match matches.subcommand() {
        None => configured(&matches, serve::run),
        Some(("serve", matches)) => configured(matches, serve::run),
        Some(("merge", matches)) => match merge::MergeArgs::from_arg_matches(matches) {
            Ok(args) => match args.check() {
                Ok(()) => exit_code(merge::run(&args)),
                Err(problem) => usage_error(&problem),
            },
            Err(error) => error.exit(),
        },
        Some(("targets", matches)) => match targets::check(matches) {
            Ok(()) => with_args(matches, async |args, config| {
                let namespaces = matches.get_many::<String>("namespace").into_iter().flatten();
                targets::run(args, config, &namespaces.cloned().collect::<Vec<_>>()).await
            }),
            Err(problem) => usage_error(&problem),
        },
        Some(("identity", matches)) => with_args(matches, async |args, config| {
            // A charm sets the variable for the service. What a person removes or takes over by command is a decision of
            // its own, so that only the flag counts.
            let adopt = config.pebble.adopt_identity && matches.contains_id("adopt-identity");
            identity::run(args, config, adopt).await
        }),
        Some(("bootstrap", matches)) => with_args(matches, bootstrap::run),
        Some((name, _)) => usage_error(&format!("cannot run {name}: no such command")),
    }
}

/// Reports arguments that make no sense.
fn usage_error(problem: &str) -> ExitCode {
    report(problem);
    ExitCode::from(2)
}

/// Runs a command that has arguments of its own besides the settings.
fn with_args<A: FromArgMatches>(
    matches: &ArgMatches,
    run: impl AsyncFnOnce(&A, Config) -> anyhow::Result<u8>,
) -> ExitCode {
    match A::from_arg_matches(matches) {
        Ok(args) => configured_with_service(matches, async |config| run(&args, config).await),
        Err(error) => error.exit(),
    }
}

/// Returns the environment of this process.
fn environment() -> Environment {
    Environment::new(std::env::vars_os().map(|(name, value)| {
        let text = |text: OsString| text.to_string_lossy().into_owned();
        (text(name), text(value))
    }))
}

/// Returns the settings that the command line and the environment give.
fn raw_settings(matches: &ArgMatches, environment: &Environment) -> Raw {
    let flag = |setting: &Setting| {
        let values = matches.try_get_many::<String>(setting.name).ok().flatten()?;
        Some(values.cloned().collect())
    };
    Raw::collect(flag, environment)
}

/// Runs `then` with the settings of the command line and the environment.
fn configured(matches: &ArgMatches, then: impl AsyncFnOnce(Config) -> anyhow::Result<u8>) -> ExitCode {
    let environment = environment();
    let raw = raw_settings(matches, &environment);
    with_runtime(async || run_with(&raw, &environment, then).await)
}

/// As [`configured`]; what was not given comes from the service in Pebble's plan.
fn configured_with_service(
    matches: &ArgMatches,
    then: impl AsyncFnOnce(Config) -> anyhow::Result<u8>,
) -> ExitCode {
    let environment = environment();
    let mut raw = raw_settings(matches, &environment);
    let service = matches.get_one::<String>("service").map(String::as_str);
    with_runtime(async || {
        // A hash depends on the password only.
        let completed = match matches.subcommand_name() {
            Some("hash") => Ok(None),
            _ => service_settings::complete(&mut raw, matches, service).await,
        };
        match completed {
            Ok(None) => {}
            Ok(Some(line)) => report(&line),
            Err(problem) => {
                report(&problem);
                return ExitCode::from(2);
            }
        }
        run_with(&raw, &environment, then).await
    })
}

/// Runs `then` on a runtime of its own.
fn with_runtime(then: impl AsyncFnOnce() -> ExitCode) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            report(&format!("cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(then());
    // Blocking work that is still running belongs to requests that have ended.
    runtime.shutdown_background();
    code
}

/// Checks the configuration, starts logging, and runs `then`.
async fn run_with(
    raw: &Raw,
    environment: &Environment,
    then: impl AsyncFnOnce(Config) -> anyhow::Result<u8>,
) -> ExitCode {
    let config = match Config::try_new(raw) {
        Ok(config) => config,
        Err(problems) => {
            report(&configuration_report(&problems));
            return ExitCode::from(2);
        }
    };
    if let Err(problem) = telemetry::start_logging(&config.log) {
        let problem = Problem {
            origin: "--log-level".to_owned(),
            value: config.log.filter.clone(),
            problem,
        };
        report(&configuration_report(&[problem]));
        return ExitCode::from(2);
    }
    log_ignored_variables(environment);
    exit_code(then(config).await)
}

/// Logs the variables with our prefix that are ignored, and why.
fn log_ignored_variables(environment: &Environment) {
    if !environment.service_links.is_empty() {
        tracing::info!(
            variables = environment.service_links.join(" "),
            "Ignored the variables that Kubernetes sets for Services named metrics-proxy*"
        );
    }
    for unknown in &environment.unknown {
        tracing::warn!(
            variable = unknown.name,
            nearest = unknown.nearest,
            "Ignored an unknown environment variable; was the nearest one meant?"
        );
    }
}

/// Returns the exit code of a command, and reports an error with its causes.
fn exit_code(result: anyhow::Result<u8>) -> ExitCode {
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            report(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn configuration_report(problems: &[Problem]) -> String {
    let mut text = match problems.len() {
        1 => "cannot start: 1 problem in the configuration".to_owned(),
        n => format!("cannot start: {n} problems in the configuration"),
    };
    for problem in problems {
        text.push_str(&format!("\n  {problem}"));
    }
    text
}

/// Writes a line to standard error. If that is closed, nobody reads it.
fn report(text: &str) {
    let _ = writeln!(std::io::stderr(), "metrics-proxy: {text}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SETTINGS;

    /// `--flag BOOL`, as the help and the reference page promise.
    #[test]
    fn a_switch_takes_its_value_after_a_blank() {
        let given = |arguments: &[&str]| {
            let arguments = std::iter::once("metrics-proxy").chain(arguments.iter().copied());
            let arguments = args::with_joined_switches(arguments.map(OsString::from));
            let matches = command()
                .try_get_matches_from(arguments)
                .unwrap_or_else(|e| panic!("{e}"));
            let (command, matches) = matches.subcommand().map_or((None, &matches), |(name, matches)| {
                (Some(name.to_owned()), matches)
            });
            let config = Config::try_new(&raw_settings(matches, &Environment::default()));
            let pebble = config.unwrap_or_else(|problems| panic!("{problems:?}")).pebble;
            (command, pebble.own_metrics, pebble.adopt_identity)
        };
        assert_eq!(given(&[]), (None, true, false));
        for no in ["false", "0", "no"] {
            assert_eq!(given(&["--pebble-metrics", no]), (None, false, false));
        }
        assert_eq!(
            given(&["--adopt-identity", "true", "--pebble-metrics", "false"]),
            (None, false, true)
        );
        assert_eq!(given(&["--adopt-identity"]), (None, true, true));
        let serve = Some("serve".to_owned());
        assert_eq!(given(&["serve", "--adopt-identity", "yes"]), (serve, true, true));
        let targets = args::with_joined_switches(["m", "--adopt-identity", "targets"].map(OsString::from));
        assert_eq!(targets, ["m", "--adopt-identity", "targets"]);
    }

    #[test]
    fn every_setting_is_a_flag() {
        let given = |arguments: &[&str]| {
            let arguments = std::iter::once("metrics-proxy").chain(arguments.iter().copied());
            command()
                .try_get_matches_from(arguments)
                .map(|matches| raw_settings(&matches, &Environment::default()))
        };
        for setting in SETTINGS.iter() {
            let flag = format!("--{}=x", setting.name);
            assert!(given(&[&flag]).is_ok(), "{flag}");
        }
        assert!(given(&["--adopt-identity", "--port", "1"]).is_ok());
        assert!(given(&["--no-such-flag"]).is_err());
    }
}
