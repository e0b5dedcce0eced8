//! What systemd is told of this process, if it asked for it (`Type=notify`, `NOTIFY_SOCKET`).

use sd_notify::NotifyState;

/// It serves, or serves again after a reload.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// It loads its configuration anew; [`ready`] ends that.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!("systemd: {error}"),
    }
}

/// It ends.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Another process is the service from now on.
pub fn main_pid(pid: i32) {
    if let Ok(pid) = u32::try_from(pid) {
        tell(&[NotifyState::MainPid(pid)]);
    }
}

fn tell(states: &[NotifyState<'_>]) {
    // Nobody to tell is no error of it; what cannot be told changes nothing for requests.
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("systemd cannot be told how this process is: {error}");
    }
}
