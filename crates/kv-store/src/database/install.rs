//! Builds a database from a copy of another.

use std::sync::Arc;

use kv_api::KvError;

use super::TransactionalKvDatabase;
use super::options::StoreOptions;
use crate::engine::EngineInstall;
use crate::journal::JournalPlace;
use crate::meta::StateBlob;

/// A database under construction. Dropping it before [`Self::finish`] removes what was written.
pub struct DatabaseInstall {
    install: Box<dyn EngineInstall>,
    options: StoreOptions,
    /// `None`: beside the engine.
    journal: Option<Arc<dyn JournalPlace>>,
}

impl DatabaseInstall {
    /// `install` builds the engine; see [`crate::engine::begin_install`].
    pub fn new(install: Box<dyn EngineInstall>, options: StoreOptions) -> Self {
        DatabaseInstall { install, options, journal: None }
    }

    /// Puts the files of the journal into this place; see [`TransactionalKvDatabase::open_with_journal`].
    pub fn with_journal(self, journal: Arc<dyn JournalPlace>) -> Self {
        DatabaseInstall { journal: Some(journal), ..self }
    }

    /// Takes the next bytes of the copy, in pieces of any size. After an error every further call
    /// fails, too.
    ///
    /// # Errors
    /// [`KvError::Corruption`] when the bytes are not those of a sound copy; any other error is a
    /// local fault.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), KvError> {
        self.install.write(bytes)
    }

    /// Ends the copy: all bytes were written. The returned database is open and survives a crash.
    ///
    /// # Errors
    /// [`KvError::Corruption`] when the copy is incomplete or damaged; any other error is a local
    /// fault.
    pub fn finish(self) -> Result<(Arc<TransactionalKvDatabase>, StateBlob), KvError> {
        let engine = self.install.finish()?;
        let database = match self.journal {
            Some(journal) => TransactionalKvDatabase::open_with_journal(engine.clone(), self.options, journal),
            None => TransactionalKvDatabase::open(engine.clone(), self.options),
        };
        let opened = database.and_then(|database| {
            let state = database.state_blob()?;
            let missing = || KvError::Corruption("the copy of a database: it has no state blob".into());
            let (sequence, blob) = state.ok_or_else(missing)?;
            Ok((database, StateBlob { sequence, blob }))
        });
        opened.inspect_err(|_| engine.remove_when_closed())
    }
}
