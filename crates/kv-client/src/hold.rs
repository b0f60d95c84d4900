//! Keeps a version readable for as long as a reader needs it.

use std::time::Duration;

use kv_api::Version;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use crate::{Client, ClientError};

/// How often a pin is renewed within its lifetime, so that it survives a failed renewal or two.
const RENEWALS: u32 = 3;

/// Keeps a version readable for a read that takes longer than versions stay readable by themselves.
/// Made by [`Client::hold_snapshot`].
///
/// A timer renews the pin, not the reader's progress: the reader may pause for as long as it likes,
/// provided it does not block the thread that runs the client. After the hold is dropped, the pin
/// expires by itself.
#[derive(Debug)]
pub struct Hold {
    client: Client,
    version: Version,
    renewing: JoinHandle<()>,
}

impl Client {
    /// Keeps a version readable at the server that answers, until the hold ends. The pin lasts for
    /// `lifetime`, and a timer renews it well before it expires. Every server allows a lifetime of
    /// one minute; its setting `server.max_pin_seconds` is the maximum.
    ///
    /// # Errors
    /// As [`Client::pin_snapshot`].
    pub async fn hold_snapshot(&self, version: Version, lifetime: Duration) -> Result<Hold, ClientError> {
        self.pin_snapshot(version, lifetime).await?;
        let renewing = tokio::spawn(renew(self.clone(), version, lifetime));
        Ok(Hold { client: self.clone(), version, renewing })
    }
}

impl Hold {
    /// Ends the pin now.
    pub async fn release(self) {
        self.renewing.abort();
        // If this fails, the pin expires by itself.
        let _ = self.client.unpin_snapshot(self.version).await;
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}

async fn renew(client: Client, version: Version, lifetime: Duration) {
    let mut ticks = interval(lifetime / RENEWALS);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    loop {
        ticks.tick().await;
        match client.pin_snapshot(version, lifetime).await {
            // The server removes the pin that would expire first, which is the previous one.
            Ok(()) => drop(client.unpin_snapshot(version).await),
            Err(error) => {
                tracing::debug!(%error, version = version.0, "renewing a pin failed; the next attempt follows")
            }
        }
    }
}
