//! What the integration tests stand on: real processes, a remote-write sender, a query client and a faulty network.
//!
//! Everything here panics with a clear message when something is missing or does not answer: it runs in tests only.

pub mod process;
pub mod wire;
pub mod isobar;
pub mod prometheus;
pub mod histogram_target;
pub mod faults;
pub mod s3;
pub mod answers;
