//! The names of merge rules in comments and tests are those of docs/explanation/merge-rules.md.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the sources are in the tree") {
        let path = entry.expect("the folder can be listed").path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The names in backticks directly behind `rule` or `rules`, with commas, `and` or a new comment line between them.
fn cited_rules(text: &str) -> BTreeSet<String> {
    let words = text.replace("///", " ").replace("//!", " ").replace("//", " ");
    let words: Vec<&str> = words.split_whitespace().collect();
    let mut found = BTreeSet::new();
    for (at, word) in words.iter().enumerate() {
        if !["rule", "rules", "Rules:"].contains(&word.trim_start_matches('(')) {
            continue;
        }
        for word in &words[at + 1..] {
            match word.strip_prefix('`').and_then(|word| word.split_once('`')) {
                Some((name, _)) => drop(found.insert(name.to_owned())),
                None if *word == "and" => {}
                None => break,
            }
        }
    }
    found
}

#[test]
fn every_rule_that_is_cited_is_on_the_page() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("../../docs/explanation/merge-rules.md"))
        .expect("the page is in the tree");
    let rules: BTreeSet<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("### "))
        .collect();
    assert!(rules.len() > 25, "{rules:?}");
    let mut files = Vec::new();
    for folder in ["src", "tests", "../../tests/it/exposition"] {
        rust_files(&root.join(folder), &mut files);
    }
    let mut n_cited = 0;
    for file in files {
        let text = fs::read_to_string(&file).expect("sources are UTF-8");
        for rule in cited_rules(&text) {
            n_cited += 1;
            assert!(rules.contains(&*rule), "{} cites `{rule}`", file.display());
        }
    }
    assert!(n_cited > 25, "only {n_cited} rules are cited");
}

#[test]
fn citations_are_found() {
    let text = "//! Rules: `up`, `values` and\n//! `bounds` of the page. (rule `spelling`) rules `limits`,\n/// `one-block`. The rule is `x`.";
    assert_eq!(
        cited_rules(text),
        ["up", "values", "bounds", "spelling", "limits", "one-block"]
            .map(str::to_owned)
            .into()
    );
}
