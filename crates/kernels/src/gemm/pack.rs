//! Panels: pieces of an operand in the order in which the tiles read them.
//!
//! A panel holds some lines of an operand (rows of A or columns of B) over a range of `k`, as words of 32 bits:
//! `panel[step * width + line]`. A word is one `f32`, or two bf16 that follow each other along `k`.

use half::bf16;

use super::Weight;
use crate::level::{Level, bf16_dot, level};

/// What a packed word holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// An `f32` as it is.
    F32,
    /// An `f32` rounded to a bf16 value.
    Rounded,
    /// Two bf16: `k` even in the low half, `k` odd in the high half, 0 past the end.
    Pairs,
}

impl Format {
    pub(super) fn new(precision: super::Precision) -> Self {
        match precision {
            super::Precision::F32 => Self::F32,
            super::Precision::Bf16 if bf16_dot() => Self::Pairs,
            super::Precision::Bf16 => Self::Rounded,
        }
    }

    /// Words that `k` elements of a line take.
    pub(super) fn steps(self, k: usize) -> usize {
        if self == Self::Pairs { k.div_ceil(2) } else { k }
    }
}

/// An operand of a product: lines over `k`.
#[derive(Clone, Copy)]
pub(super) struct Operand<'a> {
    pub(super) values: Weight<'a>,
    /// Elements between two lines (`along_k`) or between two values of `k`.
    pub(super) stride: usize,
    /// Whether elements of one line that follow each other along `k` are neighbours in memory.
    pub(super) along_k: bool,
}

/// A piece of an operand: `lines` lines from `line`, `len` elements from `k`.
#[derive(Clone, Copy)]
pub(super) struct Piece {
    pub(super) line: usize,
    pub(super) lines: usize,
    pub(super) k: usize,
    pub(super) len: usize,
}

impl Operand<'_> {
    /// Packs a piece as a panel of `width` lines (0 past the lines of the piece) into `panel`, `steps * width` words.
    pub(super) fn pack(&self, level: Level, format: Format, piece: Piece, width: usize, panel: &mut [u32]) {
        debug_assert!(piece.lines <= width && panel.len() == format.steps(piece.len) * width);
        #[cfg(target_arch = "x86_64")]
        if level == Level::Avx512 {
            // SAFETY: the level is only used where the processor has it.
            unsafe { super::pack_avx512::pack(self, format, piece, width, panel) };
            return;
        }
        let _ = level;
        self.pack_plain(format, piece, width, panel);
    }

    fn pack_plain(&self, format: Format, piece: Piece, width: usize, panel: &mut [u32]) {
        const AT_ONCE: usize = 64;
        panel.fill(0);
        let halves = panel.as_mut_ptr().cast::<u16>();
        let mut values = [0.0_f32; AT_ONCE];
        // `(outer, inner)` is `(line, k)` or `(k, line)`, whichever has its inner elements side by side.
        let (outer, inner) = if self.along_k { (piece.lines, piece.len) } else { (piece.len, piece.lines) };
        let (outer_first, inner_first) =
            if self.along_k { (piece.line, piece.k) } else { (piece.k, piece.line) };
        for o in 0..outer {
            for i0 in (0..inner).step_by(AT_ONCE) {
                let count = AT_ONCE.min(inner - i0);
                self.values.read((outer_first + o) * self.stride + inner_first + i0, &mut values[..count]);
                for (i, &value) in values[..count].iter().enumerate() {
                    let (line, k) = if self.along_k { (o, i0 + i) } else { (i0 + i, o) };
                    match format {
                        Format::F32 => panel[k * width + line] = value.to_bits(),
                        Format::Rounded => panel[k * width + line] = bf16::from_f32(value).to_f32().to_bits(),
                        Format::Pairs => {
                            let at = 2 * (k / 2 * width + line) + k % 2;
                            assert!(at < 2 * panel.len());
                            // SAFETY: inside the panel, whose words are two of these.
                            unsafe { *halves.add(at) = bf16::from_f32(value).to_bits() };
                        }
                    }
                }
            }
        }
    }
}

/// The level and the format that a product at `precision` uses on this thread.
pub(super) fn choose(precision: super::Precision) -> (Level, Format) {
    (level(), Format::new(precision))
}
