//! `/v1/system-info`, and who serves the socket.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr as _;

use serde::Deserialize;

use super::{Client, PebbleError};

/// What Pebble says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct SystemInfo {
    /// Its version, as it writes it.
    #[serde(default)]
    pub version: Version,
    /// Changes when the container starts anew; the kernel's own where Pebble is not PID 1, and then it tells nothing.
    #[serde(default)]
    pub boot_id: String,
    /// Where it listens on TCP, from 1.21 on: `:38814`, `127.0.0.1:38813`.
    #[serde(default)]
    http_address: Option<String>,
}

impl SystemInfo {
    /// Where to reach Pebble over TCP from beside it; `None` where it does not listen or does not say so.
    pub fn http_address(&self) -> Option<SocketAddr> {
        let text = self.http_address.as_deref()?;
        if let Some(port) = text.strip_prefix(':') {
            return Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port.parse().ok()?)));
        }
        let (host, port) = text.rsplit_once(':')?;
        let port = port.parse().ok()?;
        let address = match host {
            "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
            host => IpAddr::from_str(host.trim_start_matches('[').trim_end_matches(']')).ok()?,
        };
        let address = match address {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => IpAddr::V6(Ipv6Addr::LOCALHOST),
            address => address,
        };
        Some(SocketAddr::new(address, port))
    }
}

/// A Pebble's version.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub struct Version {
    text: String,
    major_minor: Option<(u32, u32)>,
}

/// The first Pebble known to take passwords for other access than metrics; 1.19 does not.
const UNTRUSTED_PASSWORDS: (u32, u32) = (1, 26);

/// The first Pebble with `/v1/metrics`, basic identities and the check field `startup`.
const OLDEST: (u32, u32) = (1, 19);

impl Version {
    /// Whether an identity with a password may have access `untrusted`.
    pub(super) fn has_untrusted_passwords(&self) -> bool {
        self.major_minor
            .is_none_or(|version| version >= UNTRUSTED_PASSWORDS)
    }

    /// Whether it lacks what we need. A version that we cannot read is taken for a new one.
    pub fn is_too_old(&self) -> bool {
        self.major_minor.is_some_and(|version| version < OLDEST)
    }
}

impl From<String> for Version {
    fn from(text: String) -> Self {
        let mut numbers = text
            .trim_start_matches('v')
            .split(|c: char| !c.is_ascii_digit())
            .map(str::parse);
        let major_minor = match (numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => Some((major, minor)),
            _ => None,
        };
        Self { text, major_minor }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The process that serves the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its process id as we see it; `None` where it is in another pid namespace.
    pub pid: Option<i32>,
    /// Its user id.
    pub uid: u32,
}

impl Client {
    /// Asks who Pebble is. Pebble logs nothing of it.
    pub async fn system_info(&self) -> Result<SystemInfo, PebbleError> {
        self.get("/v1/system-info").await
    }

    /// Asks the kernel who listens on the socket; Pebble is not asked.
    ///
    /// # Errors
    /// Where nobody listens.
    pub async fn peer(&self) -> std::io::Result<Peer> {
        let credentials = tokio::net::UnixStream::connect(self.socket())
            .await?
            .peer_cred()?;
        Ok(Peer {
            pid: credentials.pid().filter(|pid| *pid > 0),
            uid: credentials.uid(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(address: &str, expect: Option<&str>) {
        let info: SystemInfo =
            serde_json::from_value(serde_json::json!({"http-address": address, "version": "v1.26.0"}))
                .unwrap();
        assert_eq!(
            info.http_address().map(|address| address.to_string()),
            expect.map(str::to_owned),
            "{address}"
        );
    }

    #[test]
    fn http_addresses_are_reached_over_loopback() {
        check(":38814", Some("127.0.0.1:38814"));
        check("127.0.0.1:38813", Some("127.0.0.1:38813"));
        check("0.0.0.0:1", Some("127.0.0.1:1"));
        check("[::]:1", Some("[::1]:1"));
        check("[::1]:1", Some("[::1]:1"));
        check("localhost:1", Some("127.0.0.1:1"));
        check("10.1.2.3:1", Some("10.1.2.3:1"));
        check("pebble.local:1", None);
        check("", None);
        check(":http", None);
    }

    #[test]
    fn no_address_is_no_guess() {
        let info: SystemInfo = serde_json::from_str("{}").unwrap();
        assert_eq!(info.http_address(), None);
    }

    #[test]
    fn versions_are_compared_by_number() {
        let old = |text: &str| Version::from(text.to_owned()).is_too_old();
        assert!(old("v1.18.0"));
        assert!(old("1.4.0"));
        assert!(old("v0.9"));
        assert!(!old("v1.19.0"));
        assert!(!old("v1.100.0-rc1+dirty"));
        assert!(!old("v2.0.0"));
        assert!(!old("unknown"));
        assert!(!old(""));
    }
}
