//! The upstream URL: its scheme says the kind of upstream, the rest says where and as whom.
//!
//! *Invariant:* no error echoes any part of the URL: a password with a forgotten `%2F` can be anywhere in it.

use std::path::PathBuf;

use super::identity::Identity;
use crate::net::Address;

/// Redis's port.
const DEFAULT_PORT: u16 = 6379;
/// Sentinel's port.
const DEFAULT_SENTINEL_PORT: u16 = 26379;
/// Most databases a server can have (Redis: an int); larger numbers are typing errors.
const MAX_DB: u32 = i32::MAX as u32;

/// What a URL says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamUrl {
    /// Where.
    pub place: Place,
    /// As whom; anonymous if it does not say.
    pub identity: Identity,
    /// The database that clients begin in.
    pub db: u32,
}

/// What kind of upstream it is, and where one begins to look for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// One server.
    Standalone(Address),
    /// The master of a service, whoever that is at present.
    Sentinel {
        /// The Sentinels to ask; one at least.
        sentinels: Vec<Address>,
        /// The name under which they know the master.
        service: String,
    },
    /// A cluster.
    Cluster {
        /// Nodes that are asked for all others; one at least.
        seeds: Vec<Address>,
    },
}

/// What is wrong with a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// No `://`.
    #[error(
        "the upstream URL has no scheme: redis://host:port, unix:///path, redis-sentinel://host:port/service or redis-cluster://host:port is expected"
    )]
    NoScheme,
    /// `rediss://`.
    #[error("TLS to upstream is not supported (rediss://): put a TLS tunnel beside it, or use redis://")]
    Tls,
    /// A scheme that a later version may know.
    #[error("{0}:// is not supported by this version")]
    Unsupported(&'static str),
    /// Any other scheme.
    #[error(
        "the upstream URL's scheme is unknown: redis://, unix://, redis-sentinel:// or redis-cluster:// is expected"
    )]
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
    /// `redis-sentinel://` without a service.
    #[error("the upstream URL names no service: redis-sentinel://host:port/service is expected")]
    Service,
    /// A database other than 0 behind `redis-cluster://`.
    #[error("the upstream URL names a database, but a cluster has only database 0")]
    ClusterDb,
    /// A `%` that is not followed by two hex digits, or bytes that are not UTF-8.
    #[error("the upstream URL's user, password or service is not valid percent-encoding of UTF-8")]
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
    /// Reads `redis://[user[:password]@]host[:port][/db]`, `unix://[user[:password]@]/path[?db=n]`,
    /// `redis-sentinel://[user[:password]@]host[:port][,host[:port]…]/service[/db]` (user and password are the servers',
    /// not the Sentinels') or `redis-cluster://[user[:password]@]host[:port][,host[:port]…][/0]`.
    ///
    /// # Errors
    /// [`UrlError`], which shows nothing of the URL.
    pub fn parse(url: &str) -> Result<UpstreamUrl, UrlError> {
        let (scheme, rest) = url.split_once("://").ok_or(UrlError::NoScheme)?;
        match scheme {
            "redis" => parse_tcp(rest),
            "unix" => parse_unix(rest),
            "rediss" => Err(UrlError::Tls),
            "redis-sentinel" => parse_sentinel(rest),
            "redis-cluster" => parse_cluster(rest),
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
    let (authority, path) = split_path(rest)?;
    let (identity, place) = parse_identity(authority)?;
    let place = Place::Standalone(parse_address(place, DEFAULT_PORT)?);
    let db = if path.is_empty() { 0 } else { parse_db(path)? };
    Ok(UpstreamUrl { place, identity, db })
}

fn parse_sentinel(rest: &str) -> Result<UpstreamUrl, UrlError> {
    let (authority, path) = split_path(rest)?;
    let (identity, places) = parse_identity(authority)?;
    let sentinels = parse_addresses(places, DEFAULT_SENTINEL_PORT)?;
    let (service, db) = path.split_once('/').unwrap_or((path, ""));
    if service.is_empty() {
        return Err(UrlError::Service);
    }
    // The rest of a password with a slash in it would be taken for the service, and services are logged.
    if service.contains('@') {
        return Err(UrlError::Host);
    }
    let db = if db.is_empty() { 0 } else { parse_db(db)? };
    Ok(UpstreamUrl { place: Place::Sentinel { sentinels, service: decode(service)? }, identity, db })
}

fn parse_cluster(rest: &str) -> Result<UpstreamUrl, UrlError> {
    let (authority, path) = split_path(rest)?;
    let (identity, places) = parse_identity(authority)?;
    let seeds = parse_addresses(places, DEFAULT_PORT)?;
    match path {
        "" | "0" => Ok(UpstreamUrl { place: Place::Cluster { seeds }, identity, db: 0 }),
        path => Err(parse_db(path).map_or_else(|error| error, |_| UrlError::ClusterDb)),
    }
}

/// What stands before the first slash and what behind it.
fn split_path(rest: &str) -> Result<(&str, &str), UrlError> {
    if rest.contains(['?', '#']) {
        return Err(UrlError::Parameter);
    }
    Ok(rest.split_once('/').unwrap_or((rest, "")))
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
    let place = Place::Standalone(Address::Unix(PathBuf::from(decode(path)?)));
    Ok(UpstreamUrl { place, identity, db })
}

/// Takes `user[:password]@` off the front. The last `@` ends it, so that one inside a password does no harm.
fn parse_identity(authority: &str) -> Result<(Identity, &str), UrlError> {
    let Some((login, place)) = authority.rsplit_once('@') else {
        return Ok((Identity::default(), authority));
    };
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    Ok((Identity::new(decode(user)?, decode(password)?), place))
}

fn parse_addresses(places: &str, default_port: u16) -> Result<Vec<Address>, UrlError> {
    places.split(',').map(|place| parse_address(place, default_port)).collect()
}

fn parse_address(place: &str, default_port: u16) -> Result<Address, UrlError> {
    let (host, port) = match place.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or(UrlError::Host)?;
            let host = host.parse::<std::net::Ipv6Addr>().map(|_| host).map_err(|_| UrlError::Host)?;
            let port = if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or(UrlError::Port)?) };
            (host, port)
        }
        None => place.split_once(':').map_or((place, None), |(host, port)| (host, Some(port))),
    };
    // A comma where one address stands is a list, which another scheme has.
    if host.is_empty() || host.contains(',') || port.is_some_and(|port| port.contains(':')) {
        return Err(UrlError::Host);
    }
    let port = match port {
        None => default_port,
        Some(port) => number(port).and_then(|n| u16::try_from(n).ok()).filter(|&n| n != 0).ok_or(UrlError::Port)?,
    };
    Ok(Address::Tcp { host: host.to_owned(), port })
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

    fn at(host: &str, port: u16) -> Address {
        Address::Tcp { host: host.into(), port }
    }

    fn tcp(host: &str, port: u16) -> Place {
        Place::Standalone(at(host, port))
    }

    fn unix(path: &str) -> Place {
        Place::Standalone(Address::Unix(path.into()))
    }

    fn sentinel(sentinels: &[(&str, u16)], service: &str) -> Place {
        let sentinels = sentinels.iter().map(|&(host, port)| at(host, port)).collect();
        Place::Sentinel { sentinels, service: service.into() }
    }

    fn cluster(seeds: &[(&str, u16)]) -> Place {
        Place::Cluster { seeds: seeds.iter().map(|&(host, port)| at(host, port)).collect() }
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
            ("redis-sentinel://s/m", sentinel(&[("s", 26379)], "m"), "", "", 0),
            ("redis-sentinel://s/m/", sentinel(&[("s", 26379)], "m"), "", "", 0),
            ("redis-sentinel://a:b@s1,s2:1/m/2", sentinel(&[("s1", 26379), ("s2", 1)], "m"), "a", "b", 2),
            ("redis-sentinel://:p@[::1],[::2]:7/my%20m", sentinel(&[("::1", 26379), ("::2", 7)], "my m"), "", "p", 0),
            ("redis-cluster://h", cluster(&[("h", 6379)]), "", "", 0),
            ("redis-cluster://h/", cluster(&[("h", 6379)]), "", "", 0),
            ("redis-cluster://a:7000,b,[::1]:7002/0", cluster(&[("a", 7000), ("b", 6379), ("::1", 7002)]), "", "", 0),
            ("redis-cluster://u:p,@q@a,b", cluster(&[("a", 6379), ("b", 6379)]), "u", "p,@q", 0),
        ];
        for (text, place, user, password, db) in cases {
            let expected = UpstreamUrl { place, identity: Identity::new(user, password), db };
            assert_eq!(UpstreamUrl::parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn every_fault_has_its_name() {
        let cases = [
            ("localhost:6379", UrlError::NoScheme),
            ("", UrlError::NoScheme),
            ("rediss://h", UrlError::Tls),
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
            ("redis://a,b", UrlError::Host),
            ("redis://a:1,b:2", UrlError::Host),
            ("redis-sentinel://", UrlError::Host),
            ("redis-sentinel:///m", UrlError::Host),
            ("redis-sentinel://a,/m", UrlError::Host),
            ("redis-sentinel://a:x/m", UrlError::Port),
            ("redis-sentinel://a", UrlError::Service),
            ("redis-sentinel://a/", UrlError::Service),
            ("redis-sentinel://a//1", UrlError::Service),
            ("redis-sentinel://app:12/s3cret@a/m", UrlError::Host),
            ("redis-sentinel://a/m/x", UrlError::Db),
            ("redis-sentinel://a/m/1/2", UrlError::Db),
            ("redis-sentinel://a/%ff", UrlError::Encoding),
            ("redis-sentinel://a/m?password=s3cret", UrlError::Parameter),
            ("redis-cluster://", UrlError::Host),
            ("redis-cluster://a,,b", UrlError::Host),
            ("redis-cluster://::1", UrlError::Host),
            ("redis-cluster://a:0", UrlError::Port),
            ("redis-cluster://a/1", UrlError::ClusterDb),
            ("redis-cluster://a/m", UrlError::Db),
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
        for text in [
            "redis://app:s3c/ret@h:1",
            "redis-cluster://app:s3c/ret@h:1",
            "redis-sentinel://app:s3c?ret@h:1/m",
            "redis-sentinel://app:s3c/ret@h:1/m",
            "redis-cluster://h,s3cret:x@",
            "s3cret",
            "x://s3cret@h",
            "redis://a:s3c%ret@h",
            "redis://a:b:s3cret",
        ] {
            let error = UpstreamUrl::parse(text).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("s3c"), "{text}");
        }
        let url = UpstreamUrl::parse("redis://app:s3cret@h").unwrap();
        assert!(!format!("{url:?}").contains("s3cret"));
    }
}
