//! Joins flags, environment and file into one configuration, and writes one as a file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::setting::{ENV_PREFIX, Kind, Setting, table};
use super::yaml::{Key, Node, Value};
use super::{Config, Error, suggest, tenants, yaml};

/// Where a value came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody gave one.
    Default,
    /// The configuration file.
    File,
    /// An environment variable.
    Environment,
    /// A flag.
    Flag,
}

/// A configuration and how it came to be.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    /// The file that was read.
    pub file: Option<PathBuf>,
    /// Where the value of each setting came from, by its key.
    pub origins: BTreeMap<&'static str, Origin>,
    /// What an operator should know, although it does no harm.
    pub warnings: Vec<String>,
}

/// What a process was started with, so that a reload can join it with the file again.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// `--config.file`.
    pub file: Option<PathBuf>,
    /// Flags by key.
    pub flags: BTreeMap<String, String>,
    /// Environment variables by name.
    pub env: BTreeMap<String, String>,
}

impl Inputs {
    /// With the environment of this process.
    pub fn new(file: Option<PathBuf>, flags: BTreeMap<String, String>) -> Self {
        let env = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| name.starts_with(ENV_PREFIX))
            .collect();
        Self { file, flags, env }
    }

    /// Joins everything and checks it.
    ///
    /// # Errors
    /// [`Error`] that names the flag, the variable, or the file and line.
    pub fn load(&self) -> Result<Loaded, Error> {
        let table = table();
        let file = self.file.clone().or_else(|| self.env.get("ISOBAR_CONFIG_FILE").filter(|v| !v.is_empty()).map(PathBuf::from));
        let mut loaded = Loaded {
            config: Config::default(),
            file: file.clone(),
            origins: table.iter().map(|s| (s.key, Origin::Default)).collect(),
            warnings: Vec::new(),
        };
        if let Some(path) = &file {
            let text = std::fs::read_to_string(path).map_err(|source| Error::Io { path: path.display().to_string(), source })?;
            read_file(&text, path, &table, &mut loaded)?;
        }
        for setting in &table {
            if let Some(value) = self.env.get(&setting.env()) {
                let refuse = |reason| Error::Value { name: format!("environment variable {}", setting.env()), reason };
                setting.set(&mut loaded.config, value).map_err(refuse)?;
                loaded.origins.insert(setting.key, Origin::Environment);
            }
            if let Some(value) = self.flags.get(setting.key) {
                let refuse = |reason| Error::Value { name: format!("--{}", setting.key), reason };
                setting.set(&mut loaded.config, value).map_err(refuse)?;
                loaded.origins.insert(setting.key, Origin::Flag);
            }
        }
        self.warn_of_unknown_variables(&table, &mut loaded.warnings);
        loaded.config.validate()?;
        loaded.warnings.extend(loaded.config.long_term_warnings());
        Ok(loaded)
    }

    /// Variables are not refused: orchestrators set some with any prefix.
    fn warn_of_unknown_variables(&self, table: &[Setting], warnings: &mut Vec<String>) {
        let known: Vec<String> = table.iter().map(Setting::env).chain(["ISOBAR_CONFIG_FILE".into(), "ISOBAR_SERVER".into()]).collect();
        for name in self.env.keys() {
            let from_orchestrator = name.starts_with("ISOBAR_SERVICE_") || name.starts_with("ISOBAR_PORT") || name == "ISOBAR_BIN";
            if !from_orchestrator && !known.contains(name) {
                let hint = suggest::hint(name, known.iter().map(String::as_str));
                warnings.push(format!("environment variable {name} is not known and has no effect{hint}"));
            }
        }
    }
}

fn read_file(text: &str, path: &Path, table: &[Setting], loaded: &mut Loaded) -> Result<(), Error> {
    let refuse = |reason: String| Error::File { path: path.display().to_string(), reason };
    let root = yaml::parse(text).map_err(refuse)?;
    let Value::Map(entries) = root.value else {
        return Err(refuse(format!("line {}: the file must be a mapping of sections", root.line)));
    };
    let base = path.parent().unwrap_or(Path::new(""));
    let mut reader = Reader { table, base, loaded, prefix: Vec::new() };
    for (key, node) in &entries {
        reader.entry(key, node).map_err(refuse)?;
    }
    Ok(())
}

struct Reader<'a> {
    table: &'a [Setting],
    base: &'a Path,
    loaded: &'a mut Loaded,
    prefix: Vec<String>,
}

impl Reader<'_> {
    fn entry(&mut self, key: &Key, node: &Node) -> Result<(), String> {
        self.prefix.push(key.text.clone());
        let path = &self.prefix;
        if *path == [tenants::KEY] {
            tenants::read(node, &mut self.loaded.config)?;
        } else if *path == tenants::LIMITS_PATH {
            tenants::read_limits_of_all(node, &mut self.loaded.config)?;
        } else if let Some(setting) = self.table.iter().find(|s| s.file_path() == *path) {
            assign(setting, node, Some(self.base), &mut self.loaded.config)?;
            self.loaded.origins.insert(setting.key, Origin::File);
        } else if self.table.iter().any(|s| s.file_path().starts_with(path)) {
            match &node.value {
                Value::Map(entries) => {
                    for (key, node) in entries {
                        self.entry(key, node)?;
                    }
                }
                Value::Empty => {}
                _ => return Err(format!("line {}: {} is a section; write its settings below it", node.line, path.join("."))),
            }
        } else {
            return Err(self.unknown(key));
        }
        self.prefix.pop();
        Ok(())
    }

    /// Names the key, and the nearest one at the same place, or else the nearest setting anywhere.
    fn unknown(&self, key: &Key) -> String {
        let depth = self.prefix.len() - 1;
        let section = &self.prefix[..depth];
        let paths: Vec<Vec<String>> = self.table.iter().map(Setting::file_path).collect();
        let here = paths.iter().filter(|p| p.starts_with(section) && p.len() > depth).map(|p| p[depth].as_str());
        let siblings: Vec<&str> = here.chain(section.is_empty().then_some(tenants::KEY)).collect();
        let place = if depth == 0 { String::new() } else { format!(" in section {:?}", section.join(".")) };
        let hint = match suggest::nearest(&key.text, siblings.iter().copied()) {
            Some(name) => format!("; did you mean {name:?}?"),
            None => match paths.iter().find(|p| p.last() == Some(&key.text)) {
                Some(path) => format!("; it belongs to section {:?}", path[..path.len() - 1].join(".")),
                None => format!("; known here are {}", sorted_once(siblings).join(", ")),
            },
        };
        format!("line {}: unknown key {:?}{place}{hint}", key.line, key.text)
    }
}

fn sorted_once(mut names: Vec<&str>) -> Vec<&str> {
    names.sort_unstable();
    names.dedup();
    names
}

/// Reads a node of the file into the configuration. A path in it is relative to `base`.
///
/// # Errors
/// `line N: setting: reason`.
pub fn assign(setting: &Setting, node: &Node, base: Option<&Path>, config: &mut Config) -> Result<(), String> {
    if let Some(result) = setting.set_tree(config, node) {
        return result;
    }
    let refuse = |e: String| format!("line {}: {}: {e}", node.line, setting.file_path().join("."));
    let text = scalar(setting, node).map_err(refuse)?;
    let text = match (setting.kind, base) {
        (Kind::Path, Some(base)) if !text.is_empty() => base.join(&text).display().to_string(),
        _ => text,
    };
    setting.set(config, &text).map_err(refuse)
}

fn scalar(setting: &Setting, node: &Node) -> Result<String, String> {
    match (&node.value, setting.kind) {
        (Value::Text(text), _) => Ok(text.clone()),
        (Value::Empty, _) => Ok(String::new()),
        (Value::List(items), Kind::List) => {
            let texts = items.iter().map(|item| match &item.value {
                Value::Text(text) => Ok(text.as_str()),
                _ => Err(format!("line {}: an item of the list must be a text", item.line)),
            });
            Ok(texts.collect::<Result<Vec<_>, _>>()?.join(","))
        }
        (Value::List(_), _) => Err("expected one value, found a list".into()),
        (Value::Map(_), _) => Err("expected a value, found a mapping".into()),
    }
}

/// Writes a configuration as a file: each setting with its help above it if `with_help`.
pub fn to_yaml(config: &Config, with_help: bool) -> String {
    let mut out = String::new();
    let mut open: Vec<String> = Vec::new();
    for setting in table() {
        let path = setting.file_path();
        let (name, sections) = path.split_last().expect("a key has at least one part");
        let common = open.iter().zip(sections).take_while(|(a, b)| a == b).count();
        open.truncate(common);
        for section in &sections[common..] {
            if open.is_empty() && with_help {
                out.push('\n');
            }
            out.push_str(&format!("{}{section}:\n", "  ".repeat(open.len())));
            open.push(section.clone());
        }
        let indent = "  ".repeat(open.len());
        if with_help {
            out.push_str(&format!("{indent}# {}\n", setting.help));
        }
        let value = setting.get(config);
        out.push_str(&format!("{indent}{name}: {}\n", if setting.kind == Kind::Tree { value } else { yaml::quote(&value) }));
    }
    let tenants = tenants::to_yaml(config);
    out.push_str(if with_help && tenants.is_empty() { tenants::EXAMPLE } else { &tenants });
    out
}
