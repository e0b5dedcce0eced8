//! Which answers of an app are compressed, and how.

use super::Checker;
use crate::config::compression::{Coding, Compression, Kind};
use crate::config::error::Problem;
use crate::config::file;
use crate::config::key::{Key, Text};
use crate::config::units::Size;
use crate::config::walk::clip;

impl Checker<'_> {
    pub(super) fn compression(&mut self, app: &file::App) -> Compression {
        let default = Compression::default();
        let read = |text: &str| Coding::parse(text).ok_or("this is no coding that is known here");
        let codings = self.each("compression", &app.compression, Coding::ALLOWED, read);
        let kinds = self.each("compression_types", &app.compression_types, Kind::ALLOWED, Kind::parse);
        Compression {
            codings: codings.unwrap_or_default(),
            min: app.compression_min.or(Size(default.min)).0,
            kinds: kinds.unwrap_or(default.kinds),
        }
    }

    /// The entries of a list, if it is written; none may be there twice.
    fn each<T: PartialEq>(
        &mut self,
        name: &str,
        key: &Key<Vec<Text>>,
        allowed: &str,
        read: impl Fn(&str) -> Result<T, &'static str>,
    ) -> Option<Vec<T>> {
        let mut found = Vec::new();
        for text in key.value()? {
            let read = read(text.as_str()).and_then(|entry| match found.contains(&entry) {
                true => Err("this is there twice"),
                false => Ok(entry),
            });
            match read {
                Ok(entry) => found.push(entry),
                Err(why) => {
                    let problem = Problem::new(text.span(), format!("{name}: {why}"));
                    let problem = problem.found(format!("found \"{}\"", clip(text.as_str())));
                    self.problem(problem.help(format!("allowed: {allowed}")));
                }
            }
        }
        Some(found)
    }
}
