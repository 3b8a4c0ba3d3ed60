//! What operators do to label sets as a whole: keep some, drop some, mark those whose name is to be removed in the end.

use std::fmt;
use std::sync::Arc;

use arrow::array::BinaryViewBuilder;
use isobar_block::LabelsRef;
use isobar_block::labels::{METRIC_NAME, push_label};

use super::chunk::Chunk;
use super::context::QueryContext;
use super::operator::{MapWorker, Operator, Worker};

/// Labels that describe the metric and not the series; what changes the meaning of a value removes all of them.
pub const METADATA_LABELS: [&str; 3] = [METRIC_NAME, "__type__", "__unit__"];

/// A label that no series has, since its name is not valid. Rows that carry it lose their [`METADATA_LABELS`] in the end.
/// It exists only where rows with and without pending removal are mixed.
pub const DROP_MARK: &str = "\0";

/// Whether a label is one of [`METADATA_LABELS`].
pub fn is_metadata(name: &str) -> bool {
    METADATA_LABELS.contains(&name)
}

/// Keeps the labels with the given names, or drops them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelRule {
    keep: bool,
    /// Ascending, each once.
    names: Vec<String>,
}

impl LabelRule {
    /// Keeps `names`.
    pub fn by(names: &[String]) -> Self {
        Self::new(true, names.to_vec())
    }

    /// Drops `names`, and the metric's name, as `without` does.
    pub fn without(names: &[String]) -> Self {
        Self::dropping(names, &[METRIC_NAME, DROP_MARK])
    }

    /// Drops the metadata labels.
    pub fn without_names() -> Self {
        Self::dropping(&[], &[METADATA_LABELS[0], METADATA_LABELS[1], METADATA_LABELS[2], DROP_MARK])
    }

    /// Drops only the mark.
    pub fn without_mark() -> Self {
        Self::dropping(&[], &[DROP_MARK])
    }

    /// Drops `names` and some of the fixed ones.
    pub fn dropping(names: &[String], more: &[&str]) -> Self {
        Self::new(false, names.iter().cloned().chain(more.iter().map(|n| (*n).to_owned())).collect())
    }

    /// Keeps `names` and some of the fixed ones.
    pub fn keeping(names: &[String], more: &[&str]) -> Self {
        Self::new(true, names.iter().cloned().chain(more.iter().map(|n| (*n).to_owned())).collect())
    }

    fn new(keep: bool, mut names: Vec<String>) -> Self {
        names.sort();
        names.dedup();
        Self { keep, names }
    }

    /// Whether a metadata label can be in the result.
    pub fn keeps_names(&self) -> bool {
        METADATA_LABELS.iter().any(|n| self.names.iter().any(|m| m == n) == self.keep)
    }

    /// Appends what is left of `labels` to `out`, in canonical form.
    pub fn apply(&self, labels: LabelsRef<'_>, out: &mut Vec<u8>) {
        if self.keep {
            if !self.names.is_empty() {
                labels.keep_into(&self.names, out);
            }
        } else {
            labels.drop_into(&self.names, out);
        }
    }
}

impl fmt::Display for LabelRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: Vec<&str> = self.names.iter().map(String::as_str).filter(|n| *n != DROP_MARK).collect();
        write!(f, "{}({})", if self.keep { "by" } else { "without" }, shown.join(", "))
    }
}

/// Applies a [`LabelRule`] to all rows.
#[derive(Debug)]
pub struct Relabel {
    /// The rule.
    pub rule: LabelRule,
    /// Length of the vectors.
    pub steps: usize,
}

impl Operator for Relabel {
    fn name(&self) -> &'static str {
        "LabelsExec"
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.rule)
    }

    fn steps(&self) -> usize {
        self.steps
    }

    fn parallel(&self) -> bool {
        true
    }

    fn start(&self, _: Arc<Vec<Chunk>>, _: &Arc<QueryContext>) -> crate::result::Result<Box<dyn Worker>> {
        let rule = self.rule.clone();
        Ok(Box::new(MapWorker(move |chunk: Chunk| Ok(map_labels(chunk, |labels, out| rule.apply(labels, out))))))
    }
}

/// Marks all rows for removal of the metadata labels.
#[derive(Debug)]
pub struct Mark {
    /// Length of the vectors.
    pub steps: usize,
}

impl Operator for Mark {
    fn name(&self) -> &'static str {
        "MarkNamesExec"
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("to be removed")
    }

    fn steps(&self) -> usize {
        self.steps
    }

    fn parallel(&self) -> bool {
        true
    }

    fn start(&self, _: Arc<Vec<Chunk>>, _: &Arc<QueryContext>) -> crate::result::Result<Box<dyn Worker>> {
        Ok(Box::new(MapWorker(|chunk: Chunk| Ok(map_labels(chunk, mark)))))
    }
}

/// Appends `labels` with the mark, which comes before all others.
pub fn mark(labels: LabelsRef<'_>, out: &mut Vec<u8>) {
    push_label(out, DROP_MARK, "1");
    out.extend_from_slice(labels.as_bytes());
}

/// Rows that become one group when their mark is ignored get it all, if one has it: a group whose name is to be removed for
/// some rows loses it.
#[derive(Debug)]
pub struct UnifyMarks {
    /// How rows are grouped.
    pub rule: LabelRule,
    /// Length of the vectors.
    pub steps: usize,
}

impl Operator for UnifyMarks {
    fn name(&self) -> &'static str {
        "UnifyMarksExec"
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.rule)
    }

    fn steps(&self) -> usize {
        self.steps
    }

    fn start(&self, _: Arc<Vec<Chunk>>, query: &Arc<QueryContext>) -> crate::result::Result<Box<dyn Worker>> {
        let rule = self.rule.clone();
        let run = move |chunk: Chunk| {
            let key = |labels: LabelsRef<'_>| {
                let mut bytes = Vec::new();
                rule.apply(labels, &mut bytes);
                bytes
            };
            let marked: std::collections::HashSet<Vec<u8>> =
                (0..chunk.len()).map(|row| chunk.labels(row)).filter(|l| l.get(DROP_MARK).is_some()).map(key).collect();
            let unmark = LabelRule::without_mark();
            Ok(map_labels(chunk, |labels, out| {
                if marked.contains(&key(labels)) {
                    push_label(out, DROP_MARK, "1");
                }
                unmark.apply(labels, out);
            }))
        };
        Ok(Box::new(super::operator::WholeWorker::new(self.steps, query, run)))
    }
}

/// Appends `labels` with one label set to `value`, or removed if that is empty.
pub fn with_label(labels: LabelsRef<'_>, name: &str, value: &str, out: &mut Vec<u8>) {
    let mut placed = false;
    for (n, v) in labels.iter() {
        if !placed && n.as_bytes() >= name.as_bytes() {
            push_label(out, name, value);
            placed = true;
        }
        if n != name {
            push_label(out, n, v);
        }
    }
    if !placed {
        push_label(out, name, value);
    }
}

/// Labels as error messages of Prometheus show them: `{a="1", b="2"}`, the name among them.
pub fn braced(labels: LabelsRef<'_>) -> String {
    let shown: Vec<String> = labels.iter().filter(|(n, _)| *n != DROP_MARK).map(|(n, v)| format!("{n}={v:?}")).collect();
    format!("{{{}}}", shown.join(", "))
}

/// The rows with other labels; `f` appends them in canonical form.
pub fn map_labels(chunk: Chunk, mut f: impl FnMut(LabelsRef<'_>, &mut Vec<u8>)) -> Chunk {
    let mut builder = BinaryViewBuilder::with_capacity(chunk.len());
    let mut bytes = Vec::new();
    for row in 0..chunk.len() {
        bytes.clear();
        f(chunk.labels(row), &mut bytes);
        builder.append_value(&bytes);
    }
    Chunk { labels: builder.finish(), ..chunk }
}
