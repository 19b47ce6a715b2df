//! Conversions between number formats.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::gemm::check;
use crate::level::level;
use crate::simd::simd;
use crate::threads::{Parts, parallel_elements};

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
    let y = Parts::new(y);
    parallel_elements(x.len(), |at| {
        // SAFETY: each task has its own range.
        let y = unsafe { y.part(at.start, at.len()) };
        x[at].convert_to_f32_slice(y);
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
            let bits = x.to_bits();
            let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
            *y = bf16::from_bits(if x.is_nan() { bits >> 16 | 0x40 } else { rounded } as u16);
        }
    }
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
        f16_to_f32(&x, &mut y);
        for (x, y) in x.iter().zip(&y) {
            assert!(*y == x.to_f32() || (y.is_nan() && x.is_nan()), "{x:?} became {y}");
        }
    }
}
