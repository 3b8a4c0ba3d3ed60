//! Parameters of requests: read once, asked by name, so that a wrong one is named in the error.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use isobar_block::time;

use super::refusal::Refusal;
use crate::{AsOf, NodeKey};

/// The parameters in the URL of a request.
#[derive(Debug, Default)]
pub(crate) struct Params(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        Ok(Self(url::form_urlencoded::parse(parts.uri.query().unwrap_or("").as_bytes()).into_owned().collect()))
    }
}

impl Params {
    /// The first value of a parameter that is there and not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, v)| n == name && !v.is_empty()).map(|(_, v)| v.as_str())
    }

    /// All values of a parameter that are not empty.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(n, v)| n == name && !v.is_empty()).map(|(_, v)| v.as_str())
    }

    /// A value that has to be there.
    ///
    /// # Errors
    /// If it is not.
    pub fn required(&self, name: &str) -> Result<&str, Refusal> {
        self.get(name).ok_or_else(|| Refusal::parameter(name, "is missing"))
    }

    /// A value of a type that can be parsed.
    ///
    /// # Errors
    /// If it cannot.
    pub fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(&self, name: &str) -> Result<Option<T>, Refusal> {
        let Some(text) = self.get(name) else { return Ok(None) };
        text.parse().map(Some).map_err(|e| Refusal::parameter(name, format!("{text:?}: {e}")))
    }

    /// A number within a limit, with a default.
    ///
    /// # Errors
    /// If it is none or beyond.
    pub fn limit(&self, name: &str, default: usize, most: usize) -> Result<usize, Refusal> {
        match self.parsed::<usize>(name)? {
            None => Ok(default),
            Some(n) if n <= most => Ok(n),
            Some(n) => Err(Refusal::parameter(name, format!("{n} is more than {most}"))),
        }
    }

    /// Nodes by their ids; every value is one, since ids may contain commas.
    ///
    /// # Errors
    /// If one is not an id.
    pub fn nodes(&self, name: &str) -> Result<Vec<NodeKey>, Refusal> {
        self.all(name).map(|id| NodeKey::parse(id).map_err(|e| Refusal::parameter(name, e))).collect()
    }

    /// A node that has to be given.
    ///
    /// # Errors
    /// If it is not, or not an id.
    pub fn node(&self, name: &str) -> Result<NodeKey, Refusal> {
        NodeKey::parse(self.required(name)?).map_err(|e| Refusal::parameter(name, e))
    }

    /// A time as Prometheus writes them: RFC 3339 or Unix seconds.
    ///
    /// # Errors
    /// If it is neither.
    pub fn time_ms(&self, name: &str) -> Result<Option<i64>, Refusal> {
        let Some(text) = self.get(name) else { return Ok(None) };
        parse_time_ms(text).map(Some).ok_or_else(|| Refusal::parameter(name, format!("{text:?} is neither RFC 3339 nor Unix seconds")))
    }

    /// As of when: the parameter `at`, or now.
    ///
    /// # Errors
    /// If it is no time, or in the future.
    pub fn as_of(&self) -> Result<AsOf, Refusal> {
        match self.time_ms("at")? {
            None => Ok(AsOf::Now),
            Some(at_ms) if at_ms > time::now_ms().saturating_add(1000) => Err(Refusal::parameter("at", "is in the future")),
            Some(at_ms) => Ok(AsOf::At(at_ms)),
        }
    }
}

/// Milliseconds of a time that is RFC 3339 or Unix seconds.
pub(crate) fn parse_time_ms(text: &str) -> Option<i64> {
    if let Ok(seconds) = text.parse::<f64>() {
        let ms = seconds * 1000.0;
        return (ms.is_finite() && ms.abs() < 1e16).then(|| ms.round() as i64);
    }
    chrono::DateTime::parse_from_rfc3339(text).ok().map(|t| t.timestamp_millis())
}
