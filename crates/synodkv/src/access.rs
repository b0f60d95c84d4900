//! The authority by which a command believes servers, and its own identity: from flags, the
//! environment, or a profile.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use clap::Args;
use kv_client::{Tls, Token};
use serde::Deserialize;

use crate::failure::Failure;

/// How servers are trusted, and who asks; for every command that talks to a server.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Access")]
pub struct AccessArgs {
    /// Take addresses and files that no flag or variable gives from this profile in ~/.config/synodkv/profiles.toml; `none`
    /// for no profile. [default: `default`, if there is one]
    #[arg(long, value_name = "NAME", env = "SYNODKV_PROFILE", global = true)]
    pub profile: Option<String>,
    /// Connect with TLS, to servers whose certificate an authority in this file (PEM) has signed.
    #[arg(long = "ca", value_name = "FILE", env = "SYNODKV_CA", global = true)]
    pub ca_file: Option<PathBuf>,
    /// The certificate (PEM) to show servers; needs --ca and --key.
    #[arg(long = "cert", value_name = "FILE", env = "SYNODKV_CERT", global = true)]
    pub cert_file: Option<PathBuf>,
    /// The private key of the certificate.
    #[arg(long = "key", value_name = "FILE", env = "SYNODKV_KEY", global = true)]
    pub key_file: Option<PathBuf>,
    /// The file with the token of the user on whose behalf this command asks.
    #[arg(long, value_name = "FILE", env = "SYNODKV_TOKEN_FILE", global = true)]
    pub token_file: Option<PathBuf>,
}

/// The arguments of this process. Set once, before any command runs: a process is one user.
static GIVEN: OnceLock<AccessArgs> = OnceLock::new();

/// The arguments of this process.
fn given() -> AccessArgs {
    GIVEN.get().cloned().unwrap_or_default()
}

/// The profile in force.
pub fn profile() -> Result<Profile, Failure> {
    given().profile()
}

/// Encrypts connections; `None` for servers without TLS.
pub fn tls() -> Result<Option<Tls>, Failure> {
    given().tls()
}

/// The token of this process, if it has one.
pub fn token() -> Result<Option<Token>, Failure> {
    token_file()?.as_deref().map(read_token).transpose()
}

/// The file with that token.
pub fn token_file() -> Result<Option<PathBuf>, Failure> {
    let given = given();
    match given.token_file {
        Some(file) => Ok(Some(file)),
        None => Ok(given.profile()?.token_file),
    }
}

/// Reads a token from its file.
pub fn read_token(file: &Path) -> Result<Token, Failure> {
    let fault = |fault: String| Failure::Usage(format!("the token file {}: {fault}", file.display()));
    let text = std::fs::read_to_string(file).map_err(|error| fault(error.to_string()))?;
    let is_token = !text.trim().is_empty() && !text.trim().contains(|c: char| c.is_whitespace() || c.is_control());
    if !is_token {
        return Err(fault("it must hold one token and nothing else".into()));
    }
    Ok(Token::new(&text))
}

/// One table of the file of profiles.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Profile {
    /// Thrift addresses.
    pub addr: Addresses,
    /// Admin addresses.
    pub admin: Addresses,
    /// As `--ca`.
    pub ca: Option<PathBuf>,
    /// As `--cert`.
    pub cert: Option<PathBuf>,
    /// As `--key`.
    pub key: Option<PathBuf>,
    /// As `--token-file`.
    pub token_file: Option<PathBuf>,
}

/// Addresses as a list, or as text with commas.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "TextOrList")]
pub struct Addresses(pub Vec<String>);

#[derive(Deserialize)]
#[serde(untagged)]
enum TextOrList {
    Text(String),
    List(Vec<String>),
}

impl From<TextOrList> for Addresses {
    fn from(given: TextOrList) -> Self {
        Addresses(match given {
            TextOrList::Text(text) => text.split(',').map(|address| address.trim().to_string()).collect(),
            TextOrList::List(list) => list,
        })
    }
}

const DEFAULT: &str = "default";
/// The name that stands for no profile.
const NONE: &str = "none";

impl AccessArgs {
    /// Makes these the ones that all commands of this process use.
    pub fn install(&self) {
        // Only a test sets it twice.
        let _ = GIVEN.set(self.clone());
    }

    fn profile(&self) -> Result<Profile, Failure> {
        let wanted = self.profile.as_deref();
        if wanted == Some(NONE) {
            return Ok(Profile::default());
        }
        match place_of_profiles() {
            Some(path) => read_profile(&path, wanted),
            None if wanted.is_none() => Ok(Profile::default()),
            None => Err(Failure::Usage("--profile: neither XDG_CONFIG_HOME nor HOME says where profiles are".into())),
        }
    }

    fn tls(&self) -> Result<Option<Tls>, Failure> {
        let profile = self.profile()?;
        let pick = |given: &Option<PathBuf>, profile: Option<PathBuf>| given.clone().or(profile);
        let ca = pick(&self.ca_file, profile.ca);
        let (cert, key) = (pick(&self.cert_file, profile.cert), pick(&self.key_file, profile.key));
        let tls = match (ca, cert, key) {
            (None, None, None) => return Ok(None),
            (Some(ca), None, None) => Tls::new(ca),
            (Some(ca), Some(cert), Some(key)) => Tls::with_identity(ca, cert, key),
            (None, ..) => return Err(Failure::Usage("--cert and --key are for TLS: give --ca FILE, too".into())),
            (_, Some(_), None) => return Err(Failure::Usage("--cert needs --key FILE, its private key".into())),
            (_, None, Some(_)) => return Err(Failure::Usage("--key needs --cert FILE, its certificate".into())),
        };
        Ok(Some(tls?))
    }
}

fn place_of_profiles() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = variable("XDG_CONFIG_HOME").or_else(|| Some(variable("HOME")?.join(".config")))?;
    Some(folder.join("synodkv/profiles.toml"))
}

/// Reads one profile. Without a name, its absence is no error.
fn read_profile(path: &Path, wanted: Option<&str>) -> Result<Profile, Failure> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && wanted.is_none() => return Ok(Profile::default()),
        Err(error) => return Err(Failure::Usage(format!("cannot read the profiles in {}: {error}", path.display()))),
    };
    let all: BTreeMap<String, Profile> = toml::from_str(&text).map_err(|error| {
        let place = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
        Failure::Usage(format!("{}, line {place}: {}", path.display(), error.message()))
    })?;
    let name = wanted.unwrap_or(DEFAULT);
    let Some(mut profile) = all.get(name).cloned() else {
        return match wanted {
            None => Ok(Profile::default()),
            Some(name) => {
                let known: Vec<&str> = all.keys().map(String::as_str).collect();
                let known = if known.is_empty() { "none".to_string() } else { known.join(", ") };
                Err(Failure::Usage(format!("no profile `{name}` in {}; there are: {known}", path.display())))
            }
        };
    };
    // Relative paths are relative to the file that names them.
    let folder = path.parent().unwrap_or(Path::new(""));
    for file in [&mut profile.ca, &mut profile.cert, &mut profile.key, &mut profile.token_file].into_iter().flatten() {
        *file = folder.join(&*file);
    }
    Ok(profile)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(text: &str, wanted: Option<&str>) -> Result<Profile, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("profiles.toml");
        std::fs::write(&path, text).expect("a file");
        let found = read_profile(&path, wanted);
        let plain = |path: &PathBuf| path.strip_prefix(folder.path()).map(Path::to_path_buf).unwrap_or(path.clone());
        let found = found.map(|profile| Profile { ca: profile.ca.as_ref().map(plain), ..profile });
        found.map_err(|failure| failure.to_string())
    }

    const TWO: &str = "[default]\naddr = 'a:1, b:1'\n[prod]\nadmin = ['c:2']\nca = 'ca.pem'\ncert = '/etc/me.pem'\n";

    #[test]
    fn a_profile_gives_addresses_and_files() {
        let default = with(TWO, None).expect("a profile");
        assert_eq!(default.addr, Addresses(vec!["a:1".to_string(), "b:1".to_string()]));
        let prod = with(TWO, Some("prod")).expect("a profile");
        assert_eq!((prod.ca, prod.cert), (Some("ca.pem".into()), Some("/etc/me.pem".into())));
        assert_eq!(prod.admin, Addresses(vec!["c:2".to_string()]));
    }

    #[test]
    fn only_a_profile_that_was_asked_for_must_exist() {
        assert_eq!(with("[prod]\n", None), Ok(Profile::default()));
        assert_eq!(read_profile(Path::new("/nowhere"), None).expect("none"), Profile::default());
        let error = with(TWO, Some("test")).expect_err("no such profile");
        assert!(error.contains("no profile `test`") && error.contains("default, prod"), "{error}");
        let error = with("[default]\n\nadress = 'a:1'\n", None).expect_err("a typo");
        assert!(error.contains("line 3") && error.contains("adress"), "{error}");
    }

    #[test]
    fn a_token_file_holds_one_token() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("token");
        for (text, good) in [("synodkv_1_2\n", true), ("", false), (" \n", false), ("two tokens", false)] {
            std::fs::write(&file, text).expect("a file");
            assert_eq!(read_token(&file).is_ok(), good, "{text:?}");
        }
        let missing = read_token(&folder.path().join("none")).expect_err("no file").to_string();
        assert!(missing.contains("none"), "{missing}");
    }
}
