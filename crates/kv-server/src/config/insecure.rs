//! Refuses to serve other machines without TLS, unless the configuration says that this is meant.

use super::{Address, Config, ConfigError};
use crate::mode::Mode;
use crate::tls::TlsMode;

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
        // A single member may get peers while it runs.
        let has_peers =
            self.mode == Mode::Replicated && (replication.replicas.len() > 1 || replication.node_id.is_some());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, Overrides};

    fn refused(pairs: &[(&str, &str)]) -> Option<String> {
        let pairs = pairs.iter().map(|(name, value)| (format!("SYNODKV_{name}"), value.to_string()));
        let config = Config::load(None, &Environment::from_pairs(pairs), &Overrides::default()).expect("valid");
        config.refuse_insecure().err().map(|error| error.to_string())
    }

    const FAR: (&str, &str) = ("SERVER_THRIFT_ADDR", "10.0.0.1:9090");
    const FILES: [(&str, &str); 2] = [("SERVER_TLS_CERTIFICATE", "c"), ("SERVER_TLS_KEY", "k")];

    #[test]
    fn the_defaults_and_loopback_addresses_are_served_without_tls() {
        assert_eq!(refused(&[]), None);
        assert_eq!(refused(&[("MODE", "replicated")]), None);
        for address in ["127.8.9.1:1", "[::1]:1", "localhost:1", "db.localhost:1", "[::ffff:127.0.0.1]:1"] {
            assert_eq!(refused(&[("SERVER_THRIFT_ADDR", address)]), None, "{address}");
        }
    }

    #[test]
    fn other_addresses_need_tls_or_a_word_that_it_is_meant() {
        for address in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "db.example.org:1", "localhost.example.org:1"] {
            assert!(refused(&[("SERVER_THRIFT_ADDR", address)]).is_some(), "{address}");
            assert!(refused(&[("SERVER_ADMIN_ADDR", address)]).is_some(), "{address}");
        }
        assert_eq!(refused(&[FAR, FILES[0], FILES[1]]), None);
        assert_eq!(refused(&[FAR, ("SERVER_ALLOW_INSECURE", "true")]), None);
        let message = refused(&[FAR, FILES[0], FILES[1], ("SERVER_TLS_MODE", "allow")]).expect("plain text gets in");
        assert!(message.contains("mode = \"require\""), "{message}");
        let admin = ("SERVER_ADMIN_ADDR", "10.0.0.1:9190");
        let message = refused(&[admin, FILES[0], FILES[1], ("ADMIN_TLS_MODE", "off")]).expect("no TLS");
        assert!(message.contains("[admin.tls]"), "{message}");
    }

    #[test]
    fn replicas_of_other_machines_need_tls_as_well() {
        let peers = [("MODE", "replicated"), ("REPLICATION_FIRST_PEER_ADDR", "10.0.0.1:6001")];
        let message = refused(&peers).expect("no TLS");
        assert!(message.contains("[replication.tls]") && message.contains("replica-0.pem"), "{message}");
        assert_eq!(refused(&[peers[0], peers[1], ("REPLICATION_ALLOW_INSECURE", "true")]), None);
        let tls = [("REPLICATION_TLS_CA", "a"), ("REPLICATION_TLS_CERTIFICATE", "b"), ("REPLICATION_TLS_KEY", "c")];
        assert_eq!(refused(&[&peers[..], &tls].concat()), None);
    }
}
