//! What a scraper wants, and what targets are asked for on its behalf.
//!
//! Rules: `response-format`, `quoted-names`, `counter-names` and `bounds` of docs/explanation/merge-rules.md. The tests below
//! repeat the headers of real clients.

use crate::syntax::name::Escaping;

/// The two formats that are read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// Prometheus text 0.0.4.
    #[default]
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

/// The response to one request: format, escaping of names, compression, and what is special about the scraper.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OutputFormat {
    pub(crate) format: Format,
    pub(crate) escaping: Escaping,
    /// The request has a parameter `escaping`, so that the Content-Type repeats it.
    names_escaping: bool,
    pub(crate) quirks: ClientQuirks,
    gzip: bool,
}

/// What a scraper does differently from others, as far as a response depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ClientQuirks {
    /// It identifies itself as Prometheus, of any version: it accepts what the strict Python parser refuses.
    pub(crate) is_prometheus: bool,
    /// It normalizes `le` and `quantile` by the TYPE line above them, as Prometheus 3 does.
    pub(crate) normalizes_bounds: bool,
    /// It takes an empty label `exported_<name>` for present when it renames a label, as Prometheus before 2.43 does.
    pub(crate) empty_label_is_taken: bool,
    pub(crate) exemplars: ExemplarSupport,
}

/// Where a scraper accepts exemplars.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum ExemplarSupport {
    /// On counters and buckets only, as OpenMetrics says.
    #[default]
    ByType,
    /// On samples whose names end in `_total` or `_bucket`: Prometheus before 2.43. One elsewhere fails the whole scrape.
    ByName,
    /// On all samples: Prometheus from 2.43 on.
    Anywhere,
}

impl ClientQuirks {
    /// Prometheus 3 is known by its User-Agent, or by the parameter `escaping`, which collectors that embed it send too.
    fn of(user_agent: &str, names_escaping: bool) -> Self {
        let version = user_agent
            .split_whitespace()
            .find_map(|product| product.strip_prefix("Prometheus/"));
        let mut numbers = version
            .unwrap_or_default()
            .split('.')
            .map(|number| number.parse::<u32>().ok());
        let (major, minor) = (numbers.next().flatten(), numbers.next().flatten());
        // A build without a version is a recent one.
        let is_3 = version == Some("") || major.is_some_and(|major| major >= 3);
        let is_before_2_43 = major == Some(2) && minor.is_some_and(|minor| minor < 43);
        Self {
            is_prometheus: version.is_some(),
            normalizes_bounds: names_escaping || is_3,
            empty_label_is_taken: is_before_2_43,
            exemplars: match version {
                None => ExemplarSupport::ByType,
                Some(_) if is_3 || major == Some(2) && !is_before_2_43 => ExemplarSupport::Anywhere,
                Some(_) => ExemplarSupport::ByName,
            },
        }
    }
}

/// Reads the request headers that decide the response. Never fails: what cannot be read is ignored, and a client that
/// requests nothing gets text 0.0.4, uncompressed, with names of the old character set.
pub fn negotiate(
    accept: Option<&str>,
    accept_encoding: Option<&str>,
    user_agent: Option<&str>,
) -> OutputFormat {
    let mut text: Option<MediaRange> = None;
    let mut open_metrics: Option<MediaRange> = None;
    let mut any_names_escaping = false;
    for range in split_outside_quotes(accept.unwrap_or_default(), ',') {
        let Some(range) = parse_range(range) else {
            continue;
        };
        any_names_escaping |= range.escaping.is_some();
        let best = match range.media {
            Media::Text => &mut text,
            Media::OpenMetrics => &mut open_metrics,
            Media::Other => continue,
        };
        if range.quality > 0.0 && best.is_none_or(|best| range.quality > best.quality) {
            *best = Some(range);
        }
    }
    let (format, range) = match (text, open_metrics) {
        (Some(text), Some(open)) if text.quality > open.quality => (Format::Text, Some(text)),
        (_, Some(open)) => (Format::OpenMetrics, Some(open)),
        (text, None) => (Format::Text, text),
    };
    let escaping = range.and_then(|range| range.escaping);
    OutputFormat {
        format,
        escaping: escaping.unwrap_or_default(),
        names_escaping: escaping.is_some(),
        // Prometheus 3.4 and later name the escaping in some of the ranges only.
        quirks: ClientQuirks::of(user_agent.unwrap_or_default(), any_names_escaping),
        gzip: accepts_gzip(accept_encoding.unwrap_or_default()),
    }
}

impl OutputFormat {
    /// A response for a reader of which nothing is known, as the command `merge` writes it.
    pub fn new(format: Format, escaping: Escaping) -> Self {
        Self {
            format,
            escaping,
            names_escaping: escaping != Escaping::default(),
            ..Self::default()
        }
    }

    /// The format that the response is written in.
    pub fn format(&self) -> Format {
        self.format
    }

    pub(crate) fn is_open_metrics(&self) -> bool {
        self.format == Format::OpenMetrics
    }

    /// The exact Content-Type of the response.
    pub fn content_type(&self) -> &'static str {
        macro_rules! with_escaping {
            ($base:literal) => {
                match (self.names_escaping, self.escaping) {
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

    /// The Accept header for targets: both formats, the scraper's own first, because some libraries write `le="1"` in
    /// text and `le="1.0"` in OpenMetrics. The scraper's escaping is passed on.
    pub fn target_accept(&self) -> String {
        let escaping = self
            .names_escaping
            .then(|| format!(";escaping={}", self.escaping.as_str()));
        // Only a client that knows of escaping knows text 1.0.0.
        let text = |q: &str, q_old: &str| match &escaping {
            Some(escaping) => {
                format!("text/plain;version=1.0.0{escaping};q={q},text/plain;version=0.0.4;q={q_old}")
            }
            None => format!("text/plain;version=0.0.4;q={q}"),
        };
        let open_metrics = |q: &str, q_old: &str| {
            format!(
                "application/openmetrics-text;version=1.0.0{};q={q},\
                 application/openmetrics-text;version=0.0.1;q={q_old}",
                escaping.as_deref().unwrap_or_default()
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

/// One range of an Accept header.
#[derive(Clone, Copy)]
struct MediaRange {
    media: Media,
    quality: f64,
    escaping: Option<Escaping>,
}

fn parse_range(range: &str) -> Option<MediaRange> {
    let mut pieces = split_outside_quotes(range, ';');
    let media = pieces.next()?.trim();
    let mut version = "";
    let mut quality = 1.0;
    let mut escaping = None;
    for piece in pieces {
        let Some((key, value)) = piece.split_once('=') else {
            continue;
        };
        let value = value.trim().trim_matches('"');
        match key.trim().to_ascii_lowercase().as_str() {
            "q" => {
                // Prometheus 2.49 sends `q=2`. A weight that is not a number counts as 0.
                let weight = value.parse::<f64>().ok().filter(|weight| weight.is_finite());
                quality = weight.unwrap_or(0.0).clamp(0.0, 1.0);
            }
            "version" => version = value,
            "escaping" => {
                escaping = Some(match value {
                    "allow-utf-8" => Escaping::AllowUtf8,
                    "dots" => Escaping::Dots,
                    "values" => Escaping::Values,
                    _ => Escaping::Underscores,
                });
            }
            _ => {}
        }
    }
    let media = match media.to_ascii_lowercase().as_str() {
        "application/openmetrics-text" if matches!(version, "" | "1.0.0" | "0.0.1") => Media::OpenMetrics,
        "text/plain" if matches!(version, "" | "1.0.0" | "0.0.4") => Media::Text,
        _ => Media::Other,
    };
    Some(MediaRange {
        media,
        quality,
        escaping,
    })
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

    const PROMETHEUS_3_16_ACCEPT: &str = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.7,\
         application/openmetrics-text;version=0.0.1;q=0.6,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.5,\
         text/plain;version=0.0.4;q=0.4,*/*;q=0.3";

    const ANYBODY: ClientQuirks = ClientQuirks {
        is_prometheus: false,
        normalizes_bounds: false,
        empty_label_is_taken: false,
        exemplars: ExemplarSupport::ByType,
    };

    const PROMETHEUS_3: ClientQuirks = ClientQuirks {
        is_prometheus: true,
        normalizes_bounds: true,
        exemplars: ExemplarSupport::Anywhere,
        ..ANYBODY
    };

    #[track_caller]
    fn check(accept: &str, agent: &str, content_type: &str, quirks: ClientQuirks) {
        let format = negotiate(Some(accept), Some("gzip"), Some(agent));
        assert!(format.gzip());
        assert_eq!(format.content_type(), content_type);
        assert_eq!(format.quirks, quirks);
    }

    fn utf8(base: &str) -> String {
        format!("{base}; escaping=allow-utf-8")
    }

    #[test]
    fn prometheus_2_42() {
        let quirks = ClientQuirks {
            is_prometheus: true,
            empty_label_is_taken: true,
            exemplars: ExemplarSupport::ByName,
            ..ANYBODY
        };
        let accept = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                      text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        check(accept, "Prometheus/2.42.0+ds", OM, quirks);
        // With native histograms.
        let accept = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited,\
                      application/openmetrics-text;version=1.0.0;q=0.8,application/openmetrics-text;version=0.0.1;q=0.75,\
                      text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        check(accept, "Prometheus/2.42.0", OM, quirks);
        // With `scrape_protocols: [PrometheusText0.0.4]`, from 2.49 on.
        let text = "text/plain;version=0.0.4;q=0.6,*/*;q=0.5";
        check(text, "Prometheus/2.42.0", TEXT, quirks);
    }

    #[test]
    fn prometheus_2_49_sends_a_weight_of_two() {
        let accept = "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,\
                      text/plain;version=0.0.4;q=0.3,*/*;q=2";
        let quirks = ClientQuirks {
            is_prometheus: true,
            exemplars: ExemplarSupport::Anywhere,
            ..ANYBODY
        };
        check(accept, "Prometheus/2.49.0", OM, quirks);
    }

    #[test]
    fn prometheus_3_0_repeats_the_escaping() {
        let accept = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                      application/openmetrics-text;version=0.0.1;escaping=allow-utf-8;q=0.5,\
                      text/plain;version=1.0.0;escaping=allow-utf-8;escaping=allow-utf-8;q=0.4,\
                      text/plain;version=0.0.4;escaping=allow-utf-8;q=0.3,*/*;q=0.2";
        check(accept, "Prometheus/3.0.0", &utf8(OM), PROMETHEUS_3);
    }

    #[test]
    fn prometheus_3_16() {
        check(
            PROMETHEUS_3_16_ACCEPT,
            "Prometheus/3.16.0",
            &utf8(OM),
            PROMETHEUS_3,
        );
        // With `metric_name_validation_scheme: legacy`.
        let legacy = PROMETHEUS_3_16_ACCEPT.replace("allow-utf-8", "underscores");
        let content_type = format!("{OM}; escaping=underscores");
        check(&legacy, "Prometheus/3.16.0", &content_type, PROMETHEUS_3);
        // With `scrape_protocols: [PrometheusText0.0.4]`: no escaping, so that only the User-Agent tells it from 2.
        let text = "text/plain;version=0.0.4;q=0.7,*/*;q=0.6";
        check(text, "Prometheus/3.16.0", TEXT, PROMETHEUS_3);
        // A build without a version.
        check(text, "Prometheus/", TEXT, PROMETHEUS_3);
    }

    #[test]
    fn opentelemetry_collector_embeds_prometheus_3() {
        let quirks = ClientQuirks {
            normalizes_bounds: true,
            ..ANYBODY
        };
        check(PROMETHEUS_3_16_ACCEPT, "otelcol-contrib/0.130", &utf8(OM), quirks);
    }

    #[test]
    fn vmagent() {
        check(
            "text/plain;version=0.0.4;q=1,*/*;q=0.1",
            "vm_promscrape",
            TEXT,
            ANYBODY,
        );
    }

    #[test]
    fn curl_and_probes() {
        check("*/*", "curl/8", TEXT, ANYBODY);
        let format = negotiate(None, None, None);
        assert_eq!((format.content_type(), format.gzip()), (TEXT, false));
        assert_eq!(format.quirks, ClientQuirks::default());
    }

    #[test]
    fn accept_headers_are_read_by_their_weights_and_versions() {
        let quirks = ClientQuirks {
            normalizes_bounds: true,
            ..ANYBODY
        };
        check(
            "text/plain;version=1.0.0;escaping=allow-utf-8",
            "x",
            &utf8(TEXT),
            quirks,
        );
        for (accept, content_type) in [
            ("application/openmetrics-text", OM),
            ("application/openmetrics-text;version=2.0.0", TEXT),
            ("application/openmetrics-text;q=0, text/plain;q=0.1", TEXT),
            ("application/openmetrics-text;q=0.5,text/plain;q=0.9", TEXT),
            ("text/plain;q=0.5,application/openmetrics-text;q=0.9", OM),
            ("text/plain,application/openmetrics-text", OM),
            (
                "text/plain;q=nonsense, application/openmetrics-text;q=0.1;x=\"a,b;q=0\"",
                OM,
            ),
            (",;;=,text/plain;;q", TEXT),
        ] {
            check(accept, "x", content_type, ANYBODY);
        }
    }

    #[test]
    fn targets_are_asked_in_the_order_of_the_client() {
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
    fn gzip_is_sent_to_clients_that_accept_it() {
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
