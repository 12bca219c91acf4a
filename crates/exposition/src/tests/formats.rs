//! Bodies: what is accepted, what is refused with which reason, and how it is written (rules `text-input`,
//! `openmetrics-input`, `spelling`, `quoted-names`, `limits`).

use super::*;

#[track_caller]
fn accepts(body: &str, expect: &str) {
    let format = if body.ends_with("# EOF\n") {
        open_metrics()
    } else {
        text()
    };
    assert_eq!(passed(&[body], &format), expect, "{body:?}");
}

/// A body is refused, and the refusal names the line and the reason.
#[track_caller]
fn refuses(body: impl AsRef<[u8]>, line: u64, reason: &str) {
    let body = body.as_ref();
    let content_type = body.ends_with(b"# EOF\n").then_some(OM);
    refuses_as(content_type, body, line, reason);
}

#[track_caller]
fn refuses_open_metrics(body: &str, line: u64, reason: &str) {
    refuses_as(Some(OM), body.as_bytes(), line, reason);
}

#[track_caller]
fn refuses_as(content_type: Option<&str>, body: &[u8], line: u64, reason: &str) {
    let text = String::from_utf8_lossy(body);
    match parse(body.to_vec(), content_type, &Limits::default()) {
        Ok(_) => panic!("accepted: {text:?}"),
        Err(refusal) => assert_eq!(
            (refusal.kind, refusal.line, &*refusal.reason),
            (RejectionKind::Parse, Some(line), reason),
            "{text:?}"
        ),
    }
}

#[track_caller]
fn open_metrics_passes(body: &str) {
    accepts(body, body);
}

const A: &str = "# TYPE a untyped\n";

// Reasons that several cases have.
const NO_NAME: &str = "no metric name at the start of the line";
const NO_LABEL_NAME: &str = "no label name where one should be";
const NO_METADATA_NAME: &str = "no metric name after HELP, TYPE or UNIT";
const NOT_A_NUMBER: &str = "the value is not a number";
const NOT_MILLISECONDS: &str = "what follows the value is not a timestamp in milliseconds";
const NOT_SECONDS: &str = "the timestamp is not a number of seconds";
const UNKNOWN_TYPE: &str = "an unknown metric type";
const VALUE_NOT_UTF8: &str = "a label value is not UTF-8";
const COMMENT: &str = "a comment, which OpenMetrics does not have";
const NO_EOF: &str = "the body does not end with # EOF";
const AFTER_EOF: &str = "data after # EOF";
const UNIT_NOT_IN_NAME: &str = "the unit is not the end of the metric's name";

#[test]
fn text_last_line_without_line_feed() {
    accepts("a 1", &format!("{A}a 1\n"));
    accepts("# HELP a x", "");
}

#[test]
fn text_blanks_and_tabs_between_tokens() {
    accepts(
        "a \t{ b = \"c\"\t, d=\"e\" }  1 \t 5\n",
        &format!("{A}a{{b=\"c\",d=\"e\"}} 1 5\n"),
    );
    accepts("a 1 \na 2 5\t\n", &format!("{A}a 1\na 2 5\n"));
}

#[test]
fn text_leading_blanks() {
    accepts("  a 1\n\t# TYPE a gauge\n", "# TYPE a gauge\na 1\n");
}

#[test]
fn text_no_blank_after_the_brace() {
    accepts("a{}1\n", &format!("{A}a 1\n"));
}

#[test]
fn text_one_trailing_comma() {
    accepts("a{b=\"c\",} 1\n", &format!("{A}a{{b=\"c\"}} 1\n"));
    refuses("a{,} 1\n", 1, NO_LABEL_NAME);
    refuses("a{b=\"c\",,} 1\n", 1, NO_LABEL_NAME);
    refuses("a{,b=\"c\"} 1\n", 1, NO_LABEL_NAME);
}

#[test]
fn text_missing_comma() {
    accepts("a{a=\"1\"b=\"2\"} 1\n", &format!("{A}a{{a=\"1\",b=\"2\"}} 1\n"));
}

#[test]
fn text_carriage_returns() {
    refuses("a 1\r\n", 1, NOT_A_NUMBER);
    refuses("a 1 5\r\n", 1, NOT_MILLISECONDS);
    refuses("# TYPE a gauge\r\na 1\n", 1, UNKNOWN_TYPE);
    accepts(
        "# HELP a x\r\na{b=\"c\r\"} 1\n",
        "# HELP a x\n# TYPE a untyped\na{b=\"c\r\"} 1\n",
    );
}

#[test]
fn text_byte_order_mark() {
    refuses("\u{feff}a 1\n", 1, NO_NAME);
}

#[test]
fn text_invalid_utf8() {
    refuses(b"a{b=\"\xff\"} 1\n", 1, VALUE_NOT_UTF8);
    refuses(b"# HELP a \xff\na 1\n", 1, "the help text is not UTF-8");
    let body = b"# comment \xff\na{b=\"\xc3\xa9\"} 1\na{b=\"x\"} 1\n".to_vec();
    let exposition = parse(body, None, &Limits::default()).expect("only a comment is not UTF-8");
    assert_eq!(exposition.n_samples(), 2);
    refuses(
        b"# comment \xff\na{b=\"x\"} 1\na{b=\"\xff\"} 1\n",
        3,
        VALUE_NOT_UTF8,
    );
}

#[test]
fn text_nul() {
    accepts(
        "# HELP a x\0y\na{b=\"c\0\"} 1\n",
        "# HELP a x\0y\n# TYPE a untyped\na{b=\"c\0\"} 1\n",
    );
    refuses("a 1\n\0a 2\n", 2, "a NUL at the start of a line");
    refuses("a 1\0\n", 1, NOT_A_NUMBER);
    refuses("# c\0\na 1\n", 1, "a NUL in a comment");
}

#[test]
fn text_line_feed_in_a_value() {
    accepts("a{b=\"x\ny\"} 1\n", &format!("{A}a{{b=\"x\\ny\"}} 1\n"));
}

#[test]
fn text_unknown_escape() {
    accepts(
        "a{b=\"C:\\dir\"} 1\na{b=\"\\\\n\"} 2\n",
        &format!("{A}a{{b=\"C:\\\\dir\"}} 1\na{{b=\"\\\\n\"}} 2\n"),
    );
}

#[test]
fn text_nothing_to_say() {
    accepts("", "");
    accepts(
        "\n\n# comment\n#HELP x y\n# HELPER\n#\n# EOF is nothing here\n",
        "",
    );
}

#[test]
fn text_other_lines_between_samples() {
    accepts(
        "a{x=\"1\"} 1\n# comment\n\na{x=\"2\"} 2\na{x=\"3\"} 3\n",
        &format!("{A}a{{x=\"1\"}} 1\na{{x=\"2\"}} 2\na{{x=\"3\"}} 3\n"),
    );
}

#[test]
fn text_something_else() {
    refuses("<html><body>404</body></html>\n", 1, NO_NAME);
    refuses("{\"status\":\"ok\"}\n", 1, "no = after a label name");
    refuses("not found\n", 1, NOT_A_NUMBER);
}

#[test]
fn text_metadata_keywords() {
    accepts(
        "#TYPE a gauge\n#  \tTYPE  a gauge\n# UNIT a x\na 1\n",
        "# TYPE a gauge\na 1\n",
    );
    refuses("# HELP \na 1\n", 1, NO_METADATA_NAME);
    refuses("# TYPE \na 1\n", 1, NO_METADATA_NAME);
    refuses("# HELP 1a x\n", 1, NO_METADATA_NAME);
    accepts("# HELP\na 1\n", &format!("{A}a 1\n"));
}

#[test]
fn text_type_is_byte_for_byte() {
    for bad in [
        " gauge",
        "gauge ",
        "GAUGE",
        "unknown",
        "info",
        "",
        "gauge x",
        "stateset",
        "gaugehistogram",
    ] {
        refuses(format!("# TYPE a {bad}\na 1\n"), 1, UNKNOWN_TYPE);
    }
    refuses("# TYPE a\na 1\n", 1, UNKNOWN_TYPE);
    for good in ["counter", "gauge", "histogram", "summary", "untyped"] {
        assert_eq!(parsed(&format!("# TYPE a {good}\n")).n_samples(), 0);
    }
}

#[test]
fn text_help_escapes() {
    accepts(
        "# HELP a say \"x\" \\\"y\\\" C:\\\\dir\\nnext\na 1\n",
        "# HELP a say \"x\" \\\\\"y\\\\\" C:\\\\dir\\nnext\n# TYPE a untyped\na 1\n",
    );
    accepts("# HELP a \na 1\n", &format!("{A}a 1\n"));
    accepts("# HELP a\na 1\n", &format!("{A}a 1\n"));
}

#[test]
fn text_metadata_anywhere_and_often() {
    accepts(
        "a 1\n# HELP a first\n# TYPE a gauge\n# HELP a second\n# TYPE a counter\nb 1\na{x=\"1\"} 2\n",
        "# HELP a first\n# TYPE a gauge\na 1\na{x=\"1\"} 2\n# TYPE b untyped\nb 1\n",
    );
}

#[test]
fn text_late_type_of_a_histogram_gathers_its_samples() {
    accepts(
        "h_bucket{le=\"+Inf\"} 1\nb 1\nh_sum 2\nh_count 1\n# TYPE h histogram\n",
        "# TYPE h histogram\nh_bucket{le=\"+Inf\"} 1\nh_sum 2\nh_count 1\n# TYPE b untyped\nb 1\n",
    );
}

#[test]
fn text_values_keep_their_bytes() {
    for value in [
        "NaN",
        "nan",
        "Nan",
        "Inf",
        "+inf",
        "infinity",
        "1e5",
        ".5",
        "5.",
        "007",
        "-0",
        "5e-324",
        "9007199254740993",
        "3.14159265358979323846",
    ] {
        accepts(&format!("a {value}\n"), &format!("{A}a {value}\n"));
    }
    for value in ["+NaN", "-NaN", "1e400", "0x10", "0x1p3", "1_000", "1,5"] {
        refuses(format!("a {value}\n"), 1, NOT_A_NUMBER);
    }
    refuses("a \n", 1, "no value");
}

#[test]
fn text_timestamps_are_unsigned_milliseconds() {
    accepts(
        "a 1 9223372036854775807\n",
        &format!("{A}a 1 9223372036854775807\n"),
    );
    for bad in ["-5", "+5", "1.5", "1e9", "9223372036854775808", "5 6"] {
        refuses(format!("a 1 {bad}\n"), 1, NOT_MILLISECONDS);
    }
}

#[test]
fn text_refused_after_parsing() {
    refuses("a{x=\"1\",x=\"2\"} 1\n", 1, "a label name occurs twice");
    refuses(
        "a{__name__=\"b\"} 1\n",
        1,
        "a label __name__ beside the metric name",
    );
    refuses("{\"\"} 1\n", 1, "the metric name is empty or not UTF-8");
    refuses("a{\"\"=\"1\"} 1\n", 1, "a label name is empty or not UTF-8");
    refuses(b"{\"\xff\"} 1\n", 1, "the metric name is empty or not UTF-8");
}

#[test]
fn text_empty_value_means_absent() {
    accepts("a{x=\"\"} 1\na 2\n", &format!("{A}a{{x=\"\"}} 1\n"));
}

#[test]
fn text_duplicates_the_first_is_kept() {
    accepts(
        "a{x=\"1\",y=\"2\"} 1\na{y=\"2\",x=\"1\"} 2\na{x=\"1\",y=\"2\"} 3\na{\"x\"=\"1\",y=\"2\"} 4\n",
        &format!("{A}a{{x=\"1\",y=\"2\"}} 1\n"),
    );
    accepts(
        "a 1 5\na 2 6\na 3 6\na 4 5\na 5\na 6 7\n",
        &format!("{A}a 1 5\na 2 6\na 6 7\n"),
    );
}

#[test]
fn text_quoted_names() {
    let body = "# TYPE \"my.metric\" gauge\n{\"my.metric\",\"label.x\"=\"v\",plain=\"p\"} 1\n{\"legacy\"} 1\nlegacy 2\n";
    accepts(
        body,
        "# TYPE my_metric gauge\nmy_metric{label_x=\"v\",plain=\"p\"} 1\n# TYPE legacy untyped\nlegacy 1\n",
    );
    let utf8 = OutputFormat::new(Format::Text, Escaping::AllowUtf8);
    assert_eq!(
        passed(&[body], &utf8),
        "# TYPE \"my.metric\" gauge\n{\"my.metric\",\"label.x\"=\"v\",plain=\"p\"} 1\n# TYPE legacy untyped\nlegacy 1\n",
    );
    refuses("a{\"b\"} 1\n", 1, "a second metric name");
    refuses("{\"a\",\"b\"} 1\n", 1, "a second metric name");
}

#[test]
fn text_a_refusal_names_line_and_excerpt() {
    let body = format!("a 1\nb 2\nc {}\u{7}\n", "x".repeat(200));
    let refusal = parse(body.into_bytes(), None, &Limits::default()).expect_err("the value is no number");
    assert_eq!((refusal.kind, refusal.line), (RejectionKind::Parse, Some(3)));
    assert_eq!(refusal.excerpt.chars().count(), 80);
    assert_eq!(
        refusal.to_string(),
        format!("line 3: the value is not a number: c {}", "x".repeat(78))
    );
    let refusal = parse(b"a\0\x1b[2J 1\n".to_vec(), None, &Limits::default()).expect_err("no value");
    assert_eq!(refusal.excerpt, "a\u{fffd}\u{fffd}[2J 1");
}

#[test]
fn openmetrics_allows_no_other_spelling() {
    for (bad, reason) in [
        ("a  1\n# EOF\n", "no value after one space"),
        ("a\t1\n# EOF\n", "no value after one space"),
        ("\na 1\n# EOF\n", NO_NAME),
        ("# comment\n# EOF\n", COMMENT),
        ("a 1 \n# EOF\n", "a blank at the end of the line"),
        (" a 1\n# EOF\n", NO_NAME),
        ("a{ b=\"c\"} 1\n# EOF\n", NO_LABEL_NAME),
        ("a 1\r\n# EOF\n", NOT_A_NUMBER),
        ("# EOF\r\n", COMMENT),
        ("#  TYPE a gauge\n# EOF\n", COMMENT),
        ("# TYPE  a gauge\n# EOF\n", NO_METADATA_NAME),
    ] {
        refuses_open_metrics(bad, 1, reason);
    }
}

#[test]
fn openmetrics_ends_with_eof() {
    assert_eq!(
        passed(&["a 1\n# EOF\n"], &open_metrics()),
        "# TYPE a unknown\na 1\n# EOF\n"
    );
    let without = parse(b"a 1\n# EOF".to_vec(), Some(OM), &Limits::default());
    assert!(without.is_ok());
    for (bad, line, reason) in [
        ("a 1\n", 2, NO_EOF),
        ("a 1", 1, NO_EOF),
        ("# EOFx", 1, NO_EOF),
        ("a 1\n# EOF\n\n", 3, AFTER_EOF),
        ("# EOF\na 1\n", 2, AFTER_EOF),
        ("a 1\n# EOF\n# EOF\n", 3, AFTER_EOF),
    ] {
        refuses_open_metrics(bad, line, reason);
    }
    assert!(parse(Vec::new(), Some(OM), &Limits::default()).is_ok());
}

#[test]
fn openmetrics_types() {
    open_metrics_passes("# TYPE a info\na_info{v=\"1\"} 1\n# EOF\n");
    open_metrics_passes("# TYPE a stateset\na{a=\"on\"} 1\na{a=\"off\"} 0\n# EOF\n");
    open_metrics_passes("# TYPE a gaugehistogram\na_bucket{le=\"+Inf\"} 1\na_gcount 1\na_gsum 2\n# EOF\n");
    refuses_open_metrics("# TYPE a untyped\n# EOF\n", 1, UNKNOWN_TYPE);
    refuses_open_metrics("# TYPE a\n# EOF\n", 1, "no blank after the metric name");
}

#[test]
fn openmetrics_units() {
    open_metrics_passes(
        "# TYPE a_seconds gauge\n# UNIT a_seconds seconds\n# HELP a_seconds x\na_seconds 1\n# EOF\n",
    );
    accepts(
        "# TYPE a gauge\n# UNIT a \na 1\n# EOF\n",
        "# TYPE a gauge\na 1\n# EOF\n",
    );
    refuses_open_metrics("# UNIT a seconds\n# EOF\n", 1, UNIT_NOT_IN_NAME);
    refuses_open_metrics("# UNIT seconds seconds\n# EOF\n", 1, UNIT_NOT_IN_NAME);
}

#[test]
fn openmetrics_help_escapes_the_quote() {
    open_metrics_passes("# TYPE a gauge\n# HELP a say \\\"x\\\" \\\\ \\n\na 1\n# EOF\n");
    assert_eq!(
        passed(&["# HELP a say \\\"x\\\"\na 1\n# EOF\n"], &text()),
        "# HELP a say \"x\"\n# TYPE a untyped\na 1\n",
    );
}

#[test]
fn openmetrics_timestamps_keep_their_bytes() {
    open_metrics_passes("# TYPE a gauge\na 1 1700000000.123456789\n# EOF\n");
    open_metrics_passes("# TYPE a gauge\na 1 -1.5e3\n# EOF\n");
    refuses_open_metrics("a 1 NaN\n# EOF\n", 1, NOT_SECONDS);
    refuses_open_metrics("a 1 +Inf\n# EOF\n", 1, NOT_SECONDS);
}

#[test]
fn openmetrics_counters_of_all_kinds() {
    open_metrics_passes("# TYPE a counter\na_total 1\na_created 5\n# EOF\n");
    accepts(
        "# TYPE a_total counter\na_total 1\n# EOF\n",
        "# TYPE a counter\na_total 1\n# EOF\n",
    );
    accepts("# TYPE a counter\na 1\n# EOF\n", "# TYPE a unknown\na 1\n# EOF\n");
}

#[test]
fn openmetrics_exemplars() {
    let body = "# TYPE a counter\na_total 1 # {t=\"c\\\"x\",u=\"}\"} 0.5 1.25\n# EOF\n";
    assert_eq!(passed(&[body], &prometheus(P2, Format::OpenMetrics)), body);
    // The Python parser cannot read an escaped quote there.
    accepts(body, "# TYPE a counter\na_total 1\n# EOF\n");
    open_metrics_passes("# TYPE a counter\na_total 1 # {t=\"c\\\\x\",u=\"}\"} 0.5 1.25\n# EOF\n");
    open_metrics_passes(
        "# TYPE h histogram\nh_bucket{le=\"+Inf\"} 1 5 # {} 1\nh_sum 1 5\nh_count 1 5\n# EOF\n",
    );
    accepts(
        "# TYPE a gauge\na 1 # {t=\"x\"} 1\n# EOF\n",
        "# TYPE a gauge\na 1\n# EOF\n",
    );
    accepts(
        "# TYPE a counter\na_total 1 # {t=\"x\",} 1\n# EOF\n",
        "# TYPE a counter\na_total 1 # {t=\"x\"} 1\n# EOF\n",
    );
    let long = "x".repeat(128);
    accepts(
        &format!("# TYPE a counter\na_total 1 # {{t=\"{long}\"}} 1\n# EOF\n"),
        "# TYPE a counter\na_total 1\n# EOF\n",
    );
    accepts(
        "# TYPE a counter\na_total 1 # {\"t.x\"=\"y\"} 1\n# EOF\n",
        "# TYPE a counter\na_total 1\n# EOF\n",
    );
}

#[test]
fn openmetrics_metrics_do_not_interleave() {
    accepts(
        "# TYPE h histogram\nh_bucket{x=\"1\",le=\"+Inf\"} 1\nh_bucket{x=\"2\",le=\"+Inf\"} 2\nh_sum{x=\"1\"} 1\nh_count{x=\"1\"} 1\nh_sum{x=\"2\"} 2\nh_count{x=\"2\"} 2\n# EOF\n",
        "# TYPE h histogram\nh_bucket{x=\"1\",le=\"+Inf\"} 1\nh_sum{x=\"1\"} 1\nh_count{x=\"1\"} 1\nh_bucket{x=\"2\",le=\"+Inf\"} 2\nh_sum{x=\"2\"} 2\nh_count{x=\"2\"} 2\n# EOF\n",
    );
}

#[test]
fn openmetrics_values_are_the_targets_own() {
    open_metrics_passes("# TYPE a counter\na_total -1\n# EOF\n");
    open_metrics_passes("# TYPE h histogram\nh_bucket{le=\"1.0\"} 5\nh_bucket{le=\"2.0\"} 3\n# EOF\n");
    open_metrics_passes("# TYPE a info\na_info 7\n# EOF\n");
}

#[test]
fn a_body_that_ends_with_eof_is_openmetrics_under_any_label() {
    let body = b"# TYPE x counter\nx_total 1 1.5\n# EOF\n".to_vec();
    let exposition =
        parse(body, Some("text/plain; charset=utf-8"), &Limits::default()).expect("ztunnel sends this");
    assert_eq!(exposition.format(), Format::OpenMetrics);
    let body = b"# TYPE x untyped\nx  1\n# EOF\n".to_vec();
    let exposition = parse(body, None, &Limits::default()).expect("text with a comment at its end");
    assert_eq!(exposition.format(), Format::Text);
}

#[test]
fn protobuf_is_refused() {
    let media =
        "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited";
    let refusal = parse(vec![1, 2, 3], Some(media), &Limits::default()).expect_err("not asked for");
    assert_eq!(refusal.kind.as_str(), "protobuf");
    assert!(parse(b"a 1\n".to_vec(), Some("nonsense"), &Limits::default()).is_ok());
}

#[test]
fn limits_of_one_body() {
    let limit = |limits: Limits, body: &str| {
        parse(body.as_bytes().to_vec(), None, &limits)
            .err()
            .map(|refusal| refusal.kind)
    };
    let body = "a{x=\"1\",y=\"22\"} 1\na{x=\"333\",y=\"2\"} 1\n";
    let cases = [
        (
            Limits {
                max_samples: 1,
                ..Limits::default()
            },
            RejectionKind::Samples,
        ),
        (
            Limits {
                max_labels: 1,
                ..Limits::default()
            },
            RejectionKind::Labels,
        ),
        (
            Limits {
                max_label_name_length: 1,
                ..Limits::default()
            },
            RejectionKind::LabelNameLength,
        ),
        (
            Limits {
                max_label_value_length: 2,
                ..Limits::default()
            },
            RejectionKind::LabelValueLength,
        ),
    ];
    for (limits, kind) in cases {
        let body = if kind == RejectionKind::LabelNameLength {
            "a{xx=\"1\"} 1\n"
        } else {
            body
        };
        assert_eq!(limit(limits, body), Some(kind));
    }
    let enough = Limits {
        max_samples: 2,
        max_labels: 2,
        max_label_name_length: 1,
        max_label_value_length: 3,
        max_families: 1,
    };
    assert_eq!(limit(enough, body), None);
    let escaped = Limits {
        max_label_value_length: 1,
        ..Limits::default()
    };
    assert_eq!(limit(escaped, "a{x=\"1\"} 1\na{x=\"\\\\\"} 1\n"), None);
    assert_eq!(limit(escaped, "aa 1\n"), Some(RejectionKind::LabelValueLength));
}
