//! Settings of what becomes of blocks: replicas, compaction, retention. What they do is in the crate `compactor`.

use std::time::Duration;

use isobar_compactor::config::{MIN_MEMORY_BYTES, Rules, SelectedRetention};
use isobar_compactor::{CompactorConfig, TenantRules};
use isobar_ingest::units::{format_bytes, format_duration, parse_bytes, parse_duration};

use super::fields::Fields;
use super::setting::{Integer, Kind, Setting, duration, row, size, switch, tree};
use super::yaml::{Node, Value};
use super::{Config, Error, load, tenants};
use crate::selector;

/// Labels that tell replicas apart, by default. `replica` is not among them: it is a label of many genuine series, and what
/// compaction has merged stays merged.
const DEFAULT_REPLICA_LABELS: [&str; 2] = ["prometheus_replica", "__replica__"];

/// Replicas are joined window by window; levels must be whole numbers of windows for compaction not to change an answer.
const WINDOW: Duration = Duration::from_secs(2 * 3600);

/// Files younger than this may belong to a block that is just being written.
const USUAL_UPLOAD_TIME: Duration = Duration::from_secs(3600);

/// Rules of tenants about which nothing is configured.
pub fn default_rules() -> TenantRules {
    TenantRules { replica_labels: DEFAULT_REPLICA_LABELS.map(str::to_owned).to_vec(), ..TenantRules::default() }
}

/// Rows of the compactor, which are the same for all tenants and fixed while it runs.
pub fn compactor() -> Vec<Setting> {
    fn field(c: &mut Config) -> &mut CompactorConfig {
        &mut c.sections.compactor
    }
    vec![
        duration("compactor.interval", "How long the compactor rests when there is nothing to do.", |c| &mut field(c).interval),
        size("compactor.memory", "Memory that one merge of blocks may take.", |c| &mut field(c).memory_bytes),
        row(
            "compactor.levels",
            "LIST",
            "Lengths of the spans of time whose blocks are merged, level by level; each a multiple of the one before.",
            Kind::List,
            |c| &mut field(c).levels,
            |text| list(text).map(parse_duration).collect(),
            |levels| levels.iter().map(|l| format_duration(*l)).collect::<Vec<_>>().join(","),
        ),
        duration("compactor.settle-time", "How long after its end a span is first compacted, so that late samples are in it.", |c| {
            &mut field(c).settle
        }),
        switch("compactor.downsampling", "Whether blocks of 5 m and 1 h buckets are made of old samples.", |c| &mut field(c).downsampling),
        duration("compactor.delete-delay", "How long the files of a replaced block stay, for queries that still read them.", |c| {
            &mut field(c).delete_delay
        }),
        duration("compactor.orphan-age", "Age at which files that belong to no block are removed.", |c| &mut field(c).orphan_age),
    ]
}

/// Rows of the rules, which may differ by tenant and change with a reload.
pub fn rules() -> Vec<Setting> {
    fn field(c: &mut Config) -> &mut TenantRules {
        &mut c.sections.rules
    }
    vec![
        row(
            "replicas.labels",
            "LIST",
            "Labels that tell replicas of one series apart; series that differ only in them are one.",
            Kind::List,
            |c| &mut field(c).replica_labels,
            |text| Ok(list(text).map(str::to_owned).collect()),
            |labels| labels.join(","),
        ),
        period("retention.raw", "How long samples are kept as they were written; 0 is for good.", |c| &mut field(c).raw_retention),
        period("retention.5m", "How long buckets of 5 minutes are kept; 0 is for good.", |c| &mut field(c).five_minutes_retention),
        period("retention.1h", "How long buckets of 1 hour are kept; 0 is for good.", |c| &mut field(c).one_hour_retention),
        row(
            "retention.size",
            "SIZE",
            "Size of all blocks of a tenant above which the oldest are removed; 0 is no limit.",
            Kind::Text,
            |c| &mut field(c).max_bytes,
            |text| parse_bytes(text).map(|bytes| Some(bytes).filter(|b| *b > 0)),
            |bytes| if let Some(bytes) = bytes { format_bytes(bytes.as_u64()) } else { "0".to_owned() },
        ),
        tree(
            "retention.selected",
            "YAML",
            "Series that are kept for a shorter time, such as [{match: '{team=\"x\"}', keep: 7d}].",
            |c| &mut field(c).selected_retention,
            read_selected,
            |selected| show_selected(selected),
        ),
    ]
}

fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

/// A duration where 0 is for good.
fn period(key: &'static str, help: &'static str, field: fn(&mut Config) -> &mut Option<Duration>) -> Setting {
    let parse = |text: &str| parse_duration(text).map(|d| Some(d).filter(|d| !d.is_zero()));
    row(key, "DURATION", help, Kind::Text, field, parse, |d| d.map_or_else(|| "0".to_owned(), format_duration))
}

fn read_selected(node: &Node) -> Result<Vec<SelectedRetention>, String> {
    let items = match &node.value {
        Value::List(items) => items,
        Value::Empty => return Ok(Vec::new()),
        Value::Map(entries) if entries.is_empty() => return Ok(Vec::new()),
        _ => return Err(format!("line {}: write a list of {{match: '{{team=\"x\"}}', keep: 7d}}", node.line)),
    };
    let read = |item: &Node| {
        let mut fields = Fields::of(item.clone(), "retention.selected")?;
        let (text, keep) = (fields.required("match")?, fields.required("keep")?);
        fields.finish(&[])?;
        let refuse = |reason: String| format!("line {}: retention.selected: {reason}", item.line);
        let matchers = selector::parse(&text).map_err(refuse)?;
        let keep = parse_duration(&keep).map_err(refuse)?;
        if keep.is_zero() {
            return Err(refuse(format!("keep of {text} is 0, which would delete every sample at once; give a time such as 7d")));
        }
        Ok(SelectedRetention { matchers, keep })
    };
    items.iter().map(read).collect()
}

fn show_selected(selected: &[SelectedRetention]) -> String {
    let show = |one: &SelectedRetention| {
        // A JSON string is a YAML string, whatever is in it.
        let text = serde_json::Value::from(selector::show(&one.matchers));
        format!("{{match: {text}, keep: {}}}", format_duration(one.keep))
    };
    format!("[{}]", selected.iter().map(show).collect::<Vec<_>>().join(", "))
}

impl Config {
    /// The rules of all tenants.
    pub fn rules(&self) -> Rules {
        let tenants = self.sections.tenant_rules.keys().map(|tenant| (tenant.clone(), self.with_rules_of(tenant).sections.rules));
        Rules { default: self.sections.rules.clone(), tenants: tenants.collect() }
    }

    /// A configuration whose rules are those of a tenant.
    pub fn with_rules_of(&self, tenant: &str) -> Self {
        let mut config = self.clone();
        let rows = rules();
        for (key, node) in self.sections.tenant_rules.get(tenant).into_iter().flatten() {
            let row = rows.iter().find(|row| row.key == *key).expect("only keys of these rows are put in");
            load::assign(row, node, None, &mut config).expect("the value was accepted when it was put in");
        }
        config
    }

    /// Checks compactor and rules.
    ///
    /// # Errors
    /// [`Error`] that names the setting and the remedy.
    pub fn validate_long_term(&self) -> Result<(), Error> {
        validate_compactor(&self.sections.compactor)?;
        self.validate_rules("", &self.sections.rules)?;
        self.rules().tenants.iter().try_for_each(|(tenant, rules)| self.validate_rules(&format!("{}.{tenant}.", tenants::KEY), rules))
    }

    fn validate_rules(&self, place: &str, rules: &TenantRules) -> Result<(), Error> {
        let refuse = |name: &str, reason: String| Err(Error::Value { name: format!("{place}{name}"), reason });
        if let Some(label) = rules.replica_labels.iter().find(|l| l.as_str() == isobar_block::labels::METRIC_NAME) {
            return refuse("replicas.labels", format!("{label} is the name of the metric and cannot tell replicas apart"));
        }
        rules.check(&self.sections.compactor).or_else(|e| refuse("retention", e.to_string()))
    }

    /// Combinations that are allowed and probably not meant.
    pub fn long_term_warnings(&self) -> Vec<String> {
        let (compactor, sections) = (&self.sections.compactor, &self.sections);
        let mut warnings = Vec::new();
        let refresh = Duration::from_millis(sections.blocks.refresh_interval_ms.unsigned_abs());
        if compactor.delete_delay < sections.api.timeout + refresh {
            warnings.push(format!(
                "compactor.delete-delay ({}) is shorter than query.timeout ({}) and blocks.refresh-interval ({}) together: a query may \
                 fail because files that it reads are removed",
                format_duration(compactor.delete_delay),
                format_duration(sections.api.timeout),
                format_duration(refresh),
            ));
        }
        if compactor.orphan_age < USUAL_UPLOAD_TIME {
            warnings.push(format!(
                "compactor.orphan-age ({}) is short: files of a block that is just being written may be taken for orphans",
                format_duration(compactor.orphan_age)
            ));
        }
        warnings
    }
}

fn validate_compactor(config: &CompactorConfig) -> Result<(), Error> {
    let refuse = |name: &str, reason: String| Err(Error::Value { name: format!("compactor.{name}"), reason });
    if config.interval.is_zero() {
        return refuse("interval", "0 would never rest; use a time such as 1m".into());
    }
    if config.memory_bytes < MIN_MEMORY_BYTES {
        return refuse(
            "memory",
            format!("{} is too little; use {} or more", format_bytes(config.memory_bytes), format_bytes(MIN_MEMORY_BYTES)),
        );
    }
    let Some(first) = config.levels.first() else {
        return refuse("levels", "there must be at least one level, such as 2h".into());
    };
    for (below, level) in std::iter::once(&WINDOW).chain(&config.levels).zip(&config.levels) {
        let is_multiple = !level.is_zero() && level.as_millis() % below.as_millis() == 0;
        let ascends = level > below || std::ptr::eq(level, first);
        if !is_multiple || !ascends {
            return refuse(
                "levels",
                format!(
                    "{} after {} is not a multiple of it that is longer; levels ascend, as in 2h,8h,2d,14d, and begin with a multiple of {}",
                    format_duration(*level),
                    format_duration(*below),
                    format_duration(WINDOW),
                ),
            );
        }
    }
    Ok(())
}
