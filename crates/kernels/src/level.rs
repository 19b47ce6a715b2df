//! Which instruction set the kernels use.

use std::cell::Cell;
use std::sync::OnceLock;

/// An instruction set the kernels are written for, from plainest to widest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Plain Rust, whatever the compiler makes of it for the baseline of the target.
    Scalar,
    /// AVX2 and FMA: 8 lanes of `f32`.
    Avx2,
    /// AVX-512 F, BW, VL and DQ: 16 lanes of `f32`; with AVX512-BF16 where that instruction is fast.
    Avx512,
}

thread_local! {
    static FORCED: Cell<Option<Level>> = const { Cell::new(None) };
    static FORCED_BF16_DOT: Cell<Option<bool>> = const { Cell::new(None) };
}

/// The level in use on this thread: the best this processor has, capped by the environment variable
/// `TAIYI_SIMD` (`scalar`, `avx2` or `avx512`), or what [`with_level`] asks for.
pub fn level() -> Level {
    FORCED.get().unwrap_or_else(allowed)
}

/// Runs `f` with every kernel that it calls at `level`, or at the best available one below it.
///
/// Meant for tests and measurements; results of different levels differ by rounding.
pub fn with_level<R>(level: Level, f: impl FnOnce() -> R) -> R {
    let _restore = Restore(&FORCED, FORCED.replace(Some(level.min(detected()))));
    f()
}

/// Runs `f` with the `vdpbf16ps` product switched on (where the processor has it) or off.
#[cfg(test)]
pub(crate) fn with_bf16_dot<R>(on: bool, f: impl FnOnce() -> R) -> R {
    let _restore = Restore(&FORCED_BF16_DOT, FORCED_BF16_DOT.replace(Some(on && has_bf16_dot())));
    f()
}

/// Whether products of bf16 operands use `vdpbf16ps` at the level in use.
///
/// Off on Intel processors, where that instruction has half the rate of a plain fused multiply-add per instruction or
/// less (measured on Emerald Rapids: 186 against 385 GFLOP/s on two cores): there the operands are rounded to bf16 and
/// multiplied as f32. AMD runs it at the full rate. `TAIYI_BF16_DOT` (`0` or `1`) overrides the choice.
pub(crate) fn bf16_dot() -> bool {
    level() == Level::Avx512 && FORCED_BF16_DOT.get().unwrap_or_else(default_bf16_dot)
}

struct Restore<T: 'static>(&'static std::thread::LocalKey<Cell<T>>, T)
where
    T: Copy;

impl<T: Copy> Drop for Restore<T> {
    fn drop(&mut self) {
        self.0.set(self.1);
    }
}

fn allowed() -> Level {
    static ALLOWED: OnceLock<Level> = OnceLock::new();
    *ALLOWED.get_or_init(|| {
        let cap = match std::env::var("TAIYI_SIMD").as_deref() {
            Ok("scalar") => Level::Scalar,
            Ok("avx2") => Level::Avx2,
            _ => Level::Avx512,
        };
        cap.min(detected())
    })
}

#[cfg(target_arch = "x86_64")]
fn detected() -> Level {
    let avx2 = is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c");
    let avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq");
    match (avx2, avx512) {
        (true, true) => Level::Avx512,
        (true, false) => Level::Avx2,
        _ => Level::Scalar,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detected() -> Level {
    Level::Scalar
}

#[cfg(target_arch = "x86_64")]
fn has_bf16_dot() -> bool {
    detected() == Level::Avx512 && is_x86_feature_detected!("avx512bf16")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_bf16_dot() -> bool {
    false
}

fn default_bf16_dot() -> bool {
    static DEFAULT: OnceLock<bool> = OnceLock::new();
    *DEFAULT.get_or_init(|| match std::env::var("TAIYI_BF16_DOT").as_deref() {
        Ok("0") => false,
        Ok("1") => has_bf16_dot(),
        _ => has_bf16_dot() && !made_by_intel(),
    })
}

#[cfg(target_arch = "x86_64")]
fn made_by_intel() -> bool {
    let leaf = core::arch::x86_64::__cpuid(0);
    (leaf.ebx, leaf.edx, leaf.ecx) == (0x756e_6547, 0x4965_6e69, 0x6c65_746e)
}

#[cfg(not(target_arch = "x86_64"))]
fn made_by_intel() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forced_level_holds_inside_and_ends_outside() {
        let before = level();
        with_level(Level::Scalar, || {
            assert_eq!(level(), Level::Scalar);
            assert!(!bf16_dot());
        });
        assert_eq!(level(), before);
    }

    #[test]
    fn a_level_above_the_processor_is_lowered() {
        with_level(Level::Avx512, || assert!(level() <= detected()));
    }
}
