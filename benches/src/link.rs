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

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::sync::Arc;
    use std::time::Duration;

    use router_core::clock::Clock;
    use rustls::crypto::aws_lc_rs;
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use rustls::{ServerConfig, ServerConnection};

    use super::*;

    /// A connection with TLS, and the other side of it.
    struct Pair {
        link: Link,
        session: ServerConnection,
        stream: TcpStream,
    }

    impl Pair {
        fn new() -> Self {
            let tls = Tls::own("bench.test", false).unwrap();
            let cert = CertificateDer::from_pem_slice(tls.certificate().cert.as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(tls.certificate().key.as_bytes()).unwrap();
            let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![cert], key)
                .unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let link = Link::connect(listener.local_addr().unwrap(), Some(&tls)).unwrap();
            let (stream, _) = listener.accept().unwrap();
            stream.set_nonblocking(true).unwrap();
            let session = ServerConnection::new(Arc::new(config)).unwrap();
            Self { link, session, stream }
        }

        /// The other side reads and writes what it can.
        fn serve(&mut self, input: &mut Vec<u8>) {
            while self.session.read_tls(&mut self.stream).is_ok_and(|len| len > 0) {
                self.session.process_new_packets().unwrap();
                let _ = self.session.reader().read_to_end(input);
            }
            while self.session.wants_write() && self.session.write_tls(&mut self.stream).is_ok() {}
        }

        /// Lets both sides work until something is so.
        fn until(&mut self, mut so: impl FnMut(&mut Self) -> bool) {
            let clock = Clock::system();
            let deadline = clock.now() + Duration::from_secs(20);
            while !so(self) {
                assert!(clock.now() < deadline, "in vain");
                std::thread::yield_now();
            }
        }

        fn shake_hands(&mut self) {
            let (mut scratch, mut input) = ([0; 4096], Vec::new());
            self.until(|pair| {
                pair.link.flush().unwrap();
                pair.serve(&mut Vec::new());
                assert_eq!(pair.link.fill(&mut scratch, &mut input).unwrap(), Fill::Nothing);
                let shaking = pair.link.session.as_ref().unwrap().is_handshaking();
                !shaking && !pair.session.is_handshaking() && !pair.link.wants_write()
            });
        }
    }

    #[test]
    fn what_comes_over_tls_is_whole_however_small_the_scratch() {
        let mut pair = Pair::new();
        pair.shake_hands();
        let text: Vec<u8> = (0..10_000_u32).map(|n| n as u8).collect();
        pair.session.writer().write_all(&text).unwrap();
        let (mut scratch, mut input) = ([0; 100], Vec::new());
        pair.until(|pair| {
            pair.serve(&mut Vec::new());
            // Bytes of TLS that were read are read to the end: no socket will say that there are more.
            let _ = pair.link.fill(&mut scratch, &mut input).unwrap();
            input.len() >= text.len()
        });
        assert_eq!(input, text);
        // Its goodbye is the end, without waiting for that of the connection.
        pair.session.send_close_notify();
        pair.serve(&mut Vec::new());
        pair.until(|pair| pair.link.stream.peek(&mut [0]).is_ok());
        assert_eq!(pair.link.fill(&mut scratch, &mut input).unwrap(), Fill::End);
        assert_eq!(input, text);
    }

    #[test]
    fn the_end_of_a_connection_is_its_end_with_tls_too() {
        let mut pair = Pair::new();
        pair.shake_hands();
        pair.stream.shutdown(std::net::Shutdown::Both).unwrap();
        let (mut scratch, mut input) = ([0; 100], Vec::new());
        pair.until(|pair| pair.link.stream.peek(&mut [0]).is_ok());
        assert_eq!(pair.link.fill(&mut scratch, &mut input).unwrap(), Fill::End);
    }

    #[test]
    fn what_the_socket_does_not_take_is_kept_and_sent() {
        let mut pair = Pair::new();
        pair.shake_hands();
        let mut sent = 0;
        while !pair.link.wants_write() {
            sent += pair.link.write(&[b'x'; 30_000]).unwrap();
        }
        let mut input = Vec::new();
        pair.until(|pair| {
            pair.link.flush().unwrap();
            pair.serve(&mut input);
            input.len() >= sent
        });
        assert!(input.len() == sent && !pair.link.wants_write());
    }

    #[test]
    fn what_is_no_tls_is_told_from_what_is_broken() {
        let mut pair = Pair::new();
        pair.link.flush().unwrap();
        (&pair.stream).write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        let (mut scratch, mut input) = ([0; 100], Vec::new());
        pair.until(|pair| match pair.link.fill(&mut scratch, &mut input) {
            Ok(filled) => {
                assert_eq!(filled, Fill::Nothing);
                false
            }
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::InvalidData);
                true
            }
        });
    }
}
