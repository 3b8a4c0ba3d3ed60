//! What an operator can set. `ui` reads it from files, flags and environment.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use isobar_block::{Matcher, TenantId};
use parking_lot::RwLock;

use crate::{Error, Result};

/// Raw data is downsampled when a span of two days is complete; it has to be kept for that and a day more.
pub const MIN_RAW_RETENTION: Duration = Duration::from_secs(72 * 3600);

/// Least [`CompactorConfig::memory_bytes`] that is a bound: what is left below that beside [`FIXED_BYTES`] makes outputs too small
/// to be worth a file.
pub const MIN_MEMORY_BYTES: u64 = 96 << 20;

/// What a merge holds whatever its size: a row group on its way into a file, contexts of compression, buffers of each thread.
const FIXED_BYTES: u64 = 64 << 20;

/// Settings of a compactor.
#[derive(Clone, Debug)]
pub struct CompactorConfig {
    /// How long it rests when there is nothing to do.
    pub interval: Duration,
    /// Memory for one merge, all in all; a bound from [`MIN_MEMORY_BYTES`] on, if the allocator keeps nothing that was freed.
    pub memory_bytes: u64,
    /// Is called with `true` when a job begins and with `false` when it has ended: lets the process tell its allocator to keep
    /// nothing that was freed meanwhile. Jobs of one compactor never overlap.
    pub while_working: Option<fn(bool)>,
    /// Lengths of the levels, ascending, each a multiple of the one before: blocks of level n hold data of one aligned span
    /// of `levels[n - 1]`.
    pub levels: Vec<Duration>,
    /// How long after its end a span is first compacted, so that late samples are in blocks.
    pub settle: Duration,
    /// Whether downsampled blocks are made.
    pub downsampling: bool,
    /// How long the files of a removed block stay, for readers that still use them.
    pub delete_delay: Duration,
    /// Age of files that no catalog knows before they are removed.
    pub orphan_age: Duration,
}

impl CompactorConfig {
    /// Memory for what grows with the data: loaded input, labels, encoded output.
    pub(crate) fn working_bytes(&self) -> u64 {
        self.memory_bytes.saturating_sub(FIXED_BYTES).max(self.memory_bytes / 4)
    }
}

impl Default for CompactorConfig {
    fn default() -> Self {
        let hours = |n: u64| Duration::from_secs(n * 3600);
        Self {
            interval: Duration::from_secs(60),
            memory_bytes: 512 << 20,
            while_working: None,
            levels: vec![hours(2), hours(8), hours(48), hours(14 * 24)],
            settle: Duration::from_secs(30 * 60),
            downsampling: true,
            delete_delay: Duration::from_secs(15 * 60),
            orphan_age: hours(24),
        }
    }
}

/// What holds for one tenant.
#[derive(Clone, Debug, Default)]
pub struct TenantRules {
    /// Labels that tell replicas of one series apart.
    pub replica_labels: Vec<String>,
    /// How long raw samples are kept; `None` is for good.
    pub raw_retention: Option<Duration>,
    /// How long 5 m buckets are kept.
    pub five_minutes_retention: Option<Duration>,
    /// How long 1 h buckets are kept.
    pub one_hour_retention: Option<Duration>,
    /// Size of all blocks above which the oldest ones are removed.
    pub max_bytes: Option<u64>,
    /// Series that are kept for a shorter time, by selectors.
    pub selected_retention: Vec<SelectedRetention>,
}

impl TenantRules {
    /// Checks rules that an operator has written.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a retention is 0, if raw data would go before it can have been downsampled although downsampled
    /// data is to stay, or if a selector accepts every series.
    pub fn check(&self, config: &CompactorConfig) -> Result<()> {
        let refuse = |what: &'static str, reason: String| Err(Error::Invalid { what, reason });
        let retentions = [
            ("raw retention", self.raw_retention),
            ("retention of 5 m buckets", self.five_minutes_retention),
            ("retention of 1 h buckets", self.one_hour_retention),
        ];
        if let Some((what, _)) = retentions.into_iter().find(|(_, keep)| keep.is_some_and(|d| d.is_zero())) {
            return refuse(what, "it must be above 0; leave it out to keep data for good".into());
        }
        if self.max_bytes == Some(0) {
            return refuse("size of a tenant's blocks", "it must be above 0; leave it out for no limit".into());
        }
        let stays = |keep: Option<Duration>| keep.is_none_or(|keep| self.raw_retention.is_some_and(|raw| keep > raw));
        if let Some(raw) = self.raw_retention
            && config.downsampling
            && raw < MIN_RAW_RETENTION
            && (stays(self.five_minutes_retention) || stays(self.one_hour_retention))
        {
            let hours = MIN_RAW_RETENTION.as_secs() / 3600;
            return refuse(
                "raw retention",
                format!(
                    "raw data must be kept for {hours} h at least, so that it is downsampled before it goes; keep it longer, keep buckets no longer than raw data, or turn downsampling off"
                ),
            );
        }
        for rule in &self.selected_retention {
            if rule.matchers.iter().all(Matcher::matches_empty) {
                return refuse("retention by selector", "a selector accepts every series; set the raw retention instead".into());
            }
            if rule.keep.is_zero() {
                return refuse("retention by selector", "it must be above 0; drop the series on receipt instead".into());
            }
        }
        Ok(())
    }
}

/// Retention of the series that a selector accepts.
#[derive(Clone, Debug)]
pub struct SelectedRetention {
    /// Which series.
    pub matchers: Vec<Matcher>,
    /// How long.
    pub keep: Duration,
}

/// Rules of all tenants, replaced when the configuration is read again.
#[derive(Clone, Debug, Default)]
pub struct LiveRules(Arc<RwLock<Rules>>);

/// See [`LiveRules`].
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// For tenants that are not named.
    pub default: TenantRules,
    /// For single tenants.
    pub tenants: BTreeMap<String, TenantRules>,
}

impl LiveRules {
    /// These rules, until they are replaced.
    pub fn new(rules: Rules) -> Self {
        Self(Arc::new(RwLock::new(rules)))
    }

    /// Puts other rules in force.
    pub fn replace(&self, rules: Rules) {
        *self.0.write() = rules;
    }

    /// What holds for a tenant.
    pub fn of(&self, tenant: &TenantId) -> TenantRules {
        let rules = self.0.read();
        rules.tenants.get(tenant.as_str()).unwrap_or(&rules.default).clone()
    }
}

#[cfg(test)]
mod tests {
    use isobar_block::MatchOp;

    use super::*;

    #[test]
    fn rules_that_lose_data_are_refused() {
        let config = CompactorConfig::default();
        let days = |n: u64| Some(Duration::from_secs(n * 86_400));
        let select = |op, value: &str, keep: u64| {
            let matchers = vec![Matcher::new("team", op, value).expect("compiles")];
            TenantRules { selected_retention: vec![SelectedRetention { matchers, keep: Duration::from_secs(keep) }], ..Default::default() }
        };
        for fine in [
            TenantRules::default(),
            TenantRules { raw_retention: days(3), ..Default::default() },
            TenantRules { raw_retention: days(1), five_minutes_retention: days(1), one_hour_retention: days(1), ..Default::default() },
            select(MatchOp::Equal, "x", 60),
        ] {
            fine.check(&config).expect("is fine");
        }
        for (wrong, part) in [
            (TenantRules { raw_retention: Some(Duration::ZERO), ..Default::default() }, "above 0"),
            (TenantRules { one_hour_retention: Some(Duration::ZERO), ..Default::default() }, "1 h buckets"),
            (TenantRules { max_bytes: Some(0), ..Default::default() }, "no limit"),
            (TenantRules { raw_retention: days(1), ..Default::default() }, "72 h"),
            (select(MatchOp::Regex, ".*", 60), "every series"),
            (select(MatchOp::Equal, "x", 0), "above 0"),
        ] {
            let error = wrong.check(&config).expect_err("is refused").to_string();
            assert!(error.contains(part), "{error}");
        }
        let without = CompactorConfig { downsampling: false, ..config };
        TenantRules { raw_retention: days(1), ..Default::default() }.check(&without).expect("is fine");
    }

    #[test]
    fn tenants_have_the_default_rules_unless_named() {
        let small = TenantRules { max_bytes: Some(5), ..Default::default() };
        let live = LiveRules::new(Rules { default: TenantRules::default(), tenants: BTreeMap::from([("a".into(), small)]) });
        let (a, b) = (TenantId::new("a").expect("valid"), TenantId::new("b").expect("valid"));
        assert_eq!((live.of(&a).max_bytes, live.of(&b).max_bytes), (Some(5), None));
        live.clone().replace(Rules { default: TenantRules { max_bytes: Some(7), ..Default::default() }, ..Default::default() });
        assert_eq!((live.of(&a).max_bytes, live.of(&b).max_bytes), (Some(7), Some(7)));
    }
}
