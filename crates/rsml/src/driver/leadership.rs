//! Log lines about leadership: one per view, and one if there has been no primary for a while.

use std::fmt;
use std::time::{Duration, Instant as StdInstant};

use super::status::RoleChange;
use crate::{ReplicaId, View};

/// Elections take a fraction of a second. If there is no primary for this long, something is wrong.
const NO_PRIMARY_PATIENCE: Duration = Duration::from_secs(10);

/// An event to be logged.
#[derive(Debug, PartialEq, Eq)]
pub enum News {
    /// `primary` serves requests in `view`.
    Leads { primary: ReplicaId, view: View, former: Option<ReplicaId> },
    /// There has been no primary for [`NO_PRIMARY_PATIENCE`].
    NobodyLeads,
}

/// Remembers what was logged last.
pub struct Leadership {
    logged: Option<(View, ReplicaId)>,
    /// When the primary was lost.
    missing_since: Option<StdInstant>,
    logged_missing: bool,
}

impl Leadership {
    pub fn new() -> Self {
        Leadership { logged: None, missing_since: None, logged_missing: false }
    }

    /// Takes note of a role. Returns what is to be logged, if anything.
    pub fn observe(&mut self, role: &RoleChange, now: StdInstant) -> Option<News> {
        let Some(primary) = role.primary.filter(|_| role.established) else {
            let since = *self.missing_since.get_or_insert(now);
            if self.logged_missing || now.saturating_duration_since(since) < NO_PRIMARY_PATIENCE {
                return None;
            }
            self.logged_missing = true;
            return Some(News::NobodyLeads);
        };
        self.missing_since = None;
        let was_missing = std::mem::take(&mut self.logged_missing);
        if self.logged == Some((role.view, primary)) && !was_missing {
            return None;
        }
        let former = self.logged.replace((role.view, primary)).map(|(_, former)| former);
        Some(News::Leads { primary, view: role.view, former })
    }
}

impl News {
    pub fn log(&self, replica: ReplicaId) {
        match self {
            News::Leads { primary, view, .. } => {
                tracing::info!(replica = replica.0, view = view.0, primary = primary.0, "{self}");
            }
            News::NobodyLeads => tracing::warn!(replica = replica.0, "{self}"),
        }
    }
}

impl fmt::Display for News {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            News::Leads { primary, view, former: None } => write!(f, "replica {primary} is primary of view {view}"),
            News::Leads { primary, view, former: Some(former) } if former == primary => {
                write!(f, "replica {primary} is primary of view {view} (as before)")
            }
            News::Leads { primary, view, former: Some(former) } => {
                write!(f, "replica {primary} is primary of view {view} (was replica {former})")
            }
            News::NobodyLeads => write!(
                f,
                "no primary for {} s, and writes wait for one. A majority of the replicas must run and be connected: \
                 start those that are missing; /status names them",
                NO_PRIMARY_PATIENCE.as_secs()
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(view: u64, primary: Option<u8>, established: bool) -> RoleChange {
        let primary = primary.map(ReplicaId);
        RoleChange { view: View(view), primary, is_primary: false, established, recovered: false, failed: None }
    }

    /// The lines logged for these roles, observed one per second.
    fn logged(roles: &[RoleChange]) -> Vec<String> {
        let (mut leadership, start) = (Leadership::new(), StdInstant::now());
        let at = |seconds: usize| start + Duration::from_secs(seconds as u64);
        let news = roles.iter().enumerate().filter_map(|(second, role)| leadership.observe(role, at(second)));
        news.map(|news| news.to_string()).collect()
    }

    #[test]
    fn an_election_is_one_line_however_many_steps_it_takes() {
        let steps = [
            role(256, Some(0), true),
            role(256, Some(0), true),
            role(256, None, false),
            role(513, None, false),
            role(513, Some(1), false),
            role(513, Some(1), true),
            role(768, Some(0), true),
            role(1024, Some(0), true),
        ];
        let lines = [
            "replica 0 is primary of view 256",
            "replica 1 is primary of view 513 (was replica 0)",
            "replica 0 is primary of view 768 (was replica 1)",
            "replica 0 is primary of view 1024 (as before)",
        ];
        assert_eq!(logged(&steps), lines);
    }

    #[test]
    fn a_cluster_without_a_primary_logs_that_once_and_when_it_has_one_again() {
        let mut steps = vec![role(256, Some(0), true)];
        steps.resize(30, role(256, None, false));
        steps.push(role(256, Some(0), true));
        let lines = logged(&steps);
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(lines[1].starts_with("no primary for 10 s"), "{lines:?}");
        assert_eq!(lines[2], "replica 0 is primary of view 256 (as before)");
    }
}
