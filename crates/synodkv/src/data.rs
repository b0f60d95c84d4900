//! `get`, `set` and `delete`.

use std::io::{IsTerminal, Read};
use std::process::ExitCode;

use kv_client::{KeyRef, Limits, Version};
use serde_json::json;

use crate::cli::{DeleteArgs, GetArgs, SetArgs};
use crate::failure::Failure;
use crate::output::{self, Format};
use crate::text::Notation;

fn key_ref(key: Vec<u8>, family: String) -> KeyRef {
    KeyRef { key: key.into(), column_family: family }
}

pub async fn get(args: GetArgs) -> Result<ExitCode, Failure> {
    let notation = args.bytes.notation();
    let key = notation.argument("KEY", &args.key)?;
    let client = args.target.connect().await?;
    let key_ref = key_ref(key.clone(), args.family);
    let value = match args.at {
        Some(version) => client.snapshot_get(key_ref, Version(version)).await?,
        None => client.get(key_ref).await?,
    };
    match (&value, args.bytes.format) {
        (_, Format::Json) => {
            let shown = value.as_ref().map(|value| notation.show(value));
            output::write_json(&json!({ "key": notation.show(&key), "found": value.is_some(), "value": shown }))?;
        }
        (Some(value), Format::Text) if args.raw || is_raw(notation) => output::write(value)?,
        (Some(value), Format::Text) => output::write_line(&notation.show(value))?,
        (None, Format::Text) => output::remark(format!("no such key: {}", notation.show(&key))),
    }
    Ok(ExitCode::from(u8::from(value.is_none())))
}

/// Programs get the bytes, people a line of text.
fn is_raw(notation: Notation) -> bool {
    notation == Notation::Plain && !output::is_terminal()
}

pub async fn set(args: SetArgs) -> Result<ExitCode, Failure> {
    let notation = args.bytes.notation();
    let key = notation.argument("KEY", &args.key)?;
    let given = if args.value == "-" { None } else { Some(notation.argument("VALUE", &args.value)?) };
    let (client, limits) = args.target.connect_with_limits().await?;
    let value = match given {
        Some(value) => value,
        None => standard_input(&limits)?,
    };
    // The server would not even read a value that is far too long, and could not say why.
    check(&key, &value, &limits)?;
    client.set(key_ref(key.clone(), args.family), value).await.map_err(Failure::of_write)?;
    confirm(args.bytes.format, &notation.show(&key))
}

/// A value from standard input. Reads no more of it than the servers accept.
fn standard_input(limits: &Limits) -> Result<Vec<u8>, Failure> {
    if std::io::stdin().is_terminal() {
        output::remark("reading the value from the terminal; Ctrl-D ends it");
    }
    let mut value = Vec::new();
    std::io::stdin().lock().take(limits.max_value_bytes as u64 + 1).read_to_end(&mut value)?;
    match value.len() > limits.max_value_bytes {
        true => Err(too_large("standard input has more than", limits)),
        false => Ok(value),
    }
}

fn check(key: &[u8], value: &[u8], limits: &Limits) -> Result<(), Failure> {
    if key.len() > limits.max_key_bytes {
        let (length, limit) = (key.len(), limits.max_key_bytes);
        return Err(Failure::Failed(format!(
            "the key has {length} bytes, more than the {limit} that the server accepts (KEY_TOO_LARGE); its setting is \
             limits.max_key_bytes; nothing was written"
        )));
    }
    match value.len() > limits.max_value_bytes {
        true => Err(too_large(&format!("the value has {} bytes, more than", value.len()), limits)),
        false => Ok(()),
    }
}

fn too_large(what: &str, limits: &Limits) -> Failure {
    Failure::Failed(format!(
        "{what} the {} bytes that the server accepts (VALUE_TOO_LARGE); its setting is limits.max_value_bytes; nothing was \
         written",
        limits.max_value_bytes
    ))
}

pub async fn delete(args: DeleteArgs) -> Result<ExitCode, Failure> {
    let notation = args.bytes.notation();
    let key = notation.argument("KEY", &args.key)?;
    let client = args.target.connect().await?;
    client.delete(key_ref(key.clone(), args.family)).await.map_err(Failure::of_write)?;
    confirm(args.bytes.format, &notation.show(&key))
}

/// As usual in a shell, a successful write prints nothing for people.
fn confirm(format: Format, key: &str) -> Result<ExitCode, Failure> {
    if format == Format::Json {
        return output::done(format, &json!({ "key": key, "success": true }), key);
    }
    Ok(ExitCode::SUCCESS)
}
