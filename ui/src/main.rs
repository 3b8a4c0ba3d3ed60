//! The program `isobar`: everything that a person touches. Command line and configuration, the assembly of the parts into an
//! HTTP server, and the start page. What the parts do is in their crates.

mod cli;
mod config;
mod logging;
mod selector;
mod serve;

use std::process::ExitCode;

/// Ingest allocates and frees small pieces on many threads, where this allocator is faster than the system's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::run()
}
