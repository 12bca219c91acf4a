//! Kubernetes label selectors, as the API server reads them.
//!
//! Core. The grammar is that of apimachinery (`labels.Parse`), so that a text that we take is taken by the server and
//! the other way round: an empty value is one (`app=`), an empty requirement is none (`app=x,`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A label selector, checked.
///
/// Holds at least one requirement: an empty selector would take every pod, which nobody who left a field empty meant.
/// [`fmt::Display`] writes the canonical text: requirements sorted by key, values sorted and once, no spaces but around
/// `in` and `notin`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    requirements: Vec<Requirement>,
}

/// One condition on one label.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Test {
    Exists,
    Absent,
    Equals(String),
    Differs(String),
    In(BTreeSet<String>),
    NotIn(BTreeSet<String>),
    Above(i64),
    Below(i64),
}

/// What is wrong with a selector, where, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// Nothing in it.
    #[error("an empty selector would take every pod; name a label, for example app=web")]
    Empty,
    /// The text does not go on as it must.
    #[error("found {found} at character {position}, expected {expected}")]
    Syntax {
        /// What stands there, quoted, or `the end`.
        found: String,
        /// The first character of it, counted from 1.
        position: usize,
        /// What could stand there.
        expected: &'static str,
    },
    /// Not a label key.
    #[error("{key:?} at character {position} is no label key: {problem}")]
    Key {
        /// The text.
        key: String,
        /// Its first character, counted from 1.
        position: usize,
        /// The rule that it breaks.
        problem: &'static str,
    },
    /// Not a label value.
    #[error("{value:?} at character {position} is no label value: {problem}")]
    Value {
        /// The text.
        value: String,
        /// Its first character, counted from 1.
        position: usize,
        /// The rule that it breaks.
        problem: &'static str,
    },
}

impl Selector {
    /// Parses Kubernetes' full selector syntax: `a=b`, `a==b`, `a!=b`, `a in (b,c)`, `a notin (b,c)`, `a`, `!a`, `a>5`,
    /// `a<5`, joined by commas, with spaces where one likes.
    ///
    /// # Errors
    /// [`SelectorError`], which names the character and what would be right there.
    ///
    /// Source: apimachinery, pkg/labels/selector.go.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut parser = Parser {
            tokens: tokens(text),
            next: 0,
        };
        if parser.peek() == &Token::End {
            return Err(SelectorError::Empty);
        }
        let mut requirements = vec![parser.requirement()?];
        loop {
            match parser.peek() {
                Token::End => break,
                Token::Comma => {
                    parser.advance();
                    requirements.push(parser.requirement()?);
                }
                _ => return Err(parser.unexpected("a comma or the end")),
            }
        }
        requirements.sort();
        requirements.dedup();
        Ok(Self { requirements })
    }

    /// Builds a selector that takes what all of `parts` take. `None` where there are none.
    pub fn all_of(parts: impl IntoIterator<Item = Self>) -> Option<Self> {
        let mut requirements: Vec<_> = parts.into_iter().flat_map(|part| part.requirements).collect();
        requirements.sort();
        requirements.dedup();
        (!requirements.is_empty()).then_some(Self { requirements })
    }

    /// Whether a pod with these labels is taken.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.requirements.iter().all(|requirement| {
            let value = labels.get(&requirement.key);
            let number = || value.and_then(|value| parse_integer(value));
            match &requirement.test {
                Test::Exists => value.is_some(),
                Test::Absent => value.is_none(),
                Test::Equals(wanted) => value == Some(wanted),
                Test::Differs(unwanted) => value != Some(unwanted),
                Test::In(wanted) => value.is_some_and(|value| wanted.contains(value)),
                Test::NotIn(unwanted) => value.is_none_or(|value| !unwanted.contains(value)),
                Test::Above(limit) => number().is_some_and(|number| number > *limit),
                Test::Below(limit) => number().is_some_and(|number| number < *limit),
            }
        })
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Requirement { key, test }) in self.requirements.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            match test {
                Test::Exists => write!(f, "{key}")?,
                Test::Absent => write!(f, "!{key}")?,
                Test::Equals(value) => write!(f, "{key}={value}")?,
                Test::Differs(value) => write!(f, "{key}!={value}")?,
                Test::In(values) => write!(f, "{key} in ({})", joined(values))?,
                Test::NotIn(values) => write!(f, "{key} notin ({})", joined(values))?,
                Test::Above(limit) => write!(f, "{key}>{limit}")?,
                Test::Below(limit) => write!(f, "{key}<{limit}")?,
            }
        }
        Ok(())
    }
}

/// The values between the parentheses. The empty value alone would read as no value, so it is written as two of it.
fn joined(values: &BTreeSet<String>) -> String {
    if values.len() == 1 && values.contains("") {
        return ",".to_owned();
    }
    values.iter().map(String::as_str).collect::<Vec<_>>().join(",")
}

/// A whole number as Go's `strconv.ParseInt` takes it.
fn parse_integer(text: &str) -> Option<i64> {
    text.parse().ok()
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    End,
    Comma,
    Open,
    Close,
    Not,
    Operator(&'static str),
    Word(String),
    Unknown(String),
}

/// Cuts the text into tokens, each with the position of its first character (from 1). Ends with [`Token::End`].
fn tokens(text: &str) -> Vec<(Token, usize)> {
    let characters: Vec<char> = text.chars().collect();
    let is_space = |c: char| matches!(c, ' ' | '\t' | '\r' | '\n');
    let is_special = |c: char| matches!(c, '=' | '!' | '(' | ')' | ',' | '>' | '<');
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < characters.len() {
        if is_space(characters[at]) {
            at += 1;
            continue;
        }
        let start = at;
        let next = characters.get(at + 1);
        let (token, length) = match (characters[at], next) {
            (',', _) => (Token::Comma, 1),
            ('(', _) => (Token::Open, 1),
            (')', _) => (Token::Close, 1),
            ('=', Some('=')) => (Token::Operator("=="), 2),
            ('=', _) => (Token::Operator("="), 1),
            ('!', Some('=')) => (Token::Operator("!="), 2),
            ('!', _) => (Token::Not, 1),
            ('>' | '<', Some('=')) => (Token::Unknown(format!("{}=", characters[at])), 2),
            ('>', _) => (Token::Operator(">"), 1),
            ('<', _) => (Token::Operator("<"), 1),
            _ => {
                let length = characters[at..]
                    .iter()
                    .take_while(|c| !is_space(**c) && !is_special(**c))
                    .count();
                let word = characters[at..at + length].iter().collect();
                (Token::Word(word), length)
            }
        };
        tokens.push((token, start + 1));
        at += length;
    }
    tokens.push((Token::End, characters.len() + 1));
    tokens
}

struct Parser {
    tokens: Vec<(Token, usize)>,
    next: usize,
}

impl Parser {
    fn peek(&self) -> &Token {
        &self.tokens[self.next].0
    }

    /// Moves on, but never past the end.
    fn advance(&mut self) {
        self.next = (self.next + 1).min(self.tokens.len() - 1);
    }

    fn unexpected(&self, expected: &'static str) -> SelectorError {
        let (token, position) = &self.tokens[self.next];
        let found = match token {
            Token::End => "the end".to_owned(),
            Token::Comma => "','".to_owned(),
            Token::Open => "'('".to_owned(),
            Token::Close => "')'".to_owned(),
            Token::Not => "'!'".to_owned(),
            Token::Operator(text) => format!("'{text}'"),
            Token::Word(text) | Token::Unknown(text) => format!("'{text}'"),
        };
        SelectorError::Syntax {
            found,
            position: *position,
            expected,
        }
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        let absent = self.peek() == &Token::Not;
        if absent {
            self.advance();
        }
        let key = self.key()?;
        if absent {
            return Ok(Requirement {
                key,
                test: Test::Absent,
            });
        }
        let test = match self.peek().clone() {
            Token::End | Token::Comma => Test::Exists,
            Token::Operator(operator) => {
                self.advance();
                match operator {
                    "!=" => Test::Differs(self.value_or_empty()?),
                    ">" => Test::Above(self.integer()?),
                    "<" => Test::Below(self.integer()?),
                    _ => Test::Equals(self.value_or_empty()?),
                }
            }
            Token::Word(word) if word == "in" => {
                self.advance();
                Test::In(self.values()?)
            }
            Token::Word(word) if word == "notin" => {
                self.advance();
                Test::NotIn(self.values()?)
            }
            _ => {
                return Err(self.unexpected(
                    "one of =, ==, !=, in, notin, >, <, or a comma, or the end, after a label key",
                ));
            }
        };
        Ok(Requirement { key, test })
    }

    fn key(&mut self) -> Result<String, SelectorError> {
        let (Token::Word(key), position) = &self.tokens[self.next] else {
            return Err(self.unexpected("a label key, or ! and a label key"));
        };
        if let Err(problem) = check_label_key(key) {
            return Err(SelectorError::Key {
                key: key.clone(),
                position: *position,
                problem,
            });
        }
        let key = key.clone();
        self.advance();
        Ok(key)
    }

    /// The value after an operator; none at all is the empty value.
    fn value_or_empty(&mut self) -> Result<String, SelectorError> {
        match self.peek() {
            Token::End | Token::Comma => Ok(String::new()),
            Token::Word(_) => self.value(),
            _ => Err(self.unexpected("a label value")),
        }
    }

    fn value(&mut self) -> Result<String, SelectorError> {
        let (Token::Word(value), position) = &self.tokens[self.next] else {
            return Err(self.unexpected("a label value"));
        };
        if let Err(problem) = check_label_value(value) {
            return Err(SelectorError::Value {
                value: value.clone(),
                position: *position,
                problem,
            });
        }
        let value = value.clone();
        self.advance();
        Ok(value)
    }

    fn integer(&mut self) -> Result<i64, SelectorError> {
        let number = match self.peek() {
            Token::Word(word) => parse_integer(word).filter(|_| check_label_value(word).is_ok()),
            _ => None,
        };
        let number = number.ok_or_else(|| self.unexpected("a whole number"))?;
        self.advance();
        Ok(number)
    }

    /// `(a,b)`. As with the API server, a missing value is the empty one: `()`, `(,a)`.
    fn values(&mut self) -> Result<BTreeSet<String>, SelectorError> {
        if self.peek() != &Token::Open {
            return Err(self.unexpected("'(' and values, as in (a,b)"));
        }
        self.advance();
        let mut values = BTreeSet::new();
        loop {
            match self.peek() {
                Token::Comma | Token::Close => {
                    values.insert(String::new());
                }
                Token::Word(_) => {
                    values.insert(self.value()?);
                }
                _ => return Err(self.unexpected("a label value, a comma or ')'")),
            }
            match self.peek() {
                Token::Comma => self.advance(),
                Token::Close => {
                    self.advance();
                    return Ok(values);
                }
                _ => return Err(self.unexpected("a comma or ')'")),
            }
        }
    }
}

const NAME_RULE: &str =
    "a name is 1 to 63 letters, digits, '-', '_' or '.', with a letter or digit at both ends";
const VALUE_RULE: &str =
    "a value is empty, or 1 to 63 letters, digits, '-', '_' or '.', with a letter or digit at both ends";

/// Checks a label or annotation key: a name, or a DNS name, a slash and a name.
///
/// Source: apimachinery, pkg/util/validation, `IsQualifiedName`.
fn check_label_key(key: &str) -> Result<(), &'static str> {
    let name = match key.split_once('/') {
        None => key,
        Some((prefix, name)) => {
            if name.contains('/') {
                return Err("there is more than one slash");
            }
            if !is_dns_subdomain(prefix) {
                return Err(
                    "what stands before the slash must be a DNS name in lower case, as in example.com/name",
                );
            }
            name
        }
    };
    if is_label_name(name) {
        Ok(())
    } else {
        Err(NAME_RULE)
    }
}

/// Checks a label value.
///
/// Source: apimachinery, pkg/util/validation, `IsValidLabelValue`.
fn check_label_value(value: &str) -> Result<(), &'static str> {
    if value.is_empty() || is_label_name(value) {
        Ok(())
    } else {
        Err(VALUE_RULE)
    }
}

fn is_label_name(text: &str) -> bool {
    let ends = |c: Option<u8>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && ends(bytes.first().copied())
        && ends(bytes.last().copied())
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

fn is_dns_subdomain(text: &str) -> bool {
    let is_part = |part: &str| {
        !part.is_empty()
            && !part.starts_with('-')
            && !part.ends_with('-')
            && part
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    text.len() <= 253 && text.split('.').all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, canonical: &str) {
        let selector = Selector::parse(text).unwrap_or_else(|e| panic!("{text:?}: {e}"));
        assert_eq!(selector.to_string(), canonical);
        assert_eq!(
            Selector::parse(canonical).unwrap(),
            selector,
            "the canonical text means the same"
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
            "an empty selector would take every pod; name a label, for example app=web",
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
            "\"-app\" at character 1 is no label key: a name is 1 to 63 letters, digits, '-', '_' or '.', with a letter or digit at both ends",
        );
        check_error(
            "Example.com/app",
            "\"Example.com/app\" at character 1 is no label key: what stands before the slash must be a DNS name in lower case, as in example.com/name",
        );
        check_error(
            "a/b/c",
            "\"a/b/c\" at character 1 is no label key: there is more than one slash",
        );
        check_error(
            "app=web_",
            "\"web_\" at character 5 is no label value: a value is empty, or 1 to 63 letters, digits, '-', '_' or '.', with a letter or digit at both ends",
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
}
