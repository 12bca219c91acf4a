//! The secret over time: directory events and a slow poll, believed only once it has stayed the same for a moment.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::{Fingerprint, Fingerprints, Reading, Refusal, read};
use crate::credential::Credential;

/// What is believed of the secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Believed {
    /// It has not stayed the same for long enough yet.
    Unknown,
    /// There is none, since then.
    Absent(Instant),
    /// There is one that cannot be used.
    Refused(Refusal),
    /// There is a credential; [`Watcher::credential`] reads it while it is needed.
    Usable(Fingerprint),
}

/// Watches one path, or none.
#[derive(Debug)]
pub struct Watcher {
    path: Option<PathBuf>,
    poll: Duration,
    fingerprints: Fingerprints,
    settling: Settling,
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

/// How much of a storm of events is taken as one.
const GATHER: Duration = Duration::from_millis(50);

impl Watcher {
    /// Watches `path`: reads it at each event and every `poll`, believes what stayed the same for `settle`.
    pub fn new(path: Option<PathBuf>, poll: Duration, settle: Duration) -> Self {
        let events = Arc::new(Notify::new());
        let inotify = path.as_ref().and_then(|path| {
            let (events, path) = (Arc::clone(&events), path.clone());
            notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
                if event.map_or(true, |event| concerns(&event, &path)) {
                    events.notify_one();
                }
            })
            .inspect_err(
                |error| tracing::warn!(%error, "Cannot watch the secret for events, reading it now and then"),
            )
            .ok()
        });
        Self {
            path,
            poll,
            fingerprints: Fingerprints::default(),
            settling: Settling::new(settle),
            events,
            inotify,
            watched: Vec::new(),
        }
    }

    /// Whether a path was given at all.
    pub fn is_configured(&self) -> bool {
        self.path.is_some()
    }

    /// Waits until something happened to the path.
    pub async fn changed(&self) {
        self.events.notified().await;
        tokio::time::sleep(GATHER).await;
    }

    /// Looks at the secret. Returns what is believed now and when to look again.
    pub async fn look(&mut self) -> (Believed, Instant) {
        self.follow();
        let reading = self.read().await;
        let now = Instant::now();
        let fingerprint = self.fingerprints.of(&reading);
        let settles_at = self.settling.observe(fingerprint, &reading, now);
        let next = now + self.poll;
        (
            self.settling.believed(),
            settles_at.map_or(next, |at| at.min(next)),
        )
    }

    /// Reads the credential, if it is still the one that is believed.
    pub async fn credential(&self) -> Option<Credential> {
        let reading = self.read().await;
        let believed = Believed::Usable(self.fingerprints.of(&reading));
        match reading {
            Reading::Usable(credential) if believed == self.settling.believed() => Some(credential),
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

    /// Keeps the watches on the directories that matter: a directory that was replaced is another inode, and its watch
    /// went with the old one. Errors cost events, not the polls.
    fn follow(&mut self) {
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

/// Whether an event may have changed the secret. Our own reading makes events too.
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

/// Believes what stayed the same for a while. A pair that is pushed as two files is one secret only when both are there.
#[derive(Debug)]
struct Settling {
    settle: Duration,
    candidate: Option<(Fingerprint, Instant)>,
    settled: Option<(Fingerprint, Believed)>,
}

impl Settling {
    fn new(settle: Duration) -> Self {
        Self {
            settle,
            candidate: None,
            settled: None,
        }
    }

    fn believed(&self) -> Believed {
        self.settled
            .as_ref()
            .map_or(Believed::Unknown, |(_, believed)| believed.clone())
    }

    /// Takes a reading; returns when it would be believed, if it stays.
    fn observe(&mut self, fingerprint: Fingerprint, reading: &Reading, now: Instant) -> Option<Instant> {
        if self
            .settled
            .as_ref()
            .is_some_and(|(settled, _)| *settled == fingerprint)
        {
            self.candidate = None;
            return None;
        }
        let since = match self.candidate {
            Some((candidate, since)) if candidate == fingerprint => since,
            _ => now,
        };
        self.candidate = Some((fingerprint, since));
        if now < since + self.settle {
            return Some(since + self.settle);
        }
        self.candidate = None;
        let believed = match reading {
            Reading::Absent => Believed::Absent(since),
            Reading::Refused(refusal) => Believed::Refused(refusal.clone()),
            Reading::Usable(_) => Believed::Usable(fingerprint),
        };
        self.settled = Some((fingerprint, believed));
        None
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;
    use crate::secret::parse_entries;

    fn reading(username: &str, password: &str) -> Reading {
        let own = |text: &str| Some(Zeroizing::new(text.as_bytes().to_vec()));
        parse_entries(own(username), own(password), false)
    }

    /// Feeds readings at milliseconds; returns what is believed after each.
    #[track_caller]
    fn check(readings: &[(u64, Reading)], expect: &[Option<&Reading>]) {
        let fingerprints = Fingerprints::default();
        let mut settling = Settling::new(Duration::from_secs(1));
        let start = Instant::now();
        for ((at, reading), expect) in readings.iter().zip(expect) {
            let now = start + Duration::from_millis(*at);
            settling.observe(fingerprints.of(reading), reading, now);
            match (settling.believed(), expect) {
                (Believed::Unknown, None) | (Believed::Absent(_), Some(Reading::Absent)) => {}
                (Believed::Refused(refusal), Some(Reading::Refused(expect))) => assert_eq!(&refusal, expect),
                (Believed::Usable(believed), Some(expect)) => assert_eq!(believed, fingerprints.of(expect)),
                (believed, expect) => panic!("at {at}: {believed:?} is not {expect:?}"),
            }
        }
    }

    #[test]
    fn a_mixed_pair_is_never_believed() {
        let (old, mixed, new) = (reading("a", "1"), reading("b", "1"), reading("b", "2"));
        check(
            &[
                (0, old.clone()),
                (1000, old.clone()),
                (5000, mixed),
                (5300, new.clone()),
                (6000, new.clone()),
                (6300, new.clone()),
            ],
            &[None, Some(&old), Some(&old), Some(&old), Some(&old), Some(&new)],
        );
    }

    #[test]
    fn what_comes_back_was_never_away() {
        let old = reading("a", "1");
        check(
            &[
                (0, old.clone()),
                (1000, old.clone()),
                (2000, Reading::Absent),
                (2500, old.clone()),
                (3100, Reading::Absent),
                (4100, Reading::Absent),
            ],
            &[
                None,
                Some(&old),
                Some(&old),
                Some(&old),
                Some(&old),
                Some(&Reading::Absent),
            ],
        );
    }

    #[tokio::test]
    async fn a_change_is_seen_without_waiting_for_the_poll() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("below").join("secret");
        let mut watcher = Watcher::new(Some(path.clone()), Duration::from_hours(1), Duration::ZERO);
        assert!(matches!(watcher.look().await.0, Believed::Absent(_)));
        for (step, content) in [
            "username: a\npassword: p1",
            "username: a\npassword: p2",
            "username: b\npassword: p2",
        ]
        .into_iter()
        .enumerate()
        {
            let before = watcher.settling.believed();
            if step == 0 {
                fs::create_dir(path.parent().unwrap()).unwrap();
            }
            let pushed = path.with_extension("tmp");
            fs::write(&pushed, content).unwrap();
            fs::rename(&pushed, &path).unwrap();
            let look = async {
                loop {
                    watcher.changed().await;
                    let (believed, _) = watcher.look().await;
                    if believed != before && matches!(believed, Believed::Usable(_)) {
                        break;
                    }
                }
            };
            tokio::time::timeout(Duration::from_secs(10), look)
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
            "what is not believed yet is not handed out"
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
        let (before, _) = watcher.look().await;
        assert!(matches!(before, Believed::Usable(_)));
        swap("..2", "two");
        let look = async {
            loop {
                watcher.changed().await;
                if watcher.look().await.0 != before {
                    break;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(10), look)
            .await
            .expect("an event");
        assert_eq!(watcher.credential().await.unwrap().password.expose(), b"two");
    }

    #[tokio::test]
    async fn looking_makes_no_event_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("username"), "a").unwrap();
        fs::write(dir.path().join("password"), "1").unwrap();
        let mut watcher = Watcher::new(
            Some(dir.path().to_owned()),
            Duration::from_hours(1),
            Duration::ZERO,
        );
        watcher.look().await;
        let quiet = async {
            loop {
                watcher.changed().await;
                watcher.look().await;
                watcher.look().await;
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
