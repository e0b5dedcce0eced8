//! How the dynos of an app are probed: what holds a [`Health`] holds one that can be carried out.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use router_core::limits::ProxyHeader;

pub use super::file::ProbeWord;

/// How dynos are probed. The keys are described in [`super::file::Health`]; `rise`, `fall`, `eject_after` and
/// `eject_max` are limits of the app.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each field is the key of the same name, described there")]
#[non_exhaustive]
pub struct Health {
    pub probe: ProbeWord,
    pub path: String,
    /// What the Host header says; `None`: the dyno's address.
    pub host: Option<String>,
    pub status: Statuses,
    pub interval: Duration,
    pub timeout: Duration,
    /// What a connection of a probe begins with: the app's `proxy_protocol`.
    pub header: ProxyHeader,
}

/// One probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// What is done.
    pub kind: ProbeKind,
    /// The longest it may take, the connection included.
    pub timeout: Duration,
    /// What its connection begins with.
    pub header: ProxyHeader,
}

/// What a probe does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeKind {
    /// Nothing: every dyno is well.
    None,
    /// Opens a connection.
    Tcp,
    /// Sends a GET.
    Http {
        /// The path, with a query if there is one.
        path: String,
        /// The Host header; `None`: the dyno's address.
        host: Option<String>,
        /// The statuses of a good answer.
        expect: Statuses,
    },
}

/// The statuses from one to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statuses {
    from: u16,
    to: u16,
}

impl Health {
    /// One probe as it is to be done.
    pub fn probe(&self) -> Probe {
        let kind = match self.probe {
            ProbeWord::None => ProbeKind::None,
            ProbeWord::Tcp => ProbeKind::Tcp,
            ProbeWord::Http => {
                ProbeKind::Http { path: self.path.clone(), host: self.host.clone(), expect: self.status }
            }
        };
        Probe { kind, timeout: self.timeout, header: self.header }
    }
}

impl Default for Health {
    fn default() -> Self {
        Self {
            probe: ProbeWord::default(),
            path: "/".to_owned(),
            host: None,
            status: Statuses::default(),
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(5),
            header: ProxyHeader::Off,
        }
    }
}

impl Statuses {
    /// Whether the status is one of them.
    pub fn has(self, status: u16) -> bool {
        (self.from..=self.to).contains(&status)
    }
}

impl Default for Statuses {
    fn default() -> Self {
        Self { from: 200, to: 399 }
    }
}

impl FromStr for Statuses {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let one = |text: &str| text.parse::<u16>().ok().filter(|status| (100..600).contains(status));
        let (from, to) = text.split_once('-').unwrap_or((text, text));
        match (one(from), one(to)) {
            (Some(from), Some(to)) if from <= to => Ok(Self { from, to }),
            (Some(_), Some(_)) => Err("the first status is above the second"),
            _ => Err("a status is a number from 100 to 599"),
        }
    }
}

impl fmt::Display for Statuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.from == self.to {
            true => self.from.fmt(f),
            false => write!(f, "{}-{}", self.from, self.to),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_read_as_they_are_written() {
        for text in ["200-399", "204", "100-599"] {
            assert_eq!(text.parse::<Statuses>().map(|statuses| statuses.to_string()).as_deref(), Ok(text));
        }
        for text in ["", "-", "200-", "2xx", "99", "600", "300-200", "200-300-400", "200 - 300"] {
            assert!(text.parse::<Statuses>().is_err(), "{text}");
        }
        let some: Statuses = "200-204".parse().unwrap();
        assert_eq!([199, 200, 204, 205].map(|status| some.has(status)), [false, true, true, false]);
    }
}
