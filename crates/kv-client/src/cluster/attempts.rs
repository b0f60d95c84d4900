//! The attempts at one request: what may be tried after a failure, and which error sums up all
//! failures.
//!
//! A commit with an idempotency id is sent again whenever it is unknown whether it happened. Once a
//! copy of it may be in flight, an answer of "not committed" holds only for the attempt that got
//! it. The exceptions are a conflict and a version that is too old: these hold for every copy,
//! because later writes stay written.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::backoff::{Backoff, deadline_after};
use crate::request::{CallOptions, Target};
use crate::{ClientError, ErrorCode, Options};

/// What to do after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NextStep {
    /// Every replica would give the same answer.
    GiveUp,
    /// Another replica may do it.
    OtherReplica,
    /// It may work after a pause.
    AfterPause,
    /// This replica is behind; the primary is not.
    Primary,
}

fn next_step(error: &ClientError, call: &CallOptions) -> NextStep {
    match error {
        ClientError::Unreachable { .. }
        | ClientError::ConnectionLost { .. }
        | ClientError::DeadlineExceeded { .. }
        | ClientError::Malformed { .. } => NextStep::OtherReplica,
        ClientError::Exception { maybe_committed: true, .. } => NextStep::AfterPause,
        ClientError::Refused { code, .. } => match code {
            ErrorCode::NoPrimary | ErrorCode::Timeout | ErrorCode::CommitUnknownResult => NextStep::OtherReplica,
            ErrorCode::Overloaded | ErrorCode::StorageFull => NextStep::AfterPause,
            ErrorCode::FutureVersion | ErrorCode::TransactionTooOld if call.target == Target::Any => NextStep::Primary,
            _ => NextStep::GiveUp,
        },
        _ => NextStep::GiveUp,
    }
}

/// Whether this answer to one copy of a commit holds for all copies.
fn holds_for_all_copies(error: &ClientError) -> bool {
    matches!(error.code(), Some(ErrorCode::Conflict | ErrorCode::TransactionTooOld))
}

/// The primary's address, if the server that refused a request named it.
pub(super) fn leader_hint(error: &ClientError) -> Option<&str> {
    let ClientError::Refused { message, leader_endpoint, .. } = error else { return None };
    let address = leader_endpoint.as_deref().or_else(|| leader_in_text(message));
    address.filter(|address| address.contains(':'))
}

/// The address in `Not leader, try leader at: HOST:PORT (node N)`. Servers that are older than the
/// field `leader_endpoint` name the primary only in this text. Remove this one release after the
/// field was introduced.
fn leader_in_text(message: &str) -> Option<&str> {
    let (_, rest) = message.split_once("try leader at: ")?;
    rest.split_whitespace().next()
}

pub(super) struct Attempts {
    pub call: CallOptions,
    /// Replicas that failed since the last pause.
    pub tried: Vec<Arc<str>>,
    backoff: Backoff,
    /// How long the next attempt may take.
    patience: Duration,
    begun: Instant,
    count: u32,
    /// Whether a copy of the commit may have happened, or may still happen.
    pub is_in_doubt: bool,
    /// The replicas that could not be reached, with the reasons. Right after a pause these are
    /// still those of the previous round.
    unreachable: Vec<(String, String)>,
    last: Option<ClientError>,
}

impl Attempts {
    pub fn new(call: CallOptions, options: &Options) -> Self {
        Attempts {
            call,
            tried: Vec::new(),
            backoff: Backoff::new(options),
            patience: options.attempt_timeout,
            begun: Instant::now(),
            count: 0,
            is_in_doubt: false,
            unreachable: Vec::new(),
            last: None,
        }
    }

    /// When to give up the next attempt.
    pub fn attempt_deadline(&self) -> Instant {
        self.call.deadline.min(deadline_after(self.patience))
    }

    /// Records a failure, and pauses if the next attempt should come later. Returns an error if no
    /// further attempt may be made.
    pub async fn record(&mut self, replica: &Arc<str>, error: ClientError) -> Result<(), ClientError> {
        self.count += 1;
        if self.tried.is_empty() {
            self.unreachable.clear();
        }
        self.tried.push(replica.clone());
        self.is_in_doubt |= error.maybe_committed();
        let next = match next_step(&error, &self.call) {
            NextStep::OtherReplica | NextStep::AfterPause if error.maybe_committed() && !self.call.has_id => {
                NextStep::GiveUp
            }
            next => next,
        };
        match &error {
            ClientError::Unreachable { attempts } => self.unreachable.extend(attempts.iter().cloned()),
            ClientError::DeadlineExceeded { .. } => self.patience = self.patience.saturating_mul(2),
            _ => {}
        }
        let is_settled = holds_for_all_copies(&error);
        self.last = Some(error);
        match next {
            NextStep::GiveUp if is_settled => {
                self.is_in_doubt = false;
                Err(self.final_error())
            }
            NextStep::GiveUp => Err(self.final_error()),
            NextStep::OtherReplica => Ok(()),
            NextStep::AfterPause => self.pause().await,
            NextStep::Primary => {
                self.call.target = Target::Primary;
                Ok(())
            }
        }
    }

    /// Pauses before all replicas may be tried again. Returns an error if there is no time left.
    pub async fn pause(&mut self) -> Result<(), ClientError> {
        let resume_at = Instant::now() + self.backoff.pause();
        if resume_at >= self.call.deadline {
            return Err(self.final_error());
        }
        sleep_until(resume_at).await;
        self.tried.clear();
        Ok(())
    }

    /// Returns an error if there is no time for another attempt.
    pub fn check_deadline(&mut self) -> Result<(), ClientError> {
        if Instant::now() < self.call.deadline { Ok(()) } else { Err(self.final_error()) }
    }

    /// The error that sums up all failures.
    fn final_error(&mut self) -> ClientError {
        match self.last.take() {
            Some(last) if self.is_in_doubt && self.call.has_id => {
                ClientError::CommitUnknown { attempts: self.count, last: Box::new(last) }
            }
            Some(ClientError::Unreachable { .. }) => {
                ClientError::Unreachable { attempts: std::mem::take(&mut self.unreachable) }
            }
            Some(last) => last,
            None => {
                let timeout_ms = (self.call.deadline - self.begun).as_millis() as u64;
                ClientError::DeadlineExceeded {
                    endpoint: "the cluster".to_string(),
                    timeout_ms,
                    maybe_committed: false,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Access;

    fn refused(code: &str) -> ClientError {
        ClientError::refused(Some(code), code.to_string(), None)
    }

    fn call(access: Access, target: Target, has_id: bool) -> CallOptions {
        CallOptions { target, access, has_id, deadline: Instant::now() + Duration::from_secs(60), cost_bytes: 0 }
    }

    fn commit(has_id: bool) -> Attempts {
        Attempts::new(call(Access::Write, Target::Primary, has_id), &Options::default())
    }

    #[test]
    fn the_primary_is_named_by_the_field_or_else_by_the_text() {
        let text = "Not leader, try leader at: 10.0.0.1:9091 (node 2)";
        let hint = |text: &str, field: Option<&str>| {
            let error = ClientError::refused(Some("NO_PRIMARY"), text.to_string(), field.map(str::to_string));
            leader_hint(&error).map(str::to_string)
        };
        assert_eq!(hint(text, Some("10.0.0.2:9091")).as_deref(), Some("10.0.0.2:9091"));
        assert_eq!(hint("no text of a known form", Some("10.0.0.2:9091")).as_deref(), Some("10.0.0.2:9091"));
        assert_eq!(hint(text, None).as_deref(), Some("10.0.0.1:9091"));
        assert_eq!(hint("no primary", None), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_conflict_holds_for_every_copy_and_other_refusals_only_for_their_own() {
        for (code, is_unknown) in [
            ("CONFLICT", false),
            ("TRANSACTION_TOO_OLD", false),
            ("UNKNOWN_COLUMN_FAMILY", true),
            ("FUTURE_VERSION", true),
            ("INVALID_OPERATION", true),
            ("FORBIDDEN", true),
            ("UNAUTHENTICATED", true),
        ] {
            let mut attempts = commit(true);
            attempts.record(&"a:1".into(), refused("COMMIT_UNKNOWN_RESULT")).await.expect("it is sent again");
            let error = attempts.record(&"b:1".into(), refused(code)).await.expect_err("no further attempt");
            assert_eq!(error.maybe_committed(), is_unknown, "{error:?}");
            assert_eq!(matches!(error, ClientError::CommitUnknown { attempts: 2, .. }), is_unknown, "{error:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_an_id_an_unknown_result_ends_the_attempts() {
        let mut attempts = commit(false);
        let lost =
            ClientError::ConnectionLost { endpoint: "a:1".into(), reason: "reset".into(), maybe_committed: true };
        assert_eq!(attempts.record(&"a:1".into(), lost.clone()).await, Err(lost));
        let mut attempts = commit(false);
        attempts.record(&"a:1".into(), refused("NO_PRIMARY")).await.expect("it is known not to be committed");
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_end_at_the_deadline_with_everything_known_by_then() {
        let mut attempts = commit(true);
        let error = loop {
            if let Err(error) = attempts.record(&"a:1".into(), refused("OVERLOADED")).await {
                break error;
            }
        };
        assert_eq!(error.code(), Some(&ErrorCode::Overloaded));
        assert!(!error.maybe_committed());
        let mut attempts = commit(true);
        attempts.record(&"a:1".into(), refused("COMMIT_UNKNOWN_RESULT")).await.expect("it is sent again");
        let error = loop {
            if let Err(error) = attempts.record(&"a:1".into(), refused("OVERLOADED")).await {
                break error;
            }
        };
        assert!(error.maybe_committed(), "{error:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn at_the_deadline_the_error_names_every_replica_of_the_last_round() {
        let unreachable = |address: &str| ClientError::Unreachable { attempts: vec![(address.into(), "gone".into())] };
        let mut attempts = commit(true);
        for _ in 0..2 {
            attempts.record(&"a:1".into(), unreachable("a:1")).await.expect("there is another replica");
            attempts.record(&"b:1".into(), unreachable("b:1")).await.expect("there is time");
            attempts.pause().await.expect("there is time");
        }
        tokio::time::advance(Duration::from_secs(100)).await;
        let error = attempts.check_deadline().expect_err("time is up");
        assert_eq!(error.to_string(), "cannot reach a:1: gone; b:1: gone");
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_that_is_behind_does_not_end_the_attempts_but_the_primary_does() {
        let mut attempts = Attempts::new(call(Access::Read, Target::Any, false), &Options::default());
        attempts.record(&"a:1".into(), refused("FUTURE_VERSION")).await.expect("the primary may know it");
        assert_eq!(attempts.call.target, Target::Primary);
        assert!(attempts.record(&"b:1".into(), refused("FUTURE_VERSION")).await.is_err());
    }
}
