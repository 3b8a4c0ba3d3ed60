//! Unit files of systemd and fleet, with drop-ins, links and instances of templates.
//!
//! A unit is a workload, a mount a volume. `Requires=` and its like are hard, `Wants=` soft, `After=` only an order, and which events
//! of the provider reach the unit stands in the edge's attributes: one that dies on its own takes those along that are bound to it
//! (`BindsTo=`), and not those that require it. Instances of one template stand in for each other.

mod unit;
mod units;
mod edges;
mod fleet;

use super::facts::Facts;
use super::{Options, SourceFile};
use units::Units;

pub(super) use unit::{is_unit_path, is_unit_text};

/// The facts of all unit files together.
pub(super) fn facts(files: &[&SourceFile], options: &Options) -> Facts {
    let mut facts = Facts::default();
    let units = Units::new(files, options.host.as_deref().unwrap_or(""), &mut facts);
    for name in units.names() {
        if let Err(error) = edges::add(&units, name, &mut facts) {
            facts.warn(error.within(name).to_string());
        }
    }
    if let Err(error) = edges::add_links(&units, &mut facts) {
        facts.warn(error.to_string());
    }
    facts
}

/// The folder that all these files are in, or the one file.
pub(super) fn common_folder(files: &[&SourceFile]) -> String {
    let folder = |path: &str| {
        let mut parts: Vec<&str> = path.split('/').collect();
        parts.pop();
        if parts.last().is_some_and(|last| unit::is_folder_of_unit(last)) {
            parts.pop();
        }
        parts.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let Some((first, rest)) = files.split_first() else { return String::new() };
    if rest.is_empty() {
        return first.path.clone();
    }
    let mut common = folder(&first.path);
    for file in rest {
        let other = folder(&file.path);
        let same = common.iter().zip(&other).take_while(|(a, b)| a == b).count();
        common.truncate(same);
    }
    if common.is_empty() { "units".into() } else { common.join("/") }
}

#[cfg(test)]
mod tests;
