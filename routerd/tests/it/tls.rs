//! TLS in front: which certificate a client gets, how handshakes fail, what is kept over reloads and upgrades.

mod auth;
mod browser;
mod dynos;
mod files;
mod flood;

use std::net::SocketAddr;
use std::time::Duration;

use rcgen::KeyPair;
use routerd::config::Config;
use rustls::{AlertDescription, Error, HandshakeKind, NamedGroup};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::tls::{Authority, Issued, TlsClient, ask, says};
use crate::support::{Client, Dyno, Load, Rig, installed, until};

/// A daemon with these certificates and lines of `[tls]`, and where it speaks TLS.
async fn start(dyno: &Dyno, certificates: &[&Issued], tls: &str) -> (Rig, SocketAddr) {
    let rig = Rig::from_toml(&text(dyno, certificates, tls, "")).await;
    let secure = rig.daemon.as_ref().unwrap().secure_addresses()[0];
    (rig, secure)
}

fn text(dyno: &Dyno, certificates: &[&Issued], tls: &str, app: &str) -> String {
    let entries: Vec<_> = certificates.iter().map(|issued| issued.entry()).collect();
    format!(
        "[server]\nlisten = ['127.0.0.1:0']\n[tls]\nlisten = ['127.0.0.1:0']\ncertificates = [{}]\n{tls}\n\
         [apps.shop]\ndynos = ['{}']\n{app}\n",
        entries.join(", "),
        dyno.address
    )
}

fn config(text: &str) -> Config {
    Config::parse(text, "test.toml").unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// How many handshakes have ended so.
fn count(rig: &Rig, result: &str) -> u64 {
    let account = rig.daemon.as_ref().unwrap().tls();
    account.handshakes.iter().find(|(name, _)| *name == result).map_or(0, |(_, count)| *count)
}

/// The alert that ended a handshake.
fn alert(error: &std::io::Error) -> Option<AlertDescription> {
    match error.get_ref().and_then(|error| error.downcast_ref::<Error>()) {
        Some(Error::AlertReceived(alert)) => Some(*alert),
        _ => None,
    }
}

#[tokio::test]
async fn a_request_under_tls_is_served_and_the_dyno_and_the_log_know() {
    let (authority, dyno) = (Authority::new(), Dyno::start().await);
    let issued = authority.issue("shop", &["shop.test"]);
    let (rig, secure) = start(&dyno, &[&issued], "").await;
    let answer = authority.client().get(secure, "shop.test", "/cart").await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let head = dyno.seen().last().unwrap().head.to_ascii_lowercase();
    assert!(head.contains("x-forwarded-proto: https\r\n"), "{head}");
    assert!(head.contains(&format!("x-forwarded-port: {}\r\n", secure.port())), "{head}");
    rig.log.are(1).await;
    assert_eq!(rig.log.last()["tls"], true);
    assert!(rig.get("/").await.is_ok(), "and without TLS as before");
    assert_eq!(count(&rig, "full"), 1);
}

#[tokio::test]
async fn a_client_gets_the_certificate_of_the_name_it_asks_for() {
    let (authority, dyno) = (Authority::new(), Dyno::start().await);
    let first = authority.issue("first", &["first.test"]);
    let wild = authority.issue("wild", &["*.shop.test"]);
    let exact = authority.issue("exact", &["WWW.shop.test", "127.0.0.1"]);
    let (_rig, secure) = start(&dyno, &[&first, &wild, &exact], "").await;
    let client = TlsClient::credulous();
    for (name, issued) in [
        ("www.shop.test", &exact),
        ("a.shop.test", &wild),
        ("A.Shop.Test", &wild),
        ("first.test", &first),
        ("a.b.shop.test", &first),
        ("shop.test", &first),
        ("other.test", &first),
        ("127.0.0.1", &exact),
    ] {
        assert_eq!(client.shown(secure, name).await, issued.der, "{name}");
    }
    let nameless = client.nameless();
    assert_eq!(nameless.shown(secure, "other.test").await, exact.der, "the address it has come to");
}

#[tokio::test]
async fn strict_refuses_names_that_no_certificate_has() {
    let (authority, dyno) = (Authority::new(), Dyno::start().await);
    let issued = authority.issue("shop", &["shop.test"]);
    let (rig, secure) = start(&dyno, &[&issued], "default = 'strict'").await;
    let client = TlsClient::credulous();
    assert_eq!(client.shown(secure, "shop.test").await, issued.der);
    for (client, name) in [(client.clone(), "other.test"), (client.nameless(), "shop.test")] {
        let error = client.connect(secure, name).await.unwrap_err();
        assert_eq!(alert(&error), Some(AlertDescription::UnrecognisedName), "{error}");
    }
    until("both are counted", || {
        let account = rig.daemon.as_ref().unwrap().tls();
        account.handshakes.contains(&("unknown_name", 2))
    })
    .await;
}

#[tokio::test]
async fn each_client_gets_the_kind_of_key_it_can_use_and_the_versions_are_bounded() {
    if !installed("openssl", &["version"]) {
        return;
    }
    let (authority, dyno) = (Authority::new(), Dyno::start().await);
    let key =
        says("openssl", &["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"], "").await;
    let key = &key[key.find("-----BEGIN").unwrap()..key.find("-----END PRIVATE KEY-----").unwrap() + 26];
    let rsa = authority.issue_with("rsa", &["shop.test"], KeyPair::from_pem(key).unwrap(), |_| {});
    let ecdsa = authority.issue("ecdsa", &["shop.test"]);
    // The order of the file does not matter.
    let (rig, secure) = start(&dyno, &[&rsa, &ecdsa], "").await;
    let ca = authority.ca();
    let to = secure.to_string();
    let base = ["s_client", "-connect", &to, "-servername", "shop.test", "-CAfile", ca.to_str().unwrap()];
    let signed = async |more: &[&str]| {
        let said = says("openssl", &[&base[..], more].concat(), "").await;
        let line = said.lines().find(|line| line.starts_with("Peer signature type"));
        line.unwrap_or_else(|| panic!("{said}")).rsplit(' ').next().unwrap().to_owned()
    };
    assert_eq!(signed(&[]).await, "ECDSA");
    assert_eq!(signed(&["-tls1_3", "-sigalgs", "rsa_pss_rsae_sha256"]).await, "RSA-PSS");
    assert_eq!(signed(&["-tls1_2"]).await, "ECDSA");
    assert_eq!(signed(&["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"]).await, "RSA-PSS");
    let old = says("openssl", &[&base[..], &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"]].concat(), "").await;
    assert!(old.contains("alert") && old.contains("Cipher is (NONE)"), "{old}");
    let newer = text(&dyno, &[&rsa, &ecdsa], "min_version = '1.3'", "");
    rig.daemon.as_ref().unwrap().reload(config(&newer)).await.unwrap();
    let old = says("openssl", &[&base[..], &["-tls1_2"]].concat(), "").await;
    assert!(old.contains("alert protocol version"), "{old}");
    assert_eq!(signed(&[]).await, "ECDSA");
}

#[tokio::test]
async fn tickets_are_taken_by_every_listener_and_over_reloads() {
    let (authority, dyno) = (Authority::new(), Dyno::start().await);
    let issued = authority.issue("shop", &["shop.test"]);
    let certificates = [&issued];
    let two = |tls: &str| {
        let one = text(&dyno, &certificates, tls, "");
        one.replace("[tls]\nlisten = ['127.0.0.1:0']", "[tls]\nlisten = ['127.0.0.1:0', '127.0.0.2:0']")
    };
    let rig = Rig::from_toml(&two("")).await;
    let daemon = rig.daemon.as_ref().unwrap();
    let (client, secure) = (authority.client(), daemon.secure_addresses());
    let kind = async |client: &TlsClient, at: usize| {
        let mut stream = client.connect(secure[at], "shop.test").await.unwrap();
        // Tickets come with the answer.
        assert!(ask(&mut stream, "shop.test", "/").await.unwrap().contains(" 200 "));
        stream.get_ref().1.handshake_kind().unwrap()
    };
    assert_eq!(kind(&client, 0).await, HandshakeKind::Full);
    assert_eq!(kind(&client, 1).await, HandshakeKind::Resumed);
    let again = authority.issue("shop", &["shop.test"]);
    daemon.reload(config(&two("handshake_timeout = '5s'"))).await.unwrap();
    assert_eq!(kind(&client, 0).await, HandshakeKind::Resumed, "other bounds, another certificate");
    assert_eq!(kind(&authority.client(), 0).await, HandshakeKind::Full);
    assert_eq!(TlsClient::credulous().shown(secure[0], "shop.test").await, again.der);
    // Who was not asked for a certificate before is asked for it now.
    let asks = format!("client_auth = 'required'\nclient_ca = '{}'", authority.ca().display());
    daemon.reload(config(&two(&asks))).await.unwrap();
    let mut stream = client.connect(secure[0], "shop.test").await.unwrap();
    assert!(ask(&mut stream, "shop.test", "/").await.is_err(), "a ticket is no certificate");
}

#[tokio::test]
async fn openssl_resumes_with_its_session() {
    if !installed("openssl", &["version"]) {
        return;
    }
    let (authority, dyno) = (Authority::new(), Dyno::start().await);
    let issued = authority.issue("shop", &["shop.test"]);
    let (_rig, secure) = start(&dyno, &[&issued], "").await;
    let (ca, to) = (authority.ca(), secure.to_string());
    let session = authority.folder.path().join("session");
    let (ca, session) = (ca.to_str().unwrap(), session.to_str().unwrap());
    for version in ["-tls1_3", "-tls1_2"] {
        let base =
            ["s_client", "-connect", &to, "-servername", "shop.test", "-CAfile", ca, "-ign_eof", version];
        let ask = "GET / HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n";
        let said = says("openssl", &[&base[..], &["-sess_out", session]].concat(), ask).await;
        assert!(said.contains("New, TLSv1") && said.contains("Verification: OK"), "{said}");
        let said = says("openssl", &[&base[..], &["-sess_in", session]].concat(), ask).await;
        assert!(said.contains("Reused, TLSv1") && said.contains("HTTP/1.1 200"), "{said}");
    }
}

#[tokio::test]
async fn both_versions_of_http_are_offered_above_tls_and_keys_are_exchanged_as_the_client_likes_best() {
    let (authority, dyno) = (Authority::new(), Dyno::start().await);
    let issued = authority.issue("shop", &["shop.test"]);
    let (_rig, secure) = start(&dyno, &[&issued], "").await;
    let mut client = authority.client();
    client.config.alpn_protocols = vec![b"spdy/3".to_vec(), b"http/1.1".to_vec()];
    let stream = client.connect(secure, "shop.test").await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let group = stream.get_ref().1.negotiated_key_exchange_group().unwrap();
    assert_eq!(group.name(), NamedGroup::X25519MLKEM768);
    client.config.alpn_protocols = vec![b"http/1.1".to_vec(), b"h2".to_vec()];
    let stream = client.connect(secure, "shop.test").await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]), "the newer one is preferred");
    client.config.alpn_protocols = vec![b"spdy/3".to_vec()];
    let error = client.connect(secure, "shop.test").await.unwrap_err();
    assert_eq!(alert(&error), Some(AlertDescription::NoApplicationProtocol), "{error}");
}

#[tokio::test]
async fn http_on_the_port_of_tls_is_told_so_and_silence_ends() {
    let (authority, dyno) = (Authority::new(), Dyno::start().await);
    let issued = authority.issue("shop", &["shop.test"]);
    let (rig, secure) = start(&dyno, &[&issued], "handshake_timeout = '200ms'").await;
    let answer = Client::connect(secure).await.get("/").await;
    assert_eq!((answer.status, answer.whole), (400, true));
    assert!(answer.text().contains("this port speaks TLS"));
    assert_eq!(Client::connect(secure).await.rest().await, b"", "silence");
    let mut slow = Client::connect(secure).await;
    slow.send([22, 3, 1, 1, 0, 1]).await;
    assert_eq!(slow.rest().await, b"", "half a hello");
    let mut garbage = Client::connect(secure).await;
    garbage.send([99, 3, 1, 0, 1, 0]).await;
    assert_eq!(garbage.rest().await.first(), Some(&21), "an alert");
    until("all are counted", || {
        let counts = rig.daemon.as_ref().unwrap().tls().handshakes;
        [("plain_http", 1), ("timeout", 2), ("protocol", 1)].iter().all(|one| counts.contains(one))
    })
    .await;
    assert_eq!(rig.log.count(), 0, "none of them was a request");
}

#[tokio::test]
async fn a_host_that_is_not_the_connections_is_misdirected() {
    let (authority, dyno) = (Authority::new(), Dyno::start().await);
    let shop = authority.issue("shop", &["shop.test", "*.shop.test"]);
    let other = authority.issue("other", &["other.test"]);
    let (rig, secure) = start(&dyno, &[&shop, &other], "").await;
    let client = TlsClient::credulous();
    for (name, host, status) in [
        ("shop.test", "shop.test", 200),
        ("shop.test", "Shop.Test.:8443", 200),
        ("shop.test", "www.shop.test", 200),
        ("shop.test", "a.b.shop.test", 421),
        ("shop.test", "other.test", 421),
        ("other.test", "shop.test", 421),
        ("unknown.test", "unknown.test", 200),
        ("unknown.test", "www.shop.test", 200),
        ("unknown.test", "other.test", 421),
    ] {
        let mut stream = client.connect(secure, name).await.unwrap();
        let answer = ask(&mut stream, host, "/").await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{name} {host}: {answer}");
        assert_eq!(answer.contains("x-router-fault: M02"), status == 421, "{answer}");
    }
    let mut nameless = client.nameless().connect(secure, "shop.test").await.unwrap();
    assert!(ask(&mut nameless, "other.test", "/").await.unwrap().starts_with("HTTP/1.1 200 "));
    rig.log.are(10).await;
    assert_eq!(rig.log.faults(), ["M02"; 4]);
}

#[tokio::test]
async fn an_app_sends_plain_requests_to_https_and_promises_it() {
    if !installed("curl", &["--version"]) {
        return;
    }
    let (authority, dyno) = (Authority::new(), Dyno::start().await);
    let issued = authority.issue("shop", &["shop.test"]);
    let plain = Rig::from_toml(&text(&dyno, &[&issued], "", "")).await;
    let secure = plain.daemon.as_ref().unwrap().secure_addresses()[0];
    let app = format!(
        "https = {{ redirect = true, port = {}, hsts = '365d', hsts_subdomains = true }}",
        secure.port()
    );
    plain.daemon.as_ref().unwrap().reload(config(&text(&dyno, &[&issued], "", &app))).await.unwrap();
    let answer = plain.client().await.post("/a/b?c=d%20e", b"body").await;
    assert_eq!(answer.status, 308);
    assert_eq!(answer.header("location"), format!("https://shop.test:{}/a/b?c=d%20e", secure.port()));
    assert_eq!(answer.header("strict-transport-security"), "", "not without encryption");
    assert_eq!(dyno.seen().len(), 0);
    let ca = authority.ca();
    let resolve = [plain.address, secure].map(|at| format!("shop.test:{}:127.0.0.1", at.port()));
    let url = format!("http://shop.test:{}/x?y=z", plain.address.port());
    let args =
        ["-sSiL", "--cacert", ca.to_str().unwrap(), "--resolve", &resolve[0], "--resolve", &resolve[1], &url];
    let said = says("curl", &args, "").await;
    assert!(said.contains("HTTP/1.1 308") && said.contains("HTTP/2 200"), "{said}");
    assert!(said.contains("strict-transport-security: max-age=31536000; includeSubDomains"), "{said}");
    assert_eq!(dyno.seen().last().unwrap().path, "/x?y=z");
    plain.log.are(3).await;
    assert_eq!(plain.log.faults(), Vec::<String>::new());
}

#[tokio::test]
async fn a_reload_opens_closes_and_changes_listeners() {
    let (authority, dyno) = (Authority::new(), Dyno::start().await);
    let issued = authority.issue("shop", &["shop.test"]);
    let plain = format!("[server]\nlisten = ['127.0.0.1:0']\n[apps.shop]\ndynos = ['{}']\n", dyno.address);
    let rig = Rig::from_toml(&plain).await;
    let daemon = rig.daemon.as_ref().unwrap();
    let load = Load::start(rig.address, 2);
    let with = |listen: &str, tls: &str| {
        plain.replace("'127.0.0.1:0'", listen)
            + &format!("[tls]\nlisten = ['{tls}']\ncertificates = [{}]\n", issued.entry())
    };
    daemon.reload(config(&with("'127.0.0.1:0'", "127.0.0.1:0"))).await.unwrap();
    let secure = daemon.secure_addresses()[0];
    let client = authority.client();
    assert!(client.get(secure, "shop.test", "/").await.unwrap().contains(" 200 "));
    let mut open = client.connect(secure, "shop.test").await.unwrap();
    daemon.reload(config(&plain)).await.unwrap();
    assert_eq!(daemon.secure_addresses(), []);
    assert!(ask(&mut open, "shop.test", "/").await.unwrap().contains(" 200 "), "an open connection stays");
    assert!(client.connect(secure, "shop.test").await.is_err());
    // The same address, first without TLS, then with it.
    let both = format!("'127.0.0.1:0', '{secure}'");
    daemon.reload(config(&plain.replace("'127.0.0.1:0'", &both))).await.unwrap();
    assert!(Client::connect(secure).await.get("/").await.is_ok());
    daemon.reload(config(&with("'127.0.0.1:0'", &secure.to_string()))).await.unwrap();
    assert!(client.get(secure, "shop.test", "/").await.unwrap().contains(" 200 "));
    assert_eq!(Client::connect(secure).await.get("/").await.status, 400);
    load.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_hands_the_listener_over_and_no_handshake_fails() {
    let (authority, dyno) = (Authority::new(), Dyno::start().await);
    let issued = authority.issue("shop", &["shop.test"]);
    let (mut rig, secure) = start(&dyno, &[&issued], "").await;
    let path = authority.folder.path().join("handover");
    rig.daemon.as_ref().unwrap().offer(&path).await.unwrap();
    let clients = files::Newcomers::start(&authority, secure, 4);
    for _ in 0..3 {
        clients.more(20).await;
        let (new, ends) = crate::takeover::takes_over(rig, &text(&dyno, &[&issued], "", ""), &path).await;
        assert_eq!(new.daemon.as_ref().unwrap().secure_addresses(), [secure]);
        clients.more(20).await;
        assert_eq!(ends.await.unwrap().0, 0);
        rig = new;
    }
    clients.end().await;
    rig.stop(Duration::from_secs(5)).await;
}

#[test]
fn what_is_wrong_is_told_with_its_line() {
    let authority = Authority::new();
    let (one, two) = (authority.issue("one", &["one.test"]), authority.issue("two", &["two.test"]));
    let nobody = authority.issue("nobody", &[]);
    let garbage = authority.folder.path().join("garbage");
    std::fs::write(&garbage, "no PEM").unwrap();
    let ca = authority.ca();
    let pair = |cert: &std::path::Path, key: &std::path::Path| {
        format!("certificates = [{{ cert = '{}', key = '{}' }}]", cert.display(), key.display())
    };
    let good = pair(&one.cert, &one.key);
    for (tls, why) in [
        (String::new(), "[tls] has no certificates"),
        ("certificates = [{ cert = 'x.pem' }]".to_owned(), "key is missing"),
        (pair(&authority.folder.path().join("none"), &one.key), "certificates.cert: the file cannot be read"),
        (pair(&garbage, &one.key), "there is no certificate in the file"),
        (pair(&one.cert, &garbage), "certificates.key: there is nothing of the kind in the file"),
        (pair(&one.cert, &two.key), "certificates.key: this is the key of another certificate"),
        (format!("default = 'strict'\n{}", pair(&nobody.cert, &nobody.key)), "it has no names"),
        (format!("certificates = [{0}, {0}]", one.entry()), "one certificate twice"),
        (format!("{good}\nlisten = ['8443']"), "tls.listen: this is no address"),
        (
            format!("{good}\nlisten = ['127.0.0.1:8080']\n[server]\nlisten = ['127.0.0.1:8080']"),
            "two listeners",
        ),
        (format!("{good}\nclient_auth = 'optional'"), "needs tls.client_ca"),
        (format!("{good}\nclient_ca = '{}'", ca.display()), "clients are not asked"),
        (format!("{good}\nclient_auth = 'required'\nclient_ca = '{}'", garbage.display()), "no certificate"),
        (format!("{good}\nmin_version = '1.1'"), "min_version"),
        (
            format!(
                "{good}\n[apps.two]\nprotocol = 'h2c'\ntls = {{ to_dyno = true, ca = '{}' }}",
                ca.display()
            ),
            "is HTTP/2 without TLS",
        ),
    ] {
        let error = Config::parse(&format!("[tls]\n{tls}\n[apps.shop]\n"), "x.toml").unwrap_err();
        assert!(error.to_string().contains(why), "{tls}: {error}");
    }
    let app = "[apps.shop]\nhttps = { redirect = true }\n";
    let error = Config::parse(app, "x.toml").unwrap_err().to_string();
    assert!(error.contains("https.redirect: it is not known where to"), "{error}");
    let fine = config(&format!("[tls]\n{good}\n{app}"));
    assert_eq!(fine.apps[0].spec.limits.encryption.as_ref().unwrap().redirect, Some(8443));
}

/// The stream is used in the test above through `ask`; here byte by byte.
#[tokio::test]
async fn requests_follow_each_other_on_one_connection() {
    let (authority, dyno) = (Authority::new(), Dyno::start().await);
    let issued = authority.issue("shop", &["shop.test"]);
    let (_rig, secure) = start(&dyno, &[&issued], "").await;
    let mut stream = authority.client().connect(secure, "shop.test").await.unwrap();
    for _ in 0..3 {
        for byte in b"GET /?body=70000 HTTP/1.1\r\nHost: shop.test\r\n\r\n" {
            stream.write_all(&[*byte]).await.unwrap();
        }
        let mut read = Vec::new();
        while read
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
            .is_none_or(|at| read.len() < at + 4 + 70_000)
        {
            assert!(stream.read_buf(&mut read).await.unwrap() > 0);
        }
    }
    assert_eq!(dyno.seen().len(), 3);
}
