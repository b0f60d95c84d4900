//! The reaction of a server to SIGHUP.
//!
//! The log file and the audit log are opened again, and a new log level takes effect. Certificates are read for each
//! new connection anyway; here they are only checked, so that the operator learns at once whether
//! they work. Every other setting is read once, at start; those that differ are named. An invalid
//! configuration changes nothing.

use std::path::PathBuf;

use kv_server::access::reopen_audit_logs;
use kv_server::config::{Config, ConfigError, Environment, Overrides};
use kv_server::replication::check_certificates;

use crate::logging::Control;

/// The sources of this process's configuration.
pub struct Origin {
    pub file: Option<PathBuf>,
    pub overrides: Overrides,
}

impl Origin {
    pub fn load(&self) -> Result<Config, ConfigError> {
        let config = Config::load(self.file.as_deref(), &Environment::of_process(), &self.overrides)?;
        config.refuse_forgotten_node_id()?;
        config.refuse_insecure()?;
        Ok(config)
    }
}

pub struct Reload {
    origin: Origin,
    /// The configuration in force.
    config: Config,
    log: Control,
}

impl Reload {
    pub fn new(origin: Origin, config: Config, log: Control) -> Reload {
        Reload { origin, config, log }
    }

    /// Blocks while it reads the file.
    pub fn run(&mut self) {
        self.log.reopen();
        reopen_audit_logs();
        let usable = check_certificates(&self.config).and_then(|()| kv_server::check_certificates(&self.config));
        if let Err(error) = usable {
            tracing::warn!("SIGHUP: {error}. New connections use the certificates that were read before");
        }
        let new = match self.origin.load() {
            Ok(new) => new,
            Err(error) => {
                return tracing::warn!(
                    "SIGHUP: {error}. The settings in force remain; correct the configuration, then send SIGHUP again"
                );
            }
        };
        if new.log.level != self.config.log.level {
            if let Err(error) = self.log.set_level(&new.log.level) {
                return tracing::warn!(
                    "SIGHUP: {error}. The log level remains; correct the configuration, then send SIGHUP again"
                );
            }
            self.config.log.level.clone_from(&new.log.level);
        }
        tracing::info!(log_level = %self.config.log.level, "SIGHUP: read the configuration again");
        let others = self.config.differing_keys(&new);
        if !others.is_empty() {
            tracing::warn!(
                "SIGHUP: the configuration has changed in settings whose change needs a restart: {}",
                others.join(", ")
            );
        }
    }
}
