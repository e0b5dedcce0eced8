//! The admin interface as an operator and as a stranger meet it: who is let in, what is refused, what goes on.

mod ctl;
mod daemon;
mod fake;

use std::time::Duration;

use routerd::control::{Order, Role, Scope};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use self::fake::{Desk, token, view};
use crate::support::{Answer, DEADLINE, installed, until};

const JSON: &str = "Content-Type: application/json\r\n";

fn page(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
}

/// The kind of a refusal, which is always JSON.
fn kind(answer: &Answer) -> String {
    assert_eq!(answer.header("content-type"), "application/json", "{answer:?}");
    let error = page(answer)["error"].clone();
    assert!(!error["text"].as_str().unwrap().is_empty(), "{error}");
    error["kind"].as_str().unwrap().to_owned()
}

/// Every order, those that name an app with `shop`.
fn orders() -> Vec<Order> {
    let (app, dyno) = (|| "shop".to_owned(), || "[::1]:3001".to_owned());
    let second = Some(Duration::from_secs(1));
    vec![
        Order::Reload,
        Order::Upgrade,
        Order::Deploy {
            app: app(),
            release: "v43".to_owned(),
            dynos: vec!["127.0.0.1:3003".to_owned(), "dns:web.internal:80".to_owned()],
            canary: Some("header:X-Beta=1".parse().unwrap()),
            plan: serde_json::from_value(json!({
                "ready_when": "80%", "rise": 2, "probe_every": "100ms", "boot_timeout": "2m", "canary_time": "1h",
                "pace": "25% every 1m", "drain_timeout": "1m", "bake_time": "5m",
                "bake_limits": { "min_requests": 10, "fault_points": 1, "fault_ratio": 0, "service_ratio": 150 },
            }))
            .unwrap(),
        },
        Order::Promote { app: app(), from: None },
        Order::Promote { app: app(), from: Some("shop-staging".to_owned()) },
        Order::RollBack { app: app(), why: None },
        Order::RollBack { app: app(), why: Some("too slow".to_owned()) },
        Order::Canary { app: app(), rule: "10%".parse().unwrap() },
        Order::Pause { app: app(), at_most: None },
        Order::Pause { app: app(), at_most: second },
        Order::Resume { app: app(), over: second },
        Order::Maintenance { app: app(), on: true },
        Order::Maintenance { app: app(), on: false },
        Order::Drain { app: app(), dyno: dyno() },
        Order::Undrain { app: app(), dyno: "web.1".to_owned() },
        Order::Restart { app: app() },
    ]
}

#[tokio::test]
async fn every_order_arrives_as_it_was_given() {
    let desk = Desk::open().await;
    for order in orders() {
        let answer = desk.ask(&format!("POST {}", order.path()), JSON, &order.body().to_string()).await;
        assert_eq!(answer.status, 200, "{order:?}: {}", answer.text());
        assert_eq!(page(&answer), json!({ "text": format!("did {}", order.verb()) }));
        let (actor, given) = desk.fake.given().pop().unwrap();
        assert_eq!(given, order);
        assert_eq!((actor.name.as_str(), actor.role, actor.apps), ("loopback", Role::Admin, Scope::All));
        assert!(actor.from.unwrap().starts_with("127.0.0.1:"));
    }
    // One that begins a deploy is accepted, not done.
    desk.fake.plays(&[view(5, "shop", "warming")]);
    let answer = desk.ask("POST /v1/apps/shop/rollback", "", "").await;
    assert_eq!((answer.status, page(&answer)["deploy"].as_u64()), (202, Some(5)));
    desk.stop().await;
}

#[tokio::test]
async fn what_there_is_can_be_looked_at() {
    let desk = Desk::open().await;
    let get = async |path: &str| {
        let answer = desk.get(path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        page(&answer)
    };
    let apps = get("/v1/apps").await;
    assert_eq!((apps[0]["name"].as_str(), apps[0]["source"].as_str()), (Some("blog"), Some("file")));
    let shop = get("/v1/apps/shop").await;
    assert_eq!(shop, apps[1]);
    assert_eq!(
        (&shop["mode"], &shop["source"], &shop["drained"]),
        (&json!("paused"), &json!("api"), &json!(["web.9"]))
    );
    assert_eq!(shop["dynos"], json!({ "idle": 1 }));
    assert_eq!(get("/v1/apps/shop/dynos").await[0]["name"], "web.1");
    assert_eq!(get("/v1/apps/shop/releases").await[0]["release"], "v1");
    desk.fake.plays(&[view(5, "shop", "warming")]);
    assert_eq!(get("/v1/deploys").await.as_array().unwrap().len(), 2);
    assert_eq!(get("/v1/deploys?app=shop").await.as_array().unwrap().len(), 1);
    assert_eq!(get("/v1/deploys/5").await["dynos"][0]["trouble"], "status 503: migrating");
    assert_eq!(get("/v1/audit?app=shop&limit=3").await[0]["limit"], 3);
    assert_eq!(get("/v1/audit").await[0]["limit"], 100);
    for (path, status, expected) in [
        ("/v1/apps/nope", 404, "not_found"),
        ("/v1/apps/a%20b", 404, "not_found"),
        ("/v1/apps/a%ff", 404, "not_found"),
        ("/v1/deploys/99", 404, "not_found"),
        ("/v1/deploys/x", 404, "not_found"),
        ("/v1/deploys?ap=shop", 422, "invalid"),
        ("/v1/audit?limit=0", 422, "invalid"),
        ("/v1/audit?limit=1001", 422, "invalid"),
        ("/v1/audit?limit=many", 422, "invalid"),
        ("/v1/audit/verify", 409, "conflict"),
        ("/v1/reload", 405, "wrong_method"),
        ("/v1/nope", 404, "not_found"),
    ] {
        let answer = desk.get(path).await;
        assert_eq!((answer.status, kind(&answer).as_str()), (status, expected), "{path}");
    }
    desk.stop().await;
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_said_and_nothing_is_done() {
    let desk = Desk::open().await;
    let deploys = "POST /v1/apps/shop/deploys";
    let good = r#"{"release": "v2", "dynos": ["127.0.0.1:3001"]"#;
    let large = format!("{good}, \"canary\": \"{}\"}}", "x".repeat(70_000));
    for (request, headers, body, status, expected, says) in [
        (deploys, JSON, "", 422, "invalid", "missing field `release`"),
        (deploys, JSON, "{", 422, "invalid", "line 1 column 1"),
        (deploys, JSON, "[]", 422, "invalid", "the body"),
        (deploys, JSON, &format!("{good}, \"force\": true}}"), 422, "invalid", "unknown field `force`"),
        (
            deploys,
            JSON,
            &format!("{good}, \"plan\": {{\"speed\": 1}}}}"),
            422,
            "invalid",
            "unknown field `speed`",
        ),
        (deploys, JSON, &format!("{good}, \"plan\": {{\"pace\": \"now\"}}}}"), 422, "invalid", "1 every 10s"),
        (deploys, JSON, &format!("{good}, \"plan\": {{\"boot_timeout\": \"5\"}}}}"), 422, "invalid", "unit"),
        (
            deploys,
            JSON,
            &format!("{good}, \"plan\": {{\"rise\": 99}}}}"),
            422,
            "invalid",
            "rise is out of bounds",
        ),
        (
            deploys,
            JSON,
            &format!("{good}, \"canary\": \"100%\"}}"),
            422,
            "invalid",
            "canary is out of bounds",
        ),
        (deploys, JSON, r#"{"release": "v2", "dynos": ["web:1"]}"#, 422, "invalid", "dns:web:1"),
        (deploys, JSON, &large, 413, "too_large", "65536"),
        (deploys, "", &format!("{good}}}"), 415, "no_json", "application/json"),
        (deploys, "Content-Type: text/plain\r\n", &format!("{good}}}"), 415, "no_json", "application/json"),
        ("POST /v1/reload", JSON, r#"{"now": true}"#, 422, "invalid", "unknown field `now`"),
        ("POST /v1/apps/a%0Ab/pause", JSON, "{}", 404, "not_found", "app"),
        ("POST /v1/apps/shop/dynos/a%0Ab/drain", JSON, "{}", 404, "not_found", "dyno"),
        ("PUT /v1/apps/shop/pause", JSON, "{}", 405, "wrong_method", "PUT"),
    ] {
        let answer = desk.ask(request, headers, body).await;
        let text = page(&answer)["error"]["text"].to_string();
        assert_eq!(
            (answer.status, kind(&answer).as_str()),
            (status, expected),
            "{request} {body:.80}: {text}"
        );
        assert!(text.contains(says), "{request} {body:.80}: {text}");
    }
    assert!(desk.fake.given().is_empty());
    // JSON by its type, whatever is said of it beside.
    let kind_of = "Content-Type: Application/JSON; charset=utf-8\r\n";
    assert_eq!(desk.ask(deploys, kind_of, &format!("{good}}}")).await.status, 200);
    // What the control refuses, and what breaks it.
    let answer = desk.ask("POST /v1/apps/gone/pause", "", "").await;
    assert_eq!((answer.status, kind(&answer).as_str()), (404, "not_found"));
    let answer = desk.ask("POST /v1/apps/panics/pause", "", "").await;
    assert_eq!((answer.status, kind(&answer).as_str()), (500, "internal"));
    assert_eq!(desk.get("/healthz").await.status, 200);
    desk.stop().await;
}

/// A desk with one token for each role, and what each is.
async fn guarded() -> Desk {
    let tokens = [
        token("reader", "rtd_read", "read", ""),
        token("ci", "rtd_ci", "deploy", "apps = ['shop', 'team-*']"),
        token("ops", "rtd_ops", "admin", ""),
        token("late", "rtd_late", "admin", "expires = '2020-01-01T00:00:00Z'"),
        token("soon", "rtd_soon", "read", "expires = '2120-01-01T00:00:00Z'"),
    ];
    Desk::start("127.0.0.1:0", &tokens.concat()).await
}

#[tokio::test]
async fn a_token_opens_what_its_role_and_its_apps_allow_and_nothing_else() {
    let desk = guarded().await;
    let rows: [(&str, [u16; 5]); 9] = [
        // request: without a token, then reader, ci, ops, soon
        ("GET /healthz", [200, 200, 200, 200, 200]),
        ("GET /readyz", [503, 503, 503, 503, 503]),
        ("GET /metrics", [401, 200, 403, 200, 200]),
        ("GET /v1/apps/shop", [401, 200, 200, 200, 200]),
        ("GET /v1/apps/blog", [401, 200, 403, 200, 200]),
        ("GET /v1/audit", [401, 200, 403, 200, 200]),
        ("POST /v1/apps/shop/pause", [401, 403, 200, 200, 403]),
        ("POST /v1/apps/blog/pause", [401, 403, 403, 200, 403]),
        ("POST /v1/reload", [401, 403, 403, 200, 403]),
    ];
    for (request, statuses) in rows {
        for (token, status) in ["", "rtd_read", "rtd_ci", "rtd_ops", "rtd_soon"].iter().zip(statuses) {
            let answer = match *token {
                "" => desk.ask(request, "", "").await,
                token => desk.with(token, request, "").await,
            };
            assert_eq!(answer.status, status, "{request} with {token:?}: {}", answer.text());
            if status == 401 {
                assert_eq!(
                    (kind(&answer).as_str(), answer.header("www-authenticate")),
                    ("unauthorized", "Bearer")
                );
            }
        }
    }
    let given: Vec<_> =
        desk.fake.given().into_iter().map(|(actor, order)| (actor.name, order.verb())).collect();
    let ops = |verb| ("ops".to_owned(), verb);
    assert_eq!(given, [("ci".to_owned(), "pause"), ops("pause"), ops("pause"), ops("reload")]);
    // Who may not see an app is not told whether it is there.
    let (there, not) = (
        desk.with("rtd_ci", "GET /v1/apps/blog", "").await,
        desk.with("rtd_ci", "GET /v1/apps/nope", "").await,
    );
    assert_eq!((there.status, not.status), (403, 403));
    assert_eq!(desk.with("rtd_ci", "GET /v1/deploys/1", "").await.status, 404, "it is a deploy of blog");
    // Promoting from an app needs a say over that one too.
    let promote = "POST /v1/apps/shop/promote";
    assert_eq!(desk.with("rtd_ci", promote, r#"{"from": "blog"}"#).await.status, 403);
    assert_eq!(desk.with("rtd_ci", promote, r#"{"from": "team-a"}"#).await.status, 200);
    desk.stop().await;
}

#[tokio::test]
async fn lists_show_the_apps_that_a_token_has_a_say_over() {
    let desk = guarded().await;
    let names = |list: &Value, key: &str| -> Vec<String> {
        list.as_array().unwrap().iter().map(|one| one[key].as_str().unwrap().to_owned()).collect()
    };
    desk.fake.plays(&[view(5, "shop", "warming")]);
    for (token, apps) in [("rtd_ci", &["shop"][..]), ("rtd_read", &["blog", "shop"])] {
        let list = page(&desk.with(token, "GET /v1/apps", "").await);
        assert_eq!(names(&list, "name"), apps);
        let status = page(&desk.with(token, "GET /v1/status", "").await);
        assert_eq!(names(&status["apps"], "name"), apps);
        let deploys = page(&desk.with(token, "GET /v1/deploys", "").await);
        let mut of = names(&deploys, "app");
        of.sort();
        assert_eq!(of, apps);
    }
    desk.stop().await;
}

#[tokio::test]
async fn a_wrong_token_is_counted_and_slowed_and_keeps_nobody_out() {
    let desk = guarded().await;
    let count = |why: &str| desk.access.denied().into_iter().find(|(reason, _)| *reason == why).unwrap().1;
    let begun = Instant::now();
    let answer = desk.with("rtd_wrong", "GET /v1/apps", "").await;
    assert_eq!((answer.status, kind(&answer).as_str()), (401, "unauthorized"));
    assert!(begun.elapsed() >= Duration::from_millis(250), "{:?}", begun.elapsed());
    assert!(!answer.text().contains("rtd_wrong"));
    assert_eq!(desk.with("rtd_late", "GET /v1/apps", "").await.status, 401);
    assert_eq!(desk.ask("GET /v1/apps", "Authorization: Basic rtd_ops\r\n", "").await.status, 401);
    assert_eq!((count("wrong_token"), count("expired"), count("no_token")), (1, 1, 1));
    // Three times as many as there are places to be slow in.
    let begun = Instant::now();
    let wrong = join_all((0..48).map(|_| desk.with("rtd_wrong", "GET /v1/apps", "")).collect());
    let right = async {
        for _ in 0..20 {
            assert_eq!(desk.with("rtd_ops", "GET /v1/apps", "").await.status, 200);
        }
    };
    let (wrong, ()) = tokio::join!(wrong, right);
    assert!(wrong.iter().all(|answer| answer.status == 401));
    assert_eq!(count("wrong_token"), 49);
    assert!(begun.elapsed() < 48 * Duration::from_millis(250), "one does not wait for the other");
    desk.stop().await;
}

/// All of them at once.
async fn join_all<T>(futures: Vec<impl Future<Output = T>>) -> Vec<T> {
    let mut futures: Vec<_> = futures.into_iter().map(Box::pin).collect();
    let mut done: Vec<Option<T>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, place) in futures.iter_mut().zip(&mut done) {
            if place.is_none()
                && let std::task::Poll::Ready(value) = future.as_mut().poll(context)
            {
                *place = Some(value);
            }
        }
        if done.iter().all(Option::is_some) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    done.into_iter().flatten().collect()
}

#[tokio::test]
async fn a_page_in_a_browser_gets_nothing_from_a_daemon_without_tokens() {
    let desk = Desk::open().await;
    for headers in [
        "Host: evil.test\r\n",
        "Host: evil.test:9900\r\n",
        "Host: localhost\r\nOrigin: https://evil.test\r\n",
        "Host: localhost\r\nOrigin: null\r\n",
        "Host: localhost\r\nHost: evil.test\r\n",
    ] {
        let requests = ["GET /v1/apps", "GET /metrics", "POST /v1/apps/shop/pause", "GET /v1/nope"];
        let answers = join_all(requests.map(|request| desk.ask(request, headers, "")).into()).await;
        for answer in answers {
            assert_eq!((answer.status, kind(&answer).as_str()), (403, "forbidden"), "{headers}");
        }
        assert_eq!(desk.ask("GET /healthz", headers, "").await.status, 200);
    }
    assert!(desk.fake.given().is_empty());
    assert_eq!(desk.access.denied().iter().map(|(_, count)| count).sum::<u64>(), 20);
    for host in ["127.0.0.1", "localhost:9900", "[::1]:9900"] {
        assert_eq!(desk.ask("GET /v1/apps", &format!("Host: {host}\r\n"), "").await.status, 200);
    }
    desk.stop().await;
}

#[tokio::test]
async fn an_order_goes_on_when_its_client_is_gone_and_too_many_are_refused() {
    let desk = Desk::open().await;
    let (go, held) = watch::channel(false);
    desk.fake.hold(held);
    let mut gone = Vec::new();
    for number in 1..=32 {
        let mut client = desk.client().await;
        client
            .send("POST /v1/apps/shop/pause HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
            .await;
        gone.push(client);
        until("the order is given", || desk.fake.given().len() == number).await;
    }
    let answer = desk.ask("POST /v1/apps/shop/pause", "", "").await;
    assert_eq!((answer.status, kind(&answer).as_str()), (503, "unavailable"));
    drop(gone);
    // Their places as connections are free again, and the orders are not lost.
    assert_eq!(desk.get("/healthz").await.status, 200);
    assert_eq!(desk.fake.done(), 0);
    go.send_replace(true);
    until("all are carried out", || desk.fake.done() == 32).await;
    let again = async {
        while desk.ask("POST /v1/apps/shop/pause", "", "").await.status != 200 {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, again).await.expect("there is a place again");
    desk.stop().await;
}

#[tokio::test]
async fn the_description_has_every_route_and_every_route_is_there() {
    let desk = Desk::open().await;
    let document = page(&desk.get("/v1/openapi.json").await);
    assert_eq!(document["openapi"], "3.1.0");
    let mut described = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            described.push(format!("{method} {path}"));
            assert!(operation["summary"].as_str().unwrap().ends_with('.'), "{method} {path}");
            let places = path.matches('{').count();
            let named =
                operation["parameters"].as_array().unwrap().iter().filter(|it| it["in"] == "path").count();
            assert_eq!(places, named, "{method} {path}");
            // It is served: neither an unknown path nor an unknown method.
            let real = path.replace("{app}", "shop").replace("{dyno}", "web.1").replace("{id}", "1");
            let answer = desk.ask(&format!("{} {real}", method.to_uppercase()), "", "").await;
            assert!(![404, 405].contains(&answer.status), "{method} {path}: {}", answer.text());
        }
    }
    let looks = [
        "/healthz",
        "/readyz",
        "/metrics",
        "/v1/status",
        "/v1/openapi.json",
        "/v1/apps",
        "/v1/apps/{app}",
        "/v1/apps/{app}/dynos",
        "/v1/apps/{app}/releases",
        "/v1/deploys",
        "/v1/deploys/{id}",
        "/v1/audit",
        "/v1/audit/verify",
    ];
    let orders = [
        "/v1/reload",
        "/v1/upgrade",
        "/v1/apps/{app}/deploys",
        "/v1/apps/{app}/promote",
        "/v1/apps/{app}/rollback",
        "/v1/apps/{app}/canary",
        "/v1/apps/{app}/pause",
        "/v1/apps/{app}/resume",
        "/v1/apps/{app}/maintenance",
        "/v1/apps/{app}/dynos/{dyno}/drain",
        "/v1/apps/{app}/dynos/{dyno}/undrain",
        "/v1/apps/{app}/restart",
    ];
    let looks = looks.iter().map(|path| format!("get {path}"));
    let mut expected: Vec<_> = looks.chain(orders.iter().map(|path| format!("post {path}"))).collect();
    expected.sort();
    described.sort();
    assert_eq!(described, expected);
    // Every reference leads somewhere, and what is sent is described to the last field.
    let text = document.to_string();
    for reference in text.split("\"$ref\":\"#").skip(1) {
        let pointer = reference.split('"').next().unwrap();
        assert!(document.pointer(pointer).is_some(), "{pointer}");
    }
    let plan = &document["components"]["schemas"]["PlanOrder"]["properties"];
    assert_eq!(plan.as_object().unwrap().len(), 9, "{plan}");
    desk.stop().await;
}

#[tokio::test]
async fn curl_over_a_unix_socket_is_the_user_who_runs_it() {
    if !installed("curl", &["--version"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    // Tokens are for those who come over the network.
    let desk = Desk::start(&format!("unix:{}", path.display()), &token("ci", "rtd_ci", "read", "")).await;
    let curl = async |args: &[&str]| {
        let mut command = tokio::process::Command::new("curl");
        let command = command.args(["-sS", "--unix-socket"]).arg(&path).args(args);
        let output = timeout(DEADLINE, command.output()).await.unwrap().unwrap();
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    assert_eq!(curl(&["http://localhost/v1/apps/shop"]).await["name"], "shop");
    let pause = ["--json", r#"{"at_most": "30s"}"#, "http://localhost/v1/apps/shop/pause"];
    assert_eq!(curl(&pause).await["text"], "did pause");
    let (actor, order) = desk.fake.given().pop().unwrap();
    let uid = rustix::process::getuid().as_raw();
    assert_eq!((actor.name, actor.from), (format!("unix uid {uid}"), None));
    assert_eq!(order, Order::Pause { app: "shop".to_owned(), at_most: Some(Duration::from_secs(30)) });
    desk.stop().await;
}
