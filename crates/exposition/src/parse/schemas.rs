//! Label schemas: the label names of canonical lines, in their order.

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::hash::hash_names;
use super::scan::{names_eq, to_u32};
use super::{Parser, RejectionAt, reject};
use crate::RejectionKind;
use crate::index::{BoundPositions, LabelSchema, Sample, TableRange};
use crate::syntax::sample_line::{SampleLine, Span};
use crate::types::{Id as _, LabelPosition, SampleNameId, SchemaId};

/// How schemas are found.
#[derive(Debug, Default)]
pub(super) struct SchemaTables {
    by_names: HashTable<SchemaId>,
    /// A hash of the sorted names of each schema.
    by_sorted_names: HashTable<u64>,
    /// Two schemas may have the same names in a different order, so that equal series may be spelled differently.
    pub(super) permuted: bool,
}

impl SchemaTables {
    pub(super) fn n_bytes(&self) -> usize {
        self.by_names.allocation_size() + self.by_sorted_names.allocation_size()
    }

    pub(super) fn n_used_bytes(&self) -> usize {
        self.by_names.len() * size_of::<SchemaId>() + self.by_sorted_names.len() * size_of::<u64>()
    }

    pub(super) fn clear(&mut self) {
        self.by_names.clear();
        self.by_sorted_names.clear();
        self.permuted = false;
    }
}

impl Parser<'_> {
    /// The schema of a canonical line with labels.
    pub(super) fn schema_of(&mut self, line: &SampleLine) -> Result<SchemaId, RejectionAt> {
        let mut names = std::mem::take(&mut self.scratch.name_spans);
        names.clear();
        names.extend(line.labels.iter().map(|label| label.name.span));
        let id = self.find_schema(&names).or_else(|| self.add_schema(&mut names));
        self.scratch.name_spans = names;
        match id {
            Some(id) => Ok(id),
            None => reject(
                RejectionKind::Labels,
                line.name.span.start as usize,
                "too many different sets of label names",
            ),
        }
    }

    /// The schema of these label names, if there is one.
    pub(super) fn find_schema(&self, names: &[Span]) -> Option<SchemaId> {
        let body = self.body;
        let hash = hash_names(self.hasher, names.iter().map(|span| span.of(body)));
        let index = &*self.index;
        self.scratch
            .schemas
            .by_names
            .find(hash, |&id| names_eq(body, index.schema_names(id), names))
            .copied()
    }

    /// Adds a schema of these label names, and sorts them. `None` where there are too many schemas.
    pub(super) fn add_schema(&mut self, names: &mut [Span]) -> Option<SchemaId> {
        let body = self.body;
        let hasher = self.hasher;
        let index = &mut *self.index;
        let schemas = &mut self.scratch.schemas;
        if index.schemas.len() >= Sample::MAX_SCHEMAS {
            return None;
        }
        let hash_of = |names: &[Span]| hash_names(hasher, names.iter().map(|span| span.of(body)));
        let hash = hash_of(names);
        let start = to_u32(index.schema_names.len());
        index.schema_names.extend_from_slice(names);
        let position = |wanted: &[u8]| {
            let found = names.iter().position(|span| span.of(body) == wanted);
            found.map(LabelPosition::from_index)
        };
        let id = index.schemas.push(LabelSchema {
            names: TableRange {
                start,
                end: to_u32(index.schema_names.len()),
            },
            bounds: BoundPositions {
                le: position(b"le"),
                quantile: position(b"quantile"),
            },
        });
        let index = &*index;
        schemas
            .by_names
            .insert_unique(hash, id, |&id| hash_of(index.schema_names(id)));
        names.sort_unstable_by(|a, b| a.of(body).cmp(b.of(body)));
        let sorted = hash_of(names);
        // Two sets with one hash are taken for permutations of each other, which costs a comparison by meaning only.
        match schemas
            .by_sorted_names
            .entry(sorted, |&other| other == sorted, |&hash| hash)
        {
            Entry::Occupied(_) => schemas.permuted = true,
            Entry::Vacant(vacant) => {
                vacant.insert(sorted);
            }
        }
        Some(id)
    }

    /// Notes the schema of a name's next line, `None` for a line without labels.
    #[inline(always)]
    pub(super) fn note_schema(&mut self, id: SampleNameId, schema: Option<SchemaId>) {
        let entry = &self.scratch.sample_names[id];
        if entry.schema != schema || !entry.has_line {
            self.change_schema(id, schema);
        }
    }

    #[inline(never)]
    fn change_schema(&mut self, id: SampleNameId, schema: Option<SchemaId>) {
        let entry = &mut self.scratch.sample_names[id];
        entry.schemas_vary |= entry.has_line;
        entry.has_line = true;
        entry.schema = schema;
        // The previous line has another schema, so that nothing can be compared with it.
        entry.series_len = 0;
        entry.bounds = schema.map_or_else(BoundPositions::default, |schema| {
            self.index.schemas[schema].bounds
        });
        entry.lacks.le |= entry.bounds.le.is_none();
        entry.lacks.quantile |= entry.bounds.quantile.is_none();
        let own_name = self.scratch.names[entry.name].name.span.of(self.body);
        let names = schema.map_or(&[][..], |schema| self.index.schema_names(schema));
        entry.lacks.own_name |= !names.iter().any(|span| span.of(self.body) == own_name);
    }
}
