//! Named conditions, and what `/readyz` says about them (leaf).
//!
//! Each part of the shell reports its own conditions; nobody else writes them. Pebble shows the body of a failing check:
//! `pebble checks` prints a body of at most 45 bytes in full and only the first ten bytes of a longer one. The body of a
//! failing `/readyz` therefore fits into 45 bytes and names the most important problem first.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// The longest body of a failing `/readyz` without `verbose`, line feed included.
///
/// Source: Pebble `internals/cli/cmd_checks.go`, measured with 1.26 and 1.32.
const MAX_SUMMARY_BYTES: usize = 45;

/// The parts of the program that can be ready or not, the most important one first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// A selector or a pods file was given.
    Selector,
    /// The first list of pods has arrived.
    Discovery,
    /// What the proxy may read in Kubernetes.
    Permissions,
    /// Pebble's API can be reached.
    Pebble,
    /// What the proxy may do in Pebble.
    Privilege,
    /// The proxy's checks are in Pebble's plan.
    Layer,
    /// The mounted secret can be read and used.
    Secret,
    /// The secret's credential works as a Pebble identity.
    Identity,
}

impl Condition {
    /// Every condition, the most important one first.
    pub const ALL: [Self; 8] = [
        Self::Selector,
        Self::Discovery,
        Self::Permissions,
        Self::Pebble,
        Self::Privilege,
        Self::Layer,
        Self::Secret,
        Self::Identity,
    ];

    /// The word at the start of a line and in `?only=`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Selector => "selector",
            Self::Discovery => "discovery",
            Self::Permissions => "permissions",
            Self::Pebble => "pebble",
            Self::Privilege => "unprivileged",
            Self::Layer => "layer",
            Self::Secret => "secret",
            Self::Identity => "identity",
        }
    }

    /// The condition of this word.
    ///
    /// # Errors
    /// A sentence with the allowed words where no condition has that word.
    pub fn parse(word: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|condition| condition.as_str() == word)
            .ok_or_else(|| {
                let words: Vec<_> = Self::ALL.iter().map(|condition| condition.as_str()).collect();
                format!("unknown condition {word:?}; use one of {}", words.join(", "))
            })
    }

    /// Whether this condition belongs to the response of `/readyz?only=WORD`. The identity check asks for `identity`,
    /// which covers the secret, the permission to write it and the identity itself.
    fn belongs_to(self, only: Self) -> bool {
        self == only || (only == Self::Identity && matches!(self, Self::Secret | Self::Privilege))
    }
}

/// How serious the state of a condition is. Only `Bad` makes the proxy unready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// As it should be.
    Ok,
    /// The proxy works, and an operator should know something.
    Note,
    /// Not ready.
    Bad,
}

impl Severity {
    /// The word in brackets of `/readyz?verbose`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Bad => "bad",
        }
    }
}

/// The state of a condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// As it should be, with information that is no problem, such as the selector in force.
    Ok(Option<String>),
    /// The proxy works, and an operator should know this.
    Note(String),
    /// Not ready: the cause, and the remedy after a semicolon.
    Bad(String),
}

impl State {
    /// As it should be, nothing to add.
    pub const OK: Self = Self::Ok(None);

    /// As it should be, with information that is no problem.
    pub fn ok(text: impl Into<String>) -> Self {
        Self::Ok(Some(text.into()))
    }

    /// The proxy works, and an operator should know this.
    pub fn note(text: impl Into<String>) -> Self {
        Self::Note(text.into())
    }

    /// Not ready: the cause, and the remedy after a semicolon.
    pub fn unready(text: impl Into<String>) -> Self {
        Self::Bad(text.into())
    }

    /// How serious this state is.
    pub fn severity(&self) -> Severity {
        match self {
            Self::Ok(_) => Severity::Ok,
            Self::Note(_) => Severity::Note,
            Self::Bad(_) => Severity::Bad,
        }
    }

    /// The text beside the condition's word, where there is one.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Ok(text) => text.as_deref(),
            Self::Note(text) | Self::Bad(text) => Some(text),
        }
    }
}

/// The conditions of the process. A condition that no part has set does not concern this process.
#[derive(Debug, Default)]
pub struct Health {
    conditions: Mutex<BTreeMap<Condition, State>>,
}

/// A response of `/readyz`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    /// Whether no condition is bad.
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

    /// The state of a condition, where it was set.
    pub fn get(&self, condition: Condition) -> Option<State> {
        self.conditions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&condition)
            .cloned()
    }

    /// Every condition that was set, the most important one first.
    pub fn all(&self) -> Vec<(Condition, State)> {
        let conditions = self.conditions.lock().unwrap_or_else(PoisonError::into_inner);
        conditions
            .iter()
            .map(|(condition, state)| (*condition, state.clone()))
            .collect()
    }

    /// The response of `/readyz` over all conditions, or over those that belong to `only`.
    ///
    /// A failing body has at most 45 bytes; `verbose` prints one line per condition instead, in full.
    pub fn readiness(&self, only: Option<Condition>, verbose: bool) -> Readiness {
        let mut conditions = self.all();
        conditions.retain(|(condition, _)| only.is_none_or(|only| condition.belongs_to(only)));
        let bad: Vec<(Condition, &str)> = conditions
            .iter()
            .filter_map(|(condition, state)| match state {
                State::Bad(text) => Some((*condition, text.as_str())),
                _ => None,
            })
            .collect();
        let mut body = match bad.split_first() {
            None => "ready\n".to_owned(),
            Some(((condition, text), others)) => summary(*condition, text, others.len()),
        };
        if verbose {
            for (condition, state) in &conditions {
                let text = state.text().map(|text| format!(": {text}")).unwrap_or_default();
                body.push_str(&format!(
                    "[{}] {}{text}\n",
                    state.severity().as_str(),
                    condition.as_str()
                ));
            }
        }
        Readiness {
            ready: bad.is_empty(),
            body,
        }
    }
}

/// One line of at most 45 bytes: the condition, as much of its text as fits, and the number of other bad conditions.
fn summary(condition: Condition, text: &str, n_others: usize) -> String {
    let word = condition.as_str();
    let others = match n_others {
        0 => String::new(),
        n => format!(" +{n}"),
    };
    let room_bytes = MAX_SUMMARY_BYTES.saturating_sub(word.len() + ": ".len() + others.len() + "\n".len());
    format!("{word}: {}{others}\n", shortened(text, room_bytes))
}

/// The text itself, or its longest beginning that ends with a clause, else with a word, and fits.
fn shortened(text: &str, max_bytes: usize) -> String {
    const ELLIPSIS: &str = "...";
    /// A clause that says less than this is worth less than a cut sentence.
    const MIN_CLAUSE_BYTES: usize = 12;
    if text.len() <= max_bytes {
        return text.to_owned();
    }
    // `get` is `None` inside a character.
    let starts_with = |end: usize| text.get(..end);
    let clause = ["; ", ": ", ", ", " ("]
        .iter()
        .flat_map(|separator| text.match_indices(separator).map(|(at, _)| at))
        .filter(|at| (MIN_CLAUSE_BYTES..=max_bytes).contains(at))
        .max();
    if let Some(clause) = clause.and_then(starts_with) {
        return clause.to_owned();
    }
    let room_bytes = max_bytes.saturating_sub(ELLIPSIS.len());
    let cut = (0..=room_bytes).rev().find_map(starts_with).unwrap_or_default();
    let words = cut.rfind(' ').and_then(starts_with).unwrap_or(cut);
    format!("{words}{ELLIPSIS}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_names_the_most_important_problem_and_counts_the_others() {
        let health = Health::default();
        health.set(Condition::Identity, State::unready("not in force yet"));
        health.set(
            Condition::Secret,
            State::unready("password missing; add that key"),
        );
        health.set(Condition::Discovery, State::OK);
        let readiness = health.readiness(None, false);
        assert!(!readiness.ready);
        assert_eq!(readiness.body, "secret: password missing; add that key +1\n");
    }

    #[track_caller]
    fn check_summary(text: &str, n_others: usize, expect: &str) {
        let summary = summary(Condition::Discovery, text, n_others);
        assert_eq!(summary, expect);
        assert!(summary.len() <= MAX_SUMMARY_BYTES, "{} bytes", summary.len());
    }

    #[test]
    fn a_long_reason_ends_with_a_clause_or_a_word() {
        check_summary("short", 0, "discovery: short\n");
        check_summary(
            "the API server cannot be reached: connection refused",
            0,
            "discovery: the API server cannot be reached\n",
        );
        check_summary(
            "the API server cannot be reached: connection refused",
            2,
            "discovery: the API server cannot be... +2\n",
        );
        check_summary(
            "may, where a comma comes early, continue with words",
            0,
            "discovery: may, where a comma comes early\n",
        );
        check_summary(
            "a; and then a long sentence without any comma",
            0,
            "discovery: a; and then a long sentence...\n",
        );
        check_summary(&"ä".repeat(40), 0, &format!("discovery: {}...\n", "ä".repeat(15)));
    }

    proptest::proptest! {
        #[test]
        fn no_reason_makes_a_body_of_more_than_45_bytes(text in ".{0,80}", n_others in 0usize..8) {
            for condition in Condition::ALL {
                proptest::prop_assert!(summary(condition, &text, n_others).len() <= MAX_SUMMARY_BYTES);
            }
        }
    }

    #[test]
    fn only_asks_for_one_duty() {
        let health = Health::default();
        health.set(
            Condition::Discovery,
            State::unready("waiting for the first list of pods"),
        );
        health.set(Condition::Identity, State::OK);
        let identity = || health.readiness(Some(Condition::Identity), false).ready;
        assert!(identity());
        assert!(!health.readiness(None, false).ready);
        health.set(Condition::Secret, State::unready("empty password"));
        assert!(!identity());
    }

    #[test]
    fn every_word_is_understood_and_an_unknown_one_names_them() {
        for condition in Condition::ALL {
            assert_eq!(Condition::parse(condition.as_str()), Ok(condition));
        }
        let unknown = Condition::parse("discovry").expect_err("no condition has this word");
        assert!(
            unknown.starts_with("unknown condition \"discovry\"; use one of selector, discovery, "),
            "{unknown}"
        );
    }

    #[test]
    fn verbose_lists_every_condition_with_its_severity_and_text() {
        let health = Health::default();
        health.set(Condition::Selector, State::ok("app=web"));
        health.set(Condition::Pebble, State::note("no socket, running without"));
        health.set(Condition::Discovery, State::OK);
        assert_eq!(
            health.readiness(None, true).body,
            "ready\n[ok] selector: app=web\n[ok] discovery\n[note] pebble: no socket, running without\n"
        );
        health.set(
            Condition::Secret,
            State::unready("cannot read: permission denied; let this user read it"),
        );
        assert_eq!(
            health.readiness(None, true).body,
            "secret: cannot read: permission denied\n[ok] selector: app=web\n[ok] discovery\n\
             [note] pebble: no socket, running without\n\
             [bad] secret: cannot read: permission denied; let this user read it\n"
        );
    }

    #[test]
    fn set_returns_whether_the_state_changed() {
        let health = Health::default();
        assert!(health.set(Condition::Layer, State::OK));
        assert!(!health.set(Condition::Layer, State::OK));
        assert!(health.set(Condition::Layer, State::note("x")));
    }
}
