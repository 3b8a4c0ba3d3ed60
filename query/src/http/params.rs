//! Parameters of a request: from the query string and from a posted form, in the notations of Prometheus, and with its messages.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use isobar_block::{Matcher, TimeRange};

use super::envelope::ApiError;
use crate::engine::SourceResolution;
use crate::promql;
use crate::promql::duration::parse_duration;
use crate::promql::quote::quote;
use crate::storage::View;

/// Names and values in the order in which they came; those of a form before those of the query string.
pub(super) struct Params(Vec<(String, String)>);

/// Farthest time from the epoch that a parameter may name: about 285 000 years, so that sums with ranges and offsets do not
/// overflow.
const MAX_TIME_MS: i64 = 1 << 53;

/// The earliest and the latest time of Prometheus, which clients send for "everything".
const MIN_TIME: &str = "-292273086-05-16T16:47:06Z";
const MAX_TIME: &str = "292277025-08-18T07:12:54.999999999Z";

impl Params {
    /// Reads them all.
    pub async fn read(parts: &Parts, body: Body, max_body_bytes: usize) -> Result<Self, ApiError> {
        let mut pairs = Vec::new();
        let is_form = |v: &axum::http::HeaderValue| v.as_bytes().starts_with(b"application/x-www-form-urlencoded");
        if parts.headers.get(CONTENT_TYPE).is_some_and(is_form) {
            let bytes = to_bytes(body, max_body_bytes)
                .await
                .map_err(|e| ApiError::bad_data(format!("error parsing form values: {e}; a body may have {max_body_bytes} bytes")))?;
            pairs.extend(url::form_urlencoded::parse(&bytes).into_owned());
        }
        if let Some(query) = parts.uri.query() {
            pairs.extend(url::form_urlencoded::parse(query.as_bytes()).into_owned());
        }
        Ok(Self(pairs))
    }

    /// The first value of a parameter; the empty text if it is missing.
    pub fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(n, _)| n == name).map_or("", |(_, v)| v)
    }

    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// A time, Unix milliseconds; `default` if missing.
    pub fn time_or(&self, name: &str, default: i64) -> Result<i64, ApiError> {
        if self.get(name).is_empty() { Ok(default) } else { self.time(name) }
    }

    /// A time, Unix milliseconds.
    pub fn time(&self, name: &str) -> Result<i64, ApiError> {
        parse_time(self.get(name)).map_err(|message| invalid(name, message))
    }

    /// A duration, if it is there.
    pub fn duration(&self, name: &str) -> Result<Option<i64>, ApiError> {
        match self.get(name) {
            "" => Ok(None),
            text => parse_duration_ms(text).map(Some).map_err(|message| invalid(name, message)),
        }
    }

    /// The step of a range query, milliseconds, at least 1.
    pub fn step_ms(&self) -> Result<i64, ApiError> {
        let millis = parse_duration_ms(self.get("step")).map_err(|message| invalid("step", message))?;
        if millis < 1 {
            return Err(invalid("step", "zero or negative query resolution step widths are not accepted. Try a positive integer"));
        }
        Ok(millis)
    }

    /// `timeout`, which can only lower the configured one.
    pub fn timeout(&self, most: Duration) -> Result<Duration, ApiError> {
        let asked = self.duration("timeout")?.map(|ms| Duration::from_millis(ms.max(0) as u64));
        Ok(asked.map_or(most, |asked| asked.min(most)))
    }

    /// `lookback_delta`, if it is there and not 0.
    pub fn lookback(&self) -> Result<Option<Duration>, ApiError> {
        let text = self.get("lookback_delta");
        if text.is_empty() {
            return Ok(None);
        }
        let millis = parse_duration_ms(text).map_err(|m| ApiError::bad_data(format!("error parsing lookback delta duration: {m}")))?;
        if millis < 0 {
            return Err(ApiError::bad_data("error parsing lookback delta duration: it must not be negative"));
        }
        Ok((millis > 0).then(|| Duration::from_millis(millis as u64)))
    }

    /// `max_source_resolution`, if it is there: `auto`, or a duration, where 0 is raw samples.
    pub fn source_resolution(&self) -> Result<Option<SourceResolution>, ApiError> {
        if self.get("max_source_resolution") == "auto" {
            return Ok(Some(SourceResolution::Auto));
        }
        match self.duration("max_source_resolution")? {
            Some(millis) if millis < 0 => Err(invalid("max_source_resolution", "it must not be negative; use auto, 0 or a duration")),
            millis => Ok(millis.map(SourceResolution::AtMost)),
        }
    }

    /// `limit`; 0 is no limit.
    pub fn limit(&self) -> Result<usize, ApiError> {
        let text = self.get("limit");
        if text.is_empty() {
            return Ok(0);
        }
        let limit: i64 = text.parse().map_err(|_| invalid("limit", format!("{} is not a number", quote(text))))?;
        usize::try_from(limit).map_err(|_| invalid("limit", "limit must be non-negative"))
    }

    /// How series are to be seen: `dedup` (true unless `false` or `0`) and `replicaLabels[]`, as in Thanos.
    pub fn view(&self) -> View {
        let replica_labels: Vec<String> = self.all("replicaLabels[]").map(str::to_owned).collect();
        View { dedup: !matches!(self.get("dedup"), "false" | "0"), replica_labels: (!replica_labels.is_empty()).then_some(replica_labels) }
    }

    /// `start` and `end` of a look at metadata; everything if missing.
    pub fn time_range(&self) -> Result<TimeRange, ApiError> {
        let start_ms = self.time_or("start", -MAX_TIME_MS)?;
        let end_ms = self.time_or("end", MAX_TIME_MS)?;
        TimeRange::new(start_ms, end_ms).map_err(|_| end_before_start())
    }

    /// The selectors `match[]`: the matchers of each.
    pub fn matchers(&self) -> Result<Vec<Vec<Matcher>>, ApiError> {
        let parse = |text| {
            let selector = promql::parse_selector(text).map_err(|e| invalid("match[]", e.to_string()))?;
            if selector.matchers.iter().all(Matcher::matches_empty) {
                return Err(invalid("match[]", "match[] must contain at least one non-empty matcher"));
            }
            Ok(selector.matchers)
        };
        self.all("match[]").map(parse).collect()
    }
}

/// That a parameter is wrong, as Prometheus says it.
pub(super) fn invalid(name: &str, message: impl std::fmt::Display) -> ApiError {
    ApiError::bad_data(format!("invalid parameter {}: {message}", quote(name)))
}

/// That `end` is before `start`.
pub(super) fn end_before_start() -> ApiError {
    invalid("end", "end timestamp must not be before start time")
}

/// A finite number in Go's notation.
fn parse_float(text: &str) -> Option<f64> {
    text.parse::<f64>().ok().filter(|v| v.is_finite())
}

fn parse_time(text: &str) -> Result<i64, String> {
    let bad = || format!("cannot parse {} to a valid timestamp", quote(text));
    let millis = match parse_float(text) {
        Some(seconds) => (seconds * 1000.0).round(),
        None => match text {
            MIN_TIME => return Ok(-MAX_TIME_MS),
            MAX_TIME => return Ok(MAX_TIME_MS),
            _ => chrono::DateTime::parse_from_rfc3339(text).map_err(|_| bad())?.timestamp_millis() as f64,
        },
    };
    if millis.abs() > MAX_TIME_MS as f64 { Err(bad()) } else { Ok(millis as i64) }
}

fn parse_duration_ms(text: &str) -> Result<i64, String> {
    let Some(seconds) = parse_float(text) else {
        return parse_duration(text).map_err(|_| format!("cannot parse {} to a valid duration", quote(text)));
    };
    let millis = seconds * 1000.0;
    if millis.abs() > promql::duration::MAX_MILLIS as f64 {
        return Err(format!("cannot parse {} to a valid duration. It overflows int64", quote(text)));
    }
    Ok(millis as i64)
}

/// Takes the escapes off a label name that was put into a path as `U__…`; a name that is not escaped so stays as it is.
pub(super) fn unescape_label_name(name: &str) -> String {
    name.strip_prefix("U__").and_then(unescape).unwrap_or_else(|| name.to_owned())
}

fn unescape(escaped: &str) -> Option<String> {
    let mut out = String::with_capacity(escaped.len());
    let mut rest = escaped;
    while let Some(at) = rest.find('_') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(behind) = rest.strip_prefix('_') {
            out.push('_');
            rest = behind;
            continue;
        }
        let (code, behind) = rest.split_once('_')?;
        let all_hex = code.len() <= 6 && code.bytes().all(|b| b.is_ascii_hexdigit());
        out.push(all_hex.then(|| u32::from_str_radix(code, 16).ok().and_then(char::from_u32))??);
        rest = behind;
    }
    out.push_str(rest);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_times() {
        for (text, millis) in [
            ("1435781430.781", 1_435_781_430_781),
            ("0", 0),
            ("-1.5", -1500),
            ("1e3", 1_000_000),
            ("2015-07-01T20:10:51.781Z", 1_435_781_451_781),
            ("2015-07-01T22:10:51+02:00", 1_435_781_451_000),
            (MIN_TIME, -MAX_TIME_MS),
            (MAX_TIME, MAX_TIME_MS),
        ] {
            assert_eq!(parse_time(text), Ok(millis), "{text}");
        }
        for text in ["", "x", "NaN", "inf", "1e300", "2015-07-01", "2015-13-01T00:00:00Z"] {
            assert_eq!(parse_time(text), Err(format!("cannot parse {text:?} to a valid timestamp")));
        }
    }

    #[test]
    fn reads_durations() {
        for (text, millis) in [("15", 15_000), ("0.5", 500), ("1h30m", 5_400_000), ("0", 0), ("-1", -1000)] {
            assert_eq!(parse_duration_ms(text), Ok(millis), "{text}");
        }
        assert_eq!(parse_duration_ms("1.5h"), Err("cannot parse \"1.5h\" to a valid duration".into()));
        assert_eq!(parse_duration_ms("1e300"), Err("cannot parse \"1e300\" to a valid duration. It overflows int64".into()));
    }

    #[test]
    fn unescapes() {
        for (escaped, name) in [
            ("U__a_2e_b", "a.b"),
            ("U__a__b", "a_b"),
            ("plain_name", "plain_name"),
            ("U__x_1F600_", "x😀"),
            ("U__bad_zz_", "U__bad_zz_"),
            ("U__open_2e", "U__open_2e"),
            ("U___1234567_", "U___1234567_"),
        ] {
            assert_eq!(unescape_label_name(escaped), name);
        }
    }
}
