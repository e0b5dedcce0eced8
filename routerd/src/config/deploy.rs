//! How a deploy is to go, as text: how many dynos have to be ready, how fast they replace others, what a canary serves.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use http::HeaderName;
use router_core::policy::deploy;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::units::Period;

/// No header or cookie of a canary takes more characters to write.
const LONGEST: usize = 500;

/// Defines how a setting of a plan is read and written as text, in files, in JSON and on the command line.
macro_rules! texts {
    ($($(#[$doc:meta])* $name:ident($inner:ty) is $examples:literal: $parse:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name(pub $inner);

        impl $name {
            /// What may be written, for messages.
            pub const ALLOWED: &'static str = $examples;
        }

        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                $parse(text).map(Self).ok_or_else(|| format!("allowed: {}", Self::ALLOWED))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(|why| {
                    de::Error::custom(format_args!("\"{}\": {why}", super::walk::clip(&text)))
                })
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "description": $examples })
            }
        }
    )*};
}

texts! {
    /// How many of the new dynos have to be ready.
    ReadyWhen(deploy::ReadyWhen) is r#""all", a number such as "3", or a share such as "80%""#: ready_when;
    /// How fast new dynos replace old ones.
    Pace(deploy::Pace) is r#""at once", "1 every 10s" or "25% every 1m""#: pace;
    /// Which requests are the canary's.
    CanaryOrder(deploy::Canary) is r#""10%", "header:NAME=VALUE" or "cookie:NAME=VALUE""#: canary;
}

fn ready_when(text: &str) -> Option<deploy::ReadyWhen> {
    if text == "all" {
        return Some(deploy::ReadyWhen::All);
    }
    match text.strip_suffix('%') {
        Some(share) => number(share).map(deploy::ReadyWhen::Share),
        None => number(text).map(deploy::ReadyWhen::Count),
    }
}

fn pace(text: &str) -> Option<deploy::Pace> {
    if text == "at once" {
        return Some(deploy::Pace::AtOnce);
    }
    let (step, every) = text.split_once(" every ")?;
    let every: Duration = Period::parse(every).ok()?.0;
    match step.strip_suffix('%') {
        Some(percent) => Some(deploy::Pace::Share { percent: number(percent)?, every }),
        None => Some(deploy::Pace::Dynos { count: number(step)?, every }),
    }
}

fn canary(text: &str) -> Option<deploy::Canary> {
    if let Some(share) = text.strip_suffix('%').filter(|share| !share.contains(':')) {
        return number(share).map(deploy::Canary::Share);
    }
    let (kind, pair) = text.split_once(':')?;
    let (name, value) = pair.split_once('=')?;
    // The names of cookies are tokens as those of headers are; nothing that ends a cookie is in a value.
    let plain = |c: char| !c.is_control() && (kind == "header" || !matches!(c, ';' | ',' | ' ' | '"' | '\\'));
    if text.len() > LONGEST || HeaderName::from_str(name).is_err() || !value.chars().all(plain) {
        return None;
    }
    let (name, value) = (name.to_owned(), value.to_owned());
    match kind {
        "header" => Some(deploy::Canary::Header { name, value }),
        "cookie" => Some(deploy::Canary::Cookie { name, value }),
        _ => None,
    }
}

/// A whole number without a sign.
fn number<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}

impl fmt::Display for ReadyWhen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            deploy::ReadyWhen::All => f.write_str("all"),
            deploy::ReadyWhen::Count(count) => count.fmt(f),
            deploy::ReadyWhen::Share(share) => write!(f, "{share}%"),
        }
    }
}

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            deploy::Pace::AtOnce => f.write_str("at once"),
            deploy::Pace::Dynos { count, every } => write!(f, "{count} every {}", Period(every)),
            deploy::Pace::Share { percent, every } => write!(f, "{percent}% every {}", Period(every)),
        }
    }
}

impl fmt::Display for CanaryOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            deploy::Canary::Share(share) => write!(f, "{share}%"),
            deploy::Canary::Header { name, value } => write!(f, "header:{name}={value}"),
            deploy::Canary::Cookie { name, value } => write!(f, "cookie:{name}={value}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_shown_as_it_would_be_written() {
        for text in ["all", "1", "3", "80%"] {
            assert_eq!(text.parse::<ReadyWhen>().unwrap().to_string(), text);
        }
        for text in ["at once", "1 every 10s", "25% every 1m", "2 every 1m 30s"] {
            assert_eq!(text.parse::<Pace>().unwrap().to_string(), text);
        }
        for text in ["10%", "header:x-beta=1", "header:X-A=a=b, c", "cookie:beta=on", "cookie:beta="] {
            assert_eq!(text.parse::<CanaryOrder>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_setting_means_what_it_says() {
        assert_eq!("80%".parse(), Ok(ReadyWhen(deploy::ReadyWhen::Share(80))));
        let every = Duration::from_secs(60);
        assert_eq!("25% every 1m".parse(), Ok(Pace(deploy::Pace::Share { percent: 25, every })));
        assert_eq!("10%".parse(), Ok(CanaryOrder(deploy::Canary::Share(10))));
        let cookie = deploy::Canary::Cookie { name: "beta".to_owned(), value: "50%".to_owned() };
        assert_eq!("cookie:beta=50%".parse(), Ok(CanaryOrder(cookie)));
    }

    #[test]
    fn what_says_nothing_is_refused_with_examples() {
        for text in ["", "ALL", "-1", "+3", "1.5", "%", "80 %", "99999999999999999999"] {
            let why = text.parse::<ReadyWhen>().unwrap_err();
            assert_eq!(why, format!("allowed: {}", ReadyWhen::ALLOWED), "{text:?}");
        }
        for text in
            ["", "now", "1", "25%", "1 every", "1 every 10", "every 10s", "1  every 10s", "x every 1s"]
        {
            assert!(text.parse::<Pace>().is_err(), "{text:?}");
        }
        let long = format!("header:a={}", "x".repeat(LONGEST));
        for text in [
            "",
            "%",
            "10",
            "header:",
            "header:a",
            "header:a b=1",
            "header:=1",
            "query:a=1",
            "a=1",
            &long,
            "header:a=\n",
            "cookie:a=1;b=2",
            "cookie:a b=1",
        ] {
            assert!(text.parse::<CanaryOrder>().is_err(), "{text:?}");
        }
    }
}
