//! The index of one parsed body: what stands where. Data only.
//!
//! Nothing is copied out of the body. For example, this body
//!
//! ```text
//! # TYPE http_requests counter
//! http_requests_total{code="200"} 5
//! http_requests_total{code="404"} 1
//! up 1
//! ```
//!
//! has three [`Sample`]s; two [`SourceFamily`]s, `http_requests` (a counter, with samples of the suffix `_total`) and `up`;
//! two [`Run`]s, one of two samples and one of one; and one [`LabelSchema`], `(code)`. Which family of the response a source
//! family becomes depends on the other inputs, and is decided in `merge`.
//!
//! A body of another format (delimited protobuf) could be decoded into the same index over text of its own: only `parse`
//! and `write` know that a sample is a line of text.

use std::ops::Range;

use crate::syntax::sample_line::{Name, Span};
use crate::types::{FamilyId, LabelPosition, MetricType, RunId, SchemaId, Suffixes, Table, TypeContext};

/// One sample, as offsets into the body.
///
/// A canonical line is `name{label="value",...} value timestamp` without any other blanks or commas:
///
/// ```text
/// http_requests_total{code="200",method="GET"} 5 1700000000000
/// ^ start                                    ^ series_end     ^ end
/// ```
///
/// `series_end` is where labels can be added: the position of the closing brace, or of the end of the name where the line
/// has no labels.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) start: u32,
    pub(crate) series_end: u32,
    /// The end of the timestamp or, without one, of the value.
    pub(crate) end: u32,
    /// The flags below, and in the upper 24 bits the schema's position plus one, or 0.
    flags: u32,
}

impl Sample {
    /// The line is canonical and has labels.
    pub(crate) const LABELS: u32 = 1;
    pub(crate) const TIMESTAMP: u32 = 2;
    pub(crate) const EXEMPLAR: u32 = 4;
    /// The line is not canonical: it is parsed again when it is written.
    pub(crate) const NON_CANONICAL: u32 = 8;
    /// The sample is not written, because its series occurs earlier in the body or in another input.
    pub(crate) const DROPPED: u32 = 16;
    /// The number of label schemas that a body may have: what fits into 24 bits beside the flags.
    pub(crate) const MAX_SCHEMAS: usize = (1 << 24) - 1;

    #[inline(always)]
    pub(crate) fn new(start: u32, series_end: u32, end: u32, flags: u32, schema: Option<SchemaId>) -> Self {
        Self {
            start,
            series_end,
            end,
            flags: flags | schema.map_or(0, SchemaId::bits) << 8,
        }
    }

    pub(crate) fn has(self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    pub(crate) fn set(&mut self, flag: u32) {
        self.flags |= flag;
    }

    /// The label schema of a canonical line with labels.
    pub(crate) fn schema(self) -> Option<SchemaId> {
        SchemaId::from_bits(self.flags >> 8)
    }
}

/// Consecutive samples of one source family in one type context.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    pub(crate) family: FamilyId,
    /// The position of its first sample in [`Index::samples`].
    pub(crate) first: u32,
    pub(crate) len: u32,
    /// Where its first line starts in the body.
    pub(crate) start: u32,
    pub(crate) context: TypeContext,
}

impl Run {
    /// The positions of its samples in [`Index::samples`].
    pub(crate) fn positions(&self) -> Range<usize> {
        self.first as usize..(self.first + self.len) as usize
    }
}

/// A range of positions in one of the index's vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct TableRange {
    pub(crate) start: u32,
    pub(crate) end: u32,
}

impl TableRange {
    pub(crate) fn len(self) -> u32 {
        self.end - self.start
    }

    pub(crate) fn is_empty(self) -> bool {
        self.start == self.end
    }

    pub(crate) fn positions(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// Two hashes of a decoded name under keys of this process. Families of two bodies with equal keys have one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NameKey {
    pub(crate) first: u64,
    pub(crate) second: u64,
}

/// A metric family as this body has it: the samples whose names belong together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SourceFamily {
    pub(crate) name: Name,
    pub(crate) name_key: NameKey,
    /// A hash of HELP and UNIT: two bodies with equal keys say the same.
    pub(crate) texts_key: u64,
    /// `None` without a TYPE line.
    pub(crate) kind: Option<MetricType>,
    pub(crate) help: Option<Span>,
    pub(crate) unit: Option<Span>,
    /// The suffixes of the sample names that occur.
    pub(crate) suffixes: Suffixes,
    /// Its runs, as positions in [`Index::run_order`]. Empty for a family that has metadata only.
    pub(crate) runs: TableRange,
    /// The flags below.
    pub(crate) notes: u8,
}

impl SourceFamily {
    /// A bound written as an integer (`le="1"`) occurs.
    pub(crate) const BOUND_INTEGER: u8 = 1;
    /// A bound ending in `.0` occurs.
    pub(crate) const BOUND_DOT_ZERO: u8 = 2;
    /// A bound occurs that may not be written as Prometheus 3 stores it, and is not an integer.
    pub(crate) const BOUND_OTHER: u8 = 4;
    /// All flags about bounds.
    pub(crate) const BOUNDS: u8 = 7;
    /// A bucket lacks `le`, a quantile lacks `quantile`, or a state lacks the label that is named like its family.
    pub(crate) const LACKS_LABEL: u8 = 8;
    /// Its name is `up`.
    pub(crate) const UP: u8 = 16;
    /// Its name begins with [`OUR_PREFIX`](crate::types::OUR_PREFIX).
    pub(crate) const OUR_PREFIX: u8 = 32;
}

/// Where the two labels whose values Prometheus 3 normalizes stand in a label schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct BoundPositions {
    pub(crate) le: Option<LabelPosition>,
    pub(crate) quantile: Option<LabelPosition>,
}

impl BoundPositions {
    /// The position of the label that is normalized in this type context.
    #[inline(always)]
    pub(crate) fn of(self, context: TypeContext) -> Option<LabelPosition> {
        match context {
            TypeContext::Histogram => self.le,
            TypeContext::Summary => self.quantile,
            TypeContext::Other => None,
        }
    }
}

/// The label names of a canonical line, in their order. Most bodies have few label schemas and many lines of each.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LabelSchema {
    /// Its names, as positions in [`Index::schema_names`].
    pub(crate) names: TableRange,
    /// Where `le` and `quantile` stand among them.
    pub(crate) bounds: BoundPositions,
}

/// Everything that the parser found in one body.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub(crate) samples: Vec<Sample>,
    pub(crate) runs: Table<RunId, Run>,
    /// The runs by source family, those of one family in the order of the body.
    pub(crate) run_order: Vec<RunId>,
    pub(crate) families: Table<FamilyId, SourceFamily>,
    pub(crate) schemas: Table<SchemaId, LabelSchema>,
    pub(crate) schema_names: Vec<Span>,
    /// The label names of non-canonical lines, as often as they occur.
    pub(crate) non_canonical_label_names: Vec<Name>,
    /// How many samples have [`Sample::DROPPED`] because they repeat a series of this body.
    pub(crate) n_dropped: usize,
    /// There may be duplicates that are spelled differently: series have to be compared by meaning before they are written.
    pub(crate) uncertain: bool,
    /// A quoted name occurs, so that escaping may change names.
    pub(crate) quoted: bool,
    pub(crate) has_timestamps: bool,
}

/// The size of a vector.
struct VectorSize {
    n_items: usize,
    capacity: usize,
    item_bytes: usize,
}

impl VectorSize {
    fn of<T>(vector: &Vec<T>) -> Self {
        Self {
            n_items: vector.len(),
            capacity: vector.capacity(),
            item_bytes: size_of::<T>(),
        }
    }

    fn of_table<I: crate::types::Id, T>(table: &Table<I, T>) -> Self {
        Self {
            n_items: table.len(),
            capacity: table.capacity(),
            item_bytes: size_of::<T>(),
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
    pub(crate) fn schema_names(&self, schema: SchemaId) -> &[Span] {
        &self.schema_names[self.schemas[schema].names.positions()]
    }

    /// The runs of a source family, in the order of the body.
    pub(crate) fn family_runs(&self, family: &SourceFamily) -> impl Iterator<Item = &Run> {
        self.run_order[family.runs.positions()]
            .iter()
            .map(|&run| &self.runs[run])
    }

    /// Bytes of memory that its vectors take.
    pub(crate) fn n_bytes(&self) -> usize {
        self.vectors()
            .iter()
            .map(|vector| vector.capacity * vector.item_bytes)
            .sum()
    }

    /// Bytes of what is in its vectors, without their spare capacity: the same for the same body at every scrape.
    pub(crate) fn n_used_bytes(&self) -> usize {
        self.vectors()
            .iter()
            .map(|vector| vector.n_items * vector.item_bytes)
            .sum()
    }

    fn vectors(&self) -> [VectorSize; 7] {
        [
            VectorSize::of(&self.samples),
            VectorSize::of_table(&self.runs),
            VectorSize::of(&self.run_order),
            VectorSize::of_table(&self.families),
            VectorSize::of_table(&self.schemas),
            VectorSize::of(&self.schema_names),
            VectorSize::of(&self.non_canonical_label_names),
        ]
    }
}
