//! A growing list whose copy costs one pointer per [`CHUNK`] entries. What is changed after a copy was made is copied then.

use std::ops::Index;
use std::sync::Arc;

/// Entries of one chunk.
pub(crate) const CHUNK: usize = 256;

/// The list.
#[derive(Debug)]
pub(crate) struct Chunks<T> {
    chunks: Vec<Arc<Vec<T>>>,
    len: usize,
}

impl<T> Clone for Chunks<T> {
    fn clone(&self) -> Self {
        Self { chunks: self.chunks.clone(), len: self.len }
    }
}

impl<T> Default for Chunks<T> {
    fn default() -> Self {
        Self { chunks: Vec::new(), len: 0 }
    }
}

impl<T> Chunks<T> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Entry `index`.
    pub fn get(&self, index: u32) -> Option<&T> {
        let index = index as usize;
        self.chunks.get(index / CHUNK)?.get(index % CHUNK)
    }

    /// All in order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().flat_map(|c| c.iter())
    }
}

impl<T: Clone> Chunks<T> {
    /// Adds one and returns its index.
    ///
    /// # Panics
    /// If there are more than `u32::MAX`.
    pub fn push(&mut self, value: T) -> u32 {
        let index = u32::try_from(self.len).expect("fewer than four billion records fit into memory");
        if self.len.is_multiple_of(CHUNK) {
            self.chunks.push(Arc::new(Vec::with_capacity(CHUNK)));
        }
        let last = self.chunks.last_mut().expect("there is room now");
        Arc::make_mut(last).push(value);
        self.len += 1;
        index
    }

    /// Entry `index`, to be changed.
    ///
    /// # Panics
    /// If it does not exist.
    pub fn get_mut(&mut self, index: u32) -> &mut T {
        let index = index as usize;
        &mut Arc::make_mut(&mut self.chunks[index / CHUNK])[index % CHUNK]
    }
}

impl<T> Index<u32> for Chunks<T> {
    type Output = T;

    fn index(&self, index: u32) -> &T {
        &self.chunks[index as usize / CHUNK][index as usize % CHUNK]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_does_not_see_later_changes() {
        let mut list = Chunks::default();
        for i in 0..1000 {
            assert_eq!(list.push(i), i);
        }
        let copy = list.clone();
        *list.get_mut(300) = 7;
        list.push(1000);
        assert_eq!((copy[300], copy.len(), copy.iter().count(), copy.get(1000)), (300, 1000, 1000, None));
        assert_eq!((list[300], list.len(), list[1000]), (7, 1001, 1000));
    }
}
