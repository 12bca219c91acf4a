//! The rules of docs/explanation/merge-rules.md. Each test is named after its rule.

use super::*;

#[test]
fn all_or_nothing_per_target() {
    let merged = merge(targets(&["a 1\n", "a 2\nb 3\n}\n"]), &text());
    assert_eq!(
        written(&merged),
        "# HELP up Whether the target was scraped and its exposition accepted (1) or not (0).\n\
         # TYPE up gauge\nup{pod=\"a\"} 1\nup{pod=\"b\"} 0\n# TYPE a untyped\na{pod=\"a\"} 1\n"
    );
}

#[test]
fn one_block_per_family_targets_in_order() {
    check(
        &[
            "# TYPE a gauge\na{x=\"10\"} 1\na{x=\"2\"} 2\n# TYPE b gauge\nb 3\n",
            "# TYPE b gauge\nb 4\n# TYPE a gauge\na 5\n",
        ],
        &text(),
        "# TYPE a gauge\na{x=\"10\",pod=\"a\"} 1\na{x=\"2\",pod=\"a\"} 2\na{pod=\"b\"} 5\n\
         # TYPE b gauge\nb{pod=\"a\"} 3\nb{pod=\"b\"} 4\n",
    );
}

#[test]
fn one_block_per_family_of_targets_with_different_suffixes() {
    let bodies = [
        "# TYPE h histogram\nh_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 1\n",
        "# TYPE h histogram\nh_count 2\n",
        "# TYPE h histogram\nh_sum 3\nh_count 3\n",
    ];
    let expect = |end: &str| {
        format!(
            "# TYPE h histogram\nh_bucket{{le=\"+Inf\",pod=\"a\"}} 1\nh_sum{{pod=\"a\"}} 1\nh_count{{pod=\"a\"}} 1\n\
             h_count{{pod=\"b\"}} 2\nh_sum{{pod=\"c\"}} 3\nh_count{{pod=\"c\"}} 3\n{end}"
        )
    };
    check(&bodies, &text(), &expect(""));
    check(&bodies, &open_metrics(), &expect("# EOF\n"));
}

#[test]
fn repeated_metadata_and_split_families_are_joined() {
    check(
        &[
            "# HELP a x\n# TYPE a gauge\na{s=\"1\"} 1\n\n# HELP b y\n# TYPE b counter\nb 1\n\n# HELP a x\n# TYPE a gauge\na{s=\"2\"} 2\n",
        ],
        &text(),
        "# HELP a x\n# TYPE a gauge\na{s=\"1\",pod=\"a\"} 1\na{s=\"2\",pod=\"a\"} 2\n# HELP b y\n# TYPE b counter\nb{pod=\"a\"} 1\n",
    );
}

#[test]
fn type_line_for_every_family() {
    check(
        &["# TYPE h histogram\nh_bucket{le=\"+Inf\"} 1\nfoo{le=\"10\"} 2\n"],
        &text(),
        "# TYPE h histogram\nh_bucket{le=\"+Inf\",pod=\"a\"} 1\n# TYPE foo untyped\nfoo{le=\"10\",pod=\"a\"} 2\n",
    );
    // Prometheus 3 stores that one as le="10.0" in a direct scrape, for what stands above it.
    check(
        &["# TYPE h histogram\nh_bucket{le=\"+Inf\"} 1\nfoo{le=\"10\"} 2\n"],
        &prometheus(P3, Format::Text),
        "# TYPE h histogram\nh_bucket{le=\"+Inf\",pod=\"a\"} 1\n# TYPE foo untyped\nfoo{le=\"10.0\",pod=\"a\"} 2\n",
    );
}

#[test]
fn type_conflict_untyped_joins_counter_and_gauge() {
    check(
        &[
            "a 1\nb 1\n",
            "# TYPE a counter\na 2\n# TYPE b gauge\nb 2\n",
            "# TYPE a untyped\na 3\n",
        ],
        &text(),
        "# TYPE a counter\na{pod=\"a\"} 1\na{pod=\"b\"} 2\na{pod=\"c\"} 3\n# TYPE b gauge\nb{pod=\"a\"} 1\nb{pod=\"b\"} 2\n",
    );
}

#[test]
fn type_conflict_untyped_joins_a_counter_in_openmetrics_by_its_sample_name() {
    check(
        &[
            "a_total 1\n",
            "# TYPE a_total counter\na_total 2\n",
            "# TYPE a counter\na_total 3\n# EOF\n",
        ],
        &open_metrics(),
        "# TYPE a counter\na_total{pod=\"a\"} 1\na_total{pod=\"b\"} 2\na_total{pod=\"c\"} 3\n# EOF\n",
    );
}

#[test]
fn type_conflict_info_and_stateset_against_gauge_are_gauges() {
    let bodies = [
        "# TYPE a info\na_info{v=\"1\"} 1\n# TYPE s stateset\ns{s=\"on\"} 1\n# EOF\n",
        "# TYPE a_info gauge\na_info{v=\"2\"} 1\n# TYPE s untyped\ns{s=\"on\"} 0\n",
    ];
    check(
        &bodies,
        &open_metrics(),
        "# TYPE a_info gauge\na_info{v=\"1\",pod=\"a\"} 1\na_info{v=\"2\",pod=\"b\"} 1\n\
         # TYPE s gauge\ns{s=\"on\",pod=\"a\"} 1\ns{s=\"on\",pod=\"b\"} 0\n# EOF\n",
    );
}

#[test]
fn type_conflict_of_other_types_is_untyped_and_counted() {
    let merged = check(
        &["# TYPE a counter\na 1\n", "# TYPE a gauge\na 2\n"],
        &text(),
        "# TYPE a untyped\na{pod=\"a\"} 1\na{pod=\"b\"} 2\n",
    );
    assert_eq!(merged.conflicts().len(), 1);
    assert_eq!(
        merged.conflicts()[0].to_string(),
        "type conflict over a: counter a, gauge a"
    );
}

#[test]
fn type_conflict_an_untyped_histogram_is_one_family_per_sample_name() {
    let bodies = [
        "# TYPE x histogram\nx_bucket{le=\"1\"} 1\nx_bucket{le=\"+Inf\"} 1\nx_sum 1\nx_count 1\n",
        "# TYPE x gauge\nx 5\n",
    ];
    let expect = |bound: &str| {
        format!(
            "# TYPE x_bucket untyped\nx_bucket{{le=\"{bound}\",pod=\"a\"}} 1\nx_bucket{{le=\"+Inf\",pod=\"a\"}} 1\n\
             # TYPE x_sum untyped\nx_sum{{pod=\"a\"}} 1\n# TYPE x_count untyped\nx_count{{pod=\"a\"}} 1\n\
             # TYPE x untyped\nx{{pod=\"b\"}} 5\n"
        )
    };
    check(&bodies, &text(), &expect("1"));
    check(&bodies, &prometheus(P2, Format::Text), &expect("1"));
    check(&bodies, &prometheus(P3, Format::Text), &expect("1.0"));
}

#[test]
fn bounds_of_an_untyped_summary_are_normalized_for_prometheus_3() {
    check(
        &[
            "# TYPE x summary\nx{quantile=\"0.50\"} 1\nx_sum 1\nx_count 1\n",
            "x{quantile=\"0.50\"} 5\n",
        ],
        &prometheus(P3, Format::Text),
        "# TYPE x untyped\nx{quantile=\"0.5\",pod=\"a\"} 1\nx{quantile=\"0.50\",pod=\"b\"} 5\n\
         # TYPE x_sum untyped\nx_sum{pod=\"a\"} 1\n# TYPE x_count untyped\nx_count{pod=\"a\"} 1\n",
    );
}

#[test]
fn bounds_before_their_type_line_are_not_normalized() {
    let body = "x_bucket{le=\"1\"} 1\n# TYPE x histogram\nx_count 1\n";
    check(
        &[body],
        &prometheus(P3, Format::Text),
        "# TYPE x_bucket untyped\nx_bucket{le=\"1\",pod=\"a\"} 1\n# TYPE x_count untyped\nx_count{pod=\"a\"} 1\n",
    );
    check(
        &[body],
        &text(),
        "# TYPE x histogram\nx_bucket{le=\"1\",pod=\"a\"} 1\nx_count{pod=\"a\"} 1\n",
    );
}

#[test]
fn name_conflict_of_two_families() {
    let merged = check(
        &[
            "# TYPE x histogram\nx_bucket{le=\"+Inf\"} 1\nx_sum 1\nx_count 1\n",
            "# TYPE x_count gauge\nx_count 7\n",
        ],
        &text(),
        "# TYPE x_bucket untyped\nx_bucket{le=\"+Inf\",pod=\"a\"} 1\n# TYPE x_sum untyped\nx_sum{pod=\"a\"} 1\n\
         # TYPE x_count untyped\nx_count{pod=\"a\"} 1\nx_count{pod=\"b\"} 7\n",
    );
    assert_eq!(merged.conflicts()[0].kind, ConflictKind::Name);
}

#[test]
fn name_conflict_openmetrics_claims_more_names() {
    let bodies = [
        "# TYPE x counter\nx_total 1\n# EOF\n",
        "# TYPE x gauge\nx 7\n",
        "# TYPE x_created gauge\nx_created 8\n",
    ];
    check(
        &bodies,
        &open_metrics(),
        "# TYPE x_total unknown\nx_total{pod=\"a\"} 1\n# TYPE x unknown\nx{pod=\"b\"} 7\n\
         # TYPE x_created unknown\nx_created{pod=\"c\"} 8\n# EOF\n",
    );
    check(
        &bodies,
        &text(),
        "# TYPE x_total counter\nx_total{pod=\"a\"} 1\n# TYPE x gauge\nx{pod=\"b\"} 7\n\
         # TYPE x_created gauge\nx_created{pod=\"c\"} 8\n",
    );
}

#[test]
fn help_and_unit() {
    let merged = check(
        &[
            "# TYPE a_s gauge\n# UNIT a_s s\na_s 1\n# EOF\n",
            "# TYPE a_s gauge\n# HELP a_s  first \na_s 2\n# EOF\n",
            "# HELP a_s second\n# TYPE a_s gauge\na_s 3\n# TYPE alone gauge\n# HELP nothing x\n",
        ],
        &open_metrics(),
        "# TYPE a_s gauge\n# UNIT a_s s\n# HELP a_s first\na_s{pod=\"a\"} 1\na_s{pod=\"b\"} 2\na_s{pod=\"c\"} 3\n# EOF\n",
    );
    assert_eq!(merged.conflicts()[0].kind, ConflictKind::Help);
    let merged = check(
        &[
            "# TYPE a_x_s gauge\n# UNIT a_x_s s\na_x_s 1\n# EOF\n",
            "# TYPE a_x_s gauge\n# UNIT a_x_s x_s\na_x_s 2\n# EOF\n",
        ],
        &open_metrics(),
        "# TYPE a_x_s gauge\na_x_s{pod=\"a\"} 1\na_x_s{pod=\"b\"} 2\n# EOF\n",
    );
    assert_eq!(merged.conflicts()[0].kind, ConflictKind::Unit);
}

#[test]
fn added_labels_rename_exposed_ones() {
    check(
        &["a{pod=\"mine\",x=\"1\"} 1\na{pod=\"\"} 2\nb 3\n"],
        &text(),
        "# TYPE a untyped\na{exported_pod=\"mine\",x=\"1\",pod=\"a\"} 1\na{pod=\"a\"} 2\n# TYPE b untyped\nb{pod=\"a\"} 3\n",
    );
}

#[test]
fn added_labels_an_empty_exported_label_is_taken_for_prometheus_2_42_only() {
    let body = "a{pod=\"x\",exported_pod=\"\"} 1\n";
    let expect = |labels: &str| format!("# TYPE a untyped\na{{{labels},pod=\"a\"}} 1\n");
    let old = expect("exported_exported_pod=\"x\",exported_pod=\"\"");
    check(&[body], &prometheus(P2, Format::Text), &old);
    check(
        &[body],
        &prometheus(P3, Format::Text),
        &expect("exported_pod=\"x\""),
    );
    check(&[body], &text(), &expect("exported_pod=\"x\""));
}

#[test]
fn duplicates_made_by_escaping() {
    let body = "{\"a.b\"} 1\na_b 2\na_b{x=\"1\"} 3\n";
    let merged = check(
        &[body],
        &text(),
        "# TYPE a_b untyped\na_b{pod=\"a\"} 1\na_b{x=\"1\",pod=\"a\"} 3\n",
    );
    assert_eq!(merged.n_dropped(), 1);
    let utf8 = OutputFormat::new(Format::Text, Escaping::AllowUtf8);
    assert_eq!(merge(targets(&[body]), &utf8).n_dropped(), 0);
}

#[test]
fn duplicates_made_by_renaming() {
    let merged = check(
        &["a{pod=\"x\"} 1\na{exported_pod=\"x\"} 2\na{exported_pod=\"y\"} 3\n"],
        &text(),
        "# TYPE a untyped\na{exported_pod=\"x\",pod=\"a\"} 1\na{exported_pod=\"y\",pod=\"a\"} 3\n",
    );
    assert_eq!(merged.n_dropped(), 1);
}

#[test]
fn duplicates_between_inputs_with_equal_labels() {
    let input = |body: &str, labels: &[(&str, &str)]| Input {
        labels: labels
            .iter()
            .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
            .collect(),
        exposition: Some(parsed(body)),
        ..Input::default()
    };
    let merged = merge(
        vec![
            input("a{x=\"1\",y=\"2\"} 1\n", &[("pod", "p")]),
            input("a{x=\"1\"} 1\n", &[("pod", "q")]),
            input("a{y=\"2\",x=\"1\"} 2\na 3\n", &[("pod", "p")]),
            input("a{pod=\"p\"} 4\n", &[]),
        ],
        &text(),
    );
    assert_eq!(
        written(&merged),
        "# TYPE a untyped\na{x=\"1\",y=\"2\",pod=\"p\"} 1\na{x=\"1\",pod=\"q\"} 1\na{pod=\"p\"} 3\n"
    );
}

#[test]
fn added_labels_are_escaped() {
    let input = Input {
        labels: vec![("pod".to_owned(), "a\\b\"c\nd".to_owned())],
        up: Some(true),
        exposition: Some(parsed("a {x=\"}\"} 1\n{\"u\",l=\"{\"} 2\n")),
        own: false,
    };
    let got = written(&merge(vec![input], &text()));
    let added = "pod=\"a\\\\b\\\"c\\nd\"";
    assert!(
        got.ends_with(&format!(
            "a{{x=\"}}\",{added}}} 1\n# TYPE u untyped\nu{{l=\"{{\",{added}}} 2\n"
        )),
        "{got}"
    );
    assert!(got.contains(&format!("up{{{added}}} 1\n")), "{got}");
}

#[test]
fn up_belongs_to_the_proxy() {
    let merged = merge(
        targets(&[
            "# TYPE up counter\nup 0\nup{x=\"1\"} 5\n",
            "# TYPE up histogram\nup_bucket{le=\"+Inf\"} 1\nup_count 1\n",
        ]),
        &text(),
    );
    assert_eq!(
        written(&merged),
        "# HELP up Whether the target was scraped and its exposition accepted (1) or not (0).\n# TYPE up gauge\n\
         up{pod=\"a\"} 1\nup{pod=\"b\"} 1\nup{x=\"1\",pod=\"a\"} 5\n\
         # TYPE up_bucket untyped\nup_bucket{le=\"+Inf\",pod=\"b\"} 1\n# TYPE up_count untyped\nup_count{pod=\"b\"} 1\n"
    );
    assert_eq!(merged.n_dropped(), 1);
}

#[test]
fn own_names_are_renamed_in_targets() {
    let mut inputs = targets(&["# TYPE metrics_proxy_x gauge\nmetrics_proxy_x 1\n"]);
    inputs.push(Input {
        exposition: Some(parsed(
            "# TYPE metrics_proxy_x counter\nmetrics_proxy_x_total 2\n# EOF\n",
        )),
        own: true,
        ..Input::default()
    });
    let got = written(&merge(inputs, &text()));
    assert!(
        got.ends_with(
            "# TYPE exported_metrics_proxy_x gauge\nexported_metrics_proxy_x{pod=\"a\"} 1\n\
             # TYPE metrics_proxy_x_total counter\nmetrics_proxy_x_total 2\n"
        ),
        "{got}"
    );
}

#[test]
fn openmetrics_to_text() {
    check(
        &[
            "# TYPE c counter\n# HELP c say \\\"x\\\"\nc_total 1 # {t=\"x\"} 1\nc_created 5\n\
           # TYPE i info\ni_info{v=\"1\"} 1\n# TYPE s stateset\ns{s=\"on\"} 1\n# TYPE u unknown\nu 1\n\
           # TYPE g_s gauge\n# UNIT g_s s\ng_s 1 1700000000.1239\ng_s{x=\"1\"} 1 -1\ng_s{x=\"2\"} 1 1.0001\ng_s{x=\"2\"} 1 1.0002\n\
           # TYPE gh gaugehistogram\ngh_bucket{le=\"+Inf\"} 1\ngh_gsum 1\ngh_gcount 1\n# EOF\n",
        ],
        &text(),
        "# HELP c_total say \"x\"\n# TYPE c_total counter\nc_total{pod=\"a\"} 1\n# HELP c_created say \"x\"\n# TYPE c_created gauge\nc_created{pod=\"a\"} 5\n\
         # TYPE i_info gauge\ni_info{v=\"1\",pod=\"a\"} 1\n# TYPE s gauge\ns{s=\"on\",pod=\"a\"} 1\n# TYPE u untyped\nu{pod=\"a\"} 1\n\
         # TYPE g_s gauge\ng_s{pod=\"a\"} 1 1700000000123\ng_s{x=\"2\",pod=\"a\"} 1 1000\n\
         # TYPE gh_bucket gauge\ngh_bucket{le=\"+Inf\",pod=\"a\"} 1\n# TYPE gh_gsum gauge\ngh_gsum{pod=\"a\"} 1\n# TYPE gh_gcount gauge\ngh_gcount{pod=\"a\"} 1\n",
    );
}

#[test]
fn text_to_openmetrics() {
    let bodies = [
        "# HELP c_total say \"x\"\n# TYPE c_total counter\nc_total 1 1700000000007\n# TYPE b counter\nb 1\nu 2\n",
    ];
    let expect = |kind: &str| {
        format!(
            "# TYPE c counter\n# HELP c say \\\"x\\\"\nc_total{{pod=\"a\"}} 1 1700000000.007\n# TYPE b {kind}\nb{{pod=\"a\"}} 1\n\
             # TYPE u unknown\nu{{pod=\"a\"}} 2\n# EOF\n"
        )
    };
    check(&bodies, &open_metrics(), &expect("unknown"));
    check(&bodies, &prometheus(P2, Format::OpenMetrics), &expect("counter"));
    check(&bodies, &prometheus(P3, Format::OpenMetrics), &expect("counter"));
}

#[test]
fn created_samples_of_the_python_client_join_their_family() {
    check(
        &[
            "# TYPE c_total counter\nc_total{x=\"1\"} 1\nc_total{x=\"2\"} 2\n# TYPE c_created gauge\nc_created{x=\"1\"} 5\nc_created{x=\"2\"} 6\n",
            "# TYPE c counter\nc_total 3 # {t=\"x\"} 1\n# EOF\n",
        ],
        &open_metrics(),
        "# TYPE c counter\nc_total{x=\"1\",pod=\"a\"} 1\nc_created{x=\"1\",pod=\"a\"} 5\n\
         c_total{x=\"2\",pod=\"a\"} 2\nc_created{x=\"2\",pod=\"a\"} 6\nc_total{pod=\"b\"} 3 # {t=\"x\"} 1\n# EOF\n",
    );
}

/// OpenMetrics has `_created` samples, so that a gauge of such a name in an OpenMetrics target is a gauge.
#[test]
fn created_samples_are_gauges_in_text_only() {
    check(
        &["# TYPE c counter\nc_total 1\n# TYPE c_created gauge\nc_created 5\n# EOF\n"],
        &open_metrics(),
        "# TYPE c_total unknown\nc_total{pod=\"a\"} 1\n# TYPE c_created unknown\nc_created{pod=\"a\"} 5\n# EOF\n",
    );
}

#[test]
fn mixed_timestamps_are_untyped() {
    // Nobody but Prometheus reads them under a type.
    check(
        &[
            "# TYPE h histogram\nh_bucket{le=\"+Inf\"} 1 5\nh_sum 1\nh_count 1\n# TYPE g gauge\ng{x=\"1\"} 1 5\ng 2\n",
        ],
        &open_metrics(),
        "# TYPE h_bucket unknown\nh_bucket{le=\"+Inf\",pod=\"a\"} 1 0.005\n# TYPE h_sum unknown\nh_sum{pod=\"a\"} 1\n\
         # TYPE h_count unknown\nh_count{pod=\"a\"} 1\n# TYPE g gauge\ng{x=\"1\",pod=\"a\"} 1 0.005\ng{pod=\"a\"} 2\n# EOF\n",
    );
}

#[test]
fn values_decide_no_type() {
    check(
        &[
            "# TYPE c_total counter\nc_total -1\n# TYPE h histogram\nh_bucket{le=\"1\"} 7\nh_bucket{le=\"2\"} 5\n",
        ],
        &open_metrics(),
        "# TYPE c counter\nc_total{pod=\"a\"} -1\n# TYPE h histogram\nh_bucket{le=\"1\",pod=\"a\"} 7\nh_bucket{le=\"2\",pod=\"a\"} 5\n# EOF\n",
    );
}

#[test]
fn unsuffixed_samples_in_a_histogram() {
    check(
        &["# TYPE h histogram\nh_bucket{le=\"+Inf\"} 1\nh 5\n"],
        &open_metrics(),
        "# TYPE h unknown\nh{pod=\"a\"} 5\n# TYPE h_bucket unknown\nh_bucket{le=\"+Inf\",pod=\"a\"} 1\n# EOF\n",
    );
}

#[test]
fn bounds_keep_their_bytes() {
    let body = "# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"Inf\"} 1\n# TYPE s summary\ns{quantile=\"0.50\"} 1\n";
    check(
        &[body],
        &text(),
        "# TYPE h histogram\nh_bucket{le=\"1\",pod=\"a\"} 1\nh_bucket{le=\"Inf\",pod=\"a\"} 1\n# TYPE s summary\ns{quantile=\"0.50\",pod=\"a\"} 1\n",
    );
    check(
        &[body],
        &open_metrics(),
        "# TYPE h histogram\nh_bucket{le=\"1\",pod=\"a\"} 1\nh_bucket{le=\"+Inf\",pod=\"a\"} 1\n# TYPE s summary\ns{quantile=\"0.50\",pod=\"a\"} 1\n# EOF\n",
    );
}

#[test]
fn bounds_two_spellings_of_one_bound() {
    let body = "# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"1.0\"} 2\n";
    check(
        &[body],
        &prometheus(P3, Format::Text),
        "# TYPE h histogram\nh_bucket{le=\"1\",pod=\"a\"} 1\n",
    );
    check(
        &[body],
        &prometheus(P2, Format::Text),
        "# TYPE h histogram\nh_bucket{le=\"1\",pod=\"a\"} 1\nh_bucket{le=\"1.0\",pod=\"a\"} 2\n",
    );
}

#[test]
fn response_format_eof_once_and_only_in_openmetrics() {
    let bodies = ["a 1\n# EOF\n", "a 2\n# EOF\n"];
    check(
        &bodies,
        &text(),
        "# TYPE a untyped\na{pod=\"a\"} 1\na{pod=\"b\"} 2\n",
    );
    check(
        &bodies,
        &open_metrics(),
        "# TYPE a unknown\na{pod=\"a\"} 1\na{pod=\"b\"} 2\n# EOF\n",
    );
    assert_eq!(written(&merge(Vec::new(), &open_metrics())), "# EOF\n");
    assert_eq!(written(&merge(Vec::new(), &text())), "");
}

#[test]
fn metric_order_buckets_ascend() {
    check(
        &[
            "# TYPE h histogram\nh_bucket{le=\"10\"} 2\nh_bucket{le=\"2\"} 1\nh_bucket{le=\"+Inf\"} 3\nh_sum 1\nh_count 3\n",
        ],
        &open_metrics(),
        "# TYPE h histogram\nh_bucket{le=\"2\",pod=\"a\"} 1\nh_bucket{le=\"10\",pod=\"a\"} 2\nh_bucket{le=\"+Inf\",pod=\"a\"} 3\n\
         h_sum{pod=\"a\"} 1\nh_count{pod=\"a\"} 3\n# EOF\n",
    );
}

#[test]
fn exemplars_are_dropped_from_untyped_families() {
    check(
        &[
            "# TYPE x counter\nx_total 1 # {t=\"y\"} 1\n# EOF\n",
            "# TYPE x_total gauge\nx_total 2\n",
        ],
        &open_metrics(),
        "# TYPE x_total unknown\nx_total{pod=\"a\"} 1\nx_total{pod=\"b\"} 2\n# EOF\n",
    );
}

#[test]
fn no_targets_respond() {
    let got = written(&merge(targets(&["}", "}"]), &text()));
    assert!(
        got.ends_with("# TYPE up gauge\nup{pod=\"a\"} 0\nup{pod=\"b\"} 0\n"),
        "{got}"
    );
}

#[test]
fn no_timestamps_added() {
    check(
        &["a 1\n"],
        &open_metrics(),
        "# TYPE a unknown\na{pod=\"a\"} 1\n# EOF\n",
    );
}

#[test]
fn one_block_per_family_of_pebbles_own_metrics() {
    let body = "# HELP p_up x\n# TYPE p_up gauge\np_up{check=\"a\"} 1\n\n# HELP p_n y\n# TYPE p_n counter\np_n{check=\"a\"} 1\n\n\
                # HELP p_up x\n# TYPE p_up gauge\np_up{check=\"b\"} 1\n\n";
    assert_eq!(
        passed(&[body], &text()),
        "# HELP p_up x\n# TYPE p_up gauge\np_up{check=\"a\"} 1\np_up{check=\"b\"} 1\n# HELP p_n y\n# TYPE p_n counter\np_n{check=\"a\"} 1\n"
    );
}

#[test]
fn a_stopped_reader_stops_the_writer() {
    let merged = merge(targets(&["a{x=\"1\"} 1\na{x=\"2\"} 2\n", "a 3\n"]), &text());
    let mut n_chunks = 0;
    merged.write(1, &mut |_| {
        n_chunks += 1;
        n_chunks < 2
    });
    assert_eq!(n_chunks, 2);
}

#[test]
fn rewritten_lines_are_flushed_in_chunks() {
    // Their own label `pod` is in the way of the added one.
    let lines: Vec<String> = (0..500).map(|i| format!("a{{pod=\"{i:03}\"}} 1\n")).collect();
    // Another run of the family, after another TYPE line.
    let body = lines.concat() + "# TYPE b histogram\na 1\na{x=\"1\"} 1\n";
    let merged = merge(targets(&[&body]), &text());
    let mut lens = Vec::new();
    merged.write(256, &mut |chunk| {
        lens.push(chunk.len());
        true
    });
    assert!(lens.len() > 50 && lens.iter().all(|len| *len < 512), "{lens:?}");
    for n_wanted in 1..lens.len() {
        let mut n_chunks = 0;
        merged.write(256, &mut |_| {
            n_chunks += 1;
            n_chunks < n_wanted
        });
        assert_eq!(n_chunks, n_wanted, "no more after the reader left");
    }
}

#[test]
fn bounds_two_spellings_of_one_bound_under_two_type_lines() {
    let body = "# TYPE h histogram\nh_bucket{le=\"1\"} 1\n# TYPE g gauge\nh_bucket{le=\"1.0\"} 2\n";
    check(
        &[body],
        &prometheus(P3, Format::Text),
        "# TYPE h histogram\nh_bucket{le=\"1\",pod=\"a\"} 1\n",
    );
}

#[test]
fn metric_order_ignores_samples_of_other_families() {
    let body = "# TYPE x_count histogram\nx_count_sum{a=\"w\"} 4\nx_count_count{a=\"w\"} 2\n\
                # TYPE x histogram\nx_sum{a=\"\"} 4\nx_count{a=\"\"} 2\nx_sum{a=\"w\"} 4\nx_count{a=\"w\"} 2\n";
    let canonical = passed(&[body], &open_metrics());
    // A blank inside the braces makes the line non-canonical, so that each line is parsed and sorted.
    let non_canonical = passed(&[&body.replace("{a=\"w\"} 2", "{ a=\"w\"} 2")], &open_metrics());
    assert!(
        canonical.contains("x_count{a=\"\"} 2\nx_count{a=\"w\"} 2\n"),
        "{canonical}"
    );
    assert_eq!(non_canonical, canonical);
}

/// A target's own `up` stands for something else than ours (awaragi/prometheus-mssql-exporter#27).
#[test]
fn up_of_a_target_with_a_timestamp_is_left_out() {
    for body in [
        "up 0 1700000000000\n",
        "# TYPE up gauge\nup 0 1700000000\n# EOF\n",
    ] {
        for format in [
            text(),
            open_metrics(),
            prometheus(P2, Format::Text),
            prometheus(P3, Format::OpenMetrics),
        ] {
            let merged = merge(targets(&[body]), &format);
            let got = written(&merged);
            let samples: Vec<&str> = got.lines().filter(|line| !line.starts_with('#')).collect();
            assert_eq!(samples, ["up{pod=\"a\"} 1"], "{body}");
            assert_eq!(merged.n_dropped(), 1);
        }
    }
}

/// `_created` samples look like other samples, and have no timestamp of their own (prometheus/prometheus#6541).
#[test]
fn mixed_timestamps_of_one_target_leave_types_and_exemplars_to_prometheus() {
    let bodies = [
        "# TYPE c counter\nc_total 1 1700000000\nc_created 1600000000\n# EOF\n",
        "# TYPE c counter\nc_total 2 # {t=\"x\"} 1\nc_created 1600000001\n# EOF\n",
    ];
    let expect = "# TYPE c counter\nc_total{pod=\"a\"} 1 1700000000\nc_created{pod=\"a\"} 1600000000\n\
                  c_total{pod=\"b\"} 2 # {t=\"x\"} 1\nc_created{pod=\"b\"} 1600000001\n# EOF\n";
    for agent in [P2, P3] {
        let merged = check(&bodies, &prometheus(agent, Format::OpenMetrics), expect);
        assert_eq!(merged.conflicts(), []);
    }
    // The Python parser refuses a metric that mixes them, and a second family that claims its names.
    let merged = check(
        &bodies,
        &open_metrics(),
        "# TYPE c_total unknown\nc_total{pod=\"a\"} 1 1700000000\nc_total{pod=\"b\"} 2\n\
         # TYPE c_created unknown\nc_created{pod=\"a\"} 1600000000\nc_created{pod=\"b\"} 1600000001\n# EOF\n",
    );
    assert_eq!(merged.conflicts()[0].kind, ConflictKind::Type);
}

/// One name with two types is invalid in every format (open-telemetry/opentelemetry-specification#2890).
#[test]
fn type_conflict_leaves_exemplars_to_prometheus() {
    let bodies = [
        "# TYPE x counter\nx_total 1 # {t=\"y\"} 1\n# EOF\n",
        "# TYPE x_total gauge\nx_total 2\n",
        "# TYPE h histogram\nh_bucket{le=\"1.0\"} 1 # {t=\"z\"} 1\nh_bucket{le=\"+Inf\"} 1\n# EOF\n",
        "# TYPE h gauge\nh 3\n",
    ];
    for agent in [P2, P3] {
        check(
            &bodies,
            &prometheus(agent, Format::OpenMetrics),
            "# TYPE x_total unknown\nx_total{pod=\"a\"} 1 # {t=\"y\"} 1\nx_total{pod=\"b\"} 2\n\
             # TYPE h_bucket unknown\nh_bucket{le=\"1.0\",pod=\"c\"} 1 # {t=\"z\"} 1\nh_bucket{le=\"+Inf\",pod=\"c\"} 1\n\
             # TYPE h unknown\nh{pod=\"d\"} 3\n# EOF\n",
        );
    }
}

#[test]
fn exemplars_that_prometheus_stores() {
    let bodies = ["# TYPE g gauge\ng 1 # {t=\"x\"} 1\n# TYPE u unknown\nu_total 1 # {t=\"y\"} 1\n# EOF\n"];
    let expect = |gauge: &str, total: &str| {
        format!(
            "# TYPE g gauge\ng{{pod=\"a\"}} 1{gauge}\n# TYPE u_total unknown\nu_total{{pod=\"a\"}} 1{total}\n# EOF\n"
        )
    };
    let (on_gauge, on_total) = (" # {t=\"x\"} 1", " # {t=\"y\"} 1");
    check(
        &bodies,
        &prometheus(P3, Format::OpenMetrics),
        &expect(on_gauge, on_total),
    );
    // 2.42 fails the whole scrape over an exemplar on a gauge.
    check(
        &bodies,
        &prometheus(P2, Format::OpenMetrics),
        &expect("", on_total),
    );
    check(&bodies, &open_metrics(), &expect("", ""));
}

/// Components of one mesh write `istio_build` in several ways (istio/istio#47397).
#[test]
fn type_conflict_info_and_stateset_next_to_a_gauge_of_their_name_are_gauges() {
    let bodies = [
        "# TYPE istio_build info\nistio_build_info{component=\"ztunnel\"} 1\n\
         # TYPE s stateset\ns{s=\"on\"} 1\n# EOF\n",
        "# TYPE istio_build gauge\nistio_build{component=\"pilot\"} 1\n# TYPE s gauge\ns 2\n",
        "# TYPE istio_build counter\nistio_build_total 3\n# EOF\n",
    ];
    for (format, end) in [(open_metrics(), "# EOF\n"), (text(), "")] {
        let merged = check(
            &bodies[..2],
            &format,
            &format!(
                "# TYPE istio_build_info gauge\nistio_build_info{{component=\"ztunnel\",pod=\"a\"}} 1\n\
                 # TYPE s gauge\ns{{s=\"on\",pod=\"a\"}} 1\ns{{pod=\"b\"}} 2\n\
                 # TYPE istio_build gauge\nistio_build{{component=\"pilot\",pod=\"b\"}} 1\n{end}"
            ),
        );
        assert_eq!(merged.conflicts(), []);
    }
    // A counter of that name keeps its type as well.
    check(
        &[bodies[0], bodies[2]],
        &open_metrics(),
        "# TYPE istio_build_info gauge\nistio_build_info{component=\"ztunnel\",pod=\"a\"} 1\n\
         # TYPE s stateset\ns{s=\"on\",pod=\"a\"} 1\n\
         # TYPE istio_build counter\nistio_build_total{pod=\"b\"} 3\n# EOF\n",
    );
}

/// Some targets write the HELP text of a metric that they have no samples of yet, others samples without HELP
/// (istio/istio#47397).
#[test]
fn help_and_unit_help_of_a_target_without_samples() {
    let bodies = [
        "# TYPE a gauge\na 1\n# TYPE c_total counter\nc_total 1\n# HELP b own\n# TYPE b gauge\nb 1\n",
        "# HELP a help a\n# TYPE a gauge\n# HELP b other\n# HELP c_total help c\n# TYPE c_total counter\n",
        "# HELP a too late\n",
    ];
    check(
        &bodies,
        &text(),
        "# HELP a help a\n# TYPE a gauge\na{pod=\"a\"} 1\n# HELP c_total help c\n# TYPE c_total counter\nc_total{pod=\"a\"} 1\n\
         # HELP b own\n# TYPE b gauge\nb{pod=\"a\"} 1\n",
    );
    check(
        &bodies,
        &open_metrics(),
        "# TYPE a gauge\n# HELP a help a\na{pod=\"a\"} 1\n# TYPE c counter\n# HELP c help c\nc_total{pod=\"a\"} 1\n\
         # TYPE b gauge\n# HELP b own\nb{pod=\"a\"} 1\n# EOF\n",
    );
}
