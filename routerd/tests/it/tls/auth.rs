//! Clients that show certificates.

use std::path::Path;

use data_encoding::BASE64;
use rustls::AlertDescription;

use super::{alert, start};
use crate::support::tls::{Authority, ask};
use crate::support::{Dyno, until};

fn asks(word: &str, ca: &Path) -> String {
    format!("client_auth = '{word}'\nclient_ca = '{}'", ca.display())
}

/// A header as the dyno got it.
fn told(dyno: &Dyno, name: &str) -> Option<String> {
    let head = dyno.seen().last().unwrap().head.clone();
    crate::support::client::header(&head, name).map(str::to_owned)
}

#[tokio::test]
async fn the_dyno_gets_the_certificate_that_was_shown_and_never_one_that_was_claimed() {
    let (authority, clients, dyno) = (Authority::new(), Authority::new(), Dyno::start().await);
    let issued = authority.issue("shop", &["shop.test"]);
    // Both are under one roof for the client, who trusts the server's authority.
    let own = authority.issue("client", &["someone"]);
    let der = own.der.clone();
    let (rig, secure) = start(&dyno, &[&issued], &asks("optional", &authority.ca())).await;
    let claim = "/\u{20}HTTP/1.1\r\nClient-Cert: :AAAA:\r\nX-Client-Verify: SUCCESS\r\nX-Rest:";
    assert!(authority.client().get(secure, "shop.test", claim).await.unwrap().contains(" 200 "));
    assert_eq!((told(&dyno, "client-cert"), told(&dyno, "x-client-verify")), (None, Some("NONE".into())));
    assert!(authority.client_as(own).get(secure, "shop.test", claim).await.unwrap().contains(" 200 "));
    assert_eq!(told(&dyno, "client-cert"), Some(format!(":{}:", BASE64.encode(&der))));
    assert_eq!(told(&dyno, "x-client-verify"), Some("SUCCESS".into()));
    rig.get(claim).await;
    assert_eq!((told(&dyno, "client-cert"), told(&dyno, "x-client-verify")), (None, None), "without TLS");
    let stranger = clients.issue("stranger", &["someone"]);
    let mut stream = authority.client_as(stranger).connect(secure, "shop.test").await.unwrap();
    // In TLS 1.3 a client hears of it with the first answer.
    let error = ask(&mut stream, "shop.test", "/").await.unwrap_err();
    assert!(
        matches!(alert(&error), Some(AlertDescription::UnknownCA | AlertDescription::DecryptError)),
        "{error}"
    );
    until("it is counted", || {
        rig.daemon.as_ref().unwrap().tls().handshakes.contains(&("client_certificate", 1))
    })
    .await;
}

#[tokio::test]
async fn who_must_show_one_and_has_none_is_not_served() {
    let (authority, dyno) = (Authority::new(), Dyno::start().await);
    let issued = authority.issue("shop", &["shop.test"]);
    let own = authority.issue("client", &["someone"]);
    let (_rig, secure) = start(&dyno, &[&issued], &asks("required", &authority.ca())).await;
    let mut stream = authority.client().connect(secure, "shop.test").await.unwrap();
    let error = ask(&mut stream, "shop.test", "/").await.unwrap_err();
    assert_eq!(alert(&error), Some(AlertDescription::CertificateRequired), "{error}");
    assert_eq!(dyno.seen().len(), 0);
    let client = authority.client_as(own);
    for resumed in [false, true] {
        let answer = client.get(secure, "shop.test", "/").await.unwrap();
        assert!(answer.contains(" 200 "), "{answer}");
        assert!(told(&dyno, "client-cert").is_some(), "resumed: {resumed}");
    }
}
