//! Pods from manifests: a file, or a directory of files.
//!
//! The default where there is no cluster: a laptop, tests, static hosts. Reads what `kubectl get pods -o yaml` prints, and
//! manifests written by hand. The files are watched for changes, and read from time to time besides, because not every
//! file system sends events.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{RecursiveMode, Watcher as _};
use rustix::fs::OFlags;
use serde::Deserialize as _;
use tokio::sync::mpsc;

use super::manifest::PodObject;
use super::state::Mode;
use super::store::SourceHandle;
use super::yaml::YamlDocument;
use crate::targets::{Pod, Selector};

/// The pause in events after which the files are read: an editor writes, renames and removes within a moment.
const QUIET: Duration = Duration::from_millis(100);
/// More than any real manifest has; a mistaken path must not fill the memory.
const MAX_BYTES: u64 = 256 << 20;

/// The watched path.
#[derive(Debug)]
pub(super) struct Files {
    path: PathBuf,
    selector: Option<Selector>,
    poll: Duration,
}

/// Why the files cannot be used.
#[derive(Debug, thiserror::Error)]
enum FilesError {
    #[error("cannot read {name}")]
    Read {
        name: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{name} is larger than {MAX_BYTES} bytes")]
    TooLarge { name: String },
    #[error("{name} is not a regular file; name a manifest, or a directory of manifests")]
    NotRegular { name: String },
    #[error("{name} is {encoding} text; save it as UTF-8")]
    Encoding { name: String, encoding: Encoding },
    #[error("cannot use document {document} of {name}: {problem}")]
    Document {
        name: String,
        document: usize,
        problem: String,
    },
}

impl Files {
    pub(super) fn new(path: &Path, selector: Option<Selector>, poll: Duration) -> Self {
        Self {
            path: path.to_owned(),
            selector,
            poll,
        }
    }

    /// Reads the files at start, when they change, and every `poll`.
    pub(super) async fn run(self, handle: SourceHandle) {
        let (sender, mut events) = mpsc::channel(1);
        // Kept alive by the binding. Without it the poll does all the work.
        let _watcher = self.watch(sender);
        let mut last: Option<HashMap<String, Pod>> = None;
        loop {
            let path = self.path.clone();
            let selector = self.selector.clone();
            let read = tokio::task::spawn_blocking(move || read_pods(&path, selector.as_ref())).await;
            match read {
                Ok(Ok(pods)) => {
                    if last.as_ref() == Some(&pods) {
                        handle.confirm();
                    } else {
                        let prepared = pods.values().map(|pod| handle.prepare(pod.clone()));
                        let prepared = prepared.map(|pod| (Arc::clone(pod.id()), pod)).collect();
                        last = Some(pods);
                        handle.replace(prepared, Mode::Files, "files");
                    }
                }
                Ok(Err(error)) => {
                    // The same text for the log and for clients: it has file names, no directories.
                    let detail = std::error::Error::source(&error).map(ToString::to_string);
                    handle.fail("files", &error.to_string(), detail.as_deref().unwrap_or(""));
                }
                Err(panicked) => handle.fail("files", "reading failed", &panicked.to_string()),
            }
            tokio::select! {
                () = tokio::time::sleep(self.poll) => {}
                Some(()) = events.recv() => {
                    while tokio::time::timeout(QUIET, events.recv()).await.is_ok() {}
                }
            }
        }
    }

    /// Watches the directory that holds the file (an editor replaces files, which ends a watch on the file itself), or
    /// the directory itself.
    fn watch(&self, sender: mpsc::Sender<()>) -> Option<notify::RecommendedWatcher> {
        let directory = if self.path.is_dir() {
            self.path.clone()
        } else {
            match self.path.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
                _ => PathBuf::from("."),
            }
        };
        let result = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading a file is an event too; acting on that would never end.
            if event.is_ok_and(|event| !event.kind.is_access()) {
                let _ = sender.try_send(());
            }
        })
        .and_then(|mut watcher| {
            watcher.watch(&directory, RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
        match result {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                tracing::warn!(%error, poll = ?self.poll, "Cannot watch --pods-file for changes, reading it now and then");
                None
            }
        }
    }
}

/// An encoding in which no manifest is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Utf16,
    Utf32,
    Unknown,
}

impl std::fmt::Display for Encoding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Utf16 => "UTF-16",
            Self::Utf32 => "UTF-32",
            Self::Unknown => "not UTF-8",
        })
    }
}

/// Reads all pods of a file, or of every `.yaml`, `.yml` and `.json` file of a directory, except hidden ones. Of two pods
/// with the same UID the one that is read last counts; files are read in the order of their names.
fn read_pods(path: &Path, selector: Option<&Selector>) -> Result<HashMap<String, Pod>, FilesError> {
    let files = if path.is_dir() {
        manifests_in(path)?
    } else {
        vec![path.to_owned()]
    };
    let mut pods = HashMap::new();
    for file in files {
        let name = name_of(&file);
        for pod in parse_pods(&name, &read_text(&name, &file)?)? {
            if selector.is_none_or(|selector| selector.matches(&pod.labels)) {
                pods.insert(pod.id.uid.clone(), pod);
            }
        }
    }
    Ok(pods)
}

/// The manifests of a directory, sorted. A directory inside it is not one, whatever its name.
fn manifests_in(directory: &Path) -> Result<Vec<PathBuf>, FilesError> {
    let unreadable = |source| FilesError::Read {
        name: name_of(directory),
        source,
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(unreadable)? {
        let file = entry.map_err(unreadable)?.path();
        let is_manifest = file
            .extension()
            .and_then(OsStr::to_str)
            .is_some_and(|extension| matches!(extension, "yaml" | "yml" | "json"));
        let is_hidden = name_of(&file).starts_with('.');
        if is_manifest && !is_hidden && !file.is_dir() {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

/// Reads a regular file as text. Anything else could block for ever (a FIFO) or never end (a device).
fn read_text(name: &str, file: &Path) -> Result<String, FilesError> {
    let unreadable = |source| FilesError::Read {
        name: name.to_owned(),
        source,
    };
    let no_wait = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let opened = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(no_wait)
        .open(file)
        .map_err(unreadable)?;
    let metadata = opened.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(FilesError::NotRegular {
            name: name.to_owned(),
        });
    }
    if metadata.len() > MAX_BYTES {
        return Err(FilesError::TooLarge {
            name: name.to_owned(),
        });
    }
    let mut bytes = Vec::new();
    opened
        .take(MAX_BYTES)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    decode(bytes).map_err(|encoding| FilesError::Encoding {
        name: name.to_owned(),
        encoding,
    })
}

/// The text of a manifest, without byte order marks at its start and at the start of its documents, which editors on
/// Windows write (YAML 1.2, 5.2).
fn decode(bytes: Vec<u8>) -> Result<String, Encoding> {
    const MARK: char = '\u{feff}';
    match *bytes {
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] | [0, 0, 0, _, ..] | [_, 0, 0, 0, ..] => {
            return Err(Encoding::Utf32);
        }
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, _, ..] | [_, 0, ..] => return Err(Encoding::Utf16),
        _ => {}
    }
    let mut text = String::from_utf8(bytes).map_err(|_| Encoding::Unknown)?;
    if text.starts_with(MARK) {
        text.remove(0);
    }
    // Files that were joined have one inside. At the start of a line it can be part of nothing.
    if text.contains(MARK) {
        text = text.replace("\n\u{feff}", "\n");
    }
    Ok(text)
}

fn name_of(path: &Path) -> String {
    path.file_name()
        .unwrap_or(path.as_os_str())
        .to_string_lossy()
        .into_owned()
}

/// Parses each `Pod`, `PodList` and `List` of either from a YAML or JSON text of any number of documents.
fn parse_pods(name: &str, text: &str) -> Result<Vec<Pod>, FilesError> {
    let mut pods = Vec::new();
    let mut take = |index: usize, document: Result<serde_json::Value, String>| {
        document
            .and_then(|document| take_document(document, &mut pods))
            .map_err(|problem| FilesError::Document {
                name: name.to_owned(),
                document: index + 1,
                problem,
            })
    };
    if text.trim_start().starts_with('{') {
        let documents = serde_json::Deserializer::from_str(text).into_iter();
        for (index, document) in documents.enumerate() {
            take(index, document.map_err(|e| e.to_string()))?;
        }
    } else {
        for (index, document) in serde_yaml::Deserializer::from_str(text).enumerate() {
            let document = YamlDocument::deserialize(document)
                .map(|document| document.0)
                .map_err(|e| e.to_string());
            take(index, document)?;
        }
    }
    Ok(pods)
}

fn take_document(document: serde_json::Value, pods: &mut Vec<Pod>) -> Result<(), String> {
    use serde_json::Value;
    let Value::Object(mut object) = document else {
        // `---` alone is an empty document.
        return if document.is_null() {
            Ok(())
        } else {
            Err("it is not a manifest, which is a map with kind, metadata, spec and status".to_owned())
        };
    };
    let kind = object
        .get("kind")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    match kind.as_str() {
        "Pod" => {
            let pod: PodObject = serde_json::from_value(Value::Object(object)).map_err(|e| e.to_string())?;
            if pod.metadata.name.as_deref().unwrap_or_default().is_empty() {
                return Err("a Pod without metadata.name".to_owned());
            }
            pods.push(pod.into_pod(true));
            Ok(())
        }
        "PodList" | "List" => {
            let Some(Value::Array(items)) = object.remove("items") else {
                return Err(format!("a {kind} without items"));
            };
            for mut item in items {
                // The items of a PodList need not say what they are.
                if kind == "PodList"
                    && let Value::Object(item) = &mut item
                {
                    item.entry("kind")
                        .or_insert_with(|| Value::String("Pod".to_owned()));
                }
                take_document(item, pods)?;
            }
            Ok(())
        }
        "" => Err("it has no kind; use a Pod, a PodList, or a List of Pods".to_owned()),
        other => Err(format!(
            "it is a {other}; use a Pod, a PodList, or a List of Pods"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn names(text: &str) -> Vec<String> {
        let pods = parse_pods("pods.yaml", text).unwrap();
        pods.into_iter().map(|pod| pod.id.to_string()).collect()
    }

    #[track_caller]
    fn check_error(text: &str, expect: &str) {
        let error = parse_pods("pods.yaml", text).unwrap_err().to_string();
        assert!(error.starts_with(expect), "{error}");
    }

    #[test]
    fn pods_come_from_documents_lists_and_lists_of_lists() {
        assert_eq!(
            names("kind: Pod\nmetadata: {name: a, namespace: n}\n---\n---\nkind: Pod\nmetadata: {name: b}\n"),
            ["n/a", "default/b"]
        );
        assert_eq!(
            names(
                "kind: List\nitems:\n- kind: Pod\n  metadata: {name: a}\n- kind: PodList\n  items:\n  - metadata: {name: b}\n"
            ),
            ["default/a", "default/b"]
        );
        assert_eq!(
            names(
                r#"{"kind": "PodList", "items": [{"metadata": {"name": "a"}}]} {"kind": "Pod", "metadata": {"name": "b"}}"#
            ),
            ["default/a", "default/b"]
        );
        assert_eq!(names(""), [""; 0]);
        assert_eq!(names("# nothing yet\n"), [""; 0]);
    }

    #[test]
    fn what_is_no_pod_is_refused_with_its_place() {
        check_error(
            "kind: Pod\nmetadata: {name: a}\n---\nkind: Service\n",
            "cannot use document 2 of pods.yaml: it is a Service; use a Pod, a PodList, or a List of Pods",
        );
        check_error(
            "kind: Pod\n",
            "cannot use document 1 of pods.yaml: a Pod without metadata.name",
        );
        check_error(
            "metadata: {name: a}\n",
            "cannot use document 1 of pods.yaml: it has no kind",
        );
        check_error(
            "- a\n",
            "cannot use document 1 of pods.yaml: it is not a manifest",
        );
        check_error(
            "kind: PodList\n",
            "cannot use document 1 of pods.yaml: a PodList without items",
        );
        check_error("kind: [\n", "cannot use document 1 of pods.yaml: ");
        check_error("{\"kind\": ", "cannot use document 1 of pods.yaml: EOF");
        check_error(
            "kind: Pod\nmetadata: {name: a, creationTimestamp: yesterday}\n",
            "cannot use document 1 of pods.yaml: ",
        );
    }

    #[test]
    fn a_directory_gives_its_manifests_and_no_other_files() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
        write("a.yaml", "kind: Pod\nmetadata: {name: a, labels: {app: x}}\n");
        write(
            "b.json",
            r#"{"kind": "Pod", "metadata": {"name": "b", "labels": {"app": "y"}}}"#,
        );
        write("notes.txt", "not a manifest");
        write(".hidden.yaml", "nor: this");
        let all = read_pods(directory.path(), None).unwrap();
        assert_eq!(all.len(), 2);
        let selector = Selector::parse("app=x").unwrap();
        let some = read_pods(directory.path(), Some(&selector)).unwrap();
        assert_eq!(some.keys().collect::<Vec<_>>(), ["default/a"]);
        write("c.yml", "broken: [");
        assert!(read_pods(directory.path(), None).is_err());
    }

    /// cafkafk/serde-norway#8, kubernetes/kubernetes#39007, biojppm/rapidyaml#559.
    #[test]
    fn a_byte_order_mark_is_not_part_of_a_manifest() {
        let pod = "kind: Pod\nmetadata: {name: a}\n";
        let read = |bytes: &[u8]| names(&decode(bytes.to_vec()).unwrap());
        assert_eq!(read(format!("\u{feff}{pod}").as_bytes()), ["default/a"]);
        assert_eq!(
            read(format!("\u{feff}{pod}---\n\u{feff}kind: Pod\nmetadata: {{name: b}}\n").as_bytes()),
            ["default/a", "default/b"]
        );
        let json = r#"{"kind": "Pod", "metadata": {"name": "a"}}"#;
        assert_eq!(read(format!("\u{feff}{json}").as_bytes()), ["default/a"]);
        assert_eq!(
            read(format!("\u{feff}{json}\n\u{feff}{json}").as_bytes()),
            ["default/a", "default/a"]
        );
    }

    #[test]
    fn other_encodings_are_named() {
        let utf16 =
            |bytes: fn(u16) -> [u8; 2]| "kind: Pod".encode_utf16().flat_map(bytes).collect::<Vec<u8>>();
        let (little, big) = (utf16(u16::to_le_bytes), utf16(u16::to_be_bytes));
        for text in [
            little.clone(),
            big.clone(),
            [vec![0xff, 0xfe], little].concat(),
            [vec![0xfe, 0xff], big].concat(),
        ] {
            assert_eq!(decode(text), Err(Encoding::Utf16));
        }
        assert_eq!(decode(b"\xff\xfe\0\0k\0\0\0".to_vec()), Err(Encoding::Utf32));
        assert_eq!(decode(b"k\0\0\0i\0\0\0".to_vec()), Err(Encoding::Utf32));
        assert_eq!(decode(b"kind: \xe9".to_vec()), Err(Encoding::Unknown));
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pods.yaml");
        std::fs::write(&path, b"\xff\xfek\0").unwrap();
        let error = read_pods(&path, None).unwrap_err().to_string();
        assert_eq!(error, "pods.yaml is UTF-16 text; save it as UTF-8");
    }

    #[test]
    fn what_is_no_regular_file_is_refused_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let refused = |path: &Path| read_pods(path, None).unwrap_err().to_string();
        rustix::fs::mkfifoat(rustix::fs::CWD, path("fifo.yaml"), rustix::fs::Mode::RUSR).unwrap();
        let expect = "fifo.yaml is not a regular file; name a manifest, or a directory of manifests";
        assert_eq!(refused(&path("fifo.yaml")), expect);
        assert_eq!(refused(directory.path()), expect, "inside a directory too");
        std::fs::remove_file(path("fifo.yaml")).unwrap();
        std::os::unix::fs::symlink(path("loop.yaml"), path("loop.yaml")).unwrap();
        assert_eq!(refused(&path("loop.yaml")), "cannot read loop.yaml");
        assert_eq!(refused(directory.path()), "cannot read loop.yaml");
        assert_eq!(
            refused(Path::new("/dev/zero")),
            "zero is not a regular file; name a manifest, or a directory of manifests"
        );
        std::fs::remove_file(path("loop.yaml")).unwrap();
        std::os::unix::fs::symlink(directory.path(), path("again.yaml")).unwrap();
        assert!(
            read_pods(directory.path(), None).unwrap().is_empty(),
            "a directory is no manifest"
        );
    }

    #[test]
    fn a_missing_file_is_named_without_its_directory() {
        let error = read_pods(Path::new("/secret-place/pods.yaml"), None).unwrap_err();
        assert_eq!(error.to_string(), "cannot read pods.yaml");
    }
}
