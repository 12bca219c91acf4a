//! Arguments as typed, and what to do with them.
//!
//! Shell. Flags and environment come from the table in [`crate::config`]; a command here only gathers them and calls
//! what it names. Exit codes: 0 done, 1 failed, 2 bad usage or configuration.

mod bootstrap;
mod identity;
mod merge;
mod service_settings;
mod targets;

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use crate::config::{Config, Environment, Group, Problem, Raw, SETTINGS, Setting, parse_boolean};
use crate::shutdown::{self, Shutdown};
use crate::{app, telemetry};

/// Runs the program with these arguments, the first being its name.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let matches = match command().try_get_matches_from(with_joined_switches(arguments)) {
        Ok(matches) => matches,
        Err(error) => {
            // Help and version are errors to clap, with exit code 0.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match matches.subcommand() {
        None => configured(&matches, serve),
        Some(("serve", matches)) => configured(matches, serve),
        Some(("merge", matches)) => match merge::MergeArgs::from_arg_matches(matches) {
            Ok(args) => exit_code(merge::run(&args)),
            Err(error) => error.exit(),
        },
        Some(("targets", matches)) => with_args(matches, targets::run),
        Some(("identity", matches)) => with_args(matches, async |args, config| {
            // A charm sets the variable for the service. What a person removes or takes over by command is a decision of
            // its own, so that only the flag counts.
            let adopt = config.pebble.adopt_identity && matches.contains_id("adopt-identity");
            identity::run(args, config, adopt).await
        }),
        Some(("bootstrap", matches)) => with_args(matches, bootstrap::run),
        Some((name, _)) => {
            report(&format!("cannot run {name}: no such command"));
            ExitCode::from(2)
        }
    }
}

/// Writes the value of a switch that follows after a blank (`--pebble-metrics false`) behind an equals sign.
///
/// A switch may stand alone, so that clap would take the next argument for a command. Only the words that a switch accepts
/// are joined: `--adopt-identity serve` still is a switch and a command.
fn with_joined_switches(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
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

/// Runs a command that has arguments of its own beside the settings.
fn with_args<A: FromArgMatches>(
    matches: &ArgMatches,
    run: impl AsyncFnOnce(&A, Config) -> anyhow::Result<u8>,
) -> ExitCode {
    match A::from_arg_matches(matches) {
        Ok(args) => configured_with_service(matches, async |config| run(&args, config).await),
        Err(error) => error.exit(),
    }
}

/// The whole command line.
pub fn command() -> Command {
    Command::new("metrics-proxy")
        .version(crate::VERSION)
        .about("Scrapes selected pods and answers one /metrics for them all; run by Pebble.")
        .after_help(
            "Every flag has an environment variable, METRICS_PROXY_<FLAG>. Run without a command, it serves.",
        )
        .max_term_width(110)
        .args(setting_args(|_| true))
        .subcommand(
            Command::new("serve")
                .about("Serve (the default)")
                .args(setting_args(|_| true)),
        )
        .subcommand(
            targets::TargetsArgs::augment_args(Command::new("targets"))
                .about(
                    "Show every selected pod: its targets with their last scrape, or why it is not scraped",
                )
                .args(setting_args(of_groups(&[
                    Group::Pods,
                    Group::Serving,
                    Group::Logging,
                ])))
                .arg(service_arg()),
        )
        .subcommand(
            merge::MergeArgs::augment_args(Command::new("merge"))
                .about("Print what /metrics would answer for bodies that lie in files"),
        )
        .subcommand(
            identity::IdentityArgs::augment_args(Command::new("identity"))
                .about("Set, remove and show Pebble identities")
                .arg(global(service_arg()))
                .args(
                    setting_args(of_groups(&[Group::Pebble, Group::Logging]))
                        .into_iter()
                        .map(global),
                ),
        )
        .subcommand(
            bootstrap::BootstrapArgs::augment_args(Command::new("bootstrap"))
                .about("Install service and checks in Pebble's plan, and start the service")
                .arg(service_arg())
                .args(setting_args(of_groups(&[
                    Group::Pebble,
                    Group::Serving,
                    Group::Logging,
                ]))),
        )
}

/// The service whose settings a command takes.
fn service_arg() -> Arg {
    Arg::new("service")
        .long("service")
        .value_name("NAME")
        .help("The service of Pebble's plan whose environment fills in settings that are not given; needed where several services run metrics-proxy")
}

/// Settings under one of these headings.
fn of_groups(groups: &[Group]) -> impl Fn(&Setting) -> bool {
    move |setting| groups.contains(&setting.group)
}

/// Also to be given behind the name of a command's own command.
fn global(arg: Arg) -> Arg {
    arg.global(true)
}

/// Arguments for the settings that `wanted` picks.
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

/// The environment of this process.
fn environment() -> Environment {
    Environment::new(std::env::vars_os().map(|(name, value)| {
        let text = |text: OsString| text.to_string_lossy().into_owned();
        (text(name), text(value))
    }))
}

/// The settings given here and in the environment.
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

/// Logs which variables with our prefix set nothing, and why.
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

/// The code of a command's end; what went wrong is reported with its causes.
fn exit_code(result: anyhow::Result<u8>) -> ExitCode {
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            report(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn serve(config: Config) -> anyhow::Result<u8> {
    raise_descriptor_limit();
    let shutdown = Shutdown::new();
    shutdown::on_signals(shutdown.clone())?;
    app::start(config, shutdown).await?.wait().await?;
    Ok(0)
}

/// Each target keeps a connection; the soft limit of 1,024 is for programs that use select.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "Cannot raise the limit of open files");
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

/// Says something on standard error; where that is closed, nobody listens.
fn report(text: &str) {
    let _ = writeln!(std::io::stderr(), "metrics-proxy: {text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
    }

    /// `--flag BOOL`, as the help and the reference page promise.
    #[test]
    fn a_switch_takes_its_value_after_a_blank() {
        let given = |arguments: &[&str]| {
            let arguments = std::iter::once("metrics-proxy").chain(arguments.iter().copied());
            let arguments = with_joined_switches(arguments.map(OsString::from));
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
        let targets = with_joined_switches(["m", "--adopt-identity", "targets"].map(OsString::from));
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
