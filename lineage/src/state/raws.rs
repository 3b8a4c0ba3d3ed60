//! Where in the log the events are that came as text, by time, so that a page of them is found without reading the log.
//!
//! One row stands for one entry at first. When there are too many rows, neighbours among the older ones are joined, so that the index
//! covers the whole log with bounded memory, and more coarsely the older it gets.

/// Rows of the index.
pub const MAX_ROWS: usize = 1 << 16;

/// Entries that follow each other, and the events in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    /// Number of the first entry.
    pub first: u64,
    /// Number of the last entry.
    pub last: u64,
    /// Time of the earliest event, Unix milliseconds.
    pub min_ms: i64,
    /// Time of the latest event.
    pub max_ms: i64,
    /// How many events there are.
    pub count: u32,
}

impl Row {
    /// How many entries have to be read for it.
    pub fn entries(&self) -> u64 {
        self.last - self.first + 1
    }

    fn join(self, next: Self) -> Self {
        Self {
            first: self.first,
            last: next.last,
            min_ms: self.min_ms.min(next.min_ms),
            max_ms: self.max_ms.max(next.max_ms),
            count: self.count.saturating_add(next.count),
        }
    }
}

/// The index.
#[derive(Clone, Debug)]
pub(crate) struct Raws {
    /// By number.
    rows: Vec<Row>,
    max_rows: usize,
}

impl Default for Raws {
    fn default() -> Self {
        Self { rows: Vec::new(), max_rows: MAX_ROWS }
    }
}

impl Raws {
    /// Notes the times of the events of an entry, which follows all others.
    pub fn add(&mut self, number: u64, times: impl Iterator<Item = i64>) {
        let one = |at_ms| Row { first: number, last: number, min_ms: at_ms, max_ms: at_ms, count: 1 };
        if let Some(row) = times.map(one).reduce(Row::join) {
            self.push(row);
        }
    }

    /// Adds a row, which follows all others.
    pub fn push(&mut self, row: Row) {
        self.rows.push(row);
        if self.rows.len() > self.max_rows {
            self.condense();
        }
    }

    /// Joins neighbours but for the newest quarter, until there are half as many as there may be.
    fn condense(&mut self) {
        let newest = self.rows.split_off(self.rows.len() - self.max_rows / 4);
        let mut span = 2;
        while self.rows.len() > self.max_rows / 4 {
            let mut joined: Vec<Row> = Vec::with_capacity(self.rows.len());
            for row in self.rows.drain(..) {
                match joined.last_mut() {
                    Some(last) if row.last - last.first < span => *last = last.join(row),
                    _ => joined.push(row),
                }
            }
            self.rows = joined;
            span *= 2;
        }
        self.rows.extend(newest);
    }

    /// All rows, by number.
    pub fn iter(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter()
    }

    /// Rows that may have events from `after_ms` on and before `before_ms`.
    pub fn within(&self, after_ms: i64, before_ms: i64) -> Vec<Row> {
        self.rows.iter().filter(|r| r.max_ms >= after_ms && r.min_ms < before_ms).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_entries_make_few_rows_and_none_is_lost() {
        let mut raws = Raws { max_rows: 64, ..Raws::default() };
        for number in 1..=10_000_u64 {
            raws.add(number, (0..number % 3).map(|i| (number * 10 + i) as i64));
        }
        assert!(raws.rows.len() <= 64);
        assert_eq!(raws.iter().map(|r| u64::from(r.count)).sum::<u64>(), (1..=10_000).map(|n| n % 3).sum::<u64>());
        assert!(raws.rows.windows(2).all(|w| w[0].last < w[1].first));
        assert_eq!(raws.rows.last().map(Row::entries), Some(1), "the newest are told apart");
        for number in (1..=10_000_i64).filter(|n| n % 3 > 0) {
            let found = raws.within(number * 10, number * 10 + 1);
            assert!(found.iter().any(|r| (r.first..=r.last).contains(&(number as u64))), "{number}");
        }
        assert!(raws.within(0, 10).is_empty() && raws.within(200_000, i64::MAX).is_empty());
    }
}
