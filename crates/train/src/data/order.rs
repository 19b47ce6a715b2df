//! The order of the samples: a shuffle per epoch, reachable from any place in the run.

use crate::shuffle::shuffle;

#[derive(Debug)]
pub(super) struct Order {
    seed: u64,
    /// First item, number of items and repeats of each source.
    spans: Vec<(u32, u32, f64)>,
    epoch: Option<u64>,
    items: Vec<u32>,
}

impl Order {
    pub(super) fn new(seed: u64, spans: Vec<(u32, u32, f64)>) -> Self {
        Self { seed, spans, epoch: None, items: Vec::new() }
    }

    pub(super) fn epoch_length(&self) -> u64 {
        let length = |&(_, count, repeats): &(u32, u32, f64)| {
            let (whole, part) = split(count, repeats);
            whole * u64::from(count) + part as u64
        };
        // Repeats so small that nothing is left would make an endless loop of empty epochs.
        self.spans.iter().map(length).sum::<u64>().max(1)
    }

    /// The item at a place of the endless sequence of epochs.
    pub(super) fn at(&mut self, place: u64) -> u32 {
        let length = self.epoch_length();
        let epoch = place / length;
        if self.epoch != Some(epoch) {
            self.shuffle_epoch(epoch);
        }
        self.items[(place % length) as usize]
    }

    fn shuffle_epoch(&mut self, epoch: u64) {
        let mut items = Vec::with_capacity(self.epoch_length() as usize);
        let streams = self.spans.len() as u64 + 1;
        for (source, &(first, count, repeats)) in self.spans.iter().enumerate() {
            let (whole, part) = split(count, repeats);
            for _ in 0..whole {
                items.extend(first..first + count);
            }
            if part > 0 {
                let mut all: Vec<u32> = (first..first + count).collect();
                shuffle(&mut all, self.seed, epoch * streams + 1 + source as u64);
                items.extend_from_slice(&all[..part]);
            }
        }
        if items.is_empty() {
            items.push(0);
        }
        shuffle(&mut items, self.seed, epoch * streams);
        self.items = items;
        self.epoch = Some(epoch);
    }
}

/// Whole passes, and items of the pass that is begun and not finished.
fn split(count: u32, repeats: f64) -> (u64, usize) {
    let part = (repeats.fract() * f64::from(count)).round() as usize;
    (repeats.trunc() as u64, part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_shows_every_item_as_often_as_asked() {
        let mut order = Order::new(5, vec![(0, 10, 2.0), (10, 20, 0.25), (30, 4, 1.5)]);
        assert_eq!(order.epoch_length(), 20 + 5 + 6);
        for epoch in 0..3 {
            let mut counts = [0; 34];
            for place in 0..31 {
                counts[order.at(epoch * 31 + place) as usize] += 1;
            }
            assert!(counts[..10].iter().all(|&n| n == 2), "{counts:?}");
            assert_eq!(counts[10..30].iter().sum::<u32>(), 5);
            assert!(counts[10..30].iter().all(|&n| n <= 1));
            assert_eq!(counts[30..].iter().sum::<u32>(), 6);
            assert!(counts[30..].iter().all(|&n| n == 1 || n == 2));
        }
    }

    #[test]
    fn places_do_not_depend_on_how_one_got_there() {
        let spans = || vec![(0, 7, 1.0), (7, 5, 1.4)];
        let straight: Vec<u32> = {
            let mut order = Order::new(1, spans());
            (0..60).map(|place| order.at(place)).collect()
        };
        let mut order = Order::new(1, spans());
        for place in (0..60).rev() {
            assert_eq!(order.at(place), straight[place as usize]);
        }
        assert_ne!(straight[..14], straight[14..28], "epochs differ");
    }
}
