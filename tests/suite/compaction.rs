//! Compactors as processes: killed at random moments, several at once, on a local disk and on S3 in a storm. Afterwards the
//! catalog is sound, every sample is there once, and no file is left that nobody knows.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use isobar_tests::faults::{FaultyNetwork, Mode};
use isobar_tests::isobar::Isobar;
use isobar_tests::process::wait_for;
use isobar_tests::s3::S3Server;
use isobar_tests::wire;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;

/// Series of the data set.
const SERIES: i64 = 150;
/// Distance of samples.
const STEP_MS: i64 = 20_000;
/// Samples of a series between two cuts.
const STEPS_PER_CUT: i64 = 100;
/// Cuts: about 22 h of data.
const CUTS: i64 = 40;
/// How often a compactor is killed: `ISOBAR_TEST_KILLS`, or few enough for every run.
const KILLS: usize = 12;

fn now_ms() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_millis() as i64
}

fn value(step: i64, series: i64) -> f64 {
    if series % 3 == 0 { (step * 7 + series) as f64 } else { ((step * 1_000_003 + series * 7919) % 10_007) as f64 / 8.0 }
}

/// Writes the steps of a cut; every fourth cut also fills in steps that the one before had left out, so that blocks overlap.
async fn write_cut(isobar: &Isobar, base_ms: i64, cut: i64) {
    let left_out = |step: i64| step % 50 == 49 && (step / STEPS_PER_CUT) % 4 == 2;
    let own = (cut * STEPS_PER_CUT..(cut + 1) * STEPS_PER_CUT).filter(|step| !left_out(*step));
    let late = ((cut - 1).max(0) * STEPS_PER_CUT..cut * STEPS_PER_CUT).filter(|step| left_out(*step));
    let steps: Vec<i64> = own.chain(late).collect();
    for part in (0..SERIES).collect::<Vec<_>>().chunks(50) {
        let request = part.iter().map(|s| {
            let samples: Vec<(i64, f64)> = steps.iter().map(|step| (base_ms + step * STEP_MS, value(*step, *s))).collect();
            wire::series(&[("__name__", "compaction_test"), ("part", &(s % 7).to_string()), ("series", &s.to_string())], &samples)
        });
        isobar.write(request.collect()).await;
    }
}

/// Asserts that all samples are there once with their values.
async fn assert_complete(isobar: &Isobar, base_ms: i64) {
    let steps = CUTS * STEPS_PER_CUT;
    let end_s = (base_ms + steps * STEP_MS) as f64 / 1000.0;
    let result = isobar.query(&format!("compaction_test[{}s]", steps * STEP_MS / 1000 + 60), end_s).await;
    let series = result.as_array().expect("matrix");
    assert_eq!(series.len() as i64, SERIES);
    for one in series {
        let s: i64 = one["metric"]["series"].as_str().expect("label").parse().expect("number");
        let samples = one["values"].as_array().expect("values");
        assert_eq!(samples.len() as i64, steps, "samples of series {s}");
        for (step, sample) in samples.iter().enumerate() {
            let (time_s, text) = (sample[0].as_f64().expect("time"), sample[1].as_str().expect("value"));
            let step = step as i64;
            assert_eq!((time_s * 1000.0).round() as i64, base_ms + step * STEP_MS, "series {s}");
            assert_eq!(text.parse::<f64>().expect("number"), value(step, s), "series {s} step {step}");
        }
    }
}

/// A folder or a bucket with many small blocks, written by a server that has stopped.
struct Blocks {
    isobar: Isobar,
    base_ms: i64,
    place: Vec<String>,
}

impl Blocks {
    async fn write(place: Vec<String>) -> Self {
        let mut args: Vec<&str> = vec!["--web.enable-admin-api", "--roles=ingest,query", "--self-scrape.interval=0"];
        args.extend(place.iter().map(String::as_str));
        let mut isobar = Isobar::prepare(&args);
        isobar.launch().await;
        let base_ms = (now_ms() - (CUTS * STEPS_PER_CUT * STEP_MS) - 3_600_000) / STEP_MS * STEP_MS;
        for cut in 0..CUTS {
            write_cut(&isobar, base_ms, cut).await;
            // A store in a storm may refuse for a while; the head keeps what could not be written.
            wait_for("a flush succeeds", Duration::from_secs(120), async || (isobar.flush().await / 100 == 2).then_some(())).await;
        }
        assert_complete(&isobar, base_ms).await;
        isobar.stop();
        Self { isobar, base_ms, place }
    }

    /// The command that compacts to the end; on a local disk it removes what it replaces at once.
    fn compact(&self, data: &Path) -> Command {
        let mut command = Command::new(Isobar::binary());
        command.arg("compact").arg("--data").arg(data).args(&self.place);
        command.args(["--compactor.delete-delay=0s", "--compactor.memory=96MiB"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    fn listed(&self, data: &Path) -> Vec<Value> {
        let output = Command::new(Isobar::binary())
            .args(["blocks", "ls", "--json", "--data"])
            .arg(data)
            .args(&self.place)
            .output()
            .expect("blocks ls runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).lines().map(|line| serde_json::from_str(line).expect("a block as JSON")).collect()
    }

    /// Samples in raw blocks: none may be lost, none counted twice.
    fn assert_counts(&self, data: &Path) {
        let raw: Vec<Value> = self.listed(data).into_iter().filter(|b| b["resolution_ms"] == 0).collect();
        let samples: u64 = raw.iter().map(|b| b["samples"].as_u64().expect("samples")).sum();
        assert_eq!(samples as i64, SERIES * CUTS * STEPS_PER_CUT, "samples in {} raw blocks", raw.len());
    }

    fn verify(&self, data: &Path) {
        let output =
            Command::new(Isobar::binary()).args(["blocks", "verify", "--data"]).arg(data).args(&self.place).output().expect("verify runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}

fn finish(mut command: Command) -> Duration {
    let began = Instant::now();
    let output = command.output().expect("isobar compact runs");
    assert!(output.status.success(), "isobar compact: {}", String::from_utf8_lossy(&output.stderr));
    began.elapsed()
}

fn copy(from: &Path, to: &Path) {
    let _absent = std::fs::remove_dir_all(to);
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp runs");
    assert!(status.success());
}

/// Folders of blocks on the disk with at least one finished file; unfinished ones have a `#` in their name, are shown by no
/// listing, and go an hour later.
fn block_folders(data: &Path) -> BTreeSet<String> {
    let has_files =
        |folder: &Path| std::fs::read_dir(folder).expect("block").any(|e| !e.expect("entry").file_name().to_string_lossy().contains('#'));
    let folders = std::fs::read_dir(data.join("objects/default/blocks")).expect("blocks").map(|e| e.expect("entry").path());
    let names = folders.filter(|f| has_files(f)).map(|f| f.file_name().expect("has a name").to_string_lossy().into_owned());
    names.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_compactors_lose_and_double_nothing() {
    let kills = std::env::var("ISOBAR_TEST_KILLS").map_or(KILLS, |n| n.parse().expect("ISOBAR_TEST_KILLS is a number"));
    let seed = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let blocks = Blocks::write(Vec::new()).await;
    let (pristine, data) = (blocks.isobar.data().to_owned(), blocks.isobar.folder().join("killed"));
    copy(&pristine, &data);
    let whole = finish(blocks.compact(&data));
    blocks.assert_counts(&data);
    copy(&pristine, &data);
    let (mut cut_short, mut ended) = (0, 0);
    while cut_short < kills {
        let mut child = blocks.compact(&data).spawn().expect("isobar compact starts");
        tokio::time::sleep(whole.mul_f64(rng.random_range(0.02..0.9) / 2.0)).await;
        if child.try_wait().expect("child").is_some() {
            ended += 1;
            copy(&pristine, &data);
            continue;
        }
        child.kill().expect("kill -9");
        child.wait().expect("killed child is waited for");
        cut_short += 1;
        blocks.assert_counts(&data);
    }
    println!("{cut_short} compactors were killed, {ended} had ended before, a whole run takes {whole:?}");
    let mut last = blocks.compact(&data);
    last.arg("--compactor.orphan-age=0s");
    finish(last);
    blocks.assert_counts(&data);
    blocks.verify(&data);
    let listed: BTreeSet<String> = blocks.listed(&data).iter().map(|b| b["ulid"].as_str().expect("ulid").to_owned()).collect();
    assert_eq!(block_folders(&data), listed, "folders that no catalog knows, or the other way round; kept at {}", data.display());
    let mut isobar = Isobar::prepare(&["--roles=query"]).with_data(&data);
    isobar.launch().await;
    assert_complete(&isobar, blocks.base_ms).await;
}

/// Runs three compactors again and again until none finds anything to do.
async fn race(blocks: &Blocks, data: &Path) {
    for _ in 0..3 {
        let running: Vec<_> = (0..3).map(|_| blocks.compact(data).spawn().expect("isobar compact starts")).collect();
        for child in running {
            let output = tokio::task::spawn_blocking(move || child.wait_with_output()).await.expect("joins").expect("ends");
            assert!(output.status.success(), "isobar compact: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn racing_compactors_agree() {
    let blocks = Blocks::write(Vec::new()).await;
    let data: PathBuf = blocks.isobar.data().to_owned();
    let before = blocks.listed(&data).len();
    race(&blocks, &data).await;
    blocks.assert_counts(&data);
    blocks.verify(&data);
    let after = blocks.listed(&data).len();
    assert!(after * 4 < before, "{before} blocks became {after}");
    let mut last = blocks.compact(&data);
    last.arg("--compactor.orphan-age=0s");
    finish(last);
    let listed: BTreeSet<String> = blocks.listed(&data).iter().map(|b| b["ulid"].as_str().expect("ulid").to_owned()).collect();
    assert_eq!(block_folders(&data), listed);
    let mut isobar = Isobar::prepare(&["--roles=query"]).with_data(&data);
    isobar.launch().await;
    assert_complete(&isobar, blocks.base_ms).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_at_the_object_store_is_survived() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let server = S3Server::start(folder.path()).await;
    let network = FaultyNetwork::start(server.port()).await;
    let config = server.write_config(folder.path(), network.port);
    network.set(Mode::Storm);
    let blocks = Blocks::write(vec![format!("--objstore.config-file={}", config.display())]).await;
    let data: PathBuf = blocks.isobar.data().to_owned();
    let running: Vec<_> = (0..2).map(|_| blocks.compact(&data).spawn().expect("isobar compact starts")).collect();
    for child in running {
        // In a storm one may give up; it must say so, and leave everything sound.
        let output = tokio::task::spawn_blocking(move || child.wait_with_output()).await.expect("joins").expect("ends");
        assert!(output.status.success() || !output.stderr.is_empty());
    }
    network.set(Mode::Pass);
    blocks.assert_counts(&data);
    finish(blocks.compact(&data));
    blocks.assert_counts(&data);
    blocks.verify(&data);
    network.set(Mode::Storm);
    let mut isobar = Isobar::prepare(&["--roles=query", &blocks.place[0]]);
    isobar.launch().await;
    assert_complete(&isobar, blocks.base_ms).await;
}
