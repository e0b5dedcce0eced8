//! The header of the PROXY protocol, versions 1 and 2, as a proxy in front of us sends it before anything else.
//!
//! Reads what has come so far and nothing beyond the header, so what follows it is lost to nobody. Of version 2 the
//! addresses are read; what else it says (TLVs) is skipped.
//! <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use router_core::proxy::PROXY_SIGNATURE;

/// So many bytes are enough to know how long a header is and what it says: the longest line of version 1.
pub const LOOK: usize = 107;

const V1: &[u8] = b"PROXY ";
/// Signature, command, family and length of version 2.
const V2_FIXED: usize = 16;

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// No header, whatever follows.
    No,
    /// The beginning of one, perhaps: more bytes will tell.
    Partial,
    /// A header that is wrong.
    Bad,
    /// A header.
    Header(Header),
}

/// A header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// How many bytes it has, in the connection.
    pub length: usize,
    /// The client, and where it has connected to. `None`: the proxy does not know (UNKNOWN), or speaks for itself
    /// (LOCAL).
    pub ends: Option<(SocketAddr, SocketAddr)>,
}

/// Reads a header from the first bytes of a connection, of which [`LOOK`] are enough.
///
/// ```
/// use routerd::proxy_header::{Parsed, parse};
///
/// let Parsed::Header(header) = parse(b"PROXY TCP4 192.0.2.1 198.51.100.1 4711 443\r\nGET /") else { panic!() };
/// assert_eq!((header.length, header.ends.unwrap().0), (44, "192.0.2.1:4711".parse().unwrap()));
/// ```
pub fn parse(bytes: &[u8]) -> Parsed {
    if begins(bytes, V1) {
        return v1(&bytes[..bytes.len().min(LOOK)]);
    }
    if begins(bytes, &PROXY_SIGNATURE) {
        return v2(bytes);
    }
    Parsed::No
}

/// Whether the bytes go the way of `prefix` as far as they go.
fn begins(bytes: &[u8], prefix: &[u8]) -> bool {
    let known = bytes.len().min(prefix.len());
    bytes[..known] == prefix[..known]
}

fn v1(bytes: &[u8]) -> Parsed {
    let Some(end) = bytes.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else {
        return if bytes.len() < LOOK { Parsed::Partial } else { Parsed::Bad };
    };
    match bytes[end..] {
        [b'\r', b'\n', ..] => {}
        [b'\r'] if bytes.len() < LOOK => return Parsed::Partial,
        _ => return Parsed::Bad,
    }
    let fields = std::str::from_utf8(&bytes[V1.len().min(end)..end]).unwrap_or_default();
    let fields: Vec<&str> = fields.split(' ').collect();
    let ends = match fields[..] {
        ["UNKNOWN", ..] => Some(None),
        ["TCP4", from, to, from_port, to_port] => line_ends::<Ipv4Addr>([from, to], [from_port, to_port]),
        ["TCP6", from, to, from_port, to_port] => line_ends::<Ipv6Addr>([from, to], [from_port, to_port]),
        _ => None,
    };
    ends.map_or(Parsed::Bad, |ends| Parsed::Header(Header { length: end + 2, ends }))
}

/// Outside `None`: they are wrong.
fn line_ends<A>(addresses: [&str; 2], ports: [&str; 2]) -> Option<Option<(SocketAddr, SocketAddr)>>
where
    A: std::str::FromStr,
    IpAddr: From<A>,
{
    let address = |text: &str| text.parse::<A>().ok().map(IpAddr::from);
    let [from, to] = addresses.map(address);
    let [from_port, to_port] = ports.map(port);
    Some(Some((SocketAddr::new(from?, from_port?), SocketAddr::new(to?, to_port?))))
}

/// Digits without a zero in front.
fn port(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain)
}

fn v2(bytes: &[u8]) -> Parsed {
    let Some((fixed, rest)) = bytes.split_at_checked(V2_FIXED) else { return Parsed::Partial };
    let (command, family) = (fixed[12], fixed[13]);
    let said = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    let header = |ends| Parsed::Header(Header { length: V2_FIXED + said, ends });
    let needed = match (command, family) {
        // LOCAL: the rest says nothing.
        (0x20, _) => return header(None),
        (0x21, 0x11) => 12,
        (0x21, 0x21) => 36,
        // Unknown, datagrams, Unix sockets: the proxy's own address is what there is to know.
        (0x21, 0x00 | 0x12 | 0x22 | 0x31 | 0x32) => return header(None),
        _ => return Parsed::Bad,
    };
    if said < needed {
        return Parsed::Bad;
    }
    match rest.get(..needed) {
        Some(ends) => header(binary_ends(ends)),
        None => Parsed::Partial,
    }
}

/// Two addresses of the same length and two ports.
fn binary_ends(bytes: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let (addresses, ports) = bytes.split_at_checked(bytes.len().checked_sub(4)?)?;
    let (from, to) = addresses.split_at(addresses.len() / 2);
    let address = |bytes: &[u8]| {
        let v4 = || <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
        <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from).or_else(v4)
    };
    let port = |at: usize| Some(u16::from_be_bytes([*ports.get(at)?, *ports.get(at + 1)?]));
    Some((SocketAddr::new(address(from)?, port(0)?), SocketAddr::new(address(to)?, port(2)?)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn v2_bytes(command: u8, family: u8, ends: &[u8], tlvs: &[u8]) -> Vec<u8> {
        let length = u16::try_from(ends.len() + tlvs.len()).unwrap().to_be_bytes();
        [&PROXY_SIGNATURE[..], &[command, family], &length, ends, tlvs].concat()
    }

    fn ends(from: &str, to: &str) -> Option<(SocketAddr, SocketAddr)> {
        Some((from.parse().unwrap(), to.parse().unwrap()))
    }

    #[test]
    fn a_line_of_version_1_is_read() {
        for (line, found) in [
            ("PROXY TCP4 1.2.3.4 5.6.7.8 9 80\r\n", ends("1.2.3.4:9", "5.6.7.8:80")),
            ("PROXY TCP6 2001:db8::1 ::1 65535 0\r\n", ends("[2001:db8::1]:65535", "[::1]:0")),
            ("PROXY UNKNOWN\r\n", None),
            ("PROXY UNKNOWN ffff::f 1.2.3.4 what ever\r\n", None),
        ] {
            let with_more = format!("{line}GET / HTTP/1.1\r\n");
            let header = Parsed::Header(Header { length: line.len(), ends: found });
            assert_eq!(parse(with_more.as_bytes()), header, "{line}");
        }
    }

    #[test]
    fn a_line_that_is_wrong_is_refused_and_a_request_is_no_header() {
        for line in [
            "PROXY TCP4 1.2.3.4 5.6.7.8 9 80\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 9 80\rX",
            "PROXY TCP4 1.2.3.4  5.6.7.8 9 80\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 9\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 9 80 \r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 +9 80\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 09 80\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 9 65536\r\n",
            "PROXY TCP4 01.2.3.4 5.6.7.8 9 80\r\n",
            "PROXY TCP4 ::1 ::1 9 80\r\n",
            "PROXY TCP6 1.2.3.4 5.6.7.8 9 80\r\n",
            "PROXY UDP4 1.2.3.4 5.6.7.8 9 80\r\n",
            "PROXY tcp4 1.2.3.4 5.6.7.8 9 80\r\n",
            "PROXY \r\n",
        ] {
            assert_eq!(parse(line.as_bytes()), Parsed::Bad, "{line:?}");
        }
        assert_eq!(parse(format!("PROXY UNKNOWN {}", "x".repeat(93)).as_bytes()), Parsed::Bad);
        for request in
            ["GET / HTTP/1.1\r\n", "PROPFIND /", "PROXYTCP4", "proxy TCP4", "\r\n\r\nGET", "\x16\x03\x01"]
        {
            assert_eq!(parse(request.as_bytes()), Parsed::No, "{request:?}");
        }
    }

    #[test]
    fn version_2_is_read_and_what_it_says_besides_is_skipped() {
        let v4 = [1, 2, 3, 4, 5, 6, 7, 8, 0, 9, 0, 80];
        let known = |length| Parsed::Header(Header { length, ends: ends("1.2.3.4:9", "5.6.7.8:80") });
        let unknown = |length| Parsed::Header(Header { length, ends: None });
        assert_eq!(parse(&v2_bytes(0x21, 0x11, &v4, b"")), known(28));
        let long = v2_bytes(0x21, 0x11, &v4, &[b't'; 60_000]);
        assert_eq!(parse(&long[..LOOK]), known(60_028));
        let mut v6 = [0; 36];
        (v6[15], v6[31], v6[33], v6[35]) = (1, 2, 9, 80);
        let header = Parsed::Header(Header { length: 52, ends: ends("[::1]:9", "[::2]:80") });
        assert_eq!(parse(&v2_bytes(0x21, 0x21, &v6, b"")), header);
        assert_eq!(parse(&v2_bytes(0x20, 0x11, &v4, b"t")), unknown(29));
        assert_eq!(parse(&v2_bytes(0x20, 0x11, b"", b"")), unknown(16));
        assert_eq!(parse(&v2_bytes(0x21, 0x00, b"", b"tlv")), unknown(19));
        assert_eq!(parse(&v2_bytes(0x21, 0x31, &[0; 216], b"")), unknown(232));
        for (command, family, length) in [
            (0x11, 0x11, 12),
            (0x22, 0x11, 12),
            (0x21, 0x13, 12),
            (0x21, 0x41, 12),
            (0x21, 0x11, 11),
            (0x21, 0x21, 35),
        ] {
            assert_eq!(
                parse(&v2_bytes(command, family, &vec![0; length], b"")),
                Parsed::Bad,
                "{command:x} {family:x}"
            );
        }
    }

    proptest! {
        #[test]
        fn what_is_known_of_a_part_is_still_so_of_the_whole(
            bytes in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..200),
                "PROXY (TCP4|TCP6|UNKNOWN) [0-9a-f.: ]{0,60}\r\n[a-z]{0,90}".prop_map(String::into_bytes),
                (0x1Fu8..0x23, any::<u8>(), prop::collection::vec(any::<u8>(), 0..90))
                    .prop_map(|(command, family, rest)| v2_bytes(command, family, &rest, b"")),
            ],
            cut in 0usize..200,
        ) {
            let part = parse(&bytes[..cut.min(bytes.len())]);
            if part != Parsed::Partial {
                prop_assert_eq!(part, parse(&bytes));
            }
        }

        #[test]
        fn a_header_is_read_once_it_is_whole_and_not_before(
            from in any::<(u32, u16)>(),
            to in any::<(u32, u16)>(),
            cut in 0usize..60,
        ) {
            let end = |(address, port): (u32, u16)| SocketAddr::new(Ipv4Addr::from(address).into(), port);
            let (from, to) = (end(from), end(to));
            let line = format!("PROXY TCP4 {} {} {} {}\r\n", from.ip(), to.ip(), from.port(), to.port());
            let whole = Parsed::Header(Header { length: line.len(), ends: Some((from, to)) });
            prop_assert_eq!(parse(line.as_bytes()), whole);
            let cut = cut.min(line.len() - 1);
            prop_assert_eq!(parse(&line.as_bytes()[..cut]), Parsed::Partial);
        }
    }
}
