//! `metrics-proxy identity`: set, remove and show Pebble identities, and hash passwords.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Read as _, Write as _};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::config::Config;
use crate::credential::{Credential, Password, Username};
use crate::pebble::{Owner, hash_password};
use crate::reconciler::commands::{self, Done, Status};

/// Arguments of `identity`.
#[derive(Debug, Clone, Args)]
pub(crate) struct IdentityArgs {
    /// Output format
    #[arg(long, value_enum, default_value = "text", global = true)]
    pub(crate) output: Output,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: IdentityCommand,
}

/// What to do with identities.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum IdentityCommand {
    /// Show the secret, the identities, and whether the secret works; exit code 1 where it should and does not
    Status,
    /// Set an identity with metrics access; the password comes from a prompt or from standard input
    Set {
        /// Its name
        username: String,
    },
    /// Remove an identity that metrics-proxy has set
    Remove {
        /// Its name; without one, all that metrics-proxy has set
        username: Option<String>,
    },
    /// Print the hash of a password in the form that Pebble verifies; the password comes from a prompt or from
    /// standard input
    Hash,
}

/// The output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Human-readable lines.
    Text,
    /// One JSON object, for charms and scripts.
    Json,
}

/// Runs the command. `adopt` is the flag `--adopt-identity`. Exit code 0, or 1 where `status` found a problem.
///
/// # Errors
/// Where Pebble cannot be reached, or refuses the command.
pub(crate) async fn run(args: &IdentityArgs, config: Config, adopt: bool) -> anyhow::Result<u8> {
    let settings = &config.pebble;
    match &args.command {
        IdentityCommand::Status => {
            let status = commands::status(settings).await;
            print(args.output, &status, status_text)?;
            Ok(u8::from(!status.is_good()))
        }
        IdentityCommand::Set { username } => {
            let username = Username::parse(username)?;
            let password = ask_password()?;
            let done = commands::set(settings, &Credential { username, password }, adopt).await?;
            print(args.output, &done, done_text)?;
            Ok(0)
        }
        IdentityCommand::Remove { username } => {
            let done = commands::remove(settings, username.as_deref(), adopt).await?;
            print(args.output, &done, done_text)?;
            Ok(0)
        }
        IdentityCommand::Hash => {
            let hash = Hash {
                hash: hash_password(&ask_password()?).to_string(),
            };
            print(args.output, &hash, |hash| format!("{}\n", hash.hash))?;
            Ok(0)
        }
    }
}

#[derive(Serialize)]
struct Hash {
    hash: String,
}

/// Prints a result as text or as JSON.
pub(super) fn print<T: Serialize>(
    output: Output,
    value: &T,
    text: impl Fn(&T) -> String,
) -> anyhow::Result<()> {
    let text = match output {
        Output::Text => text(value),
        Output::Json => serde_json::to_string_pretty(value).context("cannot write JSON")? + "\n",
    };
    match std::io::stdout().write_all(text.as_bytes()) {
        // The reader has seen enough, as with `| head`.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("cannot write to standard output"),
    }
}

/// A password from a prompt without echo, asked twice; where standard input is no terminal, from there, less one
/// newline at its end.
fn ask_password() -> anyhow::Result<Password> {
    let password = if std::io::stdin().is_terminal() {
        let ask = |prompt| {
            rpassword::prompt_password(prompt)
                .map(Zeroizing::new)
                .context("cannot ask for the password")
        };
        let first = ask("Password: ")?;
        if *first != *ask("Once more: ")? {
            bail!("the two passwords differ");
        }
        Zeroizing::new(first.as_bytes().to_vec())
    } else {
        // Room for more than any password at once: a buffer that grows leaves copies behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(4096));
        std::io::stdin()
            .take(4096)
            .read_to_end(&mut bytes)
            .context("cannot read the password from standard input")?;
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
        }
        bytes
    };
    Ok(Password::try_new(password)?)
}

fn done_text(done: &Done) -> String {
    match done.usernames.as_slice() {
        [] => "no identity of metrics-proxy is there\n".to_owned(),
        names => format!("{}: {}\n", names.join(", "), done.result),
    }
}

fn status_text(status: &Status) -> String {
    let mut text = String::new();
    match (&status.pebble_version, &status.pebble_error) {
        (Some(version), _) => {
            let http = status.http_address.as_deref().unwrap_or("no HTTP address");
            let _ = writeln!(text, "Pebble:   {version} at {}, {http}", status.socket);
        }
        (None, error) => {
            let error = error.as_deref().unwrap_or_default();
            let _ = writeln!(text, "Pebble:   {error}");
        }
    }
    let secret = match (&status.username, &status.secret_error) {
        (Some(username), _) => match status.in_force {
            Some(true) => format!("{username}, in force"),
            Some(false) => format!("{username}, not in force"),
            None => format!("{username}, cannot tell whether it is in force"),
        },
        (None, Some(error)) => format!("refused: {error}"),
        (None, None) => status.secret.to_owned(),
    };
    let _ = writeln!(text, "Secret:   {secret}");
    for identity in &status.identities {
        let owner = match identity.owner {
            Some(Owner::Secret(Some(port))) => {
                format!("of metrics-proxy, from the secret of the proxy on port {port}")
            }
            Some(Owner::Secret(None)) => "of metrics-proxy, from the secret".to_owned(),
            Some(Owner::Command) => "of metrics-proxy, set by command".to_owned(),
            None => "of another writer".to_owned(),
        };
        let _ = writeln!(text, "Identity: {} ({}), {owner}", identity.name, identity.access);
    }
    text
}
