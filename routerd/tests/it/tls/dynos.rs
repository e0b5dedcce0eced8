//! TLS on the way to the dynos.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::config;
use crate::support::tls::{Authority, Issued};
use crate::support::{Dyno, Rig, installed, until};

/// Puts TLS in front of a dyno.
async fn cover(dyno: &Dyno, issued: &Issued) -> (SocketAddr, JoinHandle<()>) {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let chain = vec![issued.der.clone()];
    let server = builder.with_no_client_auth().with_single_cert(chain, issued.secret.clone_key()).unwrap();
    let (acceptor, to) = (TlsAcceptor::from(Arc::new(server)), dyno.address);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // Who does not trust it, or does not speak TLS, is no matter of the dyno.
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut dyno = TcpStream::connect(to).await.unwrap();
                let _ = copy_bidirectional(&mut stream, &mut dyno).await;
            });
        }
    });
    (address, task)
}

fn text(address: SocketAddr, ca: &Path, more: &str) -> String {
    format!(
        "[server]\nlisten = ['127.0.0.1:0']\n[apps.shop]\ndynos = ['{address}']\n\
         tls = {{ to_dyno = true, ca = '{}'{more} }}\n\
         timeouts = {{ connect = '300ms' }}\nqueue = {{ max_wait = '2s' }}\n\
         retry = {{ quarantine = '50ms', quarantine_max = '50ms' }}\n",
        ca.display()
    )
}

#[tokio::test]
async fn requests_and_probes_reach_a_dyno_over_one_secure_connection() {
    let (authority, dyno) = (Authority::new(), Dyno::start().await);
    let issued = authority.issue("dyno", &["shop.internal"]);
    let (address, _task) = cover(&dyno, &issued).await;
    let probed = "health = { probe = 'http', path = '/probe', interval = '100ms', timeout = '100ms' }\n";
    let rig = Rig::from_toml(&(text(address, &authority.ca(), ", name = 'shop.internal'") + probed)).await;
    for length in [0, 5, 70_000, 3_000_000] {
        let answer = rig.get(&format!("/?body={length}")).await;
        assert!(answer.is_ok() && answer.body.len() == length, "{length}");
    }
    let answer = rig.client().await.post("/", &vec![b'x'; 1_000_000]).await;
    assert!(answer.is_ok());
    until("it is probed", || dyno.seen().iter().any(|seen| seen.path == "/probe")).await;
    assert!(rig.get("/").await.is_ok());
    assert_eq!(dyno.connections(), 1, "one connection");
}

#[tokio::test]
async fn a_deploy_probes_its_new_dyno_under_tls() {
    let (authority, old, new) = (Authority::new(), Dyno::start().await, Dyno::start().await);
    let issued = authority.issue("dyno", &["127.0.0.1"]);
    let ((first, _one), (second, _two)) = (cover(&old, &issued).await, cover(&new, &issued).await);
    let rig = Rig::from_toml(&text(first, &authority.ca(), "")).await;
    assert!(rig.get("/").await.is_ok(), "a certificate for the address needs no name");
    let next = text(second, &authority.ca(), "") + "health = { probe = 'http' }\nrelease = 'v2'\n";
    rig.daemon.as_ref().unwrap().reload(config(&next)).await.unwrap();
    until("the new one serves", || rig.app().dynos.iter().any(|dyno| dyno.address == second)).await;
    until("it was probed", || new.asked() > 0).await;
}

#[tokio::test]
async fn a_dyno_that_is_not_who_it_should_be_gets_no_request() {
    let (authority, stranger, dyno) = (Authority::new(), Authority::new(), Dyno::start().await);
    let issued = authority.issue("dyno", &["shop.internal"]);
    let (address, _task) = cover(&dyno, &issued).await;
    for (ca, name) in
        [(stranger.ca(), ", name = 'shop.internal'"), (authority.ca(), ", name = 'other.internal'")]
    {
        let rig = Rig::from_toml(&text(address, &ca, name)).await;
        let answer = rig.get("/").await;
        assert!(["H21", "H34"].contains(&answer.fault()), "{answer:?}");
    }
    let plain = Rig::from_toml(&text(dyno.address, &authority.ca(), ", name = 'shop.internal'")).await;
    assert!(!plain.get("/").await.is_ok(), "a dyno without TLS");
    // It would probe the dyno beside the next one's request.
    drop(plain);
    until("it has left the dyno alone", || dyno.open_connections() == 0).await;
    assert_eq!(dyno.seen().len(), 0);
    // A reload that wants TLS does not go on with a connection that has none.
    let text = text(address, &authority.ca(), ", name = 'shop.internal'");
    let clear = text.replace("tls = {", "#").replace(&address.to_string(), &dyno.address.to_string());
    let rig = Rig::from_toml(&clear).await;
    assert!(rig.get("/").await.is_ok());
    let wants = text.replace(&address.to_string(), &dyno.address.to_string());
    rig.daemon.as_ref().unwrap().reload(config(&wants)).await.unwrap();
    assert!(!rig.get("/").await.is_ok());
}

#[tokio::test]
async fn a_python_server_under_tls_serves_one_request_after_the_other() {
    const SERVER: &str = "import http.server, ssl, sys\n\
        server = http.server.HTTPServer(('127.0.0.1', 0), http.server.SimpleHTTPRequestHandler)\n\
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)\n\
        context.load_cert_chain(sys.argv[1], sys.argv[2])\n\
        server.socket = context.wrap_socket(server.socket, server_side=True)\n\
        print(server.server_address[1], flush=True)\nserver.serve_forever()\n";
    if !installed("python3", &["-c", "import ssl"]) {
        return;
    }
    let authority = Authority::new();
    let issued = authority.issue("dyno", &["127.0.0.1"]);
    let mut child = tokio::process::Command::new("python3")
        .args(["-c", SERVER])
        .args([&issued.cert, &issued.key])
        .current_dir(authority.folder.path())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut port = String::new();
    let mut out = tokio::io::BufReader::new(child.stdout.take().unwrap());
    tokio::io::AsyncBufReadExt::read_line(&mut out, &mut port).await.unwrap();
    let address = format!("127.0.0.1:{}", port.trim()).parse().unwrap();
    let rig = Rig::from_toml(&text(address, &authority.ca(), "")).await;
    let all: Vec<_> = (0..10).map(|_| rig.spawn_get("/ca.pem")).collect();
    for one in all {
        assert!(one.await.unwrap().is_ok());
    }
}
