//! Headers of the PROXY protocol: any bytes are one, the beginning of one, a wrong one, or none; and bytes that come
//! later change nothing once that is known.

use routerd::proxy_header::{LOOK, Parsed, parse};

/// Reads the header from ever more bytes.
///
/// # Panics
/// When more bytes change what was known, or [`LOOK`] bytes are not enough to know it.
pub fn run(data: &[u8]) {
    let whole = parse(data);
    for cut in 0..data.len().min(2 * LOOK) {
        let part = parse(&data[..cut]);
        assert!(part == Parsed::Partial || part == whole, "{cut} bytes: {part:?}, all: {whole:?}");
    }
    assert!(data.len() < LOOK || whole != Parsed::Partial, "{LOOK} bytes are not enough");
    if let Parsed::Header(header) = whole {
        assert!(header.length >= "PROXY UNKNOWN\r\n".len(), "a header has bytes");
    }
}
