//! Checks the certificate of a server.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use super::TlsError;

/// A certificate that Go's client accepts and rustls does not, unless the operator lists that very certificate as an
/// authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnsupportedCertificate {
    /// A certificate that may sign others (CA:TRUE) is used by a server, and another authority signed it.
    #[error("the certificate is one of an authority (CA:TRUE), which a server must not use")]
    AuthorityAsServer,
    /// X.509 version 1 or 2.
    #[error("the certificate has X.509 version {0}, only version 3 can be verified")]
    Version(u32),
}

/// Accepts certificates that a configured authority signed, and certificates that are listed themselves ("pinned").
///
/// A pinned certificate is compared byte for byte. It may be self-signed and have CA:TRUE, as `openssl req -x509` makes
/// it by default. Its name, dates and purpose are checked as for any other certificate, as Go's client does.
#[derive(Debug)]
pub struct Verifier {
    /// Every configured certificate, to recognise pinned ones.
    listed: Vec<CertificateDer<'static>>,
    /// `None` if none of the certificates can be an authority; pinned ones are accepted all the same.
    chains: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    /// Trusts these certificates. As in Go, a certificate that cannot be parsed is ignored if another one can.
    ///
    /// # Errors
    /// If no certificate can be parsed.
    pub fn try_new(certificates: Vec<CertificateDer<'static>>) -> Result<Self, TlsError> {
        let parsed = certificates
            .iter()
            .any(|der| X509Certificate::from_der(der).is_ok());
        if !parsed {
            return Err(TlsError::NoAuthority);
        }
        Ok(Self::of_system(certificates))
    }

    /// As [`Verifier::try_new`], for the authorities of the system. A machine that has none must not prevent the start,
    /// because most targets use plain HTTP.
    pub fn of_system(certificates: Vec<CertificateDer<'static>>) -> Self {
        let provider = super::provider();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates.iter().cloned());
        let chains = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .ok();
        Self {
            listed: certificates,
            chains,
            provider,
        }
    }

    fn verify(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.listed.iter().any(|listed| listed == certificate) {
            return verify_pinned(certificate, name, now);
        }
        let Some(chains) = &self.chains else {
            return Err(CertificateError::UnknownIssuer.into());
        };
        chains
            .verify_server_cert(certificate, intermediates, name, ocsp_response, now)
            .map_err(|error| explain(error, certificate))
    }
}

/// Checks what Go checks of a certificate that is an authority itself: dates, purpose and name.
fn verify_pinned(
    der: &CertificateDer<'_>,
    name: &ServerName<'_>,
    now: UnixTime,
) -> Result<ServerCertVerified, rustls::Error> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| CertificateError::BadEncoding)?;
    let validity = certificate.validity();
    let not_before = unix_time(validity.not_before.timestamp());
    let not_after = unix_time(validity.not_after.timestamp());
    if now < not_before {
        return Err(CertificateError::NotValidYetContext {
            time: now,
            not_before,
        }
        .into());
    }
    if now > not_after {
        return Err(CertificateError::ExpiredContext { time: now, not_after }.into());
    }
    let usage = certificate
        .extended_key_usage()
        .map_err(|_| CertificateError::BadEncoding)?;
    if usage.is_some_and(|usage| !usage.value.any && !usage.value.server_auth) {
        return Err(CertificateError::InvalidPurpose.into());
    }
    if certificate.version().0 < 2 {
        // Without extensions it has no subject alternative names, and Go ignores the common name.
        return Err(other_name(name, Vec::new()));
    }
    verify_server_name(&ParsedCertificate::try_from(der)?, name)
        .map_err(|_| other_name(name, names(&certificate)))?;
    Ok(ServerCertVerified::assertion())
}

fn unix_time(seconds: i64) -> UnixTime {
    UnixTime::since_unix_epoch(std::time::Duration::from_secs(
        u64::try_from(seconds).unwrap_or_default(),
    ))
}

fn other_name(expected: &ServerName<'_>, presented: Vec<String>) -> rustls::Error {
    CertificateError::NotValidForNameContext {
        expected: expected.to_owned(),
        presented,
    }
    .into()
}

/// Replaces errors that are particular to rustls by those that Go's client reports, and names in Rust's notation by
/// readable ones.
fn explain(error: rustls::Error, der: &CertificateDer<'_>) -> rustls::Error {
    let rustls::Error::InvalidCertificate(fault) = &error else {
        return error;
    };
    let Ok((_, certificate)) = X509Certificate::from_der(der) else {
        return error;
    };
    match fault {
        // An authority of the same name with another key, as after a rotation. Go reports an unknown authority too.
        CertificateError::BadSignature => CertificateError::UnknownIssuer.into(),
        CertificateError::NotValidForNameContext { expected, .. } => {
            other_name(expected, names(&certificate))
        }
        // webpki's own errors, whose types rustls hides: the certificate tells which one it is.
        CertificateError::Other(_) | CertificateError::BadEncoding => {
            let is_authority = matches!(certificate.basic_constraints(), Ok(Some(ca)) if ca.value.ca);
            let unsupported = if certificate.issuer() == certificate.subject() {
                return CertificateError::UnknownIssuer.into();
            } else if certificate.version().0 < 2 {
                UnsupportedCertificate::Version(certificate.version().0 + 1)
            } else if is_authority {
                UnsupportedCertificate::AuthorityAsServer
            } else {
                return error;
            };
            CertificateError::Other(OtherError(Arc::new(unsupported))).into()
        }
        _ => error,
    }
}

/// The subject alternative names that a client can ask for, as text.
fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(names)) = certificate.subject_alternative_name() else {
        return Vec::new();
    };
    names
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            GeneralName::IPAddress(bytes) => ip_text(bytes),
            _ => None,
        })
        .collect()
}

fn ip_text(bytes: &[u8]) -> Option<String> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(std::net::Ipv4Addr::from(v4).to_string());
    }
    let v6 = <[u8; 16]>::try_from(bytes).ok()?;
    Some(std::net::Ipv6Addr::from(v6).to_string())
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// Accepts every certificate and every key, without parsing them.
///
/// The signature of the handshake is not checked either: it would only prove that the server has the key of a
/// certificate that anybody can make. This accepts keys that ring cannot use, and X.509 version 1.
#[derive(Debug)]
pub struct SkipVerification;

impl ServerCertVerifier for SkipVerification {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    /// Everything that a server may choose, strong schemes first.
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::ECDSA_NISTP384_SHA384,
            SignatureScheme::ECDSA_NISTP521_SHA512,
            SignatureScheme::ED25519,
            SignatureScheme::ED448,
            SignatureScheme::RSA_PSS_SHA256,
            SignatureScheme::RSA_PSS_SHA384,
            SignatureScheme::RSA_PSS_SHA512,
            SignatureScheme::RSA_PKCS1_SHA256,
            SignatureScheme::RSA_PKCS1_SHA384,
            SignatureScheme::RSA_PKCS1_SHA512,
            SignatureScheme::ECDSA_SHA1_Legacy,
            SignatureScheme::RSA_PKCS1_SHA1,
        ]
    }
}
