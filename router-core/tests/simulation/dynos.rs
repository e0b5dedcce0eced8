//! Fake dynos: what a process really does, whatever the router believes. They count every overlap.

use std::collections::BTreeMap;

/// A request on its way: a slot and what tells it from the one that had the slot before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) slot: u32,
    pub(crate) turn: u64,
}

/// A process that does `concurrency` things at once, and no more.
#[derive(Debug)]
pub(crate) struct Dyno {
    pub(crate) up: bool,
    pub(crate) refuses: bool,
    /// Answers at once that it cannot.
    pub(crate) sick: bool,
    pub(crate) concurrency: u32,
    working: Vec<Key>,
}

impl Dyno {
    pub(crate) fn is_idle(&self) -> bool {
        self.working.is_empty()
    }
}

/// All processes there are, by port.
#[derive(Debug, Default)]
pub(crate) struct Dynos {
    all: BTreeMap<u16, Dyno>,
    /// How often a dyno was sent a request while it had as many as it takes.
    pub(crate) overlaps: u64,
}

impl Dynos {
    pub(crate) fn add(&mut self, port: u16, concurrency: u32) {
        self.all
            .insert(port, Dyno { up: true, refuses: false, sick: false, concurrency, working: Vec::new() });
    }

    pub(crate) fn ports(&self) -> impl Iterator<Item = u16> {
        self.all.keys().copied()
    }

    pub(crate) fn get(&mut self, port: u16) -> &mut Dyno {
        self.all.get_mut(&port).expect("the router knows only dynos that it was told of")
    }

    /// Sends a request. `false`: the dyno does not accept it.
    pub(crate) fn send(&mut self, port: u16, request: Key) -> bool {
        let dyno = self.get(port);
        if !dyno.up || dyno.refuses {
            return false;
        }
        let overlaps = dyno.working.len() >= dyno.concurrency as usize;
        dyno.working.push(request);
        self.overlaps += u64::from(overlaps);
        true
    }

    /// The dyno is done with a request, or its connection was closed.
    pub(crate) fn done(&mut self, port: u16, request: Key) {
        self.get(port).working.retain(|working| *working != request);
    }

    /// The process dies: these requests die with it.
    pub(crate) fn crash(&mut self, port: u16) -> Vec<Key> {
        let dyno = self.get(port);
        dyno.up = false;
        std::mem::take(&mut dyno.working)
    }
}
