//! Old versions: databases remove them when they like, and pins hold them.

use super::cluster::Cluster;

impl Cluster {
    /// Removes a little; what can still be read is afterwards what it was.
    pub(super) fn collect_garbage(&mut self, node: usize) {
        if self.nodes[node].is_witness {
            return;
        }
        let budget = self.random.pick(&[1, 5, 50, 2_000]);
        let Some(running) = &self.nodes[node].running else { return };
        let database = &running.database;
        let clears = database.pending_clears();
        database.collect_garbage(budget);
        if database.pending_clears() < clears {
            self.figures.count("range clear carried out");
        }
        if self.random.one_in(4) {
            self.compare_some_version(node);
        }
    }

    fn compare_some_version(&mut self, node: usize) {
        let Some(running) = &self.nodes[node].running else { return };
        let moment = running.database.moment();
        let oldest = moment.oldest_readable.max(1);
        let pinned = running.database.pinned();
        let version = match self.random.below(3) {
            0 if !pinned.is_empty() => self.random.pick(&pinned),
            0 | 1 => oldest,
            _ => self.random.between(oldest, moment.version),
        };
        running.database.compare(version);
    }

    pub(super) fn disturb_versions(&mut self, node: usize) {
        if self.nodes[node].paused_until > self.now || self.nodes[node].is_witness {
            return;
        }
        if self.random.one_in(self.faults.collect) {
            self.collect_garbage(node);
        }
        if self.random.one_in(self.faults.pin) {
            self.pin_something(node);
        }
    }

    fn pin_something(&mut self, node: usize) {
        let Some(running) = &self.nodes[node].running else { return };
        let moment = running.database.moment();
        let oldest = moment.oldest_readable.max(1);
        let pinned = running.database.pinned();
        if !pinned.is_empty() && self.random.one_in(2) {
            let version = self.random.pick(&pinned);
            running.database.compare(version);
            running.database.unpin(version);
            return self.figures.count("version unpinned");
        }
        // Some of them can't be pinned any more, or not yet; some are pinned already.
        let version = match !pinned.is_empty() && self.random.one_in(3) {
            true => self.random.pick(&pinned),
            false => self.random.between(oldest.saturating_sub(1), moment.version + 1),
        };
        running.database.pin(version, &mut self.random);
        self.figures.count("version pinned");
    }

    /// The rows at several versions, before and after everything is removed that may be; in the end
    /// with the journal.
    pub(super) fn compare_versions(&mut self, node: usize) {
        let Some(running) = self.nodes[node].running.as_ref().filter(|_| !self.nodes[node].is_witness) else {
            return;
        };
        let database = &running.database;
        let moment = database.moment();
        let (oldest, newest) = (moment.oldest_readable.max(1), moment.version);
        let between = (0..2).map(|_| self.random.between(oldest, newest));
        let versions: Vec<u64> = between.chain([oldest]).chain(database.pinned()).collect();
        let compare = || versions.iter().for_each(|version| database.compare(*version));
        compare();
        while database.collect_garbage(1_000) {}
        database.flush();
        compare();
        database.compare_all(newest);
        database.check_row_count();
    }
}
