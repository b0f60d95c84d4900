//! `HOST:PORT`, where the host may be a name that is resolved only when it is needed.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize};
use tokio::time::Instant;

/// An address to listen on or connect to. Parsing checks only its form; a name is resolved when it
/// is needed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct Address(String);

/// How long a start waits for a name to listen on to resolve, how long for one answer, and how long
/// between two attempts.
const LISTEN_PATIENCE: Duration = Duration::from_secs(30);
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);
const LISTEN_PAUSE: Duration = Duration::from_millis(500);

impl Address {
    /// The numeric address. If there are several, an IPv4 one is preferred, because the defaults
    /// listen on IPv4. Blocks.
    ///
    /// # Errors
    /// The resolver's error, or a timeout if it did not answer within `patience`.
    pub fn resolve_within(&self, patience: Duration) -> io::Result<SocketAddr> {
        Ok(first_choice(&dial::look_up_blocking(&self.0, patience)?))
    }

    /// The numeric address to listen on. If the name of this machine does not resolve yet, as right
    /// after a container started, this logs it and waits for half a minute at most.
    ///
    /// # Errors
    /// The resolver's last error.
    pub async fn resolve_to_listen(&self) -> io::Result<SocketAddr> {
        let (mut name, deadline) = (dial::Name::new(&self.0), Instant::now() + LISTEN_PATIENCE);
        let mut has_spoken = false;
        loop {
            match name.look_up(ANSWER_PATIENCE).await {
                Ok(found) => return Ok(first_choice(&found)),
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(error) if !has_spoken => {
                    has_spoken = true;
                    tracing::warn!(address = %self, %error, "cannot resolve a name to listen on; trying again for {} s",
                        LISTEN_PATIENCE.as_secs());
                }
                Err(_) => {}
            }
            tokio::time::sleep(LISTEN_PAUSE).await;
        }
    }

    /// Whether the host is an IP address, not a name.
    pub fn is_literal(&self) -> bool {
        self.0.parse::<SocketAddr>().is_ok()
    }

    /// The address as configured.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The host, without the brackets of an IPv6 address.
    pub fn host(&self) -> &str {
        let (host, _) = self.0.rsplit_once(':').expect("the form was checked when parsed");
        host.trim_start_matches('[').trim_end_matches(']')
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.0.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).expect("the form was checked when parsed")
    }

    /// Whether it means all interfaces of a machine: `0.0.0.0` or `[::]`.
    pub fn is_unspecified(&self) -> bool {
        self.0.parse::<SocketAddr>().is_ok_and(|address| address.ip().is_unspecified())
    }

    /// Whether only programs of the same machine can connect to it. Of the names, only `localhost`
    /// says so.
    pub fn is_loopback(&self) -> bool {
        match self.0.parse::<SocketAddr>() {
            Ok(address) => address.ip().to_canonical().is_loopback(),
            Err(_) => self.0.rsplit_once(':').is_some_and(|(host, _)| {
                host.eq_ignore_ascii_case("localhost") || host.to_ascii_lowercase().ends_with(".localhost")
            }),
        }
    }

    /// The same host with another port.
    pub fn with_port(&self, port: u16) -> Address {
        let (host, _) = self.0.rsplit_once(':').expect("the form was checked when parsed");
        Address(format!("{host}:{port}"))
    }
}

fn first_choice(found: &[SocketAddr]) -> SocketAddr {
    let best = found.iter().find(|address| address.is_ipv4()).or(found.first());
    *best.expect("a look-up without an address is an error")
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
        // Text that looks like an IPv4 address must be one; `127.0.0` is not a host name.
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

/// Explains what is expected where the configuration has something other than text.
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
