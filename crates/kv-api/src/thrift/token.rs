//! The type of tokens in requests.

use std::fmt;

/// A token in a request. `scripts/generate-thrift.sh` gives it to every field that holds one. So the structs, whose
/// `Debug` shows all their fields, cannot put a token into a log or an error.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PresentedToken(String);

impl PresentedToken {
    /// The text. Never put it into a message.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for PresentedToken {
    fn from(text: String) -> Self {
        PresentedToken(text)
    }
}

impl From<&str> for PresentedToken {
    fn from(text: &str) -> Self {
        PresentedToken(text.to_owned())
    }
}

impl fmt::Debug for PresentedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("token(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use crate::thrift::ThriftCall;
    use crate::thrift::generated::{AuthenticateRequest, GetRequest, UnpinSnapshotRequest};

    #[test]
    fn a_request_does_not_show_the_token_that_it_carries() {
        let token = || "synodkv_secret".into();
        let calls: [ThriftCall; 3] = [
            AuthenticateRequest::new(token()).into(),
            GetRequest::new(b"k".to_vec(), None, None, "synodkv_secret".to_string()).into(),
            UnpinSnapshotRequest { read_version: 1, auth_token: Some(token()) }.into(),
        ];
        for call in calls {
            let shown = format!("{call:?} {call:#?}");
            assert!(shown.contains("hidden") && !shown.contains("secret"), "{shown}");
        }
    }
}
