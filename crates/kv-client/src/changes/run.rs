//! Consumers that handle each version exactly once.
//!
//! A consumer's position is a row of the database. It is read and written in the transaction in
//! which the consumer writes what it makes of a batch, so both happen or neither does. A commit
//! whose answer was lost is settled by its idempotency id; if even that is unknown, the position
//! tells.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kv_api::{ChangeRange, Effect, KeyRef, Version};

use super::{ChangesBatch, ChangesRequest};
use crate::{ClientError, Database, Transaction};

/// While nothing changes, the position is stored this often, so that it does not get too old.
const STORE_IDLE_EVERY: Duration = Duration::from_secs(60);

/// Where a consumer begins that has no position yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the changes after its first run begins.
    Now,
    /// With the changes after this version: for example the one at which the rows were read before.
    After(Version),
}

/// Handles changes exactly once. Made by [`Database::changes`].
#[derive(Clone, Debug)]
pub struct ChangeConsumer {
    database: Database,
    position: KeyRef,
    start: Start,
    request: ChangesRequest,
}

impl Database {
    /// A consumer of the changes in `ranges` (none: all), whose position is kept under the key
    /// `position`. Changes of that key are left out.
    pub fn changes(&self, position: KeyRef, ranges: Vec<ChangeRange>) -> ChangeConsumer {
        let request = ChangesRequest::after(Version::EMPTY, ranges);
        ChangeConsumer { database: self.clone(), position, start: Start::Now, request }
    }
}

/// The position of a consumer, as it is stored: `v1 CLUSTER VERSION`, with `-` for no cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Position {
    cluster_id: Option<String>,
    through: Version,
}

impl Position {
    fn to_text(&self) -> String {
        format!("v1 {} {}", self.cluster_id.as_deref().unwrap_or("-"), self.through)
    }

    fn from_bytes(bytes: &[u8]) -> Result<Position, ClientError> {
        let text = std::str::from_utf8(bytes).unwrap_or_default();
        let parts: Vec<&str> = text.split(' ').collect();
        if let ["v1", cluster, version] = parts[..]
            && let Ok(version) = version.parse()
        {
            let cluster_id = (cluster != "-").then(|| cluster.to_owned());
            return Ok(Position { cluster_id, through: Version(version) });
        }
        Err(ClientError::InvalidArgument(format!(
            "the row of the position holds `{}`, which is no position of a consumer of changes: use a key of its own",
            bytes.escape_ascii()
        )))
    }
}

impl ChangeConsumer {
    /// Where to begin if there is no position yet.
    pub fn start(self, start: Start) -> Self {
        ChangeConsumer { start, ..self }
    }

    /// Maximum bytes of one batch; whole versions, at least one.
    pub fn max_bytes(self, max_bytes: u32) -> Self {
        ChangeConsumer { request: ChangesRequest { max_bytes, ..self.request }, ..self }
    }

    /// Whether batches have values.
    pub fn with_values(self, with_values: bool) -> Self {
        ChangeConsumer { request: ChangesRequest { with_values, ..self.request }, ..self }
    }

    /// Hands over each batch with a transaction, in which the position is stored as well. The
    /// writes of `body` there happen exactly once for each version, whatever fails and however often
    /// the consumer is killed and run again. `body` may run several times for one batch, and should
    /// have no effect other than through the transaction. Several runs with the same position
    /// exclude each other: each batch is committed by one of them.
    ///
    /// Ends only with an error; drop the future to stop, at any time.
    ///
    /// # Errors
    /// That of `body`; [`ClientError::ChangesTooOld`] if the position is too old; and other
    /// [`ClientError`]s that do not go away.
    pub async fn run<E, F, Fut>(&self, mut body: F) -> Result<Infallible, E>
    where
        F: FnMut(Arc<ChangesBatch>, Transaction) -> Fut,
        Fut: Future<Output = Result<(), E>>,
        E: From<ClientError>,
    {
        let mut position = self.stored().await?;
        let mut request = self.request.clone();
        (request.after, request.cluster_id) = (position.through, position.cluster_id.clone());
        let mut feed = self.database.change_feed(request);
        let mut stored_at = Instant::now();
        loop {
            let mut batch = feed.next().await?;
            self.leave_out_position(&mut batch);
            if batch.changes.is_empty() && stored_at.elapsed() < STORE_IDLE_EVERY {
                continue;
            }
            let next = Position { cluster_id: batch.cluster_id.clone(), through: batch.through };
            let batch = Arc::new(batch);
            match self.commit(&position, &next, &batch, &mut body).await? {
                None => position = next,
                // Another run was faster.
                Some(other) => {
                    feed.seek(other.through);
                    position = other;
                }
            }
            stored_at = Instant::now();
        }
    }

    /// The stored position. The first run stores where it begins.
    async fn stored(&self) -> Result<Position, ClientError> {
        let KeyRef { key, column_family: family } = &self.position;
        self.database
            .run(|tx| async move {
                if let Some(bytes) = tx.family(family).get(key).await? {
                    return Position::from_bytes(&bytes);
                }
                let through = match self.start {
                    Start::After(version) => version,
                    Start::Now => tx.read_version().await?,
                };
                let position = Position { cluster_id: None, through };
                tx.family(family).set(key, position.to_text());
                Ok(position)
            })
            .await
    }

    /// Handles a batch and stores the position after it. Returns the stored position if it is
    /// another one than `before`: then nothing was handled.
    async fn commit<E, F, Fut>(
        &self,
        before: &Position,
        after: &Position,
        batch: &Arc<ChangesBatch>,
        body: &mut F,
    ) -> Result<Option<Position>, E>
    where
        F: FnMut(Arc<ChangesBatch>, Transaction) -> Fut,
        Fut: Future<Output = Result<(), E>>,
        E: From<ClientError>,
    {
        let KeyRef { key, column_family: family } = &self.position;
        let mut transaction = self.database.transaction();
        loop {
            let attempt = async {
                let bytes = transaction.family(family).get(key).await?;
                let stored = bytes.as_deref().map_or(Ok(before.clone()), |bytes: &[u8]| Position::from_bytes(bytes))?;
                if stored.through != before.through {
                    return Ok(Some(stored));
                }
                if !batch.changes.is_empty() {
                    body(batch.clone(), transaction.clone()).await?;
                }
                transaction.family(family).set(key, after.to_text());
                Ok::<Option<Position>, E>(None)
            };
            let (reason, body_error) = match attempt.await {
                Ok(Some(other)) if other.through == after.through => return Ok(None),
                Ok(Some(other)) => return Ok(Some(other)),
                Ok(None) => match transaction.commit().await {
                    Ok(_) => return Ok(None),
                    Err(error) => (error, None),
                },
                Err(error) => match transaction.failure() {
                    Some(reason) => (reason, Some(error)),
                    None => return Err(error),
                },
            };
            // An unknown outcome is no obstacle: the next attempt reads the position.
            transaction = match transaction.on_error(reason).await {
                Ok(again) => again,
                Err(error) if error.is_retryable() || error.maybe_committed() => self.database.transaction(),
                Err(error) => return Err(body_error.unwrap_or_else(|| error.into())),
            };
        }
    }

    /// Otherwise storing the position would be a change to handle, for ever.
    fn leave_out_position(&self, batch: &mut ChangesBatch) {
        let KeyRef { key, column_family } = &self.position;
        let is_position = |effect: &Effect| match effect {
            Effect::Set { key: changed, .. } | Effect::Delete { key: changed } => changed == key,
            Effect::Clear { .. } => false,
        };
        for change in &mut batch.changes {
            change.effects.retain(|effect| effect.column_family != *column_family || !is_position(&effect.effect));
        }
        batch.changes.retain(|change| !change.effects.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_reads_back_and_anything_else_is_refused() {
        for cluster_id in [None, Some("aff5d121".to_owned())] {
            let position = Position { cluster_id, through: Version(17) };
            assert_eq!(Position::from_bytes(position.to_text().as_bytes()), Ok(position));
        }
        for text in ["", "v1 - ", "v2 - 17", "17", "v1 - 17 "] {
            assert!(Position::from_bytes(text.as_bytes()).is_err(), "{text}");
        }
    }
}
