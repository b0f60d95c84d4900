//! When consumers of change feeds ask, and whom.

use kv_api::KvError;

use super::cluster::Cluster;
use super::feeds::{Consumer, Feeds, any_limits};

impl Cluster {
    /// Some consumers ask this node for what comes next.
    pub(super) fn poll_feeds(&mut self, node: usize) {
        let Some(running) = self.nodes[node].running.as_ref().filter(|_| !self.nodes[node].is_witness) else { return };
        if self.nodes[node].paused_until > self.now {
            return;
        }
        let journal = self.nodes[node].files.journal();
        let Feeds { random, consumers } = &mut self.feeds;
        for consumer in consumers.iter_mut() {
            if random.one_in(3) {
                continue;
            }
            let limits = any_limits(random);
            match running.database.poll(consumer.after, limits, &consumer.ranges, &journal) {
                Ok(through) => {
                    let what = if through > consumer.after { "feed read" } else { "feed waits" };
                    self.figures.count(what);
                    consumer.after = through;
                }
                Err(KvError::TransactionTooOld { oldest, .. }) => {
                    self.figures.count("feed too old");
                    // Another replica may still have it; a consumer that gives up begins again here.
                    if random.one_in(8) {
                        consumer.after = oldest;
                    }
                }
                Err(_) => self.figures.count("feed without a journal"),
            }
        }
    }

    /// Everything that this node can still tell, and what consumers do not know yet.
    pub(super) fn end_feeds(&mut self, node: usize) {
        let Some(running) = self.nodes[node].running.as_ref().filter(|_| !self.nodes[node].is_witness) else { return };
        let (database, journal) = (&running.database, self.nodes[node].files.journal());
        let Some(oldest) = database.oldest_change() else { return };
        let mut whole = Consumer { after: oldest, ranges: Vec::new() };
        for consumer in self.feeds.consumers.iter_mut().chain([&mut whole]) {
            let mut reads = 0;
            while consumer.after < database.applied_version() {
                let limits = any_limits(&mut self.feeds.random);
                let Ok(through) = database.poll(consumer.after, limits, &consumer.ranges, &journal) else { break };
                consumer.after = through;
                reads += 1;
            }
            if reads > 0 {
                self.figures.count("feed read to the end");
            }
        }
    }
}
