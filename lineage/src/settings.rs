//! Rules of lineage that an operator writes into a file of their own (`--lineage.config-file`), because they are lists and not values.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{Error, Result, alerts, capacity, info, mesh, traces, watch};

/// Largest file.
pub const MAX_FILE_BYTES: usize = 1 << 20;

/// All of the file. What it leaves out keeps its default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How alerts find their nodes, and who is told what they touch.
    pub alerts: alerts::Settings,
    /// Metrics of the store that are edges.
    pub mesh: mesh::Settings,
    /// Spans.
    pub traces: traces::Settings,
    /// Queries that tell the load of nodes.
    pub capacity: capacity::Settings,
    /// Series of edges.
    pub info: info::Settings,
    /// A folder whose files are imported.
    pub watch: watch::Settings,
}

impl Settings {
    /// Reads a file's text.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the line or the field, and the remedy.
    pub fn from_yaml(text: &str) -> Result<Self> {
        if text.len() > MAX_FILE_BYTES {
            return Err(Error::invalid("file", format!("has {} bytes, more than {MAX_FILE_BYTES}; shorten it", text.len())));
        }
        let settings: Self = if text.trim().is_empty() {
            Self::default()
        } else {
            serde_saphyr::from_str(text).map_err(|e| Error::invalid("file", e.to_string()))?
        };
        settings.check()?;
        Ok(settings)
    }

    /// Makes paths that are relative to the file's folder absolute.
    pub fn resolve_paths(&mut self, folder: &Path) {
        self.watch.resolve_paths(folder);
        self.alerts.resolve_paths(folder);
    }

    /// Checks every section.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the field.
    pub fn check(&self) -> Result<()> {
        self.alerts.check().map_err(|e| e.within("alerts"))?;
        self.mesh.check().map_err(|e| e.within("mesh"))?;
        self.traces.check().map_err(|e| e.within("traces"))?;
        self.capacity.check().map_err(|e| e.within("capacity"))?;
        self.info.check().map_err(|e| e.within("info"))?;
        self.watch.check().map_err(|e| e.within("watch"))
    }
}
