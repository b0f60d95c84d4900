//! Opaque tokens, `synodkv_<id>_<secret>`: an id of 16 hexadecimal digits, which is no secret, and
//! 256 random bits. The cluster stores the id and the SHA-256 of the text.

use std::fmt;

use kv_api::access::TokenRecord;
use ring::digest;
use ring::rand::{SecureRandom, SystemRandom};
use subtle::ConstantTimeEq;

const MARK: &str = "synodkv_";
const ID_DIGITS: usize = 16;
const SECRET_DIGITS: usize = 64;

/// A secret that a client presented: an opaque token or a JWT. It shows itself in messages only as
/// a fingerprint.
#[derive(Clone)]
pub struct Secret(String);

/// SHA-256 of a secret.
pub type Digest = [u8; 32];

impl Secret {
    /// The secret with this text, as it was presented.
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    /// The text. Never put it into a message.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The digest that stands for it where secrets are compared and stored.
    pub fn digest(&self) -> Digest {
        digest_of(&self.0)
    }

    /// The id in an opaque token; `None` if this is not one.
    pub fn token_id(&self) -> Option<u64> {
        token_id(&self.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "token {}", fingerprint(&self.digest()))
    }
}

/// The first bytes of a digest, which identify a secret to people and do not help to guess it.
pub fn fingerprint(digest: &Digest) -> String {
    digest[..4].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// SHA-256 of a text.
pub fn digest_of(text: &str) -> Digest {
    digest_of_bytes(text.as_bytes())
}

/// SHA-256.
pub fn digest_of_bytes(bytes: &[u8]) -> Digest {
    let mut digest = [0; 32];
    digest.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    digest
}

fn token_id(text: &str) -> Option<u64> {
    let (id, secret) = text.strip_prefix(MARK)?.split_once('_')?;
    let is_hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    let is_token = id.len() == ID_DIGITS && secret.len() == SECRET_DIGITS && is_hex(id) && is_hex(secret);
    u64::from_str_radix(id, 16).ok().filter(|id| is_token && *id != 0)
}

/// Whether this digest is that of the token on record. Takes the same time wherever they differ.
pub fn is_token(record: &TokenRecord, presented: &Digest) -> bool {
    record.sha256.ct_eq(presented).into()
}

/// The text of a token of this id with these random bytes.
pub fn token_text(id: u64, random: &[u8; 32]) -> String {
    let secret: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{MARK}{id:016x}_{secret}")
}

/// A new token, and its id.
///
/// # Errors
/// The operating system gives no random numbers.
pub fn new_token() -> Result<(u64, Secret), String> {
    let mut random = [0; 40];
    SystemRandom::new().fill(&mut random).map_err(|_| "the operating system gives no random numbers".to_string())?;
    let (id, secret) = random.split_at(8);
    let id = id.iter().fold(0, |id, byte| (id << 8) | u64::from(*byte)).max(1);
    let secret: &[u8; 32] = secret.try_into().expect("32 bytes are left");
    Ok((id, Secret(token_text(id, secret))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_holds_its_id_and_nothing_else_is_one() {
        let text = token_text(0x2a, &[7; 32]);
        assert_eq!(Secret::new(&text).token_id(), Some(0x2a));
        assert_eq!(text.len(), 8 + 16 + 1 + 64);
        for other in
            ["", "synodkv_", "synodkv_2a_00", &text[1..], &text[..88], &text.to_uppercase(), &token_text(0, &[7; 32])]
        {
            assert_eq!(Secret::new(other).token_id(), None, "{other}");
        }
    }

    #[test]
    fn a_new_token_is_one() {
        let (id, secret) = new_token().expect("random numbers");
        assert_eq!(secret.token_id(), Some(id));
        assert_ne!(new_token().expect("random numbers").0, id);
    }

    #[test]
    fn a_secret_shows_a_fingerprint_only() {
        let text = token_text(1, &[0xab; 32]);
        let shown = format!("{:?}", Secret::new(&text));
        assert!(shown.starts_with("token ") && shown.len() == 14 && !shown.contains("abab"), "{shown}");
    }

    #[test]
    fn only_the_very_token_matches_its_record() {
        let text = token_text(1, &[1; 32]);
        let digest = digest_of(&text);
        let record = TokenRecord { id: 1, sha256: digest.to_vec().into(), ..TokenRecord::default() };
        assert!(is_token(&record, &digest));
        let mut other = digest;
        other[31] ^= 1;
        assert!(!is_token(&record, &other));
        assert!(!is_token(&TokenRecord::default(), &digest));
    }
}
