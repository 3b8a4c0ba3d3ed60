//! Finds the rows of a group of series that matchers accept.
//!
//! A matcher is asked at most once for each distinct value; rows are then decided by the number that stands for the value.

use std::ops::Range;

use crate::labels::METRIC_NAME;
use crate::reader::series::{LabelColumn, SeriesGroup};
use crate::{MatchOp, Matcher};

/// Rows of a group, ascending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Selection {
    /// All of a run.
    Run(Range<usize>),
    /// Single rows.
    Rows(Vec<u16>),
}

impl Selection {
    pub fn len(&self) -> usize {
        match self {
            Self::Run(range) => range.len(),
            Self::Rows(rows) => rows.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The row at position `i`.
    pub fn row(&self, i: usize) -> usize {
        match self {
            Self::Run(range) => range.start + i,
            Self::Rows(rows) => rows[i] as usize,
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.len()).map(|i| self.row(i))
    }
}

/// The metric names that can match, if the matchers name them.
pub(super) fn only_names(matchers: &[Matcher]) -> Option<Vec<&str>> {
    matchers.iter().filter(|m| m.name() == METRIC_NAME).find_map(Matcher::only_values)
}

/// The rows that all matchers accept.
pub(super) fn select(group: &SeriesGroup, matchers: &[Matcher]) -> Selection {
    let (run, name_matcher) = name_run(group, matchers);
    let mut others: Vec<&Matcher> = matchers.iter().enumerate().filter(|(i, _)| Some(*i) != name_matcher).map(|(_, m)| m).collect();
    // Equality is the cheapest to ask and leaves the fewest rows.
    others.sort_by_key(|m| match m.op() {
        MatchOp::Equal => 0,
        MatchOp::Regex => 1,
        MatchOp::NotEqual | MatchOp::NotRegex => 2,
    });
    let mut selection = Selection::Run(run);
    for matcher in others {
        if selection.is_empty() {
            break;
        }
        selection = narrow(group, matcher, selection);
    }
    selection
}

/// The run of rows with the metric name that an equality matcher wants, found by bisection, and which matcher that is.
fn name_run(group: &SeriesGroup, matchers: &[Matcher]) -> (Range<usize>, Option<usize>) {
    let everything = 0..group.rows();
    let Some(i) = matchers.iter().position(|m| m.name() == METRIC_NAME && m.op() == MatchOp::Equal) else {
        return (everything, None);
    };
    let Some(column) = group.column(METRIC_NAME) else { return (everything, None) };
    let wanted = matchers[i].value().as_bytes();
    let start = column.codes.partition_point(|c| column.value(*c).as_bytes() < wanted);
    let len = column.codes[start..].partition_point(|c| column.value(*c).as_bytes() <= wanted);
    (start..start + len, Some(i))
}

fn narrow(group: &SeriesGroup, matcher: &Matcher, rows: Selection) -> Selection {
    if let Some(column) = group.column(matcher.name()) {
        let mut asked = Asked::new(column, matcher);
        return keep(rows, |row| asked.accepts(column.codes[row]));
    }
    if group.has_in_rest(matcher.name()) {
        return keep(rows, |row| matcher.matches(group.rest(row).get(matcher.name()).unwrap_or("")));
    }
    if matcher.matches_empty() { rows } else { Selection::Run(0..0) }
}

fn keep(rows: Selection, mut accept: impl FnMut(usize) -> bool) -> Selection {
    match rows {
        Selection::Run(range) => {
            let total = range.len();
            let kept: Vec<u16> = range.clone().filter(|row| accept(*row)).map(|row| row as u16).collect();
            if kept.len() == total { Selection::Run(range) } else { Selection::Rows(kept) }
        }
        Selection::Rows(mut rows) => {
            rows.retain(|row| accept(*row as usize));
            Selection::Rows(rows)
        }
    }
}

/// Remembers what a matcher said of a value.
struct Asked<'a> {
    column: &'a LabelColumn,
    matcher: &'a Matcher,
    answers: Vec<u8>,
}

const NOT_ASKED: u8 = 2;

impl<'a> Asked<'a> {
    fn new(column: &'a LabelColumn, matcher: &'a Matcher) -> Self {
        Self { column, matcher, answers: vec![NOT_ASKED; column.len()] }
    }

    fn accepts(&mut self, code: u16) -> bool {
        let answer = &mut self.answers[code as usize];
        if *answer == NOT_ASKED {
            *answer = u8::from(self.matcher.matches(self.column.value(code)));
        }
        *answer == 1
    }
}
