//! HELP, TYPE and UNIT lines, and comments.

use super::hash::hash_extend;
use super::scan::quoted_end;
use super::{Parser, RejectionAt, Utf8, syntax_error};
use crate::syntax::name;
use crate::syntax::sample_line::{Name, Span};
use crate::types::{MetricType, NameId, TypeContext};

/// What a line declares, without the keyword.
struct Declaration {
    name: Name,
    text: Span,
    /// The position of the next line.
    next: usize,
}

impl Parser<'_> {
    /// Parses a line that starts with `#` and returns the position of the next line, or `None` after `# EOF`.
    pub(super) fn parse_comment(&mut self, start: usize) -> Result<Option<usize>, RejectionAt> {
        let body = self.body;
        let line_end = memchr::memchr(b'\n', &body[start..]).map_or(body.len(), |len| start + len);
        let line = &body[start..line_end];
        let next = (line_end + 1).min(body.len());
        if self.open_metrics {
            if line == b"# EOF" {
                if next == body.len() {
                    return Ok(None);
                }
                return syntax_error(next, "data after # EOF");
            }
            if line_end == body.len() {
                return syntax_error(start, "the body does not end with # EOF");
            }
        }
        let blank = |byte: &u8| *byte == b' ' || *byte == b'\t' && !self.open_metrics;
        let n_blanks = line[1..].iter().take_while(|byte| blank(byte)).count();
        let words = &line[1 + n_blanks..];
        let keyword = words.get(..4).unwrap_or_default();
        let is_keyword = matches!(keyword, b"HELP" | b"TYPE") || self.open_metrics && keyword == b"UNIT";
        let is_spaced =
            n_blanks > 0 && (!self.open_metrics || n_blanks == 1) && words.get(4).is_some_and(blank);
        if !(is_keyword && is_spaced) {
            if self.open_metrics {
                return syntax_error(start, "a comment, which OpenMetrics does not have");
            }
            if let Some(nul) = memchr::memchr(0, line) {
                return syntax_error(start + nul, "a NUL in a comment");
            }
            return Ok(Some(next));
        }
        let mut at = start + 1 + n_blanks + 5;
        if !self.open_metrics {
            at += body[at..line_end].iter().take_while(|byte| blank(byte)).count();
        }
        let declaration = self.parse_declaration(at, line_end)?;
        match keyword {
            b"TYPE" => self.declare_type(&declaration)?,
            b"HELP" => self.declare_help(&declaration)?,
            _ => self.declare_unit(&declaration)?,
        }
        Ok(Some(declaration.next))
    }

    /// Parses what follows the keyword: a name and a text.
    fn parse_declaration(&self, at: usize, line_end: usize) -> Result<Declaration, RejectionAt> {
        let body = self.body;
        let (name, after) = if body.get(at) == Some(&b'"') {
            let Some(end) = quoted_end(body, at) else {
                return syntax_error(at, "a quoted name does not end");
            };
            let span = Span::new(at + 1, end - 1);
            (Name { span, quoted: true }, end)
        } else {
            let len = name::metric_name_len(&body[at..line_end]);
            if len == 0 {
                return syntax_error(at, "no metric name after HELP, TYPE or UNIT");
            }
            let span = Span::new(at, at + len);
            (Name { span, quoted: false }, at + len)
        };
        // A quoted name may contain line feeds, so that the line ends later than at its first one.
        let line_end = if after <= line_end {
            line_end
        } else {
            memchr::memchr(b'\n', &body[after..]).map_or(body.len(), |len| after + len)
        };
        if self.open_metrics && body.get(after) != Some(&b' ') {
            return syntax_error(after, "no blank after the metric name");
        }
        Ok(Declaration {
            name,
            // Prometheus cuts off exactly one byte, whatever it is.
            text: Span::new((after + 1).min(line_end), line_end),
            next: (line_end + 1).min(body.len()),
        })
    }

    fn declare_type(&mut self, declaration: &Declaration) -> Result<(), RejectionAt> {
        let id = self.declare(declaration.name);
        let text = declaration.text;
        let Some(kind) = MetricType::parse(text.of(self.body), self.open_metrics) else {
            return syntax_error(text.start as usize, "an unknown metric type");
        };
        self.context = TypeContext::of(kind);
        self.context_changed = true;
        self.scratch.names[id].kind.get_or_insert(kind);
        Ok(())
    }

    fn declare_help(&mut self, declaration: &Declaration) -> Result<(), RejectionAt> {
        let id = self.declare(declaration.name);
        let text = declaration.text.of(self.body);
        if self.utf8 != Utf8::Valid && std::str::from_utf8(text).is_err() {
            return syntax_error(declaration.text.start as usize, "the help text is not UTF-8");
        }
        let hash = hash_extend(self.seed, text, 0, text.len(), self.key);
        let entry = &mut self.scratch.names[id];
        if entry.help.is_none() {
            entry.help = Some(declaration.text);
            entry.texts_key ^= hash;
        }
        Ok(())
    }

    fn declare_unit(&mut self, declaration: &Declaration) -> Result<(), RejectionAt> {
        let id = self.declare(declaration.name);
        let unit = declaration.text.of(self.body);
        let stem = declaration.name.span.of(self.body).strip_suffix(unit);
        if !unit.is_empty() && !stem.is_some_and(|stem| stem.ends_with(b"_")) {
            return syntax_error(
                declaration.text.start as usize,
                "the unit is not the end of the metric's name",
            );
        }
        // The keys are swapped, so that a unit never has the hash of an equal help text.
        let hash = hash_extend(self.key, unit, 0, unit.len(), self.seed);
        let entry = &mut self.scratch.names[id];
        if entry.unit.is_none() {
            entry.unit = Some(declaration.text);
            entry.texts_key ^= hash;
        }
        Ok(())
    }

    fn declare(&mut self, name: Name) -> NameId {
        let decoded = name.decode(self.body);
        let id = self
            .declared_as(&decoded)
            .unwrap_or_else(|| self.name_id(name, &decoded));
        self.declared = Some(id);
        id
    }
}
