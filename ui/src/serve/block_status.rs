//! What blocks a tenant has and what the compactor makes of them, under `/api/v1/status`.

use std::collections::BTreeMap;

use axum::Router;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use axum::routing::get;
use isobar_block::catalog::{CatalogState, Quarantined, Tombstone};
use isobar_block::{BlockMeta, TenantId, time};
use isobar_compactor::compactor::Status;
use isobar_compactor::plan::{Job, plan};
use isobar_compactor::retention::is_of_rule;
use serde_json::{Value, json};

use super::Shared;
use super::params::tenant_of;
use super::refusal::{Refusal, success};
use crate::selector::{braces, condition};

/// The routes.
pub fn routes() -> Router<Shared> {
    Router::new().route("/api/v1/status/tsdb/blocks", get(blocks)).route("/api/v1/status/compactor", get(compactor))
}

/// The blocks of the tenant, oldest data first, in the shape of Prometheus with more fields.
async fn blocks(State(shared): State<Shared>, headers: HeaderMap) -> Result<Response, Refusal> {
    let state = shared.parts.catalog_state(&tenant_of(&shared, &headers)?).await?;
    let mut blocks = state.blocks.clone();
    blocks.sort_by_key(|b| (b.min_time_ms, b.ulid));
    let shown: Vec<Value> = blocks.iter().map(|block| block_json(block, state.quarantine_of(block.ulid))).collect();
    Ok(success(&json!({"blocks": shown})))
}

/// What is to be done, what runs, and what stands in the way.
async fn compactor(State(shared): State<Shared>, headers: HeaderMap) -> Result<Response, Refusal> {
    let tenant = tenant_of(&shared, &headers)?;
    let state = shared.parts.catalog_state(&tenant).await?;
    let jobs = plan(&state, &shared.parts.rules_of(&tenant), &shared.config().sections.compactor, time::now_ms(), true);
    let mut data = catalog_json(&tenant, &state);
    data["plan"] = jobs.iter().map(job_json).collect::<Result<_, _>>()?;
    data["compactor"] = shared.parts.compactor_status().map(|status| of_tenant(status, &tenant)).transpose()?.into();
    Ok(success(&data))
}

fn job_json(job: &Job) -> Result<Value, Refusal> {
    let mut json = serde_json::to_value(job).map_err(|e| Refusal::internal(e.to_string()))?;
    json["text"] = job.to_string().into();
    Ok(json)
}

/// What others' tenants are called is nobody's business.
fn of_tenant(status: Status, tenant: &TenantId) -> Result<Value, Refusal> {
    let own = status.tenants.into_iter().find(|t| t.tenant == tenant.as_str()).unwrap_or_default();
    Ok(json!({
        "lastSuccessMs": own.last_success_ms,
        "lastError": own.last_error,
        "running": own.running,
        "backlogBytes": own.backlog_bytes,
        "backlogHours": own.backlog_hours,
    }))
}

fn block_json(block: &BlockMeta, quarantined: Option<&Quarantined>) -> Value {
    let mut json = json!({
        "ulid": block.ulid,
        "version": block.format,
        "minTime": block.min_time_ms,
        // The end is outside, as in Prometheus.
        "maxTime": block.max_time_ms.saturating_add(1),
        "stats": {
            "numSamples": block.samples + block.histograms,
            "numFloatSamples": block.samples,
            "numHistogramSamples": block.histograms,
            "numSeries": block.series,
            "numExemplars": block.exemplars,
        },
        "compaction": {"level": block.level, "sources": block.sources},
        "resolutionMs": block.resolution_ms,
        "sizeBytes": block.size_bytes,
        "bytesPerSample": bytes_per_sample(block.size_bytes, block.samples + block.histograms),
        "createdMs": block.created_ms,
        "newestDataMs": block.precedence_ms,
    });
    if let Some(quarantined) = quarantined {
        json["quarantined"] = json!({"sinceMs": quarantined.since_ms, "reason": quarantined.reason});
    }
    json
}

fn catalog_json(tenant: &TenantId, state: &CatalogState) -> Value {
    let mut tiers: BTreeMap<(i64, u32), (u64, u64, u64)> = BTreeMap::new();
    for block in &state.blocks {
        let (blocks, size_bytes, samples) = tiers.entry((block.resolution_ms, block.level)).or_default();
        *blocks += 1;
        *size_bytes += block.size_bytes;
        *samples += block.samples + block.histograms;
    }
    let tier = |((resolution_ms, level), (blocks, size_bytes, samples)): (&(i64, u32), &(u64, u64, u64))| {
        json!({
            "resolutionMs": resolution_ms,
            "level": level,
            "blocks": blocks,
            "sizeBytes": size_bytes,
            "samples": samples,
            "bytesPerSample": bytes_per_sample(*size_bytes, *samples),
        })
    };
    json!({
        "tenant": tenant.as_str(),
        "catalogVersion": state.version,
        "tiers": tiers.iter().map(tier).collect::<Vec<_>>(),
        "tombstones": state.tombstones.iter().map(|t| tombstone_json(t, state)).collect::<Vec<_>>(),
        "quarantined": state.quarantined.iter().map(quarantined_json).collect::<Vec<_>>(),
        "retiredBlocks": state.retired.len(),
    })
}

fn tombstone_json(tombstone: &Tombstone, state: &CatalogState) -> Value {
    let selectors = tombstone.selectors.iter().map(|s| braces(s.iter().map(|m| condition(&m.name, &m.op, &m.value))));
    json!({
        "id": tombstone.id,
        "match": selectors.collect::<Vec<_>>(),
        "minTime": tombstone.min_time_ms,
        "maxTime": tombstone.max_time_ms,
        "createdMs": tombstone.created_ms,
        // Retention by selector is a deletion that moves on day by day.
        "byRetention": is_of_rule(tombstone),
        "blocksLeft": state.blocks.iter().filter(|b| tombstone.applies_to(b)).count(),
    })
}

fn quarantined_json(quarantined: &Quarantined) -> Value {
    json!({"ulid": quarantined.ulid, "sinceMs": quarantined.since_ms, "reason": quarantined.reason})
}

fn bytes_per_sample(size_bytes: u64, samples: u64) -> Option<f64> {
    // Three digits are what a person reads.
    (samples > 0).then(|| (size_bytes as f64 / samples as f64 * 1000.0).round() / 1000.0)
}
