//! The secret over time: directory events and a slow poll, debounced.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::debounce::{Debounce, StableSecret};
use super::{Fingerprints, Reading, Refusal, read};
use crate::credential::Credential;

/// Watches one path, or none.
#[derive(Debug)]
pub struct Watcher {
    path: Option<PathBuf>,
    poll: Duration,
    fingerprints: Fingerprints,
    debounce: Debounce,
    events: Arc<Notify>,
    inotify: Option<RecommendedWatcher>,
    watched: Vec<Directory>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Directory {
    path: PathBuf,
    device: u64,
    inode: u64,
}

/// Events within this time count as one.
const GATHER: Duration = Duration::from_millis(50);

impl Watcher {
    /// Watches `path`: reads it at each event and every `poll`, and accepts what stayed the same for `debounce`.
    pub fn new(path: Option<PathBuf>, poll: Duration, debounce: Duration) -> Self {
        let events = Arc::new(Notify::new());
        let inotify = path.as_ref().and_then(|path| {
            let (events, path) = (Arc::clone(&events), path.clone());
            notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
                if event.map_or(true, |event| concerns(&event, &path)) {
                    events.notify_one();
                }
            })
            .inspect_err(|error| tracing::warn!(%error, "Cannot watch the secret for events, polling it"))
            .ok()
        });
        Self {
            path,
            poll,
            fingerprints: Fingerprints::default(),
            debounce: Debounce::new(debounce),
            events,
            inotify,
            watched: Vec::new(),
        }
    }

    /// Waits until something happened to the path.
    pub async fn changed(&self) {
        self.events.notified().await;
        tokio::time::sleep(GATHER).await;
    }

    /// Reads the secret. Returns the stable state and when to read it again.
    pub async fn poll(&mut self) -> (StableSecret, Instant) {
        self.follow_directories();
        let reading = self.read().await;
        let now = Instant::now();
        let fingerprint = self.fingerprints.of(&reading);
        let stable_at = self.debounce.observe(fingerprint, &reading, now);
        let next = now + self.poll;
        (self.debounce.stable(), stable_at.map_or(next, |at| at.min(next)))
    }

    /// Reads the credential, where it is still the stable one.
    pub async fn credential(&self) -> Option<Credential> {
        let reading = self.read().await;
        let stable = StableSecret::Usable(self.fingerprints.of(&reading));
        match reading {
            Reading::Usable(credential) if stable == self.debounce.stable() => Some(credential),
            _ => None,
        }
    }

    async fn read(&self) -> Reading {
        let Some(path) = self.path.clone() else {
            return Reading::Absent;
        };
        tokio::task::spawn_blocking(move || read(&path))
            .await
            .unwrap_or(Reading::Refused(Refusal::Io(std::io::ErrorKind::Interrupted)))
    }

    /// Keeps the watches on the directories that matter. A directory that was replaced is another inode, and its watch
    /// ended with the old one. An error costs events only: the poll goes on.
    fn follow_directories(&mut self) {
        let (Some(path), Some(inotify)) = (&self.path, &mut self.inotify) else {
            return;
        };
        let wanted = directories(path);
        if wanted == self.watched {
            return;
        }
        for directory in &self.watched {
            if !wanted.contains(directory) {
                let _ = inotify.unwatch(&directory.path);
            }
        }
        let mut watched = Vec::new();
        for directory in wanted {
            if self.watched.contains(&directory)
                || inotify
                    .watch(&directory.path, RecursiveMode::NonRecursive)
                    .inspect_err(|error| tracing::debug!(%error, "Cannot watch a directory of the secret"))
                    .is_ok()
            {
                watched.push(directory);
            }
        }
        self.watched = watched;
    }
}

/// The directories whose events tell of a change: the path itself, where it leads, and the nearest one above that is
/// there.
fn directories(path: &Path) -> Vec<Directory> {
    let mut paths = Vec::new();
    if path.is_dir() {
        paths.push(path.to_owned());
    }
    let above = path.parent().map(|parent| {
        if parent.as_os_str().is_empty() {
            Path::new(".")
        } else {
            parent
        }
    });
    if let Some(parent) = above.and_then(|parent| parent.ancestors().find(|ancestor| ancestor.is_dir())) {
        paths.push(parent.to_owned());
    }
    if let Ok(real) = fs::canonicalize(path)
        && let Some(parent) = real.parent()
    {
        paths.push(parent.to_owned());
    }
    let mut directories: Vec<Directory> = Vec::new();
    for path in paths {
        let Ok(metadata) = fs::metadata(&path) else {
            continue;
        };
        let (device, inode) = (metadata.dev(), metadata.ino());
        if !directories
            .iter()
            .any(|seen| (seen.device, seen.inode) == (device, inode))
        {
            directories.push(Directory { path, device, inode });
        }
    }
    directories
}

/// Whether an event may have changed the secret. Reading it makes events too.
fn concerns(event: &notify::Event, path: &Path) -> bool {
    if event.need_rescan() {
        return true;
    }
    if matches!(event.kind, EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write)) {
        return false;
    }
    // Where the path leads through links, events have other names: those are rare, so all of them count.
    event.paths.is_empty()
        || event.paths.iter().any(|changed| {
            changed.starts_with(path)
                || path.starts_with(changed)
                || path.parent().is_none_or(|parent| !changed.starts_with(parent))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_change_is_seen_without_waiting_for_the_poll() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("below").join("secret");
        let mut watcher = Watcher::new(Some(path.clone()), Duration::from_hours(1), Duration::ZERO);
        assert!(matches!(watcher.poll().await.0, StableSecret::Absent(_)));
        for (step, content) in [
            "username: a\npassword: p1",
            "username: a\npassword: p2",
            "username: b\npassword: p2",
        ]
        .into_iter()
        .enumerate()
        {
            let before = watcher.debounce.stable();
            if step == 0 {
                fs::create_dir(path.parent().unwrap()).unwrap();
            }
            let pushed = path.with_extension("tmp");
            fs::write(&pushed, content).unwrap();
            fs::rename(&pushed, &path).unwrap();
            let seen = async {
                loop {
                    watcher.changed().await;
                    let (stable, _) = watcher.poll().await;
                    if stable != before && matches!(stable, StableSecret::Usable(_)) {
                        break;
                    }
                }
            };
            tokio::time::timeout(Duration::from_secs(10), seen)
                .await
                .expect("an event");
        }
        assert_eq!(
            watcher.credential().await.unwrap().username.as_str(),
            "b",
            "read while needed"
        );
        fs::write(&path, "username: c\npassword: p2").unwrap();
        assert!(
            watcher.credential().await.is_none(),
            "what is not stable yet is not handed out"
        );
    }

    #[tokio::test]
    async fn a_swap_of_a_kubernetes_volume_is_seen() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let swap = |version: &str, password: &str| {
            let data = dir.path().join(version);
            fs::create_dir(&data).unwrap();
            fs::write(data.join("username"), "a").unwrap();
            fs::write(data.join("password"), password).unwrap();
            symlink(version, dir.path().join("..data_tmp")).unwrap();
            fs::rename(dir.path().join("..data_tmp"), dir.path().join("..data")).unwrap();
        };
        swap("..1", "one");
        for key in ["username", "password"] {
            symlink(format!("..data/{key}"), dir.path().join(key)).unwrap();
        }
        let mut watcher = Watcher::new(
            Some(dir.path().to_owned()),
            Duration::from_hours(1),
            Duration::ZERO,
        );
        let (before, _) = watcher.poll().await;
        assert!(matches!(before, StableSecret::Usable(_)));
        swap("..2", "two");
        let seen = async {
            loop {
                watcher.changed().await;
                if watcher.poll().await.0 != before {
                    break;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(10), seen)
            .await
            .expect("an event");
        assert_eq!(watcher.credential().await.unwrap().password.expose(), b"two");
    }

    #[tokio::test]
    async fn polling_makes_no_event_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("username"), "a").unwrap();
        fs::write(dir.path().join("password"), "1").unwrap();
        let mut watcher = Watcher::new(
            Some(dir.path().to_owned()),
            Duration::from_hours(1),
            Duration::ZERO,
        );
        watcher.poll().await;
        let quiet = async {
            loop {
                watcher.changed().await;
                watcher.poll().await;
                watcher.poll().await;
            }
        };
        // Events of the writes above may still come; those of reading would never end.
        let _ = tokio::time::timeout(Duration::from_millis(500), quiet).await;
        assert!(
            tokio::time::timeout(Duration::from_millis(300), watcher.changed())
                .await
                .is_err()
        );
    }
}
