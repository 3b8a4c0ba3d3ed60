//! Real programs as child processes that never outlive the test.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A running program. Dropping it kills it.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program whose output goes to `log`, appended.
    ///
    /// # Panics
    /// If it does not start.
    pub fn spawn(name: &str, mut command: Command, log: &Path) -> Self {
        let out = File::options().create(true).append(true).open(log).expect("log file opens");
        let err = out.try_clone().expect("log file is cloned");
        let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn().unwrap_or_else(|e| panic!("{name} does not start: {e}"));
        Self { name: name.to_owned(), child, log: log.to_owned() }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it printed so far.
    pub fn output(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// How it ended, if it did.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("child can be waited for")
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(&mut self) {
        let _already_gone = self.child.kill();
        self.child.wait().expect("killed child is waited for");
    }

    /// Sends a signal such as `libc::SIGTERM`.
    pub fn signal(&self, signal: i32) {
        // SAFETY: kill has no memory effects; the child is ours and not yet waited for, so that the id is its own.
        unsafe { libc::kill(self.child.id() as i32, signal) };
    }

    /// Asks it to stop and waits for it.
    ///
    /// # Panics
    /// If it is still there after `patience`.
    pub fn terminate(&mut self, patience: Duration) -> ExitStatus {
        self.signal(libc::SIGTERM);
        let begun = Instant::now();
        loop {
            if let Some(status) = self.exited() {
                return status;
            }
            if begun.elapsed() > patience {
                let output = self.output();
                self.kill();
                panic!("{} did not stop within {patience:?}; its output:\n{output}", self.name);
            }
            std::thread::sleep(POLL);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Distance of looks at a condition.
pub const POLL: Duration = Duration::from_millis(20);

/// Waits until `condition` gives something.
///
/// # Panics
/// After `patience`, naming what was waited for.
pub async fn wait_for<T, F: AsyncFnMut() -> Option<T>>(what: &str, patience: Duration, mut condition: F) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = condition().await {
            return found;
        }
        assert!(begun.elapsed() < patience, "{what}: not within {patience:?}");
        tokio::time::sleep(POLL).await;
    }
}

/// A port of the loopback interface that nothing listens on at the moment.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a loopback port is free").port()
}

/// Path of a program that the tests need.
///
/// # Panics
/// If it is not installed; `tests/run` installs it.
pub fn program(name: &str) -> PathBuf {
    std::env::var_os("PATH")
        .and_then(|path| std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file()))
        .unwrap_or_else(|| panic!("{name} is not installed; `tests/run` installs it"))
}

/// The root folder of the project.
pub fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests lie in the project").to_owned()
}

/// The folder with the conformance scripts and the bench, beside the project.
///
/// # Panics
/// If it is not there; `ISOBAR_SHARED` names another place.
pub fn shared() -> PathBuf {
    let folder = std::env::var_os("ISOBAR_SHARED").map_or_else(|| project().join("../shared"), PathBuf::from);
    assert!(folder.is_dir(), "{} is not there; set ISOBAR_SHARED to the folder with conformance and bench", folder.display());
    folder
}
