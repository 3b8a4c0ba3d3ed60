//! What the log of impacts folds into: open impacts, the last closed ones, and alerts that have no node. Plain data, no I/O.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::merge::{apply_ends, fold_posted, remember};
use super::model::{Alert, Assessment, Group, Impact, Match, State as Status, Told, Tried};

/// Closed impacts that are kept in memory; older ones are read from their own objects.
pub const RECENT: usize = 128;

/// Alerts without a node that are kept; the ones that were not seen for longest go first.
pub const MAX_UNMATCHED: usize = 1000;

/// One change of the state. Changes say what is so, and not what to do, so that processes may write them in any order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Alerts of a group were posted.
    Posted(Box<Posted>),
    /// Alerts of an impact have found their nodes later.
    Matched(Box<Matched>),
    /// An impact was assessed anew.
    Assessed(Assessed),
    /// Alerts were not repeated in time: fingerprint and end.
    Ended {
        /// The impact.
        id: String,
        /// Which, and when each was over.
        alerts: Vec<(String, i64)>,
    },
    /// A receiver was told.
    Told {
        /// The impact.
        id: String,
        /// The receiver.
        target: String,
        /// What it knows.
        told: Told,
    },
    /// A closed impact has its own object.
    Recorded {
        /// The impact.
        id: String,
    },
    /// Alerts without a node are not wanted in the queue any more.
    Dismissed {
        /// Which.
        fingerprints: Vec<String>,
    },
}

/// Alerts of a group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Posted {
    /// The group.
    pub group: Group,
    /// When they were posted.
    pub at_ms: i64,
    /// The alerts.
    pub alerts: Vec<Alert>,
    /// Who has posted them.
    #[serde(default)]
    pub sender: String,
    /// They are all that the sender has in this group: others of it are over.
    #[serde(default)]
    pub whole: bool,
    /// Alerts that the sender has left out.
    #[serde(default)]
    pub truncated: u64,
    /// What they touch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assessment: Option<Assessed>,
}

/// Nodes of alerts that had none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Matched {
    /// The impact.
    pub id: String,
    /// Fingerprints with nodes, or with the rules that were tried again.
    pub alerts: Vec<(String, Vec<Match>, Vec<Tried>)>,
    /// What they touch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assessment: Option<Assessed>,
}

/// An assessment of an impact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Assessed {
    /// The impact; empty where the alerts that are posted with it may begin one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// The assessment.
    pub assessment: Box<Assessment>,
    /// It differs from the last one so much that receivers are told.
    pub material: bool,
}

/// An alert that no rule has found a node for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Unmatched {
    /// The alert, with the rules that were tried.
    pub alert: Alert,
    /// Key of its group.
    pub group_key: String,
    /// When it was met first.
    pub first_ms: i64,
    /// When it was met last.
    pub last_ms: i64,
    /// How often it was posted.
    pub posts: u64,
}

/// A closed impact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Closed {
    /// What it was.
    #[serde(with = "shared")]
    pub impact: Arc<Impact>,
    /// It has its own object.
    pub recorded: bool,
}

/// Everything.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Number of the last entry of the log.
    pub version: u64,
    /// By id.
    pub open: BTreeMap<String, Arc<Impact>>,
    /// By key of a group, the id of its open impact.
    pub by_group: HashMap<String, String>,
    /// The oldest first.
    pub recent: VecDeque<Closed>,
    /// By fingerprint.
    pub unmatched: BTreeMap<String, Unmatched>,
    /// Alerts that had to leave the queue because it was full.
    pub unmatched_dropped: u64,
}

/// The state as a checkpoint holds it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Checkpoint {
    #[serde(with = "shared_list")]
    open: Vec<Arc<Impact>>,
    recent: VecDeque<Closed>,
    unmatched: Vec<Unmatched>,
    unmatched_dropped: u64,
}

/// An impact in JSON, which need not know that it is shared.
mod shared {
    use super::{Arc, Deserialize, Impact, Serialize};

    pub fn serialize<S: serde::Serializer>(impact: &Arc<Impact>, serializer: S) -> Result<S::Ok, S::Error> {
        impact.as_ref().serialize(serializer)
    }

    pub fn deserialize<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Arc<Impact>, D::Error> {
        Impact::deserialize(deserializer).map(Arc::new)
    }
}

/// A list of them.
mod shared_list {
    use super::{Arc, Deserialize, Impact};

    pub fn serialize<S: serde::Serializer>(impacts: &[Arc<Impact>], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(impacts.iter().map(|i| i.as_ref()))
    }

    pub fn deserialize<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<Arc<Impact>>, D::Error> {
        Ok(Vec::<Impact>::deserialize(deserializer)?.into_iter().map(Arc::new).collect())
    }
}

impl State {
    /// As a checkpoint.
    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint {
            open: self.open.values().cloned().collect(),
            recent: self.recent.clone(),
            unmatched: self.unmatched.values().cloned().collect(),
            unmatched_dropped: self.unmatched_dropped,
        }
    }

    /// From a checkpoint of entry `version`.
    pub fn restore(version: u64, checkpoint: Checkpoint) -> Self {
        let by_group = checkpoint.open.iter().map(|i| (i.group.key.clone(), i.id.clone())).collect();
        Self {
            version,
            by_group,
            open: checkpoint.open.into_iter().map(|i| (i.id.clone(), i)).collect(),
            recent: checkpoint.recent,
            unmatched: checkpoint.unmatched.into_iter().map(|u| (u.alert.fingerprint.clone(), u)).collect(),
            unmatched_dropped: checkpoint.unmatched_dropped,
        }
    }

    /// The open impact of a group.
    pub fn of_group(&self, key: &str) -> Option<&Arc<Impact>> {
        self.open.get(self.by_group.get(key)?)
    }

    /// An impact that is in memory.
    pub fn get(&self, id: &str) -> Option<&Arc<Impact>> {
        self.open.get(id).or_else(|| self.recent.iter().rev().map(|c| &c.impact).find(|i| i.id == id))
    }

    /// Folds a change that `by` has written.
    pub fn fold(&mut self, change: Change, by: &str) {
        match change {
            Change::Posted(posted) => self.posted(*posted, by),
            Change::Matched(matched) => self.matched(*matched, by),
            Change::Assessed(assessed) => {
                let id = assessed.id.clone();
                let at_ms = assessed.assessment.assessed_ms;
                self.edit(&id, |impact| remember(impact, assessed, at_ms, by));
            }
            Change::Ended { id, alerts } => {
                let closed = self.edit(&id, |impact| apply_ends(impact, &alerts, by)).unwrap_or(false);
                self.mark_over(alerts.iter().map(|(fingerprint, _)| fingerprint.as_str()));
                if closed {
                    self.close(&id);
                }
            }
            Change::Told { id, target, told } => {
                self.edit(&id, |impact| {
                    let known = impact.told.entry(target).or_insert(told);
                    if known.revision <= told.revision {
                        *known = told;
                    }
                });
            }
            Change::Recorded { id } => {
                for closed in self.recent.iter_mut().filter(|c| c.impact.id == id) {
                    closed.recorded = true;
                }
                self.trim();
            }
            Change::Dismissed { fingerprints } => {
                for fingerprint in &fingerprints {
                    self.unmatched.remove(fingerprint);
                }
            }
        }
    }

    /// Changes an impact in memory, open or closed.
    fn edit<T>(&mut self, id: &str, change: impl FnOnce(&mut Impact) -> T) -> Option<T> {
        let impact = match self.open.get_mut(id) {
            Some(impact) => impact,
            None => &mut self.recent.iter_mut().rev().find(|c| c.impact.id == id)?.impact,
        };
        Some(change(Arc::make_mut(impact)))
    }

    fn posted(&mut self, posted: Posted, by: &str) {
        self.queue(&posted);
        let key = posted.group.key.clone();
        let before = self.by_group.get(&key).and_then(|id| self.open.get(id)).cloned();
        let Some(mut impact) = fold_posted(before.as_deref(), &posted) else { return };
        if before.is_none()
            && let Some(at) = self.recent.iter().position(|c| c.impact.id == impact.id)
        {
            // The same alerts again, as after a break in the connection: it was not over.
            let old = self.recent.remove(at).expect("it was just found").impact;
            let told = (old.told.clone(), old.revision, old.history.clone(), old.assessment.clone());
            (impact.told, impact.revision, impact.history, impact.assessment) = told;
            impact.revision += 1;
        }
        if let Some(assessed) = posted.assessment {
            remember(&mut impact, assessed, posted.at_ms, by);
        }
        let over = impact.state == Status::Resolved;
        if over && impact.revision > 0 {
            impact.revision += 1;
            impact.revised_ms = posted.at_ms;
            impact.revised_by = by.to_owned();
        }
        let id = impact.id.clone();
        self.by_group.insert(key, id.clone());
        self.open.insert(id.clone(), Arc::new(impact));
        if over {
            self.close(&id);
        }
    }

    fn matched(&mut self, matched: Matched, by: &str) {
        let Matched { id, alerts, assessment } = matched;
        for (fingerprint, matches, tried) in &alerts {
            if !matches.is_empty() {
                self.unmatched.remove(fingerprint);
            } else if let Some(unmatched) = self.unmatched.get_mut(fingerprint) {
                unmatched.alert.tried.clone_from(tried);
            }
        }
        self.edit(&id, |impact| {
            for (fingerprint, matches, tried) in alerts {
                if let Some(alert) = impact.alerts.iter_mut().find(|a| a.fingerprint == fingerprint) {
                    (alert.matches, alert.tried) = (matches, tried);
                }
            }
            if let Some(assessed) = assessment {
                let at_ms = assessed.assessment.assessed_ms;
                remember(impact, assessed, at_ms, by);
            }
        });
    }

    /// Moves an impact from the open ones to the closed ones. One that never had a node is forgotten.
    fn close(&mut self, id: &str) {
        let Some(impact) = self.open.remove(id) else { return };
        self.by_group.remove(&impact.group.key);
        if impact.has_nodes() {
            self.recent.push_back(Closed { impact, recorded: false });
            self.trim();
        }
    }

    fn trim(&mut self) {
        // What has no object yet waits for it, but not without end.
        while self.recent.len() > RECENT && (self.recent[0].recorded || self.recent.len() > 4 * RECENT) {
            self.recent.pop_front();
        }
    }

    fn queue(&mut self, posted: &Posted) {
        for alert in &posted.alerts {
            if !alert.matches.is_empty() {
                self.unmatched.remove(&alert.fingerprint);
            } else if alert.state == Status::Firing {
                let entry = self.unmatched.entry(alert.fingerprint.clone()).or_insert_with(|| Unmatched {
                    alert: alert.clone(),
                    group_key: posted.group.key.clone(),
                    first_ms: posted.at_ms,
                    last_ms: posted.at_ms,
                    posts: 0,
                });
                entry.alert = alert.clone();
                entry.last_ms = posted.at_ms;
                entry.posts += 1;
            }
        }
        self.mark_over(posted.alerts.iter().filter(|a| a.state == Status::Resolved).map(|a| a.fingerprint.as_str()));
        while self.unmatched.len() > MAX_UNMATCHED {
            let oldest = self.unmatched.values().min_by_key(|u| (u.alert.state == Status::Firing, u.last_ms));
            let Some(fingerprint) = oldest.map(|u| u.alert.fingerprint.clone()) else { break };
            self.unmatched.remove(&fingerprint);
            self.unmatched_dropped += 1;
        }
    }

    fn mark_over<'a>(&mut self, fingerprints: impl Iterator<Item = &'a str>) {
        for fingerprint in fingerprints {
            if let Some(unmatched) = self.unmatched.get_mut(fingerprint) {
                unmatched.alert.state = Status::Resolved;
            }
        }
    }
}
