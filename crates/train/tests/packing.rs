//! Packing keeps every token, in its sample, once.

use proptest::prelude::*;
use taiyi_train::data::packing::{first_fit_decreasing, micro_batches};
use taiyi_train::data::{IGNORED, Sample};

fn sample(number: usize, length: usize, second_start: usize) -> Sample {
    let ids: Vec<u32> = (0..length).map(|place| (number * 1000 + place) as u32).collect();
    let labels =
        (0..length).map(|place| if place % 3 == 0 { IGNORED } else { (number * 1000 + place + 1) as i32 });
    let mut starts = vec![0];
    if second_start > 0 && second_start < length {
        starts.push(second_start as u32);
    }
    Sample { ids, labels: labels.collect(), starts, origin: number.to_string(), ..Sample::default() }
}

proptest! {
    #[test]
    fn every_token_once_no_crossing_counts_right(
        shape in prop::collection::vec((1..60_usize, 0..60_usize), 1..40),
        capacity in 60..200_usize,
    ) {
        let samples: Vec<Sample> =
            shape.iter().enumerate().map(|(number, &(length, second))| sample(number, length, second)).collect();
        let packs = micro_batches(&samples, Some(capacity), 1);
        let mut seen = Vec::new();
        for pack in &packs {
            prop_assert!(pack.ids.len() <= capacity);
            prop_assert_eq!(pack.ids.len(), pack.labels.len());
            prop_assert_eq!(pack.cu_seqlens[0], 0);
            prop_assert_eq!(*pack.cu_seqlens.last().unwrap() as usize, pack.ids.len());
            for sequence in pack.cu_seqlens.windows(2) {
                let (start, end) = (sequence[0] as usize, sequence[1] as usize);
                prop_assert!(start < end);
                let number = pack.ids[start] as usize / 1000;
                // One sample, consecutive, starting where a sequence of that sample starts.
                prop_assert!(samples[number].starts.contains(&(pack.ids[start] % 1000)));
                for place in start..end {
                    prop_assert_eq!(pack.ids[place], pack.ids[start] + (place - start) as u32);
                    let within = pack.ids[place] as usize % 1000;
                    prop_assert_eq!(pack.labels[place], samples[number].labels[within]);
                }
            }
            seen.extend_from_slice(&pack.ids);
        }
        seen.sort_unstable();
        let mut all: Vec<u32> = samples.iter().flat_map(|sample| sample.ids.clone()).collect();
        all.sort_unstable();
        prop_assert_eq!(seen, all);
        let labelled: usize = packs.iter().map(|pack| pack.labelled()).sum();
        let expected = samples.iter().flat_map(|s| &s.labels).filter(|&&label| label != IGNORED).count();
        prop_assert_eq!(labelled, expected);
        // The bound of first-fit decreasing against the volume bound of the optimum does not hold in general, but no
        // two bins can be merged: that is what first fit means.
        for (i, a) in packs.iter().enumerate() {
            for b in &packs[i + 1..] {
                let smallest = b.samples.iter().map(|&number| samples[number].ids.len()).min().unwrap();
                prop_assert!(a.ids.len() + smallest > capacity);
            }
        }
    }

    #[test]
    fn micro_batches_without_packing_keep_order_and_size(
        lengths in prop::collection::vec(1..60_usize, 1..40),
        batch in 1..9_usize,
    ) {
        let samples: Vec<Sample> = lengths.iter().enumerate().map(|(n, &length)| sample(n, length, 0)).collect();
        let packs = micro_batches(&samples, None, batch);
        prop_assert_eq!(packs.len(), samples.len().div_ceil(batch));
        let order: Vec<usize> = packs.iter().flat_map(|pack| pack.samples.clone()).collect();
        prop_assert_eq!(order, (0..samples.len()).collect::<Vec<_>>());
        prop_assert!(packs.iter().all(|pack| pack.samples.len() <= batch));
    }
}

#[test]
fn a_packing_worked_by_hand() {
    // 8 + 2, 7 + 3, 5 + 4; the 12 is longer than the capacity and stays alone.
    let bins = first_fit_decreasing(&[3, 8, 12, 4, 5, 7, 2], 10);
    assert_eq!(bins, [vec![2], vec![1, 6], vec![0, 5], vec![3, 4]]);
}
