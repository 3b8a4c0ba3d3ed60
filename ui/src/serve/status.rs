//! What the store holds in a few numbers, for the start page; and the flags and the configuration as the Prometheus API shows
//! them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use isobar_ingest::units::format_duration;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{Shared, exposition};
use crate::cli::rounded_size;
use crate::config::load::{Loaded, to_yaml};
use crate::config::objstore::ObjstoreFile;
use crate::config::setting::table;
use crate::config::web::WebFile;

/// A rate needs at least this much time.
const MIN_RATE_TIME: Duration = Duration::from_secs(2);

/// Numbers for people.
pub struct Store {
    /// Series in the heads.
    pub series: u64,
    /// Samples written per second, since the page was last asked; `None` at first.
    pub samples_per_second: Option<f64>,
    /// Blocks of all tenants that are known here.
    pub blocks: u64,
    /// Their size, rounded.
    pub size_text: String,
    /// How much of it is due for compaction, and what is damaged, as of the compactor of this process.
    pub backlog_text: String,
    /// Since when the process runs.
    pub uptime_text: String,
}

impl Store {
    /// Reads them from the metrics.
    pub fn read(shared: &Shared) -> Self {
        let families = exposition::gather(&shared.registry);
        let now = |name: &str| exposition::value(&families, name);
        // Seconds are enough for people, and nothing at all at first.
        let uptime = Duration::from_secs(shared.started.elapsed().as_secs());
        Self {
            series: now("isobar_head_series"),
            samples_per_second: shared.rate.of(now("isobar_head_samples_appended_total"), Instant::now()),
            blocks: now("isobar_blocks"),
            size_text: rounded_size(now("isobar_blocks_size_bytes")),
            backlog_text: backlog_text(
                shared.parts.compactor_status().is_some(),
                now("isobar_compactor_backlog_bytes"),
                now("isobar_compactor_quarantined_blocks"),
            ),
            uptime_text: format_duration(uptime),
        }
    }
}

fn backlog_text(compacts: bool, backlog_bytes: u64, quarantined: u64) -> String {
    match (compacts, quarantined) {
        (false, _) => "–".to_owned(),
        (true, 0) => rounded_size(backlog_bytes),
        (true, 1) => format!("{}; 1 block is damaged", rounded_size(backlog_bytes)),
        (true, n) => format!("{}; {n} blocks are damaged", rounded_size(backlog_bytes)),
    }
}

/// The rate of a counter between looks at it.
pub struct Rate(Mutex<RateState>);

struct RateState {
    at: Instant,
    count: u64,
    rate: Option<f64>,
}

impl Rate {
    /// A rate that begins now.
    pub fn new() -> Self {
        Self(Mutex::new(RateState { at: Instant::now(), count: 0, rate: None }))
    }

    fn of(&self, count: u64, now: Instant) -> Option<f64> {
        let mut state = self.0.lock();
        let passed = now.saturating_duration_since(state.at);
        if passed >= MIN_RATE_TIME {
            let more = count.saturating_sub(state.count);
            *state = RateState { at: now, count, rate: Some(more as f64 / passed.as_secs_f64()) };
        }
        state.rate
    }
}

/// `GET /api/v1/status/store`.
pub async fn store(State(shared): State<Shared>) -> Json<Value> {
    let now = Store::read(&shared);
    Json(json!({
        "status": "success",
        "data": {
            "series": now.series,
            "samplesPerSecond": now.samples_per_second,
            "blocks": now.blocks,
            "sizeText": now.size_text,
            "backlogText": now.backlog_text,
            "uptimeText": now.uptime_text,
        }
    }))
}

/// The configuration in force as YAML, with the files that it names and without secrets.
pub fn config_yaml(loaded: &Loaded) -> String {
    let mut out = to_yaml(&loaded.config, false);
    // The files were valid when they were loaded; if they changed to something invalid since, they are not in force.
    if let Ok(Some(file)) = ObjstoreFile::load(loaded.config.objstore_config_file.as_deref()) {
        out.push_str(&format!("# objstore.config_file\n{}", comment(&file.to_redacted_yaml(0))));
    }
    if let Ok(file) = WebFile::load(loaded.config.web.config_file.as_deref())
        && loaded.config.web.config_file.is_some()
    {
        out.push_str(&format!("# web.config_file\n{}", comment(&file.to_redacted_yaml(0))));
    }
    out
}

fn comment(yaml: &str) -> String {
    yaml.lines().map(|line| format!("#   {line}\n")).collect()
}

/// Every flag and its value, whoever gave it.
pub fn flags(loaded: &Loaded) -> BTreeMap<String, String> {
    let mut flags: BTreeMap<String, String> = table().iter().map(|s| (s.key.to_owned(), s.get(&loaded.config))).collect();
    flags.insert("config.file".into(), loaded.file.as_ref().map_or_else(String::new, |f| f.display().to_string()));
    flags
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load::Inputs;

    #[test]
    fn secrets_are_not_shown() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let (main, web, objstore) = (folder.path().join("isobar.yml"), folder.path().join("web.yml"), folder.path().join("objstore.yml"));
        std::fs::write(&main, "web: {config_file: web.yml}\nobjstore: {config_file: objstore.yml}\n").expect("written");
        let hash = bcrypt::hash("x", 4).expect("hashes");
        std::fs::write(&web, format!("basic_auth_users:\n  alice: {hash}\n")).expect("written");
        std::fs::write(&objstore, "type: S3\nconfig: {bucket: metrics, access_key: k, secret_key: hidden, endpoint: localhost:1}\n")
            .expect("written");
        let loaded = Inputs { file: Some(main), ..Inputs::default() }.load().expect("valid");
        let shown = config_yaml(&loaded);
        assert!(
            shown.contains("bucket: metrics") && shown.contains("alice: <secret>") && shown.contains("secret_key: <secret>"),
            "{shown}"
        );
        assert!(!shown.contains("hidden") && !shown.contains(&hash), "{shown}");
        let flags = flags(&loaded);
        assert!(flags["web.config.file"].ends_with("web.yml") && flags["query.max-samples"] == "50000000", "{flags:?}");
    }

    #[test]
    fn the_backlog_is_for_people() {
        for (compacts, bytes, quarantined, expected) in [
            (false, 5, 0, "–"),
            (true, 0, 0, "0 B"),
            (true, 2048, 1, "2.00 KiB; 1 block is damaged"),
            (true, 0, 2, "0 B; 2 blocks are damaged"),
        ] {
            assert_eq!(backlog_text(compacts, bytes, quarantined), expected);
        }
    }

    #[test]
    fn a_rate_needs_time() {
        let rate = Rate::new();
        let start = Instant::now();
        assert_eq!(rate.of(10, start), None);
        let later = rate.of(100, start + Duration::from_secs(10)).expect("time has passed");
        assert!((later - 10.0).abs() < 0.1, "{later}");
        assert_eq!(rate.of(5000, start + Duration::from_secs(11)), Some(later));
    }
}
