//! Buffers that each thread keeps and uses again.

use std::cell::Cell;

/// What a buffer is for. Uses that are alive at the same time on one thread must have different slots.
#[derive(Clone, Copy)]
pub(crate) enum Slot {
    /// Panels that all threads of a product read; held by the thread that called.
    SharedPack,
    /// Panels of one thread.
    OwnPack,
    /// Blocks of scores.
    Scores,
    /// Sums of the tasks of a reduction.
    Partials,
}

const SLOTS: usize = Slot::Partials as usize + 1;

/// One cache line; the buffers are made of these so that they are aligned to 64 bytes.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

thread_local! {
    static BUFFERS: [Cell<Vec<Line>>; SLOTS] = const { [const { Cell::new(Vec::new()) }; SLOTS] };
}

/// Element types whose every bit pattern is a value.
pub(crate) trait Plain: Copy {}
impl Plain for f32 {}
impl Plain for f64 {}
impl Plain for u32 {}
impl Plain for u16 {}

/// Lends `f` a buffer of `len` elements, 64-byte aligned, with anything in it.
pub(crate) fn with<T: Plain, R>(slot: Slot, len: usize, f: impl FnOnce(&mut [T]) -> R) -> R {
    let lines = (len * size_of::<T>()).div_ceil(64);
    BUFFERS.with(|buffers| {
        // Taken out, so that a nested use of the slot gets a buffer of its own rather than an alias.
        let mut buffer = buffers[slot as usize].take();
        if buffer.len() < lines {
            // Grown in steps of powers of two: touching new memory costs far more than keeping it.
            buffer.resize(lines.next_power_of_two(), Line([0; 64]));
        }
        // SAFETY: the buffer holds at least `len` initialised elements, is aligned to 64 bytes, and every bit pattern is
        // a value of a `Plain` type.
        let slice = unsafe { std::slice::from_raw_parts_mut(buffer.as_mut_ptr().cast::<T>(), len) };
        let result = f(slice);
        buffers[slot as usize].set(buffer);
        result
    })
}
