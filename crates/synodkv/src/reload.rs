//! What a server does when its configuration may have changed: SIGHUP.
//!
//! The log file is opened again and the level of the log takes effect. Certificates of replicas are read for each new
//! connection anyway; here it is only said whether the next one can use them. Everything else is read once, at start; what
//! differs is named. A configuration that is wrong changes nothing: the server goes on with the one that it has.

use std::path::PathBuf;

use kv_server::config::{Config, ConfigError, Environment, Overrides};
use kv_server::replication::check_certificates;

use crate::logging::Control;

/// Where the configuration of this process comes from.
pub struct Origin {
    pub file: Option<PathBuf>,
    pub overrides: Overrides,
}

impl Origin {
    pub fn load(&self) -> Result<Config, ConfigError> {
        let config = Config::load(self.file.as_deref(), &Environment::of_process(), &self.overrides)?;
        config.refuse_forgotten_node_id().map(|()| config)
    }
}

pub struct Reload {
    origin: Origin,
    /// What is in force.
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
        if let Err(error) = check_certificates(&self.config) {
            tracing::warn!("SIGHUP: {error}. New connections go on with the certificates that were read before");
        }
        let new = match self.origin.load() {
            Ok(new) => new,
            Err(error) => {
                return tracing::warn!(
                    "SIGHUP: {error}. The settings in force stay as they are; correct this, and send SIGHUP again"
                );
            }
        };
        if new.log.level != self.config.log.level {
            if let Err(error) = self.log.set_level(&new.log.level) {
                return tracing::warn!(
                    "SIGHUP: {error}. The level stays as it is; correct this, and send SIGHUP again"
                );
            }
            self.config.log.level.clone_from(&new.log.level);
        }
        tracing::info!(log_level = %self.config.log.level, "SIGHUP: read the configuration again");
        let others = self.config.differing_keys(&new);
        if !others.is_empty() {
            tracing::warn!("SIGHUP: the configuration has changed in what needs a restart: {}", others.join(", "));
        }
    }
}
