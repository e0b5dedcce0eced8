//! Logs of one request a line: which format they have, our own two forms, and lines that are too long or nothing.

use std::borrow::Cow;
use std::io::{self, BufRead, Read};

use serde::Deserialize;

use super::{Format, LINE_MOST, Line, Reader, clf, stamp};

pub(super) fn read(mut from: impl BufRead, reader: &mut Reader<'_>) -> io::Result<()> {
    let mut buffer = Vec::new();
    for number in 1.. {
        buffer.clear();
        let len = from.by_ref().take(LINE_MOST as u64).read_until(b'\n', &mut buffer)?;
        if len == 0 {
            break;
        }
        if len == LINE_MOST && buffer.last() != Some(&b'\n') {
            from.skip_until(b'\n')?;
            reader.garbage(number, "longer than 64 KiB", &buffer);
            continue;
        }
        let bytes = buffer.trim_ascii();
        if bytes.is_empty() {
            continue;
        }
        match std::str::from_utf8(bytes) {
            Ok(text) => one(number, text, reader),
            Err(_) => reader.garbage(number, "not UTF-8", bytes),
        }
    }
    Ok(())
}

fn one(number: u64, text: &str, reader: &mut Reader<'_>) {
    let tries = match &reader.format {
        Some(format) => std::slice::from_ref(format),
        None => &[Format::Json, Format::Logfmt, Format::Clf][..],
    };
    let mut why = Cow::Borrowed("it has none of the forms looked for");
    let mut found = None;
    for format in tries {
        let line = match format {
            Format::Json => json(text),
            Format::Logfmt => logfmt(text).map_err(Cow::Borrowed),
            Format::Clf | Format::Har => clf::line(text).map_err(Cow::Borrowed),
        };
        match line {
            Ok(line) => {
                found = Some((*format, line));
                break;
            }
            // Of several tries, what the likeliest one lacks.
            Err(lacks) if tries.len() == 1 || likely(*format, text) => why = lacks,
            Err(_) => {}
        }
    }
    let Some((format, mut line)) = found else { return reader.garbage(number, &why, text.as_bytes()) };
    reader.format = Some(format);
    if format == Format::Clf {
        line.start = line.start.saturating_add(reader.spread.u64(..1_000_000_000));
    }
    reader.add(line);
}

fn likely(format: Format, text: &str) -> bool {
    match format {
        Format::Json => text.starts_with('{'),
        Format::Logfmt => at(text).is_some(),
        Format::Clf | Format::Har => false,
    }
}

/// A line of routerd's JSON; what is not named here may be there.
#[derive(Deserialize)]
struct Json<'a> {
    #[serde(borrow)]
    time: Option<Cow<'a, str>>,
    code: Option<String>,
    method: Option<String>,
    path: Option<String>,
    host: Option<String>,
    dyno: Option<String>,
    queue_ms: Option<f64>,
    service_ms: Option<f64>,
    status: Option<u16>,
}

fn json(text: &str) -> Result<Line, Cow<'static, str>> {
    let json: Json<'_> = serde_json::from_str(text).map_err(|error| Cow::Owned(error.to_string()))?;
    let time = json.time.ok_or("\"time\" is missing")?;
    let start = stamp::rfc3339(&time).ok_or("\"time\" is no time")?;
    if json.status.is_none() && json.service_ms.is_none() && json.method.is_none() {
        return Err("neither \"status\" nor \"method\" nor \"service_ms\" is there".into());
    }
    Ok(Line {
        start,
        service: json.service_ms,
        wait: json.queue_ms,
        status: json.status,
        code: json.code,
        host: json.host,
        method: json.method,
        path: json.path,
        dyno: json.dyno,
    })
}

/// Where the fields of a logfmt line begin.
fn at(text: &str) -> Option<usize> {
    if text.starts_with("at=") { Some(0) } else { text.find(" at=").map(|at| at + 1) }
}

fn logfmt(text: &str) -> Result<Line, &'static str> {
    let begin = at(text).ok_or("no field at=")?;
    let (before, fields) = text.split_at(begin);
    let (mut line, mut time) = (Line::default(), stamp::within(before));
    let mut rest = fields;
    while let Some((name, value, after)) = field(rest)? {
        rest = after;
        match name {
            "time" | "ts" => time = time.or_else(|| stamp::within(&value)),
            "queue" => line.wait = ms(&value)?,
            "service" => line.service = ms(&value)?,
            "status" => line.status = value.parse().ok(),
            "code" => line.code = text_of(value),
            "host" => line.host = text_of(value),
            "method" => line.method = text_of(value),
            "path" => line.path = text_of(value),
            "dyno" => line.dyno = text_of(value),
            _ => {}
        }
    }
    if line.status.is_none() && line.service.is_none() && line.method.is_none() {
        return Err("neither status= nor method= nor service= is there");
    }
    let end = time.ok_or("no time stamp before at=")?;
    // A collector stamps a line when it comes, which is when the request is over.
    let lasted = line.wait.unwrap_or(0.0).max(0.0) + line.service.unwrap_or(0.0).max(0.0);
    line.start = end.saturating_sub((lasted * 1e6) as u64);
    Ok(line)
}

/// The next field: its name, its value, and what follows.
type Field<'a> = (&'a str, Cow<'a, str>, &'a str);

fn field(text: &str) -> Result<Option<Field<'_>>, &'static str> {
    let text = text.trim_start();
    if text.is_empty() {
        return Ok(None);
    }
    let end = text.find(['=', ' ']).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let Some(rest) = rest.strip_prefix('=') else { return Ok(Some((name, Cow::Borrowed(""), rest))) };
    if !rest.starts_with('"') {
        let (value, rest) = rest.split_at(rest.find(' ').unwrap_or(rest.len()));
        return Ok(Some((name, Cow::Borrowed(value), rest)));
    }
    // Escaped as in JSON.
    let mut values = serde_json::Deserializer::from_str(rest).into_iter::<String>();
    let value = values.next().and_then(Result::ok).ok_or("a value in quotes does not end")?;
    Ok(Some((name, Cow::Owned(value), &rest[values.byte_offset()..])))
}

fn text_of(value: Cow<'_, str>) -> Option<String> {
    Some(value.into_owned()).filter(|value| !value.is_empty())
}

/// `12ms`, or nothing.
fn ms(value: &str) -> Result<Option<f64>, &'static str> {
    if value.is_empty() {
        return Ok(None);
    }
    let number = value.strip_suffix("ms").and_then(|number| number.parse().ok());
    number.filter(|ms: &f64| ms.is_finite()).map(Some).ok_or("a time is not like 12ms")
}
