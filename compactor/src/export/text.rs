//! Samples as OpenMetrics 1.0 text. Series are in the store's order, so that the parts of a histogram can have others between
//! them; readers that look at single lines, as Prometheus, promtool and Isobar do, do not mind.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write;
use std::path::PathBuf;

use isobar_block::labels::METRIC_NAME;
use isobar_block::{LabelsRef, Metadata, MetricType, SampleBuf};

use super::file_error;
use super::files::{Files, Out};
use crate::Result;

/// Endings of the series of a family.
const SUFFIXES: [&str; 5] = ["_bucket", "_count", "_sum", "_gcount", "_gsum"];

/// A text that is being written.
pub(super) struct Text {
    files: Files,
    out: Out,
    metadata: BTreeMap<String, Metadata>,
    family: Option<String>,
    line: String,
}

impl Text {
    pub fn new(mut files: Files, metadata: BTreeMap<String, Metadata>) -> Result<Self> {
        let out = files.begin()?;
        Ok(Self { files, out, metadata, family: None, line: String::new() })
    }

    /// Writes the floats of a series; says how many histograms were left out.
    pub fn push(&mut self, labels: LabelsRef<'_>, samples: &SampleBuf) -> Result<u64> {
        if samples.histograms.len() == samples.len() {
            return Ok(samples.len() as u64);
        }
        self.describe(labels.metric_name())?;
        self.line.clear();
        write_series(&mut self.line, labels);
        let series = self.line.len();
        let mut histograms = samples.histograms.iter().peekable();
        for (i, (t, value)) in samples.timestamps.iter().zip(&samples.values).enumerate() {
            if histograms.next_if(|(at, _)| *at as usize == i).is_some() {
                continue;
            }
            self.line.truncate(series);
            self.line.push(' ');
            write_value(&mut self.line, *value);
            self.line.push(' ');
            write_seconds(&mut self.line, *t);
            self.line.push('\n');
            self.out.write_all(self.line.as_bytes()).map_err(|e| file_error(self.files.name(), e))?;
        }
        Ok(samples.histograms.len() as u64)
    }

    /// Writes what the family is, when another begins.
    fn describe(&mut self, name: &str) -> Result<()> {
        let metadata = self.metadata.get(name);
        let known = metadata.map_or(MetricType::Unknown, |m| m.metric_type);
        let (family, metric_type) = match known {
            MetricType::Counter => name.strip_suffix("_total").map_or((name, MetricType::Unknown), |f| (f, known)),
            MetricType::Info => name.strip_suffix("_info").map_or((name, MetricType::Unknown), |f| (f, known)),
            MetricType::Histogram | MetricType::GaugeHistogram | MetricType::Summary => {
                (SUFFIXES.iter().find_map(|s| name.strip_suffix(s)).unwrap_or(name), known)
            }
            other => (name, other),
        };
        if self.family.as_deref() == Some(family) || !is_plain(family, true) {
            return Ok(());
        }
        let mut text = format!("# TYPE {family} {}\n", metric_type.as_str());
        if let Some(metadata) = metadata {
            if !metadata.unit.is_empty() && family.ends_with(&format!("_{}", metadata.unit)) {
                let _ = writeln!(text, "# UNIT {family} {}", metadata.unit);
            }
            if !metadata.help.is_empty() {
                text.push_str(&format!("# HELP {family} "));
                escape(&mut text, &metadata.help);
                text.push('\n');
            }
        }
        self.family = Some(family.to_owned());
        self.out.write_all(text.as_bytes()).map_err(|e| file_error(self.files.name(), e))
    }

    /// Ends the text.
    pub fn finish(mut self) -> Result<(Vec<PathBuf>, u64)> {
        self.out.write_all(b"# EOF\n").map_err(|e| file_error(self.files.name(), e))?;
        self.files.end(self.out)?;
        Ok(self.files.finish())
    }
}

/// Whether a name can be written without quotes.
fn is_plain(name: &str, colon: bool) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || (colon && c == ':');
    !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit()) && name.chars().all(allowed)
}

fn write_series(out: &mut String, labels: LabelsRef<'_>) {
    let name = labels.metric_name();
    let mut separator = '{';
    if is_plain(name, true) {
        out.push_str(name);
    } else if !name.is_empty() {
        out.push_str("{\"");
        escape(out, name);
        out.push('"');
        separator = ',';
    }
    for (name, value) in labels.iter().filter(|(n, _)| *n != METRIC_NAME) {
        out.push(separator);
        separator = ',';
        if is_plain(name, false) {
            out.push_str(name);
        } else {
            out.push('"');
            escape(out, name);
            out.push('"');
        }
        out.push_str("=\"");
        escape(out, value);
        out.push('"');
    }
    if separator == ',' {
        out.push('}');
    } else if name.is_empty() {
        out.push_str("{}");
    }
}

fn escape(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            other => out.push(other),
        }
    }
}

fn write_value(out: &mut String, value: f64) {
    // Writing to a text cannot fail.
    let _ = match value {
        f64::INFINITY => out.write_str("+Inf"),
        f64::NEG_INFINITY => out.write_str("-Inf"),
        value if value.fract() == 0.0 && value.abs() < 1e15 && (value != 0.0 || value.is_sign_positive()) => {
            write!(out, "{}", value as i64)
        }
        value => write!(out, "{value:?}"),
    };
}

fn write_seconds(out: &mut String, t_ms: i64) {
    let sign = if t_ms < 0 { "-" } else { "" };
    let (seconds, millis) = (t_ms.unsigned_abs() / 1000, t_ms.unsigned_abs() % 1000);
    let _ = if millis == 0 { write!(out, "{sign}{seconds}") } else { write!(out, "{sign}{seconds}.{millis:03}") };
}
