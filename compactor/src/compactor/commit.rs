//! Makes written blocks visible, so that in the end it is certain whether they are.

use std::time::Duration;

use isobar_block::catalog::Catalog;
use isobar_block::{CatalogState, Change, Error as BlockError, TenantId};
use object_store::ObjectStore;

use crate::error::Result;
use crate::rewrite::remove_files;

/// A commit whose outcome is not known is tried so often.
const TRIES: u32 = 5;
/// Pause after the first try; it doubles.
const PAUSE: Duration = Duration::from_millis(500);

/// How a commit has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commit {
    /// The change is in the catalog.
    Done,
    /// It will never be: a block that it removes is gone, or the like. The files of the blocks that it adds have been removed.
    Conflict,
}

/// Commits a change that adds or removes blocks, onto a catalog of which `still` holds.
///
/// If the store fails, an entry that was sent may still arrive. So the commit is tried again until the place of the entry is
/// taken: only then it is certain that the change has not been made, and the files of its blocks may be removed.
///
/// # Errors
/// If the store keeps failing. The change may or may not be made later; the files of its blocks stay, and the clean-up removes
/// them if it has not been made by then.
pub async fn commit(
    catalog: &Catalog,
    objects: &dyn ObjectStore,
    tenant: &TenantId,
    change: Change,
    still: impl Fn(&CatalogState) -> bool + Send + Sync,
) -> Result<Commit> {
    let mut pause = PAUSE;
    let mut tries = 0;
    loop {
        tries += 1;
        match catalog.commit_if(change.clone(), &still).await {
            Ok(_) => return Ok(Commit::Done),
            Err(BlockError::Conflict { .. }) => {
                // The catalog was read to its end before: an earlier try that arrived late is in it.
                if is_made(catalog, &change) {
                    return Ok(Commit::Done);
                }
                for block in &change.add {
                    remove_files(objects, tenant, block.ulid).await;
                }
                return Ok(Commit::Conflict);
            }
            Err(BlockError::Store(error)) if tries < TRIES => {
                tracing::warn!(%tenant, %error, "it is not known whether a commit has reached the store; trying again");
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether the change was made: its blocks are known. One that adds nothing and cannot be made was made by somebody.
fn is_made(catalog: &Catalog, change: &Change) -> bool {
    let state = catalog.blocks();
    let known = |id| state.contains(id) || state.retired.iter().any(|r| r.ulid == id);
    change.add.first().is_some_and(|block| known(block.ulid))
}
