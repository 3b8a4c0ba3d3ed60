//! Values as JSON, written by hand since answers have millions of numbers: shortest digits that read back the same, times with
//! millisecond precision, labels straight from their bytes. The formats are those of Prometheus.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

use isobar_block::histogram::Counts;
use isobar_block::{Histogram, LabelsRef, is_stale};

use super::buckets::api_buckets;
use crate::result::{Rows, Value};

/// Writes a query's value as `{"resultType": …, "result": …}` without the closing brace. `instant` tells a vector from a matrix
/// of one step. Stops early once nobody waits for it any more (`given_up`).
pub(super) fn push_value(out: &mut Vec<u8>, value: &Value, instant: bool, given_up: &AtomicBool) {
    let mut head = |kind: &str| {
        out.extend_from_slice(b"{\"resultType\":\"");
        out.extend_from_slice(kind.as_bytes());
        out.extend_from_slice(b"\",\"result\":");
    };
    match value {
        Value::Scalar { grid, values } if instant => {
            head("scalar");
            push_sample(out, grid.start_ms, values[0]);
        }
        Value::Scalar { grid, values } => {
            head("matrix");
            out.extend_from_slice(b"[{\"metric\":{},\"values\":");
            let samples = values.iter().enumerate();
            push_list(out, samples, |out, (i, v)| push_sample(out, grid.at(i), *v));
            out.extend_from_slice(b"}]");
        }
        Value::String { at_ms, text } => {
            head("string");
            out.push(b'[');
            push_time(out, *at_ms);
            out.push(b',');
            push_string(out, text);
            out.push(b']');
        }
        Value::Rows(rows) if instant => {
            head("vector");
            push_vector(out, rows, given_up);
        }
        Value::Rows(rows) => {
            head("matrix");
            push_matrix(out, rows, given_up);
        }
        Value::Raw(series) => {
            head("matrix");
            let wanted = series.iter().take_while(|_| !given_up.load(Ordering::Relaxed));
            push_list(out, wanted, |out, series| {
                push_metric(out, series.labels.as_ref());
                push_member(out, "values", &series.floats, |out, (t, v)| push_sample(out, *t, *v));
                push_member(out, "histograms", &series.histograms, |out, (t, h)| push_histogram_sample(out, *t, h));
                out.push(b'}');
            });
        }
    }
}

fn push_vector(out: &mut Vec<u8>, rows: &Rows, given_up: &AtomicBool) {
    let mut histograms = rows.histograms.iter().peekable();
    let at_ms = rows.grid.start_ms;
    out.push(b'[');
    let mut first = true;
    for (row, (labels, value)) in rows.labels.iter().zip(&rows.values).enumerate() {
        let histogram = histograms.next_if(|(r, _, _)| *r as usize == row);
        if histogram.is_none() && is_stale(*value) {
            continue;
        }
        if given_up.load(Ordering::Relaxed) {
            return;
        }
        separate(out, &mut first);
        push_metric(out, labels.as_ref());
        match histogram {
            Some((_, _, histogram)) => {
                out.extend_from_slice(b",\"histogram\":");
                push_histogram_sample(out, at_ms, histogram);
            }
            None => {
                out.extend_from_slice(b",\"value\":");
                push_sample(out, at_ms, *value);
            }
        }
        out.push(b'}');
    }
    out.push(b']');
}

fn push_matrix(out: &mut Vec<u8>, rows: &Rows, given_up: &AtomicBool) {
    let grid = rows.grid;
    // Times repeat in every row, so their text is made once.
    let mut times = Vec::new();
    let mut ends = Vec::with_capacity(grid.len);
    for i in 0..grid.len {
        push_time(&mut times, grid.at(i));
        ends.push(times.len());
    }
    let time = |i: usize| &times[if i == 0 { 0 } else { ends[i - 1] }..ends[i]];
    let mut histograms = rows.histograms.as_slice();
    out.push(b'[');
    let mut first = true;
    for (row, (labels, values)) in rows.labels.iter().zip(rows.values.chunks_exact(grid.len)).enumerate() {
        let count = histograms.partition_point(|(r, _, _)| *r as usize <= row);
        let (own, rest) = histograms.split_at(count);
        histograms = rest;
        let floats = values.iter().any(|v| !is_stale(*v));
        if !floats && own.is_empty() {
            continue;
        }
        if given_up.load(Ordering::Relaxed) {
            return;
        }
        separate(out, &mut first);
        push_metric(out, labels.as_ref());
        if floats {
            out.extend_from_slice(b",\"values\":");
            let samples = values.iter().enumerate().filter(|(_, v)| !is_stale(**v));
            push_list(out, samples, |out, (i, value)| {
                out.push(b'[');
                out.extend_from_slice(time(i));
                out.extend_from_slice(b",\"");
                push_float(out, *value);
                out.extend_from_slice(b"\"]");
            });
        }
        push_member(out, "histograms", own, |out, (_, i, h)| push_histogram_sample(out, grid.at(*i as usize), h));
        out.push(b'}');
    }
    out.push(b']');
}

fn separate(out: &mut Vec<u8>, first: &mut bool) {
    if !std::mem::take(first) {
        out.push(b',');
    }
}

/// A list in brackets.
pub(super) fn push_list<T>(out: &mut Vec<u8>, items: impl IntoIterator<Item = T>, mut push: impl FnMut(&mut Vec<u8>, T)) {
    out.push(b'[');
    let mut first = true;
    for item in items {
        separate(out, &mut first);
        push(out, item);
    }
    out.push(b']');
}

/// A member of an object that is left out if empty.
fn push_member<T>(out: &mut Vec<u8>, name: &str, items: &[T], push: impl FnMut(&mut Vec<u8>, &T)) {
    if !items.is_empty() {
        out.extend_from_slice(b",\"");
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\":");
        push_list(out, items, push);
    }
}

/// `{"metric":{…}`, with the brace of the series still open.
fn push_metric(out: &mut Vec<u8>, labels: LabelsRef<'_>) {
    out.extend_from_slice(b"{\"metric\":");
    push_labels(out, labels);
}

/// Labels as an object.
pub(super) fn push_labels(out: &mut Vec<u8>, labels: LabelsRef<'_>) {
    out.push(b'{');
    let mut first = true;
    for (name, value) in labels.iter() {
        separate(out, &mut first);
        push_string(out, name);
        out.push(b':');
        push_string(out, value);
    }
    out.push(b'}');
}

fn push_sample(out: &mut Vec<u8>, at_ms: i64, value: f64) {
    out.push(b'[');
    push_time(out, at_ms);
    out.extend_from_slice(b",\"");
    push_float(out, value);
    out.extend_from_slice(b"\"]");
}

/// Milliseconds as seconds: a fraction of three digits, or none.
pub(super) fn push_time(out: &mut Vec<u8>, at_ms: i64) {
    if at_ms < 0 {
        out.push(b'-');
    }
    let millis = at_ms.unsigned_abs();
    out.extend_from_slice(itoa::Buffer::new().format(millis / 1000).as_bytes());
    let fraction = (millis % 1000) as u16;
    if fraction != 0 {
        out.extend_from_slice(&[b'.', digit(fraction / 100), digit(fraction / 10 % 10), digit(fraction % 10)]);
    }
}

fn digit(n: u16) -> u8 {
    b'0' + n as u8
}

/// Largest integers that all have an exact float.
const EXACT_INTEGERS: f64 = 9_007_199_254_740_992.0;

/// A float as Go's `strconv.AppendFloat(v, 'f', -1, 64)`, or with `'e'` below 1e-6 and from 1e21 on.
pub(super) fn push_float(out: &mut Vec<u8>, value: f64) {
    let abs = value.abs();
    if value.is_nan() {
        out.extend_from_slice(b"NaN");
    } else if value.is_infinite() {
        out.extend_from_slice(if value > 0.0 { b"+Inf" } else { b"-Inf" });
    } else if value.fract() == 0.0 && abs < EXACT_INTEGERS {
        if value.is_sign_negative() {
            out.push(b'-');
        }
        out.extend_from_slice(itoa::Buffer::new().format(abs as u64).as_bytes());
    } else if (1e-4..1e15).contains(&abs) {
        // Within these borders this writes no exponent.
        out.extend_from_slice(ryu::Buffer::new().format_finite(value).as_bytes());
    } else if (1e-6..1e21).contains(&abs) {
        write!(out, "{value}").expect("a Vec takes all bytes");
    } else {
        push_exponential(out, value);
    }
}

/// Go writes a sign and at least two digits in the exponent.
fn push_exponential(out: &mut Vec<u8>, value: f64) {
    let text = format!("{value:e}");
    let (mantissa, exponent) = text.split_once('e').expect("the format has an exponent");
    let exponent: i32 = exponent.parse().expect("the exponent is a number");
    let sign = if exponent < 0 { '-' } else { '+' };
    write!(out, "{mantissa}e{sign}{:02}", exponent.unsigned_abs()).expect("a Vec takes all bytes");
}

fn push_histogram_sample(out: &mut Vec<u8>, at_ms: i64, histogram: &Histogram) {
    out.push(b'[');
    push_time(out, at_ms);
    out.push(b',');
    push_histogram(out, histogram);
    out.push(b']');
}

/// Count, sum and the buckets that are not empty: `[rule, lower, upper, count]`, where the rule says which borders belong to the
/// bucket: 0 the upper, 1 the lower, 2 none, 3 both.
fn push_histogram(out: &mut Vec<u8>, histogram: &Histogram) {
    let count = match &histogram.counts {
        Counts::Integer { count, .. } => *count as f64,
        Counts::Float { count, .. } => *count,
    };
    out.extend_from_slice(b"{\"count\":\"");
    push_float(out, count);
    out.extend_from_slice(b"\",\"sum\":\"");
    push_float(out, histogram.sum);
    out.push(b'"');
    push_member(out, "buckets", &api_buckets(histogram), |out, (rule, lower, upper, count)| {
        out.extend_from_slice(&[b'[', b'0' + rule]);
        for number in [lower, upper, count] {
            out.extend_from_slice(b",\"");
            push_float(out, *number);
            out.push(b'"');
        }
        out.push(b']');
    });
    out.push(b'}');
}

/// A text in quotes.
pub(super) fn push_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut done = 0;
    for (i, byte) in bytes.iter().enumerate() {
        let escape: &[u8] = match byte {
            b'"' => b"\\\"",
            b'\\' => b"\\\\",
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            b'\t' => b"\\t",
            0..0x20 => b"",
            _ => continue,
        };
        out.extend_from_slice(&bytes[done..i]);
        done = i + 1;
        if escape.is_empty() {
            write!(out, "\\u{byte:04x}").expect("a Vec takes all bytes");
        } else {
            out.extend_from_slice(escape);
        }
    }
    out.extend_from_slice(&bytes[done..]);
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use isobar_block::histogram::Span;
    use isobar_block::stale_nan;

    use super::*;
    use crate::result::{Grid, RawSeries};
    use crate::testing::labels;

    fn histogram() -> Histogram {
        Histogram {
            reset_hint: Default::default(),
            schema: 0,
            zero_threshold: 0.0,
            sum: 5.5,
            positive_spans: vec![Span { offset: 0, length: 2 }],
            negative_spans: Vec::new(),
            custom_bounds: Vec::new(),
            counts: Counts::Float { count: 3.0, zero: 0.0, positive: vec![1.0, 2.0], negative: Vec::new() },
        }
    }

    fn written(value: &Value, instant: bool) -> String {
        let mut out = Vec::new();
        push_value(&mut out, value, instant, &AtomicBool::new(false));
        out.push(b'}');
        String::from_utf8(out).expect("UTF-8")
    }

    const HISTOGRAM: &str = r#"{"count":"3","sum":"5.5","buckets":[[0,"0.5","1","1"],[0,"1","2","2"]]}"#;

    #[test]
    fn histograms_stand_beside_floats() {
        let h = Arc::new(histogram());
        let absent = stale_nan();
        let rows =
            |grid, values, histograms| Value::Rows(Rows { grid, labels: vec![labels("a"), labels("b"), labels("c")], values, histograms });
        let vector = rows(Grid::instant(1500), vec![absent, 2.0, absent], vec![(0, 0, h.clone())]);
        assert_eq!(
            written(&vector, true),
            format!(
                r#"{{"resultType":"vector","result":[{{"metric":{{"__name__":"a"}},"histogram":[1.500,{HISTOGRAM}]}},{{"metric":{{"__name__":"b"}},"value":[1.500,"2"]}}]}}"#
            )
        );
        let grid = Grid { start_ms: 0, step_ms: 1000, len: 2 };
        let matrix = rows(grid, vec![1.0, absent, absent, absent, absent, absent], vec![(0, 1, h.clone()), (2, 0, h.clone())]);
        assert_eq!(
            written(&matrix, false),
            format!(
                r#"{{"resultType":"matrix","result":[{{"metric":{{"__name__":"a"}},"values":[[0,"1"]],"histograms":[[1,{HISTOGRAM}]]}},{{"metric":{{"__name__":"c"}},"histograms":[[0,{HISTOGRAM}]]}}]}}"#
            )
        );
        let raw = Value::Raw(vec![RawSeries { labels: labels("a"), floats: Vec::new(), histograms: vec![(7, h)] }]);
        assert_eq!(
            written(&raw, true),
            format!(r#"{{"resultType":"matrix","result":[{{"metric":{{"__name__":"a"}},"histograms":[[0.007,{HISTOGRAM}]]}}]}}"#)
        );
    }

    #[test]
    fn floats_as_go_writes_them() {
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (-123_456_789.0, "-123456789"),
            (0.1, "0.1"),
            (1.0 / 3.0, "0.3333333333333333"),
            (12345.678, "12345.678"),
            (0.000123, "0.000123"),
            (0.00005, "0.00005"),
            (0.000001, "0.000001"),
            (0.00000099, "9.9e-07"),
            (1.5e-10, "1.5e-10"),
            (1e-300, "1e-300"),
            (9_007_199_254_740_992.0, "9007199254740992"),
            (123_456_789_012_345.67, "123456789012345.67"),
            (1e20, "100000000000000000000"),
            (1.5e20, "150000000000000000000"),
            (1e21, "1e+21"),
            (-1.25e22, "-1.25e+22"),
            (f64::MAX, "1.7976931348623157e+308"),
            (5e-324, "5e-324"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "+Inf"),
            (f64::NEG_INFINITY, "-Inf"),
        ] {
            let mut out = Vec::new();
            push_float(&mut out, value);
            assert_eq!(String::from_utf8_lossy(&out), text);
        }
    }

    proptest::proptest! {
        #[test]
        fn floats_read_back(bits: u64) {
            let value = f64::from_bits(bits);
            let mut out = Vec::new();
            push_float(&mut out, value);
            let text = std::str::from_utf8(&out).expect("ASCII");
            let again: f64 = text.trim_start_matches('+').parse().expect("a number");
            proptest::prop_assert!(again.to_bits() == bits || (again.is_nan() && value.is_nan()), "{} {}", text, value);
        }

        #[test]
        fn strings_read_back(text in "\\PC{0,20}[\\x00-\\x7f]{0,20}") {
            let mut out = Vec::new();
            push_string(&mut out, &text);
            proptest::prop_assert_eq!(serde_json::from_slice::<String>(&out).expect("JSON"), text);
        }
    }

    #[test]
    fn times_have_no_digits_or_three() {
        for (millis, text) in
            [(1_435_781_430_781, "1435781430.781"), (1_000, "1"), (1_500, "1.500"), (7, "0.007"), (-1_050, "-1.050"), (0, "0")]
        {
            let mut out = Vec::new();
            push_time(&mut out, millis);
            assert_eq!(String::from_utf8_lossy(&out), text);
        }
    }
}
