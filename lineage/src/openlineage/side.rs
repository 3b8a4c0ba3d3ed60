//! The datasets on one side of a job: those that it reads, or those that it writes.

use super::dataset::{Lifecycle, Role, lifecycle};
use super::names::dataset_at;
use super::read::At;
use crate::Result;
use crate::model::NodeKey;

/// See the module. Every list has one entry for each dataset of the event.
pub(super) struct Side<'p, 'v> {
    /// What the event says of each.
    pub ats: Vec<At<'p, 'v>>,
    /// Their nodes.
    pub keys: Vec<NodeKey>,
    /// What became of each.
    pub lifecycles: Vec<Option<Lifecycle>>,
    /// Which side it is.
    pub role: Role,
}

impl<'p, 'v> Side<'p, 'v> {
    /// Reads a list of datasets, if there is one.
    pub fn read(list: Option<&'p At<'p, 'v>>, role: Role) -> Result<Self> {
        let ats: Vec<At<'p, 'v>> = match list {
            Some(list) => list.items()?.collect(),
            None => Vec::new(),
        };
        let keys = ats.iter().map(dataset_at).collect::<Result<_>>()?;
        let lifecycles = ats.iter().map(lifecycle).collect::<Result<_>>()?;
        Ok(Self { ats, keys, lifecycles, role })
    }

    /// Names of those that are there after the event.
    pub fn present(&self, ended: bool) -> impl Iterator<Item = (&NodeKey, &At<'p, 'v>)> {
        let there = move |lifecycle: &Option<Lifecycle>| !(ended && *lifecycle == Some(Lifecycle::Dropped));
        let all = self.keys.iter().zip(&self.ats).zip(&self.lifecycles);
        all.filter(move |(_, lifecycle)| there(lifecycle)).map(|(dataset, _)| dataset)
    }
}
