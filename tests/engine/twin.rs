//! A random walk of calls, answered alike: reply by reply, and what is kept in the end.

use proptest::prelude::*;
use taugate_ledger::engine::{AppendAsk, CellAsk, Engine as _, ExchangeAsk};
use taugate_ledger::ids::{CellId, Incarnation, Origin};
use taugate_ledger::receipt::Receipt;

use crate::kept::Kept;
use crate::{PERIOD, good, part, units};

/// Something that a gateway, a miner or the network does. Numbers pick from what there is.
#[derive(Clone, Debug)]
enum Step {
    Set {
        cell: usize,
        wanted: u64,
    },
    Exchange {
        inc: usize,
        /// How far the number is above the last one's; 0: below or equal.
        ahead: u64,
        wishes: Vec<(usize, u64, u64)>,
    },
    Append {
        inc: usize,
        back: u64,
        calls: Vec<Call>,
    },
    /// The last ask comes once more.
    ExchangeAgain,
    AppendAgain,
    ClosePeriod {
        inc: usize,
    },
    /// It says that it ends.
    Close {
        inc: usize,
    },
    /// It says nothing more; another takes its place.
    Kill {
        inc: usize,
    },
}

/// What a receipt is made from.
#[derive(Clone, Debug)]
struct Call {
    number: u64,
    cells: (usize, Option<usize>),
    amount: u64,
    is_part: bool,
    is_check: bool,
}

/// Both engines, asked alike.
struct Twins {
    engines: [Kept; 2],
    /// Three of this period, and one that no engine knows.
    cells: Vec<CellId>,
    incs: Vec<Incarnation>,
    seqs: Vec<u64>,
    next: Vec<u64>,
    exchange: Option<ExchangeAsk>,
    append: Option<AppendAsk>,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let wish = (0_usize..4, 0_u64..60, 0_u64..60);
    let cells = (0_usize..3, prop::option::weighted(0.3, 0_usize..3));
    let call = (1_u64..20, cells, 0_u64..8, any::<bool>(), any::<bool>()).prop_map(
        |(number, cells, amount, is_part, is_check)| Call {
            number,
            cells,
            amount,
            is_part,
            is_check: is_check && number % 4 == 0,
        },
    );
    let step = prop_oneof![
        30 => (0_usize..3, 0_u64..40).prop_map(|(cell, wanted)| Step::Set { cell, wanted }),
        100 => (0_usize..3, 0_u64..3, prop::collection::vec(wish, 1..3))
            .prop_map(|(inc, ahead, wishes)| Step::Exchange { inc, ahead, wishes }),
        100 => (0_usize..3, 0_u64..3, prop::collection::vec(call, 0..4))
            .prop_map(|(inc, back, calls)| Step::Append { inc, back, calls }),
        30 => Just(Step::ExchangeAgain),
        30 => Just(Step::AppendAgain),
        2 => (0_usize..3).prop_map(|inc| Step::ClosePeriod { inc }),
        2 => (0_usize..3).prop_map(|inc| Step::Close { inc }),
        4 => (0_usize..3).prop_map(|inc| Step::Kill { inc }),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 80, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn engines_answer_alike(steps in steps()) {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime")
            .block_on(answer_alike(steps));
    }
}

async fn answer_alike(steps: Vec<Step>) {
    let mut twins = Twins::new().await;
    for step in steps {
        twins.step(step).await;
    }
    for cell in &twins.cells[..3] {
        let [model, sqlite] = &twins.engines;
        assert_eq!(model.row(*cell).await, sqlite.row(*cell).await);
    }
}

// === impl Twins ===

impl Twins {
    async fn new() -> Self {
        let mut twins = Self {
            engines: [Kept::model(), Kept::sqlite()],
            cells: vec![CellId(0), CellId(1), CellId(2), CellId(9)],
            incs: Vec::new(),
            seqs: vec![1; 3],
            next: vec![0; 3],
            exchange: None,
            append: None,
        };
        for number in 0..3 {
            for engine in &twins.engines {
                engine.make_cell(number, 30).await;
            }
            let inc = twins.start().await;
            twins.incs.push(inc);
        }
        twins
    }

    async fn start(&self) -> Incarnation {
        let [model, sqlite] = &self.engines;
        let (inc, same) = (model.start("g").await, sqlite.start("g").await);
        assert_eq!(inc, same);
        inc
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Set { cell, wanted } => {
                for engine in &self.engines {
                    engine.set(self.cells[cell], wanted).await;
                }
            }
            Step::Exchange { inc, ahead, wishes } => {
                self.seqs[inc] += ahead;
                self.exchange = Some(ExchangeAsk {
                    incarnation: self.incs[inc],
                    period: PERIOD,
                    seq: self.seqs[inc],
                    cells: self.wishes(wishes),
                });
                self.exchange().await;
            }
            Step::ExchangeAgain => self.exchange().await,
            Step::Append { inc, back, calls } => {
                self.append = Some(AppendAsk {
                    incarnation: self.incs[inc],
                    period: PERIOD,
                    // Mostly what comes next; else a resend, or one too far.
                    first_offset: (self.next[inc] + 1).saturating_sub(back),
                    receipts: calls.into_iter().map(|call| self.receipt(&call)).collect(),
                });
                if let Some(next) = self.append().await {
                    self.next[inc] = next;
                }
            }
            Step::AppendAgain => {
                self.append().await;
            }
            Step::ClosePeriod { inc } => self.close_period(self.incs[inc]).await,
            Step::Close { inc } => {
                let [model, sqlite] = &self.engines;
                let inc = self.incs[inc];
                assert_eq!(model.close(inc).await, sqlite.close(inc).await);
            }
            Step::Kill { inc } => {
                self.incs[inc] = self.start().await;
                (self.seqs[inc], self.next[inc]) = (1, 0);
            }
        }
    }

    fn wishes(&self, wishes: Vec<(usize, u64, u64)>) -> Vec<CellAsk> {
        let wish = |(cell, target, posted): (usize, u64, u64)| CellAsk {
            cell: self.cells[cell],
            target: units(target),
            posted: units(posted),
        };
        let mut asks: Vec<_> = wishes.into_iter().map(wish).collect();
        asks.dedup_by_key(|ask| ask.cell);
        asks
    }

    fn receipt(&self, call: &Call) -> Receipt {
        let make = if call.is_part { part } else { good };
        let (miner, other) = call.cells;
        let mut receipt = make(call.number, self.cells[miner], call.amount);
        // Sometimes the same cell twice, which is refused.
        receipt.held.extend(other.map(|other| self.cells[other]));
        if call.is_check {
            receipt.origin = Origin::Synthetic;
        }
        receipt
    }

    async fn exchange(&self) {
        if let Some(ask) = &self.exchange {
            let [model, sqlite] = &self.engines;
            let reply = model.exchange(ask.clone()).await;
            assert_eq!(reply, sqlite.exchange(ask.clone()).await, "{ask:?}");
        }
    }

    async fn append(&self) -> Option<u64> {
        let ask = self.append.as_ref()?;
        let [model, sqlite] = &self.engines;
        let reply = model.append(ask.clone()).await;
        assert_eq!(reply, sqlite.append(ask.clone()).await, "{ask:?}");
        reply.ok().map(|reply| reply.next_offset)
    }

    async fn close_period(&self, inc: Incarnation) {
        let [model, sqlite] = &self.engines;
        let done = model.close_period(inc, PERIOD).await;
        assert_eq!(done, sqlite.close_period(inc, PERIOD).await);
    }
}
