//! HTTP archives, as browsers save them: one JSON document.

use std::io::BufRead;

use serde::Deserialize;
use serde_json::Value;

use super::{Line, Reader, Useless, stamp};

/// What is not named here is skipped without being kept.
#[derive(Deserialize)]
struct Archive {
    log: Pages,
}

#[derive(Deserialize)]
struct Pages {
    entries: Vec<Exchange>,
}

/// Values of any kind, so that one bad entry does not spoil the others.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Exchange {
    started_date_time: Value,
    request: Request,
    response: Response,
    timings: Timings,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Request {
    method: Value,
    url: Value,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Response {
    status: Value,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Timings {
    wait: Value,
    receive: Value,
}

/// Whether a document begins as an archive does.
pub(super) fn looks_like(head: &[u8]) -> bool {
    let head = head.trim_ascii_start();
    let Some(rest) = head.strip_prefix(b"{") else { return false };
    rest.trim_ascii_start().starts_with(b"\"log\"")
}

pub(super) fn read(from: impl BufRead, reader: &mut Reader<'_>) -> Result<(), Useless> {
    let archive: Archive = serde_json::from_reader(from)
        .map_err(|error| Useless::Nothing(format!("it is not a HAR document: {error}")))?;
    for (number, exchange) in (1..).zip(archive.log.entries) {
        match exchange.line() {
            Some(line) => reader.add(line),
            None => {
                let time = exchange.started_date_time.to_string();
                reader.garbage(number, "startedDateTime is no time", time.as_bytes());
            }
        }
    }
    Ok(())
}

impl Exchange {
    fn line(&self) -> Option<Line> {
        let start = stamp::rfc3339(self.started_date_time.as_str()?)?;
        let url = self.request.url.as_str().unwrap_or_default();
        let rest = url.split_once("://").map_or("", |(_, rest)| rest);
        let (host, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
        let path = path.split('#').next().unwrap_or("/");
        // What was not measured is -1, or not there.
        let time = |value: &Value| value.as_f64().filter(|ms| *ms >= 0.0);
        let receive = time(&self.timings.receive).unwrap_or(0.0);
        Some(Line {
            start,
            service: time(&self.timings.wait).map(|wait| wait + receive),
            status: self.response.status.as_u64().and_then(|status| u16::try_from(status).ok()),
            host: Some(host.to_owned()),
            method: self.request.method.as_str().map(str::to_owned),
            path: Some(path.to_owned()),
            ..Line::default()
        })
    }
}
