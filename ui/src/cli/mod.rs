//! The command line. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 a check found something.

mod blocks;
mod check_config;
mod client;
mod compact;
mod completions;
mod lineage;
mod query;
mod serve;
mod settings;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

/// A check ran and found something wrong.
pub const FOUND: u8 = 3;

#[derive(Parser)]
#[command(name = "isobar", version, about = "A long-term store for Prometheus metrics", long_about = None, max_term_width = 120)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the server: takes writes, keeps them, answers queries.
    Serve,
    /// Ask a running server; the expression may begin with EXPLAIN or EXPLAIN ANALYZE.
    Query(query::QueryArgs),
    /// Look at blocks in the object store, without a server.
    Blocks(blocks::BlocksArgs),
    /// Merge, downsample, expire and delete all that is due in the object store, beside running servers or without any.
    Compact(compact::CompactArgs),
    /// Ask a running server about services and data, what failures touch, and tell it of manifests and catalogs.
    Lineage(lineage::LineageArgs),
    /// Check a configuration file as `serve` would, and exit with 3 if it is wrong.
    CheckConfig(check_config::CheckConfigArgs),
    /// Print completions for a shell.
    Completions(completions::CompletionsArgs),
}

/// The whole command line, settings of `serve` included.
fn command() -> clap::Command {
    let is_of_compact = |key: &str| compact::SETTINGS.iter().any(|s| *s == key || (s.ends_with('.') && key.starts_with(s)));
    Cli::command()
        .mut_subcommand("serve", |serve| serve.args(settings::args()))
        .mut_subcommand("compact", |compact| compact.args(settings::args_of(is_of_compact)))
}

/// Runs what the process's arguments ask for.
pub fn run() -> ExitCode {
    let matches = command().get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|e| e.exit());
    if !matches!(cli.command, Command::Serve) {
        end_quietly_on_broken_pipe();
    }
    let result = match cli.command {
        Command::Serve => serve::run(matches.subcommand_matches("serve").expect("the subcommand was matched")),
        Command::Query(args) => query::run(args),
        Command::Blocks(args) => blocks::run(args),
        Command::Compact(args) => compact::run(&args, matches.subcommand_matches("compact").expect("the subcommand was matched")),
        Command::Lineage(args) => lineage::run(args),
        Command::CheckConfig(args) => check_config::run(&args),
        Command::Completions(args) => completions::run(&args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("isobar: {error:#}");
        ExitCode::FAILURE
    })
}

/// Lets `isobar query … | head` end when `head` does, as other commands do; Rust's default makes printing panic. A server
/// must not die of a client that went away.
fn end_quietly_on_broken_pipe() {
    // SAFETY: this sets the system's default action and runs before any other thread is started.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// Runs a client command to its end.
fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

/// A table with a line below its header and none between rows, which are many.
fn plain_table() -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING).set_style(comfy_table::TableComponent::HeaderLines, '─');
    table
}

/// A size for reading, with three digits or so.
pub fn rounded_size(size_bytes: u64) -> String {
    const UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match UNITS.iter().find(|(_, unit_bytes)| size_bytes >= *unit_bytes) {
        Some((unit, unit_bytes)) => format!("{:.2} {unit}", size_bytes as f64 / *unit_bytes as f64),
        None => format!("{size_bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
    }

    /// `cli/help.txt` shows reviewers every change of the command line; `UPDATE_HELP=1` writes it.
    #[test]
    fn help_is_as_recorded() {
        let mut shown = command().term_width(120).render_long_help().to_string();
        for name in ["serve", "query", "blocks", "compact", "lineage", "check-config", "completions"] {
            let mut command = command().term_width(120);
            command.build();
            let sub = command.find_subcommand_mut(name).expect("is there");
            shown.push_str(&format!("\n==== isobar {name} ====\n{}", sub.clone().term_width(120).render_help()));
        }
        let shown: String = shown.lines().flat_map(|line| [line.trim_end(), "\n"]).collect();
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli/help.txt");
        if std::env::var_os("UPDATE_HELP").is_some() {
            std::fs::write(&path, &shown).expect("written");
        }
        let recorded = std::fs::read_to_string(&path).expect("help.txt is there");
        assert!(recorded == shown, "the help differs from cli/help.txt; run this test with UPDATE_HELP=1 and look at the change");
    }
}
