//! One request to a daemon's admin interface, over TCP, TLS or a Unix socket; and what is wrong, in words that help.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::uri::Authority;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use percent_encoding::utf8_percent_encode;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::CtlArgs;
use crate::config::tls::provider;
use crate::control::{Order, PART, Refusal, RefusalKind};

/// Where the admin interface is if no port is named.
const PORT: u16 = 9900;
const CONNECT: Duration = Duration::from_secs(5);
/// The daemon gives each connection 20 s.
const ANSWER: Duration = Duration::from_secs(25);
/// The most bytes of an answer.
const ANSWER_MAX: usize = 64 << 20;

/// Where a daemon is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// On an address or a name with a port.
    Tcp {
        /// The name or address, without brackets.
        host: String,
        /// The port.
        port: u16,
        /// Whether it speaks TLS.
        tls: bool,
    },
    /// On a socket in the file system.
    Unix(PathBuf),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "allowed: HOST:PORT, https://HOST:PORT or unix:PATH".to_owned();
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { Err(wrong()) } else { Ok(Self::Unix(path.into())) };
        }
        let (tls, rest) = match text.split_once("://") {
            None => (false, text),
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            Some(_) => return Err(wrong()),
        };
        let name: Authority = rest.strip_suffix('/').unwrap_or(rest).parse().map_err(|_| wrong())?;
        let port = match name.as_str().strip_prefix(name.host()) {
            Some("") => PORT,
            rest => rest.and_then(|rest| rest.strip_prefix(':')?.parse().ok()).ok_or_else(wrong)?,
        };
        let host = name.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(wrong());
        }
        Ok(Self::Tcp { host, port, tls })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port, tls } => {
                let scheme = if *tls { "https://" } else { "" };
                let (open, close) = if host.contains(':') { ("[", "]") } else { ("", "") };
                write!(f, "{scheme}{open}{host}{close}:{port}")
            }
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Why nothing came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// What was typed cannot be used: a file that is missing, a token in clear text.
    Usage(String),
    /// The daemon cannot be reached, or what is there is none.
    Unreachable(String),
    /// The daemon refuses.
    Refused(Refusal),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text) | Self::Unreachable(text) => f.write_str(text),
            Self::Refused(refusal) if refusal.kind == RefusalKind::Unauthorized => {
                write!(f, "{refusal}\nshow a token with --token-file FILE or in ROUTERD_TOKEN")
            }
            Self::Refused(refusal) => refusal.fmt(f),
        }
    }
}

impl std::error::Error for Trouble {}

/// Asks one daemon.
pub(super) struct Client {
    target: Target,
    token: Option<String>,
    tls: Option<TlsConnector>,
}

impl Client {
    pub(super) fn new(args: &CtlArgs) -> Result<Self, Trouble> {
        let (target, token) = (args.admin.clone(), token(args.token_file.as_deref())?);
        let tls = match &target {
            Target::Tcp { tls: true, .. } => Some(connector(args.ca.as_deref())?),
            Target::Tcp { host, tls: false, .. } => {
                let local = host == "localhost"
                    || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback());
                if token.is_some() && !local {
                    let text = format!("a token would go to {target} in clear text: use https://{target}");
                    return Err(Trouble::Usage(text));
                }
                None
            }
            Target::Unix(_) => None,
        };
        Ok(Self { target, token, tls })
    }

    pub(super) async fn get(&self, path: &str) -> Result<Value, Trouble> {
        self.ask(Method::GET, path, None, ANSWER).await
    }

    pub(super) async fn give(&self, order: &Order) -> Result<Value, Trouble> {
        self.ask(Method::POST, &order.path(), Some(&order.body()), ANSWER + order.longer()).await
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        within: Duration,
    ) -> Result<Value, Trouble> {
        let request = self.request(method, path, body)?;
        let (status, bytes) = match (&self.target, &self.tls) {
            (Target::Unix(path), _) => {
                self.over(self.connected(UnixStream::connect(path)).await?, request, within).await?
            }
            (Target::Tcp { host, port, .. }, tls) => {
                let stream = self.connected(TcpStream::connect((host.as_str(), *port))).await?;
                match tls {
                    None => self.over(stream, request, within).await?,
                    Some(tls) => {
                        let name = ServerName::try_from(host.clone())
                            .map_err(|error| Trouble::Usage(format!("{host}: {error}")))?;
                        self.over(self.connected(tls.connect(name, stream)).await?, request, within).await?
                    }
                }
            }
        };
        let value = serde_json::from_slice::<Value>(&bytes);
        match value {
            Ok(value) if status.is_success() => Ok(value),
            Ok(value) => match serde_json::from_value(value["error"].clone()) {
                Ok(refusal) => Err(Trouble::Refused(refusal)),
                Err(_) => Err(self.unreachable(&format!("it answered {status} without saying why"))),
            },
            Err(_) => Err(self.unreachable(&format!("what answers there ({status}) speaks no JSON"))),
        }
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Request<Full<Bytes>>, Trouble> {
        let host = match &self.target {
            Target::Tcp { .. } => self.target.to_string().replace("https://", ""),
            Target::Unix(_) => "localhost".to_owned(),
        };
        let mut request = Request::builder().method(method).uri(path).header(HOST, host);
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
        request
            .body(Full::new(body))
            .map_err(|_| Trouble::Usage("the token or the name cannot stand in a request".to_owned()))
    }

    /// What is being connected, within its time.
    async fn connected<S>(&self, connect: impl Future<Output = std::io::Result<S>>) -> Result<S, Trouble> {
        match timeout(CONNECT, connect).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(self.unreachable(&error.to_string())),
            Err(_) => Err(self.unreachable(&format!("no connection within {CONNECT:?}"))),
        }
    }

    /// One request over a connection, and its whole answer.
    async fn over(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send,
        request: Request<Full<Bytes>>,
        within: Duration,
    ) -> Result<(StatusCode, Bytes), Trouble> {
        let exchange = async {
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            let mut connection = std::pin::pin!(connection);
            let answer = async {
                let answer = sender.send_request(request).await?;
                let status = answer.status();
                Ok::<_, hyper::Error>((status, Limited::new(answer.into_body(), ANSWER_MAX).collect().await))
            };
            let mut answer = std::pin::pin!(answer);
            let mut over = false;
            // The connection is done when the answer is, or before it.
            loop {
                tokio::select! {
                    answer = &mut answer => return answer,
                    done = &mut connection, if !over => {
                        done?;
                        over = true;
                    }
                }
            }
        };
        match timeout(within, exchange).await {
            Ok(Ok((status, Ok(body)))) => Ok((status, body.to_bytes())),
            Ok(Ok((_, Err(error)))) => Err(self.unreachable(&format!("the answer broke off: {error}"))),
            Ok(Err(error)) if error.is_parse() => {
                Err(self.unreachable("what answers there speaks no HTTP (does it speak TLS: https://?)"))
            }
            Ok(Err(error)) => Err(self.unreachable(&error.to_string())),
            Err(_) => Err(self.unreachable(&format!("no answer within {within:?}"))),
        }
    }

    fn unreachable(&self, why: &str) -> Trouble {
        Trouble::Unreachable(format!(
            "cannot ask the daemon at {}: {why}\nis it running, with [admin] in its configuration? \
             --admin or ROUTERD_ADMIN names another address",
            self.target
        ))
    }
}

/// An answer as the type that it is of.
pub(super) fn read<T: DeserializeOwned>(answer: &Value) -> Result<T, Trouble> {
    let other =
        |error| Trouble::Unreachable(format!("the daemon is of another version than this program: {error}"));
    T::deserialize(answer).map_err(other)
}

/// A name as a part of a path.
pub(super) fn part(name: &str) -> String {
    utf8_percent_encode(name, PART).to_string()
}

/// A path with what is asked behind it.
pub(super) fn path(path: &str, query: &[(&str, Option<&str>)]) -> String {
    let asked = query.iter().filter_map(|(name, value)| Some(format!("{name}={}", part((*value)?))));
    let asked = asked.collect::<Vec<_>>().join("&");
    if asked.is_empty() { path.to_owned() } else { format!("{path}?{asked}") }
}

/// The token to show.
fn token(file: Option<&Path>) -> Result<Option<String>, Trouble> {
    let token = match file {
        Some(path) => {
            let failed = |error| Trouble::Usage(format!("{}: cannot be read: {error}", path.display()));
            Some(std::fs::read_to_string(path).map_err(failed)?)
        }
        None => std::env::var("ROUTERD_TOKEN").ok(),
    };
    Ok(token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty()))
}

/// Trusts who signed the daemon's certificate.
fn connector(ca: Option<&Path>) -> Result<TlsConnector, Trouble> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => {
            let wrong = |why: String| Trouble::Usage(format!("--ca {}: {why}", path.display()));
            let certs = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
            for cert in certs.map_err(|error| wrong(error.to_string()))? {
                roots.add(cert).map_err(|error| wrong(error.to_string()))?;
            }
            if roots.is_empty() {
                return Err(wrong("there is no certificate in the file".to_owned()));
            }
        }
        None => {
            // What of the system's store cannot be read is no reason not to use the rest.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err(Trouble::Usage(
                    "this system trusts no certificates: name one with --ca".to_owned(),
                ));
            }
        }
    }
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| Trouble::Usage(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_is_named_by_address_name_or_socket() {
        for (text, shown) in [
            ("127.0.0.1:9900", "127.0.0.1:9900"),
            ("http://127.0.0.1:9900/", "127.0.0.1:9900"),
            ("[::1]:1", "[::1]:1"),
            ("edge.internal", "edge.internal:9900"),
            ("https://edge.internal", "https://edge.internal:9900"),
            ("https://[::1]:9", "https://[::1]:9"),
            ("unix:/run/a.sock", "unix:/run/a.sock"),
        ] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), shown);
        }
        for text in ["", "unix:", "ftp://a", "a:99999", "https://", "a/b", "a b", "me@a:1", "a:"] {
            assert!(text.parse::<Target>().is_err(), "{text:?} is {:?}", text.parse::<Target>());
        }
    }

    #[test]
    fn what_is_asked_stands_behind_the_path_if_anything_is() {
        assert_eq!(path("/v1/audit", &[("app", None), ("limit", None)]), "/v1/audit");
        assert_eq!(
            path("/v1/audit", &[("app", Some("a&b")), ("limit", Some("3"))]),
            "/v1/audit?app=a%26b&limit=3"
        );
    }
}
