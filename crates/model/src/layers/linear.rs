//! A linear layer: weight in any storage, optional bias, optional low-rank adapter (LoRA, rsLoRA, DoRA).
//!
//! With `x` (m, in), `W` (out, in), `A` (r, in), `B` (out, r):
//!
//! ```text
//! y = x W^T + b + s * drop(x) A^T B^T                          LoRA (Hu et al., 2021, eq. 3)
//! y = g * (x W^T + s * drop(x) A^T B^T) + b                    DoRA (Liu et al., 2024), g = m / ||W + s B A||_row
//! ```
//!
//! The adapter is evaluated on the activation side: no dense `B A` is formed, and a frozen `W` gets no gradient.

use std::sync::OnceLock;

use taiyi_kernels::{self as kernels, Dropout, Precision, Weight};

use super::{
    tensor::Tensor,
    workspace::{AdapterScratch, grow},
};

/// What one pass through the network needs to know in every layer.
#[derive(Clone, Copy)]
pub(crate) struct Run {
    pub(crate) precision: Precision,
    /// Seed of the adapters' dropout; `None` in evaluation.
    pub(crate) dropout: Option<u64>,
}

/// The matrix shape and tensors of one linear layer.
pub(crate) struct Linear {
    pub(crate) weight: Tensor,
    pub(crate) bias: Option<Tensor>,
    pub(crate) adapter: Option<Adapter>,
}

/// A low-rank pair beside a weight.
pub(crate) struct Adapter {
    /// Shape (r, in).
    pub(crate) a: Tensor,
    /// Shape (out, r).
    pub(crate) b: Tensor,
    /// DoRA's magnitudes, shape (out).
    pub(crate) magnitude: Option<Tensor>,
    /// `alpha / r`, or `alpha / sqrt(r)` for rsLoRA.
    pub(crate) scaling: f32,
    /// Probability that an input of `A` is dropped in training.
    pub(crate) dropout: f32,
    /// Names this adapter's part of the dropout random stream.
    pub(crate) stream: u64,
    /// Row norms of `W + s B A`; they hold until a parameter is handed out for writing.
    pub(crate) row_norms: OnceLock<Vec<f32>>,
}

/// What the forward pass of one linear layer keeps for its backward pass.
#[derive(Default)]
pub(crate) struct LinearSaved {
    /// `drop(x) A^T`, shape (m, r).
    low_rank: Vec<f32>,
    /// DoRA only: `x W^T + s * drop(x) A^T B^T`, shape (m, out).
    product: Vec<f32>,
}

impl LinearSaved {
    pub(crate) fn bytes(&self) -> usize {
        4 * (self.low_rank.len() + self.product.len())
    }
}

/// Where the gradient of a layer's input goes.
pub(crate) enum InputGradient<'a> {
    /// Nothing below is trainable.
    Unneeded,
    /// Overwrites.
    Set(&'a mut [f32]),
    /// Adds to what is there.
    Add(&'a mut [f32]),
}

impl Adapter {
    pub(crate) fn rank(&self) -> usize {
        self.a.shape[0]
    }

    fn dropout(&self, run: &Run) -> Option<Dropout> {
        let seed = run.dropout.filter(|_| self.dropout > 0.0)?;
        Some(Dropout { seed, stream: self.stream, probability: self.dropout, first: 0 })
    }

    /// `||W + s B A||` of every row, shape (out); computed in chunks of rows so that no second dense matrix appears.
    fn row_norms(&self, weight: &Tensor) -> &[f32] {
        self.row_norms.get_or_init(|| {
            let (rows, cols) = (weight.shape[0], weight.shape[1]);
            let mut dense = weight.dense();
            let b = self.b.values();
            let rank = self.rank();
            let mut norms = Vec::with_capacity(rows);
            for (w, b) in dense.chunks_mut(256 * cols).zip(b.chunks(256 * rank)) {
                add_low_rank(w, b, self.a.values(), rank, cols, self.scaling);
                norms.extend(
                    w.chunks(cols).map(|row| {
                        row.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt() as f32
                    }),
                );
            }
            norms
        })
    }
}

/// `w += s * B A` for a chunk of rows: w (rows, cols), b (rows, rank), a (rank, cols).
pub(crate) fn add_low_rank(w: &mut [f32], b: &[f32], a: &[f32], rank: usize, cols: usize, scaling: f32) {
    let rows = b.len() / rank;
    kernels::linear_input_gradient(Precision::F32, rows, rank, cols, scaling, b, &Weight::F32(a), 1.0, w);
}

impl Linear {
    pub(crate) fn out_features(&self) -> usize {
        self.weight.shape[0]
    }

    pub(crate) fn in_features(&self) -> usize {
        self.weight.shape[1]
    }

    /// Name of the module: the weight's name without its ending.
    pub(crate) fn module(&self) -> &str {
        self.weight.name.strip_suffix(".weight").unwrap_or(&self.weight.name)
    }

    /// Whether anything of this layer learns.
    pub(crate) fn is_trainable(&self) -> bool {
        self.weight.is_trainable()
            || self.bias.as_ref().is_some_and(Tensor::is_trainable)
            || self.adapter.as_ref().is_some_and(|a| a.a.is_trainable())
    }

    /// Tensors in the order in which parameters are visited.
    pub(crate) fn visit<'a>(&'a mut self, f: &mut dyn FnMut(&'a mut Tensor)) {
        f(&mut self.weight);
        if let Some(bias) = &mut self.bias {
            f(bias);
        }
        if let Some(adapter) = &mut self.adapter {
            // The caller may write: what was computed from the values no longer holds.
            adapter.row_norms = OnceLock::new();
            f(&mut adapter.a);
            f(&mut adapter.b);
            if let Some(magnitude) = &mut adapter.magnitude {
                f(magnitude);
            }
        }
    }

    /// Tensors in the order of [`Linear::visit`].
    pub(crate) fn tensors<'a>(&'a self, f: &mut dyn FnMut(&'a Tensor)) {
        f(&self.weight);
        self.bias.as_ref().map(&mut *f);
        if let Some(adapter) = &self.adapter {
            f(&adapter.a);
            f(&adapter.b);
            adapter.magnitude.as_ref().map(&mut *f);
        }
    }

    /// Computes `y` (m, out) from `x` (m, in).
    pub(crate) fn forward(
        &self,
        run: &Run,
        m: usize,
        x: &[f32],
        y: &mut [f32],
        saved: &mut LinearSaved,
        scratch: &mut AdapterScratch,
    ) {
        let (n, k) = (self.out_features(), self.in_features());
        kernels::linear(run.precision, m, n, k, 1.0, x, &self.weight.weight(), 0.0, y);
        if let Some(adapter) = &self.adapter {
            let r = adapter.rank();
            let low = adapter.low_rank(run, m, k, x, saved, scratch);
            kernels::linear(run.precision, m, n, r, adapter.scaling, low, &adapter.b.weight(), 1.0, y);
            if let Some(magnitude) = &adapter.magnitude {
                grow(&mut saved.product, m * n).copy_from_slice(y);
                let norms = adapter.row_norms(&self.weight);
                for row in y.chunks_mut(n) {
                    for ((v, m), norm) in row.iter_mut().zip(magnitude.values()).zip(norms) {
                        *v *= m / norm;
                    }
                }
            }
        }
        if let Some(bias) = &self.bias {
            kernels::add_bias(bias.values(), y);
        }
    }

    /// Computes what [`Linear::forward`] saves, without its output; `spare` (m, out) may be written.
    pub(crate) fn remember(
        &self,
        run: &Run,
        m: usize,
        x: &[f32],
        spare: &mut [f32],
        saved: &mut LinearSaved,
        scratch: &mut AdapterScratch,
    ) {
        match &self.adapter {
            None => {}
            Some(adapter) if adapter.magnitude.is_some() => self.forward(run, m, x, spare, saved, scratch),
            Some(adapter) => {
                adapter.low_rank(run, m, self.in_features(), x, saved, scratch);
            }
        }
    }

    /// Adds to the gradients of what is trainable and computes the gradient of the input.
    ///
    /// `x` (m, in) is the forward input, `dy` (m, out) the gradient of the output.
    pub(crate) fn backward(
        &mut self,
        run: &Run,
        m: usize,
        x: &[f32],
        dy: &[f32],
        dx: InputGradient<'_>,
        saved: &LinearSaved,
        scratch: &mut AdapterScratch,
    ) {
        let (n, k) = (self.out_features(), self.in_features());
        if let Some(grad) = self.bias.as_mut().and_then(Tensor::grad) {
            kernels::bias_gradient(dy, grad);
        }
        if let Some(grad) = self.weight.grad() {
            kernels::linear_weight_gradient(run.precision, m, n, k, 1.0, dy, x, 1.0, grad);
        }
        let Linear { weight, adapter, .. } = self;
        // Taken out of the scratch, because the adapter's own buffers lie there too.
        let mut scaled = std::mem::take(&mut scratch.scaled);
        let dy = match adapter.as_mut().filter(|a| a.magnitude.is_some()) {
            Some(adapter) => {
                let scaled = grow(&mut scaled, m * n);
                scaled.copy_from_slice(dy);
                adapter.scale_by_magnitude(weight, scaled, &saved.product);
                &*scaled
            }
            None => dy,
        };
        let mut dx = match dx {
            InputGradient::Unneeded => None,
            InputGradient::Set(dx) => Some((dx, 0.0)),
            InputGradient::Add(dx) => Some((dx, 1.0)),
        };
        if let Some((dx, beta)) = &mut dx {
            kernels::linear_input_gradient(run.precision, m, n, k, 1.0, dy, &weight.weight(), *beta, dx);
        }
        if let Some(adapter) = adapter {
            adapter.backward(
                run,
                m,
                n,
                k,
                x,
                dy,
                dx.map(|(dx, _)| dx),
                &saved.low_rank[..m * adapter.rank()],
                scratch,
            );
        }
        scratch.scaled = scaled;
    }
}

impl Adapter {
    /// DoRA: gradient of the magnitudes from `dy` and the saved product, then `dy *= g`. The row norm counts as a constant,
    /// as the paper's section 4.3 proposes and PEFT does.
    fn scale_by_magnitude(&mut self, weight: &Tensor, dy: &mut [f32], product: &[f32]) {
        let norms = self.row_norms(weight).to_vec();
        let Some(magnitude) = &mut self.magnitude else { return };
        let n = norms.len();
        if let Some(grad) = magnitude.grad() {
            let mut sums = vec![0.0f64; n];
            for (dy, z) in dy.chunks(n).zip(product.chunks(n)) {
                for ((sum, dy), z) in sums.iter_mut().zip(dy).zip(z) {
                    *sum += f64::from(*dy) * f64::from(*z);
                }
            }
            for ((grad, sum), norm) in grad.iter_mut().zip(&sums).zip(&norms) {
                *grad += (sum / f64::from(*norm)) as f32;
            }
        }
        for row in dy.chunks_mut(n) {
            for ((v, m), norm) in row.iter_mut().zip(magnitude.values()).zip(&norms) {
                *v *= m / norm;
            }
        }
    }

    /// `drop(x) A^T`, shape (m, r).
    fn low_rank<'a>(
        &self,
        run: &Run,
        m: usize,
        k: usize,
        x: &[f32],
        saved: &'a mut LinearSaved,
        scratch: &mut AdapterScratch,
    ) -> &'a [f32] {
        let r = self.rank();
        let input = match self.dropout(run) {
            Some(dropout) => {
                let dropped = grow(&mut scratch.dropped, m * k);
                kernels::dropout(&dropout, x, dropped);
                &*dropped
            }
            None => x,
        };
        let low = grow(&mut saved.low_rank, m * r);
        kernels::linear(run.precision, m, r, k, 1.0, input, &self.a.weight(), 0.0, low);
        low
    }

    /// With `u = drop(x) A^T`: `du = s dy B`, `dB += s dy^T u`, `dA += du^T drop(x)`, `dx += drop'(du A)`.
    fn backward(
        &mut self,
        run: &Run,
        m: usize,
        n: usize,
        k: usize,
        x: &[f32],
        dy: &[f32],
        dx: Option<&mut [f32]>,
        low_rank: &[f32],
        scratch: &mut AdapterScratch,
    ) {
        let r = self.rank();
        let dropout = self.dropout(run);
        let AdapterScratch { dropped, back, low_rank_gradient, .. } = scratch;
        let du = grow(low_rank_gradient, m * r);
        kernels::linear_input_gradient(run.precision, m, n, r, self.scaling, dy, &self.b.weight(), 0.0, du);
        if let Some(grad) = self.b.grad() {
            kernels::linear_weight_gradient(run.precision, m, n, r, self.scaling, dy, low_rank, 1.0, grad);
        }
        let input = match &dropout {
            Some(dropout) => {
                let dropped = grow(dropped, m * k);
                kernels::dropout(dropout, x, dropped);
                &*dropped
            }
            None => x,
        };
        if let Some(grad) = self.a.grad() {
            kernels::linear_weight_gradient(run.precision, m, r, k, 1.0, du, input, 1.0, grad);
        }
        let Some(dx) = dx else { return };
        match &dropout {
            Some(dropout) => {
                let (back, dropped) = (grow(back, m * k), grow(dropped, m * k));
                kernels::linear_input_gradient(run.precision, m, r, k, 1.0, du, &self.a.weight(), 0.0, back);
                kernels::dropout(dropout, back, dropped);
                kernels::add(dropped, dx);
            }
            None => {
                kernels::linear_input_gradient(run.precision, m, r, k, 1.0, du, &self.a.weight(), 1.0, dx)
            }
        }
    }
}
