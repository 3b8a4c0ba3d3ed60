//! Parameters of this crate's own API routes, in the notations of Prometheus.

use axum::body::to_bytes;
use axum::extract::Request;
use axum::http::{HeaderMap, header};
use chrono::DateTime;
use isobar_block::{Matcher, TenantId, TimeRange};

use super::Shared;
use super::refusal::Refusal;
use crate::selector;

/// The earliest and the latest time of Prometheus, which clients send for "everything".
const MIN_TIME: &str = "-292273086-05-16T16:47:06Z";
const MAX_TIME: &str = "292277025-08-18T07:12:54.999999999Z";

/// Farthest time from the epoch, so that sums do not overflow.
const MAX_TIME_MS: i64 = 1 << 53;

/// Names and values from the query string and from a posted form, and whose request it is.
pub struct Params {
    pairs: Vec<(String, String)>,
    /// The tenant of the headers, or the default one.
    pub tenant: TenantId,
}

impl Params {
    /// Reads them all.
    ///
    /// # Errors
    /// If the body is too long, or the headers name no tenant.
    pub async fn read(shared: &Shared, request: Request) -> Result<Self, Refusal> {
        let config = shared.config();
        let (parts, body) = request.into_parts();
        let tenant = tenant_of(shared, &parts.headers)?;
        let mut pairs = Vec::new();
        let kind = parts.headers.get(header::CONTENT_TYPE);
        if kind.is_some_and(|v| v.as_bytes().starts_with(b"application/x-www-form-urlencoded")) {
            let most = config.sections.api.max_body_bytes;
            let bytes = to_bytes(body, most)
                .await
                .map_err(|e| Refusal::bad_data(format!("error parsing form values: {e}; a body may have {most} bytes")))?;
            pairs.extend(url::form_urlencoded::parse(&bytes).into_owned());
        }
        if let Some(query) = parts.uri.query() {
            pairs.extend(url::form_urlencoded::parse(query.as_bytes()).into_owned());
        }
        Ok(Self { pairs, tenant })
    }

    /// The first value of a parameter; `None` if it is missing or empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str()).filter(|v| !v.is_empty())
    }

    /// A switch.
    ///
    /// # Errors
    /// If the value is something else.
    pub fn switch(&self, name: &str, default: bool) -> Result<bool, Refusal> {
        match self.get(name) {
            None => Ok(default),
            Some("true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(other) => Err(Refusal::parameter(name, format!("{other:?} is neither true nor false"))),
        }
    }

    /// `start` and `end`, both inside; everything if missing.
    ///
    /// # Errors
    /// If one is no time, or the end is before the start.
    pub fn time_range(&self) -> Result<TimeRange, Refusal> {
        let start_ms = self.time_or("start", -MAX_TIME_MS)?;
        let end_ms = self.time_or("end", MAX_TIME_MS)?;
        TimeRange::new(start_ms, end_ms).map_err(|_| Refusal::parameter("end", "end timestamp must not be before start time"))
    }

    fn time_or(&self, name: &str, default: i64) -> Result<i64, Refusal> {
        self.get(name).map_or(Ok(default), |text| time_ms(text).map_err(|reason| Refusal::parameter(name, reason)))
    }

    /// The selectors `match[]`.
    ///
    /// # Errors
    /// If there is none, or one would select everything.
    pub fn selectors(&self) -> Result<Vec<Vec<Matcher>>, Refusal> {
        let texts = self.pairs.iter().filter(|(name, _)| name == "match[]").map(|(_, text)| text);
        let selectors =
            texts.map(|text| selector::parse(text).map_err(|e| Refusal::parameter("match[]", e))).collect::<Result<Vec<_>, _>>()?;
        if selectors.is_empty() { Err(Refusal::bad_data("no match[] parameter provided")) } else { Ok(selectors) }
    }
}

/// The tenant that the headers name, or the default one.
///
/// # Errors
/// If the name is not one.
pub fn tenant_of(shared: &Shared, headers: &HeaderMap) -> Result<TenantId, Refusal> {
    shared.config().sections.tenancy.of_request(headers).map_err(Refusal::bad_data)
}

/// RFC 3339 or Unix seconds, as Unix milliseconds.
fn time_ms(text: &str) -> Result<i64, String> {
    let refuse = || format!("cannot parse {text:?} to a valid timestamp");
    let millis = match (text, text.parse::<f64>()) {
        (MIN_TIME, _) => return Ok(-MAX_TIME_MS),
        (MAX_TIME, _) => return Ok(MAX_TIME_MS),
        (_, Ok(seconds)) => (seconds * 1000.0).round(),
        (_, Err(_)) => DateTime::parse_from_rfc3339(text).map_err(|_| refuse())?.timestamp_millis() as f64,
    };
    if millis.is_nan() || millis.abs() > MAX_TIME_MS as f64 { Err(refuse()) } else { Ok(millis as i64) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_prometheus() {
        for (text, millis) in
            [("1.5", 1500), ("-1", -1000), ("1970-01-01T00:01:00Z", 60_000), (MIN_TIME, -MAX_TIME_MS), (MAX_TIME, MAX_TIME_MS)]
        {
            assert_eq!(time_ms(text), Ok(millis), "{text}");
        }
        for text in ["NaN", "inf", "1e300", "yesterday", ""] {
            assert!(time_ms(text).is_err(), "{text}");
        }
    }
}
