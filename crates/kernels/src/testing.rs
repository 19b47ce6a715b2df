//! Random inputs and comparisons for the unit tests.

use crate::level::{Level, with_level};

/// A small generator: SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// A number in `-1.0..1.0`.
    pub(crate) fn uniform(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    pub(crate) fn vector(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.uniform()).collect()
    }
}

/// Runs `test` at every level that the processor has.
pub(crate) fn at_every_level(mut test: impl FnMut(Level)) {
    for level in [Level::Scalar, Level::Avx2, Level::Avx512] {
        with_level(level, || {
            if crate::level::level() == level {
                test(level);
            }
        });
    }
}

/// Stops where a value is further than `tolerance * (1 + |expected|)` from what is expected.
#[track_caller]
pub(crate) fn assert_close(what: &str, found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(found) - expected).abs();
        // Written so that a NaN fails.
        assert!(
            error <= tolerance * (1.0 + expected.abs()),
            "{what}: element {i} is {found}, expected {expected} (off by {error:e}, tolerance {tolerance:e})"
        );
    }
}
