//! Refuses to serve other machines without TLS, unless the configuration says that this is meant.

use super::{Address, Config, ConfigError, TlsMode};
use crate::mode::Mode;

impl Config {
    /// Refuses addresses where other machines can connect without TLS, unless `allow_insecure` says
    /// that their network is trusted. Not part of [`Config::load`], because an embedder may have
    /// its own reasons.
    ///
    /// # Errors
    /// Names the first such address, and shows the lines to write.
    pub fn refuse_insecure(&self) -> Result<(), ConfigError> {
        if !self.server.allow_insecure {
            let (server, admin) = (&self.server.tls, self.admin_tls());
            self.check_listener("server.thrift_addr", &self.server.thrift_addr, "server.tls", server.mode())?;
            self.check_listener("server.admin_addr", &self.server.admin_addr, "admin.tls", admin.mode())?;
        }
        let replication = &self.replication;
        let has_peers = self.mode == Mode::Replicated && replication.replicas.len() > 1;
        if replication.allow_insecure || !has_peers || replication.tls.is_some() {
            return Ok(());
        }
        for id in replication.local_ids() {
            let Some(replica) = replication.replica(id) else { continue };
            let address = replication.listens_at(replica);
            if !address.is_loopback() {
                let file = |name: &str| format!("/etc/synodkv/{name}");
                let lines = [
                    ("ca", file("ca.pem")),
                    ("certificate", file(&format!("replica-{id}.pem"))),
                    ("key", file(&format!("replica-{id}.key"))),
                ];
                return Err(self.refusal(&replication.peer_key(id), address, "replication.tls", &lines, "replication"));
            }
        }
        Ok(())
    }

    fn check_listener(&self, key: &str, address: &Address, section: &str, mode: TlsMode) -> Result<(), ConfigError> {
        if mode == TlsMode::Require || address.is_loopback() {
            return Ok(());
        }
        let mut lines = vec![
            ("certificate", "/etc/synodkv/server.pem".to_string()),
            ("key", "/etc/synodkv/server.key".to_string()),
        ];
        if mode == TlsMode::Allow {
            lines.insert(0, ("mode", "require".to_string()));
        }
        // One section serves both listeners, if nobody wants them to differ.
        let section = if self.admin.tls == Default::default() { "server.tls" } else { section };
        Err(self.refusal(key, address, section, &lines, "server"))
    }

    fn refusal(
        &self,
        key: &str,
        address: &Address,
        section: &str,
        lines: &[(&str, String)],
        allowed_in: &str,
    ) -> ConfigError {
        let origin = ["replication.replicas", key].into_iter().rev().find_map(|key| self.origins.get(key));
        let lines: String = lines.iter().map(|(name, value)| format!("    {name} = \"{value}\"\n")).collect();
        ConfigError::new(format!(
            "{key} = {address}{}: other machines can connect there, and nothing protects what they send. Write\n\n    \
             [{section}]\n{lines}\n(`synodkv cert init` and `synodkv cert issue` make these files: see \
             docs/SECURITY.md), or, if everybody on that network may read and write everything, `allow_insecure = true` in \
             [{allowed_in}]",
            origin.map_or("", String::as_str)
        ))
    }
}
