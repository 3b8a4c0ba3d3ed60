//! Merged sets against a naive model, and joins of samples.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::{Labels, Timestamps};

/// Series in memory, of which a load gives exactly the samples in its range.
#[derive(Clone, Debug, Default)]
pub(crate) struct MemorySet {
    pub series: BTreeMap<Labels, SampleBuf>,
    pub resolution_ms: i64,
    pub loads: Arc<Mutex<Vec<Range<usize>>>>,
}

struct MemoryRun {
    set: MemorySet,
    rows: Range<usize>,
    range: TimeRange,
}

impl MemorySet {
    pub fn new(series: impl IntoIterator<Item = (Labels, SampleBuf)>) -> Self {
        Self { series: series.into_iter().collect(), ..Self::default() }
    }

    fn row(&self, row: usize) -> (&Labels, &SampleBuf) {
        self.series.iter().nth(row).expect("a row of the set")
    }
}

#[async_trait]
impl SeriesSet for MemorySet {
    fn len(&self) -> usize {
        self.series.len()
    }

    fn labels(&self, row: usize) -> LabelsRef<'_> {
        self.row(row).0.as_ref()
    }

    fn resolution_ms(&self) -> i64 {
        self.resolution_ms
    }

    fn may_have_label(&self, name: &str) -> bool {
        self.series.keys().any(|labels| labels.get(name).is_some())
    }

    async fn load(&self, rows: Range<usize>, range: TimeRange) -> Result<Box<dyn SeriesRun>> {
        self.loads.lock().push(rows.clone());
        Ok(Box::new(MemoryRun { set: self.clone(), rows, range }))
    }
}

impl SeriesRun for MemoryRun {
    fn read(&mut self, row: usize, out: &mut SampleBuf) -> Result<()> {
        assert!(self.rows.contains(&row));
        let all = self.set.row(row).1;
        out.clear();
        let start = all.timestamps.partition_point(|t| *t < self.range.start_ms());
        let end = all.timestamps.partition_point(|t| *t <= self.range.end_ms());
        out.timestamps =
            if end - start == all.len() { all.timestamps.clone() } else { Timestamps::unshared(all.timestamps[start..end].to_vec()) };
        out.values.extend_from_slice(&all.values[start..end]);
        Ok(())
    }
}

pub(crate) fn labels(pairs: &[(&str, &str)]) -> Labels {
    Labels::from_pairs(pairs.iter().copied()).expect("valid labels")
}

pub(crate) fn samples(samples: impl IntoIterator<Item = (i64, f64)>) -> SampleBuf {
    let (times, values): (Vec<i64>, Vec<f64>) = samples.into_iter().unzip();
    SampleBuf { timestamps: Timestamps::shared(times), values, ..SampleBuf::default() }
}

pub(crate) fn bits(samples: &SampleBuf) -> Vec<(i64, u64)> {
    samples.timestamps.iter().copied().zip(samples.values.iter().map(|v| v.to_bits())).collect()
}

/// All series of a set, read in runs of `step` rows; only what is in `range`.
pub(crate) async fn read_all(set: &dyn SeriesSet, range: TimeRange, step: usize) -> Vec<(Labels, Vec<(i64, u64)>)> {
    let mut out = Vec::new();
    let mut buf = SampleBuf::default();
    for start in (0..set.len()).step_by(step) {
        let rows = start..(start + step).min(set.len());
        let mut run = set.load(rows.clone(), range).await.expect("loads");
        for row in rows {
            run.read(row, &mut buf).expect("reads");
            out.push((set.labels(row).to_owned(), bits(&buf).into_iter().filter(|s| range.contains(s.0)).collect()));
        }
    }
    out
}

fn without(labels: &Labels, names: &[String]) -> Labels {
    let mut bytes = Vec::new();
    labels.as_ref().drop_into(names, &mut bytes);
    Labels::from_bytes(&bytes).expect("canonical")
}

/// What the merged set is to hold: for each series and replica the samples by time.
fn model(sets: &[MemorySet], replica_labels: &[String]) -> Vec<(Labels, Vec<(i64, u64)>)> {
    let mut groups: BTreeMap<Labels, BTreeMap<Labels, BTreeMap<i64, f64>>> = BTreeMap::new();
    for set in sets {
        for (labels, buf) in &set.series {
            let mut replica = Vec::new();
            labels.as_ref().keep_into(replica_labels, &mut replica);
            let replica = Labels::from_bytes(&replica).expect("canonical");
            let group = groups.entry(without(labels, replica_labels)).or_default().entry(replica).or_default();
            group.extend(buf.timestamps.iter().copied().zip(buf.values.iter().copied()));
        }
    }
    let merged = |(labels, replicas): (Labels, BTreeMap<Labels, BTreeMap<i64, f64>>)| {
        // A series without replica labels was deduplicated before, or never had replicas: its falls are its own.
        let is_first_plain = replicas.keys().next().is_some_and(|replica| *replica == Labels::empty());
        let mut replicas: Vec<SampleBuf> = replicas.into_values().map(samples).collect();
        let mut result = SampleBuf::default();
        Deduplicator::default().dedup(labels.as_ref().metric_name(), &mut replicas, is_first_plain, &mut result);
        (labels, bits(&result))
    };
    groups.into_iter().map(merged).collect()
}

#[test]
fn what_needs_no_merging_is_the_set_itself() {
    let set: Arc<dyn SeriesSet> = Arc::new(MemorySet::new([(labels(&[("__name__", "up")]), samples([(1, 1.0)]))]));
    let same = merged(vec![Arc::clone(&set)], &["replica".to_owned(), "__name__".to_owned()]);
    assert!(Arc::ptr_eq(&set, &same));
    assert!(merged(Vec::new(), &[]).is_empty());
}

#[tokio::test]
async fn a_run_of_series_is_loaded_as_few_ranges() {
    let series = (0..200).flat_map(|i| {
        ["a", "b"].map(|replica| (labels(&[("__name__", "up"), ("_replica", replica), ("n", &format!("{i:03}"))]), samples([(i, 1.0)])))
    });
    let set = MemorySet::new(series);
    let loads = Arc::clone(&set.loads);
    let merged = merged(vec![Arc::new(set)], &["_replica".to_owned()]);
    assert_eq!(merged.len(), 200);
    assert!(!merged.may_have_label("_replica") && merged.may_have_label("n"));
    merged.load(50..150, TimeRange::ALL).await.expect("loads");
    assert_eq!(*loads.lock(), [50..150, 250..350]);
}

#[test]
fn joined_timestamps_are_shared_by_the_series_of_a_target() {
    let (early, late) = (samples([(1, 1.0), (2, 2.0)]), samples([(3, 3.0)]));
    let mut join = Join::default();
    let mut ids = Vec::new();
    for _ in 0..2 {
        // Whichever comes first.
        for (mut a, mut b) in [(early.clone(), late.clone()), (late.clone(), early.clone())] {
            join.join(&mut a, &mut b);
            assert_eq!((&*a.timestamps, &*a.values), (&[1, 2, 3][..], &[1.0, 2.0, 3.0][..]));
            ids.push(a.timestamps.id());
        }
    }
    assert!(ids[0] != 0 && ids.iter().all(|id| *id == ids[0]), "{ids:?}");
}

#[test]
fn joins_keep_counts() {
    let mut join = Join::default();
    for times in [[1, 2], [3, 4], [2, 3]] {
        let mut one = samples([(1, 1.0), (3, 3.0)]);
        let mut other = samples(times.map(|t| (t, t as f64 * 10.0)));
        other.counts = vec![7, 8];
        let expected: BTreeMap<i64, u32> = [(1, 1), (3, 1)].into_iter().chain(times.into_iter().zip([7, 8])).collect();
        join.join(&mut one, &mut other);
        assert_eq!(one.timestamps.iter().copied().zip(one.counts.iter().copied()).collect::<BTreeMap<_, _>>(), expected);
        assert_eq!(one.counts.len(), one.values.len());
    }
}

fn any_set() -> impl Strategy<Value = MemorySet> {
    let replica = || prop::sample::select(vec!["", "x", "y"]);
    let series = (prop::sample::select(vec!["a", "a_total", "b"]), replica(), prop::sample::select(vec!["1", "2", "3"]), replica());
    let buf =
        prop::collection::btree_map(0i64..30_000_000, 1u8..9, 1..40).prop_map(|s| samples(s.into_iter().map(|(t, v)| (t, f64::from(v)))));
    prop::collection::vec((series, buf), 0..25).prop_map(|all| {
        let named = |((name, early, zone, late), buf)| {
            (labels(&[("__name__", name), ("__replica__", early), ("zone", zone), ("zz", "same"), ("zzz", late)]), buf)
        };
        MemorySet::new(all.into_iter().map(named))
    })
}

proptest! {
    #[test]
    fn merges_as_the_model_does(sets in prop::collection::vec(any_set(), 0..5), names in 0usize..4, step in 1usize..20, start in 0i64..30_000_000, span in 0i64..20_000_000) {
        let all = ["__replica__".to_owned(), "zzz".to_owned()];
        let replica_labels = match names { 0 => &all[..0], 1 => &all[..1], 2 => &all[1..], _ => &all[..] };
        let expected = model(&sets, replica_labels);
        let merged = merged(sets.iter().map(|s| Arc::new(s.clone()) as Arc<dyn SeriesSet>).collect(), replica_labels);
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        prop_assert_eq!(&runtime.block_on(read_all(&*merged, TimeRange::ALL, step)), &expected);
        // A range in the middle gives what all gives there.
        let range = TimeRange::new(start, start + span).expect("a range");
        let inside: Vec<(Labels, Vec<(i64, u64)>)> =
            expected.into_iter().map(|(l, s)| (l, s.into_iter().filter(|s| range.contains(s.0)).collect())).collect();
        prop_assert_eq!(&runtime.block_on(read_all(&*merged, range, step)), &inside);
    }
}
