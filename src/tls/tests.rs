//! Certificates as they occur in clusters, verified at a given time.

use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    date_time_ymd,
};
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};

use super::{FileVerifier, TlsFault, Verifier};

/// 2026-01-01T00:00:00Z.
const NOW: u64 = 1_767_225_600;

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new([name.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(2025, 1, 1);
    params.not_after = date_time_ymd(2027, 1, 1);
    params
}

fn self_signed(params: CertificateParams) -> CertificateDer<'static> {
    let key = KeyPair::generate().unwrap();
    params.self_signed(&key).unwrap().der().clone()
}

fn authority(mut params: CertificateParams) -> CertificateParams {
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

/// The fault that a client finds which trusts `trusted` and asks for 127.0.0.1; `None` if it accepts the certificate.
#[track_caller]
fn fault(trusted: &[CertificateDer<'static>], server: &CertificateDer<'_>) -> Option<TlsFault> {
    let verifier = Verifier::try_new(trusted.to_vec()).unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let now = UnixTime::since_unix_epoch(Duration::from_secs(NOW));
    let result = verifier.verify_server_cert(server, &[], &name, &[], now);
    result.err().map(|error| TlsFault::from_rustls(&error))
}

#[track_caller]
fn check_text(fault: Option<TlsFault>, expect: &str) {
    assert_eq!(fault.map(|fault| fault.to_string()).as_deref(), Some(expect));
}

#[test]
fn a_pinned_certificate_is_accepted_with_and_without_ca_true() {
    for params in [params("127.0.0.1"), authority(params("127.0.0.1"))] {
        let pinned = self_signed(params);
        assert_eq!(fault(std::slice::from_ref(&pinned), &pinned), None);
    }
}

#[test]
fn a_pinned_certificate_is_for_its_names_and_dates_only() {
    let other = self_signed(authority(params("pod.example")));
    check_text(
        fault(std::slice::from_ref(&other), &other),
        "the certificate is valid for pod.example and not for 127.0.0.1",
    );
    let mut expired = authority(params("127.0.0.1"));
    expired.not_after = date_time_ymd(2025, 2, 1);
    let expired = self_signed(expired);
    check_text(
        fault(std::slice::from_ref(&expired), &expired),
        "the certificate expired at 2025-02-01T00:00:00Z; it is 2026-01-01T00:00:00Z now",
    );
    let mut future = authority(params("127.0.0.1"));
    future.not_before = date_time_ymd(2026, 2, 1);
    let future = self_signed(future);
    check_text(
        fault(std::slice::from_ref(&future), &future),
        "the certificate is not valid before 2026-02-01T00:00:00Z; it is 2026-01-01T00:00:00Z now",
    );
    let mut client = authority(params("127.0.0.1"));
    client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let client = self_signed(client);
    assert_eq!(
        fault(std::slice::from_ref(&client), &client),
        Some(TlsFault::Purpose)
    );
}

#[test]
fn a_certificate_that_resembles_the_pinned_one_is_refused() {
    let pinned = self_signed(authority(params("127.0.0.1")));
    let twin = self_signed(authority(params("127.0.0.1")));
    assert_eq!(fault(&[pinned], &twin), Some(TlsFault::UnknownAuthority));
}

#[test]
fn a_certificate_of_a_listed_authority_is_checked_as_usual() {
    let ca = CertifiedIssuer::self_signed(authority(params("ca")), KeyPair::generate().unwrap()).unwrap();
    let issue = |params: CertificateParams| {
        let key = KeyPair::generate().unwrap();
        params.signed_by(&key, &ca).unwrap().der().clone()
    };
    let trusted = [ca.der().clone()];
    assert_eq!(fault(&trusted, &issue(params("127.0.0.1"))), None);
    check_text(
        fault(&trusted, &issue(params("10.0.0.1"))),
        "the certificate is valid for 10.0.0.1 and not for 127.0.0.1",
    );
    let mut expired = params("127.0.0.1");
    expired.not_after = date_time_ymd(2025, 2, 1);
    check_text(
        fault(&trusted, &issue(expired)),
        "the certificate expired at 2025-02-01T00:00:00Z; it is 2026-01-01T00:00:00Z now",
    );
    let foreign = self_signed(params("127.0.0.1"));
    assert_eq!(fault(&trusted, &foreign), Some(TlsFault::UnknownAuthority));
    // The previous authority had the same name, as after a rotation.
    let previous =
        CertifiedIssuer::self_signed(authority(params("ca")), KeyPair::generate().unwrap()).unwrap();
    let old = params("127.0.0.1")
        .signed_by(&KeyPair::generate().unwrap(), &previous)
        .unwrap();
    assert_eq!(fault(&trusted, old.der()), Some(TlsFault::UnknownAuthority));
    check_text(
        fault(&trusted, &issue(authority(params("127.0.0.1")))),
        "the certificate is one of an authority (CA:TRUE), which a server must not use",
    );
}

#[test]
fn nothing_that_can_be_parsed_is_an_error() {
    let error = Verifier::try_new(vec![CertificateDer::from(vec![1, 2, 3])]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "none of the certificates can be used as an authority"
    );
}

#[test]
fn changed_authorities_are_read_again_and_broken_ones_are_not_used() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca.crt");
    let pem = |params: CertificateParams| params.self_signed(&KeyPair::generate().unwrap()).unwrap();
    let (old, new) = (pem(params("127.0.0.1")), pem(params("127.0.0.1")));
    std::fs::write(&path, old.pem()).unwrap();
    let verifier = Arc::new(FileVerifier::try_new(&path).unwrap());
    let accepts = |certificate: &rcgen::Certificate| {
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(NOW));
        verifier
            .verify_server_cert(certificate.der(), &[], &name, &[], now)
            .is_ok()
    };
    assert!(accepts(&old) && !accepts(&new));
    // In place, then by a rename as a mounted ConfigMap is swapped.
    std::fs::write(&path, new.pem()).unwrap();
    assert!(accepts(&new) && !accepts(&old));
    assert_eq!(verifier.generation(), 1);
    std::fs::write(folder.path().join("next"), old.pem()).unwrap();
    std::fs::rename(folder.path().join("next"), &path).unwrap();
    assert!(accepts(&old) && !accepts(&new));
    for broken in ["", "-----BEGIN CERTIFICATE-----\n"] {
        std::fs::write(&path, broken).unwrap();
        assert!(accepts(&old));
    }
    std::fs::remove_file(&path).unwrap();
    assert!(accepts(&old));
    assert_eq!(verifier.generation(), 2);
    std::fs::write(&path, new.pem()).unwrap();
    assert!(accepts(&new));
}
