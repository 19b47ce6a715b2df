//! A few rows of A with weights that lie along `k`: the weights go from memory to the products through registers, without a
//! packed panel in between, since every word of them is used only once or a few times.
//!
//! The sums are those of the tiles, term by term, so a row comes out the same whether few or many are computed.

use std::arch::x86_64::*;

use super::Weight;
use super::nf4_avx512;
use super::pack::{Format, Operand, Piece};
use super::pack_avx512::{F32, F32Rounded, Load, lane_mask, transpose};
use crate::nf4::{NF4_BLOCK, Nf4};

/// Most rows of A for which this way is the faster one: packing `f32` weights costs little beside reading them.
pub(super) fn most_rows(weight: &Weight) -> usize {
    if matches!(weight, Weight::F32(_)) { 4 } else { 8 }
}

/// Computes `c = alpha * a b + beta * c` for one block of `k`: `rows` rows, the columns of `piece`.
///
/// `a` holds `steps * rows` packed words. `c` points to the first row and the first column, with rows `ldc` apart.
///
/// # Safety
///
/// `c` must be good for the rows and columns, `rows` at most 8, the operand must lie along `k`, and the processor
/// must have AVX-512 F, BW, VL and DQ, and for [`Format::Pairs`] AVX512-BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) unsafe fn block(
    operand: &Operand,
    format: Format,
    piece: Piece,
    rows: usize,
    a: &[u32],
    c: *mut f32,
    ldc: usize,
    alpha: f32,
    beta: f32,
) {
    let Piece { line, lines, k, len } = piece;
    let last = (line + lines - 1) * operand.stride + k + len;
    assert!(operand.along_k && last <= operand.values.len() && a.len() >= format.steps(len) * rows);
    for group in (0..lines).step_by(16) {
        let here = 16.min(lines - group);
        let first = (line + group) * operand.stride + k;
        let target = Target { c: c.wrapping_add(group), ldc, alpha, beta, columns: here };
        // SAFETY: the piece lies in the operand (checked above); the rest is promised by the caller.
        unsafe {
            match rows {
                1 => columns::<1>(operand, format, first, len, a, target),
                2 => columns::<2>(operand, format, first, len, a, target),
                3 => columns::<3>(operand, format, first, len, a, target),
                4 => columns::<4>(operand, format, first, len, a, target),
                5 => columns::<5>(operand, format, first, len, a, target),
                6 => columns::<6>(operand, format, first, len, a, target),
                7 => columns::<7>(operand, format, first, len, a, target),
                _ => columns::<8>(operand, format, first, len, a, target),
            }
        }
    }
}

/// Where the sums of up to sixteen columns go.
struct Target {
    c: *mut f32,
    ldc: usize,
    alpha: f32,
    beta: f32,
    columns: usize,
}

/// # Safety
///
/// As [`block`]; `first` is the first element of the first line.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn columns<const M: usize>(
    operand: &Operand,
    format: Format,
    first: usize,
    len: usize,
    a: &[u32],
    target: Target,
) {
    let (stride, lines, a) = (operand.stride, target.columns, a.as_ptr());
    let mut sums = [_mm512_setzero_ps(); M];
    // SAFETY: promised by the caller.
    unsafe {
        match (operand.values, format) {
            (Weight::F32(w), Format::F32) => {
                single::<F32, M>(w.as_ptr().add(first), stride, lines, len, a, &mut sums);
            }
            (Weight::F32(w), Format::Rounded) => {
                single::<F32Rounded, M>(w.as_ptr().add(first), stride, lines, len, a, &mut sums);
            }
            (Weight::F32(w), Format::Pairs) => {
                dot_f32::<M>(w.as_ptr().add(first), stride, lines, len, a, &mut sums);
            }
            (Weight::Bf16(w), Format::Pairs) => {
                dot_bf16::<M>(w.as_ptr().cast::<u16>().add(first), stride, lines, len, a, &mut sums);
            }
            (Weight::Bf16(w), _) => {
                split::<M>(w.as_ptr().cast::<u16>().add(first), stride, lines, len, a, &mut sums);
            }
            (Weight::Nf4(matrix), _) if nf4_avx512::fits(stride, first) && len.is_multiple_of(NF4_BLOCK) => {
                if format == Format::Pairs {
                    dot_nf4::<M>(matrix, first, stride, lines, len, a, &mut sums);
                } else {
                    nf4_avx512::each_step(matrix, format, first, stride, lines, len, |step, words| {
                        for i in 0..M {
                            let factor = _mm512_set1_ps(f32::from_bits(*a.add(step * M + i)));
                            sums[i] = _mm512_fmadd_ps(factor, _mm512_castsi512_ps(words), sums[i]);
                        }
                    });
                }
            }
            (Weight::Nf4(matrix), _) => {
                const AT_ONCE: usize = 64;
                let mut values = [0.0_f32; 16 * AT_ONCE];
                for k in (0..len).step_by(AT_ONCE) {
                    let count = AT_ONCE.min(len - k);
                    for line in 0..lines {
                        let row = &mut values[line * AT_ONCE..][..count];
                        matrix.read_avx512(first + line * stride + k, row);
                    }
                    let (x, a) = (values.as_ptr(), a.add(format.steps(k) * M));
                    match format {
                        Format::F32 => single::<F32, M>(x, AT_ONCE, lines, count, a, &mut sums),
                        Format::Rounded => single::<F32Rounded, M>(x, AT_ONCE, lines, count, a, &mut sums),
                        Format::Pairs => dot_f32::<M>(x, AT_ONCE, lines, count, a, &mut sums),
                    }
                }
            }
        }
        let mask = lane_mask(lines);
        for i in 0..M {
            let c = target.c.add(i * target.ldc);
            let mut value = _mm512_mul_ps(_mm512_set1_ps(target.alpha), sums[i]);
            if target.beta != 0.0 {
                value = _mm512_fmadd_ps(_mm512_set1_ps(target.beta), _mm512_maskz_loadu_ps(mask, c), value);
            }
            _mm512_mask_storeu_ps(c, mask, value);
        }
    }
}

/// Words of one element each.
///
/// # Safety
///
/// As [`columns`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn single<L: Load, const M: usize>(
    x: *const L::Element,
    stride: usize,
    lines: usize,
    len: usize,
    a: *const u32,
    sums: &mut [__m512; M],
) {
    // SAFETY: masks keep every access inside the lines; `a` has `len * M` words.
    unsafe {
        for k in (0..len).step_by(16) {
            let count = 16.min(len - k);
            let mut words = [_mm512_setzero_si512(); 16];
            for line in 0..lines {
                let from = x.add(line * stride + k);
                _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(16 * stride).cast());
                words[line] = L::load(from, lane_mask(count));
            }
            let words = transpose(words);
            for step in 0..16 {
                if step < count {
                    for i in 0..M {
                        let factor = _mm512_set1_ps(f32::from_bits(*a.add((k + step) * M + i)));
                        sums[i] = _mm512_fmadd_ps(factor, _mm512_castsi512_ps(words[step]), sums[i]);
                    }
                }
            }
        }
    }
}

/// Words of two bf16, each multiplied as `f32`.
///
/// # Safety
///
/// As [`columns`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn split<const M: usize>(
    x: *const u16,
    stride: usize,
    lines: usize,
    len: usize,
    a: *const u32,
    sums: &mut [__m512; M],
) {
    // SAFETY: masks keep every access inside the lines; `a` has `len * M` words.
    unsafe {
        for k in (0..len).step_by(32) {
            let count = 32.min(len - k);
            let words = transpose(load_pairs(x.add(k), stride, lines, count));
            for step in 0..16 {
                if 2 * step < count {
                    let low = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(words[step]));
                    let high = _mm512_and_si512(words[step], _mm512_set1_epi32(0xffff_0000_u32 as i32));
                    let a = a.add((k + 2 * step) * M);
                    for i in 0..M {
                        sums[i] = _mm512_fmadd_ps(_mm512_set1_ps(f32::from_bits(*a.add(i))), low, sums[i]);
                    }
                    if 2 * step + 1 < count {
                        for i in 0..M {
                            let factor = _mm512_set1_ps(f32::from_bits(*a.add(M + i)));
                            sums[i] = _mm512_fmadd_ps(factor, _mm512_castsi512_ps(high), sums[i]);
                        }
                    }
                }
            }
        }
    }
}

/// # Safety
///
/// As [`columns`].
#[inline(always)]
unsafe fn load_pairs(x: *const u16, stride: usize, lines: usize, count: usize) -> [__m512i; 16] {
    let mask = ((1_u64 << count) - 1) as u32;
    // SAFETY: promised by the caller; the mask keeps to the lines.
    unsafe {
        let mut words = [_mm512_setzero_si512(); 16];
        for line in 0..lines {
            let from = x.add(line * stride);
            _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(16 * stride).cast());
            words[line] = _mm512_maskz_loadu_epi16(mask, from.cast());
        }
        words
    }
}

/// Words of two bf16, multiplied in pairs.
///
/// # Safety
///
/// As [`columns`]; the processor must have AVX512-BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn dot_bf16<const M: usize>(
    x: *const u16,
    stride: usize,
    lines: usize,
    len: usize,
    a: *const u32,
    sums: &mut [__m512; M],
) {
    // SAFETY: masks keep every access inside the lines; `a` has a word for each row and pair.
    unsafe {
        for k in (0..len).step_by(32) {
            let count = 32.min(len - k);
            let words = load_pairs(x.add(k), stride, lines, count);
            dot(transpose(words), count.div_ceil(2), a.add(k / 2 * M), sums);
        }
    }
}

/// As [`dot_bf16`], rounding the weights first.
///
/// # Safety
///
/// As [`dot_bf16`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn dot_f32<const M: usize>(
    x: *const f32,
    stride: usize,
    lines: usize,
    len: usize,
    a: *const u32,
    sums: &mut [__m512; M],
) {
    // SAFETY: masks keep every access inside the lines; `a` has a word for each row and pair.
    unsafe {
        for k in (0..len).step_by(32) {
            let count = 32.min(len - k);
            let (low, high) = (lane_mask(count), lane_mask(count.saturating_sub(16)));
            let mut words = [_mm512_setzero_si512(); 16];
            for line in 0..lines {
                let from = x.add(line * stride + k);
                let low = _mm512_maskz_loadu_ps(low, from);
                let high = _mm512_maskz_loadu_ps(high, from.wrapping_add(16));
                words[line] = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
            }
            dot(transpose(words), count.div_ceil(2), a.add(k / 2 * M), sums);
        }
    }
}

/// As [`dot_bf16`], of NF4.
///
/// # Safety
///
/// As [`dot_bf16`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn dot_nf4<const M: usize>(
    matrix: &Nf4,
    first: usize,
    stride: usize,
    lines: usize,
    len: usize,
    a: *const u32,
    sums: &mut [__m512; M],
) {
    // SAFETY: `a` has a word for each row and pair; the types are all 512 bits.
    unsafe {
        nf4_avx512::each_step(matrix, Format::Pairs, first, stride, lines, len, |step, words| {
            let words = std::mem::transmute::<__m512i, __m512bh>(words);
            for i in 0..M {
                let factor = _mm512_set1_epi32(*a.add(step * M + i) as i32);
                sums[i] = _mm512_dpbf16_ps(sums[i], std::mem::transmute::<__m512i, __m512bh>(factor), words);
            }
        });
    }
}

/// # Safety
///
/// `a` must hold `steps * M` words; the processor must have AVX512-BF16.
#[inline(always)]
unsafe fn dot<const M: usize>(words: [__m512i; 16], steps: usize, a: *const u32, sums: &mut [__m512; M]) {
    // SAFETY: promised by the caller; the types are all 512 bits.
    unsafe {
        for step in 0..16 {
            if step < steps {
                let word = std::mem::transmute::<__m512i, __m512bh>(words[step]);
                for i in 0..M {
                    let factor = _mm512_set1_epi32(*a.add(step * M + i) as i32);
                    sums[i] =
                        _mm512_dpbf16_ps(sums[i], std::mem::transmute::<__m512i, __m512bh>(factor), word);
                }
            }
        }
    }
}
