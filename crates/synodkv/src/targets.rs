//! The servers that a command talks to, as its flags and the environment name them.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use clap::Args;
use kv_client::{Client, ClientError, Limits, Options, Token};

use crate::failure::Failure;

/// Who asks, for every command that talks to a server.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Identity")]
pub struct CredentialArgs {
    /// The file with the token of the user on whose behalf this command asks.
    #[arg(long, value_name = "FILE", env = "SYNODKV_TOKEN_FILE", global = true)]
    pub token_file: Option<PathBuf>,
}

/// Set once, before any command runs. A process is one user.
static TOKEN: OnceLock<Option<Token>> = OnceLock::new();

impl CredentialArgs {
    /// Reads the files, for all targets of this process.
    pub fn install(&self) -> Result<(), Failure> {
        let token = self.token_file.as_deref().map(read_token).transpose()?;
        // Only a test sets it twice.
        let _ = TOKEN.set(token);
        Ok(())
    }
}

/// The token of this process, if it has one.
pub fn token() -> Option<Token> {
    TOKEN.get().cloned().flatten()
}

/// Reads a token from its file.
pub fn read_token(file: &Path) -> Result<Token, Failure> {
    let fault = |fault: String| Failure::Usage(format!("the token file {}: {fault}", file.display()));
    let text = std::fs::read_to_string(file).map_err(|error| fault(error.to_string()))?;
    let is_token = !text.trim().is_empty() && !text.trim().contains(|c: char| c.is_whitespace() || c.is_control());
    if !is_token {
        return Err(fault("it must hold one token and nothing else".into()));
    }
    Ok(Token::new(&text))
}

/// The addresses of the Thrift servers.
#[derive(Clone, Debug, Args)]
pub struct ThriftTarget {
    /// Thrift addresses of the cluster. One is enough; further ones are tried if it is down or
    /// hangs.
    #[arg(
        long = "addr",
        value_name = "HOST:PORT[,…]",
        env = "SYNODKV_ADDR",
        value_delimiter = ',',
        default_value = "127.0.0.1:9090"
    )]
    pub addresses: Vec<String>,
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

    pub fn options(&self) -> Options {
        let timeout = self.timeout();
        let defaults = Options::default();
        Options {
            request_timeout: timeout,
            connect_timeout: defaults.connect_timeout.min(timeout),
            hedge_after: HEDGE_AFTER,
            attempt_timeout: HEDGE_AFTER,
            max_reply_bytes: MAX_REPLY_BYTES,
            token: token(),
            ..defaults
        }
    }

    pub async fn connect(&self) -> Result<Client, Failure> {
        Ok(self.connect_with_limits().await?.0)
    }

    /// Connects, and returns the limits of the servers.
    pub async fn connect_with_limits(&self) -> Result<(Client, Limits), Failure> {
        check_addresses("--addr", &self.addresses)?;
        let client = Client::connect(self.addresses.iter().cloned(), self.options()).await?;
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
    /// that hangs delays nothing.
    #[arg(
        long = "admin",
        value_name = "HOST:PORT[,…]",
        env = "SYNODKV_ADMIN",
        value_delimiter = ',',
        default_value = "127.0.0.1:9190"
    )]
    pub admin_addresses: Vec<String>,
}

fn seconds(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(seconds) if (1..=86_400).contains(&seconds) => Ok(seconds),
        _ => Err("expected whole seconds, from 1 to 86400".to_string()),
    }
}

/// Catches a forgotten port before it becomes an unclear network error.
pub fn check_addresses(flag: &str, addresses: &[String]) -> Result<(), Failure> {
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
    fn a_token_file_holds_one_token() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("token");
        for (text, good) in [("synodkv_1_2\n", true), ("", false), (" \n", false), ("two tokens", false)] {
            std::fs::write(&file, text).expect("a file");
            assert_eq!(read_token(&file).is_ok(), good, "{text:?}");
        }
        let missing = read_token(&folder.path().join("none")).expect_err("no file").to_string();
        assert!(missing.contains("none"), "{missing}");
    }

    #[test]
    fn an_address_without_port_is_refused_with_an_example() {
        let error = check_addresses("--addr", &["localhost".to_string()]).expect_err("no port");
        assert!(error.to_string().contains("--addr `localhost`: expected HOST:PORT"), "{error}");
    }
}
