//! Asks a dyno how it is: one that does not serve yet over a connection of its own, one that serves over its lease.

use std::time::Duration;

use http::Request;
use http::header::{HOST, USER_AGENT};
use router_core::Lease;
use router_core::encryption::Secured;
use router_core::ids::Address;
use router_core::limits::Protocol;
use router_core::proxy::probe::{Answered, Unanswered, ask, ask_fresh, touch, touch_fresh};
use tokio::time::timeout;

pub use crate::config::health::{Probe, ProbeKind, Statuses};
use crate::config::units::Period;

/// How much of a body is quoted, in characters.
const QUOTED: usize = 100;

/// Probes a dyno that does not serve yet and speaks that, over a connection that is closed afterwards.
///
/// # Errors
/// What is wrong, in a few words: `connection refused`, `status 503: migrating`, `no answer within 5s`.
///
/// # Cancel safety
/// Dropping the future closes the connection.
pub async fn probe(
    probe: &Probe,
    speech: (Protocol, Option<&Secured>),
    address: Address,
) -> Result<(), String> {
    let limit = probe.timeout;
    match &probe.kind {
        ProbeKind::None => Ok(()),
        ProbeKind::Tcp => connected(touch_fresh(address, speech.1, limit).await, limit),
        ProbeKind::Http { path, host, expect } => {
            let request = request(path, host.as_deref(), address)?;
            let answer = timeout(limit, ask_fresh(address, speech, &request, limit, probe.header)).await;
            judge(answer.map_err(|_| no_answer(limit))?, *expect, limit)
        }
    }
}

/// Probes a dyno that serves, as one of its requests. With `probe = "tcp"` a warm connection that is still open is a
/// good answer, and nothing is sent.
///
/// # Errors
/// As [`probe`].
///
/// # Cancel safety
/// Dropping the future ends the probe. So does its time-out: a dyno that was asked and has not answered counts as busy
/// until it has, as with any request.
pub async fn probe_serving(probe: &Probe, lease: Lease) -> Result<(), String> {
    let limit = probe.timeout;
    match &probe.kind {
        ProbeKind::None => Ok(()),
        ProbeKind::Tcp => {
            let touched = timeout(limit, touch(lease)).await;
            connected(touched.map_err(|_| no_connection(limit))?, limit)
        }
        ProbeKind::Http { path, host, expect } => {
            let request = request(path, host.as_deref(), lease.dyno().address)?;
            let answer = timeout(limit, ask(lease, &request)).await;
            judge(answer.map_err(|_| no_answer(limit))?, *expect, limit)
        }
    }
}

fn request(path: &str, host: Option<&str>, address: Address) -> Result<Request<()>, String> {
    let host = host.map_or_else(|| address.to_string(), str::to_owned);
    let agent = concat!("routerd/", env!("CARGO_PKG_VERSION"), " (probe)");
    let request = Request::get(path).header(HOST, host).header(USER_AGENT, agent).body(());
    // A checked configuration has a path and a host that can be sent.
    request.map_err(|error| error.to_string())
}

fn connected(result: Result<(), Unanswered>, limit: Duration) -> Result<(), String> {
    result.map_err(|error| unanswered(&error, limit))
}

fn judge(answer: Result<Answered, Unanswered>, expect: Statuses, limit: Duration) -> Result<(), String> {
    let Answered { status, beginning } = answer.map_err(|error| unanswered(&error, limit))?;
    if expect.has(status.as_u16()) {
        return Ok(());
    }
    match one_line(&beginning) {
        body if body.is_empty() => Err(format!("status {}", status.as_u16())),
        body => Err(format!("status {}: {body}", status.as_u16())),
    }
}

fn unanswered(error: &Unanswered, limit: Duration) -> String {
    match error {
        Unanswered::Connect(error) if error.kind() == std::io::ErrorKind::TimedOut => no_connection(limit),
        Unanswered::Connect(_) | Unanswered::Broken(_) => error.to_string(),
    }
}

fn no_connection(limit: Duration) -> String {
    format!("no connection within {}", Period(limit))
}

fn no_answer(limit: Duration) -> String {
    format!("no answer within {}", Period(limit))
}

/// The beginning of a body on one line, with nothing in it that could steer a terminal.
fn one_line(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let printable = text.chars().map(|c| if c.is_control() || c == '\u{FFFD}' { ' ' } else { c });
    let line = printable.collect::<String>().split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().take(QUOTED).collect()
}

#[cfg(test)]
mod tests;
