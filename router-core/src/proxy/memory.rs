//! How many bytes of bodies the proxy holds, of all requests and answers together, and how many it may.
//!
//! What is held is charged where it comes in and discharged where its bytes are dropped, wherever that is: in a line,
//! in a spool, or behind a slow client. Without a bound nothing is charged.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

/// The account. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Memory(Arc<Account>);

#[derive(Debug, Default)]
struct Account {
    held: AtomicU64,
    /// 0: there is no bound.
    most: AtomicU64,
}

/// Bytes that are held, until this is dropped.
pub(crate) struct Charge {
    memory: Memory,
    bytes: u64,
}

impl Memory {
    /// How many bytes may be held from now on; 0 (the default) is no bound. While there are as many, requests with a
    /// body are refused, bodies are read no further ahead, and of each answer one part at a time is kept. What was
    /// begun is finished, so somewhat more may be held.
    pub fn set_most(&self, bytes: u64) {
        self.0.most.store(bytes, Ordering::Relaxed);
    }

    /// How many are held; of what came while there was no bound, nothing is known.
    pub fn held(&self) -> u64 {
        self.0.held.load(Ordering::Relaxed)
    }

    /// Whether as many are held as may be; never without a bound.
    pub fn is_full(&self) -> bool {
        let most = self.0.most.load(Ordering::Relaxed);
        most > 0 && self.held() >= most
    }

    /// Charges for nothing yet; `None`: there is no bound.
    pub(crate) fn charge(&self) -> Option<Charge> {
        let bound = self.0.most.load(Ordering::Relaxed) > 0;
        bound.then(|| Charge { memory: self.clone(), bytes: 0 })
    }

    /// The same bytes, charged for until the last of them is dropped.
    pub(crate) fn hold(&self, bytes: Bytes) -> Bytes {
        match self.charge() {
            Some(mut charge) if !bytes.is_empty() => {
                charge.add(bytes.len());
                charge.on(bytes)
            }
            _ => bytes,
        }
    }
}

impl Charge {
    pub(crate) fn add(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        self.memory.0.held.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// The charge ends with those bytes.
    pub(crate) fn on(self, bytes: Bytes) -> Bytes {
        Bytes::from_owner(Charged { bytes, _charge: self })
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.memory.0.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

struct Charged {
    bytes: Bytes,
    _charge: Charge,
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_charged_until_the_last_clone_is_dropped() {
        let memory = Memory::default();
        let free = memory.hold(Bytes::from_static(b"free"));
        assert_eq!((memory.held(), memory.is_full()), (0, false));
        memory.set_most(10);
        let one = memory.hold(Bytes::from_static(b"12345"));
        assert_eq!((memory.held(), memory.is_full()), (5, false));
        let part = one.slice(..1);
        drop((one, free));
        let mut charge = memory.charge().unwrap();
        charge.add(5);
        assert!(memory.is_full());
        let two = charge.on(Bytes::from_static(b"67890"));
        drop(part);
        assert_eq!((memory.held(), &two[..]), (5, &b"67890"[..]));
        drop(two);
        assert_eq!(memory.held(), 0);
        drop(memory.hold(Bytes::new()));
        assert_eq!(memory.held(), 0);
    }
}
