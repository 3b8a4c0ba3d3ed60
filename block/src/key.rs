//! Object keys: the only place that knows where things are in the bucket. `FORMAT.md` lists them.

use object_store::path::Path;

use crate::meta::BlockId;
use crate::{Result, TenantId};

/// Where the blocks of a tenant are.
pub fn blocks(tenant: &TenantId) -> Path {
    tenant_prefix(tenant).join("blocks")
}

/// Where the files of one block are.
pub fn block(tenant: &TenantId, id: BlockId) -> Path {
    blocks(tenant).join(id.to_string())
}

/// One file of a block.
pub fn block_file(tenant: &TenantId, id: BlockId, name: &str) -> Path {
    block(tenant, id).join(name)
}

/// Where the catalog's log of a tenant is.
pub fn catalog(tenant: &TenantId) -> Path {
    tenant_prefix(tenant).join("catalog")
}

/// Where any other log of a tenant is, such as lineage events or the audit trail.
pub fn log(tenant: &TenantId, name: &str) -> Path {
    tenant_prefix(tenant).join("logs").join(name)
}

/// Entry `number` of a log.
pub fn log_entry(log: &Path, number: u64) -> Path {
    log.clone().join(format!("{number:020}.json"))
}

/// Where the checkpoints of a log are.
pub fn log_checkpoints(log: &Path) -> Path {
    log.clone().join("checkpoint")
}

/// The checkpoint of a log that holds everything up to entry `number`, this one included.
pub fn log_checkpoint(log: &Path, number: u64) -> Path {
    log_checkpoints(log).join(format!("{number:020}.json"))
}

/// The number in the key of a log entry or of a checkpoint.
pub fn log_number(key: &Path) -> Option<u64> {
    let digits = key.filename()?.strip_suffix(".json")?;
    (digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
}

/// The tenant whose prefix `key` is.
///
/// # Errors
/// [`crate::Error::Invalid`] if the key's first part is no tenant's name.
pub fn tenant_of(key: &Path) -> Result<TenantId> {
    let first = key.parts().next();
    // Of the characters that a tenant may have, the object store escapes this one only.
    TenantId::new(&first.as_ref().map_or("", |p| p.as_ref()).replace("%2A", "*"))
}

fn tenant_prefix(tenant: &TenantId) -> Path {
    Path::from(tenant.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_name_their_tenant_and_number() {
        for name in ["default", "a*b", "x.y'(z)!-_"] {
            let tenant = TenantId::new(name).expect("valid");
            assert_eq!(tenant_of(&catalog(&tenant)).expect("is a tenant's"), tenant);
        }
        let entry = log_entry(&catalog(&TenantId::default()), 42);
        assert_eq!(entry.as_ref(), "default/catalog/00000000000000000042.json");
        assert_eq!(log_number(&entry), Some(42));
        assert_eq!(log_number(&Path::from("default/catalog/42.json")), None);
        assert_eq!(log_number(&Path::from("default/catalog/0000000000000000004x.json")), None);
    }
}
