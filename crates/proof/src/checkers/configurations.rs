//! Epochs: each has one configuration, the one that the seal of the epoch before names; nothing
//! behind a seal is chosen in the epoch that it ends; and nobody acts in an epoch before the seal
//! that begins it is chosen.
//!
//! Source: rules M1 to M3 of the protocol. The configurations are worked out from the delivered
//! entries and, before the first replica delivers a seal, from the claims of replicas that act
//! under it; both must agree. O(log n) per event.

use std::collections::BTreeMap;

use rsml::{Configuration, DiskId, Epoch, ReplicaId, Sequence, Value};

use super::{Verdict, Violation};

#[derive(Debug, Default)]
pub struct Configurations {
    known: BTreeMap<Epoch, Configuration>,
    /// The epoch of each disk's durable hard state.
    durable: BTreeMap<DiskId, Epoch>,
}

fn violation(anomaly: &'static str, story: String) -> Verdict {
    Err(Violation::new("epochs", anomaly, story))
}

impl Configurations {
    /// A disk durably acts in `epoch`: after a write, or as found at a start.
    pub fn durable(&mut self, disk: DiskId, epoch: Epoch) -> Verdict {
        let before = self.durable.insert(disk, epoch).unwrap_or_default();
        if before > epoch {
            return violation("an epoch went back", format!("disk {disk:?} is in epoch {epoch} after {before}"));
        }
        Ok(())
    }

    /// A replica acts under this configuration from now on.
    pub fn acts(&mut self, replica: ReplicaId, configuration: &Configuration) -> Verdict {
        self.know(&format!("replica {replica} acts"), configuration)
    }

    /// An entry is delivered at `sequence`.
    pub fn delivered(&mut self, sequence: Sequence, value: &Value) -> Verdict {
        if let Some(birth) = &value.birth {
            return self.know("the bootstrap record says", &birth.configuration());
        }
        let Some(seal) = &value.reconfigure else { return Ok(()) };
        let before = self.known.get(&Epoch(seal.epoch.saturating_sub(1)));
        match before.filter(|before| before.since < sequence).and_then(|before| before.after(seal, sequence)) {
            Some(next) => self.know(&format!("the log says at {sequence}"), &next),
            None => violation("a seal of another epoch", format!("at {sequence}: {seal:?}, known {:?}", self.known)),
        }
    }

    fn know(&mut self, who: &str, configuration: &Configuration) -> Verdict {
        let known = self.known.entry(configuration.epoch).or_insert_with(|| configuration.clone());
        if known != configuration {
            let story = format!("{who} {configuration:?}; known before: {known:?}");
            return violation("two configurations of one epoch", story);
        }
        Ok(())
    }

    pub fn is_known(&self) -> bool {
        !self.known.is_empty()
    }

    /// The newest one that anybody acts under.
    pub fn newest(&self) -> Option<&Configuration> {
        self.known.last_key_value().map(|(_, newest)| newest)
    }

    pub fn get(&self, epoch: Epoch) -> Option<&Configuration> {
        self.known.get(&epoch)
    }

    /// The disks that vote in `epoch`, as far as it is known.
    pub fn voters(&self, epoch: Epoch) -> Option<Vec<DiskId>> {
        Some(self.known.get(&epoch)?.voters().map(|(_, disk)| disk).collect())
    }

    /// Whether that disk of a replica votes in `epoch`.
    pub fn is_voter(&self, epoch: Epoch, replica: ReplicaId, disk: DiskId) -> bool {
        self.known.get(&epoch).is_some_and(|known| known.voters().any(|voter| voter == (replica, disk)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rsml::{BirthRecord, ClusterId, ConfiguredMember, Members, Reconfigure};

    use super::*;

    fn birth() -> BirthRecord {
        BirthRecord::new(ClusterId(1), &BTreeMap::from([(ReplicaId(0), DiskId(10)), (ReplicaId(1), DiskId(11))]))
    }

    fn seal(epoch: u64, disk: u128) -> Value {
        let members: Members = [(ReplicaId(0), ConfiguredMember::voter(DiskId(disk)))].into();
        Value { reconfigure: Some(Reconfigure::new(Epoch(epoch), &members)), ..Value::default() }
    }

    fn born() -> Configurations {
        let mut known = Configurations::default();
        known.delivered(Sequence(1), &Value { birth: Some(birth()), ..Value::default() }).expect("the first entry");
        known
    }

    #[test]
    fn what_the_log_says_is_what_replicas_act_under() {
        let mut known = born();
        known.acts(ReplicaId(0), &birth().configuration()).expect("the first epoch");
        known.delivered(Sequence(9), &seal(2, 10)).expect("the seal of epoch 1");
        let next = known.get(Epoch(2)).cloned().expect("it is known");
        known.acts(ReplicaId(0), &next).expect("the second epoch");
        known.delivered(Sequence(9), &seal(2, 10)).expect("another replica delivers it too");
        assert_eq!(known.voters(Epoch(2)), Some(vec![DiskId(10)]));
        assert!(known.is_voter(Epoch(1), ReplicaId(1), DiskId(11)));
        assert!(!known.is_voter(Epoch(2), ReplicaId(1), DiskId(11)));
    }

    #[test]
    fn another_configuration_of_the_same_epoch_is_found() {
        let mut known = born();
        let mut claimed = birth().configuration();
        claimed.members.remove(&ReplicaId(1));
        assert_eq!(
            known.acts(ReplicaId(0), &claimed).expect_err("it was born with two").anomaly,
            "two configurations of one epoch"
        );
        known.delivered(Sequence(9), &seal(2, 10)).expect("the seal of epoch 1");
        for (sequence, value) in [(8, seal(2, 10)), (9, seal(2, 12))] {
            let found = known.delivered(Sequence(sequence), &value).expect_err("it is another one");
            assert_eq!(found.anomaly, "two configurations of one epoch");
        }
    }

    #[test]
    fn a_seal_that_ends_no_epoch_and_a_replica_that_goes_back_are_found() {
        let mut known = born();
        let found = known.delivered(Sequence(9), &seal(3, 10)).expect_err("epoch 2 is not known");
        assert_eq!(found.anomaly, "a seal of another epoch");
        known.durable(DiskId(10), Epoch(2)).expect("it entered epoch 2");
        known.durable(DiskId(11), Epoch(1)).expect("another disk");
        let found = known.durable(DiskId(10), Epoch(1)).expect_err("it was in epoch 2");
        assert_eq!(found.anomaly, "an epoch went back");
    }
}
