//! The real Prometheus and node exporter of Debian, scraping and writing to Isobar.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::process::{Process, free_port, program, wait_for};

/// A Prometheus with its own folder.
pub struct Prometheus {
    /// The process.
    pub process: Process,
    /// Where it listens.
    pub port: u16,
}

impl Prometheus {
    /// Starts Prometheus in `folder` with a configuration and waits until it is ready.
    pub async fn start(folder: &Path, config: impl FnOnce(u16) -> String) -> Self {
        let port = free_port();
        std::fs::create_dir_all(folder).expect("folder for prometheus");
        std::fs::write(folder.join("prometheus.yml"), config(port)).expect("configuration is written");
        let mut command = Command::new(program("prometheus"));
        command
            .arg(format!("--config.file={}", folder.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .arg("--web.enable-lifecycle")
            .current_dir(folder);
        let process = Process::spawn("prometheus", command, &folder.join("log"));
        let client = reqwest::Client::new();
        wait_for("prometheus is ready", Duration::from_secs(60), async || {
            client.get(format!("http://127.0.0.1:{port}/-/ready")).send().await.ok().filter(|a| a.status().is_success()).map(drop)
        })
        .await;
        Self { process, port }
    }
}

/// Starts the node exporter; gives it and its port.
pub fn node_exporter(folder: &Path) -> (Process, u16) {
    let port = free_port();
    let mut command = Command::new(program("prometheus-node-exporter"));
    command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
    (Process::spawn("node exporter", command, &folder.join("node-exporter.log")), port)
}
