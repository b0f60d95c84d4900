//! Connections of clients that nobody knows yet: short messages, little time, few places.

use kv_api::thrift::wire::WireError;
use rsml::transport::Place;
use tokio_util::sync::CancellationToken;

use super::ConnectionContext;
use super::shared::Shared;

/// Longest message of a stranger: the longest token fits.
const MESSAGE_BYTES: usize = 16 << 10;

/// Whether a connection is that of a stranger. Once it is known, it stays so: what it may do is not
/// decided here.
pub(super) struct Stranger(Option<Place>);

impl Stranger {
    /// A new connection, which `end` closes.
    pub fn new(shared: &Shared, context: &ConnectionContext, arrival: u64, end: &CancellationToken) -> Self {
        let is_known = shared.service.knows(context);
        Stranger((!is_known).then(|| shared.strangers.enter_as(arrival, context.peer(), end.clone()).0))
    }

    /// Looks again whether it is one.
    pub fn look(&mut self, shared: &Shared, context: &ConnectionContext) {
        if self.0.is_some() && shared.service.knows(context) {
            self.0 = None;
        }
    }

    /// Why a stranger may not send a message that has come this far and is not complete.
    pub fn refuses(&mut self, shared: &Shared, context: &ConnectionContext, bytes: usize) -> Option<WireError> {
        // A request in front of this message may have said who it is.
        self.look(shared, context);
        let too_long = WireError::MessageTooLong { size: bytes as u64, limit: MESSAGE_BYTES };
        (self.is_one() && bytes > MESSAGE_BYTES).then_some(too_long)
    }

    /// Whether it was one at the last look.
    pub fn is_one(&self) -> bool {
        self.0.is_some()
    }
}
