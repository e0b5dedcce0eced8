//! Connections of each address, and those that were turned away: what all listeners have in common.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use router_core::sync::Mutex;

/// The door. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Door(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// Addresses that have connections, and how many; of nobody else is anything kept.
    seats: Mutex<HashMap<Ipv6Addr, u32>>,
    refused: [AtomicU64; Refused::ALL.len()],
}

/// Room for one connection of an address, until it is dropped.
pub(crate) struct Seat {
    door: Door,
    place: Ipv6Addr,
}

/// Why a connection was turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// There are `max_connections`.
    Full,
    /// Its address has `max_connections_per_ip`.
    Address,
    /// The process, or the system, has no descriptors left.
    Descriptors,
    /// No header of the PROXY protocol, a wrong one, or one from somebody who is not trusted.
    ProxyHeader,
}

impl Refused {
    pub(crate) const ALL: [Self; 4] = [Self::Full, Self::Address, Self::Descriptors, Self::ProxyHeader];

    fn as_str(self) -> &'static str {
        match self {
            Self::Full => "max_connections",
            Self::Address => "max_connections_per_ip",
            Self::Descriptors => "descriptors",
            Self::ProxyHeader => "proxy_header",
        }
    }
}

impl Door {
    /// Room for one more connection of that address, if it has fewer than `most`.
    pub(crate) fn seat(&self, address: IpAddr, most: u32) -> Option<Seat> {
        let place = place(address);
        let mut seats = self.0.seats.lock();
        match seats.entry(place) {
            Entry::Occupied(taken) if *taken.get() >= most => return None,
            Entry::Occupied(mut taken) => *taken.get_mut() += 1,
            Entry::Vacant(none) => drop(none.insert(1)),
        }
        drop(seats);
        Some(Seat { door: self.clone(), place })
    }

    /// Counts it, and says how many there are.
    pub(crate) fn refuse(&self, why: Refused) -> u64 {
        self.0.refused[why as usize].fetch_add(1, Ordering::Relaxed) + 1
    }

    /// How many were turned away, by why.
    pub(crate) fn account(&self) -> Vec<(&'static str, u64)> {
        let count = |why: Refused| (why.as_str(), self.0.refused[why as usize].load(Ordering::Relaxed));
        Refused::ALL.map(count).to_vec()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut seats = self.door.0.seats.lock();
        if let Entry::Occupied(mut taken) = seats.entry(self.place) {
            *taken.get_mut() -= 1;
            if *taken.get() == 0 {
                taken.remove();
            }
        }
        // What a flood has left behind is given back.
        if seats.capacity() > 1024 && seats.len() < seats.capacity() / 8 {
            seats.shrink_to_fit();
        }
    }
}

/// What is counted as one address: of IPv6 a network of 64 bits, which is what one customer gets.
pub(crate) fn place(address: IpAddr) -> Ipv6Addr {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_as_many_seats_as_it_may_and_leaves_nothing_behind() {
        let door = Door::default();
        let seat = |address: &str| door.seat(address.parse().unwrap(), 2);
        let (one, two) = (seat("10.0.0.1").unwrap(), seat("::ffff:10.0.0.1").unwrap());
        assert!(seat("10.0.0.1").is_none());
        let other = seat("10.0.0.2").unwrap();
        drop(one);
        let again = seat("10.0.0.1").unwrap();
        drop((two, other, again));
        assert!(door.0.seats.lock().is_empty());
    }

    #[test]
    fn a_network_of_64_bits_is_one_address() {
        let of = |text: &str| place(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
    }
}
