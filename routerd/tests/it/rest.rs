//! Connections that have nothing to do: they give their buffers back, and nobody notices.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::tls::Authority;
use crate::support::{Client, Dyno, Rig, until};

fn resting(rig: &Rig) -> usize {
    rig.daemon.as_ref().unwrap().resting()
}

async fn rests(rig: &Rig, wanted: usize) {
    until(&format!("{wanted} connections rest"), || resting(rig) == wanted).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_has_rested_goes_on_as_if_it_had_not() {
    let dyno = Dyno::start().await;
    let rig = Rig::start_with(&[&dyno], "keepalive_requests = 6", "").await;
    let mut client = rig.client().await;
    let new = rig.client().await;
    assert!(client.get("/?body=100000").await.is_ok());
    // One that was never asked for anything, too.
    rests(&rig, 2).await;
    client.send("GET /a HTTP/1.1\r\nHost: shop.test\r\n\r\nPOST /b HTTP/1.1\r\nHost: sh").await;
    assert!(client.answer().await.is_ok());
    client.send("op.test\r\nContent-Length: 5\r\n\r\nhel").await;
    rests(&rig, 1).await;
    client.send("lo").await;
    assert!(client.answer().await.is_ok());
    rests(&rig, 2).await;
    client.send("\r\n").await;
    rests(&rig, 1).await;
    for _ in 0..2 {
        assert!(client.get("/").await.is_ok());
    }
    let last = client.get("/last").await;
    assert!(
        last.is_ok() && last.header("connection") == "close",
        "its requests are counted on: {}",
        last.head
    );
    assert_eq!(client.answer().await.status, 0, "it has ended");
    assert_eq!(dyno.asked(), 6);
    rests(&rig, 1).await;
    drop(new);
    rests(&rig, 0).await;
    until("none is open", || rig.daemon.as_ref().unwrap().connections() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_with_tls_too() {
    let (authority, dyno) = (Authority::new(), Dyno::start().await);
    let issued = authority.issue("shop", &["shop.test"]);
    let rig = Rig::from_toml(&format!(
        "[server]\nlisten = ['127.0.0.1:0']\n[tls]\nlisten = ['127.0.0.1:0']\ncertificates = [{}]\n\
         [apps.shop]\ndynos = ['{}']\n",
        issued.entry(),
        dyno.address
    ))
    .await;
    let secure = rig.daemon.as_ref().unwrap().secure_addresses()[0];
    let mut stream = authority.client().connect(secure, "shop.test").await.unwrap();
    for length in [3, 300_000, 3] {
        let request = format!("GET /?body={length} HTTP/1.1\r\nHost: shop.test\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let (mut read, mut part) = (Vec::new(), vec![0; 16 << 10]);
        while read.iter().filter(|byte| **byte == b'x').count() < length {
            let more = stream.read(&mut part).await.unwrap();
            assert!(more > 0, "{}", String::from_utf8_lossy(&read));
            read.extend_from_slice(&part[..more]);
        }
        rests(&rig, 1).await;
    }
    stream.shutdown().await.unwrap();
    assert_eq!(stream.read(&mut [0; 64]).await.unwrap(), 0, "it says goodbye");
    rests(&rig, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_silent_for_too_long_ends_and_one_with_half_a_head_is_told_of_it() {
    let dyno = Dyno::start().await;
    let rig = Rig::start_with(&[&dyno], "header_timeout = '9s'", "").await;
    let (mut silent, mut half) = (rig.client().await, rig.client().await);
    assert!(silent.get("/").await.is_ok());
    half.send("GET / HT").await;
    rests(&rig, 1).await;
    assert_eq!(silent.answer().await.status, 0, "it has ended");
    assert_eq!(half.answer().await.status, 408);
    assert_eq!(half.answer().await.status, 0, "it has ended");
    rig.log.are(2).await;
    assert_eq!(resting(&rig), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn none_rests_while_a_request_or_an_answer_is_under_way() {
    let dynos = Dyno::several(3).await;
    let rig = Rig::start_with(&[&dynos[0], &dynos[1], &dynos[2]], "", "").await;
    let (mut slow, mut trickle, mut upload) = (rig.client().await, rig.client().await, rig.client().await);
    slow.ask("GET", "/?ms=6000").await;
    trickle.ask("GET", "/?body=100&parts=2&gap=6000&length=0").await;
    upload.send("POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 4\r\n\r\nfo").await;
    // The last that came shows when all would rest.
    let idle = rig.client().await;
    until("it rests", || resting(&rig) > 0).await;
    assert_eq!(resting(&rig), 1);
    upload.send("ur").await;
    for client in [&mut slow, &mut trickle, &mut upload] {
        assert!(client.answer().await.is_ok());
    }
    drop(idle);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_ends_those_that_rest() {
    let dyno = Dyno::start().await;
    let mut rig = Rig::start(&[&dyno], "").await;
    let mut clients: Vec<Client> = Vec::new();
    for _ in 0..3 {
        clients.push(rig.client().await);
    }
    rests(&rig, 3).await;
    assert_eq!(rig.stop(Duration::from_secs(20)).await, 0);
    for client in &mut clients {
        assert_eq!(client.answer().await.status, 0, "it has ended");
    }
}
