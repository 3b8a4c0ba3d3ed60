//! Own metrics as families: read from the registry's text, written as Prometheus text or OpenMetrics, turned into samples.
//!
//! The registry writes OpenMetrics, where a counter's family is called `x` and its sample `x_total`. The older text
//! format calls both `x_total`; so does this type.

use std::fmt::Write as _;

use isobar_block::{Labels, MetricType};
use prometheus_client::registry::Registry;

/// Content type of the Prometheus text format.
pub const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Content type of OpenMetrics.
pub const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All series of one name.
#[derive(Clone, Debug, PartialEq)]
pub struct Family {
    /// Name of the metric; a counter's ends in `_total`.
    pub name: String,
    /// What it is.
    pub help: String,
    /// How it behaves.
    pub metric_type: MetricType,
    /// Its series.
    pub points: Vec<Point>,
}

/// One series at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// `_bucket`, `_sum`, `_count`, or nothing.
    pub suffix: String,
    /// Labels but the name.
    pub labels: Vec<(String, String)>,
    /// The value.
    pub value: f64,
}

impl Family {
    /// A family without series.
    pub fn new(name: &str, help: &str, metric_type: MetricType) -> Self {
        Self { name: name.to_owned(), help: help.to_owned(), metric_type, points: Vec::new() }
    }

    /// Adds a series.
    pub fn push(&mut self, labels: &[(&str, &str)], value: f64) {
        let labels = labels.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        self.points.push(Point { suffix: String::new(), labels, value });
    }

    /// A family with one series without labels.
    pub fn single(name: &str, help: &str, metric_type: MetricType, value: f64) -> Self {
        let mut family = Self::new(name, help, metric_type);
        family.push(&[], value);
        family
    }

    /// Labels of each series with `more` added, and its value.
    pub fn samples<'a>(&'a self, more: &'a [(&'a str, &'a str)]) -> impl Iterator<Item = (Labels, f64)> + 'a {
        self.points.iter().filter_map(move |point| {
            let name = format!("{}{}", self.name, point.suffix);
            let own = point.labels.iter().map(|(n, v)| (n.as_str(), v.as_str()));
            let all = own.chain([("__name__", name.as_str())]).chain(more.iter().copied());
            Labels::from_pairs(all).ok().map(|labels| (labels, point.value))
        })
    }
}

/// What is in a registry now.
pub fn gather(registry: &Registry) -> Vec<Family> {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, registry) {
        Ok(()) => parse(&text),
        Err(_) => Vec::new(),
    }
}

/// Sum of all series of a family as a whole number; 0 if there is none.
pub fn value(families: &[Family], name: &str) -> u64 {
    let family = families.iter().find(|f| f.name == name);
    family.map_or(0, |f| f.points.iter().map(|p| p.value).sum::<f64>() as u64)
}

/// Reads what the registry writes. Lines that are something else are left out.
fn parse(text: &str) -> Vec<Family> {
    let mut families: Vec<Family> = Vec::new();
    let mut help = ("", "");
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, text) = rest.split_once(' ').unwrap_or((rest, ""));
            help = (name, text.strip_suffix('.').unwrap_or(text));
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap_or((rest, ""));
            let metric_type = match kind {
                "counter" => MetricType::Counter,
                "histogram" => MetricType::Histogram,
                "info" | "gauge" => MetricType::Gauge,
                _ => MetricType::Unknown,
            };
            let name = match kind {
                "counter" => format!("{name}_total"),
                "info" => format!("{name}_info"),
                _ => name.to_owned(),
            };
            let text = if name.starts_with(help.0) { help.1 } else { "" };
            families.push(Family::new(&name, text, metric_type));
        } else if !line.starts_with('#')
            && let Some(family) = families.last_mut()
            && let Some(point) = parse_point(line, &family.name)
        {
            family.points.push(point);
        }
    }
    families.retain(|family| !family.points.is_empty());
    families
}

fn parse_point(line: &str, family: &str) -> Option<Point> {
    let rest = line.strip_prefix(family)?;
    let end = rest.find(['{', ' '])?;
    let (suffix, mut rest) = rest.split_at(end);
    let mut labels = Vec::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (name, after) = rest.trim_start_matches(',').split_once("=\"")?;
            let (value, after) = unescape(after)?;
            labels.push((name.to_owned(), value));
            rest = after;
        }
        rest = &rest[1..];
    }
    // An exemplar or a timestamp may follow the value.
    let value = rest.split_ascii_whitespace().next()?;
    Some(Point { suffix: suffix.to_owned(), labels, value: value.parse().ok()? })
}

/// Reads a quoted value up to its closing quote; gives what follows.
fn unescape(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match chars.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            other => value.push(other),
        }
    }
    None
}

/// Writes families in one of the two formats.
pub fn write(families: &[Family], open_metrics: bool) -> String {
    let mut out = String::new();
    for family in families {
        let is_counter = family.metric_type == MetricType::Counter;
        let name = if open_metrics && is_counter { family.name.strip_suffix("_total").unwrap_or(&family.name) } else { &family.name };
        let kind = match (family.metric_type, open_metrics) {
            (MetricType::Unknown, false) => "untyped",
            (kind, _) => kind.as_str(),
        };
        let _never_fails = write!(out, "# HELP {name} {}\n# TYPE {name} {kind}\n", family.help.replace('\\', "\\\\").replace('\n', "\\n"));
        for point in &family.points {
            out.push_str(&family.name);
            out.push_str(&point.suffix);
            for (i, (name, value)) in point.labels.iter().enumerate() {
                let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
                let _never_fails = write!(out, "{}{name}=\"{value}\"", if i == 0 { '{' } else { ',' });
            }
            let close = if point.labels.is_empty() { "" } else { "}" };
            let _never_fails = writeln!(out, "{close} {}", show(point.value));
        }
    }
    if open_metrics {
        out.push_str("# EOF\n");
    }
    out
}

fn show(value: f64) -> String {
    match value {
        f64::INFINITY => "+Inf".into(),
        f64::NEG_INFINITY => "-Inf".into(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::family::Family as LabelledFamily;
    use prometheus_client::metrics::gauge::Gauge;
    use prometheus_client::metrics::histogram::Histogram;

    use super::*;

    fn registry() -> Registry {
        let mut registry = Registry::with_prefix("isobar");
        let requests = LabelledFamily::<Vec<(String, String)>, Counter>::default();
        requests.get_or_create(&vec![("path".into(), "a\"b\\c\nd".into())]).inc_by(3);
        registry.register("requests", "Requests", requests);
        let series: Gauge = Gauge::default();
        series.set(7);
        registry.register("series", "Series", series);
        let seconds = Histogram::new([0.5]);
        seconds.observe(0.25);
        registry.register("duration_seconds", "Time", seconds);
        registry
    }

    #[test]
    fn reads_what_the_registry_writes() {
        let families = gather(&registry());
        let names: Vec<_> = families.iter().map(|f| (f.name.as_str(), f.help.as_str(), f.metric_type)).collect();
        assert_eq!(
            names,
            [
                ("isobar_requests_total", "Requests", MetricType::Counter),
                ("isobar_series", "Series", MetricType::Gauge),
                ("isobar_duration_seconds", "Time", MetricType::Histogram)
            ]
        );
        assert_eq!(families[0].points, [Point { suffix: String::new(), labels: vec![("path".into(), "a\"b\\c\nd".into())], value: 3.0 }]);
        let histogram: Vec<_> = families[2].points.iter().map(|p| (p.suffix.as_str(), p.value)).collect();
        assert_eq!(histogram, [("_sum", 0.25), ("_count", 1.0), ("_bucket", 1.0), ("_bucket", 1.0)]);
        let (labels, value) = families[1].samples(&[("job", "isobar")]).next().expect("has a series");
        assert_eq!((labels.get("__name__"), labels.get("job"), value), (Some("isobar_series"), Some("isobar"), 7.0));
    }

    #[test]
    fn writes_both_formats() {
        let families = gather(&registry());
        let text = write(&families, false);
        assert!(text.contains("# TYPE isobar_requests_total counter\nisobar_requests_total{path=\"a\\\"b\\\\c\\nd\"} 3\n"), "{text}");
        assert!(text.contains("isobar_duration_seconds_bucket{le=\"+Inf\"} 1\n"), "{text}");
        let open = write(&families, true);
        assert!(open.contains("# TYPE isobar_requests counter\nisobar_requests_total{") && open.ends_with("# EOF\n"), "{open}");
    }
}
