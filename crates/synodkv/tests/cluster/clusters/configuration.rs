//! Makes the configuration file of a server under test. Every kind of cluster reads it as the
//! program does.

use std::path::Path;

use crate::cluster::Settings;
use crate::ports::free_address;

/// Builds without RocksDB have nothing else.
const ENGINE: &str = if cfg!(feature = "rocksdb") { "rocksdb" } else { "memory" };

/// The addresses of one replica. Its ports stay the same over a restart.
#[derive(Clone, Debug)]
pub struct Member {
    pub peer: String,
    pub thrift: String,
    pub admin: String,
}

impl Member {
    pub fn new() -> Member {
        Member { peer: free_address(), thrift: free_address(), admin: free_address() }
    }
}

/// Without members: a standalone server at `listen`. The peers' addresses are those that this
/// server dials.
pub fn configuration(settings: &Settings, listen: &Member, members: &[Member], data_dir: &Path) -> String {
    let mode = if members.is_empty() { "standalone" } else { "replicated" };
    let mut text = format!(
        "mode = \"{mode}\"\n\
         [server]\n\
         thrift_addr = \"{}\"\n\
         admin_addr = \"{}\"\n\
         request_timeout_ms = {}\n\
         no_primary_wait_ms = {}\n\
         [storage]\n\
         data_dir = \"{}\"\n\
         engine = \"{}\"\n\
         readable_window_ms = {}\n\
         write_buffer_mb = {}\n\
         block_cache_mb = 8\n\
         [replication]\n\
         wal_segment_mb = 1\n\
         readmit_replaced_disk = {}\n",
        listen.thrift,
        listen.admin,
        settings.request_timeout_ms,
        settings.no_primary_wait_ms,
        data_dir.display(),
        ENGINE,
        settings.readable_window_ms,
        settings.write_buffer_mb,
        settings.readmits,
    );
    if settings.short_log {
        text += "log_keep_mb = 3\nlog_flush_mb = 1\n";
    }
    for (id, Member { peer, thrift, admin }) in members.iter().enumerate() {
        text += &format!(
            "[[replication.replicas]]\nid = {id}\npeer = \"{peer}\"\nthrift = \"{thrift}\"\nadmin = \"{admin}\"\n"
        );
    }
    text
}
