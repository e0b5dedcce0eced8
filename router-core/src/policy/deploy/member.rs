//! One dyno of a deploy. All moves are made by [`Member::step`]; what is not in this table does not happen.
//!
//! # State
//!
//! | stage \ event | `Warm` | `Ready` | `Try` | `Serve` | `Leave` | `Left` | `Fail` |
//! |---|---|---|---|---|---|---|---|
//! | staged | warming, *add* | – | – | – | gone | – | – |
//! | warming | – | ready | – | – | gone, *remove* | – | failed, *remove* |
//! | ready | – | – | canary, *canary* | serving, *serve* | gone, *remove* | – | failed, *remove* |
//! | canary | – | – | – | serving, *serve* | draining, *drain* | – | failed, *remove* |
//! | serving, old | – | – | – | – | draining, *drain* | – | crashed |
//! | serving, new | – | – | – | – | draining, *drain* | – | failed, *remove* |
//! | crashed | – | – | – | – | gone, *remove* | – | – |
//! | draining | – | – | – | serving, *resume* | – | gone | gone |
//! | gone | warming, *add* | – | – | – | – | – | – |
//! | failed | – | – | – | – | – | – | – |
//!
//! `–` leaves the stage as it is and asks for nothing.

use std::time::Instant;

use super::plan::Plan;
use super::words::{Cause, CauseKind, DynoProgress, DynoStage, Effect, Side};
use crate::change::{DynoHealth, DynoSpec};
use crate::ids::ReleaseId;

/// A probe's answer is kept up to so many characters.
const ANSWER_MOST: usize = 200;

/// One dyno of a deploy.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) side: Side,
    pub(super) spec: DynoSpec,
    pub(super) stage: DynoStage,
    /// When it got to its stage.
    pub(super) since: Instant,
    /// Why it failed.
    pub(super) failure: Option<Cause>,
    /// It has drained for too long.
    pub(super) given_up: bool,
    ask: Ask,
    /// Good probes in a row.
    good: u32,
    /// What the last probe that was not good came to.
    answer: Option<String>,
}

/// Whether a warming dyno is probed: one probe at a time.
#[derive(Clone, Copy, Debug)]
enum Ask {
    At(Instant),
    UnderWay,
}

/// What happens to a dyno.
#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    /// It is added so, and has to become ready.
    Warm(DynoHealth),
    /// It has become ready.
    Ready,
    /// It serves the canary.
    Try,
    /// It serves from the app's line.
    Serve,
    /// It is not wanted any more.
    Leave,
    /// Its last request has ended.
    Left,
    /// Its process died, or it did not become ready in time.
    Fail,
}

impl Member {
    pub(super) fn new(
        side: Side,
        release: &ReleaseId,
        spec: DynoSpec,
        stage: DynoStage,
        now: Instant,
    ) -> Self {
        let spec = DynoSpec { state: DynoHealth::Ready, release: Some(release.clone()), ..spec };
        let (ask, failure, answer) = (Ask::At(now), None, None);
        Self { side, spec, stage, since: now, failure, given_up: false, ask, good: 0, answer }
    }

    /// Makes the move of the table at the head of this file, and says what it asks of the caller.
    pub(super) fn step(&mut self, event: Event, now: Instant) -> Option<Effect> {
        use DynoStage::{Canary, Crashed, Draining, Failed, Gone, Ready, Serving, Staged, Warming};
        let spec = || self.spec.clone();
        let (stage, effect) = match (self.stage, event) {
            (Staged | Gone, Event::Warm(state)) => (Warming, Some(Effect::Add(DynoSpec { state, ..spec() }))),
            (Warming, Event::Ready) => (Ready, None),
            (Ready, Event::Try) => (Canary, Some(Effect::Canary(spec()))),
            (Ready | Canary, Event::Serve) => (Serving, Some(Effect::Serve(spec()))),
            (Draining, Event::Serve) => (Serving, Some(Effect::Resume(spec()))),
            (Staged, Event::Leave) => (Gone, None),
            (Warming | Ready | Crashed, Event::Leave) => (Gone, Some(Effect::Remove(spec()))),
            (Canary | Serving, Event::Leave) => (Draining, Some(Effect::Drain(spec()))),
            (Draining, Event::Left | Event::Fail) => (Gone, None),
            (Serving, Event::Fail) if self.side == Side::Old => (Crashed, None),
            (Warming | Ready | Canary | Serving, Event::Fail) => (Failed, Some(Effect::Remove(spec()))),
            (stays, _) => (stays, None),
        };
        if stage != self.stage {
            self.stage = stage;
            self.since = now;
            self.given_up = false;
            self.ask = Ask::At(now);
            self.good = 0;
        }
        effect
    }

    /// The probe that is due, if one is.
    pub(super) fn ask(&mut self, now: Instant) -> Option<Effect> {
        if self.next_probe()? > now {
            return None;
        }
        self.ask = Ask::UnderWay;
        Some(Effect::Probe(self.spec.clone()))
    }

    /// When the next probe is due.
    pub(super) fn next_probe(&self) -> Option<Instant> {
        match (self.stage, self.ask) {
            (DynoStage::Warming, Ask::At(at)) => Some(at),
            _ => None,
        }
    }

    /// The answer to a probe. Whether it makes the dyno ready.
    pub(super) fn probed(&mut self, now: Instant, answer: Result<(), &str>, plan: &Plan) -> bool {
        let (DynoStage::Warming, Ask::UnderWay) = (self.stage, self.ask) else { return false };
        self.ask = Ask::At(now + plan.probe_every);
        match answer {
            Ok(()) => self.good += 1,
            Err(text) => {
                self.good = 0;
                self.answer = Some(short(text));
            }
        }
        self.good >= plan.rise
    }

    /// The time for its stage is over at this instant.
    pub(super) fn deadline(&self, plan: &Plan) -> Option<Instant> {
        if self.stage == DynoStage::Warming {
            Some(self.since + plan.boot_timeout)
        } else if self.stage == DynoStage::Draining && !self.given_up {
            Some(self.since + plan.drain_timeout)
        } else {
            None
        }
    }

    /// It was not ready in time.
    pub(super) fn overdue(&mut self, plan: &Plan) {
        let answer = match &self.answer {
            Some(answer) => format!("its last probe got {answer}"),
            None => "no probe was answered".to_owned(),
        };
        let text = format!("{} was not ready within {:?}: {answer}", self.name(), plan.boot_timeout);
        self.blame(CauseKind::NotReady, text);
    }

    /// Its process died.
    pub(super) fn crashed(&mut self, how: &str) {
        let text = format!("{} crashed: {}", self.name(), short(how));
        self.blame(CauseKind::Crashed, text);
    }

    fn blame(&mut self, kind: CauseKind, text: String) {
        self.failure = Some(Cause { kind, dyno: Some(self.spec.name.clone()), text });
    }

    /// `web.1 (127.0.0.1:3001)`, or the address alone if that is the name.
    fn name(&self) -> String {
        let (name, address) = (self.spec.name.as_str(), self.spec.address.to_string());
        if name == address { address } else { format!("{name} ({address})") }
    }

    pub(super) fn progress(&self) -> DynoProgress {
        let failure = self.failure.as_ref().map(|cause| cause.text.clone());
        let trouble = failure.or_else(|| self.answer.clone());
        DynoProgress { side: self.side, dyno: self.spec.clone(), stage: self.stage, trouble }
    }
}

/// What a stranger answered, cut to a bound.
fn short(text: &str) -> String {
    match text.char_indices().nth(ANSWER_MOST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}
