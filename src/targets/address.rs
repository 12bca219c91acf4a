//! Which IP addresses a pod can have, and ranges of addresses.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::SkipReason;
use super::skip::Skip;

/// A range of IP addresses, such as `10.0.0.0/8` or `fd00::/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

/// A text that is not a range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a range of IP addresses; use ADDRESS/PREFIX, for example 10.0.0.0/8 or fd00::/8")]
pub struct CidrError;

impl Cidr {
    /// Returns whether the address is in the range.
    pub fn contains(&self, address: IpAddr) -> bool {
        let same_start = |a: u128, b: u128, bits: u8| {
            // A shift by all 128 bits is not defined. It belongs to the prefix 0, which contains every address.
            let differing_bits = (a ^ b).checked_shr(u32::from(bits - self.prefix));
            differing_bits.unwrap_or(0) == 0
        };
        match (self.address, address) {
            (IpAddr::V4(a), IpAddr::V4(b)) => same_start(a.to_bits().into(), b.to_bits().into(), 32),
            (IpAddr::V6(a), IpAddr::V6(b)) => same_start(a.to_bits(), b.to_bits(), 128),
            _ => false,
        }
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, prefix) = text.split_once('/').ok_or(CidrError)?;
        let address: IpAddr = address.parse().map_err(|_| CidrError)?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let is_number = prefix.bytes().all(|byte| byte.is_ascii_digit());
        let prefix = prefix.parse().ok().filter(|prefix| is_number && *prefix <= most);
        Ok(Self {
            address,
            prefix: prefix.ok_or(CidrError)?,
        })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// The addresses that are scraped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddressPolicy {
    /// Every address of one machine. For manifests that the operator of this proxy writes.
    Any,
    /// Every address that a pod of a cluster can have, and the addresses in these ranges.
    ///
    /// The kubelet of any node can write any address into the status of its pods. A loopback or link-local address would
    /// make the proxy ask itself, its node or a cloud's metadata service.
    Pods(Vec<Cidr>),
}

impl AddressPolicy {
    /// Returns the address in its canonical form, or why it is not scraped.
    ///
    /// An IPv4 address that is mapped into IPv6 (`::ffff:10.0.0.1`) becomes the IPv4 address before anything is checked.
    pub(super) fn check(&self, address: IpAddr) -> Result<IpAddr, Skip> {
        let address = address.to_canonical();
        let refuse = |detail: String| Err(Skip::new(SkipReason::BadIp, detail));
        if address.is_unspecified() || address.is_multicast() {
            return refuse(format!("its IP address {address} is not that of one machine"));
        }
        match self {
            Self::Pods(allowed)
                if !is_pod_address(address) && !allowed.iter().any(|range| range.contains(address)) =>
            {
                refuse(format!(
                    "its IP address {address} cannot be that of a pod; if it is, name its range with --target-cidr"
                ))
            }
            Self::Any | Self::Pods(_) => Ok(address),
        }
    }
}

/// Returns whether a network plugin could give a pod this address.
fn is_pod_address(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !(v4.is_loopback() || v4.is_link_local() || v4.is_broadcast()),
        IpAddr::V6(v6) => {
            // `::1` and the IPv4-compatible addresses of RFC 4291, 2.5.5.1, which are deprecated.
            let is_v4_compatible = v6.to_bits() >> 32 == 0;
            !(is_v4_compatible || v6.is_unicast_link_local())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(policy: &AddressPolicy, address: &str, expect: Option<&str>) {
        let checked = policy.check(address.parse().expect("an address"));
        assert_eq!(
            checked.ok().map(|address| address.to_string()).as_deref(),
            expect,
            "{address}"
        );
    }

    const NO_POD: [&str; 9] = [
        "127.0.0.1",
        "127.8.1.1",
        "::1",
        "::127.0.0.1",
        "::ffff:127.0.0.1",
        "169.254.169.254",
        "::ffff:169.254.169.254",
        "fe80::1",
        "255.255.255.255",
    ];

    #[test]
    fn addresses_that_no_pod_has_are_refused_for_a_cluster() {
        let cluster = AddressPolicy::Pods(Vec::new());
        for address in NO_POD {
            check(&cluster, address, None);
        }
        for address in [
            "10.0.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "8.8.8.8",
            "fd00::1",
            "2001:db8::1",
        ] {
            check(&cluster, address, Some(address));
        }
        check(&cluster, "::ffff:10.0.0.1", Some("10.0.0.1"));
    }

    #[test]
    fn they_are_scraped_where_a_range_or_a_file_names_them() {
        let allowed = AddressPolicy::Pods(vec!["127.0.0.0/8".parse().unwrap(), "fe80::/10".parse().unwrap()]);
        check(&allowed, "127.8.1.1", Some("127.8.1.1"));
        check(&allowed, "::ffff:127.8.1.1", Some("127.8.1.1"));
        check(&allowed, "fe80::1", Some("fe80::1"));
        check(&allowed, "169.254.169.254", None);
        for address in NO_POD {
            assert!(
                AddressPolicy::Any.check(address.parse().unwrap()).is_ok(),
                "{address}"
            );
        }
        for policy in [
            AddressPolicy::Any,
            allowed,
            AddressPolicy::Pods(vec!["0.0.0.0/0".parse().unwrap()]),
        ] {
            for address in ["0.0.0.0", "::", "224.0.0.1", "ff02::1"] {
                check(&policy, address, None);
            }
        }
    }

    #[test]
    fn ranges_contain_what_their_prefix_says() {
        let contains = |range: &str, address: &str| {
            let range: Cidr = range.parse().expect(range);
            range.contains(address.parse().expect("an address"))
        };
        assert!(contains("0.0.0.0/0", "255.1.2.3"));
        assert!(contains("::/0", "ffff::1"));
        assert!(!contains("0.0.0.0/0", "::1"));
        assert!(contains("10.1.2.3/32", "10.1.2.3"));
        assert!(!contains("10.1.2.3/32", "10.1.2.2"));
        assert!(contains("10.0.0.0/9", "10.127.255.255"));
        assert!(!contains("10.0.0.0/9", "10.128.0.0"));
        assert!(contains("fd00:1::/33", "fd00:1:7fff::"));
        assert!(!contains("fd00:1::/33", "fd00:1:8000::"));
        for text in [
            "",
            "10.0.0.1",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "a/8",
            "10.0.0.0/-1",
        ] {
            assert_eq!(text.parse::<Cidr>(), Err(CidrError), "{text}");
        }
    }
}
