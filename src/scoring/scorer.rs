//! Scores of a running gateway: what stands in its store and registry, by a profile's rules.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use taugate_ledger::period::Period;

use super::profile::{CapacityRule, Profile};
use super::rows::{ScoreStore, Since};
use super::standing::{Offered, Scale, ScoredTask, Standing};
use crate::books::Books;
use crate::identity::StoreAway;
use crate::identity::hotkey::Hotkey;
use crate::registry::Registry;
use crate::registry::snapshot::Snapshot;
use crate::task::TaskKind;

/// Periods that count at most, however short they are: older ones weigh nothing beside these.
const PERIODS_MAX: u64 = 200;

/// By which rules a gateway scores.
#[derive(Clone, Debug, PartialEq)]
pub struct ScorerSettings {
    /// The configured profile's name.
    pub name: Arc<str>,
    /// Its constants, with what is changed.
    pub profile: Profile,
    /// Whether bursts are planned. Where they are not, nothing can be shown and a declaration
    /// counts as it is.
    pub bursts: bool,
}

/// Scores the miners of a gateway.
#[derive(Debug)]
pub struct Scorer {
    settings: ScorerSettings,
    store: Arc<dyn ScoreStore>,
    registry: Arc<Registry>,
    books: Arc<Books>,
    latest: ArcSwapOption<Standing>,
}

/// Why there are no scores.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScoreError {
    /// There is no such profile.
    #[error("there is no profile {name}; there are {}", Profile::NAMES.join(", "))]
    UnknownProfile {
        /// What was asked for.
        name: String,
    },
    /// The rows cannot be read.
    #[error("the store does not answer")]
    Away(#[from] StoreAway),
}

// === impl Scorer ===

impl Scorer {
    /// Scores by these settings.
    #[must_use]
    pub fn new(
        settings: ScorerSettings,
        store: Arc<dyn ScoreStore>,
        registry: Arc<Registry>,
        books: Arc<Books>,
    ) -> Self {
        Self {
            settings,
            store,
            registry,
            books,
            latest: ArcSwapOption::empty(),
        }
    }

    /// Where every miner stands now, by the configured profile or one of another name, which is
    /// as it came.
    ///
    /// # Errors
    /// When there is no such profile or the store is away.
    pub async fn standing(&self, name: Option<&str>) -> Result<Arc<Standing>, ScoreError> {
        let own = name.is_none_or(|name| name == &*self.settings.name);
        let scale = self.scale(name)?;
        let since = self.since(&scale);
        let rows = self.store.score_rows(since).await?;
        let snapshot = self.registry.snapshot();
        let judged = move || {
            let (tasks, offers) = (tasks(&snapshot), offers(&snapshot));
            Standing::new(&tasks, &offers, &rows, scale)
        };
        // Thousands of miners take milliseconds, which calls must not wait for.
        let standing = tokio::task::spawn_blocking(judged).await;
        let standing = Arc::new(standing.map_err(|_| StoreAway)?);
        if own {
            self.latest.store(Some(Arc::clone(&standing)));
        }
        Ok(standing)
    }

    /// The last standing by the configured profile, if there was one.
    #[must_use]
    pub fn latest(&self) -> Option<Arc<Standing>> {
        self.latest.load_full()
    }

    /// A miner's uid in the metagraph, where there is one.
    #[must_use]
    pub fn uid(&self, miner: &Hotkey) -> Option<u16> {
        self.registry.uid(miner)
    }

    fn scale(&self, name: Option<&str>) -> Result<Scale, ScoreError> {
        let settings = &self.settings;
        let (name, mut profile) = match name {
            Some(name) if name != &*settings.name => {
                let profile = Profile::named(name);
                let unknown = || ScoreError::UnknownProfile {
                    name: name.to_owned(),
                };
                (name.into(), profile.ok_or_else(unknown)?)
            }
            Some(_) | None => (Arc::clone(&settings.name), settings.profile.clone()),
        };
        if !settings.bursts {
            profile.capacity = CapacityRule::Declared;
        }
        Ok(Scale {
            name,
            profile,
            period: self.books.table().period(),
            period_s: u64::from(self.books.length().secs()),
        })
    }

    fn since(&self, scale: &Scale) -> Since {
        let periods_s = PERIODS_MAX.saturating_mul(scale.period_s);
        let back_s = scale.profile.periods_s.min(periods_s);
        let answers_ms = scale.profile.answers_s.saturating_mul(1000);
        Since {
            periods: Period::starting_at(scale.period.start_s().saturating_sub(back_s)),
            answers_ms: self.books.unix_ms().saturating_sub(answers_ms),
        }
    }
}

/// The tasks; where none has a weight, all are alike.
fn tasks(snapshot: &Snapshot) -> Vec<ScoredTask> {
    let sum: f64 = snapshot.tasks.iter().map(|task| task.weight).sum();
    let count = u32::try_from(snapshot.tasks.len()).unwrap_or(u32::MAX);
    let equal = f64::from(count.max(1)).recip();
    let tasks = snapshot.tasks.iter().map(|task| ScoredTask {
        id: Arc::clone(&task.id),
        weight: if sum > 0.0 { task.weight } else { equal },
        usual: task.usual,
        lenient: task.kind == TaskKind::Avatar,
    });
    tasks.collect()
}

fn offers(snapshot: &Snapshot) -> Vec<Offered> {
    let markets = snapshot.markets.values();
    let offers = markets.flat_map(|market| {
        let task = &market.task.id;
        market.offers.iter().map(move |offer| (task, offer))
    });
    let offered = offers.filter_map(|(task, offer)| {
        Some(Offered {
            miner: offer.miner.hotkey.parse::<Hotkey>().ok()?,
            task: Arc::clone(task),
            allotment: offer.allotment,
        })
    });
    offered.collect()
}
