//! HTTP/2 on one connection: the `h2` crate, polled by hand over a pipe in memory.
//!
//! What comes from the socket is put into the pipe, and what `h2` writes there goes to the socket, so that sockets and
//! instants stay with the reactor: no runtime stands between an answer and the clock.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::RecvStream;
use h2::client::{Builder, Connection, ResponseFuture, SendRequest};
use http::Request;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::wire;

/// What a proxy may send before it has to wait for us, on a stream and on the connection.
const WINDOW: u32 = 1 << 20;

/// One HTTP/2 connection.
pub(crate) struct Mux {
    pipe: Rc<RefCell<Pipe>>,
    connection: Connection<End, Bytes>,
    send: SendRequest<Bytes>,
    streams: Vec<Stream>,
}

/// A request that has ended.
pub(crate) struct Answered {
    /// Whose it is.
    pub(crate) number: u32,
    /// The status and `X-Router-Fault` of an answer; or why there is none.
    pub(crate) result: Result<(u16, Option<String>), String>,
}

#[derive(Default)]
struct Pipe {
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
}

/// The side of the pipe that `h2` has.
struct End(Rc<RefCell<Pipe>>);

struct Stream {
    number: u32,
    head: Option<ResponseFuture>,
    status: u16,
    fault: Option<String>,
    body: Option<RecvStream>,
}

impl Mux {
    /// Begins HTTP/2 on a new connection.
    pub(crate) fn new() -> io::Result<Self> {
        let pipe = Rc::new(RefCell::new(Pipe::default()));
        let mut builder = Builder::new();
        builder.enable_push(false).initial_window_size(WINDOW).initial_connection_window_size(WINDOW);
        // Answers to requests that were given up long ago are no attack.
        builder.max_local_error_reset_streams(None);
        let hands = pin!(builder.handshake::<_, Bytes>(End(Rc::clone(&pipe))));
        // It writes into memory, so it never waits.
        match hands.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok((send, connection))) => Ok(Self { pipe, connection, send, streams: Vec::new() }),
            Poll::Ready(Err(error)) => Err(io::Error::other(error)),
            Poll::Pending => Err(io::Error::other("HTTP/2 did not begin")),
        }
    }

    /// Whether the other side takes another request: it has not said goodbye, and its bound on streams is not reached.
    pub(crate) fn is_ready(&mut self) -> bool {
        self.streams.len() < self.send.current_max_send_streams()
            && matches!(self.send.poll_ready(&mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(())))
    }

    /// How many requests are on their way.
    pub(crate) fn len(&self) -> usize {
        self.streams.len()
    }

    /// Sends a request.
    ///
    /// # Errors
    /// When the connection takes no more.
    pub(crate) fn request(&mut self, number: u32, request: Request<()>) -> Result<(), String> {
        let (head, _) = self.send.send_request(request, true).map_err(|error| error.to_string())?;
        self.streams.push(Stream { number, head: Some(head), status: 0, fault: None, body: None });
        Ok(())
    }

    /// Takes a request back: the proxy gets a reset. Whether it was on its way.
    pub(crate) fn cancel(&mut self, number: u32) -> bool {
        let before = self.streams.len();
        self.streams.retain(|stream| stream.number != number);
        self.streams.len() < before
    }

    /// Reads what has come, and adds the requests that have ended to `ended`.
    ///
    /// # Errors
    /// When the connection is over: says why.
    pub(crate) fn turn(&mut self, input: &mut Vec<u8>, ended: &mut Vec<Answered>) -> Result<(), String> {
        self.pipe.borrow_mut().incoming.append(input);
        let mut context = Context::from_waker(Waker::noop());
        let mut over = Pin::new(&mut self.connection).poll(&mut context);
        let before = self.streams.len();
        self.streams.retain_mut(|stream| match stream.poll(&mut context) {
            Poll::Ready(result) => {
                ended.push(Answered { number: stream.number, result });
                false
            }
            Poll::Pending => true,
        });
        // Streams that were read have room again, which the proxy has to hear of.
        if over.is_pending() && self.streams.len() <= before {
            over = Pin::new(&mut self.connection).poll(&mut context);
        }
        match over {
            Poll::Pending => Ok(()),
            Poll::Ready(Ok(())) => Err("closed".to_owned()),
            Poll::Ready(Err(error)) => Err(error.to_string()),
        }
    }

    /// Moves what is to be sent to the end of `output`.
    pub(crate) fn output(&self, output: &mut Vec<u8>) {
        output.append(&mut self.pipe.borrow_mut().outgoing);
    }
}

impl std::fmt::Debug for Mux {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mux").field("streams", &self.streams.len()).finish_non_exhaustive()
    }
}

impl Stream {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<(u16, Option<String>), String>> {
        if let Some(head) = &mut self.head {
            let answer = match Pin::new(head).poll(context) {
                Poll::Ready(Ok(answer)) => answer,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.to_string())),
                Poll::Pending => return Poll::Pending,
            };
            self.head = None;
            self.status = answer.status().as_u16();
            let fault = answer.headers().get("x-router-fault");
            self.fault = fault.map(|fault| wire::text(fault.as_bytes()));
            self.body = Some(answer.into_body());
        }
        while let Some(body) = &mut self.body {
            match body.poll_data(context) {
                Poll::Ready(Some(Ok(data))) => {
                    // Fails only if more is given back than came.
                    let _ = body.flow_control().release_capacity(data.len());
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error.to_string())),
                Poll::Ready(None) => break,
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok((self.status, self.fault.take())))
    }
}

impl AsyncRead for End {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let incoming = &mut self.0.borrow_mut().incoming;
        if incoming.is_empty() {
            return Poll::Pending;
        }
        let len = incoming.len().min(into.remaining());
        into.put_slice(&incoming[..len]);
        incoming.drain(..len);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for End {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().outgoing.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use h2::server::{self, SendResponse};
    use http::Response;

    use super::*;

    /// Both ends of a connection, with nothing in between.
    struct Both {
        mux: Mux,
        pipe: Rc<RefCell<Pipe>>,
        server: server::Connection<End, Bytes>,
        /// Requests that came to the server.
        came: Vec<SendResponse<Bytes>>,
        /// Why the connection is over, if it is.
        over: Option<String>,
    }

    impl Both {
        fn new(streams: u32) -> Self {
            let (mut mux, pipe) = (Mux::new().unwrap(), Rc::new(RefCell::new(Pipe::default())));
            mux.turn(&mut Vec::new(), &mut Vec::new()).unwrap();
            mux.output(&mut pipe.borrow_mut().incoming);
            let mut builder = server::Builder::new();
            builder.max_concurrent_streams(streams);
            let mut hands = pin!(builder.handshake::<_, Bytes>(End(Rc::clone(&pipe))));
            let Poll::Ready(server) = hands.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
                panic!("the whole preface is there")
            };
            let mut both = Self { mux, pipe, server: server.unwrap(), came: Vec::new(), over: None };
            both.turn();
            both
        }

        /// Lets the server work.
        fn serve(&mut self) {
            let mut context = Context::from_waker(Waker::noop());
            while let Poll::Ready(Some(request)) = self.server.poll_accept(&mut context) {
                self.came.push(request.unwrap().1);
            }
        }

        /// Lets both sides talk until neither has anything to say; gives the requests that have ended. The client has
        /// its turn when something has come, as from a socket.
        fn turn(&mut self) -> Vec<Answered> {
            let mut ended = Vec::new();
            loop {
                self.serve();
                let mut input = std::mem::take(&mut self.pipe.borrow_mut().outgoing);
                if !input.is_empty() {
                    self.over = self.mux.turn(&mut input, &mut ended).err();
                }
                let mut output = Vec::new();
                self.mux.output(&mut output);
                if self.over.is_some() || output.is_empty() {
                    return ended;
                }
                self.pipe.borrow_mut().incoming.append(&mut output);
            }
        }

        fn request(&mut self, number: u32) {
            self.mux.request(number, Request::get("http://bench.test/").body(()).unwrap()).unwrap();
            self.mux.turn(&mut Vec::new(), &mut Vec::new()).unwrap();
        }

        /// Answers the oldest request with so many bytes.
        fn answer(&mut self, status: u16, fault: Option<&str>, bytes: usize) {
            let mut answer = Response::builder().status(status);
            if let Some(fault) = fault {
                answer = answer.header("x-router-fault", fault);
            }
            let mut body = self.came.remove(0).send_response(answer.body(()).unwrap(), false).unwrap();
            body.send_data(vec![b'x'; bytes].into(), true).unwrap();
        }
    }

    fn numbers(ended: &[Answered]) -> Vec<u32> {
        ended.iter().map(|answered| answered.number).collect()
    }

    #[test]
    fn no_request_is_taken_above_the_bound_of_the_other_side() {
        let mut both = Both::new(2);
        for number in 0..2 {
            assert!(both.mux.is_ready());
            both.request(number);
            assert!(both.turn().is_empty());
        }
        assert!(!both.mux.is_ready(), "another one would wait here, and count as sent");
        both.answer(200, None, 0);
        assert_eq!(numbers(&both.turn()), [0]);
        assert!(both.mux.is_ready());
    }

    #[test]
    fn answers_larger_than_the_windows_come_whole_and_say_what_they_are() {
        let mut both = Both::new(10);
        for number in 0..3 {
            both.request(number);
        }
        both.turn();
        both.answer(200, None, 3 * WINDOW as usize);
        both.answer(503, Some("H11"), 5);
        let mut ended = both.turn();
        ended.sort_by_key(|answered| answered.number);
        assert_eq!(numbers(&ended), [0, 1]);
        assert_eq!(ended[0].result, Ok((200, None)));
        assert_eq!(ended[1].result, Ok((503, Some("H11".to_owned()))));
        assert_eq!(both.mux.len(), 1);
        // What is reset is no answer, and the others go on.
        both.came.remove(0).send_reset(h2::Reason::INTERNAL_ERROR);
        let ended = both.turn();
        assert_eq!(numbers(&ended), [2]);
        assert!(ended[0].result.is_err());
    }

    #[test]
    fn a_request_that_is_taken_back_is_reset_and_its_bytes_hold_up_no_other() {
        let mut both = Both::new(10);
        for number in 0..2 {
            both.request(number);
        }
        both.turn();
        let head = Response::builder().status(200).body(()).unwrap();
        let mut body = both.came[0].send_response(head, false).unwrap();
        // As much as the connection takes is on its way when the request is taken back.
        body.send_data(vec![b'x'; 2 * WINDOW as usize].into(), false).unwrap();
        both.serve();
        assert!(both.mux.cancel(0) && !both.mux.cancel(0));
        both.turn();
        let reset = body.poll_reset(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(reset, Poll::Ready(Ok(h2::Reason::CANCEL))), "{reset:?}");
        both.came.remove(0);
        both.answer(200, None, 2 * WINDOW as usize);
        assert_eq!(numbers(&both.turn()), [1]);
    }

    #[test]
    fn answers_that_come_too_late_end_no_connection() {
        const LATE: u32 = 1_500;
        let mut both = Both::new(2 * LATE);
        for number in 0..LATE {
            // Each counts, so the bound of the beginning is no bound.
            both.request(number);
        }
        both.turn();
        assert_eq!(both.came.len(), LATE as usize);
        assert!((0..LATE).all(|number| both.mux.cancel(number)));
        // The server answers before it hears that nobody waits.
        for _ in 0..LATE {
            both.answer(200, None, 1);
        }
        assert!(both.turn().is_empty());
        assert_eq!(both.over, None);
        both.request(LATE);
        both.turn();
        both.answer(200, None, 1);
        assert_eq!(numbers(&both.turn()), [LATE]);
    }

    #[test]
    fn after_a_goodbye_nothing_more_is_taken_and_what_was_is_answered() {
        let mut both = Both::new(10);
        both.request(0);
        both.turn();
        both.server.graceful_shutdown();
        assert!(both.turn().is_empty());
        assert!(!both.mux.is_ready());
        both.answer(200, None, 3);
        assert_eq!(numbers(&both.turn()), [0]);
        assert!(both.over.is_some());
    }
}
