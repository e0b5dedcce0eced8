//! Slow on either side: uploads, downloads, heads, and dynos that take too long.

mod bounds;

use std::time::Duration;

use router_core::snapshot::DynoState;
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, sleep, timeout};

use crate::support::{Answer, Client, Dyno, Rig, until};

const SHORT: &str = "timeouts = { first_byte = '300ms', idle = '300ms', linger = '10s' }";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_of_a_byte_at_a_time_holds_no_dyno() {
    let dyno = Dyno::start().await;
    let rig = Rig::start(&[&dyno], "").await;
    let mut uploads = Vec::new();
    for _ in 0..20 {
        let mut client = rig.client().await;
        client.send("POST /slow HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 40\r\n\r\n").await;
        uploads.push(client);
    }
    for _ in 0..39 {
        for upload in &mut uploads {
            upload.send("u").await;
        }
        assert!(rig.get("/quick").await.is_ok());
        assert_eq!(rig.count(DynoState::Idle), 1);
    }
    assert!(
        dyno.seen().iter().all(|seen| seen.path == "/quick"),
        "no upload was given to the dyno before its end"
    );
    for upload in &mut uploads {
        upload.send("u").await;
        assert!(upload.answer().await.is_ok());
    }
    let bodies: Vec<_> =
        dyno.seen().into_iter().filter(|seen| seen.method == "POST").map(|seen| seen.body).collect();
    assert_eq!(bodies, [40; 20]);
    rig.log.are(59).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_above_the_buffer_is_streamed_and_one_whose_client_falls_silent_is_h28() {
    let dyno = Dyno::start().await;
    let rig = Rig::start(&[&dyno], &format!("{SHORT}\nrequest_buffer = '1KiB'")).await;
    let mut client = rig.client().await;
    let whole = client.post("/", &vec![b'u'; 300_000]).await;
    assert!(whole.is_ok(), "{whole:?}");
    assert_eq!(dyno.seen()[0].body, 300_000);
    client.send("POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 9000\r\n\r\n").await;
    client.send(vec![b'u'; 5000]).await;
    until("the dyno has it", || dyno.asked() == 2).await;
    assert_eq!(client.answer().await.status, 0, "nobody to answer: the connection is closed");
    // Silent before a dyno was taken: the same, and no dyno has seen it.
    let mut client = rig.client().await;
    client.send("POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 9\r\n\r\nu").await;
    assert_eq!(client.answer().await.status, 0);
    rig.log.are(3).await;
    assert_eq!(rig.log.codes(), ["-", "H28", "H28"]);
    assert_eq!(dyno.asked(), 2);
    rig.at_rest().await;
    assert!(rig.get("/").await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_dyno_is_free_at_its_last_byte_while_slow_clients_still_read() {
    let dyno = Dyno::start().await;
    let rig = Rig::start(&[&dyno], "").await;
    let size = 1_000_000;
    let mut slow = Vec::new();
    for _ in 0..4 {
        let mut client = rig.client().await;
        client.ask("GET", &format!("/?body={size}")).await;
        let head = client.head().await;
        assert_eq!(head.status, 200);
        slow.push((client, head));
    }
    rig.at_rest().await;
    until("all four were answered", || dyno.answered() == 4).await;
    let began = Instant::now();
    for _ in 0..20 {
        assert!(rig.get("/").await.is_ok());
    }
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    for (mut client, mut answer) in slow {
        client.body(&mut answer).await;
        assert!(answer.whole && answer.body.len() == size);
    }
    rig.log.are(24).await;
    assert_eq!(rig.log.faults(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_above_the_spool_holds_its_dyno_until_the_client_has_read_on() {
    let dyno = Dyno::start().await;
    let rig = Rig::start(&[&dyno], "response_spool = '64KiB'").await;
    // More than the sockets between hold.
    let size = 30_000_000;
    let mut client = rig.client().await;
    client.ask("GET", &format!("/?body={size}")).await;
    let mut answer = client.head().await;
    let next = rig.spawn_get("/next");
    rig.waiting(1).await;
    sleep(Duration::from_millis(100)).await;
    assert!(!next.is_finished() && dyno.asked() == 1 && rig.count(DynoState::Busy) == 1);
    client.body(&mut answer).await;
    assert!(answer.whole && answer.body.len() == size);
    assert!(next.await.unwrap().is_ok());
    rig.at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_stops_reading_is_cut_and_its_dyno_gets_its_work_done_first() {
    let dyno = Dyno::start().await;
    let rig = Rig::start(&[&dyno], &format!("{SHORT}\nresponse_spool = '64KiB'")).await;
    let mut client = rig.client().await;
    client.ask("GET", "/?body=30000000").await;
    assert_eq!(client.head().await.status, 200);
    // The client reads no more: once the silence is long enough, the answer is thrown away.
    rig.at_rest().await;
    until("it was read to its end all the same", || dyno.answered() == 1).await;
    assert!(rig.get("/").await.is_ok());
    let mut answer = Answer { head: "content-length: 30000000".to_owned(), ..Answer::default() };
    client.body(&mut answer).await;
    assert!(!answer.whole);
    rig.log.are(2).await;
    let mut codes = rig.log.codes();
    codes.sort();
    assert_eq!(codes, ["-", "H28"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_does_not_come_to_an_end_is_408_and_one_record() {
    let dyno = Dyno::start().await;
    let rig = Rig::start_with(&[&dyno], "header_timeout = '400ms'", "").await;
    let mut clients = Vec::new();
    for _ in 0..10 {
        let mut client = rig.client().await;
        client.send("GET / HTTP/1.1\r\nHost: sh").await;
        clients.push(client);
    }
    // A byte now and then does not help.
    for _ in 0..3 {
        sleep(Duration::from_millis(50)).await;
        for client in &mut clients {
            client.send("o").await;
        }
    }
    for client in &mut clients {
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.fault()), (408, "H26"));
        assert!(client.rest().await.is_empty());
    }
    // A connection that says nothing at all is closed without a word, and is no request.
    let mut idle = rig.client().await;
    assert!(idle.rest().await.is_empty());
    rig.log.are(10).await;
    assert!(rig.log.codes().iter().all(|code| code == "H26"));
    assert_eq!(dyno.asked(), 0);
    assert!(rig.get("/").await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dyno_that_is_too_late_gets_no_request_until_it_has_answered_the_first() {
    let dyno = Dyno::start().await;
    let rig = Rig::start(&[&dyno], SHORT).await;
    let late = rig.get("/?held=1").await;
    assert_eq!((late.status, late.fault()), (503, "H12"));
    assert_eq!(rig.count(DynoState::Lingering), 1);
    let next = rig.spawn_get("/next");
    rig.waiting(1).await;
    dyno.let_go();
    let next = next.await.unwrap();
    assert!(next.is_ok(), "{next:?}");
    assert_eq!((dyno.asked(), dyno.connections()), (2, 1), "the connection is as good as before");
    rig.log.are(2).await;
    assert_eq!(rig.log.codes(), ["H12", "-"]);
    let service = rig.log.all()[0]["service_ms"].as_f64().unwrap();
    assert!(service >= 100.0, "it had the dyno for first_byte: {service}");
    // And one whose client did not wait.
    let mut client = rig.client().await;
    client.ask("GET", "/left?do=hang").await;
    until("it is at the dyno", || dyno.is_working()).await;
    sleep(Duration::from_millis(20)).await;
    drop(client);
    rig.log.are(3).await;
    let left = rig.log.last();
    assert!(left["code"] == "H27" && left["service_ms"].as_f64().unwrap() >= 20.0, "{left}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lingering_ends_when_the_dyno_dies_and_after_the_time_for_it() {
    let dyno = Dyno::start().await;
    let rig = Rig::start(&[&dyno], SHORT).await;
    assert_eq!(rig.get("/?do=hang").await.fault(), "H12");
    dyno.kill().await;
    dyno.restart();
    rig.at_rest().await;
    assert!(rig.get("/").await.is_ok());

    let dyno = Dyno::start().await;
    let rig = Rig::start(&[&dyno], "timeouts = { first_byte = '100ms', linger = '400ms' }").await;
    let began = Instant::now();
    assert_eq!(rig.get("/?do=hang").await.fault(), "H12");
    rig.at_rest().await;
    assert!(began.elapsed() >= Duration::from_millis(500), "{:?}", began.elapsed());
    assert_eq!(dyno.open_connections(), 0, "closed before anybody else may come");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dyno_that_is_freed_by_a_close_is_not_waited_for() {
    let dyno = Dyno::start().await;
    let app = "close_frees_dyno = true\ntimeouts = { first_byte = '100ms', linger = '1h' }";
    let rig = Rig::start(&[&dyno], app).await;
    // It reads on, and so sees the close, as a server does that frees itself by it.
    assert_eq!(rig.get("/?do=reads").await.fault(), "H12");
    until("it has seen the close", || !dyno.is_working()).await;
    assert_eq!(rig.count(DynoState::Idle), 1);
    assert!(rig.get("/").await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dyno_that_falls_silent_within_its_answer_is_h15() {
    let dyno = Dyno::start().await;
    let rig = Rig::start(&[&dyno], "timeouts = { idle = '300ms', linger = '300ms' }").await;
    let short = rig.get("/?do=stall&parts=2&body=1000").await;
    assert_eq!((short.status, short.fault()), (503, "H15"));
    assert_eq!(rig.count(DynoState::Lingering), 1);
    dyno.kill().await;
    dyno.restart();
    rig.at_rest().await;
    let long = rig.get("/?do=stall&parts=2&body=300000").await;
    assert_eq!((long.status, long.whole), (200, false));
    dyno.kill().await;
    dyno.restart();
    rig.at_rest().await;
    // Slow is not silent: parts that keep coming are an answer, however long it takes.
    let slow = rig.get("/?parts=6&gap=100&body=600").await;
    assert!(slow.is_ok());
    rig.log.are(3).await;
    assert_eq!(rig.log.codes(), ["H15", "H15", "-"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_readers_and_slow_writers_do_not_reduce_what_the_dynos_do() {
    let dynos = Dyno::several(2).await;
    let rig = Rig::start(&[&dynos[0], &dynos[1]], "").await;
    let mut crawlers = Vec::new();
    for n in 0..30 {
        let mut client = rig.client().await;
        if n % 2 == 0 {
            client.send("POST /crawl HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 1000\r\n\r\n1").await;
        } else {
            client.ask("GET", "/crawl?body=900000").await;
        }
        crawlers.push(client);
    }
    until("the answers are in the spools", || dynos.iter().map(Dyno::answered).sum::<usize>() == 15).await;
    let gets: Vec<_> = (0..100).map(|_| rig.spawn_get("/?ms=10")).collect();
    let began = Instant::now();
    for get in gets {
        assert!(get.await.unwrap().is_ok());
    }
    // 100 requests of 10 ms on 2 dynos take 0.5 s; the rest is for a busy machine.
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    let mut byte = [0];
    let one: &mut Client = &mut crawlers[1];
    assert_eq!(timeout(Duration::from_secs(5), one.stream.read(&mut byte)).await.unwrap().unwrap(), 1);
}
