//! Certificates by ACME from a real CA: first issue, renewal, refusals, a CA that is down; serving goes on in all.

mod ca;
mod gate;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, UNIX_EPOCH};

use rustix::process::Signal;

use self::ca::{Ca, Place, YEAR};
use self::gate::{Gate, Mood};
use crate::support::program::routerd;
use crate::support::{Client, until};

const COME: &str = "a certificate has come";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_gets_its_certificate_by_either_way_and_keeps_it_over_a_restart() {
    for way in ["http-01", "tls-alpn-01"] {
        let place = Place::new().await;
        let Some(mut ca) = Ca::start(&place, None, YEAR) else { return };
        let acme = ca.table(&place, &format!("challenges = ['{way}']"));
        // Neither the redirect to HTTPS nor the app is in the way of the CA.
        let hosts = ["shop.test", "two.test/api", "*.test"];
        let file = place.write_with(&acme, &hosts, "https = { redirect = true }");
        let mut daemon = place.run(&file);
        daemon.says(&format!("shop.test: {COME}"), 1).await;
        daemon.says(&format!("two.test: {COME}"), 1).await;
        let own = place.served("shop.test").await;
        assert!(place.is_real("shop.test").await, "{way}: {own:?}");
        assert_ne!(place.served("two.test").await, own, "each has its own");
        assert_eq!(place.served("other.test").await, None, "what has a * gets none");
        assert!(place.dyno.seen().is_empty(), "the app has heard nothing of it");
        let looked =
            daemon.lines().iter().filter(|line| line.contains("/.well-known/acme-challenge/")).count();
        assert_eq!(looked > 0, way == "http-01", "each request leaves its line");

        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let kept = place.storage().join("shop.test.pem");
        assert_eq!((mode(&place.storage()), mode(&kept)), (0o700, 0o600));
        for entry in std::fs::read_dir(place.storage()).unwrap() {
            assert_eq!(mode(&entry.unwrap().path()), 0o600);
        }
        // From now on the CA is not needed.
        assert_eq!(daemon.end(Signal::TERM).await.code(), Some(0));
        ca.falls();
        let again = place.run(&file);
        again.address().await;
        assert_eq!(place.served("shop.test").await, own);
        let said = again.lines().join("\n");
        assert!(!said.contains("no certificate"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_ca_is_down_a_stand_in_is_served_and_once_it_is_back_the_real_one() {
    let place = Place::new().await;
    let Some(mut ca) = Ca::start(&place, None, YEAR) else { return };
    ca.falls();
    let file = place.write(&ca.table(&place, ""), &["shop.test"]);
    let daemon = place.run(&file);
    let said = daemon.says("shop.test: no certificate", 1).await;
    assert!(
        said.contains("the CA cannot be reached: ") && said.contains("a stand-in is served, next try in"),
        "{said}"
    );
    assert!(!place.is_real("shop.test").await);
    let mut client = Client::connect(place.plain()).await;
    assert!(client.get("/").await.is_ok(), "requests are served as ever");
    let status = place.ctl(&["status", "--json"]).await;
    assert!(status.contains("\"failures\":1") || status.contains("\"failures\": 1"), "{status}");
    ca.rises();
    // Who does not want to wait for the next try loads the configuration anew.
    daemon.signal(Signal::HUP);
    daemon.says(&format!("shop.test: {COME}"), 1).await;
    assert!(place.is_real("shop.test").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_renewed_in_time_and_every_handshake_meets_a_good_one() {
    let place = Place::new().await;
    let Some(ca) = Ca::start(&place, None, 8) else { return };
    let file = place.write(&ca.table(&place, ""), &["shop.test"]);
    let daemon = place.run(&file);
    daemon.says(&format!("shop.test: {COME}"), 1).await;
    let first = place.served("shop.test").await;
    let come = || daemon.lines().iter().filter(|line| line.contains(COME)).count();
    while come() < 3 {
        assert!(place.is_real("shop.test").await);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_ne!(place.served("shop.test").await, first);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_is_not_here_is_told_and_the_others_get_theirs() {
    for way in ["http-01", "tls-alpn-01"] {
        let place = Place::new().await;
        let Some(ca) = Ca::start(&place, None, YEAR) else { return };
        let acme = ca.table(&place, &format!("challenges = ['{way}']"));
        let file = place.write(&acme, &["shop.lost.test", "shop.test"]);
        let daemon = place.run(&file);
        let said = daemon.says("shop.lost.test: no certificate", 1).await;
        assert!(said.contains("the CA could not see that the host is served here: "), "{said}");
        daemon.says(&format!("shop.test: {COME}"), 1).await;
        assert!(place.is_real("shop.test").await && !place.is_real("shop.lost.test").await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_ca_says_that_it_is_time_a_certificate_is_renewed() {
    let place = Place::new().await;
    let Some(ca) = Ca::start(&place, None, YEAR) else { return };
    let day = Duration::from_secs(24 * 60 * 60);
    let date = |since| humantime::format_rfc3339_seconds(UNIX_EPOCH + since).to_string();
    let now = router_core::clock::wall();
    // It takes the first certificate back, as it does with one that it has to revoke.
    let windows = vec![(date(now - day * 2), date(now - day)), (date(now + day), date(now + day * 2))];
    let gate = Gate::start(&ca.own, ca.port, Mood { windows, orders: None }).await;
    let file = place.write(&ca.table_at(gate.address.port(), &place, ""), &["shop.test"]);
    let daemon = place.run(&file);
    daemon.says(&format!("shop.test: {COME}"), 2).await;
    until("the second one is asked about too", || gate.mood.lock().windows.len() == 1).await;
    // Pebble does not know what is replaced: then an order does not say it.
    assert_eq!(gate.replacing.load(Ordering::Relaxed), 1);
    assert_eq!(gate.orders.load(Ordering::Relaxed), 3);
    let tomorrow = date(now + day).split_once('T').unwrap().0.to_owned();
    let next = |status: &str| {
        let status: serde_json::Value = serde_json::from_str(status).unwrap();
        status["acme"][0]["next"].as_str().unwrap().to_owned()
    };
    let mut told = next(&place.ctl(&["status", "--json"]).await);
    while told.as_str() > date(now + day * 2).as_str() {
        tokio::time::sleep(Duration::from_millis(20)).await;
        told = next(&place.ctl(&["status", "--json"]).await);
    }
    assert!(told.as_str() >= tomorrow.as_str(), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ca_that_has_had_enough_is_left_alone_for_as_long_as_it_says() {
    const PROBLEM: &str =
        r#"{"type":"urn:ietf:params:acme:error:rateLimited","detail":"too many certificates"}"#;
    let place = Place::new().await;
    let Some(ca) = Ca::start(&place, None, YEAR) else { return };
    let mood = Mood { orders: Some((429, "application/problem+json", PROBLEM)), ..Mood::default() };
    let gate = Gate::start(&ca.own, ca.port, mood).await;
    let file = place.write(&ca.table_at(gate.address.port(), &place, ""), &["shop.test"]);
    let daemon = place.run(&file);
    let said = daemon.says("shop.test: no certificate", 1).await;
    assert!(said.contains("the CA has had enough for now: too many certificates"), "{said}");
    assert!(said.contains("next try in 1h 59m 59s") || said.contains("next try in 2h"), "{said}");
    daemon.signal(Signal::HUP);
    daemon.says("reloaded in", 1).await;
    // It would have been asked by now.
    place.served("shop.test").await.unwrap();
    place.ctl(&["status"]).await;
    assert_eq!(gate.orders.load(Ordering::Relaxed), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_in_place_of_an_answer_is_told_by_its_status() {
    let place = Place::new().await;
    let Some(ca) = Ca::start(&place, None, YEAR) else { return };
    let mood = Mood { orders: Some((503, "text/html", "<h1>sorry</h1>")), ..Mood::default() };
    let gate = Gate::start(&ca.own, ca.port, mood).await;
    let file = place.write(&ca.table_at(gate.address.port(), &place, ""), &["shop.test"]);
    let said = place.run(&file).says("shop.test: no certificate", 1).await;
    assert!(said.contains("the CA cannot be reached: status 503 without an explanation"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_demand_only_what_is_asked_for_and_is_in_the_configuration_is_ordered() {
    let place = Place::new().await;
    let Some(ca) = Ca::start(&place, None, YEAR) else { return };
    let file = place.write(&ca.table(&place, "on_demand = true"), &["shop.test", "two.test"]);
    let daemon = place.run(&file);
    daemon.address().await;
    assert_eq!(place.served("stranger.test").await, None);
    assert!(!place.is_real("shop.test").await, "who comes first gets the stand-in");
    daemon.says(&format!("shop.test: {COME}"), 1).await;
    assert!(place.is_real("shop.test").await);
    let said = daemon.lines().join("\n");
    assert!(!said.contains("two.test: a cert") && !said.contains("stranger"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_comes_with_a_reload_gets_one_and_one_that_goes_is_not_served_any_more() {
    let place = Place::new().await;
    let Some(ca) = Ca::start(&place, None, YEAR) else { return };
    let acme = ca.table(&place, "");
    let file = place.write(&acme, &["shop.test"]);
    let daemon = place.run(&file);
    daemon.says(&format!("shop.test: {COME}"), 1).await;
    let own = place.served("shop.test").await;
    place.write(&acme, &["shop.test", "two.test"]);
    daemon.signal(Signal::HUP);
    daemon.says(&format!("two.test: {COME}"), 1).await;
    assert!(place.is_real("two.test").await);
    assert_eq!(place.served("shop.test").await, own, "it stays what it was");
    place.write(&acme, &["two.test"]);
    daemon.signal(Signal::HUP);
    daemon.says("reloaded in", 2).await;
    assert_eq!(place.served("shop.test").await, None);
    assert!(place.is_real("two.test").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_is_bound_to_one_elsewhere_and_made_anew_when_the_ca_has_forgotten_it() {
    const KEY: &str = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";
    let place = Place::new().await;
    let Some(mut ca) = Ca::start(&place, Some(KEY), YEAR) else { return };
    let file = place.write(&ca.table(&place, ""), &["shop.test"]);
    let daemon = place.run(&file);
    let said = daemon.says("shop.test: no certificate", 1).await;
    assert!(said.contains("the CA refuses: no account: "), "{said}");
    let key = place.folder.path().join("eab");
    std::fs::write(&key, format!("{KEY}\n")).unwrap();
    let bound = format!("eab_kid = 'kid-1'\neab_key_file = '{}'", key.display());
    place.write(&ca.table(&place, &bound), &["shop.test"]);
    daemon.signal(Signal::HUP);
    daemon.says(&format!("shop.test: {COME}"), 1).await;
    daemon.says("acme: a new account", 1).await;
    // What Pebble knew ends with it.
    ca.falls();
    ca.rises();
    let email = format!("{bound}\nemail = 'ops@shop.test'");
    place.write(&ca.table(&place, &email), &["shop.test", "two.test"]);
    daemon.signal(Signal::HUP);
    daemon.says("does not know our account", 1).await;
    daemon.says(&format!("two.test: {COME}"), 1).await;
    let kept = std::fs::read_dir(place.storage()).unwrap().map(|entry| entry.unwrap().path());
    let accounts: Vec<_> = kept.filter(|path| path.extension().is_some_and(|end| end == "json")).collect();
    assert_eq!(accounts.len(), 1, "the one before is put aside");
    assert!(std::fs::read_to_string(&accounts[0]).unwrap().contains("ops@shop.test"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_hand_over_the_new_process_goes_on_with_it() {
    let place = Place::new().await;
    let Some(ca) = Ca::start(&place, None, 10) else { return };
    let file = place.write(&ca.table(&place, ""), &["shop.test"]);
    let daemon = place.run(&file);
    daemon.says(&format!("shop.test: {COME}"), 1).await;
    // The old one stays for it: the folder is free before that.
    let mut client = Client::connect(place.plain()).await;
    assert!(client.get("/").await.is_ok());
    let new = crate::support::program::Program::start(&[
        "run".as_ref(),
        "--takeover".as_ref(),
        "--config".as_ref(),
        file.as_os_str(),
    ]);
    daemon.says("has taken over", 1).await;
    let before = daemon.lines().iter().filter(|line| line.contains(COME)).count();
    new.says(&format!("shop.test: {COME}"), 2).await;
    assert!(place.is_real("shop.test").await);
    let after = daemon.lines().iter().filter(|line| line.contains(COME)).count();
    assert_eq!(after, before, "the old one orders nothing any more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_processes_on_one_folder_one_orders() {
    let place = Place::new().await;
    let Some(ca) = Ca::start(&place, None, YEAR) else { return };
    let file = place.write(&ca.table(&place, ""), &["shop.test"]);
    let mut daemon = place.run(&file);
    daemon.says(&format!("shop.test: {COME}"), 1).await;
    let other = Place { storage: Some(place.storage()), ..Place::new().await };
    let second = other.run(&other.write(&ca.table(&other, ""), &["shop.test"]));
    second.says("another process orders certificates", 1).await;
    assert_eq!(other.served("shop.test").await, place.served("shop.test").await);
    daemon.end(Signal::TERM).await;
    second.signal(Signal::HUP);
    second.says("no other process orders certificates", 1).await;
}

#[tokio::test]
async fn a_folder_that_others_may_look_into_is_refused() {
    let place = Place::new().await;
    std::fs::create_dir(place.storage()).unwrap();
    std::fs::set_permissions(place.storage(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let storage = place.storage();
    let acme = format!("[acme]\naccept_terms = true\nstorage = '{}'\n", storage.display());
    let mut daemon = place.run(&place.write(&acme, &["shop.test"]));
    assert_eq!(daemon.ended().await.code(), Some(1));
    daemon.says("others may look into it (mode 755): chmod 700", 1).await;
}

#[test]
fn what_acme_wants_is_checked_before_anything_is_ordered() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("bad.key"), "not base64url!").unwrap();
    let check = |tls: &str, acme: &str, hosts: &str| {
        let file = folder.path().join("x.toml");
        let app = format!("[apps.shop]\nhosts = ['{hosts}']\ndynos = ['127.0.0.1:1']\n");
        std::fs::write(&file, format!("{tls}\n[acme]\n{acme}\n{app}")).unwrap();
        let output = routerd(&["check".as_ref(), "--config".as_ref(), file.as_os_str()]);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for (acme, says) in [
        ("", "needs accept_terms = true"),
        ("accept_terms = false", "needs accept_terms = true"),
        ("directory = 'http://ca.test/dir'", "no https:// URL"),
        ("email = 'nobody'", "no mail address"),
        ("ca = 'none.pem'", "cannot be read"),
        ("eab_kid = 'x'", "go together"),
        ("eab_kid = 'x'\neab_key_file = 'bad.key'", "no base64url"),
        ("challenges = ['dns-01']", "http-01"),
        ("renew_before = '1s'", "acme.renew_before: "),
        ("renew_before = '366d'", "acme.renew_before: "),
    ] {
        let accepts = if says.contains("accept_terms") { "" } else { "accept_terms = true\n" };
        let (code, said) = check("[tls]", &format!("{accepts}{acme}"), "shop.test");
        assert!(code == Some(1) && said.contains(says), "{acme}: {code:?} {said}");
    }
    let (code, said) = check("", "accept_terms = true", "shop.test");
    assert!(code == Some(1) && said.contains("[acme] without [tls]"), "{code:?} {said}");
    let (code, said) = check("[tls]", "accept_terms = true", "*.shop.test");
    assert!(code == Some(1) && said.contains("no host to order"), "{code:?} {said}");
    assert_eq!(check("[tls]", "accept_terms = true", "shop.test").0, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_that_no_order_waits_for_is_the_apps() {
    let place = Place::new().await;
    let Some(ca) = Ca::start(&place, None, YEAR) else { return };
    let daemon = place.run(&place.write(&ca.table(&place, "challenges = ['http-01']"), &["shop.test"]));
    daemon.says(&format!("shop.test: {COME}"), 1).await;
    let mut client = Client::connect(place.plain()).await;
    client.send(b"GET /.well-known/acme-challenge/mine HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    assert!(client.answer().await.is_ok());
    until("the app has it", || place.dyno.seen().iter().any(|it| it.head.contains("acme-challenge/mine")))
        .await;
}
