//! What is known of one request, as plain data: one [`Record`] a request, handed on once it is over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Version};

use crate::clock::Clock;
use crate::fault::Fault;
use crate::ids::AppId;
use crate::policy::dyno::DynoInfo;

/// Whether a client has taken nothing of what there is for it for too long.
pub type Stalled = Arc<dyn Fn() -> bool + Send + Sync>;

/// One request, from its arrival to its last byte.
///
/// Fields that come from the request share its buffer, so making a record copies no text.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Record {
    /// When the request's head was there, since the Unix epoch.
    pub received: Duration,
    /// The method; `None` when the head could not be read.
    pub method: Option<Method>,
    /// Path and query; `None` when the head could not be read.
    pub path: Option<PathAndQuery>,
    /// The Host header as the client sent it.
    pub host: Option<HeaderValue>,
    /// The `X-Request-Id` that the dyno got.
    pub request_id: Option<HeaderValue>,
    /// The `X-Forwarded-For` that the dyno got; where proxies are trusted, the client's address alone.
    pub forwarded_for: Option<HeaderValue>,
    /// HTTP version of the client's side.
    pub protocol: Version,
    /// Whether the client's side was encrypted.
    pub tls: bool,
    /// The app; `None` when no app has the host.
    pub app: Option<AppId>,
    /// The dyno that served, or was the last to be tried.
    pub dyno: Option<Arc<DynoInfo>>,
    /// Time in line, summed over all tries.
    pub queue: Duration,
    /// Time to open the connection to the dyno; zero on a connection that was there.
    pub connect: Duration,
    /// From the lease to the answer's last byte from the dyno, or to the fault that came before it.
    pub service: Duration,
    /// From the request's head to its end.
    pub total: Duration,
    /// Dynos the request was offered to.
    pub tries: u32,
    /// The status the client got, or 499 if it was gone; 0 if there was none to give.
    pub status: u16,
    /// Body bytes that went to the client.
    pub bytes: u64,
    /// Why the request was not served well.
    pub fault: Option<Fault>,
    /// What came of the connection if the dyno has changed its protocol.
    pub upgraded: Option<Upgraded>,
    /// Whether the dyno is the one that the request would rather have had, if it had a wish and got a dyno.
    pub stuck: Option<bool>,
}

/// A connection that has changed its protocol. What went to the client is the record's `bytes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upgraded {
    /// From the dyno's 101 to the end.
    pub lasted: Duration,
    /// Bytes that went from the client to the dyno.
    pub received: u64,
    /// Who or what ended it.
    pub end: End,
}

/// Who or what ended an upgraded connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The client has closed its side.
    Client,
    /// The dyno has closed its side.
    Dyno,
    /// Nothing came from either side for too long.
    Idle,
    /// The dyno, or this router, is to leave: both sides were told.
    Leaving,
    /// It was cut: the router has ended.
    Cut,
}

impl End {
    /// The end as a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Dyno => "dyno",
            Self::Idle => "idle",
            Self::Leaving => "leaving",
            Self::Cut => "cut",
        }
    }
}

impl Default for Record {
    fn default() -> Self {
        Self {
            received: Duration::ZERO,
            method: None,
            path: None,
            host: None,
            request_id: None,
            forwarded_for: None,
            protocol: Version::HTTP_11,
            tls: false,
            app: None,
            dyno: None,
            queue: Duration::ZERO,
            connect: Duration::ZERO,
            service: Duration::ZERO,
            total: Duration::ZERO,
            tries: 0,
            status: 0,
            bytes: 0,
            fault: None,
            upgraded: None,
            stuck: None,
        }
    }
}

/// Who gets the closed records.
pub(crate) struct Hook {
    call: Box<dyn Fn(Box<Record>) + Send + Sync>,
    /// The router is being shut down: what is dropped from now on was cut by us.
    closing: AtomicBool,
}

impl Hook {
    pub(crate) fn new(call: impl Fn(Box<Record>) + Send + Sync + 'static) -> Self {
        Self { call: Box::new(call), closing: AtomicBool::new(false) }
    }

    pub(crate) fn force_close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    /// Why a request is dropped before its end.
    fn interruption(&self) -> Fault {
        if self.closing.load(Ordering::Relaxed) { Fault::ForcedClose } else { Fault::ClientInterrupted }
    }
}

/// An open record. Closes when it is dropped, whatever happened, and then goes to the hook: exactly one a request.
pub(crate) struct Open {
    /// `Some` until it is closed.
    record: Option<Box<Record>>,
    started: Instant,
    /// Since when it is at a dyno, until the dyno's part is over.
    at_dyno: Option<Instant>,
    clock: Clock,
    hook: Arc<Hook>,
    /// What is asked if it is dropped before its end.
    stalled: Option<Stalled>,
}

impl Open {
    pub(crate) fn new(record: Record, clock: &Clock, hook: &Arc<Hook>) -> Self {
        let (started, clock, hook) = (clock.now(), clock.clone(), Arc::clone(hook));
        Self { record: Some(Box::new(record)), started, at_dyno: None, clock, hook, stalled: None }
    }

    /// Whom to ask, if it is dropped before its end, whether that was the client's silence.
    pub(crate) fn asks(&mut self, stalled: Option<Stalled>) {
        self.stalled = stalled;
    }

    /// Writes something down.
    pub(crate) fn note(&mut self, note: impl FnOnce(&mut Record)) {
        if let Some(record) = &mut self.record {
            note(record);
        }
    }

    /// It has a dyno since then.
    pub(crate) fn begins_at_dyno(&mut self, at: Instant) {
        self.at_dyno = Some(at);
    }

    /// It has no dyno any more, and the dyno has done nothing of it.
    pub(crate) fn is_back_in_line(&mut self) {
        self.at_dyno = None;
    }

    /// The dyno's part is over, and took that long.
    pub(crate) fn served(&mut self, service: Duration) {
        self.at_dyno = None;
        self.note(|record| record.service = service);
    }

    /// The request failed. The first fault is the one that counts.
    pub(crate) fn fault(&mut self, fault: Fault) {
        if let Some(at) = self.at_dyno {
            self.served(self.clock.now().saturating_duration_since(at));
        }
        self.note(|record| {
            if record.fault.is_none() {
                record.fault = Some(fault);
                record.status = fault.status();
            }
        });
    }

    /// The connection was to go on, and did not: the client keeps the answer that it got.
    pub(crate) fn fault_after_answer(&mut self, fault: Fault) {
        self.note(|record| record.fault = record.fault.or(Some(fault)));
    }

    /// Why a request is dropped before its end.
    pub(crate) fn interruption(&self) -> Fault {
        let stalled = self.stalled.as_ref().is_some_and(|stalled| stalled());
        if stalled { Fault::ClientIdle } else { self.hook.interruption() }
    }

    /// The request is dropped before its end.
    pub(crate) fn interrupted(&mut self) {
        self.fault(self.interruption());
    }

    /// Whether a status was noted: the client got, or is about to get, an answer.
    pub(crate) fn is_answered(&self) -> bool {
        self.record.as_ref().is_none_or(|record| record.status != 0)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if !self.is_answered() {
            self.interrupted();
        }
        if let Some(mut record) = self.record.take() {
            record.total = self.clock.now().duration_since(self.started);
            (self.hook.call)(record);
        }
    }
}
