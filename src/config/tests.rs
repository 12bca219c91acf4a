//! One case per message, and the table itself.

use std::time::Duration;

use super::*;

fn raw(pairs: &[(&str, &str)]) -> Raw {
    Raw::collect(
        |setting| {
            let flag = format!("--{}", setting.name);
            let values: Vec<String> = pairs
                .iter()
                .filter(|(k, _)| *k == flag)
                .map(|(_, v)| (*v).to_owned())
                .collect();
            (!values.is_empty()).then_some(values)
        },
        &Environment::new(
            pairs
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        ),
    )
}

#[track_caller]
fn check_problem(name: &str, value: &str, expect: &str) {
    let problems = Config::try_new(&raw(&[(name, value)])).expect_err("must be refused");
    assert_eq!(
        problems.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [format!("{name}={value:?}: {expect}")]
    );
}

#[test]
fn defaults_parse() {
    let config = Config::default();
    assert_eq!(config.listen.port, 15090);
    assert_eq!(config.scrape.timeout, Duration::from_secs(9));
    assert!(config.discovery.selector.is_none());
    assert_eq!(
        config.pebble.socket,
        PathBuf::from("/var/lib/pebble/default/.pebble.socket")
    );
    assert!(config.pebble.check_level.is_none());
    assert!(config.listen.is_dual_stack());
}

#[test]
fn each_bad_value_says_what_is_right() {
    check_problem(
        "--timeout",
        "9",
        "not a duration; use Go's syntax with a unit, for example 9s, 1m30s or 500ms",
    );
    check_problem("SCRAPE_TIMEOUT", "0s", "must be more than zero");
    check_problem("SCRAPE_TIMEOUT", "-5s", "must not be negative");
    check_problem("PORT", "http", "not a port; use a number from 1 to 65535");
    check_problem("PORT", "0", "not a port; use a number from 1 to 65535");
    check_problem("PORT", "65536", "not a port; use a number from 1 to 65535");
    check_problem(
        "--address",
        "localhost",
        "not an IP address; use :: for IPv6 and IPv4, or 0.0.0.0, 127.0.0.1",
    );
    check_problem("--pebble", "on", "use auto, required or off");
    check_problem("--check-level", "up", "use none, alive or ready");
    check_problem(
        "--max-body-bytes",
        "big",
        "not a size; use bytes, or a number with a unit, for example 500k, 64Mi, 64MiB or 2GB",
    );
    check_problem("--max-body-bytes", "0", "must be more than zero");
    check_problem("--max-samples", "-1", "not a whole number; 0 is no limit");
    check_problem("--max-concurrent-scrapes", "0", "not a number from 1 to 65536");
    check_problem(
        "--default-port",
        "http",
        "use a port from 1 to 65535, or declared for every declared container port",
    );
    for list in ["", "nodes", "pods,,services"] {
        check_problem(
            "--discover",
            list,
            "use one or more of pods, services, podmonitors, servicemonitors, with commas",
        );
    }
    check_problem("--namespace", "Not_One", "not a namespace name");
    check_problem("--monitor-namespaces", "*", "not a namespace name");
    check_problem(
        "--target-cidr",
        "10.0.0.1",
        "not a range of IP addresses; use ADDRESS/PREFIX, for example 10.0.0.0/8 or fd00::/8",
    );
    check_problem("--max-targets-per-pod", "0", "not a number from 1 to 65536");
    check_problem("--log-format", "xml", "use text or json");
    check_problem("--adopt-identity", "maybe", "use true or false");
    check_problem("--secret", "", "an empty path");
    check_problem(
        "--timeout-offset",
        "20s",
        "must be less than --timeout, which is 9s",
    );
    check_problem(
        "--timeout-offset",
        "9s",
        "must be less than --timeout, which is 9s",
    );
    for (filter, word) in [
        ("verbose", "verbose"),
        ("info,metrics_proxy=verbose", "metrics_proxy=verbose"),
        ("info,", ""),
        ("=info", "=info"),
    ] {
        let expect = format!(
            "{word:?} is not a level; use off, error, warn, info, debug or trace, or MODULE=LEVEL such as \
             metrics_proxy=debug, separated by commas"
        );
        check_problem("--log-level", filter, &expect);
    }
}

#[test]
fn all_problems_are_in_one_report_in_table_order() {
    let problems = Config::try_new(&raw(&[
        ("PORT", "x"),
        ("SCRAPE_TIMEOUT", "soon"),
        ("--pebble", "maybe"),
        ("--max-body-bytes", "huge"),
        ("POD_LABEL_SELECTOR", "app in x"),
    ]))
    .expect_err("five problems");
    let origins: Vec<_> = problems.iter().map(|problem| problem.origin.as_str()).collect();
    assert_eq!(
        origins,
        [
            "POD_LABEL_SELECTOR",
            "SCRAPE_TIMEOUT",
            "--max-body-bytes",
            "PORT",
            "--pebble"
        ]
    );
}

#[test]
fn flags_win_over_environment_and_our_names_over_the_older() {
    let config = Config::try_new(&raw(&[("--port", "1001"), ("PORT", "1002")])).unwrap();
    assert_eq!(config.listen.port, 1001);
    let config = Config::try_new(&raw(&[("METRICS_PROXY_PORT", "1003"), ("PORT", "1002")])).unwrap();
    assert_eq!(config.listen.port, 1003);
    let config = Config::try_new(&raw(&[("PORT", "1002")])).unwrap();
    assert_eq!(config.listen.port, 1002);
}

#[test]
fn a_service_link_with_the_name_of_a_setting_leaves_the_older_name_and_the_default() {
    let link = ("METRICS_PROXY_PORT", "tcp://10.152.183.7:15090");
    let config = Config::try_new(&raw(&[link, ("PORT", "1002")])).unwrap();
    assert_eq!(config.listen.port, 1002);
    let config = Config::try_new(&raw(&[link])).unwrap();
    assert_eq!(config.listen.port, 15090);
}

#[test]
fn an_empty_variable_counts_as_unset() {
    let config = Config::try_new(&raw(&[("POD_LABEL_SELECTOR", ""), ("SCRAPE_TIMEOUT", "")])).unwrap();
    assert!(config.discovery.selector.is_none());
    assert_eq!(config.scrape.timeout, Duration::from_secs(9));
}

#[test]
fn an_empty_selector_is_never_all_pods() {
    let config = Config::try_new(&raw(&[("--labels", "  ")])).unwrap();
    assert!(config.discovery.selector.is_none());
}

#[test]
fn namespaces_come_from_repeated_flags_or_a_list() {
    let config = Config::try_new(&raw(&[("--namespace", "a"), ("--namespace", "b")])).unwrap();
    assert_eq!(config.discovery.namespaces, ["a", "b"]);
    let config = Config::try_new(&raw(&[("METRICS_PROXY_NAMESPACE", "a, b")])).unwrap();
    assert_eq!(config.discovery.namespaces, ["a", "b"]);
}

#[test]
fn log_filters_are_levels_and_levels_of_modules() {
    for filter in [
        "debug",
        "INFO",
        "off",
        "info,kube_client=error",
        "warn, metrics_proxy::scrape=trace",
    ] {
        let config = Config::try_new(&raw(&[("--log-level", filter)])).unwrap();
        assert_eq!(config.log.filter, filter);
    }
}

#[test]
fn sizes_have_the_units_of_kubernetes() {
    let size = |text| {
        Config::try_new(&raw(&[("--max-body-bytes", text)]))
            .unwrap()
            .scrape
            .max_body_bytes
    };
    assert_eq!(size("10Mi"), 10 << 20);
    assert_eq!(size("500k"), 500_000);
}

/// The default offset goes with any timeout; only one that is given must be smaller.
#[test]
fn a_short_timeout_needs_no_offset() {
    let config = Config::try_new(&raw(&[("SCRAPE_TIMEOUT", "300ms")])).unwrap();
    assert_eq!(config.scrape.timeout_offset, Duration::from_millis(500));
}

#[test]
fn ranges_of_addresses_come_from_repeated_flags_or_a_list() {
    let ranges = |pairs: &[(&str, &str)]| {
        let config = Config::try_new(&raw(pairs)).unwrap();
        let ranges = config.discovery.target_cidrs.iter();
        ranges.map(ToString::to_string).collect::<Vec<_>>()
    };
    let both = ["127.0.0.0/8", "fe80::/10"];
    assert_eq!(
        ranges(&[("--target-cidr", both[0]), ("--target-cidr", both[1])]),
        both
    );
    assert_eq!(
        ranges(&[("METRICS_PROXY_TARGET_CIDR", "127.0.0.0/8, fe80::/10")]),
        both
    );
}

#[test]
fn the_socket_is_found_as_pebbles_client_finds_it() {
    let socket = |pairs: &[(&str, &str)]| Config::try_new(&raw(pairs)).unwrap().pebble.socket;
    assert_eq!(
        socket(&[("PEBBLE_SOCKET", "/s"), ("PEBBLE", "/d")]),
        PathBuf::from("/s")
    );
    assert_eq!(socket(&[("PEBBLE", "/d")]), PathBuf::from("/d/.pebble.socket"));
}

#[test]
fn shards_are_numbered_from_zero_and_know_their_total() {
    let sharding = |pairs: &[(&str, &str)]| Config::try_new(&raw(pairs)).unwrap().discovery.sharding;
    assert_eq!(sharding(&[]), Sharding::Off);
    assert_eq!(sharding(&[("--shard", "auto")]), Sharding::Auto);
    assert_eq!(
        sharding(&[("--shard", "2"), ("--total-shards", "3")]),
        Sharding::Fixed { index: 2, total: 3 }
    );
    check_problem("--shard", "0", "needs --total-shards");
    check_problem(
        "--shard",
        "one",
        "use auto, or a number from 0 with --total-shards",
    );
    check_problem("--total-shards", "3", "needs --shard");
    check_problem("--total-shards", "0", "use a number from 1 to 1000");
    let both = |shard, total| {
        let problems = Config::try_new(&raw(&[("--shard", shard), ("--total-shards", total)])).unwrap_err();
        problems.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(
        both("3", "3"),
        ["--shard=\"3\": must be less than --total-shards, since it counts from 0"]
    );
    assert_eq!(
        both("auto", "3"),
        ["--total-shards=\"3\": goes with a number as --shard; auto finds it out"]
    );
    assert_eq!(
        both("0", "x"),
        ["--total-shards=\"x\": use a number from 1 to 1000"]
    );
}

#[test]
fn setting_names_are_unique() {
    let mut names: Vec<_> = SETTINGS.iter().map(|setting| setting.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), SETTINGS.len());
}
