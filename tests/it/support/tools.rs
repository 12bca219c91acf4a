//! Where the real programs are: asks `tools/get`, which builds what is missing.

use std::collections::HashMap;
use std::fmt;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError};

/// A part that this machine cannot have: why, and the command that gets it.
#[derive(Debug, Clone)]
pub(crate) struct Missing(String);

impl Missing {
    /// For what a test itself finds missing; the text ends with what helps.
    pub(crate) fn because(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The path of a program by its name in `tools/get --list`, or why this machine cannot have it.
///
/// Asked once per name and process. What `tools/get` says about a build goes past the test harness to standard error,
/// since it may take minutes.
pub(crate) fn find(name: &str) -> Result<PathBuf, Missing> {
    type Found = Arc<OnceLock<Result<PathBuf, Missing>>>;
    static FOUND: LazyLock<Mutex<HashMap<String, Found>>> = LazyLock::new(Mutex::default);
    let found = {
        let mut all = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(name.to_owned()).or_default())
    };
    found.get_or_init(|| ask(name)).clone()
}

/// The path of a program that every machine can have.
#[track_caller]
pub(crate) fn path(name: &str) -> PathBuf {
    find(name).unwrap_or_else(|missing| panic!("{missing}"))
}

fn ask(name: &str) -> Result<PathBuf, Missing> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/get");
    let mut child = Command::new(&script)
        .arg(name)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("cannot run {}: {e}", script.display()));
    let stderr = child.stderr.take().expect("it was asked for with Stdio::piped");
    let mut last = String::new();
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        say(&line);
        last = line;
    }
    let output = child
        .wait_with_output()
        .unwrap_or_else(|e| panic!("cannot wait for tools/get: {e}"));
    match output.status.code() {
        Some(0) => Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim_end())),
        Some(3) => Err(Missing(last)),
        _ => panic!("tools/get {name} failed ({}): {last}", output.status),
    }
}

/// Writes a line to standard error where a person sees it: the harness captures `eprintln!` of tests that pass.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Says that a test is skipped; with `METRICS_PROXY_NO_SKIP=1` (CI, which has every part) that fails it.
pub(crate) fn skipped(test: &str, missing: &Missing) {
    let test = test.trim_end_matches("::here").trim_end_matches("::{{closure}}");
    let test = test.split_once("::").map_or(test, |(_crate, name)| name);
    assert!(
        std::env::var_os("METRICS_PROXY_NO_SKIP").is_none_or(|value| value != "1"),
        "{test} may not be skipped here: {missing}"
    );
    say(&format!("SKIPPED {test}: {missing}"));
}

/// The path of a part by name; where the machine cannot have it, the test says `SKIPPED` and returns.
macro_rules! tool_or_skip {
    ($name:expr) => {
        match $crate::support::tools::find($name) {
            Ok(path) => path,
            Err(missing) => {
                fn here() {}
                $crate::support::tools::skipped(std::any::type_name_of_val(&here), &missing);
                return;
            }
        }
    };
}
pub(crate) use tool_or_skip;
