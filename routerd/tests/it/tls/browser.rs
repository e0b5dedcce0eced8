//! A browser: Chromium without a window, which trusts the test's authority as a user would tell it to.

use std::path::Path;
use std::process::Stdio;

use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::support::tls::Authority;
use crate::support::{DEADLINE, Rig, installed, until};
use crate::websocket::peer::WsDyno;

/// Asks for much at once, talks over a WebSocket, and tells the server how it was.
const PAGE: &str = r"<!doctype html><title>test</title><script>
(async () => {
  const answers = await Promise.all([...Array(40).keys()].map((n) => fetch('/?n=' + n)));
  const good = answers.filter((answer) => answer.status == 200).length;
  const by = performance.getEntriesByType('navigation')[0].nextHopProtocol;
  const socket = new WebSocket('wss://' + location.host + '/');
  let heard = 'nothing';
  socket.onopen = () => socket.send('hello');
  socket.onmessage = (message) => { heard = message.data; socket.close(1000); };
  socket.onclose = (end) => fetch('/report/' + [good, by, heard, end.code].join('-'));
})();
</script>";

fn chromium(home: &Path, url: &str) -> Child {
    Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
        .arg("--host-resolver-rules=MAP shop.test 127.0.0.1")
        .arg(format!("--user-data-dir={}", home.join("profile").display()))
        .arg(url)
        .env("HOME", home)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// Puts the authority where Chromium looks for those that its user trusts.
async fn trust(authority: &Authority, home: &Path) {
    let store = home.join(".pki/nssdb");
    std::fs::create_dir_all(&store).unwrap();
    let database = format!("sql:{}", store.display());
    let ca = authority.ca();
    for args in
        [&["-N", "--empty-password"][..], &["-A", "-t", "C,,", "-n", "test", "-i", ca.to_str().unwrap()]]
    {
        let mut command = Command::new("certutil");
        command.args(["-d", &database]).args(args).stdin(Stdio::null()).kill_on_drop(true);
        let done = timeout(DEADLINE, command.status()).await.expect("it ends").unwrap();
        assert!(done.success(), "certutil {args:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_gets_a_page_forty_answers_and_a_websocket_over_http2() {
    if !installed("chromium", &["--version"]) || !installed("sh", &["-c", "command -v certutil"]) {
        return;
    }
    let authority = Authority::new();
    let issued = authority.issue("shop", &["shop.test"]);
    let dynos = WsDyno::several(2, 0).await;
    dynos.iter().for_each(|dyno| dyno.shows(PAGE));
    let rig = Rig::from_toml(&format!(
        "[server]\nlisten = ['127.0.0.1:0']\n[tls]\nlisten = ['127.0.0.1:0']\ncertificates = [{}]\n\
         [apps.shop]\nhosts = ['shop.test']\ndynos = ['{}', '{}']\nqueue = {{ max_wait = '20s' }}\n",
        issued.entry(),
        dynos[0].address,
        dynos[1].address
    ))
    .await;
    let port = rig.daemon.as_ref().unwrap().secure_addresses()[0].port();
    let home = tempfile::tempdir().unwrap();
    trust(&authority, home.path()).await;
    let mut browser = chromium(home.path(), &format!("https://shop.test:{port}/page"));
    let reports = || dynos.iter().flat_map(WsDyno::asked).filter(|path| path.starts_with("/report/"));
    until("the page reports", || reports().next().is_some()).await;
    assert_eq!(reports().next().unwrap(), "/report/40-h2-hello-1000");
    browser.kill().await.unwrap();
    rig.at_rest().await;
    let lines = rig.settled().await;
    let websocket = lines.iter().find(|line| line["method"] == "CONNECT").expect("over HTTP/2");
    assert_eq!((websocket["status"].as_u64(), websocket["protocol"].as_str()), (Some(200), Some("http2.0")));
    assert_eq!(rig.log.faults(), [""; 0]);
}
