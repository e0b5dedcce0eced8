//! What the guard lets pass, hyper reads as a naive reader of the RFC does: the same requests with the same bodies.

use std::convert::Infallible;
use std::sync::Arc;

use hyper::body::{Body, Incoming};
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use router_core::sync::Mutex;
use routerd::guard::Guard;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Method, path and query, and body of a request.
type Plain = (String, String, Vec<u8>);

/// Judges the bytes whole and byte by byte, and gives what passes to hyper.
///
/// # Panics
/// When the verdict depends on how the bytes are cut, or when hyper and the naive reader differ.
pub fn run(data: &[u8]) {
    let mut guard = Guard::new(1 << 16);
    let passed = guard.pass(data);
    let mut slow = Guard::new(1 << 16);
    let all = data.iter().all(|byte| slow.pass(std::slice::from_ref(byte)) == 1);
    assert_eq!(guard.refusal(), slow.refusal(), "cut into bytes");
    assert_eq!(passed == data.len(), all, "cut into bytes");
    let wanted = naive(&data[..passed]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let Ok(runtime) = runtime else { return };
    let got = runtime.block_on(parsed(&data[..passed]));
    // hyper may end a connection earlier: `Connection: close`, HTTP/1.0, a limit of its own.
    assert!(got.len() <= wanted.len(), "hyper has {got:?}, and there is {wanted:?}");
    for (got, wanted) in got.iter().zip(&wanted) {
        assert_eq!(got, wanted);
    }
}

/// The whole requests that hyper finds.
async fn parsed(data: &[u8]) -> Vec<Plain> {
    let found = Arc::new(Mutex::new(Vec::new()));
    let (mut ours, theirs) = tokio::io::duplex(data.len() + (1 << 16));
    let service = service_fn(|request: Request<Incoming>| {
        let found = Arc::clone(&found);
        async move {
            let (head, mut body) = request.into_parts();
            let mut bytes = Vec::new();
            let mut whole = true;
            while let Some(frame) =
                std::future::poll_fn(|cx| std::pin::Pin::new(&mut body).poll_frame(cx)).await
            {
                match frame {
                    Ok(frame) => bytes.extend(frame.into_data().unwrap_or_default()),
                    Err(_) => whole = false,
                }
            }
            if whole {
                let path = head.uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
                let plain = (head.method.to_string(), path, bytes);
                found.lock().push(plain);
            }
            Ok::<_, Infallible>(Response::new(String::new()))
        }
    });
    let serve = async {
        let _ = Builder::new()
            .half_close(true)
            .max_buf_size(1 << 20)
            .serve_connection(TokioIo::new(theirs), service)
            .await;
    };
    let talk = async {
        let _ = ours.write_all(data).await;
        let _ = ours.shutdown().await;
        let _ = ours.read_to_end(&mut Vec::new()).await;
    };
    tokio::join!(serve, talk);
    let mut found = found.lock();
    std::mem::take(&mut *found)
}

/// The whole requests in bytes that are requests as they should be.
fn naive(mut rest: &[u8]) -> Vec<Plain> {
    let mut found = Vec::new();
    while let Some((plain, after)) = one(rest) {
        found.push(plain);
        rest = after;
    }
    found
}

fn one(text: &[u8]) -> Option<(Plain, &[u8])> {
    let text = text.strip_prefix(b"\r\n").unwrap_or(text);
    let (head, mut rest) = split(text, b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(head).into_owned();
    let mut lines = head.split("\r\n");
    let mut words = lines.next()?.split(' ');
    let (method, target) = (words.next()?.to_owned(), path(words.next()?));
    let (mut length, mut chunked) = (0, false);
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().ok()?,
            "transfer-encoding" => chunked = true,
            _ => {}
        }
    }
    let mut body = Vec::new();
    if chunked {
        loop {
            let (size, after) = split(rest, b"\r\n")?;
            let digits = size.split(|byte| !byte.is_ascii_hexdigit()).next()?;
            let size = usize::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
            rest = after;
            if size == 0 {
                break;
            }
            body.extend_from_slice(rest.get(..size)?);
            rest = rest.get(size.checked_add(2)?..)?;
        }
        loop {
            let (line, after) = split(rest, b"\r\n")?;
            rest = after;
            if line.is_empty() {
                break;
            }
        }
    } else {
        body.extend_from_slice(rest.get(..length)?);
        rest = &rest[length..];
    }
    Some(((method, target, body), rest))
}

/// Path and query of a target in whatever form.
fn path(target: &str) -> String {
    let Some((_, rest)) = target.split_once("://").filter(|_| !target.starts_with('/')) else {
        return target.to_owned();
    };
    let path = rest.find(['/', '?']).map_or("", |at| &rest[at..]);
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

fn split<'a>(text: &'a [u8], end: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = text.windows(end.len()).position(|part| part == end)?;
    Some((&text[..at], &text[at + end.len()..]))
}
