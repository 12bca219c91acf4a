//! The Content-Type of a target's response (rule `content-type`).

/// What a Content-Type says about a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MediaType {
    OpenMetrics,
    Protobuf,
    /// Anything else: text, another media type, or a value that is not a media type.
    Other,
}

/// Reads a Content-Type as Go's `mime.ParseMediaType` does, which decides for Prometheus: a value that is not exactly one
/// media type with its parameters is not a media type at all. Some servers repeat the scraper's Accept header.
pub(crate) fn media_type(content_type: Option<&str>) -> MediaType {
    let value = content_type.unwrap_or_default();
    let (media, parameters) = value.split_once(';').unwrap_or((value, ""));
    let media = media.trim().to_ascii_lowercase();
    if !are_parameters(parameters) {
        return MediaType::Other;
    }
    match media.as_str() {
        "application/openmetrics-text" => MediaType::OpenMetrics,
        "application/vnd.google.protobuf" => MediaType::Protobuf,
        _ => MediaType::Other,
    }
}

/// Whether this is a list of `name=value`, separated by semicolons, without a name that occurs twice. A semicolon may stand
/// at the end.
fn are_parameters(list: &str) -> bool {
    let mut names: Vec<String> = Vec::new();
    let mut rest = list.trim_start();
    while !rest.is_empty() {
        let Some((name, after)) = split_token(rest) else {
            return false;
        };
        let Some(value) = after.trim_start().strip_prefix('=') else {
            return false;
        };
        let value = value.trim_start();
        let Some(after) = skip_quoted(value).or_else(|| split_token(value).map(|(_, after)| after)) else {
            return false;
        };
        names.push(name.to_ascii_lowercase());
        rest = after.trim_start();
        if let Some(after) = rest.strip_prefix(';') {
            rest = after.trim_start();
        } else if !rest.is_empty() {
            return false;
        }
    }
    let n_names = names.len();
    names.sort_unstable();
    names.dedup();
    names.len() == n_names
}

/// Splits a token (RFC 2045) off the beginning of `text`.
fn split_token(text: &str) -> Option<(&str, &str)> {
    let is_token = |byte: u8| byte.is_ascii_graphic() && !br#"()<>@,;:\"/[]?="#.contains(&byte);
    let len = text.bytes().take_while(|&byte| is_token(byte)).count();
    (len > 0).then(|| text.split_at(len))
}

/// What follows a quoted string at the beginning of `text`.
fn skip_quoted(text: &str) -> Option<&str> {
    let inside = text.strip_prefix('"')?;
    let mut is_escaped = false;
    let end = inside.find(|c| {
        let ends = c == '"' && !is_escaped;
        is_escaped = c == '\\' && !is_escaped;
        ends
    })?;
    Some(&inside[end + 1..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(content_type: &str, expect: MediaType) {
        assert_eq!(media_type(Some(content_type)), expect, "{content_type}");
    }

    #[test]
    fn media_types_with_parameters() {
        check("application/openmetrics-text", MediaType::OpenMetrics);
        check(
            "Application/OpenMetrics-Text ; version=1.0.0; charset=utf-8",
            MediaType::OpenMetrics,
        );
        check(
            "application/openmetrics-text;version=\"1.0.0\";",
            MediaType::OpenMetrics,
        );
        check(
            "application/openmetrics-text; a=\"x;y\\\"z\"",
            MediaType::OpenMetrics,
        );
        check(
            "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited",
            MediaType::Protobuf,
        );
        check("text/plain; version=0.0.4", MediaType::Other);
        assert_eq!(media_type(None), MediaType::Other);
    }

    /// prometheus/prometheus#17086 and #17088.
    #[test]
    fn a_value_that_is_not_a_media_type_says_nothing() {
        // The Accept header of a scraper, sent back.
        check(
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
             application/openmetrics-text;version=0.0.1;escaping=allow-utf-8;q=0.5,text/plain;version=0.0.4;q=0.3",
            MediaType::Other,
        );
        for bad in [
            "a=1;a=2", "version", "version=", "=1", "a=\"x", "a=b c", ";", "a=1,b=2",
        ] {
            check(&format!("application/openmetrics-text;{bad}"), MediaType::Other);
        }
        check("", MediaType::Other);
        check("nonsense", MediaType::Other);
        check("application/openmetrics-text,text/plain", MediaType::Other);
    }
}
