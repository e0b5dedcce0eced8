//! A table of hostile inputs against the daemon with a dyno that writes down what reaches it; HAProxy and nginx beside
//! it when `HOSTILE=report` asks for a comparison, which goes to `target/hostile.md`.

mod cases;
mod dyno;
mod peers;
mod tls;

use serde_json::Value;

use crate::support::{Client, Rig, until};
use cases::{Case, End, GROUPS};
use dyno::{Recorder, Seen};

/// The bytes of a case.
fn expand(text: &str) -> Vec<u8> {
    const WORDS: &[(&str, &str)] = &[
        ("{EVIL}", "GET /evil HTTP/1.1\r\nHost: a.test\r\nX: 123\r\n\r\n"),
        ("{GET}", "GET /x HTTP/1.1\r\n{H}"),
        ("{POST}", "POST /x HTTP/1.1\r\n{H}"),
        ("{CH}", "Transfer-Encoding: chunked\r\n"),
        ("{H}", "Host: a.test\r\n"),
    ];
    let mut text = WORDS.iter().fold(text.to_owned(), |text, (word, means)| text.replace(word, means));
    while let Some(at) = text.find('{') {
        let end = at + text[at..].find('}').unwrap();
        let (what, times) = text[at + 1..end].split_once('*').unwrap();
        let long = what.repeat(times.parse().unwrap());
        text.replace_range(at..=end, &long);
    }
    text.into_bytes()
}

async fn rig(dyno: &Recorder) -> Rig {
    Rig::from_toml(&format!(
        "[server]\nlisten = ['127.0.0.1:0']\n[apps.shop]\nhosts = ['a.test']\ndynos = ['{}']\n",
        dyno.address
    ))
    .await
}

/// What the dyno got is a request that a reader who knows nothing of the client reads in one way only.
fn is_plain(seen: &Seen) -> bool {
    let lengths = seen.values("content-length");
    let codings = seen.values("transfer-encoding");
    let lines = seen.head.trim_end_matches("\r\n").split("\r\n");
    lengths.len() + codings.len() <= 1
        && codings.iter().all(|coding| *coding == "chunked")
        && seen.values("host") == ["a.test"]
        && lines.skip(1).all(|line| {
            line.split_once(": ").is_some_and(|(name, value)| {
                !name.is_empty()
                    && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                    && !value.contains(|c: char| c.is_ascii_control())
            })
        })
}

/// Runs one case. Gives what is wrong, if anything is.
async fn run((_, text, statuses, end, wanted): &Case, rig: &Rig, dyno: &Recorder) -> Result<(), String> {
    let before = rig.log.count();
    let mut client = rig.client().await;
    client.send(expand(text)).await;
    let mut got = Vec::new();
    for _ in *statuses {
        got.push(client.answer().await.status);
    }
    if got != *statuses {
        return Err(format!("statuses {got:?}"));
    }
    let mut logged = statuses.to_vec();
    match end {
        End::Shut => {
            let rest = client.rest().await;
            if !rest.is_empty() {
                return Err(format!("more: {:?}", String::from_utf8_lossy(&rest)));
            }
        }
        End::Open => {
            client.send(expand("GET /sentinel HTTP/1.1\r\n{H}\r\n")).await;
            logged.push(200);
            let status = client.answer().await.status;
            if status != 200 {
                return Err(format!("the sentinel gets {status}"));
            }
        }
        // What has begun leaves a record.
        End::Left => logged.push(499),
    }
    drop(client);
    until("the connection has ended", || rig.daemon.as_ref().unwrap().connections() == 0).await;
    until("a record each", || rig.log.count() - before >= logged.len()).await;
    rig.at_rest().await;
    let lines = rig.log.all().split_off(before);
    let records: Vec<_> = lines.iter().map(|line| line["status"].as_u64().unwrap_or(0)).collect();
    let coded = |line: &Value| match line["status"].as_u64() {
        Some(200) => line["code"].is_null(),
        Some(404) => line["code"] == "M01",
        Some(499) => line["code"] == "H27",
        _ => line["code"] == "H26" && line["cause"].is_string(),
    };
    if !records.iter().copied().eq(logged.iter().map(|status| u64::from(*status))) || !lines.iter().all(coded)
    {
        return Err(format!("logged {lines:?}"));
    }
    let mut seen = dyno.take();
    if *end == End::Open && seen.pop().is_none_or(|last| last.short() != "GET /sentinel ") {
        return Err("the sentinel did not reach the dyno as the last".to_owned());
    }
    let short: Vec<_> = seen.iter().map(Seen::short).collect();
    let wanted: Vec<_> =
        wanted.iter().map(|text| String::from_utf8_lossy(&expand(text)).into_owned()).collect();
    if short != wanted {
        return Err(format!("the dyno saw {short:?}"));
    }
    match seen.iter().find(|seen| !is_plain(seen)) {
        Some(seen) => Err(format!("the dyno saw {seen:?}")),
        None => Ok(()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_ambiguous_reaches_a_dyno() {
    let dyno = Recorder::start().await;
    let rig = rig(&dyno).await;
    let mut wrong = Vec::new();
    for (group, cases) in GROUPS {
        for case in *cases {
            if let Err(what) = run(case, &rig, &dyno).await {
                dyno.take();
                wrong.push(format!("{group}: {}: {what}; sent {:.200?}", case.0, case.1));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of the cases:\n{}", wrong.len(), wrong.join("\n"));
    let number: usize = GROUPS.iter().map(|(_, cases)| cases.len()).sum();
    assert!(number >= 120, "{number} cases");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_in_pieces_is_judged_as_one() {
    let dyno = Recorder::start().await;
    let rig = rig(&dyno).await;
    for (text, status) in [
        ("GET /x HTTP/1.1\r\nHost: a.test\r\nX : y\r\n\r\n", 400),
        ("POST /x HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nhi", 400),
        ("POST /x HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\n\r\nhi", 200),
    ] {
        for at in 1..text.len() {
            let mut client: Client = rig.client().await;
            client.send(&text[..at]).await;
            tokio::task::yield_now().await;
            client.send(&text[at..]).await;
            assert_eq!(client.answer().await.status, status, "{text:?} cut at {at}");
        }
    }
    rig.at_rest().await;
    assert!(dyno.take().iter().all(|seen| seen.short() == "POST /x hi"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_client_that_sends_on_still_gets_its_answer() {
    let dyno = Recorder::start().await;
    let rig = rig(&dyno).await;
    for _ in 0..20 {
        let mut client = rig.client().await;
        client.send(expand("GET /x HTTP/1.1\r\n{H}X : y\r\n\r\n")).await;
        // More than one read of the daemon: closed at once, the connection would be reset and the answer lost.
        client.send(vec![b'x'; 100_000]).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.fault(), answer.header("connection")), (400, "H26", "close"));
    }
}
