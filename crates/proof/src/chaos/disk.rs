//! A file system for each replica, so that it can be full or hang without the machine being so.
//!
//! Best is a file that is mounted as a disk (ext4): it synchronises for real and can hang. Where
//! that is not allowed, a tmpfs can at least be full. Where nothing may be mounted, the folder
//! itself is used, and the faults are left out.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The file that takes all the space; never that of a replica.
const FILLER: &str = "filler";
/// Sparse: it takes what is written to it.
const IMAGE_BYTES: u64 = 6 << 30;
/// Of the free space, what is not reserved in one piece but written.
const REST_BYTES: u64 = 4 << 20;
const TMPFS_BYTES: u64 = 2 << 30;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskKind {
    Image,
    Tmpfs,
    Folder,
}

impl fmt::Display for DiskKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DiskKind::Image => "each replica has an ext4 file system of its own: it can be full, and it can hang",
            DiskKind::Tmpfs => "each replica has a tmpfs of its own: it can be full; nothing is really synchronised",
            DiskKind::Folder => "no file system can be mounted here: full and hanging disks are left out",
        })
    }
}

pub struct Disk {
    kind: DiskKind,
    place: PathBuf,
    is_frozen: bool,
}

fn command<A: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = A>) -> Result<String, String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }
}

impl Disk {
    /// The best disk that can be had at `folder/name`.
    pub fn create(folder: &Path, name: &str) -> Result<Disk, String> {
        let place = folder.join(name);
        std::fs::create_dir_all(&place).map_err(|error| format!("{}: {error}", place.display()))?;
        let kind = if mount_image(&folder.join(format!("{name}.ext4")), &place).is_ok() {
            DiskKind::Image
        } else if mount_tmpfs(&place).is_ok() {
            DiskKind::Tmpfs
        } else {
            DiskKind::Folder
        };
        Ok(Disk { kind, place, is_frozen: false })
    }

    pub fn kind(&self) -> DiskKind {
        self.kind
    }

    pub fn place(&self) -> &Path {
        &self.place
    }

    /// Takes all space that is left. False: not possible here.
    pub fn fill(&self) -> Result<bool, String> {
        if self.kind == DiskKind::Folder {
            return Ok(false);
        }
        let filler = self.place.join(FILLER);
        let place = self.place.as_os_str();
        let free = command("df", [OsStr::new("--output=avail"), OsStr::new("-B1"), place])?;
        let free: u64 = free.lines().last().and_then(|line| line.trim().parse().ok()).ok_or("df says nothing")?;
        let most = free.saturating_sub(REST_BYTES).max(1).to_string();
        command("fallocate", [OsStr::new("-l"), OsStr::new(&most), filler.as_os_str()])?;
        // The rest in small pieces, to the last one: that this fails is the aim.
        let rest = format!("of={}", self.place.join(FILLER.to_string() + "-rest").display());
        let _no_space_left = command("dd", ["if=/dev/zero", &rest, "bs=4096", "status=none"]);
        Ok(true)
    }

    pub fn free(&self) {
        for name in [FILLER.to_string(), FILLER.to_string() + "-rest"] {
            // It may not be there.
            let _ = std::fs::remove_file(self.place.join(name));
        }
    }

    /// Lets no write return. False: not possible here.
    pub fn freeze(&mut self) -> Result<bool, String> {
        if self.kind != DiskKind::Image {
            return Ok(false);
        }
        command("fsfreeze", [OsStr::new("-f"), self.place.as_os_str()])?;
        self.is_frozen = true;
        Ok(true)
    }

    pub fn thaw(&mut self) {
        if self.is_frozen {
            self.is_frozen = false;
            if let Err(reason) = command("fsfreeze", [OsStr::new("-u"), self.place.as_os_str()]) {
                eprintln!("{} stays frozen: {reason}", self.place.display());
            }
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.thaw();
        self.free();
        if self.kind != DiskKind::Folder
            && let Err(reason) = command("umount", [self.place.as_os_str()])
        {
            eprintln!("{} stays mounted: {reason}", self.place.display());
        }
    }
}

fn mount_image(image: &Path, place: &Path) -> Result<(), String> {
    let file = std::fs::File::create(image).map_err(|error| error.to_string())?;
    file.set_len(IMAGE_BYTES).map_err(|error| error.to_string())?;
    let made = command("mkfs.ext4", [OsStr::new("-q"), OsStr::new("-m0"), image.as_os_str()]);
    let mounted = made.and_then(|_| command("mount", [OsStr::new("-oloop"), image.as_os_str(), place.as_os_str()]));
    if mounted.is_err() {
        // Nobody uses it.
        let _ = std::fs::remove_file(image);
    }
    mounted.map(|_| ())
}

fn mount_tmpfs(place: &Path) -> Result<(), String> {
    let size = format!("-osize={TMPFS_BYTES}");
    command("mount", [OsStr::new("-ttmpfs"), OsStr::new(&size), OsStr::new("tmpfs"), place.as_os_str()]).map(|_| ())
}
