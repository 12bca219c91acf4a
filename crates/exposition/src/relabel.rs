//! The labels that a series has in the response.
//!
//! Rules: `added-labels`, `spelling`, `quoted-names` and `bounds` of docs/explanation/merge-rules.md. Source: prometheus,
//! scrape/scrape.go (`mutateSampleLabels`, `resolveConflictingExposedLabels`).

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use crate::negotiate::OutputFormat;
use crate::syntax::name;
use crate::syntax::number;
use crate::syntax::sample_line::SampleLine;
use crate::types::TypeContext;

/// A label value: raw, in a spelling that is legal in the response, or decoded.
#[derive(Debug, Clone)]
pub(crate) enum Value<'a> {
    Raw(&'a [u8]),
    Decoded(Vec<u8>),
}

impl Value<'_> {
    pub(crate) fn decode(&self) -> Cow<'_, [u8]> {
        match self {
            Self::Raw(raw) => name::unescape(raw),
            Self::Decoded(text) => Cow::Borrowed(text),
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Raw(raw) => raw.is_empty(),
            Self::Decoded(text) => text.is_empty(),
        }
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Raw(raw) => out.extend_from_slice(raw),
            Self::Decoded(text) => name::write_escaped(text, out),
        }
    }
}

/// How the bounds (`le`, `quantile`) of a series are changed (rule `bounds`). By default they are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct BoundChanges {
    /// The type context in which Prometheus 3 normalizes a bound in a direct scrape, where it does not do so under the
    /// TYPE line that we write. We normalize it in its place.
    pub(crate) normalize: TypeContext,
    /// `Inf` becomes `+Inf`, which the Python parser insists on.
    pub(crate) sign_infinity: bool,
}

/// The labels of `line` in their order, then those that are added.
pub(crate) fn relabel<'a>(
    body: &'a [u8],
    line: &SampleLine,
    added: &'a [(String, String)],
    format: &OutputFormat,
    bounds: BoundChanges,
) -> Vec<(Cow<'a, [u8]>, Value<'a>)> {
    let mut labels: Vec<(Cow<'a, [u8]>, Value<'a>)> = Vec::with_capacity(line.labels.len() + added.len());
    let mut names: Option<Names<'_>> = None;
    for label in &line.labels {
        let decoded = if label.name.quoted {
            name::unescape(label.name.span.of(body))
        } else {
            Cow::Borrowed(label.name.span.of(body))
        };
        let output = match name::escape_label(&decoded, format.escaping) {
            Cow::Borrowed(_) => decoded,
            Cow::Owned(escaped) => Cow::Owned(
                names
                    .get_or_insert_with(|| Names::of(body, line))
                    .make_unique(escaped),
            ),
        };
        let raw = label.value.of(body);
        let value = if name::is_legal_value(raw) {
            Value::Raw(raw)
        } else {
            Value::Decoded(name::unescape(raw).into_owned())
        };
        let value = change_bound(&output, value, bounds);
        labels.push((output, value));
    }
    add(&mut labels, added, format.quirks.empty_label_is_taken);
    labels
}

/// The label names of one line. Escaping can make two of them equal, and a sample with two labels of one name would fail
/// the whole response.
struct Names<'a> {
    taken: HashSet<Cow<'a, [u8]>, foldhash::quality::RandomState>,
    /// The number that was last put behind a name, so that the time for a line of many such labels grows with its length
    /// only.
    last_number: HashMap<Vec<u8>, u32, foldhash::quality::RandomState>,
}

impl<'a> Names<'a> {
    fn of(body: &'a [u8], line: &SampleLine) -> Self {
        Self {
            taken: line.labels.iter().map(|label| label.name.decode(body)).collect(),
            last_number: HashMap::default(),
        }
    }

    /// `wanted` if it is not taken yet; else with the next number behind it that makes it unique.
    fn make_unique(&mut self, wanted: Vec<u8>) -> Vec<u8> {
        if self.taken.insert(Cow::Owned(wanted.clone())) {
            return wanted;
        }
        let number = self.last_number.entry(wanted.clone()).or_default();
        loop {
            *number += 1;
            let numbered = [&*wanted, b"_", number.to_string().as_bytes()].concat();
            if self.taken.insert(Cow::Owned(numbered.clone())) {
                return numbered;
            }
        }
    }
}

fn change_bound<'a>(name: &[u8], value: Value<'a>, bounds: BoundChanges) -> Value<'a> {
    if bounds.normalize.label() == Some(name)
        && let Some(stored) = number::canonical_bound(&value.decode())
    {
        return Value::Decoded(stored.into_bytes());
    }
    if bounds.sign_infinity && name == b"le" {
        let infinite = value.decode().eq_ignore_ascii_case(b"inf");
        if infinite {
            return Value::Raw(b"+Inf");
        }
    }
    value
}

/// Adds labels as Prometheus adds those of a target: they win, and an exposed label of the same name becomes
/// `exported_<name>`.
fn add<'a>(
    labels: &mut Vec<(Cow<'a, [u8]>, Value<'a>)>,
    added: &'a [(String, String)],
    empty_is_taken: bool,
) {
    let mut renamed_positions: Vec<usize> = Vec::new();
    let mut order: Vec<&(String, String)> = added.iter().collect();
    order.sort_by(|a, b| a.0.cmp(&b.0));
    for (name, _) in order {
        if let Some(position) = labels.iter().position(|(other, _)| **other == *name.as_bytes()) {
            renamed_positions.push(position);
        }
    }
    renamed_positions.retain(|&position| !labels[position].1.is_empty());
    renamed_positions.sort_by_key(|&position| labels[position].0.len());
    let taken_by_added = |name: &[u8]| {
        added
            .iter()
            .any(|(other, value)| other.as_bytes() == name && !value.is_empty())
    };
    for &position in &renamed_positions {
        let mut renamed = labels[position].0.to_vec();
        loop {
            renamed.splice(..0, *b"exported_");
            let taken = taken_by_added(&renamed)
                || labels
                    .iter()
                    .any(|(other, value)| **other == *renamed && (empty_is_taken || !value.is_empty()));
            if !taken {
                break;
            }
        }
        // An empty label of that name counts as absent, and must not stand next to the renamed one.
        for (name, value) in labels.iter_mut() {
            if **name == *renamed && value.is_empty() {
                *name = Cow::Borrowed(b"");
            }
        }
        labels[position].0 = Cow::Owned(renamed);
    }
    labels
        .retain(|(name, _)| !name.is_empty() && !added.iter().any(|(other, _)| other.as_bytes() == &**name));
    for (name, value) in added {
        if !value.is_empty() {
            labels.push((
                Cow::Borrowed(name.as_bytes()),
                Value::Decoded(value.as_bytes().to_vec()),
            ));
        }
    }
}

/// Writes the series `name{labels}`, quoted where the name must be.
pub(crate) fn write_series(name: &[u8], labels: &[(Cow<'_, [u8]>, Value<'_>)], out: &mut Vec<u8>) {
    let bare = name::is_legacy_metric(name);
    if bare {
        out.extend_from_slice(name);
        if labels.is_empty() {
            return;
        }
        out.push(b'{');
    } else {
        out.push(b'{');
        name::write_quoted(name, out);
    }
    for (index, (name, value)) in labels.iter().enumerate() {
        if index > 0 || !bare {
            out.push(b',');
        }
        name::write_label_name(name, out);
        out.extend_from_slice(b"=\"");
        value.write(out);
        out.push(b'"');
    }
    out.push(b'}');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(series: &str, added: &[(&str, &str)], expect: &str) {
        let body = format!("{series} 1\n");
        let mut line = SampleLine::default();
        line.parse(body.as_bytes(), 0, false)
            .unwrap_or_else(|error| panic!("{error:?}"));
        let added: Vec<_> = added
            .iter()
            .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
            .collect();
        let labels = relabel(
            body.as_bytes(),
            &line,
            &added,
            &OutputFormat::default(),
            BoundChanges::default(),
        );
        let mut out = Vec::new();
        write_series(b"a", &labels, &mut out);
        assert_eq!(String::from_utf8_lossy(&out), expect);
    }

    #[test]
    fn added_labels_win_and_exposed_ones_are_renamed() {
        check("a{x=\"1\"}", &[("x", "2")], "a{exported_x=\"1\",x=\"2\"}");
        check("a{x=\"\"}", &[("x", "2")], "a{x=\"2\"}");
        check("a{X=\"1\"}", &[("x", "2")], "a{X=\"1\",x=\"2\"}");
        check(
            "a{x=\"1\",exported_x=\"3\"}",
            &[("x", "2")],
            "a{exported_exported_x=\"1\",exported_x=\"3\",x=\"2\"}",
        );
        check(
            "a{x=\"1\",exported_x=\"\"}",
            &[("x", "2")],
            "a{exported_x=\"1\",x=\"2\"}",
        );
        check(
            "a{exported_x=\"1\",x=\"0\"}",
            &[("x", "2"), ("exported_x", "3")],
            "a{exported_exported_exported_x=\"1\",exported_exported_x=\"0\",x=\"2\",exported_x=\"3\"}",
        );
    }

    #[test]
    fn quoted_names_that_become_equal_are_numbered() {
        check(
            "a{\"x.y\"=\"1\",x_y=\"2\",\"x-y\"=\"3\",x_y_1=\"4\",\"é\"=\"5\"}",
            &[],
            "a{x_y_2=\"1\",x_y=\"2\",x_y_3=\"3\",x_y_1=\"4\",_=\"5\"}",
        );
    }

    #[test]
    fn added_values_are_escaped_and_others_keep_their_spelling() {
        check(
            "a{p=\"C:\\\\x\"}",
            &[("x", "a\\b\"c\nd")],
            "a{p=\"C:\\\\x\",x=\"a\\\\b\\\"c\\nd\"}",
        );
        check("a{p=\"C:\\dir\"}", &[], "a{p=\"C:\\\\dir\"}");
        check("a{p=\"x\ny\"}", &[], "a{p=\"x\\ny\"}");
        check("a", &[], "a");
        check("{\"a\"}", &[("x", "1")], "a{x=\"1\"}");
    }
}
