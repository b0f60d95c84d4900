//! A restore of a range into a live cluster, in transactions.
use super::RestoreArgs;
use crate::failure::Failure;
use backup::Backup;
use std::process::ExitCode;
pub async fn run(_args: RestoreArgs, _backup: Backup) -> Result<ExitCode, Failure> {
    Err(Failure::Usage("not supported yet".to_string()))
}
