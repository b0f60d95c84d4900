//! The sources of settings: the file, the environment and the flags. They are merged so that the
//! strongest wins, and each value keeps its origin.
//!
//! Environment: `SYNODKV_<SECTION>_<KEY>` (the section ends at the first underscore) for any key,
//! `SYNODKV_<SECTION>_TLS_<KEY>` for `[server.tls]`, `[admin.tls]` and `[replication.tls]`, `SYNODKV_MODE` for the one outside a
//! section, `REPLICATED_MODE=true`, and `THRIFT_PORT`, which changes only the port of the Thrift
//! address.
//!
//! A variable that is not a setting is ignored with a warning, because users do not always choose
//! the whole environment. Variables that Kubernetes injects for a Service that happens to be called
//! `synodkv` or `thrift` are ignored silently.

use std::path::Path;

use figment::providers::{Format, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider, Source};

use super::settings::{ReplicationSettings, Settings, TlsSettings};
use super::{ConfigError, Overrides};

/// Variables that share the prefix but belong to the client commands, the build or the tests.
const FOREIGN_VARIABLES: &[&str] = &[
    "ADDR",
    "ADMIN",
    "CA",
    "CERT",
    "KEY",
    "TOKEN_FILE",
    "PROFILE",
    "TARGET_DIR",
    "CONFIG",
    "FORMAT",
    "BIN",
    "SEED",
    "BENCH_",
    "TEST_",
];
const SECTIONS: &[&str] = &["server", "admin", "storage", "limits", "replication", "auth", "audit", "log"];
/// Keys whose value is text even if it looks like a number or a list.
const TEXT_KEYS: &[&str] = &[
    "storage.data_dir",
    "replication.tls.ca",
    "replication.tls.certificate",
    "replication.tls.key",
    "replication.tls.crl",
    "auth.jwt_keys",
    "auth.jwt_issuer",
    "auth.jwt_audience",
    "audit.file",
    "audit.keys",
    "log.level",
    "log.file",
];

/// The relevant environment variables, read once.
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

    /// No variables.
    pub fn empty() -> Self {
        Environment::default()
    }

    /// The relevant ones of these variables.
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
    /// Ignored settings, in words for people.
    pub warnings: Vec<String>,
}

impl Sources {
    pub fn gather(
        file: Option<&Path>,
        environment: &Environment,
        overrides: &Overrides,
    ) -> Result<Sources, ConfigError> {
        let mut merged = Figment::new();
        if let Some(path) = file {
            // Read here first, because the parser's error about an unreadable file says less.
            std::fs::read_to_string(path).map_err(|e| {
                ConfigError::new(format!(
                    "cannot read the file {}: {e}; see --config and SYNODKV_CONFIG",
                    path.display()
                ))
            })?;
            merged = merged.merge(Toml::file_exact(path));
        }
        let (mut settings, warnings) = from_environment(environment)?;
        settings.extend(from_flags(overrides));
        let overridden = settings.iter().map(|setting| setting.key.clone()).collect();
        for setting in settings {
            merged = merged.merge(setting);
        }
        Ok(Sources { merged, overridden, thrift_port: thrift_port(environment)?, warnings })
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

/// Text keys stay text. Other values are parsed as in a file, except that a list of names may be
/// written `a,b`.
fn typed(key: &str, text: &str) -> Value {
    if key == "storage.column_families" && !text.trim_start().starts_with('[') {
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        return Value::from(names.map(str::to_string).collect::<Vec<String>>());
    }
    if TEXT_KEYS.contains(&key)
        || key.starts_with("server.tls.")
        || key.starts_with("admin.tls.")
        || key == "mode"
        || key.ends_with("_addr")
    {
        return Value::from(text);
    }
    text.parse().unwrap_or_else(|never: std::convert::Infallible| match never {})
}

fn from_environment(environment: &Environment) -> Result<(Vec<Setting>, Vec<String>), ConfigError> {
    let mut settings = Vec::new();
    let mut unknown = Vec::new();
    // First, because `SYNODKV_MODE` takes precedence.
    if let Some(value) = environment.get("REPLICATED_MODE") {
        let mode = match value.to_ascii_lowercase().as_str() {
            "true" | "1" => "replicated",
            "false" | "0" | "" => "standalone",
            _ => {
                let message = format!("REPLICATED_MODE = \"{value}\" (from the environment); allowed: true and false");
                return Err(ConfigError::new(message));
            }
        };
        let origin = "environment variable REPLICATED_MODE".to_string();
        settings.push(Setting { key: "mode".to_string(), value: Value::from(mode), origin });
    }
    let keys = known_keys();
    for (name, text) in &environment.variables {
        let Some(rest) = name.strip_prefix("SYNODKV_") else { continue };
        let foreign = |f: &str| if f.ends_with('_') { rest.starts_with(f) } else { rest == f };
        if FOREIGN_VARIABLES.iter().any(|f| foreign(f)) {
            continue;
        }
        match keys.iter().find(|key| variable_of(key) == *name) {
            Some(key) => {
                let origin = format!("environment variable {name}");
                settings.push(Setting { key: key.clone(), value: typed(key, text), origin });
            }
            None if is_of_a_service(rest, text) => {}
            None => unknown.push(name.as_str()),
        }
    }
    Ok((settings, warning_of(&unknown, &keys).into_iter().collect()))
}

/// Every key that a file may hold, as `section.key`, except those inside lists.
pub(super) fn known_keys() -> Vec<String> {
    let all = Settings {
        replication: ReplicationSettings { tls: Some(TlsSettings::default()), ..Default::default() },
        ..Default::default()
    };
    let all = Value::serialize(&all).expect("plain fields always serialize");
    let mut keys = Vec::new();
    collect_keys(&all, "", &mut keys);
    keys
}

fn collect_keys(value: &Value, path: &str, keys: &mut Vec<String>) {
    match value {
        Value::Dict(_, fields) => {
            for (name, field) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                collect_keys(field, &path, keys);
            }
        }
        _ => keys.push(path.to_string()),
    }
}

fn variable_of(key: &str) -> String {
    format!("SYNODKV_{}", key.replace('.', "_").to_ascii_uppercase())
}

/// Whether Kubernetes sets such a variable in every container, for a Service whose name begins with
/// `synodkv`: `SYNODKV_PORT=tcp://10.0.0.1:9090`, `SYNODKV_SERVICE_HOST`,
/// `SYNODKV_PORT_9090_TCP_ADDR`.
fn is_of_a_service(rest: &str, text: &str) -> bool {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let parts: Vec<&str> = rest.split('_').collect();
    let names_port = parts
        .windows(3)
        .any(|part| part[0] == "PORT" && is_number(part[1]) && matches!(part[2], "TCP" | "UDP" | "SCTP"));
    let names_service = parts.windows(2).any(|part| part[0] == "SERVICE" && matches!(part[1], "HOST" | "PORT"));
    is_link(text) || names_port || names_service
}

/// Whether this is an address as Kubernetes writes it into the environment.
fn is_link(text: &str) -> bool {
    ["tcp://", "udp://", "sctp://"].iter().any(|scheme| text.starts_with(scheme))
}

/// One warning about all of them.
fn warning_of(unknown: &[&str], keys: &[String]) -> Option<String> {
    if unknown.is_empty() {
        return None;
    }
    let guesses: Vec<String> = unknown.iter().filter_map(|name| closest(name, keys)).collect();
    let meant = if guesses.is_empty() { String::new() } else { format!("; was {} meant?", guesses.join(", ")) };
    Some(format!(
        "ignored, because they are not settings: the environment variables {}{meant} Settings are SYNODKV_MODE and \
         SYNODKV_<SECTION>_<KEY> with one of the sections {}",
        unknown.join(", "),
        SECTIONS.join(", ")
    ))
}

/// The known variable closest to this one, if the difference is small.
fn closest(name: &str, keys: &[String]) -> Option<String> {
    let known = keys.iter().map(|key| variable_of(key));
    let (distance, found) = known.map(|known| (distance(name.as_bytes(), known.as_bytes()), known)).min()?;
    // More than a quarter of a short name is not a typo.
    (distance <= 3 && distance * 4 <= name.len() - "SYNODKV_".len()).then_some(found)
}

/// The edit distance between two names (Levenshtein).
fn distance(left: &[u8], right: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, l) in left.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, r) in right.iter().enumerate() {
            let changed = diagonal + usize::from(l != r);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[right.len()]
}

fn thrift_port(environment: &Environment) -> Result<Option<u16>, ConfigError> {
    let Some(text) = environment.get("THRIFT_PORT").filter(|text| !is_link(text)) else { return Ok(None) };
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
