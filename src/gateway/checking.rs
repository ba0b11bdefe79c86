//! What sends checks and judges answers, put together.

use std::sync::Arc;

use rand::TryRng as _;
use rand::rngs::SysRng;

use super::StartError;
use crate::call::Calls;
use crate::clock::SharedClock;
use crate::store::sqlite::SqliteStore;
use crate::synthetic::driver::{Driver, Lanes};
use crate::synthetic::judge::Judge;
use crate::synthetic::material::Material;
use crate::synthetic::prompt::Prompts;

/// The sending side of checks.
#[derive(Clone, Debug)]
pub(super) struct Checking {
    pub(super) lanes: Arc<Lanes>,
    pub(super) judge: Arc<Judge>,
    pub(super) driver: Arc<Driver>,
}

// === impl Checking ===

impl Checking {
    /// Over these calls; findings go to the store.
    pub(super) fn new(
        calls: &Arc<Calls>,
        store: &Arc<SqliteStore>,
        clock: &SharedClock,
    ) -> Result<Self, StartError> {
        // Who could foretell a prompt could answer it from a table.
        let mut secret = [0; 32];
        let filled = SysRng.try_fill_bytes(&mut secret);
        filled.map_err(|_| StartError::Randomness)?;
        let prompts = Prompts::new(Material::default(), secret, Arc::clone(store) as _);
        let judge = Arc::new(Judge::new(Arc::clone(store) as _, Arc::clone(clock)));
        let lanes = Arc::new(Lanes::default());
        let (to, seen) = (Arc::clone(&lanes), Arc::clone(&judge));
        let driver = Arc::new(Driver::new(Arc::clone(calls), prompts, to, seen));
        Ok(Self {
            lanes,
            judge,
            driver,
        })
    }
}
