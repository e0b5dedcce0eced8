//! Dynos that are not found somewhere but started for a deploy: what a grid of processes and a deploy tell each other.

use std::future::Future;
use std::pin::Pin;

use router_core::change::DynoSpec;
use router_core::ids::{Address, AppId};
use tokio::sync::mpsc;

use super::run::Prober;

/// Dynos that have been started for a deploy.
pub(crate) struct Grown {
    /// Each of them, by the address that it will have.
    pub(crate) dynos: Vec<DynoSpec>,
    /// Says whether one is ready.
    pub(crate) prober: Prober,
    /// Those that died, and how.
    pub(crate) crashes: mpsc::UnboundedReceiver<(Address, String)>,
    /// Told how it came out.
    pub(crate) verdict: Verdict,
}

/// Takes whether the dynos stay, and is done when those that do not stay are no longer told of as dynos.
pub(crate) type Verdict = Box<dyn FnOnce(bool) -> Told + Send + Sync>;
/// A verdict being carried out.
pub(crate) type Told = Pin<Box<dyn Future<Output = ()> + Send>>;
/// Dynos being started.
pub(crate) type Growing = Pin<Box<dyn Future<Output = Result<Grown, String>> + Send>>;

/// Whoever starts the dynos of an app.
pub(crate) trait Grower: Send + Sync + 'static {
    /// The app.
    fn app(&self) -> &AppId;

    /// Starts as many dynos as there are, beside them. `anew`: what is started may have changed, look again.
    fn grow(&self, anew: bool) -> Growing;
}
