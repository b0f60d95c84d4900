//! Shows and changes users, roles and tokens. Replicas agree on such a change like on a commit.

use std::sync::Arc;

use kv_api::access::{AccessCommand, Policy};
use kv_api::{CommitResult, KvError, KvOperation, KvOutcome};

use super::{KvServiceCore, mismatch};
use crate::router::RequestContext;

impl KvServiceCore {
    /// The policy, with every change that was acknowledged before the call.
    ///
    /// # Errors
    /// Those of a read.
    pub async fn policy(&self, context: &RequestContext) -> Result<Arc<Policy>, KvError> {
        let version = self.read_version(context).await?;
        for local in self.parts.replicas.replicas().iter().take(1) {
            local.reader.wait_applied(version, context.deadline).await?;
        }
        Ok(self.parts.gate.source().policy())
    }

    /// Makes one change.
    ///
    /// # Errors
    /// Those of a commit; [`KvError::InvalidOperation`] if the policy refuses the change.
    pub async fn change_access(
        &self,
        command: AccessCommand,
        context: &RequestContext,
    ) -> Result<CommitResult, KvError> {
        match self.route(KvOperation::ChangeAccess(command.into()), context).await? {
            KvOutcome::Committed(result) => Ok(result),
            other => Err(mismatch("the result of a change of users and roles", &other)),
        }
    }
}
