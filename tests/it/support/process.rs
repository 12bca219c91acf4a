//! Child processes that end with their owner, ports to start them on, and waiting for conditions.
//!
//! Each child leads a process group of its own and writes to one log file. [`Process`] ends it, and what it started, on
//! drop. A reaper (a small shell, one per test run) does so for what no drop reaches: statics, an aborted run, Ctrl-C.

use std::fs::File;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub(crate) use rustix::process::Signal;
use rustix::process::{Pid, kill_process, kill_process_group};

const POLL: Duration = Duration::from_millis(20);

/// A child process, its log, and everything that it started.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    /// How long the file was when this process began to write to it.
    log_start: usize,
    /// How long a drop waits after SIGTERM.
    grace: Duration,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts `command` with its output appended to the file `log`.
    #[track_caller]
    pub(crate) fn spawn(name: &str, mut command: Command, log: &Path) -> Self {
        let file = File::options().create(true).append(true).open(log);
        let file = file.unwrap_or_else(|e| panic!("cannot write {}: {e}", log.display()));
        let log_start = file
            .metadata()
            .map_or(0, |m| usize::try_from(m.len()).unwrap_or(0));
        let stderr = file.try_clone().expect("a file just opened can be duplicated");
        let child = command
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(stderr)
            .process_group(0)
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start {name} ({command:?}): {e}"));
        reap(&format!("+ {}", child.id()));
        let grace = Duration::from_secs(2);
        Self {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
            log_start,
            grace,
            ended: None,
        }
    }

    /// Sets how long a drop waits after SIGTERM before it kills; 2 s unless set.
    pub(crate) fn with_grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The whole log, of earlier runs on the same file too.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The last 50 lines of the log, under a line that names the process.
    pub(crate) fn log_tail(&self) -> String {
        tail(&self.name, &self.log())
    }

    /// The exit status, where it has ended.
    pub(crate) fn status(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self
                .child
                .try_wait()
                .unwrap_or_else(|e| panic!("cannot wait for {}: {e}", self.name));
            if self.ended.is_some() {
                reap(&format!("- {}", self.child.id()));
            }
        }
        self.ended
    }

    /// Sends a signal to the process alone (not to its group); nothing where it has ended.
    pub(crate) fn signal(&mut self, signal: Signal) {
        if self.status().is_none() {
            let _ = kill_process(pid(self.child.id()), signal);
        }
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// It still runs after `limit`.
    #[track_caller]
    pub(crate) fn wait(&mut self, limit: Duration) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.status() {
                return status;
            }
            assert!(
                started.elapsed() < limit,
                "{} still runs after {limit:?}\n{}",
                self.name,
                self.log_tail()
            );
            std::thread::sleep(POLL);
        }
    }

    /// Sends SIGTERM and waits for the end.
    ///
    /// # Panics
    /// It still runs after `limit`.
    #[track_caller]
    pub(crate) fn stop(&mut self, limit: Duration) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait(limit)
    }

    /// Kills it with all that it started, as the end of a container does.
    pub(crate) fn kill(&mut self) {
        if self.status().is_some() {
            return;
        }
        // Asked first: a child of a dead parent belongs to init.
        let started = Started::of(self.child.id());
        let _ = kill_process_group(pid(self.child.id()), Signal::KILL);
        drop(started);
        self.wait(Duration::from_secs(30));
    }

    /// Polls until `condition` gives a value.
    ///
    /// # Panics
    /// `limit` is over, or the process has ended; with the end of its log.
    pub(crate) async fn wait_for<T>(
        &mut self,
        what: &str,
        limit: Duration,
        condition: impl AsyncFnMut() -> Option<T>,
    ) -> T {
        let found = self.poll(limit, condition).await;
        found.unwrap_or_else(|ended| match ended {
            Some(status) => panic!(
                "{} ended ({status}) before: {what}\n{}",
                self.name,
                self.log_tail()
            ),
            None => panic!("not within {limit:?}: {what}\n{}", self.log_tail()),
        })
    }

    /// As [`Process::wait_for`], but false where the process ended since somebody else has its port.
    pub(crate) async fn wait_until_up(
        &mut self,
        what: &str,
        limit: Duration,
        mut is_up: impl AsyncFnMut() -> bool,
    ) -> bool {
        match self.poll(limit, async || is_up().await.then_some(())).await {
            Ok(()) => true,
            Err(Some(_)) if self.this_log().contains("address already in use") => false,
            Err(Some(status)) => {
                panic!(
                    "{} ended ({status}) before: {what}\n{}",
                    self.name,
                    self.log_tail()
                )
            }
            Err(None) => panic!("not within {limit:?}: {what}\n{}", self.log_tail()),
        }
    }

    async fn poll<T>(
        &mut self,
        limit: Duration,
        mut condition: impl AsyncFnMut() -> Option<T>,
    ) -> Result<T, Option<ExitStatus>> {
        let started = Instant::now();
        loop {
            // Looked at first: an answer after the end comes from somebody else on the same port.
            let ended = self.status();
            if ended.is_some() {
                return Err(ended);
            }
            if let Some(value) = condition().await {
                return Ok(value);
            }
            if started.elapsed() >= limit {
                return Err(None);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// What this process wrote, without earlier ones on the same file.
    fn this_log(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(log.get(self.log_start..).unwrap_or_default()).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // To the harness, which shows it beneath the failed test.
            #[allow(clippy::print_stderr)]
            {
                eprintln!("{}", self.log_tail());
            }
        }
        if self.status().is_some() {
            return;
        }
        let started = Started::of(self.child.id());
        self.signal(Signal::TERM);
        let since = Instant::now();
        while self.status().is_none() && since.elapsed() < self.grace {
            std::thread::sleep(POLL);
        }
        self.kill();
        drop(started);
    }
}

/// What a process had started at some moment, ended with SIGKILL when this is dropped.
#[derive(Debug)]
pub(crate) struct Started {
    /// With its command line, since a pid may be given out again.
    processes: Vec<(u32, String)>,
}

impl Started {
    /// What `ancestor` has running just now.
    pub(crate) fn of(ancestor: u32) -> Self {
        let processes = descendants(ancestor)
            .into_iter()
            .map(|child| (child, command_line(child)));
        Self {
            processes: processes.collect(),
        }
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        self.processes.iter().map(|(child, _)| *child).collect()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        for (child, command) in &self.processes {
            if !command.is_empty() && command_line(*child) == *command {
                let _ = kill_process(pid(*child), Signal::KILL);
            }
        }
    }
}

/// Polls until `condition` gives a value.
///
/// # Panics
/// `limit` is over; with what `describe` says then (a log's end, a last answer).
pub(crate) async fn wait_for<T>(
    what: &str,
    limit: Duration,
    describe: impl Fn() -> String,
    mut condition: impl AsyncFnMut() -> Option<T>,
) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(
            started.elapsed() < limit,
            "not within {limit:?}: {what}\n{}",
            describe()
        );
        tokio::time::sleep(POLL).await;
    }
}

/// The last 50 lines of a log, under a line that names it.
pub(crate) fn tail(name: &str, log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    format!(
        "--- end of the log of {name}\n{}\n---",
        lines[lines.len().saturating_sub(50)..].join("\n")
    )
}

/// The processes that `ancestor` started, and those that they started, as `/proc` has them just now.
pub(crate) fn descendants(ancestor: u32) -> Vec<u32> {
    let all = processes();
    let mut found = vec![ancestor];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(
            all.iter()
                .filter(|(_, of)| *of == parent)
                .map(|(child, _)| *child),
        );
        next += 1;
    }
    found.remove(0);
    found
}

/// The command line of a process, its arguments joined by spaces; empty where it has gone.
pub(crate) fn command_line(pid: u32) -> String {
    let raw = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&raw)
        .replace('\0', " ")
        .trim_end()
        .to_owned()
}

/// Every process and its parent.
fn processes() -> Vec<(u32, u32)> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let child = entry.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            // PID (NAME) STATE PPID ...; a name may hold spaces and parentheses, so count from its end.
            let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
            Some((child, parent))
        })
        .collect()
}

fn pid(raw: u32) -> Pid {
    let raw = i32::try_from(raw).expect("Linux's pids stay below 2^22");
    Pid::from_raw(raw).expect("a child's pid is not 0")
}

/// A port on which nothing listens just now, on any IPv4 address of this machine.
///
/// Below the range from which the kernel takes ports for outgoing connections: a server that is down for a while and
/// comes back on its port does not find it taken. Two test runs may still pick the same one, so starting retries.
pub(crate) fn free_port() -> u16 {
    const FIRST: u16 = 11_000;
    const COUNT: u16 = 20_000;
    static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| {
        AtomicU16::new(u16::try_from(std::process::id().wrapping_mul(7919) % u32::from(COUNT)).unwrap_or(0))
    });
    for _ in 0..COUNT {
        let port = FIRST + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between {FIRST} and {}", FIRST + COUNT);
}

/// A free port on 127.0.0.1.
pub(crate) fn free_address() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, free_port()).into()
}

/// A folder for a part's files that the reaper removes where no drop does.
pub(crate) fn fresh_dir() -> tempfile::TempDir {
    let dir = tempfile::Builder::new().prefix("metrics-proxy-it-").tempdir();
    let dir = dir.unwrap_or_else(|e| panic!("cannot make a temporary folder: {e}"));
    reap(&format!("d {}", dir.path().display()));
    dir
}

/// Reads `+ PID`, `- PID` and `d FOLDER` until its input ends (which it does however this process ends), then ends the
/// process groups that are left, 6 s after a SIGTERM at the latest (Pebble gives its services 5), and removes the folders.
const REAPER_SCRIPT: &str = r#"
trap '' INT TERM HUP
pids=' '
dirs=''
while read -r what arg; do
  case $what in
    +) pids="$pids$arg " ;;
    -) pids="${pids%% $arg *} ${pids#* $arg }" ;;
    d) dirs="$dirs$arg
" ;;
  esac
done
for pid in $pids; do kill -s TERM -- "-$pid"; kill -s CONT -- "-$pid"; done
tries=0
for pid in $pids; do
  while kill -s 0 -- "-$pid" && [ $tries -lt 60 ]; do sleep 0.1; tries=$((tries + 1)); done
  kill -s KILL -- "-$pid"
done
printf %s "$dirs" | while read -r dir; do rm -rf -- "$dir"; done
"#;

fn reap(line: &str) {
    // Never waited for: it outlives this process by design.
    static REAPER: LazyLock<Mutex<Child>> = LazyLock::new(|| {
        let mut command = Command::new("sh");
        command
            .args(["-c", REAPER_SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let reaper = command.process_group(0).spawn();
        Mutex::new(reaper.unwrap_or_else(|e| panic!("cannot start the reaper: {e}")))
    });
    let mut reaper = REAPER.lock().unwrap_or_else(PoisonError::into_inner);
    let input = reaper.stdin.as_mut().expect("it was asked for with Stdio::piped");
    let written: io::Result<()> = writeln!(input, "{line}");
    written.unwrap_or_else(|e| panic!("cannot tell the reaper: {e}"));
}
