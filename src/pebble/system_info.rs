//! `/v1/system-info`, and the process that serves the socket.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr as _;

use serde::Deserialize;
use tokio::net::UnixStream;

use super::{Client, PebbleError};

/// What Pebble says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct SystemInfo {
    /// Its version, as it writes it.
    #[serde(default)]
    pub version: Version,
    /// Another one after each start of Pebble where it is PID 1; else the kernel's, which tells nothing about Pebble.
    #[serde(default)]
    pub boot_id: String,
    /// Where it listens on TCP, from 1.21 on: `:38814`, `127.0.0.1:38813`.
    #[serde(default)]
    http_address: Option<String>,
}

impl SystemInfo {
    /// Where to reach Pebble over TCP on this machine; `None` where it does not listen, does not say so, or listens on an
    /// address that is not loopback: a credential is sent there in clear text.
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
        address.is_loopback().then(|| SocketAddr::new(address, port))
    }
}

/// A Pebble's version.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub struct Version {
    text: String,
    major_minor: Option<(u32, u32)>,
}

/// The first Pebble that takes passwords for other access than metrics; 1.19 does not.
const UNTRUSTED_PASSWORDS: (u32, u32) = (1, 26);

/// The first Pebble with `/v1/metrics`, basic identities and the check field `startup`.
const OLDEST: (u32, u32) = (1, 19);

impl Version {
    /// Whether an identity with a password may have access `untrusted`.
    pub(super) fn has_untrusted_passwords(&self) -> bool {
        self.major_minor
            .is_none_or(|version| version >= UNTRUSTED_PASSWORDS)
    }

    /// Whether it lacks identities with passwords. A version that cannot be parsed counts as a new one.
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
    /// Its process id; `None` where it is in another pid namespace.
    pub pid: Option<i32>,
    /// Its user id.
    pub uid: u32,
}

impl Peer {
    /// The process at the other end of a connection.
    pub(super) fn of(stream: &UnixStream) -> std::io::Result<Self> {
        let credentials = stream.peer_cred()?;
        Ok(Self {
            pid: credentials.pid().filter(|pid| *pid > 0),
            uid: credentials.uid(),
        })
    }

    /// Whether a credential may be sent to it: Pebble runs as root or as the user of its services, and any other user
    /// could have put a socket of its own at the path.
    pub fn is_trusted(self, own_uid: u32) -> bool {
        self.uid == 0 || self.uid == own_uid
    }
}

impl Client {
    /// Fetches version, boot id and addresses. Pebble does not log this request.
    pub async fn system_info(&self) -> Result<SystemInfo, PebbleError> {
        self.get("/v1/system-info").await
    }

    /// The process that listens on the socket, as the kernel knows it.
    ///
    /// # Errors
    /// Where nothing listens.
    pub async fn peer(&self) -> std::io::Result<Peer> {
        Peer::of(&UnixStream::connect(self.socket()).await?)
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
    fn only_loopback_addresses_are_used() {
        check(":38814", Some("127.0.0.1:38814"));
        check("127.0.0.1:38813", Some("127.0.0.1:38813"));
        check("0.0.0.0:1", Some("127.0.0.1:1"));
        check("[::]:1", Some("[::1]:1"));
        check("[::1]:1", Some("[::1]:1"));
        check("localhost:1", Some("127.0.0.1:1"));
        check("127.0.0.7:1", Some("127.0.0.7:1"));
        check("10.1.2.3:1", None);
        check("[fd00::1]:1", None);
        check("pebble.local:1", None);
        check("", None);
        check(":http", None);
    }

    #[test]
    fn only_root_and_the_own_user_are_trusted() {
        let peer = |uid| Peer { pid: None, uid };
        for (uid, own_uid, expect) in [
            (0, 0, true),
            (0, 1000, true),
            (1000, 1000, true),
            (1000, 0, false),
            (1, 2, false),
        ] {
            assert_eq!(peer(uid).is_trusted(own_uid), expect, "{uid} seen by {own_uid}");
        }
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
