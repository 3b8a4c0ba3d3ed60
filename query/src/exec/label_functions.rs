//! `label_replace` and `label_join`.

use std::fmt;
use std::sync::Arc;

use regex::Regex;

use super::chunk::Chunk;
use super::context::QueryContext;
use super::labels::{map_labels, mark, with_label};
use super::operator::{Operator, Worker};
use super::release::Released;
use super::unique::{OnConflict, join_rows};
use crate::result::{Error, Result};

/// Biggest compiled regular expression.
const REGEX_SIZE_LIMIT_BYTES: usize = 10 << 20;

/// `label_replace(v, destination, replacement, source, regex)`
#[derive(Debug)]
pub struct LabelReplace {
    destination: String,
    replacement: String,
    source: String,
    pattern: Regex,
    /// Whether rows that do not match are marked for removal of the name.
    marks: bool,
    steps: usize,
}

impl LabelReplace {
    /// Checks the arguments. `marks` says that the rows' names are to be removed, except those that are set here.
    ///
    /// # Errors
    /// [`Error::Execution`] if the regular expression or the destination is not valid.
    pub fn new(destination: String, replacement: String, source: String, pattern: &str, marks: bool, steps: usize) -> Result<Self> {
        let pattern = regex::RegexBuilder::new(&format!("^(?s:{pattern})$"))
            .size_limit(REGEX_SIZE_LIMIT_BYTES)
            .build()
            .map_err(|_| Error::Execution(format!("invalid regular expression in label_replace(): {pattern}")))?;
        if destination.is_empty() {
            return Err(Error::Execution(format!("invalid destination label name in label_replace(): {destination}")));
        }
        Ok(Self { destination, replacement, source, pattern, marks, steps })
    }
}

impl Operator for LabelReplace {
    fn name(&self) -> &'static str {
        "LabelReplaceExec"
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} = {:?} of {:?} where {:?}", self.destination, self.replacement, self.source, self.pattern.as_str())
    }

    fn steps(&self) -> usize {
        self.steps
    }

    fn start(&self, _: Arc<Vec<Chunk>>, query: &Arc<QueryContext>) -> Result<Box<dyn Worker>> {
        let (destination, replacement, source) = (self.destination.clone(), self.replacement.clone(), self.source.clone());
        let (pattern, marks) = (self.pattern.clone(), self.marks);
        let mut value = String::new();
        let relabel = move |chunk: Chunk| {
            map_labels(chunk, |labels, out| match pattern.captures(labels.get(&source).unwrap_or("")) {
                Some(captures) => {
                    value.clear();
                    captures.expand(&replacement, &mut value);
                    with_label(labels, &destination, &value, out);
                }
                None if marks => mark(labels, out),
                None => out.extend_from_slice(labels.as_bytes()),
            })
        };
        Ok(Box::new(Relabelling { relabel, steps: self.steps, done: Released::default(), query: Arc::clone(query) }))
    }
}

/// `label_join(v, destination, separator, sources…)`
#[derive(Debug)]
pub struct LabelJoin {
    destination: String,
    separator: String,
    sources: Vec<String>,
    steps: usize,
}

impl LabelJoin {
    /// Checks the arguments.
    ///
    /// # Errors
    /// [`Error::Execution`] if a label name is empty.
    pub fn new(destination: String, separator: String, sources: Vec<String>, steps: usize) -> Result<Self> {
        if destination.is_empty() {
            return Err(Error::Execution(format!("invalid destination label name in label_join(): {destination}")));
        }
        if sources.iter().any(String::is_empty) {
            return Err(Error::Execution("invalid source label name in label_join(): ".into()));
        }
        Ok(Self { destination, separator, sources, steps })
    }
}

impl Operator for LabelJoin {
    fn name(&self) -> &'static str {
        "LabelJoinExec"
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} = {:?} joined by {:?}", self.destination, self.sources, self.separator)
    }

    fn steps(&self) -> usize {
        self.steps
    }

    fn start(&self, _: Arc<Vec<Chunk>>, query: &Arc<QueryContext>) -> Result<Box<dyn Worker>> {
        let (destination, separator, sources) = (self.destination.clone(), self.separator.clone(), self.sources.clone());
        let relabel = move |chunk: Chunk| {
            map_labels(chunk, |labels, out| {
                let values: Vec<&str> = sources.iter().map(|source| labels.get(source).unwrap_or("")).collect();
                with_label(labels, &destination, &values.join(&separator), out);
            })
        };
        Ok(Box::new(Relabelling { relabel, steps: self.steps, done: Released::default(), query: Arc::clone(query) }))
    }
}

/// Changes labels as rows come, and in the end joins those that have become equal.
struct Relabelling<F> {
    relabel: F,
    steps: usize,
    done: Released<Vec<Chunk>>,
    query: Arc<QueryContext>,
}

impl<F: FnMut(Chunk) -> Chunk + Send> Worker for Relabelling<F> {
    fn push(&mut self, input: Chunk) -> Result<Option<Chunk>> {
        self.done.push((self.relabel)(input));
        Ok(None)
    }

    fn finish(&mut self) -> Result<Option<Chunk>> {
        let all = Chunk::concat(self.steps, std::mem::take(&mut self.done).into_inner(), &self.query)?;
        join_rows(all, OnConflict::Fail, &self.query).map(Some)
    }

    fn size_bytes(&self) -> usize {
        self.done.iter().map(Chunk::size_bytes).sum()
    }
}
