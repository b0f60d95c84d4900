//! `HOST:PORT`, where the host may be a name that is resolved only when it is needed.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize};

/// An address to listen on or connect to. Checked for form when parsed, resolved only by [`Address::resolve`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct Address(String);

impl Address {
    /// The numeric address; of several, an IPv4 one first, because that is what the defaults listen on.
    pub fn resolve(&self) -> io::Result<SocketAddr> {
        let found: Vec<SocketAddr> = self.0.to_socket_addrs()?.collect();
        let best = found.iter().find(|address| address.is_ipv4()).or(found.first());
        best.copied().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no address found for {self}")))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn port(&self) -> u16 {
        self.0.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).expect("the form was checked when parsed")
    }

    /// Whether it stands for all interfaces of a machine: `0.0.0.0` or `[::]`.
    pub fn is_unspecified(&self) -> bool {
        self.0.parse::<SocketAddr>().is_ok_and(|address| address.ip().is_unspecified())
    }

    /// The same host with another port.
    pub fn with_port(&self, port: u16) -> Address {
        let (host, _) = self.0.rsplit_once(':').expect("the form was checked when parsed");
        Address(format!("{host}:{port}"))
    }
}

impl std::str::FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = || format!("`{text}` is not an address: expected HOST:PORT, for example 127.0.0.1:9090");
        let (host, port) = text.rsplit_once(':').ok_or_else(wanted)?;
        let port_is_valid = port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok();
        let host_is_valid = if let Some(inner) = host.strip_prefix('[') {
            inner.strip_suffix(']').is_some_and(|ip| ip.parse::<std::net::Ipv6Addr>().is_ok())
        } else {
            is_host_name(host)
        };
        if port_is_valid && host_is_valid { Ok(Address(text.to_string())) } else { Err(wanted()) }
    }
}

fn is_host_name(host: &str) -> bool {
    let numeric = !host.is_empty() && host.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if numeric {
        // What looks like an IPv4 address has to be one: nobody calls a host 127.0.0.
        return host.parse::<std::net::Ipv4Addr>().is_ok();
    }
    !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Address(address.to_string())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(AddressVisitor)
    }
}

/// Says what is wanted where something else than text stands.
struct AddressVisitor;

impl Visitor<'_> for AddressVisitor {
    type Value = Address;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an address as text, HOST:PORT, for example \"127.0.0.1:9090\"")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Address, E> {
        text.parse().map_err(E::custom)
    }
}
