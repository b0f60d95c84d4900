//! Keys, values and their distribution: the same as those of `synodkv bench`
//! (crates/synodkv/src/bench), so that both generators ask for the same records equally often.

use crate::args::{Args, Workload};

/// The skew that YCSB uses.
const THETA: f64 = 0.99;
/// Number of popularity ranks, as in YCSB; far larger than the number of records.
const RANKS: u64 = 10_000_000_000;
/// The sum of the weights of all ranks; the constant of YCSB.
const ZETA: f64 = 26.469_028_201_783_02;
const NOISE_BYTES: usize = 64 << 10;

/// Steele, Lea, Flood: *Fast Splittable Pseudorandom Number Generators* (2014).
pub struct SplitMix64(pub u64);

impl SplitMix64 {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Draws a popularity rank: Gray et al., *Quickly Generating Billion-Record Synthetic Databases*,
/// SIGMOD 1994.
fn zipfian_rank(random: &mut SplitMix64) -> u64 {
    let weight_of_second = 2f64.powf(-THETA);
    let unit = random.unit();
    let place = unit * ZETA;
    if place < 1.0 {
        return 0;
    }
    if place < 1.0 + weight_of_second {
        return 1;
    }
    let eta = (1.0 - (2.0 / RANKS as f64).powf(1.0 - THETA)) / (1.0 - (1.0 + weight_of_second) / ZETA);
    let rank = RANKS as f64 * (eta * unit - eta + 1.0).powf(1.0 / (1.0 - THETA));
    (rank as u64).min(RANKS - 1)
}

/// The hash of YCSB: FNV-1a over the 8 bytes, lowest byte first, without its sign.
fn fnv_hash(number: u64) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = number.to_le_bytes().iter().fold(0xcbf2_9ce4_8422_2325_u64, step);
    (hash as i64).unsigned_abs()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Get,
    Put,
    /// The first write of a record; ZooKeeper has a request of its own for it.
    Create,
    Txn,
}

/// One operation; only a transaction uses the second record.
#[derive(Clone, Copy, Debug)]
pub struct Operation {
    pub kind: Kind,
    pub records: [u64; 2],
}

/// Chooses the operations of a run.
pub struct Source {
    random: SplitMix64,
    workload: Workload,
    records: u64,
    loaded: u64,
}

impl Source {
    pub fn new(args: &Args, seed: u64) -> Source {
        Source { random: SplitMix64(seed), workload: args.workload, records: args.records, loaded: 0 }
    }

    fn record(&mut self) -> u64 {
        match self.workload.is_ycsb() {
            true => fnv_hash(zipfian_rank(&mut self.random)) % self.records,
            false => self.random.below(self.records),
        }
    }

    /// The next operation; `None` once all records are loaded.
    pub fn next(&mut self) -> Option<Operation> {
        if self.workload == Workload::Load {
            let number = self.loaded;
            self.loaded += 1;
            return (number < self.records).then_some(Operation { kind: Kind::Create, records: [number; 2] });
        }
        let one = self.record();
        if self.workload == Workload::Txn {
            let mut other = self.record();
            while other == one {
                other = self.record();
            }
            return Some(Operation { kind: Kind::Txn, records: [one, other] });
        }
        let reads = self.workload.reads();
        let kind = if reads == 100 || self.random.below(100) < reads { Kind::Get } else { Kind::Put };
        Some(Operation { kind, records: [one; 2] })
    }
}

/// Makes the bytes of keys and values.
pub struct Bytes {
    ycsb_keys: bool,
    value_size: usize,
    noise: Vec<u8>,
    cut: usize,
}

impl Bytes {
    pub fn new(args: &Args) -> Bytes {
        let mut random = SplitMix64(7);
        let length = NOISE_BYTES + args.value_size;
        let noise = (0..length.div_ceil(8)).flat_map(|_| random.next().to_le_bytes()).collect();
        Bytes { ycsb_keys: args.ycsb_keys, value_size: args.value_size, noise, cut: 0 }
    }

    pub fn key_size(&self) -> usize {
        if self.ycsb_keys { 23 } else { 16 }
    }

    pub fn value_size(&self) -> usize {
        self.value_size
    }

    pub fn push_key(&self, out: &mut Vec<u8>, number: u64) {
        let start = out.len();
        out.resize(start + self.key_size(), b'0');
        let (mut digits, mut number, base) = (&mut out[start..], number, if self.ycsb_keys { 10 } else { 16 });
        if self.ycsb_keys {
            digits[..4].copy_from_slice(b"user");
            digits = &mut digits[4..];
            number = fnv_hash(number);
        }
        for byte in digits.iter_mut().rev() {
            *byte = b"0123456789abcdef"[(number % base) as usize];
            number /= base;
        }
    }

    /// Appends a value cut from a longer stretch of noise, another one each time.
    pub fn push_value(&mut self, out: &mut Vec<u8>) {
        self.cut = (self.cut + 61) % NOISE_BYTES;
        out.extend_from_slice(&self.noise[self.cut..self.cut + self.value_size]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &str) -> Args {
        let all = format!("--system redis --addr 127.0.0.1:1 {line}");
        Args::parse(all.split_whitespace().map(str::to_string)).expect("it is allowed")
    }

    fn key(line: &str, number: u64) -> String {
        let mut key = Vec::new();
        Bytes::new(&args(line)).push_key(&mut key, number);
        String::from_utf8(key).expect("digits")
    }

    #[test]
    fn keys_are_those_of_synodkv_bench() {
        assert_eq!(key("--workload put", 0x1a2b), "0000000000001a2b");
        assert_eq!(key("--workload ycsb-a", 1), "user8517097267634966620");
    }

    #[test]
    fn the_most_popular_record_gets_the_share_that_ycsb_says() {
        let mut source = Source::new(&args("--workload ycsb-c --records 10000"), 5);
        let popular = fnv_hash(0) % 10_000;
        let draws = 400_000;
        let hits = (0..draws).filter(|_| source.next().expect("endless").records[0] == popular).count() as f64;
        let expected = f64::from(draws) / ZETA;
        assert!((hits - expected).abs() < 0.06 * expected, "{hits}, expected {expected}");
    }

    #[test]
    fn reads_come_as_often_as_the_mix_says() {
        let mut source = Source::new(&args("--workload ycsb-b"), 5);
        let reads = (0..100_000).filter(|_| source.next().expect("endless").kind == Kind::Get).count();
        assert!((94_500..95_500).contains(&reads), "{reads}");
    }

    #[test]
    fn a_load_writes_every_record_once() {
        let mut source = Source::new(&args("--workload load --records 3"), 5);
        let records: Vec<u64> = std::iter::from_fn(|| source.next()).map(|each| each.records[0]).collect();
        assert_eq!(records, [0, 1, 2]);
    }
}
