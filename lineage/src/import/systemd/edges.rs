//! What a unit's directives say about what it depends on.

use serde_json::{Value, json};

use super::fleet;
use super::unit;
use super::units::Units;
use crate::Result;
use crate::import::facts::Facts;
use crate::model::{Attributes, Class, EdgeBody, Group, NodeBody, NodeKey, kind};

/// Directives of `[Unit]` by which a unit depends on those that it names, with the class, and what of the provider reaches the unit.
const DEPENDS: &[(&str, Class, &[&str])] = &[
    ("Requires", Class::Hard, &["start", "stop", "restart"]),
    ("BindsTo", Class::Hard, &["start", "stop", "restart", "crash"]),
    ("BindTo", Class::Hard, &["start", "stop", "restart", "crash"]),
    ("Requisite", Class::Hard, &["start"]),
    ("PartOf", Class::Hard, &["stop", "restart"]),
    ("StopPropagatedFrom", Class::Hard, &["stop"]),
    ("Wants", Class::Soft, &["start"]),
    ("Upholds", Class::Soft, &["start"]),
    ("After", Class::Ordering, &[]),
];

/// Directives by which those that are named depend on the unit: section, directive, the one that it is the inverse of.
const INVERSE: &[(&str, &str, &str)] = &[
    ("Unit", "Before", "After"),
    ("Unit", "PropagatesStopTo", "StopPropagatedFrom"),
    ("Install", "RequiredBy", "Requires"),
    ("Install", "WantedBy", "Wants"),
    ("Install", "UpheldBy", "Upholds"),
];

/// Directives that are no dependencies; the names are kept.
const KEPT: &[(&str, &str)] = &[("Conflicts", "conflicts"), ("OnFailure", "on_failure"), ("OnSuccess", "on_success")];

/// Confidence of an `[Install]` section of a unit for which there is no link: it may not be enabled.
const NOT_ENABLED: f32 = 0.5;

/// Confidence of a mount that is needed for a path if no unit among the files mounts there.
const UNKNOWN_MOUNT: f32 = 0.3;

/// Folders that are on the root file system nearly everywhere.
const ROOT_FOLDERS: &[&str] = &[
    "/",
    "/var",
    "/tmp",
    "/var/tmp",
    "/run",
    "/var/run",
    "/etc",
    "/usr",
    "/usr/lib",
    "/home",
    "/var/lib",
    "/var/log",
    "/var/cache",
    "/opt",
    "/srv",
];

fn said(class: Class, directive: &str, reaches: &[&str]) -> EdgeBody {
    let mut attributes = Attributes::from([("directives".to_owned(), json!([directive]))]);
    if !reaches.is_empty() {
        attributes.insert("reaches".into(), json!(reaches));
    }
    EdgeBody { class: Some(class), attributes: Some(Box::new(attributes)), ..EdgeBody::default() }
}

fn edge_of(directive: &str) -> EdgeBody {
    let known = DEPENDS.iter().find(|(name, ..)| *name == directive);
    known.map_or_else(|| said(Class::Hard, directive, &[]), |(name, class, reaches)| said(*class, name, reaches))
}

/// Adds a unit and everything that it says.
pub(super) fn add(units: &Units, name: &str, facts: &mut Facts) -> Result<()> {
    let key = units.key(name)?;
    let body = body(units, name, facts);
    facts.node(&key, body);
    if !units.host.is_empty() {
        facts.depends(&key, &NodeKey::new(kind::HOST, "", &units.host)?, EdgeBody::default());
    }
    // `Alias=` is only a wish: several units may have the same one, and the link tells which of them was enabled.
    for alias in units.aliases.iter().filter(|(_, of)| *of == name).map(|(alias, _)| alias) {
        facts.alias(&NodeKey::new(key.kind(), &units.host, alias)?, &key, "systemd-alias");
    }
    if units.get(name).is_some_and(|u| u.masked) {
        return Ok(());
    }
    if let Some(instances) = units.instances.get(name) {
        let group = || Some(Box::new(Group { id: "instances".into(), k: 1, n: None }));
        for instance in instances {
            facts.composed(&key, &units.key(instance)?, EdgeBody { group: group(), ..EdgeBody::default() });
        }
        // What the template needs its instances need, each its own.
        return Ok(());
    }
    add_directives(units, name, &key, facts)?;
    add_mounts(units, name, &key, facts)?;
    add_triggers(units, name, &key, facts)?;
    fleet::add(units, name, &key, facts)
}

fn body(units: &Units, name: &str, facts: &mut Facts) -> NodeBody {
    let mut body = NodeBody::default();
    if let Some(text) = units.last(name, "Unit", "Description") {
        body.description = unit::expand(text, name, &units.host).unwrap_or_else(|| text.into());
    }
    body.attributes.insert("unit_type".into(), name.rsplit('.').next().unwrap_or("").into());
    if let Some((prefix, instance, suffix)) = unit::template_parts(name) {
        let template = Value::from(format!("{prefix}@.{suffix}"));
        body.attributes.insert(
            if instance.is_empty() { "is_template" } else { "template" }.into(),
            if instance.is_empty() { true.into() } else { template },
        );
    }
    if units.get(name).is_some_and(|u| u.masked) {
        body.attributes.insert("masked".into(), true.into());
    }
    for (directive, attribute) in KEPT {
        let words = units.words(name, "Unit", directive, facts);
        if !words.is_empty() {
            body.attributes.insert((*attribute).into(), json!(words));
        }
    }
    fleet::describe(units, name, &mut body, facts);
    body
}

fn add_directives(units: &Units, name: &str, key: &NodeKey, facts: &mut Facts) -> Result<()> {
    for (directive, class, _) in DEPENDS {
        let providers = units.units_of(name, "Unit", directive, facts);
        for provider in &providers {
            let mut edge = edge_of(directive);
            // Who wants several instances of one template can do without some; who requires them can not.
            if let Some(template) = unit::template_of(provider).filter(|_| *class == Class::Soft)
                && providers.iter().filter(|p| unit::template_of(p).as_ref() == Some(&template)).count() > 1
            {
                edge.group = Some(Box::new(Group { id: template, k: 1, n: None }));
            }
            facts.depends(key, &units.key(provider)?, edge);
        }
    }
    for (section, directive, inverse) in INVERSE {
        for dependent in units.units_of(name, section, directive, facts) {
            let mut edge = edge_of(inverse);
            let linked = || units.links.contains(&(dependent.clone(), inverse, name.to_owned()));
            if *section == "Install" && !linked() {
                edge.confidence = Some(NOT_ENABLED);
            }
            facts.depends(&units.key(&dependent)?, key, edge);
        }
    }
    for socket in units.units_of(name, "Service", "Sockets", facts) {
        facts.depends(key, &units.key(&socket)?, said(Class::Soft, "Sockets", &["start"]));
    }
    Ok(())
}

/// Adds what links say; their units need not be among the files.
pub(super) fn add_links(units: &Units, facts: &mut Facts) -> Result<()> {
    for (dependent, directive, needed) in &units.links {
        facts.depends(&units.key(dependent)?, &units.key(needed)?, edge_of(directive));
    }
    Ok(())
}

fn add_mounts(units: &Units, name: &str, key: &NodeKey, facts: &mut Facts) -> Result<()> {
    for (directive, class) in [("RequiresMountsFor", Class::Hard), ("WantsMountsFor", Class::Soft)] {
        for path in units.words(name, "Unit", directive, facts) {
            let path = path.trim_end_matches('/');
            let known = units.mount_for(path).map(str::to_owned);
            if known.is_none() && (path.is_empty() || ROOT_FOLDERS.contains(&path)) {
                continue;
            }
            let mut edge = said(class, directive, &["start", "stop"]);
            if known.is_none() {
                edge.confidence = Some(UNKNOWN_MOUNT);
            }
            facts.depends(key, &units.key(&known.unwrap_or_else(|| unit::mount_name(path)))?, edge);
        }
    }
    Ok(())
}

/// Who starts whom. Whoever talks to a socket talks to its service, so that the socket depends on it; a service that a timer or a
/// path starts does nothing without that.
fn add_triggers(units: &Units, name: &str, key: &NodeKey, facts: &mut Facts) -> Result<()> {
    let Some((stem, suffix)) = name.rsplit_once('.') else { return Ok(()) };
    let (section, directive) = match suffix {
        "socket" => ("Socket", "Service"),
        "timer" => ("Timer", "Unit"),
        "path" => ("Path", "Unit"),
        "automount" => ("Automount", "Where"),
        _ => return Ok(()),
    };
    let explicit = units.units_of(name, section, directive, facts).pop().filter(|_| suffix != "automount");
    let own_template = suffix == "socket" && units.last(name, "Socket", "Accept").is_some_and(|v| matches!(v, "yes" | "true" | "1" | "on"));
    let started = match (explicit, suffix) {
        (Some(unit), _) => unit,
        (None, "automount") => format!("{stem}.mount"),
        (None, _) if own_template => format!("{stem}@.service"),
        (None, _) => format!("{stem}.service"),
    };
    let (started, edge) = (units.key(&started)?, said(Class::Hard, "Triggers", &["start"]));
    if suffix == "socket" || suffix == "automount" {
        facts.depends(key, &started, edge);
    } else {
        facts.depends(&started, key, edge);
    }
    Ok(())
}
