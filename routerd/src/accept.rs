//! Step 1: listeners, the bound on connections, and back-off when the kernel has no more to give.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustix::net::{SocketFlags, accept_with};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::conn::{self, Begins, Terms};
use crate::connections::Connections;
use crate::door::Refused;
use crate::drain::{Phase, reached};

/// Connections the kernel may hold for us.
const BACKLOG: i32 = 4096;
/// The pause after an accept that failed for want of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(50);

/// Opens a listener.
///
/// # Errors
/// The kernel's: the address is in use, is not ours, or needs a privilege.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::from_std(open(address)?)
}

/// The same without a runtime.
pub(crate) fn open(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restarted daemon must not wait for connections of the old one to time out.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // `[::]` and `0.0.0.0` are two listeners that may stand side by side.
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Accepts connections until the drain begins.
pub(crate) async fn accept(
    listener: Arc<TcpListener>,
    begins: Begins,
    terms: Arc<ArcSwap<Terms>>,
    connections: Connections,
    drain: watch::Receiver<Phase>,
) {
    let mut ends = drain.clone();
    let mut spare = Spare::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = reached(&mut ends, Phase::Leaving) => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => take((stream, peer), begins, terms.load_full(), &connections, &drain),
            // That one client's trouble.
            Err(error) if is_about_the_client(&error) => {}
            Err(error) if is_about_descriptors(&error) && spare.give() => {
                turn_away_one(&listener, begins, &terms.load_full()).await;
                spare = Spare::new();
            }
            Err(error) => {
                spare = Spare::new();
                tracing::warn!("cannot accept a connection: {error}; next try in {PAUSE:?}");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Takes the connections that the kernel holds for a listener that is about to be closed: it would reset them, with the
/// requests that have come over them.
pub(crate) fn sweep(
    listener: &TcpListener,
    begins: Begins,
    terms: &Arc<Terms>,
    connections: &Connections,
    drain: &watch::Receiver<Phase>,
) {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    // What is wrong with one that is taken, or that there is none left, is the end of it: what comes now is too late.
    for _ in 0..BACKLOG {
        let Ok(socket) = accept_with(listener, flags) else { return };
        let stream = std::net::TcpStream::from(socket);
        let Ok(peer) = stream.peer_addr() else { continue };
        let Ok(stream) = TcpStream::from_std(stream) else { return };
        take((stream, peer), begins, Arc::clone(terms), connections, drain);
    }
}

/// Serves a connection, if there is room for it.
fn take(
    (stream, peer): (TcpStream, SocketAddr),
    begins: Begins,
    terms: Arc<Terms>,
    connections: &Connections,
    drain: &watch::Receiver<Phase>,
) {
    let Some(connection) = connections.admit(terms.max_connections) else {
        terms.door.refuse(Refused::Full);
        return conn::turn_away_at_once(stream, peer, begins, &terms);
    };
    let drain = drain.clone();
    tokio::spawn(async move {
        conn::serve(stream, peer, begins, terms, drain).await;
        drop(connection);
    });
}

/// A descriptor that is kept to be given away. Without any, a connection could not even be taken from the kernel to be
/// refused: clients would wait there until they give up.
struct Spare(Option<File>);

impl Spare {
    fn new() -> Self {
        Self(File::open("/dev/null").ok())
    }

    /// Whether there was one.
    fn give(&mut self) -> bool {
        self.0.take().is_some()
    }
}

/// Tells one client that there are no descriptors, with the one that was spare.
async fn turn_away_one(listener: &TcpListener, begins: Begins, terms: &Terms) {
    // Whatever waits is there: a client that has left meanwhile is no reason to wait for the next.
    let accepted = tokio::time::timeout(PAUSE, listener.accept()).await;
    if let Ok(Ok((stream, peer))) = accepted {
        if terms.door.refuse(Refused::Descriptors) == 1 {
            tracing::warn!("out of file descriptors: connections are refused; raise the limit on open files");
        }
        conn::turn_away_at_once(stream, peer, begins, terms);
    }
}

fn is_about_descriptors(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = Errno::from_io_error(error);
    errno == Some(Errno::MFILE) || errno == Some(Errno::NFILE)
}

fn is_about_the_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, WouldBlock};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted | WouldBlock)
}
