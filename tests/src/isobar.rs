//! The program under test, as a user runs it: the release binary with a folder and a port.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::process::{Process, free_port, project, wait_for};
use crate::wire;

/// A running Isobar with its own folder.
pub struct Isobar {
    folder: TempDir,
    data: PathBuf,
    port: u16,
    args: Vec<String>,
    process: Option<Process>,
    client: reqwest::Client,
}

/// How long a start may take on a busy machine.
const START: Duration = Duration::from_secs(60);

impl Isobar {
    /// Starts with an empty folder and waits until ready.
    pub async fn start(args: &[&str]) -> Self {
        let mut isobar = Self::prepare(args);
        isobar.launch().await;
        isobar
    }

    /// Everything but the start, for tests that put something into the data folder first.
    pub fn prepare(args: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        Self {
            data: folder.path().join("data"),
            folder,
            port: free_port(),
            args: args.iter().map(|a| (*a).to_owned()).collect(),
            process: None,
            client: reqwest::Client::builder().timeout(Duration::from_secs(60)).build().expect("client"),
        }
    }

    /// Uses another data folder.
    pub fn with_data(mut self, data: &Path) -> Self {
        self.data = data.to_owned();
        self
    }

    /// The binary: `ISOBAR_BIN`, or the release build.
    ///
    /// # Panics
    /// If it was not built.
    pub fn binary() -> PathBuf {
        let binary = std::env::var_os("ISOBAR_BIN").map_or_else(|| project().join("target/release/isobar"), PathBuf::from);
        assert!(binary.is_file(), "{} is not there; run `cargo build --release` or `tests/run`", binary.display());
        binary
    }

    /// Starts the process without waiting for it to be ready.
    pub fn spawn(&mut self) {
        let mut command = Command::new(Self::binary());
        command.arg("serve").arg("--data").arg(&self.data).arg(format!("--web.listen-address=127.0.0.1:{}", self.port)).args(&self.args);
        self.process = Some(Process::spawn("isobar", command, &self.folder.path().join("log")));
    }

    /// Starts the process and waits until it is ready. Returns how long that took.
    pub async fn launch(&mut self) -> Duration {
        let begun = Instant::now();
        self.spawn();
        let ready = self.url("/-/ready");
        loop {
            if let Ok(answer) = self.client.get(&ready).send().await
                && answer.status().is_success()
            {
                return begun.elapsed();
            }
            let process = self.process.as_mut().expect("spawned");
            if let Some(status) = process.exited() {
                panic!("isobar ended with {status}; its output:\n{}", process.output());
            }
            assert!(begun.elapsed() < START, "isobar is not ready after {START:?}; its output:\n{}", process.output());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process.as_mut().expect("is running").kill();
    }

    /// Stops it as an operator would.
    ///
    /// # Panics
    /// If it does not end in order.
    pub fn stop(&mut self) {
        let process = self.process.as_mut().expect("is running");
        let status = process.terminate(Duration::from_secs(60));
        assert!(status.success(), "isobar ended with {status}; its output:\n{}", process.output());
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("is running").pid()
    }

    /// The process itself.
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("is running")
    }

    /// What it printed so far.
    pub fn output(&self) -> String {
        self.process.as_ref().map(Process::output).unwrap_or_default()
    }

    /// Its data folder.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A folder for the test's own files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Address of a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// The client, for requests that have no method here.
    pub fn client(&self) -> &reqwest::Client {
        &self.client
    }

    /// Writes series by remote write 1.0; the status, or the error of the connection.
    pub async fn try_write(&self, timeseries: Vec<wire::TimeSeries>) -> Result<u16, reqwest::Error> {
        let request = wire::WriteRequest { timeseries, metadata: Vec::new() };
        let answer = self
            .client
            .post(self.url("/api/v1/write"))
            .header("Content-Type", "application/x-protobuf")
            .header("Content-Encoding", "snappy")
            .header("X-Prometheus-Remote-Write-Version", "0.1.0")
            .body(wire::body(&request))
            .send()
            .await?;
        Ok(answer.status().as_u16())
    }

    /// Writes series and expects success.
    pub async fn write(&self, timeseries: Vec<wire::TimeSeries>) {
        let status = self.try_write(timeseries).await.expect("isobar answers");
        assert!((200..300).contains(&status), "write answered {status}");
    }

    /// A GET whose answer must be a successful envelope; gives its data.
    pub async fn get(&self, path: &str, parameters: &[(&str, &str)]) -> Value {
        let answer = self.client.get(self.url(path)).query(parameters).send().await.expect("isobar answers");
        let status = answer.status();
        let body: Value = answer.json().await.expect("the answer is JSON");
        assert!(status.is_success() && body["status"] == "success", "{path} {parameters:?} answered {status}: {body}");
        body["data"].clone()
    }

    /// The result of an instant query.
    pub async fn query(&self, query: &str, at_s: f64) -> Value {
        self.get("/api/v1/query", &[("query", query), ("time", &at_s.to_string())]).await["result"].clone()
    }

    /// Cuts and uploads the head now; needs `--web.enable-admin-api`.
    pub async fn flush(&self) -> u16 {
        self.client.post(self.url("/api/v1/admin/tsdb/flush")).send().await.expect("isobar answers").status().as_u16()
    }

    /// Waits until a line of `/metrics` that begins with `name` has a value that `accept` accepts.
    pub async fn wait_for_metric(&self, name: &str, patience: Duration, accept: impl Fn(f64) -> bool) {
        wait_for(&format!("metric {name}"), patience, async || {
            let text = self.client.get(self.url("/metrics")).send().await.ok()?.text().await.ok()?;
            let value: f64 = text.lines().find(|l| l.starts_with(name))?.rsplit(' ').next()?.parse().ok()?;
            accept(value).then_some(())
        })
        .await;
    }
}
