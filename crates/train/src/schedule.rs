//! Learning rate as a function of the step.

use serde::{Deserialize, Serialize};

/// Shape of the learning rate over a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// Linear from 0, then constant: the published recipe (`constant_with_warmup` of transformers).
    ConstantWithWarmup,
    /// Linear from 0, then half a cosine down to the final ratio.
    Cosine,
    /// Linear from 0, then linear down to the final ratio: how BERT is fine-tuned (`linear` of transformers).
    Linear,
    /// Linear from 0, constant, then linear down to the final ratio over the last `decay_ratio` of the run.
    WarmupStableDecay,
}

/// A shape with its lengths: `rate(step)` for every step of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// The shape.
    pub shape: Shape,
    /// Highest rate.
    pub peak: f64,
    /// Steps of the linear rise.
    pub warmup_steps: u64,
    /// Steps of the whole run.
    pub total_steps: u64,
    /// Share of the run, at its end, in which `warmup_stable_decay` falls; 0 to 1.
    pub decay_ratio: f64,
    /// Rate at the end as a share of the peak; 0 to 1.
    pub final_ratio: f64,
}

impl Schedule {
    /// Returns the rate of a step, counted from 0.
    ///
    /// As in transformers, the first step of a warm-up has rate 0: step `s` of the rise has `peak * s / warmup_steps`.
    pub fn rate(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return self.peak * step as f64 / self.warmup_steps as f64;
        }
        let fall = |progress: f64| self.final_ratio + (1.0 - self.final_ratio) * progress;
        let progress = || {
            let length = self.total_steps.saturating_sub(self.warmup_steps).max(1);
            ((step - self.warmup_steps) as f64 / length as f64).min(1.0)
        };
        match self.shape {
            Shape::ConstantWithWarmup => self.peak,
            Shape::Cosine => self.peak * fall(0.5 * (1.0 + (std::f64::consts::PI * progress()).cos())),
            Shape::Linear => self.peak * fall(1.0 - progress()),
            Shape::WarmupStableDecay => {
                let length = (self.total_steps as f64 * self.decay_ratio).round().max(1.0);
                let left = self.total_steps.saturating_sub(step) as f64;
                self.peak * fall((left / length).min(1.0))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(shape: Shape) -> Schedule {
        Schedule { shape, peak: 2e-4, warmup_steps: 4, total_steps: 20, decay_ratio: 0.25, final_ratio: 0.1 }
    }

    fn assert_rates(schedule: Schedule, expected: &[(u64, f64)]) {
        for &(step, rate) in expected {
            let found = schedule.rate(step);
            assert!((found - rate).abs() < 1e-15, "step {step}: {found} instead of {rate}");
        }
    }

    #[test]
    fn constant_with_warmup_is_the_one_of_transformers() {
        // get_constant_schedule_with_warmup(optimizer, 4): 0, 1/4, 2/4, 3/4, 1, 1, ...
        let expected = [(0, 0.0), (1, 0.5e-4), (2, 1e-4), (3, 1.5e-4), (4, 2e-4), (19, 2e-4), (1000, 2e-4)];
        assert_rates(schedule(Shape::ConstantWithWarmup), &expected);
        assert_rates(Schedule { warmup_steps: 0, ..schedule(Shape::ConstantWithWarmup) }, &[(0, 2e-4)]);
    }

    #[test]
    fn cosine_halves_in_the_middle_and_ends_at_the_final_ratio() {
        // 16 steps of fall: the middle is step 12, (1 + 0.1) / 2 of the peak.
        let expected = [(3, 1.5e-4), (4, 2e-4), (12, 1.1e-4), (20, 0.2e-4), (25, 0.2e-4)];
        assert_rates(schedule(Shape::Cosine), &expected);
    }

    #[test]
    fn linear_falls_to_the_final_ratio_and_to_nothing_as_in_transformers() {
        // 16 steps of fall, each of 0.9 / 16 of the peak.
        let expected = [(3, 1.5e-4), (4, 2e-4), (8, 1.55e-4), (12, 1.1e-4), (20, 0.2e-4), (25, 0.2e-4)];
        assert_rates(schedule(Shape::Linear), &expected);
        // get_linear_schedule_with_warmup(optimizer, 4, 20): (20 - step) / 16.
        let to_nothing = Schedule { final_ratio: 0.0, ..schedule(Shape::Linear) };
        assert_rates(to_nothing, &[(2, 1e-4), (4, 2e-4), (19, 2e-4 / 16.0), (20, 0.0)]);
    }

    #[test]
    fn warmup_stable_decay_falls_over_the_last_quarter() {
        let expected = [(4, 2e-4), (15, 2e-4), (16, 2e-4 * 0.82), (19, 2e-4 * 0.28), (20, 2e-5)];
        assert_rates(schedule(Shape::WarmupStableDecay), &expected);
    }
}
