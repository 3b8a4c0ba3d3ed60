//! Names of metrics and labels: from OpenTelemetry to Prometheus, as Prometheus 3 does by default
//! (`UnderscoreEscapingWithSuffixes`; the rules are those of the OpenTelemetry specification, "Prometheus and OpenMetrics
//! compatibility", and of Prometheus's `otlptranslator`).

/// What a metric's name gets a suffix for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A monotonic sum: `_total`.
    Counter,
    /// A gauge, or a sum that is not monotonic: `_ratio` if its unit is 1.
    Gauge,
    /// Anything else.
    Other,
}

/// Units of UCUM and the words that Prometheus uses for them.
const UNITS: [(&str, &str); 26] = [
    ("d", "days"),
    ("h", "hours"),
    ("min", "minutes"),
    ("s", "seconds"),
    ("ms", "milliseconds"),
    ("us", "microseconds"),
    ("ns", "nanoseconds"),
    ("By", "bytes"),
    ("KiBy", "kibibytes"),
    ("MiBy", "mebibytes"),
    ("GiBy", "gibibytes"),
    ("TiBy", "tibibytes"),
    ("KBy", "kilobytes"),
    ("MBy", "megabytes"),
    ("GBy", "gigabytes"),
    ("TBy", "terabytes"),
    ("m", "meters"),
    ("V", "volts"),
    ("A", "amperes"),
    ("J", "joules"),
    ("W", "watts"),
    ("g", "grams"),
    ("Cel", "celsius"),
    ("Hz", "hertz"),
    ("%", "percent"),
    ("1", ""),
];

/// Units that stand behind the `/` of a unit.
const PER_UNITS: [(&str, &str); 7] =
    [("s", "second"), ("m", "minute"), ("h", "hour"), ("d", "day"), ("w", "week"), ("mo", "month"), ("y", "year")];

/// The Prometheus name of a metric. Empty if nothing of the name can be kept.
pub fn metric_name(name: &str, unit: &str, kind: Kind) -> String {
    let mut tokens: Vec<&str> = name.split(|c: char| !c.is_ascii_alphanumeric() && c != ':').filter(|t| !t.is_empty()).collect();
    if tokens.is_empty() {
        return String::new();
    }
    let (main, per) = unit_suffixes(unit);
    if !main.is_empty() && !tokens.contains(&main.as_str()) {
        tokens.push(&main);
    }
    if !per.is_empty() && !tokens.contains(&per.as_str()) {
        tokens.push(&per);
    }
    let last = match kind {
        Kind::Counter => Some("total"),
        Kind::Gauge if unit.trim() == "1" => Some("ratio"),
        _ => None,
    };
    if let Some(last) = last {
        tokens.retain(|t| *t != last);
        tokens.push(last);
    }
    let joined = tokens.join("_");
    if joined.starts_with(|c: char| c.is_ascii_digit()) { format!("_{joined}") } else { joined }
}

/// The words for the two sides of a unit such as `By/s`: `bytes` and `per_second`. Units in braces are annotations.
fn unit_suffixes(unit: &str) -> (String, String) {
    let word = |unit: Option<&str>, table: &[(&str, &str)]| {
        let unit = unit.unwrap_or_default().trim();
        if unit.is_empty() || unit.contains(['{', '}']) {
            return String::new();
        }
        let word = table.iter().find(|(ucum, _)| *ucum == unit).map_or(unit, |(_, word)| word);
        clean(word)
    };
    let mut sides = unit.splitn(2, '/');
    let main = word(sides.next(), &UNITS);
    let per = word(sides.next(), &PER_UNITS);
    (main, if per.is_empty() { per } else { format!("per_{per}") })
}

/// Letters and digits, with one underscore between what other characters had separated.
fn clean(unit: &str) -> String {
    unit.split(|c: char| !c.is_ascii_alphanumeric() && c != ':').filter(|t| !t.is_empty()).collect::<Vec<_>>().join("_")
}

/// The Prometheus name of an attribute: other characters become underscores, a leading digit gets `key_`, a leading
/// underscore `key`.
pub fn label_name(attribute: &str) -> String {
    let name: String = attribute.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect();
    if name.starts_with(|c: char| c.is_ascii_digit()) {
        format!("key_{name}")
    } else if name.starts_with('_') && !name.starts_with("__") {
        format!("key{name}")
    } else {
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metric_names() {
        for (name, unit, kind, expected) in [
            ("http.server.duration", "s", Kind::Other, "http_server_duration_seconds"),
            ("http.server.request.size", "By", Kind::Other, "http_server_request_size_bytes"),
            ("system.io", "By/s", Kind::Gauge, "system_io_bytes_per_second"),
            ("system.network.io", "By", Kind::Counter, "system_network_io_bytes_total"),
            ("requests", "{request}", Kind::Counter, "requests_total"),
            ("requests.total", "", Kind::Counter, "requests_total"),
            ("total.requests", "", Kind::Counter, "requests_total"),
            ("cpu.utilization", "1", Kind::Gauge, "cpu_utilization_ratio"),
            ("cpu.utilization", "1", Kind::Counter, "cpu_utilization_total"),
            ("process_cpu_seconds", "s", Kind::Counter, "process_cpu_seconds_total"),
            ("fan.speed", "{rotations}/min", Kind::Gauge, "fan_speed_per_min"),
            ("speed", "m/s", Kind::Gauge, "speed_meters_per_second"),
            ("battery", "%", Kind::Gauge, "battery_percent"),
            ("a..b__c", "", Kind::Gauge, "a_b_c"),
            ("rule:name", "", Kind::Gauge, "rule:name"),
            ("1st", "", Kind::Gauge, "_1st"),
            ("x", "my unit/every-time", Kind::Gauge, "x_my_unit_per_every_time"),
            ("größe", "", Kind::Gauge, "gr_e"),
            ("...", "s", Kind::Counter, ""),
        ] {
            assert_eq!(metric_name(name, unit, kind), expected, "{name} {unit}");
        }
    }

    #[test]
    fn label_names() {
        for (attribute, expected) in [
            ("service.name", "service_name"),
            ("0day", "key_0day"),
            ("_private", "key_private"),
            ("__reserved__", "__reserved__"),
            ("a-b.c", "a_b_c"),
            ("ü", "key_"),
            ("", ""),
        ] {
            assert_eq!(label_name(attribute), expected);
        }
    }
}
