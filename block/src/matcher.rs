//! Label matchers as PromQL has them: `=`, `!=`, `=~`, `!~`. Regular expressions are anchored at both ends and `.` matches
//! newlines, as in Prometheus 3.

use std::fmt;

use regex::Regex;

use crate::{Error, LabelsRef, Result};

/// Longest regular expression and biggest compiled program, so that a query cannot take all memory.
const REGEX_SIZE_LIMIT_BYTES: usize = 10 << 20;

/// How a matcher compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MatchOp {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `=~`
    Regex,
    /// `!~`
    NotRegex,
}

/// One condition on one label. A label that is not set has the value "".
#[derive(Clone)]
pub struct Matcher {
    name: String,
    op: MatchOp,
    value: String,
    pattern: Pattern,
}

#[derive(Clone)]
enum Pattern {
    Literal,
    /// A regex that is only an alternation of literals, sorted.
    OneOf(Vec<String>),
    Any,
    NotEmpty,
    Regex(Regex),
}

impl Matcher {
    /// Builds a matcher, compiling its regular expression.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the regular expression does not compile or is too big.
    pub fn new(name: impl Into<String>, op: MatchOp, value: impl Into<String>) -> Result<Self> {
        let (name, value) = (name.into(), value.into());
        let pattern = match op {
            MatchOp::Equal | MatchOp::NotEqual => Pattern::Literal,
            MatchOp::Regex | MatchOp::NotRegex => compile(&value)?,
        };
        Ok(Self { name, op, value, pattern })
    }

    /// The label that is looked at.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How it is compared.
    pub fn op(&self) -> MatchOp {
        self.op
    }

    /// The literal or the regular expression.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// Whether the matcher accepts a label value.
    pub fn matches(&self, value: &str) -> bool {
        let hit = match &self.pattern {
            Pattern::Literal => value == self.value,
            Pattern::OneOf(values) => values.binary_search_by(|v| v.as_str().cmp(value)).is_ok(),
            Pattern::Any => true,
            Pattern::NotEmpty => !value.is_empty(),
            Pattern::Regex(regex) => regex.is_match(value),
        };
        hit == matches!(self.op, MatchOp::Equal | MatchOp::Regex)
    }

    /// Whether a series without the label is accepted.
    pub fn matches_empty(&self) -> bool {
        self.matches("")
    }

    /// The only values that can match, sorted, where they are known: for `=` and for a regex of plain alternatives.
    pub fn only_values(&self) -> Option<Vec<&str>> {
        match (&self.pattern, self.op) {
            (Pattern::Literal, MatchOp::Equal) => Some(vec![&self.value]),
            (Pattern::OneOf(values), MatchOp::Regex) => Some(values.iter().map(String::as_str).collect()),
            _ => None,
        }
    }

    /// Whether all matchers accept a series.
    pub fn all_match(matchers: &[Self], labels: LabelsRef<'_>) -> bool {
        matchers.iter().all(|m| m.matches(labels.get(&m.name).unwrap_or("")))
    }
}

fn compile(value: &str) -> Result<Pattern> {
    match value {
        ".*" => return Ok(Pattern::Any),
        ".+" => return Ok(Pattern::NotEmpty),
        _ => {}
    }
    if !value.contains(|c: char| r".+*?()[]{}^$\".contains(c)) {
        let mut values: Vec<String> = value.split('|').map(str::to_owned).collect();
        values.sort();
        values.dedup();
        return Ok(Pattern::OneOf(values));
    }
    regex::RegexBuilder::new(&format!("^(?s:{value})$"))
        .size_limit(REGEX_SIZE_LIMIT_BYTES)
        .build()
        .map(Pattern::Regex)
        .map_err(|e| Error::invalid("regular expression", format!("{value:?}: {e}")))
}

impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let op = match self.op {
            MatchOp::Equal => "=",
            MatchOp::NotEqual => "!=",
            MatchOp::Regex => "=~",
            MatchOp::NotRegex => "!~",
        };
        write!(f, "{}{op}{:?}", self.name, self.value)
    }
}

impl fmt::Debug for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl PartialEq for Matcher {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, self.op, &self.value) == (&other.name, other.op, &other.value)
    }
}

impl Eq for Matcher {}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(op: MatchOp, pattern: &str, accepted: &[&str], refused: &[&str]) {
        let matcher = Matcher::new("l", op, pattern).expect("compiles");
        for v in accepted {
            assert!(matcher.matches(v), "{matcher} {v:?}");
        }
        for v in refused {
            assert!(!matcher.matches(v), "{matcher} {v:?}");
        }
    }

    #[test]
    fn matches_as_prometheus_does() {
        check(MatchOp::Equal, "a", &["a"], &["", "ab"]);
        check(MatchOp::NotEqual, "", &["a"], &[""]);
        check(MatchOp::Regex, "a|b", &["a", "b"], &["", "ab", "a|b"]);
        check(MatchOp::Regex, "a.*", &["a", "a\nb"], &["ba"]);
        check(MatchOp::Regex, "a.+|b", &["ax", "b"], &["a", "bb", "xb"]);
        check(MatchOp::NotRegex, ".+", &[""], &["a"]);
        check(MatchOp::Regex, "", &[""], &["a"]);
        assert!(Matcher::new("l", MatchOp::Regex, "(").is_err());
        assert!(Matcher::new("l", MatchOp::Regex, "(a{1000}){1000}").is_err());
    }
}
