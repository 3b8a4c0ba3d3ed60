//! Comparing two answers of the query API.

use std::collections::BTreeMap;

use serde_json::Value;

/// Series by label set (as JSON text), each with its samples (Unix seconds, value).
pub type Series = BTreeMap<String, Vec<(f64, f64)>>;

/// The series of a vector, a matrix or a scalar.
///
/// # Panics
/// If it is none of these.
pub fn series(data: &Value) -> Series {
    let pair = |v: &Value| (v[0].as_f64().expect("timestamp"), number(v[1].as_str().expect("value is a text")));
    match data["resultType"].as_str().expect("resultType") {
        "scalar" => BTreeMap::from([("scalar".to_owned(), vec![pair(&data["result"])])]),
        "vector" => data["result"].as_array().expect("array").iter().map(|s| (s["metric"].to_string(), vec![pair(&s["value"])])).collect(),
        "matrix" => data["result"]
            .as_array()
            .expect("array")
            .iter()
            .map(|s| (s["metric"].to_string(), s["values"].as_array().expect("values").iter().map(pair).collect()))
            .collect(),
        other => panic!("resultType {other}"),
    }
}

fn number(text: &str) -> f64 {
    match text {
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        _ => text.parse().unwrap_or_else(|_| panic!("{text:?} is not a number")),
    }
}

/// The first difference beyond float noise, if there is one.
pub fn difference(expected: &Series, got: &Series) -> Option<String> {
    if let Some(missing) = expected.keys().find(|k| !got.contains_key(*k)) {
        return Some(format!("series {missing} is missing ({} expected, {} got)", expected.len(), got.len()));
    }
    if let Some(extra) = got.keys().find(|k| !expected.contains_key(*k)) {
        return Some(format!("series {extra} was not expected ({} expected, {} got)", expected.len(), got.len()));
    }
    for (labels, samples) in expected {
        let ours = &got[labels];
        if samples.len() != ours.len() {
            return Some(format!("{labels}: {} samples expected, {} got", samples.len(), ours.len()));
        }
        for (a, b) in samples.iter().zip(ours) {
            let close = a.1 == b.1 || (a.1.is_nan() && b.1.is_nan()) || (a.1 - b.1).abs() <= 1e-9 * a.1.abs().max(b.1.abs()) + 1e-12;
            if a.0 != b.0 || !close {
                return Some(format!("{labels}: expected {} at {}, got {} at {}", a.1, a.0, b.1, b.0));
            }
        }
    }
    None
}
