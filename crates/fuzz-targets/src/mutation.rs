//! Random changes of inputs, for runs without libFuzzer.

const INTERESTING: [u64; 12] =
    [0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, i64::MAX as u64, u64::MAX];
const MAX_LENGTH: usize = 64 << 10;

/// Makes inputs from others; its seed decides everything.
#[derive(Clone, Debug)]
pub struct Mutator {
    state: u64,
}

impl Mutator {
    pub fn new(seed: u64) -> Self {
        Mutator { state: seed }
    }

    /// Steele, Lea, Flood: *Fast Splittable Pseudorandom Number Generators* (SplitMix64).
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    /// One of `inputs`, changed in one to eight places.
    pub fn mutated(&mut self, inputs: &[Vec<u8>]) -> Vec<u8> {
        let Some(chosen) = inputs.get(self.below(inputs.len())) else { return Vec::new() };
        let mut bytes = chosen.clone();
        for _ in 0..=self.below(8) {
            self.change(&mut bytes, inputs);
        }
        bytes.truncate(MAX_LENGTH);
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>, inputs: &[Vec<u8>]) {
        let at = self.below(bytes.len());
        match self.below(8) {
            0 => self.replace(bytes, at, 1),
            1 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << self.below(8);
                }
            }
            2 => {
                let width = 1 << self.below(4);
                self.replace(bytes, at, width);
            }
            3 => {
                let inserted = vec![self.next() as u8; self.below(16)];
                bytes.splice(at..at, inserted);
            }
            4 => {
                let end = (at + self.below(16)).min(bytes.len());
                bytes.drain(at..end);
            }
            5 => bytes.truncate(at),
            6 => {
                let end = (at + self.below(64)).min(bytes.len());
                let copied = bytes[at..end].to_vec();
                let to = self.below(bytes.len());
                bytes.splice(to..to, copied);
            }
            _ => {
                let other = &inputs[self.below(inputs.len())];
                let from = self.below(other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
        }
    }

    /// Puts a number of `width` bytes at `at`, one that programs may stumble over or any.
    fn replace(&mut self, bytes: &mut [u8], at: usize, width: usize) {
        let number = match self.below(3) {
            0 => self.next(),
            _ => INTERESTING[self.below(INTERESTING.len())],
        };
        let number = if self.below(2) == 0 { number.to_le_bytes() } else { number.swap_bytes().to_le_bytes() };
        let number = if self.below(2) == 0 { &number[..width] } else { &number[8 - width..] };
        for (byte, new) in bytes.iter_mut().skip(at).zip(number) {
            *byte = *new;
        }
    }
}
