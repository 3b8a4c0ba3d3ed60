//! How alerts find their nodes, how bad each one is, and who is told what they touch.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::LazyLock;

use serde::de::{self, IntoDeserializer, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::selector::Selector;
use super::span::Span;
use super::target::Target;
use super::template::Template;
use crate::{Error, Result};

/// Most rules of one list.
pub const MAX_RULES: usize = 500;

/// Most receivers of impacts.
pub const MAX_TARGETS: usize = 20;

/// The section `alerts` of the settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Rules from labels to nodes, in order; the first one that finds a node counts. The built-in ones come after these.
    pub matchers: Vec<Rule>,
    /// Whether the built-in rules are there.
    pub default_matchers: bool,
    /// Rules from labels to the part of requests that meet the failure, in order; the built-in ones come after these.
    pub severity: Vec<SeverityRule>,
    /// Alerts that Prometheus posts directly are one group if these labels are equal.
    pub group_by: Vec<String>,
    /// An alert that is posted without an end is resolved if it is not posted again for so long.
    pub resolve_timeout: Span,
    /// A group of Alertmanager that is not repeated for so long is resolved; longer than its `repeat_interval`.
    pub webhook_timeout: Span,
    /// Impacts are assessed anew so often while they last.
    pub interval: Span,
    /// And at least so long after a change of the graph, so that many changes are one.
    pub debounce: Span,
    /// Impacts that may be open at a time; alerts of further groups are refused for now.
    pub max_open: usize,
    /// Where people reach this server, for links: `https://isobar.example.org`.
    pub external_url: String,
    /// Series about impacts.
    pub series: SeriesSettings,
    /// Who is told.
    pub notify: Vec<Target>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            matchers: Vec::new(),
            default_matchers: true,
            severity: Vec::new(),
            group_by: ["alertname", "cluster", "namespace", "service", "job"].map(str::to_owned).to_vec(),
            resolve_timeout: Span::seconds(5 * 60),
            webhook_timeout: Span::seconds(12 * 3600),
            interval: Span::seconds(60),
            debounce: Span::seconds(5),
            max_open: 2000,
            external_url: String::new(),
            series: SeriesSettings::default(),
            notify: Vec::new(),
        }
    }
}

/// Series about impacts, written into the store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SeriesSettings {
    /// Whether they are written.
    pub enabled: bool,
    /// How often.
    pub interval: Span,
    /// Nodes of one impact that have series, the worst first.
    pub nodes: usize,
    /// Nodes of all impacts together that have series.
    pub max_nodes: usize,
}

impl Default for SeriesSettings {
    fn default() -> Self {
        Self { enabled: true, interval: Span::seconds(15), nodes: 50, max_nodes: 5000 }
    }
}

/// One rule from labels to nodes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// What it is called where an alert shows which rule has found its node.
    pub name: String,
    /// Which alerts it is for; all if it is left out.
    #[serde(default, rename = "match")]
    pub selector: Selector,
    /// The nodes; each of them that is in the graph is taken.
    pub node: OneOrMany,
    /// The node is put into the graph if it is not there, instead of trying the next rule.
    #[serde(default)]
    pub create: bool,
    /// Later rules are tried too, and may add nodes.
    #[serde(default, rename = "continue")]
    pub goes_on: bool,
}

/// Templates; in the settings one may stand without a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OneOrMany(Vec<Template>);

impl OneOrMany {
    /// All of them.
    pub fn templates(&self) -> &[Template] {
        &self.0
    }
}

impl Serialize for OneOrMany {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [one] => one.serialize(serializer),
            many => serializer.collect_seq(many),
        }
    }
}

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Templates;
        impl<'de> Visitor<'de> for Templates {
            type Value = OneOrMany;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a template such as service:{{namespace}}/{{service}}, or a list of them")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> std::result::Result<OneOrMany, E> {
                Template::deserialize(text.into_deserializer()).map(|one| OneOrMany(vec![one]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<OneOrMany, A::Error> {
                let mut templates = Vec::new();
                while let Some(template) = list.next_element()? {
                    templates.push(template);
                }
                Ok(OneOrMany(templates))
            }
        }
        deserializer.deserialize_any(Templates)
    }
}

/// One rule from labels to how bad it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeverityRule {
    /// Which alerts it is for.
    #[serde(default, rename = "match")]
    pub selector: Selector,
    /// Fraction of the requests to the node that meet the failure, above 0, at most 1.
    pub severity: f32,
    /// The node is late or holds wrong data, rather than down.
    #[serde(default)]
    pub late: bool,
}

impl Settings {
    /// Checks the values.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] with the field.
    pub fn check(&self) -> Result<()> {
        if self.matchers.len() > MAX_RULES || self.severity.len() > MAX_RULES {
            return Err(Error::invalid("matchers", format!("there are more than {MAX_RULES} rules; use fewer")));
        }
        for (i, rule) in self.matchers.iter().enumerate() {
            if rule.name.is_empty() || rule.name.len() > 100 {
                return Err(Error::invalid(format!("matchers[{i}].name"), "must have 1 to 100 bytes"));
            }
            if rule.node.templates().is_empty() {
                return Err(Error::invalid(format!("matchers[{i}].node"), "is empty; give a template"));
            }
        }
        for (i, rule) in self.severity.iter().enumerate() {
            if !(rule.severity > 0.0 && rule.severity <= 1.0) {
                return Err(Error::invalid(format!("severity[{i}].severity"), format!("{} is not above 0 and at most 1", rule.severity)));
            }
        }
        let spans = [
            ("resolve_timeout", self.resolve_timeout),
            ("webhook_timeout", self.webhook_timeout),
            ("interval", self.interval),
            ("debounce", self.debounce),
            ("series.interval", self.series.interval),
        ];
        if let Some((name, span)) = spans.into_iter().find(|(_, span)| *span < Span::seconds(1)) {
            return Err(Error::invalid(name, format!("{span} is too short; give at least 1s")));
        }
        if self.max_open == 0 || self.max_open > MAX_OPEN {
            return Err(Error::invalid("max_open", format!("{} is not between 1 and {MAX_OPEN}", self.max_open)));
        }
        if self.notify.len() > MAX_TARGETS {
            return Err(Error::invalid("notify", format!("has {} receivers, more than {MAX_TARGETS}", self.notify.len())));
        }
        let mut names = BTreeSet::new();
        for (i, target) in self.notify.iter().enumerate() {
            target.check().map_err(|e| e.within(&format!("notify[{i}]")))?;
            if !names.insert(target.name()) {
                let reason = format!("{:?} is there twice; give each receiver a name of its own", target.name());
                return Err(Error::invalid(format!("notify[{i}].name"), reason));
            }
        }
        Ok(())
    }

    /// Makes relative paths of files relative to a folder.
    pub fn resolve_paths(&mut self, folder: &Path) {
        for path in self.notify.iter_mut().flat_map(|target| target.header_files.values_mut()) {
            *path = folder.join(&*path);
        }
    }

    /// All rules from labels to nodes, in the order in which they are tried.
    pub fn rules(&self) -> impl Iterator<Item = &Rule> {
        let built_in: &[Rule] = if self.default_matchers { &DEFAULT_RULES } else { &[] };
        self.matchers.iter().chain(built_in)
    }

    /// How bad an alert is and whether its node is late rather than down. The label or annotation `isobar_severity` comes first,
    /// then the rules, then the built-in ones.
    pub fn severity_of(&self, labels: &BTreeMap<String, String>, annotations: &BTreeMap<String, String>) -> (f32, bool) {
        let rule = self.severity.iter().chain(&*DEFAULT_SEVERITY).find(|rule| rule.selector.matches(labels));
        let (mut severity, mut late) = rule.map_or((1.0, false), |r| (r.severity, r.late));
        let explicit = |name: &str| labels.get(name).or_else(|| annotations.get(name));
        if let Some(value) = explicit("isobar_severity").and_then(|v| v.parse::<f32>().ok()).filter(|v| *v > 0.0 && *v <= 1.0) {
            severity = value;
        }
        if let Some(value) = explicit("isobar_late") {
            late = value == "true" || value == "1";
        }
        (severity, late)
    }
}

/// Largest value of [`Settings::max_open`].
pub const MAX_OPEN: usize = 20_000;

/// Rules that are there unless the settings say otherwise: name, selector, templates.
const DEFAULTS: &[(&str, &str, &[&str])] = &[
    ("isobar_node", "", &["{{isobar_node}}"]),
    ("isobar_node annotation", "", &["{{annotations.isobar_node}}"]),
    ("interface", "", &["interface:{{namespace}}/{{interface}}", "interface:*/{{interface}}"]),
    ("node exporter", r#"{job=~".*node.?exporter.*|node|windows|kubelet|cadvisor"}"#, HOST),
    ("destination workload", "", &["workload:{{destination_workload_namespace}}/{{destination_workload}}"]),
    ("destination service", "", &["service:{{destination_service_namespace}}/{{destination_service_name}}"]),
    ("service", NOT_EXPORTER, &["service:{{namespace}}/{{service}}", "service:{{service}}"]),
    (
        "service_name",
        "",
        &["service:{{namespace}}/{{service_name}}", "service:{{service_namespace}}/{{service_name}}", "service:{{service_name}}"],
    ),
    ("deployment", "", &["workload:{{namespace}}/{{deployment}}"]),
    ("statefulset", "", &["workload:{{namespace}}/{{statefulset}}"]),
    ("daemonset", "", &["workload:{{namespace}}/{{daemonset}}"]),
    ("cronjob", "", &["workload:{{namespace}}/{{cronjob}}"]),
    ("pod", "", &["instance:{{namespace}}/{{pod}}", "workload:{{namespace}}/{{pod|workload}}"]),
    ("app", NOT_EXPORTER, &["service:{{namespace}}/{{app}}", "service:{{app}}"]),
    ("app.kubernetes.io", "", &["service:{{namespace}}/{{app_kubernetes_io_name}}", "service:{{app_kubernetes_io_name}}"]),
    ("topic", "", &["topic:{{topic}}", "topic:*/{{topic}}"]),
    ("dataset", "", &["dataset:{{dataset_namespace}}/{{dataset}}", "dataset:{{dataset}}", "dataset:*/{{dataset}}"]),
    (
        "table",
        "",
        &[
            "dataset:*/{{datname}}.{{schemaname}}.{{relname}}",
            "dataset:*/{{database}}.{{schema}}.{{table}}",
            "dataset:*/{{schema}}.{{table}}",
            "dataset:*/{{table}}",
        ],
    ),
    ("pipeline", "", &["job:*/{{dag_id}}.{{task_id}}", "job:*/{{dag_id}}", "job:{{job_namespace}}/{{job_name}}", "job:*/{{job_name}}"]),
    ("database", "", &["database:{{datname}}", "database:*/{{datname}}"]),
    ("application", "", &["application:{{application}}", "application:*/{{application}}"]),
    ("service in any namespace", NOT_EXPORTER, &["service:*/{{service}}", "service:*/{{service_name}}", "service:*/{{app}}"]),
    ("workload in any namespace", "", &["workload:*/{{deployment}}", "workload:*/{{statefulset}}", "workload:*/{{daemonset}}"]),
    ("job", NOT_EXPORTER, &["service:{{namespace}}/{{job|last}}", "service:{{job}}", "service:{{job|last}}", "service:*/{{job|last}}"]),
    ("host", "", HOST),
];

/// Hosts by the labels that name one.
const HOST: &[&str] =
    &["host:{{node}}", "host:{{nodename}}", "host:{{host}}", "host:{{hostname}}", "host:{{instance|host}}", "host:{{instance}}"];

/// Labels of exporters say where a number comes from, and not what it is about.
const NOT_EXPORTER: &str = r#"{job!~".*(kube-state-metrics|node.?exporter|blackbox).*|kubelet|cadvisor"}"#;

static DEFAULT_RULES: LazyLock<Vec<Rule>> = LazyLock::new(|| {
    let template = |text: &&str| Template::parse(text).expect("built-in templates are tested");
    let rule = |(name, selector, nodes): &(&str, &str, &[&str])| Rule {
        name: (*name).to_owned(),
        selector: Selector::parse(selector).expect("built-in selectors are tested"),
        node: OneOrMany(nodes.iter().map(template).collect()),
        create: false,
        goes_on: false,
    };
    DEFAULTS.iter().map(rule).collect()
});

static DEFAULT_SEVERITY: LazyLock<Vec<SeverityRule>> = LazyLock::new(|| {
    let rule = |(selector, severity): (&str, f32)| SeverityRule {
        selector: Selector::parse(selector).expect("built-in selectors are tested"),
        severity,
        late: false,
    };
    let rules = [
        (r#"{severity=~"(?i)(warning|warn|minor|p3|sev3)"}"#, 0.3),
        (r#"{severity=~"(?i)(info|informational|none|notice|low|p4|p5|sev4|sev5)"}"#, 0.05),
        (r#"{severity=~"(?i)(error|high|major|p2|sev2)"}"#, 0.7),
    ];
    rules.into_iter().map(rule).collect()
});

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings;

    #[test]
    fn the_built_in_rules_can_be_read() {
        assert_eq!(DEFAULT_RULES.len(), DEFAULTS.len());
        Settings::default().check().expect("valid");
        let level = |severity: &str| {
            let labels = BTreeMap::from([("severity".to_owned(), severity.to_owned())]);
            Settings::default().severity_of(&labels, &BTreeMap::new())
        };
        assert_eq!([level("critical").0, level("Warning").0, level("info").0, level("error").0, level("").0], [1.0, 0.3, 0.05, 0.7, 1.0]);
        let annotations = BTreeMap::from([("isobar_severity".to_owned(), "0.5".to_owned()), ("isobar_late".to_owned(), "true".to_owned())]);
        assert_eq!(Settings::default().severity_of(&BTreeMap::new(), &annotations), (0.5, true));
    }

    #[test]
    fn a_section_is_read_and_what_is_wrong_is_named() {
        let text = r#"
alerts:
  matchers:
    - name: payments
      match: '{team="pay"}'
      node: "service:shop/{{svc}}"
    - {name: both, node: ["topic:{{a}}", "topic:{{b}}"], continue: true, create: true}
  severity: [{match: '{severity="freshness"}', severity: 1, late: true}]
  group_by: [alertname]
  interval: 30s
  notify:
    - {url: "http://127.0.0.1:1/hook", send_resolved: false, headers: {X-Token: secret-1}}
"#;
        let settings = settings::Settings::from_yaml(text).expect("valid");
        assert_eq!(settings.alerts.rules().next().expect("one").name, "payments");
        assert_eq!(settings.alerts.interval, Span::seconds(30));
        assert!(!format!("{settings:?}").contains("secret-1"), "secrets are not shown");
        assert!(!serde_json::to_string(&settings).expect("json").contains("secret-1"), "secrets are not shown");
        for (text, field) in [
            ("alerts: {matchers: [{name: x, node: payment}]}", "kind"),
            ("alerts: {severity: [{severity: 2}]}", "severity[0].severity"),
            ("alerts: {interval: 10ms}", "interval"),
            ("alerts: {interval: 10}", "duration"),
            ("alerts: {max_open: 0}", "max_open"),
            ("alerts: {notify: [{url: nothing}]}", "notify[0].url"),
            ("alerts: {notify: [{url: 'http://a/'}, {url: 'http://a/'}]}", "twice"),
            ("alerts: {other: 1}", "other"),
        ] {
            let error = settings::Settings::from_yaml(text).expect_err(text).to_string();
            assert!(error.contains(field), "{text}: {error}");
        }
    }
}
