//! How an app binds clients to dynos.

use std::time::Duration;

use data_encoding::HEXLOWER;
use ring::digest::{SHA256, digest};

use super::Checker;
use crate::config::Secret;
use crate::config::error::Problem;
use crate::config::file;
use crate::config::sticky::Sticky;
use crate::config::trail::{read_secret, usable};
use crate::config::units::Period;
use crate::config::walk::clip;

/// How long a request waits for its dyno unless something else is written.
const WAIT: Duration = Duration::from_millis(200);
/// A secret has at least this many bytes.
const SECRET_MIN: usize = 16;

impl Checker<'_> {
    pub(super) fn sticky(&mut self, file: &file::Sticky) -> Option<Sticky> {
        let allowed = "letters, digits and the signs of a token, at most 100";
        let cookie = self.text("sticky.cookie", &file.cookie, allowed, |text| {
            let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
            let good = text.len() <= 100 && text.bytes().all(token);
            good.then(|| text.to_owned()).ok_or("this cannot be the name of a cookie")
        });
        let secret = self.sticky_secret(file);
        let mark =
            secret.as_ref().map(|secret| HEXLOWER.encode(&digest(&SHA256, secret.expose()).as_ref()[..4]));
        let wait = file.wait.or(Period(WAIT)).0;
        let cookie = cookie.filter(|cookie| !cookie.is_empty())?;
        Some(Sticky { cookie, wait, secret, mark })
    }

    fn sticky_secret(&mut self, file: &file::Sticky) -> Option<Secret> {
        let path = file.secret_file.value().filter(|path| !path.is_empty())?;
        let path = self.folder.join(path);
        let secret = read_secret(&path).and_then(usable).and_then(|secret| match secret.expose().len() {
            SECRET_MIN.. => Ok(secret),
            _ => Err(format!("the secret has less than {SECRET_MIN} bytes")),
        });
        let why = match secret {
            Ok(secret) => return Some(secret),
            Err(why) => why,
        };
        let problem = Problem::new(file.secret_file.span()?, format!("sticky.secret_file: {why}"));
        self.problem(problem.found(format!("this is {}", clip(&path.display().to_string()))));
        None
    }
}
