//! Packing of values into blocks, with the choices of ggml's reference (`quantize_row_*_ref`).
//!
//! The K types look for scales by trial: a group is rounded with several scales, the best scale and minimum for what it was
//! rounded to follow by weighted least squares, and the trial with the smallest weighted error wins
//! (`make_qkx2_quants`, `make_qx_quants`). All groups of a block are tried at once, one group a lane, so that the sums of a
//! group run over its values in order whatever the width of the machine's vectors.

use half::{bf16, f16};

use super::blocks::{BlockType, K, scale_and_min};

impl BlockType {
    /// Packs values that fill whole blocks. Values must be finite; f16 must not overflow: the caller looks at what
    /// [`BlockType::unpack`] gives.
    pub(super) fn pack(self, values: &[f32], out: &mut [u8]) {
        assert_eq!(Some(out.len()), self.row_bytes(values.len()), "the blocks hold the values given");
        match self {
            BlockType::F32 => each(values, out, |x: &[f32; 1], b: &mut [u8; 4]| *b = x[0].to_le_bytes()),
            BlockType::F16 => each(values, out, |x: &[f32; 1], b: &mut [u8; 2]| *b = half(x[0])),
            BlockType::Bf16 => {
                each(values, out, |x: &[f32; 1], b: &mut [u8; 2]| *b = bf16::from_f32(x[0]).to_le_bytes());
            }
            BlockType::Q8_0 => each(values, out, q8_0),
            BlockType::Q4_0 => each(values, out, q4_0),
            BlockType::Q5_0 => each(values, out, q5_0),
            BlockType::Q4K => each(values, out, q4_k),
            BlockType::Q6K => each(values, out, q6_k),
        }
    }
}

fn each<const N: usize, const B: usize>(
    values: &[f32],
    out: &mut [u8],
    block: impl Fn(&[f32; N], &mut [u8; B]),
) {
    for (x, b) in values.as_chunks::<N>().0.iter().zip(out.as_chunks_mut::<B>().0) {
        block(x, b);
    }
}

fn half(x: f32) -> [u8; 2] {
    f16::from_f32(x).to_le_bytes()
}

/// The value that a reader of the f16 sees.
fn seen(x: f32) -> f32 {
    f16::from_f32(x).to_f32()
}

/// Rounds to the nearest whole number, ties to even, for magnitudes under 2^22: adding 1.5 * 2^23 leaves no bits for a
/// fraction. One instruction on every vector unit, unlike `round_ties_even` without SSE4.1.
fn nearest(x: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0;
    (x + SHIFT) - SHIFT
}

/// The value of largest magnitude, the first of several.
fn largest(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |best: f32, &v| if v.abs() > best.abs() { v } else { best })
}

fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

fn q8_0(x: &[f32; 32], b: &mut [u8; 34]) {
    let d = largest(x).abs() / 127.0;
    let inverse = inverse(d);
    b[..2].copy_from_slice(&half(d));
    for (b, x) in b[2..].iter_mut().zip(x) {
        *b = ((x * inverse).round() as i8).cast_unsigned();
    }
}

/// The value of largest magnitude becomes the lowest code: that end of the range is the longer one.
fn q4_0(x: &[f32; 32], b: &mut [u8; 18]) {
    let d = largest(x) / -8.0;
    let inverse = inverse(d);
    let code = |x: f32| ((x * inverse + 8.5) as u8).min(15);
    b[..2].copy_from_slice(&half(d));
    for j in 0..16 {
        b[2 + j] = code(x[j]) | code(x[j + 16]) << 4;
    }
}

fn q5_0(x: &[f32; 32], b: &mut [u8; 22]) {
    let d = largest(x) / -16.0;
    let inverse = inverse(d);
    let code = |x: f32| ((x * inverse + 16.5) as u8).min(31);
    b[..2].copy_from_slice(&half(d));
    let mut high = 0_u32;
    for j in 0..16 {
        let (first, second) = (code(x[j]), code(x[j + 16]));
        b[6 + j] = first & 15 | (second & 15) << 4;
        high |= u32::from(first >> 4) << j | u32::from(second >> 4) << (j + 16);
    }
    b[2..6].copy_from_slice(&high.to_le_bytes());
}

/// Value `i` of every group: groups are lanes.
type Lanes<const G: usize, const N: usize> = [[f32; G]; N];

fn lanes<const G: usize, const N: usize>(x: &[f32; K]) -> Lanes<G, N> {
    let mut lanes = [[0.0; G]; N];
    for (g, group) in x.as_chunks::<N>().0.iter().enumerate() {
        for (i, &v) in group.iter().enumerate() {
            lanes[i][g] = v;
        }
    }
    lanes
}

/// Groups of a Q4_K block, and values of each.
const GROUPS: usize = 8;
const GROUP: usize = 32;
/// Codes of Q4_K run from 0 to this.
const TOP: f32 = 15.0;

fn q4_k(x: &[f32; K], b: &mut [u8; 144]) {
    let (scales, minima) = scales_and_minima(&lanes(x));
    let most = |values: &[f32; GROUPS]| values.iter().fold(0.0_f32, |most, &v| most.max(v));
    let (most_scale, most_min) = (most(&scales), most(&minima));
    let six_bits = |values: &[f32; GROUPS], most: f32| {
        let inverse = if most > 0.0 { 63.0 / most } else { 0.0 };
        values.map(|v| nearest(inverse * v).clamp(0.0, 63.0) as u8)
    };
    let (scale_bits, min_bits) = (six_bits(&scales, most_scale), six_bits(&minima, most_min));
    let (d, dmin) = (most_scale / 63.0, most_min / 63.0);
    b[..2].copy_from_slice(&half(d));
    b[2..4].copy_from_slice(&half(dmin));
    let packed = &mut b[4..16];
    packed.fill(0);
    for j in 0..4 {
        packed[j] = scale_bits[j] | scale_bits[j + 4] >> 4 << 6;
        packed[j + 4] = min_bits[j] | min_bits[j + 4] >> 4 << 6;
        packed[j + 8] = scale_bits[j + 4] & 15 | (min_bits[j + 4] & 15) << 4;
    }
    // The codes are for the scales as a reader will see them.
    let mut codes = [0_u8; K];
    for (j, (codes, x)) in
        codes.as_chunks_mut::<GROUP>().0.iter_mut().zip(x.as_chunks::<GROUP>().0).enumerate()
    {
        let (scale, min) = scale_and_min(packed, j);
        let (scale, min) = (seen(d) * f32::from(scale), seen(dmin) * f32::from(min));
        if scale == 0.0 {
            continue;
        }
        for (code, x) in codes.iter_mut().zip(x) {
            *code = nearest(((x + min) / scale).clamp(0.0, TOP)) as u8;
        }
    }
    for (out, pair) in b[16..].as_chunks_mut::<32>().0.iter_mut().zip(codes.as_chunks::<64>().0) {
        for (l, out) in out.iter_mut().enumerate() {
            *out = pair[l] | pair[l + 32] << 4;
        }
    }
}

/// For each group a scale `s >= 0` and a minimum `m >= 0` so that `s q - m` with codes `q` from 0 to 15 is near the values,
/// those of larger magnitude counting more: the weight of `v` is `|v|` and the root mean square of its group.
fn scales_and_minima(x: &Lanes<GROUPS, GROUP>) -> ([f32; GROUPS], [f32; GROUPS]) {
    /// Codes that the largest value is tried at: 14.0, 14.1, … 16.0.
    const TRIALS: usize = 20;
    const FIRST: f32 = -1.0;
    const STEP: f32 = 0.1;
    let mut squares = [0.0; GROUPS];
    for row in x {
        for (sum, v) in squares.iter_mut().zip(row) {
            *sum += v * v;
        }
    }
    let mean = squares.map(|s| (s / GROUP as f32).sqrt());
    let mut weights = *x;
    let (mut min, mut max) = (x[0], x[0]);
    let (mut sum_w, mut sum_x) = ([0.0_f32; GROUPS], [0.0_f32; GROUPS]);
    for (weights, x) in weights.iter_mut().zip(x) {
        for g in 0..GROUPS {
            weights[g] = mean[g] + x[g].abs();
            min[g] = if x[g] < min[g] { x[g] } else { min[g] };
            max[g] = if x[g] > max[g] { x[g] } else { max[g] };
            sum_w[g] += weights[g];
            sum_x[g] += weights[g] * x[g];
        }
    }
    let mut scale = [0.0; GROUPS];
    let mut inverse = [0.0; GROUPS];
    let mut flat = [false; GROUPS];
    for g in 0..GROUPS {
        min[g] = min[g].min(0.0);
        flat[g] = max[g] <= min[g];
        inverse[g] = if flat[g] { 0.0 } else { TOP / (max[g] - min[g]) };
        scale[g] = if flat[g] { 0.0 } else { 1.0 / inverse[g] };
    }
    let code = |x: f32, min: f32, inverse: f32| nearest(inverse * (x - min)).clamp(0.0, TOP);
    let error_of = |scale: &[f32; GROUPS], min: &[f32; GROUPS], codes: &Lanes<GROUPS, GROUP>| {
        let mut error = [0.0_f32; GROUPS];
        for ((x, w), q) in x.iter().zip(&weights).zip(codes) {
            for g in 0..GROUPS {
                let off = scale[g] * q[g] + min[g] - x[g];
                error[g] += w[g] * (off * off);
            }
        }
        error
    };
    let mut codes = [[0.0; GROUPS]; GROUP];
    for (codes, x) in codes.iter_mut().zip(x) {
        for g in 0..GROUPS {
            codes[g] = code(x[g], min[g], inverse[g]);
        }
    }
    let mut best = error_of(&scale, &min, &codes);
    for trial in 0..=TRIALS {
        let (mut sum_l, mut sum_l2, mut sum_xl) = ([0.0_f32; GROUPS], [0.0_f32; GROUPS], [0.0_f32; GROUPS]);
        for g in 0..GROUPS {
            inverse[g] = if flat[g] { 0.0 } else { (FIRST + STEP * trial as f32 + TOP) / (max[g] - min[g]) };
        }
        for ((x, w), codes) in x.iter().zip(&weights).zip(&mut codes) {
            for g in 0..GROUPS {
                let l = code(x[g], min[g], inverse[g]);
                codes[g] = l;
                sum_l[g] += w[g] * l;
                sum_l2[g] += w[g] * l * l;
                sum_xl[g] += w[g] * l * x[g];
            }
        }
        let (mut fitted, mut fitted_min) = ([0.0; GROUPS], [0.0; GROUPS]);
        let mut solvable = [false; GROUPS];
        for g in 0..GROUPS {
            let determinant = sum_w[g] * sum_l2[g] - sum_l[g] * sum_l[g];
            solvable[g] = determinant > 0.0;
            fitted[g] = (sum_w[g] * sum_xl[g] - sum_x[g] * sum_l[g]) / determinant;
            fitted_min[g] = (sum_l2[g] * sum_x[g] - sum_l[g] * sum_xl[g]) / determinant;
            if fitted_min[g] > 0.0 {
                fitted_min[g] = 0.0;
                fitted[g] = sum_xl[g] / sum_l2[g];
            }
        }
        let error = error_of(&fitted, &fitted_min, &codes);
        for g in 0..GROUPS {
            if solvable[g] && error[g] < best[g] {
                (best[g], scale[g], min[g]) = (error[g], fitted[g], fitted_min[g]);
            }
        }
    }
    (scale, min.map(|m| -m))
}

/// Groups of a Q6_K block, and values of each.
const SMALL_GROUPS: usize = 16;
const SMALL_GROUP: usize = 16;
/// Codes of Q6_K run from minus this to one less.
const REACH: f32 = 32.0;

fn q6_k(x: &[f32; K], b: &mut [u8; 210]) {
    /// Groups without a larger scale are nothing.
    const NOTHING: f32 = 1e-15;
    let scales = signed_scales(&lanes(x));
    let largest = largest(&scales);
    b.fill(0);
    if largest.abs() < NOTHING {
        return;
    }
    let inverse = -128.0 / largest;
    let d = 1.0 / inverse;
    b[208..].copy_from_slice(&half(d));
    let mut codes = [REACH as u8; K];
    for (j, codes) in codes.as_chunks_mut::<SMALL_GROUP>().0.iter_mut().enumerate() {
        let scale = nearest(inverse * scales[j]).clamp(-128.0, 127.0) as i8;
        b[192 + j] = scale.cast_unsigned();
        let scale = seen(d) * f32::from(scale);
        if scale == 0.0 {
            continue;
        }
        for (code, x) in codes.iter_mut().zip(&x[SMALL_GROUP * j..]) {
            *code = (nearest((x / scale).clamp(-REACH, REACH - 1.0)) + REACH) as u8;
        }
    }
    for (part, codes) in codes.as_chunks::<128>().0.iter().enumerate() {
        for l in 0..32 {
            let [q1, q2, q3, q4] = [0, 32, 64, 96].map(|k| codes[k + l]);
            b[64 * part + l] = q1 & 15 | (q3 & 15) << 4;
            b[64 * part + 32 + l] = q2 & 15 | (q4 & 15) << 4;
            b[128 + 32 * part + l] = q1 >> 4 | q2 >> 4 << 2 | q3 >> 4 << 4 | q4 >> 4 << 6;
        }
    }
}

/// For each group a scale `s` of either sign so that `s q` with codes `q` from -32 to 31 is near the values; the weight of
/// `v` is `v^2`. The value of largest magnitude is tried at the codes -32, -31.1 to -32.9, each with the scale that is then
/// best.
fn signed_scales(x: &Lanes<SMALL_GROUPS, SMALL_GROUP>) -> [f32; SMALL_GROUPS] {
    const NOTHING: f32 = 1e-15;
    let mut most = [0.0_f32; SMALL_GROUPS];
    for row in x {
        for (most, &v) in most.iter_mut().zip(row) {
            *most = if v.abs() > most.abs() { v } else { *most };
        }
    }
    let fit = |end: f32| {
        let mut inverse = [0.0; SMALL_GROUPS];
        for g in 0..SMALL_GROUPS {
            inverse[g] = if most[g].abs() < NOTHING { 0.0 } else { -end / most[g] };
        }
        let (mut sum_lx, mut sum_l2) = ([0.0_f32; SMALL_GROUPS], [0.0_f32; SMALL_GROUPS]);
        for x in x {
            for g in 0..SMALL_GROUPS {
                let l = nearest(inverse[g] * x[g]).clamp(-REACH, REACH - 1.0);
                let w = x[g] * x[g];
                sum_lx[g] += w * x[g] * l;
                sum_l2[g] += w * l * l;
            }
        }
        (sum_lx, sum_l2)
    };
    let (sum_lx, sum_l2) = fit(REACH);
    let (mut scale, mut best) = ([0.0; SMALL_GROUPS], [0.0; SMALL_GROUPS]);
    for g in 0..SMALL_GROUPS {
        scale[g] = if sum_l2[g] > 0.0 { sum_lx[g] / sum_l2[g] } else { 0.0 };
        best[g] = scale[g] * sum_lx[g];
    }
    for trial in (-9..=9).filter(|&trial| trial != 0) {
        let (sum_lx, sum_l2) = fit(REACH + 0.1 * trial as f32);
        for g in 0..SMALL_GROUPS {
            if sum_l2[g] > 0.0 && sum_lx[g] * sum_lx[g] > best[g] * sum_l2[g] {
                scale[g] = sum_lx[g] / sum_l2[g];
                best[g] = scale[g] * sum_lx[g];
            }
        }
    }
    scale
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decoder::random::Random;

    fn there_and_back(kind: BlockType, x: &[f32]) -> Vec<f32> {
        let mut bytes = vec![0xA5; kind.row_bytes(x.len()).unwrap()];
        kind.pack(x, &mut bytes);
        let mut y = vec![f32::NAN; x.len()];
        kind.unpack(&bytes, &mut y);
        y
    }

    fn relative_rms(x: &[f32], y: &[f32]) -> f64 {
        let (mut off, mut all) = (0.0, 0.0);
        for (&x, &y) in x.iter().zip(y) {
            off += f64::from(x - y).powi(2);
            all += f64::from(x).powi(2);
        }
        (off / all).sqrt()
    }

    #[test]
    fn rounding_is_to_the_nearest_even() {
        for x in [-2.5_f32, -1.5, -0.5, -0.49, 0.0, 0.5, 1.5, 2.49, 2.5, 1e6 + 0.5] {
            assert_eq!(nearest(x), x.round_ties_even(), "{x}");
        }
    }

    /// What is already a value of a type stays that value.
    #[test]
    fn values_of_a_type_are_kept() {
        let grid = |n: usize, f: &dyn Fn(usize) -> f32| (0..n).map(f).collect::<Vec<f32>>();
        let cases = [
            (
                BlockType::Q8_0,
                grid(64, &|i| if i % 32 == 0 { -63.5 } else { (i as f32 * 4.0 - 127.0) * 0.5 }),
            ),
            (BlockType::Q4_0, grid(64, &|i| (i % 16) as f32 * 0.25 - 2.0)),
            (BlockType::Q5_0, grid(64, &|i| (i % 32) as f32 * 0.25 - 4.0)),
            (BlockType::Q6K, grid(256, &|i| (i % 64) as f32 * 0.5 - 16.0)),
            (BlockType::F16, grid(8, &|i| i as f32 - 3.5)),
            (BlockType::Bf16, grid(8, &|i| i as f32 - 3.5)),
            (BlockType::F32, grid(8, &|i| 1.0 / (1.0 + i as f32))),
        ];
        for (kind, x) in cases {
            let y = there_and_back(kind, &x);
            if kind == BlockType::Q6K {
                // Every group but those that end at -32 has a scale of its own, rounded to 8 bits.
                assert!(relative_rms(&x, &y) < 0.01, "{kind:?}: {}", relative_rms(&x, &y));
            } else {
                assert_eq!(x, y, "{kind:?}");
            }
        }
    }

    /// Bounds a little above what the types reach on normal values; a wrong bit anywhere is far outside.
    #[test]
    fn errors_on_normal_values_are_small() {
        let x = Random::new(7, 0).normal(1 << 16, 0.02);
        for (kind, bound) in [
            (BlockType::F16, 3e-4),
            (BlockType::Bf16, 2.5e-3),
            (BlockType::Q8_0, 0.006),
            (BlockType::Q6K, 0.019),
            (BlockType::Q5_0, 0.048),
            (BlockType::Q4K, 0.076),
            (BlockType::Q4_0, 0.094),
        ] {
            let error = relative_rms(&x, &there_and_back(kind, &x));
            assert!(error < bound && error > bound / 3.0, "{kind:?}: {error}");
        }
    }

    /// The search pays: plain rounding between the extremes is worse on the measure it minimises and on the plain one.
    #[test]
    fn the_search_beats_plain_rounding() {
        let x = Random::new(8, 0).normal(1 << 14, 1.0);
        let mut plain = Vec::new();
        for group in x.chunks(GROUP) {
            let (min, max) = group.iter().fold((0.0_f32, 0.0_f32), |(a, b), &v| (a.min(v), b.max(v)));
            let scale = (max - min) / TOP;
            plain.extend(group.iter().map(|v| ((v - min) / scale).round() * scale + min));
        }
        let found = relative_rms(&x, &there_and_back(BlockType::Q4K, &x));
        assert!(found < 0.97 * relative_rms(&x, &plain), "{found} {}", relative_rms(&x, &plain));
    }

    #[test]
    fn odd_blocks_do_no_harm() {
        for kind in BlockType::ALL {
            for x in [[0.0; K], [-0.0; K], [1.5; K], [-1.5; K], [1e-30; K], [1e-45; K], [3e4; K]] {
                let y = there_and_back(kind, &x);
                let off = relative_rms(&x, &y);
                assert!(y.iter().all(|v| v.is_finite()), "{kind:?} {}", x[0]);
                assert!(x[0].abs() < 1e-6 || off < 0.04, "{kind:?} {}: {off}", x[0]);
            }
            let mut spike = [0.0; K];
            spike[77] = -8.0;
            let y = there_and_back(kind, &spike);
            assert!((y[77] + 8.0).abs() < 0.3, "{kind:?}: {}", y[77]);
        }
    }
}
