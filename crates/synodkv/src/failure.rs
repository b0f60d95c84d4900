//! Why a command ends without having done its work, in words that say what to do next.

use std::process::ExitCode;

use kv_client::{ClientError, ErrorCode};

#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The command line or the configuration is wrong; nothing was opened.
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Failed(String),
}

impl Failure {
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Failure::Usage(_) => ExitCode::from(2),
            Failure::Failed(_) => ExitCode::from(1),
        }
    }

    /// The same, behind what was done before.
    pub fn after(self, done: &str) -> Self {
        Failure::Failed(format!("{done}{self}"))
    }

    /// Of a write: says also that it did not happen, where that is sure and a user may wonder.
    pub fn of_write(error: ClientError) -> Self {
        let is_void = error.code() == Some(&ErrorCode::NoPrimary) && !error.maybe_committed();
        match Failure::from(error) {
            Failure::Failed(text) if is_void => Failure::Failed(format!("{text}; nothing was written")),
            other => other,
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Failure::Failed(error.to_string())
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let hint = match &error {
            ClientError::Unreachable { .. } => {
                "; is the server running? start one with `synodkv serve`, or say where it is with --addr HOST:PORT"
            }
            ClientError::Malformed { .. } => "; is this the Thrift address? the admin address takes --admin",
            ClientError::InvalidArgument(_) => return Failure::Usage(error.to_string()),
            error if error.maybe_committed() => "; the write may have happened: read the key to see",
            error if error.code() == Some(&ErrorCode::NoPrimary) => "; see `synodkv status`",
            error => error.code().map(hint_of_code).unwrap_or_default(),
        };
        let code = error.code().map(ErrorCode::as_str).filter(|code| !code.is_empty());
        let code = code.map(|code| format!(" ({code})")).unwrap_or_default();
        Failure::Failed(format!("{error}{code}{hint}"))
    }
}

/// What to do about an answer of the server that does not say so itself.
fn hint_of_code(code: &ErrorCode) -> &'static str {
    match code {
        ErrorCode::TransactionTooOld => {
            "; versions stay readable for storage.readable_window_ms of the servers, by default a minute: take a newer one"
        }
        ErrorCode::FutureVersion => "; take an older one, or see with --addr whether this is the right cluster",
        ErrorCode::KeyTooLarge => "; the setting of the server is limits.max_key_bytes",
        ErrorCode::ValueTooLarge => "; the setting of the server is limits.max_value_bytes",
        ErrorCode::StorageFull => "; nothing was written; has_space in /status of each server tells where",
        ErrorCode::Overloaded => "; wait a little, and try again",
        ErrorCode::TransactionTooLarge => "; make it several transactions",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn no_primary() -> ClientError {
        ClientError::Refused {
            code: ErrorCode::NoPrimary,
            message: "no primary: a reason".to_string(),
            retryable: true,
            maybe_committed: false,
            conflicting_keys: Vec::new(),
        }
    }

    #[test]
    fn a_version_out_of_the_window_names_the_setting() {
        let error = ClientError::Refused {
            code: ErrorCode::TransactionTooOld,
            message: "too old".to_string(),
            retryable: true,
            maybe_committed: false,
            conflicting_keys: Vec::new(),
        };
        let text = Failure::from(error).to_string();
        assert!(text.starts_with("too old (TRANSACTION_TOO_OLD); ") && text.contains("readable_window_ms"), "{text}");
    }

    #[test]
    fn only_a_write_says_that_nothing_was_written() {
        let read = Failure::from(no_primary()).to_string();
        assert_eq!(read, "no primary: a reason (NO_PRIMARY); see `synodkv status`");
        assert_eq!(Failure::of_write(no_primary()).to_string(), format!("{read}; nothing was written"));
    }
}
