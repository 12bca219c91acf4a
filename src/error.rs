//! Texts of errors (leaf).

use std::error::Error;

/// An error with all its causes in one line.
///
/// Many libraries repeat the text of a cause in their own: a cause that already stands in the line is left out.
///
/// ```
/// let missing = std::fs::read("/nonexistent").unwrap_err();
/// assert_eq!(metrics_proxy::error::chain(&missing), "No such file or directory (os error 2)");
/// ```
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    for cause in causes(error).skip(1) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

/// The innermost cause, which is the operating system's or the peer's own statement.
pub fn root_cause<'e>(error: &'e (dyn Error + 'static)) -> &'e (dyn Error + 'static) {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause
}

/// The error, then each of its causes.
pub fn causes<'e>(error: &'e (dyn Error + 'static)) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let error = next?;
        next = error.source();
        Some(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        #[source]
        source: Option<Box<Layer>>,
    }

    fn nested(texts: &[&'static str]) -> Layer {
        let (text, rest) = texts.split_first().expect("a test names a text");
        Layer {
            text,
            source: (!rest.is_empty()).then(|| Box::new(nested(rest))),
        }
    }

    #[track_caller]
    fn check(texts: &[&'static str], chained: &str, root: &str) {
        let error = nested(texts);
        assert_eq!(chain(&error), chained);
        assert_eq!(root_cause(&error).to_string(), root);
    }

    #[test]
    fn every_cause_is_named_once() {
        check(&["a"], "a", "a");
        check(
            &["cannot connect", "refused"],
            "cannot connect: refused",
            "refused",
        );
        check(
            &["cannot connect: refused", "refused"],
            "cannot connect: refused",
            "refused",
        );
        check(
            &["cannot start", "cannot bind", "cannot bind", "in use"],
            "cannot start: cannot bind: in use",
            "in use",
        );
    }
}
