//! The servers that a command talks to, as its flags and the environment name them.

use std::time::Duration;

use clap::Args;
use kv_client::{Client, ClientError, Limits, Options};

use crate::access::{self, Addresses};
use crate::failure::Failure;

/// The addresses of the Thrift servers.
#[derive(Clone, Debug, Args)]
pub struct ThriftTarget {
    /// Thrift addresses of the cluster. One is enough; further ones are tried if it is down or
    /// hangs. [default: 127.0.0.1:9090]
    #[arg(
        long = "addr",
        value_name = "HOST:PORT[,…]",
        env = "SYNODKV_ADDR",
        value_delimiter = ',',
        help_heading = "Connection"
    )]
    given: Vec<String>,
    /// How long to wait for an answer, in seconds, 1 to 86400.
    #[arg(long, value_name = "SECONDS", default_value_t = 12, value_parser = seconds)]
    pub timeout_seconds: u64,
}

/// If a server has not answered for this long, it may hang, and another one is asked, too.
const HEDGE_AFTER: Duration = Duration::from_secs(1);

/// The largest reply that a server can be configured to send, with the overhead of the message.
const MAX_REPLY_BYTES: usize = (1 << 30) + (1 << 20);

impl ThriftTarget {
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_seconds)
    }

    /// The addresses: those given, those of the profile, or the default.
    pub fn addresses(&self) -> Result<Vec<String>, Failure> {
        choose("--addr", &self.given, || Ok(access::profile()?.addr), "127.0.0.1:9090")
    }

    pub fn options(&self) -> Result<Options, Failure> {
        let timeout = self.timeout();
        let defaults = Options::default();
        Ok(Options {
            request_timeout: timeout,
            connect_timeout: defaults.connect_timeout.min(timeout),
            hedge_after: HEDGE_AFTER,
            attempt_timeout: HEDGE_AFTER,
            max_reply_bytes: MAX_REPLY_BYTES,
            tls: access::tls()?,
            token: access::token()?,
            ..defaults
        })
    }

    pub async fn connect(&self) -> Result<Client, Failure> {
        Ok(self.connect_with_limits().await?.0)
    }

    /// Connects, and returns the limits of the servers.
    pub async fn connect_with_limits(&self) -> Result<(Client, Limits), Failure> {
        let client = Client::connect(self.addresses()?, self.options()?).await?;
        let limits = match client.limits().await {
            // Some servers of this interface do not report limits; the defaults apply then.
            Err(ClientError::Refused { .. } | ClientError::Exception { .. }) => Limits::default(),
            limits => limits?,
        };
        Ok((client, limits))
    }
}

/// The addresses of the admin servers.
#[derive(Clone, Debug, Args)]
pub struct AdminTarget {
    /// Admin HTTP addresses of the cluster. One is enough, because servers know each other's; one
    /// that hangs delays nothing. [default: 127.0.0.1:9190]
    #[arg(
        long = "admin",
        value_name = "HOST:PORT[,…]",
        env = "SYNODKV_ADMIN",
        value_delimiter = ',',
        help_heading = "Connection"
    )]
    given_admin: Vec<String>,
}

impl AdminTarget {
    /// The addresses: those given, those of the profile, or the default.
    pub fn addresses(&self) -> Result<Vec<String>, Failure> {
        choose("--admin", &self.given_admin, || Ok(access::profile()?.admin), "127.0.0.1:9190")
    }

    /// These addresses, or others if the user gave none.
    pub fn or(self, others: Vec<String>) -> Self {
        if self.given_admin.is_empty() { AdminTarget { given_admin: others } } else { self }
    }
}

/// The addresses of the admin servers, for commands whose `--admin` is the address of a new member.
#[derive(Clone, Debug, Args)]
pub struct ClusterTarget {
    /// Admin HTTP addresses of the cluster; one is enough. [default: 127.0.0.1:9190]
    #[arg(
        long = "to",
        value_name = "HOST:PORT[,…]",
        env = "SYNODKV_ADMIN",
        value_delimiter = ',',
        help_heading = "Connection"
    )]
    given_cluster: Vec<String>,
}

impl From<ClusterTarget> for AdminTarget {
    fn from(target: ClusterTarget) -> Self {
        AdminTarget { given_admin: target.given_cluster }
    }
}

/// The cluster that a restore writes to.
#[derive(Clone, Debug, Args)]
pub struct IntoTarget {
    /// Write a range of the backup into the live cluster with these Thrift addresses, instead of making a
    /// new one.
    #[arg(long = "into", id = "into", value_name = "HOST:PORT[,…]", value_delimiter = ',')]
    given_into: Vec<String>,
}

impl IntoTarget {
    /// Whether it was asked for.
    pub fn is_given(&self) -> bool {
        !self.given_into.is_empty()
    }

    /// The same as a target of other commands.
    pub fn thrift(&self) -> ThriftTarget {
        ThriftTarget { given: self.given_into.clone(), timeout_seconds: 60 }
    }
}

fn choose(
    flag: &str,
    given: &[String],
    of_profile: impl FnOnce() -> Result<Addresses, Failure>,
    default: &str,
) -> Result<Vec<String>, Failure> {
    let mut addresses = given.to_vec();
    if addresses.is_empty() {
        addresses = of_profile()?.0;
    }
    if addresses.is_empty() {
        addresses.push(default.to_string());
    }
    check_addresses(flag, &addresses)?;
    Ok(addresses)
}

/// Parses a time in seconds.
pub fn seconds(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(seconds) if (1..=86_400).contains(&seconds) => Ok(seconds),
        _ => Err("expected whole seconds, from 1 to 86400".to_string()),
    }
}

/// Catches a forgotten port before it becomes an unclear network error.
fn check_addresses(flag: &str, addresses: &[String]) -> Result<(), Failure> {
    let valid = |address: &str| {
        address.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
    };
    match addresses.iter().find(|address| !valid(address)) {
        None => Ok(()),
        Some(wrong) => {
            let port = if flag == "--admin" { 9190 } else { 9090 };
            Err(Failure::Usage(format!(
                "{flag} `{wrong}`: expected HOST:PORT, or several with commas between them, for example 127.0.0.1:{port}"
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_port_is_refused_with_an_example() {
        let error = check_addresses("--addr", &["localhost".to_string()]).expect_err("no port");
        assert!(error.to_string().contains("--addr `localhost`: expected HOST:PORT"), "{error}");
    }
}
