//! The dynamic 8-bit number format (Dettmers et al. 2022): 7 decades from 1e-6, each with twice the values of the one below.

use std::sync::OnceLock;

/// The values of the 256 codes, and what finds the code of a number.
pub(crate) struct DynamicMap {
    pub(crate) values: [f32; 256],
    /// Halfway from each value to the next; infinity after the last.
    midpoints: [f64; 256],
    /// For each upper half of the bits of an `f32`, the code nearest to the least number with these bits. Numbers that share
    /// them lie closer together than the values of the map, so the code of any of them is this one or the next.
    first: Vec<u8>,
}

/// The 256 values of the signed dynamic 8-bit map, ascending: 1, 2, 4, ... 64 values of each sign in a decade, 0, and 1.
pub fn signed_dynamic_map() -> &'static [f32; 256] {
    &DynamicMap::signed().values
}

/// The 256 values of the unsigned dynamic 8-bit map, ascending: as the signed one, with twice the values, none negative.
pub fn unsigned_dynamic_map() -> &'static [f32; 256] {
    &DynamicMap::unsigned().values
}

impl DynamicMap {
    pub(crate) fn signed() -> &'static Self {
        static MAP: OnceLock<DynamicMap> = OnceLock::new();
        MAP.get_or_init(|| Self::new(true))
    }

    pub(crate) fn unsigned() -> &'static Self {
        static MAP: OnceLock<DynamicMap> = OnceLock::new();
        MAP.get_or_init(|| Self::new(false))
    }

    /// The code nearest to `x`, the lower of two equally near.
    #[inline]
    pub(crate) fn nearest(&self, x: f32) -> u8 {
        let code = self.first[(x.to_bits() >> 16) as usize];
        code + u8::from(f64::from(x) > self.midpoints[usize::from(code)])
    }

    fn new(signed: bool) -> Self {
        let values = values(signed);
        let midpoints = std::array::from_fn(|i| {
            let next = values.get(i + 1).map_or(f64::INFINITY, |&next| f64::from(next));
            (f64::from(values[i]) + next) / 2.0
        });
        let first = (0..=u16::MAX)
            .map(|upper| {
                let upper = u32::from(upper) << 16;
                // Of the negative numbers the one with the largest bits is the least.
                let least = f32::from_bits(if upper >> 31 == 1 { upper | 0xffff } else { upper });
                midpoints.partition_point(|&midpoint| midpoint < f64::from(least)).min(255) as u8
            })
            .collect();
        Self { values, midpoints, first }
    }
}

fn values(signed: bool) -> [f32; 256] {
    let mut values = vec![0.0_f32, 1.0];
    for decade in 0..7_u32 {
        let items = (1_usize << decade) << usize::from(!signed);
        let power = 10.0_f64.powi(decade as i32 - 6) as f32;
        // torch.linspace(0.1, 1, items + 1) counts from both ends and rounds once; the last bit of the values depends on it.
        let step = (1.0_f32 - 0.1) / items as f32;
        let bound = |i: usize| {
            let low = i < items.div_ceil(2);
            if low { step.mul_add(i as f32, 0.1) } else { (-step).mul_add((items - i) as f32, 1.0) }
        };
        for i in 0..items {
            let mean = power * ((bound(i) + bound(i + 1)) / 2.0);
            values.push(mean);
            if signed {
                values.push(-mean);
            }
        }
    }
    values.sort_by(f32::total_cmp);
    std::array::from_fn(|i| values[i])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;

    #[test]
    fn the_nearest_code_is_the_one_a_search_finds() {
        let mut random = Random(61);
        for map in [DynamicMap::signed(), DynamicMap::unsigned()] {
            let search = |x: f32| {
                let distance = |code: usize| (f64::from(map.values[code]) - f64::from(x)).abs();
                (0..256).min_by(|&a, &b| distance(a).total_cmp(&distance(b))).unwrap()
            };
            let around = |x: f32| [x.next_down(), x, x.next_up()];
            let at_values = map.values.iter().flat_map(|&x| around(x));
            let at_midpoints = map.midpoints[..255].iter().flat_map(|&x| around(x as f32));
            let many = (0..20_000).map(|i| random.uniform() * 10.0_f32.powi(-(i % 9)));
            for x in at_values.chain(at_midpoints).chain(many).chain([0.0, -0.0, 2.0, -2.0]) {
                assert_eq!(usize::from(map.nearest(x)), search(x), "{x:e}");
            }
        }
    }
}
