//! Reads the path once.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::OFlags;
use zeroize::Zeroizing;

use super::{Reading, Refusal, parse_entries, parse_file};

/// Larger than any secret with a username and a password.
pub(super) const MAX_FILE_BYTES: u64 = 65_536;

/// Reads the secret at `path`: a directory with one file per key, or one file. Blocks on the file system.
///
/// An error of the file system is a refusal, apart from a missing path, which is [`Reading::Absent`].
pub fn read(path: &Path) -> Reading {
    match try_read(path) {
        Ok(reading) => reading,
        Err(Refused::Refusal(refusal)) => Reading::Refused(refusal),
        Err(Refused::Io(error)) if error.kind() == io::ErrorKind::PermissionDenied => {
            Reading::Refused(Refusal::Forbidden(rustix::process::geteuid().as_raw()))
        }
        Err(Refused::Io(error)) => Reading::Refused(Refusal::Io(error.kind())),
    }
}

enum Refused {
    Refusal(Refusal),
    Io(io::Error),
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn try_read(path: &Path) -> Result<Reading, Refused> {
    let Some(metadata) = present(fs::metadata(path))? else {
        return Ok(Reading::Absent);
    };
    if !metadata.is_dir() {
        return Ok(match read_file(path, "it")? {
            Some(bytes) => parse_file(&bytes),
            None => Reading::Absent,
        });
    }
    let username = read_file(&path.join("username"), "username")?;
    let password = read_file(&path.join("password"), "password")?;
    let others = username.is_none() && password.is_none() && has_entries(path)?;
    Ok(parse_entries(username, password, others))
}

/// Whether a directory has an entry that is not hidden, as `..data` and `..2026_…` of a Kubernetes volume are.
fn has_entries(path: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(path)? {
        if !entry?.file_name().as_encoded_bytes().starts_with(b".") {
            return Ok(true);
        }
    }
    Ok(false)
}

fn read_file(path: &Path, name: &'static str) -> Result<Option<Zeroizing<Vec<u8>>>, Refused> {
    let Some(metadata) = present(fs::metadata(path))? else {
        return Ok(None);
    };
    // Before it is opened: opening a device may do something.
    if !metadata.is_file() {
        return Err(Refused::Refusal(Refusal::NotFile(name)));
    }
    match present(open(path))? {
        Some(file) => read_open(file, name).map(Some),
        None => Ok(None),
    }
}

/// Opens a file without waiting: another file may have been put at the path meanwhile, and opening a pipe would wait for
/// its writer.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
}

/// Reads what was opened, where that is a file.
fn read_open(file: File, name: &'static str) -> Result<Zeroizing<Vec<u8>>, Refused> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(Refused::Refusal(Refusal::NotFile(name)));
    }
    if metadata.len() > MAX_FILE_BYTES {
        return Err(Refused::Refusal(Refusal::Large));
    }
    // Room for all of it at once: a buffer that grows leaves copies in memory.
    let capacity = usize::try_from(MAX_FILE_BYTES + 1).expect("64 KiB fit into a usize");
    let mut bytes = Zeroizing::new(Vec::with_capacity(capacity));
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(Refused::Refusal(Refusal::Large));
    }
    Ok(bytes)
}

fn present<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[track_caller]
    fn username(path: &Path) -> String {
        match read(path) {
            Reading::Usable(credential) => credential.username.to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_kubernetes_volume_is_read_through_its_links() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("..2026_01_01_00_00_00.1");
        fs::create_dir(&data).unwrap();
        symlink("..2026_01_01_00_00_00.1", dir.path().join("..data")).unwrap();
        assert_eq!(read(dir.path()), Reading::Absent, "hidden entries only");
        for (key, value) in [("username", "alice"), ("password", "pw")] {
            fs::write(data.join(key), value).unwrap();
            symlink(format!("..data/{key}"), dir.path().join(key)).unwrap();
        }
        assert_eq!(username(dir.path()), "alice");
        let next = dir.path().join("..2026_01_02_00_00_00.2");
        fs::create_dir(&next).unwrap();
        fs::write(next.join("username"), "bob").unwrap();
        fs::write(next.join("password"), "pw").unwrap();
        symlink("..2026_01_02_00_00_00.2", dir.path().join("..data_tmp")).unwrap();
        fs::rename(dir.path().join("..data_tmp"), dir.path().join("..data")).unwrap();
        assert_eq!(username(dir.path()), "bob");
    }

    #[test]
    fn a_file_is_read_as_a_map() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret.yaml");
        assert_eq!(read(&path), Reading::Absent);
        fs::write(&path, "username: alice\npassword: pw\n").unwrap();
        assert_eq!(username(&path), "alice");
        assert_eq!(read(&path.join("below")), Reading::Absent);
    }

    #[test]
    fn what_is_no_file_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("username")).unwrap();
        assert_eq!(read(dir.path()), Reading::Refused(Refusal::NotFile("username")));
        assert_eq!(
            read(Path::new("/dev/null")),
            Reading::Refused(Refusal::NotFile("it"))
        );
    }

    /// A pipe that takes the place of the file after it was checked delays nothing.
    #[test]
    fn a_pipe_that_was_swapped_in_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("password");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let is_refused = open(&pipe).is_ok_and(|file| {
                matches!(
                    read_open(file, "password"),
                    Err(Refused::Refusal(Refusal::NotFile("password")))
                )
            });
            let _ = sender.send(is_refused);
        });
        assert_eq!(
            receiver.recv_timeout(std::time::Duration::from_secs(10)),
            Ok(true)
        );
    }

    #[test]
    fn other_entries_are_no_secret_and_no_absence() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("token"), "x").unwrap();
        assert_eq!(read(dir.path()), Reading::Refused(Refusal::NoKeys));
    }

    #[test]
    fn a_huge_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        fs::write(&path, vec![b'x'; 70_000]).unwrap();
        assert_eq!(read(&path), Reading::Refused(Refusal::Large));
    }
}
