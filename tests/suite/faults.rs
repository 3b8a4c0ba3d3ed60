//! What disks, object stores and bytes can do wrong, and that nothing acknowledged is lost and nothing wrong is answered.

use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use isobar_tests::faults::{FaultyNetwork, Mode};
use isobar_tests::isobar::Isobar;
use isobar_tests::process::wait_for;
use isobar_tests::s3::S3Server;
use isobar_tests::wire;

/// Series in each request of these tests.
const SERIES: usize = 200;

fn now_ms() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_millis() as i64
}

/// One sample of each series at a step; values look random, so that they need their bytes.
fn request(base_ms: i64, step: i64) -> Vec<wire::TimeSeries> {
    (0..SERIES)
        .map(|s| wire::series(&[("__name__", "fault_test"), ("series", &s.to_string())], &[(base_ms + step * 1000, value(step, s))]))
        .collect()
}

fn value(step: i64, series: usize) -> f64 {
    ((step as u64 * 1_000_003 + series as u64 * 7919).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 11) as f64 * 1e-3
}

/// Asserts that exactly the steps `1..=steps` are there with their values.
async fn assert_complete(isobar: &Isobar, base_ms: i64, steps: i64) {
    assert_complete_within(isobar, base_ms, steps, steps).await;
}

/// Asserts that the steps `1..=acknowledged` are there with their values, and of those up to `sent`, which may or may not have
/// been kept, a beginning.
async fn assert_complete_within(isobar: &Isobar, base_ms: i64, acknowledged: i64, sent: i64) {
    let steps = acknowledged;
    let result = isobar.query(&format!("fault_test[{}s]", steps + 60), (base_ms + (steps + 30) * 1000) as f64 / 1000.0).await;
    let series = result.as_array().expect("matrix");
    assert_eq!(series.len(), SERIES, "series");
    for one in series {
        let s: usize = one["metric"]["series"].as_str().expect("label").parse().expect("number");
        let got: Vec<(i64, f64)> = one["values"]
            .as_array()
            .expect("values")
            .iter()
            .map(|v| ((v[0].as_f64().expect("time") * 1000.0).round() as i64, v[1].as_str().expect("value").parse().expect("number")))
            .collect();
        let there = got.len() as i64;
        assert!(acknowledged <= there && there <= sent, "series {s}: {there} samples, {acknowledged} were acknowledged and {sent} sent");
        let expected: Vec<(i64, f64)> = (1..=there).map(|step| (base_ms + step * 1000, value(step, s))).collect();
        assert_eq!(got, expected, "series {s}");
    }
}

/// Writes steps until one is refused, at most `most`; gives the last acknowledged step and the refusal.
async fn write_until_refused(isobar: &Isobar, base_ms: i64, from: i64, most: i64) -> (i64, Option<u16>) {
    for step in from..from + most {
        let status = isobar.try_write(request(base_ms, step)).await.expect("isobar answers");
        if status != 204 {
            return (step - 1, Some(status));
        }
    }
    (from + most - 1, None)
}

/// A small file system of its own, unmounted at the end.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path, mib: u32) -> Self {
        std::fs::create_dir_all(at).expect("mount point");
        Self::run(Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"]).arg(at));
        Self(at.to_owned())
    }

    fn resize(&self, mib: u32) {
        Self::run(Command::new("mount").args(["-o", &format!("remount,size={mib}m")]).arg(&self.0));
    }

    fn run(command: &mut Command) {
        let status = command.status().expect("mount starts");
        assert!(status.success(), "{command:?} failed; this test needs the right to mount a tmpfs");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _busy = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_loses_nothing_and_recovers() {
    let isobar = Isobar::prepare(&[]);
    let mount = isobar.folder().join("disk");
    let disk = SmallDisk::mount(&mount, 24);
    let mut isobar = isobar.with_data(&mount.join("data"));
    isobar.launch().await;
    let base_ms = now_ms() - 11 * 3_600_000;
    let (acknowledged, refusal) = write_until_refused(&isobar, base_ms, 1, 30_000).await;
    assert_eq!(refusal, Some(503), "a full disk answers 503 after {acknowledged} requests");
    assert_complete_within(&isobar, base_ms, acknowledged, acknowledged + 1).await;
    disk.resize(96);
    let more = wait_for("writes succeed again", Duration::from_secs(60), async || {
        (isobar.try_write(request(base_ms, acknowledged + 1)).await.ok()? == 204).then_some(acknowledged + 1)
    })
    .await;
    assert_complete(&isobar, base_ms, more).await;
    isobar.kill();
    isobar.launch().await;
    assert_complete(&isobar, base_ms, more).await;
    drop(isobar);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_store_that_fails_or_hangs_loses_nothing() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let server = S3Server::start(folder.path()).await;
    let network = FaultyNetwork::start(server.port()).await;
    let config = server.write_config(folder.path(), network.port);
    let mut isobar = Isobar::prepare(&["--web.enable-admin-api", &format!("--objstore.config-file={}", config.display())]);
    isobar.launch().await;

    let base_ms = now_ms() - 11 * 3_600_000;
    let mut step = 0;
    for mode in [Mode::Pass, Mode::Fail, Mode::Hang, Mode::Refuse] {
        network.set(mode);
        let (acknowledged, refusal) = write_until_refused(&isobar, base_ms, step + 1, 20).await;
        assert_eq!(refusal, None, "{mode:?}: writes go on into the log");
        step = acknowledged;
        let flush = tokio::time::timeout(Duration::from_secs(3), isobar.flush()).await;
        match mode {
            Mode::Pass => assert_eq!(flush.map(|s| s / 100), Ok(2), "flush"),
            _ => assert!(flush.is_err() || flush.is_ok_and(|s| s >= 500), "{mode:?}: a flush cannot succeed"),
        }
    }
    isobar.kill();
    network.set(Mode::Pass);
    isobar.launch().await;
    assert_complete(&isobar, base_ms, step).await;
    assert_eq!(isobar.flush().await / 100, 2, "flush succeeds once the store is back");
    assert_complete(&isobar, base_ms, step).await;
    isobar.stop();
    isobar.launch().await;
    assert_complete(&isobar, base_ms, step).await;
}

/// Files below a folder whose path contains `part`, sorted.
fn files(folder: &Path, part: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("folder is readable") {
            let path = entry.expect("entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().contains(part) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Flips one bit in the middle of the largest file below `folder` whose path contains `part`.
fn flip(folder: &Path, part: &str) -> PathBuf {
    let path =
        files(folder, part).into_iter().max_by_key(|f| f.metadata().map_or(0, |m| m.len())).unwrap_or_else(|| panic!("no file {part}"));
    let mut file = OpenOptions::new().read(true).write(true).open(&path).expect("file opens");
    let at = file.metadata().expect("metadata").len() / 2;
    let mut byte = [0];
    file.seek(SeekFrom::Start(at)).and_then(|_| file.read_exact(&mut byte)).expect("byte is read");
    byte[0] ^= 0x10;
    file.seek(SeekFrom::Start(at)).and_then(|_| file.write_all(&byte)).expect("byte is written");
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_tail_of_the_log_is_cut_off() {
    let mut isobar = Isobar::start(&[]).await;
    let base_ms = now_ms() - 3_600_000;
    let (steps, refusal) = write_until_refused(&isobar, base_ms, 1, 50).await;
    assert_eq!(refusal, None);
    isobar.kill();
    let segment = files(isobar.data(), "wal").pop().expect("a WAL segment");
    let mut file = OpenOptions::new().append(true).open(&segment).expect("segment opens");
    file.write_all(&[77, 0, 0, 0, 1, 2, 3]).expect("garbage is appended");
    isobar.launch().await;
    assert_complete(&isobar, base_ms, steps).await;
    assert_eq!(write_until_refused(&isobar, base_ms, steps + 1, 5).await, (steps + 5, None));
    isobar.kill();
    isobar.launch().await;
    assert_complete(&isobar, base_ms, steps + 5).await;
}

/// Either the start is refused with words that name the file, or the answers are right for all that is answered and the
/// damage is reported in the log.
#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_in_the_log_is_never_a_wrong_value() {
    let mut isobar = Isobar::start(&[]).await;
    let base_ms = now_ms() - 3_600_000;
    let (_, refusal) = write_until_refused(&isobar, base_ms, 1, 50).await;
    assert_eq!(refusal, None);
    isobar.kill();
    let segment = flip(isobar.data(), "wal");
    isobar.spawn();
    let name = segment.file_name().expect("file name").to_string_lossy().into_owned();
    wait_for("isobar names the damaged segment", Duration::from_secs(30), async || isobar.output().contains(&name).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_in_a_block_is_an_error_that_names_it() {
    let mut isobar = Isobar::start(&["--web.enable-admin-api"]).await;
    let base_ms = now_ms() - 3_600_000;
    let (steps, refusal) = write_until_refused(&isobar, base_ms, 1, 300).await;
    assert_eq!(refusal, None);
    assert_eq!(isobar.flush().await / 100, 2, "flush");
    isobar.stop();
    let damaged = flip(isobar.data(), "/chunks.parquet");
    let block = damaged.parent().and_then(Path::file_name).expect("block folder").to_string_lossy().into_owned();
    isobar.launch().await;
    let parameters = [("query", format!("fault_test[{}s]", steps + 60)), ("time", ((base_ms + steps * 1000) / 1000).to_string())];
    let answer = isobar.client().get(isobar.url("/api/v1/query")).query(&parameters).send().await.expect("isobar answers");
    let body = answer.text().await.expect("body");
    assert!(
        body.contains("\"status\":\"error\"") && body.contains(&block),
        "the error must name block {block}: {}",
        &body[..body.len().min(500)]
    );
    let verify = Command::new(Isobar::binary()).args(["blocks", "verify", "--data"]).arg(isobar.data()).output().expect("verify runs");
    let printed = String::from_utf8_lossy(&verify.stdout).into_owned() + &String::from_utf8_lossy(&verify.stderr);
    assert!(!verify.status.success() && printed.contains(&block), "verify must fail and name block {block}: {printed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_in_the_catalog_is_an_error_that_names_it() {
    let mut isobar = Isobar::start(&["--web.enable-admin-api"]).await;
    let base_ms = now_ms() - 3_600_000;
    write_until_refused(&isobar, base_ms, 1, 10).await;
    assert_eq!(isobar.flush().await / 100, 2, "flush");
    isobar.stop();
    let damaged = flip(isobar.data(), "default/catalog/");
    let name = damaged.file_name().expect("file name").to_string_lossy().into_owned();
    isobar.spawn();
    wait_for("isobar names the damaged catalog entry", Duration::from_secs(30), async || {
        if isobar.output().contains(&name) {
            return Some(());
        }
        let parameters = [("query", "fault_test"), ("time", "1")];
        let answer = isobar.client().get(isobar.url("/api/v1/query")).query(&parameters).send().await.ok()?;
        let body = answer.text().await.ok()?;
        (body.contains("\"status\":\"error\"") && body.contains(&name)).then_some(())
    })
    .await;
}
