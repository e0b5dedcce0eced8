//! Where bodies on disk are, and whether anybody has any.

use std::env;
use std::path::PathBuf;

use super::Config;

/// Where temporary files that may be long are, unless it is said: file-hierarchy(7) has `/var/tmp` for them.
pub(super) fn folder() -> PathBuf {
    env::var_os("TMPDIR").filter(|folder| !folder.is_empty()).map_or_else(|| "/var/tmp".into(), PathBuf::from)
}

impl Config {
    /// Whether an app may have bodies on disk.
    pub fn needs_disk(&self) -> bool {
        let mut limits = self.apps.iter().map(|app| &app.spec.limits);
        limits.any(|limits| limits.request_disk > 0 || limits.response_disk > 0)
    }
}
