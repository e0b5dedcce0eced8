//! Step 5: send a request to the dyno of a lease and bring the answer back; what to do when that goes wrong.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderMap};
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use http_body::Frame;

use crate::clock::Clock;
use crate::fault::{BadRequest, Fault, Restriction};
use crate::limits::Protocol;
use crate::policy::health::Outcome;
use crate::proxy::body::Body;
use crate::proxy::client::Interim;
use crate::proxy::coded::Coded;
use crate::proxy::dial::Conn;
use crate::proxy::disk::{Disk, Share};
use crate::proxy::flight::{Collected, Flight, Trouble};
use crate::proxy::headers;
use crate::proxy::memory::Memory;
use crate::proxy::preamble;
use crate::proxy::record::Open;
use crate::proxy::spool::{Reader, spool};
use crate::proxy::upgrade::{Switched, Upgrade};
use crate::proxy::upload::{ToDyno, Upload};
use crate::proxy::wanted::Wanted;
use crate::router::Lease;

/// The longest Set-Cookie line of an answer, in bytes.
const COOKIE_MAX: usize = 8192;
/// Answers up to this length are read whole before the client gets a byte, in bytes.
pub(crate) const SHORT_ANSWER: u64 = 64 << 10;

/// A request as it is offered to one dyno after the other.
pub(crate) struct Attempt {
    pub(crate) method: Method,
    pub(crate) path: PathAndQuery,
    pub(crate) headers: HeaderMap,
    pub(crate) upload: Upload,
    /// Where interim answers go, if the client can take them.
    pub(crate) interim: Option<Interim>,
    /// What the client would change to.
    pub(crate) upgrade: Option<Wanted>,
    /// The client has said that it takes trailers. Only over HTTP/2 that goes on to the dyno: over HTTP/1.1 it would be
    /// one of the connection's own headers.
    pub(crate) trailers: bool,
    /// The ends of the client's connection: it, and we.
    pub(crate) ends: (SocketAddr, SocketAddr),
    pub(crate) memory: Memory,
    pub(crate) disk: Disk,
}

/// How a try went wrong.
pub(crate) enum Failed {
    /// The dyno could not be reached and has seen nothing of the request.
    Unreachable(Lease, Fault),
    /// The request may have been acted on, or it was the client that failed.
    Over(Fault),
}

/// Sends the request over the dyno's connection, or a new one, and waits for the answer.
///
/// A connection that was there and turns out to be dead is replaced at once, with the same dyno: nobody else can
/// have it meanwhile. The request is sent again only if that is safe (RFC 9110 section 9.2.2): nothing of it was
/// sent, or not a byte of an answer came, the method is idempotent, and the body is still here.
pub(crate) async fn send(mut lease: Lease, attempt: &mut Attempt, open: &mut Open) -> Result<Reply, Failed> {
    let limits = lease.limits();
    let clock = lease.app().shared().clock().clone();
    headers::dispatched(&mut attempt.headers, lease.waited(), lease.app().gauges().0);
    let mut conn = Conn::warm(&mut lease, &limits);
    loop {
        let reused = conn.is_some();
        let conn_now = match conn.take() {
            Some(conn) => conn,
            None => {
                let (before, (from, to)) = (clock.now(), attempt.ends);
                let preamble = preamble::of_client(limits.proxy_protocol, from, to);
                match Box::pin(Conn::open(&mut lease, &limits, &preamble)).await {
                    Ok(conn) => {
                        open.note(|record| record.connect = clock.now().duration_since(before));
                        conn
                    }
                    Err(fault) => return Err(Failed::Unreachable(lease, fault)),
                }
            }
        };
        let request = attempt.request(&clock, limits.protocol).map_err(Failed::Over)?;
        let share = Share::new(&attempt.disk, lease.app().id(), limits.response_disk, limits.disk_max);
        let mut flight = Flight::start(lease, conn_now, request, Arc::clone(&limits), attempt.memory.clone());
        match flight.head().await {
            Ok(head) => {
                let asked = attempt.upgrade.as_ref();
                let most = (limits.response_spool, attempt.memory.clone(), share);
                return receive(head, flight, open, asked, most).await.map_err(Failed::Over);
            }
            Err(Trouble::Over(fault)) => return Err(Failed::Over(fault)),
            Err(Trouble::Broken { lease: back, unsent, silent, fault }) => {
                let safe = match unsent {
                    Some(request) => {
                        attempt.upload.put_back(request.into_body());
                        true
                    }
                    None => silent && attempt.method.is_idempotent() && attempt.upload.is_whole(),
                };
                if !(reused && safe) {
                    back.check_in(Outcome::Failed);
                    return Err(Failed::Over(fault));
                }
                lease = back;
            }
        }
    }
}

/// An answer, and what it takes to make its body.
pub(crate) struct Reply {
    pub(crate) head: http::response::Parts,
    pub(crate) rest: Rest,
}

/// The body of an answer.
pub(crate) enum Rest {
    Whole(VecDeque<Frame<Bytes>>),
    /// With its length, if that is known.
    Spooled(Reader, Option<u64>),
    /// Either of them on its way through an encoder.
    Coded(Box<Coded>),
    /// There is none: the connection goes on in another protocol.
    Upgraded(Box<Switched>),
}

impl Reply {
    pub(crate) fn into_response(self, open: Open) -> Response<Body> {
        let body = match self.rest {
            Rest::Whole(frames) => Body::whole(frames, open),
            Rest::Spooled(reader, length) => Body::spooled(reader, length, open),
            Rest::Coded(coded) => Body::coded(coded, open),
            Rest::Upgraded(switched) => Body::upgraded(Upgrade::new(*switched, open)),
        };
        Response::from_parts(self.head, body)
    }
}

/// Takes the answer in: checks its head, frees the dyno as soon as it has ended.
async fn receive(
    mut head: http::response::Parts,
    mut flight: Flight,
    open: &mut Open,
    asked: Option<&Wanted>,
    (most, memory, share): (usize, Memory, Option<Share>),
) -> Result<Reply, Fault> {
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        let consent = |asked: &Wanted| headers::consent(&asked.protocols, &head.headers);
        let Some((asked, protocols)) = asked.and_then(|asked| Some((asked, consent(asked)?))) else {
            flight.fail();
            return Err(Fault::PoorlyFormatted);
        };
        // What is rare stands in a box, so that every request is smaller by it.
        return Box::pin(switch(head, flight, open, asked, protocols)).await;
    }
    if asked.is_some_and(|asked| asked.is_missed_by(head.status)) {
        flight.abandon();
        return Err(Fault::PoorlyFormatted);
    }
    if let Err(fault) = check_head(&head) {
        if fault == Fault::Restriction(Restriction::Cookie) {
            flight.abandon();
        } else {
            // Nobody knows where its answer ends: its connection is no use for another request.
            flight.fail();
        }
        return Err(fault);
    }
    for_client(&mut head);
    let length = flight.length();
    let whole = flight.is_short(SHORT_ANSWER) && !memory.is_full();
    let Collected { frames, ended } = flight.collect(whole).await?;
    if let Some(service) = ended {
        open.served(service);
        return Ok(Reply { head, rest: Rest::Whole(frames) });
    }
    let (mut writer, reader) = spool(most, memory, share);
    for frame in frames {
        writer.push(frame);
    }
    flight.pump(writer);
    Ok(Reply { head, rest: Rest::Spooled(reader, length) })
}

/// The dyno has changed the protocol. A dyno that does so before it has the whole request has answered badly.
async fn switch(
    mut head: http::response::Parts,
    flight: Flight,
    open: &mut Open,
    asked: &Wanted,
    protocols: HeaderValue,
) -> Result<Reply, Fault> {
    let (switched, service) = flight.switch(&protocols).await?;
    open.served(service);
    for_client(&mut head);
    // A 101 has no body, whatever it says (RFC 9110 section 8.6).
    head.headers.remove(header::CONTENT_LENGTH);
    asked.comes_true(&mut head.status, &mut head.headers, protocols);
    Ok(Reply { head, rest: Rest::Upgraded(Box::new(switched)) })
}

fn for_client(head: &mut http::response::Parts) {
    let reason = head.extensions.remove::<hyper::ext::ReasonPhrase>();
    head.extensions.clear();
    reason.into_iter().for_each(|reason| {
        head.extensions.insert(reason);
    });
    headers::to_client(&mut head.headers, head.version);
    // hyper answers in the client's version.
    head.version = Version::HTTP_11;
}

fn check_head(head: &http::response::Parts) -> Result<(), Fault> {
    if !headers::is_only_chunked(&head.headers) {
        return Err(Fault::PoorlyFormatted);
    }
    let first = head.headers.get(header::CONTENT_LENGTH);
    // hyper looks only at lengths it needs, and takes a list of equal ones.
    let good = |length: &HeaderValue| {
        length.as_bytes().iter().all(u8::is_ascii_digit) && !length.is_empty() && Some(length) == first
    };
    if !head.headers.get_all(header::CONTENT_LENGTH).iter().all(good) {
        return Err(Fault::Restriction(Restriction::ContentLength));
    }
    let line = |value: &HeaderValue| header::SET_COOKIE.as_str().len() + 2 + value.len();
    if head.headers.get_all(header::SET_COOKIE).iter().any(|value| line(value) > COOKIE_MAX) {
        return Err(Fault::Restriction(Restriction::Cookie));
    }
    Ok(())
}

impl Attempt {
    fn request(&mut self, clock: &Clock, protocol: Protocol) -> Result<Request<ToDyno>, Fault> {
        let mut request = Request::new(self.upload.next_try(clock));
        *request.method_mut() = self.method.clone();
        // A clone, because a dead connection may be noticed only after the head has been sent.
        *request.headers_mut() = self.headers.clone();
        *request.uri_mut() =
            Uri::builder().path_and_query(self.path.clone()).build().map_err(|_| Fault::Platform)?;
        match (protocol, &self.upgrade) {
            (Protocol::Http1, Some(wanted)) => {
                headers::put_upgrade(request.headers_mut(), wanted.protocols.clone());
            }
            (Protocol::H2c, Some(wanted)) if wanted.connects => {
                return Err(Fault::BadRequest(BadRequest::Method));
            }
            (Protocol::H2c, _) if self.trailers => {
                request.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
            }
            (Protocol::Http1 | Protocol::H2c, _) => {}
        }
        if let Some(interim) = &self.interim {
            let interim = Arc::clone(interim);
            hyper::ext::on_informational(&mut request, move |answer| {
                // No such answer has a body, so nothing may say where one ends (RFC 9110 section 8.6).
                let mut headers = answer.headers().clone();
                headers::remove_hop_by_hop(&mut headers);
                headers.remove(header::CONTENT_LENGTH);
                interim(answer.status(), &headers)
            });
        }
        Ok(request)
    }
}
