//! Reads rows at one version from one server after the other.
//!
//! Invariant: all pages are of the version that was pinned first. A replica's rows at a version are
//! those of every other replica, so another server may continue where one was lost, as long as it
//! can still read that version. It never continues at an address that the status of the cluster
//! does not name, unless it began at such a one: another address may belong to another cluster.

use std::time::Duration;

use kv_client::{Client, ClientError, ErrorCode, Hold, Options, RangeRead, Rows, Version};
use tokio::time::{Instant, sleep};

use crate::admin::Status;
use crate::failure::Failure;
use crate::targets::ThriftTarget;

/// A pin ends at most this long after this program does.
const HOLD: Duration = Duration::from_secs(60);
/// How long to look for a server with the version before giving it up.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(500);

/// Why no page was read.
pub enum ReadError {
    /// No server has the version any more.
    Lost(String),
    /// Another attempt would fail, too.
    Failed(Failure),
}

/// A pinned version, and the server that has the pin.
pub struct Source {
    addresses: Vec<String>,
    options: Options,
    version: Version,
    place: usize,
    client: Client,
    hold: Hold,
}

impl Source {
    /// Pins the newest version, at a secondary if one can be reached.
    pub async fn pin(target: &ThriftTarget, status: &Status) -> Result<Source, Failure> {
        let options = target.options()?;
        let mut last = None;
        // The addresses that servers have of each other may be of no use from here.
        for addresses in [known(status), target.addresses()?] {
            for (place, address) in addresses.iter().enumerate() {
                let pinned = async {
                    let client = Client::connect([address.clone()], options.clone()).await?;
                    let version = client.read_version().await?;
                    let hold = client.hold_snapshot(version, HOLD).await?;
                    Ok::<_, ClientError>((client, version, hold))
                };
                match pinned.await {
                    Ok((client, version, hold)) => {
                        return Ok(Source { addresses, options, version, place, client, hold });
                    }
                    Err(error) => {
                        tracing::debug!(%error, address, "cannot pin a version at this server");
                        last = Some(error);
                    }
                }
            }
        }
        Err(last.map_or_else(|| Failure::Unsure("no server is known".to_string()), Failure::from))
    }

    pub fn version(&self) -> Version {
        self.version
    }

    /// The server that is read.
    pub fn address(&self) -> &str {
        &self.addresses[self.place]
    }

    /// Reads one page, from another server if this one cannot.
    pub async fn page(&mut self, range: &RangeRead) -> Result<Rows, ReadError> {
        let give_up_at = Instant::now() + PATIENCE;
        loop {
            match self.client.snapshot_get_range(range.clone(), self.version).await {
                Ok(rows) => return Ok(rows),
                Err(error) if is_final(&error) => return Err(ReadError::Failed(error.into())),
                Err(error) => {
                    tracing::debug!(%error, address = self.address(), "cannot read a page from this server");
                    self.fail_over(give_up_at, &error).await?;
                }
            }
        }
    }

    /// Pins the version at the next server that can read it; the present one comes last.
    async fn fail_over(&mut self, give_up_at: Instant, reason: &ClientError) -> Result<(), ReadError> {
        let mut reason = reason.to_string();
        loop {
            let mut is_gone = true;
            for step in 1..=self.addresses.len() {
                let place = (self.place + step) % self.addresses.len();
                let pinned = async {
                    let client = Client::connect([self.addresses[place].clone()], self.options.clone()).await?;
                    let hold = client.hold_snapshot(self.version, HOLD).await?;
                    Ok::<_, ClientError>((client, hold))
                };
                match pinned.await {
                    Ok((client, hold)) => {
                        (self.client, self.hold, self.place) = (client, hold, place);
                        return Ok(());
                    }
                    Err(error) => {
                        is_gone &= error.code() == Some(&ErrorCode::TransactionTooOld);
                        reason = format!("{}: {error}", self.addresses[place]);
                    }
                }
            }
            // A server that cannot be reached now may have the version still.
            if is_gone || Instant::now() >= give_up_at {
                return Err(ReadError::Lost(format!("version {} can no longer be read: {reason}", self.version.0)));
            }
            sleep(PAUSE).await;
        }
    }

    /// Ends the pin.
    pub async fn release(self) {
        self.hold.release().await;
    }
}

/// Whether another server would answer likewise.
fn is_final(error: &ClientError) -> bool {
    match error {
        ClientError::InvalidArgument(_) => true,
        ClientError::Refused { code, .. } => matches!(
            code,
            ErrorCode::UnknownColumnFamily
                | ErrorCode::Forbidden
                | ErrorCode::Unauthenticated
                | ErrorCode::InvalidOperation
                | ErrorCode::NotSupported
                | ErrorCode::ResultTooLarge
        ),
        _ => false,
    }
}

/// The servers of the cluster: secondaries first, then the primary.
fn known(status: &Status) -> Vec<String> {
    let can_be_read = |replica: &&crate::admin::Replica| replica.problem.is_none() && replica.role != "witness";
    let mut replicas: Vec<_> = status.replicas.iter().filter(can_be_read).collect();
    replicas.sort_by_key(|replica| (!replica.reachable, replica.role == "primary"));
    let mut addresses: Vec<String> = Vec::new();
    for address in replicas.into_iter().filter_map(|replica| replica.thrift.clone()) {
        // Replicas of one process share theirs.
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}
