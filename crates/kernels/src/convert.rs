//! Conversions between number formats.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::gemm::check;

/// Widens bf16 to `f32`; exact.
///
/// # Panics
///
/// When the slices differ in length.
pub fn bf16_to_f32(x: &[bf16], y: &mut [f32]) {
    check("bf16_to_f32", [("y", y.len(), x.len())]);
    x.convert_to_f32_slice(y);
}

/// Rounds `f32` to bf16, to nearest, ties to even.
///
/// # Panics
///
/// When the slices differ in length.
pub fn f32_to_bf16(x: &[f32], y: &mut [bf16]) {
    check("f32_to_bf16", [("y", y.len(), x.len())]);
    y.convert_from_f32_slice(x);
}

/// Widens IEEE half precision to `f32`; exact.
///
/// # Panics
///
/// When the slices differ in length.
pub fn f16_to_f32(x: &[f16], y: &mut [f32]) {
    check("f16_to_f32", [("y", y.len(), x.len())]);
    x.convert_to_f32_slice(y);
}
