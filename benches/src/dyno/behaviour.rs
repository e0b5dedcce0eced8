//! How an emulated dyno behaves besides working: plain values, parsed from the command line, the same for a fleet.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::number::count;
use crate::service::Service;

/// The longest a pause, a boot or the time between two of them may be.
const LONGEST: Duration = Duration::from_secs(3600);

/// How the dynos of a fleet behave. The default is an ideal dyno: always there, always as fast as asked for.
///
/// How long a request takes is asked for by the request itself, in nanoseconds in the header `X-Bench-Service`; one
/// that does not ask takes a draw of `service`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Behaviour {
    /// What a request takes that does not say; default: nothing, it is answered at once. Not known to dynos that live
    /// in other processes: there the generator asks.
    #[serde(skip, default = "instant")]
    pub service: Service,
    /// The first requests after a start take longer; default: they do not.
    pub warm_up: Option<WarmUp>,
    /// Pauses in which nothing is worked on, as of a garbage collector; default: none.
    pub pauses: Option<Pauses>,
    /// The share of requests that bring their dyno down, 0 to 1; default 0. See [`Crash`].
    pub crash: f64,
    /// A dyno goes down by itself every so often, on average, at random instants; default: never.
    pub crash_every: Option<Duration>,
    /// How long a dyno is starting, its port closed: at first, and after each crash; default 0.
    pub boot: Duration,
    /// Ends the connection with each answer; default: it stays open.
    pub close: bool,
    /// Which connections it reads; default: all at once.
    pub accept: Accept,
    /// The length of an answer's body in bytes; default 12.
    pub answer_bytes: usize,
    /// An answer comes in this many pieces, evenly over the service time, the last at its end; default 1, at most 1000.
    pub pieces: u32,
    /// Whether two requests at once are an overlap; default: they are.
    pub exclusive: bool,
    /// The seed of pauses, crashes and service times: each dyno draws its own from it; default 1.
    pub seed: u64,
    /// The last stretch before the end of a service time that is spent awake, for a more exact end at the price of a
    /// processor; default 0.
    pub spin: Duration,
}

fn instant() -> Service {
    Service::Instant
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            service: instant(),
            warm_up: None,
            pauses: None,
            crash: 0.0,
            crash_every: None,
            boot: Duration::ZERO,
            close: false,
            accept: Accept::All,
            answer_bytes: 12,
            pieces: 1,
            exclusive: true,
            seed: 1,
            spin: Duration::ZERO,
        }
    }
}

/// What differs from the default, but for the service times and the seed, which a scenario has beside it.
impl fmt::Display for Behaviour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = humantime::format_duration;
        let some = |name: &str, value: Option<Duration>| value.map(|value| format!("{name} {}", time(value)));
        let long = |name: &str, value: Duration| some(name, Some(value).filter(|value| !value.is_zero()));
        let warm_up = |WarmUp { requests, factor }: WarmUp| format!("warm-up {requests}x{factor}");
        let pauses =
            |Pauses { length, every }: Pauses| format!("pauses of {} every {}", time(length), time(every));
        let accept = match self.accept {
            Accept::All => None,
            Accept::One { backlog } => Some(format!("accept one, backlog {backlog}")),
        };
        let answer = format!("answers of {}", count(self.answer_bytes, "byte"));
        let words = [
            Some(answer),
            self.warm_up.map(warm_up),
            self.pauses.map(pauses),
            (self.crash > 0.0).then(|| format!("crash {}", self.crash)),
            some("crash every", self.crash_every),
            long("boot", self.boot),
            self.close.then(|| "close".to_owned()),
            accept,
            (self.pieces > 1).then(|| format!("in {} pieces", self.pieces)),
            long("spin", self.spin),
        ];
        f.write_str(&words.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }
}

/// A dyno's first requests take longer: the first `factor` times as long, then less and less.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct WarmUp {
    /// How many requests it takes to be warm: 1 to 1,000,000.
    pub requests: u32,
    /// How many times as long the first one takes: 1 to 1,000.
    pub factor: f64,
}

impl WarmUp {
    /// How many times as long the request takes that has `before` before it.
    pub fn factor(&self, before: u32) -> f64 {
        let left = f64::from(self.requests.saturating_sub(before)) / f64::from(self.requests.max(1));
        1.0 + (self.factor - 1.0) * left
    }
}

impl FromStr for WarmUp {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts =
            text.split_once('x').and_then(|(n, factor)| Some((n.parse().ok()?, factor.parse().ok()?)));
        match parts {
            Some((requests @ 1..=1_000_000, factor)) if (1.0..=1000.0).contains(&factor) => {
                Ok(Self { requests, factor })
            }
            _ => Err("requests and factor, as \"20x3\": the first of 20 requests takes 3 times as long, then less \
                      and less; 1 to 1000000 requests, factor 1 to 1000"
                .to_owned()),
        }
    }
}

/// Pauses of a dyno, at random instants, within requests and between them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pauses {
    /// How long each is.
    pub length: Duration,
    /// How long it is on average from the end of one to the beginning of the next.
    pub every: Duration,
}

impl FromStr for Pauses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let time = |text: &str| {
            let time = humantime::parse_duration(text.trim()).ok()?;
            (!time.is_zero() && time <= LONGEST).then_some(time)
        };
        let parts = text.split_once('/').and_then(|(length, every)| Some((time(length)?, time(every)?)));
        // Each pause is a draw; shorter gaps would be drawn for longer than they last.
        match parts.filter(|(_, every)| *every >= Duration::from_millis(1)) {
            Some((length, every)) => Ok(Self { length, every }),
            None => Err(
                "length and gap, as \"50ms/1s\": a pause of 50 ms about every second; at most 1h each, the \
                         gap at least 1ms"
                    .to_owned(),
            ),
        }
    }
}

/// How a request brings its dyno down. Either way all connections of the dyno end, its port is closed until it has
/// booted again, and requests that were in it are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// At some instant within the work: nothing of the answer is sent.
    Before,
    /// At the end of the work: half of the answer is sent.
    Within,
}

/// Which connections a dyno reads, and so which overlaps it sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Accept {
    /// Accepts every connection and reads every head at once, though it works on one after the other: the dyno that
    /// sees every overlap at the instant it happens.
    All,
    /// Accepts and reads only while idle, as a single-threaded process does: what comes meanwhile waits in the kernel,
    /// in a queue of at most `backlog` connections (beyond it the kernel drops them, and the client's kernel tries
    /// again after a second).
    ///
    /// Such a dyno notices at once that bytes have come on an open connection while it works, and at its next idle
    /// moment reads whose they are: that is an overlap as above. A connection that was opened while it worked counts as
    /// a second one, and as an overlap if a request was on it when it was accepted. What cannot be seen: which of the
    /// requests in the kernel's queue came first; and those whose connection its client has closed by then.
    One {
        /// How many connections the kernel holds for it: 1 to 65,535.
        backlog: u16,
    },
}

impl Accept {
    /// How many connections the kernel holds that are not yet accepted.
    pub fn backlog(self) -> u16 {
        match self {
            Self::All => 1024,
            Self::One { backlog } => backlog,
        }
    }
}

impl FromStr for Accept {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':').map_or((text, None), |(name, backlog)| (name, Some(backlog.parse()))) {
            ("all", None) => Ok(Self::All),
            ("one", None) => Ok(Self::One { backlog: 1024 }),
            ("one", Some(Ok(backlog @ 1..))) => Ok(Self::One { backlog }),
            _ => {
                Err("allowed are \"all\", \"one\" and \"one:BACKLOG\" with a backlog of 1 to 65535"
                    .to_owned())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warm_up_falls_to_one() {
        let warm_up: WarmUp = "4x3".parse().unwrap();
        let factors: Vec<_> = (0..6).map(|n| warm_up.factor(n)).collect();
        assert_eq!(factors, [3.0, 2.5, 2.0, 1.5, 1.0, 1.0]);
    }

    #[test]
    fn its_words_name_what_differs() {
        assert_eq!(Behaviour::default().to_string(), "answers of 12 bytes");
        let second = Duration::from_secs(1);
        let all = Behaviour {
            warm_up: "4x3".parse().ok(),
            pauses: "50ms/1s".parse().ok(),
            crash: 0.001,
            crash_every: Some(second * 10),
            boot: second * 2,
            close: true,
            accept: Accept::One { backlog: 5 },
            pieces: 7,
            spin: Duration::from_micros(100),
            ..Behaviour::default()
        };
        let words = "answers of 12 bytes, warm-up 4x3, pauses of 50ms every 1s, crash 0.001, crash every 10s, boot 2s, \
                     close, accept one, backlog 5, in 7 pieces, spin 100us";
        assert_eq!(all.to_string(), words);
    }

    #[test]
    fn what_is_wrong_says_what_is_allowed() {
        for wrong in ["", "x", "0x3", "3x0.5", "3xNaN", "2000000x2", "-1x2", "20"] {
            assert!(wrong.parse::<WarmUp>().unwrap_err().contains("20x3"), "{wrong}");
        }
        for wrong in ["", "50ms", "0s/1s", "50ms/0s", "50ms/2h", "1s/1us", "a/b"] {
            assert!(wrong.parse::<Pauses>().unwrap_err().contains("50ms/1s"), "{wrong}");
        }
        for wrong in ["", "two", "one:0", "one:65536", "all:5", "one:"] {
            assert!(wrong.parse::<Accept>().unwrap_err().contains("one:BACKLOG"), "{wrong}");
        }
        assert_eq!("one:5".parse(), Ok(Accept::One { backlog: 5 }));
        let pauses = Pauses { length: Duration::from_millis(50), every: Duration::from_secs(1) };
        assert_eq!("50ms/1s".parse(), Ok(pauses));
    }
}
