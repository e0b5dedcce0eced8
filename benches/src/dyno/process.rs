//! Dynos in processes of their own: the side that starts them, the side that is started, and what they say.
//!
//! The bench starts itself. Down a child's standard input go a line of JSON ([`Order`]), then a line `mark` when the
//! figures begin; its end is the order to end, so that no child outlives the bench, however that ends. Up its standard
//! output come a line with the addresses, and at the end a line with what was seen and behind it the tape in binary.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde::{Deserialize, Serialize};

use super::behaviour::Behaviour;
use super::fleet::{Fleet, doors};
use super::seen::{Overlap, Seen};
use crate::records::{Served, Tape};

/// The hidden command of `dyno-bench` that calls [`serve`].
const COMMAND: &str = "dynos-of-a-bench";
/// The end of what a child wrote is shown in errors: so much of it.
const SHOWN: usize = 2000;
/// One piece of work takes so many bytes.
const ENTRY: usize = 24;

/// What a child shall be.
#[derive(Debug, Serialize, Deserialize)]
struct Order {
    count: u16,
    first_port: u16,
    /// The number of its first dyno.
    first: u32,
    behaviour: Behaviour,
}

/// What a child has seen, but for the tape.
#[derive(Debug, Serialize, Deserialize)]
struct Account {
    requests: u64,
    overlaps: u64,
    shown: Vec<Overlap>,
    connections: u64,
    second_connections: u64,
    strangers: u64,
    crashes: u64,
    /// Values and how often they came.
    late: Vec<(u64, u64)>,
    /// How many pieces of work follow.
    tape: u64,
}

/// One process of dynos.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    orders: Option<ChildStdin>,
    words: BufReader<ChildStdout>,
    errors: File,
    pub(super) addresses: Vec<SocketAddr>,
}

impl Process {
    /// Starts a process; [`ready`](Self::ready) waits for it, so that many can start at once.
    pub(super) fn start(
        program: &Path,
        (count, first_port): (u16, u16),
        first: u32,
        behaviour: &Behaviour,
    ) -> io::Result<Self> {
        let errors = tempfile::tempfile()?;
        let mut command = Command::new(program);
        command.arg(COMMAND).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors.try_clone()?);
        // A group of its own: Ctrl-C is for the bench, which then ends its children.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let named = |error: io::Error| {
            io::Error::new(error.kind(), format!("{} for dynos does not start: {error}", program.display()))
        };
        let mut child = command.spawn().map_err(named)?;
        let mut orders = child.stdin.take();
        let words = BufReader::new(child.stdout.take().ok_or_else(|| io::Error::other("no pipe"))?);
        let order = Order { count, first_port, first, behaviour: behaviour.clone() };
        if let Some(pipe) = &mut orders {
            // One that has ended already is met in `ready`, with its last words.
            let _ = writeln!(pipe, "{}", serde_json::to_string(&order)?);
        }
        Ok(Self { child, orders, words, errors, addresses: Vec::new() })
    }

    /// Waits until its ports are there.
    pub(super) fn ready(&mut self) -> io::Result<()> {
        let mut line = String::new();
        self.words.read_line(&mut line)?;
        match serde_json::from_str(&line) {
            Ok(addresses) => self.addresses = addresses,
            Err(_) => return Err(self.failed()),
        }
        Ok(())
    }

    /// Its lateness counts from here.
    pub(super) fn mark(&self) {
        if let Some(mut pipe) = self.orders.as_ref() {
            // One that has ended is met at the end.
            let _ = writeln!(pipe, "mark");
        }
    }

    /// Orders it to end; [`seen`](Self::seen) waits for that.
    pub(super) fn order_end(&mut self) {
        self.orders = None;
    }

    /// What it has seen, when it has ended.
    pub(super) fn seen(mut self) -> io::Result<Seen> {
        self.order_end();
        match read(&mut self.words) {
            Ok(seen) => Ok(seen),
            Err(_) => Err(self.failed()),
        }
    }

    /// Why it does not do what it should: how it ended, and what it said.
    fn failed(&mut self) -> io::Error {
        self.order_end();
        let _ = self.child.kill();
        let how = self.child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
        let words = last_words(&mut self.errors);
        io::Error::other(format!("a process of the dynos ended early ({how}): {words}"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.orders = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The end of what was written to a file.
pub(super) fn last_words(file: &mut File) -> String {
    let mut bytes = Vec::new();
    let read = io::Seek::rewind(file).and_then(|()| file.read_to_end(&mut bytes));
    let words = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(SHOWN)..]).trim().to_owned();
    match read {
        Ok(_) if words.is_empty() => "it said nothing".to_owned(),
        Ok(_) => words,
        Err(error) => error.to_string(),
    }
}

/// The side that is started: dynos as ordered on standard input, until that ends. To be called by a program that is
/// given to [`Place::Processes`](super::Place::Processes), for the argument `dynos-of-a-bench`.
///
/// # Errors
/// When the order cannot be read, a port is in use, or nobody reads what was seen.
pub fn serve() -> io::Result<()> {
    let mut orders = io::stdin().lock();
    let mut line = String::new();
    orders.read_line(&mut line)?;
    let Order { count, first_port, first, behaviour } = serde_json::from_str(&line)?;
    let doors = doors((count, first_port), first, &behaviour)?;
    let fleet = Fleet::threaded(doors, first, behaviour, None, Tape::default())?;
    let mut words = BufWriter::new(io::stdout().lock());
    writeln!(words, "{}", serde_json::to_string(fleet.addresses())?)?;
    words.flush()?;
    loop {
        line.clear();
        if orders.read_line(&mut line)? == 0 {
            break;
        }
        fleet.mark();
    }
    write(&mut words, fleet.stop()?)?;
    words.flush()
}

fn write(out: &mut impl Write, seen: Seen) -> io::Result<()> {
    let account = Account {
        requests: seen.requests,
        overlaps: seen.overlaps,
        shown: seen.shown,
        connections: seen.connections,
        second_connections: seen.second_connections,
        strangers: seen.strangers,
        crashes: seen.crashes,
        late: seen.late.iter_recorded().map(|at| (at.value_iterated_to(), at.count_at_value())).collect(),
        tape: seen.tape.len() as u64,
    };
    writeln!(out, "{}", serde_json::to_string(&account)?)?;
    for served in seen.tape.iter() {
        out.write_all(&served.number.to_le_bytes())?;
        out.write_all(&served.dyno.to_le_bytes())?;
        out.write_all(&served.started.to_le_bytes())?;
        out.write_all(&served.ended.to_le_bytes())?;
    }
    Ok(())
}

fn read(words: &mut impl BufRead) -> io::Result<Seen> {
    let mut line = String::new();
    words.read_line(&mut line)?;
    let account: Account = serde_json::from_str(&line)?;
    let mut seen = Seen {
        requests: account.requests,
        overlaps: account.overlaps,
        shown: account.shown,
        connections: account.connections,
        second_connections: account.second_connections,
        strangers: account.strangers,
        crashes: account.crashes,
        ..Seen::default()
    };
    for (value, count) in account.late {
        seen.late.saturating_record_n(value, count);
    }
    let mut entry = [0; ENTRY];
    for _ in 0..account.tape {
        words.read_exact(&mut entry)?;
        seen.tape.write(served(&entry));
    }
    Ok(seen)
}

fn served(entry: &[u8; ENTRY]) -> Served {
    let word = |at: usize| u32::from_le_bytes(std::array::from_fn(|n| entry[at + n]));
    let long = |at: usize| u64::from_le_bytes(std::array::from_fn(|n| entry[at + n]));
    Served { number: word(0), dyno: word(4), started: long(8), ended: long(16) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dyno::Who;

    #[test]
    fn what_was_seen_comes_through_a_pipe_as_it_was() {
        let mut seen = Seen { requests: 4, connections: 5, second_connections: 6, ..Seen::default() };
        (seen.strangers, seen.crashes) = (1, 2);
        let who = |number, id: &str| Who { number, id: Some(id.into()) };
        seen.overlap(4, &who(Some(7), "a\nb"), &who(None, "c"), 1_500_000);
        seen.late.saturating_record_n(50_000, 9);
        for n in 0..3 {
            let entry = seen.tape.begin(n, 1 << 20, u64::from(n) << 40);
            seen.tape.end(entry, u64::MAX - u64::from(n));
        }
        let mut pipe = Vec::new();
        let (shown, tape) = (seen.shown.clone(), seen.tape.iter().copied().collect::<Vec<_>>());
        write(&mut pipe, seen).unwrap();
        let back = read(&mut &pipe[..]).unwrap();
        assert_eq!((back.requests, back.overlaps, back.strangers, back.crashes), (4, 1, 1, 2));
        assert_eq!((back.connections, back.second_connections), (5, 6));
        assert_eq!((back.shown, back.tape.iter().copied().collect::<Vec<_>>()), (shown, tape));
        assert_eq!((back.late.len(), back.late.value_at_quantile(0.5) / 1_000), (9, 50));
        assert!(read(&mut &pipe[..pipe.len() - 1]).is_err(), "a part of it is not enough");
    }
}
