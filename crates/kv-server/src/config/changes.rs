//! Compares two configurations by the keys of the configuration file.

use serde_json::Value;

use super::Config;

/// Derived values, which have no key in a file.
const DERIVED: &[&str] = &["replication.is_listed", "replication.lacks_node_id"];
/// In a file, these belong to the list of replicas.
const OF_THE_LIST: &str = "replication.tls.names";

impl Config {
    /// The keys whose values differ, as `section.key`, each once. A list counts as one value.
    pub fn differing_keys(&self, other: &Config) -> Vec<String> {
        let value = |config: &Config| serde_json::to_value(config).expect("a configuration is text and numbers");
        let mut keys = Vec::new();
        compare("", &value(self), &value(other), &mut keys);
        keys.dedup();
        keys
    }
}

fn compare(path: &str, one: &Value, other: &Value, keys: &mut Vec<String>) {
    if one == other || DERIVED.contains(&path) {
        return;
    }
    match (one, other) {
        (Value::Object(one), Value::Object(other)) if path != OF_THE_LIST => {
            for (name, value) in one {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                compare(&path, value, other.get(name).unwrap_or(&Value::Null), keys);
            }
        }
        _ if path == OF_THE_LIST => keys.push("replication.replicas".to_string()),
        _ => keys.push(path.to_string()),
    }
}
