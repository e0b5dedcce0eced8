//! How many bytes of bodies may be in memory and on disk, and where on disk.

use router_core::proxy::{Disk, Proxy};

use super::StartError;
use crate::config::Config;
use crate::descriptors;

/// Whether bodies can be put on disk, if an app wants that.
pub(super) async fn check(config: &Config) -> Result<(), StartError> {
    if !config.needs_disk() {
        return Ok(());
    }
    let folder = config.server.spool_dir.clone();
    let probed = tokio::task::spawn_blocking(move || Disk::probe(&folder).map_err(|error| (folder, error)));
    match probed.await {
        Ok(Err((folder, error))) => Err(StartError::Spool(folder, error)),
        // Not asked, because the runtime is ending.
        Ok(Ok(())) | Err(_) => Ok(()),
    }
}

pub(super) fn set(proxy: &Proxy, config: &Config) {
    proxy.memory().set_most(config.server.memory_max);
    proxy.disk().set(&config.server.spool_dir, config.server.disk_max, descriptors::for_bodies(config));
}
