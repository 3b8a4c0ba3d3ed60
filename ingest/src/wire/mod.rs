//! Remote write on the wire: snappy and protobuf in, [`DecodedRequest`] out, without an allocation per sample.
//!
//! What the walkers keep to: every length is checked against the bytes that are there before it is used, and every vector
//! that a request can make grow is paid for from a [`Budget`] before it grows.

pub(crate) mod histogram;
#[cfg(test)]
pub(crate) mod messages;
mod pool;
pub(crate) mod proto;
pub mod snappy;
#[cfg(test)]
mod tests;
pub mod v1;
pub mod v2;

pub use pool::{MAX_POOLED_BYTES, MAX_POOLED_REQUESTS};

use crate::decoded::DecodedRequest;

/// Version of remote write, told by the media type of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// 1.0: `prometheus.WriteRequest`.
    V1,
    /// 2.0: `io.prometheus.write.v2.Request`.
    V2,
}

/// Why a request body as a whole cannot be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The body is not a snappy block.
    #[error("body is not a snappy block (framed snappy is not remote write): {reason}")]
    Snappy {
        /// What does not hold.
        reason: String,
    },
    /// The body is not gzip.
    #[error("body is not gzip: {reason}")]
    Gzip {
        /// What does not hold.
        reason: String,
    },
    /// The body is longer than a limit.
    #[error("{limit} of {allowed_bytes} bytes is exceeded; send smaller requests (max_samples_per_send) or raise the limit")]
    TooLarge {
        /// The limit's name in the configuration.
        limit: &'static str,
        /// What it allows.
        allowed_bytes: usize,
    },
    /// The body is not the message that its content type says.
    #[error("body is not a protobuf {message} message: {reason}")]
    Protobuf {
        /// Name of the message.
        message: &'static str,
        /// What does not hold.
        reason: String,
    },
}

/// Decodes the snappy block `compressed` into `request`, which is emptied before.
///
/// # Errors
/// [`DecodeError`], after which `request` holds nothing of use but its memory.
pub fn decode(
    version: Version,
    compressed: &[u8],
    max_body_bytes: usize,
    max_decoded_bytes: usize,
    request: &mut DecodedRequest,
) -> Result<(), DecodeError> {
    request.clear();
    snappy::decompress(compressed, max_body_bytes, &mut request.label_bytes)?;
    match version {
        Version::V1 => v1::decode(request, max_decoded_bytes),
        Version::V2 => v2::decode(request, max_decoded_bytes),
    }
}

/// Memory that a request may still take when decoded. Small messages can stand for large ones: an empty histogram has 2
/// bytes on the wire, a symbol of 4 KiB is referred to by 1.
pub(crate) struct Budget {
    left_bytes: usize,
    allowed_bytes: usize,
}

impl Budget {
    pub(crate) fn new(allowed_bytes: usize) -> Self {
        Self { left_bytes: allowed_bytes, allowed_bytes }
    }

    #[inline]
    pub(crate) fn spend(&mut self, bytes: usize) -> Result<(), DecodeError> {
        match self.left_bytes.checked_sub(bytes) {
            Some(left) => {
                self.left_bytes = left;
                Ok(())
            }
            None => Err(DecodeError::TooLarge { limit: "max_decoded_request_bytes", allowed_bytes: self.allowed_bytes }),
        }
    }
}
