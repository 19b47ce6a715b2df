//! Samples of a step merged into rows without padding.
//!
//! Boundaries are kept: attention does not cross samples and positions restart, so packing changes the speed and
//! not the result.

use super::Sample;
use taiyi_model::PackedBatch;

/// One micro-batch: samples one after another.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Pack {
    /// Inputs; shape (tokens).
    pub ids: Vec<u32>,
    /// Targets, already shifted; shape (tokens). See [`Sample::labels`].
    pub labels: Vec<i32>,
    /// Which of two texts each input counts to; shape (tokens), or empty.
    pub token_types: Vec<u32>,
    /// Which labels hold for each sequence; shape (sequences, labels), or empty.
    pub several: Vec<f32>,
    /// Ends of the sequences, with a leading 0; shape (sequences + 1).
    pub cu_seqlens: Vec<u32>,
    /// Numbers, within the step, of the samples that were packed.
    pub samples: Vec<usize>,
}

impl Pack {
    /// Concatenates the numbered samples of a step.
    pub fn of(samples: &[Sample], numbers: Vec<usize>) -> Self {
        let mut pack = Self { cu_seqlens: vec![0], ..Self::default() };
        for &number in &numbers {
            let sample = &samples[number];
            let before = pack.ids.len() as u32;
            pack.cu_seqlens.extend(sample.starts.iter().skip(1).map(|start| before + start));
            pack.ids.extend_from_slice(&sample.ids);
            pack.labels.extend_from_slice(&sample.labels);
            pack.token_types.extend_from_slice(&sample.token_types);
            pack.several.extend_from_slice(&sample.several);
            pack.cu_seqlens.push(pack.ids.len() as u32);
        }
        pack.samples = numbers;
        pack
    }

    /// Answers that are learned: positions, or labels that may hold.
    pub fn labelled(&self) -> usize {
        self.labels.iter().filter(|&&label| label != super::IGNORED).count() + self.several.len()
    }

    /// As a language model reads it.
    pub fn batch(&self) -> PackedBatch<'_> {
        PackedBatch { ids: &self.ids, cu_seqlens: &self.cu_seqlens, labels: &self.labels }
    }
}

/// Assigns items to bins of a capacity: longest first, each to the first bin with room (first-fit decreasing, which
/// needs at most 11/9 of the fewest possible bins, plus one). Ties keep their order. An item longer than the capacity
/// gets a bin of its own. Returns the numbers of the items in each bin, ascending.
pub fn first_fit_decreasing(lengths: &[usize], capacity: usize) -> Vec<Vec<usize>> {
    let mut longest_first: Vec<usize> = (0..lengths.len()).collect();
    longest_first.sort_by_key(|&item| std::cmp::Reverse(lengths[item]));
    let mut bins: Vec<(usize, Vec<usize>)> = Vec::new();
    for item in longest_first {
        let length = lengths[item];
        match bins.iter_mut().find(|(used, _)| used + length <= capacity) {
            Some((used, items)) => {
                *used += length;
                items.push(item);
            }
            None => bins.push((length, vec![item])),
        }
    }
    let in_order = |(_, mut items): (usize, Vec<usize>)| {
        items.sort_unstable();
        items
    };
    bins.into_iter().map(in_order).collect()
}

/// Cuts the samples of a step into micro-batches: packed into rows of `capacity` tokens, or `batch` samples each.
pub fn micro_batches(samples: &[Sample], capacity: Option<usize>, batch: usize) -> Vec<Pack> {
    let numbers: Vec<Vec<usize>> = match capacity {
        Some(capacity) => {
            let lengths: Vec<usize> = samples.iter().map(|sample| sample.ids.len()).collect();
            first_fit_decreasing(&lengths, capacity)
        }
        None => {
            let all: Vec<usize> = (0..samples.len()).collect();
            all.chunks(batch).map(<[usize]>::to_vec).collect()
        }
    };
    numbers.into_iter().map(|numbers| Pack::of(samples, numbers)).collect()
}
