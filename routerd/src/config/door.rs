//! Who may come in, how often, and who is believed: networks, rates and the PROXY protocol, as values that are legal.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use http::HeaderName;
use ipnet::IpNet;

pub use super::file::ProxyProtocol;

/// Networks, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks(Vec<IpNet>);

/// Who an app lets in, and how often. The keys are described in [`super::file::App`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "each field is the key of the same name, described there")]
#[non_exhaustive]
pub struct Admission {
    /// Empty: everybody.
    pub allow: Networks,
    pub deny: Networks,
    pub rate_limit: Option<RateLimit>,
}

/// How often an app may be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each field is the key of the same name, described in the file's RateLimit")]
#[non_exhaustive]
pub struct RateLimit {
    pub per: Per,
    pub rate: Rate,
    pub burst: NonZeroU32,
}

/// What a rate is counted by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Per {
    /// The client's address; of IPv6 its network of 64 bits.
    #[default]
    Ip,
    /// The value of a header; a request without it counts by its client's address.
    Header(HeaderName),
    /// All requests of the app together.
    App,
}

/// So many requests in a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many.
    pub count: NonZeroU32,
    unit: char,
}

impl Networks {
    /// Reads networks as they are written. What is wrong comes with its place in the list.
    pub(super) fn read<'t>(texts: impl Iterator<Item = &'t str>) -> (Self, Vec<(usize, String)>) {
        let (mut networks, mut wrong) = (Vec::new(), Vec::new());
        for (at, text) in texts.enumerate() {
            match network(text) {
                Ok(network) => networks.push(network),
                Err(why) => wrong.push((at, why)),
            }
        }
        (Self(networks), wrong)
    }

    /// Whether one of them has the address.
    pub fn has(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One by one.
    pub fn as_slice(&self) -> &[IpNet] {
        &self.0
    }
}

fn network(text: &str) -> Result<IpNet, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(address));
    }
    let network: IpNet = text.parse().map_err(|_| "this is no network".to_owned())?;
    match network.trunc() {
        whole if whole == network => Ok(network),
        whole => Err(format!("this is an address in the network {whole}")),
    }
}

impl Rate {
    /// What may be written, for messages.
    pub const ALLOWED: &'static str = r#""none", or "100/s", "6000/m" or "1000/h", at most 1000000"#;

    /// The time from one request to the next, if they come evenly.
    pub fn interval(self) -> Duration {
        let seconds = match self.unit {
            's' => 1,
            'm' => 60,
            _ => 3600,
        };
        Duration::from_secs(seconds) / self.count.get()
    }
}

impl FromStr for Rate {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (count, unit) = text.split_once('/').ok_or("this is no rate")?;
        let digits = !count.is_empty() && count.bytes().all(|byte| byte.is_ascii_digit());
        let count = count.parse().ok().filter(|count| digits && *count <= 1_000_000);
        let count = count.and_then(NonZeroU32::new).ok_or("the number is none from 1 to 1000000")?;
        match unit {
            "s" => Ok(Self { count, unit: 's' }),
            "m" => Ok(Self { count, unit: 'm' }),
            "h" => Ok(Self { count, unit: 'h' }),
            _ => Err("the time is none of s, m and h"),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.count, self.unit)
    }
}

impl FromStr for Per {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "ip" => Ok(Self::Ip),
            "app" => Ok(Self::App),
            _ => match text.strip_prefix("header:").map(HeaderName::try_from) {
                Some(Ok(name)) => Ok(Self::Header(name)),
                Some(Err(_)) => Err("this is no name of a header"),
                None => Err("this is nothing to count by"),
            },
        }
    }
}

impl fmt::Display for Per {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip => f.write_str("ip"),
            Self::Header(name) => write!(f, "header:{name}"),
            Self::App => f.write_str("app"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_has_its_addresses_whatever_family_they_are_written_in() {
        let (networks, wrong) = Networks::read(["10.0.0.0/8", "192.0.2.7", "2001:db8::/32"].into_iter());
        assert!(wrong.is_empty());
        for (address, has) in [
            ("10.255.0.1", true),
            ("11.0.0.1", false),
            ("192.0.2.7", true),
            ("192.0.2.8", false),
            ("::ffff:10.0.0.1", true),
            ("2001:db8:1::", true),
            ("2001:db9::", false),
        ] {
            assert_eq!(networks.has(address.parse().unwrap()), has, "{address}");
        }
        let (_, wrong) = Networks::read(["10.0.0.1/8", "ten", "10.0.0.0/33", ""].into_iter());
        assert_eq!(wrong.len(), 4);
        assert_eq!(wrong[0].1, "this is an address in the network 10.0.0.0/8");
    }

    #[test]
    fn a_rate_is_read_as_it_is_written() {
        for (text, micros) in
            [("100/s", 10_000), ("6/m", 10_000_000), ("1/h", 3_600_000_000), ("1000000/s", 1)]
        {
            let rate: Rate = text.parse().unwrap();
            assert_eq!((rate.to_string().as_str(), rate.interval()), (text, Duration::from_micros(micros)));
        }
        for text in ["", "1", "1/", "/s", "0/s", "1000001/s", "+1/s", "1/d", "1/S", "1 /s", "99999999999/s"] {
            assert!(text.parse::<Rate>().is_err(), "{text:?}");
        }
        for text in ["ip", "app", "header:x-api-key"] {
            assert_eq!(text.parse::<Per>().unwrap().to_string(), text);
        }
        for text in ["", "IP", "header:", "header:a b", "cookie:a"] {
            assert!(text.parse::<Per>().is_err(), "{text:?}");
        }
    }
}
