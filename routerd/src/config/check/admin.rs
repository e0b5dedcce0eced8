//! The admin listener: its address, its tokens, its certificate, and that strangers cannot reach it without them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::UNIX_EPOCH;

use super::{Checker, NO_PATH, Taken, socket_path};
use crate::config::access::{Scope, is_name};
use crate::config::error::Problem;
use crate::config::file;
use crate::config::key::Key;
use crate::config::tls::{Tls, TlsError};
use crate::config::token::{Token, TokenHash};
use crate::config::walk::clip;
use crate::config::{Admin, AdminListen};

impl Checker<'_> {
    pub(super) fn admin(&mut self, file: &file::Admin, taken: &mut Taken<SocketAddr>) -> Admin {
        let listen = self.admin_listen(file, taken);
        let tokens = self.tokens(&file.tokens);
        let written = file.tls.cert.span().or_else(|| file.tls.key.span());
        let tls = self.tls(&file.tls);
        match (&listen, file.listen.span()) {
            (AdminListen::Tcp(address), Some(span)) if !address.ip().to_canonical().is_loopback() => {
                // What was wrong and is taken out is not missing.
                let safe = !tokens.is_empty() && tls.is_some();
                if !safe && self.whole && (file.tokens.is_empty() || written.is_none()) {
                    let message =
                        format!("admin.listen: other machines reach {address}: it needs tokens and tls");
                    let missing = match (file.tokens.is_empty(), written.is_none()) {
                        (true, true) => "there is neither",
                        (true, false) => "there is no token",
                        _ => "there is no tls",
                    };
                    self.problems.push(Problem::new(span, message).found(missing).help(
                        "add [[admin.tokens]] (see routerd token --help) and tls = { cert = FILE, key = FILE }, \
                         or listen on 127.0.0.1 or a unix: socket",
                    ));
                }
            }
            (AdminListen::Unix(_), _) => {
                if let Some(span) = written {
                    let problem =
                        Problem::new(span, "admin.tls: a unix: socket has no TLS").found("written here");
                    self.problems.push(problem.help("the mode of the socket says who may ask; take tls out"));
                }
            }
            (AdminListen::Tcp(_), _) => {}
        }
        Admin { listen, tokens, tls }
    }

    fn admin_listen(&mut self, file: &file::Admin, taken: &mut Taken<SocketAddr>) -> AdminListen {
        let (Some(text), Some(span)) = (file.listen.value(), file.listen.span()) else {
            return AdminListen::default();
        };
        if let Some(path) = socket_path(text) {
            return AdminListen::Unix(path);
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            self.listener(address, span, taken);
            return AdminListen::Tcp(address);
        }
        let why = if text.starts_with("unix:") { NO_PATH } else { "this is no address with a port" };
        let problem =
            Problem::new(span, format!("admin.listen: {why}")).found(format!("found \"{}\"", clip(text)));
        self.problems.push(problem.help(r#"allowed: "127.0.0.1:9900" or "unix:/run/routerd.sock""#));
        AdminListen::default()
    }

    fn tokens(&mut self, file: &[toml::Spanned<file::Token>]) -> Vec<Token> {
        let mut tokens = Vec::new();
        let (mut names, mut hashes) = (BTreeMap::new(), BTreeMap::new());
        for token in file {
            let (span, token) = (token.span(), token.get_ref());
            let name =
                self.needed(&token.name, "name", span.clone(), "letters, digits, -, _ and .", |name| {
                    is_name(name).then(|| name.to_owned())
                });
            let hash = self.needed(&token.hash, "hash", span.clone(), TokenHash::ALLOWED, TokenHash::parse);
            if token.role.value().is_none() && self.whole {
                let problem = Problem::new(span.clone(), "admin.tokens: role is missing");
                self.problems.push(problem.help(r#"allowed: "read", "deploy" or "admin""#));
            }
            self.twice("name", &token.name, &mut names);
            self.twice("hash", &token.hash, &mut hashes);
            let (apps, expires) = (self.scope(token), self.expires(&token.expires));
            if let (Some(name), Some(hash), Some(role), Some(apps)) = (name, hash, token.role.value(), apps) {
                tokens.push(Token { name, hash, role: *role, apps, expires });
            }
        }
        tokens
    }

    /// A key without which a token is none.
    fn needed<T>(
        &mut self,
        key: &Key<String>,
        name: &str,
        token: Range<usize>,
        allowed: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let (Some(text), Some(span)) = (key.value(), key.span()) else {
            if self.whole {
                let problem = Problem::new(token, format!("admin.tokens: {name} is missing"));
                self.problems.push(problem.help(format!("allowed: {allowed}")));
            }
            return None;
        };
        let value = read(text);
        if value.is_none() {
            // What was written in the place of a hash may be the token itself.
            let found = if name == "hash" {
                "found something else".to_owned()
            } else {
                format!("found \"{}\"", clip(text))
            };
            let problem = Problem::new(span, format!("admin.tokens.{name}: this is none")).found(found);
            self.problems.push(problem.help(format!("allowed: {allowed}")));
        }
        value
    }

    /// Two tokens with one name could not be told apart in the trail; one token with two names has two roles.
    fn twice<'f>(&mut self, name: &str, key: &'f Key<String>, seen: &mut BTreeMap<&'f str, Range<usize>>) {
        let (Some(text), Some(span)) = (key.value(), key.span()) else { return };
        if let Some(first) = seen.get(text.as_str()) {
            let problem = Problem::new(span, format!("admin.tokens: two tokens with one {name}"));
            self.problems.push(problem.found("second time").other(first.clone(), "first time"));
        } else {
            seen.insert(text, span);
        }
    }

    /// The apps that a token has a say over.
    fn scope(&mut self, token: &file::Token) -> Option<Scope> {
        let Some(apps) = token.apps.value() else { return Some(Scope::All) };
        for app in apps {
            if Scope::parse([app.as_str()]).is_err() {
                let problem = Problem::new(app.span(), "admin.tokens.apps: this names no app");
                let problem = problem.found(format!("found \"{}\"", clip(app.as_str())));
                self.problems.push(problem.help(format!("allowed: {}", Scope::ALLOWED)));
            }
        }
        Scope::parse(apps.iter().map(|app| app.as_str())).ok()
    }

    fn expires(&mut self, key: &Key<String>) -> Option<std::time::Duration> {
        let (text, span) = (key.value()?, key.span()?);
        let time = humantime::parse_rfc3339(text).ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        if time.is_none() {
            let problem = Problem::new(span, "admin.tokens.expires: this is no time");
            let problem = problem.found(format!("found \"{}\"", clip(text)));
            self.problems
                .push(problem.help(r#"allowed: a time in UTC as in RFC 3339, "2027-01-31T00:00:00Z""#));
        }
        time
    }

    fn tls(&mut self, file: &file::TlsFiles) -> Option<Tls> {
        let (cert, key) = match (file.cert.value(), file.key.value()) {
            (Some(cert), Some(key)) => (self.folder.join(cert), self.folder.join(key)),
            (None, None) => return None,
            (one, _) => {
                let missing = if one.is_none() { "cert" } else { "key" };
                if let Some(span) = file.cert.span().or_else(|| file.key.span()).filter(|_| self.whole) {
                    let problem =
                        Problem::new(span, format!("admin.tls: {missing} is missing")).found("written here");
                    self.problems.push(problem.help("cert and key are needed, each a PEM file"));
                }
                return None;
            }
        };
        let (name, span, path, why) = match Tls::load(&cert, &key) {
            Ok(tls) => return Some(tls),
            Err(TlsError::Cert(why)) => ("cert", file.cert.span(), cert, why),
            Err(TlsError::Key(why)) => ("key", file.key.span(), key, why),
        };
        if let Some(span) = span {
            let found = format!("this is {}", clip(&path.display().to_string()));
            self.problems.push(Problem::new(span, format!("admin.tls.{name}: {why}")).found(found));
        }
        None
    }
}
