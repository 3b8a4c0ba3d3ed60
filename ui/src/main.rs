//! The program `isobar`: everything that a person touches. Command line and configuration, the assembly of the parts into an
//! HTTP server, and the start page. What the parts do is in their crates.

mod allocator;
mod cli;
mod config;
mod logging;
mod selector;
mod serve;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
