//! What stays with dynos from one lease to the next, and what all leases of a dyno share: connections.

use std::any::Any;
use std::sync::Arc as StdArc;

use crate::ids::DynoId;

/// Something that stays with a dyno from one lease to the next: its connection.
pub(crate) type Parcel = Box<dyn Any + Send>;
/// What all leases of a dyno share.
pub(crate) type Common = StdArc<dyn Any + Send + Sync>;

/// By the slots of dynos.
#[derive(Default)]
pub(super) struct Parking(Vec<Parked>);

#[derive(Default)]
struct Parked {
    turn: u32,
    parcels: Vec<Parcel>,
    common: Option<Common>,
}

impl Parking {
    /// What was left at the dyno last.
    pub(super) fn take(&mut self, dyno: DynoId) -> Option<Parcel> {
        let parked = self.0.get_mut(dyno.slot()).filter(|parked| parked.turn == dyno.turn);
        parked.and_then(|parked| parked.parcels.pop())
    }

    /// Takes all that stays with a dyno.
    pub(super) fn clear(&mut self, dyno: DynoId) -> Vec<Parcel> {
        let parked = self.0.get_mut(dyno.slot()).filter(|parked| parked.turn == dyno.turn);
        parked.map(Parked::clear).unwrap_or_default()
    }

    /// Takes what stays with all dynos.
    pub(super) fn clear_all(&mut self) -> Vec<Parcel> {
        self.0.iter_mut().flat_map(Parked::clear).collect()
    }

    pub(super) fn put(&mut self, dyno: DynoId, parcel: Parcel) {
        self.at(dyno).parcels.push(parcel);
    }

    /// What all leases of the dyno share, or else `fresh`, which it is from now on.
    pub(super) fn common(&mut self, dyno: DynoId, fresh: impl FnOnce() -> Common) -> Common {
        StdArc::clone(self.at(dyno).common.get_or_insert_with(fresh))
    }

    fn at(&mut self, dyno: DynoId) -> &mut Parked {
        if self.0.len() <= dyno.slot() {
            self.0.resize_with(dyno.slot() + 1, Parked::default);
        }
        let parked = &mut self.0[dyno.slot()];
        parked.turn = dyno.turn;
        parked
    }
}

impl Parked {
    fn clear(&mut self) -> Vec<Parcel> {
        let mut all = std::mem::take(&mut self.parcels);
        all.extend(self.common.take().map(|common| Box::new(common) as Parcel));
        all
    }
}
