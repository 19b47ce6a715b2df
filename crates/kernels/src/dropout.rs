//! Dropout whose mask is a function of a counter, so that the backward pass computes it again instead of keeping it.

use crate::gemm::check;

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

/// Computes `y[i] = x[i] / (1 - p)` where element `i` is kept and 0 where it is dropped; applied to a gradient, it is its own backward.
///
/// # Panics
///
/// When the slices differ in length.
pub fn dropout(dropout: &Dropout, x: &[f32], y: &mut [f32]) {
    check("dropout", [("y", y.len(), x.len())]);
    let keep = 1.0 / (1.0 - dropout.probability);
    let threshold = (f64::from(dropout.probability) * 4_294_967_296.0) as u32;
    for i in 0..x.len() {
        y[i] = if random(dropout, i as u64) >= threshold { x[i] * keep } else { 0.0 };
    }
}

fn random(dropout: &Dropout, index: u64) -> u32 {
    let counter = dropout.first.wrapping_add(index);
    let high = splitmix(dropout.seed ^ splitmix(dropout.stream ^ splitmix(counter >> 32)));
    mix(mix(counter as u32 ^ high as u32).wrapping_add((high >> 32) as u32))
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014).
fn splitmix(x: u64) -> u64 {
    let z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A 32-bit mixing function of low bias: the constants are those of Wellons' `lowbias32`.
fn mix(x: u32) -> u32 {
    let x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
    let x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}
