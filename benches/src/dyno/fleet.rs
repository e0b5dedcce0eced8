//! A fleet: dynos wherever they live, from their start to what they have seen.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::behaviour::{Accept, Behaviour};
use super::command::{Commands, Servers};
use super::door::Door;
use super::dynos::Dynos;
use super::process::Process;
use super::seen::{Seen, Tell};
use super::tap::Taps;
use crate::reactor::{Reactor, Ready, Timer};
use crate::records::Tape;

/// How soon a thread of dynos notices that it shall end.
const LONGEST_SLEEP: Duration = Duration::from_millis(10);

/// Where dynos live.
#[derive(Clone, Debug, Default)]
pub enum Place {
    /// In the thread of the generator, of several the first: best where there are one or two cores, as nothing is
    /// handed over.
    #[default]
    Here,
    /// In a thread of their own.
    Thread,
    /// In so many processes, as even as it goes; more than there are dynos are not started.
    Processes {
        /// The `dyno-bench` to start them with.
        program: PathBuf,
        /// How many.
        count: u16,
    },
    /// Real servers behind taps, which are in a thread of their own. The fleet's addresses and ports are those of the
    /// taps; of the behaviour only `exclusive` matters.
    Commands(Commands),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Here => f.write_str("in the generator's thread"),
            Self::Thread => f.write_str("in a thread"),
            Self::Processes { count, .. } => write!(f, "in {}", crate::number::count(count, "process")),
            Self::Commands(commands) => write!(f, "`{}` behind taps", commands.command),
        }
    }
}

/// Dynos that are there, at their addresses. Without [`Fleet::stop`] they end when this is dropped.
///
/// # Example
/// A fleet for a test of one's own: whatever stands in front of it, the fleet says afterwards whether each dyno had one
/// request at a time.
/// ```
/// use std::io::{Read, Write};
/// use std::net::TcpStream;
///
/// use router_bench::dyno::{Behaviour, Fleet};
///
/// let fleet = Fleet::start(3, Behaviour::default())?;
/// for dyno in fleet.addresses() {
///     let mut client = TcpStream::connect(dyno)?;
///     // Two milliseconds of work are asked for.
///     client.write_all(b"GET / HTTP/1.0\r\nX-Bench-Service: 2000000\r\n\r\n")?;
///     let mut answer = String::new();
///     client.read_to_string(&mut answer)?;
///     assert!(answer.starts_with("HTTP/1.1 200 OK"));
/// }
/// let seen = fleet.stop()?;
/// assert_eq!((seen.requests, seen.overlaps), (3, 0));
/// # Ok::<_, std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Fleet {
    addresses: Vec<SocketAddr>,
    home: Home,
}

#[derive(Debug)]
enum Home {
    Here(Vec<Door>, Box<Behaviour>),
    Thread(Worker),
    Processes(Vec<Process>),
    Servers(Worker, Servers),
}

impl Fleet {
    /// Dynos on free ports, in a thread of their own.
    ///
    /// # Errors
    /// When a socket or the thread cannot be made.
    pub fn start(count: u16, behaviour: Behaviour) -> io::Result<Self> {
        Self::at(&Place::Thread, (count, 0), behaviour)
    }

    /// So many dynos in this place, with ports from the second number up, or free ones if that is 0. Those with a
    /// time to boot begin to boot now, or when the generator begins if they live in its thread.
    ///
    /// # Errors
    /// When a port is in use, a thread or process cannot be started, or a server does not come up.
    pub fn at(place: &Place, ports: (u16, u16), behaviour: Behaviour) -> io::Result<Self> {
        match place {
            Place::Here => {
                let doors = doors(ports, 0, &behaviour)?;
                let addresses = addresses(&doors);
                Ok(Self { addresses, home: Home::Here(doors, Box::new(behaviour)) })
            }
            Place::Thread => {
                Self::threaded(doors(ports, 0, &behaviour)?, 0, behaviour, None, Tape::default())
            }
            Place::Processes { program, count } => Self::processes(program, *count, ports, &behaviour),
            Place::Commands(commands) => {
                Self::tapped(commands, ports, behaviour.exclusive, None, Tape::default())
            }
        }
    }

    /// Dynos that tell of each overlap as it happens, and keep no tape: for those that run for days.
    ///
    /// # Errors
    /// As [`Fleet::at`].
    pub fn telling(ports: (u16, u16), behaviour: Behaviour, tell: Tell) -> io::Result<Self> {
        Self::threaded(doors(ports, 0, &behaviour)?, 0, behaviour, Some(tell), Tape::blank())
    }

    /// The same with real servers.
    ///
    /// # Errors
    /// As [`Fleet::at`].
    pub fn telling_of(commands: &Commands, ports: (u16, u16), tell: Tell) -> io::Result<Self> {
        Self::tapped(commands, ports, true, Some(tell), Tape::blank())
    }

    pub(super) fn threaded(
        doors: Vec<Door>,
        first: u32,
        behaviour: Behaviour,
        tell: Option<Tell>,
        tape: Tape,
    ) -> io::Result<Self> {
        let addresses = addresses(&doors);
        let worker = Worker::start(behaviour.spin, move |reactor| {
            let mut dynos = Dynos::new(doors, first, behaviour, tell, reactor)?;
            dynos.seen().tape = tape;
            Ok(dynos)
        })?;
        Ok(Self { addresses, home: Home::Thread(worker) })
    }

    fn processes(program: &Path, most: u16, ports: (u16, u16), behaviour: &Behaviour) -> io::Result<Self> {
        let (dynos, first_port) = ports;
        let count = most.clamp(1, dynos.max(1));
        let mut processes = Vec::new();
        let mut first = 0;
        for n in 0..count {
            let share = dynos / count + u16::from(n < dynos % count);
            let port = if first_port == 0 { 0 } else { first_port.saturating_add(first) };
            processes.push(Process::start(program, (share, port), first.into(), behaviour)?);
            first += share;
        }
        processes.iter_mut().try_for_each(Process::ready)?;
        let addresses = processes.iter().flat_map(|process| process.addresses.iter().copied()).collect();
        Ok(Self { addresses, home: Home::Processes(processes) })
    }

    fn tapped(
        commands: &Commands,
        ports: (u16, u16),
        exclusive: bool,
        tell: Option<Tell>,
        tape: Tape,
    ) -> io::Result<Self> {
        let doors = Door::bind_all(ports, 0, Accept::All.backlog())?;
        let addresses = addresses(&doors);
        let servers = commands.start(ports.0)?;
        // Before the thread is there, so that nobody who knows the addresses is refused.
        doors.iter().try_for_each(Door::open)?;
        let to = servers.addresses();
        let worker = Worker::start(Duration::ZERO, move |reactor| {
            let mut taps = Taps::new(doors, &to, exclusive, tell, reactor)?;
            taps.seen().tape = tape;
            Ok(taps)
        })?;
        Ok(Self { addresses, home: Home::Servers(worker, servers) })
    }

    /// Where the dynos are, in their order.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Whether the dynos are still at work. When they are not, [`stop`](Self::stop) says why.
    pub fn lives(&self) -> bool {
        match &self.home {
            Home::Thread(worker) | Home::Servers(worker, _) => worker.lives(),
            Home::Here(..) | Home::Processes(_) => true,
        }
    }

    /// The dynos themselves, if they live in the thread of the generator, which calls this once.
    pub(crate) fn board(&mut self, reactor: &mut Reactor) -> io::Result<Option<Dynos>> {
        let Home::Here(doors, behaviour) = &mut self.home else { return Ok(None) };
        let doors = std::mem::take(doors);
        reactor.spin(behaviour.spin);
        Ok(Some(Dynos::new(doors, 0, *behaviour.clone(), None, reactor)?))
    }

    /// From here on it counts how late timers are.
    pub(crate) fn mark(&self) {
        match &self.home {
            Home::Here(..) => {}
            Home::Thread(worker) | Home::Servers(worker, _) => worker.mark(),
            Home::Processes(processes) => processes.iter().for_each(Process::mark),
        }
    }

    /// Ends the dynos and says what they have seen.
    ///
    /// # Errors
    /// When a thread or a process of theirs has failed.
    pub fn stop(self) -> io::Result<Seen> {
        match self.home {
            Home::Here(..) => Ok(Seen::default()),
            Home::Thread(worker) => worker.stop(),
            Home::Processes(mut processes) => {
                processes.iter_mut().for_each(Process::order_end);
                let mut all = Seen::default();
                processes.into_iter().try_for_each(|process| process.seen().map(|seen| all.add(seen)))?;
                Ok(all)
            }
            Home::Servers(worker, mut servers) => {
                let notes = servers.notes();
                worker.stop().map(|seen| Seen { notes, ..seen })
            }
        }
    }
}

/// The doors of dynos, the first of which has this number; open, unless they have to boot first.
pub(super) fn doors(ports: (u16, u16), first: u32, behaviour: &Behaviour) -> io::Result<Vec<Door>> {
    let doors = Door::bind_all(ports, first, behaviour.accept.backlog())?;
    if behaviour.boot.is_zero() {
        // Already now, so that a proxy that is started meanwhile finds them.
        doors.iter().try_for_each(Door::open)?;
    }
    Ok(doors)
}

fn addresses(doors: &[Door]) -> Vec<SocketAddr> {
    doors.iter().map(Door::address).collect()
}

/// Something that lives on a reactor and sees what comes to dynos.
pub(crate) trait Crew {
    /// Handles a ready socket.
    fn on_ready(&mut self, ready: Ready, reactor: &mut Reactor) -> io::Result<()>;
    /// Handles a timer that was due at `due`.
    fn on_timer(&mut self, timer: Timer, due: u64, reactor: &mut Reactor) -> io::Result<()>;
    /// Forgets closed connections; to be called when no event is at hand.
    fn bury(&mut self);
    /// What it has seen so far.
    fn seen(&mut self) -> &mut Seen;
}

/// A thread with a reactor of its own.
#[derive(Debug)]
struct Worker {
    control: Arc<Control>,
    thread: Option<JoinHandle<io::Result<Seen>>>,
}

/// What a worker is told from outside.
#[derive(Debug, Default)]
struct Control {
    /// It shall end.
    stop: AtomicBool,
    /// Its lateness counts from here.
    mark: AtomicBool,
}

impl Worker {
    /// Starts a thread for what `make` makes.
    fn start<C: Crew>(
        spin: Duration,
        make: impl FnOnce(&mut Reactor) -> io::Result<C> + Send + 'static,
    ) -> io::Result<Self> {
        let control = Arc::new(Control::default());
        let told = Arc::clone(&control);
        let work = move || {
            let mut reactor = Reactor::new()?;
            reactor.spin(spin);
            let crew = make(&mut reactor)?;
            work(crew, &mut reactor, &told)
        };
        let thread = thread::Builder::new().name("dynos".to_owned()).spawn(work)?;
        Ok(Self { control, thread: Some(thread) })
    }

    /// Its lateness counts from here.
    fn mark(&self) {
        self.control.mark.store(true, Ordering::Relaxed);
    }

    fn lives(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    fn stop(mut self) -> io::Result<Seen> {
        self.control.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().map(JoinHandle::join);
        thread.and_then(Result::ok).unwrap_or_else(|| Err(io::Error::other("the dynos' thread ended early")))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.control.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn work<C: Crew>(mut crew: C, reactor: &mut Reactor, control: &Control) -> io::Result<Seen> {
    let mut ready = Vec::new();
    while !control.stop.load(Ordering::Relaxed) {
        reactor.wait(LONGEST_SLEEP, &mut ready)?;
        if control.mark.swap(false, Ordering::Relaxed) {
            crew.seen().late.reset();
        }
        fire(&mut crew, reactor)?;
        for event in &ready {
            crew.on_ready(*event, reactor)?;
            fire(&mut crew, reactor)?;
        }
        crew.bury();
    }
    Ok(std::mem::take(crew.seen()))
}

/// Does all that is due.
fn fire(crew: &mut impl Crew, reactor: &mut Reactor) -> io::Result<()> {
    while let Some((due, timer)) = reactor.due(reactor.now()) {
        crew.on_timer(timer, due, reactor)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use super::*;

    fn ask(dyno: SocketAddr) {
        let mut client = TcpStream::connect(dyno).unwrap();
        client.write_all(b"GET / HTTP/1.0\r\nX-Bench-Service: 1000000\r\n\r\n").unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    #[test]
    fn lateness_counts_from_the_mark_and_requests_from_the_start() {
        let fleet = Fleet::start(1, Behaviour::default()).unwrap();
        (0..3).for_each(|_| ask(fleet.addresses()[0]));
        fleet.mark();
        (0..2).for_each(|_| ask(fleet.addresses()[0]));
        assert!(fleet.lives());
        let seen = fleet.stop().unwrap();
        assert_eq!((seen.late.len(), seen.requests, seen.tape.len()), (2, 5, 5));
    }
}
