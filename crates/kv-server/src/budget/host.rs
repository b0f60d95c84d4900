//! The limits that the machine, the container and the parent process set for this process.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Linux by default allows no process more open files (`fs.nr_open`), whatever its limit says.
const MAX_DESCRIPTORS: u64 = 1 << 20;

/// The resources from which a budget is computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Files and sockets that this process may have open (`RLIMIT_NOFILE`).
    pub descriptors: u64,
    /// The memory that this process may use.
    pub memory: MemoryLimit,
    /// Processors that this process may use.
    pub processors: usize,
}

/// The memory that this process may use, and the origin of that limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryLimit {
    /// The limit.
    pub bytes: u64,
    /// The origin of the limit.
    pub origin: MemoryOrigin,
}

/// The origin of a memory limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemoryOrigin {
    /// The key `server.memory_limit_mb`.
    Setting,
    /// A file of a control group.
    ControlGroup(PathBuf),
    /// The memory of the machine.
    Machine,
}

impl std::fmt::Display for MemoryOrigin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            MemoryOrigin::Setting => f.write_str("server.memory_limit_mb"),
            MemoryOrigin::ControlGroup(path) => write!(f, "{}", path.display()),
            MemoryOrigin::Machine => f.write_str("the memory of the machine"),
        }
    }
}

impl Host {
    /// The resources of this process. Raises its soft limit of descriptors to the hard one.
    pub fn of_process() -> Host {
        Host {
            descriptors: raise_descriptors(),
            memory: memory_limit(Path::new("/")),
            // Follows the affinity of the process and the quota of its control groups.
            processors: std::thread::available_parallelism().map_or(2, usize::from),
        }
    }
}

/// Most systems start processes with a soft limit of 1,024, for the sake of old programs, and with
/// a far higher hard limit.
fn raise_descriptors() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let soft = limit.current.unwrap_or(MAX_DESCRIPTORS);
    let wanted = limit.maximum.unwrap_or(MAX_DESCRIPTORS).min(MAX_DESCRIPTORS);
    if wanted <= soft {
        return soft;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum }) {
        Ok(()) => wanted,
        Err(error) => {
            tracing::warn!(%error, "the soft limit of open files stays at {soft}; the hard limit is {wanted}");
            soft
        }
    }
}

/// The smallest limit of this process's control groups (version 1 or 2) and their ancestors;
/// without one, the memory of the machine. `root` is `/` except in tests.
fn memory_limit(root: &Path) -> MemoryLimit {
    let machine = MemoryLimit { bytes: machine_memory(root), origin: MemoryOrigin::Machine };
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let limits = groups.lines().flat_map(|line| limit_files(root, line)).filter_map(|path| {
        // `max` means no limit. Version 1 uses an impossibly large number instead.
        let bytes = fs::read_to_string(&path).ok()?.trim().parse().ok()?;
        Some(MemoryLimit { bytes, origin: MemoryOrigin::ControlGroup(path) })
    });
    limits.filter(|limit| limit.bytes < machine.bytes).min_by_key(|limit| limit.bytes).unwrap_or(machine)
}

/// The files that may hold limits for one line of `/proc/self/cgroup`: those of the group itself
/// and of each ancestor. Inside a container the path may be that of the host, of which only the top
/// is visible.
fn limit_files(root: &Path, line: &str) -> Vec<PathBuf> {
    let mut parts = line.splitn(3, ':');
    let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
        return Vec::new();
    };
    let (mounts, file): (&[&str], &str) = match controllers {
        "" => (&["sys/fs/cgroup", "sys/fs/cgroup/unified"], "memory.max"),
        list if list.split(',').any(|name| name == "memory") => (&["sys/fs/cgroup/memory"], "memory.limit_in_bytes"),
        _ => return Vec::new(),
    };
    let path = Path::new(path.trim_start_matches('/'));
    mounts.iter().flat_map(|mount| path.ancestors().map(move |group| root.join(mount).join(group).join(file))).collect()
}

fn machine_memory(root: &Path) -> u64 {
    let text = fs::read_to_string(root.join("proc/meminfo")).unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|rest| rest.split_whitespace().next()).and_then(|kib| kib.parse::<u64>().ok());
    // If nothing is known, nothing is limited.
    kib.map_or(u64::MAX, |kib| kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a folder");
        for (name, content) in files.iter().chain(&[("proc/meminfo", "MemTotal:       16777216 kB\nMemFree: 1 kB\n")]) {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().expect("within the root")).expect("a folder");
            fs::write(path, content).expect("a file");
        }
        root
    }

    fn limit(files: &[(&str, &str)]) -> (u64, String) {
        let root = machine(files);
        let limit = memory_limit(root.path());
        (limit.bytes, limit.origin.to_string().replace(&root.path().display().to_string(), ""))
    }

    #[test]
    fn without_control_groups_the_machine_is_the_limit() {
        assert_eq!(limit(&[]), (16 << 30, "the memory of the machine".into()));
    }

    #[test]
    fn the_smallest_limit_above_a_group_of_version_2_holds() {
        let files = [
            ("proc/self/cgroup", "0::/pods/one/container\n"),
            ("sys/fs/cgroup/pods/one/container/memory.max", "max\n"),
            ("sys/fs/cgroup/pods/one/memory.max", "1073741824\n"),
            ("sys/fs/cgroup/pods/memory.max", "2147483648\n"),
        ];
        assert_eq!(limit(&files), (1 << 30, "/sys/fs/cgroup/pods/one/memory.max".into()));
    }

    #[test]
    fn a_container_sees_its_own_group_as_the_top() {
        let version_2 = [("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/memory.max", "536870912\n")];
        assert_eq!(limit(&version_2), (512 << 20, "/sys/fs/cgroup/memory.max".into()));
        let version_1 = [
            ("proc/self/cgroup", "5:devices:/docker/ab\n4:cpu,memory:/docker/ab\n0::/docker/ab\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "268435456\n"),
        ];
        assert_eq!(limit(&version_1), (256 << 20, "/sys/fs/cgroup/memory/memory.limit_in_bytes".into()));
    }

    #[test]
    fn a_limit_beyond_the_machine_means_no_limit() {
        let files = [
            ("proc/self/cgroup", "4:memory:/a\n"),
            ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "9223372036854771712\n"),
        ];
        assert_eq!(limit(&files).1, "the memory of the machine");
    }

    #[test]
    fn the_soft_limit_of_descriptors_is_raised_to_the_hard_one() {
        let raised = raise_descriptors();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current.unwrap_or(MAX_DESCRIPTORS), raised);
        assert!(raised >= limit.maximum.unwrap_or(MAX_DESCRIPTORS).min(MAX_DESCRIPTORS));
    }
}
