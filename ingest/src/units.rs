//! Configuration values with units: durations such as `2h` or `1h30m`, sizes such as `512MiB`.
//!
//! The spelling is that of Prometheus's flags and files: `ms s m h d w y` for durations; for sizes `KB MB GB TB` mean the
//! same powers of 1024 as `KiB MiB GiB TiB`.

use std::fmt;
use std::time::Duration;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const DURATION_UNITS: [(&str, u64); 7] =
    [("y", 365 * 86_400_000), ("w", 7 * 86_400_000), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

const SIZE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1 << 40),
    ("GB", 1 << 30),
    ("MB", 1 << 20),
    ("KB", 1 << 10),
    ("B", 1),
];

/// Parses a duration: a sum of whole numbers with units, largest unit first, each unit once; or `0`.
///
/// # Errors
/// A message that names the text and shows a correct one.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let refuse = || format!("{text:?} is not a duration; write it like 30s, 2h or 1h30m");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut millis = 0u64;
    let mut next_unit = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest[..digits].parse().map_err(|_| refuse())?;
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let unit =
            DURATION_UNITS.iter().position(|(unit, _)| *unit == &rest[..letters]).filter(|at| *at >= next_unit).ok_or_else(refuse)?;
        rest = &rest[letters..];
        next_unit = unit + 1;
        millis = number.checked_mul(DURATION_UNITS[unit].1).and_then(|n| millis.checked_add(n)).ok_or_else(refuse)?;
    }
    if text.is_empty() { Err(refuse()) } else { Ok(Duration::from_millis(millis)) }
}

/// Writes a duration as [`parse_duration`] reads it; parts below a millisecond are lost.
pub fn format_duration(duration: Duration) -> String {
    let mut millis = duration.as_millis() as u64;
    let mut text = String::new();
    for (unit, factor) in DURATION_UNITS.iter().filter(|(unit, _)| !matches!(*unit, "y" | "w")) {
        if millis >= *factor {
            text.push_str(&format!("{}{unit}", millis / factor));
            millis %= factor;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// Parses a size: a whole number with a unit, or a plain number of bytes.
///
/// # Errors
/// A message that names the text and shows a correct one.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let refuse = || format!("{text:?} is not a size; write it like 512MiB or 4GiB");
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = text[..digits].parse().map_err(|_| refuse())?;
    let factor = match text[digits..].trim_start() {
        "" => 1,
        unit => SIZE_UNITS.iter().find(|(known, _)| known.eq_ignore_ascii_case(unit)).ok_or_else(refuse)?.1,
    };
    number.checked_mul(factor).ok_or_else(refuse)
}

/// Writes a size as [`parse_bytes`] reads it, with the largest unit that divides it.
pub fn format_bytes(bytes: u64) -> String {
    let (unit, factor) = SIZE_UNITS.iter().find(|(_, factor)| bytes != 0 && bytes.is_multiple_of(*factor)).unwrap_or(&("B", 1));
    format!("{}{unit}", bytes / factor)
}

/// For `#[serde(with = "units::duration")]` on a [`Duration`].
pub mod duration {
    use super::*;

    /// Writes `2h`.
    pub fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        Period(*value).serialize(serializer)
    }

    /// Reads `2h`.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        Period::deserialize(deserializer).map(|p| p.0)
    }
}

/// For `#[serde(with = "units::bytes")]` on a `u64`.
pub mod bytes {
    use super::*;

    /// Writes `512MiB`.
    pub fn serialize<S: Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        Size(*value).serialize(serializer)
    }

    /// Reads `512MiB` or a number of bytes.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        Size::deserialize(deserializer).map(|s| s.0)
    }
}

/// A duration in configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period(pub Duration);

/// A size in configuration, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl Serialize for Period {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format_duration(self.0))
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format_bytes(self.0))
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Period;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration such as 30s, 2h or 1h30m")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Period, E> {
                parse_duration(text).map(Period).map_err(E::custom)
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Period, E> {
                self.visit_str(&number.to_string())
            }
        }
        deserializer.deserialize_any(Text)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrNumber;
        impl Visitor<'_> for TextOrNumber {
            type Value = Size;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as 512MiB")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Size, E> {
                parse_bytes(text).map(Size).map_err(E::custom)
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Size, E> {
                Ok(Size(number))
            }
        }
        deserializer.deserialize_any(TextOrNumber)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, millis) in [
            ("0", 0),
            ("0s", 0),
            ("30s", 30_000),
            ("2h", 7_200_000),
            ("1h30m", 5_400_000),
            ("1d12h", 129_600_000),
            ("1w", 604_800_000),
            ("250ms", 250),
        ] {
            let duration = parse_duration(text).expect(text);
            assert_eq!(duration.as_millis(), millis, "{text}");
            assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }
        for bad in ["", "5", "h", "1h1h", "1s1h", "1.5h", "-1s", "1 h", "99999999999999999999y", "18446744073709551615y"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in
            [("0", 0), ("17", 17), ("1B", 1), ("512MiB", 512 << 20), ("4gib", 4 << 30), ("32MB", 32 << 20), ("3 KiB", 3 << 10)]
        {
            assert_eq!(parse_bytes(text), Ok(bytes));
            assert_eq!(parse_bytes(&format_bytes(bytes)), Ok(bytes));
        }
        assert_eq!(format_bytes(512 << 20), "512MiB");
        for bad in ["", "MiB", "1.5GiB", "-1", "1 XB", "99999999999TiB"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }
}
