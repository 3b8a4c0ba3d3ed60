//! Numbers as Go prints them, for texts that have to be those of Prometheus.

use isobar_block::Histogram;

use crate::http::buckets::api_buckets;
use crate::kernel::histogram::FloatHistogram;

/// `%g` of a float: the shortest form that reads back as the same number, exponents as Go writes them.
pub fn go_float(v: f64) -> String {
    if v.is_nan() {
        return "NaN".into();
    }
    if v.is_infinite() {
        return if v > 0.0 { "+Inf" } else { "-Inf" }.into();
    }
    with_exponent(v, 21)
}

/// `strconv.FormatFloat(v, 'f', -1, 64)`: the shortest form without exponent.
pub fn go_decimal(v: f64) -> String {
    if v.is_nan() || v.is_infinite() {
        return go_float(v);
    }
    format!("{v}")
}

/// A histogram as Prometheus prints it: `{count:4, sum:10, (0.5,1]:1, …}`.
pub fn histogram_text(histogram: &FloatHistogram) -> String {
    let mut text = format!("{{count:{}, sum:{}", go_float(histogram.count()), go_float(histogram.sum()));
    for (rule, lower, upper, count) in api_buckets(&Histogram::from(histogram)) {
        let (open, close) = match rule {
            0 => ('(', ']'),
            1 => ('[', ')'),
            2 => ('(', ')'),
            _ => ('[', ']'),
        };
        text.push_str(&format!(", {open}{},{}{close}:{}", go_float(lower), go_float(upper), go_float(count)));
    }
    text.push('}');
    text
}

fn with_exponent(v: f64, from: i32) -> String {
    let scientific = format!("{v:e}");
    let (mantissa, exponent) = scientific.split_once('e').expect("the format has an exponent");
    let exponent: i32 = exponent.parse().expect("the exponent is a number");
    if exponent < -4 || exponent >= from {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{mantissa}e{sign}{:02}", exponent.abs());
    }
    format!("{v}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_as_go() {
        for (v, expected) in [
            (5.0, "5"),
            (1.1, "1.1"),
            (-0.5, "-0.5"),
            (f64::NEG_INFINITY, "-Inf"),
            (f64::NAN, "NaN"),
            (1e-7, "1e-07"),
            (1e21, "1e+21"),
            (1e20, "100000000000000000000"),
        ] {
            assert_eq!(go_float(v), expected);
        }
        assert_eq!(go_decimal(1e22), "10000000000000000000000");
        assert_eq!(go_decimal(0.000001), "0.000001");
    }
}
