//! Why a daemon does not start, or does not change.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use router_core::change::ChangeError;

use crate::admin::AdminError;
use crate::config::ConfigError;
use crate::handover::HandoverError;

/// Why the daemon cannot start, or cannot have another configuration.
#[derive(Debug)]
pub enum StartError {
    /// A listener cannot be opened.
    Listen(SocketAddr, io::Error),
    /// TLS in front cannot be had.
    Tls(rustls::Error),
    /// The admin listener cannot be opened.
    Admin(AdminError),
    /// Bodies cannot be put on disk.
    Spool(PathBuf, io::Error),
    /// The access log cannot be started.
    Log(io::Error),
    /// The audit trail or the state file cannot be used.
    Trail(String),
    /// Certificates cannot be kept.
    Acme(String),
    /// The apps contradict each other.
    Apps(ChangeError),
    /// The daemon that runs does not hand over.
    TakeOver(HandoverError),
    /// The daemon is ending.
    Ending,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen(address, error) => write!(f, "cannot listen on {address}: {error}"),
            Self::Tls(error) => write!(f, "cannot speak TLS: {error}"),
            Self::Admin(error) => write!(f, "{error}"),
            Self::Spool(folder, error) => {
                write!(
                    f,
                    "cannot put bodies on disk (server.spool_dir = {:?}): {error}",
                    folder.display().to_string()
                )
            }
            Self::Trail(error) | Self::Acme(error) => f.write_str(error),
            Self::Log(error) => write!(f, "cannot start the access log: {error}"),
            Self::Apps(error) => write!(f, "{error}"),
            Self::TakeOver(error) => write!(f, "cannot take over: {error}"),
            Self::Ending => f.write_str("the daemon is ending"),
        }
    }
}

impl std::error::Error for StartError {}

/// Why a reload has changed nothing.
#[derive(Debug)]
#[non_exhaustive]
pub enum ReloadError {
    /// The file says something that is wrong.
    Config(ConfigError),
    /// The file asks for something that cannot be had.
    Start(StartError),
    /// The daemon was not started from a file.
    NoFile,
    /// It cannot be written down that it was asked for.
    NotKept(String),
    /// The file was not read to its end: the daemon is ending.
    Interrupted,
}

impl fmt::Display for ReloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => error.fmt(f),
            Self::Start(error) => error.fmt(f),
            Self::NotKept(why) => f.write_str(why),
            Self::NoFile => f.write_str("the daemon was not started from a file"),
            Self::Interrupted => f.write_str("the daemon is ending"),
        }
    }
}

impl std::error::Error for ReloadError {}
