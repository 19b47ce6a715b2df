//! NF4 codes of sixteen lines, turned so that each vector holds one element of every line, then looked up.
//!
//! Turning codes instead of values makes one transposition serve 128 elements of each line. It needs lines that are
//! whole numbers of blocks, which those of real models are.

use std::arch::x86_64::*;

use super::pack::Format;
use super::pack_avx512::{round_finite, transpose};
use crate::nf4::{NF4_BLOCK, NF4_CODES, Nf4};

/// Elements of a line that one transposition serves: sixteen words of eight codes.
const AT_ONCE: usize = 128;

/// Whether lines of `stride` elements can be read from element `k`.
pub(super) fn fits(stride: usize, k: usize) -> bool {
    stride.is_multiple_of(NF4_BLOCK) && k.is_multiple_of(NF4_BLOCK)
}

/// Calls `f(step, words)` for each packed step of `lines` lines (at most 16) over `len` elements; lane `i` of `words` belongs to
/// line `i`, lanes past the lines are 0.
///
/// `first` is the first element of the first line, and like `stride` and `len` a multiple of the block.
///
/// # Safety
///
/// The processor must have AVX-512 F, BW, VL and DQ.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) unsafe fn each_step(
    matrix: &Nf4,
    format: Format,
    first: usize,
    stride: usize,
    lines: usize,
    len: usize,
    mut f: impl FnMut(usize, __m512i),
) {
    assert!(lines <= 16 && fits(stride, first) && fits(stride, len), "lines must be whole blocks");
    // SAFETY: the table has 16 elements.
    let table = unsafe { _mm512_loadu_ps(NF4_CODES.as_ptr()) };
    let codes = matrix.codes();
    for k in (0..len).step_by(AT_ONCE) {
        let count = AT_ONCE.min(len - k);
        let mut words = [_mm512_setzero_si512(); 16];
        let mut scales = [[0.0_f32; 16]; AT_ONCE / NF4_BLOCK];
        for line in 0..lines {
            let at = first + line * stride + k;
            let bytes = &codes[at / 2..(at + count) / 2];
            let mask = ((1_u32 << (count / 8)) - 1) as u16;
            // SAFETY: the mask keeps to the slice, which has a word for every 8 codes.
            unsafe {
                _mm_prefetch::<_MM_HINT_T0>(bytes.as_ptr().wrapping_add(8 * stride).cast());
                words[line] = _mm512_maskz_loadu_epi32(mask, bytes.as_ptr().cast());
            }
            for (block, scales) in scales[..count / NF4_BLOCK].iter_mut().enumerate() {
                scales[line] = matrix.scale(at / NF4_BLOCK + block);
            }
        }
        // SAFETY: promised by the caller.
        let words = unsafe { transpose(words) };
        for block in 0..count / NF4_BLOCK {
            // SAFETY: the array has 16 elements.
            let scale = unsafe { _mm512_loadu_ps(scales[block].as_ptr()) };
            for word in 0..NF4_BLOCK / 8 {
                let codes = words[block * NF4_BLOCK / 8 + word];
                // The element of even index is in the high half of its byte; the lookup takes the low 4 bits only.
                let value =
                    |codes| _mm512_castps_si512(_mm512_mul_ps(_mm512_permutexvar_ps(codes, table), scale));
                let values = [
                    value(_mm512_srli_epi32::<4>(codes)),
                    value(codes),
                    value(_mm512_srli_epi32::<12>(codes)),
                    value(_mm512_srli_epi32::<8>(codes)),
                    value(_mm512_srli_epi32::<20>(codes)),
                    value(_mm512_srli_epi32::<16>(codes)),
                    value(_mm512_srli_epi32::<28>(codes)),
                    value(_mm512_srli_epi32::<24>(codes)),
                ];
                let at = k + block * NF4_BLOCK + 8 * word;
                match format {
                    Format::F32 => {
                        for (i, value) in values.into_iter().enumerate() {
                            f(at + i, value);
                        }
                    }
                    Format::Rounded => {
                        for (i, value) in values.into_iter().enumerate() {
                            f(at + i, round_finite(value));
                        }
                    }
                    Format::Pairs => {
                        for i in 0..4 {
                            let low = _mm512_srli_epi32::<16>(round_finite(values[2 * i]));
                            f(at / 2 + i, _mm512_or_si512(low, round_finite(values[2 * i + 1])));
                        }
                    }
                }
            }
        }
    }
}
