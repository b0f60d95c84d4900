//! A log event in parts, as the throttle compares and the formats write them.

use std::fmt;

use tracing::field::{Field, Visit};
use tracing::{Event, Level};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

/// Fields that distinguish lines of one call site: a line about one replica must not hold back a
/// line about another.
const DISTINGUISHING: &[&str] = &["peer", "replica", "location"];
/// The count of a call site with a throttle of its own; added to [`Record::held_back`].
const HELD_BACK: &str = "held_back";
/// Lines about slow requests are limited, and counted, where they come from.
const OWN_LIMIT: &str = "synodkv::slow";

/// The value of a field. JSON keeps these types.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Bool(bool),
    Signed(i64),
    Unsigned(u64),
    Float(f64),
    /// A string; quoted in text.
    Text(String),
    /// The output of `Debug` or `Display`.
    Printed(String),
}

/// The key of the throttle: lines of the same kind share a budget.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Kind {
    /// Target and name of the call site. The name contains file and line.
    pub call_site: (&'static str, &'static str),
    /// The distinguishing fields and their values; empty if there are none.
    pub distinction: String,
}

/// A log line before formatting.
#[derive(Clone, Debug)]
pub struct Record {
    pub kind: Kind,
    /// RFC 3339, in UTC.
    pub time: String,
    pub level: Level,
    pub target: String,
    pub message: String,
    pub fields: Vec<(&'static str, Value)>,
    /// The number of lines of this kind that were held back since the last one written.
    pub held_back: u64,
}

impl Record {
    /// A line that the logging itself produces.
    pub fn new(level: Level, target: &'static str, message: String) -> Record {
        let kind = Kind { call_site: (target, "no call site"), distinction: message.clone() };
        let target = target.to_string();
        Record { kind, time: now(), level, target, message, fields: Vec::new(), held_back: 0 }
    }

    pub fn with(mut self, name: &'static str, value: impl fmt::Display) -> Record {
        self.take(name, Value::Printed(value.to_string()));
        self
    }

    pub fn with_count(mut self, name: &'static str, count: u64) -> Record {
        self.take(name, Value::Unsigned(count));
        self
    }

    pub fn of(event: &Event<'_>) -> Record {
        let metadata = event.metadata();
        let mut record = Record::new(*metadata.level(), metadata.target(), String::new());
        record.kind = Kind { call_site: (metadata.target(), metadata.name()), distinction: String::new() };
        event.record(&mut record);
        record
    }

    /// Whether the line is throttled: `info` and above, which operators read, unless its source has
    /// a limit of its own.
    pub fn is_for_operators(&self) -> bool {
        self.level <= Level::INFO && self.target != OWN_LIMIT
    }

    fn take(&mut self, name: &'static str, value: Value) {
        if DISTINGUISHING.contains(&name) {
            self.kind.distinction += &format!("{name}={} ", value.printed());
        }
        match (name, value) {
            ("message", value) => self.message = value.printed(),
            (HELD_BACK, Value::Unsigned(count)) => self.held_back += count,
            // Events of the `log` crate share one call site per level; these fields carry the real
            // one.
            ("log.target", Value::Text(target)) => {
                self.kind.distinction += &target;
                self.target = target;
            }
            ("log.line", value) => self.kind.distinction += &format!(":{}", value.printed()),
            (name, _) if name.starts_with("log.") => {}
            (name, value) => self.fields.push((name, value)),
        }
    }
}

impl Value {
    /// The plain value, without quotes.
    fn printed(&self) -> String {
        match self {
            Value::Bool(value) => value.to_string(),
            Value::Signed(value) => value.to_string(),
            Value::Unsigned(value) => value.to_string(),
            Value::Float(value) => value.to_string(),
            Value::Text(value) | Value::Printed(value) => value.clone(),
        }
    }
}

impl Visit for Record {
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.take(field.name(), Value::Bool(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.take(field.name(), Value::Signed(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.take(field.name(), Value::Unsigned(value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.take(field.name(), Value::Float(value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.take(field.name(), Value::Text(value.to_string()));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.take(field.name(), Value::Printed(format!("{value:?}")));
    }
}

fn now() -> String {
    let mut text = String::new();
    SystemTime.format_time(&mut Writer::new(&mut text)).expect("a string takes whatever is written to it");
    text
}
