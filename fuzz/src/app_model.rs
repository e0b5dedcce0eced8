//! The model test of router-core, with operations read from the input instead of drawn: the router against its
//! reference, everything that can be seen compared after each step.

#[path = "../../router-core/tests/model/dyno.rs"]
mod dyno;
#[path = "../../router-core/tests/model/gate.rs"]
mod gate;
#[path = "../../router-core/tests/model/harness.rs"]
mod harness;
#[path = "../../router-core/tests/model/health.rs"]
mod health;
#[path = "../../router-core/tests/model/news.rs"]
mod news;
#[path = "../../router-core/tests/model/ops.rs"]
mod ops;
#[path = "../../router-core/tests/model/probes.rs"]
mod probes;
#[path = "../../router-core/tests/model/reference.rs"]
mod reference;
#[path = "../../router-core/tests/model/wishes.rs"]
mod wishes;
#[path = "../../router-core/tests/model/world.rs"]
mod world;

use router_core::Outcome;
use router_core::change::DynoHealth;

use ops::{Edit, Op};

/// Operations of one input: longer ones say nothing new, slowly.
const MOST: usize = 400;

/// Runs the operations that the input stands for.
///
/// # Panics
/// When the router does what its reference does not.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let mut harness = harness::Harness::new();
    for _ in 0..MOST {
        let Some(op) = op(&mut input) else { break };
        harness.run(&op);
    }
    harness.finish();
}

/// The bytes that have not been read.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }
}

fn op(input: &mut Input<'_>) -> Option<Op> {
    let kind = input.byte()?;
    let number = input.byte()?;
    Some(match kind % 16 {
        0..=4 => Op::Arrive { app: number, bytes: u16::from(number), polled: kind < 200 },
        5..=6 => Op::Poll { who: number, same_waker: kind < 128 },
        7 => Op::Cancel { who: number },
        8 => Op::Expire { who: number },
        9 => Op::Advance { ms: u16::from(number) * 6, tick: kind < 200 },
        10..=11 => Op::CheckIn { lease: number, outcome: outcome(kind) },
        12 if kind < 128 => Op::Again { lease: number },
        12 if kind < 192 => Op::Linger { lease: number },
        12 => Op::Upgrade { lease: number },
        13 if kind < 128 => Op::DropLease { lease: number },
        13 if kind < 160 => Op::Probe { app: number / 16, dyno: number },
        13 => Op::Probed { app: number / 16, dyno: number, good: number < 80 },
        _ => {
            let count = 1 + kind / 16 % 3;
            Op::Apply((0..count).map_while(|_| edit(input)).collect())
        }
    })
}

fn outcome(kind: u8) -> Outcome {
    match kind / 16 % 5 {
        0 => Outcome::Served,
        1 => Outcome::Errored,
        2 => Outcome::Failed,
        3 => Outcome::Cut,
        _ => Outcome::Unused,
    }
}

fn edit(input: &mut Input<'_>) -> Option<Edit> {
    let kind = input.byte()?;
    let dyno = input.byte()?;
    let (app, concurrency) = (kind / 64, kind / 16 % 4);
    let health = match (dyno / 64, kind / 128) {
        (0, 0) => DynoHealth::Booting,
        (0, _) => DynoHealth::Staged,
        (1, 0) => DynoHealth::Crashed,
        (1, _) => DynoHealth::Canary,
        _ => DynoHealth::Ready,
    };
    Some(match kind % 16 {
        0..=2 => Edit::Put { app, shape: dyno % 10 },
        3 => Edit::RemoveApp { app },
        4..=7 => Edit::Add { app, dyno, concurrency, health },
        8 => Edit::Remove { dyno },
        9 => Edit::RemoveFrom { app, dyno },
        10..=12 => Edit::Set { dyno, health },
        13 => Edit::Move { dyno },
        14 if dyno < 128 => Edit::Hold { app, kind: concurrency + dyno % 2 * 4, ms: u16::from(dyno) * 16 },
        14 => Edit::Canary { app },
        _ => Edit::Flap { dyno },
    })
}
