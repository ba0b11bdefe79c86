//! Seals periods that ended, and seals one anew when late proof changed its totals. Beside each
//! seal stands what scores keep of its period.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use taugate_ledger::period::{Period, PeriodLength};
use tokio_util::sync::CancellationToken;

use crate::identity::StoreAway;
use crate::identity::hotkey::Keypair;
use crate::report::seal::Sealer;
use crate::report::{ClosingMark, SealStore};
use crate::scoring::ScoreStore;

/// How often it is looked for what is to be sealed. Soon after a turn everything is closed.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What a gateway seals with.
#[derive(Clone, Debug)]
pub(super) struct Seals {
    pub(super) store: Arc<dyn SealStore>,
    pub(super) history: Arc<dyn ScoreStore>,
    pub(super) keypair: Arc<Keypair>,
    pub(super) network: Arc<str>,
    pub(super) length: PeriodLength,
}

// === impl Seals ===

impl Seals {
    /// Seals until `stop`.
    pub(super) async fn run(self, stop: CancellationToken) {
        let mut tick = tokio::time::interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut seen, mut away) = (BTreeMap::new(), false);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            let looked = self.look(&mut seen).await;
            if looked.is_err() && !away {
                tracing::warn!("periods are not sealed while the engine is away");
            }
            away = looked.is_err();
        }
    }

    /// Seals what is due and not as it was when it was looked at last. The mark is read
    /// before the books: what changes in between is found by the next look.
    async fn look(&self, seen: &mut BTreeMap<Period, ClosingMark>) -> Result<(), StoreAway> {
        let closing = self.store.closing().await?;
        let oldest = closing.first().map(|one| one.period);
        seen.retain(|period, _| oldest.is_some_and(|oldest| *period >= oldest));
        for one in closing.into_iter().filter(|one| one.due) {
            if seen.get(&one.period) != Some(&one.mark) {
                self.seal(one.period).await?;
                seen.insert(one.period, one.mark);
            }
        }
        Ok(())
    }

    async fn seal(&self, period: Period) -> Result<(), StoreAway> {
        // First, so that whatever ends here between the two, a sealed period is kept for scores.
        self.history.keep_history(period).await?;
        let books = self.store.period_books(period).await?;
        let last = self.store.seals(period).await?.pop();
        if last
            .as_ref()
            .is_some_and(|last| books.is_said_by(&last.payload))
        {
            return Ok(());
        }
        let revision = last.map_or(0, |last| last.revision).saturating_add(1);
        let sealer = Sealer {
            keypair: &self.keypair,
            network: &self.network,
            length: self.length,
        };
        let seal = sealer.seal(period, revision, &books);
        if self.store.put_seal(seal).await? {
            let in_doubt: u64 = books.in_doubt.iter().map(|row| row.units.get()).sum();
            let period = period.start_s();
            tracing::info!(period, revision, in_doubt, "period sealed");
        }
        Ok(())
    }
}
