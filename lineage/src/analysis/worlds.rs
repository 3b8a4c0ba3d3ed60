//! Many worlds at once: each bit of a mask is one world, in which every edge either passes a failure on or does not.
//!
//! What an edge does in a world depends on the seed, the edge and the world only, and not on the order in which edges are visited, so that
//! an answer can be repeated.

/// Words of a mask.
pub(crate) const WORDS: usize = 4;

/// Worlds of one mask.
pub(crate) const WORLDS: u32 = 64 * WORDS as u32;

/// One bit per world.
pub(crate) type Mask = [u64; WORDS];

/// No world.
pub(crate) const EMPTY: Mask = [0; WORDS];

/// Every world.
pub(crate) const FULL: Mask = [!0; WORDS];

/// Bits of a probability; finer ones are rounded.
const PRECISION: u32 = 16;

/// Of the worlds in `wanted`, those in which something with this probability happens, for the thing `id` in block `block` of worlds.
///
/// Compares a random binary number per world with the probability, bit by bit from the highest, until all wanted worlds are decided:
/// about two bits for one world, eight for 64. What happens in a world does not depend on which others are wanted.
pub(crate) fn draw(seed: u64, id: u32, block: u32, probability: f32, wanted: Mask) -> Mask {
    let threshold = (probability * (1 << PRECISION) as f32).round() as u32;
    if threshold >= 1 << PRECISION {
        return wanted;
    }
    let mut out = EMPTY;
    if threshold == 0 {
        return out;
    }
    let start = mix(seed ^ (u64::from(id) << 32 | u64::from(block)).wrapping_mul(STEP));
    for (word, (out, wanted)) in out.iter_mut().zip(wanted).enumerate() {
        let mut undecided = wanted;
        let mut state = start.wrapping_add((word as u64) << 32);
        let mut bit = PRECISION;
        while undecided != 0 && bit > 0 {
            bit -= 1;
            state = state.wrapping_add(STEP);
            let coin = mix(state);
            if threshold >> bit & 1 == 1 {
                *out |= undecided & !coin;
                undecided &= coin;
            } else {
                undecided &= !coin;
            }
        }
    }
    out
}

/// The step of SplitMix64.
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014).
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Worlds of either.
pub(crate) fn or(a: Mask, b: Mask) -> Mask {
    std::array::from_fn(|i| a[i] | b[i])
}

/// Worlds of both.
pub(crate) fn and(a: Mask, b: Mask) -> Mask {
    std::array::from_fn(|i| a[i] & b[i])
}

/// Worlds of the first and not of the second.
pub(crate) fn without(a: Mask, b: Mask) -> Mask {
    std::array::from_fn(|i| a[i] & !b[i])
}

/// How many worlds.
pub(crate) fn count(mask: Mask) -> u32 {
    mask.iter().map(|w| w.count_ones()).sum()
}

/// Counts members per world, in binary, one mask per digit.
#[derive(Debug, Default)]
pub(crate) struct Counter {
    digits: Vec<Mask>,
}

impl Counter {
    /// Starts anew.
    pub fn clear(&mut self) {
        self.digits.clear();
    }

    /// Adds one in these worlds.
    pub fn add(&mut self, mut carry: Mask) {
        for digit in &mut self.digits {
            if carry == EMPTY {
                return;
            }
            let both = and(*digit, carry);
            *digit = std::array::from_fn(|i| digit[i] ^ carry[i]);
            carry = both;
        }
        if carry != EMPTY {
            self.digits.push(carry);
        }
    }

    /// Worlds with at least so many.
    pub fn at_least(&self, wanted: u32) -> Mask {
        if wanted >> self.digits.len().min(31) > 0 && self.digits.len() < 32 {
            return EMPTY;
        }
        let (mut less, mut equal) = (EMPTY, FULL);
        for (i, digit) in self.digits.iter().enumerate().rev() {
            if wanted >> i & 1 == 1 {
                less = or(less, without(equal, *digit));
                equal = and(equal, *digit);
            } else {
                equal = without(equal, *digit);
            }
        }
        without(FULL, less)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_hold_as_many_worlds_as_the_probability_says() {
        for p in [0.0, 0.001, 0.1, 0.25, 0.5, 0.77, 0.999, 1.0] {
            let blocks = 4000;
            let total: u32 = (0..blocks).map(|b| count(draw(7, b % 13, b, p, FULL))).sum();
            let mean = f64::from(total) / f64::from(blocks * WORLDS);
            let deviation = (f64::from(p) * (1.0 - f64::from(p)) / f64::from(blocks * WORLDS)).sqrt();
            assert!((mean - f64::from(p)).abs() <= 4.0 * deviation + 1e-5, "{p}: {mean}");
        }
        let all = draw(1, 2, 3, 0.3, FULL);
        assert_ne!(all, draw(1, 3, 3, 0.3, FULL));
        assert_ne!(all, draw(2, 2, 3, 0.3, FULL));
        let some = draw(9, 9, 9, 0.5, FULL);
        assert_eq!(draw(1, 2, 3, 0.3, some), and(all, some), "worlds are independent of each other");
    }

    #[test]
    fn two_edges_are_independent() {
        let both: u32 = (0..2000).map(|b| count(and(draw(5, 1, b, 0.5, FULL), draw(5, 2, b, 0.5, FULL)))).sum();
        assert!((f64::from(both) / f64::from(2000 * WORLDS) - 0.25).abs() < 0.003);
    }

    #[test]
    fn members_are_counted_per_world() {
        let masks: Vec<Mask> = (0..21).map(|i| draw(3, i, 0, 0.4, FULL)).collect();
        let mut counter = Counter::default();
        masks.iter().for_each(|m| counter.add(*m));
        for wanted in 0..40 {
            let got = counter.at_least(wanted);
            for world in 0..WORLDS as usize {
                let bit = |m: &Mask| m[world / 64] >> (world % 64) & 1 == 1;
                let members = masks.iter().filter(|m| bit(m)).count();
                assert_eq!(bit(&got), members >= wanted as usize, "{members} of {wanted}");
            }
        }
    }
}
