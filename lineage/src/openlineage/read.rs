//! Reading JSON with the path of each field, so that an error names the one that is wrong.

use serde_json::Value;

use crate::{Error, Result};

/// So many characters of a name are shown in the path of an error.
const SHOWN_CHARS: usize = 80;

/// A value and the way to it.
#[derive(Clone, Copy)]
pub(super) struct At<'p, 'v> {
    /// What is there.
    pub value: &'v Value,
    parent: Option<&'p At<'p, 'v>>,
    step: Step<'v>,
}

#[derive(Clone, Copy)]
enum Step<'v> {
    Root,
    Field(&'v str),
    Index(usize),
}

impl<'v> At<'_, 'v> {
    /// The whole of a document.
    pub fn root(value: &'v Value) -> Self {
        At { value, parent: None, step: Step::Root }
    }

    /// A field of an object that is there and not null.
    pub fn field<'s>(&'s self, name: &'static str) -> Option<At<'s, 'v>> {
        let value = self.value.get(name).filter(|v| !v.is_null())?;
        Some(At { value, parent: Some(self), step: Step::Field(name) })
    }

    /// A field that has to be there.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is not, or this is no object.
    pub fn required<'s>(&'s self, name: &'static str) -> Result<At<'s, 'v>> {
        drop(self.entries()?);
        self.field(name).ok_or_else(|| Error::invalid(join(&self.path(), Step::Field(name)), "is missing"))
    }

    /// The text of a field that has to be there.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is not there, or no string.
    pub fn text_of(&self, name: &'static str) -> Result<&'v str> {
        self.required(name)?.text()
    }

    /// The text of a field, or nothing.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is there and no string.
    pub fn optional_text(&self, name: &'static str) -> Result<&'v str> {
        self.field(name).map_or(Ok(""), |at| at.text())
    }

    /// The text.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is no string.
    pub fn text(&self) -> Result<&'v str> {
        self.value.as_str().ok_or_else(|| self.wrong(format!("must be a string; it is {}", kind_of(self.value))))
    }

    /// The elements of a list.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is no list.
    pub fn items<'s>(&'s self) -> Result<impl Iterator<Item = At<'s, 'v>>> {
        let items = self.value.as_array().ok_or_else(|| self.wrong(format!("must be a list; it is {}", kind_of(self.value))))?;
        Ok(items.iter().enumerate().map(|(i, value)| At { value, parent: Some(self), step: Step::Index(i) }))
    }

    /// The fields of an object, by name.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is no object.
    pub fn entries<'s>(&'s self) -> Result<impl Iterator<Item = (&'v str, At<'s, 'v>)>> {
        let fields = self.value.as_object().ok_or_else(|| self.wrong(format!("must be an object; it is {}", kind_of(self.value))))?;
        Ok(fields.iter().map(|(name, value)| (name.as_str(), At { value, parent: Some(self), step: Step::Field(name) })))
    }

    /// That the value breaks a rule.
    pub fn wrong(&self, reason: impl Into<String>) -> Error {
        Error::invalid(self.path(), reason)
    }

    /// The way to it, as in `inputs[1].name`.
    pub fn path(&self) -> String {
        let before = self.parent.map_or_else(String::new, At::path);
        join(&before, self.step)
    }
}

fn join(before: &str, step: Step) -> String {
    match step {
        Step::Root => before.to_owned(),
        Step::Index(i) => format!("{before}[{i}]"),
        Step::Field(name) if plain(name) && before.is_empty() => name.to_owned(),
        Step::Field(name) if plain(name) => format!("{before}.{name}"),
        Step::Field(name) => format!("{before}[{:?}]", name.chars().take(SHOWN_CHARS).collect::<String>()),
    }
}

fn plain(name: &str) -> bool {
    !name.is_empty() && name.len() <= SHOWN_CHARS && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// What a value is, for people.
pub(super) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn errors_name_the_way() {
        let value = json!({"inputs": [{"name": "a"}, {"facets": {"x y": {"fields": 7}}}], "n": null});
        let root = At::root(&value);
        let inputs = root.required("inputs").expect("is there");
        let second = inputs.items().expect("is a list").nth(1).expect("has two");
        assert_eq!(second.text_of("name").expect_err("is missing").to_string(), "inputs[1].name: is missing");
        let facets = second.required("facets").expect("is there");
        let (_, facet) = facets.entries().expect("is an object").next().expect("has one");
        let error = facet.required("fields").and_then(|f| f.items().map(drop)).expect_err("is a number").to_string();
        assert_eq!(error, "inputs[1].facets[\"x y\"].fields: must be a list; it is a number");
        assert!(root.field("n").is_none() && root.required("n").is_err());
        assert!(facet.required("fields").expect("is there").required("deeper").is_err());
    }
}
