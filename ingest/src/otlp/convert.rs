//! Metrics of an OTLP request as series: one function for each type of metric.

use isobar_block::{Exemplar, Labels, Metadata, MetricType, stale_nan};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::exemplar::Value as ExemplarValue;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as NumberValue;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, DataPointFlags, Exemplar as OtlpExemplar, ExponentialHistogramDataPoint, HistogramDataPoint, Metric,
    NumberDataPoint, ResourceMetrics, SummaryDataPoint,
};

use super::attributes::{self, LabelMap, push_canonical};
use super::naming::{Kind, metric_name};
use super::{MESSAGE, OtlpConfig, buckets};
use crate::decoded::{DecodedRequest, DecodedSeries, LabelForm, RejectReason, Rejection, Sample, shorten};
use crate::wire::{Budget, DecodeError};

const NANOS_PER_MILLI: u64 = 1_000_000;
/// Exemplars of OpenMetrics have this many characters of labels at most; attributes are left out when there are more.
const MAX_EXEMPLAR_CHARACTERS: usize = 128;

/// Fills `request` from a message.
///
/// # Errors
/// [`DecodeError::TooLarge`] if the series take more than `max_decoded_bytes`.
pub(super) fn convert(
    message: &ExportMetricsServiceRequest,
    config: &OtlpConfig,
    max_decoded_bytes: usize,
    request: &mut DecodedRequest,
) -> Result<(), DecodeError> {
    let mut budget = Budget::new(max_decoded_bytes);
    for resource in &message.resource_metrics {
        let labels = attributes::of_resource(resource.resource.as_ref(), config);
        let mut newest_ms = None;
        for scope in &resource.scope_metrics {
            let scope_labels = attributes::of_scope(scope.scope.as_ref(), &scope.schema_url, config);
            for metric in &scope.metrics {
                let mut family = Family {
                    request,
                    budget: &mut budget,
                    resource: &labels,
                    scope: &scope_labels,
                    name: String::new(),
                    metadata: None,
                    newest_ms: &mut newest_ms,
                };
                family.metric(metric)?;
            }
        }
        target_info(resource, newest_ms, config, &mut budget, request)?;
    }
    match u32::try_from(request.label_bytes.len()) {
        Ok(_) => Ok(()),
        Err(_) => Err(DecodeError::Protobuf { message: MESSAGE, reason: "its labels take more than 4 GiB".into() }),
    }
}

/// `target_info` with one sample at the newest timestamp of the resource.
fn target_info(
    resource: &ResourceMetrics,
    newest_ms: Option<i64>,
    config: &OtlpConfig,
    budget: &mut Budget,
    request: &mut DecodedRequest,
) -> Result<(), DecodeError> {
    let (Some(timestamp_ms), Some(labels)) = (newest_ms, attributes::of_target_info(resource.resource.as_ref(), config)) else {
        return Ok(());
    };
    let none = LabelMap::new();
    let mut family =
        Family { request, budget, resource: &none, scope: &none, name: "target_info".into(), metadata: None, newest_ms: &mut None };
    family.describe(Metadata { metric_type: MetricType::Gauge, help: "Target metadata".into(), unit: String::new() });
    family.series("", &labels, None, Point { timestamp_ms, created_ms: 0 }, 1.0)
}

/// One metric on its way into the request.
struct Family<'a> {
    request: &'a mut DecodedRequest,
    budget: &'a mut Budget,
    resource: &'a LabelMap,
    scope: &'a LabelMap,
    /// Its Prometheus name.
    name: String,
    metadata: Option<u32>,
    newest_ms: &'a mut Option<i64>,
}

/// The times of a data point, Unix milliseconds.
#[derive(Clone, Copy)]
struct Point {
    timestamp_ms: i64,
    /// 0 if the sender does not say.
    created_ms: i64,
}

impl Point {
    fn new(time_unix_nano: u64, start_time_unix_nano: u64) -> Self {
        Self { timestamp_ms: (time_unix_nano / NANOS_PER_MILLI) as i64, created_ms: (start_time_unix_nano / NANOS_PER_MILLI) as i64 }
    }
}

impl Family<'_> {
    fn metric(&mut self, metric: &Metric) -> Result<(), DecodeError> {
        let (kind, metric_type, temporality) = match &metric.data {
            None => return Ok(()),
            Some(Data::Gauge(_)) => (Kind::Gauge, MetricType::Gauge, None),
            Some(Data::Sum(sum)) if sum.is_monotonic => (Kind::Counter, MetricType::Counter, Some(sum.aggregation_temporality)),
            Some(Data::Sum(sum)) => (Kind::Gauge, MetricType::Gauge, Some(sum.aggregation_temporality)),
            Some(Data::Histogram(h)) => (Kind::Other, MetricType::Histogram, Some(h.aggregation_temporality)),
            Some(Data::ExponentialHistogram(h)) => (Kind::Other, MetricType::Histogram, Some(h.aggregation_temporality)),
            Some(Data::Summary(_)) => (Kind::Other, MetricType::Summary, None),
        };
        let refused = match temporality {
            Some(t) if t == AggregationTemporality::Delta as i32 => Some(RejectReason::DeltaTemporality),
            Some(t) if t != AggregationTemporality::Cumulative as i32 => {
                Some(RejectReason::InvalidDataPoint { rule: "the aggregation temporality is not set".into() })
            }
            _ => None,
        };
        self.name = metric_name(&metric.name, &metric.unit, kind);
        let refused = refused.or_else(|| self.name.is_empty().then_some(RejectReason::MissingMetricName));
        if let Some(reason) = refused {
            return self.refuse(&metric.name, reason, points(metric));
        }
        self.describe(Metadata { metric_type, help: metric.description.clone(), unit: metric.unit.clone() });
        match &metric.data {
            None => Ok(()),
            Some(Data::Gauge(gauge)) => gauge.data_points.iter().try_for_each(|p| self.number(p, false)),
            Some(Data::Sum(sum)) => sum.data_points.iter().try_for_each(|p| self.number(p, true)),
            Some(Data::Histogram(h)) => h.data_points.iter().try_for_each(|p| self.histogram(p)),
            Some(Data::ExponentialHistogram(h)) => h.data_points.iter().try_for_each(|p| self.exponential(p)),
            Some(Data::Summary(summary)) => summary.data_points.iter().try_for_each(|p| self.summary(p)),
        }
    }

    fn number(&mut self, p: &NumberDataPoint, cumulative: bool) -> Result<(), DecodeError> {
        let mut point = Point::new(p.time_unix_nano, p.start_time_unix_nano);
        if !cumulative {
            point.created_ms = 0;
        }
        let value = match p.value {
            _ if no_value(p.flags) => stale_nan(),
            Some(NumberValue::AsDouble(value)) => value,
            Some(NumberValue::AsInt(value)) => value as f64,
            None => return self.refuse_point(&p.attributes, "it has no value"),
        };
        self.series("", &labels_of(&p.attributes), None, point, value)?;
        self.exemplars(&p.exemplars)
    }

    /// A histogram with explicit bounds, as the classic series `_bucket`, `_sum` and `_count`.
    fn histogram(&mut self, p: &HistogramDataPoint) -> Result<(), DecodeError> {
        let point = Point::new(p.time_unix_nano, p.start_time_unix_nano);
        let labels = labels_of(&p.attributes);
        let stale = no_value(p.flags);
        let value = |v: f64| if stale { stale_nan() } else { v };
        if !p.bucket_counts.is_empty() && p.bucket_counts.len() != p.explicit_bounds.len() + 1 {
            return self
                .refuse_point(&p.attributes, &format!("{} bounds do not fit {} buckets", p.explicit_bounds.len(), p.bucket_counts.len()));
        }
        if p.explicit_bounds.iter().any(|b| b.is_nan()) || !p.explicit_bounds.is_sorted_by(|a, b| a < b) {
            return self.refuse_point(&p.attributes, "its bounds do not ascend");
        }
        if let Some(sum) = p.sum {
            self.series("_sum", &labels, None, point, value(sum))?;
        }
        self.series("_count", &labels, None, point, value(p.count as f64))?;
        let mut exemplars: Vec<&OtlpExemplar> = p.exemplars.iter().collect();
        exemplars.sort_by(|a, b| exemplar_value(a).total_cmp(&exemplar_value(b)));
        let mut exemplars = exemplars.into_iter().peekable();
        let mut cumulative = 0u64;
        for (bound, count) in p.explicit_bounds.iter().zip(&p.bucket_counts) {
            cumulative = cumulative.saturating_add(*count);
            if bound.is_infinite() && *bound > 0.0 {
                break;
            }
            self.series("_bucket", &labels, Some(("le", &bound.to_string())), point, value(cumulative as f64))?;
            let mut inside = Vec::new();
            while let Some(exemplar) = exemplars.next_if(|e| exemplar_value(e) <= *bound) {
                inside.push(exemplar);
            }
            self.exemplars(inside)?;
        }
        self.series("_bucket", &labels, Some(("le", "+Inf")), point, value(p.count as f64))?;
        self.exemplars(exemplars)
    }

    fn exponential(&mut self, p: &ExponentialHistogramDataPoint) -> Result<(), DecodeError> {
        let point = Point::new(p.time_unix_nano, p.start_time_unix_nano);
        let histogram = match buckets::native(p, no_value(p.flags)) {
            Ok(histogram) => histogram,
            Err(rule) => return self.refuse_point(&p.attributes, &rule),
        };
        self.budget.spend(size_of_val(&histogram) + 16 * (histogram.positive_spans.len() + histogram.negative_spans.len()))?;
        let start = self.request.histograms.len() as u32;
        self.request.histograms.push((point.timestamp_ms, histogram));
        self.push_series("", &labels_of(&p.attributes), None, point)?;
        let series = self.request.series.last_mut().expect("was pushed above");
        series.histograms = start..start + 1;
        self.exemplars(&p.exemplars)
    }

    fn summary(&mut self, p: &SummaryDataPoint) -> Result<(), DecodeError> {
        let point = Point::new(p.time_unix_nano, p.start_time_unix_nano);
        let labels = labels_of(&p.attributes);
        let value = |v: f64| if no_value(p.flags) { stale_nan() } else { v };
        self.series("_sum", &labels, None, point, value(p.sum))?;
        self.series("_count", &labels, None, point, value(p.count as f64))?;
        for q in &p.quantile_values {
            self.series("", &labels, Some(("quantile", &q.quantile.to_string())), point, value(q.value))?;
        }
        Ok(())
    }

    /// Appends a series with one float sample.
    fn series(
        &mut self,
        suffix: &str,
        labels: &LabelMap,
        extra: Option<(&str, &str)>,
        point: Point,
        value: f64,
    ) -> Result<(), DecodeError> {
        self.budget.spend(size_of::<Sample>())?;
        self.push_series(suffix, labels, extra, point)?;
        self.request.samples.push(Sample { timestamp_ms: point.timestamp_ms, value });
        self.request.series.last_mut().expect("was pushed above").samples.end += 1;
        Ok(())
    }

    /// Appends a series without samples.
    fn push_series(&mut self, suffix: &str, labels: &LabelMap, extra: Option<(&str, &str)>, point: Point) -> Result<(), DecodeError> {
        let request = &mut *self.request;
        let start = request.label_bytes.len();
        let name = format!("{}{suffix}", self.name);
        push_canonical(&mut request.label_bytes, &name, &[self.scope, labels, self.resource], extra);
        self.budget.spend(size_of::<DecodedSeries>() + request.label_bytes.len() - start)?;
        *self.newest_ms = (*self.newest_ms).max(Some(point.timestamp_ms));
        let (samples, exemplars) = (request.samples.len() as u32, request.exemplars.len() as u32);
        request.series.push(DecodedSeries {
            labels: start as u32..request.label_bytes.len() as u32,
            form: LabelForm::Canonical,
            samples: samples..samples,
            histograms: 0..0,
            exemplars: exemplars..exemplars,
            metadata: self.metadata,
            created_ms: point.created_ms,
        });
        Ok(())
    }

    /// Adds exemplars to the last series.
    fn exemplars<'e>(&mut self, exemplars: impl IntoIterator<Item = &'e OtlpExemplar>) -> Result<(), DecodeError> {
        for exemplar in exemplars {
            let labels = exemplar_labels(exemplar);
            self.budget.spend(size_of::<Exemplar>() + labels.as_bytes().len())?;
            let timestamp_ms = (exemplar.time_unix_nano / NANOS_PER_MILLI) as i64;
            self.request.exemplars.push(Exemplar { labels, value: exemplar_value(exemplar), timestamp_ms });
            self.request.series.last_mut().expect("the caller has pushed a series").exemplars.end += 1;
        }
        Ok(())
    }

    /// Notes the metadata of the family.
    fn describe(&mut self, metadata: Metadata) {
        self.metadata = Some(self.request.metadata.len() as u32);
        self.request.metadata.push((self.name.clone(), metadata));
    }

    fn refuse(&mut self, name: &str, reason: RejectReason, count: usize) -> Result<(), DecodeError> {
        let series = shorten(name);
        self.budget.spend(size_of::<Rejection>() + series.len())?;
        self.request.rejected.push(Rejection { series, reason, count: count.max(1) as u64 });
        Ok(())
    }

    fn refuse_point(&mut self, point_attributes: &[KeyValue], rule: &str) -> Result<(), DecodeError> {
        let name = format!("{}{:?}", self.name, labels_of(point_attributes));
        self.refuse(&name, RejectReason::InvalidDataPoint { rule: rule.to_owned() }, 1)
    }
}

fn labels_of(point_attributes: &[KeyValue]) -> LabelMap {
    let mut labels = LabelMap::new();
    attributes::add(&mut labels, "", point_attributes);
    labels
}

/// Data points of a metric.
fn points(metric: &Metric) -> usize {
    match &metric.data {
        None => 0,
        Some(Data::Gauge(d)) => d.data_points.len(),
        Some(Data::Sum(d)) => d.data_points.len(),
        Some(Data::Histogram(d)) => d.data_points.len(),
        Some(Data::ExponentialHistogram(d)) => d.data_points.len(),
        Some(Data::Summary(d)) => d.data_points.len(),
    }
}

fn no_value(flags: u32) -> bool {
    flags & DataPointFlags::NoRecordedValueMask as u32 != 0
}

fn exemplar_value(exemplar: &OtlpExemplar) -> f64 {
    match exemplar.value {
        Some(ExemplarValue::AsDouble(value)) => value,
        Some(ExemplarValue::AsInt(value)) => value as f64,
        None => 0.0,
    }
}

/// `trace_id`, `span_id` and, if there is room, the filtered attributes.
fn exemplar_labels(exemplar: &OtlpExemplar) -> Labels {
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let mut ids = LabelMap::new();
    for (name, id, max_bytes) in [("trace_id", &exemplar.trace_id, 16), ("span_id", &exemplar.span_id, 8)] {
        if !id.is_empty() && id.len() <= max_bytes {
            ids.insert(name.to_owned(), hex(id));
        }
    }
    let mut all = LabelMap::new();
    attributes::add(&mut all, "", &exemplar.filtered_attributes);
    all.extend(ids.clone());
    let characters: usize = all.iter().map(|(n, v)| n.chars().count() + v.chars().count()).sum();
    let chosen = if characters <= MAX_EXEMPLAR_CHARACTERS { all } else { ids };
    Labels::from_pairs(chosen).expect("names of a map are not empty and occur once")
}
