//! Certificate authorities in a file that may change.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime, pem};
use rustls::{DigitallySignedStruct, SignatureScheme};

use super::{TlsError, Verifier, parse_certificates};

/// A [`Verifier`] whose authorities are read again when their file changes, also when a mounted ConfigMap is swapped.
///
/// A file that disappears or becomes unusable keeps the previous authorities in force; one warning says so. Use it with
/// session resumption disabled: a resumed session does not verify the certificate again.
#[derive(Debug)]
pub struct FileVerifier {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    verifier: Arc<Verifier>,
    /// `None` while the file cannot be read.
    version: Option<FileVersion>,
    generation: u64,
}

/// What changes when a file is edited, replaced by a rename, or reached through another symbolic link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileVersion {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl From<Metadata> for FileVersion {
    fn from(file: Metadata) -> Self {
        Self {
            device: file.dev(),
            inode: file.ino(),
            size: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        }
    }
}

impl FileVerifier {
    /// Reads the file.
    ///
    /// # Errors
    /// If it cannot be read or has no usable certificate.
    pub fn try_new(path: &Path) -> Result<Self, TlsError> {
        // The version is taken before the content: a change in between is then seen as a change.
        let version = version(path).ok();
        let verifier = Arc::new(read(path)?);
        Ok(Self {
            path: path.to_owned(),
            state: Mutex::new(State {
                verifier,
                version,
                generation: 0,
            }),
        })
    }

    /// Reads the file again if it has changed, and returns a number that grows whenever the authorities change.
    /// Connections that were verified under a smaller number should not be used again.
    pub fn generation(&self) -> u64 {
        self.refresh().1
    }

    fn refresh(&self) -> (Arc<Verifier>, u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let found = version(&self.path);
        if found.as_ref().ok() != state.version.as_ref() {
            state.version = found.as_ref().ok().copied();
            let loaded = match found {
                Ok(_) => read(&self.path),
                Err(error) => Err(TlsError::Authorities {
                    path: self.path.clone(),
                    source: pem::Error::Io(error),
                }),
            };
            match loaded {
                Ok(verifier) => {
                    state.verifier = Arc::new(verifier);
                    state.generation += 1;
                    tracing::info!(path = %self.path.display(), "Certificate authorities changed and were read again");
                }
                Err(error) => tracing::warn!(
                    path = %self.path.display(), error = %crate::error::chain(&error),
                    "Certificate authorities changed but cannot be used; the previous ones stay in force"
                ),
            }
        }
        (Arc::clone(&state.verifier), state.generation)
    }
}

fn version(path: &Path) -> io::Result<FileVersion> {
    std::fs::metadata(path).map(FileVersion::from)
}

fn read(path: &Path) -> Result<Verifier, TlsError> {
    let failed = |source| TlsError::Authorities {
        path: path.to_owned(),
        source,
    };
    let text = std::fs::read(path).map_err(|error| failed(pem::Error::Io(error)))?;
    Verifier::try_new(parse_certificates(&text).map_err(failed)?)
}

impl ServerCertVerifier for FileVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let (verifier, _) = self.refresh();
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.refresh().0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.refresh().0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        super::provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
