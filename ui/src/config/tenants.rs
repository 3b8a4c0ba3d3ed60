//! What differs for single tenants: the mapping `tenants` of the file. Below each name stands a small configuration with the
//! sections that a tenant can have of its own.

use serde_json::{Map, Value as Json};

use super::load::assign;
use super::setting::{Kind, Setting};
use super::yaml::{Key, Node, Value, quote};
use super::{Config, long_term, sections, suggest};

/// Name of the mapping in the file.
pub const KEY: &str = "tenants";

/// What the mapping looks like, for a file that has none.
pub const EXAMPLE: &str = "
# What differs for single tenants: the sections limits, replicas and retention, below the tenant's name.
# tenants:
#   team-a:
#     limits:
#       max_active_series: 500000
#     retention:
#       raw: 30d
#       selected: [{match: '{env=\"dev\"}', keep: 7d}]
";

/// Where limits of single tenants may stand, too: the mapping had only these once.
pub const LIMITS_PATH: [&str; 2] = ["limits", "tenants"];

/// Reads the mapping: tenant names, below each the sections that differ.
///
/// # Errors
/// Line and reason.
pub fn read(node: &Node, config: &mut Config) -> Result<(), String> {
    let with_path = |row: Setting| {
        let path = row.file_path();
        (row, path)
    };
    let rows: Vec<(Setting, Vec<String>)> = rows().into_iter().map(with_path).collect();
    for (tenant, sections) in entries(node, KEY)? {
        check_name(tenant)?;
        let place = format!("{KEY}.{}", tenant.text);
        for (section, node) in entries(sections, &place)? {
            if !rows.iter().any(|(_, path)| path[0] == section.text) {
                let known = rows.iter().map(|(_, path)| path[0].as_str());
                return Err(format!(
                    "line {}: {place}: unknown key {:?}{}; a tenant can have limits, replicas and retention of its own",
                    section.line,
                    section.text,
                    suggest::hint(&section.text, known)
                ));
            }
            if section.text == LIMITS_PATH[0] {
                read_limits(tenant, node, &format!("{place}.{}", section.text), config)?;
                continue;
            }
            for (key, value) in entries(node, &format!("{place}.{}", section.text))? {
                let here = || rows.iter().filter(|(_, path)| path[0] == section.text);
                let Some((row, _)) = here().find(|(_, path)| path[1] == key.text) else {
                    let hint = suggest::hint(&key.text, here().map(|(_, path)| path[1].as_str()));
                    return Err(format!("line {}: {place}.{}: unknown key {:?}{hint}", key.line, section.text, key.text));
                };
                assign(row, value, None, &mut config.clone()).map_err(|e| format!("{e} (in {place})"))?;
                config.sections.tenant_rules.entry(tenant.text.clone()).or_default().push((row.key, value.clone()));
            }
        }
    }
    Ok(())
}

/// Reads `limits.tenants`.
///
/// # Errors
/// Line and reason.
pub fn read_limits_of_all(node: &Node, config: &mut Config) -> Result<(), String> {
    let place = LIMITS_PATH.join(".");
    for (tenant, limits) in entries(node, &place)? {
        check_name(tenant)?;
        read_limits(tenant, limits, &format!("{place}.{}", tenant.text), config)?;
    }
    Ok(())
}

fn read_limits(tenant: &Key, node: &Node, place: &str, config: &mut Config) -> Result<(), String> {
    if config.sections.limits.tenants.contains_key(&tenant.text) {
        return Err(format!("line {}: limits of tenant {:?} are given a second time; give them below {KEY} only", node.line, tenant.text));
    }
    let rows = sections::limits();
    let known: Vec<String> = rows.iter().map(|row| row.file_path().remove(1)).collect();
    let mut differs = Map::new();
    for (key, value) in entries(node, place)? {
        let at = format!("line {}: {place}", key.line);
        let row = known
            .iter()
            .position(|k| *k == key.text)
            .ok_or_else(|| format!("{at}: unknown key {:?}{}", key.text, suggest::hint(&key.text, known.iter().map(String::as_str))))?;
        let Value::Text(text) = &value.value else { return Err(format!("{at}.{}: expected one value", key.text)) };
        let mut normal = config.clone();
        rows[row].set(&mut normal, text).map_err(|e| format!("{at}.{}: {e}", key.text))?;
        let text = rows[row].get(&normal);
        differs.insert(key.text.clone(), text.parse::<u64>().map_or_else(|_| Json::from(text), Json::from));
    }
    let differs = serde_json::from_value(Json::Object(differs)).map_err(|e| format!("line {}: {place}: {e}", node.line))?;
    config.sections.limits.tenants.insert(tenant.text.clone(), differs);
    Ok(())
}

fn rows() -> Vec<Setting> {
    let mut rows = sections::limits();
    rows.extend(long_term::rules());
    rows
}

fn check_name(tenant: &Key) -> Result<(), String> {
    isobar_block::TenantId::new(&tenant.text).map(drop).map_err(|e| format!("line {}: {KEY}: {e}", tenant.line))
}

fn entries<'a>(node: &'a Node, place: &str) -> Result<&'a [(Key, Node)], String> {
    match &node.value {
        Value::Map(entries) => Ok(entries),
        Value::Empty => Ok(&[]),
        _ => Err(format!("line {}: {place} must be a mapping", node.line)),
    }
}

/// Writes the mapping as it stands in the file; nothing if no tenant differs.
pub fn to_yaml(config: &Config) -> String {
    let sections = &config.sections;
    let mut names: Vec<&String> = sections.limits.tenants.keys().chain(sections.tenant_rules.keys()).collect();
    names.sort();
    names.dedup();
    let mut out = if names.is_empty() { String::new() } else { format!("{KEY}:\n") };
    for name in names {
        out.push_str(&format!("  {}:\n", quote(name)));
        if let Some(Ok(Json::Object(differs))) = sections.limits.tenants.get(name).map(serde_json::to_value) {
            out.push_str("    limits:\n");
            for (key, value) in differs {
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                out.push_str(&format!("      {key}: {}\n", quote(&text)));
            }
        }
        out.push_str(&rules_to_yaml(config, name));
    }
    out
}

fn rules_to_yaml(config: &Config, tenant: &str) -> String {
    let Some(differs) = config.sections.tenant_rules.get(tenant) else { return String::new() };
    let config = config.with_rules_of(tenant);
    let (mut out, mut open) = (String::new(), String::new());
    for row in long_term::rules().iter().filter(|row| differs.iter().any(|(key, _)| *key == row.key)) {
        let path = row.file_path();
        if open != path[0] {
            out.push_str(&format!("    {}:\n", path[0]));
            open.clone_from(&path[0]);
        }
        let text = row.get(&config);
        out.push_str(&format!("      {}: {}\n", path[1], if row.kind == Kind::Tree { text } else { quote(&text) }));
    }
    out
}
