//! Locks and shared pointers: std's, or loom's under `--cfg router_loom`.

#[cfg(not(router_loom))]
#[expect(clippy::disallowed_types, reason = "this file is where the lock comes from")]
mod real {
    pub use std::sync::Arc;
    use std::sync::PoisonError;
    pub use std::sync::atomic::{AtomicU64, Ordering};

    /// std's mutex without poisoning: the state under it is checked by its own invariants, and a panic in one
    /// request must not take the app down for all others.
    #[derive(Debug, Default)]
    pub struct Mutex<T>(std::sync::Mutex<T>);

    impl<T> Mutex<T> {
        /// A lock around `value`.
        pub fn new(value: T) -> Self {
            Self(std::sync::Mutex::new(value))
        }

        #[inline]
        /// Waits for the lock.
        pub fn lock(&self) -> std::sync::MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }
}

#[cfg(router_loom)]
mod real {
    pub use loom::sync::Arc;
    pub use loom::sync::atomic::{AtomicU64, Ordering};

    /// loom's mutex with the same face.
    #[derive(Debug)]
    pub struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T: Default> Default for Mutex<T> {
        fn default() -> Self {
            Self::new(T::default())
        }
    }

    impl<T> Mutex<T> {
        /// A lock around `value`.
        pub fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }

        /// Waits for the lock.
        pub fn lock(&self) -> loom::sync::MutexGuard<'_, T> {
            self.0.lock().expect("a loom model does not panic while it holds the lock")
        }
    }
}

pub use real::*;
