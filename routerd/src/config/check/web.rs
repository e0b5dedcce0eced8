//! What an app shows the world: its error pages and redirects.

use http::StatusCode;
use router_core::proxy::Taste;
use toml::Spanned;

use super::Checker;
use crate::config::error::Problem;
use crate::config::file;
use crate::config::key::Key;
use crate::config::pages::{ErrorPage, On, Template};
use crate::config::redirects::{From, Redirect, To, leads_in_a_circle};
use crate::config::walk::clip;
use crate::config::web::Web;

impl Checker<'_> {
    /// `hosts` are the app's, in one form.
    pub(super) fn web(&mut self, name: &str, app: &file::App, hosts: &[String]) -> Web {
        let pages = app.error_pages.iter().filter_map(|page| self.error_page(page)).collect();
        let redirects = self.redirects(&app.redirects, hosts);
        Web {
            pages,
            redirects,
            auth: self.basic_auth(name, &app.basic_auth),
            sticky: self.sticky(&app.sticky),
            compression: self.compression(app),
        }
    }

    fn error_page(&mut self, written: &Spanned<file::ErrorPage>) -> Option<ErrorPage> {
        let (span, file) = (written.span(), written.get_ref());
        let mut on = Vec::new();
        for text in file.on.value().into_iter().flatten() {
            match On::parse(text.as_str()) {
                Ok(what) => on.push(what),
                Err(why) => {
                    let problem = Problem::new(text.span(), format!("error_pages.on: {why}"));
                    let problem = problem.found(format!("found \"{}\"", clip(text.as_str())));
                    self.problem(problem.help(format!("allowed: {}", On::ALLOWED)));
                }
            }
        }
        if file.on.value().is_none() && self.whole {
            let problem = Problem::new(span.clone(), "error_pages: it is not said for which faults");
            self.problem(problem.help(r#"add on = ["5xx"]"#));
        }
        if file.html.value().is_none() && file.json.value().is_none() && self.whole {
            let problem = Problem::new(span, "error_pages: there is no page");
            self.problem(problem.help(r#"add html = "sorry.html", json = "sorry.json", or both"#));
        }
        let html = self.template("html", &file.html, Taste::Html);
        let json = self.template("json", &file.json, Taste::Json);
        Some(ErrorPage { on, html, json })
    }

    fn template(&mut self, name: &str, key: &Key<String>, taste: Taste) -> Option<Template> {
        let path = self.folder.join(key.value()?);
        let found = format!("this is {}", clip(&path.display().to_string()));
        match Template::load(path, taste) {
            Ok(template) => Some(template),
            Err(why) => {
                self.problem(Problem::new(key.span()?, format!("error_pages.{name}: {why}")).found(found));
                None
            }
        }
    }

    fn redirects(&mut self, written: &[Spanned<file::Redirect>], hosts: &[String]) -> Vec<Redirect> {
        let (mut rules, mut spans) = (Vec::new(), Vec::new());
        for redirect in written {
            let read = self.redirect(redirect);
            let Some(rule) = read else { continue };
            if let Some(host) = rule.host()
                && !hosts.iter().any(|own| takes(own, host))
                && self.whole
            {
                let message = format!("redirects.from: {host} is none of the app's hosts");
                let span = redirect.get_ref().from.span().unwrap_or_else(|| redirect.span());
                self.problem(
                    Problem::new(span, message).help("add it to `hosts`, so that its requests come here"),
                );
            }
            rules.push(rule);
            spans.push(redirect.span());
        }
        let own =
            |host: &str| hosts.iter().any(|own| !own.starts_with("*/") && own != "*" && takes(own, host));
        for (at, span) in spans.into_iter().enumerate() {
            if leads_in_a_circle(&rules, at, own) {
                let problem = Problem::new(span, "redirects: this leads in a circle");
                self.problem(problem.found(rules[at].to_string()));
            }
        }
        rules
    }

    fn redirect(&mut self, written: &Spanned<file::Redirect>) -> Option<Redirect> {
        let file = written.get_ref();
        for (name, key) in [("from", &file.from), ("to", &file.to)] {
            if key.value().is_none() && self.whole {
                let problem = Problem::new(written.span(), format!("redirects: {name} is missing"));
                self.problem(problem.help(r#"add it, as in { from = "/old/*", to = "/new/*" }"#));
            }
        }
        let from = self.place("from", &file.from, r#""/old", "/old/*" or "www.shop.test""#, From::parse);
        let to = self.place("to", &file.to, r#""/new", "/new/*" or "https://shop.test/*""#, To::parse);
        let status = file.status.or(308);
        if !matches!(status, 301 | 302 | 303 | 307 | 308) {
            let problem =
                Problem::new(file.status.span()?, "redirects.status: this status sends nobody elsewhere");
            self.problem(problem.found(format!("found {status}")).help("allowed: 301, 302, 303, 307, 308"));
            return None;
        }
        match Redirect::new(from?, to?, StatusCode::from_u16(status).ok()?) {
            Ok(redirect) => Some(redirect),
            Err(why) => {
                self.problem(Problem::new(written.span(), format!("redirects: {why}")));
                None
            }
        }
    }

    fn place<T>(
        &mut self,
        name: &str,
        key: &Key<String>,
        allowed: &str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = key.value()?;
        match read(text) {
            Ok(value) => Some(value),
            Err(why) => {
                let problem = Problem::new(key.span()?, format!("redirects.{name}: {why}"));
                let problem = problem.found(format!("found \"{}\"", clip(text)));
                self.problem(problem.help(format!("allowed: {allowed}")));
                None
            }
        }
    }
}

/// Whether an app with that pattern among its hosts gets requests for the host.
fn takes(pattern: &str, host: &str) -> bool {
    let pattern = pattern.split('/').next().unwrap_or_default();
    match pattern.strip_prefix('*') {
        Some("") => true,
        Some(below) => host.strip_suffix(below).is_some_and(|name| !name.is_empty()),
        None => pattern == host,
    }
}
