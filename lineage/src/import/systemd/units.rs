//! All units of an import: files with their drop-ins, instances made of templates, other names, and what links say.

use std::collections::{BTreeMap, BTreeSet};

use super::unit::{self, Entry, Place};
use crate::Result;
use crate::import::SourceFile;
use crate::import::facts::Facts;
use crate::model::{NodeKey, kind};

/// Instances of templates that are made because somebody names them.
pub const MAX_INSTANCES: usize = 10_000;

/// What the files say about one unit.
#[derive(Clone, Debug, Default)]
pub(super) struct Unit {
    /// Assignments of the file, then of the drop-ins.
    pub entries: Vec<Entry>,
    /// It is linked to nowhere, so that it cannot be started.
    pub masked: bool,
}

/// See the module.
pub(super) struct Units {
    pub host: String,
    units: BTreeMap<String, Unit>,
    /// Other names of units.
    pub aliases: BTreeMap<String, String>,
    /// What links say: who needs whom, by which directive.
    pub links: BTreeSet<(String, &'static str, String)>,
    /// By template.
    pub instances: BTreeMap<String, Vec<String>>,
}

impl Units {
    /// Puts the files together. Of several files for one unit the one counts that systemd would take.
    pub fn new(files: &[&SourceFile], host: &str, facts: &mut Facts) -> Self {
        let mut out = Self {
            host: host.into(),
            units: BTreeMap::new(),
            aliases: BTreeMap::new(),
            links: BTreeSet::new(),
            instances: BTreeMap::new(),
        };
        let mut sorted: Vec<&&SourceFile> = files.iter().collect();
        sorted.sort_by_key(|f| (rank(&f.path), &f.path));
        let mut drop_ins: Vec<(&str, Vec<Entry>)> = Vec::new();
        for file in sorted {
            match unit::place(&file.path) {
                Some(Place::Link(unit, directive, needed)) => drop(out.links.insert((unit.into(), directive, needed.into()))),
                Some(Place::DropIn(unit)) => drop_ins.push((unit, unit::parse(&file.content))),
                Some(Place::Unit(name)) => out.add_file(name, file),
                // A text that looks like a unit's, under another name.
                None => out.add_file(&format!("{}.service", file.path.rsplit('/').next().unwrap_or("")), file),
            }
        }
        out.instantiate(facts);
        for (unit, entries) in drop_ins {
            out.drop_in(unit, &entries);
        }
        out
    }

    fn add_file(&mut self, name: &str, file: &SourceFile) {
        if self.units.contains_key(name) || self.aliases.contains_key(name) {
            return;
        }
        let target = file.link.as_deref().and_then(|l| l.rsplit('/').next());
        match target {
            Some("null") => drop(self.units.insert(name.into(), Unit { masked: true, ..Unit::default() })),
            // A link to the template makes an instance; to a unit of another name, another name of it.
            Some(target) if target != name && unit::template_of(name).as_deref() != Some(target) && unit::is_unit_name(target) => {
                self.aliases.insert(name.into(), target.into());
            }
            _ => {
                let masked = file.content.is_empty() && file.link.is_none();
                self.units.insert(name.into(), Unit { entries: unit::parse(&file.content), masked });
            }
        }
    }

    /// Makes the instances of templates that links or other units name.
    fn instantiate(&mut self, facts: &mut Facts) {
        let mut named: BTreeSet<String> = self.links.iter().map(|(_, _, needed)| needed.clone()).collect();
        named.extend(self.links.iter().map(|(unit, _, _)| unit.clone()));
        let mut done = BTreeSet::new();
        loop {
            for (name, unit) in self.units.iter().filter(|(name, _)| !done.contains(*name)) {
                let values = unit.entries.iter().filter(|e| e.value.contains('@'));
                let words = values.flat_map(|e| unit::words(&e.value)).filter_map(|w| unit::expand(&w, name, &self.host));
                named.extend(words.filter(|w| unit::is_unit_name(w)));
            }
            done.extend(self.units.keys().cloned());
            let mut grew = false;
            for name in std::mem::take(&mut named) {
                let Some(template) = unit::template_of(&name).filter(|t| self.units.contains_key(t)) else { continue };
                if self.units.contains_key(&name) || self.aliases.contains_key(&name) || name.contains('*') {
                    continue;
                }
                if self.units.len() >= MAX_INSTANCES {
                    facts.warn(format!("{name} is left out, because there are {MAX_INSTANCES} units; import folders of fewer"));
                    continue;
                }
                self.units.insert(name, self.units[&template].clone());
                grew = true;
            }
            if !grew {
                break;
            }
        }
        for name in self.units.keys() {
            if let Some(template) = unit::template_of(name) {
                self.instances.entry(template).or_default().push(name.clone());
            }
        }
    }

    /// Adds a drop-in to every unit that it is for.
    fn drop_in(&mut self, of: &str, entries: &[Entry]) {
        let whole_type = !of.contains('.');
        let prefix = of.rsplit_once('.').and_then(|(stem, suffix)| stem.ends_with('-').then_some((stem, suffix)));
        let mut found = false;
        for (name, unit) in &mut self.units {
            let suffix = name.rsplit('.').next().unwrap_or("");
            let of_prefix = prefix.is_some_and(|(stem, of_suffix)| name.starts_with(stem) && suffix == of_suffix);
            if name == of || unit::template_of(name).as_deref() == Some(of) || of_prefix || (whole_type && suffix == of) {
                unit.entries.extend_from_slice(entries);
                found = true;
            }
        }
        // The unit itself may be somewhere else; what is added to it is known all the same.
        if !found && !whole_type && prefix.is_none() {
            self.units.insert(of.into(), Unit { entries: entries.to_vec(), masked: false });
        }
    }

    /// Names of all units.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.units.keys().map(String::as_str)
    }

    pub fn get(&self, name: &str) -> Option<&Unit> {
        self.units.get(name)
    }

    /// The node of a unit, which need not be among the files.
    pub fn key(&self, name: &str) -> Result<NodeKey> {
        let name = self.aliases.get(name).map_or(name, String::as_str);
        let sort = match name.rsplit('.').next() {
            Some("mount" | "swap" | "device") => kind::VOLUME,
            _ => kind::WORKLOAD,
        };
        NodeKey::new(sort, &self.host, name)
    }

    /// Values of a directive, in words, with what stands for parts of the name put in. The name of a unit may lack its suffix.
    pub fn units_of(&self, name: &str, section: &str, directive: &str, facts: &mut Facts) -> Vec<String> {
        let with_suffix = |w: String| if unit::is_unit_name(&w) { w } else { format!("{w}.service") };
        self.words(name, section, directive, facts).into_iter().filter(|w| !w.contains('*')).map(with_suffix).collect()
    }

    /// As [`Units::units_of`], of any words.
    pub fn words(&self, name: &str, section: &str, directive: &str, facts: &mut Facts) -> Vec<String> {
        let mut out = Vec::new();
        let entries = self.units.get(name).into_iter().flat_map(|u| &u.entries);
        for entry in entries.filter(|e| e.section == section && e.key == directive) {
            for word in unit::words(&entry.value) {
                match unit::expand(&word, name, &self.host) {
                    Some(word) => out.push(word),
                    None => {
                        facts.warn(format!("{name}: {directive}={word} has something in it that only the machine knows; it is left out"))
                    }
                }
            }
        }
        out
    }

    /// The last value of a directive.
    pub fn last<'a>(&'a self, name: &str, section: &str, directive: &str) -> Option<&'a str> {
        let entries = &self.units.get(name)?.entries;
        entries.iter().rev().find(|e| e.section == section && e.key == directive).map(|e| e.value.as_str()).filter(|v| !v.is_empty())
    }

    /// The unit that mounts at a path or at the folder above it that is nearest, other than the root.
    pub fn mount_for(&self, path: &str) -> Option<&str> {
        let covers = |mount: &str| path == mount || path.strip_prefix(mount).is_some_and(|rest| rest.starts_with('/'));
        let mounts = self.units.keys().filter_map(|name| Some((unit::mount_path(name)?, name.as_str())));
        mounts.filter(|(mount, _)| mount != "/" && covers(mount)).max_by_key(|(mount, _)| mount.len()).map(|(_, name)| name)
    }
}

/// Where systemd looks first.
fn rank(path: &str) -> u8 {
    let within = |folder: &str| path.starts_with(folder) || path.contains(&format!("/{folder}"));
    match path {
        _ if within("etc/") => 0,
        _ if within("run/") => 1,
        _ if within("usr/local/lib/") => 2,
        _ => 3,
    }
}
