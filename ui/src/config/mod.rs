//! Configuration: where every value comes from, and that nothing wrong gets past the start.
//!
//! A value is taken from the first of: flag, environment variable, file, default. The table in [`setting`] says what exists;
//! `web-config.yml` and `objstore.yml` have their own readers because their shape belongs to other projects.

pub mod fields;
pub mod load;
mod lineage;
mod long_term;
pub mod objstore;
pub mod relabel;
mod sections;
pub mod setting;
mod suggest;
mod tenants;
#[cfg(test)]
mod tests;
pub mod web;
pub mod yaml;

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

/// What is wrong with the configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// A file says something that is not understood.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: String,
        /// Line and reason.
        reason: String,
    },
    /// A flag or an environment variable has a wrong value.
    #[error("{name}: {reason}")]
    Value {
        /// The flag or variable.
        name: String,
        /// The reason.
        reason: String,
    },
    /// The object store cannot be used.
    #[error("object store: {0}")]
    Store(#[from] isobar_block::Error),
    /// Values that are right alone and wrong together.
    #[error("{0}")]
    Conflict(String),
}

/// Everything that can be configured.
#[derive(Clone, Debug)]
pub struct Config {
    /// Folder for WAL, head and, without an object store, blocks.
    pub data: PathBuf,
    /// Which parts run.
    pub roles: Roles,
    /// Description of the object store.
    pub objstore_config_file: Option<PathBuf>,
    /// The HTTP server.
    pub web: Web,
    /// Messages.
    pub log: Log,
    /// How often own metrics are stored; zero for never.
    pub self_scrape_interval: Duration,
    /// What the other crates own.
    pub sections: sections::Sections,
}

/// Settings of the HTTP server.
#[derive(Clone, Debug)]
pub struct Web {
    /// `host:port`.
    pub listen_address: String,
    /// TLS and users.
    pub config_file: Option<PathBuf>,
    /// URL under which people reach this server; empty if it is the listen address.
    pub external_url: String,
    /// Path before all routes; empty if it is that of the external URL.
    pub route_prefix: String,
    /// Anchored regular expression of origins that may read the API; empty for none.
    pub cors_origin: String,
    /// Whether `/api/v1/admin` is there.
    pub enable_admin_api: bool,
    /// Whether `/-/reload` and `/-/quit` are there.
    pub enable_lifecycle: bool,
    /// How long open requests may go on at the end.
    pub grace_period: Duration,
}

/// Settings of messages.
#[derive(Clone, Copy, Debug)]
pub struct Log {
    /// Least severe message that is written.
    pub level: LogLevel,
    /// How messages look.
    pub format: LogFormat,
}

/// Severity of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogLevel(pub tracing::Level);

/// Shape of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// `key=value` pairs.
    Logfmt,
    /// One JSON object per line.
    Json,
}

/// Which parts run in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roles {
    /// Takes writes and cuts blocks.
    pub ingest: bool,
    /// Answers queries.
    pub query: bool,
    /// Merges, downsamples and removes blocks.
    pub compact: bool,
    /// Keeps the lineage graph, and assesses what alerts touch.
    pub lineage: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data: PathBuf::from("data"),
            roles: Roles::ALL,
            objstore_config_file: None,
            web: Web {
                listen_address: "127.0.0.1:9292".into(),
                config_file: None,
                external_url: String::new(),
                route_prefix: String::new(),
                cors_origin: String::new(),
                enable_admin_api: false,
                enable_lifecycle: false,
                grace_period: Duration::from_secs(10),
            },
            log: Log { level: LogLevel(tracing::Level::INFO), format: LogFormat::Logfmt },
            self_scrape_interval: Duration::from_secs(15),
            sections: sections::Sections::default(),
        }
    }
}

impl Config {
    /// Checks what no single value can show.
    ///
    /// # Errors
    /// [`Error`] with the setting and the remedy.
    pub fn validate(&self) -> Result<(), Error> {
        self.listen_address()?;
        self.route_prefix()?;
        if !self.web.cors_origin.is_empty() {
            isobar_block::Matcher::new("origin", isobar_block::MatchOp::Regex, &self.web.cors_origin)
                .map_err(|e| Error::Value { name: "web.cors.origin".into(), reason: e.to_string() })?;
        }
        let web = web::WebFile::load(self.web.config_file.as_deref())?;
        if self.web.enable_admin_api && !self.is_loopback()? && web.users.is_empty() {
            return Err(Error::Conflict(format!(
                "web.enable-admin-api with web.listen-address {} would let everyone on the network use the admin API; \
                 name users in --web.config.file, or listen on 127.0.0.1",
                self.web.listen_address
            )));
        }
        objstore::ObjstoreFile::load(self.objstore_config_file.as_deref())?;
        self.validate_long_term()?;
        self.sections.lineage.validate()?;
        self.sections.validate().map_err(Error::Conflict)
    }

    /// The address to listen on.
    ///
    /// # Errors
    /// If it does not resolve.
    pub fn listen_address(&self) -> Result<SocketAddr, Error> {
        let refuse = |reason: String| Error::Value { name: "web.listen-address".into(), reason };
        let text = &self.web.listen_address;
        let with_host = if text.starts_with(':') { format!("0.0.0.0{text}") } else { text.clone() };
        let mut addresses = with_host.to_socket_addrs().map_err(|e| refuse(format!("{text:?} is not host:port: {e}")))?;
        addresses.next().ok_or_else(|| refuse(format!("{text:?} does not resolve to an address")))
    }

    /// Whether only this machine can connect.
    ///
    /// # Errors
    /// As [`Config::listen_address`].
    pub fn is_loopback(&self) -> Result<bool, Error> {
        Ok(self.listen_address()?.ip().is_loopback())
    }

    /// The path before all routes: empty, or `/a/b` without a slash at the end.
    ///
    /// # Errors
    /// If the external URL or the prefix is malformed.
    pub fn route_prefix(&self) -> Result<String, Error> {
        let from_url = if self.web.external_url.is_empty() {
            String::new()
        } else {
            let refuse = |reason: String| Error::Value { name: "web.external-url".into(), reason };
            let url = url::Url::parse(&self.web.external_url).map_err(|e| refuse(format!("{:?}: {e}", self.web.external_url)))?;
            if !matches!(url.scheme(), "http" | "https") {
                return Err(refuse(format!("{:?} must begin with http:// or https://", self.web.external_url)));
            }
            url.path().to_owned()
        };
        let prefix = if self.web.route_prefix.is_empty() { &from_url } else { &self.web.route_prefix };
        let prefix = prefix.trim_matches('/');
        if prefix.contains(|c: char| c.is_whitespace() || c.is_control() || "?#{}%\"<>\\".contains(c)) {
            return Err(Error::Value { name: "web.route-prefix".into(), reason: format!("{prefix:?} is not a path") });
        }
        Ok(if prefix.is_empty() { String::new() } else { format!("/{prefix}") })
    }
}

impl LogLevel {
    fn parse(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "trace" | "debug" | "info" | "warn" | "error" => text.parse().map(Self).map_err(|_| format!("{text:?} is not a log level")),
            _ => Err(format!("{text:?} is not one of trace, debug, info, warn, error")),
        }
    }

    fn show(&self) -> String {
        self.0.as_str().to_ascii_lowercase()
    }
}

impl LogFormat {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "logfmt" => Ok(Self::Logfmt),
            "json" => Ok(Self::Json),
            _ => Err(format!("{text:?} is neither logfmt nor json")),
        }
    }

    fn show(&self) -> String {
        match self {
            Self::Logfmt => "logfmt".into(),
            Self::Json => "json".into(),
        }
    }
}

impl Roles {
    /// Everything in one process.
    const ALL: Self = Self { ingest: true, query: true, compact: true, lineage: true };

    fn parse(text: &str) -> Result<Self, String> {
        let mut roles = Self { ingest: false, query: false, compact: false, lineage: false };
        for name in text.split(',').map(str::trim) {
            match name {
                "all" => roles = Self::ALL,
                "ingest" => roles.ingest = true,
                "query" => roles.query = true,
                "compact" => roles.compact = true,
                "lineage" => roles.lineage = true,
                _ => return Err(format!("role {name:?} is not known; known are all, ingest, query, compact, lineage")),
            }
        }
        Ok(roles)
    }

    /// The roles as they are given.
    pub fn show(&self) -> String {
        if *self == Self::ALL { "all".into() } else { self.names().join(",") }
    }

    /// The roles one by one.
    pub fn names(&self) -> Vec<&'static str> {
        let named = [(self.ingest, "ingest"), (self.query, "query"), (self.compact, "compact"), (self.lineage, "lineage")];
        named.into_iter().filter_map(|(has, name)| has.then_some(name)).collect()
    }
}
