//! How much memory a compaction takes: the whole process stays below its bound and a constant, however much there is to merge.

use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use isobar_tests::isobar::Isobar;
use isobar_tests::process::wait_for;
use isobar_tests::wire;

const SERIES: i64 = 6000;
/// Series of one request.
const SERIES_PER_REQUEST: i64 = 500;
/// Distance of samples.
const STEP_MS: i64 = 15_000;
/// Samples of a series between two cuts: half an hour.
const STEPS_PER_CUT: i64 = 120;
/// Cuts: 12 h of data.
const CUTS: i64 = 24;
/// The least that can be set.
const MEMORY_MIB: u64 = 96;
/// What the process takes beside merges, as the guide says.
const PROCESS_MIB: u64 = 64;

#[tokio::test(flavor = "multi_thread")]
async fn a_compaction_stays_within_its_memory() {
    let mut isobar = Isobar::prepare(&["--web.enable-admin-api", "--roles=ingest", "--self-scrape.interval=0"]);
    isobar.launch().await;
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as i64;
    let base_ms = (now_ms - CUTS * STEPS_PER_CUT * STEP_MS - 3_600_000) / STEP_MS * STEP_MS;
    for cut in 0..CUTS {
        write_cut(&isobar, base_ms, cut).await;
        wait_for("a flush succeeds", Duration::from_secs(60), async || (isobar.flush().await / 100 == 2).then_some(())).await;
    }
    isobar.stop();
    let mut command = Command::new(Isobar::binary());
    command.arg("compact").arg("--data").arg(isobar.data()).arg(format!("--compactor.memory={MEMORY_MIB}MiB"));
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("isobar compact starts");
    let mut peak_mib = 0;
    let status = loop {
        peak_mib = peak_mib.max(resident_peak_mib(child.id()).unwrap_or(0));
        if let Some(status) = child.try_wait().expect("child") {
            break status;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert!(status.success(), "isobar compact: {status}");
    println!("peak {peak_mib} MiB");
    assert!((1..=MEMORY_MIB + PROCESS_MIB).contains(&peak_mib), "peak of {peak_mib} MiB with {MEMORY_MIB} MiB for merges");
}

async fn write_cut(isobar: &Isobar, base_ms: i64, cut: i64) {
    let times = |target: i64| (cut * STEPS_PER_CUT..(cut + 1) * STEPS_PER_CUT).map(move |n| (n, base_ms + n * STEP_MS + target * 97));
    for first in (0..SERIES).step_by(SERIES_PER_REQUEST as usize) {
        let target = first / SERIES_PER_REQUEST;
        let request = (first..first + SERIES_PER_REQUEST).map(|series| {
            let samples: Vec<(i64, f64)> = times(target).map(|(n, t_ms)| (t_ms, value(n, series))).collect();
            let (name, instance) = (format!("memory_test_{}", series % 50), format!("host-{target}"));
            wire::series(&[("__name__", &name), ("instance", &instance), ("series", &series.to_string())], &samples)
        });
        isobar.write(request.collect()).await;
    }
}

/// Hard to compress, so that there is something to hold.
fn value(step: i64, series: i64) -> f64 {
    let mixed = (step.wrapping_mul(0x9e37_79b9) ^ series.wrapping_mul(0x85eb_ca6b)).wrapping_mul(0xc2b2_ae35);
    (mixed.rem_euclid(1 << 40)) as f64 / 1024.0
}

/// The most that a process ever had in memory; `None` once it has ended.
fn resident_peak_mib(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? / 1024)
}
