//! Parses a credential from bytes (pure).
//!
//! In every layout one final newline of a value is dropped, as editors, `echo` and YAML's `|` leave it. Any other
//! character that is easily added by mistake refuses the secret: it would be part of the password, silently.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use zeroize::Zeroizing;

use super::yaml_text::{Step, plain_text};
use super::{Reading, Refusal, Stray};
use crate::credential::{Credential, Password, Username};

/// Parses the files of a directory: the content of `username` and `password`, and whether there are `others`.
pub fn parse_entries(
    username: Option<Zeroizing<Vec<u8>>>,
    password: Option<Zeroizing<Vec<u8>>>,
    others: bool,
) -> Reading {
    match (username, password) {
        (None, None) if others => Reading::Refused(Refusal::NoKeys),
        (None, None) => Reading::Absent,
        (None, Some(_)) => Reading::Refused(Refusal::Missing("username")),
        (Some(_), None) => Reading::Refused(Refusal::Missing("password")),
        (Some(username), Some(password)) => credential(username, password),
    }
}

/// Parses one file: a map with `username` and `password`, or what `juju show-secret --reveal` prints, in YAML or
/// JSON.
///
/// Source of the latter: juju `cmd/juju/secrets/list.go`, secretValueDetails (`content` in YAML, `content.Data` in JSON).
pub fn parse_file(bytes: &[u8]) -> Reading {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return Reading::Refused(Refusal::Syntax);
    };
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.contains('\0') {
        return Reading::Refused(Refusal::Nul("it"));
    }
    // JSON first: YAML does not allow tabs between tokens. A YAML flow map begins with a brace as well.
    if text.trim_start().starts_with('{')
        && let Ok(node) = serde_json::from_str(text)
    {
        return of_document(node, None);
    }
    match serde_yaml::from_str(text) {
        Ok(node) => of_document(node, Some(text)),
        Err(_) => Reading::Refused(Refusal::Syntax),
    }
}

/// The credential of a document. `yaml` is its source where it is YAML.
fn of_document(node: Option<Node>, yaml: Option<&str>) -> Reading {
    match node {
        Some(Node::Other | Node::Text(_)) => Reading::Refused(Refusal::Syntax),
        None | Some(Node::Null) => Reading::Absent,
        Some(Node::Map(entries)) => of_map(entries, yaml),
    }
}

fn of_map(entries: Vec<(String, Node)>, yaml: Option<&str>) -> Reading {
    if entries.is_empty() {
        return Reading::Absent;
    }
    let plain = entries.iter().any(|(key, node)| is_key(key) && !is_secret(node));
    if plain {
        return of_pairs(entries, yaml, &[]);
    }
    // `juju show-secret`: one entry, its key the secret's id.
    if !entries.iter().any(|(_, node)| matches!(node, Node::Map(_))) {
        return Reading::Refused(Refusal::NoKeys);
    }
    if entries.len() > 1 {
        return Reading::Refused(Refusal::Several);
    }
    let Some((_, Node::Map(details))) = entries.into_iter().next() else {
        return Reading::Refused(Refusal::NoKeys);
    };
    match take(details, "content") {
        Some(Node::Map(content)) => match content.as_slice() {
            [(key, Node::Map(_))] if key == "Data" => match content.into_iter().next() {
                Some((_, Node::Map(data))) => {
                    of_pairs(data, yaml, &[Step::Only, Step::Key("content"), Step::Key("Data")])
                }
                _ => Reading::Refused(Refusal::NoKeys),
            },
            _ => of_pairs(content, yaml, &[Step::Only, Step::Key("content")]),
        },
        Some(Node::Null) | None => Reading::Refused(Refusal::NotRevealed),
        Some(_) => Reading::Refused(Refusal::NoKeys),
    }
}

/// `username` and `password` of a map, which is at `path` of the document.
fn of_pairs(entries: Vec<(String, Node)>, yaml: Option<&str>, path: &[Step]) -> Reading {
    if entries.is_empty() {
        return Reading::Absent;
    }
    let (mut username, mut password) = (None, None);
    for (key, node) in entries {
        let (slot, name) = match key.as_str() {
            "username" => (&mut username, "username"),
            "password" => (&mut password, "password"),
            _ => continue,
        };
        let text = match node {
            Node::Text(text) => text,
            Node::Null => Zeroizing::new(String::new()),
            Node::Other if let Some(text) = yaml.and_then(|yaml| plain_text(yaml, path, name)) => text,
            Node::Map(_) | Node::Other => return Reading::Refused(Refusal::NotText(name)),
        };
        if slot.replace(text).is_some() {
            return Reading::Refused(Refusal::Twice(name));
        }
    }
    match (username, password) {
        (None, None) => Reading::Refused(Refusal::NoKeys),
        (None, Some(_)) => Reading::Refused(Refusal::Missing("username")),
        (Some(_), None) => Reading::Refused(Refusal::Missing("password")),
        (Some(username), Some(password)) => credential(into_bytes(username), into_bytes(password)),
    }
}

fn into_bytes(mut text: Zeroizing<String>) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(std::mem::take(&mut *text).into_bytes())
}

fn credential(username: Zeroizing<Vec<u8>>, password: Zeroizing<Vec<u8>>) -> Reading {
    let checked = || {
        let username = value(username, "username")?;
        if username.contains(&0) {
            return Err(Refusal::Nul("username"));
        }
        // Bytes that are not UTF-8 are not a name either, and the same text helps.
        let name = String::from_utf8_lossy(&username);
        Ok(Credential {
            username: Username::parse(&name)?,
            password: Password::try_new(value(password, "password")?)?,
        })
    };
    match checked() {
        Ok(credential) => Reading::Usable(credential),
        Err(refusal) => Reading::Refused(refusal),
    }
}

/// A value without its one final newline. `name` is its key.
fn value(mut bytes: Zeroizing<Vec<u8>>, name: &'static str) -> Result<Zeroizing<Vec<u8>>, Stray> {
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
    }
    match bytes.last() {
        _ if bytes.starts_with("\u{feff}".as_bytes()) => Err(Stray::ByteOrderMark(name)),
        Some(b'\r') => Err(Stray::CarriageReturn(name)),
        Some(b' ' | b'\t' | b'\n') => Err(Stray::WhiteSpace(name)),
        _ => Ok(bytes),
    }
}

fn is_key(key: &str) -> bool {
    key == "username" || key == "password"
}

/// Whether this looks like a secret under its id: a secret may well be labelled `username`.
fn is_secret(node: &Node) -> bool {
    matches!(node, Node::Map(details) if details.iter().any(|(key, _)| key == "content" || key == "revision"))
}

fn take(entries: Vec<(String, Node)>, key: &str) -> Option<Node> {
    entries
        .into_iter()
        .find_map(|(name, node)| (name == key).then_some(node))
}

/// A YAML or JSON value. Its strings are wiped when it is dropped, and repeated keys are kept.
enum Node {
    Null,
    Text(Zeroizing<String>),
    Map(Vec<(String, Node)>),
    Other,
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of strings")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<Node, E> {
        Ok(Node::Other)
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<Node, E> {
        Ok(Node::Other)
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<Node, E> {
        Ok(Node::Other)
    }

    fn visit_i128<E: de::Error>(self, _: i128) -> Result<Node, E> {
        Ok(Node::Other)
    }

    fn visit_u128<E: de::Error>(self, _: u128) -> Result<Node, E> {
        Ok(Node::Other)
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Node, E> {
        Ok(Node::Other)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Node, E> {
        Ok(Node::Text(Zeroizing::new(text.to_owned())))
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<Node, E> {
        Ok(Node::Text(Zeroizing::new(text)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        while access.next_element::<Node>()?.is_some() {}
        Ok(Node::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = access.next_key::<Node>()? {
            let value = access.next_value()?;
            // A key that is not a string, such as an id of digits, is an id all the same.
            let key = match key {
                Node::Text(mut text) => std::mem::take(&mut *text),
                _ => "?".to_owned(),
            };
            entries.push((key, value));
        }
        Ok(Node::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::{PasswordError, UsernameError};

    fn pair(username: &str, password: &str) -> Reading {
        Reading::Usable(Credential {
            username: Username::parse(username).unwrap(),
            password: Password::try_new(Zeroizing::new(password.into())).unwrap(),
        })
    }

    #[track_caller]
    fn check(text: &str, expect: &Reading) {
        assert_eq!(&parse_file(text.as_bytes()), expect, "{text:?}");
    }

    #[track_caller]
    fn check_entries(username: Option<&[u8]>, password: Option<&[u8]>, expect: &Reading) {
        let own = |bytes: Option<&[u8]>| bytes.map(|bytes| Zeroizing::new(bytes.to_vec()));
        assert_eq!(&parse_entries(own(username), own(password), false), expect);
    }

    #[test]
    fn one_newline_is_dropped_and_other_white_space_is_named() {
        check_entries(Some(b"alice\n"), Some(b"pw\n"), &pair("alice", "pw"));
        check_entries(Some(b"alice"), Some(b"  p w"), &pair("alice", "  p w"));
        let white_space = |name| Reading::Refused(Refusal::Stray(Stray::WhiteSpace(name)));
        let carriage_return = |name| Reading::Refused(Refusal::Stray(Stray::CarriageReturn(name)));
        let byte_order_mark = |name| Reading::Refused(Refusal::Stray(Stray::ByteOrderMark(name)));
        check_entries(Some(b"alice\n\n"), Some(b"pw"), &white_space("username"));
        for ending in ["\n\n", " ", " \n", "\t", "\t\n"] {
            check_entries(
                Some(b"alice"),
                Some(format!("pw{ending}").as_bytes()),
                &white_space("password"),
            );
        }
        check_entries(Some(b"alice\r\n"), Some(b"pw"), &carriage_return("username"));
        check_entries(Some(b"alice"), Some(b"pw\r\n"), &carriage_return("password"));
        check_entries(Some(b"alice"), Some(b"pw\r"), &carriage_return("password"));
        check_entries(
            Some(b"\xef\xbb\xbfalice"),
            Some(b"pw"),
            &byte_order_mark("username"),
        );
        check_entries(
            Some(b"alice"),
            Some(b"\xef\xbb\xbfpw\n"),
            &byte_order_mark("password"),
        );
    }

    /// One Juju secret is one password, whatever way it comes.
    #[test]
    fn every_layout_drops_the_same_newline() {
        let juju = "d1d2:\n  revision: 2\n  owner: <model>\n  content:\n    password: |\n      pw\n    username: scraper\n";
        check(juju, &pair("scraper", "pw"));
        check("username: scraper\npassword: |\n  pw\n", &pair("scraper", "pw"));
        check("username: scraper\npassword: \"pw\\n\"\n", &pair("scraper", "pw"));
        check(
            "{\"username\": \"scraper\", \"password\": \"pw\\n\"}",
            &pair("scraper", "pw"),
        );
        for (text, stray) in [
            (
                "username: a\npassword: |+\n  pw\n\n",
                Stray::WhiteSpace("password"),
            ),
            ("username: a\npassword: 'pw '\n", Stray::WhiteSpace("password")),
            (
                "{\"username\": \"a\", \"password\": \"pw\\r\\n\"}",
                Stray::CarriageReturn("password"),
            ),
            (
                "{\"username\": \"a\", \"password\": \"\\ufeffpw\"}",
                Stray::ByteOrderMark("password"),
            ),
            (
                "username: \"a\\r\"\npassword: pw\n",
                Stray::CarriageReturn("username"),
            ),
        ] {
            check(text, &Reading::Refused(Refusal::Stray(stray)));
        }
    }

    /// A number in YAML 1.2 that is a string in YAML 1.1 keeps its text: the program that wrote it wrote a string.
    #[test]
    fn a_string_of_yaml_1_1_keeps_its_text() {
        for text in [
            "25921e05", "1E6", "12e5", "0o17", "1.5e3", "-.5", "+12e03", "1e+5",
        ] {
            check(
                &format!("username: scraper\npassword: {text}\n"),
                &pair("scraper", text),
            );
            check(
                &format!("{{username: scraper, password: {text}}}"),
                &pair("scraper", text),
            );
            check(
                &format!("id:\n  content: {{username: scraper, password: {text}}}\n"),
                &pair("scraper", text),
            );
            check(
                &format!("1e5:\n  content:\n    Data:\n      username: scraper\n      password: {text}\n"),
                &pair("scraper", text),
            );
        }
        let not_text = Reading::Refused(Refusal::NotText("password"));
        for number in [
            "123", "-1", "0x1F", "0b1", "1.5", "1.5e+3", ".5", ".inf", "-.INF", ".nan", "true", "1_0.5",
        ] {
            let reading = parse_file(format!("username: scraper\npassword: {number}\n").as_bytes());
            // An underscore makes it a string of YAML 1.2, which needs no second reading.
            assert!(
                reading == not_text || number.contains('_'),
                "{number}: {reading:?}"
            );
        }
        check("{\"username\": \"scraper\", \"password\": 1e5}", &not_text);
    }

    #[test]
    fn a_password_may_be_any_bytes_but_nul() {
        let Reading::Usable(credential) = parse_entries(
            Some(Zeroizing::new(b"alice".to_vec())),
            Some(Zeroizing::new(b"\xff\xfe:".to_vec())),
            false,
        ) else {
            panic!("usable");
        };
        assert_eq!(credential.password.expose(), b"\xff\xfe:");
        check_entries(
            Some(b"alice"),
            Some(b"a\0b"),
            &Reading::Refused(Refusal::Password(PasswordError::Nul)),
        );
        check_entries(
            Some(b"al\0ice"),
            Some(b"pw"),
            &Reading::Refused(Refusal::Nul("username")),
        );
    }

    #[test]
    fn a_key_without_its_pair_is_refused_and_none_is_absence() {
        check_entries(None, None, &Reading::Absent);
        check_entries(
            Some(b"alice"),
            None,
            &Reading::Refused(Refusal::Missing("password")),
        );
        check_entries(None, Some(b"pw"), &Reading::Refused(Refusal::Missing("username")));
        check_entries(
            Some(b""),
            Some(b"pw"),
            &Reading::Refused(Refusal::Username(UsernameError::Empty)),
        );
        check_entries(
            Some(b"alice"),
            Some(b"\n"),
            &Reading::Refused(Refusal::Password(PasswordError::Empty)),
        );
        assert_eq!(
            parse_entries(None, None, true),
            Reading::Refused(Refusal::NoKeys),
            "another file is there"
        );
    }

    #[test]
    fn passwords_end_at_128_bytes() {
        check_entries(
            Some(b"alice"),
            Some(&[b'x'; 128]),
            &pair("alice", &"x".repeat(128)),
        );
        check_entries(
            Some(b"alice"),
            Some(&[b'x'; 129]),
            &Reading::Refused(Refusal::Password(PasswordError::Long)),
        );
    }

    #[test]
    fn plain_maps() {
        check("username: alice\npassword: pw\n", &pair("alice", "pw"));
        check(
            "password: 'p w'\nother: 5\nusername: alice",
            &pair("alice", "p w"),
        );
        check(
            "{\"username\": \"alice\", \"password\": \"p\\u0077\"}",
            &pair("alice", "pw"),
        );
        check(
            "\n{\n\t\"username\": \"alice\",\n\t\"password\": \"a\\/b\"}\n",
            &pair("alice", "a/b"),
        );
        check("{username: alice, password: pw}", &pair("alice", "pw"));
        check(
            "\u{feff}username: alice\r\npassword: pw\r\n",
            &pair("alice", "pw"),
        );
        check("username: alice\npassword: |\n  pw\n", &pair("alice", "pw"));
    }

    #[test]
    fn show_secret_in_yaml_and_in_json() {
        check(
            "d0erdl7mp25c762fsv4g:\n  revision: 2\n  checksum: 8a1b\n  owner: <model>\n  name: m\n  \
             created: 2026-01-01T00:00:00Z\n  updated: 2026-01-02T00:00:00Z\n  content:\n    password: pw\n    \
             username: alice\n",
            &pair("alice", "pw"),
        );
        check(
            "{\"d0erdl7mp25c762fsv4g\":{\"revision\":1,\"owner\":\"<model>\",\"created\":\"2026-01-01T00:00:00Z\",\
             \"content\":{\"Data\":{\"password\":\"pw\",\"username\":\"alice\"}}}}\n",
            &pair("alice", "pw"),
        );
        check(
            "x:\n  content:\n    Data: {username: alice, password: pw}\n",
            &pair("alice", "pw"),
        );
    }

    #[test]
    fn what_cannot_be_used_says_why() {
        for (text, refusal) in [
            (
                "a: {content: {username: u, password: p}}\nb: {content: {username: u, password: p}}",
                Refusal::Several,
            ),
            ("a: {revision: 1, owner: x}", Refusal::NotRevealed),
            ("{\"a\": {\"revision\": 1}}", Refusal::NotRevealed),
            ("a: {content: {user: u}}", Refusal::NoKeys),
            ("user: alice", Refusal::NoKeys),
            ("username: alice", Refusal::Missing("password")),
            ("password: p", Refusal::Missing("username")),
            (
                "username: alice\npassword: ''",
                Refusal::Password(PasswordError::Empty),
            ),
            (
                "username: alice\npassword:\n",
                Refusal::Password(PasswordError::Empty),
            ),
            ("username: alice\npassword: 123", Refusal::NotText("password")),
            ("username: alice\npassword: [a]", Refusal::NotText("password")),
            ("username: alice\npassword: {a: b}", Refusal::NotText("password")),
            (
                "username: alice\npassword: a\npassword: b",
                Refusal::Twice("password"),
            ),
            (
                "username: alice\npassword: \"a\\0b\"",
                Refusal::Password(PasswordError::Nul),
            ),
            (
                "username: a b\npassword: p",
                Refusal::Username(UsernameError::Syntax("a b".to_owned())),
            ),
            (
                "username: charm\npassword: p",
                Refusal::Username(UsernameError::Charm),
            ),
            ("just text", Refusal::Syntax),
            ("- username", Refusal::Syntax),
            ("{\"username\": ", Refusal::Syntax),
            ("username: alice\n---\nusername: bob\n", Refusal::Syntax),
            ("a\0", Refusal::Nul("it")),
        ] {
            check(text, &Reading::Refused(refusal));
        }
        assert_eq!(
            parse_file(b"\xff"),
            Reading::Refused(Refusal::Syntax),
            "not UTF-8"
        );
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_understood_or_refused(
            words in proptest::collection::vec(
                proptest::sample::select(vec![
                    "username", "password", "content", "Data", "a", ":", ": ", "\n", "\n  ", "- ", "{", "}", "[", "]", ",",
                    "\"", "'", "&x ", "*x", "|", "\t", "#", "---\n", "!!str ", "\u{feff}", "1", "null", "? ", "%",
                ]),
                0..40,
            ),
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..40),
        ) {
            // No panic, and what is usable keeps its own rules.
            for reading in [parse_file(words.concat().as_bytes()), parse_file(&bytes)] {
                if let Reading::Usable(credential) = reading {
                    proptest::prop_assert!(!credential.password.expose().is_empty());
                    proptest::prop_assert!(!credential.password.expose().contains(&0));
                }
            }
        }
    }

    #[test]
    fn deep_and_repeated_yaml_is_refused() {
        for text in [
            "[".repeat(6_000),
            "{a: ".repeat(2_000),
            format!("a: &a [{}]\n", "x,".repeat(1000)) + &"b: [*a,*a,*a,*a,*a,*a,*a,*a]\n".repeat(50),
        ] {
            assert!(!matches!(parse_file(text.as_bytes()), Reading::Usable(_)));
        }
    }

    #[test]
    fn nothing_in_it_is_absence() {
        for text in ["", "\n", "# comment\n", "{}", "---\n", "a: {content: {}}", "null"] {
            check(text, &Reading::Absent);
        }
    }
}
