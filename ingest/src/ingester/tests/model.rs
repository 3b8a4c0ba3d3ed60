//! A model of the ingester on `BTreeMap`, and random writes into both.

use std::collections::{BTreeMap, HashMap};

use isobar_block::histogram::{Counts, ResetHint, Span};
use isobar_block::{Histogram, stale_nan};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

/// Samples by series and timestamp. Values are texts, so that NaNs compare by their bits.
pub type Content = BTreeMap<Labels, BTreeMap<i64, String>>;

pub fn float(value: f64) -> String {
    format!("{:x}", value.to_bits())
}

fn histogram_text(histogram: &Histogram) -> String {
    format!("{:x} {:?}", histogram.sum.to_bits(), Histogram { sum: 0.0, ..histogram.clone() })
}

pub fn texts(samples: &SampleBuf) -> BTreeMap<i64, String> {
    let mut texts: BTreeMap<i64, String> = samples.timestamps.iter().zip(&samples.values).map(|(t, v)| (*t, float(*v))).collect();
    for (at, histogram) in &samples.histograms {
        texts.insert(samples.timestamps[*at as usize], histogram_text(histogram));
    }
    texts
}

#[derive(Default)]
struct SeriesModel {
    /// What the head holds.
    in_head: BTreeMap<i64, String>,
    newest: Option<(i64, String)>,
}

#[derive(Default)]
struct Model {
    content: Content,
    series: HashMap<Labels, SeriesModel>,
}

impl Model {
    /// `Ok(())` if the sample counts as written.
    fn write(&mut self, labels: &Labels, t: i64, value: String) -> std::result::Result<(), &'static str> {
        let series = self.series.entry(labels.clone()).or_default();
        let same = |old: &String| if *old == value { Ok(()) } else { Err("duplicate_timestamp") };
        if let Some((newest, text)) = &series.newest {
            if t == *newest {
                return same(text);
            }
            if let Some(old) = series.in_head.get(&t) {
                return same(old);
            }
            if t < newest - 7_200_000 {
                return Err("too_old");
            }
        }
        if series.newest.as_ref().is_none_or(|(newest, _)| t > *newest) {
            series.newest = Some((t, value.clone()));
        }
        series.in_head.insert(t, value.clone());
        self.content.entry(labels.clone()).or_default().insert(t, value);
        Ok(())
    }

    fn cut(&mut self) {
        self.series.values_mut().for_each(|s| s.in_head.clear());
    }

    fn reopen(&mut self) {
        for series in self.series.values_mut() {
            series.newest = series.in_head.last_key_value().map(|(t, v)| (*t, v.clone()));
        }
    }
}

fn random_histogram(random: &mut StdRng) -> Histogram {
    let sum = if random.random_bool(0.1) { stale_nan() } else { f64::from(random.random_range(0..5)) };
    Histogram {
        reset_hint: ResetHint::Unknown,
        schema: random.random_range(-4..=8),
        zero_threshold: 1e-128,
        sum,
        positive_spans: vec![Span { offset: random.random_range(-3..3), length: 2 }],
        negative_spans: Vec::new(),
        custom_bounds: Vec::new(),
        counts: Counts::Integer {
            count: random.random_range(0..9),
            zero: 1,
            positive: vec![1, random.random_range(0..3)],
            negative: Vec::new(),
        },
    }
}

fn random_value(random: &mut StdRng) -> f64 {
    match random.random_range(0..8) {
        0 => stale_nan(),
        1 => f64::NAN,
        2 => -0.0,
        3 => f64::INFINITY,
        4 => random.random::<f64>(),
        _ => f64::from(random.random_range(0..3)),
    }
}

/// A request of random samples, and what the model says of it: the number that counts as written, and those refused.
fn random_request(random: &mut StdRng, model: &mut Model, clock: i64) -> (DecodedRequest, u64, BTreeMap<&'static str, u64>) {
    let mut request = Builder::default();
    let (mut written, mut refused) = (0u64, BTreeMap::new());
    for _ in 0..random.random_range(1..30) {
        let labels = up(random.random_range(0..12));
        let form = if random.random_bool(0.7) { LabelForm::Wire } else { LabelForm::Canonical };
        let mut times: Vec<i64> = Vec::new();
        for _ in 0..random.random_range(1..4) {
            let back = if random.random_bool(0.8) { 0 } else { random.random_range(0..9_000_000) };
            times.push((clock - back) / 5000 * 5000);
        }
        let mut note = |result: std::result::Result<(), &'static str>| match result {
            Ok(()) => written += 1,
            Err(code) => *refused.entry(code).or_default() += 1,
        };
        if labels == up(3) || (labels == up(4) && random.random_bool(0.3)) {
            request = request.series(&labels, form, &[]);
            for t in times {
                let histogram = random_histogram(random);
                note(model.write(&labels, t, histogram_text(&histogram)));
                request = request.histogram(t, histogram);
            }
        } else {
            let samples: Vec<(i64, f64)> = times.iter().map(|t| (*t, random_value(random))).collect();
            samples.iter().for_each(|(t, v)| note(model.write(&labels, *t, float(*v))));
            request = request.series(&labels, form, &samples);
        }
    }
    (request.0, written, refused)
}

async fn run(seed: u64, steps: usize) {
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut store = Store::with(Arc::new(InMemory::new()), |c| c.block_bytes = 1 << 20).await;
    let mut models = [Model::default(), Model::default()];
    let tenants = [TenantId::default(), TenantId::new("other").expect("valid")];
    let mut clock = BASE_MS;
    for step in 0..steps {
        clock += random.random_range(0..40_000);
        let which = usize::from(random.random_bool(0.2));
        let (request, written, refused) = random_request(&mut random, &mut models[which], clock);
        let outcome = store.now().write(&tenants[which], request).await.expect("written");
        assert_eq!(outcome.samples_written + outcome.histograms_written, written, "step {step}, {}", outcome.rejected);
        let counts: BTreeMap<&str, u64> = outcome.rejected.counts().iter().copied().collect();
        assert_eq!(counts, refused, "step {step}");
        match random.random_range(0..60) {
            0 => {
                store.now().flush().await.expect("cuts");
                models.iter_mut().for_each(Model::cut);
            }
            1 => {
                store.crash().await;
                store.open().await.expect("opens");
                models.iter_mut().for_each(Model::reopen);
            }
            2 => {
                store.stop().await;
                store.open().await.expect("opens");
                models.iter_mut().for_each(Model::cut);
                models.iter_mut().for_each(Model::reopen);
            }
            3..6 => {
                for (tenant, model) in tenants.iter().zip(&models) {
                    assert_eq!(store.read(tenant).await, model.content, "step {step}");
                }
            }
            _ => {}
        }
    }
    for (tenant, model) in tenants.iter().zip(&models) {
        assert_eq!(store.read(tenant).await, model.content);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn agrees_with_the_model() {
    for seed in 0..6 {
        run(seed, 400).await;
    }
}
