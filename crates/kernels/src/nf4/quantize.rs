//! Numbers to NF4: straight from the bytes of a file, block by block, so that no second copy of a matrix appears.

use half::bf16;

use super::{Absmax, DoubleAbsmax, NF4_BLOCK, NF4_CODES, NF4_NESTED_BLOCK, Nf4};
use crate::convert::{FloatBytes, round_to_bf16};
use crate::dynamic_map::DynamicMap;
use crate::gemm::{Precision, check};
use crate::level::{Level, level, with_level};
use crate::scratch::{self, Slot};
use crate::simd::simd;
use crate::threads::{Parts, parallel_rows};

/// Blocks that one task quantises: 32 KiB of bf16.
const TASK_BLOCKS: usize = 256;

impl Nf4 {
    /// Quantises `values (rows, cols)`; `double` quantises the scales too.
    ///
    /// An element becomes the code nearest to it, the lower of two equally near; a block of zeros becomes zeros.
    ///
    /// # Panics
    ///
    /// When `values` does not have `rows * cols` elements.
    pub fn quantize(values: &[f32], rows: usize, cols: usize, double: bool) -> Self {
        check("Nf4::quantize", [("values", values.len(), rows * cols)]);
        let level = level();
        Self::by_tasks(rows, cols, double, |first, len, codes, absmax| {
            f32_blocks(level, &values[first..first + len], codes, absmax);
        })
    }

    /// As [`Nf4::quantize`] of the numbers `values (rows, cols)` of a file, without a copy of them in `f32`. With
    /// [`Precision::Bf16`] each number is rounded to bf16 first, as if the matrix had been loaded in bf16 and quantised then.
    ///
    /// # Panics
    ///
    /// When `values` does not have `rows * cols` elements.
    pub fn quantize_bytes(
        values: FloatBytes<'_>,
        precision: Precision,
        rows: usize,
        cols: usize,
        double: bool,
    ) -> Self {
        check("Nf4::quantize_bytes", [("values", values.len(), rows * cols)]);
        let level = level();
        if let FloatBytes::Bf16(bytes) = values {
            return Self::by_tasks(rows, cols, double, |first, len, codes, absmax| {
                bf16_blocks(level, &bytes[2 * first..2 * (first + len)], codes, absmax);
            });
        }
        Self::quantize_with(rows, cols, double, |first, out| {
            values.slice(first..first + out.len()).read(level, out);
            if precision == Precision::Bf16 {
                round_to_bf16(level, out);
            }
        })
    }

    /// Quantises a matrix that is made while it is quantised: `read(first, out)` writes the elements `first..first + out.len()`
    /// of the flattened matrix `(rows, cols)` to `out`. It is called for every element once, from several threads, with pieces of
    /// at most 16 Ki elements.
    pub fn quantize_with(
        rows: usize,
        cols: usize,
        double: bool,
        read: impl Fn(usize, &mut [f32]) + Sync,
    ) -> Self {
        let level = level();
        Self::by_tasks(rows, cols, double, |first, len, codes, absmax| {
            scratch::with::<f32, _>(Slot::OwnPack, len, |values| {
                with_level(level, || read(first, values));
                f32_blocks(level, values, codes, absmax);
            });
        })
    }

    /// Runs `quantize(first, len, codes, absmax)` for pieces of whole blocks.
    fn by_tasks(
        rows: usize,
        cols: usize,
        double: bool,
        quantize: impl Fn(usize, usize, &mut [u8], &mut [f32]) + Sync,
    ) -> Self {
        const TASK: usize = TASK_BLOCKS * NF4_BLOCK;
        let len = rows * cols;
        let blocks = len.div_ceil(NF4_BLOCK);
        let (mut codes, mut absmax) = (vec![0; len.div_ceil(2)], vec![0.0; blocks]);
        let (code_parts, absmax_parts) = (Parts::new(&mut codes), Parts::new(&mut absmax));
        parallel_rows(len.div_ceil(TASK), TASK, |first, count| {
            for task in first..first + count {
                let first = task * TASK;
                let len = TASK.min(len - first);
                // SAFETY: each task has its own blocks; all tasks but the last have an even number of elements.
                let (codes, absmax) = unsafe {
                    (
                        code_parts.part(first / 2, len.div_ceil(2)),
                        absmax_parts.part(first / NF4_BLOCK, len.div_ceil(NF4_BLOCK)),
                    )
                };
                quantize(first, len, codes, absmax);
            }
        });
        let absmax =
            if double { Absmax::Double(DoubleAbsmax::quantize(&absmax)) } else { Absmax::Plain(absmax) };
        Self { rows, cols, codes, absmax }
    }
}

impl DoubleAbsmax {
    /// Quantises the scales of blocks: the second step of double quantisation.
    pub fn quantize(absmax: &[f32]) -> Self {
        // In the order of the blocks: the offset must not depend on the threads.
        let sum: f64 = absmax.iter().map(|&x| f64::from(x)).sum();
        let offset = (sum / absmax.len().max(1) as f64) as f32;
        let map = DynamicMap::signed();
        let nested = absmax.len().div_ceil(NF4_NESTED_BLOCK);
        let (mut codes, mut nested_absmax) = (vec![0; absmax.len()], vec![0.0; nested]);
        let (code_parts, nested_parts) = (Parts::new(&mut codes), Parts::new(&mut nested_absmax));
        parallel_rows(nested, NF4_NESTED_BLOCK, |first, count| {
            for index in first..first + count {
                let first = index * NF4_NESTED_BLOCK;
                let block = &absmax[first..absmax.len().min(first + NF4_NESTED_BLOCK)];
                // SAFETY: each nested block belongs to one task.
                let (codes, nested) =
                    unsafe { (code_parts.part(first, block.len()), nested_parts.part(index, 1)) };
                let largest = block.iter().fold(0.0_f32, |max, x| max.max((x - offset).abs()));
                nested[0] = largest;
                let inverse = if largest > 0.0 { 1.0 / largest } else { 0.0 };
                for (code, x) in codes.iter_mut().zip(block) {
                    *code = map.nearest((x - offset) * inverse);
                }
            }
        });
        Self { codes, nested_absmax, offset, map: Box::new(map.values) }
    }
}

/// Halfway between neighbouring codes, and a number that nothing exceeds.
///
/// The code nearest to x, the lower of two equally near, is how many of these lie below x.
const MIDPOINTS: [f32; 16] = {
    let mut midpoints = [f32::INFINITY; 16];
    let mut i = 0;
    while i < 15 {
        midpoints[i] = (NF4_CODES[i] + NF4_CODES[i + 1]) * 0.5;
        i += 1;
    }
    midpoints
};

/// Quantises blocks: two codes a byte, and a scale for each block.
fn f32_blocks(level: Level, values: &[f32], codes: &mut [u8], absmax: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if level == Level::Avx512 {
        // SAFETY: the level is in use only where the processor has it.
        unsafe { avx512::f32_blocks(values, codes, absmax) };
        return;
    }
    f32_blocks_plain(level, values, codes, absmax);
}

/// As [`f32_blocks`], of little-endian bf16.
fn bf16_blocks(level: Level, bytes: &[u8], codes: &mut [u8], absmax: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if level == Level::Avx512 {
        // SAFETY: the level is in use only where the processor has it.
        unsafe { avx512::bf16_blocks(bytes, codes, absmax) };
        return;
    }
    bf16_blocks_plain(level, bytes, codes, absmax);
}

// Plain loops: the compiler makes vectors of them, given the instructions.
simd! {
    fn f32_blocks_plain(_v, values: &[f32], codes: &mut [u8], absmax: &mut [f32]) {
        let blocks = values.chunks(NF4_BLOCK).zip(codes.chunks_mut(NF4_BLOCK / 2));
        for (absmax, (values, codes)) in absmax.iter_mut().zip(blocks) {
            let mut block = [0.0; NF4_BLOCK];
            block[..values.len()].copy_from_slice(values);
            *absmax = one_block(&block, codes);
        }
    }

    fn bf16_blocks_plain(_v, bytes: &[u8], codes: &mut [u8], absmax: &mut [f32]) {
        let blocks = bytes.chunks(2 * NF4_BLOCK).zip(codes.chunks_mut(NF4_BLOCK / 2));
        for (absmax, (bytes, codes)) in absmax.iter_mut().zip(blocks) {
            let mut block = [0.0; NF4_BLOCK];
            for (value, bytes) in block.iter_mut().zip(bytes.as_chunks().0) {
                *value = bf16::from_le_bytes(*bytes).to_f32();
            }
            *absmax = one_block(&block, codes);
        }
    }
}

/// Writes the codes of a block, whose elements past the end of the matrix are 0, and returns its scale.
#[inline(always)]
fn one_block(block: &[f32; NF4_BLOCK], codes: &mut [u8]) -> f32 {
    // Without their signs, the bits of floats are in the order of their values.
    let largest = block.iter().fold(0, |max, x| x.abs().to_bits().max(max));
    let largest = f32::from_bits(largest);
    let inverse = inverse(largest);
    let mut nearest = [0_u32; NF4_BLOCK];
    for (code, x) in nearest.iter_mut().zip(block) {
        let x = x * inverse;
        for midpoint in &MIDPOINTS[..15] {
            *code += u32::from(x > *midpoint);
        }
    }
    for (byte, pair) in codes.iter_mut().zip(nearest.as_chunks::<2>().0) {
        *byte = (pair[0] << 4 | pair[1]) as u8;
    }
    largest
}

/// What the elements of a block are multiplied by; 0 also where the scale is not a number.
#[inline(always)]
fn inverse(largest: f32) -> f32 {
    if largest > 0.0 { 1.0 / largest } else { 0.0 }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    use super::{MIDPOINTS, NF4_BLOCK, inverse};

    /// As [`super::f32_blocks`].
    ///
    /// # Safety
    ///
    /// The processor must have AVX-512 F, BW, VL and DQ.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    pub(super) unsafe fn f32_blocks(values: &[f32], codes: &mut [u8], absmax: &mut [f32]) {
        let blocks = values.chunks(NF4_BLOCK).zip(codes.chunks_mut(NF4_BLOCK / 2));
        for (absmax, (values, codes)) in absmax.iter_mut().zip(blocks) {
            let mut last = [0.0; NF4_BLOCK];
            let values: &[f32; NF4_BLOCK] = match values.as_array() {
                Some(values) => values,
                None => {
                    last[..values.len()].copy_from_slice(values);
                    &last
                }
            };
            let (parts, _) = values.as_chunks::<16>();
            // SAFETY: each part has 16 elements.
            let block = unsafe {
                [
                    _mm512_loadu_ps(parts[0].as_ptr()),
                    _mm512_loadu_ps(parts[1].as_ptr()),
                    _mm512_loadu_ps(parts[2].as_ptr()),
                    _mm512_loadu_ps(parts[3].as_ptr()),
                ]
            };
            *absmax = one_block(block, codes);
        }
    }

    /// As [`super::bf16_blocks`].
    ///
    /// # Safety
    ///
    /// The processor must have AVX-512 F, BW, VL and DQ.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    pub(super) unsafe fn bf16_blocks(bytes: &[u8], codes: &mut [u8], absmax: &mut [f32]) {
        let blocks = bytes.chunks(2 * NF4_BLOCK).zip(codes.chunks_mut(NF4_BLOCK / 2));
        for (absmax, (bytes, codes)) in absmax.iter_mut().zip(blocks) {
            let mut last = [0; 2 * NF4_BLOCK];
            let bytes: &[u8; 2 * NF4_BLOCK] = match bytes.as_array() {
                Some(bytes) => bytes,
                None => {
                    last[..bytes.len()].copy_from_slice(bytes);
                    &last
                }
            };
            let (parts, _) = bytes.as_chunks::<32>();
            // SAFETY: each part has 32 bytes.
            let halves = unsafe {
                [
                    _mm256_loadu_si256(parts[0].as_ptr().cast()),
                    _mm256_loadu_si256(parts[1].as_ptr().cast()),
                    _mm256_loadu_si256(parts[2].as_ptr().cast()),
                    _mm256_loadu_si256(parts[3].as_ptr().cast()),
                ]
            };
            *absmax =
                one_block([widen(halves[0]), widen(halves[1]), widen(halves[2]), widen(halves[3])], codes);
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    fn widen(x: __m256i) -> __m512 {
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(x)))
    }

    /// As [`super::one_block`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    fn one_block(block: [__m512; 4], codes: &mut [u8]) -> f32 {
        let bits = |x: __m512| _mm512_castps_si512(_mm512_abs_ps(x));
        let largest = _mm512_max_epu32(
            _mm512_max_epu32(bits(block[0]), bits(block[1])),
            _mm512_max_epu32(bits(block[2]), bits(block[3])),
        );
        let largest = f32::from_bits(_mm512_reduce_max_epu32(largest));
        let inverse = _mm512_set1_ps(inverse(largest));
        let mut packed = [0_u8; NF4_BLOCK / 2];
        for (x, packed) in block.into_iter().zip(packed.as_chunks_mut::<8>().0) {
            *packed = sixteen(_mm512_mul_ps(x, inverse)).to_le_bytes();
        }
        let len = codes.len();
        codes.copy_from_slice(&packed[..len]);
        largest
    }

    /// The codes of 16 numbers, two a byte: four steps of a binary search for how many midpoints lie below each.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    fn sixteen(x: __m512) -> i64 {
        // SAFETY: the table has 16 elements.
        let midpoints = unsafe { _mm512_loadu_ps(MIDPOINTS.as_ptr()) };
        // A code found so far, with more of its lower bits set: the place of the midpoint to compare with.
        let midpoint = |code: __m512i, ahead: i32| {
            _mm512_permutexvar_ps(_mm512_or_si512(code, _mm512_set1_epi32(ahead)), midpoints)
        };
        let above = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(x, _mm512_set1_ps(MIDPOINTS[7]));
        let code = _mm512_maskz_set1_epi32(above, 8);
        let above = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(x, midpoint(code, 3));
        let code = _mm512_mask_or_epi32(code, above, code, _mm512_set1_epi32(4));
        let above = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(x, midpoint(code, 1));
        let code = _mm512_mask_or_epi32(code, above, code, _mm512_set1_epi32(2));
        let above = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(x, _mm512_permutexvar_ps(code, midpoints));
        let code = _mm512_mask_or_epi32(code, above, code, _mm512_set1_epi32(1));
        // In each 64 bits the code of an even element lies low and that of the odd one after it high.
        let pairs = _mm512_or_si512(_mm512_slli_epi64::<4>(code), _mm512_srli_epi64::<32>(code));
        _mm_cvtsi128_si64(_mm512_cvtepi64_epi8(pairs))
    }
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;
    use crate::testing::{Random, at_every_level};

    /// Codes and scales of a matrix in words of the definition: as many codes lie below a number's as midpoints.
    fn by_definition(values: &[f32]) -> (Vec<u8>, Vec<f32>) {
        let (mut codes, mut absmax) = (Vec::new(), Vec::new());
        for block in values.chunks(NF4_BLOCK) {
            let largest = block.iter().fold(0.0_f32, |max, x| if x.abs() > max { x.abs() } else { max });
            let factor = if largest > 0.0 { 1.0 / largest } else { 0.0 };
            absmax.push(largest);
            for x in block {
                let midpoint = |i: usize| (NF4_CODES[i] + NF4_CODES[i + 1]) * 0.5;
                codes.push((0..15).filter(|&i| x * factor > midpoint(i)).count() as u8);
            }
        }
        if codes.len() % 2 == 1 {
            codes.push(7);
        }
        (codes.as_chunks::<2>().0.iter().map(|pair| pair[0] << 4 | pair[1]).collect(), absmax)
    }

    fn bits(nf4: &Nf4) -> (Vec<u8>, Vec<u32>) {
        let scales = match nf4.absmax() {
            Absmax::Plain(scales) => scales.iter().map(|x| x.to_bits()).collect(),
            Absmax::Double(scales) => scales
                .codes
                .iter()
                .map(|&code| u32::from(code))
                .chain(scales.nested_absmax.iter().map(|x| x.to_bits()))
                .chain([scales.offset.to_bits()])
                .collect(),
        };
        (nf4.codes().to_vec(), scales)
    }

    fn bytes(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect()
    }

    #[test]
    fn codes_are_the_nearest_at_every_level_and_length() {
        let mut random = Random(91);
        for (rows, cols) in
            [(0, 5), (1, 1), (1, 2), (1, 63), (1, 64), (1, 65), (5, 13), (3, 128), (37, 53), (130, 257)]
        {
            let mut values: Vec<f32> = random.vector(rows * cols);
            // A block of zeros, and blocks of very small and very large numbers.
            values.iter_mut().skip(64).take(64).for_each(|x| *x = 0.0);
            values.iter_mut().skip(128).take(64).for_each(|x| *x *= 1e-38);
            values.iter_mut().skip(192).take(64).for_each(|x| *x *= 1e38);
            let rounded: Vec<f32> = values.iter().map(|&x| bf16::from_f32(x).to_f32()).collect();
            at_every_level(|level| {
                for (values, found) in [
                    (&values, Nf4::quantize(&values, rows, cols, false)),
                    (
                        &rounded,
                        Nf4::quantize_bytes(
                            FloatBytes::Bf16(&bytes(&values)),
                            Precision::F32,
                            rows,
                            cols,
                            false,
                        ),
                    ),
                ] {
                    let (codes, absmax) = by_definition(values);
                    assert_eq!(found.codes(), codes, "{level:?} ({rows}, {cols})");
                    assert_eq!(*found.absmax(), Absmax::Plain(absmax), "{level:?} ({rows}, {cols})");
                }
            });
        }
    }

    #[test]
    fn midpoints_and_their_neighbours_fall_to_the_right_side() {
        let mut values: Vec<f32> =
            MIDPOINTS[..15].iter().flat_map(|x| [x.next_down(), *x, x.next_up()]).collect();
        values.extend([1.0, -1.0, 0.0, -0.0]);
        let (codes, _) = by_definition(&values);
        at_every_level(|level| {
            assert_eq!(Nf4::quantize(&values, 1, values.len(), false).codes(), codes, "{level:?}");
        });
    }

    #[test]
    fn numbers_that_are_none_are_the_same_at_every_level() {
        let mut random = Random(92);
        let mut values = random.vector(64 * 6 + 3);
        values[3] = f32::NAN;
        values[70] = f32::INFINITY;
        values[140] = f32::NEG_INFINITY;
        values[200] = f32::from_bits(1);
        values[201..256].fill(0.0);
        values[386] = -f32::NAN;
        let mut seen: Option<Vec<(Vec<u8>, Vec<u32>)>> = None;
        at_every_level(|level| {
            let from_bf16 = |double| {
                Nf4::quantize_bytes(
                    FloatBytes::Bf16(&bytes(&values)),
                    Precision::F32,
                    1,
                    values.len(),
                    double,
                )
            };
            let found: Vec<_> = [false, true]
                .into_iter()
                .flat_map(|double| {
                    [bits(&Nf4::quantize(&values, 1, values.len(), double)), bits(&from_bf16(double))]
                })
                .collect();
            assert_eq!(*seen.get_or_insert_with(|| found.clone()), found, "{level:?}");
        });
    }

    #[test]
    fn every_source_and_every_way_gives_one_result() {
        let mut random = Random(93);
        let (rows, cols) = (67, 1031);
        let values = random.vector(rows * cols);
        let wide = |x: &[f32]| Nf4::quantize(x, rows, cols, true);
        let rounded: Vec<f32> = values.iter().map(|&x| bf16::from_f32(x).to_f32()).collect();
        let halves: Vec<f16> = values.iter().map(|&x| f16::from_f32(x)).collect();
        let widened: Vec<f32> = halves.iter().map(|x| x.to_f32()).collect();
        // One byte in front: nothing in a file need be aligned.
        let file =
            |bytes: &mut dyn Iterator<Item = u8>| -> Vec<u8> { std::iter::once(9).chain(bytes).collect() };
        let bf16s = file(&mut bytes(&values).into_iter());
        let f16s = file(&mut halves.iter().flat_map(|x| x.to_le_bytes()));
        let f32s = file(&mut values.iter().flat_map(|x| x.to_le_bytes()));
        let f64s = file(&mut values.iter().flat_map(|&x| f64::from(x).to_le_bytes()));
        at_every_level(|level| {
            for (source, exact) in [
                (FloatBytes::Bf16(&bf16s[1..]), &rounded),
                (FloatBytes::F16(&f16s[1..]), &widened),
                (FloatBytes::F32(&f32s[1..]), &values),
                (FloatBytes::F64(&f64s[1..]), &values),
            ] {
                let found = Nf4::quantize_bytes(source, Precision::F32, rows, cols, true);
                assert_eq!(found, wide(exact), "{level:?}");
                let found = Nf4::quantize_bytes(source, Precision::Bf16, rows, cols, true);
                let exact: Vec<f32> = exact.iter().map(|&x| bf16::from_f32(x).to_f32()).collect();
                assert_eq!(found, wide(&exact), "{level:?}, rounded");
            }
            let made = Nf4::quantize_with(rows, cols, true, |first, out| {
                out.copy_from_slice(&values[first..first + out.len()]);
            });
            assert_eq!(made, wide(&values), "{level:?}");
        });
    }

    #[test]
    fn the_result_does_not_depend_on_the_threads() {
        let values = Random(94).vector(300 * 1024);
        let all = Nf4::quantize(&values, 300, 1024, true);
        let before = crate::threads::threads();
        crate::threads::set_threads(1);
        let alone = Nf4::quantize(&values, 300, 1024, true);
        crate::threads::set_threads(before);
        assert_eq!(all, alone);
    }
}
