//! Timing for the benches.

use taiyi_kernels::threads;

/// The first argument that is not an option: what the names of the measurements to run must contain.
pub(crate) fn filter() -> String {
    std::env::args().skip(1).find(|argument| !argument.starts_with("--")).unwrap_or_default()
}

/// Numbers in `-1.0..1.0`.
pub(crate) fn values(len: usize) -> Vec<f32> {
    let mut state = 1_u32;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

/// Runs `run` several times and prints `amount` (in billions) a second.
pub(crate) fn report(filter: &str, name: &str, amount: f64, unit: &str, mut run: impl FnMut()) {
    if !name.contains(filter) {
        return;
    }
    run();
    let begin = now();
    let mut seconds = Vec::new();
    while seconds.len() < 5 || (now() - begin < 0.15 && seconds.len() < 200) {
        let start = now();
        run();
        seconds.push(now() - start);
    }
    seconds.sort_by(f64::total_cmp);
    let rate = |seconds: f64| amount / seconds / 1e9;
    let (best, median) = (seconds[0], seconds[seconds.len() / 2]);
    println!(
        "{name:<48} best {:8.1} {unit}  median {:8.1}  ({:.1} us)",
        rate(best),
        rate(median),
        best * 1e6
    );
}

/// Seconds: of the wall clock, or of this thread where it works alone.
fn now() -> f64 {
    let clock = if threads() == 1 { libc::CLOCK_THREAD_CPUTIME_ID } else { libc::CLOCK_MONOTONIC };
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a timespec to write to.
    unsafe { libc::clock_gettime(clock, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}
