//! The keys of bodies on disk.

use std::path::PathBuf;

use router_core::limits::Limits;

use super::Checker;
use crate::config::error::Problem;
use crate::config::units::Size;
use crate::config::{file, spool};

impl Checker<'_> {
    /// Where they are.
    pub(super) fn spool_dir(&self, file: &file::Server) -> PathBuf {
        let written = file.spool_dir.value().filter(|folder| !folder.is_empty());
        written.map_or_else(spool::folder, |folder| self.folder.join(folder))
    }

    /// How many bytes an app may have there.
    pub(super) fn disk(&mut self, app: &file::App, limits: Limits) -> Limits {
        let request = app.request_disk.or(Size(limits.request_disk));
        let response = app.response_disk.or(Size(limits.response_disk));
        let (longer, name) =
            if request > response { (request, "request_disk") } else { (response, "response_disk") };
        let most = app.disk_max.or(Size(limits.disk_max.max(longer.0)));
        if let Some(span) = app.disk_max.span().filter(|_| most < longer) {
            let problem =
                Problem::new(span, format!("disk_max is less than {name}")).found(format!("found {most}"));
            self.problem(problem.help(format!("{name} is {longer}: lower it, or raise this")));
        }
        limits.with_request_disk(request.0).with_response_disk(response.0).with_disk_max(most.0)
    }
}
