//! When the program is killed, and by whom.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::process::Child;

/// A kind of moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// At any.
    Random,
    /// A miner has got a request.
    Dispatched,
    /// A client has got a piece of its answer.
    Chunk,
    /// A client has got its final message.
    Final,
    /// An answer has run for so long that a part of it was booked.
    Part,
    /// The program has come to its failpoint of that name.
    Inside(&'static str),
}

/// The failpoints, in the order in which a call and a stop come by.
const INSIDE: [&str; 12] = [
    "exchange",
    "exchanged",
    "reserve",
    "dispatch",
    "chunk",
    "post",
    "append",
    "commit",
    "committed",
    "final",
    "return",
    "close",
];

/// Kills the program when a moment has come so often.
#[derive(Default)]
pub(crate) struct Trap {
    child: Mutex<Option<Child>>,
    set: Mutex<Option<Moment>>,
    left: AtomicU64,
}

// === impl Moment ===

impl Moment {
    /// All moments; those within the program only where it has failpoints.
    pub(crate) fn all(inside: bool) -> impl Iterator<Item = Self> {
        let outside = [
            Self::Random,
            Self::Dispatched,
            Self::Chunk,
            Self::Final,
            Self::Part,
        ];
        let within = INSIDE.into_iter().filter(move |_| inside);
        outside.into_iter().chain(within.map(Self::Inside))
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::Dispatched => "at the miner",
            Self::Chunk => "chunk at the client",
            Self::Final => "final at the client",
            Self::Part => "after a part",
            Self::Inside(name) => name,
        }
    }

    /// Whether it comes only while the program stops.
    pub(crate) fn is_of_the_end(self) -> bool {
        matches!(self, Self::Inside("return" | "close"))
    }

    /// Whether it comes when slices are spent, which may take longer than a test.
    pub(crate) fn is_of_slices(self) -> bool {
        matches!(self, Self::Inside("exchange" | "exchanged"))
    }

    /// How often it comes within about a second, so that another one is meant each time.
    pub(crate) fn times_max(self) -> u64 {
        match self {
            Self::Part | Self::Inside("return" | "close" | "exchange" | "exchanged") => 1,
            Self::Chunk | Self::Inside("chunk") => 200,
            Self::Random | Self::Dispatched | Self::Final | Self::Inside(_) => 20,
        }
    }
}

// === impl Trap ===

impl Trap {
    /// Kills this child from now on.
    pub(crate) fn hold(&self, child: Child) {
        *self.set.lock() = None;
        *self.child.lock() = Some(child);
    }

    /// What is done with the child.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut Child) -> T) -> T {
        work(self.child.lock().as_mut().expect("a program was started"))
    }

    /// Kills when the moment has come so often.
    pub(crate) fn set(&self, moment: Moment, times: u64) {
        self.left.store(times, Ordering::SeqCst);
        *self.set.lock() = Some(moment);
    }

    /// A moment has come.
    pub(crate) fn come(&self, moment: Moment) {
        if *self.set.lock() != Some(moment) {
            return;
        }
        let left = self.left.fetch_sub(1, Ordering::SeqCst);
        if left == 1 {
            *self.set.lock() = None;
            self.kill();
        }
    }

    /// Kills at once.
    pub(crate) fn kill(&self) {
        self.with(|child| child.start_kill().expect("it can be killed"));
    }
}
