//! One record as one line: logfmt with the fields of Heroku's router, or JSON with the same fields.
//!
//! Whatever a client sends stands escaped inside quotes, so it can neither end a line nor break JSON, and each value
//! is cut at a bound, so a line stays below [`LINE_MAX`]: collectors split longer lines, and the second half of a
//! split line would be the client's to write. A cut value ends in `…`. Both forms escape as JSON strings do, which
//! is what readers of logfmt expect too; bytes that are not UTF-8 become U+FFFD.

use std::fmt;
use std::io::Write;
use std::time::{Duration, UNIX_EPOCH};

use http::Version;
use router_core::fault::{Fault, Level};
use router_core::proxy::{Record, Upgraded};

/// No line is longer, its newline included: docker splits lines at this size.
pub const LINE_MAX: usize = 16 * 1024;

/// The most bytes of a value in a line, after escaping. Together with the names of the fields they stay below
/// [`LINE_MAX`].
pub(super) mod room {
    /// The path: as long as the longest request line that is allowed by default.
    pub(super) const PATH: usize = 8 * 1024;
    /// The host.
    pub(super) const HOST: usize = 1024;
    /// The request id; we take over at most 200 characters.
    pub(super) const REQUEST_ID: usize = 256;
    /// The X-Forwarded-For list.
    pub(super) const FORWARDED_FOR: usize = 2048;
    /// The method.
    pub(super) const METHOD: usize = 64;
    /// The dyno's name.
    pub(super) const DYNO: usize = 256;
}

/// Seconds from the epoch to the year 10000, where RFC 3339 ends.
const YEAR_10000: u64 = 253_402_300_800;

/// What a line looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `at=info method=GET path="/" …`
    #[default]
    Logfmt,
    /// `{"time":"…","at":"info","method":"GET","path":"/",…}`
    Json,
}

/// Appends the line of a record to `out`, with its newline.
pub fn format_line(format: Format, record: &Record, out: &mut Vec<u8>) {
    match format {
        Format::Logfmt => logfmt(&Fields::of(record), out),
        Format::Json => json(record.received, &Fields::of(record), out),
    }
    out.push(b'\n');
}

/// What a line says, in either form. `None` is a value that the request does not have.
struct Fields<'a> {
    level: Level,
    fault: Option<Fault>,
    method: Option<&'a [u8]>,
    path: Option<&'a [u8]>,
    host: Option<&'a [u8]>,
    request_id: Option<&'a [u8]>,
    forwarded_for: Option<&'a [u8]>,
    dyno: Option<&'a [u8]>,
    queue: Option<Duration>,
    connect: Option<Duration>,
    service: Option<Duration>,
    total: Duration,
    status: Option<u16>,
    bytes: u64,
    upgraded: Option<Upgraded>,
    protocol: &'static str,
    tls: bool,
}

impl<'a> Fields<'a> {
    fn of(record: &'a Record) -> Self {
        let dyno = record.dyno.as_ref().map(|dyno| dyno.name.as_str().as_bytes());
        let unserved = matches!(record.fault, Some(Fault::ConnectRefused | Fault::ConnectTimeout));
        Self {
            level: record.fault.map_or(Level::Info, Fault::level),
            fault: record.fault,
            method: record.method.as_ref().map(|method| method.as_str().as_bytes()),
            path: record.path.as_ref().map(|path| path.as_str().as_bytes()),
            host: record.host.as_ref().map(|host| host.as_bytes()),
            request_id: record.request_id.as_ref().map(|id| id.as_bytes()),
            forwarded_for: record.forwarded_for.as_ref().map(|list| list.as_bytes()),
            dyno,
            // Without an app there was no line, without a dyno no connection, and without a connection no service.
            queue: record.app.as_ref().map(|_| record.queue),
            connect: dyno.map(|_| record.connect),
            service: dyno.filter(|_| !unserved).map(|_| record.service),
            total: record.total,
            status: (record.status != 0).then_some(record.status),
            bytes: record.bytes,
            upgraded: record.upgraded,
            protocol: protocol(record.protocol),
            tls: record.tls,
        }
    }
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "http0.9",
        Version::HTTP_10 => "http1.0",
        Version::HTTP_2 => "http2.0",
        Version::HTTP_3 => "http3.0",
        _ => "http1.1",
    }
}

fn logfmt(fields: &Fields<'_>, out: &mut Vec<u8>) {
    // One of these for each request: what is in every line is put together without the formatter.
    out.extend_from_slice(b"at=");
    out.extend_from_slice(fields.level.as_str().as_bytes());
    if let Some(fault) = fields.fault {
        put(out, format_args!(" code={} desc=\"{}\"", fault.code(), fault.desc()));
        if let Some(cause) = fault.cause() {
            put(out, format_args!(" cause=\"{cause}\""));
        }
    }
    bare(out, b" method=", fields.method, room::METHOD);
    quoted(out, b" path=", fields.path.unwrap_or_default(), room::PATH);
    bare(out, b" host=", fields.host, room::HOST);
    bare(out, b" request_id=", fields.request_id, room::REQUEST_ID);
    quoted(out, b" fwd=", fields.forwarded_for.unwrap_or_default(), room::FORWARDED_FOR);
    bare(out, b" dyno=", fields.dyno, room::DYNO);
    for (name, time) in
        [(" queue=", fields.queue), (" connect=", fields.connect), (" service=", fields.service)]
    {
        out.extend_from_slice(name.as_bytes());
        if let Some(time) = time {
            out.extend_from_slice(itoa::Buffer::new().format(time.as_millis()).as_bytes());
            out.extend_from_slice(b"ms");
        }
    }
    out.extend_from_slice(b" status=");
    if let Some(status) = fields.status {
        out.extend_from_slice(itoa::Buffer::new().format(status).as_bytes());
    }
    out.extend_from_slice(b" bytes=");
    out.extend_from_slice(itoa::Buffer::new().format(fields.bytes).as_bytes());
    for (name, value) in
        [(" protocol=", fields.protocol), (" tls=", if fields.tls { "true" } else { "false" })]
    {
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(value.as_bytes());
    }
    if let Some(Upgraded { lasted, received, end }) = fields.upgraded {
        let lasted = lasted.as_millis();
        put(out, format_args!(" upgraded={lasted}ms received={received} end={}", end.as_str()));
    }
}

fn json(received: Duration, fields: &Fields<'_>, out: &mut Vec<u8>) {
    match UNIX_EPOCH.checked_add(received).filter(|_| received.as_secs() < YEAR_10000) {
        Some(time) => put(out, format_args!("{{\"time\":\"{}\"", humantime::format_rfc3339_millis(time))),
        None => out.extend_from_slice(b"{\"time\":null"),
    }
    put(out, format_args!(",\"at\":\"{}\"", fields.level.as_str()));
    if let Some(fault) = fields.fault {
        put(out, format_args!(",\"code\":\"{}\",\"desc\":\"{}\"", fault.code(), fault.desc()));
        if let Some(cause) = fault.cause() {
            put(out, format_args!(",\"cause\":\"{cause}\""));
        }
    }
    let text: [(&[u8], _, _); 6] = [
        (b",\"method\":", fields.method, room::METHOD),
        (b",\"path\":", fields.path, room::PATH),
        (b",\"host\":", fields.host, room::HOST),
        (b",\"request_id\":", fields.request_id, room::REQUEST_ID),
        (b",\"fwd\":", fields.forwarded_for, room::FORWARDED_FOR),
        (b",\"dyno\":", fields.dyno, room::DYNO),
    ];
    for (name, value, room) in text {
        match value {
            Some(value) => quoted(out, name, value, room),
            None => {
                out.extend_from_slice(name);
                out.extend_from_slice(b"null");
            }
        }
    }
    for (name, time) in [
        ("queue_ms", fields.queue),
        ("connect_ms", fields.connect),
        ("service_ms", fields.service),
        ("total_ms", Some(fields.total)),
    ] {
        match time {
            Some(time) => {
                let micros = time.as_micros();
                put(out, format_args!(",\"{name}\":{}.{:03}", micros / 1000, micros % 1000));
            }
            None => put(out, format_args!(",\"{name}\":null")),
        }
    }
    match fields.status {
        Some(status) => put(out, format_args!(",\"status\":{status}")),
        None => out.extend_from_slice(b",\"status\":null"),
    }
    put(
        out,
        format_args!(
            ",\"bytes\":{},\"protocol\":\"{}\",\"tls\":{}",
            fields.bytes, fields.protocol, fields.tls
        ),
    );
    if let Some(Upgraded { lasted, received, end }) = fields.upgraded {
        let (micros, end) = (lasted.as_micros(), end.as_str());
        put(out, format_args!(",\"upgraded_ms\":{}.{:03}", micros / 1000, micros % 1000));
        put(out, format_args!(",\"received\":{received},\"end\":\"{end}\""));
    }
    out.push(b'}');
}

fn put(out: &mut Vec<u8>, text: fmt::Arguments<'_>) {
    // A Vec takes whatever is written to it, and none of the values above fails to format.
    let _ = out.write_fmt(text);
}

/// A value without quotes where nothing in it needs them, as Heroku writes hosts and ids.
fn bare(out: &mut Vec<u8>, name: &[u8], value: Option<&[u8]>, room: usize) {
    let value = value.unwrap_or_default();
    let plain = |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\' | b'=');
    if value.len() <= room && value.iter().all(plain) {
        out.extend_from_slice(name);
        out.extend_from_slice(value);
    } else {
        quoted(out, name, value, room);
    }
}

/// A value in quotes, escaped as in JSON.
fn quoted(out: &mut Vec<u8>, name: &[u8], value: &[u8], room: usize) {
    out.extend_from_slice(name);
    out.push(b'"');
    let plain = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
    if value.len() <= room && value.iter().all(plain) {
        out.extend_from_slice(value);
    } else {
        escape(out, value, room);
    }
    out.push(b'"');
}

/// Escapes up to `room` bytes, the sign that something was cut included.
fn escape(out: &mut Vec<u8>, value: &[u8], room: usize) {
    const CUT: char = '…';
    let end = out.len() + room - CUT.len_utf8();
    // Where the value would have to be cut, if it turns out to be too long for the room that is kept for the sign.
    let mut cut = None;
    for chunk in value.utf8_chunks() {
        let broken = (!chunk.invalid().is_empty()).then_some(char::REPLACEMENT_CHARACTER);
        for sign in chunk.valid().chars().chain(broken) {
            let before = out.len();
            escape_char(out, sign);
            if out.len() > end {
                let at = *cut.get_or_insert(before);
                if out.len() > end + CUT.len_utf8() {
                    out.truncate(at);
                    push_char(out, CUT);
                    return;
                }
            }
        }
    }
}

fn escape_char(out: &mut Vec<u8>, sign: char) {
    match sign {
        '"' => out.extend_from_slice(b"\\\""),
        '\\' => out.extend_from_slice(b"\\\\"),
        '\n' => out.extend_from_slice(b"\\n"),
        '\r' => out.extend_from_slice(b"\\r"),
        '\t' => out.extend_from_slice(b"\\t"),
        sign if misleads(sign) => put(out, format_args!("\\u{:04x}", u32::from(sign))),
        sign => push_char(out, sign),
    }
}

/// What could move a terminal's cursor, turn the direction of writing, or pass for the end of a line.
fn misleads(sign: char) -> bool {
    sign.is_control()
        || matches!(sign, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}'
            | '\u{feff}')
}

fn push_char(out: &mut Vec<u8>, sign: char) {
    out.extend_from_slice(sign.encode_utf8(&mut [0; 4]).as_bytes());
}

#[cfg(test)]
mod tests;
