//! Killed between any two steps: a socket in between counts the requests to Pebble and kills the proxy at each in turn,
//! before Pebble gets it and after Pebble has responded. Whatever is left, the next start finishes the work.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

use super::rig::{LIMIT, SHORT, names, pair, push, works};
use crate::support::app;
use crate::support::pebble::{Options, Pebble, VERSIONS};
use crate::support::process::{self, Process, wait_for};

/// Where to kill.
#[derive(Debug, Clone, Copy)]
pub(super) enum At {
    /// Pebble never gets the request.
    Before(usize),
    /// The proxy never gets the response.
    After(usize),
    /// Nowhere; the connection of this request is closed without a response.
    Broken(usize),
    /// Nowhere; hashes are changed so that Pebble never verifies them.
    Spoil,
}

/// A socket that hands requests on to Pebble, and tells when the fatal one has come.
pub(super) struct Between {
    pub(super) requests: Arc<AtomicUsize>,
    fatal: tokio::sync::mpsc::Receiver<()>,
    task: tokio::task::JoinHandle<()>,
}

impl Between {
    pub(super) fn start(socket: &Path, pebble: PathBuf, at: At) -> Self {
        let _ = std::fs::remove_file(socket);
        let listener = UnixListener::bind(socket).expect("a fresh folder can be written");
        let requests = Arc::new(AtomicUsize::new(0));
        let (tell, fatal) = tokio::sync::mpsc::channel(1);
        let counter = Arc::clone(&requests);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (counter, tell, pebble) = (Arc::clone(&counter), tell.clone(), pebble.clone());
                tokio::spawn(async move {
                    let _ = hand_on(stream, &pebble, &counter, at, &tell).await;
                });
            }
        });
        Self {
            requests,
            fatal,
            task,
        }
    }
}

impl Drop for Between {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One connection is one request: the client keeps no connection.
async fn hand_on(
    mut client: UnixStream,
    pebble: &Path,
    counter: &AtomicUsize,
    at: At,
    tell: &tokio::sync::mpsc::Sender<()>,
) -> std::io::Result<()> {
    let mut request = vec![0; 64 << 10];
    let read = client.read(&mut request).await?;
    if read == 0 {
        // The proxy asked the kernel which process listens.
        return Ok(());
    }
    let number = counter.fetch_add(1, Ordering::Relaxed);
    if matches!(at, At::Before(n) if n == number) {
        let _ = tell.send(()).await;
        return std::future::pending().await;
    }
    if matches!(at, At::Broken(n) if n == number) {
        return Ok(());
    }
    let mut server = UnixStream::connect(pebble).await?;
    if matches!(at, At::Spoil) {
        for start in 0..read - 3 {
            if &request[start..start + 3] == b"$6$" {
                request[start + 1] = b'5';
            }
        }
    }
    server.write_all(&request[..read]).await?;
    let mut response = vec![0; 64 << 10];
    let first = server.read(&mut response).await?;
    if matches!(at, At::After(n) if n == number) {
        let _ = tell.send(()).await;
        return std::future::pending().await;
    }
    client.write_all(&response[..first]).await?;
    tokio::io::copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

/// Always with the same port, as a service has it: the port tells whose identity it is.
fn start(pebble: &Pebble, socket: &Path, secret: &Path, port: u16) -> Process {
    let pods = pebble.scratch().join("pods");
    let _ = std::fs::create_dir(&pods);
    let text = |path: &Path| {
        path.to_str()
            .expect("temporary folders have names in UTF-8")
            .to_owned()
    };
    let mut env = vec![
        ("PEBBLE_SOCKET".to_owned(), text(socket)),
        ("METRICS_SECRET_PATH".to_owned(), text(secret)),
        ("METRICS_PROXY_PODS_FILE".to_owned(), text(&pods)),
        ("METRICS_PROXY_PEBBLE_METRICS".to_owned(), "false".to_owned()),
        ("PORT".to_owned(), port.to_string()),
    ];
    env.extend(SHORT.map(|(name, value)| (name.to_owned(), value.to_owned())));
    env.push(("METRICS_PROXY_SECRET_DEBOUNCE".to_owned(), "20ms".to_owned()));
    let mut command = app::command(&[], &[]);
    command.envs(env);
    Process::spawn("metrics-proxy", command, &pebble.scratch().join("proxy.log"))
}

#[tokio::test]
async fn killed_between_any_two_steps_the_next_start_finishes() {
    for version in VERSIONS {
        let pebble = Pebble::start(version, &[], Options::default()).await;
        let between = pebble.scratch().join("between");
        let secret = pebble.scratch().join("secret");
        let port = process::free_port();
        // The name changes each time, so that there is always something to revoke.
        let credentials = [("alice", "one"), ("bob", "two")];
        let mut turn = 0;
        push(&secret, &pair(credentials[0].0, credentials[0].1));
        drop_when_works(&pebble, &secret, port, credentials[0]).await;
        let mut kills = 0;
        for at in (0..64).flat_map(|n| [At::Before(n), At::After(n)]) {
            let (old, new) = (credentials[turn % 2], credentials[(turn + 1) % 2]);
            push(&secret, &pair(new.0, new.1));
            let mut proxy = Between::start(&between, pebble.socket(), at);
            let mut process = start(&pebble, &between, &secret, port);
            let reached = tokio::select! {
                fatal = proxy.fatal.recv() => fatal.is_some(),
                // It came through with fewer requests than that.
                () = quiet(&pebble, new, &proxy.requests, at) => false,
            };
            process.kill();
            drop(proxy);
            if !reached {
                break;
            }
            kills += 1;
            // One or the other, never both, never none, and the markers with them.
            let there = names(&pebble).await;
            let in_force = match (
                works(&pebble, old.0, old.1).await,
                works(&pebble, new.0, new.1).await,
            ) {
                (true, false) => old,
                (false, true) => new,
                both => panic!("killed {at:?}: old and new work {both:?}; {there:?}"),
            };
            assert_eq!(
                there,
                [format!("@{}", in_force.0), in_force.0.to_owned()],
                "killed {at:?}"
            );
            drop_when_works(&pebble, &secret, port, new).await;
            assert!(
                !works(&pebble, old.0, old.1).await,
                "killed {at:?}, then finished"
            );
            assert_eq!(
                names(&pebble).await,
                [format!("@{}", new.0), new.0.to_owned()],
                "killed {at:?}, then finished"
            );
            turn += 1;
        }
        // system-info, plan, layer, plan, identities, change, identities, notice, each before and after.
        assert!(kills >= 12, "only {kills} places to kill at");
    }
}

/// Starts the program and ends it once the credential is in force.
async fn drop_when_works(pebble: &Pebble, secret: &Path, port: u16, credential: (&str, &str)) {
    let mut process = start(pebble, &pebble.socket(), secret, port);
    process
        .wait_for("the credential works", LIMIT, async || {
            works(pebble, credential.0, credential.1).await.then_some(())
        })
        .await;
    process.kill();
}

/// Waits until the credential works and no request of the number to kill at has come for a few passes.
async fn quiet(pebble: &Pebble, credential: (&str, &str), requests: &AtomicUsize, at: At) {
    let (At::Before(n) | At::After(n)) = at else {
        unreachable!("only a test that kills waits for this");
    };
    wait_for("the credential works", LIMIT, String::new, async || {
        works(pebble, credential.0, credential.1).await.then_some(())
    })
    .await;
    // A pass makes two requests at least: a few passes are not enough to reach an `n` of 64.
    let until = requests.load(Ordering::Relaxed) + 1;
    while requests.load(Ordering::Relaxed) < until || n < requests.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
