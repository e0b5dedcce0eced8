//! Where the admin listener listens: a TCP address, or a Unix socket that is cleaned up before and after.

use std::fmt;
use std::fs;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use rustix::fs::Mode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixSocket, UnixStream};

use super::access::Peer;

use crate::inherit::{self, Passed};

/// The mode of a Unix socket: its owner and group may ask.
const MODE: u32 = 0o660;
/// Connections to a Unix socket that may wait to be accepted.
const BACKLOG: u32 = 1024;

/// An address of the admin listener: `127.0.0.1:9900`, `[::1]:9900` or `unix:/run/routerd.sock`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminAddress {
    /// A TCP address; port 0 takes any free port.
    Tcp(SocketAddr),
    /// The file of a Unix socket.
    Unix(PathBuf),
}

/// Why the admin listener could not start.
#[derive(Debug)]
#[non_exhaustive]
pub enum AdminError {
    /// The text is no address.
    Address(String),
    /// Another process answers on the Unix socket.
    Taken(PathBuf),
    /// What is in the Unix socket's place is no socket, so it is left alone.
    NoSocket(PathBuf),
    /// The system refused the address.
    Listen(AdminAddress, io::Error),
}

impl FromStr for AdminAddress {
    type Err = AdminError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix("unix:") {
            Some("") => Err(AdminError::Address(text.to_owned())),
            Some(path) => Ok(Self::Unix(path.into())),
            None => text.parse().map(Self::Tcp).map_err(|_| AdminError::Address(text.to_owned())),
        }
    }
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl fmt::Display for AdminError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(text) => {
                write!(f, "{text:?} is neither an address with a port nor unix: and a path")
            }
            Self::Taken(path) => write!(f, "another process answers on unix:{}", path.display()),
            Self::NoSocket(path) => write!(f, "{} exists and is no socket", path.display()),
            Self::Listen(address, error) => write!(f, "cannot listen on {address}: {error}"),
        }
    }
}

impl std::error::Error for AdminError {}

/// A listener that holds its address and does not answer yet; see [`serve`](Self::serve).
#[derive(Debug)]
pub struct AdminListener {
    socket: Socket,
    address: AdminAddress,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    /// The guard takes the file away.
    Unix(UnixListener, SocketFile),
}

impl AdminListener {
    /// Takes the address. The file of a Unix socket on which nobody answers any more is replaced.
    ///
    /// # Errors
    ///
    /// See [`AdminError`].
    ///
    /// # Cancel safety
    ///
    /// Nothing is left behind.
    pub async fn bind(address: &AdminAddress) -> Result<Self, AdminError> {
        let refused = |error| AdminError::Listen(address.clone(), error);
        match address {
            AdminAddress::Tcp(wanted) => {
                let socket = TcpListener::bind(wanted).await.map_err(refused)?;
                let address = AdminAddress::Tcp(socket.local_addr().map_err(refused)?);
                Ok(Self { socket: Socket::Tcp(socket), address })
            }
            AdminAddress::Unix(path) => {
                remove_stale(path).await?;
                let socket = UnixSocket::new_stream().map_err(refused)?;
                // Before it has a file, so that the file has never been open to more than these.
                rustix::fs::fchmod(&socket, Mode::from_raw_mode(MODE))
                    .map_err(|error| refused(error.into()))?;
                socket.bind(path).map_err(refused)?;
                let socket = socket.listen(BACKLOG).map_err(refused)?;
                let file = SocketFile::of(path).map_err(refused)?;
                fs::set_permissions(path, fs::Permissions::from_mode(MODE)).map_err(refused)?;
                Ok(Self { socket: Socket::Unix(socket, file), address: address.clone() })
            }
        }
    }

    /// A listener that was open before: another process had it, or has it still. The file of a Unix socket is that
    /// process's until [`own_file`](Self::own_file).
    ///
    /// # Errors
    ///
    /// It is no socket of that kind.
    pub(crate) fn on(passed: Passed, address: &AdminAddress) -> Result<Self, AdminError> {
        let refused = |error| AdminError::Listen(address.clone(), error);
        match address {
            AdminAddress::Tcp(_) => {
                let socket = inherit::tcp(passed.socket).map_err(refused)?;
                let address = AdminAddress::Tcp(socket.local_addr().map_err(refused)?);
                Ok(Self { socket: Socket::Tcp(socket), address })
            }
            AdminAddress::Unix(path) => {
                let socket = inherit::unix(passed.socket).map_err(refused)?;
                let mut file = SocketFile::of(path).map_err(refused)?;
                file.stays = passed.file_stays;
                file.leave.set(true);
                Ok(Self { socket: Socket::Unix(socket, file), address: address.clone() })
            }
        }
    }

    /// The file of a Unix socket goes with this listener, unless it was systemd's.
    pub(crate) fn own_file(&self) {
        self.leave_file().set(self.file_stays());
    }

    /// Whether the file of a Unix socket was systemd's.
    pub(crate) fn file_stays(&self) -> bool {
        matches!(&self.socket, Socket::Unix(_, file) if file.stays)
    }

    /// What leaves the file of a Unix socket where it is once the listener goes.
    pub(crate) fn leave_file(&self) -> LeaveFile {
        match &self.socket {
            Socket::Tcp(_) => LeaveFile::default(),
            Socket::Unix(_, file) => file.leave.clone(),
        }
    }

    /// Where it listens, with the port that port 0 became.
    pub fn address(&self) -> &AdminAddress {
        &self.address
    }

    pub(crate) async fn accept(&self) -> io::Result<(Accepted, Peer)> {
        match &self.socket {
            Socket::Tcp(socket) => {
                let (stream, from) = socket.accept().await?;
                let own = stream.local_addr().map(|own| own.ip().to_canonical());
                let peer = Peer::Tcp { from, loopback: own.is_ok_and(|own| own.is_loopback()) };
                Ok((Accepted::Tcp(stream), peer))
            }
            Socket::Unix(socket, _) => {
                let (stream, _) = socket.accept().await?;
                let uid = stream.peer_cred().ok().map(|who| who.uid());
                Ok((Accepted::Unix(stream), Peer::Unix { uid }))
            }
        }
    }
}

impl AsFd for AdminListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Tcp(socket) => socket.as_fd(),
            Socket::Unix(socket, _) => socket.as_fd(),
        }
    }
}

/// A switch: the file of a Unix socket stays, because another process goes on with the socket.
#[derive(Clone, Debug, Default)]
pub(crate) struct LeaveFile(Arc<AtomicBool>);

impl LeaveFile {
    pub(crate) fn set(&self, leave: bool) {
        self.0.store(leave, Ordering::Release);
    }
}

/// Takes away a socket file that a process left behind when it was killed.
async fn remove_stale(path: &Path) -> Result<(), AdminError> {
    let refused = |error| AdminError::Listen(AdminAddress::Unix(path.into()), error);
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(refused(error)),
        Ok(found) if !found.file_type().is_socket() => return Err(AdminError::NoSocket(path.into())),
        Ok(_) => {}
    }
    // Does not wait: a listener whose backlog is full shows as one that would block.
    match UnixStream::connect(path).await {
        Ok(_) => Err(AdminError::Taken(path.into())),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Err(AdminError::Taken(path.into())),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(refused(error)),
            _ => Ok(()),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(refused(error)),
    }
}

/// The file of our Unix socket, taken away when the listener goes, unless another process has put its own there.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
    stays: bool,
    leave: LeaveFile,
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        let found = fs::symlink_metadata(path)?;
        let (stays, leave) = (false, LeaveFile::default());
        Ok(Self { path: path.into(), device: found.dev(), inode: found.ino(), stays, leave })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = |found: &fs::Metadata| found.dev() == self.device && found.ino() == self.inode;
        let stays = self.leave.0.load(Ordering::Acquire);
        if !stays && fs::symlink_metadata(&self.path).is_ok_and(|found| ours(&found)) {
            // A file that cannot be removed is found and replaced at the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// One accepted connection.
pub(crate) enum Accepted {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl AsyncRead for Accepted {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
