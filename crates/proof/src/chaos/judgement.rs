//! Passes what was recorded to the checkers.

use super::clients::bank;
use super::records::Records;
use crate::checkers::linearizability::{CONFIGURATIONS, Judgement};
use crate::checkers::{Verdict, linearizability, serializability, versions};

/// Every broken promise, as text.
pub fn judge(records: &Records) -> Vec<String> {
    let mut violations = Vec::new();
    let mut take = |verdict: Verdict| violations.extend(verdict.err().map(|violation| violation.to_string()));
    take(serializability::check(&records.lists));
    take(crate::checkers::bank::check(&records.readings, bank::RULES));
    take(versions::check(&records.versions));
    match linearizability::check(&records.registers, CONFIGURATIONS) {
        Judgement::Linearizable => {}
        Judgement::NotLinearizable(violation) => violations.push(violation.to_string()),
        Judgement::Undecided { key, operations, configurations } => violations.push(format!(
            "linearizability: undecided for register {key}: {operations} operations, {configurations} configurations"
        )),
    }
    violations
}
