//! Kubernetes label selectors.
//!
//! The grammar is that of apimachinery's `labels.Parse`, so that this program and the API server accept the same texts.
//! An empty value is a value (`app=`); an empty requirement is an error (`app=x,`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A valid label selector.
///
/// It holds at least one requirement: an empty selector would match every pod, which nobody intends who leaves a field
/// empty. [`fmt::Display`] writes the canonical text: requirements sorted by key, values sorted and without duplicates,
/// and no spaces except around `in` and `notin`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    requirements: Vec<Requirement>,
}

/// One condition on one label.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Requirement {
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

/// Why a requirement is not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequirementError {
    /// The key is not a label key.
    #[error("{key:?} is not a label key: {problem}")]
    Key {
        /// The text.
        key: String,
        /// The rule that it breaks.
        problem: &'static str,
    },
    /// A value is not a label value.
    #[error("{value:?} is not a label value: {problem}")]
    Value {
        /// The text.
        value: String,
        /// The rule that it breaks.
        problem: &'static str,
    },
    /// A set of values is empty.
    #[error("the list of values for the label {key:?} is empty")]
    NoValues {
        /// The label key.
        key: String,
    },
}

/// Why a text is not a selector, where, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// The text is empty.
    #[error("an empty selector would match every pod; name a label, for example app=web")]
    Empty,
    /// The text does not follow the grammar.
    #[error("found {found} at character {position}, expected {expected}")]
    Syntax {
        /// The token at that position, quoted, or `the end`.
        found: String,
        /// The position of its first character, counted from 1.
        position: usize,
        /// What the grammar allows there.
        expected: &'static str,
    },
    /// The key is not a label key.
    #[error("{key:?} at character {position} is not a label key: {problem}")]
    Key {
        /// The text.
        key: String,
        /// The position of its first character, counted from 1.
        position: usize,
        /// The rule that it breaks.
        problem: &'static str,
    },
    /// The value is not a label value.
    #[error("{value:?} at character {position} is not a label value: {problem}")]
    Value {
        /// The text.
        value: String,
        /// The position of its first character, counted from 1.
        position: usize,
        /// The rule that it breaks.
        problem: &'static str,
    },
}

impl Requirement {
    /// Requires that the label has this value.
    ///
    /// # Errors
    /// [`RequirementError`] if key or value break Kubernetes' rules.
    pub fn equals(key: &str, value: &str) -> Result<Self, RequirementError> {
        check_value(value)?;
        Self::try_new(key, Test::Equals(value.to_owned()))
    }

    /// Requires that the label has one of these values.
    ///
    /// # Errors
    /// [`RequirementError`] if key or values break Kubernetes' rules.
    pub fn is_in(key: &str, values: BTreeSet<String>) -> Result<Self, RequirementError> {
        check_values(key, &values)?;
        Self::try_new(key, Test::In(values))
    }

    /// Requires that the label has none of these values, or does not exist.
    ///
    /// # Errors
    /// [`RequirementError`] if key or values break Kubernetes' rules.
    pub fn not_in(key: &str, values: BTreeSet<String>) -> Result<Self, RequirementError> {
        check_values(key, &values)?;
        Self::try_new(key, Test::NotIn(values))
    }

    /// Requires that the label exists.
    ///
    /// # Errors
    /// [`RequirementError`] if the key breaks Kubernetes' rules.
    pub fn exists(key: &str) -> Result<Self, RequirementError> {
        Self::try_new(key, Test::Exists)
    }

    /// Requires that the label does not exist.
    ///
    /// # Errors
    /// [`RequirementError`] if the key breaks Kubernetes' rules.
    pub fn absent(key: &str) -> Result<Self, RequirementError> {
        Self::try_new(key, Test::Absent)
    }

    fn try_new(key: &str, test: Test) -> Result<Self, RequirementError> {
        check_label_key(key).map_err(|problem| RequirementError::Key {
            key: key.to_owned(),
            problem,
        })?;
        Ok(Self {
            key: key.to_owned(),
            test,
        })
    }
}

fn check_value(value: &str) -> Result<(), RequirementError> {
    check_label_value(value).map_err(|problem| RequirementError::Value {
        value: value.to_owned(),
        problem,
    })
}

/// Source: apimachinery, pkg/labels/selector.go, NewRequirement: `in` and `notin` need at least one value.
fn check_values(key: &str, values: &BTreeSet<String>) -> Result<(), RequirementError> {
    if values.is_empty() {
        return Err(RequirementError::NoValues { key: key.to_owned() });
    }
    values.iter().try_for_each(|value| check_value(value))
}

impl Selector {
    /// Parses Kubernetes' full selector syntax: `a=b`, `a==b`, `a!=b`, `a in (b,c)`, `a notin (b,c)`, `a`, `!a`, `a>5`,
    /// `a<5`, separated by commas. Spaces are allowed between words.
    ///
    /// # Errors
    /// [`SelectorError`], which states the position and what would be right there.
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

    /// Makes a selector that matches what all of `parts` match. Returns `None` if there are none.
    pub fn all_of(parts: impl IntoIterator<Item = Self>) -> Option<Self> {
        Self::from_requirements(parts.into_iter().flat_map(|part| part.requirements).collect())
    }

    /// Makes a selector of requirements. Returns `None` if there are none.
    pub fn from_requirements(mut requirements: Vec<Requirement>) -> Option<Self> {
        requirements.sort();
        requirements.dedup();
        (!requirements.is_empty()).then_some(Self { requirements })
    }

    /// Returns whether these labels match.
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

/// Writes the values between the parentheses. A single empty value would read as no value, so it is written as two.
fn joined(values: &BTreeSet<String>) -> String {
    if values.len() == 1 && values.contains("") {
        return ",".to_owned();
    }
    values.iter().map(String::as_str).collect::<Vec<_>>().join(",")
}

/// Parses a whole number as Go's `strconv.ParseInt` does.
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

/// Splits the text into tokens, each with the position of its first character, counted from 1. The last one is
/// [`Token::End`].
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

    /// Goes to the next token, but never past the end.
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

    /// Reads the value after an operator. If there is none, the value is empty.
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

    /// Reads `(a,b)`. As in the API server, a missing value is the empty value: `()`, `(,a)`.
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
                    "the part before the slash must be a DNS name in lower case, as in example.com/name",
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
mod tests;
