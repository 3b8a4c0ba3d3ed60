//! Settings of lineage. What they do is in the crate `lineage`; its lists of rules stand in a file of their own.

use std::path::PathBuf;
use std::time::Duration;

use isobar_ingest::units::{format_duration, parse_duration};
use isobar_lineage::LineageConfig;
use isobar_lineage::settings::{MAX_FILE_BYTES, Settings};

use super::setting::{Kind, Setting, count, optional_path, row, size, text};
use super::{Config, Error};

/// The section `lineage`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineageSection {
    /// File with the rules of alerts, mesh metrics, traces and the watched folder.
    pub config_file: Option<PathBuf>,
    /// Tenants whose graph is in memory.
    pub max_tenants: usize,
    /// How each tenant's log works.
    pub store: LineageConfig,
    /// Server that is asked for live numbers; empty for this process.
    pub query_url: String,
}

impl Default for LineageSection {
    fn default() -> Self {
        Self { config_file: None, max_tenants: 100, store: LineageConfig::default(), query_url: String::new() }
    }
}

impl LineageSection {
    /// Reads the file of rules; without one they have their defaults.
    ///
    /// # Errors
    /// [`Error`] with the file and the line or field.
    pub fn settings(&self) -> Result<Settings, Error> {
        let Some(path) = &self.config_file else { return Ok(Settings::default()) };
        let shown = path.display().to_string();
        let refuse = |source| Error::Io { path: shown.clone(), source };
        let bytes = std::fs::metadata(path).map_err(refuse)?.len();
        if bytes > MAX_FILE_BYTES as u64 {
            return Err(Error::File { path: shown, reason: format!("has {bytes} bytes, more than {MAX_FILE_BYTES}; shorten it") });
        }
        let text = std::fs::read_to_string(path).map_err(refuse)?;
        let mut settings = Settings::from_yaml(&text).map_err(|e| Error::File { path: shown.clone(), reason: e.to_string() })?;
        settings.resolve_paths(path.parent().unwrap_or(std::path::Path::new("")));
        Ok(settings)
    }

    /// Checks the values, and the file of rules.
    ///
    /// # Errors
    /// [`Error`] that names the setting or the file.
    pub fn validate(&self) -> Result<(), Error> {
        let refuse = |name: &str, reason: &str| Err(Error::Value { name: name.into(), reason: reason.into() });
        if self.max_tenants == 0 {
            return refuse("lineage.max-tenants", "is 0; it must be at least 1");
        }
        if self.store.queue_bytes < isobar_lineage::store::MAX_APPEND_BYTES {
            return refuse("lineage.queue-bytes", "is below 64MiB, the size of the largest request");
        }
        if !self.query_url.is_empty() && !url::Url::parse(&self.query_url).is_ok_and(|u| matches!(u.scheme(), "http" | "https")) {
            return refuse("lineage.query-url", "is no URL; write http://host:port");
        }
        self.settings().map(drop)
    }
}

/// Rows of the section.
pub fn table() -> Vec<Setting> {
    fn field(c: &mut Config) -> &mut LineageSection {
        &mut c.sections.lineage
    }
    vec![
        optional_path(
            "lineage.config-file",
            "Rules for alerts, mesh metrics, traces and a watched folder, as docs/lineage.md says.",
            |c| &mut field(c).config_file,
        ),
        count("lineage.max-tenants", "Tenants whose graph is in memory; requests of further ones are answered with 503.", |c| {
            &mut field(c).max_tenants
        }),
        size("lineage.queue-bytes", "Events that wait to be written; further ones are answered with 503.", |c| {
            &mut field(c).store.queue_bytes
        }),
        count("lineage.snapshots", "Graphs of different times that are kept for the next question.", |c| &mut field(c).store.snapshots),
        row(
            "lineage.follow-interval",
            "DURATION",
            "How old the graph may get before a question looks for events of other processes.",
            Kind::Text,
            |c| &mut field(c).store.follow_ms,
            |t| parse_duration(t).map(|d| d.as_millis() as i64),
            |ms| format_duration(Duration::from_millis(ms.unsigned_abs())),
        ),
        text("lineage.query-url", "URL", "Server that is asked for live numbers; this process by default.", |c| &mut field(c).query_url),
    ]
}
