//! Named conditions and what `/readyz` says of them (leaf).
//!
//! Each part of the shell reports its own conditions; nobody else writes them. The first line of an unready answer is
//! what `pebble check`, `pebble tasks` and Juju's check-failed show, so it begins with the thing at fault: `pebble
//! checks` shows a body of at most 45 bytes whole, and only the first 10 bytes of a longer one.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// What can be right or wrong, in the order of importance for the first line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// A selector (or a pods file) was given.
    Selector,
    /// The first list of pods is here.
    Discovery,
    /// What we may do in Kubernetes.
    Rights,
    /// Pebble's API.
    Pebble,
    /// What we may do in Pebble.
    Privilege,
    /// Our checks in Pebble's plan.
    Layer,
    /// The mounted secret can be read and used.
    Secret,
    /// The secret is in force as a Pebble identity.
    Identity,
}

impl Condition {
    /// The word at the start of a line and in `?only=`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Selector => "selector",
            Self::Discovery => "discovery",
            Self::Rights => "rights",
            Self::Pebble => "pebble",
            Self::Privilege => "unprivileged",
            Self::Layer => "layer",
            Self::Secret => "secret",
            Self::Identity => "identity",
        }
    }

    /// Whether it belongs to the answer of `/readyz?only=WORD`. The identity check asks for `identity`, which is both
    /// the secret and what became of it.
    fn matches(self, only: &str) -> bool {
        self.as_str() == only
            || (only == "identity" && matches!(self, Self::Secret | Self::Identity | Self::Privilege))
    }
}

/// How a condition stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// As it should be; with a note under `?verbose` where something is worth knowing.
    Ok(Option<String>),
    /// Not ready: what is missing and what to do.
    Unready(String),
}

impl State {
    /// As it should be, nothing to add.
    pub const OK: Self = Self::Ok(None);

    /// As it should be, with something worth knowing.
    pub fn note(text: impl Into<String>) -> Self {
        Self::Ok(Some(text.into()))
    }

    /// Not ready.
    pub fn unready(text: impl Into<String>) -> Self {
        Self::Unready(text.into())
    }
}

/// The conditions of the process. A condition that nobody set is not a duty of this process.
#[derive(Debug, Default)]
pub struct Health {
    conditions: Mutex<BTreeMap<Condition, State>>,
}

/// An answer to `/readyz`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    /// Whether every condition holds.
    pub ready: bool,
    /// The text, ending with a line feed.
    pub body: String,
}

impl Health {
    /// Sets a condition; returns whether that changed it, so that the caller logs changes only.
    pub fn set(&self, condition: Condition, state: State) -> bool {
        let mut conditions = self.conditions.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = conditions.get(&condition) != Some(&state);
        conditions.insert(condition, state);
        changed
    }

    /// How a condition stands.
    pub fn get(&self, condition: Condition) -> Option<State> {
        self.conditions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&condition)
            .cloned()
    }

    /// The answer of `/readyz`, over all conditions or those of `only`; `verbose` lists them all.
    pub fn readiness(&self, only: Option<&str>, verbose: bool) -> Readiness {
        let conditions = self.conditions.lock().unwrap_or_else(PoisonError::into_inner);
        let chosen: Vec<_> = conditions
            .iter()
            .filter(|(condition, _)| only.is_none_or(|only| condition.matches(only)))
            .collect();
        let mut body = String::new();
        for (condition, state) in &chosen {
            if let State::Unready(reason) = state {
                body.push_str(&format!("{}: {reason}\n", condition.as_str()));
            }
        }
        let ready = body.is_empty();
        if ready {
            body.push_str("ready\n");
        }
        if verbose {
            for (condition, state) in &chosen {
                let line = match state {
                    State::Ok(None) => format!("[ok] {}\n", condition.as_str()),
                    State::Ok(Some(note)) => format!("[ok] {}: {note}\n", condition.as_str()),
                    State::Unready(reason) => format!("[unready] {}: {reason}\n", condition.as_str()),
                };
                body.push_str(&line);
            }
        }
        Readiness { ready, body }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_is_the_most_important_thing_at_fault() {
        let health = Health::default();
        health.set(Condition::Identity, State::unready("not in force yet"));
        health.set(Condition::Secret, State::unready("password missing"));
        health.set(Condition::Discovery, State::OK);
        let readiness = health.readiness(None, false);
        assert!(!readiness.ready);
        assert_eq!(
            readiness.body,
            "secret: password missing\nidentity: not in force yet\n"
        );
    }

    #[test]
    fn only_asks_for_one_duty() {
        let health = Health::default();
        health.set(
            Condition::Discovery,
            State::unready("waiting for the first list of pods"),
        );
        health.set(Condition::Identity, State::OK);
        assert!(health.readiness(Some("identity"), false).ready);
        assert!(!health.readiness(None, false).ready);
        health.set(Condition::Secret, State::unready("empty password"));
        assert!(!health.readiness(Some("identity"), false).ready);
    }

    #[test]
    fn verbose_lists_every_condition_with_its_note() {
        let health = Health::default();
        health.set(Condition::Pebble, State::note("no socket, running without"));
        health.set(Condition::Discovery, State::OK);
        let readiness = health.readiness(None, true);
        assert_eq!(
            readiness.body,
            "ready\n[ok] discovery\n[ok] pebble: no socket, running without\n"
        );
    }

    #[test]
    fn set_tells_whether_something_changed() {
        let health = Health::default();
        assert!(health.set(Condition::Layer, State::OK));
        assert!(!health.set(Condition::Layer, State::OK));
        assert!(health.set(Condition::Layer, State::note("x")));
    }
}
