//! From logits to a token: greedy, or drawn after temperature, top-k and top-p, with a repetition penalty.
//!
//! The order of the steps is that of `transformers`: repetition penalty, temperature, top-k, top-p.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::error::InferError;

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sampling {
    /// Logits are divided by it; 0 takes the likeliest token (greedy) and ignores `top_k` and `top_p`.
    pub temperature: f32,
    /// Only the likeliest tokens that together reach this probability are drawn from; 1 for all. In 0..=1.
    pub top_p: f32,
    /// Only this many of the likeliest tokens are drawn from; 0 for all.
    pub top_k: usize,
    /// Logits of tokens already in the sequence are divided (positive) or multiplied (negative) by it
    /// (Keskar et al. 2019); 1 for none.
    pub repetition_penalty: f32,
    /// Seed of the draws.
    pub seed: u64,
}

impl Sampling {
    /// The likeliest token each time.
    pub const GREEDY: Self =
        Self { temperature: 0.0, top_p: 1.0, top_k: 0, repetition_penalty: 1.0, seed: 0 };

    /// As published for Taiyi 1.
    pub const TAIYI1: Self =
        Self { temperature: 0.3, top_p: 0.9, top_k: 0, repetition_penalty: 1.0, seed: 0 };

    /// As published for Taiyi 2.
    pub const TAIYI2: Self =
        Self { temperature: 0.3, top_p: 0.7, top_k: 20, repetition_penalty: 1.05, seed: 0 };

    /// Checks the ranges.
    ///
    /// # Errors
    /// When a value is outside its range.
    pub fn check(&self) -> Result<(), InferError> {
        let wrong = |what: &'static str, expected: &'static str, found: f32| {
            Err(InferError::Sampling { what, expected, found: found.to_string() })
        };
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return wrong("temperature", "a number of at least 0", self.temperature);
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return wrong("top_p", "a number above 0 and at most 1", self.top_p);
        }
        if !(self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite()) {
            return wrong("repetition_penalty", "a number above 0", self.repetition_penalty);
        }
        Ok(())
    }
}

/// Chooses tokens for one sequence.
pub struct Sampler {
    sampling: Sampling,
    rng: ChaCha8Rng,
    /// Candidates, kept between calls.
    order: Vec<u32>,
    weights: Vec<f64>,
    logits: Vec<f32>,
}

impl Sampler {
    /// A sampler for a sequence.
    ///
    /// # Errors
    /// When a value of `sampling` is outside its range.
    pub fn new(sampling: Sampling) -> Result<Self, InferError> {
        sampling.check()?;
        let rng = ChaCha8Rng::seed_from_u64(sampling.seed);
        Ok(Self { sampling, rng, order: Vec::new(), weights: Vec::new(), logits: Vec::new() })
    }

    /// Chooses the next token from `logits` (vocabulary) of a sequence that so far holds `history`.
    ///
    /// Equal logits are resolved towards the lower id, as `argmax` of the reference does.
    pub fn next(&mut self, logits: &[f32], history: &[u32]) -> u32 {
        if self.sampling.repetition_penalty != 1.0 {
            self.penalise(logits, history);
        } else {
            self.logits.clear();
        }
        let penalised = std::mem::take(&mut self.logits);
        let logits = if penalised.is_empty() { logits } else { &penalised };
        let token = if self.sampling.temperature == 0.0 { argmax(logits) } else { self.draw(logits) };
        self.logits = penalised;
        token
    }

    fn penalise(&mut self, logits: &[f32], history: &[u32]) {
        self.logits.clear();
        self.logits.extend_from_slice(logits);
        let penalty = self.sampling.repetition_penalty;
        self.order.clear();
        self.order.extend_from_slice(history);
        self.order.sort_unstable();
        self.order.dedup();
        for &id in &self.order {
            if let Some(logit) = self.logits.get_mut(id as usize) {
                *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
            }
        }
    }

    fn draw(&mut self, logits: &[f32]) -> u32 {
        let Sampling { temperature, top_p, top_k, .. } = self.sampling;
        self.order.clear();
        self.order.extend((0..logits.len() as u32).filter(|&id| !logits[id as usize].is_nan()));
        let likelier =
            |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then_with(|| a.cmp(b));
        if top_k > 0 && top_k < self.order.len() {
            self.order.select_nth_unstable_by(top_k - 1, likelier);
            self.order.truncate(top_k);
        }
        self.order.sort_unstable_by(likelier);
        let Some(&first) = self.order.first() else { return 0 };
        let highest = f64::from(logits[first as usize]);
        self.weights.clear();
        self.weights.extend(
            self.order
                .iter()
                .map(|&id| ((f64::from(logits[id as usize]) - highest) / f64::from(temperature)).exp()),
        );
        let total: f64 = self.weights.iter().sum();
        // The token that reaches top_p is kept, so one always is.
        let mut kept = self.weights.len();
        let mut sum = 0.0;
        for (at, weight) in self.weights.iter().enumerate() {
            sum += weight;
            if sum >= total * f64::from(top_p) {
                kept = at + 1;
                break;
            }
        }
        let mut left = self.rng.random::<f64>() * self.weights[..kept].iter().sum::<f64>();
        for (at, weight) in self.weights[..kept].iter().enumerate() {
            left -= weight;
            if left < 0.0 {
                return self.order[at];
            }
        }
        self.order[kept - 1]
    }
}

fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (id, logit) in logits.iter().enumerate() {
        if *logit > logits[best] || logits[best].is_nan() {
            best = id;
        }
    }
    best as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(sampling: Sampling, logits: &[f32], token: u32) -> f64 {
        let mut sampler = Sampler::new(sampling).unwrap();
        (0..4000).filter(|_| sampler.next(logits, &[]) == token).count() as f64 / 4000.0
    }

    #[test]
    fn greedy_takes_the_first_of_the_likeliest() {
        let mut sampler = Sampler::new(Sampling::GREEDY).unwrap();
        assert_eq!(sampler.next(&[1.0, 3.0, 3.0, f32::NAN], &[]), 1);
        assert_eq!(sampler.next(&[f32::NAN, -3.0, -2.0], &[]), 2);
    }

    #[test]
    fn draws_follow_the_softmax() {
        let sampling = Sampling { temperature: 1.0, seed: 5, ..Sampling::GREEDY };
        let logits = [2f32.ln(), 1f32.ln(), 1f32.ln()];
        assert!((share(sampling, &logits, 0) - 0.5).abs() < 0.03);
        // Temperature 0.5 squares the odds: 4 to 1 to 1.
        assert!((share(Sampling { temperature: 0.5, ..sampling }, &logits, 0) - 4.0 / 6.0).abs() < 0.03);
    }

    #[test]
    fn top_k_and_top_p_cut_the_tail() {
        let logits = [2f32.ln(), 3f32.ln(), 5f32.ln()];
        let sampling = Sampling { temperature: 1.0, seed: 9, ..Sampling::GREEDY };
        assert_eq!(share(Sampling { top_k: 2, ..sampling }, &logits, 0), 0.0);
        // 0.5 alone does not reach 0.7; 0.5 + 0.3 does.
        let cut = Sampling { top_p: 0.7, ..sampling };
        assert_eq!(share(cut, &logits, 0), 0.0);
        assert!((share(cut, &logits, 2) - 5.0 / 8.0).abs() < 0.03);
        assert_eq!(share(Sampling { top_p: 1e-6, ..sampling }, &logits, 2), 1.0);
    }

    #[test]
    fn the_penalty_moves_both_signs_down() {
        let mut sampler = Sampler::new(Sampling { repetition_penalty: 2.0, ..Sampling::GREEDY }).unwrap();
        assert_eq!(sampler.next(&[3.0, 2.0], &[0]), 1);
        assert_eq!(sampler.next(&[-1.0, -1.5], &[0, 0]), 1);
    }

    #[test]
    fn ranges_are_checked() {
        for sampling in [
            Sampling { temperature: -1.0, ..Sampling::GREEDY },
            Sampling { top_p: 0.0, ..Sampling::GREEDY },
            Sampling { repetition_penalty: f32::NAN, ..Sampling::GREEDY },
        ] {
            assert!(Sampler::new(sampling).is_err());
        }
    }
}
