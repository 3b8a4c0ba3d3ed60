//! Choosing the smallest form of a stream of integers, and writing it.

use super::super::bitpack::{BLOCK, pack, packed_len, width};
use super::super::cpu::dispatch;
use super::super::varint::{len, len_signed, put, put_signed};
use super::{Layout, MAX_TAG, PATCHED, SCALE_FACTOR, SCALE_FACTOR_REST, SCALE_LAST_SHIFT, SCALE_LAST_TEN};

/// Differences are looked at in pieces of this many to see whether few of them need many bits.
const PIECE: usize = 16;
/// A higher order is worth its decoding time if it saves more than one byte in this many.
const ORDER_WORTH: usize = 32;
/// A listed value costs decoding time besides its bytes.
const PATCH_PENALTY: usize = 1;
/// Integers beyond this are not divided by anything but powers of two, so that differences cannot overflow.
const LARGEST_DIVIDED: i64 = 1 << 61;

dispatch! {
    /// Appends `integers`, of which there is at least one, with `tag` in front. Uses `integers` as scratch space.
    pub(in super::super) fn encode(tag: u8, integers: &mut [i64], out: &mut Vec<u8>) -> () = encode_smallest
}

#[inline(always)]
fn encode_smallest(tag: u8, integers: &mut [i64], out: &mut Vec<u8>) {
    assert!(tag <= MAX_TAG && !integers.is_empty(), "tag {tag} with {} integers", integers.len());
    let scale = Scale::take_out(integers);
    let first = integers[0];
    let differences: Vec<i64> = integers.windows(2).map(|w| w[1].wrapping_sub(w[0])).collect();
    let second: Vec<i64> = differences.windows(2).map(|w| w[1].wrapping_sub(w[0])).collect();
    let first_difference = differences.first().copied().unwrap_or_default();

    let stats = [Stats::of(integers), Stats::of(&differences), Stats::of(&second)];
    let orders: [&[i64]; 3] = [integers, &differences, &second];
    let starts = [0, len_signed(first), len_signed(first) + len_signed(first_difference)];
    let mut best: Option<(usize, Plan, usize)> = None;
    for order in [1, 0, 2] {
        if order > integers.len() || best.as_ref().is_some_and(|(of, ..)| stats[order].hopeless_beside(&stats[*of])) {
            continue;
        }
        let plan = Plan::of(orders[order], &stats[order]);
        let size = starts[order] + plan.size;
        let better =
            best.as_ref().is_none_or(
                |(of, _, least)| {
                    if order > *of { size + size / ORDER_WORTH < *least } else { size <= *least + *least / ORDER_WORTH }
                },
            );
        if better {
            best = Some((order, plan, size));
        }
    }
    let (order, plan, _) = best.expect("order 1 needs one integer, and there is one");

    let (code, given) = scale.code();
    out.push(tag | (order as u8) << 6);
    out.push(plan.layout as u8 | code << 2);
    given.iter().flatten().for_each(|v| put(*v, out));
    [first, first_difference][..order].iter().for_each(|v| put_signed(*v, out));
    plan.write(orders[order], out);
}

/// `integer = factor × reduced + rest`.
struct Scale {
    shift: u32,
    odd: u64,
    rest: i64,
}

impl Scale {
    /// Finds the largest common factor of all differences and replaces the integers by the reduced ones.
    #[inline(always)]
    fn take_out(integers: &mut [i64]) -> Self {
        let first = integers[0];
        let (mut bits, mut least, mut most) = (0i64, first, first);
        for &v in integers.iter() {
            bits |= v ^ first;
            least = least.min(v);
            most = most.max(v);
        }
        if bits == 0 {
            return Self { shift: 0, odd: 1, rest: 0 };
        }
        // The lowest bit in which any two differ is the power of two that divides all differences.
        let shift = bits.trailing_zeros();
        let mut odd = 1;
        if -LARGEST_DIVIDED < least && most < LARGEST_DIVIDED {
            odd = odd_factor(integers.iter().map(|v| (v - first).unsigned_abs() >> shift));
        }
        let factor = (odd << shift) as i64;
        let rest = if odd == 1 { first & ((1u64 << shift) - 1) as i64 } else { first.rem_euclid(factor) };
        if factor != 1 {
            let inverse = inverse(odd);
            integers.iter_mut().for_each(|v| *v = (v.wrapping_sub(rest) >> shift).wrapping_mul(inverse as i64));
        }
        Self { shift, odd, rest }
    }

    /// The code in byte 1, and what has to be given besides.
    fn code(&self) -> (u8, [Option<u64>; 2]) {
        let factor = self.odd << self.shift;
        if self.rest != 0 {
            return (SCALE_FACTOR_REST, [Some(factor), Some(self.rest as u64)]);
        }
        if self.odd == 1 && self.shift <= SCALE_LAST_SHIFT.into() {
            return (self.shift as u8, [None; 2]);
        }
        let ten = (1..=SCALE_LAST_TEN - SCALE_LAST_SHIFT).find(|e| 10u64.pow(u32::from(*e)) == factor);
        ten.map_or((SCALE_FACTOR, [Some(factor), None]), |e| (SCALE_LAST_SHIFT + e, [None; 2]))
    }
}

/// The number whose product with `odd` is 1 modulo 2^64 (Newton's method; every step doubles the right bits).
#[inline(always)]
fn inverse(odd: u64) -> u64 {
    let mut inverse = odd.wrapping_mul(3) ^ 2;
    for _ in 0..4 {
        inverse = inverse.wrapping_mul(2u64.wrapping_sub(odd.wrapping_mul(inverse)));
    }
    inverse
}

/// The largest odd number that divides all, some of which is odd. Multiplying by the inverse tells whether an odd number divides
/// another far quicker than a division (Granlund and Montgomery, 1994).
#[inline(always)]
fn odd_factor(numbers: impl Iterator<Item = u64>) -> u64 {
    let (mut factor, mut by, mut limit) = (0u64, 0u64, 0u64);
    for number in numbers {
        if number == 0 || factor != 0 && number.wrapping_mul(by) <= limit {
            continue;
        }
        let (mut a, mut b) = (factor, number >> number.trailing_zeros());
        while a != 0 && a != b {
            let (least, apart) = (a.min(b), a.abs_diff(b));
            (a, b) = (least, apart >> apart.trailing_zeros());
        }
        factor = b;
        if factor == 1 {
            break;
        }
        (by, limit) = (inverse(factor), u64::MAX / factor);
    }
    factor.max(1)
}

/// What is known of differences before any form is tried.
struct Stats {
    least: i64,
    most: i64,
    /// Sum over pieces of [`PIECE`] of the bits that their range needs.
    piece_bits: usize,
    pieces: usize,
    /// Least and most of each block.
    blocks: Vec<(i64, i64)>,
}

impl Stats {
    #[inline(always)]
    fn of(differences: &[i64]) -> Self {
        let mut stats = Self {
            least: i64::MAX,
            most: i64::MIN,
            piece_bits: 0,
            pieces: 0,
            blocks: Vec::with_capacity(differences.len().div_ceil(BLOCK)),
        };
        for block in differences.chunks(BLOCK) {
            let (mut low, mut high) = (i64::MAX, i64::MIN);
            for piece in block.chunks(PIECE) {
                let least = piece.iter().fold(i64::MAX, |a, b| a.min(*b));
                let most = piece.iter().fold(i64::MIN, |a, b| a.max(*b));
                stats.piece_bits += width(most.wrapping_sub(least) as u64);
                stats.pieces += 1;
                (low, high) = (low.min(least), high.max(most));
            }
            (stats.least, stats.most) = (stats.least.min(low), stats.most.max(high));
            stats.blocks.push((low, high));
        }
        stats
    }

    /// Whether these differences are so much wilder than others that they need no closer look.
    fn hopeless_beside(&self, others: &Self) -> bool {
        others.least == others.most || self.piece_bits > others.piece_bits + others.pieces
    }

    /// Bits of the whole range.
    fn bits(&self) -> usize {
        width(self.most.wrapping_sub(self.least) as u64)
    }
}

/// A form for the deviations of one order.
struct Plan {
    layout: Layout,
    base: i64,
    /// Bytes from the base on.
    size: usize,
}

impl Plan {
    #[inline(always)]
    fn of(differences: &[i64], stats: &Stats) -> Self {
        let count = differences.len();
        if count == 0 {
            return Self { layout: Layout::Sparse, base: 0, size: 2 };
        }
        let (base, bits) = (stats.least, stats.bits());
        if bits == 0 {
            return Self { layout: Layout::Sparse, base, size: len_signed(base) + 1 };
        }
        let mut best = Self { layout: Layout::Uniform, base, size: len_signed(base) + 1 + packed_len(count, bits) };
        let mut consider = |layout, base, size| {
            if size < best.size {
                best = Self { layout, base, size };
            }
        };
        let (mut packed, mut local) = (len_signed(base), 0);
        for (block, &(low, high)) in differences.chunks(BLOCK).zip(&stats.blocks) {
            packed += 1 + packed_len(block.len(), width(high.wrapping_sub(base) as u64));
            local += 1 + len_signed(low) + packed_len(block.len(), width(high.wrapping_sub(low) as u64));
        }
        consider(Layout::Packed, base, packed);
        consider(Layout::Local, 0, local);
        if 2 * stats.piece_bits <= bits * stats.pieces {
            for common in [0, differences[count / 2]] {
                if let Some(size) = sparse_size(differences, common, best.size) {
                    best = Self { layout: Layout::Sparse, base: common, size };
                }
            }
        }
        // Patches spare some blocks bits that others need; with less than a bit for each value there are none to spare.
        if stats.piece_bits + stats.pieces < bits * stats.pieces && best.size > count / 8 {
            for base in [base, low_quantile(differences)] {
                let size = len_signed(base) + patched_size(differences, base);
                if size < best.size {
                    best = Self { layout: Layout::Packed, base, size };
                }
            }
        }
        best
    }

    fn write(&self, differences: &[i64], out: &mut Vec<u8>) {
        match self.layout {
            Layout::Packed => {
                put_signed(self.base, out);
                differences.chunks(BLOCK).for_each(|block| write_patched(block, self.base, out));
            }
            Layout::Local => {
                for block in differences.chunks(BLOCK) {
                    let least = block.iter().copied().min().expect("a chunk is not empty");
                    let (deviations, bits) = deviations(block, least);
                    out.push(width(bits) as u8);
                    put_signed(least, out);
                    pack(&deviations[..block.len()], width(bits), out);
                }
            }
            Layout::Sparse => {
                put_signed(self.base, out);
                put(differences.iter().filter(|d| **d != self.base).count() as u64, out);
                let mut next = 0;
                for (index, difference) in differences.iter().enumerate().filter(|(_, d)| **d != self.base) {
                    put((index - next) as u64, out);
                    put_signed(difference.wrapping_sub(self.base), out);
                    next = index + 1;
                }
            }
            Layout::Uniform => {
                put_signed(self.base, out);
                let bits = differences.iter().fold(0, |bits, d| bits | d.wrapping_sub(self.base) as u64);
                out.push(width(bits) as u8);
                for block in differences.chunks(BLOCK) {
                    pack(&deviations(block, self.base).0[..block.len()], width(bits), out);
                }
            }
        }
    }
}

/// Deviations of a block, and all their bits together.
#[inline(always)]
fn deviations(block: &[i64], base: i64) -> ([u64; BLOCK], u64) {
    let mut deviations = [0; BLOCK];
    let mut bits = 0;
    for (to, from) in deviations.iter_mut().zip(block) {
        *to = from.wrapping_sub(base) as u64;
        bits |= *to;
    }
    (deviations, bits)
}

/// Bytes of a listed deviation of so many bits; a negative one looks like one of 64 bits and is mostly much shorter.
#[inline(always)]
fn patch_size(bits: usize) -> usize {
    1 + PATCH_PENALTY + if bits == 64 { 4 } else { (bits + 1).div_ceil(7) }
}

/// The width for which packed bits and patches together are smallest, and about how many bytes that takes.
#[inline(always)]
fn best_width(deviations: &[u64; BLOCK], count: usize, bits: u64) -> (usize, usize) {
    let widest = width(bits);
    if widest <= 1 {
        return (widest, 1 + packed_len(count, widest));
    }
    let mut of_width = [[0u8; 65]; 2];
    for pair in deviations[..count].chunks(2) {
        of_width[0][width(pair[0])] += 1;
        if let Some(second) = pair.get(1) {
            of_width[1][width(*second)] += 1;
        }
    }
    let mut best = (widest, 1 + packed_len(count, widest));
    let mut patches = 1;
    for bits in (0..widest).rev() {
        let wider = usize::from(of_width[0][bits + 1]) + usize::from(of_width[1][bits + 1]);
        patches += wider * patch_size(bits + 1);
        if patches >= best.1 {
            break;
        }
        let size = 1 + packed_len(count, bits) + patches;
        if size < best.1 {
            best = (bits, size);
        }
    }
    best
}

#[inline(always)]
fn patched_size(differences: &[i64], base: i64) -> usize {
    differences
        .chunks(BLOCK)
        .map(|block| {
            let (deviations, bits) = deviations(block, base);
            best_width(&deviations, block.len(), bits).1
        })
        .sum()
}

#[inline(always)]
fn write_patched(block: &[i64], base: i64, out: &mut Vec<u8>) {
    let (mut deviations, bits) = deviations(block, base);
    let (best, _) = best_width(&deviations, block.len(), bits);
    if best == width(bits) {
        out.push(best as u8);
        return pack(&deviations[..block.len()], best, out);
    }
    let mut patches = [(0u8, 0i64); BLOCK];
    let mut count = 0;
    for (position, deviation) in deviations[..block.len()].iter_mut().enumerate() {
        if width(*deviation) > best {
            patches[count] = (position as u8, *deviation as i64);
            count += 1;
            *deviation = 0;
        }
    }
    out.push(best as u8 | PATCHED);
    pack(&deviations[..block.len()], best, out);
    out.push(count as u8);
    out.extend(patches[..count].iter().map(|p| p.0));
    patches[..count].iter().for_each(|p| put_signed(p.1, out));
}

/// A base that a few far outliers below do not drag down.
fn low_quantile(differences: &[i64]) -> i64 {
    let mut sorted = differences.to_vec();
    let rank = sorted.len() / 32 + 1;
    *sorted.select_nth_unstable(rank.min(differences.len() - 1)).1
}

/// Bytes of layout `Sparse`, if they are fewer than `limit`.
#[inline(always)]
fn sparse_size(differences: &[i64], base: i64, limit: usize) -> Option<usize> {
    let others = differences.iter().map(|d| u32::from(*d != base)).sum::<u32>() as usize;
    let mut size = len_signed(base) + len(others as u64) + 2 * others;
    if size >= limit {
        return None;
    }
    let mut next = 0;
    for (index, difference) in differences.iter().enumerate().filter(|(_, d)| **d != base) {
        size += len((index - next) as u64) + len_signed(difference.wrapping_sub(base)) - 2;
        next = index + 1;
    }
    (size < limit).then_some(size)
}
