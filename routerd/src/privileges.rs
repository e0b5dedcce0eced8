//! From root to another user: opens what only root may open, and gives the rest up for good.
//!
//! Files, the other sockets and whatever comes later are opened by the new user, so that they can be opened again after
//! a reload or a restart.

use std::ffi::CString;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use nix::unistd::{Gid, Group, Uid, User, geteuid, initgroups, setgid, setuid};

use crate::accept::open;
use crate::config::{AdminListen, Config};
use crate::inherit::{Inherited, Passed, Place};

/// Who the process becomes.
struct Target {
    uid: Uid,
    gid: Gid,
    /// Whose further groups it gets.
    name: CString,
}

/// Why the process cannot become another user.
#[derive(Debug)]
pub enum PrivilegeError {
    /// There is no such user.
    NoUser(String),
    /// There is no such group.
    NoGroup(String),
    /// An address cannot be listened on.
    Listen(SocketAddr, io::Error),
    /// The system has refused it.
    System(&'static str, io::Error),
    /// It could become root again.
    Reversible,
}

/// If the configuration names a user: opens the listeners (except those that are there already, or `taken_over` from
/// another process) and becomes that user, with its groups and no others. Not root, it says so and goes on as it is.
///
/// # Errors
/// Why that is not possible: then nothing must be served, because it would be served by root.
pub fn drop_to_user(
    config: &Config,
    sockets: Inherited,
    taken_over: bool,
) -> Result<Inherited, PrivilegeError> {
    let Some(user) = &config.server.user else { return Ok(sockets) };
    let target = Target::find(user, config.server.group.as_deref())?;
    let now = geteuid();
    if !now.is_root() {
        if now != target.uid {
            tracing::error!("server.user: only root can become {user}; going on as user {now}");
        }
        return Ok(sockets);
    }
    let sockets = if taken_over { sockets } else { listeners(config, sockets)? };
    target.become_it()?;
    tracing::info!("running as {user}");
    Ok(sockets)
}

/// The listeners of the configuration, besides those that are there.
fn listeners(config: &Config, sockets: Inherited) -> Result<Inherited, PrivilegeError> {
    let admin = config.admin.as_ref().and_then(|admin| match &admin.listen {
        AdminListen::Tcp(address) => Some(*address),
        AdminListen::Unix(_) => None,
    });
    let mut opened = Vec::new();
    for address in config.server.listen.iter().copied().chain(admin) {
        let place = Place::Tcp(address);
        if !sockets.has(&place) {
            let socket = open(address).map_err(|error| PrivilegeError::Listen(address, error))?;
            opened.push(Passed { place, socket: OwnedFd::from(socket), file_stays: false });
        }
    }
    Ok(sockets.after(Inherited::new(opened)))
}

impl Target {
    fn find(user: &str, group: Option<&str>) -> Result<Self, PrivilegeError> {
        let asked = |error: nix::Error| PrivilegeError::System("looking a name up", error.into());
        let found = User::from_name(user).map_err(asked)?;
        let found = found.ok_or_else(|| PrivilegeError::NoUser(user.to_owned()))?;
        let gid = match group {
            None => found.gid,
            Some(group) => {
                let found = Group::from_name(group).map_err(asked)?;
                found.ok_or_else(|| PrivilegeError::NoGroup(group.to_owned()))?.gid
            }
        };
        let name = CString::new(user).map_err(|_| PrivilegeError::NoUser(user.to_owned()))?;
        Ok(Self { uid: found.uid, gid, name })
    }

    /// Groups while it still may, then the user, in all threads.
    fn become_it(&self) -> Result<(), PrivilegeError> {
        let failed = |step| move |error: nix::Error| PrivilegeError::System(step, error.into());
        initgroups(&self.name, self.gid).map_err(failed("setgroups"))?;
        setgid(self.gid).map_err(failed("setgid"))?;
        setuid(self.uid).map_err(failed("setuid"))?;
        // Root to root gives nothing up, and says so.
        if setuid(Uid::from_raw(0)).is_ok() {
            return Err(PrivilegeError::Reversible);
        }
        Ok(())
    }
}

impl fmt::Display for PrivilegeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoUser(name) => write!(f, "server.user: there is no user {name:?}"),
            Self::NoGroup(name) => write!(f, "server.group: there is no group {name:?}"),
            Self::Listen(address, error) => write!(f, "cannot listen on {address}: {error}"),
            Self::System(step, error) => write!(f, "server.user: {step}: {error}"),
            Self::Reversible => f.write_str("server.user: the process could become root again"),
        }
    }
}

impl std::error::Error for PrivilegeError {}
