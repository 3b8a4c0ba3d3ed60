//! How durations and sizes are written in flags, environment and files: `2h`, `1h30m`, `512MiB`.
//!
//! Both directions are here, so that what is shown can be given back.

use std::time::Duration;

const DURATION_UNITS_MS: [(&str, u64); 7] =
    [("y", 365 * 86_400_000), ("w", 7 * 86_400_000), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

const SIZE_UNITS_BYTES: [(&str, u64); 10] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1000),
    ("KB", 1000),
    ("B", 1),
];

/// Reads a duration as Prometheus writes them: whole numbers with units in descending order, or `0`.
///
/// # Errors
/// A text that says what is allowed.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let refuse = || format!("{text:?} is not a duration; write whole numbers with units, such as 30s, 2h, 1h30m or 15d");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut total_ms = 0u64;
    let mut last_unit = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(refuse)?;
        let number: u64 = rest[..digits].parse().map_err(|_| refuse())?;
        let tail = &rest[digits..];
        let letters = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let position = DURATION_UNITS_MS.iter().position(|(unit, _)| *unit == &tail[..letters]).ok_or_else(refuse)?;
        if position < last_unit {
            return Err(refuse());
        }
        last_unit = position + 1;
        let part_ms = number.checked_mul(DURATION_UNITS_MS[position].1).ok_or_else(refuse)?;
        total_ms = total_ms.checked_add(part_ms).ok_or_else(refuse)?;
        rest = &tail[letters..];
    }
    if text.is_empty() { Err(refuse()) } else { Ok(Duration::from_millis(total_ms)) }
}

/// Writes a duration so that [`parse_duration`] reads the same, down to milliseconds.
pub fn show_duration(duration: &Duration) -> String {
    let mut rest_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if rest_ms == 0 {
        return "0".into();
    }
    let mut text = String::new();
    for (unit, unit_ms) in DURATION_UNITS_MS {
        // Years and weeks are read but only written where nothing remains: 400d says more than 1y5w.
        let count = rest_ms / unit_ms;
        let only_whole = matches!(unit, "y" | "w") && !rest_ms.is_multiple_of(unit_ms);
        if count > 0 && !only_whole {
            text.push_str(&format!("{count}{unit}"));
            rest_ms %= unit_ms;
        }
    }
    text
}

/// Reads a size in bytes: a whole number with `B`, `KiB`, `MiB`, `GiB`, `TiB` (powers of 1024) or `kB`, `MB`, `GB`, `TB`.
///
/// # Errors
/// A text that says what is allowed.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let refuse = || format!("{text:?} is not a size; write a whole number with a unit, such as 512MiB, 1GiB or 100MB");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().map_err(|_| refuse())?;
    let unit = text[digits..].trim_start();
    if unit.is_empty() && number == 0 {
        return Ok(0);
    }
    let (_, unit_bytes) = SIZE_UNITS_BYTES.iter().find(|(name, _)| *name == unit).ok_or_else(refuse)?;
    number.checked_mul(*unit_bytes).ok_or_else(refuse)
}

/// Writes a size exactly, in the largest power of 1024 that divides it.
pub fn show_size(size_bytes: u64) -> String {
    if size_bytes == 0 {
        return "0".into();
    }
    let (unit, unit_bytes) = SIZE_UNITS_BYTES[..4].iter().find(|(_, b)| size_bytes.is_multiple_of(*b)).unwrap_or(&("B", 1));
    format!("{}{unit}", size_bytes / unit_bytes)
}

/// Writes a size for reading, rounded to three digits.
pub fn show_size_rounded(size_bytes: u64) -> String {
    match SIZE_UNITS_BYTES[..4].iter().find(|(_, b)| size_bytes >= *b) {
        Some((unit, unit_bytes)) => format!("{:.2} {unit}", size_bytes as f64 / *unit_bytes as f64),
        None => format!("{size_bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written() {
        for (text, ms) in [("0", 0), ("2h", 7_200_000), ("1h30m", 5_400_000), ("500ms", 500), ("15d", 1_296_000_000), ("1w", 604_800_000)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
            assert_eq!(show_duration(&Duration::from_millis(ms)), text);
        }
        assert_eq!(parse_duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(show_duration(&Duration::from_secs(400 * 86_400)), "400d");
        for text in ["", "5", "h", "1m1h", "1h1h", "1.5h", "-1s", "2 h", "99999999999999999999s", "9999999999999999w"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_read_and_written() {
        for (text, bytes) in [("0", 0), ("512MiB", 512 << 20), ("1GiB", 1 << 30), ("1000B", 1000), ("3KiB", 3072)] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
            assert_eq!(show_size(bytes), text);
        }
        assert_eq!(parse_size("1 MB"), Ok(1_000_000));
        for text in ["", "12", "MiB", "1.5GiB", "-1B", "1mib", "99999999TiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
        assert_eq!(show_size_rounded(1_600_000), "1.53 MiB");
    }
}
