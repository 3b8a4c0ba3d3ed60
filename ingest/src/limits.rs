//! The limits of a tenant: their defaults, the configuration that overrides them, and the checks that need nothing but a
//! label set or a request. Limits on time and on the number of series are kept by the head, which knows both.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use isobar_block::{Exemplar, LabelsRef, Metadata, TenantId};
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};

use crate::decoded::{RejectReason, shorten};
use crate::units::{self, Period, Size};

/// Limits of one tenant. For those that count something, 0 means that there is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Series that the head holds for the tenant at a time.
    pub max_active_series: u64,
    /// Samples and histograms a second, averaged over the burst. Without a limit by default, since a Prometheus drops what
    /// is answered with 429 unless it is told otherwise (`retry_on_http_429`).
    pub ingestion_rate: u64,
    /// Samples and histograms that may come at once. 0 takes ten times `ingestion_rate`.
    pub ingestion_burst_size: u64,
    /// Labels of a series, `__name__` included.
    pub max_label_names_per_series: u64,
    /// Bytes of a label name.
    pub max_label_name_length: u64,
    /// Bytes of a label value.
    pub max_label_value_length: u64,
    /// Bytes of the help and of the unit of a metric; longer ones are cut, not refused.
    pub max_metadata_length: u64,
    /// Bytes of a request, compressed as well as uncompressed.
    #[serde(with = "units::bytes")]
    pub max_request_bytes: u64,
    /// Bytes that a request may take when it is decoded.
    #[serde(with = "units::bytes")]
    pub max_decoded_request_bytes: u64,
    /// How much older than the newest sample of its series a sample may be. An empty store accepts any old timestamp.
    #[serde(with = "units::duration")]
    pub out_of_order_time_window: Duration,
    /// How far in the future a sample may be.
    #[serde(with = "units::duration")]
    pub creation_grace_period: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_active_series: 10_000_000,
            ingestion_rate: 0,
            ingestion_burst_size: 0,
            max_label_names_per_series: 60,
            max_label_name_length: 1024,
            max_label_value_length: 4096,
            max_metadata_length: 1024,
            max_request_bytes: 32 << 20,
            max_decoded_request_bytes: 128 << 20,
            out_of_order_time_window: Duration::from_secs(2 * 3600),
            creation_grace_period: Duration::from_secs(600),
        }
    }
}

/// What a tenant has that differs from the defaults. The fields are those of [`Limits`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "each field is documented at Limits")]
pub struct LimitsOverride {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_active_series: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingestion_rate: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingestion_burst_size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_label_names_per_series: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_label_name_length: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_label_value_length: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_metadata_length: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_request_bytes: Option<Size>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_decoded_request_bytes: Option<Size>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub out_of_order_time_window: Option<Period>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub creation_grace_period: Option<Period>,
}

/// The section `limits` of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// Limits of every tenant.
    pub defaults: Limits,
    /// What differs, by tenant name.
    pub tenants: BTreeMap<String, LimitsOverride>,
}

impl LimitsConfig {
    /// The limits of a tenant.
    pub fn of(&self, tenant: &TenantId) -> Limits {
        let d = self.defaults;
        let Some(o) = self.tenants.get(tenant.as_str()) else { return d };
        Limits {
            max_active_series: o.max_active_series.unwrap_or(d.max_active_series),
            ingestion_rate: o.ingestion_rate.unwrap_or(d.ingestion_rate),
            ingestion_burst_size: o.ingestion_burst_size.unwrap_or(d.ingestion_burst_size),
            max_label_names_per_series: o.max_label_names_per_series.unwrap_or(d.max_label_names_per_series),
            max_label_name_length: o.max_label_name_length.unwrap_or(d.max_label_name_length),
            max_label_value_length: o.max_label_value_length.unwrap_or(d.max_label_value_length),
            max_metadata_length: o.max_metadata_length.unwrap_or(d.max_metadata_length),
            max_request_bytes: o.max_request_bytes.map_or(d.max_request_bytes, |s| s.0),
            max_decoded_request_bytes: o.max_decoded_request_bytes.map_or(d.max_decoded_request_bytes, |s| s.0),
            out_of_order_time_window: o.out_of_order_time_window.map_or(d.out_of_order_time_window, |p| p.0),
            creation_grace_period: o.creation_grace_period.map_or(d.creation_grace_period, |p| p.0),
        }
    }

    /// Checks what serde cannot: names of tenants, and sizes that must not be 0 or beyond 1 GiB.
    ///
    /// # Errors
    /// A message that names the key and the remedy.
    pub fn validate(&self) -> Result<(), String> {
        const MAX_REQUEST_BYTES: u64 = 1 << 30;
        for name in self.tenants.keys() {
            TenantId::new(name).map_err(|e| format!("limits.tenants: {e}"))?;
        }
        let tenants = self
            .tenants
            .keys()
            .map(|name| (format!("limits.tenants.{name}"), TenantId::new(name).map(|t| self.of(&t)).unwrap_or(self.defaults)));
        for (section, limits) in std::iter::once(("limits.defaults".to_owned(), self.defaults)).chain(tenants) {
            for (key, bytes) in
                [("max_request_bytes", limits.max_request_bytes), ("max_decoded_request_bytes", limits.max_decoded_request_bytes)]
            {
                if bytes == 0 || bytes > MAX_REQUEST_BYTES {
                    return Err(format!(
                        "{section}.{key} is {}; use 1B to {}",
                        units::format_bytes(bytes),
                        units::format_bytes(MAX_REQUEST_BYTES)
                    ));
                }
            }
        }
        Ok(())
    }
}

/// The limits in force; clones share them, so that reloading the configuration changes them everywhere.
#[derive(Clone, Debug, Default)]
pub struct LiveLimits(Arc<RwLock<LimitsConfig>>);

impl LiveLimits {
    /// Limits that start as `config`.
    pub fn new(config: LimitsConfig) -> Self {
        Self(Arc::new(RwLock::new(config)))
    }

    /// The limits of a tenant now.
    pub fn of(&self, tenant: &TenantId) -> Limits {
        self.0.read().of(tenant)
    }

    /// Puts other limits in force.
    pub fn replace(&self, config: LimitsConfig) {
        *self.0.write() = config;
    }
}

impl Limits {
    /// Checks the number and the lengths of labels; done once for a series, when it is seen first.
    ///
    /// # Errors
    /// The limit that is exceeded.
    pub fn check_labels(&self, labels: LabelsRef<'_>) -> Result<(), RejectReason> {
        let exceeds = |n: usize, limit: u64| limit != 0 && n as u64 > limit;
        let count = labels.iter().count();
        if exceeds(count, self.max_label_names_per_series) {
            return Err(RejectReason::TooManyLabels { count, allowed: self.max_label_names_per_series as usize });
        }
        for (name, value) in labels.iter() {
            let (name_bytes, value_bytes) = (name.len(), value.len());
            if exceeds(name_bytes, self.max_label_name_length) {
                let allowed_bytes = self.max_label_name_length as usize;
                return Err(RejectReason::LabelNameTooLong { name: shorten(name), length_bytes: name_bytes, allowed_bytes });
            }
            if exceeds(value_bytes, self.max_label_value_length) {
                let allowed_bytes = self.max_label_value_length as usize;
                return Err(RejectReason::LabelValueTooLong { name: shorten(name), length_bytes: value_bytes, allowed_bytes });
            }
        }
        Ok(())
    }

    /// Checks that the labels of an exemplar have 128 characters at most, which OpenMetrics and Prometheus require.
    ///
    /// # Errors
    /// [`RejectReason::InvalidExemplar`].
    pub fn check_exemplar(&self, exemplar: &Exemplar) -> Result<(), RejectReason> {
        const MAX_CHARACTERS: usize = 128;
        let characters: usize = exemplar.labels.iter().map(|(name, value)| name.chars().count() + value.chars().count()).sum();
        if characters > MAX_CHARACTERS {
            let rule = format!("its labels have {characters} characters, {MAX_CHARACTERS} are allowed");
            return Err(RejectReason::InvalidExemplar { timestamp_ms: exemplar.timestamp_ms, rule });
        }
        Ok(())
    }

    /// Cuts help texts and units that are too long.
    pub fn cut_metadata(&self, metadata: &mut [(String, Metadata)]) {
        if self.max_metadata_length == 0 {
            return;
        }
        for (_, metadata) in metadata {
            for text in [&mut metadata.help, &mut metadata.unit] {
                if text.len() as u64 > self.max_metadata_length {
                    let mut end = self.max_metadata_length as usize;
                    while !text.is_char_boundary(end) {
                        end -= 1;
                    }
                    text.truncate(end);
                }
            }
        }
    }

    /// Samples that may come at once.
    pub fn burst(&self) -> u64 {
        if self.ingestion_burst_size == 0 { self.ingestion_rate.saturating_mul(10) } else { self.ingestion_burst_size }
    }
}

/// Token buckets for `ingestion_rate`, one for each tenant that has such a limit.
#[derive(Debug, Default)]
pub struct RateLimiter {
    buckets: Mutex<HashMap<TenantId, Bucket>>,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl RateLimiter {
    /// Buckets that are kept. Beyond that, the one that was filled longest ago is forgotten, which is to say full.
    pub const MAX_BUCKETS: usize = 10_000;

    /// Takes `samples` tokens of a tenant. A request that is larger than the burst passes when the bucket is full, and
    /// leaves a debt; otherwise it could never pass.
    ///
    /// # Errors
    /// How long to wait until the request can pass.
    pub fn take(&self, tenant: &TenantId, samples: u64, limits: &Limits, now: Instant) -> Result<(), Duration> {
        if limits.ingestion_rate == 0 {
            return Ok(());
        }
        let (rate, burst) = (limits.ingestion_rate as f64, limits.burst() as f64);
        let mut buckets = self.buckets.lock();
        if buckets.len() >= Self::MAX_BUCKETS && !buckets.contains_key(tenant) {
            let oldest = buckets.iter().min_by_key(|(_, b)| b.filled).map(|(t, _)| t.clone());
            oldest.map(|t| buckets.remove(&t));
        }
        let bucket = buckets.entry(tenant.clone()).or_insert(Bucket { tokens: burst, filled: now });
        bucket.tokens = (bucket.tokens + now.saturating_duration_since(bucket.filled).as_secs_f64() * rate).min(burst);
        bucket.filled = now;
        let needed = (samples as f64).min(burst);
        if bucket.tokens < needed {
            return Err(Duration::from_secs_f64((needed - bucket.tokens) / rate));
        }
        bucket.tokens -= samples as f64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use isobar_block::Labels;
    use serde::de::IntoDeserializer;
    use serde::de::value::{Error, MapDeserializer};

    use super::*;

    #[test]
    fn overrides_replace_single_values() {
        let mut config = LimitsConfig::default();
        let team = TenantId::new("team").expect("valid");
        config.tenants.insert(
            "team".into(),
            LimitsOverride { max_active_series: Some(5), out_of_order_time_window: Some(Period(Duration::ZERO)), ..Default::default() },
        );
        assert_eq!(config.of(&TenantId::default()), Limits::default());
        let expected = Limits { max_active_series: 5, out_of_order_time_window: Duration::ZERO, ..Limits::default() };
        assert_eq!(config.of(&team), expected);
        assert_eq!(config.validate(), Ok(()));
        config.defaults.max_request_bytes = 0;
        assert!(config.validate().expect_err("0 bytes").contains("limits.defaults.max_request_bytes"));
        config = LimitsConfig::default();
        config.tenants.insert("a/b".into(), LimitsOverride::default());
        assert!(config.validate().is_err());
    }

    #[test]
    fn reads_units_and_refuses_unknown_keys() {
        let read = |key: &'static str, value: &'static str| {
            let map: MapDeserializer<'_, _, Error> = MapDeserializer::new([(key, value)].into_iter());
            Limits::deserialize(map.into_deserializer())
        };
        assert_eq!(read("max_request_bytes", "1MiB").expect("valid").max_request_bytes, 1 << 20);
        assert_eq!(read("creation_grace_period", "5m").expect("valid").creation_grace_period, Duration::from_secs(300));
        assert!(read("max_request_byte", "1MiB").expect_err("unknown").to_string().contains("max_request_byte"));
        assert!(read("creation_grace_period", "5 minutes").is_err());
    }

    #[test]
    fn checks_labels() {
        let limits = Limits { max_label_names_per_series: 2, max_label_name_length: 8, max_label_value_length: 3, ..Limits::default() };
        let check = |pairs: &[(&str, &str)], expected: Option<&str>| {
            let labels = Labels::from_pairs(pairs.iter().copied()).expect("valid");
            assert_eq!(limits.check_labels(labels.as_ref()).err().map(|r| r.code()), expected);
        };
        check(&[("__name__", "up"), ("b", "123")], None);
        check(&[("__name__", "up"), ("b", "1"), ("c", "1")], Some("max_label_names_per_series"));
        check(&[("__name__", "up"), ("instance2", "1")], Some("label_name_too_long"));
        check(&[("__name__", "up"), ("b", "1234")], Some("label_value_too_long"));
    }

    #[test]
    fn rate_with_burst() {
        let limiter = RateLimiter::default();
        let tenant = TenantId::default();
        let limits = Limits { ingestion_rate: 100, ingestion_burst_size: 200, ..Limits::default() };
        let start = Instant::now();
        assert_eq!(limiter.take(&tenant, 150, &limits, start), Ok(()));
        assert_eq!(limiter.take(&tenant, 150, &limits, start), Err(Duration::from_secs(1)));
        assert_eq!(limiter.take(&tenant, 150, &limits, start + Duration::from_secs(1)), Ok(()));
        let later = start + Duration::from_secs(60);
        assert_eq!(limiter.take(&tenant, 500, &limits, later), Ok(()), "larger than the burst, with a full bucket");
        assert!(limiter.take(&tenant, 1, &limits, later + Duration::from_secs(2)).is_err(), "the debt is paid back first");
        assert_eq!(limiter.take(&tenant, 1_000_000, &Limits::default(), later), Ok(()), "no limit");
    }
}
