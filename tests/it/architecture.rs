//! Rules about the structure of the source: who may import whom, how long a file is, and which words name things.
//!
//! ARCHITECTURE.md draws the arrows in its tables of modules. The tests read them from there, so that drawing and code
//! cannot drift apart.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::tidy::{code, root, rust_files};

/// The longest file outside tests, in lines.
const MOST_LINES: usize = 600;

/// The library crates and the program: the heading of the table in ARCHITECTURE.md, and the folder of the sources.
const PACKAGES: &[(&str, &str)] = &[
    ("### Modules of the program", "src"),
    ("### Modules of the crate `exposition`", "crates/exposition/src"),
];

/// Words that only this project understood, and that must not come back as names or in log messages.
///
/// Each has a word of the field in the glossary of ARCHITECTURE.md.
const PRIVATE_WORDS: &[&str] = &[
    "ambient", "anew", "answer", "answers", "believed", "calm", "climb", "doomed", "doubles", "fight",
    "freshen", "hub", "proof", "proofs", "prove", "proved", "respell", "rights", "settled",
];

/// Which module of a package imports which, from `crate::…` paths; modules are the files and folders at its top.
type Arrows = BTreeMap<String, BTreeSet<String>>;

/// The sources of a package that are no tests.
fn sources(package: &str) -> Vec<PathBuf> {
    let mut files = rust_files(&root().join(package));
    files.retain(|file| {
        let is_test = |part: &std::ffi::OsStr| part == "tests" || part == "tests.rs";
        !below(package, file).iter().any(is_test)
    });
    files
}

/// The path of a file below the folder of its package.
fn below(package: &str, file: &Path) -> PathBuf {
    let folder = root().join(package);
    file.strip_prefix(folder)
        .expect("the file was found in the folder")
        .to_owned()
}

/// The module at the top of the package that a file belongs to.
fn module_of(package: &str, file: &Path) -> String {
    let below = below(package, file);
    let first = below.iter().next().expect("a file has a name").to_string_lossy();
    first.strip_suffix(".rs").unwrap_or(&first).to_owned()
}

/// The first names of all `crate::a::…` and `crate::{a::…, b}` in a source.
fn imported(code: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, prefix) in code.match_indices("crate::") {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let rest = &code[at + prefix.len()..];
        match rest.strip_prefix('{') {
            None => names.extend(first_name(rest)),
            Some(list) => {
                let mut depth = 0_usize;
                let mut starts = true;
                for (i, c) in list.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => starts = true,
                        c if starts && !c.is_whitespace() => {
                            names.extend(first_name(&list[i..]));
                            starts = false;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    names
}

fn first_name(text: &str) -> Option<String> {
    let end = text
        .find(|c: char| !c.is_alphanumeric() && c != '_')
        .unwrap_or(text.len());
    (end > 0).then(|| text[..end].to_owned())
}

/// The arrows that the code of a package has between its modules.
fn arrows_of_code(package: &str) -> Arrows {
    let files = sources(package);
    let modules: BTreeSet<String> = files.iter().map(|file| module_of(package, file)).collect();
    let mut arrows: Arrows = modules
        .iter()
        .map(|name| (name.clone(), BTreeSet::new()))
        .collect();
    for file in &files {
        let module = module_of(package, file);
        let mut targets = imported(&code(file));
        targets.retain(|name| modules.contains(name) && *name != module);
        arrows.entry(module).or_default().extend(targets);
    }
    for root in ["lib", "main"] {
        arrows.remove(root);
    }
    arrows
}

/// The arrows of a table in ARCHITECTURE.md: `| module | … | uses |`, names in backticks.
fn arrows_of_table(heading: &str) -> Arrows {
    let page = std::fs::read_to_string(root().join("ARCHITECTURE.md")).expect("the checkout can be read");
    let (_, section) = page
        .split_once(&format!("{heading}\n"))
        .unwrap_or_else(|| panic!("ARCHITECTURE.md has no heading {heading:?}"));
    let rows = section
        .lines()
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'));
    let names =
        |cell: &str| -> BTreeSet<String> { cell.split('`').skip(1).step_by(2).map(str::to_owned).collect() };
    let arrows: Arrows = rows
        .skip(2)
        .map(|row| {
            let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
            let module = names(cells[0])
                .pop_first()
                .expect("the first cell names the module");
            let uses = names(cells.last().expect("a row has cells"));
            (module, uses)
        })
        .collect();
    assert!(arrows.len() > 3, "the table below {heading:?} has rows");
    arrows
}

#[test]
fn the_arrows_drawn_in_the_architecture_are_those_of_the_code() {
    for (heading, package) in PACKAGES {
        let drawn = arrows_of_table(heading);
        let found = arrows_of_code(package);
        let mut differences = Vec::new();
        for module in drawn.keys().chain(found.keys()).collect::<BTreeSet<_>>() {
            let (drawn, found) = (drawn.get(module), found.get(module));
            if drawn != found {
                differences.push(format!("{module}: drawn {drawn:?}, in the code {found:?}"));
            }
        }
        assert!(
            differences.is_empty(),
            "the table below {heading:?} in ARCHITECTURE.md and {package}/ differ:\n{}",
            differences.join("\n")
        );
    }
}

/// A module that can be reached from itself, with the way there.
fn cycle(arrows: &Arrows) -> Option<Vec<String>> {
    fn walk(arrows: &Arrows, path: &mut Vec<String>, done: &mut BTreeSet<String>) -> Option<Vec<String>> {
        let last = path.last().cloned()?;
        for next in arrows.get(&last).into_iter().flatten() {
            if let Some(at) = path.iter().position(|name| name == next) {
                return Some(path[at..].to_vec());
            }
            if !done.contains(next) {
                path.push(next.clone());
                if let Some(found) = walk(arrows, path, done) {
                    return Some(found);
                }
                path.pop();
            }
        }
        done.insert(last);
        None
    }
    let mut done = BTreeSet::new();
    arrows
        .keys()
        .find_map(|start| walk(arrows, &mut vec![start.clone()], &mut done))
}

#[test]
fn no_modules_import_each_other_in_a_circle() {
    for (_, package) in PACKAGES {
        assert_eq!(cycle(&arrows_of_code(package)), None, "in {package}/");
    }
}

#[test]
fn a_circle_is_found() {
    let arrows = |pairs: &[(&str, &[&str])]| -> Arrows {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        pairs
            .iter()
            .map(|(name, uses)| ((*name).to_owned(), set(uses)))
            .collect()
    };
    assert_eq!(
        cycle(&arrows(&[("a", &["b", "c"]), ("b", &["c"]), ("c", &[])])),
        None
    );
    let found = cycle(&arrows(&[("a", &["b"]), ("b", &["c"]), ("c", &["b"])]));
    assert_eq!(found, Some(vec!["b".to_owned(), "c".to_owned()]));
    let names = imported("use crate::{a, b::{c, d}, e};\nfn f() { crate::g::h(); xcrate::i(); }");
    assert_eq!(names.into_iter().collect::<Vec<_>>(), ["a", "b", "e", "g"]);
}

#[test]
fn no_file_is_longer_than_600_lines_outside_tests() {
    let mut long = Vec::new();
    for (_, package) in PACKAGES {
        for file in sources(package) {
            let n_lines = code(&file).lines().count();
            if n_lines > MOST_LINES {
                long.push(format!("{}: {n_lines}", file.display()));
            }
        }
    }
    assert!(long.is_empty(), "split these files:\n{}", long.join("\n"));
}

/// The words of a name: of `heldBytes`, `held_bytes`, `HELD_BYTES` and `held-bytes` they are `held` and `bytes`.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut before = '_';
    for c in name.chars() {
        if !c.is_alphanumeric() || (c.is_uppercase() && before.is_lowercase()) {
            words.push(String::new());
        }
        if c.is_alphanumeric() {
            let last = words.last_mut().expect("there is always one");
            last.extend(c.to_lowercase());
        }
        before = c;
    }
    words.retain(|word| !word.is_empty());
    words
}

/// The string literals of a source, and the source without them.
fn split_literals(code: &str) -> (String, Vec<String>) {
    let (mut rest, mut literals) = (String::new(), Vec::new());
    let mut literal: Option<String> = None;
    let mut chars = code.chars().peekable();
    while let Some(c) = chars.next() {
        match (&mut literal, c) {
            (Some(text), '\\') => {
                text.push(' ');
                chars.next();
            }
            (Some(_), '"') => literals.extend(literal.take()),
            (Some(text), c) => text.push(c),
            (None, '\'') if chars.peek() == Some(&'"') => {
                chars.next();
            }
            (None, '"') => literal = Some(String::new()),
            (None, c) => rest.push(c),
        }
    }
    (rest, literals)
}

#[test]
fn private_words_do_not_come_back() {
    assert!(PRIVATE_WORDS.len() <= 40);
    let mut found = BTreeSet::new();
    for (_, package) in PACKAGES {
        for file in sources(package) {
            let (rest, literals) = split_literals(&code(&file));
            let names = rest.split(|c: char| !c.is_alphanumeric() && c != '_');
            // What people read: log messages, helps, errors, conditions, flags and metric names are all literals.
            let texts = literals.iter().map(String::as_str);
            for word in names.chain(texts).flat_map(words) {
                if PRIVATE_WORDS.contains(&word.as_str()) {
                    found.insert(format!("{}: {word}", below(package, &file).display()));
                }
            }
        }
    }
    assert!(
        found.is_empty(),
        "use the glossary's words:\n{}",
        found.into_iter().collect::<Vec<_>>().join("\n")
    );
}
