//! Which certificate a client gets: from the name it asks for to those that have it, read without a lock.
//!
//! The table is replaced whole. So far all certificates come from files ([`Store::set`]); whoever gets some while the
//! daemon runs joins them with these there. A handshake that wants another protocol than HTTP is told apart by its
//! hello, which [`Store::find`] has.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::server::ClientHello;

use crate::config::cert::Certificate;
use crate::config::edge::Unnamed;

/// All certificates by their names.
#[derive(Default)]
pub(super) struct Store(ArcSwap<Table>);

#[derive(Default)]
struct Table {
    /// Those with that name, in the order in which they are offered; `*.shop.test` is a name.
    named: HashMap<String, Vec<Arc<Certificate>>>,
    /// Those for who asks for none of the names.
    first: Vec<Arc<Certificate>>,
}

impl Store {
    /// From now on there are these, and no others.
    pub(super) fn set(&self, certificates: &[Arc<Certificate>]) {
        self.0.store(Arc::new(Table::new(certificates)));
    }

    /// The certificate for a client. A client that names no host gets one for the address it has come to.
    pub(super) fn find(
        &self,
        hello: &ClientHello<'_>,
        name: Option<&str>,
        address: IpAddr,
        unnamed: Unnamed,
    ) -> Option<Arc<Certificate>> {
        let table = self.0.load();
        let mut found = match name {
            Some(name) => table.named(name),
            None => table.named(&address.to_string()),
        };
        if found.is_empty() && unnamed == Unnamed::First {
            found = &table.first;
        }
        // If it can use none, the handshake says so to it.
        found.iter().find(|certificate| certificate.suits(hello)).or_else(|| found.first()).cloned()
    }
}

impl Table {
    fn new(certificates: &[Arc<Certificate>]) -> Self {
        let mut named: HashMap<String, Vec<Arc<Certificate>>> = HashMap::new();
        for certificate in certificates {
            for name in &certificate.names {
                let same = named.entry(name.clone()).or_default();
                // One certificate may have a name twice.
                if !same.iter().any(|other| Arc::ptr_eq(other, certificate)) {
                    same.push(Arc::clone(certificate));
                }
            }
        }
        named.values_mut().for_each(|same| same.sort_by_key(|certificate| certificate.rank()));
        let first = certificates.first();
        let same = first.and_then(|first| named.get(first.name())).cloned();
        let first = same.unwrap_or_else(|| first.into_iter().cloned().collect());
        Self { named, first }
    }

    /// Those with a name: its own before one with a star, which stands for one label.
    fn named(&self, name: &str) -> &[Arc<Certificate>] {
        let star = || self.named.get(&format!("*.{}", name.split_once('.')?.1));
        self.named.get(name).or_else(star).map_or(&[], Vec::as_slice)
    }
}
