//! The innermost products: a tile of `C += A B` from one packed panel of A and one of B.
//!
//! A tile sums each of its outputs in one register lane, step after step. That makes an output independent of the tile
//! it falls into, and so of how many rows are computed together.

/// Computes `c = alpha * (a b) + beta * c` for a tile of `MR` rows and `cols` columns of `c` (row stride `ldc`).
///
/// `a` holds `steps * MR` and `b` `steps * width` packed words; `c` is not read when `beta` is 0.
///
/// # Safety
///
/// The pointers must be good for these sizes, and the processor must have the level of the tile.
pub(super) type Tile = unsafe fn(
    steps: usize,
    a: *const u32,
    b: *const u32,
    c: *mut f32,
    ldc: usize,
    alpha: f32,
    beta: f32,
    cols: usize,
);

/// Register tiles of one instruction set.
#[derive(Clone, Copy)]
pub(super) struct Tiles {
    /// Rows of a full tile.
    pub(super) rows: usize,
    /// Columns of a full tile.
    pub(super) cols: usize,
    /// Columns of a vector: the last panel is as wide as the vectors it needs.
    pub(super) lane: usize,
    /// `table[vectors - 1][rows - 1]`.
    table: &'static [&'static [Tile]],
}

impl Tiles {
    /// The tile of `rows` rows and a panel of `width` columns.
    pub(super) fn tile(&self, rows: usize, width: usize) -> Tile {
        self.table[width / self.lane - 1][rows - 1]
    }

    /// Columns that the panel from `first` of `n` columns occupies when packed.
    pub(super) fn width(&self, n: usize, first: usize) -> usize {
        (n - first).min(self.cols).next_multiple_of(self.lane)
    }
}

pub(super) const SCALAR: Tiles =
    Tiles { rows: 4, cols: 16, lane: 16, table: &[&[scalar::<1>, scalar::<2>, scalar::<3>, scalar::<4>]] };

/// The plain tile; the arrays are small enough for any compiler to keep in registers.
///
/// # Safety
///
/// See [`Tile`].
unsafe fn scalar<const MR: usize>(
    steps: usize,
    a: *const u32,
    b: *const u32,
    c: *mut f32,
    ldc: usize,
    alpha: f32,
    beta: f32,
    cols: usize,
) {
    // SAFETY: promised by the caller.
    let (a, b) = unsafe {
        (
            std::slice::from_raw_parts(a.cast::<f32>(), steps * MR),
            std::slice::from_raw_parts(b.cast::<f32>(), steps * 16),
        )
    };
    let mut sums = [[0.0_f32; 16]; MR];
    for (a, b) in a.chunks_exact(MR).zip(b.chunks_exact(16)) {
        for (sums, a) in sums.iter_mut().zip(a) {
            for (sum, b) in sums.iter_mut().zip(b) {
                *sum += a * b;
            }
        }
    }
    for (i, sums) in sums.iter().enumerate() {
        for (j, sum) in sums.iter().enumerate().take(cols) {
            // SAFETY: row i and column j lie in the tile.
            let c = unsafe { &mut *c.add(i * ldc + j) };
            *c = alpha * sum + if beta == 0.0 { 0.0 } else { beta * *c };
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{AVX2, AVX512, AVX512_DOT};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Tile, Tiles};

    macro_rules! tiles512 {
        ($name:ident, $features:literal, |$sum:ident, $a:ident, $b:ident| $product:expr) => {
            /// # Safety
            ///
            /// See [`Tile`].
            #[target_feature(enable = $features)]
            unsafe fn $name<const MR: usize, const NV: usize>(
                steps: usize,
                mut a: *const u32,
                mut b: *const u32,
                c: *mut f32,
                ldc: usize,
                alpha: f32,
                beta: f32,
                cols: usize,
            ) {
                // SAFETY: the caller promises the sizes of a, b and c; masks keep to the columns of the tile.
                unsafe {
                    // The outputs are on their way while the products are computed.
                    for i in 0..MR {
                        for v in 0..NV {
                            _mm_prefetch::<_MM_HINT_T0>(c.wrapping_add(i * ldc + 16 * v).cast());
                        }
                    }
                    let mut sums = [[_mm512_setzero_ps(); NV]; MR];
                    for _ in 0..steps {
                        let mut bs = [_mm512_setzero_si512(); NV];
                        for v in 0..NV {
                            bs[v] = _mm512_loadu_si512(b.add(16 * v).cast());
                        }
                        for i in 0..MR {
                            let $a = _mm512_set1_epi32(*a.add(i) as i32);
                            for v in 0..NV {
                                let ($sum, $b) = (sums[i][v], bs[v]);
                                sums[i][v] = $product;
                            }
                        }
                        a = a.add(MR);
                        b = b.add(16 * NV);
                    }
                    let alpha = _mm512_set1_ps(alpha);
                    for v in 0..NV {
                        let here = cols.saturating_sub(16 * v).min(16);
                        let mask = ((1_u32 << here) - 1) as u16;
                        for i in 0..MR {
                            let c = c.add(i * ldc + 16 * v);
                            let mut value = _mm512_mul_ps(alpha, sums[i][v]);
                            if beta != 0.0 {
                                value = _mm512_fmadd_ps(
                                    _mm512_set1_ps(beta),
                                    _mm512_maskz_loadu_ps(mask, c),
                                    value,
                                );
                            }
                            if mask == 0xffff {
                                _mm512_storeu_ps(c, value);
                            } else {
                                _mm512_mask_storeu_ps(c, mask, value);
                            }
                        }
                    }
                }
            }
        };
    }

    tiles512!(avx512, "avx512f", |sum, a, b| _mm512_fmadd_ps(
        _mm512_castsi512_ps(a),
        _mm512_castsi512_ps(b),
        sum
    ));
    tiles512!(avx512_dot, "avx512f,avx512bf16", |sum, a, b| _mm512_dpbf16_ps(
        sum,
        std::mem::transmute::<__m512i, __m512bh>(a),
        std::mem::transmute::<__m512i, __m512bh>(b)
    ));

    /// # Safety
    ///
    /// See [`Tile`].
    #[target_feature(enable = "avx2,fma")]
    unsafe fn avx2<const MR: usize, const NV: usize>(
        steps: usize,
        a: *const u32,
        b: *const u32,
        c: *mut f32,
        ldc: usize,
        alpha: f32,
        beta: f32,
        cols: usize,
    ) {
        // SAFETY: the caller promises the sizes of a, b and c.
        unsafe {
            let (mut a, mut b) = (a.cast::<f32>(), b.cast::<f32>());
            let mut sums = [[_mm256_setzero_ps(); NV]; MR];
            for _ in 0..steps {
                let mut bs = [_mm256_setzero_ps(); NV];
                for v in 0..NV {
                    bs[v] = _mm256_loadu_ps(b.add(8 * v));
                }
                for i in 0..MR {
                    let a = _mm256_broadcast_ss(&*a.add(i));
                    for v in 0..NV {
                        sums[i][v] = _mm256_fmadd_ps(a, bs[v], sums[i][v]);
                    }
                }
                a = a.add(MR);
                b = b.add(8 * NV);
            }
            let alpha = _mm256_set1_ps(alpha);
            for i in 0..MR {
                for v in 0..NV {
                    let c = c.wrapping_add(i * ldc + 8 * v);
                    let here = cols.saturating_sub(8 * v).min(8);
                    let mut old = [0.0_f32; 8];
                    let mut value = _mm256_mul_ps(alpha, sums[i][v]);
                    if beta != 0.0 {
                        std::ptr::copy_nonoverlapping(c, old.as_mut_ptr(), here);
                        value = _mm256_fmadd_ps(_mm256_set1_ps(beta), _mm256_loadu_ps(old.as_ptr()), value);
                    }
                    if here == 8 {
                        _mm256_storeu_ps(c, value);
                    } else {
                        _mm256_storeu_ps(old.as_mut_ptr(), value);
                        std::ptr::copy_nonoverlapping(old.as_ptr(), c, here);
                    }
                }
            }
        }
    }

    macro_rules! row {
        ($tile:ident, $nv:literal, $($mr:literal)*) => { &[$($tile::<$mr, $nv> as Tile),*] };
    }

    /// 28 sums, 2 vectors of B and one broadcast element of A fill 31 of the 32 registers.
    pub(in super::super) const AVX512: Tiles = Tiles {
        rows: 14,
        cols: 32,
        lane: 16,
        table: &[
            row!(avx512, 1, 1 2 3 4 5 6 7 8 9 10 11 12 13 14),
            row!(avx512, 2, 1 2 3 4 5 6 7 8 9 10 11 12 13 14),
        ],
    };

    /// As [`AVX512`], for pairs of bf16.
    pub(in super::super) const AVX512_DOT: Tiles = Tiles {
        table: &[
            row!(avx512_dot, 1, 1 2 3 4 5 6 7 8 9 10 11 12 13 14),
            row!(avx512_dot, 2, 1 2 3 4 5 6 7 8 9 10 11 12 13 14),
        ],
        ..AVX512
    };

    /// 12 sums, 2 vectors of B and one broadcast element of A fill 15 of the 16 registers.
    pub(in super::super) const AVX2: Tiles = Tiles {
        rows: 6,
        cols: 16,
        lane: 8,
        table: &[row!(avx2, 1, 1 2 3 4 5 6), row!(avx2, 2, 1 2 3 4 5 6)],
    };
}
