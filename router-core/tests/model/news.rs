//! What the reference says became of requests that waited, held against what their tickets say.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use router_core::ids::Address;

use super::harness::Harness;
use super::reference::{News, Told};

impl Harness {
    pub(crate) fn tell(&mut self, news: News) {
        let dynos: BTreeSet<_> = news.iter().filter_map(|(_, told)| granted_to(*told)).collect();
        for (request, told) in &news {
            if let Told::Granted(address) = *told {
                self.granted(address);
            }
            let live = self.tickets.iter_mut().find(|live| live.waiting.request == *request);
            let live = live.unwrap_or_else(|| panic!("T7: request {request} is gone, and still {told:?}"));
            live.told = Some(*told);
            live.waiting.tries += u32::from(matches!(told, Told::Granted(_)));
        }
        if dynos.len() > 1 {
            self.take_all(&news);
        }
    }

    /// Several dynos were granted at once: which request has which is known only to the leases.
    fn take_all(&mut self, news: &News) {
        let mut expected: Vec<_> = news.iter().filter_map(|(_, told)| granted_to(*told)).collect();
        for (request, told) in news {
            if granted_to(*told).is_none() {
                continue;
            }
            let at = self.tickets.iter().position(|live| live.waiting.request == *request);
            let mut live = self.tickets.swap_remove(at.expect("it was told a moment ago"));
            let woken = live.waker.0.load(Ordering::Relaxed);
            assert_eq!(woken, live.polled, "T2: who is told is woken");
            let polled = Pin::new(&mut live.ticket).poll(&mut Context::from_waker(Waker::noop()));
            let Poll::Ready(Ok(lease)) = polled else { panic!("request {request} has no lease: {polled:?}") };
            let address = lease.dyno().address;
            let at = expected.iter().position(|granted| *granted == address);
            expected.swap_remove(at.expect("the dynos are those that the reference grants"));
            self.hold(live, lease, address);
        }
    }
}

fn granted_to(told: Told) -> Option<Address> {
    if let Told::Granted(address) = told { Some(address) } else { None }
}
