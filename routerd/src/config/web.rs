//! What an app shows the world: its own pages for faults, what it sends elsewhere, to whom, by which dyno, in which
//! coding.

use super::auth::BasicAuth;
use super::compression::Compression;
use super::pages::ErrorPage;
use super::redirects::Redirect;
use super::sticky::Sticky;

/// What an app shows the world. The keys are described in [`super::file::App`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Web {
    /// `error_pages`
    pub pages: Vec<ErrorPage>,
    /// `redirects`, in the order in which they are asked.
    pub redirects: Vec<Redirect>,
    /// `basic_auth`
    pub auth: Option<BasicAuth>,
    /// `sticky`
    pub sticky: Option<Sticky>,
    /// `compression`, `compression_min`, `compression_types`
    pub compression: Compression,
}
