//! Requests that would rather have one given dyno, and wait for it for a while.
//!
//! They stand aside in the line (`queue.rs`). A dyno that has room goes to who came first among those who would take
//! it: all who take any dyno, and those who wait for this one. So nobody is overtaken for a dyno that would serve
//! them, no dyno idles while somebody waits who takes any, and who has a wish is overtaken by its own will alone, for
//! as long as that.
//!
//! A wish that cannot come true is over at once: its dyno does not serve, is another router's, or serves in another
//! lane.

use std::time::Instant;

use super::{App, Effect, Place, Waiting};
use crate::canary::Lane;
use crate::ids::TicketId;
use crate::policy::dyno::Dyno;
use crate::wish::Wish;

impl App {
    /// The dyno of a wish, if it can come true for a request of that lane.
    pub(super) fn wished(&self, lane: Lane, wish: Option<Wish>) -> Option<(u32, Wish)> {
        let wish = wish?;
        let slot = *self.by_address.get(&wish.dyno)?;
        // Both lanes are one line while the canary's is shut: a dyno of the other lane is no one's own then.
        let serves = self.server(lane) == lane && self.serving_lane(slot) == Some(lane);
        serves.then_some((slot, wish))
    }

    /// That dyno, out of the idle list, if it has room now.
    pub(super) fn take(&mut self, slot: u32, now: Instant) -> Option<u32> {
        let lane = self.serving_lane(slot)?;
        let idle = &mut self.crews[lane as usize].idle;
        if !idle.contains(slot) || !self.is_open(now) {
            return None;
        }
        self.crews[lane as usize].idle.remove(slot);
        Some(slot)
    }

    /// A dyno has changed: wishes for it that cannot come true are over, the others are looked at.
    pub(super) fn heed(&mut self, slot: u32) {
        for lane in Lane::ALL {
            if self.queue.first_for(lane, slot).is_none() {
                continue;
            }
            if self.serving_lane(slot) == Some(lane) {
                self.heeded.insert(slot);
                continue;
            }
            while let Some((ticket, _)) = self.queue.first_for(lane, slot) {
                self.queue.join(ticket);
                self.joined = true;
            }
        }
    }

    /// Ends the wishes whose time is up.
    pub(super) fn end_wishes(&mut self, now: Instant) {
        let line_now = self.gate.line_time(now);
        for lane in Lane::ALL {
            while let Some((end, ticket)) = self.queue.next_end(lane)
                && end <= line_now
            {
                self.queue.join(ticket);
                self.joined = true;
            }
        }
        if std::mem::take(&mut self.joined) {
            for lane in Lane::ALL {
                let empty = self.queue.first(lane).is_none();
                self.crews[lane as usize].shed.line_is(empty, line_now);
            }
        }
    }

    /// A dyno with room for who waits for it alone, if none is before them who would take it. Of several the one who
    /// came first.
    pub(super) fn next_wish(&mut self, now: Instant) -> Option<Effect> {
        if self.heeded.is_empty() || !self.is_open(now) {
            return None;
        }
        let mut heeded = std::mem::take(&mut self.heeded);
        heeded.retain(|slot| self.waits_beside(*slot).is_some());
        let turns = heeded.iter().filter_map(|slot| Some((*slot, self.waits_beside(*slot)?)));
        let turns = turns.filter(|(_, (_, first))| !self.is_overtaking(first, now));
        let turn = turns.min_by_key(|(_, (_, first))| first.number);
        let turn = turn.map(|(slot, (ticket, first))| (slot, ticket, *first));
        self.heeded = heeded;
        let (slot, ticket, first) = turn?;
        let slot = self.take(slot, now)?;
        self.leave(now, ticket);
        let Waiting { number, lane, arrived, since, bytes, tries, deadline, .. } = first;
        let patience = deadline.saturating_duration_since(self.gate.line_time(now));
        let place = Place { number, lane, arrived, since, bytes, tries, patience };
        Some(Effect::Grant(ticket, self.grant(slot, place, now)))
    }

    /// Whether a dyno has room for who waits for it alone: while the line is held.
    pub(super) fn is_wish_open(&self) -> bool {
        self.heeded.iter().any(|slot| self.waits_beside(*slot).is_some())
    }

    /// Who is first in waiting for this dyno alone, while it has room.
    fn waits_beside(&self, slot: u32) -> Option<(TicketId, &Waiting)> {
        let lane = self.serving_lane(slot).filter(|lane| self.crew(*lane).idle.contains(slot))?;
        self.queue.first_for(lane, slot)
    }

    /// Whether somebody who takes any dyno is before them, and has one: of the same lane, or of either while the line
    /// is held, when there may be room for one request alone.
    fn is_overtaking(&self, first: &Waiting, now: Instant) -> bool {
        let held = self.gate.is_held(now);
        Lane::ALL.into_iter().filter(|lane| held || *lane == first.lane).any(|lane| {
            let before = self.first(lane).is_some_and(|(_, before)| before.number < first.number);
            before && self.crew(lane).can_pick(now)
        })
    }

    /// When something is to be done for a wish by the clock alone.
    pub(super) fn wish_tick(&self) -> Option<Instant> {
        let ends = Lane::ALL.into_iter().filter_map(|lane| self.queue.next_end(lane));
        let ends = ends.map(|(end, _)| self.gate.time_of(end)).min();
        // While the line is held, a dyno may have room for who waits for it.
        let opens = self.opens().filter(|_| self.is_wish_open());
        ends.into_iter().chain(opens).min()
    }

    /// The lane that a dyno serves in, if it serves.
    fn serving_lane(&self, slot: u32) -> Option<Lane> {
        let dyno = self.dynos.get(slot as usize)?.dyno.as_ref()?;
        (dyno.is_serving() && dyno.is_here()).then(|| Dyno::lane(dyno))
    }

    /// Panics if somebody waits for a dyno that would not serve them, or that has room.
    pub(super) fn check_wishes(&self, now: Instant) {
        for lane in Lane::ALL {
            for slot in 0..self.dynos.len() as u32 {
                let Some((_, first)) = self.queue.first_for(lane, slot) else { continue };
                assert_eq!(
                    self.serving_lane(slot),
                    Some(lane),
                    "who waits for one dyno waits for one that serves"
                );
                let room = self.crew(lane).idle.contains(slot) && self.is_open(now);
                let before = self.first(lane).is_some_and(|(_, before)| before.number < first.number);
                assert!(!room || before, "nobody waits for one dyno while it has room");
            }
        }
    }
}
