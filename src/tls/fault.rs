//! What is wrong with a TLS handshake, in the words of the field.

use std::fmt;
use std::io;

use jiff::Timestamp;
use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, InvalidMessage, PeerIncompatible};

use super::UnsupportedCertificate;

/// Why a handshake with a server failed. Displays the cause as a clause that starts with a small letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TlsFault {
    /// No configured authority signed the certificate.
    UnknownAuthority,
    /// The certificate has expired.
    Expired {
        /// The end of its validity.
        not_after: Timestamp,
        /// The time of this machine.
        now: Timestamp,
    },
    /// The certificate is not valid yet, or the clock of this machine is wrong.
    NotYetValid {
        /// The begin of its validity.
        not_before: Timestamp,
        /// The time of this machine.
        now: Timestamp,
    },
    /// The certificate is for another name or address.
    OtherName {
        /// The name or address that was asked for.
        expected: String,
        /// The names in the certificate.
        presented: Vec<String>,
    },
    /// The certificate is not for servers.
    Purpose,
    /// The key or the signature algorithm is not supported by ring.
    Algorithm,
    /// Go's client accepts this certificate and rustls does not.
    Unsupported(UnsupportedCertificate),
    /// The certificate or one of its signatures is damaged.
    Damaged,
    /// The server does not speak TLS; mostly it speaks plain HTTP.
    NotTls,
    /// The server offers neither TLS 1.2 nor TLS 1.3.
    OldVersion,
    /// The server and rustls have no cipher suite or key exchange in common.
    NoCommonCipher,
    /// The server wants a client certificate.
    ClientCertificate,
    /// The server ended the handshake with this alert.
    Alert(String),
    /// Anything else, in the words of rustls.
    Other(String),
}

impl TlsFault {
    /// Finds the fault in the error of a handshake; `None` if the error is not one of TLS.
    pub fn from_io(error: &io::Error) -> Option<Self> {
        let inner = error.get_ref()?.downcast_ref::<rustls::Error>()?;
        Some(Self::from_rustls(inner))
    }

    /// Finds the fault in an error of rustls.
    pub fn from_rustls(error: &rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidCertificate(error) => Self::from_certificate(error),
            rustls::Error::InvalidMessage(
                InvalidMessage::InvalidContentType
                | InvalidMessage::UnknownProtocolVersion
                | InvalidMessage::MessageTooLarge
                | InvalidMessage::InvalidEmptyPayload,
            ) => Self::NotTls,
            rustls::Error::PeerIncompatible(error) => Self::from_incompatible(error),
            rustls::Error::AlertReceived(alert) => Self::from_alert(*alert),
            other => Self::Other(other.to_string()),
        }
    }

    fn from_certificate(error: &CertificateError) -> Self {
        match error {
            CertificateError::UnknownIssuer => Self::UnknownAuthority,
            CertificateError::ExpiredContext { time, not_after } => Self::Expired {
                not_after: timestamp(*not_after),
                now: timestamp(*time),
            },
            CertificateError::NotValidYetContext { time, not_before } => Self::NotYetValid {
                not_before: timestamp(*not_before),
                now: timestamp(*time),
            },
            CertificateError::NotValidForNameContext { expected, presented } => Self::OtherName {
                expected: expected.to_str().into_owned(),
                presented: presented.clone(),
            },
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                Self::Purpose
            }
            CertificateError::UnsupportedSignatureAlgorithmContext { .. }
            | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => Self::Algorithm,
            CertificateError::BadEncoding | CertificateError::BadSignature => Self::Damaged,
            CertificateError::Other(other) => match other.0.downcast_ref::<UnsupportedCertificate>() {
                Some(unsupported) => Self::Unsupported(*unsupported),
                None => Self::Other(other.to_string()),
            },
            other => Self::Other(other.to_string()),
        }
    }

    fn from_incompatible(error: &PeerIncompatible) -> Self {
        match error {
            PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig => Self::OldVersion,
            PeerIncompatible::NoCipherSuitesInCommon
            | PeerIncompatible::NoKxGroupsInCommon
            | PeerIncompatible::NoSignatureSchemesInCommon
            | PeerIncompatible::NoEcPointFormatsInCommon => Self::NoCommonCipher,
            other => Self::Other(format!("{other:?}")),
        }
    }

    fn from_alert(alert: AlertDescription) -> Self {
        match alert {
            AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied => Self::ClientCertificate,
            AlertDescription::ProtocolVersion => Self::OldVersion,
            AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity => {
                Self::NoCommonCipher
            }
            other => Self::Alert(format!("{other:?}")),
        }
    }
}

fn timestamp(time: UnixTime) -> Timestamp {
    i64::try_from(time.as_secs())
        .ok()
        .and_then(|seconds| Timestamp::from_second(seconds).ok())
        .unwrap_or(Timestamp::MAX)
}

impl fmt::Display for TlsFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownAuthority => f.write_str("the certificate is signed by an unknown authority"),
            Self::Expired { not_after, now } => {
                write!(f, "the certificate expired at {not_after}; it is {now} now")
            }
            Self::NotYetValid { not_before, now } => {
                write!(
                    f,
                    "the certificate is not valid before {not_before}; it is {now} now"
                )
            }
            Self::OtherName { expected, presented } if presented.is_empty() => {
                write!(
                    f,
                    "the certificate is not valid for {expected}: it names no host at all"
                )
            }
            Self::OtherName { expected, presented } => write!(
                f,
                "the certificate is valid for {} and not for {expected}",
                presented.join(", ")
            ),
            Self::Purpose => f.write_str("the certificate is not made for servers (extended key usage)"),
            Self::Algorithm => {
                f.write_str("the certificate has a key or signature of an algorithm that is not supported")
            }
            Self::Unsupported(unsupported) => unsupported.fmt(f),
            Self::Damaged => f.write_str("the certificate is damaged"),
            Self::NotTls => f.write_str("the server speaks plain HTTP (or another protocol) instead of TLS"),
            Self::OldVersion => f.write_str("the server offers neither TLS 1.2 nor TLS 1.3"),
            Self::NoCommonCipher => {
                f.write_str("the server has no cipher suite in common, or wants a client certificate")
            }
            Self::ClientCertificate => f.write_str("the server wants a client certificate"),
            Self::Alert(alert) => write!(f, "the server ended the TLS handshake: {alert}"),
            Self::Other(text) => f.write_str(text),
        }
    }
}
