//! Permutations that depend on a seed and nothing else.
//!
//! The generator is written out here, and not taken from a crate, because the order of the samples is part of a
//! published result: it must not change when a dependency changes its streams.

/// SplitMix64 (Steele, Lea and Flood 2014, figure 16).
#[derive(Debug, Clone)]
pub(crate) struct SplitMix64(u64);

impl SplitMix64 {
    /// Starts the stream numbered `stream` of `seed`; streams of one seed are unrelated.
    pub(crate) fn new(seed: u64, stream: u64) -> Self {
        let mut mixed = Self(seed);
        let offset = mixed.next();
        Self(offset ^ stream.wrapping_mul(0xD1B5_4A32_D192_ED03))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Draws uniformly from `0..bound` (Lemire 2019, with rejection: no bias).
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        let mut product = u128::from(self.next()) * u128::from(bound);
        if (product as u64) < bound {
            let threshold = bound.wrapping_neg() % bound;
            while (product as u64) < threshold {
                product = u128::from(self.next()) * u128::from(bound);
            }
        }
        (product >> 64) as u64
    }
}

/// Shuffles in place (Fisher and Yates) with the stream `stream` of `seed`.
pub(crate) fn shuffle<T>(items: &mut [T], seed: u64, stream: u64) {
    let mut random = SplitMix64::new(seed, stream);
    for i in (1..items.len()).rev() {
        let j = random.below(i as u64 + 1) as usize;
        items.swap(i, j);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shuffle_is_a_permutation_fixed_by_seed_and_stream() {
        let shuffled = |seed, stream| {
            let mut items: Vec<u32> = (0..100).collect();
            shuffle(&mut items, seed, stream);
            items
        };
        assert_eq!(shuffled(1, 0), shuffled(1, 0));
        assert_ne!(shuffled(1, 0), shuffled(1, 1));
        assert_ne!(shuffled(1, 0), shuffled(2, 0));
        let mut sorted = shuffled(7, 3);
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn the_stream_is_the_published_one() {
        // First outputs of the reference implementation for the state 1234567.
        let mut random = SplitMix64(1_234_567);
        assert_eq!(random.next(), 6_457_827_717_110_365_317);
        assert_eq!(random.next(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn every_place_is_equally_likely() {
        let mut counts = [[0u32; 5]; 5];
        for seed in 0..5_000 {
            let mut items = [0, 1, 2, 3, 4];
            shuffle(&mut items, seed, 0);
            for (place, item) in items.into_iter().enumerate() {
                counts[place][item] += 1;
            }
        }
        // 1,000 expected in each cell, standard deviation 28.
        assert!(counts.iter().flatten().all(|&n| (860..1140).contains(&n)), "{counts:?}");
    }
}
