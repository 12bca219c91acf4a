//! One sample line, parsed as strictly as Prometheus' lexers do.
//!
//! This parser decides what is accepted. The fast path of `parse` handles canonical lines and leaves all others to it; the
//! merge and the writer use it for non-canonical lines too.
//!
//! Source: prometheus, model/textparse/promlex.l, promparse.go, openmetricslex.l, openmetricsparse.go.

use std::borrow::Cow;

use crate::syntax::name;
use crate::syntax::number;

/// A range of the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Span {
    pub(crate) start: u32,
    pub(crate) end: u32,
}

impl Span {
    /// Offsets fit into 32 bits: larger bodies are rejected before they are parsed (`parse::MAX_BODY_BYTES`).
    #[allow(
        clippy::cast_possible_truncation,
        reason = "bodies are shorter than 4 GiB, see MAX_BODY_BYTES"
    )]
    pub(crate) fn new(start: usize, end: usize) -> Self {
        Self {
            start: start as u32,
            end: end as u32,
        }
    }

    pub(crate) fn of(self, body: &[u8]) -> &[u8] {
        &body[self.start as usize..self.end as usize]
    }

    pub(crate) fn len(self) -> usize {
        (self.end - self.start) as usize
    }

    pub(crate) fn is_empty(self) -> bool {
        self.start == self.end
    }
}

/// A name in the body: unquoted, or the inside of a quoted string.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Name {
    pub(crate) span: Span,
    pub(crate) quoted: bool,
}

impl Name {
    pub(crate) fn decode(self, body: &[u8]) -> Cow<'_, [u8]> {
        if self.quoted {
            name::unescape(self.span.of(body))
        } else {
            Cow::Borrowed(self.span.of(body))
        }
    }
}

/// One label. The value is without its quotes, but with its escapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Label {
    pub(crate) name: Name,
    pub(crate) value: Span,
}

/// The parts of a sample line. Reused from line to line, so that its vectors are allocated once.
#[derive(Debug, Default)]
pub(crate) struct SampleLine {
    pub(crate) name: Name,
    pub(crate) labels: Vec<Label>,
    pub(crate) value: Span,
    pub(crate) timestamp: Option<Span>,
    /// The exemplar, from its `#` to the end of the line.
    pub(crate) exemplar: Option<Span>,
    /// The labels of the exemplar.
    pub(crate) exemplar_labels: Vec<Label>,
    /// The position after the closing brace, or after the name where there are no braces.
    pub(crate) series_end: usize,
    /// The position of the line feed, or the end of the body.
    pub(crate) end: usize,
}

/// Why a line is not accepted, and at which byte of the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ParseError {
    pub(crate) at: usize,
    pub(crate) reason: Cow<'static, str>,
}

pub(crate) fn syntax_error<T>(at: usize, reason: impl Into<Cow<'static, str>>) -> Result<T, ParseError> {
    Err(ParseError {
        at,
        reason: reason.into(),
    })
}

fn blanks(body: &[u8], at: usize) -> usize {
    at + body[at..]
        .iter()
        .take_while(|&&byte| byte == b' ' || byte == b'\t')
        .count()
}

impl SampleLine {
    /// Parses the sample line that starts at `start`, as OpenMetrics or in the text format.
    pub(crate) fn parse(&mut self, body: &[u8], start: usize, open_metrics: bool) -> Result<(), ParseError> {
        self.labels.clear();
        self.exemplar_labels.clear();
        self.timestamp = None;
        self.exemplar = None;
        let mut at = start;
        let mut named = None;
        if body.get(at) != Some(&b'{') {
            let len = name::metric_name_len(&body[at..]);
            if len == 0 {
                return syntax_error(at, "no metric name at the start of the line");
            }
            named = Some(Name {
                span: Span::new(at, at + len),
                quoted: false,
            });
            at += len;
        }
        self.series_end = at;
        if !open_metrics {
            at = blanks(body, at);
        }
        if body.get(at) == Some(&b'{') {
            at = parse_labels(body, at + 1, open_metrics, false, &mut named, &mut self.labels)?;
            self.series_end = at;
        }
        let Some(named) = named else {
            return syntax_error(start, "no metric name");
        };
        self.name = named;
        self.end = if open_metrics {
            self.parse_tail_open_metrics(body, at)?
        } else {
            self.parse_tail_text(body, at)?
        };
        self.check_names(body)
    }

    fn parse_tail_text(&mut self, body: &[u8], at: usize) -> Result<usize, ParseError> {
        let start = blanks(body, at);
        let len = body[start..]
            .iter()
            .take_while(|byte| !matches!(byte, b' ' | b'\t' | b'\n' | b'{'))
            .count();
        if len == 0 {
            return syntax_error(start, "no value");
        }
        if !number::is_float(&body[start..start + len]) {
            return syntax_error(start, "the value is not a number");
        }
        self.value = Span::new(start, start + len);
        let at = blanks(body, start + len);
        if at == body.len() || body[at] == b'\n' {
            return Ok(at);
        }
        let digits = body[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let end = blanks(body, at + digits);
        if number::parse_millis(&body[at..at + digits]).is_none() || end < body.len() && body[end] != b'\n' {
            return syntax_error(at, "what follows the value is not a timestamp in milliseconds");
        }
        self.timestamp = Some(Span::new(at, at + digits));
        Ok(end)
    }

    fn parse_tail_open_metrics(&mut self, body: &[u8], at: usize) -> Result<usize, ParseError> {
        let (value, mut at) = parse_token(body, at, "no value after one space")?;
        if !number::is_float(value.of(body)) {
            return syntax_error(value.start as usize, "the value is not a number");
        }
        self.value = value;
        if body.get(at) == Some(&b' ') && !body[at..].starts_with(b" # {") {
            let (timestamp, after) = parse_token(body, at, "a blank at the end of the line")?;
            if !number::is_seconds(timestamp.of(body)) {
                return syntax_error(
                    timestamp.start as usize,
                    "the timestamp is not a number of seconds",
                );
            }
            self.timestamp = Some(timestamp);
            at = after;
        }
        if body[at..].starts_with(b" # {") {
            let start = at + 1;
            let inside = start + 3;
            let after = parse_labels(body, inside, true, true, &mut None, &mut self.exemplar_labels)?;
            let (value, after) = parse_token(body, after, "no value after the exemplar's labels")?;
            if !number::is_float(value.of(body)) {
                return syntax_error(value.start as usize, "the exemplar's value is not a number");
            }
            at = after;
            if body.get(at) == Some(&b' ') {
                let (timestamp, after) = parse_token(body, at, "a blank at the end of the line")?;
                if !number::is_seconds(timestamp.of(body)) {
                    return syntax_error(
                        timestamp.start as usize,
                        "the exemplar's timestamp is not a number of seconds",
                    );
                }
                at = after;
            }
            self.exemplar = Some(Span::new(start, at));
        }
        match body.get(at) {
            Some(b'\n') => Ok(at),
            Some(_) => syntax_error(at, "the line does not end where it should"),
            None => syntax_error(at, "the body does not end with # EOF"),
        }
    }

    /// Checks what Prometheus rejects after parsing: empty names, `__name__` as a label, a label name that occurs twice.
    fn check_names(&self, body: &[u8]) -> Result<(), ParseError> {
        let name = self.name.decode(body);
        if name.is_empty() || self.name.quoted && std::str::from_utf8(&name).is_err() {
            return syntax_error(
                self.name.span.start as usize,
                "the metric name is empty or not UTF-8",
            );
        }
        for label in &self.labels {
            let at = label.name.span.start as usize;
            let name = label.name.decode(body);
            if name.is_empty() || label.name.quoted && std::str::from_utf8(&name).is_err() {
                return syntax_error(at, "a label name is empty or not UTF-8");
            }
            if &*name == b"__name__" {
                return syntax_error(at, "a label __name__ beside the metric name");
            }
        }
        if let Some(twice) = find_twice(body, &self.labels) {
            return syntax_error(twice.name.span.start as usize, "a label name occurs twice");
        }
        Ok(())
    }
}

/// The first label with the name of another label, whatever the quoting.
pub(crate) fn find_twice<'a>(body: &[u8], labels: &'a [Label]) -> Option<&'a Label> {
    if labels.len() <= 8 {
        return labels.iter().enumerate().find_map(|(index, label)| {
            let name = label.name.decode(body);
            labels[..index]
                .iter()
                .any(|other| other.name.decode(body) == name)
                .then_some(label)
        });
    }
    // Sorting keeps the time for a line of a million labels in proportion to its length.
    let mut names: Vec<_> = labels
        .iter()
        .map(|label| (label.name.decode(body), label))
        .collect();
    names.sort_by(|a, b| a.0.cmp(&b.0));
    names
        .windows(2)
        .find(|pair| pair[0].0 == pair[1].0)
        .map(|pair| pair[1].1)
}

/// Parses one space and the token after it, which ends before the next space or line feed.
fn parse_token(body: &[u8], at: usize, missing: &'static str) -> Result<(Span, usize), ParseError> {
    if body.get(at) != Some(&b' ') {
        return syntax_error(at, missing);
    }
    let len = body[at + 1..]
        .iter()
        .take_while(|byte| !matches!(byte, b' ' | b'\n'))
        .count();
    if len == 0 {
        return syntax_error(at, missing);
    }
    Ok((Span::new(at + 1, at + 1 + len), at + 1 + len))
}

/// Parses the labels after an opening brace, and the closing brace.
fn parse_labels(
    body: &[u8],
    mut at: usize,
    open_metrics: bool,
    exemplar: bool,
    named: &mut Option<Name>,
    labels: &mut Vec<Label>,
) -> Result<usize, ParseError> {
    let skip = |at: usize| if open_metrics { at } else { blanks(body, at) };
    loop {
        at = skip(at);
        let name = match body.get(at) {
            Some(b'}') => return Ok(at + 1),
            Some(b'"') => {
                let end = parse_quoted(body, at, open_metrics)?;
                Name {
                    span: Span::new(at + 1, end - 1),
                    quoted: true,
                }
            }
            _ => {
                let len = name::label_name_len(&body[at..]);
                if len == 0 {
                    return syntax_error(at, "no label name where one should be");
                }
                Name {
                    span: Span::new(at, at + len),
                    quoted: false,
                }
            }
        };
        at = skip(name.span.end as usize + usize::from(name.quoted));
        match body.get(at) {
            Some(b',' | b'}') if name.quoted && !exemplar => {
                if named.replace(name).is_some() {
                    return syntax_error(name.span.start as usize, "a second metric name");
                }
                if body[at] == b',' {
                    at += 1;
                }
                continue;
            }
            Some(b'=') => {}
            _ => return syntax_error(at, "no = after a label name"),
        }
        at = skip(at + 1);
        if body.get(at) != Some(&b'"') {
            return syntax_error(at, "a label value is not quoted");
        }
        let end = parse_quoted(body, at, open_metrics)?;
        let value = Span::new(at + 1, end - 1);
        if std::str::from_utf8(value.of(body)).is_err() {
            return syntax_error(at, "a label value is not UTF-8");
        }
        labels.push(Label { name, value });
        at = skip(end);
        match body.get(at) {
            Some(b',') => at += 1,
            Some(b'}') => {}
            // The lexer of the text format accepts `{a="1"b="2"}`. Only that of OpenMetrics demands the comma.
            Some(_) if !open_metrics => {}
            _ => return syntax_error(at, "no comma after a label value"),
        }
    }
}

/// The position after the closing quote of the string that starts at `at`.
fn parse_quoted(body: &[u8], at: usize, open_metrics: bool) -> Result<usize, ParseError> {
    let mut from = at + 1;
    loop {
        let Some(found) = memchr::memchr3(b'"', b'\\', b'\n', &body[from..]) else {
            return syntax_error(at, "a quoted string does not end");
        };
        from += found;
        match body[from] {
            b'"' => return Ok(from + 1),
            b'\n' if open_metrics => return syntax_error(at, "a line feed inside a quoted string"),
            b'\n' => from += 1,
            _ if matches!(body.get(from + 1), None | Some(b'\n')) => {
                return syntax_error(from, "a backslash before the end of the line");
            }
            _ => from += 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str, open_metrics: bool) -> Result<String, Cow<'static, str>> {
        let mut line = SampleLine::default();
        let body = text.as_bytes();
        line.parse(body, 0, open_metrics).map_err(|error| error.reason)?;
        let text = |span: Span| String::from_utf8_lossy(span.of(body)).into_owned();
        let mut out = text(line.name.span);
        for label in &line.labels {
            out += &format!("|{}={}", text(label.name.span), text(label.value));
        }
        out += &format!(" {}", text(line.value));
        if let Some(timestamp) = line.timestamp {
            out += &format!(" @{}", text(timestamp));
        }
        if let Some(exemplar) = line.exemplar {
            out += &format!(" {}", text(exemplar));
        }
        Ok(out)
    }

    #[test]
    fn text_lines_are_read_as_prometheus_lexes_them() {
        for (given, expect) in [
            ("a 1", "a 1"),
            ("a\t 1 \t 5  ", "a 1 @5"),
            ("a{}1", "a 1"),
            ("a+1", "a +1"),
            ("a { b = \"c\" , d=\"e\" , } 1", "a|b=c|d=e 1"),
            ("a{b=\"1\"c=\"2\"} 1", "a|b=1|c=2 1"),
            ("a{b=\"x\ny\"} 1", "a|b=x\ny 1"),
            ("a{b=\"C:\\dir\"} 1", "a|b=C:\\dir 1"),
            (
                "{\"my.metric\",\"label.x\"=\"v\",plain=\"p\"} 1",
                "my.metric|label.x=v|plain=p 1",
            ),
            ("{a=\"1\",\"m\"} 1", "m|a=1 1"),
            ("{\"m\",} 1", "m 1"),
        ] {
            assert_eq!(parsed(given, false).as_deref(), Ok(expect), "{given}");
        }
        for (given, reason) in [
            ("a", "no value"),
            ("a ", "no value"),
            ("a x", "the value is not a number"),
            (
                "a 1 x",
                "what follows the value is not a timestamp in milliseconds",
            ),
            (
                "a 1 -5",
                "what follows the value is not a timestamp in milliseconds",
            ),
            (
                "a 1 1.5",
                "what follows the value is not a timestamp in milliseconds",
            ),
            (
                "a 1 5 6",
                "what follows the value is not a timestamp in milliseconds",
            ),
            ("a{,} 1", "no label name where one should be"),
            ("a{b=\"c\",,} 1", "no label name where one should be"),
            ("a{,b=\"c\"} 1", "no label name where one should be"),
            ("a{b=c} 1", "a label value is not quoted"),
            ("a{b} 1", "no = after a label name"),
            ("a{\"n\"} 1", "a second metric name"),
            ("{\"a\",\"b\"} 1", "a second metric name"),
            ("{} 1", "no metric name"),
            ("{b=\"c\"} 1", "no metric name"),
            ("{\"\"} 1", "the metric name is empty or not UTF-8"),
            ("a{\"\"=\"v\"} 1", "a label name is empty or not UTF-8"),
            ("a{b=\"1\",b=\"2\"} 1", "a label name occurs twice"),
            ("a{\"b\"=\"1\",b=\"2\"} 1", "a label name occurs twice"),
            ("a{__name__=\"x\"} 1", "a label __name__ beside the metric name"),
            ("a{b=\"c} 1", "a quoted string does not end"),
            ("1a 1", "no metric name at the start of the line"),
            ("-a 1", "no metric name at the start of the line"),
            ("a 1\r", "the value is not a number"),
            (
                "a 1 5\r",
                "what follows the value is not a timestamp in milliseconds",
            ),
            ("a{b=\"c\"", "no comma after a label value"),
            (
                "a 1 # {x=\"y\"} 1",
                "what follows the value is not a timestamp in milliseconds",
            ),
            ("a{a:b=\"c\"} 1", "no = after a label name"),
        ] {
            assert_eq!(parsed(given, false), Err(Cow::Borrowed(reason)), "{given}");
        }
    }

    #[test]
    fn openmetrics_lines_are_read_without_any_slack() {
        for (given, expect) in [
            ("a 1\n", "a 1"),
            ("a{b=\"c\",} 1\n", "a|b=c 1"),
            ("a 1 -1.5\n", "a 1 @-1.5"),
            (
                "a{b=\"c\"} 1 5 # {t=\"x}\\\"\"} 0.5 1.25\n",
                "a|b=c 1 @5 # {t=\"x}\\\"\"} 0.5 1.25",
            ),
            ("a 1 # {} 1\n", "a 1 # {} 1"),
            ("{\"a.b\",c=\"d\"} 1\n", "a.b|c=d 1"),
        ] {
            assert_eq!(parsed(given, true).as_deref(), Ok(expect), "{given}");
        }
        for (given, reason) in [
            ("a 1", "the body does not end with # EOF"),
            ("a  1\n", "no value after one space"),
            ("a\t1\n", "no value after one space"),
            ("a{} 1 \n", "a blank at the end of the line"),
            ("a{ b=\"c\"} 1\n", "no label name where one should be"),
            ("a{b=\"c\"}1\n", "no value after one space"),
            ("a 1\r\n", "the value is not a number"),
            ("a 1 NaN\n", "the timestamp is not a number of seconds"),
            ("a 1 Inf\n", "the timestamp is not a number of seconds"),
            ("a{b=\"1\"c=\"2\"} 1\n", "no comma after a label value"),
            ("a{b=\"x\ny\"} 1\n", "a line feed inside a quoted string"),
            ("a 1 #{x=\"y\"} 1\n", "the timestamp is not a number of seconds"),
            ("a 1 # {x=\"y\"}\n", "no value after the exemplar's labels"),
            (
                "a 1 # {x=\"y\"} 1 NaN\n",
                "the exemplar's timestamp is not a number of seconds",
            ),
            ("a 1 # {\"x\"} 1\n", "no = after a label name"),
            ("a 1 # {x=\"y\"} 1 2 3\n", "the line does not end where it should"),
            ("a {b=\"c\"} 1\n", "the value is not a number"),
        ] {
            assert_eq!(parsed(given, true), Err(Cow::Borrowed(reason)), "{given}");
        }
    }

    #[test]
    fn many_labels_are_compared_in_bounded_time() {
        let mut text = String::from("a{");
        for index in 0..50_000 {
            text += &format!("l{index}=\"\",");
        }
        assert!(parsed(&format!("{text}}} 1"), false).is_ok());
        assert_eq!(
            parsed(&format!("{text}l7=\"\"}} 1"), false),
            Err(Cow::Borrowed("a label name occurs twice"))
        );
    }
}
