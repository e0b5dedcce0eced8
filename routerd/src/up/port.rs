//! The ports of a grid's processes: which one is free, and whether somebody listens there yet.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// Ports are taken from here. This is below what systems use for outgoing connections, so that no client can sit
/// on the port of a dyno that is just being started again, and a check cannot connect to itself.
const RANGE: std::ops::Range<u32> = 10_000..30_000;
/// How long one check may take. On loopback the answer is there at once, unless the dyno's backlog is full.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);
/// Time from one check to the next: quick at first, for a small server, then easy on the machine.
const CHECK_EVERY: [Duration; 2] = [Duration::from_millis(25), Duration::from_millis(250)];

/// Where the process with this port is looked for.
pub(crate) fn address(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// A port that nobody listens on: `had` if it is still free, else another.
///
/// It is tried by listening on it for a moment. Somebody may take it before the process does, which then fails to
/// listen, ends, and is started again with another one.
pub(crate) fn free(had: Option<u16>) -> io::Result<u16> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    if let Some(had) = had.filter(|had| is_free(*had)) {
        return Ok(had);
    }
    let size = RANGE.end - RANGE.start;
    // Two grids on one machine begin at different places, so they rarely try the same port at the same time.
    let begin = process::id().wrapping_mul(131);
    for _ in 0..size {
        let step = begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(RANGE.start + step % size).unwrap_or(u16::MAX);
        if is_free(port) {
            return Ok(port);
        }
    }
    Err(io::Error::new(
        io::ErrorKind::AddrInUse,
        format!("no port from {} to {} is free", RANGE.start, RANGE.end),
    ))
}

fn is_free(port: u16) -> bool {
    TcpListener::bind(address(port)).is_ok()
}

/// Waits until somebody accepts connections on the port. The connection that shows it is closed before this returns:
/// a dyno must never have two.
pub(crate) async fn accepts(port: u16) {
    let mut pause = CHECK_EVERY[0];
    while !check(port).await {
        sleep(pause).await;
        pause = (pause * 2).min(CHECK_EVERY[1]);
    }
}

async fn check(port: u16) -> bool {
    let Ok(Ok(stream)) = timeout(CHECK_TIMEOUT, TcpStream::connect(address(port))).await else {
        return false;
    };
    // A system set up to use our range for outgoing connections can connect a socket to itself.
    matches!((stream.local_addr(), stream.peer_addr()), (Ok(local), Ok(peer)) if local != peer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_kept_while_it_is_free_and_left_when_it_is_taken() {
        let port = free(None).unwrap();
        assert!(RANGE.contains(&u32::from(port)));
        assert_eq!(free(Some(port)).unwrap(), port);
        let _taken = TcpListener::bind(address(port)).unwrap();
        assert_ne!(free(Some(port)).unwrap(), port);
    }

    #[tokio::test]
    async fn the_connection_of_a_check_is_closed_when_the_check_returns() {
        let listener = tokio::net::TcpListener::bind(address(0)).await.unwrap();
        accepts(listener.local_addr().unwrap().port()).await;
        let (mut stream, _) = listener.accept().await.unwrap();
        let read =
            timeout(Duration::from_secs(5), tokio::io::AsyncReadExt::read(&mut stream, &mut [0])).await;
        assert_eq!(read.unwrap().unwrap(), 0);
    }
}
