//! How posted alerts change an impact, and when two assessments differ enough to be told. Plain functions, so that what is assessed
//! before the log is written is what the log folds into.

use std::collections::HashMap;

use super::assess::LIST;
use super::model::{Alert, Assessment, Impact, MAX_ALERTS, MAX_HISTORY, ResolvedBy, State, Touched};
use super::state::{Assessed, Posted};

/// Two probabilities closer than this are the same to a receiver.
pub const SAME_PROBABILITY: f64 = 0.05;

/// Two numbers of lost requests closer than this part of them are the same to a receiver.
pub const SAME_LOST: f64 = 0.2;

/// Alertmanager's hash of a group or of labels: FNV-1a with 64 bits.
pub fn fnv<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in parts.into_iter().flatten() {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash
}

/// The fingerprint that Prometheus and Alertmanager give to labels.
pub fn fingerprint(labels: &super::model::LabelMap) -> String {
    const SEPARATOR: &[u8] = &[0xff];
    let parts = labels.iter().flat_map(|(name, value)| [name.as_bytes(), SEPARATOR, value.as_bytes(), SEPARATOR]);
    format!("{:016x}", fnv(parts))
}

/// The impact after alerts of its group were posted, without their assessment. `None` if there is nothing to keep: alerts that are
/// over, and no impact that they belong to.
pub fn fold_posted(before: Option<&Impact>, posted: &Posted) -> Option<Impact> {
    let mut impact = match before {
        Some(impact) => impact.clone(),
        None => begin(posted)?,
    };
    let mut at: HashMap<String, usize> = impact.alerts.iter().enumerate().map(|(i, a)| (a.fingerprint.clone(), i)).collect();
    for alert in &posted.alerts {
        match at.get(&alert.fingerprint).copied() {
            Some(i) => update(&mut impact.alerts[i], alert),
            None if make_room(&mut impact.alerts, &mut at) => {
                at.insert(alert.fingerprint.clone(), impact.alerts.len());
                impact.alerts.push(alert.clone());
            }
            None => impact.left_out_alerts += 1,
        }
    }
    if posted.whole && posted.truncated == 0 {
        for alert in impact.alerts.iter_mut().filter(|a| a.state == State::Firing && a.sender == posted.sender) {
            if !posted.alerts.iter().any(|p| p.fingerprint == alert.fingerprint) {
                alert.state = State::Resolved;
                alert.ends_ms = Some(posted.at_ms);
            }
        }
    }
    impact.alerts.sort_by(|a, b| a.starts_ms.cmp(&b.starts_ms).then_with(|| a.fingerprint.cmp(&b.fingerprint)));
    impact.group = posted.group.clone();
    impact.truncated_alerts = posted.truncated;
    impact.updated_ms = impact.updated_ms.max(posted.at_ms);
    settle(&mut impact, ResolvedBy::Alerts);
    Some(impact)
}

fn begin(posted: &Posted) -> Option<Impact> {
    let started_ms = posted.alerts.iter().filter(|a| a.state == State::Firing).map(|a| a.starts_ms).min()?;
    Some(Impact {
        id: format!("{:013}-{:016x}", started_ms.max(0), fnv([posted.group.key.as_bytes()])),
        state: State::Firing,
        group: posted.group.clone(),
        started_ms,
        received_ms: posted.at_ms,
        updated_ms: posted.at_ms,
        resolved_ms: None,
        resolved_by: None,
        truncated_alerts: 0,
        left_out_alerts: 0,
        alerts: Vec::new(),
        assessment: None,
        history: Vec::new(),
        revision: 0,
        revised_ms: posted.at_ms,
        revised_by: String::new(),
        told: Default::default(),
    })
}

fn update(kept: &mut Alert, posted: &Alert) {
    let (matches, tried) = (std::mem::take(&mut kept.matches), std::mem::take(&mut kept.tried));
    let ends_ms = kept.ends_ms;
    *kept = posted.clone();
    if kept.matches.is_empty() && (kept.state == State::Resolved || kept.tried.is_empty()) {
        (kept.matches, kept.tried) = (matches, tried);
    }
    if kept.state == State::Firing && kept.ends_ms.is_some() {
        kept.ends_ms = kept.ends_ms.max(ends_ms);
    }
}

/// Whether there is room for one more; alerts that are over make room.
fn make_room(alerts: &mut Vec<Alert>, at: &mut HashMap<String, usize>) -> bool {
    if alerts.len() < MAX_ALERTS {
        return true;
    }
    let before = alerts.len();
    alerts.retain(|a| a.state == State::Firing);
    *at = alerts.iter().enumerate().map(|(i, a)| (a.fingerprint.clone(), i)).collect();
    alerts.len() < before
}

/// Closes an impact none of whose alerts fires.
fn settle(impact: &mut Impact, by: ResolvedBy) -> bool {
    if impact.alerts.iter().any(|a| a.state == State::Firing) {
        impact.state = State::Firing;
        (impact.resolved_ms, impact.resolved_by) = (None, None);
        return false;
    }
    impact.state = State::Resolved;
    impact.resolved_ms = impact.alerts.iter().filter_map(|a| a.ends_ms).max().or(Some(impact.updated_ms));
    impact.resolved_by = Some(by);
    true
}

/// Ends alerts that were not repeated. Whether the impact is over with them.
pub fn apply_ends(impact: &mut Impact, ends: &[(String, i64)], by: &str) -> bool {
    if impact.state == State::Resolved {
        return false;
    }
    let mut last_ms = impact.updated_ms;
    for (fingerprint, ends_ms) in ends {
        // Whoever has posted it again since then was right.
        let fires = |a: &&mut Alert| a.fingerprint == *fingerprint && a.state == State::Firing && a.updated_ms <= *ends_ms;
        if let Some(alert) = impact.alerts.iter_mut().find(fires) {
            alert.state = State::Resolved;
            alert.ends_ms = Some(*ends_ms);
            last_ms = last_ms.max(*ends_ms);
        }
    }
    let over = settle(impact, ResolvedBy::Timeout);
    if over && impact.revision > 0 {
        impact.revision += 1;
        impact.revised_ms = last_ms;
        impact.revised_by = by.to_owned();
    }
    over
}

/// Puts an assessment into an impact, and the one that it replaces into the history.
pub fn remember(impact: &mut Impact, assessed: Assessed, at_ms: i64, by: &str) {
    if impact.state == State::Resolved && impact.assessment.is_some() {
        return;
    }
    let Assessed { assessment, material, .. } = assessed;
    if impact.assessment.as_ref().is_some_and(|a| a.assessed_ms > assessment.assessed_ms) {
        return;
    }
    impact.history.push(assessment.past());
    if impact.history.len() > MAX_HISTORY {
        // The beginning and the end are worth more than the middle.
        impact.history.remove(MAX_HISTORY / 5);
    }
    impact.assessment = Some(assessment);
    if material {
        impact.revision += 1;
        impact.revised_ms = at_ms;
        impact.revised_by = by.to_owned();
    }
}

/// Whether receivers should be told of an assessment, given the last one.
pub fn is_material(before: Option<&Assessment>, now: &Assessment) -> bool {
    let Some(before) = before else { return !now.failed.is_empty() };
    if before.complete != now.complete || before.lost_per_s.is_some() != now.lost_per_s.is_some() {
        return true;
    }
    let (old, new) = (before.lost_per_s.unwrap_or(0.0), now.lost_per_s.unwrap_or(0.0));
    if (old - new).abs() > SAME_LOST * old.abs().max(new.abs()) + 0.01 {
        return true;
    }
    let ids = |list: &[Touched]| list.iter().map(|t| t.id.clone()).collect::<std::collections::BTreeSet<_>>();
    if ids(&before.failed) != ids(&now.failed) {
        return true;
    }
    before.lists().iter().zip(now.lists()).any(|((_, old), (_, new))| differs(old, new) || differs(new, old))
}

/// Whether a node of one list is another one in the other. What is beyond the end of a full list is not known to differ.
fn differs(one: &[Touched], other: &[Touched]) -> bool {
    let most = |t: &Touched| t.probability.max(t.starvation);
    let known: HashMap<&str, f64> = other.iter().map(|t| (t.id.as_str(), most(t))).collect();
    one.iter().any(|t| match known.get(t.id.as_str()) {
        Some(p) => (most(t) - p).abs() > SAME_PROBABILITY,
        None => other.len() < LIST && most(t) > SAME_PROBABILITY,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alerts::model::LabelMap;

    #[test]
    fn fingerprints_are_those_of_prometheus() {
        assert_eq!(fingerprint(&LabelMap::new()), "cbf29ce484222325");
        // From model.LabelSet{"lbl1": "a"}.Fingerprint() of prometheus/common is FNV-1a over name, 0xff, value, 0xff.
        let one = LabelMap::from([("a".to_owned(), "b".to_owned())]);
        assert_eq!(fingerprint(&one), format!("{:016x}", fnv([b"a\xffb\xff".as_slice()])));
        assert_eq!(fnv([b"a".as_slice()]), 0xaf63_dc4c_8601_ec8c);
    }
}
