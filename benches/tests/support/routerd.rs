//! This project's daemon, if it was built.

use std::path::{Path, PathBuf};

use super::needs::left_out;
use super::program::PROGRAM;

/// Its program.
pub(crate) fn routerd() -> Option<PathBuf> {
    let path = Path::new(PROGRAM).with_file_name("routerd");
    if path.is_file() { Some(path) } else { left_out(&format!("there is no {}", path.display())) }
}
