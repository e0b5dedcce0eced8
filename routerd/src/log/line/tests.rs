//! Tests of the lines: both forms, and what strangers may try.

use std::sync::Arc;

use http::{HeaderValue, Method};
use proptest::prelude::*;
use router_core::DynoInfo;
use router_core::fault::{BadRequest, Fault};
use router_core::ids::{AppId, DynoName};
use router_core::proxy::End;

use super::*;

fn dyno(name: &str) -> Arc<DynoInfo> {
    let address = ([127, 0, 0, 1], 3001).into();
    Arc::new(DynoInfo { address, name: DynoName::new(name), release: "v1".into(), concurrency: 1 })
}

fn served() -> Record {
    let mut record = Record::default();
    record.received = Duration::from_millis(1_349_927_261_042);
    record.method = Some(Method::GET);
    record.path = Some("/".parse().unwrap());
    record.host = Some(HeaderValue::from_static("shop.test"));
    record.request_id = Some(HeaderValue::from_static("8601b555-6a83-4c12-8269-97c8e32cdb22"));
    record.forwarded_for = Some(HeaderValue::from_static("127.0.0.1"));
    record.app = Some(AppId::from("shop"));
    record.dyno = Some(dyno("web.1"));
    record.queue = Duration::from_micros(42);
    record.connect = Duration::from_micros(1_999);
    record.service = Duration::from_micros(18_250);
    record.total = Duration::from_micros(20_300);
    record.tries = 1;
    record.status = 200;
    record.bytes = 13;
    record
}

fn refused(fault: Fault) -> Record {
    let mut record = served();
    record.dyno = None;
    (record.connect, record.service) = (Duration::ZERO, Duration::ZERO);
    (record.status, record.fault) = (fault.status(), Some(fault));
    record
}

fn line(format: Format, record: &Record) -> String {
    let mut out = Vec::new();
    format_line(format, record, &mut out);
    String::from_utf8(out).expect("lines are UTF-8")
}

#[test]
fn a_served_request_has_herokus_fields_and_our_queue() {
    assert_eq!(
        line(Format::Logfmt, &served()),
        "at=info method=GET path=\"/\" host=shop.test request_id=8601b555-6a83-4c12-8269-97c8e32cdb22 \
         fwd=\"127.0.0.1\" dyno=web.1 queue=0ms connect=1ms service=18ms status=200 bytes=13 protocol=http1.1 \
         tls=false\n"
    );
}

#[test]
fn a_connection_that_changed_its_protocol_says_at_last_how_it_ended() {
    let mut record = served();
    let (lasted, end) = (Duration::from_micros(61_000_999), End::Idle);
    record.upgraded = Some(Upgraded { lasted, received: 7, end });
    (record.status, record.fault) = (101, Some(Fault::IdleConnection));
    let logfmt = line(Format::Logfmt, &record);
    assert!(logfmt.starts_with("at=error code=H15 desc=\"Idle connection\" method=GET"), "{logfmt}");
    let rest = " status=101 bytes=13 protocol=http1.1 tls=false upgraded=61000ms received=7 end=idle\n";
    assert!(logfmt.ends_with(rest), "{logfmt}");
    let json = line(Format::Json, &record);
    assert!(
        json.ends_with("\"tls\":false,\"upgraded_ms\":61000.999,\"received\":7,\"end\":\"idle\"}\n"),
        "{json}"
    );
}

#[test]
fn a_fault_comes_after_the_level_and_what_never_was_is_empty() {
    assert_eq!(
        line(Format::Logfmt, &refused(Fault::AppCrashed)),
        "at=error code=H10 desc=\"App crashed\" method=GET path=\"/\" host=shop.test \
         request_id=8601b555-6a83-4c12-8269-97c8e32cdb22 fwd=\"127.0.0.1\" dyno= queue=0ms connect= service= \
         status=503 bytes=13 protocol=http1.1 tls=false\n"
    );
}

#[test]
fn a_request_whose_head_could_not_be_read_still_has_every_field() {
    let mut record = Record::default();
    record.fault = Some(Fault::BadRequest(BadRequest::Header));
    record.status = 400;
    assert_eq!(
        line(Format::Logfmt, &record),
        "at=warning code=H26 desc=\"Request Error\" cause=\"bad header\" method= path=\"\" host= request_id= \
         fwd=\"\" dyno= queue= connect= service= status=400 bytes=0 protocol=http1.1 tls=false\n"
    );
}

#[test]
fn a_refused_connection_names_the_dyno_and_has_no_service_time() {
    let mut record = served();
    (record.fault, record.status) = (Some(Fault::ConnectRefused), 503);
    assert!(line(Format::Logfmt, &record).contains(" dyno=web.1 queue=0ms connect=1ms service= status=503 "));
}

#[test]
fn no_status_is_an_empty_one() {
    let mut record = served();
    (record.fault, record.status) = (Some(Fault::ForcedClose), 0);
    assert!(line(Format::Logfmt, &record).contains(" status= bytes=13 "));
    let json: serde_json::Value = serde_json::from_str(&line(Format::Json, &record)).unwrap();
    assert!(json["status"].is_null());
}

#[test]
fn json_has_the_same_keys_with_numbers_as_numbers() {
    let text = line(Format::Json, &served());
    assert_eq!(
        text,
        "{\"time\":\"2012-10-11T03:47:41.042Z\",\"at\":\"info\",\"method\":\"GET\",\"path\":\"/\",\
         \"host\":\"shop.test\",\"request_id\":\"8601b555-6a83-4c12-8269-97c8e32cdb22\",\"fwd\":\"127.0.0.1\",\
         \"dyno\":\"web.1\",\"queue_ms\":0.042,\"connect_ms\":1.999,\"service_ms\":18.250,\"total_ms\":20.300,\
         \"status\":200,\"bytes\":13,\"protocol\":\"http1.1\",\"tls\":false}\n"
    );
    let fault: serde_json::Value =
        serde_json::from_str(&line(Format::Json, &refused(Fault::RequestTimeout))).unwrap();
    assert_eq!((&fault["code"], &fault["desc"]), (&"H12".into(), &"Request timeout".into()));
    assert!(fault["dyno"].is_null() && fault["service_ms"].is_null());
    assert_eq!(fault["queue_ms"], 0.042);
}

#[test]
fn a_time_beyond_the_calendar_is_none() {
    let mut record = served();
    for received in [Duration::from_secs(YEAR_10000), Duration::MAX] {
        record.received = received;
        let json: serde_json::Value = serde_json::from_str(&line(Format::Json, &record)).unwrap();
        assert!(json["time"].is_null());
    }
}

#[test]
fn a_host_that_plays_a_second_field_stays_one_value() {
    let mut record = served();
    record.host = Some(HeaderValue::from_bytes(b"a status=200 \"x\" \xff\xc2\x85=\\").unwrap());
    let text = line(Format::Logfmt, &record);
    assert!(text.contains(r#" host="a status=200 \"x\" �\u0085=\\" request_id="#), "{text}");
    let json: serde_json::Value = serde_json::from_str(&line(Format::Json, &record)).unwrap();
    assert_eq!(json["host"], "a status=200 \"x\" \u{fffd}\u{85}=\\");
}

#[test]
fn signs_that_turn_the_line_around_are_escaped_and_letters_are_not() {
    let mut record = served();
    record.path = Some("/caf\u{e9}/\u{202e}gpj.exe\u{2028}".parse().unwrap());
    assert!(line(Format::Logfmt, &record).contains("path=\"/caf\u{e9}/\\u202egpj.exe\\u2028\""));
}

#[test]
fn the_longest_plain_path_is_whole_and_a_longer_one_is_cut() {
    let whole = format!("/{}", "a".repeat(room::PATH - 1));
    let mut record = served();
    record.path = Some(whole.parse().unwrap());
    assert!(line(Format::Logfmt, &record).contains(&format!("path=\"{whole}\" host=")));
    record.path = Some(format!("{whole}a").parse().unwrap());
    let cut = format!("path=\"{}…\" host=", &whole[..room::PATH - "…".len()]);
    assert!(line(Format::Logfmt, &record).contains(&cut));
}

#[test]
fn an_escape_that_just_fits_is_whole() {
    let escaped = |value: &[u8]| {
        let mut out = Vec::new();
        escape(&mut out, value, 8);
        String::from_utf8(out).unwrap()
    };
    assert_eq!(escaped(b"\"\"\"\""), r#"\"\"\"\""#);
    assert_eq!(escaped(b"\"\"\"\"\""), r#"\"\"…"#);
    assert_eq!(escaped("ééééé".as_bytes()), "éé…");
}

/// Reads a logfmt line back, as a reader with no knowledge of our fields would.
fn parse_logfmt(mut text: &str) -> Vec<(String, String)> {
    let mut fields = Vec::new();
    while !text.is_empty() {
        let (name, rest) = text.split_once('=').expect("a field has a name");
        let (value, rest) = if rest.starts_with('"') {
            let mut json = serde_json::Deserializer::from_str(rest).into_iter::<String>();
            let value = json.next().expect("a value").expect("a well-formed one");
            (value, &rest[json.byte_offset()..])
        } else {
            let end = rest.find(' ').unwrap_or(rest.len());
            (rest[..end].to_owned(), &rest[end..])
        };
        fields.push((name.to_owned(), value));
        text = rest.strip_prefix(' ').unwrap_or(rest);
    }
    fields
}

fn header(bytes: &[u8]) -> Option<HeaderValue> {
    HeaderValue::from_bytes(bytes).ok()
}

proptest! {
    #[test]
    fn whatever_is_sent_is_one_line_that_reads_back(
        path in "/[^\\x00-\\x20#?]{0,40}",
        host in proptest::collection::vec(any::<u8>(), 0..40),
        id in proptest::collection::vec(any::<u8>(), 0..9000),
        list in proptest::collection::vec(any::<u8>(), 0..9000),
        method in "[!#$%&'*+.^_`|~0-9A-Za-z-]{1,80}",
    ) {
        let mut record = served();
        record.method = Method::from_bytes(method.as_bytes()).ok();
        record.path = path.parse().ok();
        let printable = |bytes: &[u8]| bytes.iter().map(|&byte| byte.max(b' ')).collect::<Vec<_>>();
        record.host = header(&printable(&host));
        record.request_id = header(&id).or_else(|| header(&vec![b'"'; id.len()]));
        record.forwarded_for = header(&list).or_else(|| header(&vec![b'\t'; list.len()]));

        let text = line(Format::Logfmt, &record);
        prop_assert!(text.len() <= LINE_MAX);
        let body = text.strip_suffix('\n').expect("a newline at the end");
        prop_assert!(!body.chars().any(char::is_control));
        let fields = parse_logfmt(body);
        let names: Vec<_> = fields.iter().map(|(name, _)| name.as_str()).collect();
        prop_assert_eq!(names, ["at", "method", "path", "host", "request_id", "fwd", "dyno", "queue", "connect",
            "service", "status", "bytes", "protocol", "tls"]);
        if let Some(path) = &record.path {
            prop_assert_eq!(path.as_str(), &fields[2].1);
        }
        if let Some(host) = &record.host {
            prop_assert_eq!(String::from_utf8_lossy(host.as_bytes()), fields[3].1.as_str());
        }

        let text = line(Format::Json, &record);
        prop_assert!(text.len() <= LINE_MAX);
        prop_assert_eq!(text.matches('\n').count(), 1);
        let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        prop_assert_eq!(json.as_object().expect("an object").len(), 16);
    }
}

#[test]
fn the_longest_line_is_within_its_bound() {
    let full = |room: usize| HeaderValue::from_bytes(&vec![b'"'; room]).ok();
    let mut record = served();
    record.method = Method::from_bytes(&[b'M'; 100]).ok();
    record.path = format!("/{}", "\"".repeat(10_000)).parse().ok();
    (record.host, record.request_id, record.forwarded_for) = (full(10_000), full(10_000), full(10_000));
    record.dyno = Some(dyno(&"\u{1}".repeat(1000)));
    (record.queue, record.connect, record.service, record.total) =
        (Duration::MAX, Duration::MAX, Duration::MAX, Duration::MAX);
    (record.status, record.bytes) = (u16::MAX, u64::MAX);
    for &fault in Fault::ALL {
        record.fault = Some(fault);
        for format in [Format::Logfmt, Format::Json] {
            assert!(line(format, &record).len() <= LINE_MAX);
        }
    }
}
