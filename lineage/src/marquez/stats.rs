//! How much happened hour by hour or day by day.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Kind, Reader, iso};
use crate::http::params::parse_time_ms;
use crate::openlineage::RUN;

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// How far back, in which steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Period {
    /// 24 hours.
    Day,
    /// 7 days.
    Week,
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counted {
    /// Jobs that there are.
    Jobs,
    /// Datasets that there are.
    Datasets,
    /// Sources that there are.
    Sources,
}

/// What is read of a run.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Light {
    state: Option<String>,
    started_at: Option<String>,
    ended_at: Option<String>,
}

impl Period {
    /// Beginnings and ends of the steps up to a time, in UTC.
    fn steps(self, now_ms: i64) -> Vec<(i64, i64)> {
        let (step, count) = match self {
            Self::Day => (HOUR_MS, 24),
            Self::Week => (DAY_MS, 7),
        };
        let end = now_ms - now_ms.rem_euclid(step) + step;
        (0..count).map(|i| (end - (count - i) * step, end - (count - i - 1) * step)).collect()
    }
}

impl Reader {
    /// How many there were at the end of each step.
    pub fn counts(&self, counted: Counted, period: Period) -> Value {
        let mut first: Vec<i64> = match counted {
            Counted::Jobs => self.all(Some(Kind::Job)).map(|(n, _)| self.times(n).0).collect(),
            Counted::Datasets => self.all(Some(Kind::Dataset)).map(|(n, _)| self.times(n).0).collect(),
            Counted::Sources => self.source_times(),
        };
        first.sort_unstable();
        let until = |end: i64| first.partition_point(|t| *t < end);
        let step = |(start, end): (i64, i64)| json!({"startInterval": iso(start), "endInterval": iso(end), "count": until(end)});
        period.steps(self.at_ms()).into_iter().map(step).collect()
    }

    /// How many runs have begun and ended in each step, of the runs that are kept.
    pub fn run_counts(&self, period: Period) -> Value {
        let steps = period.steps(self.at_ms());
        let mut counts = vec![[0_u64; 4]; steps.len()];
        let (begin, width) = (steps[0].0, steps[0].1 - steps[0].0);
        let mut add = |at: Option<&String>, which: usize| {
            let Some(at_ms) = at.and_then(|t| parse_time_ms(t)).filter(|t| (begin..=self.at_ms()).contains(t)) else { return };
            if let Some(step) = counts.get_mut(((at_ms - begin) / width) as usize) {
                step[which] += 1;
            }
        };
        // What was written before the first step cannot have happened in one.
        for (_, _, text) in self.store.document_texts(RUN).into_iter().filter(|(_, updated_ms, _)| *updated_ms >= begin) {
            let Ok(run) = serde_json::from_str::<Light>(&text) else { continue };
            add(run.started_at.as_ref(), 0);
            match run.state.as_deref() {
                Some("COMPLETE") => add(run.ended_at.as_ref(), 1),
                Some("FAIL") => add(run.ended_at.as_ref(), 2),
                Some("ABORT") => add(run.ended_at.as_ref(), 3),
                _ => {}
            }
        }
        let step = |((start, end), [started, complete, fail, abort]): ((i64, i64), [u64; 4])| {
            json!({
                "startInterval": iso(start), "endInterval": iso(end),
                "start": started, "complete": complete, "fail": fail, "abort": abort,
            })
        };
        steps.into_iter().zip(counts).map(step).collect()
    }
}
