//! What apps show the world, as it is in place: their pages for faults, the cookies that name dynos, compression.

use std::sync::Arc;

use router_core::proxy::{Asking, Failing, Proxy};

use crate::compress::Compressors;
use crate::config::Config;
use crate::pages::Pages;
use crate::sticky::Bindings;

/// What all apps show the world. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Web {
    pages: Pages,
    bindings: Bindings,
    compressors: Compressors,
}

impl Web {
    pub(crate) fn new(config: &Config) -> Self {
        let (pages, bindings, compressors) = (Pages::default(), Bindings::new(), Compressors::new());
        let web = Self { pages, bindings, compressors };
        web.set(config);
        web
    }

    /// Puts a configuration in place, for requests from now on.
    pub(crate) fn set(&self, config: &Config) {
        self.pages.set(config);
        self.bindings.set(config);
        self.compressors.set(config);
    }

    pub(crate) fn on(&self, proxy: Proxy) -> Proxy {
        let (pages, compressors) = (self.pages.clone(), self.compressors.clone());
        proxy
            .with_pages(Arc::new(move |failing: &Failing<'_>| pages.find(failing)))
            .with_sticky(Arc::new(self.bindings.clone()))
            .with_codings(Arc::new(move |asking: &Asking<'_>| compressors.coder(asking)))
    }
}
