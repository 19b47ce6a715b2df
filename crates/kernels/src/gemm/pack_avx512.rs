//! Packing with AVX-512: sixteen lines at a time through a transposition in registers.

use std::arch::x86_64::*;

use super::Weight;
use super::pack::{Format, Operand, Piece};
use crate::nf4::NF4_BLOCK;

/// Where vectors of words come from.
#[derive(Clone, Copy)]
enum Source {
    F32(*const f32),
    Bf16(*const u16),
}

impl Source {
    fn at(self, element: usize) -> Self {
        match self {
            Self::F32(start) => Self::F32(start.wrapping_add(element)),
            Self::Bf16(start) => Self::Bf16(start.wrapping_add(element)),
        }
    }
}

/// Packs a piece; see [`Operand::pack`].
///
/// # Safety
///
/// The processor must have AVX-512 F, BW, VL and DQ, and for [`Format::Pairs`] AVX512-BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) unsafe fn pack(operand: &Operand, format: Format, piece: Piece, width: usize, panel: &mut [u32]) {
    let Piece { line, lines, k, len } = piece;
    let (first, last) = if operand.along_k {
        (line * operand.stride + k, (line + lines - 1) * operand.stride + k + len)
    } else {
        (k * operand.stride + line, (k + len - 1) * operand.stride + line + lines)
    };
    assert!(
        last <= operand.values.len() && panel.len() >= format.steps(len) * width,
        "piece outside its operand"
    );
    let panel = panel.as_mut_ptr();
    // SAFETY: the piece lies in the operand and the panel holds it (checked above).
    unsafe {
        match operand.values {
            Weight::F32(values) => {
                pack_source(
                    Source::F32(values.as_ptr()).at(first),
                    operand,
                    format,
                    lines,
                    len,
                    width,
                    panel,
                );
            }
            Weight::Bf16(values) => {
                pack_source(
                    Source::Bf16(values.as_ptr().cast()).at(first),
                    operand,
                    format,
                    lines,
                    len,
                    width,
                    panel,
                );
            }
            Weight::Nf4(matrix) => {
                // Dequantised in pieces that stay in the first cache, and packed from there.
                if operand.along_k && super::nf4_avx512::fits(operand.stride, k) && len % NF4_BLOCK == 0 {
                    for group in (0..width).step_by(16) {
                        let here = lines.saturating_sub(group).min(16);
                        let lanes = lane_mask(width - group);
                        let at = first + group * operand.stride;
                        super::nf4_avx512::each_step(
                            matrix,
                            format,
                            at,
                            operand.stride,
                            here,
                            len,
                            |step, words| {
                                _mm512_mask_storeu_epi32(
                                    panel.add(step * width + group).cast(),
                                    lanes,
                                    words,
                                );
                            },
                        );
                    }
                } else if operand.along_k {
                    const AT_ONCE: usize = 128;
                    let mut values = [0.0_f32; 16 * AT_ONCE];
                    for group in (0..lines).step_by(16) {
                        let group_lines = 16.min(lines - group);
                        for k0 in (0..len).step_by(AT_ONCE) {
                            let count = AT_ONCE.min(len - k0);
                            for i in 0..group_lines {
                                let at = (line + group + i) * operand.stride + k + k0;
                                matrix.read_avx512(at, &mut values[i * AT_ONCE..i * AT_ONCE + count]);
                            }
                            let source = Source::F32(values.as_ptr());
                            let target = panel.add(format.steps(k0) * width + group);
                            let lanes = 16.min(width - group);
                            along_k_dispatch(
                                source,
                                AT_ONCE,
                                format,
                                group_lines,
                                lanes,
                                count,
                                width,
                                target,
                            );
                        }
                    }
                    for group in (lines.next_multiple_of(16)..width).step_by(16) {
                        let lanes = lane_mask(width - group);
                        for step in 0..format.steps(len) {
                            _mm512_mask_storeu_epi32(
                                panel.add(step * width + group).cast(),
                                lanes,
                                _mm512_setzero_si512(),
                            );
                        }
                    }
                } else {
                    const AT_ONCE: usize = 32;
                    let mut values = [0.0_f32; AT_ONCE * 64];
                    assert!(lines <= 64, "a panel has at most 64 lines");
                    for k0 in (0..len).step_by(AT_ONCE) {
                        let count = AT_ONCE.min(len - k0);
                        for i in 0..count {
                            matrix.read_avx512(
                                (k + k0 + i) * operand.stride + line,
                                &mut values[i * 64..i * 64 + lines],
                            );
                        }
                        let source = Source::F32(values.as_ptr());
                        across_k_dispatch(
                            source,
                            64,
                            format,
                            lines,
                            count,
                            width,
                            panel.add(format.steps(k0) * width),
                        );
                    }
                }
            }
        }
    }
}

/// # Safety
///
/// As [`pack`]; `source` is the first element of the piece.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn pack_source(
    source: Source,
    operand: &Operand,
    format: Format,
    lines: usize,
    len: usize,
    width: usize,
    panel: *mut u32,
) {
    // SAFETY: promised by the caller.
    unsafe {
        if operand.along_k {
            for group in (0..width).step_by(16) {
                let here = lines.saturating_sub(group).min(16);
                let lanes = 16.min(width - group);
                let source = source.at(group * operand.stride);
                along_k_dispatch(source, operand.stride, format, here, lanes, len, width, panel.add(group));
            }
        } else {
            across_k_dispatch(source, operand.stride, format, lines, len, width, panel);
        }
    }
}

/// Packs up to 16 lines whose elements lie along `k`.
///
/// # Safety
///
/// As [`pack`]; `panel` points to the first of `lanes` lanes of step 0.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn along_k_dispatch(
    source: Source,
    stride: usize,
    format: Format,
    lines: usize,
    lanes: usize,
    len: usize,
    width: usize,
    panel: *mut u32,
) {
    // SAFETY: promised by the caller.
    unsafe {
        match (source, format) {
            (Source::F32(x), Format::F32) => along_k::<F32>(x, stride, lines, lanes, len, width, panel),
            (Source::F32(x), Format::Rounded) => {
                along_k::<F32Rounded>(x, stride, lines, lanes, len, width, panel)
            }
            (Source::F32(x), Format::Pairs) => along_k_pairs_f32(x, stride, lines, lanes, len, width, panel),
            (Source::Bf16(x), Format::Pairs) => along_k_pairs(x, stride, lines, lanes, len, width, panel),
            (Source::Bf16(x), _) => along_k::<Bf16>(x, stride, lines, lanes, len, width, panel),
        }
    }
}

/// How sixteen neighbouring elements become sixteen words of one element each.
pub(super) trait Load {
    type Element: Copy;

    /// # Safety
    ///
    /// The elements of `mask` must be readable, and the processor must have AVX-512 F, BW and VL.
    unsafe fn load(x: *const Self::Element, mask: u16) -> __m512i;
}

pub(super) struct F32;
pub(super) struct F32Rounded;
struct Bf16;

impl Load for F32 {
    type Element = f32;

    #[inline(always)]
    unsafe fn load(x: *const f32, mask: u16) -> __m512i {
        // SAFETY: promised by the caller.
        unsafe { _mm512_maskz_loadu_epi32(mask, x.cast()) }
    }
}

impl Load for F32Rounded {
    type Element = f32;

    #[inline(always)]
    unsafe fn load(x: *const f32, mask: u16) -> __m512i {
        // SAFETY: promised by the caller.
        unsafe { round(_mm512_maskz_loadu_epi32(mask, x.cast())) }
    }
}

impl Load for Bf16 {
    type Element = u16;

    #[inline(always)]
    unsafe fn load(x: *const u16, mask: u16) -> __m512i {
        // SAFETY: promised by the caller.
        unsafe { _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, x.cast()))) }
    }
}

/// Rounds `f32` to bf16 values, to nearest, ties to even; a NaN stays one.
#[inline]
#[target_feature(enable = "avx512f")]
fn round(x: __m512i) -> __m512i {
    let value = _mm512_castsi512_ps(x);
    let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(value, value);
    _mm512_mask_mov_epi32(round_finite(x), nan, _mm512_set1_epi32(0x7fc0_0000))
}

/// As [`round`], for values that are not NaN.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn round_finite(x: __m512i) -> __m512i {
    let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(x), _mm512_set1_epi32(1));
    let rounded = _mm512_add_epi32(x, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    _mm512_and_si512(rounded, _mm512_set1_epi32(0xffff_0000_u32 as i32))
}

pub(super) fn lane_mask(lanes: usize) -> u16 {
    ((1_u32 << lanes.min(16)) - 1) as u16
}

/// # Safety
///
/// As [`along_k_dispatch`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn along_k<L: Load>(
    x: *const L::Element,
    stride: usize,
    lines: usize,
    lanes: usize,
    len: usize,
    width: usize,
    panel: *mut u32,
) {
    // SAFETY: masks keep every access inside the piece and the panel.
    unsafe {
        for k in (0..len).step_by(16) {
            let count = 16.min(len - k);
            let mut words = [_mm512_setzero_si512(); 16];
            for line in 0..lines {
                let from = x.add(line * stride + k);
                _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(16 * stride).cast());
                words[line] = L::load(from, lane_mask(count));
            }
            store_transposed(words, count, lanes, width, panel.add(k * width));
        }
    }
}

/// # Safety
///
/// As [`along_k_dispatch`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn along_k_pairs(
    x: *const u16,
    stride: usize,
    lines: usize,
    lanes: usize,
    len: usize,
    width: usize,
    panel: *mut u32,
) {
    // SAFETY: masks keep every access inside the piece and the panel.
    unsafe {
        for k in (0..len).step_by(32) {
            let count = 32.min(len - k);
            let mask = ((1_u64 << count) - 1) as u32;
            let mut words = [_mm512_setzero_si512(); 16];
            for line in 0..lines {
                let from = x.add(line * stride + k);
                _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(16 * stride).cast());
                words[line] = _mm512_maskz_loadu_epi16(mask, from.cast());
            }
            store_transposed(words, count.div_ceil(2), lanes, width, panel.add(k / 2 * width));
        }
    }
}

/// # Safety
///
/// As [`along_k_dispatch`]; the processor must have AVX512-BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn along_k_pairs_f32(
    x: *const f32,
    stride: usize,
    lines: usize,
    lanes: usize,
    len: usize,
    width: usize,
    panel: *mut u32,
) {
    // SAFETY: masks keep every access inside the piece and the panel.
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
            store_transposed(words, count.div_ceil(2), lanes, width, panel.add(k / 2 * width));
        }
    }
}

/// Stores word `step` of each of the 16 vectors side by side, for `steps` steps.
///
/// # Safety
///
/// `panel` must hold `steps` rows of stride `width` with `lanes` lanes.
#[inline(always)]
unsafe fn store_transposed(rows: [__m512i; 16], steps: usize, lanes: usize, width: usize, panel: *mut u32) {
    // SAFETY: promised by the caller.
    unsafe {
        let columns = transpose(rows);
        if lanes == 16 && steps == 16 {
            for step in 0..16 {
                _mm512_storeu_si512(panel.add(step * width).cast(), columns[step]);
            }
        } else {
            let mask = lane_mask(lanes);
            for step in 0..16 {
                if step < steps {
                    _mm512_mask_storeu_epi32(panel.add(step * width).cast(), mask, columns[step]);
                }
            }
        }
    }
}

/// Transposes a 16 x 16 matrix of words: pairs, quads, then quarters of a register.
///
/// Always inlined, without which the vectors would go through memory.
///
/// # Safety
///
/// The processor must have AVX-512 F.
#[inline(always)]
pub(super) unsafe fn transpose(r: [__m512i; 16]) -> [__m512i; 16] {
    // SAFETY: promised by the caller.
    unsafe {
        let mut t = r;
        for i in 0..8 {
            t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
            t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
        }
        // u[4 q + c] holds column c of each quarter for the rows 4 q .. 4 q + 4.
        let mut u = t;
        for q in 0..4 {
            u[4 * q] = _mm512_unpacklo_epi64(t[4 * q], t[4 * q + 2]);
            u[4 * q + 1] = _mm512_unpackhi_epi64(t[4 * q], t[4 * q + 2]);
            u[4 * q + 2] = _mm512_unpacklo_epi64(t[4 * q + 1], t[4 * q + 3]);
            u[4 * q + 3] = _mm512_unpackhi_epi64(t[4 * q + 1], t[4 * q + 3]);
        }
        let mut out = u;
        for c in 0..4 {
            let low01 = _mm512_shuffle_i32x4::<0x44>(u[c], u[4 + c]);
            let high01 = _mm512_shuffle_i32x4::<0xee>(u[c], u[4 + c]);
            let low23 = _mm512_shuffle_i32x4::<0x44>(u[8 + c], u[12 + c]);
            let high23 = _mm512_shuffle_i32x4::<0xee>(u[8 + c], u[12 + c]);
            out[c] = _mm512_shuffle_i32x4::<0x88>(low01, low23);
            out[4 + c] = _mm512_shuffle_i32x4::<0xdd>(low01, low23);
            out[8 + c] = _mm512_shuffle_i32x4::<0x88>(high01, high23);
            out[12 + c] = _mm512_shuffle_i32x4::<0xdd>(high01, high23);
        }
        out
    }
}

/// Packs lines that lie side by side in memory for each `k`.
///
/// # Safety
///
/// As [`pack`]; `source` is the first element of the piece.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn across_k_dispatch(
    source: Source,
    stride: usize,
    format: Format,
    lines: usize,
    len: usize,
    width: usize,
    panel: *mut u32,
) {
    // SAFETY: promised by the caller.
    unsafe {
        match (source, format) {
            (Source::F32(x), Format::F32) => across_k::<F32>(x, stride, lines, len, width, panel),
            (Source::F32(x), Format::Rounded) => across_k::<F32Rounded>(x, stride, lines, len, width, panel),
            (Source::F32(x), Format::Pairs) => across_k_pairs_f32(x, stride, lines, len, width, panel),
            (Source::Bf16(x), Format::Pairs) => across_k_pairs(x, stride, lines, len, width, panel),
            (Source::Bf16(x), _) => across_k::<Bf16>(x, stride, lines, len, width, panel),
        }
    }
}

/// # Safety
///
/// As [`across_k_dispatch`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn across_k<L: Load>(
    x: *const L::Element,
    stride: usize,
    lines: usize,
    len: usize,
    width: usize,
    panel: *mut u32,
) {
    // SAFETY: masks keep every access inside the piece and the panel.
    unsafe {
        for group in (0..width).step_by(16) {
            let from = lane_mask(lines.saturating_sub(group));
            let to = lane_mask(width - group);
            for k in 0..len {
                let words = L::load(x.wrapping_add(k * stride + group), from);
                _mm512_mask_storeu_epi32(panel.add(k * width + group).cast(), to, words);
            }
        }
    }
}

/// # Safety
///
/// As [`across_k_dispatch`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn across_k_pairs(
    x: *const u16,
    stride: usize,
    lines: usize,
    len: usize,
    width: usize,
    panel: *mut u32,
) {
    // SAFETY: masks keep every access inside the piece and the panel.
    unsafe {
        for group in (0..width).step_by(16) {
            let from = lane_mask(lines.saturating_sub(group));
            let to = lane_mask(width - group);
            for k in (0..len).step_by(2) {
                let x = x.wrapping_add(k * stride + group);
                let low = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(from, x.cast()));
                let second = if k + 1 < len { from } else { 0 };
                let high =
                    _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(second, x.wrapping_add(stride).cast()));
                let words = _mm512_or_si512(low, _mm512_slli_epi32::<16>(high));
                _mm512_mask_storeu_epi32(panel.add(k / 2 * width + group).cast(), to, words);
            }
        }
    }
}

/// # Safety
///
/// As [`across_k_dispatch`]; the processor must have AVX512-BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn across_k_pairs_f32(
    x: *const f32,
    stride: usize,
    lines: usize,
    len: usize,
    width: usize,
    panel: *mut u32,
) {
    // SAFETY: masks keep every access inside the piece and the panel.
    unsafe {
        for group in (0..width).step_by(16) {
            let from = lane_mask(lines.saturating_sub(group));
            let to = lane_mask(width - group);
            for k in (0..len).step_by(2) {
                let x = x.wrapping_add(k * stride + group);
                let low = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(from, x));
                let second = if k + 1 < len { from } else { 0 };
                let high = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(second, x.wrapping_add(stride)));
                let low = _mm512_cvtepu16_epi32(std::mem::transmute::<__m256bh, __m256i>(low));
                let high = _mm512_cvtepu16_epi32(std::mem::transmute::<__m256bh, __m256i>(high));
                let words = _mm512_or_si512(low, _mm512_slli_epi32::<16>(high));
                _mm512_mask_storeu_epi32(panel.add(k / 2 * width + group).cast(), to, words);
            }
        }
    }
}
