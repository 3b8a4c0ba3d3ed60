//! What is kept of an impact: the alerts of one group, the nodes that they are about, and what was assessed when.
//!
//! Everything here is JSON in the log and in the answers alike, so names of fields are part of the format: add, never rename.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::NodeKey;
use crate::model::{Class, Criticality, Evidence, Flow, Owner, Relation};

/// Labels or annotations by name.
pub type LabelMap = BTreeMap<String, String>;

/// Past assessments that are kept of one impact: the first ones and the last ones.
pub const MAX_HISTORY: usize = 50;

/// Alerts that are kept of one impact.
pub const MAX_ALERTS: usize = 1000;

/// Whether something still is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It still is.
    #[default]
    Firing,
    /// It is over.
    Resolved,
}

/// Who posts the alerts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Via {
    /// An Alertmanager, to the webhook; it groups.
    #[default]
    Webhook,
    /// A Prometheus, to the API of Alertmanager; Isobar groups.
    Api,
}

/// As of when a node was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Topology {
    /// When the alert began.
    #[default]
    Start,
    /// Later: it was not in the graph when the alert began.
    Later,
}

/// A node that an alert is about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Match {
    /// The name that the node goes by.
    pub node: NodeKey,
    /// The rule that has found it.
    pub rule: String,
    /// As of when it was found.
    pub topology: Topology,
    /// The rule has put it into the graph.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub created: bool,
}

/// A rule that did not find a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tried {
    /// Its name.
    pub rule: String,
    /// Why not.
    pub reason: String,
}

/// One alert.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alert {
    /// Alertmanager's hash of the labels.
    pub fingerprint: String,
    /// Whether it still fires.
    pub state: State,
    /// What identifies it.
    pub labels: LabelMap,
    /// What is said about it.
    #[serde(default)]
    pub annotations: LabelMap,
    /// Since when it fires, Unix milliseconds.
    pub starts_ms: i64,
    /// When it was over; of one that still fires, when it will be unless it is posted again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_ms: Option<i64>,
    /// When it was posted last.
    pub updated_ms: i64,
    /// Where it comes from, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub generator_url: String,
    /// Which Alertmanager has posted it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sender: String,
    /// Fraction of the requests to its nodes that meet the failure.
    pub severity: f32,
    /// Its nodes are late rather than down.
    #[serde(default)]
    pub late: bool,
    /// The nodes that it is about.
    #[serde(default)]
    pub matches: Vec<Match>,
    /// If there are none: the rules that were tried.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tried: Vec<Tried>,
}

/// What makes alerts one group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// What identifies it, as Alertmanager gives it, or made of the labels.
    pub key: String,
    /// Who posts it.
    pub via: Via,
    /// Alertmanager's receiver.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub receiver: String,
    /// The labels that its alerts share by definition.
    #[serde(default)]
    pub labels: LabelMap,
    /// Annotations that its alerts share.
    #[serde(default)]
    pub annotations: LabelMap,
    /// Where its Alertmanager is, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub external_url: String,
}

/// The impact of a group of alerts, from its first alert until all are over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Impact {
    /// `<start, Unix milliseconds>-<hash of the group>`: ids sort by time, and those of one group end alike.
    pub id: String,
    /// Whether it still is.
    pub state: State,
    /// The group.
    pub group: Group,
    /// When its first alert began.
    pub started_ms: i64,
    /// When it was posted first.
    pub received_ms: i64,
    /// When it was posted last.
    pub updated_ms: i64,
    /// When its last alert was over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved_ms: Option<i64>,
    /// Why it is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved_by: Option<ResolvedBy>,
    /// Alerts that Alertmanager has left out of its last message.
    #[serde(default)]
    pub truncated_alerts: u64,
    /// Alerts beyond [`MAX_ALERTS`] that were not kept.
    #[serde(default)]
    pub left_out_alerts: u64,
    /// Its alerts, the oldest first.
    pub alerts: Vec<Alert>,
    /// What was assessed last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assessment: Option<Box<Assessment>>,
    /// What was assessed before, in short, the oldest first.
    #[serde(default)]
    pub history: Vec<Past>,
    /// Counts what receivers are told.
    #[serde(default)]
    pub revision: u32,
    /// When it last changed in a way that receivers are told.
    #[serde(default)]
    pub revised_ms: i64,
    /// Which process has changed it.
    #[serde(default)]
    pub revised_by: String,
    /// Up to which revision each receiver was told.
    #[serde(default)]
    pub told: BTreeMap<String, Told>,
}

/// Why an impact is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResolvedBy {
    /// Its alerts were reported as resolved.
    Alerts,
    /// Its alerts were not repeated in time.
    Timeout,
}

/// What a receiver knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// The revision.
    pub revision: u32,
    /// Since when, Unix milliseconds.
    pub at_ms: i64,
}

/// Why an assessment was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Alerts were posted.
    #[default]
    Posted,
    /// The graph has changed, or the rules.
    Changed,
    /// It was time.
    Interval,
}

/// What a group of alerts touches.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Assessment {
    /// Whether nothing was left out because of a limit, an unknown name or a missing number.
    pub complete: bool,
    /// As of when the graph was taken.
    pub as_of_ms: i64,
    /// When it was made.
    pub assessed_ms: i64,
    /// How long that took.
    pub took_ms: f64,
    /// Why it was made.
    pub reason: Reason,
    /// Version of the graph.
    pub graph_version: u64,
    /// In one line, for people.
    pub summary: String,
    /// Requests per second that are expected to fail where requests come in, if any rate is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_per_s: Option<f64>,
    /// Nodes that the alerts are about.
    pub failed: Vec<Touched>,
    /// Nodes that the failure could reach.
    pub reachable: usize,
    /// Nodes that it touches.
    pub touched: usize,
    /// Largest standard deviation of a probability.
    pub deviation: f64,
    /// Touched nodes by what they are; each list is ranked, the worst first.
    pub interfaces: Vec<Touched>,
    /// As above.
    pub applications: Vec<Touched>,
    /// As above.
    pub projects: Vec<Touched>,
    /// As above.
    pub services: Vec<Touched>,
    /// As above.
    pub metrics: Vec<Touched>,
    /// As above: tables, files and other datasets.
    pub datasets: Vec<Touched>,
    /// As above.
    pub columns: Vec<Touched>,
    /// As above.
    pub topics: Vec<Touched>,
    /// As above: every other kind.
    pub others: Vec<Touched>,
    /// Touched nodes of each kind, in numbers.
    pub kinds: Vec<Sum>,
    /// Who answers for what is touched, the worst first.
    pub owners: Vec<Sum>,
    /// What may be behind all alerts that fire now, the most likely first.
    pub causes: Vec<Cause>,
    /// Who has contributed to the graph.
    pub sources: Vec<Source>,
    /// What could not be found out.
    pub unresolved: Vec<Note>,
}

/// A node that is touched.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Touched {
    /// The name that it goes by.
    pub id: NodeKey,
    /// What kind it is.
    pub kind: String,
    /// A name for people.
    pub name: String,
    /// Who answers for it.
    pub owners: Vec<Owner>,
    /// How much it matters.
    pub criticality: Criticality,
    /// Probability that it is touched.
    pub probability: f64,
    /// Probability that a request to it fails.
    pub errors: f64,
    /// Probability that its data are old.
    pub staleness: f64,
    /// Probability that it gets no requests any more.
    pub starvation: f64,
    /// Edges from the nearest failed node; 0 for that one itself.
    pub hops: u32,
    /// Requests per second that come to it, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// Requests per second that are expected to fail, if the rate is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_per_s: Option<f64>,
    /// Its data are late so long after the failure begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late_after_ms: Option<i64>,
    /// What it was ranked by.
    pub score: f64,
    /// Why, for people.
    pub because: String,
    /// The path that explains most of it, from the failed node on.
    pub path: Vec<Step>,
}

/// One edge of a path.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// What fails.
    pub provider: NodeKey,
    /// What is touched by that.
    pub dependent: NodeKey,
    /// How they belong together.
    pub relation: Relation,
    /// Class of the edge.
    pub class: Class,
    /// What flows over it.
    pub flow: Flow,
    /// Probability that it passes the failure on.
    pub probability: f32,
    /// How it is known.
    pub evidence: Vec<Evidence>,
}

/// Touched nodes that have something in common.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sum {
    /// What: a kind or an owner.
    pub name: String,
    /// How many.
    pub nodes: usize,
    /// Highest probability.
    pub probability: f64,
    /// Sum of their expected lost requests per second.
    pub lost_per_s: f64,
    /// Sum of what they were ranked by.
    pub score: f64,
}

/// A failure that would explain what alerts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cause {
    /// The node that would have failed.
    pub id: NodeKey,
    /// What kind it is.
    pub kind: String,
    /// Who answers for it.
    pub owners: Vec<Owner>,
    /// Probability among those considered.
    pub probability: f64,
    /// It alerts itself.
    pub alerting: bool,
    /// How many of the alerting nodes it would explain.
    pub explains: usize,
    /// Alerting nodes that it would not.
    pub leaves_open: Vec<NodeKey>,
}

/// What a source has contributed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Its name.
    pub source: String,
    /// When it was heard last, Unix milliseconds.
    pub heard_ms: i64,
}

/// What could not be found out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Of what.
    pub subject: String,
    /// Why, and what to do about it.
    pub reason: String,
}

/// A past assessment in short.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Past {
    /// When it was made.
    pub assessed_ms: i64,
    /// Why it was made.
    pub reason: Reason,
    /// Version of the graph.
    pub graph_version: u64,
    /// Whether it was complete.
    pub complete: bool,
    /// How many nodes the alerts were about.
    pub failed: usize,
    /// How many nodes were touched.
    pub touched: usize,
    /// Highest probability of a touched node.
    pub probability: f64,
    /// Requests per second that were expected to fail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_per_s: Option<f64>,
    /// In one line.
    pub summary: String,
}

impl Impact {
    /// Alerts that still fire.
    pub fn firing(&self) -> impl Iterator<Item = &Alert> {
        self.alerts.iter().filter(|a| a.state == State::Firing)
    }

    /// Nodes that alerts which still fire are about, each once.
    pub fn failing_nodes(&self) -> Vec<NodeKey> {
        let mut nodes: Vec<NodeKey> = self.firing().flat_map(|a| &a.matches).map(|m| m.node.clone()).collect();
        nodes.sort();
        nodes.dedup();
        nodes
    }

    /// Whether any of its alerts ever had a node.
    pub fn has_nodes(&self) -> bool {
        self.alerts.iter().any(|a| !a.matches.is_empty())
    }
}

impl Assessment {
    /// All lists of touched nodes with their names.
    pub fn lists(&self) -> [(&'static str, &[Touched]); 9] {
        [
            ("interfaces", &self.interfaces),
            ("applications", &self.applications),
            ("projects", &self.projects),
            ("services", &self.services),
            ("metrics", &self.metrics),
            ("datasets", &self.datasets),
            ("columns", &self.columns),
            ("topics", &self.topics),
            ("others", &self.others),
        ]
    }

    /// In short.
    pub fn past(&self) -> Past {
        let probability = self.lists().iter().flat_map(|(_, list)| *list).map(|t| t.probability).fold(0.0, f64::max);
        Past {
            assessed_ms: self.assessed_ms,
            reason: self.reason,
            graph_version: self.graph_version,
            complete: self.complete,
            failed: self.failed.len(),
            touched: self.touched,
            probability,
            lost_per_s: self.lost_per_s,
            summary: self.summary.clone(),
        }
    }
}
