//! The machine: limits of the process, swap and overcommit.

use std::path::Path;

use kv_server::Config;
use kv_server::budget::{Budget, Host};

use super::finding::Report;

/// The limits of this process, which are those of the server if the same user starts it the same
/// way.
pub fn limits(config: &Config, report: &mut Report) {
    report.check("limits");
    let host = Host::of_process();
    report.measured("descriptors", host.descriptors);
    match Budget::plan(&mut config.clone(), &host) {
        Ok(budget) => {
            for problem in budget.problems() {
                report.warn(problem.kind, problem.text, problem.remedy);
            }
        }
        Err(error) => report.error(
            "limits_too_small",
            format!("a server with this configuration does not start here: {error}"),
            "raise the limit: LimitNOFILE= and MemoryMax= of systemd, `ulimit -Hn`, the limits of the container",
        ),
    }
}

/// Swap and overcommit as the kernel shows them below `root`.
pub fn memory(root: &Path, report: &mut Report) {
    report.check("swap");
    let read = |path: &str| std::fs::read_to_string(root.join(path));
    match read("proc/swaps") {
        Err(error) => report.skip("swap", format!("/proc/swaps: {error}")),
        Ok(text) => {
            let areas: Vec<&str> = text.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
            let swappiness = read("proc/sys/vm/swappiness").ok().and_then(|text| text.trim().parse::<u32>().ok());
            if let (false, Some(swappiness @ 2..)) = (areas.is_empty(), swappiness) {
                report.warn(
                    "swap",
                    format!("this machine may swap to {} (vm.swappiness = {swappiness}): a server that is swapped out misses heartbeats, and loses its primary", areas.join(", ")),
                    "swapoff -a, or MemorySwapMax=0 in the unit, or vm.swappiness = 1",
                );
            }
        }
    }
    report.check("overcommit");
    match read("proc/sys/vm/overcommit_memory") {
        Err(error) => report.skip("overcommit", format!("/proc/sys/vm/overcommit_memory: {error}")),
        Ok(text) if text.trim() == "2" => report.warn(
            "overcommit",
            "vm.overcommit_memory = 2: the system refuses memory that is reserved and not used yet, and a refusal ends the server",
            "vm.overcommit_memory = 0, and a limit on the server instead (MemoryMax= of systemd)",
        ),
        Ok(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let root = tempfile::tempdir().expect("a folder");
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().expect("below the root")).expect("made");
            std::fs::write(path, text).expect("written");
        }
        let mut report = Report::default();
        memory(root.path(), &mut report);
        report.names().into_iter().map(str::to_string).collect()
    }

    const HEADING: &str = "Filename Type Size Used Priority\n";

    #[test]
    fn swap_matters_where_the_kernel_uses_it() {
        let area = format!("{HEADING}/dev/sda2 partition 1000 0 -2\n");
        assert_eq!(found(&[("proc/swaps", &area), ("proc/sys/vm/swappiness", "60\n")]), ["swap"]);
        assert!(found(&[("proc/swaps", &area), ("proc/sys/vm/swappiness", "1\n")]).is_empty());
        assert!(found(&[("proc/swaps", HEADING), ("proc/sys/vm/swappiness", "60\n")]).is_empty());
    }

    #[test]
    fn strict_overcommit_is_found() {
        assert_eq!(found(&[("proc/sys/vm/overcommit_memory", "2\n")]), ["overcommit"]);
        assert!(found(&[("proc/sys/vm/overcommit_memory", "1\n")]).is_empty());
    }
}
