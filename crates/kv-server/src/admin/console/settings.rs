//! The settings in force, for the screen "Configuration".
//!
//! No setting holds a secret: keys and tokens stand in files, and a setting gives their path only.
//! A key that is called like a secret is left out, too, so that a later one cannot slip in.

use serde::Serialize;
use serde_json::Value;

use crate::config::Config;

/// Parts of names of settings whose value would be a secret.
const SECRET_NAMES: [&str; 3] = ["password", "secret", "token"];

/// One setting.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Setting {
    /// `section.key`.
    pub key: String,
    /// The value in force.
    pub value: Value,
    /// The origin of the value, in words.
    pub origin: String,
    /// Whether somebody set it.
    pub is_set: bool,
}

/// All settings of this configuration.
pub fn list(config: &Config) -> Vec<Setting> {
    let defaults: std::collections::HashMap<String, Value> = Config::standalone().values().into_iter().collect();
    let setting = |(key, value): (String, Value)| {
        let origin = match config.origins.get(&key) {
            Some(origin) => origin.trim().trim_start_matches("(from ").trim_end_matches(')').to_string(),
            None if defaults.get(&key) == Some(&value) => "default".to_string(),
            None => "follows from other settings or the resource budget".to_string(),
        };
        Setting { is_set: config.is_set(&key), key, value, origin }
    };
    config.values().into_iter().filter(|(key, _)| !is_secret(key)).map(setting).collect()
}

fn is_secret(key: &str) -> bool {
    SECRET_NAMES.iter().any(|part| key.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, Overrides};

    fn load(pairs: &[(&str, &str)]) -> Config {
        let pairs = pairs.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        Config::load(None, &Environment::from_pairs(pairs), &Overrides::default()).expect("valid")
    }

    #[test]
    fn each_setting_has_its_origin() {
        let settings = list(&load(&[("SYNODKV_STORAGE_MIN_FREE_MB", "7")]));
        let find = |key: &str| settings.iter().find(|setting| setting.key == key).expect(key).clone();
        let set = find("storage.min_free_mb");
        assert_eq!((set.value, set.is_set), (7.into(), true));
        assert_eq!(set.origin, "environment variable SYNODKV_STORAGE_MIN_FREE_MB");
        let default = find("log.level");
        assert_eq!((default.value, default.origin.as_str(), default.is_set), ("info".into(), "default", false));
    }

    #[test]
    fn what_the_budget_lowered_is_no_default() {
        let mut config = load(&[]);
        config.storage.block_cache_mb = 1;
        let settings = list(&config);
        let lowered = settings.iter().find(|setting| setting.key == "storage.block_cache_mb").expect("the setting");
        assert!(lowered.origin.contains("budget"), "{lowered:?}");
    }

    #[test]
    fn a_key_that_sounds_like_a_secret_is_left_out() {
        assert!(is_secret("auth.root_password") && is_secret("backup.secret_key"));
        assert!(!is_secret("server.tls.key"), "a path");
    }
}
