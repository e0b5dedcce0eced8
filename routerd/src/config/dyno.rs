//! Where an app's dynos come from: an address, a name that is looked up, or an SRV record.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::host;

/// One entry of an app's `dynos`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum DynoSource {
    /// One dyno, at this address.
    Address(SocketAddr),
    /// A dyno at each address that the name has (A and AAAA), all on one port.
    Dns {
        /// The name, in lower case and A-labels.
        name: String,
        /// The port.
        port: u16,
    },
    /// A dyno for each target of the SRV record, at each of its addresses.
    Srv {
        /// The name of the record, such as `_http._tcp.shop.internal`.
        name: String,
    },
}

impl DynoSource {
    /// What may be written, for messages.
    pub const ALLOWED: &'static str =
        r#""127.0.0.1:3001", "[::1]:3001", "dns:web.shop.internal:3000" or "srv:_http._tcp.shop.internal""#;

    /// Reads an entry of `dynos`.
    ///
    /// ```
    /// use routerd::config::DynoSource;
    ///
    /// let source = DynoSource::parse("dns:web.shop.internal:3000");
    /// assert_eq!(source, Ok(DynoSource::Dns { name: "web.shop.internal".to_owned(), port: 3000 }));
    /// ```
    ///
    /// # Errors
    /// Why the text names no dyno.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(rest) = text.strip_prefix("dns:") {
            let (name, port) = rest.rsplit_once(':').ok_or("a port is missing: dns:NAME:PORT")?;
            return Ok(Self::Dns { name: looked_up(name)?, port: parse_port(port)? });
        }
        if let Some(name) = text.strip_prefix("srv:") {
            if name.contains(':') {
                return Err("an SRV record has its own ports: srv:NAME".to_owned());
            }
            return Ok(Self::Srv { name: looked_up(name)? });
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            parse_port(&address.port().to_string())?;
            // One dyno written in two ways, as v4 and as v4 in v6, would be two dynos: two requests at once.
            return Ok(Self::Address(SocketAddr::new(address.ip().to_canonical(), address.port())));
        }
        if text.parse::<IpAddr>().is_ok() {
            return Err("a port is missing".to_owned());
        }
        if text.contains("://") {
            return Err("a dyno is no URL".to_owned());
        }
        match text.rsplit_once(':') {
            Some((name, port)) if host::name(name).is_ok() && parse_port(port).is_ok() => {
                Err(format!("a name is looked up only if it is written \"dns:{name}:{port}\""))
            }
            _ => Err("this is no address with a port".to_owned()),
        }
    }
}

fn looked_up(name: &str) -> Result<String, String> {
    if name.parse::<IpAddr>().is_ok() || name.starts_with('[') {
        return Err("an address is written without dns: or srv:".to_owned());
    }
    // The dot at the end stays: with it the resolver adds no search domain.
    let dot = if name.ends_with('.') { "." } else { "" };
    Ok(host::name(name)? + dot)
}

fn parse_port(port: &str) -> Result<u16, String> {
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse().ok().filter(|port| digits && *port > 0);
    port.ok_or_else(|| "a port is a number from 1 to 65535".to_owned())
}

impl fmt::Display for DynoSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Dns { name, port } => write!(f, "dns:{name}:{port}"),
            Self::Srv { name } => write!(f, "srv:{name}"),
        }
    }
}

impl From<DynoSource> for String {
    fn from(source: DynoSource) -> Self {
        source.to_string()
    }
}

impl TryFrom<String> for DynoSource {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_shown_as_it_would_be_written() {
        for text in
            ["127.0.0.1:3001", "[::1]:3001", "dns:web.shop.internal:3000", "srv:_http._tcp.shop.internal."]
        {
            assert_eq!(DynoSource::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn one_address_written_in_two_ways_is_one_dyno() {
        assert_eq!(DynoSource::parse("[::ffff:127.0.0.1]:3001"), DynoSource::parse("127.0.0.1:3001"));
    }

    #[test]
    fn what_names_no_dyno_is_refused() {
        for text in [
            "",
            "127.0.0.1",
            "::1",
            "127.0.0.1:0",
            "127.0.0.1:65536",
            "localhost",
            "dns:",
            "dns:web",
            "dns:web:",
            "dns:web:+80",
            "dns:web:0",
            "dns:127.0.0.1:80",
            "dns:[::1]:80",
            "dns::80",
            "srv:",
            "srv:a:80",
            "srv:::1",
            "http://127.0.0.1:80",
            "unix:/tmp/x",
            "dns:*.a:80",
            "DNS:web:80",
        ] {
            assert!(DynoSource::parse(text).is_err(), "{text:?} became {:?}", DynoSource::parse(text));
        }
        let help = DynoSource::parse("localhost:3001").unwrap_err();
        assert_eq!(help, "a name is looked up only if it is written \"dns:localhost:3001\"");
    }
}
