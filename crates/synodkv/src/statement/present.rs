//! Formats the results of statements, for people or for programs.

use kv_client::{ClientError, Committed, Row};
use serde_json::{Map, Value, json};

use super::execute::Outcome;
use crate::text::{Notation, to_hex};

/// The output of a statement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text {
    /// Lines for standard output, each with its line end.
    pub output: String,
    /// A remark for standard error.
    pub remark: Option<String>,
}

/// Formats a result as text. `with_key` shows the value of `get` after its key, like a range,
/// because there may be several results.
pub fn text(outcome: &Outcome, notation: Notation, with_key: bool) -> Text {
    let line = |key: &[u8], value: String| match with_key {
        true => format!("{}\t{value}\n", notation.show(key)),
        false => format!("{value}\n"),
    };
    match outcome {
        Outcome::Nothing => Text::default(),
        Outcome::Value { key, value: Some(value) } => printed(line(key, notation.show(value))),
        Outcome::Number { key, number: Some(number) } => printed(line(key, number.to_string())),
        Outcome::Value { key, value: None } | Outcome::Number { key, number: None } => {
            Text { output: String::new(), remark: Some(format!("no such key: {}", notation.show(key))) }
        }
        Outcome::Rows { rows, has_more } => Text {
            output: rows.iter().map(|row| row_line(row, notation)).collect(),
            remark: has_more.then(|| "there are more rows: see --limit".to_string()),
        },
    }
}

fn printed(output: String) -> Text {
    Text { output, remark: None }
}

fn row_line(row: &Row, notation: Notation) -> String {
    format!("{}\t{}\n", notation.show(&row.key), notation.show(&row.value))
}

/// A result as the fields of a JSON object; `None` if the statement has none.
pub fn json(outcome: &Outcome, notation: Notation) -> Option<Map<String, Value>> {
    let row = |row: &Row| json!({ "key": notation.show(&row.key), "value": notation.show(&row.value) });
    let value = match outcome {
        Outcome::Nothing => return None,
        Outcome::Value { key, value } => {
            let shown = value.as_ref().map(|value| notation.show(value));
            json!({ "key": notation.show(key), "found": value.is_some(), "value": shown })
        }
        Outcome::Number { key, number } => {
            json!({ "key": notation.show(key), "found": number.is_some(), "value": number.map(number_json) })
        }
        Outcome::Rows { rows, has_more } => {
            json!({ "rows": rows.iter().map(row).collect::<Vec<_>>(), "has_more": has_more })
        }
    };
    match value {
        Value::Object(fields) => Some(fields),
        _ => unreachable!("each of them is an object"),
    }
}

/// A number as JSON; as text if many JSON readers could not hold it.
fn number_json(number: u128) -> Value {
    match u64::try_from(number) {
        Ok(number) if number < 1 << 53 => number.into(),
        _ => number.to_string().into(),
    }
}

/// The result of a commit, one line each: the version, and what the versionstamp completed.
pub fn commit_text(committed: &Committed, has_written: bool, notation: Notation) -> String {
    let what = if has_written { "committed at" } else { "nothing to commit; read at" };
    let mut text = format!("{what} version {}\n", committed.version.0);
    text.push_str(&stamped_text(committed, notation));
    text
}

pub fn stamped_text(committed: &Committed, notation: Notation) -> String {
    let keys = committed.generated_keys.iter().map(|key| format!("versionstamped key: {}\n", notation.show(key)));
    let values =
        committed.generated_values.iter().map(|value| format!("versionstamped value: {}\n", notation.show(value)));
    keys.chain(values).collect()
}

pub fn commit_json(committed: &Committed, has_written: bool, notation: Notation) -> Map<String, Value> {
    let show = |all: &[kv_client::Bytes]| all.iter().map(|bytes| notation.show(bytes)).collect::<Vec<_>>();
    let mut fields = Map::new();
    fields.insert("committed".to_string(), has_written.into());
    fields.insert("version".to_string(), committed.version.0.into());
    if let Some(stamp) = &committed.versionstamp {
        fields.insert("versionstamp".to_string(), to_hex(stamp).into());
    }
    if !committed.generated_keys.is_empty() {
        fields.insert("generated_keys".to_string(), show(&committed.generated_keys).into());
    }
    if !committed.generated_values.is_empty() {
        fields.insert("generated_values".to_string(), show(&committed.generated_values).into());
    }
    fields
}

/// Maximum number of conflicting keys that are named.
const CONFLICTING_KEYS: usize = 10;

/// The keys that others wrote, after a conflict; empty if unknown.
pub fn conflicting(error: &ClientError, notation: Notation) -> String {
    let keys = error.conflicting_keys();
    let shown: Vec<String> =
        keys.iter().take(CONFLICTING_KEYS).map(|key| format!("`{}`", notation.show(&key.key))).collect();
    let more = if keys.len() > shown.len() { format!(" and {} more", keys.len() - shown.len()) } else { String::new() };
    if shown.is_empty() { String::new() } else { format!("; written meanwhile: {}{more}", shown.join(", ")) }
}

#[cfg(test)]
mod tests {
    use kv_client::{ErrorCode, KeyRef, Version};

    use super::*;

    const NOTATION: Notation = Notation::Escaped;

    #[test]
    fn a_value_is_shown_alone_or_after_its_key() {
        let found = Outcome::Value { key: "k".into(), value: Some("v\0".into()) };
        assert_eq!(text(&found, NOTATION, false).output, "v\\x00\n");
        assert_eq!(text(&found, NOTATION, true).output, "k\tv\\x00\n");
        let missing = text(&Outcome::Value { key: "k".into(), value: None }, NOTATION, true);
        assert_eq!((&missing.output[..], missing.remark.as_deref()), ("", Some("no such key: k")));
    }

    #[test]
    fn json_holds_the_result() {
        let shown = |outcome| Value::from(json(&outcome, NOTATION).expect("something"));
        assert_eq!(
            shown(Outcome::Number { key: "k".into(), number: Some(7) }),
            json!({"key": "k", "found": true, "value": 7})
        );
        assert_eq!(
            shown(Outcome::Number { key: "k".into(), number: Some(1 << 53) })["value"],
            json!("9007199254740992")
        );
        assert_eq!(
            shown(Outcome::Value { key: "k".into(), value: None }),
            json!({"key": "k", "found": false, "value": null})
        );
        let rows = vec![Row { key: "a".into(), value: "b".into() }];
        assert_eq!(
            shown(Outcome::Rows { rows, has_more: true }),
            json!({"rows": [{"key": "a", "value": "b"}], "has_more": true})
        );
        assert_eq!(json(&Outcome::Nothing, NOTATION), None);
    }

    #[test]
    fn a_commit_reports_its_version_and_its_stamped_keys() {
        let committed = Committed {
            version: Version(7),
            versionstamp: Some([0; 10][..].to_vec().into()),
            generated_keys: vec!["q/\x01".into()],
            generated_values: Vec::new(),
        };
        assert_eq!(commit_text(&committed, true, NOTATION), "committed at version 7\nversionstamped key: q/\\x01\n");
        assert_eq!(
            Value::from(commit_json(&committed, true, NOTATION)),
            json!({
                "committed": true, "version": 7, "versionstamp": "00000000000000000000",
                "generated_keys": ["q/\\x01"]
            })
        );
        let read = Committed { version: Version(3), ..Committed::default() };
        assert_eq!(commit_text(&read, false, NOTATION), "nothing to commit; read at version 3\n");
    }

    #[test]
    fn a_conflict_names_the_first_keys_that_were_written_meanwhile() {
        let error = |count: u8| ClientError::Refused {
            code: ErrorCode::Conflict,
            message: "conflict".to_string(),
            retryable: true,
            maybe_committed: false,
            conflicting_keys: (0..count).map(|number| KeyRef::new(vec![b'a' + number])).collect(),
            leader_endpoint: None,
        };
        assert_eq!(conflicting(&error(0), NOTATION), "");
        assert_eq!(conflicting(&error(2), NOTATION), "; written meanwhile: `a`, `b`");
        assert!(conflicting(&error(12), NOTATION).ends_with(", `j` and 2 more"));
    }
}
