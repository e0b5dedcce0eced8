//! The PROXY protocol's header in front of a request: what a dyno that asks for it is told of the client.
//!
//! <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::limits::ProxyHeader;

/// What version 2 begins with.
pub const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// A connection for that client; `from` and `to` are the ends of the client's own connection.
pub(crate) fn of_client(kind: ProxyHeader, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let (from, to) = same_family(from, to);
    match kind {
        ProxyHeader::Off => Vec::new(),
        ProxyHeader::V1 => {
            let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
            let (from_port, to_port) = (from.port(), to.port());
            format!("PROXY {family} {} {} {from_port} {to_port}\r\n", from.ip(), to.ip()).into_bytes()
        }
        ProxyHeader::V2 => {
            let mut ends = Vec::with_capacity(36);
            for address in [from.ip(), to.ip()] {
                match address {
                    IpAddr::V4(v4) => ends.extend_from_slice(&v4.octets()),
                    IpAddr::V6(v6) => ends.extend_from_slice(&v6.octets()),
                }
            }
            ends.extend([from.port(), to.port()].into_iter().flat_map(u16::to_be_bytes));
            v2(0x21, if from.is_ipv4() { 0x11 } else { 0x21 }, &ends)
        }
    }
}

/// A connection of the router's own: a probe.
pub(crate) fn of_router(kind: ProxyHeader) -> Vec<u8> {
    match kind {
        ProxyHeader::Off => Vec::new(),
        ProxyHeader::V1 => b"PROXY UNKNOWN\r\n".to_vec(),
        ProxyHeader::V2 => v2(0x20, 0, &[]),
    }
}

fn v2(command: u8, family: u8, ends: &[u8]) -> Vec<u8> {
    // 36 at the most.
    let length = [0, u8::try_from(ends.len()).unwrap_or_default()];
    [&SIGNATURE[..], &[command, family], &length, ends].concat()
}

/// Of two families both become IPv6, where IPv4 has a place.
fn same_family(from: SocketAddr, to: SocketAddr) -> (SocketAddr, SocketAddr) {
    let plain = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
    let (from, to) = (plain(from), plain(to));
    if from.is_ipv4() == to.is_ipv4() {
        return (from, to);
    }
    let wide = |end: SocketAddr| {
        let address: Ipv6Addr = match end.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        SocketAddr::new(address.into(), end.port())
    };
    (wide(from), wide(to))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(from: &str, to: &str) -> String {
        let header = of_client(ProxyHeader::V1, from.parse().unwrap(), to.parse().unwrap());
        String::from_utf8(header).unwrap()
    }

    #[test]
    fn version_1_is_a_line() {
        assert_eq!(text("1.2.3.4:5", "6.7.8.9:80"), "PROXY TCP4 1.2.3.4 6.7.8.9 5 80\r\n");
        assert_eq!(text("[2001:db8::1]:5", "[::1]:80"), "PROXY TCP6 2001:db8::1 ::1 5 80\r\n");
        assert_eq!(text("[::ffff:1.2.3.4]:5", "6.7.8.9:80"), "PROXY TCP4 1.2.3.4 6.7.8.9 5 80\r\n");
        assert_eq!(text("1.2.3.4:5", "[::1]:80"), "PROXY TCP6 ::ffff:1.2.3.4 ::1 5 80\r\n");
    }

    #[test]
    fn version_2_is_as_in_the_specification() {
        let header = of_client(ProxyHeader::V2, ([1, 2, 3, 4], 5).into(), ([6, 7, 8, 9], 80).into());
        assert_eq!(header[..12], SIGNATURE);
        assert_eq!(header[12..], [0x21, 0x11, 0, 12, 1, 2, 3, 4, 6, 7, 8, 9, 0, 5, 0, 80]);
        let header = of_client(ProxyHeader::V2, "[::1]:5".parse().unwrap(), "[::2]:80".parse().unwrap());
        assert_eq!((header.len(), &header[12..16]), (16 + 36, &[0x21, 0x21, 0, 36][..]));
        assert_eq!(of_router(ProxyHeader::V2)[12..], [0x20, 0, 0, 0]);
    }
}
