//! The sections that other crates own, joined: their types and defaults stay theirs, their settings get a row here.

use std::collections::BTreeMap;
use std::time::Duration;

use isobar_compactor::{CompactorConfig, TenantRules};
use isobar_ingest::units::{format_duration, parse_duration};

use super::lineage::{self, LineageSection};
use super::setting::{Kind, Setting, count, duration, row, size, switch, text};
use super::yaml::Node;
use super::{Config, long_term};

/// Configuration of the crates below.
#[derive(Clone, Debug)]
pub struct Sections {
    /// The query engine.
    pub engine: isobar_query::EngineConfig,
    /// The query API.
    pub api: isobar_query::http::ApiConfig,
    /// Reading of blocks.
    pub blocks: isobar_block::BlockStoreConfig,
    /// Write-ahead log, head, cutting of blocks. Its directory is set from `data` when the server starts.
    pub storage: isobar_ingest::IngestConfig,
    /// Limits of writes, by tenant.
    pub limits: isobar_ingest::limits::LimitsConfig,
    /// Write requests.
    pub write: isobar_ingest::http::HttpConfig,
    /// Naming of OTLP metrics.
    pub otlp: isobar_ingest::otlp::OtlpConfig,
    /// How a request names its tenant.
    pub tenancy: isobar_ingest::tenant::TenantConfig,
    /// Merging and cleaning of blocks.
    pub compactor: CompactorConfig,
    /// Services and data, and what alerts touch.
    pub lineage: LineageSection,
    /// Replica labels and retention of tenants without their own.
    pub rules: TenantRules,
    /// What differs of [`Sections::rules`] for single tenants: settings and what the file says of them. It is put on top of the
    /// rules when everything has been read, since flags that change the rules count for these tenants too.
    pub tenant_rules: BTreeMap<String, Vec<(&'static str, Node)>>,
}

impl Default for Sections {
    fn default() -> Self {
        Self {
            engine: Default::default(),
            api: Default::default(),
            blocks: Default::default(),
            storage: Default::default(),
            limits: Default::default(),
            write: Default::default(),
            otlp: Default::default(),
            tenancy: Default::default(),
            compactor: CompactorConfig::default(),
            lineage: LineageSection::default(),
            rules: long_term::default_rules(),
            tenant_rules: BTreeMap::new(),
        }
    }
}

impl Sections {
    /// Checks what the crates check.
    ///
    /// # Errors
    /// A message that names the key and the remedy.
    pub fn validate(&self) -> Result<(), String> {
        self.storage.validate()?;
        self.limits.validate()?;
        self.tenancy.validate()
    }
}

/// Rows of these sections.
pub fn table() -> Vec<Setting> {
    let mut rows = query();
    rows.extend(blocks());
    rows.extend(storage());
    rows.extend(write());
    rows.extend(long_term::compactor());
    rows.extend(long_term::rules());
    rows.extend(lineage::table());
    rows.extend(limits());
    rows.extend([
        switch("tenancy.enabled", "Whether the headers X-Scope-OrgID and THANOS-TENANT choose the tenant.", |c| {
            &mut c.sections.tenancy.enabled
        }),
        text("tenancy.default-tenant", "NAME", "Tenant of requests that name none.", |c| &mut c.sections.tenancy.default_tenant),
    ]);
    rows
}

fn query() -> Vec<Setting> {
    vec![
        row(
            "query.threads",
            "NUMBER",
            "Threads that compute; 0 is one for each CPU.",
            Kind::Text,
            |c| &mut c.sections.engine.threads,
            |text| match text.parse() {
                Ok(0) => Ok(cpus()),
                Ok(threads) => Ok(threads),
                Err(_) => Err(format!("{text:?} is not a whole number")),
            },
            |threads| if *threads == cpus() { "0".to_owned() } else { threads.to_string() },
        ),
        duration("query.timeout", "How long a query may take; a request can only ask for less.", |c| &mut c.sections.api.timeout),
        count("query.max-concurrency", "Queries that run at a time.", |c| &mut c.sections.api.max_concurrency),
        count("query.max-waiting", "Queries that may wait for others; further ones are answered with 503.", |c| {
            &mut c.sections.api.max_waiting
        }),
        count("query.max-points", "Points per series that a range query may ask for.", |c| &mut c.sections.api.max_points),
        size("query.max-body-bytes", "Size of the body of a query request.", |c| &mut c.sections.api.max_body_bytes),
        switch(
            "query.auto-downsampling",
            "Whether range queries with long steps may read buckets in place of samples, unless they say otherwise.",
            |c| &mut c.sections.api.auto_downsampling,
        ),
        duration("query.lookback-delta", "How far back an instant selector looks for a sample.", |c| &mut c.sections.engine.lookback),
        duration("query.default-subquery-step", "Step of a subquery that names none.", |c| &mut c.sections.engine.default_subquery_step),
        count("query.max-samples", "Samples that one query may hold in memory at a time.", |c| &mut c.sections.engine.max_samples),
        size("query.memory", "Memory that one query may reserve.", |c| &mut c.sections.engine.query_memory_bytes),
        size("query.memory-total", "Memory that all queries together may reserve.", |c| &mut c.sections.engine.total_memory_bytes),
    ]
}

fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn blocks() -> Vec<Setting> {
    let parse_ms = |text: &str| parse_duration(text).map(|d| d.as_millis() as i64);
    let show_ms = |ms: &i64| format_duration(Duration::from_millis(ms.unsigned_abs()));
    vec![
        row(
            "blocks.refresh-interval",
            "DURATION",
            "How old the list of blocks may get before a query looks for blocks of other processes.",
            Kind::Text,
            |c| &mut c.sections.blocks.refresh_interval_ms,
            parse_ms,
            show_ms,
        ),
        count("blocks.max-open-catalogs", "Tenants whose list of blocks is kept in memory.", |c| &mut c.sections.blocks.max_open_catalogs),
        size("blocks.cache-footers", "Memory for footers and page indexes of blocks.", |c| &mut c.sections.blocks.caches.blocks_bytes),
        size("blocks.cache-series", "Memory for labels of series in blocks.", |c| &mut c.sections.blocks.caches.series_bytes),
        size("blocks.cache-chunk-index", "Memory for the places of chunks, and for timestamps.", |c| {
            &mut c.sections.blocks.caches.chunk_index_bytes
        }),
        size("blocks.cache-chunks", "Memory for encoded chunks.", |c| &mut c.sections.blocks.caches.chunks_bytes),
    ]
}

fn write() -> Vec<Setting> {
    vec![
        size(
            "write.max-inflight-bytes",
            "Memory that all write requests together may take at a time; further ones are answered with 503.",
            |c| &mut c.sections.write.max_inflight_bytes,
        ),
        duration("write.read-timeout", "How long a sender may take to send the body of a request.", |c| &mut c.sections.write.read_timeout),
        duration("write.retry-after", "When a sender shall try again if write.max-inflight-bytes is reached.", |c| {
            &mut c.sections.write.retry_after
        }),
        row(
            "otlp.promote-resource-attributes",
            "LIST",
            "Resource attributes that become labels of every series of the resource.",
            Kind::List,
            |c| &mut c.sections.otlp.promote_resource_attributes,
            |text| Ok(text.split(',').map(str::trim).filter(|a| !a.is_empty()).map(str::to_owned).collect()),
            |list| list.join(","),
        ),
        switch(
            "otlp.keep-identifying-resource-attributes",
            "Whether target_info also has service.name, service.namespace and service.instance.id.",
            |c| &mut c.sections.otlp.keep_identifying_resource_attributes,
        ),
        switch("otlp.promote-scope-metadata", "Whether name, version and attributes of the instrumentation scope become labels.", |c| {
            &mut c.sections.otlp.promote_scope_metadata
        }),
    ]
}

fn storage() -> Vec<Setting> {
    fn field(c: &mut Config) -> &mut isobar_ingest::IngestConfig {
        &mut c.sections.storage
    }
    vec![
        size("storage.wal-segment-bytes", "A segment of the write-ahead log is ended at this size.", |c| &mut field(c).wal_segment_bytes),
        size(
            "storage.wal-cut-bytes",
            "Blocks are cut when the write-ahead log has grown by this much; bounds how long a start after a crash takes.",
            |c| &mut field(c).wal_cut_bytes,
        ),
        size(
            "storage.wal-max-bytes",
            "Writes are refused when the write-ahead log is this big, which happens while the object store fails.",
            |c| &mut field(c).wal_max_bytes,
        ),
        size("storage.wal-max-queued-bytes", "Writes are refused while this much waits for the disk.", |c| {
            &mut field(c).wal_max_queued_bytes
        }),
        duration("storage.wal-commit-timeout", "A write is answered with 503 if the disk has not taken it after this time.", |c| {
            &mut field(c).wal_commit_timeout
        }),
        switch("storage.wal-skip-damaged", "Start in spite of damage in the write-ahead log; what cannot be read is lost.", |c| {
            &mut field(c).wal_skip_damaged
        }),
        duration("storage.cut-interval", "Blocks are cut this long after the last cut.", |c| &mut field(c).cut_interval),
        size("storage.head-cut-bytes", "Blocks are cut when the heads take this much memory.", |c| &mut field(c).head_cut_bytes),
        size("storage.head-max-bytes", "Writes are refused when the heads take this much memory.", |c| &mut field(c).head_max_bytes),
        size("storage.block-bytes", "A block is ended at about this size; a cut may write several.", |c| &mut field(c).block_bytes),
        duration("storage.series-idle-time", "A series without samples for this long leaves the head.", |c| &mut field(c).series_idle_time),
        count("storage.exemplars-per-tenant", "Exemplars that the head of a tenant holds; the oldest give way.", |c| {
            &mut field(c).exemplars_per_tenant
        }),
        count("storage.metadata-per-tenant", "Metric names of which the head of a tenant knows metadata.", |c| {
            &mut field(c).metadata_per_tenant
        }),
        count("storage.max-tenants", "Tenants; requests of further ones are refused.", |c| &mut field(c).max_tenants),
        duration(
            "storage.shutdown-timeout",
            "How long a stop may wait for the object store; the rest is read from the log at the next start.",
            |c| &mut field(c).shutdown_timeout,
        ),
    ]
}

/// Rows of the limits of tenants.
pub fn limits() -> Vec<Setting> {
    fn field(c: &mut Config) -> &mut isobar_ingest::limits::Limits {
        &mut c.sections.limits.defaults
    }
    vec![
        count("limits.max-active-series", "Series that the head holds for a tenant at a time; 0 is no limit.", |c| {
            &mut field(c).max_active_series
        }),
        count("limits.ingestion-rate", "Samples a second of a tenant; 0 is no limit.", |c| &mut field(c).ingestion_rate),
        count("limits.ingestion-burst-size", "Samples of a tenant that may come at once; 0 is ten times the rate.", |c| {
            &mut field(c).ingestion_burst_size
        }),
        count("limits.max-label-names-per-series", "Labels of a series, __name__ included; 0 is no limit.", |c| {
            &mut field(c).max_label_names_per_series
        }),
        count("limits.max-label-name-length", "Bytes of a label name; 0 is no limit.", |c| &mut field(c).max_label_name_length),
        count("limits.max-label-value-length", "Bytes of a label value; 0 is no limit.", |c| &mut field(c).max_label_value_length),
        count("limits.max-metadata-length", "Bytes of help and unit, longer ones are cut; 0 is no limit.", |c| {
            &mut field(c).max_metadata_length
        }),
        size("limits.max-request-bytes", "Size of a write request as it is sent.", |c| &mut field(c).max_request_bytes),
        size("limits.max-decoded-request-bytes", "Memory that a write request may take when it is decoded.", |c| {
            &mut field(c).max_decoded_request_bytes
        }),
        duration("limits.out-of-order-time-window", "How much older than the newest sample of its series a sample may be.", |c| {
            &mut field(c).out_of_order_time_window
        }),
        duration("limits.creation-grace-period", "How far in the future a sample may be.", |c| &mut field(c).creation_grace_period),
    ]
}
