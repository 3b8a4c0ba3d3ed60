//! Durations: their text form, and arithmetic on them that waits for the query's step and range.

use super::ast::{BinaryOp, Duration, DurationExpr};

/// Units of the text form, in milliseconds, in the order in which they are written. The flag says that the unit is printed
/// only if nothing remains, since 90d is easier to read than 12w6d.
const UNITS: [(&str, i64, bool); 7] = [
    ("y", 365 * 86_400_000, true),
    ("w", 7 * 86_400_000, true),
    ("d", 86_400_000, false),
    ("h", 3_600_000, false),
    ("m", 60_000, false),
    ("s", 1000, false),
    ("ms", 1, false),
];

/// Reads `1h30m`, in milliseconds: digits and a unit of `y w d h m s ms`, bigger units first, each once. `0` needs no unit.
///
/// # Errors
/// Prometheus's message if the text is not a duration or too long for 64 bits of nanoseconds.
pub fn parse_duration(text: &str) -> Result<i64, String> {
    match text {
        "" => return Err("empty duration string".into()),
        "0" => return Ok(0),
        _ => {}
    }
    let bad = || format!("not a valid duration string: {}", super::quote::quote(text));
    let mut rest = text;
    let mut next_unit = 0;
    let mut total_ms = 0i64;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let after = &rest[digits..];
        let letters = after.bytes().take_while(u8::is_ascii_alphabetic).count();
        let unit = UNITS[next_unit..].iter().position(|u| u.0 == &after[..letters]).ok_or_else(bad)? + next_unit;
        if digits == 0 {
            return Err(bad());
        }
        let out_of_range = || "duration out of range".to_owned();
        let count: i64 = rest[..digits].parse().map_err(|_| out_of_range())?;
        total_ms = count
            .checked_mul(UNITS[unit].1)
            .and_then(|ms| ms.checked_add(total_ms))
            .filter(|ms| *ms <= MAX_MILLIS)
            .ok_or_else(out_of_range)?;
        next_unit = unit + 1;
        rest = &after[letters..];
    }
    Ok(total_ms)
}

/// Longest duration, as in Prometheus: 2^63 ns.
pub const MAX_MILLIS: i64 = i64::MAX / 1_000_000;

/// The text form that [`parse_duration`] reads, with a sign if negative.
pub fn format_duration(millis: i64) -> String {
    if millis == 0 {
        return "0s".into();
    }
    let mut out = String::from(if millis < 0 { "-" } else { "" });
    let mut rest = millis.unsigned_abs();
    for (name, unit, exact) in UNITS {
        let unit = unit.unsigned_abs();
        if rest >= unit && (!exact || rest.is_multiple_of(unit)) {
            out.push_str(&format!("{}{name}", rest / unit));
            rest %= unit;
        }
    }
    out
}

impl Duration {
    /// The duration in milliseconds for a query with this step (0 for an instant query) and range (end − start).
    ///
    /// # Errors
    /// If a computed duration divides by zero or is out of range.
    pub fn resolve(&self, step_ms: i64, range_ms: i64) -> Result<i64, String> {
        match self {
            Self::Millis(ms) => Ok(*ms),
            Self::Computed(expr) => seconds_to_millis(expr.seconds(step_ms as f64 / 1e3, range_ms as f64 / 1e3)?),
        }
    }

    /// As [`Duration::resolve`] for a range or a resolution.
    ///
    /// # Errors
    /// Also if the duration is not greater than 0.
    pub fn resolve_positive(&self, step_ms: i64, range_ms: i64) -> Result<i64, String> {
        match self.resolve(step_ms, range_ms)? {
            ..=0 => Err("duration must be greater than 0".into()),
            ms => Ok(ms),
        }
    }
}

/// Rounds to milliseconds.
pub(super) fn seconds_to_millis(seconds: f64) -> Result<i64, String> {
    let millis = (seconds * 1000.0).round();
    if millis.is_nan() || millis.abs() > MAX_MILLIS as f64 {
        return Err("duration out of range".into());
    }
    Ok(millis as i64)
}

impl DurationExpr {
    /// The value in seconds for a query with this step and range, also in seconds.
    ///
    /// # Errors
    /// Division by zero.
    pub fn seconds(&self, step: f64, range: f64) -> Result<f64, String> {
        Ok(match self {
            Self::Seconds(s) => *s,
            Self::Step => step,
            Self::Range => range,
            Self::Neg(x) => -x.seconds(step, range)?,
            Self::Min(x, y) => x.seconds(step, range)?.min(y.seconds(step, range)?),
            Self::Max(x, y) => x.seconds(step, range)?.max(y.seconds(step, range)?),
            Self::Binary(op, x, y) => {
                let (x, y) = (x.seconds(step, range)?, y.seconds(step, range)?);
                match op {
                    BinaryOp::Add => x + y,
                    BinaryOp::Sub => x - y,
                    BinaryOp::Mul => x * y,
                    BinaryOp::Div if y == 0.0 => return Err("division by zero".into()),
                    BinaryOp::Div => x / y,
                    BinaryOp::Mod if y == 0.0 => return Err("modulo by zero".into()),
                    BinaryOp::Mod => x % y,
                    BinaryOp::Pow => x.powf(y),
                    _ => return Err("operator is not allowed between durations".into()),
                }
            }
        })
    }

    /// Whether the value depends on the query's step or range.
    pub(super) fn is_constant(&self) -> bool {
        match self {
            Self::Seconds(_) => true,
            Self::Step | Self::Range => false,
            Self::Neg(x) => x.is_constant(),
            Self::Min(x, y) | Self::Max(x, y) | Self::Binary(_, x, y) => x.is_constant() && y.is_constant(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_prints() {
        for (text, millis) in
            [("5m", 300_000), ("1h30m", 5_400_000), ("1y2w3d4h5m6s7ms", 33_019_506_007), ("90d", 7_776_000_000), ("0s", 0), ("100ms", 100)]
        {
            assert_eq!(parse_duration(text), Ok(millis), "{text}");
        }
        for text in ["", "5", "m", "1m1h", "1m1m", "-5m", "1.5h", "5 m", "1M", "99999999999999999999s", "300y"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        for (millis, text) in [
            (0, "0s"),
            (300_000, "5m"),
            (7_776_000_000, "90d"),
            (604_800_000, "1w"),
            (-90_000, "-1m30s"),
            (1500, "1s500ms"),
            (365 * 86_400_000, "1y"),
        ] {
            assert_eq!(format_duration(millis), text);
        }
    }

    #[test]
    fn resolves() {
        let expr = DurationExpr::Binary(BinaryOp::Add, Box::new(DurationExpr::Step), Box::new(DurationExpr::Seconds(0.5)));
        let computed = Duration::Computed(Box::new(expr));
        assert_eq!(computed.resolve(10_000, 0), Ok(10_500));
        let zero = Duration::Computed(Box::new(DurationExpr::Range));
        assert_eq!(zero.resolve(1, 0), Ok(0));
        assert!(zero.resolve_positive(1, 0).is_err());
        let division = DurationExpr::Binary(BinaryOp::Div, Box::new(DurationExpr::Seconds(1.0)), Box::new(DurationExpr::Range));
        assert_eq!(Duration::Computed(Box::new(division)).resolve(1, 0), Err("division by zero".into()));
    }
}
