//! Draws: random enough, and the same again for the same seed.

/// The numbers that one call draws (splitmix64). Only their seed is shared: words that many
/// threads raise cost more than all the rest of a choice.
#[derive(Clone, Copy, Debug)]
pub(super) struct Draws(u64);

/// One of so many by 32 bits of a draw, without a division.
pub(super) fn below(draw: u64, many: usize) -> usize {
    let many = u64::try_from(many).unwrap_or(u64::MAX);
    usize::try_from(draw.saturating_mul(many) >> 32).unwrap_or(0)
}

// === impl Draws ===

impl Draws {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// 0 to 1.
    #[expect(clippy::cast_precision_loss, reason = "53 bits of a draw are enough")]
    pub(super) fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}
