//! How proptest draws the operations of the model test.

use proptest::prelude::*;
use router_core::Outcome;
use router_core::change::DynoHealth;

use super::ops::{Edit, Op};

pub(crate) fn ops(most: usize) -> impl Strategy<Value = Vec<Op>> {
    prop::collection::vec(op(), most / 4..=most)
}

fn op() -> impl Strategy<Value = Op> {
    let outcome = prop_oneof![
        3 => Just(Outcome::Served),
        4 => Just(Outcome::Errored),
        2 => Just(Outcome::Failed),
        1 => Just(Outcome::Cut),
        1 => Just(Outcome::Unused),
    ];
    prop_oneof![
        30 => (any::<u8>(), 0..200_u16, prop::bool::weighted(0.8))
            .prop_map(|(app, bytes, polled)| Op::Arrive { app, bytes, polled }),
        15 => (any::<u8>(), any::<bool>()).prop_map(|(who, same_waker)| Op::Poll { who, same_waker }),
        5 => any::<u8>().prop_map(|who| Op::Cancel { who }),
        4 => any::<u8>().prop_map(|who| Op::Expire { who }),
        8 => (0..1500_u16, prop::bool::weighted(0.8)).prop_map(|(ms, tick)| Op::Advance { ms, tick }),
        12 => (any::<u8>(), outcome).prop_map(|(lease, outcome)| Op::CheckIn { lease, outcome }),
        4 => any::<u8>().prop_map(|lease| Op::Again { lease }),
        3 => any::<u8>().prop_map(|lease| Op::Linger { lease }),
        5 => any::<u8>().prop_map(|lease| Op::Upgrade { lease }),
        4 => any::<u8>().prop_map(|lease| Op::DropLease { lease }),
        3 => (any::<u8>(), any::<u8>()).prop_map(|(app, dyno)| Op::Probe { app, dyno }),
        3 => (any::<u8>(), any::<u8>(), prop::bool::weighted(0.3))
            .prop_map(|(app, dyno, good)| Op::Probed { app, dyno, good }),
        15 => prop::collection::vec(edit(), 1..=3).prop_map(Op::Apply),
    ]
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        4 => (any::<u8>(), 0..12_u8).prop_map(|(app, shape)| Edit::Put { app, shape }),
        1 => any::<u8>().prop_map(|app| Edit::RemoveApp { app }),
        6 => (any::<u8>(), any::<u8>(), 0..4_u8, health())
            .prop_map(|(app, dyno, concurrency, health)| Edit::Add { app, dyno, concurrency, health }),
        2 => any::<u8>().prop_map(|dyno| Edit::Remove { dyno }),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(app, dyno)| Edit::RemoveFrom { app, dyno }),
        4 => (any::<u8>(), health()).prop_map(|(dyno, health)| Edit::Set { dyno, health }),
        2 => any::<u8>().prop_map(|dyno| Edit::Move { dyno }),
        3 => any::<u8>().prop_map(|dyno| Edit::Flap { dyno }),
        2 => (any::<u8>(), any::<u8>(), 0..4000_u16).prop_map(|(app, kind, ms)| Edit::Hold { app, kind, ms }),
        1 => any::<u8>().prop_map(|app| Edit::Canary { app }),
    ]
}

fn health() -> impl Strategy<Value = DynoHealth> {
    prop_oneof![
        6 => Just(DynoHealth::Ready),
        2 => Just(DynoHealth::Booting),
        2 => Just(DynoHealth::Crashed),
        2 => Just(DynoHealth::Staged),
        5 => Just(DynoHealth::Canary),
    ]
}
