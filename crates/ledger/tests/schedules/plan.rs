//! What a schedule is: steps drawn from a seed, each with dice of its own, so that a step
//! means the same when others are left out. And how a failing one is made short.

use std::fmt;

/// Numbers from a seed, the same on every machine.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

/// What is done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Admit,
    Progress,
    End,
    Ask,
    Append,
    Deliver,
    Cut,
    Turn,
    ClosePast,
    OpenAhead,
    Pause,
    /// The engine is not reached for a while.
    Away,
    Kill,
    KillAll,
    Stop,
    /// The engine loses its last commits.
    Lose,
}

/// One step.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) what: What,
    pub(crate) dice: Dice,
}

/// A schedule.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    /// The engine loses commits in it, and says so. Then only what is spent counts.
    pub(crate) lossy: bool,
    pub(crate) steps: Vec<Step>,
    /// Which of the steps that the seed gives these are.
    pub(crate) kept: Vec<usize>,
}

// === impl Dice ===

impl Dice {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// SplitMix64.
    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 up, below `end`.
    pub(crate) const fn of(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(crate) fn index(&mut self, end: usize) -> usize {
        usize::try_from(self.of(end as u64)).expect("an index")
    }

    pub(crate) const fn one_in(&mut self, times: u64) -> bool {
        self.of(times) == 0
    }
}

// === impl What ===

impl What {
    /// How often each is drawn, of a hundred and twenty-eight; one in ten loses commits.
    const WEIGHTS: [(Self, u64); 15] = [
        (Self::Admit, 29),
        (Self::Progress, 9),
        (Self::End, 14),
        (Self::Ask, 11),
        (Self::Append, 9),
        (Self::Deliver, 31),
        (Self::Cut, 4),
        (Self::Turn, 5),
        (Self::ClosePast, 6),
        (Self::OpenAhead, 3),
        (Self::Pause, 2),
        (Self::Away, 2),
        (Self::Kill, 1),
        (Self::KillAll, 1),
        (Self::Stop, 1),
    ];

    fn draw(dice: &mut Dice, lossy: bool) -> Self {
        if lossy && dice.one_in(10) {
            return Self::Lose;
        }
        let mut at = dice.of(128);
        for (what, weight) in Self::WEIGHTS {
            match at.checked_sub(weight) {
                Some(rest) => at = rest,
                None => return what,
            }
        }
        Self::Deliver
    }
}

// === impl Plan ===

impl Plan {
    /// One in four loses commits, where the engine can.
    pub(crate) fn of(seed: u64, may_lose: bool) -> Self {
        let mut dice = Dice::new(seed);
        let lossy = may_lose && dice.one_in(4);
        let count = 24 + dice.index(17);
        let step = |_| Step {
            what: What::draw(&mut dice, lossy),
            dice: Dice::new(dice.next()),
        };
        Self {
            seed,
            lossy,
            steps: (0..count).map(step).collect(),
            kept: (0..count).collect(),
        }
    }

    /// Some of its steps.
    pub(crate) fn only(&self, places: &[usize]) -> Self {
        let places = || places.iter().filter(|at| **at < self.steps.len());
        Self {
            steps: places().map(|at| self.steps[*at].clone()).collect(),
            kept: places().map(|at| self.kept[*at]).collect(),
            ..*self
        }
    }

    /// Leaves steps out, first many at once, then one by one, while it still fails.
    pub(crate) fn shrunk(mut self, fails: impl Fn(&Self) -> bool) -> Self {
        let mut size = self.steps.len() / 2;
        while size > 0 {
            let mut at = 0;
            while at < self.steps.len() {
                let count = self.steps.len();
                let rest: Vec<_> = (0..count)
                    .filter(|it| *it < at || *it >= at + size)
                    .collect();
                let shorter = self.only(&rest);
                if fails(&shorter) {
                    self = shorter;
                } else {
                    at += size;
                }
            }
            size /= 2;
        }
        self
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept: Vec<_> = self.kept.iter().map(ToString::to_string).collect();
        write!(
            f,
            "TAUGATE_SEED={} TAUGATE_STEPS={}",
            self.seed,
            kept.join(",")
        )
    }
}
