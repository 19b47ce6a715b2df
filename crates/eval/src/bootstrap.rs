//! Bootstrap intervals over items (Efron 1979; paired as in Berg-Kirkpatrick et al. 2012).

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::metrics::{Counts, ItemScore};

/// Resamples drawn for an interval.
pub const RESAMPLES: usize = 1000;

/// The 95 % percentile interval of the micro-F1 over resampled items; `(score, score)` for fewer than two items.
pub fn interval(items: &[ItemScore], seed: u64) -> (f64, f64) {
    let totals: Vec<Counts> = items.iter().map(ItemScore::total).collect();
    percentiles(totals.len(), seed, |sample| f1(&totals, sample))
}

/// The 95 % percentile interval of `after - before` over resampled items, both scored on the same items.
///
/// # Panics
/// When the two have different lengths: they are not the same items.
pub fn paired_interval(before: &[ItemScore], after: &[ItemScore], seed: u64) -> (f64, f64) {
    assert_eq!(before.len(), after.len(), "a paired bootstrap compares scores of the same items");
    let before: Vec<Counts> = before.iter().map(ItemScore::total).collect();
    let after: Vec<Counts> = after.iter().map(ItemScore::total).collect();
    percentiles(before.len(), seed, |sample| f1(&after, sample) - f1(&before, sample))
}

fn f1(totals: &[Counts], sample: &[usize]) -> f64 {
    let mut sum = Counts::default();
    for &item in sample {
        sum += totals[item];
    }
    sum.f1()
}

fn percentiles(items: usize, seed: u64, statistic: impl Fn(&[usize]) -> f64) -> (f64, f64) {
    let mut sample: Vec<usize> = (0..items).collect();
    if items < 2 {
        let value = statistic(&sample);
        return (value, value);
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut values: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            for slot in &mut sample {
                *slot = rng.random_range(0..items);
            }
            statistic(&sample)
        })
        .collect();
    values.sort_by(f64::total_cmp);
    (values[RESAMPLES * 25 / 1000], values[RESAMPLES * 975 / 1000 - 1])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::accuracy;

    fn items(right: usize, wrong: usize) -> Vec<ItemScore> {
        let mut items = vec![accuracy::score("a", Some("a")); right];
        items.extend(vec![accuracy::score("a", Some("b")); wrong]);
        items
    }

    #[test]
    fn the_interval_has_the_width_of_the_binomial() {
        let (low, high) = interval(&items(60, 40), 7);
        // 0.6 +- 1.96 sqrt(0.24 / 100) = 0.504 .. 0.696
        assert!((low - 0.504).abs() < 0.03 && (high - 0.696).abs() < 0.03, "{low} {high}");
        assert_eq!(interval(&items(60, 40), 7), (low, high), "same seed, same interval");
    }

    #[test]
    fn a_paired_difference_sees_the_pairing() {
        let before = items(50, 50);
        let after = items(60, 40);
        let (low, high) = paired_interval(&before, &after, 3);
        // Ten of a hundred items improve and none worsens: 0.1 +- 1.96 sqrt(0.09 / 100).
        assert!((low - 0.041).abs() < 0.025 && (high - 0.159).abs() < 0.025, "{low} {high}");
        assert_eq!(paired_interval(&after, &after, 3), (0.0, 0.0));
    }
}
