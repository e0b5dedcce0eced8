//! The grammar of single lines of HTTP/1.1: what a line says, or that it is none (RFC 9112; RFC 9110 section 5).

use std::net::Ipv6Addr;

use router_core::fault::BadRequest;

/// Headers that decide where a request ends and whom it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    ContentLength,
    TransferEncoding,
    Host,
    Connection,
    Upgrade,
    Other,
}

/// Checks `method SP target SP version` and says whether it is HTTP/1.1; if not, it is HTTP/1.0.
///
/// # Errors
/// What is wrong with it.
pub(super) fn request_line(line: &[u8]) -> Result<bool, BadRequest> {
    const BAD: BadRequest = BadRequest::Header;
    let mut words = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(BAD);
    };
    let [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] = version else { return Err(BAD) };
    if !is_token(method) || !major.is_ascii_digit() || !minor.is_ascii_digit() {
        return Err(BAD);
    }
    let http_1_1 = match (major, minor) {
        (b'1', b'1') => true,
        (b'1', b'0') => false,
        _ => return Err(BadRequest::Version),
    };
    if !is_target(method, target) {
        return Err(BAD);
    }
    // Well-formed, and nothing that is served here.
    if method == b"CONNECT" { Err(BadRequest::Method) } else { Ok(http_1_1) }
}

/// Whether the target has one of the four forms of RFC 9112 section 3.2, the one that goes with the method.
fn is_target(method: &[u8], target: &[u8]) -> bool {
    if !target.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'#') {
        return false;
    }
    match target {
        _ if method == b"CONNECT" => is_host(target) && target.contains(&b':'),
        [b'/', ..] => true,
        b"*" => method == b"OPTIONS",
        _ => ["http://", "https://"].iter().any(|scheme| {
            target.split_at_checked(scheme.len()).is_some_and(|(given, rest)| {
                let authority = rest.split(|byte| matches!(byte, b'/' | b'?')).next();
                given.eq_ignore_ascii_case(scheme.as_bytes()) && authority.is_some_and(is_host)
            })
        }),
    }
}

/// Whether it is a host as Host and targets name it: a name or an address and perhaps a port, without user information
/// (RFC 9110 sections 4.2.4 and 7.2). A comma, which a name may have in theory, is a second host to too many readers.
pub fn is_host(host: &[u8]) -> bool {
    let (name_is_good, port) = if let Some(rest) = host.strip_prefix(b"[") {
        let Some(end) = rest.iter().position(|byte| *byte == b']') else { return false };
        let address = std::str::from_utf8(&rest[..end]).ok();
        (address.is_some_and(|address| address.parse::<Ipv6Addr>().is_ok()), &rest[end + 1..])
    } else {
        let end = host.iter().position(|byte| *byte == b':').unwrap_or(host.len());
        (end > 0 && is_name(&host[..end]), &host[end..])
    };
    name_is_good && is_port(port)
}

/// A registered name or an IPv4 address (RFC 3986 section 3.2.2).
fn is_name(name: &[u8]) -> bool {
    let mut rest = name;
    while let [first, more @ ..] = rest {
        rest = match (first, more) {
            (b'%', [high, low, more @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => more,
            (b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')', _) => more,
            (b'*' | b'+' | b';' | b'=', _) => more,
            (byte, _) if byte.is_ascii_alphanumeric() => more,
            _ => return false,
        };
    }
    true
}

/// Nothing, or a colon and a port; no digits mean the usual port (RFC 3986 section 3.2.3).
fn is_port(port: &[u8]) -> bool {
    match port {
        [] | [b':'] => true,
        [b':', digits @ ..] => {
            digits.iter().all(u8::is_ascii_digit)
                && std::str::from_utf8(digits).is_ok_and(|digits| digits.parse::<u16>().is_ok())
        }
        _ => false,
    }
}

/// Name and value of a header, without the white space around the value.
pub(super) fn field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    // A line that begins with white space has no token for a name: it is the rest of the line before (obs-fold).
    // To the end in any case: without a way out of the loop the compiler takes many bytes at once.
    let text = |good, byte: &u8| good & matches!(byte, b'\t' | 0x20..=0x7E | 0x80..=0xFF);
    let good = is_token(name) && value.iter().fold(true, text);
    good.then(|| (name, trim(value)))
}

/// Which of the headers it is that matter. `None`: none of them by itself, but one of them to a server that hands
/// headers on as variables (CGI, WSGI, Rack), where `_` and `-` are the same.
pub(super) fn known(name: &[u8]) -> Option<Known> {
    let known = match name.len() {
        4 if name.eq_ignore_ascii_case(b"host") => Known::Host,
        7 if name.eq_ignore_ascii_case(b"upgrade") => Known::Upgrade,
        10 if name.eq_ignore_ascii_case(b"connection") => Known::Connection,
        14 if is_framing(name, b"content-length") => Known::ContentLength,
        17 if is_framing(name, b"transfer-encoding") => Known::TransferEncoding,
        _ => return Some(Known::Other),
    };
    (!name.contains(&b'_')).then_some(known)
}

fn is_framing(name: &[u8], known: &[u8]) -> bool {
    let alike = |(given, wanted): (&u8, &u8)| {
        given.eq_ignore_ascii_case(wanted) || (*given == b'_' && *wanted == b'-')
    };
    name.iter().zip(known).all(alike)
}

/// Digits and nothing else (RFC 9110 section 8.6), as far as they can be counted.
pub(super) fn content_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let length = std::str::from_utf8(value).ok()?.parse().ok()?;
    // hyper keeps the last numbers for its own ends.
    (length <= i64::MAX as u64).then_some(length)
}

/// The size of a chunk (RFC 9112 section 7.1), its extensions checked and forgotten.
pub(super) fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (size, extensions) = line.split_at(digits);
    if size.is_empty() || !are_extensions(extensions) {
        return None;
    }
    // Sixteen digits are what every reader of 64 bits can take.
    let size = (size.len() <= 16).then_some(size)?;
    let size = u64::from_str_radix(std::str::from_utf8(size).ok()?, 16).ok()?;
    (size <= i64::MAX as u64).then_some(size)
}

/// Any number of `BWS ; BWS token [BWS = BWS (token | quoted-string)]` (RFC 9112 section 7.1.1).
fn are_extensions(mut rest: &[u8]) -> bool {
    while !rest.is_empty() {
        let Some(after) = trim_start(rest).strip_prefix(b";") else { return false };
        let Some(after) = token(trim_start(after)) else { return false };
        rest = after;
        if let Some(value) = trim_start(rest).strip_prefix(b"=") {
            let value = trim_start(value);
            let after = if value.starts_with(b"\"") { quoted(value) } else { token(value) };
            let Some(after) = after else { return false };
            rest = after;
        }
    }
    true
}

/// What follows a token.
fn token(text: &[u8]) -> Option<&[u8]> {
    let end = text.iter().position(|byte| !is_token_byte(*byte)).unwrap_or(text.len());
    (end > 0).then(|| &text[end..])
}

/// What follows a quoted string (RFC 9110 section 5.6.4).
fn quoted(text: &[u8]) -> Option<&[u8]> {
    let mut rest = text.strip_prefix(b"\"")?;
    loop {
        rest = match rest {
            [b'"', after @ ..] => return Some(after),
            [b'\\', b'\t' | 0x20..=0x7E | 0x80..=0xFF, after @ ..] => after,
            [b'\\', ..] => return None,
            [b'\t' | 0x20..=0x7E | 0x80..=0xFF, after @ ..] => after,
            _ => return None,
        };
    }
}

/// Whether it is a header that may stand behind a body: none that frames the message or says where it goes (RFC 9110
/// section 6.5.1). Others that make no sense there are left out on the way to the dyno.
pub(super) fn is_trailer(line: &[u8]) -> bool {
    field(line).is_some_and(|(name, _)| {
        known(name) == Some(Known::Other)
            && ![&b"te"[..], b"trailer", b"keep-alive", b"expect"]
                .iter()
                .any(|no| name.eq_ignore_ascii_case(no))
    })
}

fn is_token(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().fold(true, |good, byte| good & is_token_byte(*byte))
}

/// RFC 9110 section 5.6.2.
fn is_token_byte(byte: u8) -> bool {
    TOKEN[usize::from(byte)]
}

/// Which bytes a token may have.
static TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let more = b"!#$%&'*+-.^_`|~";
    let mut at = 0;
    while at < more.len() {
        table[more[at] as usize] = true;
        at += 1;
    }
    table
};

/// Without spaces and tabs at both ends; other white space is no white space here (RFC 9110 section 5.6.3).
fn trim(text: &[u8]) -> &[u8] {
    let end = text.iter().rposition(|byte| !matches!(byte, b' ' | b'\t')).map_or(0, |last| last + 1);
    trim_start(&text[..end])
}

fn trim_start(text: &[u8]) -> &[u8] {
    let start = text.iter().position(|byte| !matches!(byte, b' ' | b'\t')).unwrap_or(text.len());
    &text[start..]
}
