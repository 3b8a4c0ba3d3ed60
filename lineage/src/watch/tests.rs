//! A folder that changes while it is watched.

use std::fs;
use std::time::Duration;

use isobar_block::TenantId;
use prometheus_client::encoding::text::encode;

use super::*;
use crate::AsOf;
use crate::testing::key;

#[test]
fn settings_are_checked() {
    let settings = |text: &str| crate::settings::Settings::from_yaml(text);
    let good = settings("watch: {path: manifests, interval: 10s, name: cluster-1, namespace: shop}").expect("valid").watch;
    let mut resolved = good.clone();
    resolved.resolve_paths(Path::new("/etc/isobar"));
    assert_eq!((resolved.path, good.interval.ms()), (Some("/etc/isobar/manifests".into()), 10_000));
    for (text, wanted) in
        [("watch: {interval: 10ms}", "watch.interval"), ("watch: {name: ''}", "watch.name"), ("watch: {folder: x}", "folder")]
    {
        let error = settings(text).expect_err(text).to_string();
        assert!(error.contains(wanted), "{error}");
    }
}

struct Watched {
    service: Service,
    registry: Registry,
    folder: tempfile::TempDir,
    last: Option<(Settings, u128)>,
}

impl Watched {
    fn new() -> Self {
        let mut registry = Registry::default();
        let service = Service::new(crate::testing::parts(), &mut registry);
        Self { service, registry, folder: tempfile::tempdir().expect("a folder"), last: None }
    }

    fn write(&self, name: &str, content: &str) {
        fs::write(self.folder.path().join(name), content).expect("written");
    }

    async fn look(&mut self) -> Result<()> {
        let path = self.folder.path().to_path_buf();
        let outcome = look(&self.service, &Settings::default(), &path, &mut self.last).await;
        self.service.metrics().folder.looked(&path, &outcome);
        outcome
    }

    async fn has(&self, id: &str) -> bool {
        let tenant = self.service.tenant(&TenantId::default()).await.expect("opens");
        tenant.store.snapshot(AsOf::Now).await.expect("a snapshot").find(&key(id)).is_some()
    }

    fn metrics(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("encodes");
        text
    }
}

#[tokio::test]
async fn changes_are_imported_and_errors_seen() {
    let mut watched = Watched::new();
    watched.write("a.yaml", "nodes: [{id: 'service:a'}]");
    watched.write("b.yaml", "nodes: [{id: 'service:b'}]");
    watched.look().await.expect("is imported");
    assert!(watched.has("service:a").await && watched.has("service:b").await);
    let first = watched.service.metrics().folder.status().imported.expect("imported").at_ms;

    watched.look().await.expect("nothing to do");
    assert_eq!(watched.service.metrics().folder.status().imported.expect("imported").at_ms, first, "nothing has changed");

    tokio::time::sleep(Duration::from_millis(20)).await;
    watched.write("a.yaml", "nodes: [{id: 'service:c'}]");
    watched.write("b.yaml", "nodes: [");
    watched.look().await.expect("one of them is imported");
    assert!(!watched.has("service:a").await && watched.has("service:c").await && watched.has("service:b").await);
    let report = watched.service.metrics().folder.status().imported.expect("imported");
    assert_eq!(report.failed().map(|f| f.path.as_str()).collect::<Vec<_>>(), ["b.yaml"]);

    fs::remove_file(watched.folder.path().join("b.yaml")).expect("removed");
    watched.look().await.expect("is imported");
    assert!(!watched.has("service:b").await);
    let metrics = watched.metrics();
    for line in [
        "isobar_lineage_watch_imports_total{result=\"success\"} 2",
        "isobar_lineage_watch_imports_total{result=\"partial\"} 1",
        "isobar_lineage_watch_files{result=\"success\"} 1",
        "isobar_lineage_watch_files{result=\"failure\"} 0",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }

    // A folder that is away for a while takes nothing out of the graph.
    let path = watched.folder.path().to_path_buf();
    fs::remove_dir_all(&path).expect("removed");
    assert!(watched.look().await.is_err());
    assert!(watched.has("service:c").await);
    assert!(watched.service.metrics().folder.status().error.is_some());
    assert!(watched.metrics().contains("isobar_lineage_watch_imports_total{result=\"failure\"} 1"));
}
