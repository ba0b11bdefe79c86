//! What of a cell's checks is due: derived from the books at every moment, kept nowhere.
//!
//! `due = max(target - organic, floor) - synthetic - in flight`, never below nothing. Organic
//! work shrinks it unit by unit; so does each check, from the moment that it is sent.

use taugate_ledger::units::Units;

use super::draw::Part;

/// A miner is tried so often at least, before it is given up for the period.
const ATTEMPTS_LEAST: u64 = 4;

/// Attempts for each check that its target needs: half of them may fail.
const ATTEMPTS_EACH: u64 = 2;

/// A check is taken to bring this part of its size at least; more of it would let a miner that
/// answers with a word be asked without end.
const BRINGS_LEAST: u64 = 8;

/// One cell's books of one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// What this validator may spend of the cell.
    pub allotment: Units,
    /// The part of it that was drawn.
    pub part: Part,
    /// The target is at least this: a newcomer's first burst.
    pub least: Units,
    /// The size of one check.
    pub check: Units,
    /// Whether one check must end good, whatever organic work there is.
    pub floor: bool,
    /// Posted for clients.
    pub organic: Units,
    /// Posted for checks.
    pub synthetic: Units,
    /// Held by checks that run.
    pub in_flight: Units,
    /// Checks that were tried; those that were cancelled left out.
    pub attempts: u64,
    /// Of these, how many ended good.
    pub good: u64,
}

// === impl Account ===

impl Account {
    /// What is to be shown in the period, by clients or by checks.
    #[must_use]
    pub fn target(&self) -> Units {
        self.part
            .of(self.allotment)
            .max(self.least)
            .min(self.allotment)
    }

    /// What checks show whatever clients do: one check, until one ended good.
    #[must_use]
    pub fn floor(&self) -> Units {
        if self.floor && self.good == 0 {
            self.check.min(self.allotment)
        } else {
            Units::ZERO
        }
    }

    /// What is due, whether or not it is still tried.
    #[must_use]
    pub fn due(&self) -> Units {
        let uncovered = self.target().saturating_sub(self.organic);
        uncovered
            .max(self.floor())
            .saturating_sub(self.synthetic)
            .saturating_sub(self.in_flight)
    }

    /// What is due if clients still do so much more in this period.
    #[must_use]
    pub fn due_beyond(&self, organic: Units) -> Units {
        let organic = self.organic.saturating_add(organic);
        Self { organic, ..*self }.due()
    }

    /// What one more check brings, as far as those before have shown.
    #[must_use]
    pub fn brings(&self) -> Units {
        let least = self.check.part_of(BRINGS_LEAST).max(Units::new(1));
        if self.good == 0 {
            return self.check.max(least);
        }
        self.synthetic
            .part_of(self.good)
            .clamp(least, self.check.max(least))
    }

    /// How often it is tried in the period.
    #[must_use]
    pub fn attempts_max(&self) -> u64 {
        let checks = self.target().get().div_ceil(self.brings().get());
        checks.saturating_mul(ATTEMPTS_EACH).max(ATTEMPTS_LEAST)
    }

    /// Whether it was tried often enough: a dead miner is not asked for ever.
    #[must_use]
    pub fn is_given_up(&self) -> bool {
        self.attempts >= self.attempts_max()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn account(organic: u64, synthetic: u64) -> Account {
        Account {
            allotment: Units::new(100_000),
            part: Part::from_millionths(50_000),
            check: Units::new(300),
            floor: true,
            organic: Units::new(organic),
            synthetic: Units::new(synthetic),
            ..Account::default()
        }
    }

    #[test]
    fn the_worked_example_holds() {
        assert_eq!(account(0, 0).target(), Units::new(5_000));
        let later = account(1_200, 2_100);
        assert_eq!(later.due(), Units::new(1_700));
    }

    #[test]
    fn n9_organic_work_shrinks_what_is_due_by_its_units_and_not_by_requests() {
        for organic in [0, 1, 4_000, 4_699] {
            assert_eq!(account(organic, 0).due(), Units::new(5_000 - organic));
        }
    }

    #[test]
    fn a_covered_cell_owes_one_check_until_one_ended_good() {
        let mut covered = account(10_000, 0);
        assert_eq!(covered.due(), covered.check);
        covered.in_flight = Units::new(300);
        assert_eq!(covered.due(), Units::ZERO);
        covered.in_flight = Units::ZERO;
        (covered.attempts, covered.good) = (1, 1);
        assert_eq!(covered.due(), Units::ZERO);
        let none = Account {
            floor: false,
            good: 0,
            ..covered
        };
        assert_eq!(none.due(), Units::ZERO);
    }

    #[test]
    fn a_newcomers_target_is_its_first_burst_and_never_more_than_its_allotment() {
        let mut new = account(0, 0);
        new.least = Units::new(20_000);
        assert_eq!(new.target(), new.least);
        new.least = Units::new(1_000_000);
        assert_eq!(new.target(), new.allotment);
    }

    #[test]
    fn who_never_answers_is_given_up_and_who_answers_shortly_is_not_at_once() {
        let mut dead = account(0, 0);
        assert_eq!(dead.attempts_max(), 2 * 17);
        dead.attempts = 34;
        assert!(dead.is_given_up());
        let small = Account {
            part: Part::NONE,
            attempts: 4,
            ..account(0, 0)
        };
        assert!(small.is_given_up());
        // A tenth of what was asked for each time: more of them are needed, not less shown.
        let short = Account {
            attempts: 40,
            good: 40,
            ..account(0, 40 * 60)
        };
        assert_eq!(short.brings(), Units::new(60));
        assert!(!short.is_given_up());
    }

    proptest! {
        #[test]
        fn what_is_sent_never_exceeds_what_is_due_by_more_than_one_request(
            part in 0_u32..=1_000_000,
            allotment in 0_u64..1_000_000,
            check in 1_u64..1000,
            steps in prop::collection::vec((0_u64..2000, 0_u64..2000), 0..60),
        ) {
            let mut cell = Account {
                allotment: Units::new(allotment),
                part: Part::from_millionths(part),
                check: Units::new(check),
                floor: true,
                ..Account::default()
            };
            for (organic, size) in steps {
                cell.organic = cell.organic.saturating_add(Units::new(organic));
                if cell.due().is_zero() {
                    continue;
                }
                cell.in_flight = cell.in_flight.saturating_add(Units::new(size));
                let uncovered = cell.target().saturating_sub(cell.organic);
                let bound = uncovered.max(cell.floor()).saturating_add(Units::new(size));
                prop_assert!(cell.synthetic.saturating_add(cell.in_flight) <= bound);
            }
        }
    }
}
