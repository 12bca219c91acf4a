//! A family of the response, and what each target contributes to it. Data only.

use std::ops::Range;

use super::names::NameId;
use crate::Input;
use crate::index::{Index, Run};
use crate::negotiate::OutputFormat;
use crate::syntax::name;
use crate::syntax::sample_line::Span;
use crate::types::{FamilyId, MetricType, OUR_PREFIX, Suffixes, TypeContext};

/// One family of the response.
#[derive(Debug)]
pub(crate) struct OutputFamily {
    /// The name, escaped for the scraper.
    pub(crate) name: NameId,
    pub(crate) kind: MetricType,
    pub(crate) help: Help,
    /// The unit that the targets agree on, if it is to be written.
    pub(crate) unit: Option<SourceText>,
    /// The contributions, as a range of the plan's.
    pub(crate) contributions: Range<usize>,
}

/// The HELP text of a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Help {
    /// No target has one.
    None,
    /// That of one target.
    Of(SourceText),
    /// That of the family `up`, which is ours.
    OfUp,
}

/// A piece of the body of one input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SourceText {
    pub(crate) input: u32,
    pub(crate) span: Span,
}

/// What one target contributes to a family: a source family, or the samples of it whose names have certain suffixes.
///
/// It repeats what the writer needs of the source family, because that lies far away in memory by the time of writing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Contribution {
    pub(crate) input: u32,
    pub(crate) source_family: FamilyId,
    /// The suffixes of the samples that belong here.
    pub(crate) suffixes: Suffixes,
    /// All suffixes that occur in the source family.
    pub(crate) all_suffixes: Suffixes,
    pub(crate) notes: u8,
    /// HELP and UNIT are equal to those of the previous input's contribution.
    pub(super) same_texts: bool,
    /// The source family's first run, often its only one.
    context: TypeContext,
    first: u32,
    len: u32,
    pub(crate) start: u32,
    pub(crate) n_runs: u32,
}

impl Contribution {
    /// A whole source family, with all its suffixes.
    pub(super) fn new(input: u32, id: FamilyId, index: &Index, same_texts: bool) -> Self {
        let source_family = &index.families[id];
        let run = index.runs[index.run_order[source_family.runs.start as usize]];
        Self {
            input,
            source_family: id,
            suffixes: source_family.suffixes,
            all_suffixes: source_family.suffixes,
            notes: source_family.notes,
            same_texts,
            context: run.context,
            first: run.first,
            len: run.len,
            start: run.start,
            n_runs: source_family.runs.len(),
        }
    }

    /// The samples of the source family that have these suffixes.
    pub(super) fn with_suffixes(self, suffixes: Suffixes) -> Self {
        Self { suffixes, ..self }
    }

    /// The source family's first run.
    pub(crate) fn first_run(&self) -> Run {
        Run {
            family: self.source_family,
            first: self.first,
            len: self.len,
            start: self.start,
            context: self.context,
        }
    }

    /// Whether only a part of the source family's samples belongs here.
    pub(crate) fn is_partial(&self) -> bool {
        self.suffixes != self.all_suffixes
    }

    /// Where it stands among the contributions to one family: inputs in order, each input's in the order of its body.
    pub(super) fn position(&self) -> (u32, u32, FamilyId, Suffixes) {
        (self.input, self.first, self.source_family, self.suffixes)
    }
}

/// The name in the response of a metric that the input calls `decoded`.
pub(crate) fn output_name(input: &Input, decoded: &[u8], format: &OutputFormat) -> Vec<u8> {
    let escaped = name::escape_metric(decoded, format.escaping);
    if is_renamed(input, decoded) {
        [b"exported_", &*escaped].concat()
    } else {
        escaped.into_owned()
    }
}

/// Whether a target's metric would look like one of our own (rule `own-names`).
pub(crate) fn is_renamed(input: &Input, decoded: &[u8]) -> bool {
    !input.own && decoded.starts_with(OUR_PREFIX)
}
