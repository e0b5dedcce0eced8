//! DNS answers: whatever comes back for two sources, a failure takes no dyno away and the invariants hold.

use std::time::Duration;

use router_core::clock::Clock;
use router_core::policy::records::{
    Answer, Bounds, Failure, Found, HostAnswer, Records, Source, SourceId, Target,
};

/// The input is a tape of bytes; a tape that has run out reads zeros.
struct Tape<'a>(&'a [u8]);

impl Tape<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn number(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    fn failure(&mut self) -> Failure {
        const ALL: [Failure; 8] = [
            Failure::Empty,
            Failure::NoSuchName,
            Failure::ServerFailed,
            Failure::Refused,
            Failure::BadAnswer,
            Failure::Truncated,
            Failure::Timeout,
            Failure::Unreachable,
        ];
        ALL[usize::from(self.byte()) % ALL.len()]
    }

    fn found<T>(&mut self, mut record: impl FnMut(&mut Self) -> T) -> Result<Found<T>, Failure> {
        if self.byte().is_multiple_of(4) {
            return Err(self.failure());
        }
        let records = (0..self.byte() % 8).map(|_| record(self)).collect();
        Ok(Found { records, ttl: Duration::from_secs(u64::from(self.number())) })
    }

    fn host(&mut self) -> HostAnswer {
        // Few addresses, so that sets overlap; 0.0.0.0 and multicast among them.
        let v4 = self.found(|tape| [[10, 0, 0, tape.byte() % 12], [0; 4], [224, 0, 0, 1]][pick(tape)].into());
        let v6 = self.found(|tape| {
            [[0xfd00, 0, 0, 0, 0, 0, 0, tape.number() % 12], [0; 8], [0, 0, 0, 0, 0, 0xffff, 1, 1]]
                [pick(tape)]
            .into()
        });
        HostAnswer { v4, v6 }
    }

    fn answer(&mut self, source: &Source) -> Answer {
        if self.byte().is_multiple_of(5) {
            return Answer::Failed(self.failure());
        }
        if matches!(source, Source::Dns { .. }) {
            return Answer::Host(self.host());
        }
        const HOSTS: [&str; 3] = ["a.test", "b.test", "c.test"];
        let records = self.found(|tape| Target {
            priority: u16::from(tape.byte() % 3),
            weight: u16::from(tape.byte() % 2),
            host: HOSTS[usize::from(tape.byte()) % 3].into(),
            port: tape.number() % 4,
        });
        Answer::Service(records, HOSTS.iter().map(|host| ((*host).into(), self.host())).collect())
    }
}

fn pick(tape: &mut Tape<'_>) -> usize {
    match tape.byte() {
        0..=1 => 1,
        2..=3 => 2,
        4.. => 0,
    }
}

/// Plays the tape: time passes, what is due is asked for, and answers come.
///
/// # Panics
/// When an invariant of `policy/records.rs` does not hold, or a failure changes the dynos.
pub fn run(data: &[u8]) {
    let clock = Clock::manual();
    let mut tape = Tape(data);
    let mut records = Records::new("fuzz".into(), Bounds::default());
    let sources = [
        Source::Dns { host: "web.test".into(), port: 80 },
        Source::Srv { name: "_http._tcp.web.test".into() },
    ];
    records.set_sources(clock.now(), &sources, 1);
    let mut refused = false;
    for _ in 0..64 {
        if tape.0.is_empty() {
            break;
        }
        clock.advance(Duration::from_secs(u64::from(tape.byte())));
        for (id, source) in records.take_due(clock.now()) {
            refused |= hear(&mut records, &clock, &mut tape, id, &source, refused);
        }
        if tape.byte().is_multiple_of(16) {
            records.ask_soon(clock.now());
        }
        records.check_invariants();
    }
}

/// One answer. `refused`: some change has been refused, so what is offered again may come with any answer.
fn hear(
    records: &mut Records,
    clock: &Clock,
    tape: &mut Tape<'_>,
    id: SourceId,
    source: &Source,
    refused: bool,
) -> bool {
    let answer = tape.answer(source);
    let failed = matches!(answer, Answer::Failed(_));
    let jitter = f64::from(tape.byte()) / 256.0;
    records.hear(clock.now(), id, answer, jitter);
    let changes = records.changes(clock.now());
    assert!(!failed || refused || changes.is_empty(), "a failure changes nothing, but: {changes:?}");
    if !tape.byte().is_multiple_of(8) || changes.is_empty() {
        return false;
    }
    records.refused(clock.now(), changes);
    true
}
