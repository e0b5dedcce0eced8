//! Durations as `"5s"` and sizes as `"1MiB"`: read from text, shown as text.

use std::borrow::Cow;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error as _};
use serde::{Serialize, Serializer};

/// No duration or size takes more characters to write.
const LONGEST: usize = 40;

/// A duration as written in the file, for example `"5s"`, `"250ms"` or `"1h 30m"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(pub Duration);

/// A number of bytes as written in the file, for example `"64KiB"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl Period {
    /// What may be written, for messages.
    pub const ALLOWED: &'static str = r#"a duration such as "250ms", "5s", "2m" or "1h""#;

    /// Reads a duration; a number without a unit is none.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > LONGEST {
            return Err(format!("longer than {LONGEST} characters"));
        }
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(format!("a unit is missing, for example \"{text}s\""));
        }
        humantime::parse_duration(text).map(Self).map_err(|error| error.to_string())
    }
}

impl Size {
    /// What may be written, for messages.
    pub const ALLOWED: &'static str = r#"a size such as "512B", "64KiB", "1MiB" or "2GiB""#;

    const UNITS: [(&'static str, u32); 4] = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("B", 0)];

    /// Reads a size: a whole number and one of `B`, `KiB`, `MiB`, `GiB`.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > LONGEST {
            return Err(format!("longer than {LONGEST} characters"));
        }
        let end = text.bytes().take_while(u8::is_ascii_digit).count();
        let (digits, unit) = text.split_at(end);
        let unit = unit.trim_start();
        if digits.is_empty() {
            return Err("a whole number is missing".to_owned());
        }
        if unit.is_empty() {
            return Err(format!("a unit is missing, for example \"{digits}B\""));
        }
        let Some((_, shift)) = Self::UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(format!("the unit {unit:?} is none of B, KiB, MiB, GiB"));
        };
        let bytes = digits.parse::<u64>().ok().and_then(|count| count.checked_mul(1 << shift));
        bytes.map(Self).ok_or_else(|| "more than 16 EiB".to_owned())
    }
}

impl std::fmt::Display for Period {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (unit, shift) = match self.0 {
            bytes if bytes == 0 || bytes % (1 << 10) != 0 => ("B", 0),
            bytes if bytes % (1 << 20) != 0 => ("KiB", 10),
            bytes if bytes % (1 << 30) != 0 => ("MiB", 20),
            _ => ("GiB", 30),
        };
        write!(f, "{}{unit}", self.0 >> shift)
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(D::Error::custom)
    }
}

impl Serialize for Period {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// For the command line.
impl std::str::FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(text).map_err(|why| format!("{why}; allowed: {}", Self::ALLOWED))
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(D::Error::custom)
    }
}

impl JsonSchema for Period {
    fn schema_name() -> Cow<'static, str> {
        "Period".into()
    }

    // Not `format: duration`: that is ISO 8601, and editors would refuse "5s".
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "x-unit": "duration", "pattern": "^[0-9]" })
    }
}

impl JsonSchema for Size {
    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "x-unit": "size", "pattern": "^[0-9]+ ?(B|KiB|MiB|GiB)$" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_read_with_its_unit() {
        for (text, millis) in
            [("5s", 5000), ("2500ms", 2500), ("1h 30m", 5_400_000), ("0s", 0), ("1.5s", 1500)]
        {
            assert_eq!(Period::parse(text), Ok(Period(Duration::from_millis(millis))), "{text}");
        }
    }

    #[test]
    fn a_duration_without_a_unit_is_refused_with_an_example() {
        assert_eq!(Period::parse("5").unwrap_err(), "a unit is missing, for example \"5s\"");
        assert_eq!(Period::parse("0").unwrap_err(), "a unit is missing, for example \"0s\"");
        for text in ["", " ", "s", "5 parsecs", "-5s", "99999999999999999999s", "584942417356y 1y", "5s\0"] {
            assert!(Period::parse(text).is_err(), "{text:?}");
        }
        assert!(Period::parse(&"0".repeat(1000)).is_err());
    }

    #[test]
    fn a_size_is_read_in_binary_units_only() {
        for (text, bytes) in
            [("0B", 0), ("512B", 512), ("8KiB", 8192), ("1 MiB", 1 << 20), ("64GiB", 64 << 30)]
        {
            assert_eq!(Size::parse(text), Ok(Size(bytes)), "{text}");
        }
        assert_eq!(Size::parse("8192").unwrap_err(), "a unit is missing, for example \"8192B\"");
        assert_eq!(Size::parse("1MB").unwrap_err(), "the unit \"MB\" is none of B, KiB, MiB, GiB");
        for text in ["", "MiB", "-1B", "1.5MiB", "18446744073709551615KiB", "99999999999999999999999B", "١B"]
        {
            assert!(Size::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_size_is_shown_as_it_would_be_written() {
        for text in ["0B", "1B", "1023B", "8KiB", "1MiB", "1025KiB", "64GiB"] {
            assert_eq!(Size::parse(text).unwrap().to_string(), text);
        }
    }
}
