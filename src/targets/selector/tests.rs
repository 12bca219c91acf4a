//! Texts in, canonical texts, errors and matches out.

use super::*;

#[track_caller]
fn check(text: &str, canonical: &str) {
    let selector = Selector::parse(text).unwrap_or_else(|e| panic!("{text:?}: {e}"));
    assert_eq!(selector.to_string(), canonical);
    assert_eq!(
        Selector::parse(canonical).unwrap(),
        selector,
        "the canonical text has the same meaning"
    );
}

#[track_caller]
fn check_error(text: &str, expect: &str) {
    assert_eq!(Selector::parse(text).expect_err(text).to_string(), expect);
}

#[track_caller]
fn check_match(text: &str, labels: &str, expect: bool) {
    let labels = labels
        .split(',')
        .filter_map(|pair| pair.split_once('='))
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect();
    assert_eq!(
        Selector::parse(text).unwrap().matches(&labels),
        expect,
        "{text} on {labels:?}"
    );
}

#[test]
fn every_operator_has_a_canonical_text() {
    check("app=web", "app=web");
    check("app==web", "app=web");
    check("app!=web", "app!=web");
    check("app in (b, a,b)", "app in (a,b)");
    check("app notin(a)", "app notin (a)");
    check("app", "app");
    check("!app", "!app");
    check("gen>5", "gen>5");
    check("gen < 5", "gen<5");
    check("tier=x,app=y", "app=y,tier=x");
}

#[test]
fn spaces_are_allowed_anywhere_between_words() {
    check(
        "  app = web ,\ttier in ( a , b ) , ! old\n",
        "app=web,!old,tier in (a,b)",
    );
}

#[test]
fn empty_values_are_values() {
    check("app=", "app=");
    check("app!=", "app!=");
    check("app=,tier", "app=,tier");
    check("app in (,a)", "app in (,a)");
    check("app in (a,)", "app in (,a)");
    check("app in (,)", "app in (,)");
    check("app in ()", "app in (,)");
}

#[test]
fn keywords_are_keys_and_values_too() {
    check("in in (in,notin)", "in in (in,notin)");
    check("notin", "notin");
    check("app=in", "app=in");
    check("example.com/name=x", "example.com/name=x");
}

#[test]
fn what_the_api_server_refuses_is_refused_with_place_and_remedy() {
    check_error(
        "",
        "an empty selector would match every pod; name a label, for example app=web",
    );
    check_error(
        "app=x,",
        "found the end at character 7, expected a label key, or ! and a label key",
    );
    check_error(
        ",app=x",
        "found ',' at character 1, expected a label key, or ! and a label key",
    );
    check_error(
        "app in x",
        "found 'x' at character 8, expected '(' and values, as in (a,b)",
    );
    check_error(
        "app in (a",
        "found the end at character 10, expected a comma or ')'",
    );
    check_error(
        "app in (a b)",
        "found 'b' at character 11, expected a comma or ')'",
    );
    check_error("app=a b", "found 'b' at character 7, expected a comma or the end");
    check_error("!app=x", "found '=' at character 5, expected a comma or the end");
    check_error("app===x", "found '=' at character 6, expected a label value");
    check_error("gen>x", "found 'x' at character 5, expected a whole number");
    check_error("gen>", "found the end at character 5, expected a whole number");
    check_error("gen>-1", "found '-1' at character 5, expected a whole number");
    check_error(
        "gen>=5",
        "found '>=' at character 4, expected one of =, ==, !=, in, notin, >, <, or a comma, or the end, after a label key",
    );
    check_error(
        "app web",
        "found 'web' at character 5, expected one of =, ==, !=, in, notin, >, <, or a comma, or the end, after a label key",
    );
    check_error(
        "-app=x",
        "\"-app\" at character 1 is not a label key: a name is 1 to 63 letters, digits, '-', '_' or '.', with a letter or digit at both ends",
    );
    check_error(
        "Example.com/app",
        "\"Example.com/app\" at character 1 is not a label key: the part before the slash must be a DNS name in lower case, as in example.com/name",
    );
    check_error(
        "a/b/c",
        "\"a/b/c\" at character 1 is not a label key: there is more than one slash",
    );
    check_error(
        "app=web_",
        "\"web_\" at character 5 is not a label value: a value is empty, or 1 to 63 letters, digits, '-', '_' or '.', with a letter or digit at both ends",
    );
    assert!(Selector::parse(&format!("app={}", "v".repeat(63))).is_ok());
    assert!(Selector::parse(&format!("app={}", "v".repeat(64))).is_err());
    assert!(Selector::parse(&format!("{}=v", "k".repeat(64))).is_err());
}

#[test]
fn matching_is_the_api_servers() {
    check_match("app=web", "app=web,x=y", true);
    check_match("app=web", "app=webs", false);
    check_match("app=", "x=y", false);
    check_match("app!=web", "x=y", true);
    check_match("app!=web", "app=web", false);
    check_match("app in (a,b)", "app=b", true);
    check_match("app in (a,b)", "x=b", false);
    check_match("app notin (a,b)", "x=b", true);
    check_match("app notin (a,b)", "app=a", false);
    check_match("app", "app=", true);
    check_match("!app", "app=", false);
    check_match("!app", "x=y", true);
    check_match("gen>5", "gen=6", true);
    check_match("gen>5", "gen=5", false);
    check_match("gen<5", "gen=4", true);
    check_match("gen<5", "gen=four", false);
    check_match("gen<5", "x=y", false);
    check_match("app=a,tier in (x)", "app=a,tier=y", false);
}

#[test]
fn no_text_panics() {
    use proptest::prelude::*;
    proptest!(|(text in "[a-z=!<>(), \\-./é]{0,24}")| {
        if let Ok(selector) = Selector::parse(&text) {
            prop_assert_eq!(Selector::parse(&selector.to_string()).unwrap(), selector);
        }
    });
}
