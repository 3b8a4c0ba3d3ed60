//! `kill -9` at random moments: every acknowledged sample is there afterwards, exactly once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use isobar_tests::isobar::Isobar;
use isobar_tests::wire;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// How often the process is killed.
const KILLS: usize = 20;
/// Connections that write at the same time.
const WRITERS: usize = 4;
/// Series of each writer; all get one sample per request.
const SERIES: usize = 25;

/// What one writer knows: up to which step all was acknowledged, and up to which step something may have arrived.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    acknowledged: i64,
    sent: i64,
}

fn request(writer: usize, base_ms: i64, step: i64) -> Vec<wire::TimeSeries> {
    let writer = writer.to_string();
    (0..SERIES)
        .map(|s| {
            let labels = [("__name__", "kill_test"), ("writer", writer.as_str()), ("series", &s.to_string())];
            wire::series(&labels, &[(base_ms + step * 1000, (step * 1000 + s as i64) as f64)])
        })
        .collect()
}

/// Writes until told to stop or the connection breaks.
async fn write_on(isobar: Arc<Isobar>, writer: usize, base_ms: i64, mut progress: Progress, stop: Arc<AtomicBool>) -> Progress {
    while !stop.load(Ordering::Relaxed) {
        let step = progress.sent + 1;
        progress.sent = step;
        match isobar.try_write(request(writer, base_ms, step)).await {
            Ok(204) => progress.acknowledged = step,
            Ok(status) => panic!("write answered {status}"),
            Err(_) => break,
        }
    }
    progress
}

/// Every step up to the last acknowledged one must be there with its value; later ones only if they were sent.
async fn check(isobar: &Isobar, base_ms: i64, progress: &[Progress]) {
    let newest = progress.iter().map(|p| p.sent).max().unwrap_or(0);
    let at_s = (base_ms + newest * 1000) as f64 / 1000.0;
    let range_s = newest + 1;
    let result = isobar.query(&format!("kill_test[{range_s}s]"), at_s).await;
    let mut found: BTreeMap<(usize, usize), Vec<(i64, f64)>> = BTreeMap::new();
    for series in result.as_array().expect("matrix") {
        let label = |name: &str| series["metric"][name].as_str().expect("label").parse::<usize>().expect("number");
        let samples = series["values"].as_array().expect("values").iter().map(|v| {
            let ms = (v[0].as_f64().expect("time") * 1000.0).round() as i64;
            (ms, v[1].as_str().expect("value").parse().expect("number"))
        });
        found.insert((label("writer"), label("series")), samples.collect());
    }
    for (writer, progress) in progress.iter().enumerate() {
        for series in 0..SERIES {
            let samples = found.remove(&(writer, series)).unwrap_or_default();
            let expected: Vec<(i64, f64)> =
                (1..=samples.len() as i64).map(|step| (base_ms + step * 1000, (step * 1000 + series as i64) as f64)).collect();
            assert_eq!(samples, expected, "writer {writer} series {series}: not every step once and in order");
            let steps = samples.len() as i64;
            assert!(
                progress.acknowledged <= steps && steps <= progress.sent,
                "writer {writer} series {series}: {steps} samples are there, {} were acknowledged, {} were sent",
                progress.acknowledged,
                progress.sent
            );
        }
    }
    assert!(found.is_empty(), "series that nobody wrote: {:?}", found.keys());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut isobar = Arc::new(Isobar::start(&["--web.enable-admin-api"]).await);
    let base_ms = isobar_now_ms() - 12 * 3_600_000;
    let mut progress = vec![Progress::default(); WRITERS];
    for round in 0..KILLS {
        let stop = Arc::new(AtomicBool::new(false));
        let writers: Vec<_> =
            (0..WRITERS).map(|w| tokio::spawn(write_on(Arc::clone(&isobar), w, base_ms, progress[w], Arc::clone(&stop)))).collect();
        // Every other time the kill meets a cut in some state.
        let flush = (round % 2 == 1).then(|| {
            let isobar = Arc::clone(&isobar);
            let wait = Duration::from_millis(rng.random_range(20..200));
            tokio::spawn(async move {
                tokio::time::sleep(wait).await;
                let _cut_short = isobar.client().post(isobar.url("/api/v1/admin/tsdb/flush")).send().await;
            })
        });
        tokio::time::sleep(Duration::from_millis(rng.random_range(50..400))).await;
        kill_shared(&isobar);
        for (w, writer) in writers.into_iter().enumerate() {
            progress[w] = writer.await.expect("writer ends");
        }
        stop.store(true, Ordering::Relaxed);
        if let Some(flush) = flush {
            flush.await.expect("flush ends");
        }
        let mut inner = Arc::into_inner(isobar).expect("all writers ended");
        inner.kill();
        let ready = inner.launch().await;
        println!("round {round}: ready after {ready:?}, {progress:?}");
        check(&inner, base_ms, &progress).await;
        // What was sent but not acknowledged may be there or not: start over from what is there for sure.
        for p in &mut progress {
            p.sent = p.acknowledged;
        }
        isobar = Arc::new(inner);
    }
    let mut isobar = Arc::into_inner(isobar).expect("no writer is left");
    assert_eq!(isobar.flush().await / 100, 2, "flush succeeds");
    check_after_resend(&isobar, base_ms, &progress).await;
    isobar.stop();
    isobar.launch().await;
    check_after_resend(&isobar, base_ms, &progress).await;
    assert!(progress.iter().map(|p| p.acknowledged).sum::<i64>() > 100, "too little was written to mean anything: {progress:?}");
}

/// As [`check`], where steps that were sent last but not acknowledged may be there too.
async fn check_after_resend(isobar: &Isobar, base_ms: i64, progress: &[Progress]) {
    let slack: Vec<Progress> = progress.iter().map(|p| Progress { acknowledged: p.acknowledged, sent: p.acknowledged + 1 }).collect();
    check(isobar, base_ms, &slack).await;
}

fn kill_shared(isobar: &Isobar) {
    // SAFETY: kill has no memory effects; the process is a child that was not waited for yet.
    unsafe { libc::kill(isobar.pid() as i32, libc::SIGKILL) };
}

fn isobar_now_ms() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_millis() as i64
}
