//! A connection of the generator to a proxy: TCP, with TLS over it if the proxy's front has it. Never blocks.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};

use rustls::ClientConnection;

use crate::wire::{self, Fill};

mod tls;

pub use tls::{Certificate, Tls};

/// One connection.
#[derive(Debug)]
pub struct Link {
    stream: TcpStream,
    session: Option<Box<ClientConnection>>,
}

impl Link {
    /// Begins to connect. The socket can be written when that is done.
    ///
    /// # Errors
    /// When there is no socket, no port or no route.
    pub fn connect(to: SocketAddr, tls: Option<&Tls>) -> io::Result<Self> {
        let stream = wire::connect(to)?;
        let session = tls.map(|tls| tls.session().map(Box::new)).transpose().map_err(io::Error::other)?;
        Ok(Self { stream, session })
    }

    /// Reads once, and appends what came to `input`.
    ///
    /// # Errors
    /// When the connection is broken; `InvalidData` when what came is not the TLS it should be.
    pub fn fill(&mut self, scratch: &mut [u8], input: &mut Vec<u8>) -> io::Result<Fill> {
        let Some(session) = &mut self.session else { return wire::fill(&self.stream, scratch, input) };
        match session.read_tls(&mut self.stream) {
            Ok(0) => return Ok(Fill::End),
            Ok(_) => {}
            Err(error) if waits(&error) => return Ok(Fill::Nothing),
            Err(error) => return Err(error),
        }
        let state = session.process_new_packets().map_err(|error| {
            // The other side may hear why; whether it does changes nothing here.
            let _ = session.write_tls(&mut self.stream);
            io::Error::new(io::ErrorKind::InvalidData, error)
        })?;
        let before = input.len();
        let mut left = state.plaintext_bytes_to_read();
        while left > 0 {
            let len = session.reader().read(scratch)?;
            input.extend_from_slice(&scratch[..len]);
            left = left.saturating_sub(len.max(1));
        }
        Ok(match (input.len() > before, state.peer_has_closed()) {
            (true, _) => Fill::Some,
            (false, true) => Fill::End,
            (false, false) => Fill::Nothing,
        })
    }

    /// Takes what it can of `bytes`, and sends of that what the socket takes.
    ///
    /// # Errors
    /// When the connection is broken, and `WouldBlock` when nothing was taken.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(session) = &mut self.session else { return (&self.stream).write(bytes) };
        let taken = session.writer().write(bytes)?;
        self.flush()?;
        Ok(taken)
    }

    /// Sends what was taken and is not sent, as far as the socket takes it.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn flush(&mut self) -> io::Result<()> {
        let Some(session) = &mut self.session else { return Ok(()) };
        while session.wants_write() {
            match session.write_tls(&mut self.stream) {
                Ok(_) => {}
                Err(error) if waits(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether something was taken that is not sent.
    pub fn wants_write(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.wants_write())
    }

    /// Ends it, whatever is on its way.
    pub fn shutdown(&self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

fn waits(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
