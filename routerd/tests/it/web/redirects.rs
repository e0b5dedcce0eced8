//! What is sent elsewhere, without a dyno.

use super::{get, reload, wrong};
use crate::support::{Dyno, Rig};

#[tokio::test]
async fn who_asks_for_an_old_place_is_sent_to_the_new_one_without_a_dyno_and_with_a_record() {
    let dyno = Dyno::start().await;
    let rules = |rules: &str| {
        let dyno = dyno.address;
        format!(
            "[server]\nlisten = ['127.0.0.1:0']\n[apps.shop]\nhosts = ['shop.test', 'www.shop.test']\n\
             dynos = ['{dyno}']\ndeny = ['203.0.113.0/24']\nredirects = [{rules}]\n"
        )
    };
    let rig = Rig::from_toml(&rules(
        "{ from = '/old/*', to = '/new/*', status = 301 }, { from = 'www.shop.test', to = 'https://shop.test/*' }",
    ))
    .await;
    let mut client = rig.client().await;
    let moved = get(&mut client, "/old/cart?item=1", "Host: shop.test").await;
    assert_eq!((moved.status, moved.header("location")), (301, "/new/cart?item=1"));
    assert!(moved.body.is_empty());
    let moved = get(&mut client, "/cart?item=1", "Host: WWW.shop.test.:8080").await;
    assert_eq!((moved.status, moved.header("location")), (308, "https://shop.test/cart?item=1"));
    let moved = get(&mut client, "/old//evil.test/%0d%0a", "Host: shop.test").await;
    assert_eq!(moved.header("location"), "/new//evil.test/%0d%0a");
    // With a body that nobody reads the connection is still good for the next request, or closed.
    let moved = client.post("/old/x", b"hello").await;
    assert_eq!((moved.status, dyno.asked()), (301, 0));
    assert!(rig.get("/older").await.is_ok());
    rig.log.are(5).await;
    let line = &rig.log.all()[0];
    assert_eq!((line["status"].as_u64(), line["path"].as_str()), (Some(301), Some("/old/cart?item=1")));
    assert_eq!(rig.log.faults(), Vec::<String>::new());

    let diff = reload(&rig, &rules("{ from = '/old/*', to = '/newer/*' }")).await;
    assert!(
        diff.contains(
            "redirects: - /old/* -> /new/* (301), - www.shop.test/* -> https://shop.test/* (308), + "
        )
    );
    let mut client = rig.client().await;
    assert_eq!(get(&mut client, "/old/a", "Host: shop.test").await.header("location"), "/newer/a");
    assert!(get(&mut client, "/a", "Host: www.shop.test").await.is_ok());
}

#[test]
fn what_is_no_redirect_is_said_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    for (rule, says) in [
        ("{ from = '/a' }", "3:14 redirects: to is missing"),
        ("{ to = '/a' }", "3:14 redirects: from is missing"),
        ("{ from = 'a b', to = '/a' }", "3:23 redirects.from: "),
        ("{ from = '/a*', to = '/b' }", "3:23 redirects.from: a * can only stand at the end, behind a /"),
        (
            "{ from = '/a', to = 'shop.test' }",
            "3:34 redirects.to: this is neither a path nor begins with http",
        ),
        (
            "{ from = '/a', to = '//evil.test' }",
            "3:34 redirects.to: two slashes at the beginning would be a host",
        ),
        ("{ from = '/a', to = '/b/*' }", "3:14 redirects: `to` has a * at its end, and `from` has none"),
        (
            "{ from = '/a', to = '/b', status = 304 }",
            "3:49 redirects.status: this status sends nobody elsewhere",
        ),
        (
            "{ from = '/a', to = '/b', status = 200 }",
            "3:49 apps.shop.redirects.status: the value is below the floor",
        ),
        ("{ from = 'api.test', to = '/b' }", "3:23 redirects.from: api.test is none of the app's hosts"),
        ("{ from = '/*', to = '/new/*' }", "3:14 redirects: this leads in a circle"),
        ("{ from = '/*', to = 'https://shop.test/*' }", "3:14 redirects: this leads in a circle"),
        ("{ from = '/a', to = '/b' }, { from = '/b', to = '/a' }", "3:42 redirects: this leads in a circle"),
    ] {
        let found = wrong(folder.path(), &format!("redirects = [{rule}]"));
        assert!(found.iter().any(|line| line.starts_with(says)), "{rule}\nexpected {says}\nfound {found:#?}");
    }
}
