//! Versions: read and commit versions agree with real time.
//!
//! Strict serializability as far as versions alone show it: after a client has received a version
//! (a read or commit version), later calls get a read version no lower and a commit version that is
//! higher; and no two commits have one version. O(n log n) by one pass over time. The values read
//! at a version do not matter.

use super::{Verdict, Violation};
use crate::history::{Operation, Outcome};

/// The version that a client received. Only operations with the outcome Ok count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionKind {
    /// `getReadVersion`, or the version at which a linearizable read was served.
    Read(u64),
    /// A transaction that wrote something, committed at this version.
    Commit(u64),
}

impl VersionKind {
    fn version(self) -> u64 {
        match self {
            VersionKind::Read(version) | VersionKind::Commit(version) => version,
        }
    }
}

pub fn check(history: &[Operation<VersionKind>]) -> Verdict {
    let mut told: Vec<&Operation<VersionKind>> = history.iter().filter(|o| o.outcome == Outcome::Ok).collect();
    check_unique(&told)?;
    let mut by_return = told.clone();
    by_return.sort_by_key(|operation| operation.returned_us);
    told.sort_by_key(|operation| operation.called_us);
    let mut returned = by_return.into_iter().peekable();
    let mut highest: Option<&Operation<VersionKind>> = None;
    for operation in told {
        while let Some(earlier) = returned.next_if(|earlier| earlier.returned_us < operation.called_us) {
            if highest.is_none_or(|known| known.kind.version() < earlier.kind.version()) {
                highest = Some(earlier);
            }
        }
        let Some(known) = highest else { continue };
        let version = known.kind.version();
        let anomaly = match operation.kind {
            VersionKind::Read(read) if read < version => "non-monotone read version",
            VersionKind::Commit(commit) if commit <= version => "non-monotone commit version",
            _ => continue,
        };
        let story = format!(
            "client {} got {:?} at {} us, after client {} had got {:?} at {} us",
            operation.client.0, operation.kind, operation.called_us, known.client.0, known.kind, known.returned_us
        );
        return Err(Violation::new("versions", anomaly, story));
    }
    Ok(())
}

fn check_unique(told: &[&Operation<VersionKind>]) -> Verdict {
    let mut commits: Vec<u64> = told
        .iter()
        .filter_map(|operation| match operation.kind {
            VersionKind::Commit(version) => Some(version),
            VersionKind::Read(_) => None,
        })
        .collect();
    commits.sort_unstable();
    match commits.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(Violation::new("versions", "commit version given twice", format!("version {}", pair[0]))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::VersionKind::{Commit, Read};
    use super::*;
    use crate::history::ClientId;

    fn told(called_us: u64, returned_us: u64, kind: VersionKind) -> Operation<VersionKind> {
        Operation { client: ClientId(called_us), called_us, returned_us, kind, outcome: Outcome::Ok }
    }

    #[test]
    fn versions_that_follow_real_time_are_accepted() {
        let history = [
            told(0, 10, Commit(5)),
            told(11, 20, Read(5)),
            told(12, 30, Commit(6)),
            told(13, 21, Read(6)),
            told(31, 32, Read(6)),
        ];
        check(&history).expect("in order");
    }

    #[test]
    fn overlapping_calls_may_get_any_order() {
        check(&[told(0, 10, Read(9)), told(10, 20, Read(3)), told(5, 30, Commit(4))]).expect("they overlap");
    }

    #[test]
    fn bad_versions_are_rejected_by_name() {
        let cases = [
            ([told(0, 10, Read(6)), told(11, 20, Read(5))], "non-monotone read version"),
            ([told(0, 10, Commit(6)), told(11, 20, Read(5))], "non-monotone read version"),
            ([told(0, 10, Read(6)), told(11, 20, Commit(6))], "non-monotone commit version"),
            ([told(0, 10, Commit(6)), told(11, 20, Commit(5))], "non-monotone commit version"),
            ([told(0, 10, Commit(6)), told(5, 20, Commit(6))], "commit version given twice"),
        ];
        for (history, anomaly) in cases {
            assert_eq!(check(&history).expect_err(anomaly).anomaly, anomaly);
        }
    }
}
