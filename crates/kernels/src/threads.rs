//! A pool of threads for work that lasts microseconds.
//!
//! One job runs at a time. The caller takes part, helpers join while they find the job open, and the caller leaves as
//! soon as all tasks are done and every helper that joined has left: a helper that sleeps through a small job costs
//! nothing. A second caller, and a call from inside a task, run their tasks alone on their own thread. How tasks are cut
//! must therefore never influence results.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::thread::Thread;

/// How often a helper looks for the next job before it goes to sleep: some 50 microseconds, longer than the gaps between
/// the kernels of one forward pass, shorter than anything a person would notice as load.
const LOOKS_BEFORE_SLEEP: u32 = 2_000;

const OPEN: u64 = 1 << 15;
const RUNNING: u64 = OPEN - 1;
const EPOCH: u64 = 1 << 16;

static LIMIT: AtomicUsize = AtomicUsize::new(0);

/// How many threads work on one operation: the processors available, `TAIYI_THREADS`, or what [`set_threads`] said last.
pub fn threads() -> usize {
    match LIMIT.load(Ordering::Relaxed) {
        0 => {
            let count = std::env::var("TAIYI_THREADS")
                .ok()
                .and_then(|text| text.parse().ok())
                .filter(|&count| count > 0)
                .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
            set_threads(count);
            threads()
        }
        count => count,
    }
}

/// Sets how many threads work on one operation, for the whole process; 0 counts as 1.
pub fn set_threads(count: usize) {
    LIMIT.store(count.clamp(1, 1024), Ordering::Relaxed);
}

/// A task function with its type taken away, so that helpers can hold it in a plain pointer.
struct Job<'a> {
    run: &'a (dyn Fn(usize) + Sync),
    tasks: usize,
    next: AtomicUsize,
    panicked: AtomicBool,
}

struct Helper {
    thread: Thread,
    asleep: &'static AtomicBool,
}

struct Pool {
    busy: AtomicBool,
    /// Epoch, whether the job is open for helpers, and how many helpers are inside it.
    state: AtomicU64,
    job: AtomicPtr<Job<'static>>,
    helpers: Mutex<Vec<Helper>>,
    helper_count: AtomicUsize,
}

fn pool() -> &'static Pool {
    static POOL: OnceLock<Pool> = OnceLock::new();
    POOL.get_or_init(|| Pool {
        busy: AtomicBool::new(false),
        state: AtomicU64::new(0),
        job: AtomicPtr::new(std::ptr::null_mut()),
        helpers: Mutex::new(Vec::new()),
        helper_count: AtomicUsize::new(0),
    })
}

thread_local! {
    static INSIDE_TASK: Cell<bool> = const { Cell::new(false) };
}

/// Runs `task(0)`, ..., `task(tasks - 1)`, each once, in any order, on up to [`threads`] threads; returns when all are done.
///
/// A panic in a task is raised again here, after the other tasks have ended.
pub(crate) fn parallel(tasks: usize, task: impl Fn(usize) + Sync) {
    let wanted = threads().min(tasks);
    let pool = pool();
    if wanted < 2
        || INSIDE_TASK.get()
        || pool.busy.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_err()
    {
        (0..tasks).for_each(task);
        return;
    }
    pool.run(wanted, tasks, &task);
}

impl Pool {
    fn run(&'static self, wanted: usize, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        let job = Job { run: task, tasks, next: AtomicUsize::new(0), panicked: AtomicBool::new(false) };
        self.ensure_helpers(wanted - 1);
        self.job.store((&raw const job).cast_mut().cast(), Ordering::Relaxed);
        // The epoch changes with every job, so that a helper never joins one job twice.
        let epoch = (self.state.load(Ordering::Relaxed) & !(EPOCH - 1)).wrapping_add(EPOCH);
        self.state.store(epoch | OPEN, Ordering::SeqCst);
        self.wake(wanted - 1);

        job.work();

        self.state.fetch_and(!OPEN, Ordering::AcqRel);
        let mut looks = 0_u32;
        while self.state.load(Ordering::Acquire) & RUNNING != 0 {
            looks += 1;
            if looks < 10_000 { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
        self.job.store(std::ptr::null_mut(), Ordering::Relaxed);
        self.busy.store(false, Ordering::Release);
        if job.panicked.load(Ordering::Relaxed) {
            // The message went to the panic hook when the task panicked.
            resume_unwind(Box::new("a kernel task panicked"));
        }
    }

    fn ensure_helpers(&'static self, count: usize) {
        if self.helper_count.load(Ordering::Relaxed) >= count {
            return;
        }
        let mut helpers = self.helpers.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        while helpers.len() < count {
            let asleep: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
            let index = helpers.len();
            let builder = std::thread::Builder::new().name(format!("taiyi-kernels-{index}"));
            // Fewer threads only make it slower: without another one the tasks run on those there are.
            let Ok(handle) = builder.spawn(move || self.help(index, asleep)) else { break };
            helpers.push(Helper { thread: handle.thread().clone(), asleep });
        }
        self.helper_count.store(helpers.len(), Ordering::Relaxed);
    }

    fn wake(&self, count: usize) {
        let helpers = self.helpers.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        for helper in helpers.iter().take(count) {
            if helper.asleep.swap(false, Ordering::SeqCst) {
                helper.thread.unpark();
            }
        }
    }

    fn help(&self, index: usize, asleep: &AtomicBool) {
        let mut seen = 0;
        let mut looks = 0;
        loop {
            let state = self.state.load(Ordering::Acquire);
            let open = state & OPEN != 0 && state / EPOCH != seen && index + 1 < threads();
            if open {
                let joined = self
                    .state
                    .compare_exchange(state, state + 1, Ordering::AcqRel, Ordering::Relaxed)
                    .is_ok();
                if joined {
                    // SAFETY: the job was stored before its epoch was opened, and its owner does not leave `run` (and so
                    // keeps it alive) while this helper is counted in `state`.
                    unsafe { (*self.job.load(Ordering::Relaxed)).work() };
                    seen = state / EPOCH;
                    self.state.fetch_sub(1, Ordering::AcqRel);
                    looks = 0;
                }
                continue;
            }
            looks += 1;
            if looks < LOOKS_BEFORE_SLEEP {
                std::hint::spin_loop();
                continue;
            }
            asleep.store(true, Ordering::SeqCst);
            // Whoever opened a job before seeing `asleep` is noticed here; whoever opens one after it wakes this thread.
            let state = self.state.load(Ordering::SeqCst);
            if !(state & OPEN != 0 && state / EPOCH != seen && index + 1 < threads()) {
                std::thread::park();
            }
            asleep.store(false, Ordering::SeqCst);
            looks = 0;
        }
    }
}

impl Job<'_> {
    fn work(&self) {
        INSIDE_TASK.set(true);
        loop {
            let task = self.next.fetch_add(1, Ordering::Relaxed);
            if task >= self.tasks {
                break;
            }
            if catch_unwind(AssertUnwindSafe(|| (self.run)(task))).is_err() {
                self.panicked.store(true, Ordering::Relaxed);
            }
        }
        INSIDE_TASK.set(false);
    }
}

/// A slice that several tasks write to, each its own part.
#[derive(Clone, Copy)]
pub(crate) struct Parts<'a, T> {
    start: *mut T,
    len: usize,
    slice: std::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: parts are handed out by `part`, whose caller promises that they do not overlap while in use.
unsafe impl<T: Send> Send for Parts<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Parts<'_, T> {}

impl<'a, T> Parts<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), slice: std::marker::PhantomData }
    }

    /// The elements `from..from + len`, mutably.
    ///
    /// # Safety
    ///
    /// No other part that overlaps this one may be alive.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn part(&self, from: usize, len: usize) -> &'a mut [T] {
        assert!(from <= self.len && len <= self.len - from, "part {from}+{len} of {}", self.len);
        // SAFETY: inside the slice (checked above), not aliased (promised by the caller).
        unsafe { std::slice::from_raw_parts_mut(self.start.add(from), len) }
    }

    /// The address of element `at`, for kernels that write rows of a matrix.
    pub(crate) fn pointer(&self, at: usize) -> *mut T {
        assert!(at <= self.len, "element {at} of {}", self.len);
        // SAFETY: inside the slice or one past its end.
        unsafe { self.start.add(at) }
    }
}

/// Cuts `rows` rows into equal tasks of some `elements_per_task` elements and runs `task(first_row, row_count)` on each.
pub(crate) fn parallel_rows(rows: usize, row_elements: usize, task: impl Fn(usize, usize) + Sync) {
    const ELEMENTS_PER_TASK: usize = 16 * 1024;
    let rows_per_task = (ELEMENTS_PER_TASK / row_elements.max(1)).max(1);
    let tasks = rows.div_ceil(rows_per_task);
    parallel(tasks, |index| {
        let first = index * rows_per_task;
        task(first, rows_per_task.min(rows - first));
    });
}

/// Cuts `len` elements into tasks and runs `task(range)` on each.
pub(crate) fn parallel_elements(len: usize, task: impl Fn(std::ops::Range<usize>) + Sync) {
    parallel_rows(len, 1, |first, count| task(first..first + count));
}

/// Adds sums over rows to `target (cols)`: `task(first_row, row_count, sums)` adds the rows of one task to its own `sums (cols)`,
/// and the tasks are added up in order, so that the result does not depend on the threads.
pub(crate) fn parallel_column_sums(
    rows: usize,
    target: &mut [f32],
    task: impl Fn(usize, usize, &mut [f32]) + Sync,
) {
    // Few enough tasks that adding them up costs little.
    const ROWS: usize = 128;
    let cols = target.len();
    let tasks = rows.div_ceil(ROWS);
    crate::scratch::with::<f32, _>(crate::scratch::Slot::Partials, tasks * cols, |sums| {
        let parts = Parts::new(sums);
        parallel(tasks, |index| {
            // SAFETY: each task has its own sums.
            let sums = unsafe { parts.part(index * cols, cols) };
            sums.fill(0.0);
            task(index * ROWS, ROWS.min(rows - index * ROWS), sums);
        });
        for index in 0..tasks {
            // SAFETY: the tasks have ended.
            let sums = unsafe { parts.part(index * cols, cols) };
            target.iter_mut().zip(sums).for_each(|(target, sum)| *target += *sum);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once() {
        for tasks in [0, 1, 2, 3, 17, 1000] {
            let mut counts = vec![0_u32; tasks];
            let parts = Parts::new(&mut counts);
            parallel(tasks, |index| {
                // SAFETY: each task has its own index.
                unsafe { parts.part(index, 1)[0] += 1 };
            });
            assert!(counts.iter().all(|&count| count == 1), "{tasks} tasks: {counts:?}");
        }
    }

    #[test]
    fn callers_on_many_threads_and_nested_calls_do_not_disturb_each_other() {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let sum = AtomicUsize::new(0);
                        parallel(8, |outer| {
                            parallel(4, |inner| {
                                sum.fetch_add(outer * 4 + inner, Ordering::Relaxed);
                            });
                        });
                        assert_eq!(sum.load(Ordering::Relaxed), (0..32).sum::<usize>());
                    }
                });
            }
        });
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let caught = catch_unwind(|| parallel(8, |index| assert!(index != 5, "task 5 fails on purpose")));
        assert!(caught.is_err());
        let sum = AtomicUsize::new(0);
        parallel(8, |index| {
            sum.fetch_add(index, Ordering::Relaxed);
        });
        assert_eq!(sum.load(Ordering::Relaxed), 28);
    }
}
