//! Receives the bytes of a copy in pieces of any size, checks the parts, and passes them on.
//!
//! Allocates nothing on the word of the header: memory grows only with the bytes that arrive.

use kv_api::KvError;

use super::{Header, Kind, Part, PartHash, damaged};

/// Receives the parts. For each part: `begin`, any number of `write`, `end`.
pub trait PartsTarget: Send {
    fn begin(&mut self, part: &Part) -> Result<(), KvError>;
    fn write(&mut self, bytes: &[u8]) -> Result<(), KvError>;
    /// The part is complete and its checksum correct.
    fn end(&mut self) -> Result<(), KvError>;
}

pub struct Receiver<T> {
    target: T,
    kind: Kind,
    progress: Progress,
    received_bytes: u64,
    /// The error that ended the copy.
    failure: Option<KvError>,
}

enum Progress {
    /// The header, as far as it has arrived.
    Header(Vec<u8>),
    Parts(Parts),
}

struct Parts {
    waiting: std::vec::IntoIter<Part>,
    current: Option<Current>,
}

struct Current {
    part: Part,
    missing: u64,
    hash: PartHash,
}

impl<T: PartsTarget> Receiver<T> {
    pub fn new(kind: Kind, target: T) -> Self {
        Receiver { target, kind, progress: Progress::Header(Vec::new()), received_bytes: 0, failure: None }
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<(), KvError> {
        if let Some(error) = &self.failure {
            return Err(error.clone());
        }
        self.received_bytes += bytes.len() as u64;
        self.take(bytes).inspect_err(|error| self.failure = Some(error.clone()))
    }

    fn take(&mut self, mut bytes: &[u8]) -> Result<(), KvError> {
        if let Progress::Header(header) = &mut self.progress {
            let Some(decoded) = take_header(header, &mut bytes, self.kind)? else { return Ok(()) };
            let mut parts = Parts { waiting: decoded.parts.into_iter(), current: None };
            parts.next(&mut self.target)?;
            self.progress = Progress::Parts(parts);
        }
        match &mut self.progress {
            Progress::Parts(parts) => parts.take(bytes, &mut self.target),
            Progress::Header(_) => Ok(()),
        }
    }

    /// Returns the target, if the copy is complete.
    pub fn finish(self) -> Result<T, KvError> {
        if let Some(error) = self.failure {
            return Err(error);
        }
        match &self.progress {
            Progress::Parts(Parts { current: None, .. }) => Ok(self.target),
            Progress::Parts(Parts { current: Some(current), .. }) => Err(damaged(format!(
                "it ends after {} bytes, where {} bytes of {} are missing",
                self.received_bytes, current.missing, current.part.name
            ))),
            Progress::Header(_) => Err(damaged(format!("it ends after {} bytes of its header", self.received_bytes))),
        }
    }
}

/// Takes the bytes of the header; `None` while it is incomplete.
fn take_header(header: &mut Vec<u8>, bytes: &mut &[u8], kind: Kind) -> Result<Option<Header>, KvError> {
    while !bytes.is_empty() {
        // Take single bytes until the length is known, and so no byte of the parts.
        let wanted = Header::length(header)?.map_or(1, |length| length - header.len());
        let (taken, rest) = bytes.split_at(wanted.min(bytes.len()));
        header.extend_from_slice(taken);
        *bytes = rest;
        if Header::length(header)? == Some(header.len()) {
            return Header::decode(header, kind).map(Some);
        }
    }
    Ok(None)
}

impl Parts {
    fn take(&mut self, mut bytes: &[u8], target: &mut impl PartsTarget) -> Result<(), KvError> {
        while !bytes.is_empty() {
            let Some(current) = &mut self.current else {
                return Err(damaged(format!("{} bytes follow its last part", bytes.len())));
            };
            let length = usize::try_from(current.missing).unwrap_or(usize::MAX).min(bytes.len());
            let (taken, rest) = bytes.split_at(length);
            current.hash.update(taken);
            current.missing -= length as u64;
            target.write(taken)?;
            bytes = rest;
            if current.missing == 0 {
                self.end(target)?;
                self.next(target)?;
            }
        }
        Ok(())
    }

    fn end(&mut self, target: &mut impl PartsTarget) -> Result<(), KvError> {
        let ended = self.current.take().expect("only a part that was begun ends");
        if ended.hash.value() != ended.part.hash {
            return Err(damaged(format!("{} has another checksum than its header says", ended.part.name)));
        }
        target.end()
    }

    /// Begins the next part that has bytes, and passes empty ones on.
    fn next(&mut self, target: &mut impl PartsTarget) -> Result<(), KvError> {
        while let Some(part) = self.waiting.next() {
            target.begin(&part)?;
            let missing = part.length;
            self.current = Some(Current { part, missing, hash: PartHash::default() });
            if missing > 0 {
                return Ok(());
            }
            self.end(target)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Kept(Vec<(String, Vec<u8>, bool)>);

    impl PartsTarget for Kept {
        fn begin(&mut self, part: &Part) -> Result<(), KvError> {
            self.0.push((part.name.clone(), Vec::new(), false));
            Ok(())
        }
        fn write(&mut self, bytes: &[u8]) -> Result<(), KvError> {
            self.0.last_mut().expect("begun").1.extend_from_slice(bytes);
            Ok(())
        }
        fn end(&mut self) -> Result<(), KvError> {
            self.0.last_mut().expect("begun").2 = true;
            Ok(())
        }
    }

    const PARTS: [(&str, &[u8]); 4] = [("a", b"first part"), ("empty", b""), ("b", b"second"), ("last", b"")];

    fn stream() -> Vec<u8> {
        let part = |(name, bytes): &(&str, &[u8])| Part {
            name: name.to_string(),
            length: bytes.len() as u64,
            hash: PartHash::of(bytes),
        };
        let header = Header { kind: Kind::MemoryTables, parts: PARTS.iter().map(part).collect() };
        let mut stream = header.encode().to_vec();
        PARTS.iter().for_each(|(_, bytes)| stream.extend_from_slice(bytes));
        stream
    }

    fn receive(stream: &[u8], piece: usize) -> Result<Kept, KvError> {
        let mut receiver = Receiver::new(Kind::MemoryTables, Kept::default());
        stream.chunks(piece).try_for_each(|bytes| receiver.write(bytes))?;
        receiver.finish()
    }

    #[test]
    fn parts_arrive_whole_in_pieces_of_any_size() {
        let expected: Vec<_> = PARTS.iter().map(|(name, bytes)| (name.to_string(), bytes.to_vec(), true)).collect();
        for piece in 1..=stream().len() {
            assert_eq!(receive(&stream(), piece).expect("a sound copy").0, expected, "pieces of {piece}");
        }
    }

    #[test]
    fn a_copy_that_ends_early_or_late_is_refused() {
        for length in 0..stream().len() {
            assert!(receive(&stream()[..length], 7).is_err(), "cut to {length}");
        }
        let longer = [stream(), vec![0]].concat();
        assert!(receive(&longer, 7).err().expect("refused").to_string().contains("1 bytes follow"));
    }

    #[test]
    fn every_changed_byte_is_noticed_and_nothing_more_is_taken() {
        for place in 0..stream().len() {
            let mut changed = stream();
            changed[place] ^= 1;
            assert!(receive(&changed, 5).is_err(), "byte {place}");
        }
        let mut receiver = Receiver::new(Kind::MemoryTables, Kept::default());
        receiver.write(b"nonsense, not a copy").expect_err("refused");
        receiver.write(&stream()).expect_err("refused for good");
        receiver.finish().err().expect("refused for good");
    }
}
