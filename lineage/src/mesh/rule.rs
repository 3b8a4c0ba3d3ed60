//! A rule: which metric is a graph, and how its labels name the ends of an edge.

use std::collections::BTreeSet;
use std::fmt::Write;

use serde::{Deserialize, Serialize};

use super::pattern::NodePattern;
use super::span;
use crate::event::MAX_SOURCE_BYTES;
use crate::model::{Class, Flow};
use crate::{Error, Result};

/// Longest name of a rule.
pub const MAX_NAME_BYTES: usize = 64;

/// The label that marks rows of failures in the answer to [`Rule::query`].
pub(super) const FAILED: &str = "isobar_failed";

/// What the values of a metric are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// A counter of requests: its rate is the traffic of the edge.
    #[default]
    Requests,
    /// A gauge of requests per second.
    RequestsPerSecond,
    /// A counter of anything: an edge is there while it grows, and nothing is known of its traffic.
    Activity,
    /// A gauge: an edge is there while it is above 0.
    Presence,
}

/// How a metric is read as edges.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Its name, which is also the scope of what it says.
    pub name: String,
    /// The source that its facts are of.
    #[serde(default = "metrics")]
    pub source: String,
    /// The name of the metric.
    pub metric: String,
    /// Also metrics whose names end so, after a prefix and `_`.
    #[serde(default)]
    pub prefixed: bool,
    /// PromQL matchers that its series must satisfy, as in `env="prod",app!="x"`.
    #[serde(default, rename = "match")]
    pub filter: String,
    /// What its values are.
    #[serde(default)]
    pub measure: Measure,
    /// Names of the dependent, the best first. Traffic without one comes from outside.
    pub from: Vec<NodePattern>,
    /// Names of the provider, the best first.
    pub to: Vec<NodePattern>,
    /// Other names of the provider; one that always stands with the same name, and that with it, is made its alias.
    #[serde(default)]
    pub aliases: Vec<NodePattern>,
    /// A label by whose values the same traffic is reported several times: of each edge the value with most traffic counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count_once_by: Option<String>,
    /// PromQL matchers of requests that failed; if there are several, those that any of them matches.
    #[serde(default)]
    pub failures: Vec<String>,
    /// The metric that counts failures, if it is another one; with the same prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_metric: Option<String>,
    /// Labels with the cluster of the dependent and of the provider: both are noted on edges between clusters. A provider without one is in
    /// the cluster of the dependent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clusters: Option<(String, String)>,
    /// The class of its edges, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<Class>,
    /// What flows over its edges, where that does not follow from the kinds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flow: Option<Flow>,
}

fn metrics() -> String {
    "metrics".into()
}

impl Rule {
    /// Checks the values.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the field.
    pub fn check(&self) -> Result<()> {
        let name = &self.name;
        if name.is_empty() || name.len() > MAX_NAME_BYTES || name.contains(|c: char| c.is_control() || c == '/') {
            return Err(Error::invalid(
                "name",
                format!("has {} bytes; give 1 to {MAX_NAME_BYTES} without / and control characters", name.len()),
            ));
        }
        if self.source.is_empty() || self.source.len() > MAX_SOURCE_BYTES || self.source.contains(char::is_control) {
            return Err(Error::invalid(
                "source",
                format!("has {} bytes; give 1 to {MAX_SOURCE_BYTES}, no control characters", self.source.len()),
            ));
        }
        if self.metric.is_empty() {
            return Err(Error::invalid("metric", "is empty; name the metric"));
        }
        for (field, patterns) in [("from", &self.from), ("to", &self.to), ("aliases", &self.aliases)] {
            for (i, pattern) in patterns.iter().enumerate() {
                pattern.check().map_err(|e| e.within(&format!("{field}[{i}]")))?;
            }
        }
        if self.from.is_empty() || self.to.is_empty() {
            return Err(Error::invalid(if self.from.is_empty() { "from" } else { "to" }, "is empty; say how the node is named"));
        }
        if self.labels().is_empty() {
            return Err(Error::invalid("from", "uses no label, and neither does to; all series would be one edge"));
        }
        if !self.counts() && (!self.failures.is_empty() || self.failed_metric.is_some()) {
            return Err(Error::invalid("failures", "have no meaning for a metric that does not count requests; leave them out"));
        }
        Ok(())
    }

    /// Whether it tells how many requests there are.
    pub(super) fn counts(&self) -> bool {
        matches!(self.measure, Measure::Requests | Measure::RequestsPerSecond)
    }

    /// The regular expression that the names of its metrics match in full.
    pub(super) fn name_regex(&self) -> String {
        let name = regex::escape(&self.metric);
        if self.prefixed { format!("(?:.+_)?{name}") } else { name }
    }

    /// Whether a metric of this name is one of its.
    pub(super) fn is_of(&self, metric: &str) -> bool {
        match metric.strip_suffix(self.metric.as_str()) {
            Some("") => true,
            Some(prefix) => self.prefixed && prefix.len() > 1 && prefix.ends_with('_'),
            None => false,
        }
    }

    /// The labels that it looks at.
    pub(super) fn labels(&self) -> BTreeSet<String> {
        let mut labels = BTreeSet::new();
        [&self.from, &self.to, &self.aliases].into_iter().flatten().for_each(|p| p.labels_into(&mut labels));
        labels.extend(self.count_once_by.iter().cloned());
        labels.extend(self.clusters.iter().flat_map(|(from, to)| [from.clone(), to.clone()]));
        labels
    }

    /// The one query that tells everything about the edges: their traffic over `window_ms`, and with the label [`FAILED`] how much of it
    /// failed. At most `limit` rows of each, those with most traffic.
    pub(super) fn query(&self, metric: &str, window_ms: i64, limit: usize) -> String {
        let all = self.traffic_query(metric, window_ms, limit);
        let failed = match &self.failed_metric {
            Some(name) => {
                let prefix = metric.strip_suffix(self.metric.as_str()).unwrap_or("");
                self.rows(&format!("{prefix}{name}"), &[String::new()], window_ms, limit)
            }
            None if !self.failures.is_empty() => self.rows(metric, &self.failures, window_ms, limit),
            None => return all,
        };
        format!("{all} or label_replace({failed}, \"{FAILED}\", \"true\", \"\", \"\")")
    }

    /// The part of [`Rule::query`] without the failures.
    pub(super) fn traffic_query(&self, metric: &str, window_ms: i64, limit: usize) -> String {
        self.rows(metric, &[String::new()], window_ms, limit)
    }

    fn rows(&self, metric: &str, filters: &[String], window_ms: i64, limit: usize) -> String {
        let labels = self.labels().into_iter().collect::<Vec<_>>().join(", ");
        let each = filters.iter().map(|f| self.series(metric, f, window_ms)).collect::<Vec<_>>().join(" or ");
        format!("topk({limit}, sum by ({labels}) ({each}) > 0)")
    }

    /// How many rows [`Rule::query`] would have without a limit.
    pub(super) fn count_query(&self, metric: &str, window_ms: i64) -> String {
        let labels = self.labels().into_iter().collect::<Vec<_>>().join(", ");
        format!("count(sum by ({labels}) ({}) > 0)", self.series(metric, "", window_ms))
    }

    fn series(&self, metric: &str, further: &str, window_ms: i64) -> String {
        let mut selector = format!("{{__name__={}", quoted(metric));
        for filter in [self.filter.trim().trim_matches(','), further.trim().trim_matches(',')].into_iter().filter(|f| !f.is_empty()) {
            let _ = write!(selector, ",{filter}");
        }
        selector.push('}');
        match self.measure {
            Measure::Requests | Measure::Activity => format!("rate({selector}[{}])", span::show(window_ms)),
            Measure::RequestsPerSecond | Measure::Presence => selector,
        }
    }
}

/// A text as PromQL writes it.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
