//! `isobar check-config`: reads a file as `serve` would.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::config::load::{Inputs, to_yaml};
use crate::config::objstore::ObjstoreFile;
use crate::config::web::WebFile;

#[derive(clap::Args)]
pub struct CheckConfigArgs {
    /// The configuration file.
    file: PathBuf,
    /// Print the resulting configuration, defaults included.
    #[arg(long)]
    print: bool,
}

/// Checks and says what was found. Flags and variables are left out: the file is what is checked.
pub fn run(args: &CheckConfigArgs) -> anyhow::Result<ExitCode> {
    let inputs = Inputs { file: Some(args.file.clone()), ..Inputs::default() };
    let loaded = match inputs.load() {
        Ok(loaded) => loaded,
        Err(error) => {
            eprintln!("FAILED {error}");
            return Ok(ExitCode::from(super::FOUND));
        }
    };
    let web = WebFile::load(loaded.config.web.config_file.as_deref())?;
    let objstore = ObjstoreFile::load(loaded.config.objstore_config_file.as_deref())?;
    for warning in loaded.warnings.iter().chain(&web.warnings).chain(objstore.iter().flat_map(|o| &o.warnings)) {
        eprintln!("WARNING {warning}");
    }
    if args.print {
        print!("{}", to_yaml(&loaded.config, false));
    } else {
        println!("SUCCESS {} is valid", args.file.display());
    }
    Ok(ExitCode::SUCCESS)
}
