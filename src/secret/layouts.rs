//! From bytes to a credential. Pure.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use zeroize::Zeroizing;

use super::{Reading, Refusal};
use crate::credential::{Credential, Password, Username};

/// Understands per-key files: what `username` and `password` hold, and whether anything else is there.
///
/// One trailing newline is trimmed, as editors and `echo` leave it; nothing else.
pub fn parse_entries(
    username: Option<Zeroizing<Vec<u8>>>,
    password: Option<Zeroizing<Vec<u8>>>,
    others: bool,
) -> Reading {
    let trimmed = |mut bytes: Zeroizing<Vec<u8>>| {
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
        }
        bytes
    };
    let username = username.map(trimmed);
    let password = password.map(trimmed);
    match (username, password) {
        (None, None) if others => Reading::Refused(Refusal::NoKeys),
        (None, None) => Reading::Absent,
        (None, Some(_)) => Reading::Refused(Refusal::Missing("username")),
        (Some(_), None) => Reading::Refused(Refusal::Missing("password")),
        (Some(username), Some(password)) => credential(&username, password),
    }
}

/// Understands one file: a map with `username` and `password`, or what `juju show-secret --reveal` prints, in YAML or
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
    let node = if text.trim_start().starts_with('{') {
        // JSON first: YAML has no tabs between tokens. A YAML flow map begins alike.
        serde_json::from_str(text)
            .ok()
            .or_else(|| serde_yaml::from_str::<Option<Node>>(text).ok())
    } else {
        serde_yaml::from_str(text).ok()
    };
    match node {
        None | Some(Some(Node::Other | Node::Text(_))) => Reading::Refused(Refusal::Syntax),
        Some(None | Some(Node::Null)) => Reading::Absent,
        Some(Some(Node::Map(entries))) => of_map(entries),
    }
}

fn of_map(entries: Vec<(String, Node)>) -> Reading {
    if entries.is_empty() {
        return Reading::Absent;
    }
    let plain = entries.iter().any(|(key, node)| is_key(key) && !is_secret(node));
    if plain {
        return of_pairs(entries);
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
                Some((_, Node::Map(data))) => of_pairs(data),
                _ => Reading::Refused(Refusal::NoKeys),
            },
            _ => of_pairs(content),
        },
        Some(Node::Null) | None => Reading::Refused(Refusal::NotRevealed),
        Some(_) => Reading::Refused(Refusal::NoKeys),
    }
}

/// `username` and `password` of a map.
fn of_pairs(entries: Vec<(String, Node)>) -> Reading {
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
        (Some(username), Some(mut password)) => credential(
            username.as_bytes(),
            Zeroizing::new(std::mem::take(&mut *password).into_bytes()),
        ),
    }
}

fn credential(username: &[u8], password: Zeroizing<Vec<u8>>) -> Reading {
    let checked = || {
        if username.contains(&0) {
            return Err(Refusal::Nul("username"));
        }
        // What is no UTF-8 is no name either, and the same sentence helps.
        let name = std::str::from_utf8(username).unwrap_or("\u{fffd}");
        Ok(Credential {
            username: Username::parse(name)?,
            password: Password::try_new(password)?,
        })
    };
    match checked() {
        Ok(credential) => Reading::Usable(credential),
        Err(refusal) => Reading::Refused(refusal),
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

/// A YAML or JSON value, with its texts wiped when dropped and repeated keys kept.
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
        f.write_str("a map of texts")
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
            // A key that is no text (an id of digits only) is an id all the same.
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
    fn one_newline_is_trimmed_from_a_file_and_no_more() {
        check_entries(Some(b"alice\n"), Some(b"pw\n"), &pair("alice", "pw"));
        check_entries(Some(b"alice"), Some(b" p w \n\n"), &pair("alice", " p w \n"));
        check_entries(
            Some(b"alice\n\n"),
            Some(b"pw"),
            &Reading::Refused(Refusal::Username(UsernameError::Syntax)),
        );
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
        check("username: alice\npassword: |\n  pw\n", &pair("alice", "pw\n"));
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
                Refusal::Username(UsernameError::Syntax),
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
