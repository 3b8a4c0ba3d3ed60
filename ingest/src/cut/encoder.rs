//! One thread that encodes blocks, one after the other.
//!
//! Encoding takes much memory for a short time. On one thread there is only one block at a time, whatever the number of tenants,
//! and the allocator can use the memory of one block for the next.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;

use tokio::sync::oneshot;

use crate::error::{Error, Result};

type Job = Box<dyn FnOnce() + Send>;

/// The thread. It ends when this is dropped, after the job at hand.
#[derive(Debug)]
pub struct Encoder(mpsc::Sender<Job>);

impl Encoder {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system's error if it has no thread to give.
    pub fn start() -> std::io::Result<Self> {
        let (sender, receiver) = mpsc::channel::<Job>();
        // A job that panics has told its own story; whoever waits for it gets an error, and the next job runs.
        let run = |job: Job| drop(catch_unwind(AssertUnwindSafe(job)));
        std::thread::Builder::new().name("cut".into()).spawn(move || receiver.into_iter().for_each(run))?;
        Ok(Self(sender))
    }

    /// Runs a job and waits for it. Dropping the future lets the job run to its end all the same.
    ///
    /// # Errors
    /// [`Error::Stopping`] if the job panics.
    pub async fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let (sender, receiver) = oneshot::channel();
        let job = Box::new(move || drop(sender.send(job())));
        self.0.send(job).map_err(|_| Error::Stopping)?;
        receiver.await.map_err(|_| Error::Stopping)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn runs_jobs_in_order_and_survives_a_panic() {
        let encoder = Encoder::start().expect("a thread");
        assert!(encoder.run(|| assert!(std::hint::black_box(false), "a defect")).await.is_err());
        let (first, second) = tokio::join!(encoder.run(|| 1), encoder.run(|| 2));
        assert_eq!((first.expect("runs"), second.expect("runs")), (1, 2));
    }
}
