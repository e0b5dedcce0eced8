//! Headers of the PROXY protocol in front of connections: whose are believed, and what becomes of the others.

use std::time::Duration;

use router_core::proxy::PROXY_SIGNATURE;

use super::{get_after, refused};
use crate::support::client::header;
use crate::support::{Dyno, Rig, until};

const V1: &[u8] = b"PROXY TCP4 203.0.113.7 198.51.100.1 4711 443\r\n";

fn v2(command: u8, tlvs: usize) -> Vec<u8> {
    let ends = [203, 0, 113, 7, 198, 51, 100, 1, 0x12, 0x67, 1, 0xBB];
    let length = u16::try_from(ends.len() + tlvs).unwrap().to_be_bytes();
    [&PROXY_SIGNATURE[..], &[command, 0x11], &length, &ends, &vec![4; tlvs]].concat()
}

async fn rig(dyno: &Dyno, trusted: &str, mode: &str) -> Rig {
    let server =
        format!("trusted_proxies = ['{trusted}']\nproxy_protocol = '{mode}'\nheader_timeout = '300ms'");
    let dyno = dyno.address;
    Rig::from_toml(&format!(
        "[server]\nlisten = ['127.0.0.1:0']\n{server}\n[admin]\nlisten = '127.0.0.1:0'\n\
         [apps.shop]\ndynos = ['{dyno}']\n"
    ))
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_client_is_whom_a_trusted_header_names_however_it_is_cut() {
    for mode in ["optional", "required"] {
        let dyno = Dyno::start().await;
        let rig = rig(&dyno, "127.0.0.1", mode).await;
        let mut asked = 0;
        for (bytes, client, port) in [
            (V1.to_vec(), "203.0.113.7", Some("443")),
            (v2(0x21, 0), "203.0.113.7", Some("443")),
            (v2(0x21, 60_000), "203.0.113.7", Some("443")),
            (v2(0x20, 7), "127.0.0.1", None),
            (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1", None),
        ] {
            for cut in [0, 1, 5, 11, 13, 16, 20, 40, bytes.len() - 1, bytes.len()] {
                let answer = get_after(&rig, &bytes, cut).await;
                assert!(answer.is_ok(), "{mode}, cut at {cut} of {:?}: {answer:?}", &bytes[..14]);
                let head = dyno.seen().swap_remove(asked).head;
                asked += 1;
                assert_eq!(header(&head, "x-forwarded-for"), Some(client));
                let told = header(&head, "x-forwarded-port");
                assert!(port.is_none_or(|port| told == Some(port)), "{told:?}");
                rig.log.are(asked).await;
                assert_eq!(rig.log.last()["fwd"], client);
            }
        }
        assert_eq!(refused(&rig, "proxy_header").await, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_from_a_stranger_a_wrong_one_and_a_missing_one_close_the_connection_and_are_counted() {
    let dyno = Dyno::start().await;
    for (trusted, mode, begins) in [
        ("10.0.0.1", "required", V1),
        ("10.0.0.1", "required", b"".as_slice()),
        ("10.0.0.1", "optional", V1),
        ("127.0.0.1", "required", b""),
        ("127.0.0.1", "required", b"PROXY TCP4 203.0.113.7 198.51.100.1 4711\r\n"),
        ("127.0.0.1", "optional", b"PROXY TCP4 203.0.113.7 198.51.100.1 4711\r\n"),
        ("127.0.0.1", "optional", b"\r\n\r\n\0\r\nQUIT\n\x11\x11\0\0"),
    ] {
        let rig = rig(&dyno, trusted, mode).await;
        let answer = get_after(&rig, begins, 3).await;
        assert_eq!(answer.status, 0, "{trusted} {mode} {begins:?}");
        assert_eq!(refused(&rig, "proxy_header").await, 1, "{trusted} {mode} {begins:?}");
        until("it is over", || rig.daemon.as_ref().unwrap().connections() == 0).await;
    }
    assert_eq!(dyno.asked(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_header_an_optional_one_changes_nothing() {
    let dyno = Dyno::start().await;
    for trusted in ["127.0.0.1", "10.0.0.1"] {
        let rig = rig(&dyno, trusted, "optional").await;
        for cut in [0, 1, 3] {
            let mut client = rig.client().await;
            let (one, two) = "PROPFIND / HTTP/1.1\r\nHost: shop.test\r\n\r\n".split_at(cut);
            client.send(one).await;
            tokio::task::yield_now().await;
            client.send(two).await;
            assert!(client.answer().await.is_ok());
        }
        // The beginning of a head, and the end: that is told as without the key.
        let mut client = rig.client().await;
        client.send("P").await;
        drop(client);
        until("it has its line", || rig.log.faults() == ["H27"]).await;
        assert_eq!(refused(&rig, "proxy_header").await, 0);
        drop(rig);
        until("the dyno is free for the next one", || dyno.open_connections() == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_that_does_not_come_is_not_waited_for_longer_than_for_a_head() {
    let dyno = Dyno::start().await;
    let rig = rig(&dyno, "127.0.0.1", "required").await;
    // Nobody was there, and half of one.
    drop(rig.client().await);
    let mut half = rig.client().await;
    half.send(&V1[..20]).await;
    assert!(half.rest().await.is_empty());
    // Its end is announced and never comes.
    let mut endless = rig.client().await;
    endless.send(&v2(0x21, 500)[..100]).await;
    assert!(endless.rest().await.is_empty());
    assert_eq!(refused(&rig, "proxy_header").await, 2);
    // One that waits for its header is no reason to wait with the end.
    let _silent = rig.client().await;
    let mut rig = rig;
    until("it is there", || rig.daemon.as_ref().unwrap().connections() == 1).await;
    assert_eq!(rig.stop(Duration::from_secs(20)).await, 0);
}
