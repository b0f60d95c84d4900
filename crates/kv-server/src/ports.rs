//! Whether the addresses of a server are free, asked before anything is written: a start that fails for a taken port must not
//! claim a data directory, which the next start may want for something else.

use std::net::TcpListener;

use crate::config::Address;
use crate::manager::ServerError;

/// Takes each address and lets go of it again. Names that do not resolve now, and port 0, are left to whoever listens.
///
/// # Errors
/// [`ServerError::Listen`] of the first that is not to be had.
pub(crate) fn check_free<'a>(addresses: impl IntoIterator<Item = (String, &'a Address)>) -> Result<(), ServerError> {
    for (key, address) in addresses {
        let Ok(resolved) = address.resolve() else { continue };
        if resolved.port() != 0 {
            drop(TcpListener::bind(resolved).map_err(ServerError::listen(&key, address))?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_free_until_somebody_listens_there() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let taken = Address::from(listener.local_addr().expect("bound"));
        let free = |address: &Address| check_free([("server.thrift_addr".to_string(), address)]);
        let message = free(&taken).unwrap_err().to_string();
        assert!(message.contains(taken.as_str()) && message.contains("server.thrift_addr"), "{message}");
        drop(listener);
        free(&taken).unwrap();
        free(&taken).unwrap();
    }
}
