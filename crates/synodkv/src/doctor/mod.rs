//! `doctor`: the checks that an expert would make on a machine, a configuration and a running
//! cluster, each finding with its remedy. It changes nothing.

mod cluster;
mod disk;
mod files;
mod finding;
mod host;
mod listeners;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use finding::Report;
use kv_server::{Config, Environment, Mode, Overrides};

use crate::access;
use crate::admin::AdminClient;
use crate::failure::Failure;
use crate::output::{self, Format};
use crate::targets::AdminTarget;
use crate::usage::{epilogue, whole_number};

/// Look for misconfigurations of this machine and of the cluster, and say what to do about each.
///
/// With --config it checks the machine that it runs on, as the server with this configuration would
/// find it: sync speed, file system and space of the data directory, limits, swap, certificates,
/// access to secret files, listeners without TLS, number of voters. It also asks the servers, at
/// --admin or else at the addresses in the configuration: unreachable replicas, their problems,
/// different releases, settings and clocks. It writes and removes one small file in the data
/// directory, and changes nothing else. Run it as the user of the server, on each machine.
#[derive(Debug, Args)]
#[command(after_help = epilogue("Examples:\n  \
    synodkv doctor --config /etc/synodkv/synodkv.toml\n  \
    synodkv doctor --config cluster.toml --node-id 0 --no-cluster     before the first start\n  \
    synodkv doctor --admin 10.0.0.1:9190                              the cluster only\n  \
    synodkv doctor --config synodkv.toml --format json | jq -r '.findings[] | .name, .remedy'",
    "something should be done: there is an error or a warning"))]
pub struct DoctorArgs {
    /// The configuration file of the server on this machine. Without it, only the cluster is
    /// checked.
    #[arg(long, value_name = "FILE", env = "SYNODKV_CONFIG")]
    pub config: Option<PathBuf>,
    /// The replica of the configuration that this machine runs.
    #[arg(long, value_name = "N", value_parser = whole_number::<u32>, requires = "config")]
    pub node_id: Option<u32>,
    /// Do not ask any server.
    #[arg(long, requires = "config")]
    pub no_cluster: bool,
    #[command(flatten)]
    pub admin: AdminTarget,
    /// How the report is printed.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

pub async fn run(args: DoctorArgs) -> Result<ExitCode, Failure> {
    let report = report(&args).await?;
    match args.format {
        Format::Json => output::write_json(&report)?,
        Format::Text => output::write_line(&report.show())?,
    }
    Ok(ExitCode::from(u8::from(!report.is_fine())))
}

/// Makes the checks.
pub async fn report(args: &DoctorArgs) -> Result<Report, Failure> {
    let mut report = Report::default();
    let config = args.config.as_deref().map(|file| load(file, args.node_id)).transpose()?;
    let token = access::token_file()?;
    if let (Some(config), Some(file)) = (&config, &args.config) {
        files::configuration(file, &mut report);
        files::certificates(config, &mut report);
        listeners::check(config, &mut report);
        listeners::voters(config, &mut report);
        host::limits(config, &mut report);
        host::memory(Path::new("/"), &mut report);
        disk::check(config, &mut report);
    } else {
        report.skip("machine", "no --config");
    }
    files::secrets(config.as_ref(), token.as_deref(), &mut report);
    if args.no_cluster {
        report.skip("cluster", "--no-cluster");
    } else {
        let target = match &config {
            Some(config) => args.admin.clone().or(configured(config)),
            None => args.admin.clone(),
        };
        let is_in_network = config.as_ref().is_some_and(listeners::serves_a_network);
        cluster::check(&AdminClient::new()?, &target, is_in_network, &mut report).await;
    }
    report.sort();
    Ok(report)
}

pub fn load(file: &Path, node_id: Option<u32>) -> Result<Config, Failure> {
    let overrides = Overrides { node_id, ..Overrides::default() };
    let config = Config::load(Some(file), &Environment::of_process(), &overrides);
    let config = config.map_err(|error| Failure::Usage(error.to_string()))?;
    config.refuse_forgotten_node_id().map_err(|error| Failure::Usage(error.to_string()))?;
    Ok(config)
}

/// The admin addresses in a configuration.
pub fn configured(config: &Config) -> Vec<String> {
    let of_replicas = config.replication.replicas.iter().map(|replica| replica.admin.to_string());
    match config.mode == Mode::Replicated && config.replication.is_listed {
        true => of_replicas.collect(),
        false => vec![config.server.admin_addr.to_string()],
    }
}
