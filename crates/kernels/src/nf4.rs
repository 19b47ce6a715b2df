//! 4-bit NormalFloat matrices with double quantisation (Dettmers et al. 2023), in the layout of bitsandbytes.

use crate::error::KernelError;
use crate::gemm::check;
use crate::level::{Level, level, with_level};
use crate::threads::{Parts, parallel_elements};

mod quantize;

/// Consecutive elements of the flattened matrix that share one scale; blocks ignore row boundaries.
pub const NF4_BLOCK: usize = 64;

/// Consecutive scales that share one second-level scale.
pub const NF4_NESTED_BLOCK: usize = 256;

/// The values of the 16 codes: quantiles of the normal distribution, scaled to `-1..=1`, with an exact 0.
pub const NF4_CODES: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// The scales of the blocks of an [`Nf4`] matrix, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Absmax {
    /// One `f32` for each block.
    Plain(Vec<f32>),
    /// One byte for each block.
    Double(DoubleAbsmax),
}

/// Scales of blocks, themselves quantised: `scale[i] = map[codes[i]] * nested_absmax[i / 256] + offset`.
#[derive(Clone, Debug, PartialEq)]
pub struct DoubleAbsmax {
    /// One code for each block.
    pub codes: Vec<u8>,
    /// One scale for each 256 blocks.
    pub nested_absmax: Vec<f32>,
    /// The mean of the scales, subtracted before they were quantised.
    pub offset: f32,
    /// The values of the 256 codes; [`signed_dynamic_map`](crate::signed_dynamic_map) where this crate quantised.
    pub map: Box<[f32; 256]>,
}

/// A matrix `(rows, cols)` in 4 bits an element.
#[derive(Clone, Debug, PartialEq)]
pub struct Nf4 {
    rows: usize,
    cols: usize,
    codes: Vec<u8>,
    absmax: Absmax,
}

impl Nf4 {
    /// Assembles a matrix from its stored parts.
    ///
    /// # Errors
    ///
    /// [`KernelError::Nf4Parts`] when a part does not have the length that the shape asks for.
    pub fn from_parts(rows: usize, cols: usize, codes: Vec<u8>, absmax: Absmax) -> Result<Self, KernelError> {
        // Saturated, a shape beyond memory cannot fit its parts.
        let len = rows.saturating_mul(cols);
        let blocks = len.div_ceil(NF4_BLOCK);
        let expect = |part, found, expected| {
            if found == expected {
                Ok(())
            } else {
                Err(KernelError::Nf4Parts { rows, cols, part, expected, found })
            }
        };
        expect("weight", codes.len(), len.div_ceil(2))?;
        match &absmax {
            Absmax::Plain(scales) => expect("absmax", scales.len(), blocks)?,
            Absmax::Double(scales) => {
                expect("absmax", scales.codes.len(), blocks)?;
                expect("nested_absmax", scales.nested_absmax.len(), blocks.div_ceil(NF4_NESTED_BLOCK))?;
            }
        }
        Ok(Self { rows, cols, codes, absmax })
    }

    /// Rows of the matrix.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns of the matrix.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Two codes a byte, the element of even index in the high half.
    pub fn codes(&self) -> &[u8] {
        &self.codes
    }

    /// The scales of the blocks.
    pub fn absmax(&self) -> &Absmax {
        &self.absmax
    }

    /// Bytes that the matrix occupies.
    pub fn bytes(&self) -> usize {
        self.codes.len()
            + match &self.absmax {
                Absmax::Plain(scales) => 4 * scales.len(),
                Absmax::Double(scales) => scales.codes.len() + 4 * scales.nested_absmax.len() + 4 * 256 + 4,
            }
    }

    /// Writes all elements to `out (rows, cols)`.
    ///
    /// # Panics
    ///
    /// When `out` does not have `rows * cols` elements.
    pub fn dequantize_into(&self, out: &mut [f32]) {
        check("Nf4::dequantize_into", [("out", out.len(), self.rows * self.cols)]);
        let (len, level, out) = (out.len(), level(), Parts::new(out));
        parallel_elements(len, |at| {
            // SAFETY: each task has its own range.
            let out = unsafe { out.part(at.start, at.len()) };
            with_level(level, || self.read(at.start, out));
        });
    }

    /// Writes the elements `from..from + out.len()` of the flattened matrix to `out`.
    pub(crate) fn read(&self, from: usize, out: &mut [f32]) {
        #[cfg(target_arch = "x86_64")]
        if level() == Level::Avx512 {
            // SAFETY: the level is in use only where the processor has it.
            unsafe { self.read_avx512(from, out) };
            return;
        }
        self.each_block(from, out, |scale, codes, out| {
            for (pair, &byte) in out.chunks_exact_mut(2).zip(codes) {
                pair[0] = NF4_CODES[usize::from(byte >> 4)] * scale;
                pair[1] = NF4_CODES[usize::from(byte & 15)] * scale;
            }
        });
    }

    /// As [`Nf4::read`].
    ///
    /// # Safety
    ///
    /// The processor must have AVX-512 F, BW and VL.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    pub(crate) unsafe fn read_avx512(&self, from: usize, out: &mut [f32]) {
        use std::arch::x86_64::*;

        // SAFETY: the table has 16 elements.
        let table = unsafe { _mm512_loadu_ps(NF4_CODES.as_ptr()) };
        self.each_block(from, out, |scale, codes, out| {
            let scale = _mm512_set1_ps(scale);
            for (out, codes) in out.chunks_mut(16).zip(codes.chunks(8)) {
                let bytes = match codes.first_chunk() {
                    Some(&bytes) => bytes,
                    None => {
                        let mut bytes = [0_u8; 8];
                        bytes[..codes.len()].copy_from_slice(codes);
                        bytes
                    }
                };
                let bytes = _mm_cvtsi64_si128(i64::from_le_bytes(bytes));
                // The lookup takes the low 4 bits of an index only.
                let codes = _mm_unpacklo_epi8(_mm_srli_epi16::<4>(bytes), bytes);
                let values = _mm512_mul_ps(_mm512_permutexvar_ps(_mm512_cvtepu8_epi32(codes), table), scale);
                let mask = ((1_u32 << out.len()) - 1) as u16;
                // SAFETY: the mask keeps to the slice.
                unsafe { _mm512_mask_storeu_ps(out.as_mut_ptr(), mask, values) };
            }
        });
    }

    /// Calls `f(scale, codes, out)` for the pieces of `from..from + out.len()` that lie in one block: whole bytes of codes and
    /// their two elements each. Halves of bytes at the ends of the range are written here.
    #[inline(always)]
    fn each_block(&self, from: usize, out: &mut [f32], mut f: impl FnMut(f32, &[u8], &mut [f32])) {
        let one = |at: usize| {
            let byte = self.codes[at / 2];
            NF4_CODES[usize::from(if at.is_multiple_of(2) { byte >> 4 } else { byte & 15 })]
                * self.scale(at / NF4_BLOCK)
        };
        let (mut at, mut out) = (from, out);
        if at % 2 == 1 && !out.is_empty() {
            out[0] = one(at);
            (at, out) = (at + 1, &mut out[1..]);
        }
        while out.len() >= 2 {
            let len = out.len().min(NF4_BLOCK - at % NF4_BLOCK) & !1;
            let (piece, rest) = out.split_at_mut(len);
            f(self.scale(at / NF4_BLOCK), &self.codes[at / 2..(at + len) / 2], piece);
            (at, out) = (at + len, rest);
        }
        if let Some(out) = out.first_mut() {
            *out = one(at);
        }
    }

    /// The scale of a block.
    pub(crate) fn scale(&self, block: usize) -> f32 {
        match &self.absmax {
            Absmax::Plain(scales) => scales[block],
            Absmax::Double(scales) => scales.scale(block),
        }
    }
}

impl DoubleAbsmax {
    fn scale(&self, block: usize) -> f32 {
        self.map[usize::from(self.codes[block])] * self.nested_absmax[block / NF4_NESTED_BLOCK] + self.offset
    }
}
