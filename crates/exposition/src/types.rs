//! The vocabulary that parsing, merging and writing share: metric types, suffixes, the type context, and typed ids.

use std::marker::PhantomData;
use std::num::NonZeroU32;

/// Defines the id of one kind of table entry.
///
/// Ids of different tables are different types, so that one cannot be used for another by mistake. An id is its position
/// plus one, which leaves zero for `None`: an `Option` of it is four bytes, as large as a plain `u32`.
macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub(crate) struct $name(NonZeroU32);

        impl $name {
            /// The position plus one: for hashes, and to pack an optional id into fewer bits.
            #[inline(always)]
            #[allow(dead_code, reason = "not every kind of id is hashed or packed")]
            pub(crate) fn bits(self) -> u32 {
                self.0.get()
            }

            /// What [`bits`](Self::bits) gave, or `None` for 0.
            #[inline(always)]
            #[allow(dead_code, reason = "not every kind of id is hashed or packed")]
            pub(crate) fn from_bits(bits: u32) -> Option<Self> {
                NonZeroU32::new(bits).map(Self)
            }
        }

        impl Id for $name {
            #[inline(always)]
            #[allow(
                clippy::cast_possible_truncation,
                reason = "tables have fewer entries than bodies have bytes, which is less than 4 GiB"
            )]
            fn from_index(index: usize) -> Self {
                Self(NonZeroU32::MIN.saturating_add(index as u32))
            }

            #[inline(always)]
            fn index(self) -> usize {
                (self.0.get() - 1) as usize
            }
        }
    };
}

/// The position of an entry in a table of its own kind.
pub(crate) trait Id: Copy {
    /// The id of the entry at this position.
    fn from_index(index: usize) -> Self;

    /// The position of the entry.
    fn index(self) -> usize;
}

id! {
    /// A decoded name that occurs in the body, in the parser's table of names.
    NameId
}
id! {
    /// The name of a sample, in the parser's table of what it remembers per sample name.
    SampleNameId
}
id! {
    /// A source family of one body.
    FamilyId
}
id! {
    /// A label schema of one body.
    SchemaId
}
id! {
    /// A run of samples of one body.
    RunId
}
id! {
    /// The position of a label in its label schema.
    LabelPosition
}

/// A table whose entries are found by ids of their own type.
#[derive(Clone)]
pub(crate) struct Table<I, T> {
    entries: Vec<T>,
    id: PhantomData<I>,
}

impl<I, T> Default for Table<I, T> {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            id: PhantomData,
        }
    }
}

impl<I, T: std::fmt::Debug> std::fmt::Debug for Table<I, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.entries.fmt(f)
    }
}

impl<I: Id, T> Table<I, T> {
    /// Adds an entry.
    pub(crate) fn push(&mut self, entry: T) -> I {
        let id = I::from_index(self.entries.len());
        self.entries.push(entry);
        id
    }

    #[inline(always)]
    pub(crate) fn get(&self, id: I) -> Option<&T> {
        self.entries.get(id.index())
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn capacity(&self) -> usize {
        self.entries.capacity()
    }

    pub(crate) fn clear(&mut self) {
        self.entries.clear();
    }

    /// The ids of all entries, in order.
    pub(crate) fn ids(&self) -> impl Iterator<Item = I> + use<I, T> {
        (0..self.entries.len()).map(I::from_index)
    }

    pub(crate) fn iter(&self) -> std::slice::Iter<'_, T> {
        self.entries.iter()
    }

    pub(crate) fn iter_mut(&mut self) -> std::slice::IterMut<'_, T> {
        self.entries.iter_mut()
    }

    pub(crate) fn last(&self) -> Option<&T> {
        self.entries.last()
    }

    pub(crate) fn last_mut(&mut self) -> Option<&mut T> {
        self.entries.last_mut()
    }
}

impl<I: Id, T> std::ops::Index<I> for Table<I, T> {
    type Output = T;

    #[inline(always)]
    fn index(&self, id: I) -> &T {
        &self.entries[id.index()]
    }
}

impl<I: Id, T> std::ops::IndexMut<I> for Table<I, T> {
    #[inline(always)]
    fn index_mut(&mut self, id: I) -> &mut T {
        &mut self.entries[id.index()]
    }
}

impl<'a, I: Id, T> IntoIterator for &'a Table<I, T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// The prefix of the names of the proxy's own metrics.
pub(crate) const OUR_PREFIX: &[u8] = b"metrics_proxy_";

/// The metric types of both formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum MetricType {
    Counter,
    Gauge,
    Histogram,
    GaugeHistogram,
    Summary,
    Info,
    StateSet,
    /// `untyped` in the text format, `unknown` in OpenMetrics.
    Unknown,
}

impl MetricType {
    /// Parses the text of a TYPE line, which Prometheus compares byte by byte.
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

    /// The suffixes that sample names of a family of this type may have, besides none.
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

/// What the name of a sample has beyond the name of its family.
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

/// The type that the last TYPE line before a sample declares, whatever name that line has.
///
/// Prometheus 3 normalizes the values of `le` and `quantile` by this alone, so that it is part of a series' meaning.
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

    /// The label whose value Prometheus 3 normalizes in this context.
    pub(crate) fn label(self) -> Option<&'static [u8]> {
        match self {
            Self::Histogram => Some(b"le"),
            Self::Summary => Some(b"quantile"),
            Self::Other => None,
        }
    }
}
