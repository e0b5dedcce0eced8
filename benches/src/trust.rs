//! Whether a run's figures are the proxy's, or the generator's own: what it could not keep up with, in words.

use std::io;

use procfs::process::Process;
use serde::{Deserialize, Serialize};

use crate::engine::{MOST_THREADS, Run, ThreadUsage};
use crate::load::Outcome;
use crate::number::count;

/// Lateness of the generator or its dynos above which figures are not to be trusted, in milliseconds, at p99.
pub const LATE_MS: f64 = 0.2;
/// The share of time above which a thread of the generator is too busy to be trusted.
pub const BUSY: f64 = 0.9;
/// The share of time above which its waiting for a processor is too much.
const QUEUED: f64 = 0.05;
/// The share of the intended requests that has to be sent.
const SENT: f64 = 0.99;
/// So many processors have to be idle that another thread of the generator would find one.
const IDLE: f64 = 0.5;

/// What the generator knows of itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Trust {
    /// Whether nothing speaks against the figures.
    pub trust: bool,
    /// What speaks against them, in words.
    pub doubts: Vec<String>,
    /// What would help, in words, if a thread of the generator was the limit and something would.
    #[serde(default)]
    pub advice: Option<String>,
    /// What each thread of the generator used of the machine.
    #[serde(default)]
    pub threads: Vec<ThreadUsage>,
    /// How many processors had nothing to do in the run proper, on average, if the kernel tells.
    #[serde(default)]
    pub idle_cores: Option<f64>,
    /// The share of the run proper in which the generator's thread waited for a processor, if the kernel tells; of
    /// several the one that waited most.
    pub run_queue_share: Option<f64>,
    /// Requests that the plan had for the run proper, a second; `None` in a closed loop.
    pub intended_per_second: Option<f64>,
    /// Requests that were sent in it, a second.
    pub sent_per_second: f64,
    /// Requests that waited in the generator because all its connections were taken.
    pub waited_for_connection: u64,
    /// Requests that found no free port, no file descriptor or no memory for a connection.
    pub exhausted: u64,
    /// Whether the run was ended because the generator fell too far behind.
    pub overrun: bool,
}

impl Trust {
    /// What is to be thought of a run.
    pub fn of(run: &Run) -> Self {
        let (from, to) = run.window;
        let seconds = to.saturating_sub(from).max(1) as f64 / 1e9;
        let sent = run.records.iter().filter(|record| (from..to).contains(&record.arrived)).count();
        let mut trust = Self {
            trust: true,
            doubts: Vec::new(),
            advice: None,
            threads: run.threads.clone(),
            idle_cores: run.idle_cores,
            run_queue_share: run.threads.iter().filter_map(|thread| thread.run_queue).reduce(f64::max),
            intended_per_second: run.rate,
            sent_per_second: sent as f64 / seconds,
            waited_for_connection: run.outcome.waited,
            exhausted: run.outcome.exhausted,
            overrun: run.overrun,
        };
        trust.doubts = trust.judge(run, seconds);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        trust.advice = trust.advise(run.divisible, cores);
        trust.trust = trust.doubts.is_empty();
        trust
    }

    fn judge(&self, run: &Run, seconds: f64) -> Vec<String> {
        let mut doubts = Vec::new();
        if let Some((who, late)) = self.worst(|thread| thread.late_p99_ms, LATE_MS) {
            doubts.push(format!("{who} sent requests {late:.3} ms late at p99 (more than {LATE_MS} ms)"));
        }
        let late = run.seen.late.value_at_quantile(0.99) as f64 / 1e6;
        if !run.seen.late.is_empty() && late > LATE_MS {
            doubts.push(format!("service times ended {late:.3} ms late at p99 (more than {LATE_MS} ms)"));
        }
        if let Some((who, busy)) = self.worst(|thread| thread.busy, BUSY) {
            doubts.push(format!("{who} was {:.0} % busy", busy * 100.0));
        }
        if let Some((who, share)) = self.worst(|thread| thread.run_queue.unwrap_or(0.0), QUEUED) {
            doubts.push(format!("{who} waited for a processor {:.1} % of the time", share * 100.0));
        }
        if self.overrun {
            doubts.push(format!(
                "the generator fell a second behind its plan and ended the run after {seconds:.1} s"
            ));
        }
        if let Some(intended) = self.intended_per_second {
            // In a short run chance alone makes a difference: three times the deviation of a Poisson count.
            let chance = 3.0 / (intended * seconds).max(1.0).sqrt();
            let sent = self.sent_per_second;
            if sent < intended * (SENT - chance) && !run.interrupted && !run.curtailed {
                doubts.push(format!("{sent:.0} requests a second were sent where {intended:.0} were to be"));
            }
        }
        if self.waited_for_connection > 0 {
            let waited = count(self.waited_for_connection, "request");
            doubts.push(format!("{waited} waited for a connection to the proxy: raise --connections"));
        }
        if self.exhausted > 0 {
            let lacked = count(self.exhausted, "request");
            doubts.push(format!("{lacked} found no free port or file descriptor for a connection"));
        }
        doubts
    }
}

impl Trust {
    /// The thread with the highest of some figure, and that, if it is above a bound.
    fn worst(&self, figure: impl Fn(&ThreadUsage) -> f64, bound: f64) -> Option<(String, f64)> {
        let figures = self.threads.iter().map(figure).zip(1..);
        let (worst, number) = figures.max_by(|(a, _), (b, _)| a.total_cmp(b))?;
        let who = match self.threads.len() {
            1 => "the generator's thread".to_owned(),
            threads => format!("thread {number} of the generator's {threads}"),
        };
        (worst > bound).then_some((who, worst))
    }

    /// What would help if a thread was the limit: the machine has so many `cores`.
    fn advise(&self, divisible: bool, cores: usize) -> Option<String> {
        let limit = self.threads.iter().max_by(|a, b| a.busy.total_cmp(&b.busy))?;
        let idle = self.idle_cores.filter(|idle| *idle >= IDLE)?;
        let threads = self.threads.len();
        if limit.busy <= BUSY || !divisible || threads >= cores.min(MOST_THREADS as usize) {
            return None;
        }
        let more = format!("--generator-threads {}", threads + 1);
        // With more of them, the one that has the dynos too is the limit still.
        let how = if limit.dynos { format!("--dynos-in thread, or {more}") } else { more };
        Some(format!("a thread of the generator was the limit while {idle:.1} cores were idle: {how}"))
    }
}

/// How long the calling thread has waited for a processor so far, in nanoseconds, if the kernel tells.
pub fn run_queue_wait() -> Option<u64> {
    let tid = rustix::thread::gettid().as_raw_nonzero().get();
    let task = Process::myself().and_then(|process| process.task_from_tid(tid)).ok()?;
    Some(task.schedstat().ok()?.run_delay)
}

/// Whether an error of a new connection is for lack of ports, files or memory, and not the proxy's doing.
pub fn is_exhaustion(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let lack = [Errno::ADDRNOTAVAIL, Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    lack.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Says what is wrong with a plan for so many connections and dynos, where it is certain that it cannot be done.
///
/// # Errors
/// Says which limit of this machine is in the way, and how to move it.
pub fn possible(connections: u64, dynos: u64) -> Result<(), String> {
    // A dyno has its listener and a connection; a proxy of this tool's own has files of its own.
    let files = connections + 2 * dynos + 50;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    if let Some(limit) = limit.filter(|limit| *limit < files) {
        return Err(format!(
            "{connections} connections and {} need {files} open files, and the limit is {limit}: \
             `ulimit -n` raises it, --connections asks for less",
            count(dynos, "dyno")
        ));
    }
    let Some(ports) = local_ports().filter(|ports| *ports < connections) else { return Ok(()) };
    Err(format!(
        "{connections} connections to one address need as many local ports, and there are {ports} \
         (/proc/sys/net/ipv4/ip_local_port_range)"
    ))
}

/// How many local ports the kernel gives to connections.
fn local_ports() -> Option<u64> {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    let mut bounds = range.split_ascii_whitespace().map(str::parse::<u64>);
    let (low, high) = (bounds.next()?.ok()?, bounds.next()?.ok()?);
    Some(high.saturating_sub(low) + 1)
}

impl Outcome {
    /// Counts a connection that could not be made.
    pub(crate) fn no_connection(&mut self, error: &io::Error) -> String {
        if is_exhaustion(error) {
            self.exhausted += 1;
            return format!("connect: this machine: {error}");
        }
        format!("connect: {}", error.kind())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_done_is_said_with_its_limit() {
        assert_eq!(possible(10, 10), Ok(()));
        let error = possible(u64::MAX / 4, 10).unwrap_err();
        assert!(error.contains("open files") || error.contains("local ports"), "{error}");
        assert!(local_ports().is_some_and(|ports| (100..65_536).contains(&ports)));
    }

    #[test]
    fn the_lack_of_ports_is_the_machines_and_a_refusal_is_the_proxys() {
        let error = |errno: rustix::io::Errno| io::Error::from_raw_os_error(errno.raw_os_error());
        let mut outcome = Outcome::default();
        assert!(outcome.no_connection(&error(rustix::io::Errno::MFILE)).contains("this machine"));
        assert!(!outcome.no_connection(&error(rustix::io::Errno::CONNREFUSED)).contains("this machine"));
        assert_eq!(outcome.exhausted, 1);
    }

    #[test]
    fn the_worst_thread_is_named_and_another_is_advised_if_a_core_is_left() {
        let thread = |busy, late_p99_ms| ThreadUsage { busy, late_p99_ms, ..ThreadUsage::default() };
        let mut trust = Trust {
            threads: vec![thread(0.2, 0.1), thread(0.95, 0.3), thread(0.5, 0.9)],
            idle_cores: Some(1.2),
            ..Trust::default()
        };
        let busiest = trust.worst(|thread| thread.busy, BUSY);
        assert_eq!(busiest, Some(("thread 2 of the generator's 3".to_owned(), 0.95)));
        let latest = trust.worst(|thread| thread.late_p99_ms, LATE_MS);
        assert_eq!(latest, Some(("thread 3 of the generator's 3".to_owned(), 0.9)));
        assert_eq!(trust.worst(|thread| thread.busy, 0.96), None);
        let advice = trust.advise(true, 4).unwrap();
        assert!(advice.ends_with("1.2 cores were idle: --generator-threads 4"), "{advice}");
        assert_eq!((trust.advise(true, 3), trust.advise(false, 4)), (None, None));
        trust.threads[1].dynos = true;
        assert!(trust.advise(true, 4).unwrap().contains("--dynos-in thread, or"));
        trust.idle_cores = Some(0.3);
        assert_eq!(trust.advise(true, 4), None);
        (trust.idle_cores, trust.threads[1].busy) = (Some(2.0), 0.89);
        assert_eq!(trust.advise(true, 4), None);
    }

    #[test]
    fn the_kernel_tells_how_long_a_thread_waited() {
        // Not everywhere: but where it does, the figure only grows.
        let before = run_queue_wait();
        assert!(before.is_none() || run_queue_wait() >= before);
    }
}
