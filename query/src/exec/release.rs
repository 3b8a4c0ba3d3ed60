//! Gives large memory back on a thread of its own: freeing hundreds of megabytes takes tens of milliseconds, during which an
//! engine thread could neither work nor be canceled.

use std::any::Any;
use std::ops::{Deref, DerefMut};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};

/// Memory below this size is freed where it is dropped.
const LARGE_BYTES: usize = 4 << 20;

/// Something whose memory can be told.
pub trait Weight {
    /// Bytes, about.
    fn weight_bytes(&self) -> usize;
}

impl Weight for Vec<f64> {
    fn weight_bytes(&self) -> usize {
        self.capacity() * size_of::<f64>()
    }
}

/// A value whose memory is given back elsewhere if it is large.
#[derive(Clone, Debug, Default)]
pub struct Released<T: Weight + Default + Send + 'static>(T);

/// Values of many rows.
pub type Values = Released<Vec<f64>>;

impl<T: Weight + Default + Send + 'static> Released<T> {
    /// The value itself, which is then dropped like any other.
    pub fn into_inner(mut self) -> T {
        std::mem::take(&mut self.0)
    }
}

impl<T: Weight + Default + Send + 'static> From<T> for Released<T> {
    fn from(value: T) -> Self {
        Self(value)
    }
}

impl<T: Weight + Default + Send + 'static> Deref for Released<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Weight + Default + Send + 'static> DerefMut for Released<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T: Weight + Default + Send + 'static> Drop for Released<T> {
    fn drop(&mut self) {
        if self.0.weight_bytes() >= LARGE_BYTES {
            release(std::mem::take(&mut self.0));
        }
    }
}

/// Drops `value` on the thread that is there for it; here, if the system refuses one.
fn release(value: impl Send + 'static) {
    // What waits in the channel is memory that was in use a moment ago, so it needs no limit of its own.
    static THREAD: OnceLock<Option<Sender<Box<dyn Any + Send>>>> = OnceLock::new();
    let thread = THREAD.get_or_init(|| {
        let (sender, receiver) = channel::<Box<dyn Any + Send>>();
        let run = move || receiver.into_iter().for_each(drop);
        std::thread::Builder::new().name("isobar-release".into()).spawn(run).ok().map(|_| sender)
    });
    if let Some(thread) = thread {
        // An error gives the value back, and it is dropped here.
        drop(thread.send(Box::new(value)));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, RecvTimeoutError};
    use std::time::Duration;

    use super::*;

    #[derive(Default)]
    struct Told(usize, Option<Sender<std::thread::ThreadId>>);

    impl Weight for Told {
        fn weight_bytes(&self) -> usize {
            self.0
        }
    }

    impl Drop for Told {
        fn drop(&mut self) {
            if let Some(to) = &self.1 {
                to.send(std::thread::current().id()).expect("the test waits");
            }
        }
    }

    #[test]
    fn drops_large_values_elsewhere() {
        let told = |bytes: usize| -> (Released<Told>, Receiver<_>) {
            let (to, from) = channel();
            (Released(Told(bytes, Some(to))), from)
        };
        let dropped_by = |(value, from): (Released<Told>, Receiver<_>)| {
            drop(value);
            let id: Result<std::thread::ThreadId, RecvTimeoutError> = from.recv_timeout(Duration::from_secs(10));
            id.expect("it is dropped")
        };
        let here = std::thread::current().id();
        assert_ne!(dropped_by(told(LARGE_BYTES)), here);
        assert_eq!(dropped_by(told(LARGE_BYTES - 1)), here);
        let (value, from) = told(LARGE_BYTES);
        drop(value.into_inner());
        assert_eq!(from.recv_timeout(Duration::from_secs(10)), Ok(here));
    }
}
