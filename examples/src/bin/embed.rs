//! A hyper service that puts one line in front of its dynos: `embed 127.0.0.1:8080 127.0.0.1:3001 127.0.0.1:3002`.

use std::error::Error;
use std::net::SocketAddr;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use router_core::Router;
use router_core::change::{AppSpec, Change, DynoSpec};
use router_core::limits::Limits;
use router_core::proxy::{Client, Proxy};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let addresses: Vec<SocketAddr> =
        std::env::args().skip(1).map(|text| text.parse()).collect::<Result<_, _>>()?;
    let [listen, dynos @ ..] = addresses.as_slice() else {
        return Err("usage: embed LISTEN DYNO [DYNO ...], each an address like 127.0.0.1:3001".into());
    };

    // The router holds apps, lines and dynos. One app takes every host.
    let router = Router::new();
    let app = AppSpec {
        id: "shop".into(),
        hosts: vec!["*".into()],
        release: "v1".into(),
        limits: Limits::default(),
    };
    let mut changes = vec![Change::PutApp(app.clone())];
    changes.extend(dynos.iter().map(|dyno| Change::AddDyno(app.id.clone(), DynoSpec::new(*dyno))));
    router.apply(&changes)?;

    // The proxy serves requests through it. Here is where a service would log.
    let proxy = Proxy::new(router).on_record(|record| {
        if let Some(fault) = record.fault {
            eprintln!("{}: {fault}", fault.code());
        }
    });

    let listener = TcpListener::bind(listen).await?;
    eprintln!("routing http://{} to {} dynos", listener.local_addr()?, dynos.len());
    loop {
        let (stream, peer) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let client = Client::new(peer, listen.port());
        let proxy = proxy.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| proxy.serve(&client, request));
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new());
            if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
                eprintln!("{peer}: {error}");
            }
        });
    }
}
