//! One stream of HTTP/2: a request to `router_core::proxy`, its body as the client sends it, its answer as the client
//! takes it.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body::{Body as _, Frame, SizeHint};
use router_core::clock;
use router_core::fault::{BadRequest, Fault};
use router_core::proxy::{Body, Client};
use router_core::sync::Mutex;
use tokio::sync::watch;
use tokio::time::sleep;

use super::tunnel::{Handshake, Tunnel};
use crate::conn::{Terms, leaving};
use crate::drain::Phase;
use crate::socket::Side;

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// Its answer was sent to the end, or is with h2.
    Answered,
    /// By the client, or because of what it sent.
    Reset,
    /// The client took nothing of its answer.
    Stalled,
    /// By us.
    Failed,
}

type Reply = Arc<Mutex<SendResponse<Bytes>>>;

/// Serves the request of a stream.
pub(super) async fn serve(
    terms: Arc<Terms>,
    client: Client,
    side: Arc<Side>,
    drain: watch::Receiver<Phase>,
    mut request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) -> Ended {
    if Handshake::is_malformed(&request) {
        respond.send_reset(Reason::PROTOCOL_ERROR);
        return Ended::Reset;
    }
    if head_len(&request) > terms.http2.head_max {
        return too_large(&terms, &client, respond);
    }
    let is_head = *request.method() == Method::HEAD;
    let reply: Reply = Arc::new(Mutex::new(respond));
    // Weak, because a request that lingers at its dyno has this long after the stream has ended.
    let (interim, connection) = (Arc::downgrade(&reply), Arc::downgrade(&side));
    let stalled = Arc::new(AtomicBool::new(false));
    let has_stalled = Arc::clone(&stalled);
    let client = client
        .with_interim(Arc::new(move |status, headers| send_interim(&interim, status, headers)))
        .with_stalled(Arc::new(move || {
            has_stalled.load(Ordering::Relaxed) || connection.upgrade().is_some_and(|side| side.has_stalled())
        }));
    let handshake = Handshake::begun(&mut request);
    let (request, tunnel) = upload(request, &reply, &side, handshake.is_some());
    // In a box, so that the task is not moved with room for all of it.
    let mut serving = Box::pin(terms.proxy.serve(&client, request));
    let answer = poll_fn(|cx| {
        // First: a request that is broken off already is served no further.
        if reply.lock().poll_reset(cx).is_ready() {
            return Poll::Ready(None);
        }
        serving.as_mut().poll(cx).map(Some)
    })
    .await;
    let Some(answer) = answer else { return Ended::Reset };
    let Ok(answer) = answer else {
        reply.lock().send_reset(Reason::CANCEL);
        return Ended::Failed;
    };
    let (head, mut body) = answer.into_parts();
    if let (Some(handshake), Some(recv)) = (handshake, tunnel)
        && let Some(upgrade) = body.take_upgrade()
    {
        let Some(head) = handshake.is_kept_by(head) else { return refused(&reply, upgrade.refuse()) };
        let Ok(send) = reply.lock().send_response(dressed(head, &body), false) else {
            return Ended::Failed;
        };
        let tunnel = Tunnel::new(recv, send, side);
        Box::pin(upgrade.run(tunnel, Bytes::new(), leaving(terms.shutdown_timeout, drain))).await;
        return Ended::Answered;
    }
    let ends = is_head || body.is_end_stream();
    let head = dressed(head, &body);
    let sent = reply.lock().send_response(head, ends);
    match sent {
        Ok(_) if ends => Ended::Answered,
        Ok(stream) => Sending { stream, side, terms: &terms, stalled: &stalled }.all(body).await,
        Err(_) => {
            reply.lock().send_reset(Reason::INTERNAL_ERROR);
            Ended::Failed
        }
    }
}

/// The length of a request's head as HTTP/1.1 would write it.
fn head_len(request: &Request<RecvStream>) -> usize {
    let line = request.method().as_str().len()
        + request.uri().path_and_query().map_or(0, |path| path.as_str().len());
    let host = request.uri().authority().map_or(0, |authority| authority.as_str().len());
    let headers = request.headers().iter();
    headers.fold(line + host, |sum, (name, value)| sum + name.as_str().len() + value.len() + ": \r\n".len())
}

fn too_large(terms: &Terms, client: &Client, mut respond: SendResponse<Bytes>) -> Ended {
    let fault = Fault::BadRequest(BadRequest::HeaderTooLarge);
    terms.proxy.refuse_head(client, fault);
    if respond.send_response(bare(fault), true).is_ok() { Ended::Answered } else { Ended::Failed }
}

/// A WebSocket whose dyno has not understood what it was asked.
fn refused(reply: &Reply, fault: Fault) -> Ended {
    if reply.lock().send_response(bare(fault), true).is_ok() { Ended::Answered } else { Ended::Failed }
}

/// A fault without a page.
fn bare(fault: Fault) -> Response<()> {
    let mut answer = Response::new(());
    *answer.status_mut() = StatusCode::from_u16(fault.status()).unwrap_or(StatusCode::BAD_REQUEST);
    answer.headers_mut().insert("x-router-fault", HeaderValue::from_static(fault.code()));
    answer
}

/// Passes an interim answer on. 101 does not exist in HTTP/2 (RFC 9113 section 8.6).
fn send_interim(reply: &Weak<Mutex<SendResponse<Bytes>>>, status: StatusCode, headers: &HeaderMap) {
    if let Some(reply) = reply.upgrade()
        && status != StatusCode::SWITCHING_PROTOCOLS
    {
        let mut answer = Response::new(());
        *answer.status_mut() = status;
        *answer.headers_mut() = headers.clone();
        // A stream that is over needs none.
        let _ = reply.lock().send_informational(answer);
    }
}

/// What a server adds to an answer.
fn dressed(mut head: http::response::Parts, body: &Body) -> Response<()> {
    if !head.headers.contains_key(header::DATE) {
        let date = httpdate::fmt_http_date(UNIX_EPOCH + clock::wall());
        head.headers.extend(HeaderValue::try_from(date).ok().map(|date| (header::DATE, date)));
    }
    if let Some(length) = body.size_hint().exact().filter(|_| !body.is_end_stream()) {
        head.headers.entry(header::CONTENT_LENGTH).or_insert_with(|| length.into());
    }
    Response::from_parts(head, ())
}

/// The request with its body. A stream that is to become a tunnel is none: it is handed back.
fn upload(
    request: Request<RecvStream>,
    reply: &Reply,
    side: &Arc<Side>,
    is_tunnel: bool,
) -> (Request<Upload>, Option<RecvStream>) {
    let length = request.headers().get(header::CONTENT_LENGTH);
    let left = length.and_then(|length| length.to_str().ok()?.parse().ok());
    let expect = request.headers().get(header::EXPECT);
    let expects = expect.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    let expects = expects.then(|| Arc::downgrade(reply));
    let (head, recv) = request.into_parts();
    let (recv, tunnel) = if is_tunnel { (None, Some(recv)) } else { (Some(recv), None) };
    let upload = Upload { recv, left, expects, side: Arc::clone(side), at_trailers: false };
    (Request::from_parts(head, upload), tunnel)
}

/// A request's body.
struct Upload {
    /// `None`: there is no body.
    recv: Option<RecvStream>,
    /// Bytes that are still to come, if that is known.
    left: Option<u64>,
    /// The client waits for a 100 before it sends anything.
    expects: Option<Weak<Mutex<SendResponse<Bytes>>>>,
    side: Arc<Side>,
    at_trailers: bool,
}

impl http_body::Body for Upload {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let this = &mut *self;
        let Some(recv) = &mut this.recv else { return Poll::Ready(None) };
        while !this.at_trailers {
            let data = match recv.poll_data(cx) {
                Poll::Ready(Some(data)) => data?,
                Poll::Ready(None) => {
                    this.at_trailers = true;
                    break;
                }
                Poll::Pending => {
                    if let Some(expects) = this.expects.take() {
                        send_interim(&expects, StatusCode::CONTINUE, &HeaderMap::new());
                    }
                    return Poll::Pending;
                }
            };
            // It is the reader's now: the client may send as much again.
            let _ = recv.flow_control().release_capacity(data.len());
            if !data.is_empty() {
                this.side.of_use();
                this.left = this.left.map(|left| left.saturating_sub(data.len() as u64));
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
        }
        let trailers = ready!(recv.poll_trailers(cx))?;
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.recv.as_ref().is_none_or(RecvStream::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// An answer whose head is sent.
struct Sending<'a> {
    stream: SendStream<Bytes>,
    side: Arc<Side>,
    terms: &'a Terms,
    /// The client has taken nothing of it for too long.
    stalled: &'a AtomicBool,
}

impl Sending<'_> {
    async fn all(mut self, body: Body) -> Ended {
        let mut body = pin!(body);
        loop {
            let frame = poll_fn(|cx| {
                if self.stream.poll_reset(cx).is_ready() {
                    return Poll::Ready(Err(Ended::Reset));
                }
                body.as_mut().poll_frame(cx).map(Ok)
            });
            let frame = match frame.await {
                Err(ended) => return ended,
                Ok(None) => return self.done(Bytes::new()),
                Ok(Some(Err(_))) => {
                    // What the client has is not the whole.
                    self.stream.send_reset(Reason::INTERNAL_ERROR);
                    return Ended::Failed;
                }
                Ok(Some(Ok(frame))) => frame,
            };
            let data = match frame.into_data() {
                Ok(data) => data,
                Err(frame) => match frame.into_trailers() {
                    Ok(trailers) => return self.trailers(trailers),
                    Err(_) => continue,
                },
            };
            match self.data(data, body.is_end_stream()).await {
                Ok(true) => return Ended::Answered,
                Ok(false) => {}
                Err(ended) => return ended,
            }
        }
    }

    /// Sends a part of the body as the client takes it. Says whether it was the last.
    async fn data(&mut self, mut data: Bytes, last: bool) -> Result<bool, Ended> {
        while !data.is_empty() {
            self.stream.reserve_capacity(data.len());
            let room = self.room().await?.min(data.len());
            let part = data.split_to(room);
            let ends = last && data.is_empty();
            self.stream.send_data(part, ends).map_err(|_| Ended::Reset)?;
            self.side.of_use();
            if ends {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Waits until the client takes some, for `send_timeout` at the most.
    async fn room(&mut self) -> Result<usize, Ended> {
        let ready = self.stream.capacity();
        if ready > 0 {
            return Ok(ready);
        }
        let mut late = pin!(sleep(self.terms.http2.config.send_timeout));
        let room = poll_fn(|cx| {
            loop {
                match self.stream.poll_capacity(cx) {
                    // Something has changed, but not for the better.
                    Poll::Ready(Some(Ok(0))) => {}
                    Poll::Ready(Some(Ok(room))) => return Poll::Ready(Ok(room)),
                    Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(Err(Ended::Reset)),
                    Poll::Pending => return late.as_mut().poll(cx).map(|()| Err(Ended::Stalled)),
                }
            }
        })
        .await;
        if room == Err(Ended::Stalled) {
            self.stalled.store(true, Ordering::Relaxed);
            self.stream.send_reset(Reason::CANCEL);
        }
        room
    }

    fn done(mut self, last: Bytes) -> Ended {
        if self.stream.send_data(last, true).is_ok() { Ended::Answered } else { Ended::Reset }
    }

    fn trailers(mut self, trailers: HeaderMap) -> Ended {
        if self.stream.send_trailers(trailers).is_ok() { Ended::Answered } else { Ended::Reset }
    }
}
