//! The whole ledger of one gateway on an engine, against plain numbers: a call gets units
//! exactly while some are left to spend, and in the end the engine has what was posted.

use std::sync::Arc;

use proptest::prelude::*;
use taugate_ledger::ids::{CellId, Origin};
use taugate_ledger::journal::{Journal, Permit};
use taugate_ledger::lease::{Lender, LenderSettings};
use taugate_ledger::model::ModelStore;
use taugate_ledger::period::{Period, PeriodLength};
use taugate_ledger::receipt::{Attempt, Finish, Outcome, Quality, Receipt};
use taugate_ledger::reservation::{Cause, Reservation, ReserveError};
use taugate_ledger::table::{Room, Tables};
use taugate_ledger::units::Units;

const P: Period = Period::starting_at(60);
const CELLS: [CellId; 2] = [CellId(0), CellId(1)];

#[derive(Clone, Debug)]
enum Step {
    Hold {
        cell: usize,
        units: u64,
    },
    Extend {
        call: usize,
        by: u64,
    },
    /// Delivers so much of what is held, and books it on the way or not.
    Deliver {
        call: usize,
        most: u64,
        part: bool,
    },
    Post {
        call: usize,
    },
    Void {
        call: usize,
    },
    Declare {
        cell: usize,
        wanted: u64,
    },
    Append,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let cell = 0_usize..2;
    let call = 0_usize..8;
    let step = prop_oneof![
        4 => (cell.clone(), 1_u64..8).prop_map(|(cell, units)| Step::Hold { cell, units }),
        1 => (call.clone(), 1_u64..5).prop_map(|(call, by)| Step::Extend { call, by }),
        3 => (call.clone(), 0_u64..8, any::<bool>())
            .prop_map(|(call, most, part)| Step::Deliver { call, most, part }),
        2 => call.clone().prop_map(|call| Step::Post { call }),
        1 => call.prop_map(|call| Step::Void { call }),
        1 => (cell, 0_u64..50).prop_map(|(cell, wanted)| Step::Declare { cell, wanted }),
        1 => Just(Step::Append),
    ];
    prop::collection::vec(step, 1..80)
}

/// The same in plain numbers.
#[derive(Debug)]
struct Plain {
    wanted: [u64; 2],
    posted: [u64; 2],
    /// Cell, held in all, delivered, posted of it.
    calls: Vec<(usize, u64, u64, u64)>,
}

impl Plain {
    fn fits(&self, cell: usize, units: u64) -> bool {
        let calls = self.calls.iter().filter(|call| call.0 == cell);
        let reserved: u64 = calls.map(|call| call.1 - call.3).sum();
        self.posted[cell] + reserved + units <= self.wanted[cell]
    }

    fn end(&mut self, call: usize, void: bool) -> u64 {
        let (cell, _, delivered, posted) = self.calls.swap_remove(call);
        // What was booked on the way cannot be taken back.
        let total = if void && posted == 0 { 0 } else { delivered };
        self.posted[cell] += total - posted;
        total
    }
}

struct Ledger {
    store: ModelStore,
    tables: Arc<Tables>,
    lender: Lender,
    journal: Arc<Journal<()>>,
    calls: Vec<(u64, Reservation, Permit<()>)>,
    numbers: u64,
}

impl Ledger {
    fn new(wanted: [u64; 2]) -> Self {
        let store = ModelStore::new();
        let inc = store.new_incarnation("one");
        let tables = Arc::new(Tables::with_room(P, Room::of(2)));
        let length = PeriodLength::from_secs(60).expect("a length");
        let settings = LenderSettings::default();
        let ledger = Self {
            lender: Lender::new(inc, settings, Arc::clone(&tables), length),
            store,
            tables,
            journal: Arc::new(Journal::new(inc, 1_000)),
            calls: Vec::new(),
            numbers: 0,
        };
        ledger.declare(wanted);
        ledger
    }

    fn declare(&self, wanted: [u64; 2]) {
        let told: Vec<_> = CELLS.into_iter().zip(wanted.map(Units::new)).collect();
        for (cell, wanted) in &told {
            self.store.set_wanted(P, *cell, *wanted).expect("a check");
        }
        self.lender.expect(P, &told);
        self.exchange();
    }

    fn exchange(&self) {
        for ask in self.lender.asks(1) {
            self.lender.answered(&ask, self.store.exchange(&ask));
        }
    }

    /// Tries; draws what is lacking; tries again.
    fn draw<T>(&self, mut attempt: impl FnMut() -> Result<T, ReserveError>) -> Option<T> {
        attempt().ok().or_else(|| {
            let Err(ReserveError::Short { cell, lacking }) = attempt() else {
                return None;
            };
            self.lender.need(P, cell, lacking);
            self.exchange();
            attempt().ok()
        })
    }

    fn hold(&mut self, cell: usize, units: u64) -> bool {
        let table = self.tables.current();
        let take = || Reservation::take(&table, &[CELLS[cell]], Units::new(units), Origin::Organic);
        let Some(held) = self.draw(take) else {
            return false;
        };
        self.numbers += 1;
        let slot = self.journal.try_permit(P).expect("a slot");
        self.calls.push((self.numbers, held, slot));
        true
    }

    fn end(&mut self, call: usize, void: bool) -> u64 {
        let (number, held, slot) = self.calls.swap_remove(call);
        let cell = held.cells()[0];
        let posted = if void {
            let voided = held.void(Cause::Failed);
            voided.map_or_else(|refused| refused.posted, |settled| settled.posted)
        } else {
            let delivered = held.delivered();
            held.post(delivered).posted
        };
        slot.send(receipt(number, cell, posted, false), None);
        // After a cut, what came back goes to the engine with the next look at the slices.
        self.exchange();
        posted.get()
    }

    fn append(&self) {
        while let Some(ask) = self.journal.next_append(3) {
            let reply = self.store.append(&ask).expect("the books allow it");
            self.journal
                .acked(P, reply.next_offset)
                .expect("it was sent");
        }
    }
}

fn receipt(call: u64, cell: CellId, units: Units, is_part: bool) -> Receipt {
    let outcome = Outcome::Good;
    let attempt = Attempt {
        cell,
        outcome,
        units,
        first_chunk_us: None,
        duration_us: 1,
    };
    Receipt {
        call,
        origin: Origin::Organic,
        client: Arc::default(),
        task: Arc::default(),
        admitted_ms: 0,
        finish: if is_part {
            Finish::Running
        } else {
            Finish::Attempt(outcome)
        },
        quality: Quality::Exact,
        units,
        prompt_units: Units::ZERO,
        held: std::iter::once(cell).collect(),
        attempts: std::iter::once(attempt).collect(),
        digest: [0; 32],
        labels: Vec::new(),
        claim: None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_ledger_does_what_plain_numbers_say(steps in steps()) {
        let wanted = [30, 12];
        let mut ledger = Ledger::new(wanted);
        let mut plain = Plain { wanted, posted: [0; 2], calls: Vec::new() };
        for step in steps {
            let at = |call: usize| call % plain.calls.len().max(1);
            match step {
                Step::Hold { cell, units } => {
                    let fits = plain.fits(cell, units);
                    prop_assert_eq!(ledger.hold(cell, units), fits);
                    if fits { plain.calls.push((cell, units, 0, 0)); }
                }
                Step::Declare { cell, wanted } => {
                    plain.wanted[cell] = wanted;
                    ledger.declare(plain.wanted);
                }
                Step::Append => ledger.append(),
                _ if plain.calls.is_empty() => {}
                Step::Extend { call, by } => {
                    let call = at(call);
                    let fits = plain.fits(plain.calls[call].0, by);
                    let (number, mut held, slot) = ledger.calls.remove(call);
                    prop_assert_eq!(ledger.draw(|| held.extend(Units::new(by))).is_some(), fits);
                    ledger.calls.insert(call, (number, held, slot));
                    if fits { plain.calls[call].1 += by; }
                }
                Step::Deliver { call, most, part } => {
                    let call = at(call);
                    let (cell, held, delivered, posted) = &mut plain.calls[call];
                    *delivered = (*delivered + most).min(*held);
                    let (number, reservation, _) = &mut ledger.calls[call];
                    reservation.deliver(Units::new(*delivered)).expect("within");
                    if part {
                        let units = reservation.post_part();
                        prop_assert_eq!(units.get(), *delivered);
                        plain.posted[*cell] += *delivered - *posted;
                        *posted = *delivered;
                        let slot = ledger.journal.try_permit(P).expect("a slot");
                        slot.send(receipt(*number, CELLS[*cell], units, true), None);
                    }
                }
                Step::Post { call } => {
                    let call = at(call);
                    prop_assert_eq!(ledger.end(call, false), plain.end(call, false));
                }
                Step::Void { call } => {
                    let call = at(call);
                    prop_assert_eq!(ledger.end(call, true), plain.end(call, true));
                }
            }
        }
        while !plain.calls.is_empty() {
            prop_assert_eq!(ledger.end(0, false), plain.end(0, false));
        }
        ledger.append();
        for ask in ledger.lender.give_back_all() {
            ledger.lender.answered(&ask, ledger.store.exchange(&ask));
        }
        prop_assert!(ledger.journal.seal(P) && !ledger.lender.owes());
        ledger.store.check().expect("the books close");
        for (cell, posted) in CELLS.into_iter().zip(plain.posted) {
            let granted = ledger.store.cell(P, cell).map(|cell| cell.granted.get());
            prop_assert_eq!(granted, Some(posted), "all else was given back");
        }
    }
}
