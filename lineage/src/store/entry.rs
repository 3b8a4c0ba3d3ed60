//! One entry of the log: events of several writers. Small ones are JSON that one can read; larger ones are compressed inside.

use std::io::Read;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use isobar_block::BlockId;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::event::MAX_EVENT_BYTES;

/// Events of an entry are compressed from this size on.
pub const COMPRESS_BYTES: usize = 16 << 10;

/// Most bytes of the events of an entry as JSON: what one writer may send at once, and a little.
pub const MAX_ENTRY_BYTES: usize = super::MAX_APPEND_BYTES + super::BATCH_BYTES;

/// zstd's level: entries are written once and kept for good, but writers wait for them.
const LEVEL: i32 = 3;

/// An entry as it is read.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored<E> {
    number: u64,
    /// Makes the content unique, so that a committer recognizes its own entry after a request whose answer was lost.
    #[serde(rename = "commit")]
    _commit: String,
    /// When it was written.
    #[serde(rename = "at_ms")]
    _at_ms: i64,
    #[serde(default = "Vec::new")]
    events: Vec<E>,
    #[serde(default)]
    zstd: Option<String>,
}

/// The content of entry `number` with these events, each as JSON.
pub(super) fn write<'a>(number: u64, commit: BlockId, at_ms: i64, events: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut list = Vec::from(*b"[");
    for event in events {
        if list.len() > 1 {
            list.push(b',');
        }
        list.extend_from_slice(event);
    }
    list.push(b']');
    let mut out = format!("{{\"number\":{number},\"commit\":\"{commit}\",\"at_ms\":{at_ms},").into_bytes();
    if list.len() < COMPRESS_BYTES {
        out.extend_from_slice(b"\"events\":");
        out.extend_from_slice(&list);
    } else {
        let compressed = zstd::bulk::compress(&list, LEVEL).expect("memory can be compressed");
        out.extend_from_slice(b"\"zstd\":\"");
        out.extend_from_slice(STANDARD.encode(compressed).as_bytes());
        out.push(b'"');
    }
    out.push(b'}');
    out
}

/// The events of entry `number`: in full, or what `E` has of them.
///
/// # Errors
/// What is wrong with it, for a message that names the entry.
pub(super) fn read<E: DeserializeOwned>(number: u64, content: &[u8]) -> Result<Vec<E>, String> {
    let stored: Stored<E> = serde_json::from_slice(content).map_err(|e| e.to_string())?;
    if stored.number != number {
        return Err(format!("it says that it is entry {}", stored.number));
    }
    let Some(packed) = stored.zstd else { return Ok(stored.events) };
    let packed = STANDARD.decode(packed).map_err(|e| format!("its events are no base64: {e}"))?;
    let limit = (MAX_ENTRY_BYTES + MAX_EVENT_BYTES) as u64;
    let mut list = Vec::new();
    let decoder = zstd::stream::read::Decoder::new(&packed[..]).map_err(|e| e.to_string())?;
    decoder.take(limit + 1).read_to_end(&mut list).map_err(|e| format!("its events cannot be decompressed: {e}"))?;
    if list.len() as u64 > limit {
        return Err(format!("its events have more than {limit} bytes"));
    }
    serde_json::from_slice(&list).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;

    #[test]
    fn entries_survive_and_damage_is_named() {
        let commit = BlockId::new(5);
        for count in [0, 1, 1000] {
            let events: Vec<Event> = (0..count).map(|i| Event::new(format!("id-{i}"), "source", "scope", i)).collect();
            let json: Vec<Vec<u8>> = events.iter().map(|e| serde_json::to_vec(e).expect("serializes")).collect();
            let content = write(7, commit, 9, json.iter().map(Vec::as_slice));
            assert!(serde_json::from_slice::<serde_json::Value>(&content).is_ok());
            assert_eq!(read::<Event>(7, &content).expect("intact"), events);
            assert!(read::<Event>(8, &content).expect_err("another number").contains("entry 7"));
            assert!(read::<Event>(7, &content[..content.len() - 2]).is_err());
        }
    }

    #[test]
    fn a_bomb_is_refused() {
        let bomb = zstd::bulk::compress(&vec![b' '; MAX_ENTRY_BYTES + MAX_EVENT_BYTES + 2], 1).expect("compresses");
        let content = format!("{{\"number\":1,\"commit\":\"x\",\"at_ms\":0,\"zstd\":\"{}\"}}", STANDARD.encode(bomb));
        assert!(read::<Event>(1, content.as_bytes()).expect_err("too large").contains("more than"));
    }
}
