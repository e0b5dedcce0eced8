//! Listening sockets that are open already: systemd's, or those of the daemon that ran before.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use listenfd::ListenFd;
use serde::{Deserialize, Serialize};
use socket2::SockRef;
use tokio::net::{TcpListener, UnixListener};

/// What a socket is for: the address as the configuration has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// An address; port 0 is any free port.
    Tcp(SocketAddr),
    /// The file of a Unix socket.
    Unix(PathBuf),
}

/// A listening socket that is open.
#[derive(Debug)]
pub struct Passed {
    /// What it is for.
    pub place: Place,
    /// The socket.
    pub socket: OwnedFd,
    /// The file of a Unix socket belongs to somebody else and is never taken away.
    pub file_stays: bool,
}

/// The listening sockets that a daemon finds at its start.
#[derive(Debug, Default)]
pub struct Inherited(Vec<Passed>);

impl Inherited {
    /// The sockets that systemd passes (`LISTEN_FDS`, `LISTEN_PID`). What is no listening socket is reported and
    /// closed. Takes the variables out of the environment: call it before there are other threads.
    pub fn from_env() -> Self {
        let mut fds = ListenFd::from_env();
        let mut found = Vec::new();
        for at in 0..fds.len() {
            match systemds(&mut fds, at) {
                Ok(passed) => found.push(passed),
                Err(why) => {
                    tracing::warn!("socket {at} of those that were passed at the start: {why}; closed");
                    // What listens to nothing is closed by being taken.
                    drop((fds.take_udp_socket(at), fds.take_unix_datagram(at)));
                }
            }
        }
        Self(found)
    }

    pub(crate) fn new(sockets: Vec<Passed>) -> Self {
        Self(sockets)
    }

    /// With these besides, which come first.
    pub(crate) fn after(self, mut first: Self) -> Self {
        first.0.extend(self.0);
        first
    }

    /// Whether there is a socket for that place.
    pub(crate) fn has(&self, place: &Place) -> bool {
        self.find(place).is_some()
    }

    /// The socket for that place, once: that was opened for it, or that has that very address.
    pub(crate) fn take(&mut self, place: &Place) -> Option<Passed> {
        let found = self.find(place)?;
        Some(self.0.remove(found))
    }

    fn find(&self, place: &Place) -> Option<usize> {
        let at = |passed: &Passed| match place {
            Place::Tcp(wanted) => local(passed) == Some(*wanted),
            Place::Unix(_) => false,
        };
        let for_it = self.0.iter().position(|passed| passed.place == *place);
        for_it.or_else(|| self.0.iter().position(at))
    }

    /// Closes what nobody wanted, and says so.
    pub(crate) fn close(self) {
        for passed in self.0 {
            tracing::warn!(
                "the socket {} was passed at the start and is not in the configuration: closed",
                passed.place
            );
        }
    }
}

fn systemds(fds: &mut ListenFd, at: usize) -> Result<Passed, String> {
    if let Ok(Some(listener)) = fds.take_tcp_listener(at) {
        let address = listener.local_addr().map_err(|error| error.to_string())?;
        let socket = listening(listener.into())?;
        return Ok(Passed { place: Place::Tcp(address), socket, file_stays: true });
    }
    let Ok(Some(listener)) = fds.take_unix_listener(at) else {
        return Err("it is no stream socket".to_owned());
    };
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    let path = address.as_pathname().ok_or("it has no file")?.to_owned();
    Ok(Passed { place: Place::Unix(path), socket: listening(listener.into())?, file_stays: true })
}

fn local(passed: &Passed) -> Option<SocketAddr> {
    SockRef::from(&passed.socket).local_addr().ok()?.as_socket()
}

fn listening(socket: OwnedFd) -> Result<OwnedFd, String> {
    match SockRef::from(&socket).is_listener() {
        Ok(true) => Ok(socket),
        Ok(false) => Err("it does not listen".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// A TCP listener that is open.
///
/// # Errors
/// It does not listen.
pub(crate) fn tcp(socket: OwnedFd) -> io::Result<TcpListener> {
    let socket = listening(socket).map_err(io::Error::other)?;
    let listener = std::net::TcpListener::from(socket);
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// A Unix listener that is open.
///
/// # Errors
/// It does not listen.
pub(crate) fn unix(socket: OwnedFd) -> io::Result<UnixListener> {
    let socket = listening(socket).map_err(io::Error::other)?;
    let listener = std::os::unix::net::UnixListener::from(socket);
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
