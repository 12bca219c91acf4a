//! Failing targets and skipped pods, grouped by cause.

use std::collections::HashMap;

use super::super::report::{Report, cause_and_remedy};

/// Targets or pods with one cause.
#[derive(Debug, PartialEq)]
pub(super) struct Problem {
    pub(super) count: usize,
    /// `down` or `skipped`.
    pub(super) state: &'static str,
    /// The stable word of the reason.
    pub(super) reason: String,
    pub(super) cause: String,
    pub(super) remedy: Option<String>,
    /// A pod as an example.
    pub(super) example: String,
}

/// All problems: failing targets first, then skipped pods, the largest group of each first.
pub(super) fn problems(report: &Report) -> Vec<Problem> {
    let mut groups: HashMap<String, Problem> = HashMap::new();
    let mut add = |state: &'static str, reason: &str, text: &str, example: String| {
        let (cause, remedy) = cause_and_remedy(text);
        let key = format!("{state} {reason} {}", kind_of_cause(cause));
        groups
            .entry(key)
            .or_insert_with(|| Problem {
                count: 0,
                state,
                reason: reason.to_owned(),
                cause: cause.to_owned(),
                remedy: remedy.map(str::to_owned),
                example,
            })
            .count += 1;
    };
    for target in &report.targets {
        let Some(last) = &target.last_scrape else { continue };
        if let Some(error) = &last.error {
            let reason = last.error_kind.as_deref().unwrap_or_default();
            add(
                "down",
                reason,
                error,
                format!("{}/{}", target.namespace, target.pod),
            );
        }
    }
    for skipped in &report.skipped {
        let example = format!("{}/{}", skipped.namespace, skipped.pod);
        add("skipped", &skipped.kind, &skipped.reason, example);
    }
    let mut problems: Vec<Problem> = groups.into_values().collect();
    problems.sort_by(|a, b| {
        let key = |problem: &Problem| (problem.state != "down", std::cmp::Reverse(problem.count));
        key(a).cmp(&key(b)).then_with(|| a.cause.cmp(&b.cause))
    });
    problems
}

/// A cause without what differs between targets: numbers, quoted values, and what stands after its second colon.
///
/// `line 7: the value is not a number: app_value 12,5` and the same of line 9 are one kind.
fn kind_of_cause(cause: &str) -> String {
    let parts: Vec<&str> = cause.split(": ").take(2).collect();
    let mut is_quoted = false;
    let mut kind = String::new();
    for c in parts.join(": ").chars() {
        if c == '"' {
            is_quoted = !is_quoted;
        } else if c.is_ascii_digit() {
            if !kind.ends_with('0') {
                kind.push('0');
            }
        } else if !is_quoted && c != '.' {
            kind.push(c);
        }
    }
    kind
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_same(a: &str, b: &str, is_same: bool) {
        assert_eq!(kind_of_cause(a) == kind_of_cause(b), is_same, "{a}\n{b}");
    }

    #[test]
    fn causes_that_differ_in_values_only_are_one_kind() {
        check_same(
            "line 7: the value is not a number: app 12,5",
            "line 123: the value is not a number: other x",
            true,
        );
        check_same("no response within 3.0 s", "no response within 12.5 s", true);
        check_same(
            "nothing listens on 10.1.2.3:80",
            "nothing listens on 10.10.20.30:8080",
            true,
        );
        check_same("the annotation is \"a\"", "the annotation is \"b c\"", true);
        check_same(
            "HTTP status 404 Not Found",
            "HTTP status 500 Internal Server Error",
            false,
        );
        check_same(
            "line 1: no metric name",
            "line 1: the value is not a number",
            false,
        );
    }
}
