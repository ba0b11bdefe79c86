//! Moments of a call and of the books at which a program that is built for it can be killed.
//!
//! The crash tests build with the feature `failpoints`, name a moment in a file, and see the
//! process die there by SIGKILL. Without the feature, which is how the program is built
//! otherwise, nothing of this is in it.

/// A moment has come.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub const fn hit(_moment: &str) {}

#[cfg(feature = "failpoints")]
pub use self::armed::hit;

#[cfg(feature = "failpoints")]
mod armed {
    use std::path::PathBuf;
    use std::process::Command;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Names the file that names the moment and how often it has to come: `append 3`.
    const FILE: &str = "TAUGATE_FAILPOINT_FILE";

    static COME: AtomicU64 = AtomicU64::new(0);

    /// A moment has come. When it is the one that the file names, nothing after it is done.
    pub fn hit(moment: &str) {
        static AT: OnceLock<Option<PathBuf>> = OnceLock::new();
        let Some(at) = AT.get_or_init(|| std::env::var_os(FILE).map(PathBuf::from)) else {
            return;
        };
        let armed = std::fs::read_to_string(at).unwrap_or_default();
        let mut words = armed.split_whitespace();
        if words.next() != Some(moment) {
            return;
        }
        let times = words.next().and_then(|times| times.parse().ok());
        if COME.fetch_add(1, Ordering::Relaxed).saturating_add(1) < times.unwrap_or(1) {
            return;
        }
        let id = std::process::id().to_string();
        // Whether it could be started shows in that the process lives on.
        drop(Command::new("kill").args(["-KILL", &id]).status());
        loop {
            std::thread::park();
        }
    }
}
