//! A receiver of impacts, as the settings name it. What is secret in it is never shown.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use url::Url;

use super::span::Span;
use crate::{Error, Result};

/// Longest file with a secret, in bytes.
pub const MAX_SECRET_BYTES: u64 = 64 << 10;

/// What a receiver is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetKind {
    /// Gets each impact as JSON.
    #[default]
    Webhook,
    /// Gets the alerts of each impact with annotations about it, as `POST /api/v2/alerts`.
    Alertmanager,
}

/// A receiver of impacts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// What it is called in metrics and messages; its host if it is left out.
    #[serde(default)]
    name: String,
    /// What it is.
    #[serde(default)]
    pub kind: TargetKind,
    /// Where it is. Of an Alertmanager without the path of its API.
    pub url: Secret,
    /// Headers of each request.
    #[serde(default)]
    pub headers: BTreeMap<String, Secret>,
    /// Headers whose values are in files, read for each request.
    #[serde(default)]
    pub header_files: BTreeMap<String, PathBuf>,
    /// Labels that each alert gets for an Alertmanager, so that they are not taken for the original ones.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Whether it is told that an impact is over.
    #[serde(default = "yes")]
    pub send_resolved: bool,
    /// How long one try may take.
    #[serde(default = "default_timeout")]
    pub timeout: Span,
    /// How often one message is tried again.
    #[serde(default = "default_retries")]
    pub retries: u32,
    /// Changes of one impact are told so far apart; its beginning and its end at once.
    #[serde(default = "default_distance")]
    pub min_interval: Span,
}

fn yes() -> bool {
    true
}

fn default_timeout() -> Span {
    Span::seconds(10)
}

fn default_retries() -> u32 {
    20
}

fn default_distance() -> Span {
    Span::seconds(30)
}

impl Target {
    /// What it is called.
    pub fn name(&self) -> String {
        if !self.name.is_empty() {
            return self.name.clone();
        }
        let url = Url::parse(self.url.reveal()).ok();
        let host = url.as_ref().and_then(|u| u.host_str()).unwrap_or("receiver");
        url.as_ref().and_then(Url::port).map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }

    /// Checks the values.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the field.
    pub fn check(&self) -> Result<()> {
        let url = Url::parse(self.url.reveal()).map_err(|e| Error::invalid("url", format!("{e}; write http://host:port/path")))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(Error::invalid("url", "is neither http nor https; write http://host:port/path"));
        }
        if self.name.len() > 100 {
            return Err(Error::invalid("name", "has more than 100 bytes; shorten it"));
        }
        for (name, value) in &self.headers {
            header(name, value.reveal()).map_err(|e| e.within(&format!("headers.{name}")))?;
        }
        for name in self.header_files.keys() {
            header(name, "x").map_err(|e| e.within(&format!("header_files.{name}")))?;
        }
        if !(Span::seconds(0)..=Span::seconds(300)).contains(&self.timeout) || self.timeout.ms() == 0 {
            return Err(Error::invalid("timeout", format!("{} is not above 0s and at most 5m", self.timeout)));
        }
        Ok(())
    }
}

fn header(name: &str, value: &str) -> Result<()> {
    reqwest::header::HeaderName::from_bytes(name.as_bytes()).map_err(|_| Error::invalid("", "is no name of a header"))?;
    reqwest::header::HeaderValue::from_str(value).map(drop).map_err(|_| Error::invalid("", "has characters that no header can have"))
}

/// A value that is not shown to anybody.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The value itself.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("<secret>")
    }
}

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str("<secret>")
    }
}
