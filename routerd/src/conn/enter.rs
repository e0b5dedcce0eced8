//! What comes before the first request: whose connection it is, and whether there is room for it.

use std::io;
use std::net::SocketAddr;

use router_core::fault::Fault;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Begins, Met, Terms, turn_away};
use crate::config::ProxyProtocol;
use crate::door::{Refused, Seat};
use crate::proxy_header::{Header, LOOK, Parsed, parse};

/// A connection whose client is known. Not one that was turned away, or has ended.
pub(super) async fn enter(
    stream: TcpStream,
    peer: SocketAddr,
    begins: Begins,
    terms: &Terms,
) -> Option<(Met, Option<Seat>)> {
    let mut met = Met::new(stream, peer);
    let mut proxied = false;
    if terms.proxy_protocol != ProxyProtocol::Off {
        match header(&met, terms).await {
            Ok(Some(Header { ends: Some((from, to)), .. })) => {
                proxied = true;
                (met.peer, met.local) = (from, to);
            }
            Ok(_) => {}
            Err(Ended) => return None,
        }
    }
    if terms.per_ip == 0 || (!proxied && terms.trusts(met.peer.ip())) {
        return Some((met, None));
    }
    match terms.door.seat(met.peer.ip(), terms.per_ip) {
        Some(seat) => Some((met, Some(seat))),
        None => {
            terms.door.refuse(Refused::Address);
            turn_away(&met, begins, terms, Fault::AddressLimit);
            None
        }
    }
}

/// The connection is over.
struct Ended;

/// The header in front of a connection, taken off it. `None`: there is none, and there need not be one.
async fn header(met: &Met, terms: &Terms) -> Result<Option<Header>, Ended> {
    let refused = || {
        terms.door.refuse(Refused::ProxyHeader);
        Err(Ended)
    };
    let (stream, trusted) = (met.stream.tcp(), terms.trusts(met.peer.ip()));
    let required = terms.proxy_protocol == ProxyProtocol::Required;
    if required && !trusted {
        return refused();
    }
    let begun = match timeout(terms.header_timeout, begin(stream)).await {
        Ok(Ok(begun)) => begun,
        // It ended before it began, as a look at the port does.
        Ok(Err(_)) => return Err(Ended),
        Err(_) if required => return refused(),
        Err(_) => return Err(Ended),
    };
    match begun {
        Parsed::Header(header) if trusted => {
            match timeout(terms.header_timeout, take(stream, header.length)).await {
                Ok(Ok(())) => Ok(Some(header)),
                Ok(Err(_)) | Err(_) => refused(),
            }
        }
        Parsed::Header(_) | Parsed::Bad => refused(),
        Parsed::No | Parsed::Partial if required => refused(),
        // A part that nothing follows is for whoever reads requests.
        Parsed::No | Parsed::Partial => Ok(None),
    }
}

/// What a connection begins with; nothing is taken off it. `Partial`: it ended there.
async fn begin(stream: &TcpStream) -> io::Result<Parsed> {
    let mut bytes = [0; LOOK];
    loop {
        let ready = stream.ready(Interest::READABLE).await?;
        let mut seen = 0;
        let look = stream.try_io(Interest::READABLE, || {
            seen = rustix::net::recv(stream, &mut bytes, rustix::net::RecvFlags::PEEK)?.0;
            match parse(&bytes[..seen]) {
                // More is to come: readiness is asked for anew, and comes with new bytes alone.
                Parsed::Partial => Err(io::ErrorKind::WouldBlock.into()),
                known @ (Parsed::No | Parsed::Bad | Parsed::Header(_)) => Ok(known),
            }
        });
        match look {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if ready.is_read_closed() {
                    return if seen == 0 {
                        Err(io::ErrorKind::UnexpectedEof.into())
                    } else {
                        Ok(Parsed::Partial)
                    };
                }
            }
            known => return known,
        }
    }
}

/// Takes so many bytes off a connection, and not one more.
async fn take(stream: &TcpStream, mut length: usize) -> io::Result<()> {
    let mut bytes = [0; 512];
    while length > 0 {
        stream.readable().await?;
        let most = length.min(bytes.len());
        match stream.try_read(&mut bytes[..most]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => length -= read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
