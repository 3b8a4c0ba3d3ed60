//! Range functions from their definitions: every window is evaluated by itself.

use isobar_block::{is_stale, stale_nan};

use crate::kernel::{RangeFn, WindowSpec};
use crate::promql::ast::RangeMode;

/// Neumaier's summation with its two branches, as in Prometheus's `kahansum.Inc`.
fn neumaier(inc: f64, sum: f64, c: f64) -> (f64, f64) {
    let t = sum + inc;
    if t.is_infinite() {
        (t, 0.0)
    } else if sum.abs() >= inc.abs() {
        (t, c + ((sum - t) + inc))
    } else {
        (t, c + ((inc - t) + sum))
    }
}

fn kahan(values: impl IntoIterator<Item = f64>) -> f64 {
    let (sum, c) = values.into_iter().fold((0.0, 0.0), |(sum, c), v| neumaier(v, sum, c));
    if sum.is_infinite() { sum } else { sum + c }
}

pub fn extrapolated(w: &[(i64, f64)], start: i64, end: i64, counter: bool, per_second: bool) -> f64 {
    if w.len() < 2 {
        return stale_nan();
    }
    let (first, last) = (w[0], w[w.len() - 1]);
    let mut result = last.1 - first.1;
    if counter {
        for pair in w.windows(2) {
            if pair[1].1 < pair[0].1 {
                result += pair[0].1;
            }
        }
    }
    let mut to_start = (first.0 - start) as f64 / 1000.0;
    let mut to_end = (end - last.0) as f64 / 1000.0;
    let sampled = (last.0 - first.0) as f64 / 1000.0;
    let average = sampled / (w.len() - 1) as f64;
    let threshold = average * 1.1;
    if to_start >= threshold {
        to_start = average / 2.0;
    }
    if counter {
        let mut to_zero = to_start;
        if result > 0.0 && first.1 >= 0.0 {
            to_zero = sampled * (first.1 / result);
        }
        if to_zero < to_start {
            to_start = to_zero;
        }
    }
    if to_end >= threshold {
        to_end = average / 2.0;
    }
    let mut factor = (sampled + to_start + to_end) / sampled;
    if per_second {
        factor /= (end - start) as f64 / 1000.0;
    }
    result * factor
}

fn quantile(q: f64, mut values: Vec<f64>) -> f64 {
    if q.is_nan() {
        return f64::NAN;
    }
    if !(0.0..=1.0).contains(&q) {
        return f64::INFINITY.copysign(q);
    }
    values.sort_by(|a, b| a.partial_cmp(b).unwrap_or_else(|| b.is_nan().cmp(&a.is_nan())));
    let rank = q * (values.len() - 1) as f64;
    let (low, weight) = (rank.floor() as usize, rank - rank.floor());
    values[low] * (1.0 - weight) + values[(low + 1).min(values.len() - 1)] * weight
}

fn mean(w: &[(i64, f64)]) -> f64 {
    let (mut sum, mut c, mut mean, mut incremental) = (w[0].1, 0.0, 0.0, false);
    for (i, (_, v)) in w.iter().enumerate().skip(1) {
        let count = (i + 1) as f64;
        if !incremental {
            let (new_sum, new_c) = neumaier(*v, sum, c);
            if !new_sum.is_infinite() {
                (sum, c) = (new_sum, new_c);
                continue;
            }
            incremental = true;
            mean = sum / (count - 1.0);
            c /= count - 1.0;
        }
        let q = (count - 1.0) / count;
        (mean, c) = neumaier(v / count, q * mean, q * c);
    }
    let n = w.len() as f64;
    if incremental { mean + c } else { sum / n + c / n }
}

fn regression(w: &[(i64, f64)], origin: i64) -> (f64, f64) {
    if w.iter().all(|(_, v)| *v == w[0].1) {
        return if w[0].1.is_infinite() { (f64::NAN, f64::NAN) } else { (0.0, w[0].1) };
    }
    let x = |t: i64| (t - origin) as f64 / 1e3;
    let n = w.len() as f64;
    let (sx, sy) = (kahan(w.iter().map(|(t, _)| x(*t))), kahan(w.iter().map(|(_, v)| *v)));
    let (sxy, sxx) = (kahan(w.iter().map(|(t, v)| x(*t) * v)), kahan(w.iter().map(|(t, _)| x(*t) * x(*t))));
    let slope = (sxy - sx * sy / n) / (sxx - sx * sx / n);
    (slope, sy / n - slope * sx / n)
}

fn variance(w: &[(i64, f64)]) -> f64 {
    let (mut n, mut mean, mut c_mean, mut aux, mut c_aux) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for (_, v) in w {
        n += 1.0;
        let delta = v - (mean + c_mean);
        (mean, c_mean) = neumaier(delta / n, mean, c_mean);
        (aux, c_aux) = neumaier(delta * (v - (mean + c_mean)), aux, c_aux);
    }
    (aux + c_aux) / n
}

fn smoothing(w: &[(i64, f64)], sf: f64, tf: f64) -> f64 {
    let (mut s0, mut s1, mut b) = (0.0, w[0].1, w[1].1 - w[0].1);
    for (i, (_, v)) in w.iter().enumerate().skip(1) {
        let x = sf * v;
        if i > 1 {
            b = tf * (s1 - s0) + (1.0 - tf) * b;
        }
        let y = (1.0 - sf) * (s1 + b);
        (s0, s1) = (s1, x + y);
    }
    s1
}

/// Seconds of the sample that `better(new, best)` selects.
fn ts_of(w: &[(i64, f64)], better: impl Fn(f64, f64) -> bool) -> f64 {
    let best = w.iter().fold(w[0], |best, new| if better(new.1, best.1) { *new } else { best });
    best.0 as f64 / 1000.0
}

/// `f` at step `i`; `eval` is the time of evaluation of `predict_linear`.
pub fn at_step(f: RangeFn, scalars: (f64, f64), eval: i64, samples: &[(i64, f64)], spec: &WindowSpec, i: usize) -> f64 {
    let end = spec.grid.at(i);
    let start = end - spec.range_ms;
    let samples: Vec<_> = samples.iter().copied().filter(|(_, v)| !is_stale(*v)).collect();
    if spec.mode != RangeMode::Plain {
        return extended(f, &samples, spec, start, end);
    }
    let w: Vec<_> = samples.into_iter().filter(|(t, _)| *t > start && *t <= end).collect();
    if w.is_empty() {
        return stale_nan();
    }
    let values = || w.iter().map(|(_, v)| *v);
    let pairs = || w.windows(2).map(|p| (p[0].1, p[1].1));
    let two = |result: &dyn Fn() -> f64| if w.len() < 2 { stale_nan() } else { result() };
    let (last, n) = (w[w.len() - 1], w.len());
    match f {
        RangeFn::Rate => extrapolated(&w, start, end, true, true),
        RangeFn::Increase => extrapolated(&w, start, end, true, false),
        RangeFn::Delta => extrapolated(&w, start, end, false, false),
        RangeFn::Irate => two(&|| {
            let before = w[n - 2];
            let result = if last.1 < before.1 { last.1 } else { last.1 - before.1 };
            result / ((last.0 - before.0) as f64 / 1000.0)
        }),
        RangeFn::Idelta => two(&|| last.1 - w[n - 2].1),
        RangeFn::Changes => pairs().filter(|(a, b)| a != b && !(a.is_nan() && b.is_nan())).count() as f64,
        RangeFn::Resets => pairs().filter(|(a, b)| b < a).count() as f64,
        RangeFn::Deriv => two(&|| regression(&w, w[0].0).0),
        RangeFn::PredictLinear => two(&|| {
            let (slope, intercept) = regression(&w, eval);
            slope * scalars.0 + intercept
        }),
        RangeFn::DoubleExponentialSmoothing => two(&|| smoothing(&w, scalars.0, scalars.1)),
        RangeFn::AvgOverTime => mean(&w),
        RangeFn::SumOverTime => kahan(values()),
        RangeFn::MinOverTime => values().reduce(|best, v| if v < best || best.is_nan() { v } else { best }).expect("not empty"),
        RangeFn::MaxOverTime => values().reduce(|best, v| if v > best || best.is_nan() { v } else { best }).expect("not empty"),
        RangeFn::CountOverTime => n as f64,
        RangeFn::LastOverTime => last.1,
        RangeFn::FirstOverTime => w[0].1,
        RangeFn::PresentOverTime => 1.0,
        RangeFn::StddevOverTime => variance(&w).sqrt(),
        RangeFn::StdvarOverTime => variance(&w),
        RangeFn::QuantileOverTime => quantile(scalars.0, values().collect()),
        RangeFn::MadOverTime => {
            let median = quantile(0.5, values().collect());
            if values().any(f64::is_nan) { f64::NAN } else { quantile(0.5, values().map(|v| (v - median).abs()).collect()) }
        }
        RangeFn::TsOfMinOverTime => ts_of(&w, |v, best| v <= best || best.is_nan()),
        RangeFn::TsOfMaxOverTime => ts_of(&w, |v, best| v >= best || best.is_nan()),
        RangeFn::TsOfLastOverTime => last.0 as f64 / 1000.0,
        RangeFn::TsOfFirstOverTime => w[0].0 as f64 / 1000.0,
    }
}

/// `anchored` and `smoothed`: the function of a series that has a sample at each border of the window. `smoothed` counters
/// are made to ascend before they are interpolated.
fn extended(f: RangeFn, samples: &[(i64, f64)], spec: &WindowSpec, start: i64, end: i64) -> f64 {
    let smoothed = spec.mode == RangeMode::Smoothed;
    let counter = f != RangeFn::Delta;
    let last_t = if smoothed { end + spec.lookback_ms } else { end };
    let known: Vec<_> = samples.iter().copied().filter(|(t, _)| *t > start - spec.lookback_ms && *t <= last_t).collect();
    if !known.iter().any(|(t, _)| *t > start) || !known.iter().any(|(t, _)| *t <= end) {
        return stale_nan();
    }
    if matches!(f, RangeFn::Changes | RangeFn::Resets) {
        let from = known.iter().rposition(|(t, _)| *t <= start).unwrap_or(0);
        let count = |holds: fn(f64, f64) -> bool| known[from..].windows(2).filter(|p| holds(p[0].1, p[1].1)).count() as f64;
        return if f == RangeFn::Changes { count(|a, b| a != b && !(a.is_nan() && b.is_nan())) } else { count(|a, b| b < a) };
    }
    // A counter without resets; between two samples it is a line, with a step at its start where the counter was reset.
    let mut offset = 0.0;
    let mut total = Vec::new();
    for (i, (t, v)) in known.iter().enumerate() {
        if counter && i > 0 && *v < known[i - 1].1 {
            offset += known[i - 1].1;
        }
        total.push((*t, v + offset));
    }
    let at = |border: i64, total: &[(i64, f64)]| match total.iter().rposition(|(t, _)| *t <= border) {
        Some(i) if smoothed && total[i].0 < border && i + 1 < total.len() => {
            let (a, b) = (total[i], total[i + 1]);
            a.1 + (b.1 - a.1) * (border - a.0) as f64 / (b.0 - a.0) as f64
        }
        Some(i) => total[i].1,
        None => total[0].1,
    };
    let difference = at(end, &total) - at(start, &total);
    if f == RangeFn::Rate { difference / (spec.range_ms as f64 / 1000.0) } else { difference }
}
