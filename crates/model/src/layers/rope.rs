//! Tables of rotary angles, and where the tokens of a batch stand.

use taiyi_kernels::{self as kernels, RopeShape, RopeStyle};

use crate::config::{BlockShape, Positions, Rope, RopeLayout};

/// Cosines and sines (positions, rotary_dim / 2) for one base.
struct Table {
    rope: Rope,
    alpha: u32,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

/// Every table in use; tables are made when first needed and kept.
#[derive(Default)]
pub(crate) struct RopeTables(Vec<Table>);

/// A run of tokens that share a table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    pub(crate) begin: usize,
    pub(crate) end: usize,
    pub(crate) table: usize,
}

/// The tokens of one pass: where sequences begin, where tokens stand, and how queries and keys are turned.
pub(crate) struct Sequences<'a> {
    /// Shape (sequences + 1).
    pub(crate) cu_seqlens: &'a [u32],
    /// Shape (T).
    pub(crate) positions: &'a [u32],
    /// Places behind the prefix, for [`Positions::Rope2d`] only; shape (T).
    pub(crate) answer_positions: &'a [u32],
    /// How many leading tokens of each sequence see each other both ways; empty where there is no prefix.
    pub(crate) prefixes: &'a [u32],
    pub(crate) spans: &'a [Span],
    pub(crate) tables: &'a RopeTables,
    /// Factors of the queries (logn attention), shape (T), where any differs from 1.
    pub(crate) query_scale: Option<&'a [f32]>,
    /// ALiBi's factors, shape (H), where the model has them.
    pub(crate) slopes: Option<&'a [f32]>,
}

impl RopeTables {
    /// The table for a rope and an NTK alpha that covers positions `0..positions`.
    pub(crate) fn table(&mut self, rope: &Rope, alpha: u32, positions: usize) -> usize {
        let half = rope.rotary_dim / 2;
        let index = match self.0.iter().position(|t| t.rope == *rope && t.alpha == alpha) {
            Some(index) => index,
            None => {
                self.0.push(Table { rope: *rope, alpha, cos: Vec::new(), sin: Vec::new() });
                self.0.len() - 1
            }
        };
        let table = &mut self.0[index];
        if table.cos.len() < positions * half {
            table.fill(positions.next_power_of_two());
        }
        index
    }

    pub(crate) fn bytes(&self) -> usize {
        self.0.iter().map(|t| 4 * (t.cos.len() + t.sin.len())).sum()
    }
}

impl Table {
    fn fill(&mut self, positions: usize) {
        let dim = self.rope.rotary_dim as f64;
        let base = self.rope.theta
            * f64::from(self.alpha).powf(if self.alpha == 1 { 0.0 } else { dim / (dim - 2.0) });
        // Frequencies and angles are rounded to f32 as the reference implementations do; at position 10,000 an angle kept in
        // f64 would differ from theirs by more than their rounding noise.
        let frequencies: Vec<f32> = (0..self.rope.rotary_dim / 2)
            .map(|i| {
                let frequency = self.rope.scaling.of_frequency(base.powf(-2.0 * i as f64 / dim)) as f32;
                if self.rope.half_precision { half::f16::from_f32(frequency).to_f32() } else { frequency }
            })
            .collect();
        self.cos.clear();
        self.sin.clear();
        for position in 0..positions {
            for frequency in &frequencies {
                let (sin, cos) = f64::from(position as f32 * frequency).sin_cos();
                self.cos.push(cos as f32);
                self.sin.push(sin as f32);
            }
        }
    }
}

impl Sequences<'_> {
    pub(crate) fn tokens(&self) -> usize {
        self.positions.len()
    }

    /// Turns `x` (T, heads, head_dim) in place; `inverse` turns back, which is the gradient.
    pub(crate) fn rotate(&self, shape: &BlockShape, heads: usize, inverse: bool, x: &mut [f32]) {
        let (rope, second) = match &shape.positions {
            Positions::Rope(rope) => (rope, None),
            Positions::Rope2d(rope) => (rope, Some(self.answer_positions)),
            Positions::Learned { .. } | Positions::Alibi => return,
        };
        let width = heads * shape.head_dim;
        let first = RopeShape {
            style: match rope.layout {
                RopeLayout::HalfSplit => RopeStyle::HalfSplit,
                RopeLayout::Interleaved => RopeStyle::Interleaved,
            },
            heads,
            head_dim: shape.head_dim,
            offset: 0,
            rotary_dim: rope.rotary_dim,
        };
        for span in self.spans {
            let table = &self.tables.0[span.table];
            let x = &mut x[span.begin * width..span.end * width];
            let tokens = span.begin..span.end;
            kernels::rope(&first, &self.positions[tokens.clone()], &table.cos, &table.sin, inverse, x);
            if let Some(positions) = second {
                let shape = RopeShape { offset: shape.head_dim / 2, ..first };
                kernels::rope(&shape, &positions[tokens], &table.cos, &table.sin, inverse, x);
            }
        }
    }

    /// Multiplies the queries (T, heads * head_dim) by their logn factors.
    pub(crate) fn scale_queries(&self, width: usize, query: &mut [f32]) {
        let Some(factors) = self.query_scale else { return };
        for (row, factor) in query.chunks_mut(width).zip(factors) {
            if *factor != 1.0 {
                row.iter_mut().for_each(|q| *q *= factor);
            }
        }
    }
}
