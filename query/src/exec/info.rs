//! `info`: adds the labels of info series to the rows of a vector that have the same instance and job.

use std::fmt;
use std::sync::Arc;

use hashbrown::HashMap;
use isobar_block::{LabelsRef, Matcher};

use super::cells::{Cell, is_histogram};
use super::chunk::{ABSENT, Chunk, ChunkBuilder, any_present, labels_from_bytes, present};
use super::context::QueryContext;
use super::labels::{METADATA_LABELS, braced, with_label};
use super::operator::{Operator, Worker};
use crate::result::{Error, Result};

/// The labels that say which target a series is of.
const IDENTIFYING_LABELS: [&str; 2] = ["instance", "job"];

/// The operator. The second input are the info series, with the time of the newest sample as value.
#[derive(Clone, Debug)]
pub struct InfoJoin {
    /// Which metrics are info metrics. Rows of these are not enriched.
    pub names: Vec<Matcher>,
    /// The labels that are added; all if empty.
    pub data: Vec<String>,
    /// Whether rows without an info series are left out.
    pub required: bool,
    /// Length of the vectors.
    pub steps: usize,
}

impl Operator for InfoJoin {
    fn name(&self) -> &'static str {
        "InfoJoinExec"
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "infos={:?}, labels={:?}", self.names, self.data)
    }

    fn steps(&self) -> usize {
        self.steps
    }

    fn start(&self, sides: Arc<Vec<Chunk>>, query: &Arc<QueryContext>) -> Result<Box<dyn Worker>> {
        let mut targets: Targets = HashMap::new();
        for row in 0..sides[0].len() {
            let labels = sides[0].labels(row);
            let metrics = targets.entry(target(labels)).or_default();
            match metrics.iter_mut().find(|rows| sides[0].labels(rows[0]).metric_name() == labels.metric_name()) {
                Some(rows) => rows.push(row),
                None => metrics.push(vec![row]),
            }
        }
        Ok(Box::new(Joining { operator: self.clone(), targets, sides, query: Arc::clone(query) }))
    }
}

/// For each target the info series of each metric.
type Targets = HashMap<Vec<String>, Vec<Vec<usize>>>;

fn target(labels: LabelsRef<'_>) -> Vec<String> {
    IDENTIFYING_LABELS.iter().map(|name| labels.get(name).unwrap_or("").to_owned()).collect()
}

struct Joining {
    operator: InfoJoin,
    targets: Targets,
    sides: Arc<Vec<Chunk>>,
    query: Arc<QueryContext>,
}

impl Worker for Joining {
    fn push(&mut self, input: Chunk) -> Result<Option<Chunk>> {
        let mut out = ChunkBuilder::new(self.operator.steps, input.len());
        for row in 0..input.len() {
            self.query.check_canceled()?;
            let labels = input.labels(row);
            let name = labels.metric_name();
            if self.operator.names.iter().all(|m| m.matches(name)) {
                out.push_row(&input, row);
            } else {
                self.enrich(labels, input.row(row), input.cells(row), &mut out)?;
            }
        }
        Ok(Some(out.finish()))
    }
}

impl Joining {
    /// One row for each combination of info series that is the newest at some step.
    fn enrich(&self, labels: LabelsRef<'_>, values: &[f64], cells: &[Cell], out: &mut ChunkBuilder) -> Result<()> {
        let key = target(labels);
        let metrics = if key.iter().all(String::is_empty) { None } else { self.targets.get(&key) };
        let mut combinations: Vec<(Vec<usize>, Vec<f64>)> = Vec::new();
        for (step, v) in values.iter().enumerate().filter(|(_, v)| present(**v)) {
            let mut chosen = Vec::new();
            for rows in metrics.into_iter().flatten() {
                chosen.extend(self.newest(rows, step)?);
            }
            if chosen.is_empty() && self.operator.required {
                continue;
            }
            let at = match combinations.iter().position(|(c, _)| *c == chosen) {
                Some(at) => at,
                None => {
                    combinations.push((chosen, vec![ABSENT; values.len()]));
                    combinations.len() - 1
                }
            };
            combinations[at].1[step] = *v;
        }
        for (chosen, values) in combinations.iter().filter(|(_, values)| any_present(values)) {
            let enriched = self.with_info_labels(labels, chosen)?;
            out.push_with(labels_from_bytes(&enriched), values, cells);
        }
        Ok(())
    }

    /// The info series with the newest sample at a step.
    fn newest(&self, rows: &[usize], step: usize) -> Result<Option<usize>> {
        let infos = &self.sides[0];
        let mut best: Option<(usize, f64)> = None;
        for row in rows {
            let time = infos.row(*row)[step];
            if is_histogram(time) {
                return Err(Error::Execution(format!("this should be an info metric, with float samples: {}", braced(infos.labels(*row)))));
            }
            if !present(time) {
                continue;
            }
            match best {
                Some((other, t)) if t == time => {
                    return Err(Error::Execution(format!(
                        "found duplicate series for info metric: existing {} @ {t}, new {} @ {time}",
                        braced(infos.labels(other)),
                        braced(infos.labels(*row))
                    )));
                }
                Some((_, t)) if t > time => {}
                _ => best = Some((*row, time)),
            }
        }
        Ok(best.map(|(row, _)| row))
    }

    fn with_info_labels(&self, labels: LabelsRef<'_>, chosen: &[usize]) -> Result<Vec<u8>> {
        let mut added: Vec<(&str, &str)> = Vec::new();
        for row in chosen {
            for (name, value) in self.sides[0].labels(*row).iter() {
                let wanted = self.operator.data.is_empty() || self.operator.data.iter().any(|d| d == name);
                if !wanted || name == METADATA_LABELS[0] || IDENTIFYING_LABELS.contains(&name) || labels.get(name).is_some() {
                    continue;
                }
                match added.iter().find(|(n, _)| *n == name) {
                    Some((_, other)) if *other != value => return Err(Error::Execution(format!("conflicting label: {name}"))),
                    Some(_) => {}
                    None => added.push((name, value)),
                }
            }
        }
        let mut bytes = labels.as_bytes().to_vec();
        for (name, value) in added {
            let mut next = Vec::new();
            with_label(labels_from_bytes(&bytes), name, value, &mut next);
            bytes = next;
        }
        Ok(bytes)
    }
}
