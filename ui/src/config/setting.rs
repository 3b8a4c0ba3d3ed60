//! One row per setting. The table feeds the flags, the environment, the file, the example configuration, the status page and
//! the reference in the guide, so that none of them can forget one.
//!
//! A setting `query.max-samples` is the flag `--query.max-samples`, the variable `ISOBAR_QUERY_MAX_SAMPLES` and the key
//! `max_samples` in the section `query` of the file (further dots become `_` too). Its default is the value in [`Config::default`].

use std::path::PathBuf;
use std::time::Duration;

use isobar_ingest::units;

use super::yaml::{self, Node};
use super::{Config, LogFormat, LogLevel, Roles};

/// Prefix of environment variables.
pub const ENV_PREFIX: &str = "ISOBAR_";

/// What a value looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`; the flag may stand alone.
    Switch,
    /// The path of a file; one that stands in the configuration file is relative to that file.
    Path,
    /// Anything else that is one text.
    Text,
    /// Texts, with commas between them or as a YAML list.
    List,
    /// YAML with a shape of its own; a flag holds it on one line.
    Tree,
}

type SetTree = Box<dyn Fn(&mut Config, &Node) -> Result<(), String> + Send + Sync>;
type Set = Box<dyn Fn(&mut Config, &str) -> Result<(), String> + Send + Sync>;
type Get = Box<dyn Fn(&Config) -> String + Send + Sync>;

/// A row of the table.
pub struct Setting {
    /// Section and name with dots and dashes, as the flag is called.
    pub key: &'static str,
    /// What stands for the value in help texts.
    pub value_name: &'static str,
    /// One sentence for the operator.
    pub help: &'static str,
    /// What the value looks like.
    pub kind: Kind,
    set: Set,
    set_tree: Option<SetTree>,
    get: Get,
}

impl Setting {
    /// Name of the environment variable.
    pub fn env(&self) -> String {
        format!("{ENV_PREFIX}{}", self.key.to_ascii_uppercase().replace(['.', '-'], "_"))
    }

    /// Keys in the file, outermost first: at most a section and a name.
    pub fn file_path(&self) -> Vec<String> {
        self.key.splitn(2, '.').map(|part| part.replace(['-', '.'], "_")).collect()
    }

    /// Reads `text` into the configuration.
    ///
    /// # Errors
    /// Why the text is not a value of this setting.
    pub fn set(&self, config: &mut Config, text: &str) -> Result<(), String> {
        (self.set)(config, text)
    }

    /// Reads a node of the file, if the setting has a shape of its own.
    ///
    /// # Errors
    /// Line, and why the node is not a value of this setting.
    pub fn set_tree(&self, config: &mut Config, node: &Node) -> Option<Result<(), String>> {
        self.set_tree.as_ref().map(|set| set(config, node))
    }

    /// The value as [`Setting::set`] would read it.
    pub fn get(&self, config: &Config) -> String {
        (self.get)(config)
    }
}

/// All settings, sections together, in the order of the example file.
pub fn table() -> Vec<Setting> {
    let mut rows = vec![
        row(
            "data",
            "DIR",
            "Folder for everything that is kept on this machine.",
            Kind::Text,
            |c| &mut c.data,
            |text| if text.is_empty() { Err("a path is empty".to_owned()) } else { Ok(PathBuf::from(text)) },
            |path| path.display().to_string(),
        ),
        row(
            "roles",
            "LIST",
            "Which parts run in this process: all, or some of ingest, query, compact and lineage.",
            Kind::List,
            |c| &mut c.roles,
            Roles::parse,
            Roles::show,
        ),
        optional_path(
            "objstore.config-file",
            "Object store, in the form of Thanos's objstore.yml; without it, blocks stay in the folder `objects` under --data.",
            |c| &mut c.objstore_config_file,
        ),
    ];
    rows.extend(web());
    rows.extend([
        row(
            "log.level",
            "LEVEL",
            "Least severe message that is logged: trace, debug, info, warn or error.",
            Kind::Text,
            |c| &mut c.log.level,
            LogLevel::parse,
            LogLevel::show,
        ),
        row(
            "log.format",
            "FORMAT",
            "How messages are written to standard error: logfmt or json.",
            Kind::Text,
            |c| &mut c.log.format,
            LogFormat::parse,
            LogFormat::show,
        ),
        duration(
            "self-scrape.interval",
            "How often Isobar stores its own and its host's metrics under job=\"isobar\"; 0 turns it off.",
            |c| &mut c.self_scrape_interval,
        ),
    ]);
    rows.extend(super::sections::table());
    rows
}

fn web() -> Vec<Setting> {
    vec![
        text("web.listen-address", "HOST:PORT", "Where the HTTP server listens.", |c| &mut c.web.listen_address),
        optional_path("web.config.file", "TLS and basic auth, in the form of the exporter toolkit's web-config.yml.", |c| {
            &mut c.web.config_file
        }),
        text("web.external-url", "URL", "Under which URL people reach this server, if a proxy stands before it.", |c| {
            &mut c.web.external_url
        }),
        text("web.route-prefix", "PATH", "Path before all routes; that of --web.external-url by default.", |c| &mut c.web.route_prefix),
        text(
            "web.cors.origin",
            "REGEX",
            "Origins, as an anchored regular expression, whose pages may read the API; none by default.",
            |c| &mut c.web.cors_origin,
        ),
        switch("web.enable-admin-api", "Turns on /api/v1/admin.", |c| &mut c.web.enable_admin_api),
        switch("web.enable-lifecycle", "Turns on /-/reload and /-/quit.", |c| &mut c.web.enable_lifecycle),
        duration("web.grace-period", "How long open requests may go on when the server stops.", |c| &mut c.web.grace_period),
    ]
}

/// A row whose value has its own way of being read and written.
pub fn row<T: 'static>(
    key: &'static str,
    value_name: &'static str,
    help: &'static str,
    kind: Kind,
    field: fn(&mut Config) -> &mut T,
    parse: fn(&str) -> Result<T, String>,
    show: fn(&T) -> String,
) -> Setting {
    Setting {
        key,
        value_name,
        help,
        kind,
        set: Box::new(move |config, text| {
            *field(config) = parse(text)?;
            Ok(())
        }),
        set_tree: None,
        // The accessor needs `&mut`, so that one closure serves both ways; a configuration is small and rarely shown.
        get: Box::new(move |config| show(field(&mut config.clone()))),
    }
}

/// A row whose value is YAML.
pub fn tree<T: 'static>(
    key: &'static str,
    value_name: &'static str,
    help: &'static str,
    field: fn(&mut Config) -> &mut T,
    read: fn(&Node) -> Result<T, String>,
    show: fn(&T) -> String,
) -> Setting {
    Setting {
        kind: Kind::Tree,
        set: Box::new(move |config, text| {
            *field(config) = read(&yaml::parse(text)?)?;
            Ok(())
        }),
        set_tree: Some(Box::new(move |config, node| {
            *field(config) = read(node)?;
            Ok(())
        })),
        ..row(key, value_name, help, Kind::Tree, field, |_| Err(String::new()), show)
    }
}

/// A text.
pub fn text(key: &'static str, value_name: &'static str, help: &'static str, field: fn(&mut Config) -> &mut String) -> Setting {
    row(key, value_name, help, Kind::Text, field, |t| Ok(t.to_owned()), String::clone)
}

/// A switch.
pub fn switch(key: &'static str, help: &'static str, field: fn(&mut Config) -> &mut bool) -> Setting {
    let parse = |t: &str| t.parse().map_err(|_| format!("{t:?} is neither true nor false"));
    row(key, "BOOL", help, Kind::Switch, field, parse, bool::to_string)
}

/// A duration.
pub fn duration(key: &'static str, help: &'static str, field: fn(&mut Config) -> &mut Duration) -> Setting {
    row(key, "DURATION", help, Kind::Text, field, units::parse_duration, |d| units::format_duration(*d))
}

/// A file that may be absent: then the text is empty.
pub fn optional_path(key: &'static str, help: &'static str, field: fn(&mut Config) -> &mut Option<PathBuf>) -> Setting {
    let parse = |t: &str| Ok(if t.is_empty() { None } else { Some(PathBuf::from(t)) });
    row(key, "FILE", help, Kind::Path, field, parse, |p| p.as_ref().map_or_else(String::new, |p| p.display().to_string()))
}

/// A size in bytes.
pub fn size<T: Integer>(key: &'static str, help: &'static str, field: fn(&mut Config) -> &mut T) -> Setting {
    let parse = |t: &str| units::parse_bytes(t).and_then(T::from_u64);
    row(key, "SIZE", help, Kind::Text, field, parse, |n| units::format_bytes(n.as_u64()))
}

/// A whole number.
pub fn count<T: Integer>(key: &'static str, help: &'static str, field: fn(&mut Config) -> &mut T) -> Setting {
    let parse = |t: &str| t.replace('_', "").parse::<u64>().map_err(|_| format!("{t:?} is not a whole number")).and_then(T::from_u64);
    row(key, "NUMBER", help, Kind::Text, field, parse, |n| n.as_u64().to_string())
}

/// The integers in which sections count.
pub trait Integer: Copy + 'static {
    /// From what was read.
    ///
    /// # Errors
    /// If the number does not fit.
    fn from_u64(number: u64) -> Result<Self, String>;
    /// To what is shown.
    fn as_u64(self) -> u64;
}

impl Integer for u64 {
    fn from_u64(number: u64) -> Result<Self, String> {
        Ok(number)
    }
    fn as_u64(self) -> u64 {
        self
    }
}

impl Integer for usize {
    fn from_u64(number: u64) -> Result<Self, String> {
        Self::try_from(number).map_err(|_| format!("{number} is too big"))
    }
    fn as_u64(self) -> u64 {
        self as u64
    }
}

impl Integer for u32 {
    fn from_u64(number: u64) -> Result<Self, String> {
        Self::try_from(number).map_err(|_| format!("{number} is too big, at most {} fits", Self::MAX))
    }
    fn as_u64(self) -> u64 {
        u64::from(self)
    }
}
