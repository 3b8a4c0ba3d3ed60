//! What happens to impacts between two posts: alerts that are not repeated end, open impacts are assessed anew when the graph or the
//! rules have changed and every so often, alerts without a node try again, closed impacts get their objects, and series are written.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use isobar_block::time;
use tokio::sync::watch;

use super::Alerts;
use super::assess::{Case, Moment, assess};
use super::merge::is_material;
use super::model::{Alert, Assessment, Impact, Reason, State};
use super::receive::find;
use super::series;
use super::state::{Assessed, Change, Matched};
use crate::Result;
use crate::service::{Service, Tenant};

/// How often somebody looks whether there is work.
const TICK: Duration = Duration::from_millis(200);

/// One round of assessments ends after so long; what is left is next.
const ROUND: Duration = Duration::from_secs(2);

/// After a failure the work of a tenant rests so long.
const REST_MS: i64 = 5_000;

/// What is known from the last looks.
#[derive(Debug, Default)]
pub(crate) struct Tending {
    /// By impact, when it was looked at last and in which graph.
    checked: HashMap<String, Checked>,
    graph_version: u64,
    settings_version: u64,
    /// When the graph or the rules were seen to have changed.
    changed_ms: Option<i64>,
    followed_ms: i64,
    series_ms: i64,
    rests_until_ms: i64,
}

#[derive(Clone, Copy, Debug)]
struct Checked {
    at_ms: i64,
    /// Version and time for which the graph was laid out: equal ones are one graph.
    graph: (u64, i64),
}

impl Alerts {
    /// When an impact was assessed last, whether or not the result was new.
    pub(crate) fn checked_ms(&self, id: &str) -> Option<i64> {
        self.tending.lock().checked.get(id).map(|c| c.at_ms)
    }
}

/// Works until told to stop.
pub(super) async fn run(service: Service, mut stop: watch::Receiver<bool>) {
    let settings = service.subscribe();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            _ = tick.tick() => {}
        }
        let (mut open, mut unmatched, mut dropped) = (0, 0, 0);
        for tenant in service.opened() {
            let settings_version = *settings.borrow();
            if let Err(error) = tend(&service, &tenant, settings_version).await {
                service.metrics().alerts.failures.inc();
                tracing::warn!(tenant = %tenant.id, %error, "impacts were not kept up to date; it is tried again");
                tenant.alerts.tending.lock().rests_until_ms = time::now_ms() + REST_MS;
            }
            tenant.alerts.keeper().read(|state| {
                open += state.open.len();
                unmatched += state.unmatched.len();
                dropped += state.unmatched_dropped;
            });
        }
        let metrics = &service.metrics().alerts;
        metrics.open.set(open as i64);
        metrics.unmatched.set(unmatched as i64);
        metrics.unmatched_dropped.set(i64::try_from(dropped).unwrap_or(i64::MAX));
    }
}

async fn tend(service: &Service, tenant: &Tenant, settings_version: u64) -> Result<()> {
    let alerts = &tenant.alerts;
    let now_ms = time::now_ms();
    if now_ms < alerts.tending.lock().rests_until_ms {
        return Ok(());
    }
    if alerts.tending.lock().take_due(now_ms, |t| &mut t.followed_ms, super::keep::FOLLOW_MS) {
        alerts.keeper().refresh().await?;
        alerts.forget_closed();
    }
    end_in_time(service, tenant, now_ms).await?;
    let dirty = alerts.take_dirty();
    let changed = notice_change(service, tenant, settings_version, now_ms);
    if changed {
        retry_unmatched(service, tenant, false).await?;
    }
    if let Err(error) = assess_again(service, tenant, &dirty, changed, now_ms).await {
        alerts.mark_dirty(dirty);
        return Err(error);
    }
    if alerts.keeper().read(|state| state.recent.iter().any(|c| !c.recorded)) {
        alerts.keeper().record_closed().await?;
    }
    let settings = service.settings();
    let every_ms = settings.alerts.series.interval.ms();
    if alerts.tending.lock().take_due(now_ms, |t| &mut t.series_ms, every_ms) {
        series::write(service, tenant, now_ms).await;
    }
    Ok(())
}

impl Tending {
    fn take_due(&mut self, now_ms: i64, last: impl Fn(&mut Self) -> &mut i64, every_ms: i64) -> bool {
        let last = last(self);
        let due = now_ms - *last >= every_ms || now_ms < *last;
        if due {
            *last = now_ms;
        }
        due
    }
}

/// Ends alerts whose end has come. After a start the senders get the time to say that their alerts go on.
async fn end_in_time(service: &Service, tenant: &Tenant, now_ms: i64) -> Result<()> {
    let alerts = &tenant.alerts;
    let grace_until_ms = alerts.opened_ms() + service.settings().alerts.resolve_timeout.ms();
    let open: Vec<Arc<Impact>> = alerts.keeper().read(|state| state.open.values().cloned().collect());
    let mut changes = Vec::new();
    for impact in open {
        let due = |alert: &Alert| {
            let written_ms = alert.ends_ms?;
            let ends_ms = alerts.prolonged_ms(&impact.id, &alert.fingerprint).map_or(written_ms, |ms| ms.max(written_ms));
            let has_grace = now_ms < grace_until_ms && alert.updated_ms < alerts.opened_ms();
            (ends_ms <= now_ms && !has_grace).then(|| (alert.fingerprint.clone(), ends_ms))
        };
        let ends: Vec<_> = impact.firing().filter_map(due).collect();
        if !ends.is_empty() {
            changes.push(Change::Ended { id: impact.id.clone(), alerts: ends });
        }
    }
    alerts.keeper().commit(changes).await
}

/// Whether the graph or the rules have changed and enough time has passed since, so that what is known may be looked at again.
fn notice_change(service: &Service, tenant: &Tenant, settings_version: u64, now_ms: i64) -> bool {
    let mut tending = tenant.alerts.tending.lock();
    let version = tenant.store.version();
    if (tending.graph_version, tending.settings_version) != (version, settings_version) {
        (tending.graph_version, tending.settings_version) = (version, settings_version);
        tending.changed_ms.get_or_insert(now_ms);
    }
    let debounce_ms = service.settings().alerts.debounce.ms();
    let due = tending.changed_ms.is_some_and(|changed_ms| now_ms - changed_ms >= debounce_ms);
    if due {
        tending.changed_ms = None;
    }
    due
}

async fn assess_again(
    service: &Service,
    tenant: &Tenant,
    dirty: &std::collections::BTreeSet<String>,
    changed: bool,
    now_ms: i64,
) -> Result<()> {
    let interval_ms = service.settings().alerts.interval.ms();
    let alerts = &tenant.alerts;
    let mut due: Vec<(Arc<Impact>, Reason)> = Vec::new();
    {
        let mut tending = alerts.tending.lock();
        alerts.keeper().read(|state| {
            tending.checked.retain(|id, _| state.open.contains_key(id));
            for impact in state.open.values().filter(|i| i.has_nodes()) {
                let assessed_ms = impact.assessment.as_ref().map_or(0, |a| a.assessed_ms);
                let last_ms = tending.checked.get(&impact.id).map_or(assessed_ms, |c| c.at_ms.max(assessed_ms));
                if dirty.contains(&impact.id) || assessed_ms == 0 {
                    due.push((Arc::clone(impact), Reason::Posted));
                } else if changed {
                    due.push((Arc::clone(impact), Reason::Changed));
                } else if now_ms - last_ms >= interval_ms {
                    due.push((Arc::clone(impact), Reason::Interval));
                }
            }
        });
    }
    if due.is_empty() {
        return Ok(());
    }
    // Graphs of earlier times serve later ones too, as long as nothing has changed in between.
    due.sort_by_key(|(impact, reason)| (*reason != Reason::Posted, impact.started_ms));
    let moment = Moment::look(service, tenant, alerts.alerting()).await?;
    let begun = Instant::now();
    let mut changes = Vec::new();
    let mut left = due.into_iter();
    for (impact, reason) in left.by_ref() {
        if let Some(assessed) = look_at(service, tenant, &impact, &moment, reason).await? {
            changes.push(Change::Assessed(assessed));
        }
        if begun.elapsed() > ROUND {
            break;
        }
    }
    alerts.mark_dirty(left.map(|(impact, _)| impact.id.clone()));
    alerts.keeper().commit(changes).await
}

/// Assesses one impact; the result if it is new.
async fn look_at(service: &Service, tenant: &Tenant, impact: &Impact, moment: &Moment, reason: Reason) -> Result<Option<Assessed>> {
    let now_ms = time::now_ms();
    let case = Case::of(impact, now_ms);
    let snapshot = tenant.store.snapshot(case.as_of()).await?;
    let graph = (snapshot.version(), snapshot.built_ms());
    let known = tenant.alerts.tending.lock().checked.insert(impact.id.clone(), Checked { at_ms: now_ms, graph });
    if reason == Reason::Changed && known.is_some_and(|k| k.graph == graph) && case.is_of_start() {
        return Ok(None);
    }
    let assessment = assess(tenant, case, moment, reason).await?;
    service.metrics().alerts.assessed(reason, &assessment);
    let before = impact.assessment.as_deref();
    let material = is_material(before, &assessment);
    let is_news =
        material || before.is_none_or(|b| leading_causes(b) != leading_causes(&assessment) || b.unresolved != assessment.unresolved);
    Ok(is_news.then(|| Assessed { id: impact.id.clone(), assessment: Box::new(assessment), material }))
}

fn leading_causes(assessment: &Assessment) -> Vec<&crate::NodeKey> {
    assessment.causes.iter().take(3).map(|c| &c.id).collect()
}

/// What a new try has found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Retried {
    /// Alerts that were tried.
    pub tried: usize,
    /// Those that have a node now.
    pub matched: usize,
}

/// Tries the rules again for alerts that have no node. Those that are over leave the queue if they would find one now, `with_over`.
///
/// # Errors
/// [`crate::Error::Block`] or [`crate::Error::NotWritten`] if the store fails.
pub(crate) async fn retry_unmatched(service: &Service, tenant: &Tenant, with_over: bool) -> Result<Retried> {
    let keeper = tenant.alerts.keeper();
    let (mut open, over) = keeper.read(|state| {
        let without = |impact: &Arc<Impact>| {
            let alerts: Vec<Alert> = impact.firing().filter(|a| a.matches.is_empty()).cloned().collect();
            alerts.into_iter().map(|alert| (impact.id.clone(), alert)).collect::<Vec<_>>()
        };
        let open: Vec<(String, Alert)> = state.open.values().flat_map(without).collect();
        let over: Vec<Alert> = state.unmatched.values().map(|u| &u.alert).filter(|a| a.state == State::Resolved).cloned().collect();
        (open, if with_over { over } else { Vec::new() })
    });
    let mut retried = Retried { tried: open.len() + over.len(), matched: 0 };
    if retried.tried == 0 {
        return Ok(retried);
    }
    open.sort_by_key(|(_, alert)| alert.starts_ms);
    let now_ms = time::now_ms();
    let found = find(service, tenant, open.iter().map(|(_, alert)| alert.clone()).collect(), now_ms).await?;
    let mut by_impact: HashMap<String, Matched> = HashMap::new();
    for ((id, alert), found) in open.into_iter().zip(found) {
        if found.matches.is_empty() && found.tried == alert.tried {
            continue;
        }
        retried.matched += usize::from(!found.matches.is_empty());
        let matched = by_impact.entry(id.clone()).or_insert_with(|| Matched { id, alerts: Vec::new(), assessment: None });
        matched.alerts.push((alert.fingerprint, found.matches, found.tried));
    }
    let newly: HashSet<String> =
        by_impact.values().filter(|m| m.alerts.iter().any(|(_, n, _)| !n.is_empty())).map(|m| m.id.clone()).collect();
    let mut changes: Vec<Change> = by_impact.into_values().map(|m| Change::Matched(Box::new(m))).collect();
    if !over.is_empty() {
        let mut over = over;
        over.sort_by_key(|alert| alert.starts_ms);
        let fingerprints: Vec<String> = over.iter().map(|a| a.fingerprint.clone()).collect();
        let found = find(service, tenant, over, now_ms).await?;
        let done: Vec<String> = fingerprints.into_iter().zip(found).filter(|(_, f)| !f.matches.is_empty()).map(|(f, _)| f).collect();
        retried.matched += done.len();
        if !done.is_empty() {
            changes.push(Change::Dismissed { fingerprints: done });
        }
    }
    keeper.commit(changes).await?;
    tenant.alerts.mark_dirty(newly);
    Ok(retried)
}
