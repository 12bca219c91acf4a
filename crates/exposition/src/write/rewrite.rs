//! The slow path of the writer: a line parsed and put together again. It costs about eight times as much as a copy.

use super::copy::RunWriter;
use super::exemplar;
use crate::index::Sample;
use crate::merge::family;
use crate::relabel;
use crate::syntax::number;
use crate::syntax::sample_line::SampleLine;

/// Buffers of the slow path, used again from sample to sample.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    pub(super) line: SampleLine,
    pub(super) text: Vec<u8>,
}

impl RunWriter<'_> {
    /// Puts the line of a sample into `scratch.text`: labels added and renamed, name escaped, timestamp converted. The
    /// text is empty if the response format cannot hold the timestamp.
    pub(super) fn rewrite(&self, sample: Sample, scratch: &mut Scratch) {
        let Scratch { line, text: out } = scratch;
        out.clear();
        let body = &self.exposition.body;
        if line
            .parse(body, sample.start as usize, self.exposition.open_metrics)
            .is_err()
        {
            return;
        }
        let labels = relabel::relabel(body, line, &self.input.labels, self.format, self.bounds);
        let name = family::output_name(self.input, &line.name.decode(body), self.format);
        relabel::write_series(&name, &labels, out);
        out.push(b' ');
        out.extend_from_slice(line.value.of(body));
        if let Some(timestamp) = line.timestamp
            && !self.write_timestamp(timestamp.of(body), out)
        {
            out.clear();
            return;
        }
        if self.format.is_open_metrics() && line.exemplar.is_some() {
            let suffix = self
                .exposition
                .suffix(self.source_family(), &sample, &mut SampleLine::default());
            if exemplar::is_allowed(self.kind, suffix, line, body, self.format) {
                exemplar::write(line, body, out);
            }
        }
        out.push(b'\n');
    }

    /// Writes a blank and the timestamp; `false` if the response format cannot hold it.
    fn write_timestamp(&self, token: &[u8], out: &mut Vec<u8>) -> bool {
        out.push(b' ');
        if self.keeps_timestamps {
            out.extend_from_slice(token);
            return true;
        }
        if self.format.is_open_metrics() {
            let Some(millis) = number::parse_millis(token) else {
                return false;
            };
            number::write_seconds(millis, out);
        } else {
            let Some(millis) = number::seconds_to_millis(token) else {
                return false;
            };
            out.extend_from_slice(millis.to_string().as_bytes());
        }
        true
    }
}
