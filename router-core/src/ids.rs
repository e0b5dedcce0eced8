//! Names and numbers: apps, releases, dynos, tickets. Plain data, ring 0.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

/// Defines a cheap-to-clone name around a shared string.
macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
        pub struct $name(Arc<str>);

        impl $name {
            /// Makes the name from any string; names are compared byte for byte.
            pub fn new(name: impl Into<Arc<str>>) -> Self {
                Self(name.into())
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(name: &str) -> Self {
                Self(name.into())
            }
        }

        impl From<String> for $name {
            fn from(name: String) -> Self {
                Self(name.into())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

name! {
    /// The name of an app, for example `shop`. Unique within a router.
    AppId
}
name! {
    /// The name of a release, a deployed version of an app, for example `v42`.
    ReleaseId
}
name! {
    /// What people call a dyno, for example `web.1` or `10.0.0.7:3000`. Stands in the log as `dyno=`.
    DynoName
}

/// Where a dyno listens. Within an app the address *is* the dyno's identity: a dyno that leaves and comes back
/// at the same address while it is busy is the same dyno and keeps its state (invariant 1).
pub type Address = SocketAddr;

/// A dyno inside its app: a slot and the turn of that slot, so that a stale id never names a newer dyno.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DynoId {
    pub(crate) slot: u32,
    pub(crate) turn: u32,
}

/// A request's place in line: a slot and the turn of that slot, so that a stale id never names a newer request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TicketId {
    pub(crate) slot: u32,
    pub(crate) turn: u32,
}

impl TicketId {
    /// The slot: small, dense, and used again after the ticket is gone.
    pub(crate) fn slot(self) -> usize {
        self.slot as usize
    }
}

impl DynoId {
    /// The slot: small, dense, and used again after the dyno is gone.
    pub(crate) fn slot(self) -> usize {
        self.slot as usize
    }
}
