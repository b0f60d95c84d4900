//! Formats records as lines: text for people, or one JSON object each.
//!
//! A record is always exactly one line. Control characters are escaped, so that a client cannot
//! forge a line or send escape sequences to the terminal of the person who reads the log.

use std::fmt::Write;

use kv_server::config::LogFormat;
use serde::Serializer;
use serde::ser::SerializeMap;
use tracing::Level;

use super::record::{Record, Value};

/// The output format.
#[derive(Clone, Copy, Debug)]
pub struct Format {
    pub kind: LogFormat,
    /// ANSI colours; only for terminals.
    pub colours: bool,
}

impl Format {
    /// The line, including the newline.
    pub fn line(self, record: &Record) -> String {
        let mut line = match self.kind {
            LogFormat::Text => text(record, self.colours),
            LogFormat::Json => json(record),
        };
        line.push('\n');
        line
    }
}

const DIM: &str = "2";
const ITALIC: &str = "3";

fn paint(line: &mut String, colours: bool, code: &str, text: &str) {
    match colours {
        true => write!(line, "\x1b[{code}m{text}\x1b[0m"),
        false => write!(line, "{text}"),
    }
    .expect("a string takes whatever is written to it");
}

/// The same format as `tracing-subscriber`'s default; a test compares them.
fn text(record: &Record, colours: bool) -> String {
    let mut line = String::with_capacity(128);
    paint(&mut line, colours, DIM, &record.time);
    line.push(' ');
    let (name, colour) = match record.level {
        Level::ERROR => ("ERROR", "31"),
        Level::WARN => (" WARN", "33"),
        Level::INFO => (" INFO", "32"),
        Level::DEBUG => ("DEBUG", "34"),
        Level::TRACE => ("TRACE", "35"),
    };
    paint(&mut line, colours, colour, name);
    line.push(' ');
    paint(&mut line, colours, DIM, &record.target);
    paint(&mut line, colours, DIM, ":");
    let mut field = |name: &str, value: &str| {
        line.push(' ');
        if !name.is_empty() {
            paint(&mut line, colours, ITALIC, name);
            paint(&mut line, colours, DIM, "=");
        }
        escape(&mut line, value);
    };
    if !record.message.is_empty() {
        field("", &record.message);
    }
    for (name, value) in &record.fields {
        let value = match value {
            Value::Bool(value) => value.to_string(),
            Value::Signed(value) => value.to_string(),
            Value::Unsigned(value) => value.to_string(),
            Value::Float(value) => format!("{value:?}"),
            Value::Text(value) => format!("{value:?}"),
            Value::Printed(value) => value.clone(),
        };
        field(plain(name), &value);
    }
    if record.held_back > 0 {
        field("held_back", &record.held_back.to_string());
    }
    line
}

fn escape(line: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '\t' => line.push(c),
            c if c.is_control() => line.extend(c.escape_default()),
            c => line.push(c),
        }
    }
}

/// The name without the `r#` of a raw identifier.
fn plain(name: &str) -> &str {
    name.strip_prefix("r#").unwrap_or(name)
}

/// Names reserved for the parts that every object has.
const TAKEN: &[&str] = &["timestamp", "level", "target", "message", "held_back"];

fn json(record: &Record) -> String {
    let mut line = Vec::with_capacity(256);
    serialize(record, &mut line).expect("text and numbers can be written as JSON");
    String::from_utf8(line).expect("JSON is UTF-8")
}

fn serialize(record: &Record, line: &mut Vec<u8>) -> Result<(), serde_json::Error> {
    let mut serializer = serde_json::Serializer::new(line);
    let mut object = serializer.serialize_map(None)?;
    object.serialize_entry("timestamp", &record.time)?;
    object.serialize_entry("level", record.level.as_str())?;
    object.serialize_entry("target", &record.target)?;
    object.serialize_entry("message", &record.message)?;
    for (name, value) in &record.fields {
        let name = plain(name);
        let name = if TAKEN.contains(&name) { format!("field_{name}") } else { name.to_string() };
        match value {
            Value::Bool(value) => object.serialize_entry(&name, value)?,
            Value::Signed(value) => object.serialize_entry(&name, value)?,
            Value::Unsigned(value) => object.serialize_entry(&name, value)?,
            Value::Float(value) => object.serialize_entry(&name, value)?,
            Value::Text(value) | Value::Printed(value) => object.serialize_entry(&name, value)?,
        }
    }
    if record.held_back > 0 {
        object.serialize_entry("held_back", &record.held_back)?;
    }
    object.end()
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::{Context, SubscriberExt};
    use tracing_subscriber::{Layer, fmt, registry};

    use super::*;

    /// Collects the output.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Kept {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().expect("sound").clone()).expect("UTF-8")
        }
    }

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("sound").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Formatting(Format, Kept);

    impl<S: tracing::Subscriber> Layer<S> for Formatting {
        fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
            io::Write::write_all(&mut self.1.clone(), self.0.line(&Record::of(event)).as_bytes()).expect("kept");
        }
    }

    fn written(kind: LogFormat, colours: bool, log: impl FnOnce()) -> String {
        let kept = Kept::default();
        let layer = Formatting(Format { kind, colours }, kept.clone());
        tracing::subscriber::with_default(registry().with(layer), log);
        kept.text()
    }

    fn without_times(text: &str) -> String {
        let rest = |line: &str| line.split_once("Z").expect("a time").1.to_string();
        text.lines().map(rest).collect::<Vec<_>>().join("\n")
    }

    fn some_lines() {
        let missing = io::Error::from(io::ErrorKind::NotFound);
        tracing::info!(thrift = %"127.0.0.1:9090", replicas = ?[0, 1], "replicated server started");
        tracing::warn!(peer = 2, error = %missing, wait_s = 0.5, "cannot connect to a peer");
        tracing::error!(name = "users", is_open = true, balance = -3, r#type = "x", "a \"quoted\" line");
        tracing::info!("only words");
        tracing::debug!(count = 1u64);
    }

    #[test]
    fn text_is_what_tracing_subscriber_writes() {
        for colours in [false, true] {
            let theirs = Kept::default();
            let writer = theirs.clone();
            let layer = fmt::layer().with_ansi(colours).with_writer(move || writer.clone());
            tracing::subscriber::with_default(registry().with(layer), some_lines);
            let theirs = without_times(&theirs.text());
            assert_eq!(without_times(&written(LogFormat::Text, colours, some_lines)), theirs);
        }
    }

    #[test]
    fn json_is_one_object_per_line_with_fields_of_their_types() {
        let text = written(LogFormat::Json, true, some_lines);
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("an object")).collect();
        assert_eq!(lines.len(), 5);
        assert_eq!(lines[0]["level"], "INFO");
        assert_eq!(lines[0]["target"], module_path!());
        assert_eq!(lines[0]["message"], "replicated server started");
        assert_eq!(lines[0]["thrift"], "127.0.0.1:9090");
        assert!(lines[0]["timestamp"].as_str().is_some_and(|time| time.ends_with('Z')), "{}", lines[0]);
        assert_eq!((&lines[1]["peer"], &lines[1]["wait_s"]), (&2.into(), &0.5.into()));
        assert_eq!(
            (&lines[2]["is_open"], &lines[2]["balance"], &lines[2]["type"]),
            (&true.into(), &(-3).into(), &"x".into())
        );
    }

    #[test]
    fn a_field_never_hides_one_that_every_object_has() {
        let text = written(LogFormat::Json, false, || tracing::info!(level = "mine", "words"));
        let line: serde_json::Value = serde_json::from_str(&text).expect("an object");
        assert_eq!((&line["level"], &line["field_level"]), (&"INFO".into(), &"mine".into()));
    }

    #[test]
    fn a_value_cannot_forge_a_line_or_reach_a_terminal() {
        let evil = "x\n2026-01-01T00:00:00Z ERROR forged: \x1b[2J\u{9b}";
        for kind in [LogFormat::Text, LogFormat::Json] {
            let text = written(kind, false, || tracing::info!(name = %evil, "it says {evil}"));
            assert_eq!(text.lines().count(), 1, "{text}");
            assert!(!text.contains('\x1b'), "{text}");
        }
    }

    #[test]
    fn held_back_lines_are_counted_in_the_line() {
        // Both counts are covered: that of the throttle and that of a call site.
        for kind in [LogFormat::Text, LogFormat::Json] {
            let format = Format { kind, colours: false };
            let mut record = Record::new(Level::WARN, "here", "cannot accept a connection".to_string());
            assert!(!format.line(&record).contains("held_back"));
            record.held_back = 7;
            assert!(format.line(&record).contains("held_back"), "{}", format.line(&record));
        }
        let text = written(LogFormat::Text, false, || tracing::warn!(held_back = 3u64, "cannot connect"));
        assert!(text.ends_with("cannot connect held_back=3\n"), "{text}");
    }
}
