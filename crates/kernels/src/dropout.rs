//! Dropout whose mask is a function of a counter, so that the backward pass computes it again instead of keeping it.

use crate::gemm::check;
use crate::level::level;
use crate::simd::simd;
use crate::threads::{Parts, parallel_elements};

/// Which elements are dropped: element `i` is a function of `(seed, stream, first + i)` alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// The share of elements that become 0; `0.0..1.0`.
    pub probability: f32,
    /// One number per step.
    pub seed: u64,
    /// One number per place in the model.
    pub stream: u64,
    /// The counter of the first element, when a tensor is processed in pieces.
    pub first: u64,
}

/// Computes `y[i] = x[i] / (1 - p)` where element `i` is kept and 0 where it is dropped; applied to a gradient, it is its own
/// backward.
///
/// # Panics
///
/// When the slices differ in length.
pub fn dropout(dropout: &Dropout, x: &[f32], y: &mut [f32]) {
    check("dropout", [("y", y.len(), x.len())]);
    let (level, y) = (level(), Parts::new(y));
    let keep = 1.0 / (1.0 - dropout.probability);
    let threshold = (f64::from(dropout.probability) * 4_294_967_296.0) as u32;
    parallel_elements(x.len(), |at| {
        // SAFETY: each task has its own range.
        let mut y = unsafe { y.part(at.start, at.len()) };
        let mut x = &x[at.clone()];
        let mut counter = dropout.first.wrapping_add(at.start as u64);
        while !x.is_empty() {
            // The key changes where the low half of the counter starts again.
            let left = (1_u64 << 32) - u64::from(counter as u32);
            let len = x.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let key = splitmix(dropout.seed ^ splitmix(dropout.stream ^ splitmix(counter >> 32)));
            let (x_now, x_rest) = x.split_at(len);
            let (y_now, y_rest) = y.split_at_mut(len);
            dropout_part(level, counter as u32, key, threshold, keep, x_now, y_now);
            (x, y, counter) = (x_rest, y_rest, counter.wrapping_add(len as u64));
        }
    });
}

simd! {
    fn dropout_part(_v, first: u32, key: u64, threshold: u32, keep: f32, x: &[f32], y: &mut [f32]) {
        for (i, (y, &x)) in y.iter_mut().zip(x).enumerate() {
            let random = mix(mix(first.wrapping_add(i as u32) ^ key as u32).wrapping_add((key >> 32) as u32));
            *y = if random >= threshold { x * keep } else { 0.0 };
        }
    }
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014).
fn splitmix(x: u64) -> u64 {
    let z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A 32-bit mixing function of low bias: the constants are those of Wellons' `lowbias32`.
#[inline(always)]
fn mix(x: u32) -> u32 {
    let x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
    let x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::at_every_level;

    fn mask(options: &Dropout, len: usize) -> Vec<f32> {
        let mut y = vec![0.0; len];
        dropout(options, &vec![1.0; len], &mut y);
        y
    }

    #[test]
    fn the_asked_share_is_dropped_and_the_mean_is_kept() {
        for probability in [0.0_f32, 0.05, 0.5, 0.9] {
            let y = mask(&Dropout { probability, seed: 1, stream: 2, first: 0 }, 1_000_000);
            let dropped = y.iter().filter(|&&y| y == 0.0).count() as f32 / 1e6;
            // Five standard deviations of a binomial share.
            let limit = 5.0 * (probability * (1.0 - probability) / 1e6).sqrt();
            assert!((dropped - probability).abs() <= limit, "{dropped} of {probability}");
            assert!(y.iter().all(|&y| y == 0.0 || y == 1.0 / (1.0 - probability)));
        }
    }

    #[test]
    fn neighbours_seeds_and_streams_are_independent() {
        let base = Dropout { probability: 0.5, seed: 1, stream: 2, first: 0 };
        let (n, y) = (200_000, mask(&base, 200_001));
        let others = [
            y[1..].to_vec(),
            mask(&Dropout { seed: 2, ..base }, n),
            mask(&Dropout { stream: 3, ..base }, n),
            mask(&Dropout { first: 1 << 32, ..base }, n),
        ];
        for (i, other) in others.iter().enumerate() {
            let equal = y.iter().zip(other).filter(|(a, b)| a == b).count() as f32 / n as f32;
            assert!((equal - 0.5).abs() < 0.006, "case {i}: {equal} of the elements agree");
        }
    }

    #[test]
    fn pieces_levels_and_the_whole_agree() {
        let options = Dropout { probability: 0.3, seed: 9, stream: 4, first: (1 << 32) - 30_000 };
        let whole = mask(&options, 70_000);
        at_every_level(|level| {
            assert_eq!(whole, mask(&options, 70_000), "{level:?}");
            let part = mask(&Dropout { first: options.first + 12_345, ..options }, 40_000);
            assert_eq!(whole[12_345..52_345], part, "{level:?}");
        });
    }
}
