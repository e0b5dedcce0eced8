//! Names and passwords.

use std::fs;

use super::{get, reload, wrong};
use crate::support::program::routerd;
use crate::support::{Dyno, Rig};

/// `ops` with the password `secret`, by bcrypt with the least cost.
const OPS: &str = "ops:$2b$04$OPSOPSOPS";
const ASKS: &str = "Host: shop.test";
const SHOWS: &str = "Host: shop.test\r\nAuthorization: Basic b3BzOnNlY3JldA==";
const SHOWS_WRONG: &str = "Host: shop.test\r\nAuthorization: Basic b3BzOndyb25n";

fn ops() -> String {
    format!("ops:{}", bcrypt::hash("secret", 4).unwrap())
}

#[tokio::test]
async fn who_shows_no_password_gets_401_and_no_dyno_hears_of_it() {
    let dyno = Dyno::start().await;
    let text = |app: &str| {
        format!("[server]\nlisten = ['127.0.0.1:0']\n[apps.shop]\ndynos = ['{}']\n{app}\n", dyno.address)
    };
    let auth = format!("basic_auth.users = ['{}']\nredirects = [{{ from = '/old', to = '/new' }}]", ops());
    let rig = Rig::from_toml(&text(&auth)).await;
    let mut client = rig.client().await;
    let upgrade = format!("{ASKS}\r\nConnection: upgrade\r\nUpgrade: websocket");
    for lines in [ASKS, SHOWS_WRONG, &upgrade, &format!("{ASKS}\r\nAuthorization: Bearer x")] {
        let refused = get(&mut client, "/", lines).await;
        assert_eq!((refused.status, refused.fault()), (401, "M14"), "{lines}");
        assert_eq!(refused.header("www-authenticate"), "Basic realm=\"shop\", charset=\"UTF-8\"");
        assert_eq!(refused.header("retry-after"), "");
    }
    assert_eq!(client.post("/", b"hello").await.status, 401);
    let mut client = rig.client().await;
    assert_eq!(get(&mut client, "/old", ASKS).await.status, 308, "a redirect tells nothing");
    assert_eq!(dyno.asked(), 0);
    for _ in 0..3 {
        assert!(get(&mut client, "/", SHOWS).await.is_ok());
    }
    assert!(dyno.seen()[0].head.contains("b3BzOnNlY3JldA=="), "it is the app's to see who asks");
    rig.log.are(9).await;
    assert_eq!(rig.log.faults(), ["M14"; 5]);
    assert!(rig.log.all().iter().all(|line| !line.to_string().contains("b3Bz")));

    // Other users, and then none.
    let diff =
        reload(&rig, &text(&format!("basic_auth.users = ['{}']", ops().replace("ops:", "dev:")))).await;
    assert!(diff.contains("basic_auth.users: - ops (") && diff.contains(", + dev ("), "{diff}");
    assert!(!diff.contains("$2b$"), "no hash is shown: {diff}");
    assert_eq!(get(&mut client, "/", SHOWS).await.status, 401);
    reload(&rig, &text("")).await;
    assert!(get(&mut client, "/", ASKS).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_with_many_parts_is_one_check_and_guesses_are_bounded() {
    let dynos = Dyno::several(2).await;
    let auth = format!("basic_auth.users = ['{}']", ops());
    let rig = Rig::start(&[&dynos[0], &dynos[1]], &auth).await;
    let mut asked = Vec::new();
    for _ in 0..60 {
        let mut client = rig.client().await;
        client.send(format!("GET / HTTP/1.1\r\n{SHOWS}\r\n\r\n")).await;
        asked.push(client);
    }
    for client in &mut asked {
        assert!(client.answer().await.is_ok());
    }
    let mut client = rig.client().await;
    let mut statuses = Vec::new();
    for _ in 0..22 {
        statuses.push(get(&mut client, "/", SHOWS_WRONG).await.status);
    }
    assert_eq!((statuses[0], statuses.last()), (401, Some(&429)), "{statuses:?}");
    let limited = get(&mut client, "/", SHOWS_WRONG).await;
    assert!(limited.fault() == "M10" && limited.header("retry-after").parse::<u8>().unwrap() <= 6);
    assert!(get(&mut client, "/", SHOWS).await.is_ok(), "who is known is let in all the same");
}

#[tokio::test]
async fn users_may_stand_in_a_file_that_each_reload_reads_and_an_app_may_do_without() {
    let folder = tempfile::tempdir().unwrap();
    let users = folder.path().join("users.htpasswd");
    fs::write(&users, format!("# who may see it\n\n{}\n", ops().replace("$2b$", "$2y$"))).unwrap();
    let dyno = Dyno::start().await;
    let text = format!(
        "[server]\nlisten = ['127.0.0.1:0']\n[defaults]\nbasic_auth = {{ users_file = '{}', realm = 'tests' }}\n\
         [apps.shop]\nhosts = ['shop.test']\ndynos = ['{}']\n\
         [apps.open]\nhosts = ['open.test']\nbasic_auth = {{ users_file = '', users = [] }}\n",
        users.display(),
        dyno.address
    );
    let rig = Rig::from_toml(&text).await;
    let mut client = rig.client().await;
    assert!(get(&mut client, "/", SHOWS).await.is_ok());
    assert!(get(&mut client, "/", ASKS).await.header("www-authenticate").contains("realm=\"tests\""));
    assert_eq!(get(&mut client, "/", "Host: open.test").await.fault(), "H14");
    fs::write(&users, ops().replace("ops:", "dev:")).unwrap();
    let diff = reload(&rig, &text).await;
    assert!(diff.contains("basic_auth.users: - ops ("), "{diff}");
    assert_eq!(get(&mut client, "/", SHOWS).await.status, 401);
}

#[test]
fn the_command_makes_a_line_that_the_configuration_takes() {
    let printed = routerd(&["password", "--user", "ops"]);
    assert!(printed.status.success());
    let printed = String::from_utf8(printed.stdout).unwrap();
    let line = printed.lines().last().unwrap();
    let config =
        routerd::config::Config::parse(&format!("[apps.a]\nbasic_auth.users = ['{line}']"), "a").unwrap();
    assert_eq!(config.apps[0].web.auth.as_ref().unwrap().users[0].name, "ops");
    assert_eq!(routerd(&["password", "--user", "a:b"]).status.code(), Some(1));
}

#[test]
fn what_is_no_user_is_said_with_its_place_and_without_the_hash() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("users"), "# one\nops:$apr1$abc$def\n").unwrap();
    let ops = ops();
    for (auth, says) in [
        ("users = ['ops:secret']".to_owned(), "3:25 basic_auth.users: this is no bcrypt hash"),
        (format!("users = ['{OPS}']"), "3:25 basic_auth.users: this is no bcrypt hash"),
        (format!("users = ['{ops}', '{ops}']"), "3:93 basic_auth.users: the user ops is there twice"),
        (
            format!("users = ['{}']", ops.replace("$04$", "$31$")),
            "3:25 basic_auth.users: the cost is none from 4 to 14",
        ),
        ("users_file = 'users'".to_owned(), "3:29 basic_auth.users_file: line 2: this is no bcrypt hash"),
        ("users_file = 'none'".to_owned(), "3:29 basic_auth.users_file: the file cannot be read"),
        ("realm = 'tests'".to_owned(), "3:24 basic_auth: there are no users, so nobody could come in"),
        (format!("users = ['{ops}'], realm = '\"'"), "3:102 basic_auth.realm: this cannot be a realm"),
    ] {
        let found = wrong(folder.path(), &format!("basic_auth = {{ {auth} }}"));
        assert!(found.iter().any(|line| line.starts_with(says)), "{auth}\nexpected {says}\nfound {found:#?}");
        assert!(!found.iter().any(|line| line.contains("secret") || line.contains("$2")), "{found:#?}");
    }
}
