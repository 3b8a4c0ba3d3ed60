//! Asks the store for what a forecast needs: traffic of the mesh, loads by the queries, and both over the last hours.

use futures::StreamExt;
use hashbrown::HashMap;
use isobar_block::{Labels, PromQl, TenantId, time};

use super::chain::Chain;
use super::forecast::{Load, Numbers};
use super::query::LoadQuery;
use crate::mesh::{self, pattern};
use crate::service::{Service, Tenant};
use crate::snapshot::{EdgeIdx, NodeIdx, Snapshot};
use crate::{AsOf, Result, Unresolved};

/// Points over the history.
pub const POINTS: i64 = 72;

/// Queries that are asked at a time.
const QUERIES_AT_ONCE: usize = 4;

/// Times and whom to ask.
struct Asker<'a> {
    promql: &'a dyn PromQl,
    tenant: &'a TenantId,
    snapshot: &'a Snapshot,
    chain: &'a Chain,
    start_ms: i64,
    end_ms: i64,
    step_ms: i64,
}

/// Gathers everything about the chain behind an entry.
pub(super) async fn gather(service: &Service, tenant: &Tenant, snapshot: &Snapshot, entry: NodeIdx, as_of: AsOf) -> Result<Numbers> {
    let found = mesh::found(service, tenant, as_of).await;
    let mut unresolved = found.unresolved.clone();
    let mut rates: HashMap<NodeIdx, f64> = HashMap::new();
    for (key, traffic) in &found.nodes {
        if let Some(node) = snapshot.find(key) {
            // Names of one node may have been seen by several rules, which see the same requests.
            let rate = rates.entry(node).or_default();
            *rate = rate.max(traffic.rate);
        }
    }
    let mut calls: HashMap<EdgeIdx, f64> = HashMap::new();
    for ((from, to), traffic) in &found.edges {
        let (Some(from), Some(to)) = (snapshot.find(from), snapshot.find(to)) else { continue };
        if let Some((edge, _)) = snapshot.providers(from).find(|(_, n)| *n == to) {
            let rate = calls.entry(edge).or_default();
            *rate = rate.max(traffic.rate);
        }
    }
    let chain = Chain::new(snapshot, entry, &rates, &calls);
    let (mut loads, mut history) = (HashMap::new(), HashMap::new());
    match service.promql() {
        None => unresolved.push(Unresolved::new("load", "there is no store of metrics here to ask; ask a server that has one")),
        Some(promql) => {
            let settings = service.settings();
            let at_ms = match as_of {
                AsOf::Now => time::now_ms(),
                AsOf::At(at_ms) => at_ms,
            };
            let step_ms = (settings.capacity.history / POINTS).max(1_000);
            let end_ms = at_ms - at_ms.rem_euclid(step_ms);
            let start_ms = end_ms - settings.capacity.history;
            let asker = Asker { promql: promql.as_ref(), tenant: &tenant.id, snapshot, chain: &chain, start_ms, end_ms, step_ms };
            loads = asker.loads(settings.capacity.active(), at_ms, &mut unresolved).await;
            if !loads.is_empty() {
                let (by_key, failed) = mesh::history(service, tenant, start_ms, end_ms, step_ms).await;
                unresolved.extend(failed);
                for (key, values) in by_key {
                    if let Some(node) = snapshot.find(&key).filter(|n| chain.place(*n).is_some()) {
                        history.insert(node, values);
                    }
                }
            }
        }
    }
    Ok(Numbers { chain, loads, rates: history, unresolved })
}

impl Asker<'_> {
    /// Loads by node, as of `at_ms` and over the last hours.
    async fn loads(&self, queries: Vec<LoadQuery>, at_ms: i64, unresolved: &mut Vec<Unresolved>) -> HashMap<NodeIdx, Vec<Load>> {
        let asked = queries.into_iter().map(|query| async move {
            let answer = self.query(&query, at_ms).await;
            (query.name, answer)
        });
        let mut answers = futures::stream::iter(asked).buffered(QUERIES_AT_ONCE);
        let mut loads: HashMap<NodeIdx, Vec<Load>> = HashMap::new();
        while let Some((name, answer)) = answers.next().await {
            match answer {
                Ok(of_query) => of_query.into_iter().for_each(|(node, load)| loads.entry(node).or_default().push(load)),
                Err(error) => unresolved.push(Unresolved::new(format!("capacity query {name}"), error.to_string())),
            }
        }
        loads
    }

    /// What one query tells of the chain.
    async fn query(&self, query: &LoadQuery, at_ms: i64) -> isobar_block::Result<HashMap<NodeIdx, Load>> {
        let load = |utilisation, throughput| Load {
            query: query.name.clone(),
            resource: query.resource.clone(),
            utilisation,
            throughput,
            history: Vec::new(),
        };
        let mut loads: HashMap<NodeIdx, Load> = HashMap::new();
        if let Some(expression) = &query.utilisation {
            for (node, value) in self.instant(query, expression, at_ms).await? {
                let kept = loads.entry(node).or_insert_with(|| load(value, None));
                kept.utilisation = kept.utilisation.max(value);
            }
            if !loads.is_empty() {
                let history = self.range(query, expression, f64::max).await?;
                loads.iter_mut().for_each(|(node, load)| load.history = history.get(node).cloned().unwrap_or_default());
            }
        }
        if let (Some(used), Some(limit)) = (&query.throughput, &query.limit) {
            let sum = |values: Vec<(NodeIdx, f64)>| {
                let mut sums: HashMap<NodeIdx, f64> = HashMap::new();
                values.into_iter().for_each(|(node, value)| *sums.entry(node).or_default() += value);
                sums
            };
            let used_now = sum(self.instant(query, used, at_ms).await?);
            if used_now.is_empty() {
                return Ok(loads);
            }
            let limits = sum(self.instant(query, limit, at_ms).await?);
            let history = self.range(query, used, |a, b| a + b).await?;
            for (node, used) in used_now {
                let Some(limit) = limits.get(&node).copied().filter(|l| *l > 0.0) else { continue };
                let mut of_node = load(used / limit, Some((used, limit)));
                of_node.history = history.get(&node).into_iter().flatten().map(|(t, v)| (*t, v / limit)).collect();
                loads.insert(node, of_node);
            }
        }
        Ok(loads)
    }

    async fn instant(&self, query: &LoadQuery, expression: &str, at_ms: i64) -> isobar_block::Result<Vec<(NodeIdx, f64)>> {
        let rows = self.promql.instant(self.tenant, expression, at_ms).await?;
        let finite = rows.into_iter().filter(|r| r.value.is_finite());
        Ok(finite.filter_map(|row| Some((self.node(query, &row.labels)?, row.value))).collect())
    }

    async fn range(
        &self,
        query: &LoadQuery,
        expression: &str,
        join: fn(f64, f64) -> f64,
    ) -> isobar_block::Result<HashMap<NodeIdx, Vec<(i64, f64)>>> {
        let series = self.promql.range(self.tenant, expression, self.start_ms, self.end_ms, self.step_ms).await?;
        let mut by_node: HashMap<NodeIdx, std::collections::BTreeMap<i64, f64>> = HashMap::new();
        for series in series {
            let Some(node) = self.node(query, &series.labels) else { continue };
            let values = by_node.entry(node).or_default();
            for (t, value) in series.values.into_iter().filter(|(_, v)| v.is_finite()) {
                values.entry(t).and_modify(|v| *v = join(*v, value)).or_insert(value);
            }
        }
        Ok(by_node.into_iter().map(|(node, values)| (node, values.into_iter().collect())).collect())
    }

    /// The node of the chain that labels name.
    fn node(&self, query: &LoadQuery, labels: &Labels) -> Option<NodeIdx> {
        let found = pattern::candidates(&query.node, labels).find_map(|key| self.snapshot.find(&key))?;
        self.chain.place(found).map(|_| found)
    }
}
