use super::*;

use proptest::prelude::*;

const JSON: &str = concat!(
    r#"{"time":"2026-01-01T00:00:00.250Z","at":"info","method":"GET","path":"/a?b=1","host":"Shop.test:8080","#,
    r#""request_id":"x","fwd":"127.0.0.1","dyno":"web.1","queue_ms":1.500,"connect_ms":0.000,"service_ms":18.250,"#,
    r#""total_ms":19.9,"status":200,"bytes":13,"protocol":"http1.1","tls":false}"#
);
const LOGFMT: &str = concat!(
    r#"at=info method=GET path="/a?b=1" host=shop.test request_id=x fwd="127.0.0.1" dyno=web.1 queue=2ms "#,
    "connect=1ms service=18ms status=200 bytes=13 protocol=http1.1 tls=false"
);
const CLF: &str =
    r#"127.0.0.1 - bob [10/Oct/2000:13:55:36 -0700] "GET /a?b=1 HTTP/1.0" 200 2326 "http://x/" "M \"oz\"""#;

fn get(text: &str) -> Log {
    read(text.as_bytes(), &Wanted::default()).unwrap()
}

fn useless(text: &str, wanted: &Wanted) -> String {
    match read(text.as_bytes(), wanted) {
        Err(Useless::Nothing(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn json_gives_arrival_service_wait_and_names() {
    let later = JSON.replace("00.250Z", "01.000Z").replace("web.1", "web.2");
    // Lines are written when requests end, so they are not in order of arrival.
    let log = get(&format!("{later}\n{JSON}\n"));
    assert_eq!((log.format, log.entries.len(), log.dynos.len()), (Format::Json, 2, 2));
    assert_eq!(log.entries.iter().map(|entry| entry.start).collect::<Vec<_>>(), [0, 750_000_000]);
    assert_eq!((log.entries[0].service(), log.entries[0].wait()), (Some(18_250_000), Some(1_500_000)));
    assert_eq!(log.targets[log.entries[0].target as usize], ("GET".to_owned(), "/a?b=1".to_owned()));
    assert_eq!(log.hosts, BTreeMap::from([("shop.test".to_owned(), 2)]));
}

#[test]
fn logfmt_arrivals_are_reckoned_back_from_the_stamp() {
    let stamps = [
        "2026-01-01T00:00:01.000000Z ",                      // docker logs -t
        "2026-01-01T01:00:02.000000+0100 host routerd[1]: ", // journalctl -o short-iso-precise
        "1767225603.000000 host routerd[1]: ",               // journalctl -o short-unix
        "2026-01-01T00:00:04.000000+00:00 heroku[router]: ", // heroku logs
        "<134>1 2026-01-01T00:00:05Z host routerd 1 - - ",   // syslog
    ];
    let text: String = stamps.iter().map(|stamp| format!("{stamp}{LOGFMT}\n")).collect();
    let log = get(&text);
    assert_eq!((log.format, log.garbage), (Format::Logfmt, 0), "{:?}", log.shown);
    let starts: Vec<u64> = log.entries.iter().map(|entry| entry.start / 1_000_000_000).collect();
    assert_eq!(starts, [0, 1, 2, 3, 4]);
    assert_eq!((log.entries[0].service(), log.entries[0].wait()), (Some(18_000_000), Some(2_000_000)));
    // The first one ended at second 1 and came 20 ms before.
    let quick = LOGFMT.replace("queue=2ms", "queue=0ms").replace("service=18ms", "service=0ms");
    let log = get(&format!("{}{LOGFMT}\n{}{quick}\n", stamps[0], stamps[0]));
    assert_eq!(log.entries[1].start, 20_000_000);
    let why = useless(&format!("{LOGFMT}\n"), &Wanted::default());
    assert!(why.contains("line 1: no time stamp before at=") && why.contains("docker logs -t"), "{why}");
}

#[test]
fn a_common_log_is_spread_within_its_seconds_by_seed() {
    let text = format!("{CLF}\n{CLF}\n{}\n", CLF.replace("13:55:36", "13:55:38"));
    let starts = |seed| {
        let log = read(text.as_bytes(), &Wanted { seed, ..Wanted::default() }).unwrap();
        assert_eq!((log.format, log.entries[0].service()), (Format::Clf, None));
        log.entries.iter().map(|entry| entry.start).collect::<Vec<_>>()
    };
    assert_eq!(starts(1), starts(1));
    assert_ne!(starts(1), starts(2));
    let spread = starts(1);
    assert!(spread[1] > 0 && spread[1] < 1_000_000_000 && spread[2] > 1_000_000_000, "{spread:?}");
    assert_eq!(stamp::clf("10/Oct/2000:13:55:36 -0700"), Some(971_211_336_000_000_000));
}

#[test]
fn a_har_gives_what_the_browser_saw() {
    let text = r#"
    {"log": {"version": "1.2", "pages": [], "entries": [
        {"startedDateTime": "2026-01-01T00:00:01.500+01:00", "time": 50,
         "request": {"method": "GET", "url": "http://shop.test:8080/a?b=1#c", "headers": []},
         "response": {"status": 200, "content": {"text": "..."}},
         "timings": {"blocked": -1, "wait": 40.5, "receive": 2}},
        {"startedDateTime": 7},
        {"startedDateTime": "2026-01-01T00:00:02Z", "request": {"method": "GET", "url": "http://shop.test"}}
    ]}}"#;
    let log = get(text);
    assert_eq!((log.format, log.entries.len(), log.garbage), (Format::Har, 2, 1));
    assert_eq!((log.entries[0].service(), log.entries[1].service()), (Some(42_500_000), None));
    assert_eq!(log.entries[1].start, 3_600_500_000_000);
    assert_eq!(log.hosts["shop.test"], 2);
    assert_eq!(log.targets[log.entries[0].target as usize].1, "/a?b=1");
    assert!(useless("{\"log\": {\"entries\": 7}}", &Wanted::default()).contains("not a HAR"));
}

#[test]
fn what_is_no_request_is_counted_and_shown_with_its_place() {
    let long = "x".repeat(LINE_MOST + 10);
    let mut text = format!("routerd 0.1.0 starts\n\n{JSON}\n{{\"time\":\"soon\"}}\n{{\"time\":").into_bytes();
    text.extend_from_slice(b"\n\xff\xfe\n");
    text.extend_from_slice(format!("{long}\n{JSON}").as_bytes());
    let log = read(&text[..], &Wanted::default()).unwrap();
    assert_eq!((log.entries.len(), log.garbage), (2, 5));
    let places: Vec<u64> = log.shown.iter().map(|garbage| garbage.line).collect();
    assert_eq!(places, [1, 4, 5, 6, 7]);
    assert_eq!(log.shown[1].why, "\"time\" is no time");
    assert!(log.shown.iter().all(|garbage| garbage.excerpt.len() <= EXCERPT * 10), "{:?}", log.shown);
}

#[test]
fn what_became_of_a_request_is_told_apart() {
    let with = |code: &str, service: &str, status: u16| {
        format!(
            "{{\"time\":\"2026-01-01T00:00:00Z\",{code}\"method\":\"GET\",\"path\":\"/\",\"queue_ms\":1,\
             \"service_ms\":{service},\"status\":{status}}}\n"
        )
    };
    let lines = [
        (with("", "10", 200), Some(Fate::Served)),
        (with("\"code\":\"H13\",", "10", 503), Some(Fate::Served)),
        (with("\"code\":\"H12\",", "30000", 503), Some(Fate::Cut)),
        (with("\"code\":\"H27\",", "30000", 499), Some(Fate::Cut)),
        (with("\"code\":\"H11\",", "null", 503), Some(Fate::Unserved)),
        (with("\"code\":\"H27\",", "null", 499), Some(Fate::Unserved)),
        (with("\"code\":\"M10\",", "null", 429), None),
        (with("\"code\":\"M13\",", "null", 503), None),
        (with("", "null", 301), None),
        (with("\"code\":\"H26\",", "null", 400), None),
    ];
    let text: String = lines.iter().map(|(line, _)| line.as_str()).collect();
    let log = get(&text);
    let fates: Vec<Fate> = log.entries.iter().map(|entry| entry.fate).collect();
    assert_eq!(fates, lines.iter().filter_map(|(_, fate)| *fate).collect::<Vec<_>>());
    assert_eq!((log.aside, log.faults["H27"], log.faults["H11"]), (4, 2, 1));
}

#[test]
fn a_host_is_filtered_by_name_alone() {
    let other = JSON.replace("Shop.test:8080", "other.test");
    let text = format!("{JSON}\n{other}\n");
    let wanted = |host: &str| Wanted { host: Some(host.to_owned()), ..Wanted::default() };
    let log = read(text.as_bytes(), &wanted("shop.TEST")).unwrap();
    assert_eq!((log.entries.len(), log.others), (1, 1));
    assert!(useless(&text, &wanted("none.test")).contains("it has 2 requests, and none for host none.test"));
    assert!(useless(CLF, &wanted("shop.test")).contains("leave --host out"));
}

#[test]
fn a_log_of_no_use_says_what_was_looked_for() {
    let none = Wanted::default();
    for text in ["", "\n\n", "nothing\nof use\n", "\u{1f}\u{8b}"] {
        let why = useless(text, &none);
        assert!(why.contains("Looked for"), "{why}");
    }
    assert!(useless("nothing\n", &none).contains("line 1: it has none of the forms looked for: nothing"));
    let Err(Useless::Nothing(why)) = read(&b"\x1f\x8b\x08"[..], &none) else { panic!() };
    assert!(why.contains("zcat"), "{why}");
    let forced = Wanted { format: Some(Format::Clf), ..Wanted::default() };
    assert!(useless(JSON, &forced).contains("line 1: no time in brackets"));
}

#[test]
fn paths_are_bounded_and_clean() {
    let lines: String = (0..20).map(|n| JSON.replace("/a?b=1", &format!("/{n}")) + "\n").collect();
    assert_eq!(get(&lines).targets.len(), 21);
    // What could end a request line, or is no path, is not taken over.
    for bad in ["/a b", "/a\\r\\nx: y", "", "http://x/", "/\\u00e9"] {
        let log = get(&JSON.replace("/a?b=1", bad));
        assert_eq!((log.targets.len(), log.entries[0].target), (1, 0), "{bad}");
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), which in 0..5_u8) {
        let formats = [None, Some(Format::Json), Some(Format::Logfmt), Some(Format::Clf), Some(Format::Har)];
        let _ = read(&bytes[..], &Wanted { format: formats[which as usize], ..Wanted::default() });
    }

    #[test]
    fn no_broken_line_panics(
        which in 0..3_usize, at in 0..400_usize, with in "\\PC{0,6}", len in 0..5_usize, copies in 1..3_usize,
    ) {
        let stamped = format!("2026-01-01T00:00:01.000000Z {LOGFMT}");
        let line: Vec<char> = [JSON, &stamped, CLF][which].chars().collect();
        let at = at.min(line.len());
        let end = (at + len).min(line.len());
        let (before, after) = (line[..at].iter().copied(), line[end..].iter().copied());
        let broken: String = before.chain(with.chars()).chain(after).collect();
        let text = format!("{broken}\n").repeat(copies);
        let _ = read(text.as_bytes(), &Wanted::default());
        let _ = har::looks_like(text.as_bytes());
    }
}
