//! Two simple learners: a logistic regression and the nearest neighbours.

/// One request, as a miner can measure it.
#[derive(Clone, Debug)]
pub(super) struct Example {
    pub(super) is_check: bool,
    pub(super) measures: Vec<f64>,
}

/// Parts of held-out examples that each learner got right.
#[derive(Clone, Debug)]
#[expect(dead_code, reason = "told when the test fails")]
pub(super) struct Accuracy {
    pub(super) regression: f64,
    pub(super) neighbours: f64,
    pub(super) held_out: usize,
    /// What the regression goes by, as far as it does: measure and weight, the strongest first.
    pub(super) by: Vec<(usize, f64)>,
}

// === impl Accuracy ===

impl Accuracy {
    pub(super) fn best(&self) -> f64 {
        self.regression.max(self.neighbours)
    }
}

/// Learns from the even places of a stream and tells the odd ones.
pub(super) fn accuracy(stream: &[Example]) -> Accuracy {
    let scaled = scaled(stream);
    let (train, held): (Vec<_>, Vec<_>) =
        scaled.iter().enumerate().partition(|(at, _)| at % 2 == 0);
    let train = balanced(train.into_iter().map(|(_, example)| example).collect());
    let held = balanced(held.into_iter().map(|(_, example)| example).collect());
    let weights = regression(&train);
    let right = |tell: &dyn Fn(&Example) -> bool| {
        let right = held
            .iter()
            .filter(|example| tell(example) == example.is_check);
        number(right.count()) / number(held.len())
    };
    let mut by: Vec<_> = weights.iter().copied().enumerate().collect();
    by.sort_by(|one, other| other.1.abs().total_cmp(&one.1.abs()));
    by.truncate(4);
    Accuracy {
        by,
        regression: right(&|example| sum(&weights, &example.measures) > 0.0),
        neighbours: right(&|example| nearest(&train, example)),
        held_out: held.len(),
    }
}

/// As many of one kind as of the other, so that a guess is right half of the time.
fn balanced(examples: Vec<&Example>) -> Vec<&Example> {
    let count = |kind: bool| examples.iter().filter(|one| one.is_check == kind).count();
    let most = count(true).min(count(false));
    let mut left = [most; 2];
    let mut kept = examples;
    kept.retain(|example| {
        let left = &mut left[usize::from(example.is_check)];
        let keep = *left > 0;
        *left = left.saturating_sub(1);
        keep
    });
    kept
}

/// Each measure with mean 0 and deviation 1, cut at 4.
fn scaled(stream: &[Example]) -> Vec<Example> {
    let measures = stream[0].measures.len();
    let mut scaled = stream.to_vec();
    for at in 0..measures {
        let all = || stream.iter().map(|example| example.measures[at]);
        let mean = all().sum::<f64>() / number(stream.len());
        let spread = all().map(|value| (value - mean).powi(2)).sum::<f64>() / number(stream.len());
        let spread = spread.sqrt().max(1e-9);
        for example in &mut scaled {
            example.measures[at] = ((example.measures[at] - mean) / spread).clamp(-4.0, 4.0);
        }
    }
    scaled
}

/// The last weight stands for itself.
fn sum(weights: &[f64], measures: &[f64]) -> f64 {
    let own = weights.last().copied().unwrap_or(0.0);
    own + weights
        .iter()
        .zip(measures)
        .map(|(weight, measure)| weight * measure)
        .sum::<f64>()
}

fn regression(train: &[&Example]) -> Vec<f64> {
    let mut weights = vec![0.0; train[0].measures.len() + 1];
    for round in 0..200 {
        let step = 0.05 / (1.0 + f64::from(round) / 20.0);
        for example in train {
            let told = 1.0 / (1.0 + (-sum(&weights, &example.measures)).exp());
            let error = f64::from(u8::from(example.is_check)) - told;
            let measures = example.measures.iter().chain([&1.0]);
            for (weight, measure) in weights.iter_mut().zip(measures) {
                *weight += step * (error * measure - 1e-4 * *weight);
            }
        }
    }
    weights
}

/// What most of the nearest fifteen are.
fn nearest(train: &[&Example], example: &Example) -> bool {
    let mut near: Vec<_> = train
        .iter()
        .map(|known| {
            let pairs = known.measures.iter().zip(&example.measures);
            let distance: f64 = pairs.map(|(one, other)| (one - other).powi(2)).sum();
            (distance, known.is_check)
        })
        .collect();
    near.sort_by(|one, other| one.0.total_cmp(&other.0));
    let checks = near.iter().take(15).filter(|(_, check)| *check).count();
    checks >= 8
}

fn number(count: usize) -> f64 {
    f64::from(u32::try_from(count).expect("few"))
}
