//! Vectors of `f32`, so that an elementwise kernel is written once and compiled for every level.
//!
//! [`simd!`] turns a function over a vector type into one that takes a [`Level`](crate::level::Level).

/// A vector of `f32`. A value of the type is the proof that the processor has its instructions, so vectors are made
/// from other vectors only.
///
/// Loads and stores take as many elements as the slice has, at most [`N`](Lanes::N).
pub(crate) trait Lanes: Copy {
    /// Elements of a vector.
    const N: usize;

    fn splat(self, x: f32) -> Self;
    /// The first elements of `x`, and `fill` in the lanes past its end.
    fn load_or(self, x: &[f32], fill: f32) -> Self;
    fn store(self, y: &mut [f32]);
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    fn div(self, other: Self) -> Self;
    /// `self * factor + term`, rounded once where the processor can.
    fn mul_add(self, factor: Self, term: Self) -> Self;
    /// The larger; `other` where one is NaN.
    fn max(self, other: Self) -> Self;
    /// The smaller; `other` where one is NaN.
    fn min(self, other: Self) -> Self;
    fn sqrt(self) -> Self;
    /// To the nearest integer, ties to even.
    fn round(self) -> Self;
    /// `self * 2^n` for an integer `n` between -160 and 160.
    fn times_power_of_two(self, n: Self) -> Self;
    fn abs(self) -> Self;
    /// `yes` where `self < other`, else `no`.
    fn if_less(self, other: Self, yes: Self, no: Self) -> Self;
    /// The sum of the lanes, in an order of the type's own.
    fn sum(self) -> f32;
    /// The largest lane.
    fn largest(self) -> f32;

    #[inline(always)]
    fn load(self, x: &[f32]) -> Self {
        self.load_or(x, 0.0)
    }

    #[inline(always)]
    fn neg(self) -> Self {
        self.splat(0.0).sub(self)
    }

    /// `exp(self)`, within 2 units in the last place; 0 below -104, infinity above 88.8.
    #[inline(always)]
    fn exp(self) -> Self {
        // Cody and Waite: x = n ln 2 + r with |r| <= ln 2 / 2; ln 2 in two parts so that n times the first is exact.
        // The polynomial is that of Cephes' expf.
        let x = self.splat(-105.0).max(self.splat(89.0).min(self));
        let n = x.mul(self.splat(std::f32::consts::LOG2_E)).round();
        let r = n.mul_add(self.splat(-0.693_359_4), x);
        let r = n.mul_add(self.splat(2.121_944_4e-4), r);
        let p = self.splat(1.987_569_1e-4);
        let p = p.mul_add(r, self.splat(1.398_2e-3));
        let p = p.mul_add(r, self.splat(8.333_452e-3));
        let p = p.mul_add(r, self.splat(4.166_579_6e-2));
        let p = p.mul_add(r, self.splat(1.666_666_5e-1));
        let p = p.mul_add(r, self.splat(0.5));
        let p = p.mul_add(r.mul(r), r).add(self.splat(1.0));
        p.times_power_of_two(n)
    }

    /// `1 / (1 + exp(-self))`.
    #[inline(always)]
    fn sigmoid(self) -> Self {
        let one = self.splat(1.0);
        one.div(one.add(self.neg().exp()))
    }
}

impl Lanes for f32 {
    const N: usize = 1;

    #[inline(always)]
    fn splat(self, x: f32) -> Self {
        x
    }
    #[inline(always)]
    fn load_or(self, x: &[f32], fill: f32) -> Self {
        x.first().copied().unwrap_or(fill)
    }
    #[inline(always)]
    fn store(self, y: &mut [f32]) {
        if let Some(y) = y.first_mut() {
            *y = self;
        }
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self + other
    }
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self - other
    }
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self * other
    }
    #[inline(always)]
    fn div(self, other: Self) -> Self {
        self / other
    }
    #[inline(always)]
    fn mul_add(self, factor: Self, term: Self) -> Self {
        // Without the instruction a fused multiply-add is a slow library call.
        self * factor + term
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        if self > other { self } else { other }
    }
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        if self < other { self } else { other }
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        self.sqrt()
    }
    #[inline(always)]
    fn round(self) -> Self {
        self.round_ties_even()
    }
    #[inline(always)]
    fn times_power_of_two(self, n: Self) -> Self {
        // In two steps: 2^n itself may be out of range where the product is not.
        let n = n as i32;
        let power = |n: i32| f32::from_bits(((n + 127) as u32) << 23);
        self * power(n >> 1) * power(n - (n >> 1))
    }
    #[inline(always)]
    fn abs(self) -> Self {
        self.abs()
    }
    #[inline(always)]
    fn if_less(self, other: Self, yes: Self, no: Self) -> Self {
        if self < other { yes } else { no }
    }
    #[inline(always)]
    fn sum(self) -> f32 {
        self
    }
    #[inline(always)]
    fn largest(self) -> f32 {
        self
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{F32x8, F32x16};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Lanes;

    /// Sixteen lanes of AVX-512.
    #[derive(Clone, Copy)]
    #[repr(transparent)]
    pub(crate) struct F32x16(__m512);

    /// Eight lanes of AVX2.
    #[derive(Clone, Copy)]
    #[repr(transparent)]
    pub(crate) struct F32x8(__m256);

    impl F32x16 {
        /// # Safety
        ///
        /// The processor must have AVX-512 F, BW, VL and DQ.
        #[inline(always)]
        pub(crate) unsafe fn new() -> Self {
            // SAFETY: promised by the caller.
            unsafe { Self(_mm512_setzero_ps()) }
        }
    }

    impl F32x8 {
        /// # Safety
        ///
        /// The processor must have AVX2 and FMA.
        #[inline(always)]
        pub(crate) unsafe fn new() -> Self {
            // SAFETY: promised by the caller.
            unsafe { Self(_mm256_setzero_ps()) }
        }
    }

    /// Methods whose body is safe because a value of the type exists.
    macro_rules! methods {
        ($(fn $name:ident($me:ident $(, $arg:ident: $type:ty)*) -> $result:ty { $body:expr })*) => {
            $(
                #[inline(always)]
                fn $name($me $(, $arg: $type)*) -> $result {
                    // SAFETY: a value of this type exists, so the processor has its instructions.
                    unsafe { $body }
                }
            )*
        };
    }

    impl Lanes for F32x16 {
        const N: usize = 16;

        #[inline(always)]
        fn load_or(self, x: &[f32], fill: f32) -> Self {
            // SAFETY: the mask keeps to the slice; a value of this type exists.
            unsafe {
                if x.len() >= 16 {
                    Self(_mm512_loadu_ps(x.as_ptr()))
                } else {
                    let mask = ((1_u32 << x.len()) - 1) as u16;
                    Self(_mm512_mask_loadu_ps(_mm512_set1_ps(fill), mask, x.as_ptr()))
                }
            }
        }

        #[inline(always)]
        fn store(self, y: &mut [f32]) {
            // SAFETY: the mask keeps to the slice; a value of this type exists.
            unsafe {
                if y.len() >= 16 {
                    _mm512_storeu_ps(y.as_mut_ptr(), self.0);
                } else {
                    let mask = ((1_u32 << y.len()) - 1) as u16;
                    _mm512_mask_storeu_ps(y.as_mut_ptr(), mask, self.0);
                }
            }
        }

        methods! {
            fn splat(self, x: f32) -> Self { Self(_mm512_set1_ps(x)) }
            fn add(self, other: Self) -> Self { Self(_mm512_add_ps(self.0, other.0)) }
            fn sub(self, other: Self) -> Self { Self(_mm512_sub_ps(self.0, other.0)) }
            fn mul(self, other: Self) -> Self { Self(_mm512_mul_ps(self.0, other.0)) }
            fn div(self, other: Self) -> Self { Self(_mm512_div_ps(self.0, other.0)) }
            fn mul_add(self, factor: Self, term: Self) -> Self { Self(_mm512_fmadd_ps(self.0, factor.0, term.0)) }
            fn max(self, other: Self) -> Self { Self(_mm512_max_ps(self.0, other.0)) }
            fn min(self, other: Self) -> Self { Self(_mm512_min_ps(self.0, other.0)) }
            fn sqrt(self) -> Self { Self(_mm512_sqrt_ps(self.0)) }
            fn round(self) -> Self { Self(_mm512_roundscale_ps::<0x08>(self.0)) }
            fn times_power_of_two(self, n: Self) -> Self { Self(_mm512_scalef_ps(self.0, n.0)) }
            fn abs(self) -> Self { Self(_mm512_abs_ps(self.0)) }
            fn if_less(self, other: Self, yes: Self, no: Self) -> Self {
                Self(_mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(self.0, other.0), no.0, yes.0))
            }
            fn sum(self) -> f32 { _mm512_reduce_add_ps(self.0) }
            fn largest(self) -> f32 { _mm512_reduce_max_ps(self.0) }
        }
    }

    impl Lanes for F32x8 {
        const N: usize = 8;

        #[inline(always)]
        fn load_or(self, x: &[f32], fill: f32) -> Self {
            // SAFETY: the length is checked; a value of this type exists.
            unsafe {
                if x.len() >= 8 {
                    Self(_mm256_loadu_ps(x.as_ptr()))
                } else {
                    let mut part = [fill; 8];
                    part[..x.len()].copy_from_slice(x);
                    Self(_mm256_loadu_ps(part.as_ptr()))
                }
            }
        }

        #[inline(always)]
        fn store(self, y: &mut [f32]) {
            // SAFETY: the length is checked; a value of this type exists.
            unsafe {
                if y.len() >= 8 {
                    _mm256_storeu_ps(y.as_mut_ptr(), self.0);
                } else {
                    let mut part = [0.0; 8];
                    _mm256_storeu_ps(part.as_mut_ptr(), self.0);
                    y.copy_from_slice(&part[..y.len()]);
                }
            }
        }

        methods! {
            fn splat(self, x: f32) -> Self { Self(_mm256_set1_ps(x)) }
            fn add(self, other: Self) -> Self { Self(_mm256_add_ps(self.0, other.0)) }
            fn sub(self, other: Self) -> Self { Self(_mm256_sub_ps(self.0, other.0)) }
            fn mul(self, other: Self) -> Self { Self(_mm256_mul_ps(self.0, other.0)) }
            fn div(self, other: Self) -> Self { Self(_mm256_div_ps(self.0, other.0)) }
            fn mul_add(self, factor: Self, term: Self) -> Self { Self(_mm256_fmadd_ps(self.0, factor.0, term.0)) }
            fn max(self, other: Self) -> Self { Self(_mm256_max_ps(self.0, other.0)) }
            fn min(self, other: Self) -> Self { Self(_mm256_min_ps(self.0, other.0)) }
            fn sqrt(self) -> Self { Self(_mm256_sqrt_ps(self.0)) }
            fn round(self) -> Self { Self(_mm256_round_ps::<0x08>(self.0)) }
            fn times_power_of_two(self, n: Self) -> Self {{
                // In two steps: 2^n itself may be out of range where the product is not.
                let n = _mm256_cvtps_epi32(n.0);
                let half = _mm256_srai_epi32::<1>(n);
                let bias = _mm256_set1_epi32(127);
                let first = _mm256_slli_epi32::<23>(_mm256_add_epi32(half, bias));
                let second = _mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_sub_epi32(n, half), bias));
                Self(_mm256_mul_ps(_mm256_mul_ps(self.0, _mm256_castsi256_ps(first)), _mm256_castsi256_ps(second)))
            }}
            fn abs(self) -> Self { Self(_mm256_andnot_ps(_mm256_set1_ps(-0.0), self.0)) }
            fn if_less(self, other: Self, yes: Self, no: Self) -> Self {
                Self(_mm256_blendv_ps(no.0, yes.0, _mm256_cmp_ps::<_CMP_LT_OQ>(self.0, other.0)))
            }
            fn sum(self) -> f32 {{
                let mut part = [0.0_f32; 8];
                _mm256_storeu_ps(part.as_mut_ptr(), self.0);
                ((part[0] + part[4]) + (part[2] + part[6])) + ((part[1] + part[5]) + (part[3] + part[7]))
            }}
            fn largest(self) -> f32 {{
                let mut part = [0.0_f32; 8];
                _mm256_storeu_ps(part.as_mut_ptr(), self.0);
                part.iter().copied().fold(f32::NEG_INFINITY, f32::max)
            }}
        }
    }
}

/// Defines functions whose body is compiled for every level. The body sees the vector type `V` and a value of it named by
/// the first, untyped argument; callers pass the [`Level`](crate::level::Level) there.
macro_rules! simd {
    ($($(#[$doc:meta])* $vis:vis fn $name:ident($v:ident $(, $arg:ident: $type:ty)* $(,)?) $(-> $result:ty)? $body:block)*) => {
        $(
            $(#[$doc])*
            $vis fn $name(level: $crate::level::Level $(, $arg: $type)*) $(-> $result)? {
                #[inline(always)]
                #[allow(clippy::needless_lifetimes)]
                fn body<V: $crate::simd::Lanes>($v: V $(, $arg: $type)*) $(-> $result)? $body

                #[cfg(target_arch = "x86_64")]
                {
                    /// # Safety
                    ///
                    /// The processor must have the instructions.
                    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
                    unsafe fn avx512($($arg: $type),*) $(-> $result)? {
                        // SAFETY: promised by the caller.
                        body(unsafe { $crate::simd::F32x16::new() } $(, $arg)*)
                    }
                    /// # Safety
                    ///
                    /// The processor must have the instructions.
                    #[target_feature(enable = "avx2,fma")]
                    unsafe fn avx2($($arg: $type),*) $(-> $result)? {
                        // SAFETY: promised by the caller.
                        body(unsafe { $crate::simd::F32x8::new() } $(, $arg)*)
                    }
                    match level {
                        // SAFETY: a level is in use only where the processor has it.
                        $crate::level::Level::Avx512 => return unsafe { avx512($($arg),*) },
                        // SAFETY: as above.
                        $crate::level::Level::Avx2 => return unsafe { avx2($($arg),*) },
                        $crate::level::Level::Scalar => {}
                    }
                }
                let _ = level;
                body(0.0_f32 $(, $arg)*)
            }
        )*
    };
}
pub(crate) use simd;

#[cfg(test)]
mod tests {
    use crate::level::Level;
    use crate::testing::at_every_level;

    simd! {
        fn exp_all(v, x: &[f32], y: &mut [f32]) {
            let mut i = 0;
            while i < x.len() {
                v.load(&x[i..]).exp().store(&mut y[i..]);
                i += V::N;
            }
        }

        fn sum_and_largest(v, x: &[f32]) -> (f32, f32) {
            let x = v.load_or(x, -5.0);
            (x.sum(), x.largest())
        }
    }

    #[test]
    fn exp_is_right_within_two_units_in_the_last_place() {
        let x: Vec<f32> = (0..400_003).map(|i| -87.0 + i as f32 * (175.0 / 400_003.0)).collect();
        at_every_level(|level| {
            let mut y = vec![0.0; x.len()];
            exp_all(level, &x, &mut y);
            for (&x, &y) in x.iter().zip(&y) {
                let expected = f64::from(x).exp();
                let unit = expected * f64::from(f32::EPSILON) / 2.0;
                let limit = if level == Level::Scalar { 3.0 } else { 2.0 };
                assert!(
                    (f64::from(y) - expected).abs() <= limit * 2.0 * unit,
                    "{level:?}: exp({x}) = {y}, not {expected}"
                );
            }
        });
    }

    #[test]
    fn exp_keeps_its_word_at_the_ends() {
        at_every_level(|level| {
            let x = [f32::NEG_INFINITY, -1e30, -104.5, 89.5, 1e30, f32::INFINITY, 0.0, -0.0];
            let mut y = [1.0; 8];
            exp_all(level, &x, &mut y);
            assert_eq!(
                y,
                [0.0, 0.0, 0.0, f32::INFINITY, f32::INFINITY, f32::INFINITY, 1.0, 1.0],
                "{level:?}"
            );
            let mut y = [1.0];
            exp_all(level, &[f32::NAN], &mut y);
            assert!(y[0].is_nan(), "{level:?}");
        });
    }

    #[test]
    fn short_slices_fill_the_lanes_and_stop_at_their_end() {
        at_every_level(|level| {
            let lanes = match level {
                Level::Scalar => 1,
                Level::Avx2 => 8,
                Level::Avx512 => 16,
            };
            for len in 1..=lanes {
                let x: Vec<f32> = (0..len).map(|i| i as f32).collect();
                let fill = -5.0 * (lanes - len) as f32;
                assert_eq!(
                    sum_and_largest(level, &x),
                    (x.iter().sum::<f32>() + fill, (len - 1) as f32),
                    "{level:?}"
                );
                let mut y = vec![7.0; len + 1];
                exp_all(level, &x, &mut y[..len]);
                assert_eq!(y[len], 7.0, "{level:?}: wrote past {len} elements");
            }
        });
    }
}
