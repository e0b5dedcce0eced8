//! Pages of an app's own for faults of the router.

use std::fs;
use std::path::Path;

use super::{get, reload, wrong};
use crate::support::{Dyno, Rig};

const BROWSER: &str =
    "Host: shop.test\r\nAccept: text/html,*/*;q=0.8\r\nX-Request-Id: an-id-of-twenty-characters";
const PROGRAM: &str =
    "Host: shop.test\r\nAccept: application/json\r\nX-Request-Id: an-id-of-twenty-characters";

fn config(folder: &Path, dyno: Option<&Dyno>, pages: &str) -> String {
    let dynos = dyno.map(|dyno| format!("'{}'", dyno.address)).unwrap_or_default();
    let pages = pages.replace("@", &format!("{}/", folder.display()));
    format!("[server]\nlisten = ['127.0.0.1:0']\n[apps.shop]\ndynos = [{dynos}]\nerror_pages = [{pages}]\n")
}

#[tokio::test]
async fn a_fault_has_the_pages_of_its_app_and_else_all_is_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("sorry.html", "<h1>Sorry</h1> {{code}} {{status}} {{request_id}}<style>a{b:c}</style>");
    write("none.json", r#"{"why": "{{desc}}", "id": "{{request_id}}"}"#);
    let pages = "{ on = ['5xx'], html = '@sorry.html' }, { on = ['H14'], json = '@none.json' }";
    let rig = Rig::from_toml(&config(folder.path(), None, pages)).await;
    let mut client = rig.client().await;
    let page = get(&mut client, "/", BROWSER).await;
    assert_eq!(page.text(), "<h1>Sorry</h1> H14 503 an-id-of-twenty-characters<style>a{b:c}</style>");
    assert_eq!((page.status, page.fault()), (503, "H14"));
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    assert_eq!((page.header("retry-after"), page.header("cache-control")), ("1", "no-store"));
    let page = get(&mut client, "/", PROGRAM).await;
    assert_eq!(page.text(), r#"{"why": "No web processes running", "id": "an-id-of-twenty-characters"}"#);
    assert_eq!((page.header("content-type"), page.header("retry-after")), ("application/json", "1"));
    // Only the head, with the length of the page.
    client.send(format!("HEAD / HTTP/1.1\r\n{BROWSER}\r\n\r\n")).await;
    let head = client.head().await;
    assert_eq!((head.status, head.header("content-length")), (503, "70"));
    rig.log.are(3).await;
    assert_eq!(rig.log.faults(), ["H14"; 3]);
    assert_eq!(rig.log.all()[0]["bytes"], 70);

    // A page that is written anew is another one at the next reload.
    write("none.json", r#"{"soon": true}"#);
    let diff = reload(&rig, &config(folder.path(), None, pages)).await;
    assert!(diff.contains("error_pages: - H14: ") && diff.contains(", + H14: "), "{diff}");
    assert_eq!(get(&mut client, "/", PROGRAM).await.text(), r#"{"soon": true}"#);
    reload(&rig, &config(folder.path(), None, "")).await;
    let page = get(&mut client, "/", PROGRAM).await;
    assert!(page.text().starts_with(r#"{"fault":"H14","status":503"#), "{}", page.text());
}

#[tokio::test]
async fn what_a_dyno_answers_is_never_replaced() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("sorry.html"), "sorry").unwrap();
    let dyno = Dyno::start().await;
    dyno.is_now(crate::support::Mood::Sick);
    let rig =
        Rig::from_toml(&config(folder.path(), Some(&dyno), "{ on = ['*'], html = '@sorry.html' }")).await;
    let mut client = rig.client().await;
    let sick = get(&mut client, "/", BROWSER).await;
    assert_eq!((sick.status, sick.text().as_str()), (500, "sick"));
    dyno.is_now(crate::support::Mood::Well);
    let broken = get(&mut client, "/?do=garbage", BROWSER).await;
    assert_eq!((broken.status, broken.fault(), broken.text().as_str()), (503, "H17", "sorry"));
}

#[test]
fn what_is_no_page_is_said_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &[u8]| fs::write(folder.path().join(name), text).unwrap();
    write("big.html", &vec![b'x'; (1 << 20) + 1]);
    write("latin.html", b"\xe9");
    write("word.html", b"{{request}}");
    write("no.json", br#"{"code": {{code}}}"#);
    write("good.html", b"");
    for (page, says) in [
        ("{ on = ['5xx'], html = 'none.html' }", "3:39 error_pages.html: the file cannot be read"),
        ("{ on = ['5xx'], html = 'big.html' }", "3:39 error_pages.html: the file is larger than 1 MiB"),
        ("{ on = ['5xx'], html = 'latin.html' }", "3:39 error_pages.html: the file is no UTF-8 text"),
        ("{ on = ['5xx'], html = 'word.html' }", "3:39 error_pages.html: {{request}} means nothing here"),
        ("{ on = ['5xx'], json = 'no.json' }", "3:39 error_pages.json: this is no JSON"),
        ("{ on = ['200'], html = 'good.html' }", "3:24 error_pages.on: no fault has this status"),
        ("{ on = ['M01'], html = 'good.html' }", "3:24 error_pages.on: no app's page is ever shown for this"),
        ("{ on = [], html = 'good.html' }", "3:23 apps.shop.error_pages.on must have 1 to 100 entries"),
        ("{ html = 'good.html' }", "3:16 error_pages: it is not said for which faults"),
        ("{ on = ['5xx'] }", "3:16 error_pages: there is no page"),
        ("'good.html'", "3:16 apps.shop.error_pages: this is not a table"),
    ] {
        let found = wrong(folder.path(), &format!("error_pages = [{page}]"));
        assert!(found.iter().any(|line| line.starts_with(says)), "{page}\nexpected {says}\nfound {found:#?}");
    }
}
