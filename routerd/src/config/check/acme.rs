//! Certificates by ACME: what they need of the rest of the file, and what is read from other files.

use std::ops::Range;

use data_encoding::BASE64URL_NOPAD;
use toml::Spanned;

use super::Checker;
use crate::config::acme::{Acme, Ca, Challenge, Eab, hosts, is_directory};
use crate::config::error::Problem;
use crate::config::tls::certificates;
use crate::config::trail::read_secret;
use crate::config::walk::clip;
use crate::config::{App, Edge, file};

impl Checker<'_> {
    pub(super) fn acme(&mut self, written: &Spanned<file::Acme>, apps: &[App], tls: Option<&Edge>) -> Acme {
        let (span, file) = (written.span(), written.get_ref());
        let hosts = hosts(apps, tls);
        self.what_acme_needs(file, &span, tls, &hosts);
        let mut challenges = file.challenges.value().cloned().unwrap_or_default();
        challenges.dedup();
        if challenges.is_empty() {
            challenges = vec![Challenge::TlsAlpn01, Challenge::Http01];
        }
        let directory = self.text("acme.directory", &file.directory, r#""https://ca.test/dir""#, |text| {
            is_directory(text).then(|| text.to_owned()).ok_or("this is no https:// URL")
        });
        let email = self.text("acme.email", &file.email, r#""ops@shop.test""#, |text| {
            let mailbox =
                text.contains('@') && text.len() <= 254 && text.bytes().all(|c| c.is_ascii_graphic());
            // More than one, or headers, is what a mailto: URL could have too.
            (mailbox && !text.contains(['?', ','])).then(|| text.to_owned()).ok_or("this is no mail address")
        });
        Acme {
            directory: directory.unwrap_or_else(|| Acme::DIRECTORY.to_owned()),
            email,
            storage: self.folder.join(file.storage.value().map_or(Acme::STORAGE, String::as_str)),
            challenges,
            renew_before: file.renew_before.value().map(|period| period.0),
            on_demand: file.on_demand.or(false),
            ca: self.acme_ca(file),
            eab: self.eab(file),
            hosts,
        }
    }

    fn what_acme_needs(
        &mut self,
        file: &file::Acme,
        span: &Range<usize>,
        tls: Option<&Edge>,
        hosts: &[String],
    ) {
        if !self.whole {
            return;
        }
        let at = || span.clone();
        if !file.accept_terms.or(false) {
            let place = file.accept_terms.span().unwrap_or_else(at);
            let problem = Problem::new(place, "[acme] needs accept_terms = true");
            self.problem(problem.help("read the CA's terms of service, then add it"));
        }
        match tls {
            None => {
                let problem = Problem::new(at(), "[acme] without [tls]: nobody could be shown a certificate");
                self.problem(problem.help(r#"add [tls] with listen = ["0.0.0.0:443"]"#));
            }
            Some(tls) if hosts.is_empty() && tls.certificates.is_empty() => {
                let problem = Problem::new(at(), "[acme] has no host to order a certificate for");
                self.problem(
                    problem.help(r#"name one in the hosts of an app: "shop.test", not "*" or "*.test""#),
                );
            }
            Some(_) => {}
        }
    }

    fn acme_ca(&mut self, file: &file::Acme) -> Option<Ca> {
        let (path, span) = (file.ca.value()?, file.ca.span()?);
        let path = self.folder.join(path);
        let found = format!("this is {}", clip(&path.display().to_string()));
        match certificates(&path).and_then(|read| Ca::new(path, read)) {
            Ok(ca) => Some(ca),
            Err(why) => {
                self.problem(Problem::new(span, format!("acme.ca: {why}")).found(found));
                None
            }
        }
    }

    fn eab(&mut self, file: &file::Acme) -> Option<Eab> {
        let (kid, path) = (file.eab_kid.value(), file.eab_key_file.value());
        let span = file.eab_key_file.span().or_else(|| file.eab_kid.span())?;
        let (Some(kid), Some(path)) = (kid, path) else {
            if self.whole {
                let problem = Problem::new(span, "acme: eab_kid and eab_key_file go together");
                self.problem(problem.help("give both, or neither"));
            }
            return None;
        };
        let path = self.folder.join(path);
        let key = read_secret(&path).and_then(|text| {
            // Some write it with the padding that it does not have.
            let text = String::from_utf8_lossy(&text);
            let key = BASE64URL_NOPAD.decode(text.trim().trim_end_matches('=').as_bytes());
            // What stands in the file is not repeated.
            key.ok().filter(|key| !key.is_empty()).ok_or_else(|| "the file is no base64url".to_owned())
        });
        match key {
            Ok(key) => Some(Eab::new(kid.clone(), path, key)),
            Err(why) => {
                self.problem(Problem::new(span, format!("acme.eab_key_file: {why}")).found("named here"));
                None
            }
        }
    }
}
