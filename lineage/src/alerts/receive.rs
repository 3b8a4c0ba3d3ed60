//! Alerts that were posted: they find their nodes, what they touch is assessed, and all of it is in the log before they are acknowledged.

use std::sync::Arc;
use std::time::{Duration, Instant};

use isobar_block::time;
use serde::Serialize;

use super::Alerts;
use super::assess::{Case, Moment, assess};
use super::find::{Finder, Found};
use super::merge::{fold_posted, is_material};
use super::model::{Alert, Assessment, Group, Impact, Match, Reason, State, Topology, Via};
use super::settings::Settings;
use super::state::{Assessed, Change, Posted};
use crate::model::NodeBody;
use crate::service::{Service, Tenant};
use crate::snapshot::Snapshot;
use crate::{AsOf, Error, Event, Fact, NodeKey, Result, store};

/// So long a request assesses; what is left is assessed right after it.
pub const ASSESS_TIME: Duration = Duration::from_millis(600);

/// So long a request looks at the graphs of different times; after that, the last of them has to do.
pub const LOOK_TIME: Duration = Duration::from_millis(300);

/// A prolonged end is not written to the log while the written one is so far away.
pub const PROLONG_MS: i64 = 60_000;

/// Nodes that rules have created go stale after so long.
pub const CREATED_TTL_MS: i64 = 7 * 24 * 3_600_000;

/// The source of nodes that rules have created.
pub const SOURCE: &str = "alerts";

/// Annotation that marks alerts which Isobar itself has sent on.
pub const OWN_ANNOTATION: &str = "isobar_impact_id";

/// Alerts of one group as they were posted.
#[derive(Clone, Debug)]
pub(crate) struct Post {
    pub group: Group,
    pub alerts: Vec<Alert>,
    pub sender: String,
    pub whole: bool,
    pub truncated: u64,
}

/// What became of a group.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Receipt {
    /// The impact; none if there is nothing to keep.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub impact: Option<String>,
    pub state: State,
    pub nodes: Vec<NodeKey>,
    /// Alerts that fire and have no node.
    pub unmatched: usize,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// It was assessed already.
    pub assessed: bool,
}

impl Alerts {
    /// Takes alerts. When this returns, they survive power loss; what they touch is assessed as far as time allowed.
    pub(crate) async fn receive(&self, service: &Service, tenant: &Tenant, posts: Vec<Post>) -> Result<Vec<Receipt>> {
        let begun = Instant::now();
        let now_ms = time::now_ms();
        let settings = service.settings();
        self.keeper().refresh().await?;
        let mut posts = posts;
        for post in &mut posts {
            post.alerts.retain(|alert| !self.is_own(alert));
        }
        self.check_room(&posts, settings.alerts.max_open)?;
        self.find_nodes(service, tenant, &mut posts, now_ms).await?;

        let mut drafts: Vec<Draft> = posts.into_iter().map(|post| self.draft(post, now_ms)).collect();
        self.assess_drafts(service, tenant, &mut drafts, begun, now_ms).await?;
        let receipts = drafts.iter().map(Draft::receipt).collect();
        let mut late = Vec::new();
        let mut changes = Vec::new();
        for draft in drafts {
            if draft.is_left {
                late.extend(draft.after.as_ref().map(|i| i.id.clone()));
            }
            if draft.is_prolonged_only(now_ms) {
                self.prolong(&draft);
            } else if draft.after.is_some() || draft.before.is_some() {
                changes.push(Change::Posted(Box::new(draft.posted)));
            }
        }
        self.keeper().commit(changes).await?;
        self.mark_dirty(late);
        Ok(receipts)
    }

    /// Whether an alert is one that Isobar has sent on.
    fn is_own(&self, alert: &Alert) -> bool {
        alert.annotations.get(OWN_ANNOTATION).is_some_and(|id| self.keeper().read(|state| state.get(id).is_some()))
    }

    fn check_room(&self, posts: &[Post], allowed: usize) -> Result<()> {
        let (open, new) = self.keeper().read(|state| {
            let is_new = |p: &&Post| p.alerts.iter().any(|a| a.state == State::Firing) && state.of_group(&p.group.key).is_none();
            (state.open.len(), posts.iter().filter(is_new).count())
        });
        if new > 0 && open + new > allowed {
            return Err(Error::Busy { limit: "alerts.max_open", allowed: allowed as u64 });
        }
        Ok(())
    }

    /// Gives each firing alert its severity and its nodes; one that had nodes keeps them.
    async fn find_nodes(&self, service: &Service, tenant: &Tenant, posts: &mut [Post], now_ms: i64) -> Result<()> {
        let settings = service.settings();
        let mut wanted: Vec<&mut Alert> = Vec::new();
        for post in posts {
            let before = self.keeper().read(|state| state.of_group(&post.group.key).cloned());
            for alert in &mut post.alerts {
                (alert.severity, alert.late) = settings.alerts.severity_of(&alert.labels, &alert.annotations);
                let known = before.as_ref().and_then(|i| i.alerts.iter().find(|a| a.fingerprint == alert.fingerprint));
                if let Some(known) = known.filter(|a| !a.matches.is_empty()) {
                    alert.matches.clone_from(&known.matches);
                } else if alert.state == State::Firing {
                    wanted.push(alert);
                }
            }
        }
        wanted.sort_by_key(|alert| alert.starts_ms);
        let copies: Vec<Alert> = wanted.iter().map(|alert| (**alert).clone()).collect();
        let found = find(service, tenant, copies, now_ms).await?;
        for (alert, found) in wanted.into_iter().zip(found) {
            (alert.matches, alert.tried) = (found.matches, found.tried);
        }
        Ok(())
    }

    fn draft(&self, post: Post, now_ms: i64) -> Draft {
        let before = self.keeper().read(|state| state.of_group(&post.group.key).cloned());
        let posted = Posted {
            group: post.group,
            at_ms: now_ms,
            alerts: post.alerts,
            sender: post.sender,
            whole: post.whole,
            truncated: post.truncated,
            assessment: None,
        };
        let after = fold_posted(before.as_deref(), &posted);
        Draft { before, after, posted, is_left: false }
    }

    async fn assess_drafts(&self, service: &Service, tenant: &Tenant, drafts: &mut [Draft], begun: Instant, now_ms: i64) -> Result<()> {
        if !drafts.iter().any(|d| d.needs_assessment(now_ms)) {
            return Ok(());
        }
        let mut alerting = self.alerting();
        alerting.extend(drafts.iter().filter_map(|d| d.after.as_ref()).flat_map(Impact::failing_nodes));
        alerting.sort();
        alerting.dedup();
        let moment = Moment::look(service, tenant, alerting).await?;
        for draft in drafts.iter_mut().filter(|d| d.needs_assessment(now_ms)) {
            if begun.elapsed() > ASSESS_TIME {
                draft.is_left = true;
                continue;
            }
            let Some(impact) = &draft.after else { continue };
            let assessment = assess(tenant, Case::of(impact, now_ms), &moment, Reason::Posted).await?;
            service.metrics().alerts.assessed(Reason::Posted, &assessment);
            draft.put(assessment);
        }
        Ok(())
    }

    fn prolong(&self, draft: &Draft) {
        let Some(impact) = &draft.before else { return };
        let ends = draft.posted.alerts.iter().filter(|a| a.state == State::Firing);
        self.prolong_ends(&impact.id, ends.filter_map(|a| Some((a.fingerprint.clone(), a.ends_ms?))));
    }
}

/// A group on its way into the log.
struct Draft {
    before: Option<Arc<Impact>>,
    after: Option<Impact>,
    posted: Posted,
    /// Time was over before it was assessed.
    is_left: bool,
}

impl Draft {
    fn needs_assessment(&self, now_ms: i64) -> bool {
        let Some(after) = self.after.as_ref().filter(|i| i.state == State::Firing) else { return false };
        let case = Case::of(after, now_ms);
        match self.before.as_ref().filter(|b| b.assessment.is_some()) {
            Some(before) => !case.is_like(&Case::of(before, now_ms)),
            None => !after.failing_nodes().is_empty(),
        }
    }

    fn put(&mut self, assessment: Assessment) {
        let before = self.before.as_ref().and_then(|i| i.assessment.as_deref());
        let material = is_material(before, &assessment);
        if let Some(after) = &mut self.after {
            after.assessment = Some(Box::new(assessment.clone()));
        }
        self.posted.assessment = Some(Assessed { id: String::new(), assessment: Box::new(assessment), material });
    }

    /// Nothing is new but that the alerts go on for longer, and the log knows an end that is far enough.
    fn is_prolonged_only(&self, now_ms: i64) -> bool {
        let (Some(before), Some(after)) = (&self.before, &self.after) else { return false };
        if before.group.via != Via::Api || self.posted.assessment.is_some() {
            return false;
        }
        let mut same = after.clone();
        (same.updated_ms, same.assessment) = (before.updated_ms, before.assessment.clone());
        if same.alerts.len() != before.alerts.len() {
            return false;
        }
        for (alert, known) in same.alerts.iter_mut().zip(&before.alerts) {
            if alert.state == State::Firing && known.ends_ms.is_some_and(|ends_ms| ends_ms < now_ms.saturating_add(PROLONG_MS)) {
                return false;
            }
            (alert.ends_ms, alert.updated_ms) = (known.ends_ms, known.updated_ms);
        }
        same == **before
    }

    fn receipt(&self) -> Receipt {
        let Some(impact) = &self.after else {
            return Receipt {
                impact: None,
                state: State::Resolved,
                nodes: Vec::new(),
                unmatched: 0,
                warnings: Vec::new(),
                assessed: false,
            };
        };
        let mut warnings = Vec::new();
        if self.posted.truncated > 0 {
            warnings.push(format!("{} alerts of the group were left out by Alertmanager", self.posted.truncated));
        }
        let unmatched = impact.firing().filter(|a| a.matches.is_empty()).count();
        if unmatched > 0 {
            warnings.push(format!("{unmatched} alerts have no node; see /api/v1/alerts/unmatched"));
        }
        let nodes = impact.failing_nodes();
        let assessed = impact.assessment.is_some();
        Receipt { impact: impact.has_nodes().then(|| impact.id.clone()), state: impact.state, nodes, unmatched, warnings, assessed }
    }
}

/// The nodes of alerts, which come sorted by their start: in the graph as of then, else in the graph of now. Rules that create nodes
/// have done so when this returns.
pub(super) async fn find(service: &Service, tenant: &Tenant, alerts: Vec<Alert>, now_ms: i64) -> Result<Vec<Found>> {
    if alerts.is_empty() {
        return Ok(Vec::new());
    }
    let begun = Instant::now();
    let mut graphs: Vec<(Arc<Snapshot>, usize)> = Vec::new();
    let mut last: Option<i64> = None;
    for alert in &alerts {
        let start_ms = alert.starts_ms.min(now_ms);
        let is_late = begun.elapsed() > LOOK_TIME;
        match graphs.last_mut() {
            Some((_, count)) if last == Some(start_ms) || is_late => *count += 1,
            _ => graphs.push((tenant.store.snapshot(AsOf::At(start_ms)).await?, 1)),
        }
        last = Some(start_ms);
    }
    let now = tenant.store.snapshot(AsOf::Now).await?;
    let settings = service.settings();
    let own = Arc::clone(&settings);
    let searched = tokio::task::spawn_blocking(move || {
        let found = search(&own.alerts, &graphs, &now, &alerts);
        (alerts, found)
    });
    let (alerts, mut found) = searched.await.expect("looking up does not panic");
    create(tenant, &alerts, &mut found, now_ms).await?;
    Ok(found)
}

fn search(settings: &Settings, graphs: &[(Arc<Snapshot>, usize)], now: &Snapshot, alerts: &[Alert]) -> Vec<Found> {
    let mut found = Vec::with_capacity(alerts.len());
    let mut rest = alerts;
    for (snapshot, count) in graphs {
        let (these, others) = rest.split_at(*count);
        let finder = Finder::new(snapshot, Topology::Start, settings, these.iter());
        found.extend(these.iter().map(|alert| finder.find(settings, alert)));
        rest = others;
    }
    let missing: Vec<usize> = (0..alerts.len()).filter(|i| found[*i].matches.is_empty()).collect();
    if !missing.is_empty() {
        let finder = Finder::new(now, Topology::Later, settings, missing.iter().map(|i| &alerts[*i]));
        for i in missing {
            found[i] = finder.find(settings, &alerts[i]);
        }
    }
    found
}

/// Puts nodes into the graph that rules want to be there, as of when their alerts began.
async fn create(tenant: &Tenant, alerts: &[Alert], found: &mut [Found], now_ms: i64) -> Result<()> {
    let mut events = Vec::new();
    for (alert, found) in alerts.iter().zip(found.iter_mut()) {
        if found.create.is_empty() {
            continue;
        }
        let at_ms = alert.starts_ms.clamp(0, now_ms);
        let mut event = Event::new(format!("{SOURCE}/{}/{at_ms}", alert.fingerprint), SOURCE, "", at_ms);
        for (key, rule) in std::mem::take(&mut found.create) {
            event.facts.push(Fact::node(key.clone(), NodeBody::default()).with_ttl(CREATED_TTL_MS));
            found.matches.push(Match { node: key, rule, topology: Topology::Start, created: true });
        }
        events.push(event);
    }
    if events.is_empty() {
        return Ok(());
    }
    for outcome in tenant.store.append(events).await? {
        if let store::Outcome::Refused(error) = outcome {
            tracing::warn!(%error, "a node of an alert was not put into the graph");
        }
    }
    Ok(())
}
