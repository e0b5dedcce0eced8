//! What two daemons say to each other while one takes over from the other, and what can go wrong.
//!
//! | the new one | the old one | if the new one ends there |
//! |---|---|---|
//! | `Hello` | `Sockets`, with the listening sockets, or `Refused` | the old one goes on |
//! | (starts; accepts nothing) `Ready`, or `Failed` | (holds still, frees files) `Commit` | the old one goes on |
//! | (accepts) `Serving` | (lets its connections end) `Committed` | the new one serves |
//! | | `Yours`, for each dyno that is free of its last request | the old one takes them back for what it finishes |
//! | `Yours`, when it can | `Want`, if a late request finds no dyno | the same |
//! | | closes, once nothing is left | |
//!
//! If the old one dies after `Sockets`, the new one serves and takes what is left, as soon as it could accept. If it is
//! told to end before the new one serves, it says `Refused`, and the new one ends too.

pub(crate) mod wire;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use percent_encoding::{AsciiSet, CONTROLS, percent_encode};
use router_core::ids::{Address, AppId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::audit::Seq;
use crate::deploys::book::{Book, Wanted};
use crate::inherit::Place;

/// What this program speaks. Another number is refused.
pub(crate) const VERSION: u32 = 1;
/// The longest path of a socket that the system takes.
const PATH_MAX: usize = 107;
/// What no file name may have, and what marks it.
const IN_NAMES: &AsciiSet = &CONTROLS.add(b'/').add(b'%').add(b' ');

/// One word of the hand-over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub(crate) enum Message {
    /// The new one begins.
    Hello { version: u32 },
    /// The old one goes on.
    Refused { why: String },
    /// The old one's listening sockets, which come along, and its dynos.
    /// It may be that the new one does not understand the estate, so it is looked at apart.
    Sockets { sockets: Vec<Described>, dynos: Vec<Address>, estate: Value },
    /// The new one cannot start.
    Failed { why: String },
    /// The new one could accept.
    Ready,
    /// The new one shall accept. These dynos are still the old one's; files are not.
    Commit { dynos: Vec<Address>, ordered: Ordered },
    /// The new one accepts.
    Serving,
    /// The old one ends.
    Committed,
    /// The other has this dyno from now on.
    Yours { dyno: Address },
    /// A request waits for one of these.
    Want { dynos: Vec<Address> },
}

/// A socket that comes along.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Described {
    pub(crate) place: Place,
    pub(crate) file_stays: bool,
}

/// What the old one has decided, and what it runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Estate {
    pub(crate) book: Book,
    pub(crate) running: BTreeMap<AppId, Wanted>,
}

/// Who has asked for the hand-over, and where the audit trail says so: the new one writes there that it is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ordered {
    pub(crate) by: String,
    pub(crate) audit: Option<Begun>,
}

/// A line in an audit trail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Begun {
    pub(crate) seq: Seq,
    pub(crate) file: PathBuf,
}

impl Ordered {
    pub(crate) fn new(by: String, seq: Option<Seq>, file: Option<&Path>) -> Self {
        let audit = seq.zip(file).map(|(seq, file)| Begun { seq, file: file.to_owned() });
        Self { by, audit }
    }
}

/// How far a daemon is with handing over.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stage {
    /// It serves. With why the last attempt to take over from it came to nothing.
    Alone(Option<String>),
    /// It serves, and the one before it still has dynos.
    Taking,
    /// Another one is about to take over; until it serves, this one goes on.
    Talking,
    /// Another process serves, and this one finishes what it has.
    HandedOver {
        /// The other process, if the system tells.
        pid: Option<i32>,
        /// This one has nothing left.
        over: bool,
    },
}

impl Stage {
    /// Whether another process serves.
    pub fn is_handed_over(&self) -> bool {
        matches!(self, Self::HandedOver { .. })
    }

    /// Whether another process serves, and this one has nothing left.
    pub fn is_over(&self) -> bool {
        matches!(self, Self::HandedOver { over: true, .. })
    }

    /// This process has nothing left, if another one serves. Says whether that is new.
    pub(crate) fn end(&mut self) -> bool {
        match self {
            Self::HandedOver { over, .. } => !std::mem::replace(over, true),
            Self::Alone(_) | Self::Taking | Self::Talking => false,
        }
    }
}

/// Why no hand-over came of it.
#[derive(Debug)]
#[non_exhaustive]
pub enum HandoverError {
    /// Nobody hands over at that socket.
    Nobody(PathBuf, io::Error),
    /// The other side runs as another user.
    Stranger(u32),
    /// The old one refuses, and says why.
    Refused(String),
    /// The new one cannot start, and says why.
    Failed(String),
    /// The other side speaks another version.
    Version(u32),
    /// The other side has ended.
    Gone,
    /// The other side has said nothing for that long.
    Late(Duration),
    /// This side does not understand what the other one has decided and runs.
    Estate(String),
    /// The other side says what makes no sense here.
    Confused(String),
    /// The system refuses.
    System(io::Error),
}

impl HandoverError {
    pub(crate) fn confused(said: &Message) -> Self {
        Self::Confused(format!("{said:?}"))
    }
}

impl fmt::Display for HandoverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nobody(path, error) => write!(f, "nobody hands over at unix:{}: {error}", path.display()),
            Self::Stranger(uid) => write!(f, "the other process runs as another user, with the uid {uid}"),
            Self::Refused(why) => write!(f, "the process that runs refuses to hand over: {why}"),
            Self::Failed(why) => write!(f, "the new process cannot start: {why}"),
            Self::Version(theirs) => {
                write!(f, "the other process speaks version {theirs} of the hand-over, this one {VERSION}")
            }
            Self::Gone => f.write_str("the other process has ended"),
            Self::Late(bound) => write!(f, "the other process has said nothing for {bound:?}"),
            Self::Estate(why) => {
                write!(f, "what the process that runs has decided is not understood here: {why}")
            }
            Self::Confused(what) => write!(f, "the other process says what makes no sense: {what}"),
            Self::System(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for HandoverError {}

impl From<io::Error> for HandoverError {
    fn from(error: io::Error) -> Self {
        let gone = matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset);
        if gone { Self::Gone } else { Self::System(error) }
    }
}

/// The hand-over socket of a daemon that runs this configuration file, if `server.handover` names none: `routerd-` and
/// the file's path, with `%2F` for `/`, in the folder for such sockets. `None`: there is no such folder, or the path is
/// too long.
///
/// ```
/// use std::path::Path;
/// use routerd::handover::socket_in;
///
/// let path = socket_in(Path::new("/run/user/1000"), Path::new("/etc/routerd/shop.toml"));
/// assert_eq!(path.as_deref(), Some(Path::new("/run/user/1000/routerd-etc%2Frouterd%2Fshop.toml.sock")));
/// ```
pub fn default_socket(config: &Path) -> Option<PathBuf> {
    // systemd may name several.
    let folder = |name: &str| {
        let value = std::env::var_os(name)?;
        std::env::split_paths(&value).next().filter(|path| path.is_absolute())
    };
    let roots = || rustix::process::geteuid().is_root().then(|| PathBuf::from("/run"));
    let folder = folder("RUNTIME_DIRECTORY").or_else(|| folder("XDG_RUNTIME_DIR")).or_else(roots)?;
    socket_in(&folder, config)
}

/// The same in a given folder.
pub fn socket_in(folder: &Path, config: &Path) -> Option<PathBuf> {
    let config = std::path::absolute(config).ok()?;
    let name = config.as_os_str().as_encoded_bytes();
    let name = percent_encode(name.strip_prefix(b"/").unwrap_or(name), IN_NAMES);
    let path = folder.join(format!("routerd-{name}.sock"));
    (path.as_os_str().len() <= PATH_MAX).then_some(path)
}
