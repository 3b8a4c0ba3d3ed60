//! Which jobs have failed, and when they are tried again.

use std::time::{Duration, Instant};

use hashbrown::HashMap;

/// Pause after the first failure of a job; it doubles with each failure up to the second value.
const PAUSE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(3600));
/// Failures that are remembered.
const REMEMBERED: usize = 10_000;

/// Failures of one tenant's jobs.
#[derive(Debug, Default)]
pub struct Failures {
    jobs: HashMap<String, (u32, Instant)>,
}

impl Failures {
    /// Whether the job has failed so recently that it has to wait.
    pub fn waits(&self, job: &str, now: Instant) -> bool {
        self.jobs.get(job).is_some_and(|(_, until)| now < *until)
    }

    /// Remembers a failure, and says how long the job waits.
    pub fn add(&mut self, job: &str, now: Instant) -> Duration {
        if self.jobs.len() >= REMEMBERED {
            self.jobs.retain(|_, (_, until)| now < *until);
        }
        let (count, until) = self.jobs.entry(job.to_owned()).or_insert((0, now));
        let pause = PAUSE.0.saturating_mul(1 << (*count).min(16)).min(PAUSE.1);
        *count += 1;
        *until = now + pause;
        pause
    }

    /// Forgets the failures of a job.
    pub fn remove(&mut self, job: &str) {
        self.jobs.remove(job);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_end() {
        let mut failures = Failures::default();
        let now = Instant::now();
        assert!(!failures.waits("a", now));
        let pauses: Vec<u64> = (0..9).map(|_| failures.add("a", now).as_secs()).collect();
        assert_eq!(pauses, [30, 60, 120, 240, 480, 960, 1920, 3600, 3600]);
        assert!(failures.waits("a", now) && !failures.waits("b", now));
        assert!(!failures.waits("a", now + Duration::from_secs(3600)));
        failures.remove("a");
        assert!(!failures.waits("a", now));
    }
}
