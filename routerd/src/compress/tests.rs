//! Which coding a request gets, which answers may be compressed, and what their heads say then.

use http::Response;
use http::uri::PathAndQuery;

use super::*;

const ALL: [Coding; 3] = [Coding::Zstd, Coding::Br, Coding::Gzip];

fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
    let lines = lines.iter();
    lines.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
}

fn compressors(app: &str) -> Compressors {
    let config = format!("[apps.shop]\nhosts = ['shop.test']\ncompression = ['zstd', 'br', 'gzip']\n{app}\n");
    let compressors = Compressors::new();
    compressors.set(&Config::parse(&config, "a.toml").unwrap());
    compressors
}

/// The head of an answer with these lines, as it goes to a client, and whether the body is encoded.
fn answer(
    compressors: &Compressors,
    (method, version, asked): (Method, Version, &[(&'static str, &'static str)]),
    (status, lines, length): (u16, &[(&'static str, &'static str)], Option<u64>),
) -> (HeaderMap, bool) {
    let (app, path, asked) = (AppId::new("shop"), PathAndQuery::from_static("/"), headers(asked));
    let address = [127, 0, 0, 1].into();
    let (app, path, method, headers_of) = (&app, &path, &method, &asked);
    let asking = Asking { app, address, host: "shop.test", path, method, version, headers: headers_of };
    let mut head = Response::builder().status(status).body(()).unwrap().into_parts().0;
    head.headers = headers(lines);
    let encoder = compressors.coder(&asking).unwrap()(&mut head, length);
    (head.headers, encoder.is_some())
}

fn get(asked: &'static str) -> (Method, Version, Vec<(&'static str, &'static str)>) {
    (Method::GET, Version::HTTP_11, vec![("accept-encoding", asked)])
}

#[test]
fn the_greatest_weight_wins_and_among_equals_the_order_of_the_app() {
    use Coding::{Br, Gzip, Zstd};
    for (asked, chosen) in [
        ("gzip, deflate, br, zstd", Some(Zstd)),
        ("gzip, deflate, br", Some(Br)),
        ("gzip", Some(Gzip)),
        ("GZIP", Some(Gzip)),
        ("x-gzip", Some(Gzip)),
        ("x-gzip;q=0.2, gzip;q=0", None),
        ("gzip;q=1.0, br;q=0.5, zstd;q=0", Some(Gzip)),
        ("gzip; q=0.8 , br ;q=0.9", Some(Br)),
        ("*", Some(Zstd)),
        ("*;q=0", None),
        ("*;q=0, gzip", Some(Gzip)),
        ("zstd;q=0, *;q=0.1", Some(Br)),
        ("gzip;q=0", None),
        ("gzip;q=0, br;q=0.001", Some(Br)),
        ("gzip;q=2", None),
        ("gzip;q=", None),
        ("identity", None),
        ("identity;q=1, gzip;q=0.5", None),
        ("identity;q=0.5, gzip;q=0.5", Some(Gzip)),
        ("identity;q=0.5, gzip", Some(Gzip)),
        ("identity;q=0", None),
        ("identity;q=0, *", Some(Zstd)),
        ("gzip;q=0.5, br;q=0, zstd;q=0, *", None),
        ("deflate, compress", None),
        ("gzipx, xgzip, br-", None),
        ("", None),
        (",,;q=1,", None),
    ] {
        assert_eq!(choose(&ALL, &headers(&[("accept-encoding", asked)])), chosen, "{asked:?}");
    }
    assert_eq!(choose(&ALL, &HeaderMap::new()), None);
    assert_eq!(choose(&[Gzip, Zstd], &headers(&[("accept-encoding", "zstd, br, gzip")])), Some(Gzip));
    let two = headers(&[("accept-encoding", "deflate"), ("accept-encoding", "br;q=0.1")]);
    assert_eq!(choose(&ALL, &two), Some(Br), "in two lines");
}

#[test]
fn what_is_compressed_says_so_and_takes_back_what_is_true_no_more() {
    let compressors = compressors("");
    let lines = [
        ("content-type", "Text/HTML; charset=utf-8"),
        ("content-length", "5000"),
        ("accept-ranges", "bytes"),
        ("etag", "\"abc\""),
        ("vary", "Cookie"),
        ("vary", "Origin"),
        ("x-own", "1"),
    ];
    let (method, version, asked) = get("br");
    let (head, encoded) = answer(&compressors, (method, version, &asked), (200, &lines, Some(5000)));
    assert!(encoded);
    let expected = [
        ("content-type", "Text/HTML; charset=utf-8"),
        ("content-encoding", "br"),
        ("etag", "W/\"abc\""),
        ("vary", "Cookie, Origin, Accept-Encoding"),
        ("x-own", "1"),
    ];
    assert_eq!(head, headers(&expected));
    // Who gets it as it is learns that others do not.
    let (head, encoded) = answer(&compressors, (Method::GET, version, &[]), (200, &lines, Some(5000)));
    assert!(!encoded && head["vary"] == "Cookie, Origin, Accept-Encoding");
    assert_eq!((&head["etag"], &head["content-length"]), (&"\"abc\"".parse().unwrap(), &5000.into()));
    // HEAD has the head of GET.
    let head_of = answer(&compressors, (Method::HEAD, version, &asked), (200, &lines, Some(0)));
    assert_eq!(head_of, (headers(&expected), false));
}

#[test]
fn vary_is_merged_and_an_etag_is_weak() {
    for (before, after) in [
        (&["Accept-Encoding"][..], "Accept-Encoding"),
        (&["Origin,accept-encoding"], "Origin,accept-encoding"),
        (&["*"], "*"),
        (&[], "Accept-Encoding"),
        (&["", "Origin, "], "Origin, Accept-Encoding"),
    ] {
        let mut head = before.iter().map(|value| (header::VARY, HeaderValue::from_static(value))).collect();
        vary(&mut head);
        assert_eq!(head[header::VARY], after, "{before:?}");
        assert_eq!(head.len(), 1);
    }
    for (before, after) in [
        ("\"a\"", Some("W/\"a\"")),
        ("W/\"a\"", Some("W/\"a\"")),
        ("\"\"", Some("W/\"\"")),
        ("a", None),
        ("", None),
    ] {
        let mut head = headers(&[("etag", before)]);
        weaken(&mut head);
        assert_eq!(head.get("etag").map(|tag| tag.to_str().unwrap()), after);
    }
}

#[test]
fn what_may_not_be_compressed_stays_as_it_is() {
    let compressors = compressors("compression_types = ['text/*', 'application/*', '+json']");
    let text = ("content-type", "text/plain");
    let (method, version, asked) = get("gzip, br, zstd");
    for (status, lines, length) in [
        (200, &[text][..], Some(1023)),
        (200, &[text], Some(0)),
        (204, &[text], None),
        (205, &[text], None),
        (206, &[text], Some(5000)),
        (416, &[text, ("content-range", "bytes */5000")], Some(5000)),
        (200, &[text, ("content-encoding", "gzip")], Some(5000)),
        (200, &[text, ("content-encoding", "identity")], Some(5000)),
        (200, &[text, ("cache-control", "public, No-Transform")], Some(5000)),
        (200, &[text, ("content-digest", "sha-256=:AA==:")], Some(5000)),
        (200, &[text, ("content-md5", "AA==")], Some(5000)),
        (200, &[("content-type", "text/event-stream; charset=utf-8")], None),
        (200, &[("content-type", "application/grpc+proto")], None),
        (200, &[("content-type", "image/png")], Some(5000)),
        (200, &[], Some(5000)),
        (200, &[("content-type", "")], Some(5000)),
        (304, &[("content-type", "image/png"), ("etag", "\"a\"")], Some(0)),
    ] {
        let as_sent = answer(&compressors, (method.clone(), version, &asked), (status, lines, length));
        assert_eq!(as_sent, (headers(lines), false), "{status} {lines:?} {length:?}");
    }
    for (status, lines, length) in [
        (200, &[text][..], Some(1024)),
        (404, &[text], None),
        (200, &[("content-type", "image/x+json")], None),
        (200, &[text, ("cache-control", "max-age=1")], None),
    ] {
        assert!(
            answer(&compressors, (method.clone(), version, &asked), (status, lines, length)).1,
            "{lines:?}"
        );
    }
}

#[test]
fn who_cannot_take_it_gets_it_as_it_is() {
    let compressors = compressors("");
    let answered = (200, &[("content-type", "text/plain"), ("etag", "\"a\"")][..], Some(5000));
    let asked = [("accept-encoding", "gzip"), ("cache-control", "no-cache, no-transform")];
    for (version, asked) in
        [(Version::HTTP_10, &asked[..1]), (Version::HTTP_11, &asked), (Version::HTTP_2, &[])]
    {
        let (head, encoded) = answer(&compressors, (Method::GET, version, asked), answered);
        assert!(!encoded && head["vary"] == "Accept-Encoding" && head["etag"] == "\"a\"", "{version:?}");
    }
    // An answer that is not sent again may be one that was compressed.
    let (method, version, asked) = get("gzip");
    let (head, encoded) =
        answer(&compressors, (method, version, &asked), (304, &[("etag", "\"a\"")], Some(0)));
    assert_eq!((head, encoded), (headers(&[("etag", "W/\"a\""), ("vary", "Accept-Encoding")]), false));
}

#[test]
fn encoders_have_no_more_memory_than_there_is() {
    let room = Room::new();
    let all: Vec<_> = std::iter::from_fn(|| room.encoder(Coding::Gzip)).collect();
    assert!(all.len() > 500);
    assert!(room.encoder(Coding::Br).is_none());
    drop(all);
    assert!(room.encoder(Coding::Br).is_some());
}
