//! Numbers as Go prints them, for texts that have to be those of Prometheus.

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
        for (v, expected) in [(5.0, "5"), (1.1, "1.1"), (-0.5, "-0.5"), (f64::NEG_INFINITY, "-Inf"), (f64::NAN, "NaN"), (1e-7, "1e-07"), (1e21, "1e+21"), (1e20, "100000000000000000000")] {
            assert_eq!(go_float(v), expected);
        }
        assert_eq!(go_decimal(1e22), "10000000000000000000000");
        assert_eq!(go_decimal(0.000001), "0.000001");
    }
}
