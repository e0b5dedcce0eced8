//! Who waits in the simulation, as the clients know it: by app, by lane, and in which order they are to be served.

use std::collections::BTreeSet;

use router_core::canary::Lane;

/// The requests of one lane, by number: those who had a dyno already, and the others.
type Line = [BTreeSet<u64>; 2];

/// All who wait.
#[derive(Default)]
pub(crate) struct Lines {
    apps: Vec<[Line; 2]>,
    again: BTreeSet<u64>,
}

impl Lines {
    pub(crate) fn new(apps: usize) -> Self {
        Self { apps: (0..apps).map(|_| <[Line; 2]>::default()).collect(), again: BTreeSet::new() }
    }

    pub(crate) fn enter(&mut self, app: usize, lane: Lane, id: u64, again: bool) {
        self.apps[app][lane as usize][usize::from(!again)].insert(id);
        if again {
            self.again.insert(id);
        }
    }

    /// `false`: it did not wait.
    pub(crate) fn leave(&mut self, app: usize, lane: Lane, id: u64) -> bool {
        let again = self.again.remove(&id);
        self.apps[app][lane as usize][usize::from(!again)].remove(&id)
    }

    /// Whose turn it is where these lanes are served by the same dynos.
    pub(crate) fn first(&self, app: usize, lanes: &[Lane]) -> Option<u64> {
        let first =
            |lane: &Lane| self.apps[app][*lane as usize].iter().find_map(|class| class.first().copied());
        lanes.iter().filter_map(first).min()
    }

    pub(crate) fn len(&self, app: usize, lanes: &[Lane]) -> usize {
        lanes.iter().flat_map(|lane| &self.apps[app][*lane as usize]).map(BTreeSet::len).sum()
    }
}
