//! Where nodes are reached, if not at the addresses that they tell (NAT, containers, tunnels).
//!
//! *Invariant:* what the map does not name is left as it is; an entry for a host and port goes before one for the host.

use super::redirect::number;

/// From the addresses that nodes tell to those where they are reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressMap {
    entries: Vec<(Place, Place)>,
}

/// A host, an IPv6 address without brackets, and perhaps a port.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    host: String,
    port: Option<u16>,
}

/// What is wrong with an entry of the configuration, shown in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressMapError {
    /// Not two addresses with one `=` between them.
    #[error("\"{0}\": host:port=host:port or host=host is expected")]
    Form(String),
    /// An address without a host, or an IPv6 address and port without brackets.
    #[error("\"{0}\": an address has no valid host (an IPv6 address with a port needs brackets)")]
    Host(String),
    /// A port that is no number from 1 to 65535.
    #[error("\"{0}\": a port is not a number from 1 to 65535")]
    Port(String),
    /// A port on the right alone: all nodes of the host would be reached at one.
    #[error("\"{0}\": a port on the right needs one on the left")]
    PortOnlyOnTheRight(String),
    /// The left side stands twice.
    #[error("\"{0}\": another entry is for the same address")]
    Twice(String),
}

// === impl AddressMap ===

impl AddressMap {
    /// Reads entries `told=reached`, each side `host`, `host:port` or `[IPv6]:port`. Without a port on the left an entry
    /// holds for all ports of the host; without one on the right the port stays as it is.
    ///
    /// # Errors
    /// The first entry that cannot be understood.
    pub fn parse<T: AsRef<str>>(entries: &[T]) -> Result<AddressMap, AddressMapError> {
        let mut map = AddressMap::default();
        for entry in entries {
            let entry = entry.as_ref();
            let fault = |fault: fn(String) -> AddressMapError| fault(entry.to_owned());
            let (told, reached) = entry.split_once('=').ok_or_else(|| fault(AddressMapError::Form))?;
            let told = Place::parse(told.trim()).map_err(fault)?;
            let reached = Place::parse(reached.trim()).map_err(fault)?;
            if told.port.is_none() && reached.port.is_some() {
                return Err(fault(AddressMapError::PortOnlyOnTheRight));
            }
            if map.find(&told.host, told.port).is_some() {
                return Err(fault(AddressMapError::Twice));
            }
            map.entries.push((told, reached));
        }
        Ok(map)
    }

    /// Where the node that tells this address is reached.
    pub fn apply(&self, host: &str, port: u16) -> (String, u16) {
        match self.find(host, Some(port)).or_else(|| self.find(host, None)) {
            Some(reached) => (reached.host.clone(), reached.port.unwrap_or(port)),
            None => (host.to_owned(), port),
        }
    }

    fn find(&self, host: &str, port: Option<u16>) -> Option<&Place> {
        let is_it = |told: &Place| told.port == port && told.host.eq_ignore_ascii_case(host);
        self.entries.iter().find(|(told, _)| is_it(told)).map(|(_, reached)| reached)
    }
}

// === impl Place ===

impl Place {
    fn parse(text: &str) -> Result<Place, fn(String) -> AddressMapError> {
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (host, port) = rest.split_once(']').ok_or(AddressMapError::Host as fn(String) -> _)?;
            let port = if port.is_empty() {
                None
            } else {
                Some(port.strip_prefix(':').ok_or(AddressMapError::Port as fn(String) -> _)?)
            };
            (host, port)
        } else if text.parse::<std::net::Ipv6Addr>().is_ok() {
            (text, None)
        } else {
            text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)))
        };
        let bad = |c: char| c.is_whitespace() || matches!(c, '=' | '[' | ']');
        if host.is_empty() || host.contains(bad) || port.is_some_and(|port| port.contains(':')) {
            return Err(AddressMapError::Host);
        }
        let port = match port {
            None => None,
            Some(port) => Some(number(port).filter(|&port| port != 0).ok_or(AddressMapError::Port as fn(String) -> _)?),
        };
        Ok(Place { host: host.to_owned(), port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_for_host_and_port_goes_before_one_for_the_host() {
        let map = AddressMap::parse(&[
            "10.0.0.1=127.0.0.1",
            "10.0.0.1:7000=127.0.0.2:17000",
            "Node.example:1=[::1]:2",
            "fe80::1=h",
            "[fe80::2]:5 = h6",
        ])
        .unwrap();
        for (told, reached) in [
            (("10.0.0.1", 7000), ("127.0.0.2", 17000)),
            (("10.0.0.1", 7001), ("127.0.0.1", 7001)),
            (("10.0.0.2", 7000), ("10.0.0.2", 7000)),
            (("node.EXAMPLE", 1), ("::1", 2)),
            (("node.example", 3), ("node.example", 3)),
            (("fe80::1", 9), ("h", 9)),
            (("fe80::2", 5), ("h6", 5)),
        ] {
            assert_eq!(map.apply(told.0, told.1), (reached.0.to_owned(), reached.1), "{told:?}");
        }
        assert_eq!(AddressMap::default().apply("h", 1), ("h".to_owned(), 1));
    }

    #[test]
    fn every_fault_has_its_name_and_shows_the_entry() {
        type Fault = fn(String) -> AddressMapError;
        let cases: [(&str, Fault); 13] = [
            ("", AddressMapError::Form),
            ("a:1", AddressMapError::Form),
            ("=b", AddressMapError::Host),
            ("a:1=", AddressMapError::Host),
            ("a=b=c", AddressMapError::Host),
            ("a b=c", AddressMapError::Host),
            ("[::1=b", AddressMapError::Host),
            ("a:1:2=b", AddressMapError::Host),
            ("a:0=b:1", AddressMapError::Port),
            ("a:1=b:x", AddressMapError::Port),
            ("[::1]1=b", AddressMapError::Port),
            ("a=b:1", AddressMapError::PortOnlyOnTheRight),
            ("H:1=b:1", AddressMapError::Twice),
        ];
        for (entry, fault) in cases {
            let error = AddressMap::parse(&["h:1=c", entry]).unwrap_err();
            assert_eq!(error, fault(entry.to_owned()));
            assert!(error.to_string().contains(entry));
        }
    }
}
