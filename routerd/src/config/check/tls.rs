//! TLS in front: its addresses, certificates, and who signs the certificates of clients.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use router_core::encryption::{Encryption, Secured};
use rustls::pki_types::ServerName;
use toml::Spanned;

use super::{Checker, Taken};
use crate::config::cert::Certificate;
use crate::config::edge::{ClientAuth, ClientCa, Edge, MinVersion, Unnamed};
use crate::config::error::Problem;
use crate::config::file;
use crate::config::tls::{TlsError, certificates};
use crate::config::units::Period;
use crate::config::upstream::secure;
use crate::config::walk::clip;

/// Where it listens unless something else is written.
const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8443);

impl Checker<'_> {
    pub(super) fn edge(&mut self, file: &Spanned<file::Edge>, taken: &mut Taken<SocketAddr>) -> Edge {
        let (span, file) = (file.span(), file.get_ref());
        let mut listen = Vec::new();
        for text in file.listen.value().into_iter().flatten() {
            match text.as_str().parse::<SocketAddr>() {
                Ok(address) => {
                    self.listener(address, text.span(), taken);
                    listen.push(address);
                }
                Err(_) => self.no_address(text, "tls.listen", r#""127.0.0.1:8443" or "[::]:443""#),
            }
        }
        if file.listen.value().is_none() {
            self.listener(LISTEN, span.clone(), taken);
            listen.push(LISTEN);
        }
        if file.certificates.is_empty() && self.whole {
            let problem = Problem::new(span, "[tls] has no certificates");
            self.problem(problem.help(r#"add certificates = [{ cert = "shop.pem", key = "shop.key" }]"#));
        }
        let default = file.default.or(Unnamed::default());
        let client_auth = file.client_auth.or(ClientAuth::default());
        Edge {
            listen,
            certificates: self.certificates(&file.certificates, default),
            default,
            min_version: file.min_version.or(MinVersion::default()),
            handshake_timeout: file.handshake_timeout.or(Period(Edge::HANDSHAKE_TIMEOUT)).0,
            handshakes: super::count(&file.handshakes, 0),
            client_auth,
            client_ca: self.client_ca(file, client_auth),
        }
    }

    fn certificates(&mut self, file: &[Spanned<file::TlsFiles>], default: Unnamed) -> Vec<Arc<Certificate>> {
        let (mut found, mut seen) = (Vec::new(), BTreeMap::new());
        for pair in file {
            let (whole, pair) = (pair.span(), pair.get_ref());
            let (Some(cert), Some(key)) = (pair.cert.value(), pair.key.value()) else {
                let missing = if pair.cert.value().is_none() { "cert" } else { "key" };
                if self.whole {
                    let problem = Problem::new(whole, format!("tls.certificates: {missing} is missing"));
                    self.problem(problem.help("cert and key are needed, each a PEM file"));
                }
                continue;
            };
            let (cert, key) = (self.folder.join(cert), self.folder.join(key));
            if let Some(first) = seen.get(&cert) {
                let problem = Problem::new(whole, "tls.certificates: one certificate twice");
                self.problem(problem.found("second time").other(std::ops::Range::clone(first), "first time"));
                continue;
            }
            seen.insert(cert.clone(), whole.clone());
            let (name, span, path, why) = match Certificate::load(&cert, &key) {
                Ok(certificate) if certificate.names.is_empty() && default == Unnamed::Strict => {
                    let why = "it has no names (subjectAltName), so with default = \"strict\" nobody gets it";
                    ("cert", pair.cert.span(), cert, why.to_owned())
                }
                Ok(certificate) => {
                    found.push(Arc::new(certificate));
                    continue;
                }
                Err(TlsError::Cert(why)) => ("cert", pair.cert.span(), cert, why),
                Err(TlsError::Key(why)) => ("key", pair.key.span(), key, why),
            };
            let shown = format!("this is {}", clip(&path.display().to_string()));
            let problem = Problem::new(span.unwrap_or(whole), format!("tls.certificates.{name}: {why}"));
            self.problem(problem.found(shown));
        }
        found
    }

    fn client_ca(&mut self, file: &file::Edge, auth: ClientAuth) -> Option<ClientCa> {
        let (path, span) = match (file.client_ca.value(), file.client_ca.span(), auth) {
            (None, ..) | (_, None, _) if auth != ClientAuth::Off => {
                if let Some(span) = file.client_auth.span().filter(|_| self.whole) {
                    let problem =
                        Problem::new(span, "tls.client_auth needs tls.client_ca").found("written here");
                    self.problem(
                        problem.help(r#"add client_ca = "ca.pem": who signs the certificates of clients"#),
                    );
                }
                return None;
            }
            (Some(_), Some(span), ClientAuth::Off) => {
                let problem = Problem::new(span, "tls.client_ca: clients are not asked for certificates");
                let help = r#"add client_auth = "optional" or "required", or take this out"#;
                self.problem(problem.found("written here").help(help));
                return None;
            }
            (Some(path), Some(span), _) => (self.folder.join(path), span),
            _ => return None,
        };
        let found = format!("this is {}", clip(&path.display().to_string()));
        match certificates(&path).and_then(|read| ClientCa::new(path, read, auth)) {
            Ok(ca) => Some(ca),
            Err(why) => {
                self.problem(Problem::new(span, format!("tls.client_ca: {why}")).found(found));
                None
            }
        }
    }

    /// What an app wants of encryption.
    pub(super) fn encryption(&mut self, app: &file::App) -> Option<Arc<Encryption>> {
        let encryption = Encryption::default()
            .with_redirect(self.https_redirect(&app.https))
            .with_hsts(hsts(&app.https))
            .with_dynos(self.secured(&app.tls));
        if encryption.dynos.is_some() {
            self.not_with_h2c(app, "is HTTP/2 without TLS, and tls.to_dyno is true");
        }
        (encryption != Encryption::default()).then(|| Arc::new(encryption))
    }

    /// `why` stands for another key that the dynos of one shared connection cannot have.
    pub(super) fn not_with_h2c(&mut self, app: &file::App, why: &str) {
        if let Some(span) = app.protocol.span().filter(|_| app.protocol.value() == Some(&file::Protocol::H2c))
        {
            let problem = Problem::new(span, format!("protocol = \"h2c\" {why}"));
            self.problem(problem.help("leave out one of them"));
        }
    }

    fn secured(&mut self, file: &file::ToDynos) -> Option<Secured> {
        let span = file.to_dyno.span().filter(|_| file.to_dyno.or(false))?;
        let name = self.text("tls.name", &file.name, r#""shop.internal" or "10.0.0.7""#, |text| {
            ServerName::try_from(text.to_owned()).map_err(|_| "this is no name")
        });
        if name.is_none() && file.name.value().is_some() {
            return None;
        }
        let ca = file.ca.value().map(|path| self.folder.join(path));
        match secure(name.as_ref(), ca.as_deref()) {
            Ok(secured) => Some(secured),
            Err(why) => {
                let problem = Problem::new(file.ca.span().unwrap_or(span), format!("tls.ca: {why}"));
                self.problem(match ca {
                    Some(path) => problem.found(format!("this is {}", clip(&path.display().to_string()))),
                    None => problem,
                });
                None
            }
        }
    }

    /// The port to which requests without encryption are sent.
    fn https_redirect(&mut self, file: &file::Https) -> Option<u16> {
        let port = file.port.value().copied().or(self.https);
        if !file.redirect.or(false) {
            return None;
        }
        if port.is_none_or(|port| port == 0)
            && let Some(span) = file.redirect.span().filter(|_| self.whole)
        {
            let problem =
                Problem::new(span, "https.redirect: it is not known where to").found("written here");
            self.problem(problem.help("add [tls] with an address to listen on, or port = 443 beside it"));
        }
        port
    }
}

/// The promise of an app about HTTPS (RFC 6797 section 6.1).
fn hsts(file: &file::Https) -> Option<Box<str>> {
    let seconds = file.hsts.value()?.0.as_secs();
    let below = if file.hsts_subdomains.or(false) { "; includeSubDomains" } else { "" };
    Some(format!("max-age={seconds}{below}").into())
}
