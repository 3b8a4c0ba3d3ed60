//! A bounded store of request buffers, so that the memory of one request serves the next.

use std::cell::Cell;

use parking_lot::Mutex;

use crate::decoded::DecodedRequest;

/// Requests whose buffers are kept.
pub const MAX_POOLED_REQUESTS: usize = 16;
/// A request that takes more than this is freed and not kept, so that one large request does not hold memory for ever.
pub const MAX_POOLED_BYTES: usize = 4 << 20;

static POOL: Mutex<Vec<DecodedRequest>> = Mutex::new(Vec::new());

thread_local! {
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Runs `f` with a byte buffer of this thread, empty at first.
pub(super) fn with_scratch<T>(f: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    let mut scratch = SCRATCH.take();
    scratch.clear();
    let result = f(&mut scratch);
    if scratch.capacity() <= MAX_POOLED_BYTES {
        SCRATCH.set(scratch);
    }
    result
}

impl DecodedRequest {
    /// An empty request, with the memory of an earlier one if there is one.
    pub fn pooled() -> Self {
        POOL.lock().pop().unwrap_or_default()
    }

    /// Gives the memory of a request that is done with to the next [`DecodedRequest::pooled`].
    pub fn recycle(mut self) {
        self.clear();
        if self.capacity_bytes() > MAX_POOLED_BYTES {
            return;
        }
        let mut pool = POOL.lock();
        if pool.len() < MAX_POOLED_REQUESTS {
            pool.push(self);
        }
    }

    /// Memory behind the vectors, without what their elements hold.
    fn capacity_bytes(&self) -> usize {
        fn of<T>(vec: &Vec<T>) -> usize {
            vec.capacity() * size_of::<T>()
        }
        of(&self.series)
            + of(&self.label_bytes)
            + of(&self.samples)
            + of(&self.histograms)
            + of(&self.exemplars)
            + of(&self.metadata)
            + of(&self.rejected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_bounded_and_gives_empty_requests() {
        for _ in 0..MAX_POOLED_REQUESTS * 2 {
            let mut request = DecodedRequest::default();
            request.label_bytes.extend_from_slice(b"left over");
            request.recycle();
        }
        let mut large = DecodedRequest::default();
        large.label_bytes.reserve(MAX_POOLED_BYTES + 1);
        large.recycle();
        let pool = POOL.lock();
        assert!(pool.len() <= MAX_POOLED_REQUESTS);
        assert!(pool.iter().all(|r| r.label_bytes.is_empty() && r.capacity_bytes() <= MAX_POOLED_BYTES));
    }
}
