//! Credentials of a store, from a file that nobody else can read. Without a file the environment
//! has them. They are never part of a URL, which ends up in histories and process lists.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::BackupError;

/// A file of credentials is never longer.
const MAX_BYTES: u64 = 64 << 10;

/// Settings of a store by the names of their environment variables, such as `AWS_ACCESS_KEY_ID`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials(BTreeMap<String, String>);

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Credentials {
    /// Reads lines `NAME=value`; empty ones and those that begin with `#` are skipped.
    ///
    /// # Errors
    /// The file cannot be read, others may read it, or a line is none of these.
    pub fn from_file(path: &Path) -> Result<Credentials, BackupError> {
        let shown = path.display();
        let text = read_secret("credentials", path)?;
        let mut settings = BTreeMap::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, value) = line.split_once('=').ok_or_else(|| {
                BackupError::Input(format!(
                    "{shown}, line {number}: expected NAME=value, for example AWS_ACCESS_KEY_ID=…"
                ))
            })?;
            settings.insert(name.trim().to_string(), value.trim().trim_matches('"').to_string());
        }
        Ok(Credentials(settings))
    }

    /// Names and values.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// Reads a file that only its owner may read. `what` names it in messages.
pub(crate) fn read_secret(what: &str, path: &Path) -> Result<String, BackupError> {
    let shown = path.display();
    let failed = |error: std::io::Error| BackupError::Input(format!("cannot read the {what} in {shown}: {error}"));
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if metadata.is_dir() {
        return Err(BackupError::Input(format!("{shown} is a directory; the {what} are read from a file")));
    }
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(BackupError::Input(format!(
            "{shown} holds the {what} and has mode {mode:04o}: others may read it. Make it private: chmod 600 {shown}"
        )));
    }
    let mut text = String::new();
    file.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(BackupError::Input(format!("{shown} is longer than {MAX_BYTES} bytes: is it a file of {what}?")));
    }
    Ok(text)
}

/// Writes a new file that only its owner may read.
pub(crate) fn write_secret(path: &Path, text: &str) -> Result<(), BackupError> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let failed = |error: std::io::Error| BackupError::Input(format!("cannot write {}: {error}", path.display()));
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str, mode: u32) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("credentials");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        (folder, path)
    }

    #[test]
    fn a_file_that_others_may_read_is_refused_with_the_remedy() {
        let (_folder, path) = file("AWS_ACCESS_KEY_ID=a", 0o640);
        let error = Credentials::from_file(&path).unwrap_err().to_string();
        assert!(error.contains("mode 0640") && error.contains("chmod 600"), "{error}");
    }

    #[test]
    fn lines_are_settings_and_a_wrong_one_is_named() {
        let (_folder, path) = file("# of the bucket\nAWS_ACCESS_KEY_ID=a\n\nAWS_SECRET_ACCESS_KEY = \"b=c\"\n", 0o600);
        let read = Credentials::from_file(&path).unwrap();
        let settings: Vec<_> = read.iter().collect();
        assert_eq!(settings, [("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b=c")]);
        assert!(!format!("{read:?}").contains("b=c"), "secrets are not shown");
        let (_folder, path) = file("A=b\nsecret\n", 0o600);
        let error = Credentials::from_file(&path).unwrap_err().to_string();
        assert!(error.contains("line 2") && !error.contains("secret"), "{error}");
    }
}
