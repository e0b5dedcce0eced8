//! Which certificate a client gets: from the name it asks for to those that have it, read without a lock.
//!
//! The table is replaced whole: from the certificates of files, and from those that are ordered while the daemon runs.
//! A host whose certificate is still to come has a stand-in, so that its handshakes work; nobody trusts it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use arc_swap::ArcSwap;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use router_core::sync::Mutex;
use rustls::server::ClientHello;

use crate::config::cert::Certificate;
use crate::config::edge::Unnamed;

/// The certificates that are ordered, by their hosts; `None`: it is still to come.
pub(crate) type Ordered = BTreeMap<String, Option<Arc<Certificate>>>;

/// All certificates by their names.
#[derive(Default)]
pub(super) struct Store {
    table: ArcSwap<Table>,
    parts: Mutex<Parts>,
}

/// What the table is made from.
#[derive(Default)]
struct Parts {
    files: Vec<Arc<Certificate>>,
    ordered: Ordered,
}

#[derive(Default)]
struct Table {
    /// Those with that name, in the order in which they are offered; `*.shop.test` is a name.
    named: HashMap<String, Vec<Arc<Certificate>>>,
    /// Those for who asks for none of the names.
    first: Vec<Arc<Certificate>>,
    /// The hosts with a stand-in.
    lacking: HashSet<String>,
}

impl Store {
    /// From now on there are these from files, and no others.
    pub(super) fn set_files(&self, certificates: &[Arc<Certificate>]) {
        self.change(|parts| parts.files = certificates.to_vec());
    }

    /// From now on there are these that are ordered, and no others.
    pub(super) fn set_ordered(&self, ordered: Ordered) {
        self.change(|parts| parts.ordered = ordered);
    }

    /// The certificate of a host has come.
    pub(super) fn come(&self, host: &str, certificate: &Arc<Certificate>) {
        self.change(|parts| {
            parts.ordered.insert(host.to_owned(), Some(Arc::clone(certificate)));
        });
    }

    /// Those that were ordered and have come.
    pub(super) fn ordered(&self) -> Vec<Arc<Certificate>> {
        self.parts.lock().ordered.values().flatten().cloned().collect()
    }

    fn change(&self, change: impl FnOnce(&mut Parts)) {
        let mut parts = self.parts.lock();
        change(&mut parts);
        self.table.store(Arc::new(Table::new(&parts)));
    }

    /// The certificate for a client. A client that names no host gets one for the address it has come to.
    pub(super) fn find(
        &self,
        hello: &ClientHello<'_>,
        name: Option<&str>,
        address: IpAddr,
        unnamed: Unnamed,
    ) -> Option<Arc<Certificate>> {
        let table = self.table.load();
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

    /// Whether the certificate of that host is still to come.
    pub(super) fn lacks(&self, host: &str) -> bool {
        self.table.load().lacking.contains(host)
    }
}

impl Table {
    fn new(parts: &Parts) -> Self {
        let mut named: HashMap<String, Vec<Arc<Certificate>>> = HashMap::new();
        let ordered = || parts.ordered.values().flatten();
        for certificate in parts.files.iter().chain(ordered()) {
            for name in &certificate.names {
                let same = named.entry(name.clone()).or_default();
                // One certificate may have a name twice.
                if !same.iter().any(|other| Arc::ptr_eq(other, certificate)) {
                    same.push(Arc::clone(certificate));
                }
            }
        }
        named.values_mut().for_each(|same| same.sort_by_key(|certificate| certificate.rank()));
        let first = parts.files.first().or_else(|| ordered().next());
        let same = first.and_then(|first| named.get(first.name())).cloned();
        let mut table = Self { named, first: Vec::new(), lacking: HashSet::new() };
        let lacking = parts.ordered.iter().filter(|(_, it)| it.is_none()).map(|(host, _)| host);
        table.lacking = lacking.filter(|host| table.named(host).is_empty()).cloned().collect();
        let stand_in = STAND_IN.as_ref().filter(|_| !table.lacking.is_empty());
        for host in &table.lacking {
            table.named.insert(host.clone(), stand_in.into_iter().cloned().collect());
        }
        let one = || first.or(stand_in).into_iter().cloned().collect();
        table.first = same.unwrap_or_else(one);
        table
    }

    /// Those with a name: its own before one with a star, which stands for one label.
    fn named(&self, name: &str) -> &[Arc<Certificate>] {
        let star = || self.named.get(&format!("*.{}", name.split_once('.')?.1));
        self.named.get(name).or_else(star).map_or(&[], Vec::as_slice)
    }
}

/// The stand-in of this process, made when it is first needed. Its key is nowhere else.
static STAND_IN: LazyLock<Option<Arc<Certificate>>> = LazyLock::new(|| {
    let made =
        stand_in().inspect_err(|error| tracing::error!("there is no stand-in for certificates: {error}"));
    made.ok().map(Arc::new)
});

fn stand_in() -> Result<Certificate, String> {
    // A name that no host has (RFC 6761 section 6.4): the certificate is good for nothing.
    let mut params =
        CertificateParams::new(vec!["stand-in.invalid".to_owned()]).map_err(|error| error.to_string())?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "routerd stand-in");
    let key = KeyPair::generate().map_err(|error| error.to_string())?;
    let made = params.self_signed(&key).map_err(|error| error.to_string())?;
    let pem = key.serialize_pem() + &made.pem();
    Certificate::from_pem(Path::new("stand-in"), pem.as_bytes()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(name: &str) -> Arc<Certificate> {
        let key = KeyPair::generate().unwrap();
        let made = CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap();
        let pem = key.serialize_pem() + &made.pem();
        Arc::new(Certificate::from_pem(Path::new(name), pem.as_bytes()).unwrap())
    }

    /// The file of the certificate for a name.
    fn shown(store: &Store, name: &str) -> Option<String> {
        store.table.load().named(name).first().map(|it| it.cert.display().to_string())
    }

    #[test]
    fn a_host_has_a_stand_in_until_its_certificate_has_come() {
        let store = Store::default();
        let ordered = ["a.test", "b.test"].map(|host| (host.to_owned(), None));
        store.set_ordered(BTreeMap::from(ordered));
        assert_eq!(shown(&store, "a.test").as_deref(), Some("stand-in"));
        assert!(store.lacks("a.test") && !store.lacks("c.test"));
        assert_eq!(store.table.load().first[0].name(), "stand-in.invalid");
        store.come("a.test", &made("a.test"));
        assert_eq!(shown(&store, "a.test").as_deref(), Some("a.test"));
        assert!(!store.lacks("a.test") && store.lacks("b.test"));
        assert_eq!((shown(&store, "stand-in.invalid"), shown(&store, "x.test")), (None, None));
        assert_eq!(store.table.load().first[0].name(), "a.test", "a real one comes first");
    }

    #[test]
    fn a_file_that_is_good_for_a_host_serves_it_before_a_stand_in() {
        let store = Store::default();
        store.set_files(&[made("*.shop.test")]);
        store.set_ordered(BTreeMap::from([("a.shop.test".to_owned(), None)]));
        assert_eq!(shown(&store, "a.shop.test").as_deref(), Some("*.shop.test"));
        assert!(!store.lacks("a.shop.test"));
        store.come("a.shop.test", &made("a.shop.test"));
        assert_eq!(shown(&store, "a.shop.test").as_deref(), Some("a.shop.test"));
        store.set_ordered(Ordered::new());
        assert_eq!(shown(&store, "a.shop.test").as_deref(), Some("*.shop.test"));
    }
}
