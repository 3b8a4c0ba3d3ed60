//! `limit_ratio`: a share of the series, chosen by a hash of their labels.

use std::fmt;
use std::sync::Arc;

use super::chunk::{ABSENT, Chunk, ChunkBuilder, any_present};
use super::context::QueryContext;
use super::format::go_float;
use super::operator::{MapWorker, Operator, Worker};
use super::scalar::{at_step, side_params};
use super::scan::Param;
use crate::promql::ast::Span;
use crate::result::{Error, Result};

/// Keeps rows whose hash is in the first (or, if negative, the last) part of all hashes.
#[derive(Debug)]
pub struct LimitRatio {
    /// How large the part is; may be different at each step.
    pub param: Param,
    /// Where that stands.
    pub span: Span,
    /// Length of the vectors.
    pub steps: usize,
}

impl Operator for LimitRatio {
    fn name(&self) -> &'static str {
        "LimitRatioExec"
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.param {
            Param::Known(values) if values.len() == 1 => write!(f, "ratio={}", values[0]),
            _ => f.write_str("ratio=<steps>"),
        }
    }

    fn steps(&self) -> usize {
        self.steps
    }

    fn parallel(&self) -> bool {
        true
    }

    fn start(&self, sides: Arc<Vec<Chunk>>, query: &Arc<QueryContext>) -> Result<Box<dyn Worker>> {
        let ratios = side_params(std::slice::from_ref(&self.param), &sides).swap_remove(0);
        if ratios.iter().any(|r| r.is_nan()) {
            return Err(Error::Execution("Ratio value is NaN".into()));
        }
        let largest = ratios.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let smallest = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        for (worst, cap) in [(largest, 1.0), (smallest, -1.0)] {
            if (cap > 0.0 && worst > cap) || (cap < 0.0 && worst < cap) {
                query.warn(
                    self.span,
                    format_args!("ratio value should be between -1 and 1, got {}, capping to {}", go_float(worst), go_float(cap)),
                );
            }
        }
        let ratios: Vec<f64> = ratios.into_iter().map(|r| r.clamp(-1.0, 1.0)).collect();
        Ok(Box::new(MapWorker(move |chunk: Chunk| {
            let mut out = ChunkBuilder::new(chunk.steps, chunk.len());
            let mut values = Vec::with_capacity(chunk.steps);
            for row in 0..chunk.len() {
                let offset = xxh64(chunk.labels(row).as_bytes()) as f64 / u64::MAX as f64;
                values.clear();
                values.extend(
                    chunk
                        .row(row)
                        .iter()
                        .enumerate()
                        .map(|(step, v)| if is_selected(at_step(&ratios, step), offset) { *v } else { ABSENT }),
                );
                if any_present(&values) {
                    out.push_with(chunk.labels(row), &values, chunk.cells(row));
                }
            }
            Ok(out.finish())
        })))
    }
}

fn is_selected(ratio: f64, offset: f64) -> bool {
    (ratio >= 0.0 && offset < ratio) || (ratio < 0.0 && offset >= 1.0 + ratio)
}

/// xxHash64 with seed 0 (<https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md>), so that `limit_ratio` selects the
/// same series as Prometheus, whose encoding of short labels is the same as ours.
fn xxh64(bytes: &[u8]) -> u64 {
    const P1: u64 = 0x9E37_79B1_85EB_CA87;
    const P2: u64 = 0xC2B2_AE3D_27D4_EB4F;
    const P3: u64 = 0x1656_67B1_9E37_79F9;
    const P4: u64 = 0x85EB_CA77_C2B2_AE63;
    const P5: u64 = 0x27D4_EB2F_1656_67C5;
    let round = |acc: u64, lane: u64| acc.wrapping_add(lane.wrapping_mul(P2)).rotate_left(31).wrapping_mul(P1);
    let lane = |b: &[u8]| u64::from_le_bytes(b[..8].try_into().expect("eight bytes"));
    let mut rest = bytes;
    let mut hash = P5;
    if bytes.len() >= 32 {
        let mut acc = [P1.wrapping_add(P2), P2, 0, 0_u64.wrapping_sub(P1)];
        while rest.len() >= 32 {
            for (i, a) in acc.iter_mut().enumerate() {
                *a = round(*a, lane(&rest[i * 8..]));
            }
            rest = &rest[32..];
        }
        hash = acc[0]
            .rotate_left(1)
            .wrapping_add(acc[1].rotate_left(7))
            .wrapping_add(acc[2].rotate_left(12))
            .wrapping_add(acc[3].rotate_left(18));
        for a in acc {
            hash = (hash ^ round(0, a)).wrapping_mul(P1).wrapping_add(P4);
        }
    }
    hash = hash.wrapping_add(bytes.len() as u64);
    while rest.len() >= 8 {
        hash = (hash ^ round(0, lane(rest))).rotate_left(27).wrapping_mul(P1).wrapping_add(P4);
        rest = &rest[8..];
    }
    if rest.len() >= 4 {
        let word = u32::from_le_bytes(rest[..4].try_into().expect("four bytes"));
        hash = (hash ^ u64::from(word).wrapping_mul(P1)).rotate_left(23).wrapping_mul(P2).wrapping_add(P3);
        rest = &rest[4..];
    }
    for b in rest {
        hash = (hash ^ u64::from(*b).wrapping_mul(P5)).rotate_left(11).wrapping_mul(P1);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(P2);
    hash = (hash ^ (hash >> 29)).wrapping_mul(P3);
    hash ^ (hash >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_as_specified() {
        assert_eq!(xxh64(b""), 0xEF46_DB37_51D8_E999);
        assert_eq!(xxh64(b"a"), 0xD24E_C4F1_A98C_6E5B);
        assert_eq!(xxh64(b"abc"), 0x44BC_2CF5_AD77_0999);
        assert_eq!(xxh64(b"Nobody inspects the spammish repetition"), 0xFBCE_A83C_8A37_8BF1);
    }
}
