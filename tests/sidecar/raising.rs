//! Models that panic, and clients that leave: every slot comes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use taugate::proto::v1;
use taugate::sidecar::model::{Events, Model, ModelError, ModelEvent};

use crate::{Miner, chat, request};

/// Of every other kind of end there are hundreds then.
const PANICS: u64 = 1_000;

const LANES: u64 = 8;

/// A model that does with each request what its number says.
#[derive(Debug, Default)]
struct Raising {
    requests: AtomicU64,
    /// Whether it behaves.
    well: std::sync::atomic::AtomicBool,
    panics: Arc<AtomicU64>,
}

/// What becomes of an answer after some events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Panics,
    Hangs,
    Breaks,
    Ends,
}

impl Model for Raising {
    fn chat(&self, _: v1::ChatPayload) -> Events {
        let number = self.requests.fetch_add(1, Ordering::SeqCst);
        let mut rng = StdRng::seed_from_u64(number);
        let (at, turn) = if self.well.load(Ordering::SeqCst) {
            (1, Turn::Ends)
        } else {
            let turns = [
                Turn::Panics,
                Turn::Hangs,
                Turn::Breaks,
                Turn::Ends,
                Turn::Panics,
            ];
            (
                rng.random_range(0..4),
                turns[rng.random_range(0..turns.len())],
            )
        };
        let panics = Arc::clone(&self.panics);
        let raise = move || -> ! {
            panics.fetch_add(1, Ordering::SeqCst);
            panic!("a model that panics");
        };
        if turn == Turn::Panics && rng.random_range(0..4) == 0 {
            // Before there is anything to drop.
            raise();
        }
        let word = || {
            ModelEvent::Delta(v1::Delta {
                content: "word ".to_owned(),
                ..v1::Delta::default()
            })
        };
        let deltas = stream::iter((0..at).map(move |_| Ok(word())));
        let end = stream::once(async move {
            match turn {
                Turn::Panics => raise(),
                Turn::Hangs => std::future::pending().await,
                Turn::Breaks => Err(ModelError::Broken),
                Turn::Ends => Ok(end()),
            }
        });
        deltas.chain(end).boxed()
    }
}

fn end() -> ModelEvent {
    ModelEvent::End {
        choices: vec![v1::ChoiceEnd {
            choice: 0,
            finish_reason: v1::FinishReason::Stop.into(),
        }],
        claimed: v1::ClaimedTokens::default(),
    }
}

/// Asks, and leaves at a random moment.
async fn lane(miner: &Miner, model: &Raising, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut calls = 0;
    while model.panics.load(Ordering::SeqCst) < PANICS {
        calls += 1;
        assert!(calls < 20 * PANICS / LANES, "calls are turned away");
        let reading = async {
            let mut client = miner.client.clone();
            let Ok(response) = client.generate(request(chat())).await else {
                return;
            };
            let mut events = response.into_inner();
            for _ in 0..rng.random_range(0..6) {
                if !matches!(events.message().await, Ok(Some(_))) {
                    return;
                }
            }
        };
        // What hangs is left.
        drop(tokio::time::timeout(Duration::from_millis(20), reading).await);
    }
}

/// N30: a miner's slot leaked when a stream raised.
#[tokio::test]
async fn n30_slots_come_back_after_a_thousand_panics_and_cancels() {
    let model = Arc::new(Raising::default());
    let slots = usize::try_from(LANES).unwrap();
    let miner = Miner::start(Arc::clone(&model) as Arc<dyn Model>, slots).await;
    let lanes = (0..LANES).map(|seed| lane(&miner, &model, seed));
    futures_util::future::join_all(lanes).await;
    miner.until_free(slots).await;
    assert!(!miner.door.conditions().watch().borrow().full);
    model.well.store(true, Ordering::SeqCst);
    let answers = (0..LANES).map(|_| miner.ask(chat()));
    for answer in futures_util::future::join_all(answers).await {
        assert_eq!(answer.unwrap().content, "word ");
    }
}
