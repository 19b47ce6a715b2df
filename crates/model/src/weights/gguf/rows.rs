//! Tensors whose rows GGUF keeps in other blocks, in another order or in several tensors than a Hugging Face checkpoint does.

use std::ops::Range;

use super::{blocks::BlockType, header::Stored};

/// In which order GGUF keeps the rows of (a part of) a Hugging Face tensor. `H` heads share the rows evenly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// The same.
    Same,
    /// Heads of `d` rows for half-split rotation, in which rows `i` and `i + d/2` turn together, are kept for interleaved
    /// rotation, in which rows `2i` and `2i + 1` do (llama.cpp's LLaMA and Baichuan).
    Interleaved {
        /// `H`.
        heads: usize,
    },
    /// Rows `[head][query, key, value][d]` are kept as `[query, key, value][head][d]` (BLOOM).
    HeadsWithin {
        /// `H`.
        heads: usize,
    },
}

impl Order {
    /// Whether so many rows can be in this order.
    pub(super) fn fits(self, rows: usize) -> bool {
        match self {
            Order::Same => true,
            Order::Interleaved { heads } => heads > 0 && rows.is_multiple_of(2 * heads),
            Order::HeadsWithin { heads } => heads > 0 && rows.is_multiple_of(3 * heads),
        }
    }

    /// Where GGUF keeps row `row` of the Hugging Face tensor.
    pub(super) fn to_gguf(self, rows: usize, row: usize) -> usize {
        match self {
            Order::Same => row,
            Order::Interleaved { heads } => {
                let d = rows / heads;
                let (head, within) = (row / d, row % d);
                head * d + 2 * (within % (d / 2)) + within / (d / 2)
            }
            Order::HeadsWithin { heads } => {
                let d = rows / (3 * heads);
                let (head, which, within) = (row / (3 * d), row / d % 3, row % d);
                (which * heads + head) * d + within
            }
        }
    }

    /// Which row of the Hugging Face tensor GGUF keeps as row `row`.
    pub(super) fn to_hf(self, rows: usize, row: usize) -> usize {
        match self {
            Order::Same => row,
            Order::Interleaved { heads } => {
                let d = rows / heads;
                let (head, within) = (row / d, row % d);
                head * d + within % 2 * (d / 2) + within / 2
            }
            Order::HeadsWithin { heads } => {
                let d = rows / (3 * heads);
                let (which, head, within) = (row / (heads * d), row / d % heads, row % d);
                (head * 3 + which) * d + within
            }
        }
    }
}

/// A Hugging Face tensor that is worked out when it is read.
#[derive(Debug, Clone)]
pub(crate) struct Packed {
    /// Values of a row.
    columns: usize,
    parts: Vec<Part>,
}

/// Consecutive rows of a Hugging Face tensor, and the GGUF tensor that holds them.
#[derive(Debug, Clone)]
struct Part {
    kind: BlockType,
    begin: usize,
    rows: usize,
    order: Order,
}

impl Packed {
    /// A tensor of the rows of the given ones, one after the other. `None` where they do not fit together.
    pub(super) fn new(sources: &[(&Stored, Order)]) -> Option<(Packed, Vec<usize>)> {
        let mut shape: Vec<usize> = Vec::new();
        let mut packed = Packed { columns: 0, parts: Vec::new() };
        for (stored, order) in sources {
            // A vector is rows of one value; in blocks it is one row, and then it has no order.
            let vector = stored.shape.len() == 1;
            let (rows, columns) = match stored.shape.split_last()? {
                (&n, []) if stored.kind.values() == 1 => (n, 1),
                (&n, outer) => (outer.iter().product(), n),
            };
            if !order.fits(rows) || (vector && columns > 1 && (*order != Order::Same || sources.len() > 1)) {
                return None;
            }
            if shape.is_empty() {
                shape.clone_from(&stored.shape);
                packed.columns = columns;
            } else if shape[1..] == stored.shape[1..] && packed.columns == columns {
                shape[0] = shape[0].checked_add(stored.shape[0])?;
            } else {
                return None;
            }
            packed.parts.push(Part { kind: stored.kind, begin: stored.begin, rows, order: *order });
        }
        (!shape.is_empty()).then_some((packed, shape))
    }

    /// Values of the whole tensor.
    fn len(&self) -> usize {
        self.columns * self.parts.iter().map(|part| part.rows).sum::<usize>()
    }

    /// Works out a range of rows; `file` is all of the GGUF file.
    pub(crate) fn read_rows(&self, file: &[u8], rows: Range<usize>, out: &mut [f32]) {
        assert_eq!(rows.len() * self.columns, out.len(), "the rows asked for fill the buffer");
        let mut first = 0;
        for part in &self.parts {
            let row_bytes = part.kind.row_bytes(self.columns).expect("rows of whole blocks, by the header");
            let wanted = rows.start.max(first)..rows.end.min(first + part.rows);
            if part.order == Order::Same && !wanted.is_empty() {
                let begin = part.begin + (wanted.start - first) * row_bytes;
                let out =
                    &mut out[(wanted.start - rows.start) * self.columns..][..wanted.len() * self.columns];
                part.kind.unpack(&file[begin..begin + wanted.len() * row_bytes], out);
            } else {
                for row in wanted {
                    let begin = part.begin + part.order.to_gguf(part.rows, row - first) * row_bytes;
                    let out = &mut out[(row - rows.start) * self.columns..][..self.columns];
                    part.kind.unpack(&file[begin..begin + row_bytes], out);
                }
            }
            first += part.rows;
        }
    }

    /// Works out the whole tensor, on all threads.
    pub(crate) fn read(&self, file: &[u8]) -> Vec<f32> {
        let mut values = vec![0.0; self.len()];
        let columns = self.columns;
        super::in_parallel(&mut values, columns, |first, out| {
            self.read_rows(file, first..first + out.len() / columns, out);
        });
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_by_hand() {
        // Two heads of four rows: 0 1 2 3 | 4 5 6 7 are kept as 0 2 1 3 | 4 6 5 7.
        let order = Order::Interleaved { heads: 2 };
        let kept: Vec<usize> = (0..8).map(|row| order.to_hf(8, row)).collect();
        assert_eq!(kept, [0, 2, 1, 3, 4, 6, 5, 7]);
        // Two heads of q, k, v of two rows.
        let order = Order::HeadsWithin { heads: 2 };
        let kept: Vec<usize> = (0..12).map(|row| order.to_hf(12, row)).collect();
        assert_eq!(kept, [0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11]);
        assert!(!order.fits(13) && !Order::Interleaved { heads: 2 }.fits(6));
        assert!(!Order::Interleaved { heads: 0 }.fits(6));
    }

    #[test]
    fn orders_are_turned_back() {
        for (order, rows) in [
            (Order::Same, 7),
            (Order::Interleaved { heads: 3 }, 3 * 10),
            (Order::HeadsWithin { heads: 3 }, 3 * 3 * 5),
        ] {
            for row in 0..rows {
                assert_eq!(order.to_hf(rows, order.to_gguf(rows, row)), row, "{order:?}");
                assert_eq!(order.to_gguf(rows, order.to_hf(rows, row)), row, "{order:?}");
            }
        }
    }

    #[test]
    fn rows_are_found_across_parts() {
        let file: Vec<u8> = (0..12_u8).flat_map(|i| f32::from(i).to_le_bytes()).collect();
        let stored = |shape: &[usize], first: usize| Stored {
            kind: BlockType::F32,
            shape: shape.to_vec(),
            begin: 4 * first,
            end: 4 * (first + shape.iter().product::<usize>()),
        };
        let (a, b) = (stored(&[4, 2], 0), stored(&[2, 2], 8));
        let turned = Order::Interleaved { heads: 1 };
        let (packed, shape) = Packed::new(&[(&a, turned), (&b, Order::Same)]).unwrap();
        assert_eq!(shape, [6, 2]);
        assert_eq!(packed.read(&file), [0.0, 1.0, 4.0, 5.0, 2.0, 3.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0]);
        let mut rows = [0.0; 6];
        packed.read_rows(&file, 2..5, &mut rows);
        assert_eq!(rows, [2.0, 3.0, 6.0, 7.0, 8.0, 9.0]);
        assert!(Packed::new(&[(&a, Order::Same), (&stored(&[2, 3], 0), Order::Same)]).is_none());
        assert!(Packed::new(&[]).is_none());
    }
}
