//! Settings of a command that runs beside the service: what is neither on the command line nor in the environment comes
//! from the environment of the service in Pebble's plan.
//!
//! In a container the service's settings are in a layer, and a command that a person types there has none of them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ArgMatches;

use crate::config::{Environment, Raw, resolve_socket};
use crate::pebble::{Client, Plan, PlannedService, SERVICE};

/// How long Pebble may take; a command without a Pebble beside it is not delayed.
const LIMIT: Duration = Duration::from_secs(2);

/// Settings that the command does not share with the service: how it reaches Pebble, what it may take over, its own log.
const OWN: [&str; 5] = [
    "pebble-socket",
    "pebble-dir",
    "adopt-identity",
    "log-format",
    "log-level",
];

/// Completes `raw` from the plan, for the settings that the command of `matches` has. Returns a line for a person, where
/// there is something to say.
///
/// # Errors
/// A sentence, where several services run this program and none was named, or where the named one does not exist.
pub(super) async fn complete(
    raw: &mut Raw,
    matches: &ArgMatches,
    service: Option<&str>,
) -> Result<Option<String>, String> {
    if raw.text("pebble") == Some("off") {
        return Ok(None);
    }
    let path = |name| raw.text(name).map(PathBuf::from);
    let client = Client::new(resolve_socket(path("pebble-socket"), path("pebble-dir")));
    let plan = match tokio::time::timeout(LIMIT, client.plan()).await {
        Ok(Ok(plan)) => plan,
        Ok(Err(error)) if error.is_denied() => {
            return Ok(Some(
                "Pebble does not let this user read its plan, so the settings of the service are not known; using the \
                 environment and defaults (run this as Pebble's user, or give the flags)"
                    .to_owned(),
            ));
        }
        // The command says itself where it needs a Pebble.
        Ok(Err(_)) | Err(_) => return Ok(None),
    };
    let program = std::env::current_exe().ok();
    let Some((name, service)) = choose(&plan, service, program.as_deref())? else {
        return Ok(None);
    };
    let variables = service
        .environment
        .iter()
        .map(|(name, value)| (name.clone(), value.clone()));
    let has_setting = |name: &str| matches.try_contains_id(name).is_ok() && !OWN.contains(&name);
    let taken = raw.complete(name, &Environment::new(variables), has_setting);
    Ok((!taken.is_empty()).then(|| {
        format!(
            "using {} of the service {name} in Pebble's plan",
            taken.join(", ")
        )
    }))
}

/// The named service, else the only one whose command runs this program.
fn choose<'a>(
    plan: &'a Plan,
    wanted: Option<&str>,
    program: Option<&Path>,
) -> Result<Option<(&'a str, &'a PlannedService)>, String> {
    let names = |services: &[(&str, &PlannedService)]| {
        services
            .iter()
            .map(|(name, _)| *name)
            .collect::<Vec<_>>()
            .join(", ")
    };
    let all: Vec<_> = plan
        .services
        .iter()
        .map(|(name, service)| (name.as_str(), service))
        .collect();
    if let Some(wanted) = wanted {
        return match all.iter().find(|(name, _)| *name == wanted) {
            Some(found) => Ok(Some(*found)),
            None => Err(format!(
                "--service={wanted:?}: no such service in Pebble's plan; use one of {}",
                names(&all)
            )),
        };
    }
    let ours: Vec<_> = all
        .into_iter()
        .filter(|(_, service)| runs(service, program))
        .collect();
    match ours.as_slice() {
        [] => Ok(None),
        [only] => Ok(Some(*only)),
        several => Err(format!(
            "several services of Pebble's plan run metrics-proxy; choose one with --service: {}",
            names(several)
        )),
    }
}

/// Whether the service's command is this program, by its path or by its name.
fn runs(service: &PlannedService, program: Option<&Path>) -> bool {
    let Some(command) = service.command.split_whitespace().next().map(Path::new) else {
        return false;
    };
    command.file_name().is_some_and(|name| name == SERVICE) || Some(command) == program
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(commands: &[(&str, &str)], wanted: Option<&str>, expect: Result<Option<&str>, &str>) {
        let services = commands.iter().map(|(name, command)| {
            let service = PlannedService {
                command: (*command).to_owned(),
                ..PlannedService::default()
            };
            ((*name).to_owned(), service)
        });
        let plan = Plan {
            services: services.collect(),
            ..Plan::default()
        };
        let chosen = choose(&plan, wanted, Some(Path::new("/opt/proxy")));
        assert_eq!(
            chosen.map(|chosen| chosen.map(|(name, _)| name)),
            expect.map_err(str::to_owned),
            "{commands:?}"
        );
    }

    #[test]
    fn the_service_is_the_one_that_runs_this_program() {
        let charm = [
            ("web", "/bin/web --metrics-proxy"),
            ("scraper", "metrics-proxy serve --port 1"),
        ];
        check(&charm, None, Ok(Some("scraper")));
        check(&[("a", "/usr/bin/metrics-proxy")], None, Ok(Some("a")));
        check(&[("a", "/opt/proxy"), ("b", "")], None, Ok(Some("a")));
        check(&[("metrics-proxy", "sleep 1")], None, Ok(None));
        check(&[], None, Ok(None));
    }

    #[test]
    fn several_services_need_a_name() {
        let two = [("a", "metrics-proxy"), ("b", "metrics-proxy"), ("c", "sleep")];
        check(
            &two,
            None,
            Err("several services of Pebble's plan run metrics-proxy; choose one with --service: a, b"),
        );
        check(&two, Some("b"), Ok(Some("b")));
        check(&two, Some("c"), Ok(Some("c")));
        check(
            &two,
            Some("d"),
            Err("--service=\"d\": no such service in Pebble's plan; use one of a, b, c"),
        );
    }
}
