//! Tests of the metrics: what a request counts, what a scrape shows, and that the page tells the same.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use router_core::DynoInfo;
use router_core::canary::Lane;
use router_core::fault::{Backlog, Fault};
use router_core::ids::{AppId, DynoName, ReleaseId};
use router_core::proxy::Record;
use router_core::snapshot::{AppSnapshot, DynoSnapshot, DynoState, Snapshot};
use tokio::sync::watch;

use super::*;
use crate::config::cert::Certificate;
use crate::{acme, tls};

fn dyno(name: &str) -> Arc<DynoInfo> {
    let address = ([127, 0, 0, 1], 3001).into();
    Arc::new(DynoInfo { address, name: DynoName::new(name), release: "v1".into(), concurrency: 1 })
}

fn served(app: &str, status: u16) -> Record {
    let mut record = Record::default();
    record.app = Some(AppId::from(app));
    record.dyno = Some(dyno("web.1"));
    (record.queue, record.service) = (Duration::from_millis(20), Duration::from_millis(200));
    (record.total, record.tries, record.status, record.bytes) = (Duration::from_millis(221), 1, status, 13);
    record
}

fn refused(app: Option<&str>, fault: Fault) -> Record {
    let mut record = Record::default();
    record.app = app.map(AppId::from);
    (record.fault, record.status) = (Some(fault), fault.status());
    record
}

fn app(name: &str, release: &str) -> AppSnapshot {
    let dyno = |port: u16, state| DynoSnapshot {
        address: ([127, 0, 0, 1], port).into(),
        name: DynoName::new(format!("web.{port}")),
        release: ReleaseId::from("v1"),
        lane: Lane::Main,
        state,
        concurrency: 1,
        in_flight: 0,
        lingering: 0,
        upgraded: 0,
        dispatched: 0,
        failures: 0,
        answered: 0,
        ejected: false,
        bad_answers: 0,
        bad_probes: 0,
        probing: false,
    };
    AppSnapshot {
        id: AppId::from(name),
        release: ReleaseId::from(release),
        waiting: 7,
        waiting_canary: 0,
        waiting_bytes: 4096,
        oldest_wait: Duration::from_millis(1500),
        service_time: Duration::from_millis(18),
        dispatched: 100,
        refused: 5,
        left: 2,
        ejected: 0,
        held: None,
        maintenance: false,
        dynos: vec![dyno(1, DynoState::Busy), dyno(2, DynoState::Busy), dyno(3, DynoState::Idle)],
    }
}

fn scrape(apps: Vec<AppSnapshot>) -> Scrape {
    Scrape {
        snapshot: Snapshot { apps },
        connections: 3,
        connections_resting: 2,
        log_lines_lost: 1,
        log_write_errors: 4,
        webhooks: crate::webhooks::Account { delivered: 9, failed: 2, dropped: 6 },
        connections_refused: vec![("descriptors", 3)],
        disk_fallbacks: vec![("no_space", 4)],
        admin_denied: vec![("wrong_token", 2)],
        ..Scrape::default()
    }
}

/// The samples of a scrape: `name{labels}` to value.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let sample = lines.map(|line| line.rsplit_once(' ').expect("a sample has a value"));
    sample.map(|(series, value)| (series.to_owned(), value.parse().expect("a number"))).collect()
}

#[test]
fn a_request_is_counted_once_under_its_app_status_and_fault() {
    let meters = Meters::new();
    (0..3).for_each(|_| meters.count(&served("shop", 200)));
    meters.count(&served("shop", 404));
    meters.count(&refused(Some("shop"), Fault::Backlog(Backlog::Requests)));
    meters.count(&refused(Some("shop"), Fault::Backlog(Backlog::MaxWait)));
    meters.count(&refused(None, Fault::NoSuchApp));
    // An answer that broke off after its head: the fault's code, the dyno's status.
    let mut broken = served("shop", 200);
    broken.fault = Some(Fault::ServerInterrupted);
    broken.tries = 3;
    meters.count(&broken);

    let samples = samples(&meters.render(&Scrape::default()));
    let requests: BTreeMap<&str, f64> = samples
        .iter()
        .filter_map(|(series, &value)| Some((series.strip_prefix("routerd_requests_total")?, value)))
        .collect();
    let expected = BTreeMap::from([
        ("{app=\"shop\",status=\"200\",fault=\"\"}", 3.0),
        ("{app=\"shop\",status=\"404\",fault=\"\"}", 1.0),
        ("{app=\"shop\",status=\"503\",fault=\"H11\"}", 2.0),
        ("{app=\"\",status=\"404\",fault=\"M01\"}", 1.0),
        ("{app=\"shop\",status=\"200\",fault=\"H18\"}", 1.0),
    ]);
    assert_eq!(requests, expected);
    assert_eq!(samples["routerd_response_bytes_total{app=\"shop\"}"], 5.0 * 13.0);
    assert_eq!(samples["routerd_retries_total{app=\"shop\"}"], 2.0);
    assert_eq!(
        samples["routerd_queue_wait_seconds_count{app=\"shop\"}"], 7.0,
        "whoever had an app stood in line"
    );
    assert_eq!(samples["routerd_service_seconds_count{app=\"shop\"}"], 5.0, "whoever had a dyno was served");
    assert_eq!(samples["routerd_request_seconds_count{app=\"\"}"], 1.0, "every request took its time");
}

#[test]
fn histograms_have_our_buckets() {
    let meters = Meters::new();
    meters.count(&served("shop", 200));
    let samples = samples(&meters.render(&Scrape::default()));
    let bucket =
        |le: &str| samples[&format!("routerd_queue_wait_seconds_bucket{{app=\"shop\",le=\"{le}\"}}")];
    assert_eq!((bucket("0.01"), bucket("0.025"), bucket("300"), bucket("+Inf")), (0.0, 1.0, 1.0, 1.0));
    for bound in BUCKETS {
        bucket(&bound.to_string());
    }
    assert_eq!(samples["routerd_queue_wait_seconds_sum{app=\"shop\"}"], 0.02);
}

#[test]
fn statuses_that_a_dyno_makes_up_share_one_series() {
    let meters = Meters::new();
    for status in (600..=u16::MAX).step_by(97) {
        meters.count(&served("shop", status));
    }
    for status in [1, 99, 100, 599] {
        meters.count(&served("shop", status));
    }
    meters.count(&served("shop", 0));
    let samples = samples(&meters.render(&Scrape::default()));
    let series: BTreeSet<&str> = samples
        .keys()
        .filter_map(|series| series.strip_prefix("routerd_requests_total{app=\"shop\","))
        .collect();
    let expected = ["", "100", "599", "other"].map(|status| format!("status=\"{status}\",fault=\"\"}}"));
    assert_eq!(series, expected.iter().map(String::as_str).collect());
}

#[test]
fn a_scrape_shows_lines_dynos_and_the_process() {
    let samples = samples(&Meters::new().render(&scrape(vec![app("shop", "v1"), app("blog", "v\"2\n")])));
    for (series, value) in [
        ("routerd_waiting_requests{app=\"shop\"}", 7.0),
        ("routerd_waiting_bytes{app=\"shop\"}", 4096.0),
        ("routerd_oldest_wait_seconds{app=\"blog\"}", 1.5),
        ("routerd_dynos{app=\"shop\",state=\"busy\"}", 2.0),
        ("routerd_dynos{app=\"shop\",state=\"idle\"}", 1.0),
        ("routerd_dynos{app=\"shop\",state=\"quarantined\"}", 0.0),
        ("routerd_dispatched_total{app=\"shop\"}", 100.0),
        ("routerd_refused_total{app=\"shop\"}", 5.0),
        ("routerd_left_total{app=\"shop\"}", 2.0),
        ("routerd_app_info{app=\"shop\",release=\"v1\"}", 1.0),
        ("routerd_app_info{app=\"blog\",release=\"v\\\"2\\n\"}", 1.0),
        ("routerd_connections", 3.0),
        ("routerd_connections_resting", 2.0),
        ("routerd_log_lines_lost_total", 1.0),
        ("routerd_log_write_errors_total", 4.0),
        ("routerd_webhook_events_total{result=\"delivered\"}", 9.0),
        ("routerd_webhook_events_total{result=\"failed\"}", 2.0),
        ("routerd_webhook_events_total{result=\"dropped\"}", 6.0),
        (concat!("routerd_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"}"), 1.0),
    ] {
        assert_eq!(samples.get(series), Some(&value), "{series}");
    }
}

#[test]
fn an_app_that_is_gone_is_gone_from_the_state_and_keeps_its_past() {
    let meters = Meters::new();
    meters.count(&served("blog", 200));
    assert!(
        meters
            .render(&scrape(vec![app("shop", "v1"), app("blog", "v1")]))
            .contains("routerd_dynos{app=\"blog\"")
    );
    let text = meters.render(&scrape(vec![app("shop", "v1")]));
    let left: BTreeSet<String> = samples(&text)
        .into_keys()
        .filter(|series| series.contains("app=\"blog\""))
        .map(|series| {
            series
                .split('{')
                .next()
                .unwrap_or_default()
                .replace("_bucket", "_count")
                .replace("_sum", "_count")
        })
        .collect();
    let past = [
        "queue_wait_seconds_count",
        "request_seconds_count",
        "requests_total",
        "response_bytes_total",
        "retries_total",
        "service_seconds_count",
        "sticky_total",
    ];
    assert_eq!(left, past.iter().map(|name| format!("routerd_{name}")).collect());
}

fn certificate() -> tls::Held {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["shop.test".to_owned()]).unwrap();
    let [cert, key] = ["cert", "key"].map(|name| folder.path().join(name));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    tls::Held::new(&Arc::new(Certificate::load(&cert, &key).unwrap()))
}

#[test]
fn what_is_served_is_what_the_table_says() {
    let meters = Meters::new();
    meters.count(&served("shop", 200));
    meters.probed(&"shop".into(), false);
    meters.http2_trouble("silent");
    let tls = tls::Account { certificates: vec![certificate()], handshakes: vec![("full", 1)] };
    let shop = acme::Host {
        name: "shop.test".to_owned(),
        certificate: None,
        error: Some("no".to_owned()),
        failures: 1,
        next: None,
    };
    let acme = acme::Account { hosts: vec![shop], orders: vec![("refused", 1)] };
    let text = meters.render(&Scrape { tls, acme, ..scrape(vec![app("shop", "v1")]) });
    assert!(text.contains("routerd_probes_total{app=\"shop\",result=\"bad\"} 1\n"));
    let types: BTreeMap<&str, &str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    let table = METRICS.iter().map(|metric| (metric.name, metric.kind.as_str())).collect();
    assert_eq!(types, table);
    for metric in METRICS {
        assert!(text.contains(&format!("# HELP {} {}\n", metric.name, metric.meaning)), "{}", metric.name);
        let sample = text.lines().find(|line| line.starts_with(metric.name)).expect("a sample");
        let labels = sample.split_once('{').map_or("", |(_, labels)| labels);
        let labels: Vec<&str> =
            labels.split("=\"").filter_map(|part| part.rsplit(['"', ',']).next()).collect();
        for label in metric.labels {
            assert!(labels.contains(label), "{} lacks {label}", metric.name);
        }
    }
}

#[test]
fn threads_that_meet_a_new_app_together_lose_no_count() {
    let meters = Meters::new();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for i in 0..1000 {
                    meters.count(&served(&format!("app{}", i % 50), 200));
                }
            });
        }
    });
    let samples = samples(&meters.render(&Scrape::default()));
    for i in 0..50 {
        assert_eq!(
            samples[&format!("routerd_requests_total{{app=\"app{i}\",status=\"200\",fault=\"\"}}")],
            80.0
        );
        assert_eq!(samples[&format!("routerd_request_seconds_count{{app=\"app{i}\"}}")], 80.0);
    }
}

#[tokio::test(start_paused = true)]
async fn upkeep_runs_until_it_is_stopped_and_keeps_every_observation() {
    let meters = Meters::new();
    let (stop, stopped) = watch::channel(false);
    let upkeep = tokio::spawn(meters.clone().upkeep(stopped));
    for _ in 0..5 {
        (0..1000).for_each(|_| meters.count(&served("shop", 200)));
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    assert!(!upkeep.is_finished());
    let _ = stop.send(true);
    tokio::time::timeout(Duration::from_secs(60), upkeep).await.expect("upkeep ends").unwrap();
    let samples = samples(&meters.render(&Scrape::default()));
    assert_eq!(samples["routerd_service_seconds_count{app=\"shop\"}"], 5000.0);
}

#[test]
fn the_page_is_in_step_with_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, documentation()).unwrap();
    }
    let page = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        page == documentation(),
        "docs/metrics.md is out of step: run UPDATE_DOCS=1 cargo test -p routerd metrics"
    );
}
