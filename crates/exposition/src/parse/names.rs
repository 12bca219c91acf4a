//! Metadata lines, and what belongs to which family (core).

use super::hash::{bytes_eq, hash_extend, hash_names, quoted_end, same_names, to_u32};
use super::{FRESH, Known, NONE, Parser, RejectionAt, Scratch, Utf8, stop};
use crate::index::{
    LabelSchema, MetricType, OUR_PREFIX, Sample, SourceFamily, Suffix, Suffixes, TypeContext,
};
use crate::syntax::sample_line::{Name, SampleLine, Span};
use crate::{RejectionKind, syntax::name};

/// A name, and what HELP, TYPE and UNIT say of it; the first of each counts.
#[derive(Debug)]
pub(crate) struct Named {
    pub(crate) name: Name,
    hash: u64,
    second_hash: u64,
    /// Of HELP and UNIT.
    texts_hash: u64,
    kind: Option<MetricType>,
    help: Option<Span>,
    unit: Option<Span>,
    /// The samples of this name in [`Scratch::known`], or `NONE`.
    known: u32,
    /// The family of this name, or `NONE`.
    group: u32,
}

impl Parser<'_> {
    /// Reads a line that starts with `#`; `None` after `# EOF`.
    pub(crate) fn read_comment(&mut self, start: usize) -> Result<Option<usize>, RejectionAt> {
        let body = self.body;
        let line_end = memchr::memchr(b'\n', &body[start..]).map_or(body.len(), |len| start + len);
        let line = &body[start..line_end];
        let next = (line_end + 1).min(body.len());
        let blank = |byte: &u8| *byte == b' ' || *byte == b'\t' && !self.open_metrics;
        if self.open_metrics {
            if line == b"# EOF" {
                return if next == body.len() {
                    Ok(None)
                } else {
                    Err(stop(RejectionKind::Parse, next, "data after # EOF"))
                };
            }
            if line_end == body.len() {
                return Err(stop(
                    RejectionKind::Parse,
                    start,
                    "the body does not end with # EOF",
                ));
            }
        }
        let blanks = line[1..].iter().take_while(|byte| blank(byte)).count();
        let words = &line[1 + blanks..];
        let keyword = words.get(..4).unwrap_or_default();
        let known = matches!(keyword, b"HELP" | b"TYPE") || self.open_metrics && keyword == b"UNIT";
        let is_metadata =
            blanks > 0 && (!self.open_metrics || blanks == 1) && known && words.get(4).is_some_and(blank);
        if !is_metadata {
            if self.open_metrics {
                return Err(stop(
                    RejectionKind::Parse,
                    start,
                    "a comment, which OpenMetrics does not have",
                ));
            }
            if let Some(nul) = memchr::memchr(0, line) {
                return Err(stop(RejectionKind::Parse, start + nul, "a NUL in a comment"));
            }
            return Ok(Some(next));
        }
        let mut at = start + 1 + blanks + 5;
        if !self.open_metrics {
            at += body[at..line_end].iter().take_while(|byte| blank(byte)).count();
        }
        self.read_declaration(keyword, at, line_end)
    }

    /// Reads what follows the keyword: a name and a text.
    fn read_declaration(
        &mut self,
        keyword: &[u8],
        at: usize,
        line_end: usize,
    ) -> Result<Option<usize>, RejectionAt> {
        let body = self.body;
        let (named, after) = if body.get(at) == Some(&b'"') {
            let Some(end) = quoted_end(body, at) else {
                return Err(stop(RejectionKind::Parse, at, "a quoted name does not end"));
            };
            let span = Span::new(at + 1, end - 1);
            (Name { span, quoted: true }, end)
        } else {
            let len = name::metric_name_len(&body[at..line_end]);
            if len == 0 {
                return Err(stop(
                    RejectionKind::Parse,
                    at,
                    "no metric name after HELP, TYPE or UNIT",
                ));
            }
            let span = Span::new(at, at + len);
            (Name { span, quoted: false }, at + len)
        };
        // A quoted name may hold line feeds, so the line can end later than its first one.
        let line_end = if after <= line_end {
            line_end
        } else {
            memchr::memchr(b'\n', &body[after..]).map_or(body.len(), |len| after + len)
        };
        if self.open_metrics && body.get(after) != Some(&b' ') {
            return Err(stop(
                RejectionKind::Parse,
                after,
                "no blank after the metric name",
            ));
        }
        // Prometheus cuts exactly one byte, whatever it is.
        let text = Span::new((after + 1).min(line_end), line_end);
        let next = (line_end + 1).min(body.len());
        let declared = self.declare(named);
        match keyword {
            b"TYPE" => {
                let text_bytes = text.of(body);
                let Some(kind) = MetricType::parse(text_bytes, self.open_metrics) else {
                    return Err(stop(
                        RejectionKind::Parse,
                        text.start as usize,
                        "an unknown metric type",
                    ));
                };
                self.context = TypeContext::of(kind);
                self.turned = true;
                self.scratch.names[declared as usize].kind.get_or_insert(kind);
            }
            b"HELP" => {
                if self.utf8 != Utf8::Whole && std::str::from_utf8(text.of(body)).is_err() {
                    return Err(stop(
                        RejectionKind::Parse,
                        text.start as usize,
                        "the help text is not UTF-8",
                    ));
                }
                let hash = hash_extend(self.seed, text.of(body), 0, text.len(), self.key);
                let named = &mut self.scratch.names[declared as usize];
                if named.help.is_none() {
                    named.help = Some(text);
                    named.texts_hash ^= hash;
                }
            }
            _ => {
                let unit = text.of(body);
                let stem = named.span.of(body).strip_suffix(unit);
                if !unit.is_empty() && !stem.is_some_and(|stem| stem.ends_with(b"_")) {
                    return Err(stop(
                        RejectionKind::Parse,
                        text.start as usize,
                        "the unit is not the end of the metric's name",
                    ));
                }
                // Under the other key: a unit is no help text.
                let hash = hash_extend(self.key, unit, 0, unit.len(), self.seed);
                let named = &mut self.scratch.names[declared as usize];
                if named.unit.is_none() {
                    named.unit = Some(text);
                    named.texts_hash ^= hash;
                }
            }
        }
        Ok(Some(next))
    }

    /// The name of a HELP, TYPE or UNIT line; often it is that of the line before.
    fn declare(&mut self, named: Name) -> u32 {
        let decoded = named.decode(self.body);
        let id = self.guess(&decoded).unwrap_or_else(|| self.name(named, &decoded));
        self.declared = id;
        id
    }

    /// The name that was declared last, if that is it.
    fn guess(&self, decoded: &[u8]) -> Option<u32> {
        let last = self.scratch.names.get(self.declared as usize)?;
        bytes_eq(&last.name.decode(self.body), decoded).then_some(self.declared)
    }

    fn find_name(&self, decoded: &[u8], hash: u64) -> Option<u32> {
        let Scratch {
            names, names_by_text, ..
        } = &*self.scratch;
        let is_it = |&id: &u32| {
            let found = &names[id as usize];
            found.hash == hash && bytes_eq(&found.name.decode(self.body), decoded)
        };
        names_by_text.find(hash, is_it).copied()
    }

    /// The entry of a name, made at its first sight.
    fn name(&mut self, named: Name, decoded: &[u8]) -> u32 {
        let hash = self.hash(decoded);
        if let Some(id) = self.find_name(decoded, hash) {
            return id;
        }
        let second_hash = hash_extend(self.seed, decoded, 0, decoded.len(), self.key);
        let Scratch {
            names, names_by_text, ..
        } = &mut *self.scratch;
        let id = to_u32(names.len());
        names.push(Named {
            name: named,
            hash,
            second_hash,
            texts_hash: 0,
            kind: None,
            help: None,
            unit: None,
            known: NONE,
            group: NONE,
        });
        names_by_text.insert_unique(hash, id, |&id| names[id as usize].hash);
        id
    }

    /// The entry of a sample name, made at its first sight.
    pub(crate) fn know(&mut self, sample: Name) -> u32 {
        let decoded = sample.decode(self.body);
        let named = self
            .guess(&decoded)
            .unwrap_or_else(|| self.name(sample, &decoded));
        let id = self.scratch.names[named as usize].known;
        if id != NONE {
            return id;
        }
        let (family, suffix) = self.belongs_to(named);
        let group = self.group(family);
        self.index.families[group as usize].suffixes.add(suffix.bit());
        let known = &mut self.scratch.known;
        let id = to_u32(known.len());
        known.push(Known {
            line_start: 0,
            series_len: 0,
            name_len: to_u32(sample.span.len()),
            prefix_hash: 0,
            places: 0,
            n_places: 0,
            places_room: 0,
            schema: FRESH,
            bounds: [NONE; 2],
            noted: TypeContext::Other,
            suffix,
            group,
            next: NONE,
            asked: (NONE, NONE, NONE),
            named,
            quoted: sample.quoted,
            follows: false,
            steady: false,
            schemas_vary: false,
            empty_values: false,
            without: [false; 3],
        });
        self.scratch.names[named as usize].known = id;
        id
    }

    /// The family that a sample name belongs to, as far as has been declared: its own if that has a type, else the
    /// one that its ending points to, else its own again.
    fn belongs_to(&self, named: u32) -> (u32, Suffix) {
        let own = &self.scratch.names[named as usize];
        if own.kind.is_some() {
            return (named, Suffix::Unsuffixed);
        }
        let decoded = own.name.decode(self.body);
        for suffix in Suffix::ALL {
            let Some(base) = decoded.strip_suffix(suffix.as_str().as_bytes()) else {
                continue;
            };
            if suffix == Suffix::Unsuffixed || base.is_empty() {
                continue;
            }
            let found = self.guess(base).or_else(|| self.find_name(base, self.hash(base)));
            if let Some(found) = found
                && let Some(kind) = self.scratch.names[found as usize].kind
                && kind.suffixes().contains(&suffix)
            {
                return (found, suffix);
            }
        }
        (named, Suffix::Unsuffixed)
    }

    /// The family of a name, made at its first sight.
    fn group(&mut self, named: u32) -> u32 {
        let entry = &mut self.scratch.names[named as usize];
        if entry.group == NONE {
            entry.group = to_u32(self.index.families.len());
            self.scratch.group_names.push(named);
            let decoded = entry.name.decode(self.body);
            let mut notes = 0;
            if *decoded == *b"up" {
                notes |= SourceFamily::UP;
            }
            if decoded.starts_with(OUR_PREFIX) {
                notes |= SourceFamily::OUR_PREFIX;
            }
            self.index.families.push(SourceFamily {
                name: entry.name,
                name_key: (entry.hash, entry.second_hash),
                texts_key: 0,
                kind: None,
                help: None,
                unit: None,
                suffixes: Suffixes::default(),
                runs: (0, 0),
                notes,
            });
        }
        entry.group
    }

    /// The schema of a plain line, made at its first sight; `None` for a line that is not plain.
    pub(crate) fn know_schema(&mut self, line: &SampleLine, plain: bool) -> Result<Option<u32>, RejectionAt> {
        if !plain {
            return Ok(None);
        }
        let mut spans = std::mem::take(&mut self.scratch.spans);
        spans.clear();
        spans.extend(line.labels.iter().map(|label| label.name.span));
        let id = match self.find_schema(&spans) {
            Some(id) => Some(id),
            None => self.add_schema(&mut spans),
        };
        self.scratch.spans = spans;
        match id {
            Some(id) => Ok(Some(id)),
            None => Err(stop(
                RejectionKind::Labels,
                line.name.span.start as usize,
                "too many different sets of label names",
            )),
        }
    }

    /// The schema of these label names.
    pub(crate) fn find_schema(&self, names: &[Span]) -> Option<u32> {
        let body = self.body;
        let hash = hash_names(self.hasher, names.iter().map(|span| span.of(body)));
        let index = &*self.index;
        self.scratch
            .schemas_by_names
            .find(hash, |&id| {
                same_names(body, index.schema_names(id as usize), names)
            })
            .copied()
    }

    /// Makes a schema of label names that have none, and sorts them; `None` where there is no room for it.
    pub(crate) fn add_schema(&mut self, names: &mut [Span]) -> Option<u32> {
        let body = self.body;
        let hasher = self.hasher;
        let index = &mut *self.index;
        if index.schemas.len() + 1 >= Sample::MAX_SCHEMAS {
            return None;
        }
        let hash = hash_names(hasher, names.iter().map(|span| span.of(body)));
        let id = to_u32(index.schemas.len());
        let first = to_u32(index.schema_names.len());
        index.schema_names.extend_from_slice(names);
        let position = |wanted: &[u8]| names.iter().position(|span| span.of(body) == wanted).map(to_u32);
        index.schemas.push(LabelSchema {
            names: (first, to_u32(index.schema_names.len())),
            le: position(b"le"),
            quantile: position(b"quantile"),
        });
        let index = &*index;
        self.scratch.schemas_by_names.insert_unique(hash, id, |&id| {
            hash_names(
                hasher,
                index.schema_names(id as usize).iter().map(|span| span.of(body)),
            )
        });
        names.sort_unstable_by(|a, b| a.of(body).cmp(b.of(body)));
        let set = hash_names(hasher, names.iter().map(|span| span.of(body)));
        // Two sets of one hash are taken for permutations: that only costs a second look.
        match self
            .scratch
            .schemas_by_set
            .entry(set, |&(other, _)| other == set, |&(hash, _)| hash)
        {
            hashbrown::hash_table::Entry::Occupied(_) => self.scratch.permuted = true,
            hashbrown::hash_table::Entry::Vacant(vacant) => {
                vacant.insert((set, id));
            }
        }
        Some(id)
    }

    /// Settles what could not be known earlier: TYPE lines that came after their samples, and where duplicates hide.
    pub(crate) fn finish(&mut self) {
        self.close_run();
        let mut moved_to: Vec<u32> = Vec::new();
        for id in 0..self.scratch.known.len() {
            let Known {
                named,
                suffix,
                group,
                schemas_vary,
                empty_values,
                ..
            } = self.scratch.known[id];
            if schemas_vary && (empty_values || self.scratch.permuted) {
                self.index.uncertain = true;
            }
            if suffix != Suffix::Unsuffixed {
                continue;
            }
            let (family, suffix) = self.belongs_to(named);
            if suffix != Suffix::Unsuffixed {
                let target = self.group(family);
                self.index.families[target as usize].suffixes.add(suffix.bit());
                let bounds = self.index.families[group as usize].notes & SourceFamily::BOUNDS;
                self.index.families[target as usize].notes |= bounds;
                moved_to.resize(self.index.families.len(), NONE);
                moved_to[group as usize] = target;
                self.scratch.known[id].group = target;
                self.scratch.known[id].suffix = suffix;
            }
        }
        if !moved_to.is_empty() {
            moved_to.resize(self.index.families.len(), NONE);
            for run in &mut self.index.runs {
                let target = moved_to[run.group as usize];
                if target != NONE {
                    run.group = target;
                }
            }
        }
        // A family without samples lends its HELP text to other targets (rule `help-and-unit`).
        for named in 0..self.scratch.names.len() {
            let entry = &self.scratch.names[named];
            if entry.group == NONE && entry.help.is_some_and(|help| !help.is_empty()) {
                self.group(to_u32(named));
            }
        }
        for (group, &named) in self.index.families.iter_mut().zip(&self.scratch.group_names) {
            let declared = &self.scratch.names[named as usize];
            group.kind = declared.kind;
            group.help = declared.help;
            group.unit = declared.unit;
            group.texts_key = declared.texts_hash;
        }
        for entry in &self.scratch.known {
            let group = &mut self.index.families[entry.group as usize];
            let lacks = match (entry.suffix, group.kind) {
                (Suffix::Bucket, _) => entry.without[0],
                (Suffix::Unsuffixed, Some(MetricType::Summary)) => entry.without[1],
                (Suffix::Unsuffixed, Some(MetricType::StateSet)) => entry.without[2],
                _ => false,
            };
            if lacks {
                group.notes |= SourceFamily::LACKS_LABEL;
            }
        }
        self.scratch.duplicates.mark(self.body, self.index);
        self.sort_runs();
    }

    fn sort_runs(&mut self) {
        let runs = &self.index.runs;
        self.index.run_order.extend(0..to_u32(runs.len()));
        self.index.run_order.sort_by_key(|&run| runs[run as usize].group);
        let mut from = 0;
        while from < self.index.run_order.len() {
            let group = self.index.runs[self.index.run_order[from] as usize].group;
            let len = self.index.run_order[from..]
                .iter()
                .take_while(|&&run| self.index.runs[run as usize].group == group)
                .count();
            self.index.families[group as usize].runs = (to_u32(from), to_u32(from + len));
            from += len;
        }
    }
}
