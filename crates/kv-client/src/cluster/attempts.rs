//! One request and its attempts: what may be tried after a failure, and what the last failure amounts to.
//!
//! A commit under an idempotency id is sent again whenever it is unknown whether it happened. Once a copy of it may be
//! under way, an answer that says "not committed" speaks for that attempt alone. The exceptions are a conflict and a
//! version that is too old: what has been written since stays written, so every copy meets the same.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::backoff::{Backoff, deadline_after};
use crate::client::Kind;
use crate::{ClientError, ErrorCode, Options};

/// Who should be asked first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// It answers soonest what it would have to be asked for anyway.
    Primary,
    Any,
}

/// How a request is to be treated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Errand {
    pub target: Target,
    pub kind: Kind,
    /// Whether a write may be sent again although it may have happened.
    pub has_id: bool,
    pub deadline: Instant,
    /// Memory for the request and its reply.
    pub cost_bytes: usize,
}

/// What to do after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Nobody would say anything else.
    End,
    /// Another replica may do it.
    Elsewhere,
    /// It may work after a pause.
    Later,
    /// This replica is behind; the primary is not.
    AtPrimary,
}

fn what_next(error: &ClientError, errand: &Errand) -> Next {
    match error {
        ClientError::Unreachable { .. }
        | ClientError::ConnectionLost { .. }
        | ClientError::DeadlineExceeded { .. }
        | ClientError::Malformed { .. } => Next::Elsewhere,
        ClientError::Exception { maybe_committed: true, .. } => Next::Later,
        ClientError::Refused { code, .. } => match code {
            ErrorCode::NoPrimary | ErrorCode::Timeout | ErrorCode::CommitUnknownResult => Next::Elsewhere,
            ErrorCode::Overloaded | ErrorCode::StorageFull => Next::Later,
            ErrorCode::FutureVersion | ErrorCode::TransactionTooOld if errand.target == Target::Any => Next::AtPrimary,
            _ => Next::End,
        },
        _ => Next::End,
    }
}

/// Whether this answer to one copy of a commit holds for all of them.
fn settles(error: &ClientError) -> bool {
    matches!(error.code(), Some(ErrorCode::Conflict | ErrorCode::TransactionTooOld))
}

/// The address in `Not leader, try leader at: HOST:PORT (node N)`.
pub(super) fn leader_hint(error: &ClientError) -> Option<&str> {
    let ClientError::Refused { message, .. } = error else { return None };
    let (_, hint) = message.split_once("try leader at: ")?;
    hint.split_whitespace().next().filter(|address| address.contains(':'))
}

pub(super) struct Attempts {
    pub errand: Errand,
    /// Replicas that failed since the last pause.
    pub tried: Vec<Arc<str>>,
    backoff: Backoff,
    /// How long the next attempt may take.
    patience: Duration,
    begun: Instant,
    count: u32,
    /// Whether a copy of the commit may have happened, or may still happen.
    pub is_unknown: bool,
    /// Of those that were tried, or of those of the last round, where there was a pause since.
    unreachable: Vec<(String, String)>,
    last: Option<ClientError>,
}

impl Attempts {
    pub fn new(errand: Errand, options: &Options) -> Self {
        Attempts {
            errand,
            tried: Vec::new(),
            backoff: Backoff::new(options),
            patience: options.attempt_timeout,
            begun: Instant::now(),
            count: 0,
            is_unknown: false,
            unreachable: Vec::new(),
            last: None,
        }
    }

    /// When the next attempt is given up.
    pub fn attempt_deadline(&self) -> Instant {
        self.errand.deadline.min(deadline_after(self.patience))
    }

    /// Takes in a failure; an error when it is the last one.
    pub async fn note(&mut self, replica: &Arc<str>, error: ClientError) -> Result<(), ClientError> {
        self.count += 1;
        if self.tried.is_empty() {
            self.unreachable.clear();
        }
        self.tried.push(replica.clone());
        self.is_unknown |= error.maybe_committed();
        let next = match what_next(&error, &self.errand) {
            Next::Elsewhere | Next::Later if error.maybe_committed() && !self.errand.has_id => Next::End,
            next => next,
        };
        match &error {
            ClientError::Unreachable { attempts } => self.unreachable.extend(attempts.iter().cloned()),
            ClientError::DeadlineExceeded { .. } => self.patience = self.patience.saturating_mul(2),
            _ => {}
        }
        let is_settled = settles(&error);
        self.last = Some(error);
        match next {
            Next::End if is_settled => {
                self.is_unknown = false;
                Err(self.end())
            }
            Next::End => Err(self.end()),
            Next::Elsewhere => Ok(()),
            Next::Later => self.pause().await,
            Next::AtPrimary => {
                self.errand.target = Target::Primary;
                Ok(())
            }
        }
    }

    /// Waits a little before all replicas may be tried again; an error when there is no time left.
    pub async fn pause(&mut self) -> Result<(), ClientError> {
        let resume_at = Instant::now() + self.backoff.pause();
        if resume_at >= self.errand.deadline {
            return Err(self.end());
        }
        sleep_until(resume_at).await;
        self.tried.clear();
        Ok(())
    }

    /// Whether there is time for another attempt.
    pub fn check_deadline(&mut self) -> Result<(), ClientError> {
        if Instant::now() < self.errand.deadline { Ok(()) } else { Err(self.end()) }
    }

    /// What all the failures amount to.
    fn end(&mut self) -> ClientError {
        match self.last.take() {
            Some(last) if self.is_unknown && self.errand.has_id => {
                ClientError::CommitUnknown { attempts: self.count, last: Box::new(last) }
            }
            Some(ClientError::Unreachable { .. }) => {
                ClientError::Unreachable { attempts: std::mem::take(&mut self.unreachable) }
            }
            Some(last) => last,
            None => {
                let timeout_ms = (self.errand.deadline - self.begun).as_millis() as u64;
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

    fn refused(code: &str) -> ClientError {
        ClientError::refused(Some(code), code.to_string())
    }

    fn errand(kind: Kind, target: Target, has_id: bool) -> Errand {
        Errand { target, kind, has_id, deadline: Instant::now() + Duration::from_secs(60), cost_bytes: 0 }
    }

    fn commit(has_id: bool) -> Attempts {
        Attempts::new(errand(Kind::Write, Target::Primary, has_id), &Options::default())
    }

    #[test]
    fn the_leader_is_found_in_the_words_of_a_server() {
        let error =
            ClientError::refused(Some("NO_PRIMARY"), "Not leader, try leader at: 10.0.0.1:9091 (node 2)".into());
        assert_eq!(leader_hint(&error), Some("10.0.0.1:9091"));
        assert_eq!(leader_hint(&refused("NO_PRIMARY")), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_conflict_holds_for_every_copy_and_other_refusals_for_their_own() {
        for (code, is_unknown) in [
            ("CONFLICT", false),
            ("TRANSACTION_TOO_OLD", false),
            ("UNKNOWN_COLUMN_FAMILY", true),
            ("FUTURE_VERSION", true),
            ("INVALID_OPERATION", true),
        ] {
            let mut attempts = commit(true);
            attempts.note(&"a:1".into(), refused("COMMIT_UNKNOWN_RESULT")).await.expect("it is sent again");
            let error = attempts.note(&"b:1".into(), refused(code)).await.expect_err("the last word");
            assert_eq!(error.maybe_committed(), is_unknown, "{error:?}");
            assert_eq!(matches!(error, ClientError::CommitUnknown { attempts: 2, .. }), is_unknown, "{error:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_an_id_an_unknown_result_is_the_last_word() {
        let mut attempts = commit(false);
        let lost =
            ClientError::ConnectionLost { endpoint: "a:1".into(), reason: "reset".into(), maybe_committed: true };
        assert_eq!(attempts.note(&"a:1".into(), lost.clone()).await, Err(lost));
        let mut attempts = commit(false);
        attempts.note(&"a:1".into(), refused("NO_PRIMARY")).await.expect("surely not committed");
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_end_at_the_deadline_with_what_is_known_then() {
        let mut attempts = commit(true);
        let error = loop {
            if let Err(error) = attempts.note(&"a:1".into(), refused("OVERLOADED")).await {
                break error;
            }
        };
        assert_eq!(error.code(), Some(&ErrorCode::Overloaded));
        assert!(!error.maybe_committed());
        let mut attempts = commit(true);
        attempts.note(&"a:1".into(), refused("COMMIT_UNKNOWN_RESULT")).await.expect("it is sent again");
        let error = loop {
            if let Err(error) = attempts.note(&"a:1".into(), refused("OVERLOADED")).await {
                break error;
            }
        };
        assert!(error.maybe_committed(), "{error:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn at_the_deadline_everybody_who_was_tried_last_is_named() {
        let unreachable = |address: &str| ClientError::Unreachable { attempts: vec![(address.into(), "gone".into())] };
        let mut attempts = commit(true);
        for _ in 0..2 {
            attempts.note(&"a:1".into(), unreachable("a:1")).await.expect("there is another one");
            attempts.note(&"b:1".into(), unreachable("b:1")).await.expect("there is time");
            attempts.pause().await.expect("there is time");
        }
        tokio::time::advance(Duration::from_secs(100)).await;
        let error = attempts.check_deadline().expect_err("time is up");
        assert_eq!(error.to_string(), "cannot reach a:1: gone; b:1: gone");
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_that_is_behind_is_no_last_word_but_the_primary_is() {
        let mut attempts = Attempts::new(errand(Kind::Read, Target::Any, false), &Options::default());
        attempts.note(&"a:1".into(), refused("FUTURE_VERSION")).await.expect("the primary may know it");
        assert_eq!(attempts.errand.target, Target::Primary);
        assert!(attempts.note(&"b:1".into(), refused("FUTURE_VERSION")).await.is_err());
    }
}
