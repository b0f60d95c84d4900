//! The folder in which certificates are made.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// Only the owner may read a private key.
const SECRET: u32 = 0o600;
const PUBLIC: u32 = 0o644;

/// A certificate and its key.
pub struct Made {
    /// In PEM.
    pub certificate: String,
    /// In PEM, without a password.
    pub key: String,
    /// The last day.
    pub until: String,
}

/// A folder with an authority and the certificates that it signed.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(path: PathBuf) -> Self {
        Folder(path)
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.0.join(file)
    }

    /// The certificate and the key with this name.
    pub fn read(&self, name: &str) -> Result<(String, String), Failure> {
        let read = |path: PathBuf| {
            fs::read_to_string(&path).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => Failure::Usage(format!(
                    "there is no authority in {}: make one with `synodkv cert init`, or give its folder with --dir",
                    self.0.display()
                )),
                _ => Failure::Failed(format!("cannot read {}: {error}", path.display())),
            })
        };
        Ok((read(self.path(&format!("{name}.pem")))?, read(self.path(&format!("{name}.key")))?))
    }

    /// Refuses a name whose files exist.
    pub fn check_free(&self, name: &str) -> Result<(), Failure> {
        let paths = [format!("{name}.pem"), format!("{name}.key")].map(|file| self.path(&file));
        match paths.iter().find(|path| path.exists()) {
            None => Ok(()),
            Some(path) => Err(Failure::Failed(format!(
                "{} exists already{}",
                path.display(),
                if name == "ca" { "" } else { ": --renew replaces it" }
            ))),
        }
    }

    /// Writes both files, and returns their names. Each is replaced as a whole, so that a server
    /// never reads half of one.
    pub fn write(&self, name: &str, made: &Made, may_replace: bool) -> Result<String, Failure> {
        if !may_replace {
            self.check_free(name)?;
        }
        let failed =
            |path: &Path, error: io::Error| Failure::Failed(format!("cannot write {}: {error}", path.display()));
        let created = fs::DirBuilder::new().recursive(true).mode(0o755).create(&self.0);
        created.map_err(|error| failed(&self.0, error))?;
        let (certificate, key) = (self.path(&format!("{name}.pem")), self.path(&format!("{name}.key")));
        replace(&key, &made.key, SECRET).map_err(|error| failed(&key, error))?;
        replace(&certificate, &made.certificate, PUBLIC).map_err(|error| failed(&certificate, error))?;
        Ok(format!("{} and {}", certificate.display(), key.display()))
    }
}

fn replace(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut new = path.as_os_str().to_os_string();
    new.push(".new");
    let new = PathBuf::from(new);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file: File = File::options().write(true).create_new(true).mode(mode).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)
}
