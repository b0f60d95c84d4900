//! A version that stays readable as long as somebody needs it.

use std::time::Duration;

use kv_api::Version;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use crate::{Client, ClientError};

/// A pin is renewed so many times within its lifetime, so that a lost renewal or two do no harm.
const RENEWALS: u32 = 3;

/// Keeps a version readable for a read that takes longer than versions stay readable by themselves. See
/// [`Client::hold_snapshot`].
///
/// The pin is renewed by a timer, not by what the reader does: it may wait for whoever takes its rows, as long as it does not
/// block the thread that drives the client. Dropping it lets the pin end by itself.
#[derive(Debug)]
pub struct Hold {
    client: Client,
    version: Version,
    renewing: JoinHandle<()>,
}

impl Hold {
    pub(crate) async fn begin(client: Client, version: Version, lifetime: Duration) -> Result<Hold, ClientError> {
        client.pin_snapshot(version, lifetime).await?;
        let renewing = tokio::spawn(renew(client.clone(), version, lifetime));
        Ok(Hold { client, version, renewing })
    }

    /// Ends the pin now.
    pub async fn release(self) {
        self.renewing.abort();
        // One that stays ends by itself.
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
            // The server takes away the pin that would end first: the one before.
            Ok(()) => drop(client.unpin_snapshot(version).await),
            Err(error) => {
                tracing::debug!(%error, version = version.0, "a pin was not renewed; the next attempt follows")
            }
        }
    }
}
