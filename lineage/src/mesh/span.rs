//! Durations in the settings, written with units as in `90s` or `1h30m` and kept as milliseconds: for `#[serde(with = "span")]`.

use serde::{Deserialize, Deserializer, Serializer, de};

const UNITS: [(&str, i64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Writes milliseconds with units.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<S: Serializer>(span_ms: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&show(*span_ms))
}

/// Reads a text with units.
///
/// # Errors
/// If it is none.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse(&text).ok_or_else(|| de::Error::custom(format!("{text:?} is no duration; write it as in 90s, 15m or 1h30m")))
}

/// Milliseconds of a text such as `1h30m`.
pub(crate) fn parse(text: &str) -> Option<i64> {
    let (mut total, mut rest) = (0_i64, text);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: i64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (_, unit_ms) = UNITS.iter().find(|(unit, _)| *unit == &rest[..end])?;
        total = total.checked_add(number.checked_mul(*unit_ms)?)?;
        rest = &rest[end..];
    }
    (!text.is_empty()).then_some(total)
}

/// The shortest text that [`parse`] and PromQL read as so many milliseconds.
pub(crate) fn show(span_ms: i64) -> String {
    let (mut rest, mut text) = (span_ms.max(0), String::new());
    for (unit, unit_ms) in UNITS {
        if rest >= unit_ms {
            text.push_str(&format!("{}{unit}", rest / unit_ms));
            rest %= unit_ms;
        }
    }
    if text.is_empty() { "0s".into() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_survive_their_text() {
        for (text, span_ms) in [("90s", 90_000), ("1h30m", 5_400_000), ("15m", 900_000), ("250ms", 250), ("2d", 172_800_000)] {
            assert_eq!(parse(text), Some(span_ms), "{text}");
            assert_eq!(parse(&show(span_ms)), Some(span_ms), "{text}");
        }
        assert_eq!((show(0), show(90_000)), ("0s".into(), "1m30s".into()));
        for wrong in ["", "5", "m", "5 m", "-5m", "5y", "99999999999999999999s", "9999999999999999d"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
