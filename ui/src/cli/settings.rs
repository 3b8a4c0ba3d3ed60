//! The table of settings as flags of `serve`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches};

use crate::config::Config;
use crate::config::load::Inputs;
use crate::config::setting::{Kind, table};

const CONFIG_FILE: &str = "config.file";

/// One flag for each setting, and the one for the file.
pub fn args() -> Vec<Arg> {
    args_of(|_| true)
}

/// Flags for some settings, by their keys, and the one for the file.
pub fn args_of(wanted: impl Fn(&str) -> bool) -> Vec<Arg> {
    let defaults = Config::default();
    let file = Arg::new(CONFIG_FILE)
        .long(CONFIG_FILE)
        .value_name("FILE")
        .value_parser(clap::value_parser!(PathBuf))
        .help("Configuration file; flags and ISOBAR_… variables go before it. [env: ISOBAR_CONFIG_FILE]")
        .help_heading("Configuration");
    let settings = table().into_iter().filter(|setting| wanted(setting.key)).map(|setting| {
        let default = setting.get(&defaults);
        let default = if default.is_empty() { String::new() } else { format!(" [default: {default}]") };
        let arg = Arg::new(setting.key)
            .long(setting.key)
            .value_name(setting.value_name)
            .help(format!("{}{default} [env: {}]", setting.help, setting.env()))
            .help_heading(heading(setting.key));
        if setting.kind == Kind::Switch { arg.num_args(0..=1).require_equals(true).default_missing_value("true") } else { arg }
    });
    std::iter::once(file).chain(settings).collect()
}

/// What was given on the command line, with the environment.
pub fn inputs(matches: &ArgMatches) -> Inputs {
    let has = |key: &str| matches.try_contains_id(key).is_ok();
    let given = |key: &str| has(key) && matches.value_source(key) == Some(ValueSource::CommandLine);
    let flags: BTreeMap<String, String> = table()
        .iter()
        .filter(|setting| given(setting.key))
        .filter_map(|setting| matches.get_one::<String>(setting.key).map(|value| (setting.key.to_owned(), value.clone())))
        .collect();
    Inputs::new(matches.get_one::<PathBuf>(CONFIG_FILE).cloned(), flags)
}

fn heading(key: &str) -> &'static str {
    match key.split('.').next() {
        Some("web") => "HTTP server",
        Some("query") => "Queries",
        Some("storage" | "blocks" | "write" | "otlp") => "Writes and storage",
        Some("compactor" | "replicas" | "retention") => "Long-term storage",
        Some("lineage") => "Lineage and impact",
        Some("limits" | "tenancy") => "Tenants and their limits",
        Some("log" | "self-scrape") => "Observation",
        _ => "Configuration",
    }
}
