//! `cert`: makes the certificates that TLS needs, by an authority of the cluster's own.

mod authority;
mod files;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use kv_server::{Config, Environment, Overrides};

use crate::failure::Failure;
use crate::output;
use crate::usage::{epilogue, whole_number};
use authority::{Authority, Purpose, Wanted};
use files::Folder;

const NO: &str = "a file exists already, or cannot be written";
/// Longer than machines live.
const MAX_DAYS: u64 = 36_500;

/// Make certificates for replicas, servers and clients.
///
/// `init` makes an authority, once for a cluster; `issue` makes certificates that it has signed. Its
/// key, ca.key, can sign more of them: keep it on one machine that is not a server. docs/SECURITY.md
/// goes from nothing to three machines with TLS.
#[derive(Debug, Args)]
#[command(after_help = epilogue("Examples:\n  \
    synodkv cert init\n  \
    synodkv cert issue replica --config cluster.toml       one for each replica in the file\n  \
    synodkv cert issue server --host db.example.org --host 10.0.0.1\n  \
    synodkv cert issue client alice", NO))]
pub struct CertArgs {
    #[command(subcommand)]
    pub action: CertAction,
}

#[derive(Debug, Subcommand)]
pub enum CertAction {
    /// Make an authority: ca.pem, which everybody needs, and ca.key, which signs.
    #[command(after_help = epilogue("Example:\n  synodkv cert init --dir certs", NO))]
    Init {
        #[command(flatten)]
        folder: FolderArgs,
        /// The name of the authority. [default: one that no other authority has]
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// How long it is valid.
        #[arg(long, value_name = "DAYS", default_value_t = 3650, value_parser = days)]
        days: u64,
    },
    /// Make a certificate that the authority has signed, and its key.
    #[command(after_help = epilogue("Examples:\n  \
        synodkv cert issue replica --config cluster.toml\n  \
        synodkv cert issue replica 0 --host 10.0.0.1 --renew\n  \
        synodkv cert issue client alice --days 30", NO))]
    Issue {
        #[command(subcommand)]
        whose: Whose,
    },
}

#[derive(Debug, Args)]
pub struct FolderArgs {
    /// The folder of the certificates.
    #[arg(long, value_name = "DIR", default_value = "certs")]
    pub dir: PathBuf,
}

#[derive(Debug, Args)]
pub struct IssueArgs {
    #[command(flatten)]
    pub folder: FolderArgs,
    /// How long the certificate is valid.
    #[arg(long, value_name = "DAYS", default_value_t = 365, value_parser = days)]
    pub days: u64,
    /// Replace the files if they exist. Servers that use them read them by themselves.
    #[arg(long)]
    pub renew: bool,
}

#[derive(Debug, Subcommand)]
pub enum Whose {
    /// For replicas, towards each other and towards clients: replica-N.pem and replica-N.key.
    #[command(after_help = epilogue("Examples:\n  \
        synodkv cert issue replica --config cluster.toml\n  \
        synodkv cert issue replica 0 --host 10.0.0.1 --host node-0", NO))]
    Replica {
        /// The id of the replica. [default: all in --config]
        #[arg(value_name = "N", value_parser = whole_number::<u32>)]
        id: Option<u32>,
        /// The configuration file with the list of replicas, whose hosts the certificates name.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// A name or an address by which others reach the replica; may be repeated.
        #[arg(long = "host", value_name = "HOST")]
        hosts: Vec<String>,
        #[command(flatten)]
        issue: IssueArgs,
    },
    /// For a server without replicas: server.pem and server.key.
    #[command(after_help = epilogue("Example:\n  synodkv cert issue server --host db.example.org", NO))]
    Server {
        /// A name or an address by which clients reach the server; may be repeated.
        #[arg(long = "host", value_name = "HOST")]
        hosts: Vec<String>,
        #[command(flatten)]
        issue: IssueArgs,
    },
    /// For a client or an operator: client-NAME.pem and client-NAME.key.
    #[command(after_help = epilogue("Example:\n  synodkv cert issue client alice", NO))]
    Client {
        /// The user whom the certificate names.
        name: String,
        #[command(flatten)]
        issue: IssueArgs,
    },
}

fn days(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(days) if (1..=MAX_DAYS).contains(&days) => Ok(days),
        _ => Err(format!("expected a number of days, 1 to {MAX_DAYS}")),
    }
}

pub fn run(args: CertArgs) -> Result<ExitCode, Failure> {
    match args.action {
        CertAction::Init { folder, name, days } => init(&Folder::new(folder.dir), name.as_deref(), days)?,
        CertAction::Issue { whose } => issue(whose)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn init(folder: &Folder, name: Option<&str>, days: u64) -> Result<(), Failure> {
    let made = Authority::make(name, days).map_err(Failure::Failed)?;
    let written = folder.write("ca", &made, false)?;
    output::write_line(&format!(
        "{written}: an authority, valid until {}. Everybody needs the first; keep the second on this machine",
        made.until
    ))
}

fn issue(whose: Whose) -> Result<(), Failure> {
    let (wanted, issue) = match whose {
        Whose::Replica { id, config, hosts, issue } => (replicas(id, config.as_deref(), hosts)?, issue),
        Whose::Server { hosts, issue } => {
            let hosts = check_hosts(hosts)?;
            (vec![("server".to_string(), Wanted { purpose: Purpose::Server, names: hosts })], issue)
        }
        Whose::Client { name, issue } => {
            let name = check_user(name)?;
            (vec![(format!("client-{name}"), Wanted { purpose: Purpose::Client, names: vec![name] })], issue)
        }
    };
    let folder = Folder::new(issue.folder.dir);
    let authority = Authority::read(&folder)?;
    if !issue.renew {
        wanted.iter().try_for_each(|(name, _)| folder.check_free(name))?;
    }
    for (name, wanted) in wanted {
        let made = authority.sign(&wanted, issue.days).map_err(Failure::Failed)?;
        let written = folder.write(&name, &made, issue.renew)?;
        output::write_line(&format!("{written}: {wanted}, valid until {}", made.until))?;
    }
    Ok(())
}

/// The names that the certificates of replicas have: the one that their peers check, and the hosts.
fn replicas(id: Option<u32>, config: Option<&Path>, hosts: Vec<String>) -> Result<Vec<(String, Wanted)>, Failure> {
    let listed = config.map(hosts_in_config).transpose()?.unwrap_or_default();
    let ids: Vec<u32> = match (id, listed.is_empty()) {
        (Some(id), true) => vec![id],
        (Some(id), false) if listed.contains_key(&id) => vec![id],
        (Some(id), false) => {
            let known: Vec<String> = listed.keys().map(u32::to_string).collect();
            return Err(Failure::Usage(format!("no replica {id} in the file; there are {}", known.join(", "))));
        }
        (None, false) => listed.keys().copied().collect(),
        (None, true) => return Err(Failure::Usage("which replica? give its id, or --config FILE".to_string())),
    };
    let hosts = check_hosts(hosts)?;
    let wanted = |id: u32| {
        let (name, own) = listed.get(&id).cloned().unwrap_or_else(|| (format!("replica-{id}"), Vec::new()));
        let mut names = vec![name];
        for host in own.into_iter().chain(hosts.iter().cloned()) {
            if !names.contains(&host) {
                names.push(host);
            }
        }
        (format!("replica-{id}"), Wanted { purpose: Purpose::Replica, names })
    };
    Ok(ids.into_iter().map(wanted).collect())
}

/// For each replica: the name that its peers check, and the hosts of its addresses.
fn hosts_in_config(path: &Path) -> Result<BTreeMap<u32, (String, Vec<String>)>, Failure> {
    // With an id, the configuration is that of one process per replica. Every list has an id 0.
    let overrides = Overrides { node_id: Some(0), ..Overrides::default() };
    let config = Config::load(Some(path), &Environment::empty(), &overrides);
    let replication = config.map_err(|error| Failure::Usage(error.to_string()))?.replication;
    let names = replication.tls.map(|tls| tls.names).unwrap_or_default();
    let of_replica = |replica: &kv_server::config::ReplicaConfig| {
        let mut hosts: Vec<String> = Vec::new();
        for address in [&replica.peer, &replica.thrift, &replica.admin] {
            let host = address.host().to_string();
            if !address.is_unspecified() && !hosts.contains(&host) {
                hosts.push(host);
            }
        }
        let name = names.get(&replica.id).cloned().unwrap_or_else(|| format!("replica-{}", replica.id));
        (replica.id, (name, hosts))
    };
    Ok(replication.replicas.iter().map(of_replica).collect())
}

fn check_hosts(hosts: Vec<String>) -> Result<Vec<String>, Failure> {
    let is_name = |host: &str| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._*".contains(&byte);
        !host.is_empty() && host.len() <= 253 && host.bytes().all(allowed)
    };
    match hosts.iter().find(|host| !is_name(host) && host.parse::<IpAddr>().is_err()) {
        None => Ok(hosts),
        Some(host) => Err(Failure::Usage(format!(
            "--host `{host}`: expected a name or an IP address, without a port, for example 10.0.0.1"
        ))),
    }
}

fn check_user(name: String) -> Result<String, Failure> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._@".contains(&byte);
    match !name.is_empty() && name.len() <= 64 && name.bytes().all(allowed) {
        true => Ok(name),
        false => Err(Failure::Usage(format!("user `{name}`: expected 1 to 64 letters, digits, or any of - . _ @"))),
    }
}

#[cfg(test)]
mod tests;
