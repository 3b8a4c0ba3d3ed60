//! A real S3 server with one bucket.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::process::{Process, free_port, program, wait_for};

/// A running server; dropping it ends it.
pub struct S3Server {
    _process: Process,
    port: u16,
}

impl S3Server {
    /// Starts the server and makes the bucket `metrics`.
    pub async fn start(folder: &Path) -> Self {
        let port = free_port();
        let mut command = Command::new(program("moto_server"));
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
        let process = Process::spawn("moto_server", command, &folder.join("moto.log"));
        let client = reqwest::Client::new();
        wait_for("the S3 server makes a bucket", Duration::from_secs(60), async || {
            client.put(format!("http://127.0.0.1:{port}/metrics")).send().await.ok().filter(|a| a.status().is_success()).map(drop)
        })
        .await;
        Self { _process: process, port }
    }

    /// Where it listens, on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Writes an `objstore.yml` for the bucket as it is seen through `port`.
    pub fn write_config(&self, folder: &Path, port: u16) -> PathBuf {
        let path = folder.join("objstore.yml");
        let text = format!(
            "type: S3\nconfig:\n  bucket: metrics\n  endpoint: 127.0.0.1:{port}\n  region: us-east-1\n  insecure: true\n  access_key: test\n  secret_key: test\n"
        );
        std::fs::write(&path, text).expect("objstore.yml is written");
        path
    }
}
