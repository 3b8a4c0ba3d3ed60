//! `isobar serve`.

use std::process::ExitCode;

use super::settings;

/// Runs the server until it is told to stop.
pub fn run(matches: &clap::ArgMatches) -> anyhow::Result<ExitCode> {
    crate::serve::run(settings::inputs(matches))?;
    Ok(ExitCode::SUCCESS)
}
