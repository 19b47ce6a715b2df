//! Blocking for the caches, and the division of one product among threads.
//!
//! Sums over `k` are cut into blocks whose size follows from `k` alone; each block is summed in registers and added to
//! the output. Neither the other sizes nor the threads change that.

use std::ops::Range;

use super::pack::{Format, Operand, Piece};
use super::tile::{SCALAR, Tiles};
use crate::level::Level;
use crate::scratch::{self, Slot};
use crate::threads::{Parts, parallel, threads};

/// Packed words of one line in a block of `k`: a panel of A of this length takes a good half of a first-level cache.
const BLOCK_STEPS: usize = 512;

/// Packed words of the panels that all threads share: 4 MiB, a part of the last-level cache.
const SHARED_WORDS: usize = 1 << 20;

/// Packed words of the panels of B that one thread uses again and again: 512 KiB, half of a second-level cache.
const GROUP_WORDS: usize = 1 << 17;

/// Products of fewer multiplications stay on the calling thread: they take less time than waking another.
const SERIAL_PRODUCTS: usize = 64 * 1024;

/// Rows of A up to which B is not packed as a whole: every thread packs the panels of its own columns and uses each at once.
const FEW_ROWS: usize = 112;

/// The tiles for packed words of a format.
pub(super) fn tiles(level: Level, format: Format) -> Tiles {
    match (level, format) {
        #[cfg(target_arch = "x86_64")]
        (Level::Avx512, Format::Pairs) => super::tile::AVX512_DOT,
        #[cfg(target_arch = "x86_64")]
        (Level::Avx512, _) => super::tile::AVX512,
        #[cfg(target_arch = "x86_64")]
        (Level::Avx2, _) => super::tile::AVX2,
        _ => SCALAR,
    }
}

/// One product `C = alpha A B + beta C`: `m` lines of `a`, `n` lines of `b`, sums over `k`; `c (m, n)`.
pub(super) struct Product<'a> {
    pub(super) level: Level,
    pub(super) format: Format,
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) alpha: f32,
    pub(super) a: Operand<'a>,
    pub(super) b: Operand<'a>,
    pub(super) beta: f32,
}

impl Product<'_> {
    pub(super) fn run(&self, c: &mut [f32]) {
        if self.m == 0 || self.n == 0 {
            return;
        }
        if self.k == 0 {
            match self.beta {
                0.0 => c.fill(0.0),
                beta => c.iter_mut().for_each(|c| *c *= beta),
            }
            return;
        }
        let c = Parts::new(c);
        if self.m <= FEW_ROWS { self.by_columns(&c) } else { self.by_rows(&c) }
    }

    /// Elements of `k` in a block: a multiple of 64, so that blocks of NF4 are rarely cut.
    fn block(&self) -> usize {
        let most = if self.format == Format::Pairs { 2 * BLOCK_STEPS } else { BLOCK_STEPS };
        let blocks = self.k.div_ceil(most);
        self.k.div_ceil(blocks).next_multiple_of(64)
    }

    /// The factor of C for the block of `k` that starts at `k`.
    fn beta_at(&self, k: usize) -> f32 {
        if k == 0 { self.beta } else { 1.0 }
    }

    /// Few rows: A is packed once, each task packs one panel of B after the other and uses it for all rows.
    fn by_columns(&self, c: &Parts<f32>) {
        let tiles = tiles(self.level, self.format);
        let block = self.block();
        let panels = self.n.div_ceil(tiles.cols);
        let steps = self.format.steps(block);
        // The panels of A for a group of blocks stay in the second-level cache.
        let group = block * (SHARED_WORDS / 8 / (steps * self.m)).max(1);
        let tasks = if self.m * self.n * self.k <= SERIAL_PRODUCTS { 1 } else { panels.min(8 * threads()) };
        for k0 in (0..self.k).step_by(group) {
            let k_group = k0..self.k.min(k0 + group);
            let words = self.m * self.format.steps(k_group.len().next_multiple_of(64));
            scratch::with::<u32, _>(Slot::SharedPack, words, |packed_a| {
                self.pack_rows(&tiles, 0..self.m, k_group.clone(), packed_a);
                let packed_a = &*packed_a;
                parallel(tasks, |task| {
                    for panel in panels * task / tasks..panels * (task + 1) / tasks {
                        self.column_panel(&tiles, panel * tiles.cols, k_group.clone(), packed_a, c);
                    }
                });
            });
        }
    }

    /// All rows of C, the columns of one panel from `j`, one group of blocks of `k`.
    fn column_panel(&self, tiles: &Tiles, j: usize, k_group: Range<usize>, packed_a: &[u32], c: &Parts<f32>) {
        let width = tiles.width(self.n, j);
        let lines = width.min(self.n - j);
        let block = self.block();
        #[cfg(target_arch = "x86_64")]
        if self.level == Level::Avx512
            && self.b.along_k
            && self.m <= super::few_avx512::most_rows(&self.b.values)
        {
            let mut packed_a = packed_a;
            for k in k_group.step_by(block) {
                let len = block.min(self.k - k);
                let words = self.m * self.format.steps(len);
                let piece = Piece { line: j, lines, k, len };
                // SAFETY: the rows and these columns of C exist, and belong to this task alone.
                unsafe {
                    super::few_avx512::block(
                        &self.b,
                        self.format,
                        piece,
                        self.m,
                        &packed_a[..words],
                        c.pointer(j),
                        self.n,
                        self.alpha,
                        self.beta_at(k),
                    );
                }
                packed_a = &packed_a[words..];
            }
            return;
        }
        scratch::with::<u32, _>(Slot::OwnPack, self.format.steps(block) * width, |panel_b| {
            let mut done = 0;
            for k in k_group.clone().step_by(block) {
                let len = block.min(k_group.end - k);
                let steps = self.format.steps(len);
                let panel_b = &mut panel_b[..steps * width];
                self.b.pack(self.level, self.format, Piece { line: j, lines, k, len }, width, panel_b);
                self.tile_rows(tiles, 0..self.m, j, k, steps, &packed_a[self.m * done..], panel_b, c);
                done += steps;
            }
        });
    }

    /// Many rows: B is packed by all threads into shared panels, then each task packs some rows of A and uses all panels.
    fn by_rows(&self, c: &Parts<f32>) {
        let tiles = tiles(self.level, self.format);
        let block = self.block();
        let steps = self.format.steps(block);
        let blocks = self.k.div_ceil(block).min((SHARED_WORDS / (steps * self.n)).max(2));
        let group = block * blocks;
        let columns = (SHARED_WORDS / (steps * blocks) / tiles.cols).max(1) * tiles.cols;

        // Tasks small enough to even out what the threads lose to other processes, large enough to use a panel of B well.
        let row_panels = self.m.div_ceil(tiles.rows);
        let task_panels = row_panels.div_ceil(4 * threads()).clamp(1, 16);
        let tasks = row_panels.div_ceil(task_panels);

        for j0 in (0..self.n).step_by(columns) {
            let j_range = j0..self.n.min(j0 + columns);
            let packed_width = j_range.len().next_multiple_of(tiles.lane);
            let panels = j_range.len().div_ceil(tiles.cols);
            for k0 in (0..self.k).step_by(group) {
                let k_group = k0..self.k.min(k0 + group);
                let group_blocks = k_group.len().div_ceil(block);
                scratch::with::<u32, _>(Slot::SharedPack, group_blocks * steps * packed_width, |packed_b| {
                    let shared = Parts::new(packed_b);
                    // Panel p of block b starts at (b * packed_width + p * tile columns) * steps.
                    let start = |b: usize, panel: usize| (b * packed_width + panel * tiles.cols) * steps;
                    // A task is a panel where panels are contiguous in memory, else a strip of all panels.
                    let block_strips = strips(self.b.along_k, block).count();
                    let block_tasks = if self.b.along_k { panels } else { block_strips };
                    parallel(group_blocks * block_tasks, |task| {
                        let (b, part) = (task / block_tasks, task % block_tasks);
                        let k = k0 + b * block;
                        let len = block.min(k_group.end - k);
                        let panel_range = if self.b.along_k { part..part + 1 } else { 0..panels };
                        let strip = if self.b.along_k { Some(0..len) } else { strips(false, len).nth(part) };
                        let Some(strip) = strip else { return };
                        for panel in panel_range {
                            let j = j0 + panel * tiles.cols;
                            let width = tiles.width(j_range.end, j);
                            let lines = width.min(j_range.end - j);
                            let (from, to) = (self.format.steps(strip.start), self.format.steps(strip.end));
                            // SAFETY: this piece of the panel belongs to this task.
                            let target =
                                unsafe { shared.part(start(b, panel) + from * width, (to - from) * width) };
                            let piece = Piece { line: j, lines, k: k + strip.start, len: strip.len() };
                            self.b.pack(self.level, self.format, piece, width, target);
                        }
                    });
                    let packed_b = &*packed_b;
                    parallel(tasks, |task| {
                        let first = task * task_panels * tiles.rows;
                        let rows = first..self.m.min(first + task_panels * tiles.rows);
                        scratch::with::<u32, _>(Slot::OwnPack, steps * rows.len(), |packed_a| {
                            for (b, k) in k_group.clone().step_by(block).enumerate() {
                                let len = block.min(k_group.end - k);
                                let steps = self.format.steps(len);
                                self.pack_rows(&tiles, rows.clone(), k..k + len, packed_a);
                                let packed_b = &packed_b[start(b, 0)..];
                                self.tile_block(
                                    &tiles,
                                    rows.clone(),
                                    j_range.clone(),
                                    k,
                                    steps,
                                    packed_a,
                                    packed_b,
                                    c,
                                );
                            }
                        });
                    });
                });
            }
        }
    }

    /// The tiles of `rows` and `columns` for one block of `k`.
    ///
    /// The panels of B are used in groups that stay in the second-level cache; within a group a panel of A stays in the
    /// first and C is written along its rows.
    fn tile_block(
        &self,
        tiles: &Tiles,
        rows: Range<usize>,
        columns: Range<usize>,
        k: usize,
        steps: usize,
        packed_a: &[u32],
        packed_b: &[u32],
        c: &Parts<f32>,
    ) {
        let full_steps = self.format.steps(self.block());
        let group = (GROUP_WORDS / (full_steps * tiles.cols)).max(1) * tiles.cols;
        for j_group in columns.clone().step_by(group) {
            for i in rows.clone().step_by(tiles.rows) {
                let lines = tiles.rows.min(rows.end - i);
                let panel_a = &packed_a[steps * (i - rows.start)..][..steps * lines];
                for j in (j_group..columns.end.min(j_group + group)).step_by(tiles.cols) {
                    let width = tiles.width(columns.end, j);
                    let panel_b = &packed_b[full_steps * (j - columns.start)..][..steps * width];
                    self.tile_rows(tiles, i..i + lines, j, k, steps, panel_a, panel_b, c);
                }
            }
        }
    }

    /// Packs rows of A, block after block of `k`, panel after panel.
    fn pack_rows(&self, tiles: &Tiles, rows: Range<usize>, k_group: Range<usize>, packed: &mut [u32]) {
        let block = self.block();
        let mut packed = packed;
        for k in k_group.clone().step_by(block) {
            let len = block.min(k_group.end - k);
            let steps = self.format.steps(len);
            let (here, rest) = packed.split_at_mut(steps * rows.len());
            for strip in strips(self.a.along_k, len) {
                for line in rows.clone().step_by(tiles.rows) {
                    let lines = tiles.rows.min(rows.end - line);
                    let panel = &mut here[steps * (line - rows.start)..][..steps * lines];
                    let target = &mut panel
                        [self.format.steps(strip.start) * lines..self.format.steps(strip.end) * lines];
                    let piece = Piece { line, lines, k: k + strip.start, len: strip.len() };
                    self.a.pack(self.level, self.format, piece, lines, target);
                }
            }
            packed = rest;
        }
    }

    /// The tiles of `rows` with one panel of B, whose first column is `j`.
    fn tile_rows(
        &self,
        tiles: &Tiles,
        rows: Range<usize>,
        j: usize,
        k: usize,
        steps: usize,
        packed_a: &[u32],
        panel_b: &[u32],
        c: &Parts<f32>,
    ) {
        let width = panel_b.len() / steps;
        let cols = width.min(self.n - j);
        let mut at = 0;
        for i in rows.clone().step_by(tiles.rows) {
            let lines = tiles.rows.min(rows.end - i);
            let panel_a = &packed_a[at..at + steps * lines];
            at += panel_a.len();
            let target = c.pointer(i * self.n + j);
            let tile = tiles.tile(lines, width);
            // SAFETY: the panels have `steps` steps of `lines` and `width` words; rows i..i + lines and columns
            // j..j + cols of C exist, and belong to this task alone.
            unsafe {
                tile(
                    steps,
                    panel_a.as_ptr(),
                    panel_b.as_ptr(),
                    target,
                    self.n,
                    self.alpha,
                    self.beta_at(k),
                    cols,
                );
            }
        }
    }
}

/// The pieces of a block of `k` in which it is packed: rows of memory that hold many lines are read once, from end to end.
fn strips(along_k: bool, len: usize) -> impl Iterator<Item = Range<usize>> {
    const STRIP: usize = 32;
    let strip = if along_k { len } else { STRIP };
    (0..len).step_by(strip).map(move |from| from..len.min(from + strip))
}
