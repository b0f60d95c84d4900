//! Reads during which the rights of their caller change.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use kv_api::access::{AccessCommand, DisableUser};
use kv_api::{KvError, KvOperation, KvOutcome};
use tokio::time::Instant;

use super::oracle::core_on;
use super::{Rule, TestPolicy, add_user, gate, session, token};
use crate::router::{RequestContext, RequestRouter};

/// Finds nothing, and only after the policy has changed.
struct Meanwhile {
    policy: Arc<TestPolicy>,
    change: Mutex<Option<AccessCommand>>,
}

#[async_trait]
impl RequestRouter for Meanwhile {
    async fn route(&self, _: KvOperation, _: &RequestContext) -> Result<KvOutcome, KvError> {
        if let Some(change) = self.change.lock().expect("no panic").take() {
            self.policy.change(change);
        }
        Ok(KvOutcome::Value(None))
    }
}

#[tokio::test]
async fn a_read_is_refused_if_the_rights_of_its_caller_changed_while_it_was_made() {
    let shut_out = DisableUser { name: "eve".into(), disabled: true };
    for (change, is_refused) in [
        (add_user("zoe", &["reader"]), false),
        (AccessCommand::DisableUser(shut_out), true),
        (AccessCommand::RevokeToken(2), true),
    ] {
        let (policy, gate) = gate();
        let (gate, session) = (Arc::new(gate), session());
        gate.authenticate(&session, &token(2)).expect("eve");
        let caller = gate.admit(&session, None, "get", Rule::Operation).expect("eve");
        let core = core_on(Arc::new(Meanwhile { policy, change: Mutex::new(Some(change)) }), gate);
        let context = RequestContext::of(caller, Instant::now() + Duration::from_secs(60));
        let read = core.get("a".into(), Some("f".into()), None, &context).await;
        assert_eq!(matches!(read, Err(KvError::Forbidden(_))), is_refused, "{read:?}");
    }
}
