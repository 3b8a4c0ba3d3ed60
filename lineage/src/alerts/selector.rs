//! Conditions on the labels of an alert, written as in PromQL: `{severity=~"critical|page", team!=""}`.
//!
//! Values may also stand without quotes, as in the filters of Alertmanager's API.

use std::collections::BTreeMap;

use isobar_block::{MatchOp, Matcher};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{Error, Result};

/// Most conditions of one selector.
pub const MAX_MATCHERS: usize = 64;

/// All of these have to hold; none of them means that every alert fits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    text: String,
    matchers: Vec<Matcher>,
}

impl Selector {
    /// Reads a selector, with or without braces around it.
    ///
    /// # Errors
    /// [`Error::Invalid`] with what was expected and where.
    pub fn parse(text: &str) -> Result<Self> {
        let trimmed = text.trim();
        let inner = match trimmed.strip_prefix('{') {
            None => trimmed,
            Some(rest) => rest.strip_suffix('}').ok_or_else(|| Error::invalid("", format!("selector {text:?} has no closing brace")))?,
        };
        let mut reader = Reader { whole: text, rest: inner };
        let mut matchers = Vec::new();
        while !reader.is_done() {
            matchers.push(reader.matcher()?);
            if matchers.len() > MAX_MATCHERS {
                return Err(Error::invalid("", format!("a selector has more than {MAX_MATCHERS} conditions; use fewer")));
            }
        }
        Ok(Self { text: text.to_owned(), matchers })
    }

    /// Whether labels fit; a label that is not there is empty.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.matchers.iter().all(|m| m.matches(labels.get(m.name()).map_or("", String::as_str)))
    }

    /// The first condition that does not hold.
    pub fn refusing(&self, labels: &BTreeMap<String, String>) -> Option<&Matcher> {
        self.matchers.iter().find(|m| !m.matches(labels.get(m.name()).map_or("", String::as_str)))
    }
}

impl Serialize for Selector {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Selector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(|e| match e {
            Error::Invalid { reason, .. } => de::Error::custom(reason),
            other => de::Error::custom(other),
        })
    }
}

struct Reader<'a> {
    whole: &'a str,
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn is_done(&mut self) -> bool {
        self.rest = self.rest.trim_start();
        self.rest.is_empty()
    }

    fn expected(&self, what: &str) -> Error {
        let at = self.whole.len() - self.rest.len();
        Error::invalid("", format!("selector {:?}: {what} is expected near byte {at}; write {{name=\"value\"}}", self.whole))
    }

    fn matcher(&mut self) -> Result<Matcher> {
        let end = self.rest.find(['=', '!', '~', ',', '"']).unwrap_or(self.rest.len());
        let name = self.rest[..end].trim();
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(self.expected("the name of a label"));
        }
        self.rest = &self.rest[end..];
        let ops = [("=~", MatchOp::Regex), ("!~", MatchOp::NotRegex), ("!=", MatchOp::NotEqual), ("=", MatchOp::Equal)];
        let Some((sign, op)) = ops.into_iter().find(|(sign, _)| self.rest.starts_with(sign)) else {
            return Err(self.expected("one of = != =~ !~"));
        };
        self.rest = self.rest[sign.len()..].trim_start();
        let value = self.value()?;
        self.rest = self.rest.trim_start();
        match self.rest.strip_prefix(',') {
            Some(rest) => self.rest = rest,
            None if self.rest.is_empty() => {}
            None => return Err(self.expected("a comma")),
        }
        Matcher::new(name, op, value).map_err(|e| Error::invalid("", format!("selector {:?}: {e}", self.whole)))
    }

    fn value(&mut self) -> Result<String> {
        let Some(quote) = self.rest.chars().next().filter(|c| "\"'`".contains(*c)) else {
            let end = self.rest.find(',').unwrap_or(self.rest.len());
            let value = self.rest[..end].trim().to_owned();
            self.rest = &self.rest[end..];
            return Ok(value);
        };
        let mut value = String::new();
        let mut chars = self.rest[1..].char_indices();
        while let Some((i, c)) = chars.next() {
            match c {
                _ if c == quote => {
                    self.rest = &self.rest[1 + i + c.len_utf8()..];
                    return Ok(value);
                }
                '\\' if quote != '`' => match chars.next().map(|(_, c)| c) {
                    Some('n') => value.push('\n'),
                    Some('t') => value.push('\t'),
                    Some('r') => value.push('\r'),
                    Some(c) if c == quote || c == '\\' => value.push(c),
                    _ => return Err(self.expected("one of \\n \\t \\r \\\\ or a quote after a backslash")),
                },
                _ => value.push(c),
            }
        }
        Err(self.expected("a closing quote"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn fits_as_promql_does() {
        let shop = labels(&[("severity", "page"), ("ns", "shop"), ("odd", "a\"b,c")]);
        for (text, fits) in [
            ("", true),
            ("{}", true),
            (r#"{severity=~"critical|page", ns="shop"}"#, true),
            (r#"severity!="page""#, false),
            ("ns=shop,severity=page", true),
            (r#"{odd="a\"b,c",}"#, true),
            ("{odd=`a\"b,c`}", true),
            ("{odd='a\"b,c'}", true),
            (r#"{team=""}"#, true),
            (r#"{team!~".+"}"#, true),
            (r#"{ns!~"sh.*"}"#, false),
        ] {
            assert_eq!(Selector::parse(text).expect(text).matches(&shop), fits, "{text}");
        }
    }

    #[test]
    fn what_is_no_selector_is_refused() {
        for text in ["{a=\"b\"", "{=\"b\"}", "a", "{a=\"b}", "{a=\"b\" c=\"d\"}", "{a=~\"(\"}", "{a=\"\\x\"}"] {
            let error = Selector::parse(text).expect_err(text).to_string();
            assert!(error.contains("selector"), "{text}: {error}");
        }
    }
}
