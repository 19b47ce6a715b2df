//! Draws that depend on nothing but a seed and names, so that order, threads and other records cannot change them.

use xxhash_rust::xxh3::Xxh3;

/// A number drawn for `parts` under `seed`.
pub(crate) fn draw(seed: u64, parts: &[&str]) -> u64 {
    let mut hash = Xxh3::with_seed(seed);
    for part in parts {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    hash.digest()
}

/// The same number in `0.0..1.0`.
pub(crate) fn unit(number: u64) -> f64 {
    // 53 bits are what an f64 holds exactly.
    (number >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_depend_on_the_parts_and_are_even() {
        assert_eq!(draw(1, &["a", "b"]), draw(1, &["a", "b"]));
        assert_ne!(draw(1, &["ab", ""]), draw(1, &["a", "b"]));
        assert_ne!(draw(1, &["a"]), draw(2, &["a"]));
        let mean = (0..10_000).map(|at| unit(draw(7, &[&at.to_string()]))).sum::<f64>() / 10_000.0;
        assert!((mean - 0.5).abs() < 0.02, "{mean}");
    }
}
