//! The slow path: any sample line, strictly. It decides what is accepted and why not.

use super::hash::hash_extend;
use super::scan::to_u32;
use super::{Parser, RejectionAt, reject};
use crate::index::Sample;
use crate::syntax::name;
use crate::syntax::sample_line::{SampleLine, Span};
use crate::types::SampleNameId;
use crate::{Limits, RejectionKind};

impl Parser<'_> {
    /// Parses the sample at `start` and returns the position of the next line.
    pub(super) fn parse_any(&mut self, start: usize) -> Result<usize, RejectionAt> {
        let mut line = std::mem::take(&mut self.scratch.line);
        let parsed = line.parse(self.body, start, self.open_metrics);
        let added = parsed
            .map_err(RejectionAt::from)
            .and_then(|()| self.add_line(start, &line));
        self.scratch.line = line;
        added
    }

    fn add_line(&mut self, start: usize, line: &SampleLine) -> Result<usize, RejectionAt> {
        self.check_limits(line)?;
        let body = self.body;
        let id = self.sample_name_id(line.name);
        let mut flags = 0;
        if line.timestamp.is_some() {
            flags |= Sample::TIMESTAMP;
            self.index.has_timestamps = true;
        }
        if line.exemplar.is_some() {
            flags |= Sample::EXEMPLAR;
        }
        let mut schema = None;
        let series_end = if let Some(series_end) = canonical_series_end(body, start, line) {
            if !line.labels.is_empty() {
                flags |= Sample::LABELS;
                schema = Some(self.schema_of(line)?);
            }
            self.note_schema(id, schema);
            series_end
        } else {
            flags |= Sample::NON_CANONICAL;
            self.note_non_canonical(id, line);
            // Blanks outside the labels or a last comma do not hide a duplicate. Anything else may.
            spaced_series_end(body, start, line).unwrap_or_else(|| {
                self.index.uncertain = true;
                line.series_end
            })
        };
        if line.labels.iter().any(|label| label.value.is_empty()) {
            self.scratch.sample_names[id].has_empty_values = true;
        }
        self.note_bounds(id, line);
        let end = line.timestamp.unwrap_or(line.value).end;
        let hash = self.line_hash(line, start, series_end);
        let sample = Sample::new(to_u32(start), to_u32(series_end), end, flags, schema);
        self.push_sample(id, sample, hash);
        Ok((line.end + 1).min(body.len()))
    }

    /// Notes the label names of a line that has no schema.
    fn note_non_canonical(&mut self, id: SampleNameId, line: &SampleLine) {
        let body = self.body;
        let index = &mut *self.index;
        index.quoted |= line.name.quoted || line.labels.iter().any(|label| label.name.quoted);
        index
            .non_canonical_label_names
            .extend(line.labels.iter().map(|label| label.name));
        let entry = &mut self.scratch.sample_names[id];
        entry.schemas_vary = true;
        let own_name = self.scratch.names[entry.name].name.decode(body);
        let has = |wanted: &[u8]| {
            line.labels
                .iter()
                .any(|label| *label.name.decode(body) == *wanted)
        };
        entry.lacks.le |= !has(b"le");
        entry.lacks.quantile |= !has(b"quantile");
        entry.lacks.own_name |= !has(&own_name);
    }

    fn note_bounds(&mut self, id: SampleNameId, line: &SampleLine) {
        let body = self.body;
        let Some(wanted) = self.context.label() else {
            return;
        };
        let family = self.scratch.sample_names[id].family;
        for label in &line.labels {
            if *label.name.decode(body) == *wanted {
                let text = &body[label.value.start as usize..];
                self.bounds
                    .add(text, label.value.len(), family, 0, &mut self.index.families);
            }
        }
    }

    /// The hash of a series without labels. Names do not count: see [`Parser::push_sample`].
    pub(super) fn unlabelled_hash(&self, name_len: usize) -> u64 {
        self.seed ^ name_len as u64
    }

    /// The hash that the fast path gives to a series of the same bytes.
    fn line_hash(&self, line: &SampleLine, start: usize, series_end: usize) -> u64 {
        let text = &self.body[start..];
        let series_len = series_end - start;
        if line.name.quoted || line.name.span.start as usize != start {
            return hash_extend(self.seed, text, 0, series_len, self.key);
        }
        let Some(last) = line.labels.last() else {
            return self.unlabelled_hash(line.name.span.len());
        };
        let value = last.value.start as usize - start;
        let prefix = hash_extend(self.seed, text, 0, value, self.key);
        hash_extend(prefix, text, value, series_len, self.key)
    }

    fn check_limits(&self, line: &SampleLine) -> Result<(), RejectionAt> {
        let Limits {
            max_labels,
            max_label_name_length,
            max_label_value_length,
            ..
        } = *self.limits;
        let at = line.name.span.start as usize;
        let body = self.body;
        let over = |len: usize, limit: u64| limit > 0 && len as u64 > limit;
        if over(line.labels.len(), max_labels) {
            let reason = format!("{} labels where {max_labels} are allowed", line.labels.len());
            return reject(RejectionKind::Labels, at, reason);
        }
        for label in &line.labels {
            let at = label.name.span.start as usize;
            if over(label.name.decode(body).len(), max_label_name_length) {
                let reason = format!("a label name longer than {max_label_name_length} bytes");
                return reject(RejectionKind::LabelNameLength, at, reason);
            }
            if over(name::unescape(label.value.of(body)).len(), max_label_value_length) {
                let reason = format!("a label value longer than {max_label_value_length} bytes");
                return reject(RejectionKind::LabelValueLength, at, reason);
            }
        }
        // To Prometheus the metric name is the value of the label __name__, and so has the limit of a value.
        if over(line.name.decode(body).len(), max_label_value_length) {
            let reason = format!("a metric name longer than {max_label_value_length} bytes");
            return reject(RejectionKind::LabelValueLength, at, reason);
        }
        Ok(())
    }
}

/// Where labels can be added to a canonical line; `None` for any other line.
fn canonical_series_end(body: &[u8], start: usize, line: &SampleLine) -> Option<usize> {
    if line.name.quoted || line.name.span.start as usize != start {
        return None;
    }
    let mut at = line.name.span.end as usize;
    let mut series_end = at;
    if line.series_end > at {
        for (index, label) in line.labels.iter().enumerate() {
            let expect = if index == 0 { b'{' } else { b',' };
            let named = label.name;
            if named.quoted
                || body[at] != expect
                || named.span.start as usize != at + 1
                || label.value.start != named.span.end + 2
                || !name::is_legal_value(label.value.of(body))
            {
                return None;
            }
            at = label.value.end as usize + 1;
        }
        if line.labels.is_empty() || body[at] != b'}' {
            return None;
        }
        series_end = at;
        at += 1;
    }
    let spaced = |span: Span, at: usize| span.start as usize == at + 1 && body[at] == b' ';
    if !spaced(line.value, at) {
        return None;
    }
    at = line.value.end as usize;
    if let Some(timestamp) = line.timestamp {
        if !spaced(timestamp, at) {
            return None;
        }
        at = timestamp.end as usize;
    }
    if line.exemplar.is_none() && at != line.end {
        return None;
    }
    Some(series_end)
}

/// The end of what identifies the series of a line that is canonical but for blanks outside its labels or a comma after
/// them; `None` for any other line.
fn spaced_series_end(body: &[u8], start: usize, line: &SampleLine) -> Option<usize> {
    if line.name.quoted || line.name.span.start as usize != start {
        return None;
    }
    let mut at = line.name.span.end as usize;
    for (index, label) in line.labels.iter().enumerate() {
        let expect = if index == 0 { b'{' } else { b',' };
        if label.name.quoted
            || body[at] != expect
            || label.name.span.start as usize != at + 1
            || label.value.start != label.name.span.end + 2
            || !name::is_legal_value(label.value.of(body))
        {
            return None;
        }
        at = label.value.end as usize + 1;
    }
    Some(at)
}
