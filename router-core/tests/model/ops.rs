//! The operations of the model test: small numbers that are resolved when they are run, so that a case that shrinks
//! stays a case. The fuzz target `app_model` uses this file too.

use std::time::Duration;

use router_core::Outcome;
use router_core::canary::Lane;
use router_core::change::{AppSpec, Change, DynoHealth, DynoSpec, Hold};
use router_core::ids::{Address, AppId};
use router_core::limits::{Limits, Order};
use router_core::wish::Wish;

/// Apps of the model. Both may ask for any dyno.
pub(crate) const APPS: [&str; 2] = ["a", "b"];
/// Dynos of the model.
pub(crate) const DYNOS: u8 = 5;

/// The most upgraded requests that a dyno of the model holds beside the others.
pub(crate) const STREAMS: usize = 3;

/// Bytes of a request of the main lane.
pub(crate) const MAIN: u16 = 1;

/// One operation. `who` and `lease` count modulo what is there; an operation without an object does nothing.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Arrive { app: u8, bytes: u16, polled: bool },
    Poll { who: u8, same_waker: bool },
    Cancel { who: u8 },
    Expire { who: u8 },
    Advance { ms: u16, tick: bool },
    CheckIn { lease: u8, outcome: Outcome },
    Again { lease: u8 },
    Linger { lease: u8 },
    Upgrade { lease: u8 },
    DropLease { lease: u8 },
    Apply(Vec<Edit>),
    Probe { app: u8, dyno: u8 },
    Probed { app: u8, dyno: u8, good: bool },
}

/// One change, or two that belong together.
#[derive(Clone, Debug)]
pub(crate) enum Edit {
    /// New limits for an app that is there, or the app is (back) there.
    Put {
        app: u8,
        shape: u8,
    },
    RemoveApp {
        app: u8,
    },
    Add {
        app: u8,
        dyno: u8,
        concurrency: u8,
        health: DynoHealth,
    },
    /// Takes a dyno from the app that has it.
    Remove {
        dyno: u8,
    },
    /// As `Remove`, from an app that may not have it.
    RemoveFrom {
        app: u8,
        dyno: u8,
    },
    Set {
        dyno: u8,
        health: DynoHealth,
    },
    /// Pauses or resumes an app, or puts it into maintenance.
    Hold {
        app: u8,
        kind: u8,
        ms: u16,
    },
    /// Takes a dyno from the app that has it, and gives it to the other.
    Move {
        dyno: u8,
    },
    /// Nothing is the canary's any more.
    Canary {
        app: u8,
    },
    /// Takes a dyno away and brings it back, as a flapping DNS name does.
    Flap {
        dyno: u8,
    },
}

pub(crate) fn app_id(app: u8) -> AppId {
    APPS[usize::from(app) % APPS.len()].into()
}

/// A request with that many bytes is in this lane: one of four in the canary's.
pub(crate) fn lane(bytes: u16) -> Lane {
    if bytes.is_multiple_of(4) { Lane::Canary } else { Lane::Main }
}

/// A request with that many bytes would rather have this dyno: half of them have a wish, and few the wish of all.
pub(crate) fn wish(bytes: u16) -> Option<Wish> {
    let wait = Duration::from_millis(u64::from(bytes % 7) * 100);
    (bytes >= 100).then(|| Wish { dyno: address((bytes % 16) as u8), wait })
}

pub(crate) fn address(dyno: u8) -> Address {
    ([127, 0, 0, 1], 3000 + u16::from(dyno % DYNOS)).into()
}

pub(crate) fn put(id: &AppId, shape: u8) -> Change {
    let ms = Duration::from_millis;
    let default = Limits::default();
    let limits = match shape % 12 {
        0 => default.with_queue_max_requests_per_dyno(2),
        1 => default.with_queue_max_requests_per_dyno(0),
        2 => default.with_queue_max_bytes(300),
        3 => default.with_queue_max_wait(ms(400)).with_boot(ms(900)),
        4 => default.with_order(Order::LeastRecentlyUsed),
        5 => default.with_order(Order::Random),
        6 => default.with_max_tries(2).with_quarantine(ms(1000)).with_quarantine_max(ms(3000)),
        7 => default.with_standing_after(ms(300)).with_standing_wait(ms(200)).with_eject_after(0),
        8 => default.with_eject_after(1).with_eject_max(100).with_health_fall(1).with_health_rise(2),
        9 => default.with_streams(1),
        10 => default.with_streams(STREAMS as u32).with_order(Order::LeastRecentlyUsed),
        _ => default,
    };
    let hosts = vec![format!("{id}.test")];
    let release = if shape < 5 { "v1" } else { "v2" };
    Change::PutApp(AppSpec { id: id.clone(), hosts, release: release.into(), limits })
}

pub(crate) fn hold(kind: u8, ms: u16) -> Hold {
    let (long, over) = (Duration::from_millis(ms.into()), Duration::from_millis(u64::from(ms % 7) * 300));
    match kind % 8 {
        0..=2 => Hold::Pause { at_most: long, over },
        3..=4 => Hold::Resume { over },
        5 => Hold::Maintenance(true),
        _ => Hold::Maintenance(false),
    }
}

pub(crate) fn add(id: &AppId, dyno: u8, concurrency: u8, health: DynoHealth) -> Change {
    // Some run a release of their own.
    let release = (concurrency == 3).then(|| "v9".into());
    let (concurrency, state) = (u32::from(concurrency), health);
    Change::AddDyno(id.clone(), DynoSpec { concurrency, state, release, ..DynoSpec::new(address(dyno)) })
}

/// What an app is before the first operation: two apps, three dynos.
pub(crate) fn prelude() -> Vec<Change> {
    let (a, b) = (app_id(0), app_id(1));
    let ready = DynoHealth::Ready;
    vec![put(&a, 11), put(&b, 11), add(&a, 0, 1, ready), add(&a, 1, 2, ready), add(&b, 2, 1, ready)]
}
