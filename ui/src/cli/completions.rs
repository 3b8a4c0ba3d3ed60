//! `isobar completions`.

use std::process::ExitCode;

#[derive(clap::Args)]
pub struct CompletionsArgs {
    /// The shell.
    shell: clap_complete::Shell,
}

/// Prints the script.
pub fn run(args: &CompletionsArgs) -> anyhow::Result<ExitCode> {
    clap_complete::generate(args.shell, &mut super::command(), "isobar", &mut std::io::stdout());
    Ok(ExitCode::SUCCESS)
}
