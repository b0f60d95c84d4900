//! The record of acknowledged writes, and the check that all of them are still there.
//!
//! One line per key: the key, a tab, the length of its value. The value repeats the key.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;

use kv_client::{Client, ClientError, KeyRef};
use serde_json::json;
use tokio::task::JoinSet;

use super::args::CheckArgs;
use super::naming::write_value_of;
use crate::failure::Failure;
use crate::output::{self, Format};

const READS_UNDER_WAY: usize = 256;
/// Maximum number of lost keys that are shown one by one.
const SHOWN: usize = 10;

/// Writes the record. A line may reach the disk after its acknowledgement arrived, so the record
/// may lack acknowledged keys but never holds others.
pub struct Recorder {
    file: BufWriter<File>,
    /// The first failure to write; later lines are dropped, and the run ends with this error.
    failed: Option<std::io::Error>,
}

impl Recorder {
    pub fn create(path: &Path) -> Result<Self, Failure> {
        let file = File::create(path).map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))?;
        Ok(Recorder { file: BufWriter::new(file), failed: None })
    }

    pub fn acknowledged(&mut self, key: &[u8], value_size: usize) {
        if self.failed.is_none() {
            let line = self.file.write_all(key).and_then(|()| writeln!(self.file, "\t{value_size}"));
            self.failed = line.err();
        }
    }

    pub fn finish(mut self) -> Result<(), Failure> {
        let result = match self.failed.take() {
            Some(error) => Err(error),
            None => self.file.flush(),
        };
        result.map_err(|error| Failure::Unsure(format!("cannot record acknowledged keys: {error}")))
    }
}

enum Verdict {
    There,
    Missing,
    Wrong,
}

pub async fn check(args: CheckArgs) -> Result<ExitCode, Failure> {
    let records = read(&args.acknowledged)?;
    let client = args.target.connect().await?;
    let bar = output::progress("reading back", Some(records.len() as u64));
    let mut under_way = JoinSet::new();
    let (mut lost, mut wrong) = (Vec::new(), Vec::new());
    let mut records = records.into_iter();
    let total = records.len();
    loop {
        while under_way.len() < READS_UNDER_WAY
            && let Some((key, value_size)) = records.next()
        {
            under_way.spawn(look(client.clone(), key, value_size));
        }
        let Some(finished) = under_way.join_next().await else { break };
        let (key, verdict) = finished.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
        bar.inc(1);
        match verdict {
            Verdict::There => {}
            Verdict::Missing => lost.push(key),
            Verdict::Wrong => wrong.push(key),
        }
    }
    bar.finish_and_clear();
    match args.format {
        Format::Json => output::write_json(&json!({ "checked": total, "missing": lost.len(), "wrong": wrong.len() }))?,
        Format::Text => {
            output::write_line(&format!("checked {total} keys: {} missing, {} wrong", lost.len(), wrong.len()))?;
        }
    }
    for key in lost.iter().chain(&wrong).take(SHOWN) {
        output::remark(format!("acknowledged, yet missing or wrong: {key}"));
    }
    Ok(ExitCode::from(u8::from(!(lost.is_empty() && wrong.is_empty()))))
}

fn read(path: &Path) -> Result<Vec<(String, usize)>, Failure> {
    let at = |reason: String| Failure::Usage(format!("{}: {reason}", path.display()));
    let file =
        File::open(path).map_err(|error| at(format!("cannot read what `bench --acknowledged` wrote: {error}")))?;
    let record = |(index, line): (usize, std::io::Result<String>)| {
        let line = line.map_err(|error| at(error.to_string()))?;
        let parsed = line.split_once('\t').and_then(|(key, size)| Some((key.to_string(), size.parse().ok()?)));
        let parsed = parsed.filter(|(key, _)| !key.is_empty());
        parsed.ok_or_else(|| at(format!("line {}: expected a key, a tab and a length", index + 1)))
    };
    BufReader::new(file).lines().enumerate().map(record).collect()
}

async fn look(client: Client, key: String, value_size: usize) -> Result<(String, Verdict), ClientError> {
    let mut expected = vec![0; value_size];
    write_value_of(key.as_bytes(), &mut expected);
    let verdict = match client.get(KeyRef::new(key.clone())).await? {
        None => Verdict::Missing,
        Some(value) if value == expected => Verdict::There,
        Some(_) => Verdict::Wrong,
    };
    Ok((key, verdict))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recorded_keys_are_read_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("keys");
        let mut recorder = Recorder::create(&path).expect("a file");
        recorder.acknowledged(b"00a1", 7);
        recorder.acknowledged(b"00a2", 0);
        recorder.finish().expect("written");
        assert_eq!(read(&path).expect("readable"), [("00a1".to_string(), 7), ("00a2".to_string(), 0)]);
    }

    #[test]
    fn an_invalid_line_of_the_record_is_named_by_its_number() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("keys");
        std::fs::write(&path, "00a1\t7\nnonsense\n").expect("written");
        let error = read(&path).expect_err("line 2 is wrong");
        assert!(error.to_string().contains("line 2"), "{error}");
    }
}
