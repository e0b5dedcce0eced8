//! The pages of all apps that have their own for faults.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use router_core::ids::AppId;
use router_core::proxy::Failing;

use crate::config::Config;
use crate::config::pages::{self, ErrorPage};

/// The pages of all apps that have some. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Pages(Arc<ArcSwap<HashMap<AppId, Vec<ErrorPage>>>>);

impl Pages {
    /// Puts the pages of a configuration in place, for faults from now on.
    pub(crate) fn set(&self, config: &Config) {
        let apps = config.apps.iter().filter(|app| !app.web.pages.is_empty());
        let pages = apps.map(|app| (app.spec.id.clone(), app.web.pages.clone()));
        self.0.store(Arc::new(pages.collect()));
    }

    pub(crate) fn find(&self, failing: &Failing<'_>) -> Option<Vec<Bytes>> {
        let apps = self.0.load();
        let template = pages::find(apps.get(failing.app)?, failing.fault, failing.taste)?;
        Some(template.fill(failing.fault, failing.request_id))
    }
}
