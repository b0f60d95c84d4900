//! Checks that the addresses of a server are free before anything is written. A start that fails
//! because a port is taken must not claim a data directory, which the next start may need for
//! something else.

use std::net::TcpListener;

use crate::config::Address;
use crate::error::ServerError;

/// Binds each address and releases it again. Skips port 0, which is always free.
///
/// # Errors
/// [`ServerError::Listen`] for the first address that is taken, or whose name does not resolve for
/// half a minute.
pub(crate) async fn check_free(addresses: Vec<(String, &Address)>) -> Result<(), ServerError> {
    for (key, address) in addresses {
        if address.port() != 0 {
            let resolved = address.resolve_to_listen().await.map_err(ServerError::listen(&key, address))?;
            drop(TcpListener::bind(resolved).map_err(ServerError::listen(&key, address))?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_is_free_until_somebody_listens_there() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let taken = Address::from(listener.local_addr().expect("bound"));
        let free = async || check_free(vec![("server.thrift_addr".to_string(), &taken)]).await;
        let message = free().await.unwrap_err().to_string();
        assert!(message.contains(taken.as_str()) && message.contains("server.thrift_addr"), "{message}");
        drop(listener);
        free().await.unwrap();
        free().await.unwrap();
    }
}
