//! The model: one parsed exposition as an index over the bytes it came in (core).
//!
//! Nothing is copied out of the body. A [`Sample`] is a few offsets, a [`Run`] is consecutive samples of one family,
//! a [`SourceFamily`] is a family as its own target declares it. Which family of the answer a group ends up in is the
//! plan's business (`plan`), since that depends on the other targets.
//!
//! A third format (delimited protobuf) enters here: its decoder fills the same index over a body of its own. Outside
//! `line` and the writer nothing assumes that a sample is a line of text.

use crate::syntax::sample_line::{Name, Span};

/// What the names of our own metrics begin with.
pub(crate) const OUR_PREFIX: &[u8] = b"metrics_proxy_";

/// Types of both formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum MetricType {
    Counter,
    Gauge,
    Histogram,
    GaugeHistogram,
    Summary,
    Info,
    StateSet,
    /// `untyped` in text, `unknown` in OpenMetrics, and everything without a TYPE.
    Unknown,
}

impl MetricType {
    /// Reads the text of a TYPE line, byte for byte.
    pub(crate) fn parse(text: &[u8], open_metrics: bool) -> Option<Self> {
        Some(match text {
            b"counter" => Self::Counter,
            b"gauge" => Self::Gauge,
            b"histogram" => Self::Histogram,
            b"summary" => Self::Summary,
            b"untyped" if !open_metrics => Self::Unknown,
            b"unknown" if open_metrics => Self::Unknown,
            b"gaugehistogram" if open_metrics => Self::GaugeHistogram,
            b"info" if open_metrics => Self::Info,
            b"stateset" if open_metrics => Self::StateSet,
            _ => return None,
        })
    }

    pub(crate) fn as_str(self, open_metrics: bool) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::GaugeHistogram => "gaugehistogram",
            Self::Summary => "summary",
            Self::Info => "info",
            Self::StateSet => "stateset",
            Self::Unknown if open_metrics => "unknown",
            Self::Unknown => "untyped",
        }
    }

    /// The endings that sample names of such a family have, the bare name apart.
    pub(crate) fn suffixes(self) -> &'static [Suffix] {
        match self {
            Self::Counter => &[Suffix::Total, Suffix::Created],
            Self::Histogram => &[Suffix::Bucket, Suffix::Sum, Suffix::Count, Suffix::Created],
            Self::GaugeHistogram => &[Suffix::Bucket, Suffix::GSum, Suffix::GCount],
            Self::Summary => &[Suffix::Sum, Suffix::Count, Suffix::Created],
            Self::Info => &[Suffix::Info],
            Self::Gauge | Self::StateSet | Self::Unknown => &[],
        }
    }
}

/// How a sample's name goes on after its family's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub(crate) enum Suffix {
    Unsuffixed,
    Total,
    Created,
    Bucket,
    Sum,
    Count,
    GSum,
    GCount,
    Info,
}

impl Suffix {
    pub(crate) const ALL: [Self; 9] = [
        Self::Unsuffixed,
        Self::Total,
        Self::Created,
        Self::Bucket,
        Self::Sum,
        Self::Count,
        Self::GSum,
        Self::GCount,
        Self::Info,
    ];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Unsuffixed => "",
            Self::Total => "_total",
            Self::Created => "_created",
            Self::Bucket => "_bucket",
            Self::Sum => "_sum",
            Self::Count => "_count",
            Self::GSum => "_gsum",
            Self::GCount => "_gcount",
            Self::Info => "_info",
        }
    }

    pub(crate) fn bit(self) -> Suffixes {
        Suffixes(1 << self as u8)
    }
}

/// A set of [`Suffix`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Suffixes(pub(crate) u16);

impl Suffixes {
    pub(crate) fn has(self, suffix: Suffix) -> bool {
        self.0 & suffix.bit().0 != 0
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.0 |= other.0;
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = Suffix> {
        Suffix::ALL.into_iter().filter(move |suffix| self.has(*suffix))
    }
}

/// Which type the last TYPE line before a sample declared, whatever its name.
///
/// Prometheus 3 respells `le` and `quantile` by this alone, so a series depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum TypeContext {
    #[default]
    Other,
    Histogram,
    Summary,
}

impl TypeContext {
    pub(crate) fn of(kind: MetricType) -> Self {
        match kind {
            MetricType::Histogram => Self::Histogram,
            MetricType::Summary => Self::Summary,
            _ => Self::Other,
        }
    }

    /// Whether it is the first or the second of `le` and `quantile` that Prometheus 3 respells here.
    pub(crate) fn position(self) -> Option<usize> {
        match self {
            Self::Histogram => Some(0),
            Self::Summary => Some(1),
            Self::Other => None,
        }
    }

    /// The label that Prometheus 3 respells here.
    pub(crate) fn label(self) -> Option<&'static [u8]> {
        match self {
            Self::Histogram => Some(b"le"),
            Self::Summary => Some(b"quantile"),
            Self::Other => None,
        }
    }
}

/// One sample: offsets into the body.
///
/// A plain line is `name{label="value",...} value timestamp` without any slack; then `series_end` is the place where
/// labels can be added (after the last value's quote, or after the name).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) start: u32,
    pub(crate) series_end: u32,
    /// End of the value or, where there is one, of the timestamp.
    pub(crate) end: u32,
    flags: u32,
}

impl Sample {
    /// The sample has labels, written the plain way.
    pub(crate) const LABELS: u32 = 1;
    pub(crate) const TIMESTAMP: u32 = 2;
    pub(crate) const EXEMPLAR: u32 = 4;
    /// Not written the plain way: taken apart again when it is written.
    pub(crate) const NON_CANONICAL: u32 = 8;
    /// Dropped: its series is in the exposition already.
    pub(crate) const DROPPED: u32 = 16;
    /// Some label set that a plain line may have, as an index into [`Index::schemas`].
    pub(crate) const MAX_SCHEMAS: usize = 1 << 24;

    pub(crate) fn new(start: u32, series_end: u32, end: u32, flags: u32, schema: u32) -> Self {
        Self {
            start,
            series_end,
            end,
            flags: flags | schema << 8,
        }
    }

    pub(crate) fn has(self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    pub(crate) fn set(&mut self, flag: u32) {
        self.flags |= flag;
    }

    pub(crate) fn schema(self) -> usize {
        (self.flags >> 8) as usize
    }
}

/// Consecutive samples of one group under one TYPE line.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    pub(crate) group: u32,
    pub(crate) first: u32,
    pub(crate) len: u32,
    /// Where its first line starts in the body.
    pub(crate) start: u32,
    pub(crate) context: TypeContext,
}

/// A family as this exposition has it: samples whose names belong together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SourceFamily {
    pub(crate) name: Name,
    /// Two hashes of the decoded name, of one process's lifetime: groups of two bodies that share both have one name.
    pub(crate) name_key: (u64, u64),
    /// A hash of HELP and UNIT, to see at once that two bodies say the same.
    pub(crate) texts_key: u64,
    pub(crate) kind: Option<MetricType>,
    pub(crate) help: Option<Span>,
    pub(crate) unit: Option<Span>,
    pub(crate) suffixes: Suffixes,
    /// Range in [`Index::run_order`].
    pub(crate) runs: (u32, u32),
    pub(crate) notes: u8,
}

impl SourceFamily {
    /// Bounds written as integers (`1`) occur.
    pub(crate) const BOUND_INTEGER: u8 = 1;
    /// Bounds ending in `.0` occur.
    pub(crate) const BOUND_DOT_ZERO: u8 = 2;
    /// Bounds occur whose spelling needs a closer look.
    pub(crate) const BOUND_OTHER: u8 = 4;
    /// All that is said of bounds.
    pub(crate) const BOUNDS: u8 = 7;
    /// A bucket without `le`, a quantile sample without `quantile`, a state without its label.
    pub(crate) const LACKS_LABEL: u8 = 8;
    /// Its name is `up`.
    pub(crate) const UP: u8 = 16;
    /// Its name begins with `metrics_proxy_`.
    pub(crate) const OUR_PREFIX: u8 = 32;
}

/// One sequence of label names that plain lines have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LabelSchema {
    /// Range in [`Index::schema_names`].
    pub(crate) names: (u32, u32),
    /// Position of `le` and of `quantile` among them.
    pub(crate) le: Option<u32>,
    pub(crate) quantile: Option<u32>,
}

/// Everything the parser found, by position in the body.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub(crate) samples: Vec<Sample>,
    pub(crate) runs: Vec<Run>,
    /// Runs sorted by group, each group's in body order.
    pub(crate) run_order: Vec<u32>,
    pub(crate) families: Vec<SourceFamily>,
    pub(crate) schemas: Vec<LabelSchema>,
    pub(crate) schema_names: Vec<Span>,
    /// Labels of lines that are not plain, by name; only whether they occur matters.
    pub(crate) non_canonical_label_names: Vec<Name>,
    pub(crate) n_dropped: usize,
    /// Equal series may be spelled differently here: look again by meaning before writing.
    pub(crate) uncertain: bool,
    /// A quoted name occurs, so escaping may change names.
    pub(crate) quoted: bool,
    pub(crate) has_timestamps: bool,
}

/// How large a vector is: items in it, items that it has room for, bytes of one.
struct VectorSize {
    used: usize,
    room: usize,
    item: usize,
}

impl VectorSize {
    fn of<T>(vector: &Vec<T>) -> Self {
        Self {
            used: vector.len(),
            room: vector.capacity(),
            item: std::mem::size_of::<T>(),
        }
    }
}

impl Index {
    pub(crate) fn clear(&mut self) {
        self.samples.clear();
        self.runs.clear();
        self.run_order.clear();
        self.families.clear();
        self.schemas.clear();
        self.schema_names.clear();
        self.non_canonical_label_names.clear();
        self.n_dropped = 0;
        self.uncertain = false;
        self.quoted = false;
        self.has_timestamps = false;
    }

    /// The label names of a schema, in their order.
    pub(crate) fn schema_names(&self, schema: usize) -> &[Span] {
        let (from, to) = self.schemas[schema].names;
        &self.schema_names[from as usize..to as usize]
    }

    /// Bytes of memory that its vectors take.
    pub(crate) fn n_bytes(&self) -> usize {
        self.vectors()
            .iter()
            .map(|vector| vector.room * vector.item)
            .sum()
    }

    /// Bytes of what is in its vectors, whatever room they have: the same for the same body at every scrape.
    pub(crate) fn n_used_bytes(&self) -> usize {
        self.vectors()
            .iter()
            .map(|vector| vector.used * vector.item)
            .sum()
    }

    fn vectors(&self) -> [VectorSize; 7] {
        [
            VectorSize::of(&self.samples),
            VectorSize::of(&self.runs),
            VectorSize::of(&self.run_order),
            VectorSize::of(&self.families),
            VectorSize::of(&self.schemas),
            VectorSize::of(&self.schema_names),
            VectorSize::of(&self.non_canonical_label_names),
        ]
    }

    pub(crate) fn family_runs(&self, group: &SourceFamily) -> impl Iterator<Item = &Run> {
        self.run_order[group.runs.0 as usize..group.runs.1 as usize]
            .iter()
            .map(|&run| &self.runs[run as usize])
    }
}
