//! Who would rather have one given dyno, in the reference.

use std::time::Duration;

use router_core::canary::Lane;
use router_core::ids::Address;
use router_core::snapshot::Snapshot;

use super::dyno::{Dyno, Standing};
use super::reference::{App, News, Told, Waiting};

impl App {
    /// A dyno that serves no more ends the wishes for it, and for good, though it may be back before anybody is
    /// served.
    pub(crate) fn forget_wishes(&mut self) {
        self.wishes.retain(|request, (dyno, _)| {
            let lane =
                self.line.iter().find(|waiting| waiting.request == *request).map(|waiting| waiting.lane);
            let serves = |of: &Dyno| of.spec.address == *dyno && of.standing == Standing::Serving;
            self.dynos.iter().any(|of| serves(of) && Some(of.lane) == lane)
        });
    }

    /// Ends the wishes whose time is up, or whose dyno serves no more.
    pub(crate) fn end_wishes(&mut self) {
        let mut wishes = std::mem::take(&mut self.wishes);
        wishes.retain(|request, (dyno, end)| {
            let waiting = self.line.iter().find(|waiting| waiting.request == *request);
            waiting.is_some_and(|waiting| *end > self.gate.clock && self.may_serve(*dyno, waiting.lane))
        });
        self.wishes = wishes;
        for lane in Lane::ALL {
            if self.line.iter().any(|waiting| waiting.lane == lane && self.takes_any(waiting)) {
                self.standing_since[lane as usize].get_or_insert(self.gate.clock);
            }
        }
    }

    pub(crate) fn takes_any(&self, waiting: &Waiting) -> bool {
        !self.wishes.contains_key(&waiting.request)
    }

    pub(crate) fn may_serve(&self, dyno: Address, lane: Lane) -> bool {
        self.crew(lane).any(|of| of.spec.address == dyno && of.standing == Standing::Serving)
    }

    pub(crate) fn has_room(&self, dyno: Address) -> bool {
        self.dynos.iter().any(|of| of.spec.address == dyno && of.room() > 0)
    }

    /// The dyno with room for who waits for it alone with nobody before them who would be served, and who that is. Of
    /// several the first.
    pub(crate) fn wished(&self, now: Duration) -> Option<(Address, Waiting)> {
        let with_room = self.dynos.iter().filter(|dyno| dyno.room() > 0);
        let found = with_room.filter_map(|dyno| {
            let address = dyno.spec.address;
            let own =
                |waiting: &&Waiting| self.wishes.get(&waiting.request).is_some_and(|wish| wish.0 == address);
            let first = self.line.iter().filter(own).min_by_key(|waiting| waiting.request)?;
            let lanes = Lane::ALL.into_iter().filter(|lane| self.gate.is_held() || *lane == dyno.lane);
            let mut before = lanes.filter(|lane| {
                let older = self.first(*lane).is_some_and(|other| other.request < first.request);
                older && !self.candidates(*lane, now).is_empty()
            });
            before.next().is_none().then(|| (address, first.clone()))
        });
        found.min_by_key(|(_, first)| first.request)
    }

    /// `false`: no dyno has room for somebody who waits for it alone.
    pub(crate) fn serve_wish(&mut self, now: Duration, news: &mut News) -> bool {
        if !self.is_open(now) {
            return false;
        }
        let Some((address, first)) = self.wished(now) else { return false };
        self.patience.insert(first.request, first.deadline - self.gate.clock);
        self.leave(first.request);
        let address = self.grant(address);
        news.push((first.request, Told::Granted(address)));
        true
    }

    /// Serves and refuses all there are. Which of equal dynos serves decides whose wish comes true: what the router
    /// did has to be one of the ways.
    pub(crate) fn try_ways(&mut self, now: Duration, seen: &Snapshot, news: &mut News) {
        let wanted = seen.apps.iter().find(|app| app.id == self.id).filter(|_| !self.wishes.is_empty());
        let tries = (0..27).map(|way| {
            let (mut tried, mut told) = (self.clone(), News::new());
            tried.way = way;
            tried.serve_all(now, seen, &mut told);
            (tried, told)
        });
        let mut tries = tries.peekable();
        let first = tries.peek().cloned();
        let fits = tries.find(|(tried, _)| wanted.is_none_or(|wanted| *wanted == tried.snapshot(now)));
        let Some((served, mut told)) = fits.or(first) else { return };
        *self = served;
        news.append(&mut told);
    }
}
