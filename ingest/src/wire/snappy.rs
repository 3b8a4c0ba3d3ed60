//! Snappy block format. The length that a block claims is checked before memory is taken for it.

use super::DecodeError;

/// No snappy block grows by more than this factor: its densest element is a copy of 64 bytes in 3.
const MAX_EXPANSION: usize = 22;

/// The length that the block `compressed` claims to decompress to, after checking that it can be true.
///
/// # Errors
/// [`DecodeError::TooLarge`] if it is more than `max_bytes`, [`DecodeError::Snappy`] if there is none or it cannot be true.
pub fn claimed_len(compressed: &[u8], max_bytes: usize) -> Result<usize, DecodeError> {
    let too_large = || DecodeError::TooLarge { limit: "max_request_bytes", allowed_bytes: max_bytes };
    if compressed.is_empty() {
        return Err(refuse("it is empty"));
    }
    let claimed = match snap::raw::decompress_len(compressed) {
        Ok(claimed) => claimed,
        Err(snap::Error::TooBig { .. }) => return Err(too_large()),
        Err(error) => return Err(refuse(error)),
    };
    if claimed > max_bytes {
        return Err(too_large());
    }
    if claimed > compressed.len().saturating_mul(MAX_EXPANSION) {
        return Err(refuse(format!("{} bytes cannot hold the {claimed} bytes that it claims", compressed.len())));
    }
    Ok(claimed)
}

/// Decompresses the block `compressed` into `out`, replacing what was there.
///
/// # Errors
/// As [`claimed_len`], and [`DecodeError::Snappy`] if it is not a snappy block.
pub fn decompress(compressed: &[u8], max_bytes: usize, out: &mut Vec<u8>) -> Result<(), DecodeError> {
    out.clear();
    out.resize(claimed_len(compressed, max_bytes)?, 0);
    let written = snap::raw::Decoder::new().decompress(compressed, out).map_err(refuse)?;
    out.truncate(written);
    Ok(())
}

fn refuse(reason: impl ToString) -> DecodeError {
    DecodeError::Snappy { reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(compressed: &[u8], expected: Result<&[u8], &str>) {
        let mut out = vec![7; 3];
        match (decompress(compressed, 1 << 20, &mut out), expected) {
            (Ok(()), Ok(bytes)) => assert_eq!(out, bytes),
            (Err(error), Err(text)) => assert!(error.to_string().contains(text), "{error}"),
            (got, expected) => panic!("{got:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn checks_the_claimed_length_before_it_allocates() {
        check(&[0x00], Ok(b""));
        check(b"", Err("empty"));
        // Claims of 4 GiB − 1, of more than 32 bits, of 2 MiB, and of 512 KiB in 4 bytes.
        check(&[0xff, 0xff, 0xff, 0xff, 0x0f, 0x00, b'a'], Err("max_request_bytes"));
        check(&[0xff, 0xff, 0xff, 0xff, 0xff, 0x0f], Err("not a snappy block"));
        check(&[0x80, 0x80, 0x80, 0x01, 0x00, b'a'], Err("max_request_bytes"));
        check(&[0x80, 0x80, 0x20, 0x00], Err("cannot hold"));
        check(b"\xff\x06\x00\x00sNaPpY", Err("not a snappy block"));
        let text = b"an ordinary text, an ordinary text, an ordinary text".repeat(50);
        let block = snap::raw::Encoder::new().compress_vec(&text).expect("compresses");
        check(&block, Ok(&text));
        check(&block[..block.len() - 1], Err("not a snappy block"));
    }

    #[test]
    fn the_densest_block_is_allowed() {
        let zeros = vec![0u8; 1 << 20];
        let block = snap::raw::Encoder::new().compress_vec(&zeros).expect("compresses");
        assert!(zeros.len() / block.len() >= 20);
        check(&block, Ok(&zeros));
    }
}
