//! Random weights for pre-training.

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};
use taiyi_kernels::Precision;

use super::{Decoder, build::assemble};
use crate::{
    config::DecoderConfig,
    error::Error,
    layers::{
        source::{Role, Source},
        tensor::Tensor,
    },
};

/// Uniform and normal numbers that are the same on every machine.
pub(crate) struct Random(ChaCha8Rng);

impl Random {
    /// One of 2^64 independent streams of a seed.
    pub(crate) fn new(seed: u64, stream: u64) -> Random {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(stream);
        Random(rng)
    }

    /// Uniform in the open interval (0, 1), with 53 random bits.
    pub(crate) fn uniform(&mut self) -> f64 {
        ((self.0.next_u64() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    /// `n` values from N(0, deviation^2), by the Box-Muller transform.
    pub(crate) fn normal(&mut self, n: usize, deviation: f64) -> Vec<f32> {
        let mut values = Vec::with_capacity(n + 1);
        while values.len() < n {
            let radius = deviation * (-2.0 * self.uniform().ln()).sqrt();
            let (sin, cos) = (std::f64::consts::TAU * self.uniform()).sin_cos();
            values.extend([(radius * cos) as f32, (radius * sin) as f32]);
        }
        values.truncate(n);
        values
    }
}

impl Decoder {
    /// Draws f32 weights and makes them all trainable. Linear layers and tables are N(0, initializer_range^2), norms 1, biases
    /// 0, as in transformers; the two layers of a block that end in the residual stream are divided by `sqrt(2 L)`, so that the
    /// stream's variance does not grow with depth (Radford et al., 2019, section 2.3).
    ///
    /// # Errors
    /// When the configuration's `model_type` is unknown.
    pub fn random(config: DecoderConfig, seed: u64) -> Result<Decoder, Error> {
        let deviation = f64::from(config.initializer_range);
        let residual = deviation / (2.0 * config.num_hidden_layers as f64).sqrt();
        let mut source = RandomSource { seed, stream: 0, deviation, residual };
        let mut decoder = assemble(config, Precision::F32, &mut source)?;
        decoder.train_all()?;
        Ok(decoder)
    }
}

struct RandomSource {
    seed: u64,
    stream: u64,
    deviation: f64,
    residual: f64,
}

impl Source for RandomSource {
    fn tensor(&mut self, name: String, role: Role, shape: &[usize]) -> Result<Tensor, Error> {
        let len = shape.iter().product();
        // A stream for each tensor: its values do not depend on the sizes of those before it.
        let mut random = Random::new(self.seed, self.stream);
        self.stream += 1;
        let values = match role {
            Role::Table | Role::Linear => random.normal(len, self.deviation),
            Role::Residual => random.normal(len, self.residual),
            Role::Norm => vec![1.0; len],
            Role::Bias => vec![0.0; len],
        };
        Ok(Tensor::f32(name, shape, values))
    }
}
