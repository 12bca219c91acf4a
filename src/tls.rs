//! TLS as a client: which certificates of a server are accepted, and what is wrong with the others.
//!
//! Leaf: knows rustls and files, but neither targets nor the API server. Both use it. [`Verifier`] checks a certificate
//! as Go's client does, [`FileVerifier`] reads its authorities again when their file changes, [`SkipVerification`]
//! accepts every certificate, and [`TlsFault`] says in words why a handshake failed.
//! `docs/reference/tls.md` lists what rustls cannot do and Go's client can.

mod fault;
mod file;
mod verifier;

use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::WantsClientCert;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::{ClientConfig, ConfigBuilder};

pub use fault::TlsFault;
pub use file::FileVerifier;
pub use verifier::{SkipVerification, UnsupportedCertificate, Verifier};

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file of certificate authorities cannot be used.
    #[error("cannot read certificate authorities from {path:?}; use a file of PEM certificates")]
    Authorities {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: pem::Error,
    },
    /// None of the certificates can be used as an authority.
    #[error("none of the certificates can be used as an authority")]
    NoAuthority,
    /// The configuration of rustls.
    #[error("cannot set up TLS")]
    Setup(#[from] rustls::Error),
}

/// Returns the cryptography that the whole program uses.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Begins a client configuration with the protocol versions of rustls (TLS 1.2 and 1.3). The caller adds the client
/// certificate, or states that there is none.
///
/// # Errors
/// If rustls cannot be set up with its own default versions, which would be a bug.
pub fn client_config(
    verifier: Arc<dyn ServerCertVerifier>,
) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, TlsError> {
    Ok(ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier))
}

/// Reads the certificates of a PEM text. Other PEM blocks, such as keys, are skipped.
///
/// # Errors
/// If a block is damaged, or if there is no certificate.
pub fn parse_certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, pem::Error> {
    let certificates = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>()?;
    if certificates.is_empty() {
        return Err(pem::Error::NoItemsFound);
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests;
