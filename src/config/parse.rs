//! Parsers of single values. Each error says what would be right.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::{CheckLevel, PebbleMode, quantity};
use crate::targets::{Cidr, CidrError, DefaultPort, Discover, Selector};

pub(super) fn positive_duration(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("must be more than zero".to_owned()),
        duration => Ok(duration),
    }
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    quantity::parse_go_duration(text).map_err(|e| e.to_string())
}

pub(super) fn bytes(text: &str) -> Result<u64, String> {
    match quantity::parse_bytes(text)
        .ok_or("not a size; use bytes, or a number with a unit, for example 500k, 64Mi, 64MiB or 2GB")?
    {
        0 => Err("must be more than zero".to_owned()),
        bytes => Ok(bytes),
    }
}

/// Less than this is not enough for a single response.
const MIN_MEMORY_BUDGET: u64 = 16 << 20;

pub(super) fn memory_budget(text: &str) -> Result<u64, String> {
    match bytes(text)? {
        bytes if bytes < MIN_MEMORY_BUDGET => Err("must be at least 16MiB".to_owned()),
        bytes => Ok(bytes),
    }
}

pub(super) fn count(text: &str) -> Result<u64, String> {
    text.parse()
        .map_err(|_| "not a whole number; 0 is no limit".to_owned())
}

pub(super) fn at_most(text: &str, max: usize) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|n| (1..=max).contains(n))
        .ok_or_else(|| format!("not a number from 1 to {max}"))
}

pub(super) fn boolean(text: &str) -> Result<bool, String> {
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

pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        Err("an empty path".to_owned())
    } else {
        Ok(PathBuf::from(text))
    }
}

pub(super) fn namespace(text: &str) -> Result<String, String> {
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

pub(super) fn discover(text: &str) -> Result<Discover, String> {
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

pub(super) fn default_port(text: &str) -> Result<DefaultPort, String> {
    if text == "declared" {
        return Ok(DefaultPort::Declared);
    }
    match text.parse() {
        Ok(port) if port != 0 => Ok(DefaultPort::Number(port)),
        _ => Err("use a port from 1 to 65535, or declared for every declared container port".to_owned()),
    }
}

#[allow(clippy::unnecessary_wraps, reason = "the form of every parser")]
pub(super) fn text(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}

/// Parses a selector. Blanks mean none, since charms clear an option by emptying it.
pub(super) fn selector(text: &str) -> Result<Option<Selector>, String> {
    match text.trim() {
        "" => Ok(None),
        text => Selector::parse(text).map(Some).map_err(|e| e.to_string()),
    }
}

pub(super) fn cidr(text: &str) -> Result<Cidr, String> {
    text.parse().map_err(|e: CidrError| e.to_string())
}

pub(super) fn up_to_65536(text: &str) -> Result<usize, String> {
    at_most(text, 65_536)
}

pub(super) fn up_to_1000(text: &str) -> Result<usize, String> {
    at_most(text, 1_000)
}

pub(super) fn up_to_512(text: &str) -> Result<usize, String> {
    at_most(text, 512)
}

pub(super) fn address(text: &str) -> Result<IpAddr, String> {
    let problem = "not an IP address; use :: for IPv6 and IPv4, or 0.0.0.0, 127.0.0.1";
    text.parse().map_err(|_| problem.to_owned())
}

pub(super) fn port(text: &str) -> Result<u16, String> {
    text.parse()
        .ok()
        .filter(|port| *port != 0)
        .ok_or("not a port; use a number from 1 to 65535".to_owned())
}

pub(super) fn pebble_mode(text: &str) -> Result<PebbleMode, String> {
    match text {
        "auto" => Ok(PebbleMode::Auto),
        "required" => Ok(PebbleMode::Required),
        "off" => Ok(PebbleMode::Off),
        _ => Err("use auto, required or off".to_owned()),
    }
}

pub(super) fn check_level(text: &str) -> Result<Option<CheckLevel>, String> {
    match text {
        "none" => Ok(None),
        "alive" => Ok(Some(CheckLevel::Alive)),
        "ready" => Ok(Some(CheckLevel::Ready)),
        _ => Err("use none, alive or ready".to_owned()),
    }
}

/// Parses the log format; `true` means JSON.
pub(super) fn log_format(text: &str) -> Result<bool, String> {
    match text {
        "text" => Ok(false),
        "json" => Ok(true),
        _ => Err("use text or json".to_owned()),
    }
}

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Checks a log filter: levels, and levels of modules, separated by commas.
///
/// A single word that is not a level would name a module, so that a misspelled level would turn all other lines off.
pub(super) fn log_filter(text: &str) -> Result<String, String> {
    let is_level = |word: &str| LEVELS.contains(&word.trim().to_ascii_lowercase().as_str());
    for part in text.split(',') {
        let valid = match part.rsplit_once('=') {
            Some((module, level)) => !module.trim().is_empty() && is_level(level),
            None => is_level(part),
        };
        if !valid {
            return Err(format!(
                "{:?} is not a level; use off, error, warn, info, debug or trace, or MODULE=LEVEL such as \
                 metrics_proxy=debug, separated by commas",
                part.trim()
            ));
        }
    }
    Ok(text.to_owned())
}
