//! Dynos: servers that do one request at a time and notice when they are given two.
//!
//! A [`Fleet`] is a number of them, emulated, with a [`Behaviour`] and a [`Place`] to live in. It says at its end what
//! it has [`Seen`]: every [`Overlap`] above all, and on a tape when which dyno worked on what.
//!
//! An emulated dyno accepts every connection and reads every head at once, because that is how it learns of an
//! overlap; but it works on one request after the other, as a single-threaded process would. A request whose
//! connection has gone is worked on to its end all the same. With [`Accept::One`] it reads only while it is idle.
//!
//! Real servers are dynos too ([`Commands`]): each runs behind a tap, which passes bytes on and reads along.

mod fleet;

mod process;

mod command;

mod tap;

mod talk;

mod dynos;

mod work;

mod temper;

mod seen;

mod door;

mod behaviour;

pub use behaviour::{Accept, Behaviour, Crash, Pauses, WarmUp};
pub use command::{Commands, keep};
pub use door::Door;
pub(crate) use dynos::Dynos;
pub(crate) use fleet::Crew;
pub use fleet::{Fleet, Place};
pub use process::serve;
pub use seen::{Overlap, Seen, Tell, Who};
