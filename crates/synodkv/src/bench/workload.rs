//! The workloads, and the operations that they consist of.

use clap::ValueEnum;

use super::distribution::Distribution;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Workload {
    /// setKey of random keys.
    Put,
    /// get of random keys, loaded before.
    Get,
    /// Half put, half get.
    Mixed,
    /// atomicCommit of several sets without conflict check.
    Commit,
    /// Transactions: read two records, write both, repeat until committed.
    Txn,
    /// YCSB A, update heavy: half read, half update.
    YcsbA,
    /// YCSB B, read mostly: 95 % read, 5 % update.
    YcsbB,
    /// YCSB C: read only.
    YcsbC,
    /// YCSB D, read latest: 95 % read, 5 % insert.
    YcsbD,
    /// YCSB E, short ranges: 95 % scan of 1 to 100 records, 5 % insert.
    YcsbE,
    /// YCSB F: half read, half read-modify-write.
    YcsbF,
}

/// One kind of request; `ReadModifyWrite` is two in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Read,
    Update,
    Insert,
    Scan,
    ReadModifyWrite,
    Commit,
    Transaction,
}

impl Operation {
    pub fn name(self) -> &'static str {
        match self {
            Operation::Read => "read",
            Operation::Update => "update",
            Operation::Insert => "insert",
            Operation::Scan => "scan",
            Operation::ReadModifyWrite => "read-modify-write",
            Operation::Commit => "commit",
            Operation::Transaction => "transaction",
        }
    }
}

/// Operations and their percentages.
pub type Mix = &'static [(Operation, u64)];

impl Workload {
    pub fn name(self) -> &'static str {
        match self {
            Workload::Put => "put",
            Workload::Get => "get",
            Workload::Mixed => "mixed",
            Workload::Commit => "commit",
            Workload::Txn => "txn",
            Workload::YcsbA => "ycsb-a",
            Workload::YcsbB => "ycsb-b",
            Workload::YcsbC => "ycsb-c",
            Workload::YcsbD => "ycsb-d",
            Workload::YcsbE => "ycsb-e",
            Workload::YcsbF => "ycsb-f",
        }
    }

    /// The operations of the workload. Those of YCSB follow Cooper et al., SoCC 2010, and the
    /// workload files of their program.
    pub fn mix(self) -> Mix {
        match self {
            Workload::Put => &[(Operation::Update, 100)],
            Workload::Get | Workload::YcsbC => &[(Operation::Read, 100)],
            Workload::Mixed | Workload::YcsbA => &[(Operation::Read, 50), (Operation::Update, 50)],
            Workload::Commit => &[(Operation::Commit, 100)],
            Workload::Txn => &[(Operation::Transaction, 100)],
            Workload::YcsbB => &[(Operation::Read, 95), (Operation::Update, 5)],
            Workload::YcsbD => &[(Operation::Read, 95), (Operation::Insert, 5)],
            Workload::YcsbE => &[(Operation::Scan, 95), (Operation::Insert, 5)],
            Workload::YcsbF => &[(Operation::Read, 50), (Operation::ReadModifyWrite, 50)],
        }
    }

    pub fn distribution(self) -> Distribution {
        match self {
            Workload::YcsbD => Distribution::Latest,
            workload if workload.is_ycsb() => Distribution::Zipfian,
            _ => Distribution::Uniform,
        }
    }

    pub fn is_ycsb(self) -> bool {
        self.name().starts_with("ycsb")
    }

    /// Whether its records must exist before the run.
    pub fn needs_records(self) -> bool {
        !matches!(self, Workload::Put | Workload::Commit)
    }

    pub fn inserts(self) -> bool {
        self.mix().iter().any(|(operation, _)| *operation == Operation::Insert)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mix_is_a_whole_one_and_every_name_is_that_of_the_command_line() {
        for workload in Workload::value_variants() {
            assert_eq!(workload.mix().iter().map(|(_, percent)| percent).sum::<u64>(), 100, "{workload:?}");
            let value = workload.to_possible_value().expect("none is hidden");
            assert_eq!(value.get_name(), workload.name());
        }
    }
}
