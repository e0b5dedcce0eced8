//! What goes with HTTPS: requests that came without it are sent there, answers promise it, and a connection is used for
//! the hosts of its certificate alone.

use std::collections::VecDeque;

use http::header::{self, HeaderMap, HeaderValue};
use http::uri::{Authority, Scheme, Uri};
use http::{Response, StatusCode};

use crate::fault::{BadRequest, Fault};
use crate::limits::Limits;
use crate::proxy::client::Client;
use crate::proxy::forward::{Reply, Rest};
use crate::proxy::inspect::Target;
use crate::router::AppRef;

/// The port that goes without saying.
const PORT: u16 = 443;

/// The same host without its port and in one form: lower case, no dot at the end.
pub(crate) fn bare(host: &str) -> String {
    let end = match host.strip_prefix('[') {
        Some(v6) => v6.find(']').map(|at| at + 2),
        None => host.find(':'),
    };
    let host = end.and_then(|end| host.get(..end)).unwrap_or(host);
    let host = host.strip_suffix('.').unwrap_or(host);
    host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase()
}

/// Whether the client may ask this connection for that host.
pub(crate) fn check(client: &Client, target: &Target) -> Result<(), Fault> {
    match &client.serves {
        Some(serves) if !serves(&bare(&target.host)) => Err(Fault::Misdirected),
        _ => Ok(()),
    }
}

/// The answer to a request that came without encryption, where the app wants it: the same with `https`.
pub(crate) fn redirect(limits: &Limits, client: &Client, target: &Target) -> Result<Option<Reply>, Fault> {
    let wanted = limits.encryption.as_ref().and_then(|encryption| encryption.redirect);
    let Some(port) = wanted.filter(|_| !client.tls) else { return Ok(None) };
    const BAD: Fault = Fault::BadRequest(BadRequest::Header);
    let host: Authority = target.host.parse().map_err(|_| BAD)?;
    let host = host.host();
    let authority = if port == PORT { host.to_owned() } else { format!("{host}:{port}") };
    let uri = Uri::builder().scheme(Scheme::HTTPS).authority(authority).path_and_query(target.path.clone());
    let place = uri.build().map_err(|_| BAD)?.to_string();
    let place = HeaderValue::try_from(place).map_err(|_| BAD)?;
    let mut head = Response::new(()).into_parts().0;
    head.status = StatusCode::PERMANENT_REDIRECT;
    head.headers.insert(header::LOCATION, place);
    Ok(Some(Reply { head, rest: Rest::Whole(VecDeque::new()) }))
}

/// Adds what the app promises about HTTPS (RFC 6797), unless the dyno has said something about it.
pub(crate) fn promise(app: &AppRef, client: &Client, headers: &mut HeaderMap) {
    // Without encryption a client must not believe it.
    if client.tls {
        add(&app.limits(), headers);
    }
}

fn add(limits: &Limits, headers: &mut HeaderMap) {
    let Some(hsts) = limits.encryption.as_ref().and_then(|it| it.hsts.as_ref()) else { return };
    if let Ok(value) = HeaderValue::from_str(hsts) {
        headers.entry(header::STRICT_TRANSPORT_SECURITY).or_insert(value);
    }
}

#[cfg(test)]
mod tests {
    use http::uri::PathAndQuery;

    use std::sync::Arc;

    use super::*;
    use crate::encryption::Encryption;

    fn at(host: &str, path: &'static str) -> Target {
        Target { host: host.into(), path: PathAndQuery::from_static(path) }
    }

    fn wants(encryption: Encryption) -> Limits {
        Limits::default().with_encryption(Some(Arc::new(encryption)))
    }

    fn client() -> Client {
        Client::new(([203, 0, 113, 9], 4711).into(), 8080)
    }

    #[test]
    fn a_redirect_keeps_host_path_and_query_and_has_the_right_port() {
        let to = |port, host: &str, path| {
            let limits = wants(Encryption::default().with_redirect(Some(port)));
            let reply = redirect(&limits, &client(), &at(host, path))?.unwrap();
            assert_eq!(reply.head.status, 308);
            Ok::<_, Fault>(reply.head.headers["location"].to_str().unwrap().to_owned())
        };
        assert_eq!(to(443, "shop.test", "/a?b=c").unwrap(), "https://shop.test/a?b=c");
        assert_eq!(to(8443, "Shop.test:8080", "/").unwrap(), "https://Shop.test:8443/");
        assert_eq!(to(443, "[::1]:80", "/x").unwrap(), "https://[::1]/x");
        assert_eq!(to(443, "me@shop.test", "/").unwrap(), "https://shop.test/");
        for bad in ["a/b", "a b", ""] {
            assert!(to(443, bad, "/").is_err(), "{bad}");
        }
        let limits = wants(Encryption::default().with_redirect(Some(443)));
        let secure = client().with_tls(true);
        assert!(redirect(&limits, &secure, &at("a", "/")).unwrap().is_none());
        assert!(redirect(&Limits::default(), &client(), &at("a", "/")).unwrap().is_none());
    }

    #[test]
    fn what_the_dyno_itself_says_of_https_stays() {
        let limits = wants(Encryption::default().with_hsts(Some("max-age=60".into())));
        let mut headers = HeaderMap::new();
        add(&limits, &mut headers);
        assert_eq!(headers["strict-transport-security"], "max-age=60");
        headers.insert("strict-transport-security", HeaderValue::from_static("max-age=0"));
        add(&limits, &mut headers);
        assert_eq!(headers["strict-transport-security"], "max-age=0");
    }

    #[test]
    fn a_host_is_the_same_however_it_is_written() {
        for (written, host) in [
            ("Shop.Test", "shop.test"),
            ("shop.test.:8443", "shop.test"),
            ("[::1]:8443", "::1"),
            ("[::1]", "::1"),
            ("127.0.0.1:1", "127.0.0.1"),
            ("[", ""),
        ] {
            assert_eq!(bare(written), host);
        }
    }
}
