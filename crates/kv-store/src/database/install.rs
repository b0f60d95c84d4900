//! Databases from copies of others.

use std::sync::Arc;

use kv_api::KvError;

use super::TransactionalKvDatabase;
use super::options::StoreOptions;
use crate::engine::EngineInstall;
use crate::meta::StateBlob;

/// A database that is being built from a copy. Dropping it unfinished removes what was written.
pub struct DatabaseInstall {
    install: Box<dyn EngineInstall>,
    options: StoreOptions,
}

impl DatabaseInstall {
    /// `install` is where the engine is built; see [`crate::engine::begin_install`].
    pub fn new(install: Box<dyn EngineInstall>, options: StoreOptions) -> Self {
        DatabaseInstall { install, options }
    }

    /// The next bytes of the copy, in pieces of any size. After an error every further call fails, too.
    ///
    /// # Errors
    /// [`KvError::Corruption`] when they are the bytes of no sound copy; anything else is a fault of this place.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), KvError> {
        self.install.write(bytes)
    }

    /// All bytes were written. The database is open, and survives a crash from here on.
    pub fn finish(self) -> Result<(Arc<TransactionalKvDatabase>, StateBlob), KvError> {
        let engine = self.install.finish()?;
        let opened = TransactionalKvDatabase::open(engine.clone(), self.options).and_then(|database| {
            let state = database.state_blob()?;
            let missing = || KvError::Corruption("the copy of a database: it holds no sealed state".into());
            let (sequence, blob) = state.ok_or_else(missing)?;
            Ok((database, StateBlob { sequence, blob }))
        });
        opened.inspect_err(|_| engine.remove_when_closed())
    }
}
