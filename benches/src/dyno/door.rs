//! A dyno's port: reserved as long as the dyno exists, open only while it is up.

use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};

use socket2::{Domain, Socket, Type};

/// A port of the loopback address. Closed, it refuses connections, and nobody else gets it.
#[derive(Debug)]
pub struct Door {
    socket: Socket,
    address: SocketAddr,
    backlog: u16,
}

impl Door {
    /// Reserves a port, any free one if it is 0; the kernel will hold `backlog` connections that are not yet accepted.
    ///
    /// # Errors
    /// When the port is in use, or may not be used.
    pub fn bind(port: u16, backlog: u16) -> io::Result<Self> {
        // The kernel forgets a port that it chose itself when the door closes, so it is asked for by its number.
        let chosen = if port == 0 { Some(bound(0)?) } else { None };
        let port = chosen.as_ref().map_or(Ok(port), |socket| Ok::<_, io::Error>(address(socket)?.port()))?;
        let socket = bound(port)?;
        let address = address(&socket)?;
        Ok(Self { socket, address, backlog })
    }

    /// Reserves ports for so many dynos, the first of which has this number: from `port` up, or free ones if that is 0.
    ///
    /// # Errors
    /// When one of them is in use; the message names it.
    pub fn bind_all((count, port): (u16, u16), first: u32, backlog: u16) -> io::Result<Vec<Self>> {
        let bind = |n: u16| {
            let port = match port {
                0 => 0,
                _ => port.checked_add(n).ok_or_else(|| io::Error::other("there is no port above 65535"))?,
            };
            let dyno = first + u32::from(n);
            let named = |error: io::Error| {
                io::Error::new(error.kind(), format!("port {port} of dyno {dyno}: {error}"))
            };
            Self::bind(port, backlog).map_err(named)
        };
        (0..count).map(bind).collect()
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Begins to take connections.
    ///
    /// # Errors
    /// When somebody else listens on the port.
    pub fn open(&self) -> io::Result<()> {
        self.socket.listen(self.backlog.into())
    }

    /// Refuses connections, and resets those that are not yet accepted.
    pub fn close(&self) -> io::Result<()> {
        match self.socket.shutdown(Shutdown::Read) {
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            done => done,
        }
    }

    /// The next connection, if there is one.
    pub fn accept(&self) -> io::Result<Option<TcpStream>> {
        let stream: TcpStream = match self.socket.accept() {
            Ok((socket, _)) => socket.into(),
            Err(error) if over(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        Ok(Some(stream))
    }

    /// What to watch.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }
}

/// Whether there is none: not now, not any more, or the door has closed since it was knocked at.
fn over(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, Interrupted, InvalidInput, WouldBlock};
    matches!(error.kind(), ConnectionAborted | Interrupted | InvalidInput | WouldBlock)
}

fn bound(port: u16) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())?;
    Ok(socket)
}

fn address(socket: &Socket) -> io::Result<SocketAddr> {
    socket.local_addr()?.as_socket().ok_or_else(|| io::Error::other("a socket without an address"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_door_opens_and_closes_and_keeps_its_port() {
        let door = Door::bind(0, 16).unwrap();
        let connect = || TcpStream::connect(door.address()).map_err(|error| error.kind());
        for _ in 0..3 {
            assert_eq!(connect().unwrap_err(), io::ErrorKind::ConnectionRefused);
            door.open().unwrap();
            let _client = connect().unwrap();
            assert!(door.accept().unwrap().is_some());
            assert!(door.accept().unwrap().is_none());
            door.close().unwrap();
            door.close().unwrap();
        }
    }

    #[test]
    fn a_port_in_use_is_named() {
        let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = other.local_addr().unwrap().port();
        let error = Door::bind_all((1, port), 7, 16).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains(&format!("port {port} of dyno 7")), "{error}");
        assert!(Door::bind_all((2, 65_535), 0, 16).unwrap_err().to_string().contains("65535"));
    }
}
