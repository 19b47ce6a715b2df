//! Conversions between number formats.

use std::ops::Range;

use half::{bf16, f16};

use crate::gemm::check;
use crate::level::{Level, level};
use crate::simd::simd;
use crate::threads::{Parts, parallel_elements};

/// Numbers as they lie in a file: little-endian, not necessarily aligned. Bytes past the last whole number are no part of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FloatBytes<'a> {
    /// Double precision.
    F64(&'a [u8]),
    /// Single precision.
    F32(&'a [u8]),
    /// IEEE half precision.
    F16(&'a [u8]),
    /// The upper half of single precision.
    Bf16(&'a [u8]),
}

impl<'a> FloatBytes<'a> {
    /// How many numbers there are.
    pub fn len(&self) -> usize {
        self.bytes().len() / self.size()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The numbers of a range.
    ///
    /// # Panics
    ///
    /// When the range ends past the last number.
    pub fn slice(self, range: Range<usize>) -> Self {
        let cut = |bytes: &'a [u8], size: usize| &bytes[size * range.start..size * range.end];
        match self {
            Self::F64(bytes) => Self::F64(cut(bytes, 8)),
            Self::F32(bytes) => Self::F32(cut(bytes, 4)),
            Self::F16(bytes) => Self::F16(cut(bytes, 2)),
            Self::Bf16(bytes) => Self::Bf16(cut(bytes, 2)),
        }
    }

    /// Writes the numbers to `y` as `f32`; exact but for double precision, which is rounded.
    ///
    /// # Panics
    ///
    /// When `y` has another length.
    pub fn to_f32(self, y: &mut [f32]) {
        check("FloatBytes::to_f32", [("y", y.len(), self.len())]);
        let (level, len, y) = (level(), y.len(), Parts::new(y));
        parallel_elements(len, |at| {
            // SAFETY: each task has its own range.
            let y = unsafe { y.part(at.start, at.len()) };
            self.slice(at).read(level, y);
        });
    }

    /// Writes the numbers to `y` as bf16, to nearest, ties to even; double precision is rounded to single precision first.
    ///
    /// # Panics
    ///
    /// When `y` has another length.
    pub fn to_bf16(self, y: &mut [bf16]) {
        check("FloatBytes::to_bf16", [("y", y.len(), self.len())]);
        let (level, len, y) = (level(), y.len(), Parts::new(y));
        parallel_elements(len, |at| {
            // SAFETY: each task has its own range.
            let y = unsafe { y.part(at.start, at.len()) };
            let from = self.slice(at);
            if let Self::Bf16(bytes) = from {
                copy_bf16(level, bytes, y);
                return;
            }
            let mut piece = [0.0; 256];
            for (index, y) in y.chunks_mut(256).enumerate() {
                let piece = &mut piece[..y.len()];
                from.slice(index * 256..index * 256 + y.len()).read(level, piece);
                narrow(level, piece, y);
            }
        });
    }

    /// Writes the numbers to `y` on this thread.
    pub(crate) fn read(self, level: Level, y: &mut [f32]) {
        match self {
            Self::F64(bytes) => read_f64(level, bytes, y),
            Self::F32(bytes) => read_f32(level, bytes, y),
            Self::F16(bytes) => read_f16(level, bytes, y),
            Self::Bf16(bytes) => read_bf16(level, bytes, y),
        }
    }

    fn bytes(&self) -> &'a [u8] {
        match self {
            Self::F64(bytes) | Self::F32(bytes) | Self::F16(bytes) | Self::Bf16(bytes) => bytes,
        }
    }

    fn size(&self) -> usize {
        match self {
            Self::F64(_) => 8,
            Self::F32(_) => 4,
            Self::F16(_) | Self::Bf16(_) => 2,
        }
    }
}

/// Widens bf16 to `f32`; exact.
///
/// # Panics
///
/// When the slices differ in length.
pub fn bf16_to_f32(x: &[bf16], y: &mut [f32]) {
    check("bf16_to_f32", [("y", y.len(), x.len())]);
    let (level, y) = (level(), Parts::new(y));
    parallel_elements(x.len(), |at| {
        // SAFETY: each task has its own range.
        let y = unsafe { y.part(at.start, at.len()) };
        widen(level, &x[at], y);
    });
}

/// Rounds `f32` to bf16, to nearest, ties to even; a NaN stays one.
///
/// # Panics
///
/// When the slices differ in length.
pub fn f32_to_bf16(x: &[f32], y: &mut [bf16]) {
    check("f32_to_bf16", [("y", y.len(), x.len())]);
    let (level, y) = (level(), Parts::new(y));
    parallel_elements(x.len(), |at| {
        // SAFETY: each task has its own range.
        let y = unsafe { y.part(at.start, at.len()) };
        narrow(level, &x[at], y);
    });
}

/// Widens IEEE half precision to `f32`; exact.
///
/// # Panics
///
/// When the slices differ in length.
pub fn f16_to_f32(x: &[f16], y: &mut [f32]) {
    check("f16_to_f32", [("y", y.len(), x.len())]);
    let (level, y) = (level(), Parts::new(y));
    parallel_elements(x.len(), |at| {
        // SAFETY: each task has its own range.
        let y = unsafe { y.part(at.start, at.len()) };
        widen_f16(level, &x[at], y);
    });
}

// Plain loops: the compiler makes vectors of them, given the instructions.
simd! {
    pub(crate) fn widen(_v, x: &[bf16], y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = f32::from_bits(u32::from(x.to_bits()) << 16);
        }
    }

    fn narrow(_v, x: &[f32], y: &mut [bf16]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = bf16::from_bits(nearest_bf16(x));
        }
    }

    /// Rounds each number to one that bf16 holds.
    pub(crate) fn round_to_bf16(_v, x: &mut [f32]) {
        for x in x {
            *x = f32::from_bits(u32::from(nearest_bf16(*x)) << 16);
        }
    }

    fn widen_f16(_v, x: &[f16], y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = widened_f16(x.to_bits());
        }
    }

    fn read_f64(_v, x: &[u8], y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(x.as_chunks().0) {
            *y = f64::from_le_bytes(*x) as f32;
        }
    }

    fn read_f32(_v, x: &[u8], y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(x.as_chunks().0) {
            *y = f32::from_le_bytes(*x);
        }
    }

    fn read_f16(_v, x: &[u8], y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(x.as_chunks().0) {
            *y = widened_f16(u16::from_le_bytes(*x));
        }
    }

    fn read_bf16(_v, x: &[u8], y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(x.as_chunks().0) {
            *y = f32::from_bits(u32::from(u16::from_le_bytes(*x)) << 16);
        }
    }

    fn copy_bf16(_v, x: &[u8], y: &mut [bf16]) {
        for (y, x) in y.iter_mut().zip(x.as_chunks().0) {
            *y = bf16::from_le_bytes(*x);
        }
    }
}

/// The bits of the bf16 nearest to a number, ties to even; a NaN stays one.
#[inline(always)]
fn nearest_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    (if x.is_nan() { bits >> 16 | 0x40 } else { rounded }) as u16
}

/// The number that the bits of half precision stand for.
#[inline(always)]
fn widened_f16(bits: u16) -> f32 {
    // Exponent and fraction at their place in an f32, whose exponents count from 112 further below. Subnormal numbers have no
    // leading 1: 2^-14 is added in the bits and taken away as a number, which is exact.
    const LEAST_NORMAL: u32 = 113 << 23;
    let (sign, shifted) = (u32::from(bits & 0x8000) << 16, u32::from(bits & 0x7fff) << 13);
    let subnormal = (f32::from_bits(shifted + LEAST_NORMAL) - f32::from_bits(LEAST_NORMAL)).to_bits();
    let quiet = if bits & 0x03ff == 0 { 0 } else { 0x0040_0000 };
    let magnitude = match bits >> 10 & 31 {
        0 => subnormal,
        31 => shifted | 0x7f80_0000 | quiet,
        _ => shifted + (112 << 23),
    };
    f32::from_bits(magnitude | sign)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Random, at_every_level};

    #[test]
    fn conversions_equal_the_scalar_ones_bit_by_bit() {
        let mut random = Random(6);
        let mut x: Vec<f32> = (0..70_001).map(|_| f32::from_bits(random.next() as u32)).collect();
        let ties = [1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0];
        x.extend(
            [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::MAX, f32::MIN_POSITIVE]
                .iter()
                .chain(&ties),
        );
        at_every_level(|level| {
            let mut half = vec![bf16::ZERO; x.len()];
            f32_to_bf16(&x, &mut half);
            let mut wide = vec![0.0; x.len()];
            bf16_to_f32(&half, &mut wide);
            for ((&x, half), wide) in x.iter().zip(&half).zip(&wide) {
                assert_eq!(half.to_bits(), bf16::from_f32(x).to_bits(), "{level:?}: {x:e}");
                assert_eq!(wide.to_bits(), u32::from(half.to_bits()) << 16, "{level:?}: {half:?}");
            }
        });
    }

    #[test]
    fn half_precision_is_widened() {
        let x: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).collect();
        let mut y = vec![0.0; x.len()];
        at_every_level(|level| {
            f16_to_f32(&x, &mut y);
            for (x, y) in x.iter().zip(&y) {
                assert_eq!(x.to_f32().to_bits(), y.to_bits(), "{level:?}: {x:?} became {y}");
            }
        });
    }

    #[test]
    fn bytes_of_a_file_are_read_at_any_address() {
        let mut random = Random(7);
        let singles: Vec<f32> = (0..40_003).map(|_| random.uniform() * 300.0).collect();
        let halves: Vec<f16> = singles.iter().map(|&x| f16::from_f32(x)).collect();
        let brains: Vec<bf16> = singles.iter().map(|&x| bf16::from_f32(x)).collect();
        for offset in 0..3 {
            let front = || std::iter::repeat_n(1_u8, offset);
            let f64s: Vec<u8> =
                front().chain(singles.iter().flat_map(|&x| f64::from(x).to_le_bytes())).collect();
            let f32s: Vec<u8> = front().chain(singles.iter().flat_map(|x| x.to_le_bytes())).collect();
            let f16s: Vec<u8> = front().chain(halves.iter().flat_map(|x| x.to_le_bytes())).collect();
            // One byte too many is no number.
            let bf16s: Vec<u8> =
                front().chain(brains.iter().flat_map(|x| x.to_le_bytes())).chain([1]).collect();
            let wide = |x: &f16| x.to_f32();
            let cases = [
                (FloatBytes::F64(&f64s[offset..]), singles.clone()),
                (FloatBytes::F32(&f32s[offset..]), singles.clone()),
                (FloatBytes::F16(&f16s[offset..]), halves.iter().map(wide).collect()),
                (FloatBytes::Bf16(&bf16s[offset..]), brains.iter().map(|x| x.to_f32()).collect()),
            ];
            at_every_level(|level| {
                for (source, expected) in &cases {
                    assert_eq!(source.len(), expected.len());
                    let mut found = vec![0.0; expected.len()];
                    source.to_f32(&mut found);
                    assert_eq!(found, *expected, "{level:?}");
                    let mut found = vec![bf16::ZERO; expected.len()];
                    source.to_bf16(&mut found);
                    let expected: Vec<bf16> = expected.iter().map(|&x| bf16::from_f32(x)).collect();
                    assert_eq!(found, expected, "{level:?}");
                }
            });
        }
    }
}
