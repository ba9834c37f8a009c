//! The upstream URL: its scheme says the kind of upstream, the rest says where and as whom.
//!
//! *Invariant:* no error echoes any part of the URL: a password with a forgotten `%2F` can be anywhere in it.

use std::path::PathBuf;

use super::identity::Identity;
use super::topology::Topology;
use crate::net::Address;

/// Redis's port.
const DEFAULT_PORT: u16 = 6379;
/// Most databases a server can have (Redis: an int); larger numbers are typing errors.
const MAX_DB: u32 = i32::MAX as u32;

/// What a URL says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamUrl {
    /// Where.
    pub topology: Topology,
    /// As whom; anonymous if it does not say.
    pub identity: Identity,
    /// The database that clients begin in.
    pub db: u32,
}

/// What is wrong with a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// No `://`.
    #[error("the upstream URL has no scheme: redis://host:port or unix:///path is expected")]
    NoScheme,
    /// `rediss://`.
    #[error("TLS to upstream is not supported (rediss://): put a TLS tunnel beside it, or use redis://")]
    Tls,
    /// A scheme that a later version may know.
    #[error("{0}:// is not supported by this version")]
    Unsupported(&'static str),
    /// Any other scheme.
    #[error("the upstream URL's scheme is unknown: redis:// or unix:// is expected")]
    UnknownScheme,
    /// No host, or an IPv6 address without brackets.
    #[error(
        "the upstream URL has no valid host (an IPv6 address needs brackets; `/` and `@` in a password must be %2F and %40)"
    )]
    Host,
    /// A port that is no number from 1 to 65535.
    #[error("the upstream URL's port is not a number from 1 to 65535 (`/` in a password must be written %2F)")]
    Port,
    /// A database that is no number.
    #[error("the upstream URL's database is not a number (`/` in a password must be written %2F)")]
    Db,
    /// A `%` that is not followed by two hex digits, or bytes that are not UTF-8.
    #[error("the upstream URL's user or password is not valid percent-encoding of UTF-8")]
    Encoding,
    /// A `unix://` URL whose path is not absolute.
    #[error("the upstream URL's path must be absolute: unix:///path")]
    Path,
    /// A parameter behind `?` that is not known.
    #[error("the upstream URL has an unknown parameter (only unix:///path?db=n takes one)")]
    Parameter,
}

// === impl UpstreamUrl ===

impl UpstreamUrl {
    /// Reads `redis://[user[:password]@]host[:port][/db]` or `unix://[user[:password]@]/path[?db=n]`.
    ///
    /// # Errors
    /// [`UrlError`], which shows nothing of the URL.
    pub fn parse(url: &str) -> Result<UpstreamUrl, UrlError> {
        let (scheme, rest) = url.split_once("://").ok_or(UrlError::NoScheme)?;
        match scheme {
            "redis" => parse_tcp(rest),
            "unix" => parse_unix(rest),
            "rediss" => Err(UrlError::Tls),
            "redis-sentinel" => Err(UrlError::Unsupported("redis-sentinel")),
            "redis-cluster" => Err(UrlError::Unsupported("redis-cluster")),
            _ => Err(UrlError::UnknownScheme),
        }
    }
}

impl std::str::FromStr for UpstreamUrl {
    type Err = UrlError;

    fn from_str(url: &str) -> Result<UpstreamUrl, UrlError> {
        UpstreamUrl::parse(url)
    }
}

fn parse_tcp(rest: &str) -> Result<UpstreamUrl, UrlError> {
    if rest.contains(['?', '#']) {
        return Err(UrlError::Parameter);
    }
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (identity, place) = parse_identity(authority)?;
    let (host, port) = parse_place(place)?;
    let db = if path.is_empty() { 0 } else { parse_db(path)? };
    let address = Address::Tcp { host: host.to_owned(), port };
    Ok(UpstreamUrl { topology: Topology::Standalone { address }, identity, db })
}

fn parse_unix(rest: &str) -> Result<UpstreamUrl, UrlError> {
    let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
    let (authority, path) = rest.split_at(rest.find('/').ok_or(UrlError::Path)?);
    let (identity, host) = parse_identity(authority)?;
    if !host.is_empty() || path.len() < 2 {
        return Err(UrlError::Path);
    }
    let db = match query {
        None => 0,
        Some(query) => parse_db(query.strip_prefix("db=").ok_or(UrlError::Parameter)?)?,
    };
    let address = Address::Unix(PathBuf::from(decode(path)?));
    Ok(UpstreamUrl { topology: Topology::Standalone { address }, identity, db })
}

/// Takes `user[:password]@` off the front. The last `@` ends it, so that one inside a password does no harm.
fn parse_identity(authority: &str) -> Result<(Identity, &str), UrlError> {
    let Some((login, place)) = authority.rsplit_once('@') else {
        return Ok((Identity::default(), authority));
    };
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    Ok((Identity::new(decode(user)?, decode(password)?), place))
}

fn parse_place(place: &str) -> Result<(&str, u16), UrlError> {
    let (host, port) = match place.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or(UrlError::Host)?;
            let host = host.parse::<std::net::Ipv6Addr>().map(|_| host).map_err(|_| UrlError::Host)?;
            let port = if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or(UrlError::Port)?) };
            (host, port)
        }
        None => place.split_once(':').map_or((place, None), |(host, port)| (host, Some(port))),
    };
    if host.is_empty() || port.is_some_and(|port| port.contains(':')) {
        return Err(UrlError::Host);
    }
    let port = match port {
        None => DEFAULT_PORT,
        Some(port) => number(port).and_then(|n| u16::try_from(n).ok()).filter(|&n| n != 0).ok_or(UrlError::Port)?,
    };
    Ok((host, port))
}

fn parse_db(text: &str) -> Result<u32, UrlError> {
    number(text).filter(|&n| n <= MAX_DB).ok_or(UrlError::Db)
}

/// Digits and nothing else: `parse` alone would take a sign.
fn number(text: &str) -> Option<u32> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

fn decode(text: &str) -> Result<String, UrlError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let high = rest.next().and_then(hex).ok_or(UrlError::Encoding)?;
        let low = rest.next().and_then(hex).ok_or(UrlError::Encoding)?;
        bytes.push(high << 4 | low);
    }
    String::from_utf8(bytes).map_err(|_| UrlError::Encoding)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|n| u8::try_from(n).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> Topology {
        Topology::Standalone { address: Address::Tcp { host: host.into(), port } }
    }

    fn unix(path: &str) -> Topology {
        Topology::Standalone { address: Address::Unix(path.into()) }
    }

    #[test]
    fn every_form_is_read() {
        let cases = [
            ("redis://h", tcp("h", 6379), "", "", 0),
            ("redis://h/", tcp("h", 6379), "", "", 0),
            ("redis://h.example:1/15", tcp("h.example", 1), "", "", 15),
            ("redis://app@h", tcp("h", 6379), "app", "", 0),
            ("redis://:pw@h", tcp("h", 6379), "", "pw", 0),
            ("redis://app:p%2F%40%3a%25w@h:2", tcp("h", 2), "app", "p/@:%w", 0),
            ("redis://app:p@w:x@h:2", tcp("h", 2), "app", "p@w:x", 0),
            ("redis://[::1]:6380/1", tcp("::1", 6380), "", "", 1),
            ("redis://a:b@[fe80::1]", tcp("fe80::1", 6379), "a", "b", 0),
            ("unix:///run/r.sock", unix("/run/r.sock"), "", "", 0),
            ("unix:///run/r.sock?db=3", unix("/run/r.sock"), "", "", 3),
            ("unix://a:b@/run/r%20s.sock", unix("/run/r s.sock"), "a", "b", 0),
        ];
        for (text, topology, user, password, db) in cases {
            let expected = UpstreamUrl { topology, identity: Identity::new(user, password), db };
            assert_eq!(UpstreamUrl::parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn every_fault_has_its_name() {
        let cases = [
            ("localhost:6379", UrlError::NoScheme),
            ("", UrlError::NoScheme),
            ("rediss://h", UrlError::Tls),
            ("redis-sentinel://h/m", UrlError::Unsupported("redis-sentinel")),
            ("redis-cluster://h", UrlError::Unsupported("redis-cluster")),
            ("http://h", UrlError::UnknownScheme),
            ("redis://", UrlError::Host),
            ("redis://:6379", UrlError::Host),
            ("redis://::1", UrlError::Host),
            ("redis://[::1", UrlError::Host),
            ("redis://[h]", UrlError::Host),
            ("redis://[::1]6379", UrlError::Port),
            ("redis://h:", UrlError::Port),
            ("redis://h:0", UrlError::Port),
            ("redis://h:+1", UrlError::Port),
            ("redis://h:65536", UrlError::Port),
            ("redis://h/x", UrlError::Db),
            ("redis://h/-1", UrlError::Db),
            ("redis://h/1/2", UrlError::Db),
            ("redis://h/99999999999", UrlError::Db),
            ("redis://h?db=1", UrlError::Parameter),
            ("redis://a:%zz@h", UrlError::Encoding),
            ("redis://a:%f@h", UrlError::Encoding),
            ("redis://a:%ff@h", UrlError::Encoding),
            ("unix://run/r.sock", UrlError::Path),
            ("unix://", UrlError::Path),
            ("unix:///", UrlError::Path),
            ("unix:///s?db=", UrlError::Db),
            ("unix:///s?x=1", UrlError::Parameter),
        ];
        for (text, error) in cases {
            assert_eq!(UpstreamUrl::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn no_error_and_no_debug_shows_the_password() {
        for text in ["redis://app:s3c/ret@h:1", "s3cret", "x://s3cret@h", "redis://a:s3c%ret@h", "redis://a:b:s3cret"] {
            let error = UpstreamUrl::parse(text).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("s3c"), "{text}");
        }
        let url = UpstreamUrl::parse("redis://app:s3cret@h").unwrap();
        assert!(!format!("{url:?}").contains("s3cret"));
    }
}
