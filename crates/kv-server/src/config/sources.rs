//! Where values come from: the file, the environment, the flags; merged so that the strongest wins and each value still
//! knows its origin.
//!
//! Environment: `SYNODKV_<SECTION>_<KEY>` (the section ends at the first underscore) for any key,
//! `SYNODKV_REPLICATION_TLS_<KEY>` for `[replication.tls]`, `SYNODKV_MODE` for the
//! one outside a section, `REPLICATED_MODE=true`, and `THRIFT_PORT`, which changes only the port of the Thrift address.

use std::path::Path;

use figment::providers::{Format, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider, Source};

use super::settings::Settings;
use super::{ConfigError, Overrides};

/// Variables that share the prefix but belong to the client commands, the build or the tests.
const FOREIGN_VARIABLES: &[&str] =
    &["ADDR", "ADMIN", "TARGET_DIR", "CONFIG", "FORMAT", "BIN", "SEED", "BENCH_", "TEST_"];
const SECTIONS: &[&str] = &["server", "storage", "limits", "replication", "log"];
/// Keys whose value is text even where it looks like a number or a list.
const TEXT_KEYS: &[&str] = &[
    "storage.data_dir",
    "replication.tls.ca",
    "replication.tls.certificate",
    "replication.tls.key",
    "log.level",
    "log.file",
];

/// The environment variables that matter, taken once.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    variables: Vec<(String, String)>,
}

impl Environment {
    /// Those of this process.
    pub fn of_process() -> Self {
        // Variables that aren't text can't be ours.
        Self::from_pairs(std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))))
    }

    pub fn empty() -> Self {
        Environment::default()
    }

    pub fn from_pairs(pairs: impl IntoIterator<Item = (String, String)>) -> Self {
        let ours = |name: &str| name.starts_with("SYNODKV_") || name == "REPLICATED_MODE" || name == "THRIFT_PORT";
        let mut variables: Vec<_> = pairs.into_iter().filter(|(name, _)| ours(name)).collect();
        variables.sort();
        Environment { variables }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.variables.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

/// One value with its origin.
struct Setting {
    key: String,
    value: Value,
    origin: String,
}

impl Provider for Setting {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.origin.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let nested = figment::util::nest(&self.key, self.value.clone());
        let dict = nested.into_dict().expect("a key is never empty, so that nesting makes a table");
        Ok(Profile::Default.collect(dict))
    }
}

/// All sources, merged.
pub(super) struct Sources {
    merged: Figment,
    /// Keys that a flag or a variable gave: these beat what `--node-id` picks from the file.
    pub overridden: Vec<String>,
    pub thrift_port: Option<u16>,
}

impl Sources {
    pub fn gather(
        file: Option<&Path>,
        environment: &Environment,
        overrides: &Overrides,
    ) -> Result<Sources, ConfigError> {
        let mut merged = Figment::new();
        if let Some(path) = file {
            // Read here first, because the parser would say less about a file that cannot be read.
            std::fs::read_to_string(path).map_err(|e| {
                ConfigError::new(format!(
                    "cannot read the file {}: {e}; see --config and SYNODKV_CONFIG",
                    path.display()
                ))
            })?;
            merged = merged.merge(Toml::file_exact(path));
        }
        let mut settings = from_environment(environment)?;
        settings.extend(from_flags(overrides));
        let overridden = settings.iter().map(|setting| setting.key.clone()).collect();
        for setting in settings {
            merged = merged.merge(setting);
        }
        Ok(Sources { merged, overridden, thrift_port: thrift_port(environment)? })
    }

    pub fn extract(&self) -> Result<Settings, ConfigError> {
        self.merged.extract().map_err(|error| {
            let path = error.path.join(".");
            let value = self.merged.find_value(&path).ok().filter(|_| !path.is_empty());
            let origin = error.metadata.as_ref().map(describe).unwrap_or_default();
            ConfigError::parse(&error, value.as_ref().and_then(show), &origin)
        })
    }

    /// Where a key's value came from, as ` (from …)`; empty for a default.
    pub fn origin(&self, key: &str) -> String {
        self.merged.find_metadata(key).map(describe).unwrap_or_default()
    }
}

fn describe(metadata: &Metadata) -> String {
    match &metadata.source {
        Some(Source::File(path)) => format!(" (from the file {})", path.display()),
        _ => format!(" (from {})", metadata.name),
    }
}

fn show(value: &Value) -> Option<String> {
    match value {
        Value::String(_, text) => Some(format!("\"{text}\"")),
        Value::Char(_, c) => Some(format!("\"{c}\"")),
        Value::Bool(_, b) => Some(b.to_string()),
        Value::Num(_, n) => n
            .to_u128()
            .map(|n| n.to_string())
            .or_else(|| n.to_i128().map(|n| n.to_string()))
            .or_else(|| n.to_f64().map(|n| n.to_string())),
        Value::Empty(..) | Value::Dict(..) | Value::Array(..) => None,
    }
}

/// Text keys stay text; others are read as the file would read them, and `a,b` is a list of names where a list belongs.
fn typed(key: &str, text: &str) -> Value {
    if key == "storage.column_families" && !text.trim_start().starts_with('[') {
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        return Value::from(names.map(str::to_string).collect::<Vec<String>>());
    }
    if TEXT_KEYS.contains(&key) || key == "mode" || key.ends_with("_addr") {
        return Value::from(text);
    }
    text.parse().unwrap_or_else(|never: std::convert::Infallible| match never {})
}

fn from_environment(environment: &Environment) -> Result<Vec<Setting>, ConfigError> {
    let mut settings = Vec::new();
    // First the one that `SYNODKV_MODE` beats.
    if let Some(value) = environment.get("REPLICATED_MODE") {
        let mode = match value.to_ascii_lowercase().as_str() {
            "true" | "1" => "replicated",
            "false" | "0" | "" => "standalone",
            _ => {
                let message =
                    format!("REPLICATED_MODE = \"{value}\" (from the environment): allowed are true and false");
                return Err(ConfigError::new(message));
            }
        };
        let origin = "environment variable REPLICATED_MODE".to_string();
        settings.push(Setting { key: "mode".to_string(), value: Value::from(mode), origin });
    }
    for (name, text) in &environment.variables {
        let Some(rest) = name.strip_prefix("SYNODKV_") else { continue };
        let foreign = |f: &str| if f.ends_with('_') { rest.starts_with(f) } else { rest == f };
        if FOREIGN_VARIABLES.iter().any(|f| foreign(f)) {
            continue;
        }
        let key = environment_key(name, rest)?;
        let value = typed(&key, text);
        settings.push(Setting { key, value, origin: format!("environment variable {name}") });
    }
    Ok(settings)
}

fn environment_key(name: &str, rest: &str) -> Result<String, ConfigError> {
    let rest = rest.to_ascii_lowercase();
    if rest == "mode" {
        return Ok(rest);
    }
    match rest.split_once('_') {
        // The one section within another.
        Some(("replication", key)) if key.starts_with("tls_") => {
            Ok(format!("replication.tls.{}", &key["tls_".len()..]))
        }
        Some((section, key)) if SECTIONS.contains(&section) && !key.is_empty() => Ok(format!("{section}.{key}")),
        _ => Err(ConfigError::new(format!(
            "unknown environment variable {name}: allowed are SYNODKV_MODE and SYNODKV_<SECTION>_<KEY> with one of the \
             sections {}, and of the client commands SYNODKV_ADDR and SYNODKV_ADMIN",
            SECTIONS.join(", ")
        ))),
    }
}

fn thrift_port(environment: &Environment) -> Result<Option<u16>, ConfigError> {
    let Some(text) = environment.get("THRIFT_PORT") else { return Ok(None) };
    let message = || format!("THRIFT_PORT = \"{text}\" (from the environment): expected a port, 0 to 65535");
    text.parse().map(Some).map_err(|_| ConfigError::new(message()))
}

fn from_flags(overrides: &Overrides) -> Vec<Setting> {
    let mut settings = Vec::new();
    let mut flag = |flag: &str, key: &str, value: Option<Value>| {
        if let Some(value) = value {
            settings.push(Setting { key: key.to_string(), value, origin: format!("flag {flag}") });
        }
    };
    let text = |value: &Option<String>| value.as_deref().map(Value::from);
    flag("--mode", "mode", text(&overrides.mode));
    flag("--node-id", "replication.node_id", overrides.node_id.map(Value::from));
    let data_dir = overrides.data_dir.as_ref().map(|path| Value::from(path.to_string_lossy().into_owned()));
    flag("--data-dir", "storage.data_dir", data_dir);
    flag("--thrift-addr", "server.thrift_addr", text(&overrides.thrift_addr));
    flag("--admin-addr", "server.admin_addr", text(&overrides.admin_addr));
    flag("--log-level", "log.level", text(&overrides.log_level));
    flag("--log-format", "log.format", text(&overrides.log_format));
    let log_file = overrides.log_file.as_ref().map(|path| Value::from(path.to_string_lossy().into_owned()));
    flag("--log-file", "log.file", log_file);
    for (key, value) in &overrides.other {
        flag(&format!("for {key}"), key, Some(typed(key, value)));
    }
    settings
}
