//! The atomics and locks of this crate, or loom's while every interleaving is tried.
//!
//! Under loom the swap of a published value stands under a lock: that [`arc_swap`] itself
//! publishes rightly is assumed, what is built on it is tried.

#[cfg(not(loom))]
pub(crate) use self::real::{ArcSwap, AtomicU32, AtomicU64, Mutex, Ordering};

#[cfg(loom)]
pub(crate) use self::tried::{ArcSwap, AtomicU32, AtomicU64, Mutex, Ordering};

#[cfg(not(loom))]
mod real {
    pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

    pub(crate) use arc_swap::ArcSwap;
    pub(crate) use parking_lot::Mutex;
}

#[cfg(loom)]
mod tried {
    use std::ops::Deref;
    use std::sync::Arc;

    pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};
    use loom::sync::{Mutex as Tried, MutexGuard};

    /// A lock without poisoning.
    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T>(Tried<T>);

    /// A value that readers take whole.
    #[derive(Debug)]
    pub(crate) struct ArcSwap<T>(Tried<Arc<T>>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(Tried::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            match self.0.lock() {
                Ok(guard) => guard,
                Err(poisoned) => poisoned.into_inner(),
            }
        }
    }

    impl<T> ArcSwap<T> {
        pub(crate) fn new(value: Arc<T>) -> Self {
            Self(Tried::new(value))
        }

        pub(crate) fn load_full(&self) -> Arc<T> {
            Arc::clone(&self.load())
        }

        pub(crate) fn load(&self) -> impl Deref<Target = Arc<T>> + '_ {
            match self.0.lock() {
                Ok(guard) => guard,
                Err(poisoned) => poisoned.into_inner(),
            }
        }

        pub(crate) fn store(&self, value: Arc<T>) {
            match self.0.lock() {
                Ok(mut guard) => *guard = value,
                Err(poisoned) => *poisoned.into_inner() = value,
            }
        }
    }
}
