//! How many spans one stands for, because the others were not sampled.

use super::wire::Span;

/// Most that one span can stand for; a smaller probability is taken for a mistake.
pub(crate) const MAX_WEIGHT: f64 = 1e6;

/// The adjusted count of a span: 1 / p, from the threshold or probability that consistent sampling leaves in the trace state (OpenTelemetry,
/// "TraceState: Probability Sampling": `ot=th:…`, formerly `ot=p:…`), else from an attribute; 1 if nothing tells.
pub(crate) fn weight(span: &Span<'_>) -> f64 {
    let told = of_trace_state(span.trace_state).unwrap_or(span.attributes.weight);
    if (1.0..=MAX_WEIGHT).contains(&told) { told } else { 1.0 }
}

fn of_trace_state(trace_state: &str) -> Option<f64> {
    if trace_state.is_empty() {
        return None;
    }
    let vendor = trace_state.split(',').find_map(|entry| entry.trim().strip_prefix("ot="))?;
    vendor.split(';').find_map(|field| match field.split_once(':')? {
        ("th", threshold) => of_threshold(threshold),
        ("p", power) => power.parse::<u8>().ok().filter(|p| *p < 63).map(|p| (1_u64 << p) as f64),
        _ => None,
    })
}

/// The threshold has up to 14 hexadecimal digits, the most significant first; what is below it was dropped, of 2^56.
fn of_threshold(digits: &str) -> Option<f64> {
    if digits.is_empty() || digits.len() > 14 {
        return None;
    }
    let threshold = u64::from_str_radix(digits, 16).ok()? << (4 * (14 - digits.len()));
    let all = 1_u64 << 56;
    (threshold < all).then(|| all as f64 / (all - threshold) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threshold_becomes_a_count() {
        for (trace_state, attribute, expected) in [
            ("", 0.0, 1.0),
            ("ot=th:0", 0.0, 1.0),
            ("ot=th:8", 0.0, 2.0),
            ("vendor=1, ot=rv:aa;th:c", 0.0, 4.0),
            ("ot=th:fd70a3d70a3d71", 0.0, 100.0),
            ("ot=p:3;r:5", 0.0, 8.0),
            ("ot=th:zz", 7.0, 7.0),
            ("ot=th:ffffffffffffff", 0.0, 1.0),
            ("ot=th:1234567890abcdef", 0.0, 1.0),
            ("ot=p:200", 3.0, 3.0),
            ("other=th:8", 0.0, 1.0),
            ("", 1e9, 1.0),
            ("", f64::NAN, 1.0),
        ] {
            let mut span = Span { trace_state, ..Span::default() };
            span.attributes.weight = attribute;
            assert!((weight(&span) - expected).abs() < 1e-6, "{trace_state:?}: {}", weight(&span));
        }
    }
}
