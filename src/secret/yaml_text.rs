//! The text of a plain YAML scalar that YAML 1.1 and 1.2 read differently (pure).
//!
//! PyYAML, which charms use, follows YAML 1.1, where `25921e05` and `0o17` are strings, and writes them without quotes.
//! serde_yaml follows YAML 1.2, where they are numbers. Such a scalar is read a second time as the text that it is.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use zeroize::Zeroizing;

/// One step from a map of the document to a value in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// The value of the only key, whatever it is.
    Only,
    /// The value of this key.
    Key(&'static str),
}

/// The text of the plain scalar under `key` of the map at `path`; `None` where YAML 1.1 does not read it as a string.
pub(super) fn plain_text(yaml: &str, path: &[Step], key: &'static str) -> Option<Zeroizing<String>> {
    let mut path = path.to_vec();
    path.push(Step::Key(key));
    let text = TextAt(&path)
        .deserialize(serde_yaml::Deserializer::from_str(yaml))
        .ok()??;
    is_string_in_yaml_1_1(&text).then_some(text)
}

/// Finds the scalar at a path. Only a string type makes serde_yaml hand out the text of a number.
struct TextAt<'a>(&'a [Step]);

impl<'de> DeserializeSeed<'de> for TextAt<'_> {
    type Value = Option<Zeroizing<String>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        if self.0.is_empty() {
            deserializer.deserialize_str(self)
        } else {
            deserializer.deserialize_map(self)
        }
    }
}

impl<'de> Visitor<'de> for TextAt<'_> {
    type Value = Option<Zeroizing<String>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(Zeroizing::new(text.to_owned())))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
        let Some((step, rest)) = self.0.split_first() else {
            return Ok(None);
        };
        let mut found = None;
        while let Some(key) = access.next_key_seed(TextAt(&[]))? {
            let is_on_path = match step {
                Step::Only => true,
                Step::Key(name) => key.is_some_and(|key| *key == *name),
            };
            if is_on_path {
                found = access.next_value_seed(TextAt(rest))?;
            } else {
                access.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

/// Whether PyYAML reads a plain scalar as a string, where serde_yaml reads a number.
///
/// Source: PyYAML 6.0 `lib/yaml/resolver.py`, the patterns of `int` and `float`.
fn is_string_in_yaml_1_1(text: &str) -> bool {
    !matches!(
        text.to_ascii_lowercase().as_str(),
        "true" | "false" | "yes" | "no" | "on" | "off" | "null" | "~" | ""
    ) && !is_int(text)
        && !is_float(text)
}

fn unsigned(text: &str) -> &str {
    text.strip_prefix(['-', '+']).unwrap_or(text)
}

fn all(text: &str, is_digit: impl Fn(u8) -> bool) -> bool {
    !text.is_empty() && text.bytes().all(|b| b == b'_' || is_digit(b))
}

fn is_int(text: &str) -> bool {
    let text = unsigned(text);
    if let Some(digits) = text.strip_prefix("0b") {
        return all(digits, |b| matches!(b, b'0' | b'1'));
    }
    if let Some(digits) = text.strip_prefix("0x") {
        return all(digits, |b| b.is_ascii_hexdigit());
    }
    if let Some(digits) = text.strip_prefix('0') {
        return digits.is_empty() || all(digits, |b| matches!(b, b'0'..=b'7'));
    }
    text.starts_with(|first: char| first.is_ascii_digit()) && all(text, |b| b.is_ascii_digit())
}

fn is_float(text: &str) -> bool {
    if matches!(unsigned(text), ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return true;
    }
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (text, None),
    };
    // YAML 1.1 wants a point in the mantissa and a sign in the exponent.
    let has_sign = |exponent: &str| {
        exponent
            .strip_prefix(['-', '+'])
            .is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
    };
    if !exponent.is_none_or(has_sign) {
        return false;
    }
    let Some((whole, fraction)) = mantissa.split_once('.') else {
        return false;
    };
    let starts_with_digit = |text: &str| text.starts_with(|first: char| first.is_ascii_digit());
    let digits = |text: &str| text.is_empty() || all(text, |b| b.is_ascii_digit());
    if whole.is_empty() {
        // PyYAML has no sign before a leading point.
        return starts_with_digit(fraction) && digits(fraction);
    }
    starts_with_digit(unsigned(whole)) && digits(unsigned(whole)) && digits(fraction)
}
