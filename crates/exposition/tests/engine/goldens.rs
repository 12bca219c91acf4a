//! What is written for every golden case is what the case expects.

use std::fs;
use std::path::Path;

use super::golden_cases::goldens;

#[test]
fn responses_are_as_recorded() {
    let update = std::env::var_os("UPDATE_GOLDENS").is_some();
    let goldens = goldens(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens"));
    assert!(goldens.len() >= 30, "only {} goldens were found", goldens.len());
    for golden in goldens {
        if update {
            fs::write(&golden.path, &golden.text).expect("the tree can be written");
            continue;
        }
        let expected = fs::read_to_string(&golden.path).unwrap_or_default();
        assert_eq!(golden.text, expected, "{}", golden.path.display());
    }
}
