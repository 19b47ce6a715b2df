//! Products of blocks that stay in the caches, for kernels that combine several of them.

use std::ops::Range;

use super::driver::tiles;
use super::pack::{self, Format, Operand, Piece};
use super::tile::Tiles;
use super::{Precision, Weight};
use crate::level::Level;

/// How blocks are packed and multiplied on this processor.
#[derive(Clone, Copy)]
pub(crate) struct BlockProduct {
    level: Level,
    format: Format,
    tiles: Tiles,
}

/// A block in memory: element `(line, k)` at `line * stride + k` where it lies along `k`, else at `k * stride + line`.
#[derive(Clone, Copy)]
pub(crate) struct Block<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) stride: usize,
    pub(crate) along_k: bool,
    pub(crate) lines: usize,
    pub(crate) k: usize,
}

impl BlockProduct {
    pub(crate) fn new(precision: Precision) -> Self {
        let (level, format) = pack::choose(precision);
        Self { level, format, tiles: tiles(level, format) }
    }

    pub(crate) fn level(&self) -> Level {
        self.level
    }

    /// A good number of rows for a block of A.
    pub(crate) fn rows(&self) -> usize {
        8 * self.tiles.rows
    }

    /// Words that a packed block of at most `lines` lines over at most `k` takes.
    pub(crate) fn words(&self, lines: usize, k: usize) -> usize {
        lines.next_multiple_of(self.tiles.lane) * self.format.steps(k)
    }

    /// Packs the left factor `(lines, k)`.
    pub(crate) fn pack_left(&self, block: Block, packed: &mut [u32]) {
        self.pack(block, self.tiles.rows, |lines| lines, packed);
    }

    /// Packs the right factor `(k, lines)`.
    pub(crate) fn pack_right(&self, block: Block, packed: &mut [u32]) {
        self.pack(block, self.tiles.cols, |lines| lines.next_multiple_of(self.tiles.lane), packed);
    }

    fn pack(&self, block: Block, panel: usize, width: impl Fn(usize) -> usize, packed: &mut [u32]) {
        let operand =
            Operand { values: Weight::F32(block.values), stride: block.stride, along_k: block.along_k };
        let steps = self.format.steps(block.k);
        for line in (0..block.lines).step_by(panel) {
            let lines = panel.min(block.lines - line);
            let width = width(lines);
            let piece = Piece { line, lines, k: 0, len: block.k };
            operand.pack(self.level, self.format, piece, width, &mut packed[line * steps..][..width * steps]);
        }
    }

    /// Computes `c = alpha * left right + beta * c`, `c (m, n)` with rows `stride` apart, tile by tile: a tile of `rows` rows from
    /// `i` and columns from `j` sums over `terms(i, rows, j)` of `k` only, and is left as it is where that is empty.
    ///
    /// # Safety
    ///
    /// `c` must be good for these elements, and nobody else may use them meanwhile.
    pub(crate) unsafe fn multiply(
        &self,
        (m, n, k): (usize, usize, usize),
        alpha: f32,
        left: &[u32],
        right: &[u32],
        beta: f32,
        c: *mut f32,
        stride: usize,
        terms: impl Fn(usize, usize, usize) -> Range<usize>,
    ) {
        let steps = self.format.steps(k);
        for j in (0..n).step_by(self.tiles.cols) {
            let width = self.tiles.width(n, j);
            let right = &right[j * steps..][..width * steps];
            for i in (0..m).step_by(self.tiles.rows) {
                let rows = self.tiles.rows.min(m - i);
                let left = &left[i * steps..][..rows * steps];
                let terms = terms(i, rows, j);
                if terms.is_empty() {
                    continue;
                }
                // A step of two terms is taken whole; the panels hold 0 where a caller leaves terms out.
                let (from, to) = (self.format.steps(terms.start + 1) - 1, self.format.steps(terms.end));
                let (left, right) = (&left[from * rows..to * rows], &right[from * width..to * width]);
                let tile = self.tiles.tile(rows, width);
                // SAFETY: the panels have the sizes of the tile; the tile of C is promised by the caller.
                unsafe {
                    let c = c.add(i * stride + j);
                    tile(to - from, left.as_ptr(), right.as_ptr(), c, stride, alpha, beta, width.min(n - j));
                }
            }
        }
    }
}
