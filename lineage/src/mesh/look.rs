//! A look: which of the metrics exist, one query for each, and events of what is worth being said.

use std::sync::Arc;

use hashbrown::HashMap;
use isobar_block::{PromQl, TenantId, VectorSample};

use super::fold::{History, MetricRows, RuleFound, fold, fold_range};
use super::found::Found;
use super::rule::{FAILED, Rule, quoted};
use super::said::{News, Said};
use super::{Metrics, Settings};
use crate::event::Event;
use crate::model::NodeKey;
use crate::service::{Service, Tenant};
use crate::{Outcome, Unresolved};

/// Names of metrics that were not there are looked for again after so long at most.
pub const LONGEST_BACKOFF_MS: i64 = 5 * 60_000;

/// Metrics with other prefixes are looked for so often.
pub const PREFIXES_EVERY_MS: i64 = 10 * 60_000;

/// A metric that gave nothing for so many looks is looked for again before it is asked.
const SILENT_LOOKS: u32 = 10;

/// Most metrics of one rule, which differ by their prefixes.
pub const MAX_METRICS: usize = 16;

/// Why there are no numbers where there is no store.
const NO_STORE: &str = "there is no store of metrics here to ask; ask a server that has one";

/// Facts of one event.
const EVENT_FACTS: usize = 2_000;

/// Which metrics of the rules exist.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    /// By rule, its metrics, each with the looks for which it was silent.
    known: HashMap<String, Vec<(String, u32)>>,
    next_ms: i64,
    backoff_ms: i64,
    prefixes_ms: i64,
    /// The rules that it is for.
    rules: Vec<String>,
}

impl Names {
    /// The rules whose metrics have to be looked for now.
    fn missing<'a>(&mut self, rules: &'a [Rule], now_ms: i64, interval_ms: i64) -> Vec<&'a Rule> {
        let of: Vec<String> = rules.iter().map(|r| format!("{} {}", r.name, r.name_regex())).collect();
        if of != self.rules {
            *self = Self { rules: of, ..Self::default() };
        }
        for metrics in self.known.values_mut() {
            metrics.retain(|(_, silent)| *silent < SILENT_LOOKS);
        }
        let prefixes = now_ms - self.prefixes_ms >= PREFIXES_EVERY_MS;
        let missing = |rule: &&Rule| self.known.get(&rule.name).is_none_or(Vec::is_empty) || (prefixes && rule.prefixed);
        if now_ms < self.next_ms && !prefixes {
            return Vec::new();
        }
        let missing: Vec<&Rule> = rules.iter().filter(missing).collect();
        if prefixes {
            self.prefixes_ms = now_ms;
        }
        self.backoff_ms = (self.backoff_ms * 2).clamp(interval_ms, LONGEST_BACKOFF_MS.max(interval_ms));
        self.next_ms = now_ms + self.backoff_ms;
        missing
    }

    /// Takes note of the names that were found for rules that were missing.
    fn note(&mut self, missing: &[&Rule], names: &[String]) {
        for rule in missing {
            let known = self.known.entry(rule.name.clone()).or_default();
            for name in names.iter().filter(|n| rule.is_of(n)) {
                if !known.iter().any(|(k, _)| k == name) && known.len() < MAX_METRICS {
                    known.push((name.clone(), 0));
                    // A mesh that has just come may soon show more.
                    self.backoff_ms = 0;
                }
            }
        }
    }

    fn metrics(&self, rule: &Rule) -> Vec<String> {
        self.known.get(&rule.name).into_iter().flatten().map(|(name, _)| name.clone()).collect()
    }

    fn answered(&mut self, rule: &Rule, metric: &str, any: bool) {
        for (_, silent) in self.known.get_mut(&rule.name).into_iter().flatten().filter(|(name, _)| name == metric) {
            *silent = if any { 0 } else { *silent + 1 };
        }
    }
}

/// Asks for a tenant.
struct Asker<'a> {
    promql: &'a dyn PromQl,
    tenant: &'a TenantId,
    settings: &'a Settings,
    metrics: &'a Metrics,
    at_ms: i64,
}

impl Asker<'_> {
    /// Names of metrics that exist, of these rules.
    async fn names(&self, rules: &[&Rule]) -> isobar_block::Result<Vec<String>> {
        let regex = rules.iter().map(|r| r.name_regex()).collect::<Vec<_>>().join("|");
        self.metrics.queries.inc();
        let query = format!("group by (__name__) ({{__name__=~{}}})", quoted(&regex));
        let found = self.promql.instant(self.tenant, &query, self.at_ms).await?;
        Ok(found.iter().filter_map(|s| s.labels.get("__name__")).map(str::to_owned).collect())
    }

    /// Which metrics of the rules there are, all looked for.
    async fn all_names(&self, rules: &[Rule]) -> isobar_block::Result<Names> {
        let missing: Vec<&Rule> = rules.iter().collect();
        let mut names = Names::default();
        names.note(&missing, &self.names(&missing).await?);
        Ok(names)
    }

    /// What one metric of a rule shows, and how many rows beyond the limit there are.
    async fn rows(&self, rule: &Rule, metric: &str) -> isobar_block::Result<(Vec<VectorSample>, usize)> {
        let limit = self.settings.max_edges;
        self.metrics.queries.inc();
        let query = rule.query(metric, self.settings.window, limit + 1);
        let mut rows = self.promql.instant(self.tenant, &query, self.at_ms).await?;
        let whole = || rows.iter().enumerate().filter(|(_, s)| s.labels.get(FAILED).is_none());
        let all = whole().count();
        if all <= limit {
            return Ok((rows, 0));
        }
        let least = whole().min_by(|(_, a), (_, b)| a.value.total_cmp(&b.value)).map_or(0, |(i, _)| i);
        rows.swap_remove(least);
        self.metrics.queries.inc();
        let counted = self.promql.instant(self.tenant, &rule.count_query(metric, self.settings.window), self.at_ms).await?;
        Ok((rows, (counted.first().map_or(0.0, |s| s.value) as usize).max(all).saturating_sub(limit)))
    }

    /// What a rule shows.
    async fn rule(&self, rule: &Rule, names: &mut Names) -> isobar_block::Result<RuleFound> {
        let (mut metrics, mut all_cut) = (Vec::new(), 0);
        for metric in names.metrics(rule) {
            let (rows, cut) = self.rows(rule, &metric).await?;
            names.answered(rule, &metric, !rows.is_empty());
            all_cut += cut;
            metrics.push(MetricRows { metric, rows });
        }
        let mut found = fold(rule, &metrics);
        found.cut = all_cut;
        Ok(found)
    }

    /// What all rules show; `names` tells which metrics there are, and learns which are silent.
    async fn all(&self, rules: &[Rule], names: &mut Names) -> (Found, Vec<(Rule, RuleFound)>) {
        let mut found = Found { at_ms: self.at_ms, ..Found::default() };
        let mut by_rule = Vec::new();
        for rule in rules {
            match self.rule(rule, names).await {
                Ok(of_rule) => {
                    found.add(rule, &of_rule);
                    by_rule.push((rule.clone(), of_rule));
                }
                Err(error) => {
                    self.metrics.failures.get_or_create(&Metrics::rule(&rule.name)).inc();
                    tracing::warn!(tenant = %self.tenant, rule = rule.name, %error, "a metric of a mesh could not be asked; the next look tries again");
                    found.unresolved.push(Unresolved::new(format!("mesh rule {}", rule.name), error.to_string()));
                    found.failed = true;
                }
            }
        }
        found.finish(&by_rule);
        (found, by_rule)
    }
}

/// Looks for a tenant, and says what there is to say.
pub(super) async fn look(service: &Service, tenant: &Tenant, at_ms: i64) {
    let Some(promql) = service.promql() else { return };
    let settings = service.settings();
    let settings = &settings.mesh;
    let metrics = &service.metrics().mesh;
    let rules = settings.active();
    let asker = Asker { promql: promql.as_ref(), tenant: &tenant.id, settings, metrics, at_ms };
    let mut names = tenant.mesh.state.lock().names.clone();
    let missing = names.missing(&rules, at_ms, settings.interval);
    if !missing.is_empty() {
        match asker.names(&missing).await {
            Ok(found) => names.note(&missing, &found),
            Err(error) => {
                tracing::warn!(tenant = %tenant.id, %error, "metrics of meshes could not be looked for; a later look tries again");
            }
        }
    }
    let (found, by_rule) = asker.all(&rules, &mut names).await;
    metrics.looks.inc();
    for summary in &found.rules {
        let label = Metrics::rule(&summary.rule);
        metrics.skipped.get_or_create(&label).inc_by((summary.addresses + summary.unnamed) as u64);
        metrics.cut.get_or_create(&label).inc_by(summary.cut as u64);
    }
    let found = Arc::new(found);
    {
        // Whoever sees the edges must find their rates, so that these come first.
        let mut state = tenant.mesh.state.lock();
        state.last = Some(Arc::clone(&found));
        state.names = names;
        state.said.retain(|rule, _| rules.iter().any(|r| r.name == *rule));
    }
    for (rule, rows) in &by_rule {
        let mut said = tenant.mesh.state.lock().said.remove(&rule.name).unwrap_or_default();
        let news = said.news(rule, rows, &found, settings.ttl);
        say(tenant, rule, news, at_ms, &mut said, metrics).await;
        tenant.mesh.state.lock().said.insert(rule.name.clone(), said);
    }
}

/// Appends the facts of a rule. What another process has said at this time is not remembered as said: it may have said less.
async fn say(tenant: &Tenant, rule: &Rule, mut news: News, at_ms: i64, said: &mut Said, metrics: &Metrics) {
    let label = Metrics::rule(&rule.name);
    let facts = std::mem::take(&mut news.facts);
    for (part, facts) in facts.chunks(EVENT_FACTS).enumerate() {
        let mut event = Event::new(format!("mesh/{}/{at_ms}/{part}", rule.name), rule.source.clone(), rule.name.clone(), at_ms);
        event.facts = facts.to_vec();
        match tenant.store.append(vec![event]).await {
            Ok(outcomes) => match outcomes.into_iter().next() {
                Some(Outcome::Stored(_)) => {
                    metrics.facts.get_or_create(&label).inc_by(facts.len() as u64);
                    said.remember(&mut news, part * EVENT_FACTS, facts.len());
                }
                Some(Outcome::Refused(error)) => {
                    metrics.failures.get_or_create(&label).inc();
                    tracing::warn!(tenant = %tenant.id, rule = rule.name, %error, "edges of a mesh were refused; they are tried again when they would expire");
                    said.remember(&mut news, part * EVENT_FACTS, facts.len());
                }
                Some(Outcome::Repeated) | None => {}
            },
            Err(error) => {
                metrics.failures.get_or_create(&label).inc();
                tracing::warn!(tenant = %tenant.id, rule = rule.name, %error, "edges of a mesh were not stored; the next look tries again");
            }
        }
    }
}

/// What all rules show as of a time, without saying it.
pub(super) async fn ask(service: &Service, tenant: &Tenant, at_ms: i64) -> Found {
    let nothing = |reason: String| Found { at_ms, unresolved: vec![Unresolved::new("rates", reason)], failed: true, ..Found::default() };
    let Some(promql) = service.promql() else { return nothing(NO_STORE.into()) };
    let settings = service.settings();
    let settings = &settings.mesh;
    let rules = settings.active();
    let asker = Asker { promql: promql.as_ref(), tenant: &tenant.id, settings, metrics: &service.metrics().mesh, at_ms };
    match asker.all_names(&rules).await {
        Ok(mut names) => asker.all(&rules, &mut names).await.0,
        Err(error) => nothing(format!("metrics of meshes could not be looked for: {error}")),
    }
}

/// Requests per second that come to each node over time, every `step_ms`; what cannot be asked is unresolved.
pub(super) async fn history(
    service: &Service,
    tenant: &Tenant,
    start_ms: i64,
    end_ms: i64,
    step_ms: i64,
) -> (HashMap<NodeKey, Vec<(i64, f64)>>, Vec<Unresolved>) {
    let (mut histories, mut unresolved): (HashMap<NodeKey, History>, _) = (HashMap::new(), Vec::new());
    let Some(promql) = service.promql() else { return (HashMap::new(), vec![Unresolved::new("rates", NO_STORE)]) };
    let settings = service.settings();
    let settings = &settings.mesh;
    let rules: Vec<Rule> = settings.active().into_iter().filter(Rule::counts).collect();
    let asker = Asker { promql: promql.as_ref(), tenant: &tenant.id, settings, metrics: &service.metrics().mesh, at_ms: end_ms };
    let names = match asker.all_names(&rules).await {
        Ok(names) => names,
        Err(error) => {
            return (HashMap::new(), vec![Unresolved::new("rates", format!("metrics of meshes could not be looked for: {error}"))]);
        }
    };
    for rule in &rules {
        let mut metrics = Vec::new();
        for metric in names.metrics(rule) {
            let query = rule.traffic_query(&metric, settings.window.max(step_ms), settings.max_edges);
            asker.metrics.queries.inc();
            match promql.range(&tenant.id, &query, start_ms, end_ms, step_ms).await {
                Ok(series) => metrics.push((metric, series)),
                Err(error) => unresolved.push(Unresolved::new(format!("mesh rule {}", rule.name), error.to_string())),
            }
        }
        for (node, history) in fold_range(rule, &metrics) {
            // Rules may have seen the same requests.
            let kept = histories.entry(node).or_default();
            if history.values().sum::<f64>() > kept.values().sum::<f64>() {
                *kept = history;
            }
        }
    }
    (histories.into_iter().map(|(node, history)| (node, history.into_iter().collect())).collect(), unresolved)
}
