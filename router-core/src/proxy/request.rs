//! The spine: steps 2 to 6 of one request on one screen, and `struct Proxy`, which owns them.

use std::collections::VecDeque;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body::Body as HttpBody;
use http_body_util::BodyExt;

use crate::clock;
use crate::fault::Fault;
use crate::proxy::answer::{self, Pages, Told};
use crate::proxy::body::Body;
use crate::proxy::canary;
use crate::proxy::client::Client;
use crate::proxy::coding::{self, Codings};
use crate::proxy::disk::{Disk, Share};
use crate::proxy::forward::{Attempt, Failed, Reply, send};
use crate::proxy::grpc::{self, Call};
use crate::proxy::guard::{Asking, Guard, Verdict};
use crate::proxy::inspect::{self, Rules, Target};
use crate::proxy::memory::Memory;
use crate::proxy::record::{Hook, Open, Record};
use crate::proxy::sticky::{self, Sticky};
use crate::proxy::upload::{BoxError, ClientBody, Upload};
use crate::proxy::wanted::Wanted;
use crate::proxy::{headers, http2, https, own, turn};
use crate::router::{AppRef, Lease, Router};
use crate::wish::Wish;

/// Serves requests through a [`Router`]: the HTTP/1.1 client side. Cheap to clone.
///
/// Make it inside a tokio runtime: it keeps one task there, for the end of quarantines, until its last clone is
/// dropped.
#[derive(Clone)]
pub struct Proxy {
    router: Router,
    rules: Rules,
    guard: Option<Guard>,
    pub(super) own: Option<own::Known>,
    pages: Option<Pages>,
    sticky: Option<Arc<dyn Sticky>>,
    codings: Option<Codings>,
    memory: Memory,
    disk: Disk,
    hook: Arc<Hook>,
    _timekeeper: Arc<turn::Timekeeper>,
}

/// The request cannot be answered, because its client is gone or has fallen silent: close the connection.
#[derive(Clone, Copy, Debug)]
pub struct Aborted(pub Fault);

impl Proxy {
    /// A proxy with the default rules and nobody who gets its records.
    pub fn new(router: Router) -> Self {
        let timekeeper = Arc::new(turn::Timekeeper::start(router.clone()));
        let (rules, hook) = (Rules::default(), Arc::new(Hook::new(|_| {})));
        Self {
            router,
            rules,
            guard: None,
            pages: None,
            sticky: None,
            codings: None,
            own: None,
            memory: Memory::default(),
            disk: Disk::default(),
            hook,
            _timekeeper: timekeeper,
        }
    }

    /// What a request may look like.
    #[must_use]
    pub fn with_rules(mut self, rules: Rules) -> Self {
        self.rules = rules;
        self
    }

    /// Who may refuse a request.
    #[must_use]
    pub fn with_guard(mut self, guard: Guard) -> Self {
        self.guard = Some(guard);
        self
    }

    /// Who has pages of an app's own for faults.
    #[must_use]
    pub fn with_pages(mut self, pages: Pages) -> Self {
        self.pages = Some(pages);
        self
    }

    /// Who binds clients to dynos.
    #[must_use]
    pub fn with_sticky(mut self, sticky: Arc<dyn Sticky>) -> Self {
        self.sticky = Some(sticky);
        self
    }

    /// Who compresses answers, or codes them in another way.
    #[must_use]
    pub fn with_codings(mut self, codings: Codings) -> Self {
        self.codings = Some(codings);
        self
    }

    /// How many bytes of bodies it holds; its clones share the account.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Where bodies go that memory has no room for; its clones share it. What an app may have there is in its
    /// [`Limits`](crate::limits::Limits), and nothing by default.
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Who gets the record of each request, once, when it is over. Called on the request's path: it must not block.
    #[must_use]
    pub fn on_record(mut self, hook: impl Fn(Box<Record>) + Send + Sync + 'static) -> Self {
        self.hook = Arc::new(Hook::new(hook));
        self
    }

    /// From now on a request that is dropped before its end was cut by us (H24), not by its client.
    pub fn force_close(&self) {
        self.hook.force_close();
    }

    /// The router.
    pub fn router(&self) -> &Router {
        &self.router
    }

    /// Records a request that never became one: its head could not be read.
    pub fn refuse_head(&self, client: &Client, fault: Fault) {
        let mut open = Open::new(Record::default(), self.router.clock(), &self.hook);
        open.note(|record| {
            record.received = clock::wall();
            record.tls = client.tls;
            record.forwarded_for = Some(client.forwarded_for.clone());
        });
        open.fault(fault);
    }

    /// Serves one request: steps 2 to 6. Its record is opened by the call, so that it has one even if the future is
    /// dropped before it was ever polled: a client may be gone as soon as its request is read.
    ///
    /// # Errors
    /// [`Aborted`] when there is nobody to answer. Every other fault is an answer.
    ///
    /// # Cancel safety
    /// Dropping the future means that the client is gone: a request in line leaves it, one at a dyno lingers there
    /// until the dyno is done with it. The record is closed in either case.
    pub fn serve<B>(
        &self,
        client: &Client,
        request: Request<B>,
    ) -> impl Future<Output = Result<Response<Body>, Aborted>> + Send
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let (head, body) = request.into_parts();
        let body = (!body.is_end_stream()).then(|| body.map_err(Into::into).boxed_unsync());
        let received = Received::now(self, client, head);
        let Received { head, inspected, .. } = &received;
        let own = own::answer(self.own.as_ref(), &head.method, inspected.as_ref());
        async move {
            match own {
                Some(reply) => Ok(reply.told(received.open)),
                None => self.serve_received(client, received, body).await,
            }
        }
    }

    async fn serve_received(
        &self,
        client: &Client,
        received: Received,
        body: Option<ClientBody>,
    ) -> Result<Response<Body>, Aborted> {
        let Received { mut open, head, accept, request_id, address, upgrade, call, trailers, inspected } =
            received;
        let overdue = call.and_then(|call| self.router.clock().now().checked_add(call.timeout?));
        let (mut app, mut refusal) = (None, None);
        let answer = async {
            let target = inspected?;
            https::check(client, &target)?;
            let found = self.router.route(&target.host, target.path.path())?; // 2
            let limits = found.limits();
            open.note(|record| record.app = Some(found.id().clone()));
            let found = &*app.insert(found);
            if let Some(reply) = https::redirect(&limits, client, &target)? {
                return Ok(reply);
            }
            let (id, host, path, headers) = (found.id(), &*target.host, &target.path, &head.headers);
            let (method, version) = (&head.method, head.version);
            let asking = Asking { app: id, address, host, path, method, version, headers };
            let coder = coding::coder(self.codings.as_ref(), &asking, call.is_some());
            let wish = self.sticky.as_ref().and_then(|sticky| sticky.wish(&asking));
            let secure = sticky::is_secure(headers);
            match self.ask(&asking).reply().await {
                Ok(None) => {}
                Ok(Some(reply)) => return Ok(reply),
                Err(refused) => return Err(refusal.insert(refused).fault),
            }
            let share = Share::new(&self.disk, found.id(), limits.request_disk, limits.disk_max);
            let upload = Upload::take_up(body, call.is_some(), &limits, &self.memory, share).await?;
            let interim = client.interim.clone().filter(|_| head.version >= http::Version::HTTP_11);
            let (method, headers) = (head.method, head.headers);
            let ends = client.ends(address);
            let (path, memory, disk) = (target.path, self.memory.clone(), self.disk.clone());
            let attempt =
                Attempt { method, path, headers, upload, interim, upgrade, trailers, ends, memory, disk };
            let mut reply = self.forward(client, found, attempt, (overdue, wish), &mut open).await?;
            sticky::bind(self.sticky.as_ref(), found.id(), wish, secure, (&mut reply, &mut open));
            Ok(reply.coded(coder))
        }
        .await;
        match answer {
            Ok(mut reply) => {
                app.iter().for_each(|app| https::promise(app, client, &mut reply.head.headers));
                open.note(|record| record.status = reply.head.status.as_u16());
                Ok(reply.into_response(open))
            }
            Err(fault @ (Fault::ClientInterrupted | Fault::ClientIdle)) => {
                open.fault(fault);
                Err(Aborted(fault))
            }
            Err(fault) if call.is_some() => {
                let overdue = overdue.is_some_and(|overdue| overdue <= self.router.clock().now());
                Ok(failed_call(fault, overdue, open))
            }
            Err(fault) => {
                let told = Told { app: app.as_ref(), refusal, pages: self.pages.as_ref() };
                let mut page = answer::page(fault, told, (accept, &request_id), open);
                app.iter().for_each(|app| https::promise(app, client, page.headers_mut()));
                Ok(page)
            }
        }
    }

    /// From the line to the dyno and back, as often as it takes.
    async fn forward(
        &self,
        client: &Client,
        app: &AppRef,
        mut attempt: Attempt,
        (overdue, wish): (Option<Instant>, Option<Wish>),
        open: &mut Open,
    ) -> Result<Reply, Fault> {
        let mut entered = self.router.clock().now();
        let lane = app.lane(|canary| canary::carries(canary, &attempt.headers));
        let mut ticket = self.router.ticket_for(app, lane, attempt.upload.held(), wish)?; // 3
        loop {
            let lease = turn::wait(ticket, overdue).await?; // 4
            open.note(|record| {
                dispatched(record, &lease, entered);
                record.stuck = wish.map(|wish| wish.dyno == lease.dyno().address);
            });
            open.begins_at_dyno(lease.granted_at());
            if client.is_gone() {
                return Err(Fault::ClientInterrupted); // the lease is dropped: the dyno was not touched
            }
            match send(lease, &mut attempt, open).await {
                Ok(reply) => return Ok(reply), // 5; 6 at the dyno's last byte
                Err(Failed::Over(fault)) => return Err(fault),
                Err(Failed::Unreachable(lease, fault)) => {
                    open.is_back_in_line();
                    entered = self.router.clock().now();
                    ticket = lease.again(fault)?; // to the front of the line
                }
            }
        }
    }

    fn ask(&self, asking: &Asking<'_>) -> Verdict {
        self.guard.as_ref().map_or(Verdict::Pass, |guard| guard(asking))
    }
}

/// A request whose record is open, with its head made ready for a dyno.
struct Received {
    open: Open,
    head: http::request::Parts,
    accept: Option<HeaderValue>,
    request_id: HeaderValue,
    address: IpAddr,
    /// The protocols that the client would change to.
    upgrade: Option<Wanted>,
    call: Option<Call>,
    /// The client takes trailers.
    trailers: bool,
    inspected: Result<Target, Fault>,
}

impl Received {
    fn now(proxy: &Proxy, client: &Client, mut head: http::request::Parts) -> Self {
        let received = clock::wall();
        // Opened first: it closes on drop, whatever happens, and calls the hook (step 7).
        let mut open = Open::new(Record::default(), proxy.router.clock(), &proxy.hook);
        open.asks(client.stalled.clone());
        let plain = http2::plain(&mut head);
        open.note(|record| describe(record, &head, client));
        let call = grpc::call(&head);
        let trailers = head.version == http::Version::HTTP_2 && head.headers.contains_key(http::header::TE);
        let accept = head.headers.get(http::header::ACCEPT).cloned();
        let upgrade = if client.upgrades { Wanted::of(&mut head) } else { None };
        let inspected = plain.and_then(|()| inspect::inspect(&mut head, &proxy.rules));
        let trusted = proxy.rules.trusted_request_id;
        let known = headers::to_dyno(&mut head.headers, client, received, head.version, trusted);
        let (request_id, address) = (known.request_id.clone(), known.origin.address);
        open.note(|record| {
            record.received = received;
            record.request_id = Some(known.request_id);
            record.forwarded_for = Some(known.origin.shown);
        });
        Self { open, head, accept, request_id, address, upgrade, call, trailers, inspected }
    }
}

/// What is known of a request before anything is done with it.
fn describe(record: &mut Record, head: &http::request::Parts, client: &Client) {
    record.method = Some(head.method.clone());
    record.path = head.uri.path_and_query().cloned();
    record.host = head.headers.get(http::header::HOST).cloned();
    record.protocol = head.version;
    record.tls = client.tls;
}

fn dispatched(record: &mut Record, lease: &Lease, entered: Instant) {
    record.queue += lease.granted_at().saturating_duration_since(entered);
    record.tries = lease.tries();
    record.dyno = Some(lease.dyno_info());
}

/// A fault as the client of a gRPC call understands it.
fn failed_call(fault: Fault, overdue: bool, mut open: Open) -> Response<Body> {
    open.fault(fault);
    let answer = grpc::trailers_only(fault, overdue);
    open.note(|record| record.status = answer.status().as_u16());
    answer.map(|()| Body::whole(VecDeque::new(), open))
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("router", &self.router).finish_non_exhaustive()
    }
}

impl fmt::Display for Aborted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nobody to answer: {}", self.0)
    }
}

impl std::error::Error for Aborted {}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::sync::Mutex;

    #[tokio::test]
    async fn a_request_whose_future_is_never_polled_has_its_record() {
        let records = Arc::new(Mutex::new(Vec::new()));
        let told = records.clone();
        let proxy = Proxy::new(Router::new()).on_record(move |record| told.lock().push(*record));
        let client = Client::new(SocketAddr::from(([127, 0, 0, 1], 1)), 80);
        let request = Request::get("/cart").header("host", "shop.test");
        drop(proxy.serve(&client, request.body(http_body_util::Empty::<Bytes>::new()).unwrap()));
        let records = records.lock();
        assert_eq!(records.len(), 1);
        assert_eq!(records[0].fault, Some(Fault::ClientInterrupted));
        assert_eq!(records[0].path.as_ref().map(|path| path.as_str()), Some("/cart"));
        assert!(records[0].request_id.is_some());
    }
}
