//! Byte strings one after the other, in pieces, so that growing copies nothing and what is written to a file can be freed.

use std::ops::Range;

/// A new piece begins when one has so many bytes.
const PIECE_BYTES: usize = 1 << 20;

/// Many byte strings.
#[derive(Default)]
pub(crate) struct Bytes {
    pieces: Vec<Piece>,
    /// End of each string, as if all pieces were one.
    ends: Vec<usize>,
}

struct Piece {
    /// End of all pieces before.
    start: usize,
    bytes: Vec<u8>,
}

impl Bytes {
    /// Size of all strings.
    pub fn size(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    /// Where the next string is appended, before [`Bytes::end_item`].
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        let start = self.size();
        if self.pieces.last().is_none_or(|p| p.bytes.len() >= PIECE_BYTES) {
            // It has grown by doubling, so that up to a half of it is unused.
            if let Some(full) = self.pieces.last_mut() {
                full.bytes.shrink_to_fit();
            }
            self.pieces.push(Piece { start, bytes: Vec::new() });
        }
        &mut self.pieces.last_mut().expect("one was put there if there was none").bytes
    }

    /// Ends a string.
    pub fn end_item(&mut self) {
        self.ends.push(self.pieces.last().map_or(0, |p| p.start + p.bytes.len()));
    }

    /// A string.
    ///
    /// # Panics
    /// If it was freed.
    pub fn get(&self, i: usize) -> &[u8] {
        let range = self.start(i)..self.ends[i];
        if range.is_empty() {
            return &[];
        }
        let piece = &self.pieces[self.pieces.partition_point(|p| p.start <= range.start) - 1];
        &piece.bytes[range.start - piece.start..range.end - piece.start]
    }

    /// How far from the start of `items` they fit into `limit_bytes`; at least one does.
    pub fn end_within(&self, items: Range<usize>, limit_bytes: usize) -> usize {
        let start = self.start(items.start);
        let fit = self.ends[items.clone()].partition_point(|end| end - start <= limit_bytes);
        items.start + fit.max(1)
    }

    /// Frees the memory of strings before string `i`, as far as that can be done.
    pub fn free_before(&mut self, i: usize) {
        let start = self.start(i);
        let freed = self.pieces.iter().take_while(|p| p.start + p.bytes.len() <= start).count();
        self.pieces.drain(..freed);
    }

    fn start(&self, i: usize) -> usize {
        if i == 0 { 0 } else { self.ends[i - 1] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_stay_whole_over_pieces_and_can_be_freed() {
        let mut bytes = Bytes::default();
        let len = |i: usize| [0, 3, 400_000, 70, 2_000_000][i % 5];
        for i in 0..40 {
            bytes.buffer().extend(std::iter::repeat_n(i as u8, len(i)));
            bytes.end_item();
        }
        assert_eq!(bytes.size(), (0..40).map(len).sum::<usize>());
        let check = |bytes: &Bytes, from: usize| {
            for i in from..40 {
                assert!(bytes.get(i).len() == len(i) && bytes.get(i).iter().all(|b| *b == i as u8), "string {i}");
            }
        };
        check(&bytes, 0);
        assert_eq!(bytes.end_within(1..40, 400_003), 3);
        assert_eq!(bytes.end_within(4..40, 1), 5);
        let before = bytes.pieces.len();
        bytes.free_before(20);
        assert!(bytes.pieces.len() < before / 2 + 2);
        check(&bytes, 20);
        bytes.free_before(40);
        assert!(bytes.pieces.is_empty());
    }
}
