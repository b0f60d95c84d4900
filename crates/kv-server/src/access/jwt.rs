//! JSON Web Tokens (RFC 7519), verified against a file of public keys (JWKS, RFC 7517).
//!
//! The algorithm of a signature is that of the key, never one that the token chooses: a token that
//! names another, such as `none` or a symmetric one, fits no key. Signatures are verified by `ring`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use serde::Deserialize;
use serde_json::Value;

use super::token::Secret;

/// How far the clocks of the issuer and of this server may differ.
const LEEWAY_US: u64 = 30_000_000;
/// How often the file is looked at, at most.
const LOOK_INTERVAL_US: u64 = 1_000_000;
/// Largest file of keys, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The demands on a JWT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtSettings {
    /// The file of public keys.
    pub keys: PathBuf,
    /// The issuer (`iss`).
    pub issuer: String,
    /// The audience (`aud`): that, or one of those, of the token.
    pub audience: String,
}

/// The verified claims of a JWT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// The user (`sub`).
    pub subject: String,
    /// The roles (`synodkv_roles`).
    pub roles: Vec<String>,
    /// When it ends (`exp`), in microseconds since 1970.
    pub expires_us: u64,
}

/// Why a JWT is refused. No text holds a part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwtFault {
    #[error("the token is not valid")]
    NotOne,
    #[error("the token is signed with an algorithm or a key that this server does not accept")]
    NoKey,
    #[error("the signature of the token is not valid")]
    Signature,
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet")]
    NotYet,
    #[error("the token comes from another issuer")]
    Issuer,
    #[error("the token is meant for another audience")]
    Audience,
    #[error("the token lacks `sub` or `exp`, or a claim has the wrong type")]
    Claims,
}

/// The public keys, as the file has them now.
pub struct JwtKeys {
    settings: JwtSettings,
    keys: RwLock<Arc<Vec<Key>>>,
    /// Counts the changes of the keys.
    generation: AtomicU64,
    /// When the file was last looked at, and what it looked like.
    looked_at_us: AtomicU64,
    seen: Mutex<Option<(SystemTime, u64)>>,
}

impl JwtKeys {
    /// Reads the file.
    ///
    /// # Errors
    /// What is wrong with it, in a sentence that names the file.
    pub fn load(settings: JwtSettings) -> Result<Self, String> {
        let seen = look_of(&settings.keys);
        let keys = RwLock::new(Arc::new(read_keys(&settings.keys)?));
        let (generation, looked_at_us) = (AtomicU64::new(0), AtomicU64::new(0));
        Ok(JwtKeys { settings, keys, generation, looked_at_us, seen: Mutex::new(seen) })
    }

    /// Keys that are given and not in a file.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn of_text(settings: JwtSettings, text: &[u8]) -> Result<Self, String> {
        let keys = RwLock::new(Arc::new(parse_keys(text)?));
        // It is never time to look at a file.
        let (generation, looked_at_us) = (AtomicU64::new(0), AtomicU64::new(u64::MAX));
        Ok(JwtKeys { settings, keys, generation, looked_at_us, seen: Mutex::new(None) })
    }

    /// Changes whenever the keys do: what was verified before must be verified again.
    pub fn generation(&self, now_us: u64) -> u64 {
        let last = self.looked_at_us.load(Ordering::Relaxed);
        let is_due = now_us.saturating_sub(last) >= LOOK_INTERVAL_US;
        if is_due && self.looked_at_us.compare_exchange(last, now_us, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.look();
        }
        self.generation.load(Ordering::Acquire)
    }

    /// Reads the file again if it has changed. Keys that cannot be read leave the old ones in force.
    fn look(&self) {
        let look = look_of(&self.settings.keys);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if *seen == look {
            return;
        }
        *seen = look;
        match read_keys(&self.settings.keys) {
            Ok(keys) => {
                tracing::info!(file = %self.settings.keys.display(), keys = keys.len(), "read the keys of JWTs again");
                *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
                self.generation.fetch_add(1, Ordering::Release);
            }
            Err(fault) => tracing::warn!("{fault}; the keys read before stay in force"),
        }
    }

    /// Verifies a JWT at this time, in microseconds since 1970.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn verify(&self, token: &Secret, now_us: u64) -> Result<Claims, JwtFault> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner).clone();
        verify(token.reveal(), &keys, &self.settings, now_us)
    }
}

impl fmt::Debug for JwtKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtKeys").field("settings", &self.settings).finish_non_exhaustive()
    }
}

fn look_of(file: &Path) -> Option<(SystemTime, u64)> {
    let metadata = std::fs::metadata(file).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

fn read_keys(file: &Path) -> Result<Vec<Key>, String> {
    let fault = |fault: String| format!("the keys of JWTs, {}: {fault}", file.display());
    let length = std::fs::metadata(file).map_err(|error| fault(error.to_string()))?.len();
    if length > MAX_FILE_BYTES {
        return Err(fault(format!("{length} bytes are more than the limit of {MAX_FILE_BYTES}")));
    }
    let text = std::fs::read(file).map_err(|error| fault(error.to_string()))?;
    parse_keys(&text).map_err(fault)
}

fn parse_keys(text: &[u8]) -> Result<Vec<Key>, String> {
    let set: KeySet = serde_json::from_slice(text)
        .map_err(|error| format!("it is no JSON Web Key Set, {{\"keys\": […]}}: {error}"))?;
    let keys: Vec<Key> = set.keys.iter().filter_map(Key::of).collect();
    match keys.is_empty() {
        true => Err("it holds no public key for EdDSA (Ed25519), ES256 or RS256".into()),
        false => Ok(keys),
    }
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Value>,
}

/// The algorithms that are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Algorithm {
    EdDsa,
    Es256,
    Rs256,
}

impl Algorithm {
    fn name(self) -> &'static str {
        match self {
            Algorithm::EdDsa => "EdDSA",
            Algorithm::Es256 => "ES256",
            Algorithm::Rs256 => "RS256",
        }
    }
}

/// One public key.
struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    material: Material,
}

enum Material {
    /// As `ring` takes it.
    Point(Vec<u8>),
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
}

impl Key {
    /// `None` for a key that is no public key of an accepted algorithm: files may hold others, too.
    fn of(key: &Value) -> Option<Key> {
        let text = |name: &str| key.get(name).and_then(Value::as_str);
        let bytes = |name: &str| URL_SAFE_NO_PAD.decode(text(name)?).ok();
        let (algorithm, material) = match (text("kty")?, text("crv")) {
            ("OKP", Some("Ed25519")) => (Algorithm::EdDsa, Material::Point(bytes("x")?)),
            ("EC", Some("P-256")) => {
                // An uncompressed point.
                (Algorithm::Es256, Material::Point([vec![4], bytes("x")?, bytes("y")?].concat()))
            }
            ("RSA", _) => (Algorithm::Rs256, Material::Rsa { n: bytes("n")?, e: bytes("e")? }),
            (_, _) => return None,
        };
        let fits = text("alg").is_none_or(|alg| alg == algorithm.name()) && text("use").is_none_or(|of| of == "sig");
        fits.then(|| Key { id: text("kid").map(str::to_owned), algorithm, material })
    }

    fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let point = |algorithm: &'static dyn signature::VerificationAlgorithm, point: &Vec<u8>| {
            UnparsedPublicKey::new(algorithm, point).verify(message, signature).is_ok()
        };
        match (&self.material, self.algorithm) {
            (Material::Point(bytes), Algorithm::EdDsa) => point(&signature::ED25519, bytes),
            (Material::Point(bytes), Algorithm::Es256) => point(&signature::ECDSA_P256_SHA256_FIXED, bytes),
            (Material::Rsa { n, e }, Algorithm::Rs256) => RsaPublicKeyComponents { n, e }
                .verify(&signature::RSA_PKCS1_2048_8192_SHA256, message, signature)
                .is_ok(),
            (Material::Point(_), Algorithm::Rs256) | (Material::Rsa { .. }, Algorithm::EdDsa | Algorithm::Es256) => {
                false
            }
        }
    }
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    /// Names parts of the header that must be understood; none is.
    crit: Option<Value>,
}

fn verify(token: &str, keys: &[Key], settings: &JwtSettings, now_us: u64) -> Result<Claims, JwtFault> {
    let (message, signature) = token.rsplit_once('.').ok_or(JwtFault::NotOne)?;
    let (header, payload) = message.split_once('.').ok_or(JwtFault::NotOne)?;
    let decoded = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| JwtFault::NotOne);
    let header: Header = serde_json::from_slice(&decoded(header)?).map_err(|_| JwtFault::NotOne)?;
    // A dot in the payload is no letter of base64, so this refuses a fourth part.
    let (payload, signature) = (decoded(payload)?, decoded(signature)?);
    if header.crit.is_some() {
        return Err(JwtFault::NotOne);
    }
    let fits = |key: &&Key| {
        key.algorithm.name() == header.alg && header.kid.as_ref().is_none_or(|id| key.id.as_ref() == Some(id))
    };
    let mut candidates = keys.iter().filter(fits).peekable();
    if candidates.peek().is_none() {
        return Err(JwtFault::NoKey);
    }
    if !candidates.any(|key| key.verifies(message.as_bytes(), &signature)) {
        return Err(JwtFault::Signature);
    }
    let claims: Value = serde_json::from_slice(&payload).map_err(|_| JwtFault::Claims)?;
    check_claims(&claims, settings, now_us)
}

fn check_claims(claims: &Value, settings: &JwtSettings, now_us: u64) -> Result<Claims, JwtFault> {
    if claims.get("iss").and_then(Value::as_str) != Some(&settings.issuer) {
        return Err(JwtFault::Issuer);
    }
    let is_us = |audience: &Value| audience.as_str() == Some(&settings.audience);
    let for_us = match claims.get("aud") {
        Some(Value::Array(audiences)) => audiences.iter().any(is_us),
        Some(audience) => is_us(audience),
        None => false,
    };
    if !for_us {
        return Err(JwtFault::Audience);
    }
    let expires_us = time_us(claims.get("exp").ok_or(JwtFault::Claims)?)?;
    if expires_us.saturating_add(LEEWAY_US) <= now_us {
        return Err(JwtFault::Expired);
    }
    if let Some(begins) = claims.get("nbf")
        && time_us(begins)? > now_us.saturating_add(LEEWAY_US)
    {
        return Err(JwtFault::NotYet);
    }
    let subject = claims.get("sub").and_then(Value::as_str).filter(|subject| !subject.is_empty());
    let roles = match claims.get("synodkv_roles") {
        None => Vec::new(),
        Some(roles) => Vec::<String>::deserialize(roles).map_err(|_| JwtFault::Claims)?,
    };
    let subject = subject.ok_or(JwtFault::Claims)?.to_owned();
    Ok(Claims { subject, roles, expires_us: expires_us.saturating_add(LEEWAY_US) })
}

/// A time in seconds since 1970, perhaps with a fraction, in microseconds.
fn time_us(time: &Value) -> Result<u64, JwtFault> {
    let seconds = time.as_f64().filter(|seconds| *seconds >= 0.0).ok_or(JwtFault::Claims)?;
    // Too large a number becomes the largest.
    Ok((seconds * 1e6) as u64)
}

#[cfg(test)]
#[path = "jwt_tests.rs"]
mod tests;
