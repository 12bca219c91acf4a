//! What is remembered per name, and which source family a sample name belongs to.

use hashbrown::HashTable;

use super::Parser;
use super::duplicates::DuplicateFilter;
use super::hash::hash_extend;
use super::scan::{bytes_eq, to_u32};
use crate::index::{BoundPositions, NameKey, SourceFamily, TableRange};
use crate::syntax::sample_line::{Name, SampleLine, Span};
use crate::types::{
    FamilyId, MetricType, NameId, OUR_PREFIX, SampleNameId, SchemaId, Suffix, Suffixes, Table, TypeContext,
};

/// A name, and what HELP, TYPE and UNIT say of it; the first line of each counts.
#[derive(Debug)]
pub(super) struct NameEntry {
    pub(super) name: Name,
    key: NameKey,
    /// A hash of HELP and UNIT.
    pub(super) texts_key: u64,
    pub(super) kind: Option<MetricType>,
    pub(super) help: Option<Span>,
    pub(super) unit: Option<Span>,
    /// What is remembered of the samples of this name.
    samples: Option<SampleNameId>,
    /// The source family of this name.
    pub(super) family: Option<FamilyId>,
}

/// What is remembered of one sample name, above all its previous canonical line.
///
/// After these two lines
///
/// ```text
/// http_requests_total{method="GET",code="200"} 12
/// http_requests_total{method="GET",code="404"} 3
/// ^ line_start                               ^ line_start + series_len
/// ```
///
/// the entry of `http_requests_total` says: `name_len` 19, `series_len` 43, the `schema` (method, code), two `values` at
/// 28..31 and 39..42 from the start of the line, and `prefix_hash`, the hash of the first 39 bytes. The next line is
/// compared with the second one and then takes its place.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct SampleName {
    pub(super) name: NameId,
    pub(super) family: FamilyId,
    pub(super) suffix: Suffix,
    /// The name is quoted where it occurs first, so that lines are not compared with it.
    pub(super) quoted: bool,
    pub(super) name_len: u32,

    /// Where the previous canonical line starts.
    pub(super) line_start: u32,
    /// The bytes of that line up to the closing brace, or up to the end of the name where it has no labels. 0 where there
    /// is no line to compare with.
    pub(super) series_len: u32,
    /// Hash of that line up to the start of its last label value.
    pub(super) prefix_hash: u64,
    /// Where the values of its labels stand in it: positions in [`Scratch::values`], with room for the longest line so far.
    pub(super) values: TableRange,
    /// How many of these values the previous line has.
    pub(super) n_values: u32,
    /// Its schema; `None` without labels, and before the first line.
    pub(super) schema: Option<SchemaId>,
    /// There has been a canonical line.
    pub(super) has_line: bool,
    /// Where `le` and `quantile` stand in that schema.
    pub(super) bounds: BoundPositions,
    /// The type context in which the bound of that line was noted.
    pub(super) bounds_context: TypeContext,
    /// The previous line differed from the one before in its last label only, as buckets do: see [`super::bucket_loop`].
    pub(super) in_loop: bool,

    /// The other name that came after this one last time.
    pub(super) next: Option<SampleNameId>,
    /// For which lines `follows` was found out: see [`super::histogram_tail`].
    pub(super) follower_key: Option<FollowerKey>,
    /// The labels of this name's lines are the first of those of the name before it.
    pub(super) follows: bool,

    /// Lines have different schemas, or only some have labels.
    pub(super) schemas_vary: bool,
    /// A label had an empty value, which counts as an absent label.
    pub(super) has_empty_values: bool,
    pub(super) lacks: LackingLabels,
}

/// Which labels some line of a name lacks.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LackingLabels {
    pub(super) le: bool,
    pub(super) quantile: bool,
    /// The label that is named like the sample, which a state set must have.
    pub(super) own_name: bool,
}

/// The name before another name, and the schemas of their previous lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FollowerKey {
    pub(super) before: SampleNameId,
    pub(super) before_schema: Option<SchemaId>,
    pub(super) schema: Option<SchemaId>,
}

/// Where a label value stands in a line, from the line's start.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ValueOffsets {
    pub(super) start: u32,
    pub(super) end: u32,
}

/// The tables that are needed while parsing only; reused from body to body.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// The names of samples.
    pub(super) sample_names: Table<SampleNameId, SampleName>,
    /// All names: of HELP, TYPE and UNIT lines, of samples and of families.
    pub(super) names: Table<NameId, NameEntry>,
    names_by_text: HashTable<NameId>,
    /// The name of each source family, by [`FamilyId`].
    pub(super) family_names: Vec<NameId>,
    pub(super) schemas: super::schemas::SchemaTables,
    pub(super) duplicates: DuplicateFilter,
    /// Label names and values of the line that is being parsed.
    pub(super) name_spans: Vec<Span>,
    pub(super) value_spans: Vec<Span>,
    /// The label values of the previous lines, see [`SampleName::values`].
    pub(super) values: Vec<ValueOffsets>,
    pub(super) line: SampleLine,
}

impl Scratch {
    /// Bytes of memory that the tables take, apart from a few that stay small.
    pub(crate) fn n_bytes(&self) -> usize {
        self.sample_names.capacity() * size_of::<SampleName>()
            + self.names.capacity() * size_of::<NameEntry>()
            + self.names_by_text.allocation_size()
            + self.family_names.capacity() * size_of::<NameId>()
            + self.schemas.n_bytes()
            + self.duplicates.n_bytes()
            + (self.name_spans.capacity() + self.value_spans.capacity()) * size_of::<Span>()
            + self.values.capacity() * size_of::<ValueOffsets>()
    }

    /// Bytes of what is in the tables, without their spare capacity: the same for the same body at every scrape.
    pub(crate) fn n_used_bytes(&self) -> usize {
        self.sample_names.len() * size_of::<SampleName>()
            + self.names.len() * (size_of::<NameEntry>() + size_of::<NameId>() + 1)
            + self.family_names.len() * size_of::<NameId>()
            + self.schemas.n_used_bytes()
            + self.duplicates.n_used_bytes()
            + self.values.len() * size_of::<ValueOffsets>()
    }

    pub(super) fn clear(&mut self) {
        self.sample_names.clear();
        self.names.clear();
        self.names_by_text.clear();
        self.family_names.clear();
        self.schemas.clear();
        self.duplicates.clear();
        self.values.clear();
    }
}

impl Parser<'_> {
    /// The name that the previous metadata line declared, if it is this one: most lines are about the same name as the
    /// line before.
    pub(super) fn declared_as(&self, decoded: &[u8]) -> Option<NameId> {
        let declared = self.declared?;
        let entry = &self.scratch.names[declared];
        bytes_eq(&entry.name.decode(self.body), decoded).then_some(declared)
    }

    fn find_name(&self, decoded: &[u8], hash: u64) -> Option<NameId> {
        let Scratch {
            names, names_by_text, ..
        } = &*self.scratch;
        let is_it = |&id: &NameId| {
            let found = &names[id];
            found.key.first == hash && bytes_eq(&found.name.decode(self.body), decoded)
        };
        names_by_text.find(hash, is_it).copied()
    }

    /// The entry of a name, which is made where the name is new.
    pub(super) fn name_id(&mut self, name: Name, decoded: &[u8]) -> NameId {
        let hash = self.hash(decoded);
        if let Some(id) = self.find_name(decoded, hash) {
            return id;
        }
        let second = hash_extend(self.seed, decoded, 0, decoded.len(), self.key);
        let Scratch {
            names, names_by_text, ..
        } = &mut *self.scratch;
        let id = names.push(NameEntry {
            name,
            key: NameKey { first: hash, second },
            texts_key: 0,
            kind: None,
            help: None,
            unit: None,
            samples: None,
            family: None,
        });
        names_by_text.insert_unique(hash, id, |&id| names[id].key.first);
        id
    }

    /// The entry of a sample name, which is made where the name is new.
    pub(super) fn sample_name_id(&mut self, name: Name) -> SampleNameId {
        let decoded = name.decode(self.body);
        let name_id = self
            .declared_as(&decoded)
            .unwrap_or_else(|| self.name_id(name, &decoded));
        if let Some(id) = self.scratch.names[name_id].samples {
            return id;
        }
        let (family_name, suffix) = self.family_name_of(name_id);
        let family = self.family_id(family_name);
        self.index.families[family].suffixes.add(suffix.bit());
        let id = self.scratch.sample_names.push(SampleName {
            name: name_id,
            family,
            suffix,
            quoted: name.quoted,
            name_len: to_u32(name.span.len()),
            line_start: 0,
            series_len: 0,
            prefix_hash: 0,
            values: TableRange::default(),
            n_values: 0,
            schema: None,
            has_line: false,
            bounds: BoundPositions::default(),
            bounds_context: TypeContext::Other,
            in_loop: false,
            next: None,
            follower_key: None,
            follows: false,
            schemas_vary: false,
            has_empty_values: false,
            lacks: LackingLabels::default(),
        });
        self.scratch.names[name_id].samples = Some(id);
        id
    }

    /// The name of the family that a sample name belongs to, by the TYPE lines so far: its own if that has a type, else
    /// the name without a suffix that the type of that name allows, else its own.
    pub(super) fn family_name_of(&self, name: NameId) -> (NameId, Suffix) {
        let entry = &self.scratch.names[name];
        if entry.kind.is_some() {
            return (name, Suffix::Unsuffixed);
        }
        let decoded = entry.name.decode(self.body);
        for suffix in Suffix::ALL {
            let Some(base) = decoded.strip_suffix(suffix.as_str().as_bytes()) else {
                continue;
            };
            if suffix == Suffix::Unsuffixed || base.is_empty() {
                continue;
            }
            let found = self
                .declared_as(base)
                .or_else(|| self.find_name(base, self.hash(base)));
            if let Some(found) = found
                && let Some(kind) = self.scratch.names[found].kind
                && kind.suffixes().contains(&suffix)
            {
                return (found, suffix);
            }
        }
        (name, Suffix::Unsuffixed)
    }

    /// The source family of a name, which is made where the name has none.
    pub(super) fn family_id(&mut self, name: NameId) -> FamilyId {
        let entry = &mut self.scratch.names[name];
        if let Some(family) = entry.family {
            return family;
        }
        let decoded = entry.name.decode(self.body);
        let mut notes = 0;
        if *decoded == *b"up" {
            notes |= SourceFamily::UP;
        }
        if decoded.starts_with(OUR_PREFIX) {
            notes |= SourceFamily::OUR_PREFIX;
        }
        let family = self.index.families.push(SourceFamily {
            name: entry.name,
            name_key: entry.key,
            texts_key: 0,
            kind: None,
            help: None,
            unit: None,
            suffixes: Suffixes::default(),
            runs: TableRange::default(),
            notes,
        });
        entry.family = Some(family);
        self.scratch.family_names.push(name);
        family
    }
}
