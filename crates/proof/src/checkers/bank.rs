//! Bank: transfers move money between accounts; whoever reads all balances at once finds the same
//! total.
//!
//! Source: the bank workload of the Jepsen analyses. It finds reads that see half a transaction,
//! lost halves of transactions after a crash, and write skew when transfers must not overdraw.
//! O(n). It cannot see a stale but whole state; that is for [`super::serializability`] and
//! [`super::versions`].

use std::collections::BTreeMap;

use super::{Verdict, Violation};
use crate::history::{Operation, Outcome};

/// All balances, by account, as one operation read them.
pub type Balances = BTreeMap<u64, i64>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    pub accounts: u64,
    pub total: i64,
    /// Transfers check the balance before they take from it.
    pub may_overdraw: bool,
}

/// Judges every successful reading, and the one of the end state if it is part of the history.
pub fn check(readings: &[Operation<Balances>], rules: Rules) -> Verdict {
    readings.iter().filter(|reading| reading.outcome == Outcome::Ok).try_for_each(|reading| {
        let at = format!("client {} at {} us reads {:?}", reading.client.0, reading.called_us, reading.kind);
        let balances = &reading.kind;
        let total: i64 = balances.values().sum();
        if balances.len() as u64 != rules.accounts {
            return Err(Violation::new("bank", "account missing", format!("{} expected; {at}", rules.accounts)));
        }
        if total != rules.total {
            let story = format!("{total} instead of {}; {at}", rules.total);
            return Err(Violation::new("bank", "total changed", story));
        }
        if !rules.may_overdraw && balances.values().any(|balance| *balance < 0) {
            return Err(Violation::new("bank", "overdrawn", at));
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::ClientId;

    const RULES: Rules = Rules { accounts: 3, total: 30, may_overdraw: false };

    fn reading(balances: &[i64], outcome: Outcome) -> Operation<Balances> {
        let kind = (0..).zip(balances.iter().copied()).collect();
        Operation { client: ClientId(1), called_us: 0, returned_us: 1, kind, outcome }
    }

    #[test]
    fn readings_of_the_same_total_are_accepted() {
        check(&[reading(&[10, 10, 10], Outcome::Ok), reading(&[0, 25, 5], Outcome::Ok)], RULES).expect("all 30");
        check(&[reading(&[], Outcome::Fail), reading(&[7], Outcome::Unknown)], RULES).expect("nothing was read");
    }

    #[test]
    fn bad_readings_are_rejected_by_name() {
        for (balances, anomaly) in
            [(&[10, 10, 9][..], "total changed"), (&[15, 15], "account missing"), (&[-1, 21, 10], "overdrawn")]
        {
            assert_eq!(check(&[reading(balances, Outcome::Ok)], RULES).expect_err(anomaly).anomaly, anomaly);
        }
    }
}
