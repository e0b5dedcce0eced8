//! The canary through the proxy: whose requests reach which release, over real sockets.

#![cfg(feature = "proxy")]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use router_core::Router;
use router_core::canary::Canary;
use router_core::change::{AppSpec, Change, DynoHealth, DynoSpec};
use router_core::limits::Limits;
use router_core::proxy::{Client, Proxy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// A dyno that answers every request with the name of its release.
async fn dyno(release: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while let Ok(byte) = stream.read_u8().await {
                head.push(byte);
                if head.ends_with(b"\r\n\r\n") {
                    head.clear();
                    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{release}");
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            }
        }
    });
    address
}

struct Shop(Arc<Proxy>);

impl Shop {
    async fn new() -> Self {
        let router = Router::new();
        let (hosts, limits) = (vec!["shop.test".into()], Limits::default());
        let tried = DynoSpec { state: DynoHealth::Canary, ..DynoSpec::new(dyno("v2").await) };
        let changes = [
            Change::PutApp(AppSpec { id: "shop".into(), hosts, release: "v1".into(), limits }),
            Change::AddDyno("shop".into(), DynoSpec::new(dyno("v1").await)),
            Change::AddDyno("shop".into(), tried),
        ];
        router.apply(&changes).unwrap();
        Self(Arc::new(Proxy::new(router)))
    }

    fn canary(&self, canary: Option<Canary>) {
        self.0.router().apply(&[Change::SetCanary("shop".into(), canary)]).unwrap();
    }

    /// The release that answers a request with that header.
    async fn who(&self, name: &str, value: &str) -> String {
        let client = Client::new(SocketAddr::from(([127, 0, 0, 1], 1)), 80);
        let request = Request::get("/").header("host", "shop.test").header(name, value);
        let answer = self.0.serve(&client, request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
        String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }
}

#[tokio::test]
async fn who_has_the_cookie_or_the_header_gets_the_canary_and_nobody_else() {
    let shop = Shop::new().await;
    assert_eq!(shop.who("cookie", "beta=1").await, "v1", "no canary is asked for");
    shop.canary(Some(Canary::Cookie { name: "beta".into(), value: "1".into() }));
    assert_eq!(shop.who("cookie", "a=2; beta=1").await, "v2");
    assert_eq!(shop.who("cookie", "a=2; beta=0").await, "v1");
    shop.canary(Some(Canary::Header { name: "X-Beta".into(), value: "1".into() }));
    assert_eq!(shop.who("x-beta", "1").await, "v2");
    assert_eq!(shop.who("cookie", "beta=1").await, "v1");
    shop.canary(None);
    assert_eq!(shop.who("x-beta", "1").await, "v1");
}

#[tokio::test]
async fn a_share_of_the_requests_gets_the_canary_to_the_request() {
    let shop = Shop::new().await;
    shop.canary(Some(Canary::Share(10)));
    let mut canarys = 0;
    for _ in 0..100 {
        canarys += u32::from(shop.who("accept", "*/*").await == "v2");
    }
    assert_eq!(canarys, 10);
}
