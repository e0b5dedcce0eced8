//! Steps 3 and 4 as a caller sees them: a future that ends in a lease or a fault. Dropping it leaves the line.
//!
//! *Shared:* the place in line, with whoever checks a dyno in. *Lock:* the app's, for each poll. *Wakes:* nobody.
//! *Cancel:* a dropped ticket leaves the line in O(1); a dyno that had been granted to it goes to the next in line.
//! *Never:* a grant that nobody takes.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use crate::fault::Fault;
use crate::router::AppRef;
use crate::router::lease::Lease;
use crate::router::shared::{Entered, InLine};

/// A request's place in line. Await it for the [`Lease`].
///
/// A ticket has no timer of its own, because this ring has no runtime: its owner waits no longer than
/// [`deadline`](Self::deadline) and then calls [`expire`](Self::expire). (`router_core::proxy` does.) A request
/// whose owner forgets is refused when it comes to the head of the line after its deadline.
///
/// # Errors
/// The [`Fault`] with which the request was taken out of the line.
///
/// # Cancel safety
/// Dropping a ticket at any time leaves the line. If a dyno had been granted to it, the next in line gets the dyno.
#[must_use = "a ticket that is dropped leaves the line"]
pub struct Ticket(State);

enum State {
    Granted(Lease),
    InLine(AppRef, InLine),
    Over,
}

impl Ticket {
    pub(crate) fn new(app: AppRef, entered: Entered) -> Self {
        Self(match entered {
            Entered::Granted(granted) => State::Granted(Lease::new(app, granted)),
            Entered::InLine(place) => State::InLine(app, place),
        })
    }

    pub(crate) fn in_line(app: AppRef, place: InLine) -> Self {
        Self(State::InLine(app, place))
    }

    /// When the request has waited long enough; `None` if it need not wait (any more). It moves when its line is paused
    /// or resumed: ask again when it has come.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.0 {
            State::InLine(app, place) => app.shared().deadline(*place),
            State::Granted(_) | State::Over => None,
        }
    }

    /// Ends the wait now, whether or not its time is up.
    ///
    /// # Errors
    /// The fault that says why the request was not served. A dyno that was granted in the meantime is no fault:
    /// then the result is the lease.
    pub fn expire(mut self) -> Result<Lease, Fault> {
        match std::mem::replace(&mut self.0, State::Over) {
            State::InLine(app, place) => {
                let granted = app.shared().expire(place)?;
                Ok(Lease::new(app, granted))
            }
            State::Granted(lease) => Ok(lease),
            State::Over => Err(Fault::Platform),
        }
    }
}

impl Future for Ticket {
    type Output = Result<Lease, Fault>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let State::InLine(app, place) = &self.0 {
            let Some(told) = app.shared().poll(*place, cx.waker()) else { return Poll::Pending };
            let app = app.clone();
            self.0 = State::Over;
            return Poll::Ready(told.map(|granted| Lease::new(app, granted)));
        }
        match std::mem::replace(&mut self.0, State::Over) {
            State::Granted(lease) => Poll::Ready(Ok(lease)),
            // A future is not polled after it has ended; if it is, the answer is at least not a panic.
            State::InLine(..) | State::Over => Poll::Ready(Err(Fault::Platform)),
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // A lease that nobody took checks its dyno in by itself.
        if let State::InLine(app, place) = std::mem::replace(&mut self.0, State::Over) {
            app.shared().cancel(place);
        }
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            State::Granted(_) => "Ticket(granted)",
            State::InLine(..) => "Ticket(in line)",
            State::Over => "Ticket(over)",
        })
    }
}
