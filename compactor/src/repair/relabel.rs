//! Relabelling with the rules of Prometheus. Source: `relabel_config` in its documentation, `model/relabel` in its code.

use isobar_block::{Error, Labels, LabelsRef, Result};
use md5::{Digest, Md5};
use regex::Regex;

/// Biggest compiled regular expression.
const REGEX_SIZE_LIMIT_BYTES: usize = 10 << 20;

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Sets the target label to the replacement if the expression matches.
    Replace,
    /// Leaves out series that do not match.
    Keep,
    /// Leaves out series that match.
    Drop,
    /// Leaves out series whose source labels are not the target label.
    KeepEqual,
    /// Leaves out series whose source labels are the target label.
    DropEqual,
    /// Sets the target label to a number below the modulus.
    HashMod,
    /// Copies labels whose name matches to the name that the replacement says.
    LabelMap,
    /// Removes labels whose name matches.
    LabelDrop,
    /// Removes labels whose name does not match.
    LabelKeep,
    /// Sets the target label to the source labels in lower case.
    Lowercase,
    /// Sets the target label to the source labels in upper case.
    Uppercase,
}

impl Action {
    /// From the word in a configuration file.
    pub fn from_word(word: &str) -> Option<Self> {
        Some(match word.to_ascii_lowercase().as_str() {
            "replace" => Self::Replace,
            "keep" => Self::Keep,
            "drop" => Self::Drop,
            "keepequal" => Self::KeepEqual,
            "dropequal" => Self::DropEqual,
            "hashmod" => Self::HashMod,
            "labelmap" => Self::LabelMap,
            "labeldrop" => Self::LabelDrop,
            "labelkeep" => Self::LabelKeep,
            "lowercase" => Self::Lowercase,
            "uppercase" => Self::Uppercase,
            _ => return None,
        })
    }
}

/// One rule.
#[derive(Clone, Debug)]
pub struct Rule {
    source_labels: Vec<String>,
    separator: String,
    regex: Regex,
    modulus: u64,
    target_label: String,
    replacement: String,
    action: Action,
}

/// What a rule is made of; what is not given has Prometheus's default.
#[derive(Clone, Debug, Default)]
pub struct RuleText {
    /// Labels whose values are joined and looked at.
    pub source_labels: Vec<String>,
    /// What stands between the values; `;`.
    pub separator: Option<String>,
    /// Anchored at both ends; `(.*)`.
    pub regex: Option<String>,
    /// For [`Action::HashMod`].
    pub modulus: u64,
    /// The label that is set.
    pub target_label: String,
    /// What it is set to; `$1`.
    pub replacement: Option<String>,
}

impl Rule {
    /// Checks and compiles a rule.
    ///
    /// # Errors
    /// [`Error::Invalid`] with what is missing, too much or does not compile.
    pub fn new(action: Action, text: RuleText) -> Result<Self> {
        let refuse = |reason: String| Err(Error::invalid("relabelling rule", reason));
        let pattern = text.regex.as_deref().unwrap_or("(.*)");
        let compiled = regex::RegexBuilder::new(&format!("^(?s:{pattern})$")).size_limit(REGEX_SIZE_LIMIT_BYTES).build();
        let regex = match compiled {
            Ok(regex) => regex,
            Err(e) => return refuse(format!("regex {pattern:?}: {e}")),
        };
        use Action::{DropEqual, HashMod, KeepEqual, LabelDrop, LabelKeep, Lowercase, Replace, Uppercase};
        if matches!(action, Replace | HashMod | Lowercase | Uppercase | KeepEqual | DropEqual) && text.target_label.is_empty() {
            return refuse(format!("{action:?} needs a target_label"));
        }
        if action == HashMod && text.modulus == 0 {
            return refuse("HashMod needs a modulus".into());
        }
        let only_regex =
            text.source_labels.is_empty() && text.target_label.is_empty() && text.replacement.is_none() && text.separator.is_none();
        if matches!(action, LabelDrop | LabelKeep) && !only_regex {
            return refuse(format!("{action:?} takes a regex and nothing else"));
        }
        Ok(Self {
            source_labels: text.source_labels,
            separator: text.separator.unwrap_or_else(|| ";".into()),
            regex,
            modulus: text.modulus,
            target_label: text.target_label,
            replacement: text.replacement.unwrap_or_else(|| "$1".into()),
            action,
        })
    }

    /// Applies the rule; `false` if the series is left out.
    fn apply(&self, labels: &mut Vec<(String, String)>) -> bool {
        let value = self.source_labels.iter().map(|name| get(labels, name)).collect::<Vec<_>>().join(&self.separator);
        match self.action {
            Action::Keep => return self.regex.is_match(&value),
            Action::Drop => return !self.regex.is_match(&value),
            Action::KeepEqual => return get(labels, &self.target_label) == value,
            Action::DropEqual => return get(labels, &self.target_label) != value,
            Action::Replace => {
                if let Some(captures) = self.regex.captures(&value) {
                    let (mut target, mut result) = (String::new(), String::new());
                    captures.expand(&self.target_label, &mut target);
                    captures.expand(&self.replacement, &mut result);
                    if !target.is_empty() {
                        set(labels, &target, result);
                    }
                }
            }
            Action::HashMod => {
                let digest: [u8; 16] = Md5::digest(value.as_bytes()).into();
                let hash = digest.last_chunk::<8>().map_or(0, |half| u64::from_be_bytes(*half));
                set(labels, &self.target_label, (hash % self.modulus).to_string());
            }
            Action::Lowercase => set(labels, &self.target_label, value.to_lowercase()),
            Action::Uppercase => set(labels, &self.target_label, value.to_uppercase()),
            Action::LabelMap => {
                for (name, value) in labels.clone() {
                    if self.regex.is_match(&name) {
                        let to = self.regex.replace_all(&name, self.replacement.as_str()).into_owned();
                        if !to.is_empty() {
                            set(labels, &to, value);
                        }
                    }
                }
            }
            Action::LabelDrop => labels.retain(|(name, _)| !self.regex.is_match(name)),
            Action::LabelKeep => labels.retain(|(name, _)| self.regex.is_match(name)),
        }
        true
    }
}

fn get<'a>(labels: &'a [(String, String)], name: &str) -> &'a str {
    labels.iter().find(|(n, _)| n == name).map_or("", |(_, value)| value)
}

/// Sets a label, or removes it if the value is empty.
fn set(labels: &mut Vec<(String, String)>, name: &str, value: String) {
    labels.retain(|(n, _)| n != name);
    if !value.is_empty() {
        labels.push((name.to_owned(), value));
    }
}

/// Applies rules one after the other. `None` if the series is left out, which one without any label is, too.
///
/// # Errors
/// [`Error::Invalid`] cannot happen with labels that are valid; it is passed on.
pub fn relabel(rules: &[Rule], labels: LabelsRef<'_>) -> Result<Option<Labels>> {
    let mut pairs: Vec<(String, String)> = labels.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
    if !rules.iter().all(|rule| rule.apply(&mut pairs)) || pairs.is_empty() {
        return Ok(None);
    }
    Labels::from_pairs(pairs).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(action: Action, text: RuleText, expected: Option<&str>) {
        let rule = Rule::new(action, text.clone()).expect("is right");
        let labels = Labels::from_pairs([("__name__", "m"), ("a", "foo"), ("b", "Bar"), ("c", "foo")]).expect("valid");
        let got = relabel(&[rule], labels.as_ref()).expect("relabels").map(|l| l.to_string());
        assert_eq!(got.as_deref(), expected, "{action:?} {text:?}");
    }

    fn text(sources: &[&str], regex: &str, target: &str, replacement: &str) -> RuleText {
        let some = |t: &str| Some(t.to_owned()).filter(|t| !t.is_empty());
        RuleText {
            source_labels: sources.iter().map(|s| (*s).to_owned()).collect(),
            regex: some(regex),
            target_label: target.into(),
            replacement: some(replacement),
            ..RuleText::default()
        }
    }

    #[test]
    fn does_what_prometheus_does() {
        use Action::*;
        let all = "m{a=\"foo\", b=\"Bar\", c=\"foo\"}";
        check(Replace, text(&["a", "b"], "f(.*);(.*)r", "d", "ch${1}-$2"), Some("m{a=\"foo\", b=\"Bar\", c=\"foo\", d=\"choo-Ba\"}"));
        check(Replace, text(&["a"], "fo", "d", "x"), Some(all));
        check(Replace, text(&["a"], "", "d", "$1x"), Some(all));
        check(Replace, text(&["a"], "(f).*", "b", ""), Some("m{a=\"foo\", b=\"f\", c=\"foo\"}"));
        check(Replace, text(&["b"], "(.*)", "${1}_x", "y"), Some("m{Bar_x=\"y\", a=\"foo\", b=\"Bar\", c=\"foo\"}"));
        check(Keep, text(&["a"], "fo+", "", ""), Some(all));
        check(Keep, text(&["a"], "fo", "", ""), None);
        check(Drop, text(&["a"], ".*o.*", "", ""), None);
        check(Drop, text(&["none"], ".+", "", ""), Some(all));
        check(KeepEqual, text(&["a"], "", "c", ""), Some(all));
        check(KeepEqual, text(&["a"], "", "b", ""), None);
        check(DropEqual, text(&["a"], "", "c", ""), None);
        check(DropEqual, text(&["a"], "", "b", ""), Some(all));
        check(LabelMap, text(&[], "([ab])", "", "x_$1"), Some("m{a=\"foo\", b=\"Bar\", c=\"foo\", x_a=\"foo\", x_b=\"Bar\"}"));
        check(LabelDrop, text(&[], "[ab]", "", ""), Some("m{c=\"foo\"}"));
        check(LabelKeep, text(&[], "__name__|b", "", ""), Some("m{b=\"Bar\"}"));
        check(LabelKeep, text(&[], "none", "", ""), None);
        check(Lowercase, text(&["b"], "", "b", ""), Some("m{a=\"foo\", b=\"bar\", c=\"foo\"}"));
        check(Uppercase, text(&["b"], "", "d", ""), Some("m{a=\"foo\", b=\"Bar\", c=\"foo\", d=\"BAR\"}"));
        // The value of Prometheus's own test of hashmod.
        let hash = RuleText { modulus: 1000, ..text(&["c"], "", "d", "") };
        let labels = Labels::from_pairs([("a", "foo"), ("b", "bar"), ("c", "baz")]).expect("valid");
        let rule = Rule::new(HashMod, hash).expect("is right");
        assert_eq!(relabel(&[rule], labels.as_ref()).expect("relabels").expect("stays").get("d"), Some("976"));
    }

    #[test]
    fn refuses_what_cannot_work() {
        for (action, text) in [
            (Action::Replace, text(&["a"], "", "", "")),
            (Action::HashMod, text(&["a"], "", "b", "")),
            (Action::LabelDrop, text(&["a"], "x", "", "")),
            (Action::Keep, text(&["a"], "(", "", "")),
        ] {
            assert!(Rule::new(action, text.clone()).is_err(), "{action:?} {text:?}");
        }
    }
}
