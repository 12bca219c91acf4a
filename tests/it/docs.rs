//! The reference pages say what the program does: flags, metrics, links.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use metrics_proxy::config::SETTINGS;

use crate::support::app::App;
use crate::support::kube::NewPod;
use crate::support::pod::{Answer, Pod};

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()))
}

/// The page as the table of settings has it.
fn flags_page() -> String {
    let mut page = "# Flags and environment\n\n\
        <!-- Made from src/config/settings.rs; UPDATE_DOCS=1 cargo test --test it docs:: writes it. -->\n\n\
        Each flag has an environment variable `METRICS_PROXY_<FLAG>` (upper case, `_` for `-`); the older names in the\n\
        table mean the same. Flags win over environment, the `METRICS_PROXY_` name over the older one, both over the\n\
        default. An empty variable counts as unset. Durations are Go's (`9s`, `1m30s`, `500ms`), sizes are bytes,\n\
        or a number with a unit as in Kubernetes (`500k`, `64Mi`, `1Gi`; also `64MiB`, `2GB`). A flag that is a BOOL may\n\
        stand alone, which means `true`. Every problem is reported at once, on standard error, with exit code 2.\n\n\
        A Service whose name begins with `metrics-proxy` makes the kubelet set variables such as\n\
        `METRICS_PROXY_PORT=tcp://10.1.2.3:15090` in every container of its namespace. These are ignored, and one INFO\n\
        line lists them. Any other unknown `METRICS_PROXY_*` is ignored with a warning that names the most similar known\n\
        variable.\n"
        .to_owned();
    let mut group = None;
    for setting in SETTINGS.iter() {
        if group != Some(setting.group) {
            group = Some(setting.group);
            let _ = write!(
                page,
                "\n## {}\n\n| flag | older variable | default | meaning |\n| --- | --- | --- | --- |\n",
                setting.group
            );
        }
        let older: Vec<String> = setting.older_env.iter().map(|name| format!("`{name}`")).collect();
        let default = if setting.default.is_empty() {
            String::new()
        } else {
            format!("`{}`", setting.default)
        };
        let _ = writeln!(
            page,
            "| `--{} {}` | {} | {default} | {} |",
            setting.name,
            setting.value,
            older.join(", "),
            setting.help.replace('|', "\\|").replace("<FLAG>", "`<FLAG>`")
        );
    }
    page
}

#[test]
fn the_flags_page_is_the_table_of_settings() {
    let path = docs().join("reference/flags.md");
    let page = flags_page();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &page).expect("the checkout can be written");
    }
    assert_eq!(
        read(&path),
        page,
        "rewrite it with UPDATE_DOCS=1 cargo test --test it docs::"
    );
}

/// Names in the first column of a page's tables.
fn documented(page: &str) -> Vec<String> {
    let cells = page.lines().filter_map(|line| line.strip_prefix("| `"));
    cells
        .filter_map(|cell| cell.split(['`', '{']).next())
        .map(str::to_owned)
        .collect()
}

/// The family of a TYPE line of ours, by its name in the text format.
fn family(line: &str) -> Option<String> {
    let (name, kind) = line.strip_prefix("# TYPE ")?.split_once(' ')?;
    let suffix = match kind {
        "counter" if !name.ends_with("_total") => "_total",
        "info" => "_info",
        _ => "",
    };
    name.starts_with("metrics_proxy_")
        .then(|| format!("{name}{suffix}"))
}

#[tokio::test]
async fn every_metric_of_ours_is_documented_and_no_other() {
    let good = Pod::serving("a 1\n").await;
    let bad = Pod::start(Answer::status(500)).await;
    let pods = [
        NewPod::scraped("good", good.address),
        NewPod::scraped("bad", bad.address),
    ];
    let app = App::with_pods(&pods, &[]).await;
    app.metrics().await;
    let text = app.metrics().await;
    let mut served: Vec<String> = text.lines().filter_map(family).collect();
    served.sort_unstable();
    served.dedup();
    let mut listed = documented(&read(&docs().join("reference/metrics.md")));
    listed.retain(|name| name.starts_with("metrics_proxy_"));
    listed.sort_unstable();
    let missing: Vec<_> = served.iter().filter(|name| !listed.contains(name)).collect();
    assert!(
        missing.is_empty(),
        "not in docs/reference/metrics.md: {missing:?}"
    );
    // A family that has no series yet is in no answer; its name stands in the source all the same.
    let source: String = [
        "telemetry/discovery.rs",
        "telemetry/pebble.rs",
        "telemetry/scrape.rs",
    ]
    .map(|file| read(&docs().join("../src").join(file)))
    .concat();
    let is_registered = |name: &str| {
        let stem = name
            .trim_start_matches("metrics_proxy_")
            .trim_end_matches("_total");
        [stem, stem.trim_start_matches("discovery_")]
            .iter()
            .any(|stem| source.contains(&format!("\"{stem}\"")))
    };
    let gone: Vec<_> = listed
        .iter()
        .filter(|name| !served.contains(name) && !is_registered(name))
        .collect();
    assert!(
        gone.is_empty(),
        "in docs/reference/metrics.md and not served: {gone:?}"
    );
}

#[test]
fn every_link_between_pages_leads_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages: Vec<PathBuf> = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"]
        .map(|n| root.join(n))
        .to_vec();
    let mut folders = vec![docs()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("docs can be read") {
            let path = entry.expect("docs can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path);
            }
        }
    }
    let mut broken = Vec::new();
    for page in &pages {
        let text = read(page);
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().unwrap_or_default();
            let local = !file.is_empty() && !file.contains("://") && !file.contains(' ');
            if local && !page.parent().expect("a page has a folder").join(file).exists() {
                broken.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "broken links:\n{}", broken.join("\n"));
}
