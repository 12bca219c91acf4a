//! Redirects to another path of the same host and port.
//!
//! A target must not make the proxy send requests elsewhere: to the cloud's metadata service, to another pod, or to
//! this machine. Within one address a redirect mostly adds a slash to the path, as Python's frameworks do.

use std::net::{IpAddr, SocketAddr};

use http::uri::{PathAndQuery, Scheme as UriScheme};
use http::{StatusCode, Uri};

use super::connection::Destination;
use crate::targets::Scheme;

/// As in Go's client and in Prometheus.
pub(super) const MAX_REDIRECTS: usize = 10;

/// Where a redirect leads.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Redirect {
    /// Another path or scheme at the same address.
    Same(Destination, PathAndQuery),
    /// Another host or port.
    Elsewhere,
    /// There is no Location, or it cannot be read.
    Unusable,
}

/// Whether a client follows this status.
pub(super) fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Resolves a Location against the address and path of the request.
pub(super) fn resolve(from: Destination, path: &PathAndQuery, location: &str) -> Redirect {
    // The fragment is never sent.
    let location = location.split('#').next().unwrap_or_default();
    if let Some(rest) = location.strip_prefix("//") {
        return absolute(from, &format!("{}://{rest}", from.scheme.as_str()));
    }
    if has_scheme(location) {
        return absolute(from, location);
    }
    let path = if location.starts_with('/') {
        location.to_owned()
    } else if location.starts_with('?') {
        format!("{}{location}", path.path())
    } else if location.is_empty() {
        path.as_str().to_owned()
    } else {
        let folder = path.path().rfind('/').map_or("/", |end| &path.path()[..=end]);
        without_dots(&format!("{folder}{location}"))
    };
    PathAndQuery::try_from(path.as_str()).map_or(Redirect::Unusable, |path| Redirect::Same(from, path))
}

/// RFC 3986: a scheme is a letter, then letters, digits, `+`, `-` and `.`, then a colon.
fn has_scheme(location: &str) -> bool {
    let Some((scheme, _)) = location.split_once(':') else {
        return false;
    };
    scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
}

fn absolute(from: Destination, location: &str) -> Redirect {
    let Ok(uri) = Uri::try_from(location) else {
        return Redirect::Unusable;
    };
    let scheme = match uri.scheme() {
        Some(scheme) if *scheme == UriScheme::HTTP => Scheme::Http,
        Some(scheme) if *scheme == UriScheme::HTTPS => Scheme::Https,
        _ => return Redirect::Elsewhere,
    };
    let default_port = match scheme {
        Scheme::Http => 80,
        Scheme::Https => 443,
    };
    let host = uri.host().unwrap_or_default();
    let host = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    let port = uri.port_u16().unwrap_or(default_port);
    // Only an address is compared: a name could be resolved to any address.
    match host.parse::<IpAddr>() {
        Ok(ip) if SocketAddr::new(ip, port) == from.address => {
            let path = uri
                .path_and_query()
                .cloned()
                .unwrap_or_else(|| PathAndQuery::from_static("/"));
            let address = from.address;
            Redirect::Same(Destination { scheme, address }, path)
        }
        _ => Redirect::Elsewhere,
    }
}

/// Resolves `.` and `..` in a path, not in its query.
fn without_dots(path: &str) -> String {
    let (path, query) = match path.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (path, None),
    };
    let mut parts: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    parts.pop();
                }
                if last {
                    parts.push("");
                }
            }
            other => parts.push(other),
        }
    }
    let mut resolved = format!("/{}", parts.join("/"));
    if let Some(query) = query {
        resolved.push('?');
        resolved.push_str(query);
    }
    resolved
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The URL that a redirect from `http://10.0.0.1:8080/a/metrics?x=1` leads to, or `elsewhere` or `unusable`.
    #[track_caller]
    fn check(location: &str, expect: &str) {
        let from = Destination {
            scheme: Scheme::Http,
            address: "10.0.0.1:8080".parse().unwrap(),
        };
        let path = PathAndQuery::from_static("/a/metrics?x=1");
        let found = match resolve(from, &path, location) {
            Redirect::Same(to, path) => {
                assert_eq!(to.address, from.address);
                format!("{} {path}", to.scheme.as_str())
            }
            Redirect::Elsewhere => "elsewhere".to_owned(),
            Redirect::Unusable => "unusable".to_owned(),
        };
        assert_eq!(found, expect, "{location}");
    }

    #[test]
    fn paths_of_the_same_address_are_followed() {
        check("/metrics/", "http /metrics/");
        check("metrics/", "http /a/metrics/");
        check("../b?c=d#e", "http /b?c=d");
        check("./", "http /a/");
        check("?y=2", "http /a/metrics?y=2");
        check("", "http /a/metrics?x=1");
        check("http://10.0.0.1:8080/b", "http /b");
        check("https://10.0.0.1:8080", "https /");
        check("//10.0.0.1:8080/b", "http /b");
        check("/a:b", "http /a:b");
    }

    #[test]
    fn other_addresses_are_not() {
        for location in [
            "http://10.0.0.2:8080/",
            "http://10.0.0.1/",
            "https://10.0.0.1/",
            "http://localhost:8080/",
            "//evil/",
            "ftp://10.0.0.1:8080/",
            "http://10.0.0.1:8080@10.0.0.2/",
            "http://169.254.169.254/latest/meta-data",
        ] {
            check(location, "elsewhere");
        }
        check("http://[::1/", "unusable");
        check("/a b", "unusable");
    }
}
