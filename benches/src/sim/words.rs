//! The policies and the ways to shed load, as they are written and read.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use humantime::format_duration;

use super::Setup;
use crate::number::count;

/// Who decides which dyno gets which request, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// `one-line`: all requests wait in one line, and a dyno that is free takes the next. All routers are one.
    OneLine,
    /// `one-owner`: the first router has the line and the dynos; the others forward to it.
    OneOwner,
    /// `pools:4`: so many routers have each a line and a part of the dynos. A request is forwarded at most once, to a
    /// pool that is hinted to have idle dynos.
    Pools(u32),
    /// `random`: each request goes to a dyno at random and waits there.
    Random,
    /// `round-robin`: each router goes round the dynos.
    RoundRobin,
    /// `power-of-two`: of two dynos at random, the one with fewer requests of this router.
    PowerOfTwo,
    /// `least-connections`: the dyno with the fewest requests of this router.
    LeastConnections,
    /// `jiq`: idle dynos report to a router at random, which uses them in turn; without one, a dyno at random.
    JoinIdle,
}

/// What becomes of requests that should not wait in a line. Times in brackets are the default; S is the mean service
/// time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shed {
    /// `none`: everybody waits and is served, even those who have given up.
    None,
    /// `gone`: who gives up leaves the line.
    Gone,
    /// `bound:5`: besides, nobody enters a line that has 5 requests for each dyno.
    Bound(u32),
    /// `expected-wait`: besides, nobody enters who would wait longer than this (2 S).
    ExpectedWait(Option<Duration>),
    /// `deadline`: besides, nobody gets a dyno who will give up within this time (3 S).
    Deadline(Option<Duration>),
    /// `codel`: besides, nobody gets a dyno who has waited longer than 0.5 S, once the line has not been empty for as
    /// long as clients have patience.
    CoDel,
    /// `adaptive-lifo`: besides, who came last is served first, once the line has not been empty for that long.
    AdaptiveLifo,
    /// `routerd`: `router-core` with the limits that `routerd` has by default, or with this `max_wait` (5 s).
    Routerd(Option<Duration>),
}

/// What is simulated: a policy, and for those with a line what is shed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// Who decides.
    pub policy: Policy,
    /// What becomes of requests that should not wait; of no meaning for policies without a line.
    pub shed: Shed,
}

impl Policy {
    /// All of them, pools as four.
    pub const ALL: [Self; 8] = [
        Self::Random,
        Self::RoundRobin,
        Self::PowerOfTwo,
        Self::LeastConnections,
        Self::JoinIdle,
        Self::Pools(4),
        Self::OneOwner,
        Self::OneLine,
    ];

    /// Whether requests wait in a line, so that no dyno has more than one.
    pub fn has_line(self) -> bool {
        match self {
            Self::OneLine | Self::OneOwner | Self::Pools(_) => true,
            Self::Random | Self::RoundRobin | Self::PowerOfTwo | Self::LeastConnections | Self::JoinIdle => {
                false
            }
        }
    }
}

impl Case {
    /// The policy, nothing shed.
    pub fn of(policy: Policy) -> Self {
        Self { policy, shed: Shed::None }
    }

    pub(super) fn check(&self, setup: &Setup) -> Result<(), String> {
        if let Policy::Pools(pools) = self.policy
            && (pools > setup.routers || pools > setup.dynos)
        {
            let (routers, dynos) = (count(setup.routers, "router"), count(setup.dynos, "dyno"));
            return Err(format!(
                "{} needs as many routers and dynos as pools, and what there is is {routers} and {dynos}",
                self.policy
            ));
        }
        let patient = setup.patience.is_none();
        match self.shed {
            Shed::Gone | Shed::Deadline(_) | Shed::CoDel | Shed::AdaptiveLifo if patient => {
                Err(format!("to shed by {} clients must have a patience", self.shed))
            }
            Shed::Gone | Shed::Deadline(_) | Shed::CoDel | Shed::AdaptiveLifo => Ok(()),
            Shed::None | Shed::Bound(_) | Shed::ExpectedWait(_) | Shed::Routerd(_) => Ok(()),
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OneLine => "one-line",
            Self::OneOwner => "one-owner",
            Self::Pools(pools) => return write!(f, "pools:{pools}"),
            Self::Random => "random",
            Self::RoundRobin => "round-robin",
            Self::PowerOfTwo => "power-of-two",
            Self::LeastConnections => "least-connections",
            Self::JoinIdle => "jiq",
        })
    }
}

impl FromStr for Policy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let pools = |text: &str| text.parse().ok().filter(|pools| (1..=64).contains(pools));
        match text.split_once(':') {
            None => Self::ALL.into_iter().find(|policy| policy.to_string() == text),
            Some(("pools", text)) => pools(text).map(Self::Pools),
            Some(_) => None,
        }
        .ok_or_else(|| {
            format!(
                "\"{text}\" is not a policy; allowed are random, round-robin, power-of-two, least-connections, \
                jiq, pools:2 (to 64), one-owner and one-line"
            )
        })
    }
}

impl fmt::Display for Shed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let timed = |f: &mut fmt::Formatter<'_>, name: &str, time: &Option<Duration>| match time {
            Some(time) => write!(f, "{name}:{}", format_duration(*time)),
            None => f.write_str(name),
        };
        match self {
            Self::None => f.write_str("none"),
            Self::Gone => f.write_str("gone"),
            Self::Bound(most) => write!(f, "bound:{most}"),
            Self::ExpectedWait(time) => timed(f, "expected-wait", time),
            Self::Deadline(time) => timed(f, "deadline", time),
            Self::CoDel => f.write_str("codel"),
            Self::AdaptiveLifo => f.write_str("adaptive-lifo"),
            Self::Routerd(time) => timed(f, "routerd", time),
        }
    }
}

impl FromStr for Shed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| {
            format!(
                "\"{text}\"{why}; allowed are none, gone, bound:N (N from 0 to 100000), expected-wait, deadline and \
                routerd (each also with :TIME up to 1h), codel and adaptive-lifo"
            )
        };
        let (name, rest) = text.split_once(':').map_or((text, None), |(name, rest)| (name, Some(rest)));
        let time = || match rest.map(humantime::parse_duration) {
            None => Ok(None),
            Some(Ok(time)) if time <= Duration::from_secs(3600) => Ok(Some(time)),
            Some(Ok(_)) => Err(wrong(": at most 1h")),
            Some(Err(error)) => Err(wrong(&format!(": {error}"))),
        };
        match (name, rest) {
            ("none", None) => Ok(Self::None),
            ("gone", None) => Ok(Self::Gone),
            ("bound", Some(most)) => match most.parse() {
                Ok(most) if most <= 100_000 => Ok(Self::Bound(most)),
                _ => Err(wrong("")),
            },
            ("expected-wait", _) => Ok(Self::ExpectedWait(time()?)),
            ("deadline", _) => Ok(Self::Deadline(time()?)),
            ("routerd", _) => Ok(Self::Routerd(time()?)),
            ("codel", None) => Ok(Self::CoDel),
            ("adaptive-lifo", None) => Ok(Self::AdaptiveLifo),
            _ => Err(wrong(" is no way to shed load")),
        }
    }
}
