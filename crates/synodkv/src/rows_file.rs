//! The text format of rows, which `range --format backup` writes and `import` reads: rows as text between
//! a header and an end mark.
//!
//! ```text
//! synodkv-rows 1 notation=escaped family=default version=1234
//! key<TAB>value
//! synodkv-rows end rows=1 xxh3=0123456789abcdef
//! ```
//!
//! The end mark holds the number of rows and the XXH3 hash (64 bits) of every byte before it. Keys
//! and values are escaped or hexadecimal, so a row is one line with exactly one tab, and the marks,
//! which have no tab, cannot be mistaken for rows. The header names the notation, the column family
//! and the version of the rows.

use std::io::{BufRead, Read};

use kv_client::Limits;
use xxhash_rust::xxh3::Xxh3;

use crate::failure::Failure;
use crate::text::Notation;

const MARK: &str = "synodkv-rows";
const FORMAT: u32 = 1;
/// Longest header or end mark.
const MAX_MARK_BYTES: usize = 1024;

pub type Pair = (Vec<u8>, Vec<u8>);

fn notation_name(notation: Notation) -> &'static str {
    match notation {
        Notation::Plain | Notation::Escaped => "escaped",
        Notation::Hex => "hex",
    }
}

/// A row as a line, with its line end.
pub fn row_line(key: &[u8], value: &[u8], notation: Notation) -> String {
    format!("{}\t{}\n", notation.show(key), notation.show(value))
}

/// Makes the header and the end mark around rows.
pub struct Writer {
    notation: Notation,
    hash: Box<Xxh3>,
    rows: u64,
}

impl Writer {
    /// Begins with the header. An empty `family` means the default one.
    pub fn begin(notation: Notation, family: &str, version: u64) -> (Writer, String) {
        let family = if family.is_empty() { kv_api::DEFAULT_COLUMN_FAMILY } else { family };
        let header =
            format!("{MARK} {FORMAT} notation={} family={family} version={version}\n", notation_name(notation));
        let mut hash = Box::new(Xxh3::new());
        hash.update(header.as_bytes());
        (Writer { notation, hash, rows: 0 }, header)
    }

    pub fn row(&mut self, key: &[u8], value: &[u8]) -> String {
        let line = row_line(key, value, self.notation);
        self.hash.update(line.as_bytes());
        self.rows += 1;
        line
    }

    pub fn end(self) -> String {
        format!("{MARK} end rows={} xxh3={:016x}\n", self.rows, self.hash.digest())
    }
}

/// The content of the header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    notation: Notation,
    pub family: String,
}

/// Reads and checks rows line by line. Errors name the line.
pub struct Reader<S> {
    /// The name of the source, for messages.
    name: String,
    source: S,
    limits: Limits,
    notation: Notation,
    has_marks: bool,
    is_at_end: bool,
    hash: Box<Xxh3>,
    rows: u64,
    line: u64,
}

impl<S: BufRead> Reader<S> {
    /// Reads rows after a header.
    pub fn begin(name: &str, source: S, limits: &Limits) -> Result<(Self, Header), Failure> {
        let mut reader = Reader::without_marks(name, source, limits, Notation::Escaped);
        reader.has_marks = true;
        let header = reader.header()?;
        reader.notation = header.notation;
        Ok((reader, header))
    }

    /// Reads rows without marks.
    pub fn without_marks(name: &str, source: S, limits: &Limits, notation: Notation) -> Self {
        Reader {
            name: name.to_string(),
            source,
            limits: limits.clone(),
            notation,
            has_marks: false,
            is_at_end: false,
            hash: Box::new(Xxh3::new()),
            rows: 0,
            line: 0,
        }
    }

    fn wrong(&self, reason: &str) -> Failure {
        Failure::Usage(format!("{}, line {}: {reason}", self.name, self.line))
    }

    /// The next line with its line end; `None` at the end of the input.
    fn read_line(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        // Every byte of a row may be written as `\xNN`.
        let longest = (4 * (self.limits.max_key_bytes + self.limits.max_value_bytes) + 2).max(MAX_MARK_BYTES);
        let mut line = Vec::new();
        self.source
            .by_ref()
            .take(longest as u64 + 1)
            .read_until(b'\n', &mut line)
            .map_err(|error| Failure::Usage(format!("cannot read {}: {error}", self.name)))?;
        if line.is_empty() {
            return Ok(None);
        }
        self.line += 1;
        if line.len() > longest {
            let Limits { max_key_bytes, max_value_bytes, .. } = self.limits;
            return Err(self.wrong(&format!(
                "it is longer than any row that the servers accept: a key has at most {max_key_bytes} bytes \
                 (limits.max_key_bytes), a value {max_value_bytes} (limits.max_value_bytes)"
            )));
        }
        Ok(Some(line))
    }

    /// A line without its line end, as text.
    fn text<'l>(&self, line: &'l [u8]) -> Result<&'l str, Failure> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        if line.ends_with(b"\r") {
            let reason = "it ends with a carriage return: something on the way has changed the line ends (CR LF); copy the \
                          file as it is";
            return Err(self.wrong(reason));
        }
        std::str::from_utf8(line).map_err(|_| self.wrong("it is not UTF-8; other bytes are written as \\xNN"))
    }

    fn header(&mut self) -> Result<Header, Failure> {
        let Some(line) = self.read_line()? else {
            return Err(Failure::Usage(format!("{}: it is empty, and does not even have a header", self.name)));
        };
        let text = self.text(&line)?;
        let fields: Vec<&str> = text.split(' ').collect();
        let header = match fields[..] {
            [MARK, format, notation, family, version] => {
                if format.parse() != Ok(FORMAT) {
                    return Err(self.wrong(&format!("format {format} of rows; this program knows format {FORMAT}")));
                }
                let notation = match notation {
                    "notation=escaped" => Some(Notation::Escaped),
                    "notation=hex" => Some(Notation::Hex),
                    _ => None,
                };
                let version = version.strip_prefix("version=").and_then(|version| version.parse::<u64>().ok());
                notation.zip(family.strip_prefix("family=")).filter(|_| version.is_some())
            }
            _ => None,
        };
        let Some((notation, family)) = header else {
            return Err(self.wrong(
                "this is no header of `synodkv range --format backup`; for rows without one (key, tab, value) there is \
                 --no-header",
            ));
        };
        self.hash.update(&line);
        Ok(Header { notation, family: family.to_string() })
    }

    /// The next row; `None` at the end, after all checks have passed.
    pub fn next(&mut self) -> Result<Option<Pair>, Failure> {
        if self.is_at_end {
            return Ok(None);
        }
        let Some(line) = self.read_line()? else {
            self.is_at_end = true;
            return match self.has_marks {
                false => Ok(None),
                true => Err(Failure::Usage(format!(
                    "{}: the end mark is missing after line {}: the file was cut short, or its writer failed",
                    self.name, self.line
                ))),
            };
        };
        let text = self.text(&line)?;
        if let Some(mark) = text.strip_prefix(MARK).filter(|rest| !rest.contains('\t')) {
            return self.end(mark);
        }
        if self.has_marks && !line.ends_with(b"\n") {
            return Err(self.wrong("the file ends in the middle of it"));
        }
        let row = self.row(text)?;
        self.hash.update(&line);
        self.rows += 1;
        Ok(Some(row))
    }

    fn row(&self, text: &str) -> Result<Pair, Failure> {
        let mut parts = text.split('\t');
        let (Some(key), Some(value), None) = (parts.next(), parts.next(), parts.next()) else {
            return Err(self.wrong("expected a key, a tab and a value, as `synodkv range` prints them"));
        };
        // The writer escapes all control characters, so these were written by hand and would not
        // read back as the same bytes.
        if let Some(c) = text.chars().find(|c| c.is_control() && *c != '\t') {
            return Err(self.wrong(&format!("a control character, {}, stands in it; write \\xNN", c.escape_unicode())));
        }
        let part = |what: &str, text: &str| {
            self.notation.parse(what, text).map_err(|reason| {
                // A value may be long.
                self.wrong(&reason.chars().take(300).collect::<String>())
            })
        };
        let (key, value) = (part("key", key)?, part("value", value)?);
        self.check(&key, &value)?;
        Ok((key, value))
    }

    /// Refuses a row that the servers would refuse.
    fn check(&self, key: &[u8], value: &[u8]) -> Result<(), Failure> {
        let Limits { max_key_bytes, max_value_bytes, max_transaction_bytes, .. } = self.limits;
        let too_long = |what: &str, length: usize, limit: usize, setting: &str| {
            let reason =
                format!("the {what} has {length} bytes, and the servers accept at most {limit} (limits.{setting})");
            Err(self.wrong(&reason))
        };
        if key.is_empty() {
            return Err(self.wrong("the key is empty"));
        }
        if key.len() > max_key_bytes {
            return too_long("key", key.len(), max_key_bytes, "max_key_bytes");
        }
        if value.len() > max_value_bytes {
            return too_long("value", value.len(), max_value_bytes, "max_value_bytes");
        }
        if key.len() + value.len() > max_transaction_bytes {
            return too_long("row", key.len() + value.len(), max_transaction_bytes, "max_transaction_bytes");
        }
        Ok(())
    }

    fn end(&mut self, mark: &str) -> Result<Option<Pair>, Failure> {
        if !self.has_marks {
            return Err(self.wrong("this is a mark of `synodkv range --format backup`: leave --no-header out"));
        }
        let told = || {
            let (rows, hash) = mark.strip_prefix(" end rows=")?.split_once(" xxh3=")?;
            Some((rows.parse::<u64>().ok()?, u64::from_str_radix(hash, 16).ok()?))
        };
        let Some((rows, hash)) = told() else {
            return Err(self.wrong("this is neither a row nor an end mark; two files in one?"));
        };
        if rows != self.rows {
            return Err(self.wrong(&format!("there were {rows} rows, and {} are here: some were lost", self.rows)));
        }
        if hash != self.hash.digest() {
            return Err(self.wrong("the checksum does not fit: something before this line was changed"));
        }
        if self.read_line()?.is_some() {
            return Err(self.wrong("something follows the end mark; two files in one?"));
        }
        self.is_at_end = true;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backup(notation: Notation, rows: &[(&[u8], &[u8])]) -> String {
        let (mut writer, mut text) = Writer::begin(notation, "", 7);
        for (key, value) in rows {
            text += &writer.row(key, value);
        }
        text + &writer.end()
    }

    fn read(text: &[u8]) -> Result<Vec<Pair>, Failure> {
        let (mut reader, _) = Reader::begin("rows", text, &Limits::default())?;
        let mut rows = Vec::new();
        while let Some(row) = reader.next()? {
            rows.push(row);
        }
        Ok(rows)
    }

    #[track_caller]
    fn refused(text: &[u8], expected: &str) {
        let error = read(text).expect_err("refused").to_string();
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn written_rows_are_read_back() {
        let all: Vec<u8> = (0..=255).collect();
        let rows: [(&[u8], &[u8]); 4] =
            [(b"a", b""), (b"synodkv-rows end", b"tab\t"), (&all, b"\r\n"), (b"\xff", &all)];
        for notation in [Notation::Escaped, Notation::Hex] {
            let text = backup(notation, &rows);
            let expected: Vec<Pair> = rows.iter().map(|(key, value)| (key.to_vec(), value.to_vec())).collect();
            assert_eq!(read(text.as_bytes()).expect("as written"), expected);
            // The rows are the same with and without a line end after the last one.
            assert_eq!(read(text.trim_end().as_bytes()).expect("as written"), expected);
        }
        assert_eq!(read(backup(Notation::Hex, &[]).as_bytes()).expect("no rows"), []);
    }

    #[test]
    fn a_file_that_was_cut_anywhere_is_refused() {
        let text = backup(Notation::Escaped, &[(b"a", b"1"), (b"b", b"2")]);
        for length in 0..text.len() - 1 {
            assert!(read(&text.as_bytes()[..length]).is_err(), "{length} of {} bytes", text.len());
        }
        let lines: Vec<&str> = text.lines().collect();
        refused([lines[0], lines[1], lines[3]].join("\n").as_bytes(), "line 3: there were 2 rows, and 1 are here");
        refused([lines[0], lines[1], lines[2]].join("\n").as_bytes(), "line 3: the file ends in the middle of it");
        refused(([lines[0], lines[1]].join("\n") + "\n").as_bytes(), "the end mark is missing after line 2");
    }

    #[test]
    fn a_file_that_was_changed_is_refused_with_the_line() {
        let text = backup(Notation::Escaped, &[(b"a", b"1"), (b"b", b"2")]);
        refused(text.replace('\n', "\r\n").as_bytes(), "line 1: it ends with a carriage return");
        refused(text.replacen("a\t1\n", "a\t1\r\n", 1).as_bytes(), "line 2: it ends with a carriage return");
        refused(text.replace("b\t2", "b\t3").as_bytes(), "line 4: the checksum does not fit");
        refused(text.replace("version=7", "version=8").as_bytes(), "the checksum does not fit");
        refused(text.replace("b\t2", "b 2").as_bytes(), "line 3: expected a key, a tab and a value");
        refused(text.replace("b\t2", "b\t2\t3").as_bytes(), "line 3: expected a key, a tab and a value");
        refused(text.replace("b\t2", "b\t\x072").as_bytes(), "line 3: a control character");
        refused(text.replace("b\t2", "b\t\\q").as_bytes(), "line 3: value `\\q`: a backslash is followed by");
        refused(text.replace("rows 1 ", "rows 2 ").as_bytes(), "line 1: format 2 of rows");
        refused((text.clone() + &text).as_bytes(), "something follows the end mark");
        refused(b"a\t1\n", "line 1: this is no header");
        refused(b"", "it is empty");
    }

    #[test]
    fn rows_that_the_servers_do_not_accept_are_refused_with_the_setting() {
        let value = vec![0; 100_001];
        refused(backup(Notation::Hex, &[(b"a", &value)]).as_bytes(), "line 2: the value has 100001 bytes");
        let key = vec![0; 10_001];
        refused(backup(Notation::Hex, &[(&key, b"")]).as_bytes(), "at most 10000 (limits.max_key_bytes)");
        refused(backup(Notation::Hex, &[(b"", b"")]).as_bytes(), "line 2: the key is empty");
        let text = format!("{}{}", backup(Notation::Hex, &[]).lines().next().expect("a header"), "x".repeat(1 << 20));
        refused(text.as_bytes(), "line 1: it is longer than any row");
        let longest = backup(Notation::Escaped, &[(&[0xff; 10_000], &[0xff; 100_000])]);
        assert_eq!(read(longest.as_bytes()).expect("it is allowed").len(), 1);
    }

    #[test]
    fn rows_alone_have_no_marks() {
        let mut reader = Reader::without_marks("rows", &b"a\t1\nb\t2"[..], &Limits::default(), Notation::Escaped);
        assert_eq!(reader.next().expect("a row"), Some((b"a".to_vec(), b"1".to_vec())));
        assert_eq!(reader.next().expect("a row"), Some((b"b".to_vec(), b"2".to_vec())));
        assert_eq!(reader.next().expect("the end"), None);
        let text = backup(Notation::Escaped, &[]);
        let mut reader = Reader::without_marks("rows", text.as_bytes(), &Limits::default(), Notation::Escaped);
        let error = reader.next().expect_err("a header").to_string();
        assert!(error.contains("leave --no-header out"), "{error}");
    }
}
