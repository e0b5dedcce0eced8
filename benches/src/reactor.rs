//! One thread's sockets and timers: epoll with nanosecond time-outs, and a heap of what is due when.
//!
//! tokio's timers and mio's time-outs are rounded to a millisecond, which is a tenth of the service times measured
//! here.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{Timespec, epoll};

/// So many events are taken at once.
const BATCH: usize = 256;

/// Whose socket it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The listener of a dyno.
    Listener(u32),
    /// A connection to a dyno.
    Dyno(u32),
    /// A connection of the generator.
    Client(u32),
}

impl Source {
    fn token(self) -> u64 {
        match self {
            Self::Listener(index) => u64::from(index),
            Self::Dyno(index) => 1 << 32 | u64::from(index),
            Self::Client(index) => 2 << 32 | u64::from(index),
        }
    }

    fn of(token: u64) -> Self {
        let index = (token & u64::from(u32::MAX)) as u32;
        match token >> 32 {
            0 => Self::Listener(index),
            1 => Self::Dyno(index),
            _ => Self::Client(index),
        }
    }
}

/// What is due at an instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// A dyno has done its work, or a part of it.
    Service(u32),
    /// A dyno has booted.
    Boot(u32),
    /// A dyno goes down by itself.
    Crash(u32),
    /// The next request of an open loop.
    Arrival,
    /// A client of a closed loop sends its next request.
    Client,
    /// The figures count from here.
    Measure,
    /// Nothing more is sent.
    Stop,
}

/// A socket that is ready.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    /// Whose it is.
    pub source: Source,
    /// There is something to read, or an error to learn of.
    pub readable: bool,
    /// There is room to write.
    pub writable: bool,
}

/// The sockets and timers of one thread.
pub struct Reactor {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
    timers: BinaryHeap<Reverse<(u64, Timer)>>,
    /// Nanoseconds before a timer that are spent awake.
    spin: u64,
}

impl Reactor {
    /// A reactor for the calling thread, whose timers are set to fire as exactly as the kernel can.
    pub fn new() -> io::Result<Self> {
        rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?;
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            events: Vec::with_capacity(BATCH),
            timers: BinaryHeap::new(),
            spin: 0,
        })
    }

    /// From now on the last stretch before a timer is spent awake: the kernel wakes a sleeper some 50 us late.
    pub fn spin(&mut self, stretch: Duration) {
        self.spin = nanos(stretch);
    }

    /// Nanoseconds on the machine's monotonic clock, which all threads and processes share.
    pub fn now(&self) -> u64 {
        clock(rustix::time::ClockId::Monotonic)
    }

    /// Begins to report when a socket can be read, and, if asked, written.
    pub fn watch(&self, socket: impl AsFd, source: Source) -> io::Result<()> {
        let token = epoll::EventData::new_u64(source.token());
        Ok(epoll::add(&self.epoll, socket, token, epoll::EventFlags::IN)?)
    }

    /// Also reports, or no longer reports, when a watched socket can be written.
    pub fn watch_writable(&self, socket: impl AsFd, source: Source, writable: bool) -> io::Result<()> {
        let token = epoll::EventData::new_u64(source.token());
        let out = if writable { epoll::EventFlags::OUT } else { epoll::EventFlags::empty() };
        Ok(epoll::modify(&self.epoll, socket, token, epoll::EventFlags::IN | out)?)
    }

    /// Changes what is watched of a socket: reading, writing. Of one that is watched for neither the reactor knows
    /// nothing, so that it does not report errors either.
    pub fn rewatch(
        &self,
        socket: impl AsFd,
        source: Source,
        from: (bool, bool),
        to: (bool, bool),
    ) -> io::Result<()> {
        if from == to {
            return Ok(());
        }
        let token = epoll::EventData::new_u64(source.token());
        let mut flags = epoll::EventFlags::empty();
        flags.set(epoll::EventFlags::IN, to.0);
        flags.set(epoll::EventFlags::OUT, to.1);
        match (from, to) {
            (_, (false, false)) => self.unwatch(socket),
            ((false, false), _) => Ok(epoll::add(&self.epoll, socket, token, flags)?),
            _ => Ok(epoll::modify(&self.epoll, socket, token, flags)?),
        }
    }

    /// Reports nothing more of a socket.
    pub fn unwatch(&self, socket: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.epoll, socket)?)
    }

    /// Sets a timer.
    pub fn at(&mut self, due: u64, timer: Timer) {
        self.timers.push(Reverse((due, timer)));
    }

    /// The next timer that is due by `now`, with the instant it was set for.
    pub fn due(&mut self, now: u64) -> Option<(u64, Timer)> {
        if self.timers.peek()?.0.0 > now {
            return None;
        }
        self.timers.pop().map(|Reverse(timer)| timer)
    }

    /// Waits until a socket is ready, a timer is due or `longest` is over.
    pub fn wait(&mut self, longest: Duration, ready: &mut Vec<Ready>) -> io::Result<()> {
        ready.clear();
        self.events.clear();
        let wait = match self.timers.peek() {
            Some(Reverse((due, _))) => due.saturating_sub(self.now() + self.spin).min(nanos(longest)),
            None => nanos(longest),
        };
        let timeout = Timespec {
            tv_sec: (wait / 1_000_000_000).cast_signed(),
            tv_nsec: (wait % 1_000_000_000).cast_signed(),
        };
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut self.events), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        ready.extend(self.events.iter().map(|event| {
            let (flags, data) = (event.flags, event.data);
            Ready {
                source: Source::of(data.u64()),
                readable: flags != epoll::EventFlags::OUT,
                writable: flags.contains(epoll::EventFlags::OUT),
            }
        }));
        Ok(())
    }
}

/// The processor time that the calling thread has used, in nanoseconds.
pub fn thread_cpu() -> u64 {
    clock(rustix::time::ClockId::ThreadCPUTime)
}

fn clock(clock: rustix::time::ClockId) -> u64 {
    let time = rustix::time::clock_gettime(clock);
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

/// A duration in nanoseconds, for as long as 584 years.
pub fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_come_in_order_and_never_early() {
        let mut reactor = Reactor::new().unwrap();
        let start = reactor.now();
        let due = [7_300_000, 1_200_000, 2_100_000];
        for (dyno, after) in due.iter().enumerate() {
            reactor.at(start + after, Timer::Service(dyno as u32));
        }
        let (mut fired, mut ready) = (Vec::new(), Vec::new());
        while fired.len() < 3 {
            reactor.wait(Duration::from_secs(1), &mut ready).unwrap();
            let now = reactor.now();
            assert!(now < start + 5_000_000_000, "a timer was lost");
            while let Some((due, timer)) = reactor.due(now) {
                assert!(now >= due);
                fired.push(timer);
            }
        }
        assert_eq!(fired, [Timer::Service(1), Timer::Service(2), Timer::Service(0)]);
    }

    #[test]
    fn a_source_survives_the_kernel() {
        for source in [Source::Listener(3), Source::Dyno(0), Source::Client(u32::MAX)] {
            assert_eq!(Source::of(source.token()), source);
        }
    }
}
