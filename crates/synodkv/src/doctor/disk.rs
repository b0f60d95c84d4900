//! The disk of the data directory: its file system, its space, who may read it, and how fast it
//! syncs.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kv_server::Config;

use super::finding::Report;

/// Writes that are measured, unless the disk is so slow that the time is over before.
const SYNCS: usize = 200;
const SYNC_TIME: Duration = Duration::from_secs(3);
const WRITE_BYTES: usize = 4096;
const FILE_WRITES: u64 = 64;
/// A commit waits for one or two syncs.
const SLOW_MEDIAN: Duration = Duration::from_millis(10);
const SLOW_P99: Duration = Duration::from_millis(50);
/// No medium is faster, so the sync does not reach one.
const TOO_FAST: Duration = Duration::from_micros(4);
/// Below this share of the file system an operator should act.
const LITTLE_SPACE_PERCENT: u64 = 15;

/// The magic numbers of `statfs` that matter here.
const TMPFS: u64 = 0x0102_1994;
const RAMFS: u64 = 0x8584_58f6;
const OVERLAY: u64 = 0x794c_7630;
const NETWORK: [(u64, &str); 6] = [
    (0x6969, "NFS"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB"),
    (0x0102_1997, "9p"),
    (0x6573_5546, "FUSE"),
    (0x00c3_6400, "Ceph"),
];

pub fn check(config: &Config, report: &mut Report) {
    let directory = &config.storage.data_dir;
    let place = existing(directory);
    report.check("data_directory");
    if place != *directory {
        report.note(
            "no_data_yet",
            format!("{} does not exist yet; the checks are about {}", directory.display(), place.display()),
            "nothing: the first start makes it",
        );
    } else if let Ok(found) = std::fs::metadata(&place)
        && found.mode() & 0o007 != 0
    {
        report.warn(
            "data_directory_open_to_all",
            format!("every user of this machine can look into {} (mode {:03o})", place.display(), found.mode() & 0o777),
            format!("chmod 750 {}", directory.display()),
        );
    }
    file_system(&place, report);
    space(&place, config, report);
    sync_speed(&place, report);
}

/// The directory, or the nearest one above it that exists.
fn existing(directory: &Path) -> PathBuf {
    let above = directory.ancestors().find(|path| path.is_dir());
    above.filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_path_buf()
}

fn file_system(place: &Path, report: &mut Report) {
    report.check("file_system");
    let kind = match rustix::fs::statfs(place) {
        // Its sign depends on the machine; a magic number has 32 bits.
        Ok(found) => (found.f_type as u64) & 0xffff_ffff,
        Err(error) => return report.skip("file_system", format!("{}: {error}", place.display())),
    };
    let place = place.display();
    if kind == TMPFS || kind == RAMFS {
        report.error(
            "data_in_memory",
            format!("{place} is a file system in memory (tmpfs): a restart of the machine loses everything"),
            "put storage.data_dir on a disk",
        );
    } else if let Some((_, name)) = NETWORK.iter().find(|(magic, _)| *magic == kind) {
        report.warn(
            "network_file_system",
            format!("{place} is on {name}: syncs are slow there, locks may not hold, and it may stop as a whole"),
            "put storage.data_dir on a local disk, or on a block device; the replicas are the redundancy",
        );
    } else if kind == OVERLAY {
        report.warn(
            "data_in_container_layer",
            format!(
                "{place} is on overlayfs, most likely the writable layer of a container: it goes with the container"
            ),
            "mount a volume at storage.data_dir",
        );
    }
}

fn space(place: &Path, config: &Config, report: &mut Report) {
    report.check("free_space");
    let found = match rustix::fs::statvfs(place) {
        Ok(found) => found,
        Err(error) => return report.skip("free_space", format!("{}: {error}", place.display())),
    };
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    let all = found.f_blocks.saturating_mul(found.f_frsize);
    report.measured("free_bytes", free);
    let (free_mib, minimum) = (free >> 20, config.storage.min_free_mb);
    let remedy = "make space on that file system, or move storage.data_dir to a larger one";
    if config.storage.min_free_bytes() > 0 && free < config.storage.min_free_bytes() {
        let text = format!(
            "{free_mib} MiB are free in {}, less than storage.min_free_mb = {minimum}: writes are refused",
            place.display()
        );
        report.error("disk_full", text, remedy);
    } else if all > 0 && free.saturating_mul(100) / all < LITTLE_SPACE_PERCENT {
        let percent = free.saturating_mul(100) / all;
        report.warn("little_space", format!("{percent} % ({free_mib} MiB) are free in {}", place.display()), remedy);
    }
    if found.f_files > 0 && found.f_favail < 1000 {
        report.warn("few_inodes", format!("only {} more files fit in {}", found.f_favail, place.display()), remedy);
    }
}

fn sync_speed(place: &Path, report: &mut Report) {
    report.check("disk_sync");
    let times = match measure(place) {
        Ok(times) => times,
        Err(error) => {
            let text = format!("cannot write to {}: {error}", place.display());
            return report.error(
                "data_directory_not_writable",
                text,
                "run this as the user of the server, or correct the owner and the mode",
            );
        }
    };
    let (median, p99) = (at(&times, 50), at(&times, 99));
    report.measured("sync_p50_us", median.as_micros() as u64);
    report.measured("sync_p99_us", p99.as_micros() as u64);
    let text = format!(
        "a synced write of 4 KiB in {} takes {:.1} ms (median) and {:.1} ms (99th percentile of {})",
        place.display(),
        median.as_secs_f64() * 1e3,
        p99.as_secs_f64() * 1e3,
        times.len()
    );
    if median >= SLOW_MEDIAN || p99 >= SLOW_P99 {
        report.warn("slow_disk_sync", text, "every commit waits for it: use an SSD with power-loss protection, and nothing else on that disk; `synodkv bench-disk` measures longer");
    } else if median < TOO_FAST {
        report.note("sync_without_effect", format!("{text}, which no disk can do"), "check that syncs reach the disk (cache settings of the virtual machine, mount options): power failures lose data otherwise");
    }
}

/// The times of synced writes, ascending. Their file has no name, so that it vanishes with this
/// process however that ends.
fn measure(place: &Path) -> std::io::Result<Vec<Duration>> {
    let path = place.join(format!(".synodkv-doctor-{}", std::process::id()));
    let file: File = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    std::fs::remove_file(&path)?;
    let block = [0x5a_u8; WRITE_BYTES];
    for number in 0..FILE_WRITES {
        file.write_all_at(&block, number * WRITE_BYTES as u64)?;
    }
    file.sync_all()?;
    let (started, mut times) = (Instant::now(), Vec::with_capacity(SYNCS));
    for number in 0..SYNCS as u64 {
        let begun = Instant::now();
        file.write_all_at(&block, number % FILE_WRITES * WRITE_BYTES as u64)?;
        file.sync_data()?;
        times.push(begun.elapsed());
        if started.elapsed() > SYNC_TIME {
            break;
        }
    }
    times.sort();
    Ok(times)
}

/// A percentile of ascending times; there is at least one.
fn at(times: &[Duration], percent: usize) -> Duration {
    times[((times.len() - 1) * percent).div_ceil(100)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_times() {
        let times: Vec<Duration> = (1..=200).map(Duration::from_micros).collect();
        assert_eq!((at(&times, 50), at(&times, 99)), (Duration::from_micros(101), Duration::from_micros(199)));
        assert_eq!(at(&times[..1], 99), Duration::from_micros(1));
    }

    #[test]
    fn the_measurement_leaves_no_file() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(!measure(folder.path()).expect("writable").is_empty());
        assert_eq!(std::fs::read_dir(folder.path()).expect("readable").count(), 0);
    }

    #[test]
    fn a_directory_that_does_not_exist_is_looked_for_above() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(existing(&folder.path().join("a/b")), folder.path());
        assert_eq!(existing(Path::new("surely-not-there/b")), Path::new("."));
    }
}
