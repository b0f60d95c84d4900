//! The failure of a command: a text that says what to do next, and the exit status for programs.
//! docs/CLI.md has the table.

use std::process::ExitCode;

use kv_client::{ClientError, ErrorCode};

#[derive(Clone, Debug, thiserror::Error)]
pub enum Failure {
    /// The command line, the configuration or the input is wrong; nothing was done.
    #[error("{0}")]
    Usage(String),
    /// The answer is no.
    #[error("{0}")]
    Failed(String),
    /// The answer is unknown, at least now: no server can be reached or answers in time, there is
    /// no primary, or it is unknown whether a write happened.
    #[error("{0}")]
    Unsure(String),
}

impl Failure {
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Failure::Failed(_) => 1,
            Failure::Usage(_) => 2,
            Failure::Unsure(_) => 3,
        })
    }

    /// The same failure with a changed text.
    pub fn with_text(self, change: impl FnOnce(String) -> String) -> Self {
        match self {
            Failure::Usage(text) => Failure::Usage(change(text)),
            Failure::Failed(text) => Failure::Failed(change(text)),
            Failure::Unsure(text) => Failure::Unsure(change(text)),
        }
    }

    /// The same failure, with a text that first says what was done before it.
    pub fn after(self, done: &str) -> Self {
        match self.with_text(|text| format!("{done}{text}")) {
            // Something was done already, so this is no longer a usage error.
            Failure::Usage(text) => Failure::Failed(text),
            other => other,
        }
    }

    /// The failure of a write. It adds that the write did not happen, if that is certain and a user
    /// may wonder.
    pub fn of_write(error: ClientError) -> Self {
        let is_void = error.code() == Some(&ErrorCode::NoPrimary) && !error.maybe_committed();
        let failure = Failure::from(error);
        if is_void { failure.with_text(|text| format!("{text}; nothing was written")) } else { failure }
    }

    /// A failure to understand the answer of a server.
    pub fn of_answer(error: impl std::fmt::Display) -> Self {
        Failure::Unsure(format!("the server's answer is invalid: {error}"))
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Failure::Unsure(error.to_string())
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let hint = match &error {
            ClientError::Unreachable { .. } => {
                "; is the server running? start one with `synodkv serve`, or give its address with --addr HOST:PORT"
            }
            ClientError::Malformed { .. } => "; is this the Thrift address? the admin address takes --admin",
            ClientError::InvalidArgument(_) => return Failure::Usage(error.to_string()),
            error if error.maybe_committed() => "; the write may have happened: read the key to check",
            error if error.code() == Some(&ErrorCode::NoPrimary) => "; see `synodkv status`",
            error => error.code().map(hint_of_code).unwrap_or_default(),
        };
        let code = error.code().map(ErrorCode::as_str).filter(|code| !code.is_empty());
        let code = code.map(|code| format!(" ({code})")).unwrap_or_default();
        let text = format!("{error}{code}{hint}");
        if is_no(&error) { Failure::Failed(text) } else { Failure::Unsure(text) }
    }
}

/// Whether a server has refused the request, and would refuse it again.
fn is_no(error: &ClientError) -> bool {
    match error {
        ClientError::Refused { code, maybe_committed, .. } => {
            !maybe_committed
                && !matches!(
                    code,
                    ErrorCode::NoPrimary
                        | ErrorCode::Timeout
                        | ErrorCode::Overloaded
                        | ErrorCode::StorageFull
                        | ErrorCode::CommitUnknownResult
                        | ErrorCode::OperationFailed
                        | ErrorCode::CommitFailed
                        | ErrorCode::PutFailed
                        | ErrorCode::DeleteFailed
                        | ErrorCode::Other(_)
                )
        }
        ClientError::InvalidArgument(_)
        | ClientError::Unreadable { .. }
        | ClientError::TransactionTooLarge { .. }
        | ClientError::ChangesTooOld { .. }
        | ClientError::TransactionEnded(_) => true,
        ClientError::Unreachable { .. }
        | ClientError::ConnectionLost { .. }
        | ClientError::DeadlineExceeded { .. }
        | ClientError::Exception { .. }
        | ClientError::Malformed { .. }
        | ClientError::CommitUnknown { .. } => false,
    }
}

/// Advice about an error whose text does not contain any.
fn hint_of_code(code: &ErrorCode) -> &'static str {
    match code {
        ErrorCode::TransactionTooOld => {
            "; versions stay readable for the servers' storage.readable_window_ms, by default a minute: use a newer one"
        }
        ErrorCode::FutureVersion => "; use an older one, or check with --addr whether this is the right cluster",
        ErrorCode::KeyTooLarge => "; the setting of the server is limits.max_key_bytes",
        ErrorCode::ValueTooLarge => "; the setting of the server is limits.max_value_bytes",
        ErrorCode::StorageFull => "; nothing was written; has_space in /status of each server shows where",
        ErrorCode::Overloaded => "; wait a little, and try again",
        ErrorCode::TransactionTooLarge => {
            "; split it into several transactions; the setting of the server is limits.max_transaction_bytes"
        }
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
            leader_endpoint: None,
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
            leader_endpoint: None,
        };
        let text = Failure::from(error).to_string();
        assert!(text.starts_with("too old (TRANSACTION_TOO_OLD); ") && text.contains("readable_window_ms"), "{text}");
    }

    #[test]
    fn the_status_distinguishes_no_from_unknown() {
        let is_no = |code: ErrorCode| {
            let error = ClientError::Refused {
                code,
                message: String::new(),
                retryable: false,
                maybe_committed: false,
                conflicting_keys: Vec::new(),
                leader_endpoint: None,
            };
            matches!(Failure::from(error), Failure::Failed(_))
        };
        for code in
            [ErrorCode::Conflict, ErrorCode::ValueTooLarge, ErrorCode::UnknownColumnFamily, ErrorCode::Forbidden]
        {
            assert!(is_no(code.clone()), "{code}");
        }
        for code in [ErrorCode::NoPrimary, ErrorCode::Timeout, ErrorCode::StorageFull, ErrorCode::PutFailed] {
            assert!(!is_no(code.clone()), "{code}");
        }
        let unreachable = Failure::from(ClientError::Unreachable { attempts: Vec::new() });
        assert!(matches!(unreachable, Failure::Unsure(_)), "{unreachable}");
    }

    #[test]
    fn only_a_write_says_that_nothing_was_written() {
        let read = Failure::from(no_primary()).to_string();
        assert_eq!(read, "no primary: a reason (NO_PRIMARY); see `synodkv status`");
        assert_eq!(Failure::of_write(no_primary()).to_string(), format!("{read}; nothing was written"));
    }
}
