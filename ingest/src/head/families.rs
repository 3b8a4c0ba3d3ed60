//! What the head of a tenant knows of metric families: their metadata.

use hashbrown::HashMap;
use isobar_block::Metadata;

/// Different metadata that is kept of one name, if writers disagree; the oldest gives way.
const MAX_VARIANTS: usize = 4;
/// Endings of series names that are not part of the family's name.
const SUFFIXES: [&str; 6] = ["_bucket", "_count", "_sum", "_total", "_created", "_info"];

/// Metadata by family name.
#[derive(Debug, Default)]
pub struct Families(HashMap<Box<str>, Family>);

#[derive(Debug)]
struct Family {
    /// The newest is the last.
    variants: Vec<Metadata>,
    logged_epoch: u32,
}

impl Families {
    /// Remembers metadata. Returns whether the log has to be told; `None` if there are `max` other names already.
    pub fn put(&mut self, name: &str, metadata: &Metadata, epoch: u32, max: usize) -> Option<bool> {
        if let Some(family) = self.0.get_mut(name) {
            let known = family.variants.iter().position(|v| v == metadata);
            if known.is_some() && known == family.variants.len().checked_sub(1) && family.logged_epoch == epoch {
                return Some(false);
            }
            match known {
                Some(at) => family.variants[at..].rotate_left(1),
                None => {
                    if family.variants.len() == MAX_VARIANTS {
                        family.variants.remove(0);
                    }
                    family.variants.push(metadata.clone());
                }
            }
            return Some(true);
        }
        if self.0.len() >= max {
            return None;
        }
        self.0.insert(name.into(), Family { variants: vec![metadata.clone()], logged_epoch: 0 });
        Some(true)
    }

    /// Remembers that the log was told in this epoch.
    pub fn mark_logged(&mut self, name: &str, epoch: u32) {
        if let Some(family) = self.0.get_mut(name) {
            family.logged_epoch = epoch;
        }
    }

    /// The newest metadata for a series of that name: its family may be named without an ending such as `_total`.
    pub fn of_series(&self, name: &str) -> Option<&Metadata> {
        let family = self.0.get(name).or_else(|| SUFFIXES.iter().find_map(|s| self.0.get(name.strip_suffix(s)?)))?;
        family.variants.last()
    }

    /// All, or those of one name, sorted by name.
    pub fn list(&self, name: Option<&str>) -> Vec<(String, Vec<Metadata>)> {
        let mut all: Vec<_> =
            self.0.iter().filter(|(n, _)| name.is_none_or(|w| w == &***n)).map(|(n, f)| (n.to_string(), f.variants.clone())).collect();
        all.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        all
    }

    /// Calls `each` with all names and their metadata, and remembers that the log is told in this epoch.
    pub fn log_all(&mut self, epoch: u32, mut each: impl FnMut(&str, &Metadata)) {
        for (name, family) in &mut self.0 {
            family.logged_epoch = epoch;
            family.variants.iter().for_each(|v| each(name, v));
        }
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use isobar_block::MetricType;

    use super::*;

    #[test]
    fn newest_counts_and_repeats_are_not_logged() {
        let metadata = |help: &str| Metadata { metric_type: MetricType::Counter, help: help.into(), unit: String::new() };
        let mut families = Families::default();
        assert_eq!(families.put("http_requests", &metadata("a"), 1, 2), Some(true));
        families.mark_logged("http_requests", 1);
        assert_eq!(families.put("http_requests", &metadata("a"), 1, 2), Some(false));
        assert_eq!(families.put("http_requests", &metadata("a"), 2, 2), Some(true));
        assert_eq!(families.put("http_requests", &metadata("b"), 1, 2), Some(true));
        assert_eq!(families.of_series("http_requests_total"), Some(&metadata("b")));
        assert_eq!(families.put("http_requests", &metadata("a"), 1, 2), Some(true));
        assert_eq!(families.of_series("http_requests_total"), Some(&metadata("a")));
        assert_eq!(families.put("y", &metadata("a"), 1, 2), Some(true));
        assert_eq!(families.put("z", &metadata("a"), 1, 2), None);
        assert_eq!(families.list(Some("http_requests"))[0].1.len(), 2);
        assert_eq!(families.of_series("other"), None);
    }
}
