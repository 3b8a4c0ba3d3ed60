//! The section `[X-Fleet]`: on which machines a unit runs, and with whom it shares its fate.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use regex::Regex;
use serde_json::json;

use super::unit;
use super::units::Units;
use crate::Result;
use crate::import::facts::Facts;
use crate::model::{Attributes, Class, EdgeBody, Group, NodeBody, NodeKey, kind};

/// Keys of a machine's metadata that name something which machines share.
const ZONES: &[&str] = &["zone", "az", "availability_zone", "availability-zone", "rack", "region", "datacenter", "dc"];

static TTL: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"--?ttl[= ]+(\d{1,7})\b").expect("a valid expression"));

/// Values of an option, whose name was another one in early versions.
fn option(units: &Units, name: &str, option: &str, facts: &mut Facts) -> Vec<String> {
    let old = format!("X-{}{option}", if option == "Conflicts" { "" } else { "Condition" });
    let mut out = units.words(name, "X-Fleet", option, facts);
    out.extend(units.words(name, "X-Fleet", &old, facts));
    out
}

/// Adds where the unit runs.
pub(super) fn add(units: &Units, name: &str, key: &NodeKey, facts: &mut Facts) -> Result<()> {
    for main in option(units, name, "MachineOf", facts) {
        let main = if unit::is_unit_name(&main) { main } else { format!("{main}.service") };
        let attributes = Attributes::from([("directives".to_owned(), json!(["MachineOf"])), ("reaches".to_owned(), json!(["machine"]))]);
        let body = EdgeBody { class: Some(Class::Hard), attributes: Some(Box::new(attributes)), ..EdgeBody::default() };
        facts.depends(key, &units.key(&main)?, body);
    }
    for machine in option(units, name, "MachineID", facts) {
        facts.depends(key, &NodeKey::new(kind::HOST, "", &machine)?, EdgeBody::default());
    }
    for (place, values) in metadata(units, name, facts).into_iter().filter(|(k, _)| ZONES.contains(&k.as_str())) {
        for value in &values {
            // One of several will do.
            let group = (values.len() > 1).then(|| Box::new(Group { id: place.clone(), k: 1, n: None }));
            facts.depends(key, &NodeKey::new(kind::ZONE, "", value)?, EdgeBody { group, ..EdgeBody::default() });
        }
    }
    Ok(())
}

fn metadata(units: &Units, name: &str, facts: &mut Facts) -> BTreeMap<String, Vec<String>> {
    let mut out: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for pair in option(units, name, "MachineMetadata", facts) {
        if let Some((key, value)) = pair.split_once('=').filter(|(_, v)| !v.is_empty()) {
            out.entry(key.into()).or_default().push(value.into());
        }
    }
    out
}

/// Adds what is no edge.
pub(super) fn describe(units: &Units, name: &str, body: &mut NodeBody, facts: &mut Facts) {
    let Some(unit) = units.get(name).filter(|u| u.entries.iter().any(|e| e.section == "X-Fleet")) else { return };
    body.attributes.insert("scheduler".into(), "fleet".into());
    if units.last(name, "X-Fleet", "Global").is_some_and(|v| v == "true") {
        body.attributes.insert("global".into(), true.into());
    }
    let apart = option(units, name, "Conflicts", facts);
    if !apart.is_empty() {
        body.attributes.insert("not_on_machines_of".into(), json!(apart));
    }
    let of = option(units, name, "MachineOf", facts);
    if !of.is_empty() {
        body.attributes.insert("sidekick_of".into(), json!(of));
        // What it registers lives for so long after each time.
        let ttl = unit.entries.iter().filter(|e| e.key.starts_with("Exec")).find_map(|e| TTL.captures(&e.value)?[1].parse::<u64>().ok());
        if let Some(ttl) = ttl {
            body.attributes.insert("lease_ttl_s".into(), ttl.into());
        }
    }
    let metadata = metadata(units, name, facts);
    if !metadata.is_empty() {
        body.attributes.insert("machine_metadata".into(), json!(metadata));
    }
}
