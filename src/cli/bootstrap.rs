//! `metrics-proxy bootstrap`: installs the service and its checks in Pebble's plan, and starts the service.

use std::fmt::Write as _;

use anyhow::bail;
use clap::Args;

use super::identity::{Output, print};
use crate::config::{Config, PebbleMode};
use crate::reconciler::commands::{self, Installed, Task};

/// Arguments of `bootstrap`.
#[derive(Debug, Clone, Args)]
pub(crate) struct BootstrapArgs {
    /// Only show what would be done
    #[arg(long)]
    pub(crate) print: bool,
    /// Output format
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) output: Output,
}

/// Installs, or shows what that would be. Exit code 0.
///
/// # Errors
/// Where Pebble cannot be reached, denies the request, or cannot start the service.
pub(crate) async fn run(args: &BootstrapArgs, config: Config) -> anyhow::Result<u8> {
    if config.pebble.mode == PebbleMode::Off {
        bail!("--pebble is off, and this command changes Pebble's plan; leave --pebble out");
    }
    let installed = commands::install(&config.pebble, &config.listen, args.print).await?;
    print(args.output, &installed, text)?;
    Ok(0)
}

fn text(installed: &Installed) -> String {
    let mut text = String::new();
    if let Some(error) = &installed.pebble_error {
        let _ = writeln!(text, "# {error}");
        let _ = writeln!(text, "# In a Pebble without service and checks:");
    }
    let mut nothing = true;
    for task in &installed.tasks {
        let did = |done: &'static str, would: &'static str| if installed.done { done } else { would };
        match task {
            Task::AddLayer { label, layer } => {
                nothing = false;
                let _ = writeln!(text, "# {} layer {label}", did("Added", "Would add"));
                if !installed.done {
                    text.push_str(layer);
                }
            }
            Task::StartService { service } => {
                nothing = false;
                let _ = writeln!(text, "# {} service {service}", did("Started", "Would start"));
            }
            Task::KeepService { service } => {
                let _ = writeln!(
                    text,
                    "# {} service {service} as the plan has it",
                    did("Kept", "Would keep")
                );
            }
        }
    }
    if nothing {
        text.push_str("# Nothing to do: the plan has the checks and the service is running\n");
    }
    text
}
