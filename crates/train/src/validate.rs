//! Loss on held-out data, and bits per byte of text.

use crate::TrainError;
use crate::data::packing::{Pack, micro_batches};
use crate::data::{Dataset, IGNORED};
use crate::learner::Learner;
use serde::{Deserialize, Serialize};
use taiyi_kernels::Precision;
use taiyi_model::Loss;

/// Bytes of text that each token stands for; index is the id. Marks such as the end of text stand for none.
///
/// In a byte-level vocabulary the bytes of a text are the sum over its tokens, whatever their order.
#[derive(Debug, Clone)]
pub struct TokenBytes(Vec<u32>);

impl TokenBytes {
    /// Builds the table for ids below `vocab_size`.
    pub fn new(vocab_size: usize, bytes_of: impl Fn(u32) -> usize) -> Self {
        Self((0..vocab_size as u32).map(|id| bytes_of(id) as u32).collect())
    }

    fn of(&self, label: i32) -> u64 {
        usize::try_from(label).ok().and_then(|id| self.0.get(id)).map_or(0, |&bytes| u64::from(bytes))
    }
}

/// How well a model predicts a text.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct BitsPerByte {
    /// Bits over bytes.
    pub bits_per_byte: f64,
    /// Bits the model needs for all predicted tokens, the marks between documents included.
    pub bits: f64,
    /// Bytes of UTF-8 that the predicted tokens stand for.
    pub bytes: u64,
    /// Tokens predicted.
    pub tokens: u64,
}

/// The loss of a batch under some model, without dropout.
pub type LossOf<'a> = dyn FnMut(&Pack) -> Result<Loss, TrainError> + 'a;

/// Sum of token losses over held-out samples.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Measured {
    pub(crate) sum: f64,
    pub(crate) labelled: u64,
    pub(crate) bytes: u64,
}

impl Measured {
    pub(crate) fn mean(&self) -> f64 {
        self.sum / self.labelled.max(1) as f64
    }

    pub(crate) fn bits_per_byte(&self) -> BitsPerByte {
        let bits = self.sum / std::f64::consts::LN_2;
        let bits_per_byte = bits / self.bytes.max(1) as f64;
        BitsPerByte { bits_per_byte, bits, bytes: self.bytes, tokens: self.labelled }
    }

    fn add(
        &mut self,
        loss: &mut LossOf<'_>,
        pack: &Pack,
        bytes: Option<&TokenBytes>,
    ) -> Result<(), TrainError> {
        let loss = loss(pack)?;
        self.sum += loss.sum;
        self.labelled += loss.labelled as u64;
        if let Some(bytes) = bytes {
            self.bytes += pack.labels.iter().map(|&label| bytes.of(label)).sum::<u64>();
        }
        Ok(())
    }
}

/// Measures the first `limit` samples in file order, in rows of at most `capacity` tokens.
pub(crate) fn measure<L: Learner + ?Sized>(
    learner: &mut L,
    data: &mut Dataset,
    limit: Option<usize>,
    capacity: usize,
    bytes: Option<&TokenBytes>,
    precision: Precision,
) -> Result<Measured, TrainError> {
    // Samples are packed a few at a time: the sum does not depend on it, and nothing large is held.
    const WINDOW: usize = 64;
    let mut loss = |pack: &Pack| learner.loss(pack, precision);
    let mut measured = Measured::default();
    let mut window = Vec::with_capacity(WINDOW);
    for sample in data.in_file_order().take(limit.unwrap_or(usize::MAX)) {
        window.push(sample?);
        if window.len() == WINDOW {
            for pack in micro_batches(&window, Some(capacity), 1) {
                measured.add(&mut loss, &pack, bytes)?;
            }
            window.clear();
        }
    }
    for pack in micro_batches(&window, Some(capacity), 1) {
        measured.add(&mut loss, &pack, bytes)?;
    }
    Ok(measured)
}

/// Windows over a text that is longer than the model's context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    /// Tokens the model sees at a time.
    pub length: usize,
    /// Tokens by which the window moves, 1 to `length`; every token after the first window is predicted from at least
    /// `length - stride` tokens before it. Smaller is slower and gives fewer bits.
    pub stride: usize,
}

/// Measures bits per byte of tokenised documents, each read on its own, opened and closed by `end_of_text`.
///
/// # Errors
///
/// Those of `loss`.
pub fn bits_per_byte(
    loss: &mut LossOf<'_>,
    documents: impl IntoIterator<Item = Vec<u32>>,
    end_of_text: u32,
    bytes: &TokenBytes,
    windows: Windows,
) -> Result<BitsPerByte, TrainError> {
    let mut measured = Measured::default();
    let mut pack = Pack { cu_seqlens: vec![0], ..Pack::default() };
    for document in documents {
        let mut tokens = Vec::with_capacity(document.len() + 2);
        tokens.push(end_of_text);
        tokens.extend(document);
        tokens.push(end_of_text);
        for (start, first_new, end) in windows.over(tokens.len() - 1) {
            if pack.ids.len() + end - start > windows.length && !pack.ids.is_empty() {
                measured.add(loss, &pack, Some(bytes))?;
                pack = Pack { cu_seqlens: vec![0], ..Pack::default() };
            }
            pack.ids.extend_from_slice(&tokens[start..end]);
            pack.labels.extend(
                (start..end).map(|place| if place < first_new { IGNORED } else { tokens[place + 1] as i32 }),
            );
            pack.cu_seqlens.push(pack.ids.len() as u32);
        }
    }
    if !pack.ids.is_empty() {
        measured.add(loss, &pack, Some(bytes))?;
    }
    Ok(measured.bits_per_byte())
}

impl Windows {
    /// Cuts `inputs` places into (start, first place not predicted before, end).
    fn over(self, inputs: usize) -> impl Iterator<Item = (usize, usize, usize)> {
        let length = self.length.max(1);
        let stride = self.stride.clamp(1, length);
        let mut done = 0;
        std::iter::from_fn(move || {
            if done == inputs {
                return None;
            }
            let end = if done == 0 { length.min(inputs) } else { (done + stride).min(inputs) };
            let window = (end.saturating_sub(length), done, end);
            done = end;
            Some(window)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Windows;

    #[test]
    fn strided_windows_predict_every_place_once() {
        let windows = |inputs| Windows { length: 4, stride: 2 }.over(inputs).collect::<Vec<_>>();
        assert_eq!(windows(3), [(0, 0, 3)]);
        assert_eq!(windows(9), [(0, 0, 4), (2, 4, 6), (4, 6, 8), (5, 8, 9)]);
        assert_eq!(windows(0), []);
    }
}
