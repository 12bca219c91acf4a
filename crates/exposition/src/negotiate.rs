//! What our own client wants, and what we ask targets for on its behalf (core).
//!
//! Source: exposition.md 3 and 4, whose header table the tests below repeat.

use crate::syntax::name::Escaping;

/// The two formats of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// Prometheus text 0.0.4.
    #[default]
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

/// How to answer one request, from its headers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "traits of a client, each of which it has or has not"
)]
pub struct Answer {
    pub(crate) format: Format,
    pub(crate) escaping: Escaping,
    /// `escaping=` was asked for, so the Content-Type repeats it.
    pub(crate) escaping_named: bool,
    /// Respells `le` and `quantile` by the TYPE above them, as Prometheus 3 does.
    pub(crate) prometheus_3: bool,
    /// Prometheus itself, of any version.
    pub(crate) prometheus: bool,
    /// Takes an empty `exported_<name>` for taken when it renames a label, as Prometheus 2.42 does; 3 does not.
    pub(crate) empty_is_taken: bool,
    gzip: bool,
}

/// Reads the request headers that decide the answer. Never fails: what cannot be read is ignored, and a client that
/// asks for nothing gets text 0.0.4, uncompressed, with old names.
pub fn negotiate(accept: Option<&str>, accept_encoding: Option<&str>, user_agent: Option<&str>) -> Answer {
    let mut text: Option<Wanted> = None;
    let mut open_metrics: Option<Wanted> = None;
    let mut any_escaping = false;
    for range in split_outside_quotes(accept.unwrap_or_default(), ',') {
        let Some(wanted) = parse_range(range) else {
            continue;
        };
        any_escaping |= wanted.escaping_named;
        let best = match wanted.media {
            Media::Text => &mut text,
            Media::OpenMetrics => &mut open_metrics,
            Media::Other => continue,
        };
        if wanted.quality > 0.0 && best.is_none_or(|best| wanted.quality > best.quality) {
            *best = Some(wanted);
        }
    }
    let (format, wanted) = match (text, open_metrics) {
        (Some(text), Some(open)) if text.quality > open.quality => (Format::Text, Some(text)),
        (_, Some(open)) => (Format::OpenMetrics, Some(open)),
        (text, None) => (Format::Text, text),
    };
    // Prometheus 3.4 and later name the escaping on some of the ranges only; it holds for all that it sends.
    let escaping = wanted.map_or(Escaping::default(), |wanted| wanted.escaping);
    let agent = user_agent.unwrap_or_default();
    let version = agent
        .split_whitespace()
        .find_map(|product| product.strip_prefix("Prometheus/"));
    let mut numbers = version
        .unwrap_or_default()
        .split('.')
        .map(|number| number.parse::<u32>().ok());
    let (major, minor) = (numbers.next().flatten(), numbers.next().flatten());
    Answer {
        format,
        escaping,
        escaping_named: wanted.is_some_and(|wanted| wanted.escaping_named),
        // A build without a version stamp is one of today.
        prometheus_3: any_escaping || version == Some("") || major.is_some_and(|major| major >= 3),
        prometheus: version.is_some(),
        empty_is_taken: major == Some(2) && minor.is_some_and(|minor| minor < 43),
        gzip: accepts_gzip(accept_encoding.unwrap_or_default()),
    }
}

impl Answer {
    /// An answer of this format for nobody in particular, as the command `merge` writes it.
    pub fn plain(format: Format, escaping: Escaping) -> Self {
        Self {
            format,
            escaping,
            escaping_named: escaping != Escaping::default(),
            ..Self::default()
        }
    }

    /// The format that the answer is written in.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The exact Content-Type of the answer.
    pub fn content_type(&self) -> &'static str {
        macro_rules! with_escaping {
            ($base:literal) => {
                match (self.escaping_named, self.escaping) {
                    (false, _) => $base,
                    (true, Escaping::AllowUtf8) => concat!($base, "; escaping=allow-utf-8"),
                    (true, Escaping::Underscores) => concat!($base, "; escaping=underscores"),
                    (true, Escaping::Dots) => concat!($base, "; escaping=dots"),
                    (true, Escaping::Values) => concat!($base, "; escaping=values"),
                }
            };
        }
        match self.format {
            Format::Text => with_escaping!("text/plain; version=0.0.4; charset=utf-8"),
            Format::OpenMetrics => {
                with_escaping!("application/openmetrics-text; version=1.0.0; charset=utf-8")
            }
        }
    }

    /// Whether the body is compressed.
    pub fn gzip(&self) -> bool {
        self.gzip
    }

    /// The Accept header for targets: both formats, the client's own first, since some libraries write `le="1"` in
    /// text and `le="1.0"` in OpenMetrics. The client's escaping is passed on.
    pub fn target_accept(&self) -> String {
        let quoted = self
            .escaping_named
            .then(|| format!(";escaping={}", self.escaping.as_str()));
        let escaping = quoted.as_deref().unwrap_or_default();
        // Only a client that knows of escaping knows text 1.0.0.
        let text = |q: &str, q_old: &str| match &quoted {
            Some(escaping) => {
                format!("text/plain;version=1.0.0{escaping};q={q},text/plain;version=0.0.4;q={q_old}")
            }
            None => format!("text/plain;version=0.0.4;q={q}"),
        };
        let open_metrics = |q: &str, q_old: &str| {
            format!(
                "application/openmetrics-text;version=1.0.0{escaping};q={q},\
                 application/openmetrics-text;version=0.0.1;q={q_old}"
            )
        };
        let (first, second) = match self.format {
            Format::OpenMetrics => (open_metrics("0.6", "0.5"), text("0.4", "0.3")),
            Format::Text => (text("0.6", "0.5"), open_metrics("0.4", "0.3")),
        };
        format!("{first},{second},*/*;q=0.1")
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Media {
    Text,
    OpenMetrics,
    Other,
}

#[derive(Clone, Copy)]
struct Wanted {
    media: Media,
    quality: f64,
    escaping: Escaping,
    escaping_named: bool,
}

fn parse_range(range: &str) -> Option<Wanted> {
    let mut pieces = split_outside_quotes(range, ';');
    let media = pieces.next()?.trim();
    let mut version = String::new();
    let mut wanted = Wanted {
        media: Media::Other,
        quality: 1.0,
        escaping: Escaping::default(),
        escaping_named: false,
    };
    for piece in pieces {
        let Some((key, value)) = piece.split_once('=') else {
            continue;
        };
        let value = value.trim().trim_matches('"');
        match key.trim().to_ascii_lowercase().as_str() {
            "q" => {
                // Prometheus 2.49 sends `q=2`; a weight that is none counts as 0.
                let quality = value.parse::<f64>().ok().filter(|quality| quality.is_finite());
                wanted.quality = quality.unwrap_or(0.0).clamp(0.0, 1.0);
            }
            "version" => value.clone_into(&mut version),
            "escaping" => {
                wanted.escaping_named = true;
                wanted.escaping = match value {
                    "allow-utf-8" => Escaping::AllowUtf8,
                    "dots" => Escaping::Dots,
                    "values" => Escaping::Values,
                    _ => Escaping::Underscores,
                };
            }
            _ => {}
        }
    }
    wanted.media = match media.to_ascii_lowercase().as_str() {
        "application/openmetrics-text" if matches!(version.as_str(), "" | "1.0.0" | "0.0.1") => {
            Media::OpenMetrics
        }
        "text/plain" if matches!(version.as_str(), "" | "1.0.0" | "0.0.4") => Media::Text,
        _ => Media::Other,
    };
    Some(wanted)
}

fn split_outside_quotes(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    text.split(move |c| {
        if c == '"' {
            quoted = !quoted;
        }
        c == separator && !quoted
    })
}

fn accepts_gzip(header: &str) -> bool {
    let mut any = None;
    for item in header.split(',') {
        let mut pieces = item.split(';');
        let coding = pieces.next().unwrap_or_default().trim().to_ascii_lowercase();
        let quality = pieces
            .filter_map(|piece| piece.split_once('='))
            .find(|(key, _)| key.trim().eq_ignore_ascii_case("q"))
            .map_or(1.0, |(_, value)| value.trim().parse().unwrap_or(0.0));
        match coding.as_str() {
            "gzip" => return quality > 0.0,
            "*" => any = Some(quality > 0.0),
            _ => {}
        }
    }
    any.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OM: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

    #[track_caller]
    fn check(accept: &str, agent: &str, content_type: &str, prometheus_3: bool) -> Answer {
        let answer = negotiate(Some(accept), Some("gzip"), Some(agent));
        assert_eq!(answer.content_type(), content_type);
        assert_eq!(answer.prometheus_3, prometheus_3);
        assert!(answer.gzip());
        answer
    }

    #[test]
    fn the_headers_that_clients_send() {
        let p2 = "Prometheus/2.42.0+ds";
        let utf8 = |base: &str| format!("{base}; escaping=allow-utf-8");
        check(
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            p2,
            OM,
            false,
        );
        check(
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited,application/openmetrics-text;version=1.0.0;q=0.8,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            p2,
            OM,
            false,
        );
        check(
            "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=2",
            "Prometheus/2.49.0",
            OM,
            false,
        );
        check(
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;escaping=allow-utf-8;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;escaping=allow-utf-8;q=0.3,*/*;q=0.2",
            "Prometheus/3.0.0",
            &utf8(OM),
            true,
        );
        check(
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
            "otelcol-contrib/0.130",
            &utf8(OM),
            true,
        );
        check(
            "application/openmetrics-text;version=1.0.0;escaping=underscores;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=underscores;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
            "Prometheus/3.7.3",
            &format!("{OM}; escaping=underscores"),
            true,
        );
        check(
            "text/plain;version=0.0.4;q=0.6,*/*;q=0.5",
            "Prometheus/3.7.3",
            TEXT,
            true,
        );
        check(
            "text/plain;version=0.0.4;q=0.6,*/*;q=0.5",
            "Prometheus/",
            TEXT,
            true,
        );
        check("text/plain;version=0.0.4;q=0.6,*/*;q=0.5", p2, TEXT, false);
        check(
            "text/plain;version=0.0.4;q=1,*/*;q=0.1",
            "vm_promscrape",
            TEXT,
            false,
        );
        check("*/*", "curl/8", TEXT, false);
        check(
            "text/plain;version=1.0.0;escaping=allow-utf-8",
            "x",
            &utf8(TEXT),
            true,
        );
        check("application/openmetrics-text", "x", OM, false);
        check("application/openmetrics-text;version=2.0.0", "x", TEXT, false);
        check(
            "application/openmetrics-text;q=0, text/plain;q=0.1",
            "x",
            TEXT,
            false,
        );
        check(
            "text/plain;q=nonsense, application/openmetrics-text;q=0.1;x=\"a,b;q=0\"",
            "x",
            OM,
            false,
        );
        check(",;;=,text/plain;;q", "x", TEXT, false);
        let none = negotiate(None, None, None);
        assert_eq!(
            (none.content_type(), none.gzip(), none.prometheus),
            (TEXT, false, false)
        );
    }

    #[test]
    fn targets_are_asked_in_the_clients_own_order() {
        let vmagent = negotiate(Some("text/plain;version=0.0.4;q=1,*/*;q=0.1"), None, None).target_accept();
        assert_eq!(
            vmagent,
            "text/plain;version=0.0.4;q=0.6,application/openmetrics-text;version=1.0.0;q=0.4,\
             application/openmetrics-text;version=0.0.1;q=0.3,*/*;q=0.1"
        );
        let accept = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;q=0.3";
        assert_eq!(
            negotiate(Some(accept), None, None).target_accept(),
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
             application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
             text/plain;version=0.0.4;q=0.3,*/*;q=0.1"
        );
    }

    #[test]
    fn gzip_is_for_those_who_ask() {
        for (header, expect) in [
            ("gzip", true),
            ("GZIP;q=1", true),
            ("deflate, gzip;q=0.5", true),
            ("*", true),
            ("", false),
            ("identity", false),
            ("gzip;q=0", false),
            ("gzip;q=0, *", false),
            ("x-gzip", false),
            ("zstd", false),
        ] {
            assert_eq!(negotiate(None, Some(header), None).gzip(), expect, "{header}");
        }
    }
}
