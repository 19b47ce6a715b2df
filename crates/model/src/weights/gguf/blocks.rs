//! The element types of GGUF tensors: how values lie in blocks, and what they are worth.
//!
//! Every formula rounds after each operation, as it is written, so that the values are those of ggml's reference
//! (`ggml-quants.c`, the `dequantize_row_*` functions) to the bit. `d`, `dmin` are f16 and widened first.

use half::{bf16, f16};

/// How the values of a tensor are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum BlockType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of single precision.
    Bf16,
    /// 32 values: `d`, a byte for each: `d q`.
    Q8_0,
    /// 32 values: `d`, four bits for each: `d (q - 8)`.
    Q4_0,
    /// 32 values: `d`, five bits for each: `d (q - 16)`.
    Q5_0,
    /// 256 values in eight groups: `d`, `dmin`, six bits of scale `s` and of minimum `m` for each group, four bits for each
    /// value: `d s q - dmin m`.
    Q4K,
    /// 256 values in sixteen groups: `d`, a signed byte of scale `s` for each group, six bits for each value: `d s (q - 32)`.
    Q6K,
}

/// Values of a K block.
pub(super) const K: usize = 256;

impl BlockType {
    /// Every type there is.
    pub(super) const ALL: [BlockType; 8] = [
        BlockType::F32,
        BlockType::F16,
        BlockType::Bf16,
        BlockType::Q8_0,
        BlockType::Q4_0,
        BlockType::Q5_0,
        BlockType::Q4K,
        BlockType::Q6K,
    ];

    /// The number that stands for the type in a file (`ggml_type`).
    pub(super) fn id(self) -> u32 {
        match self {
            BlockType::F32 => 0,
            BlockType::F16 => 1,
            BlockType::Q4_0 => 2,
            BlockType::Q5_0 => 6,
            BlockType::Q8_0 => 8,
            BlockType::Q4K => 12,
            BlockType::Q6K => 14,
            BlockType::Bf16 => 30,
        }
    }

    pub(super) fn of_id(id: u32) -> Option<BlockType> {
        BlockType::ALL.into_iter().find(|t| t.id() == id)
    }

    /// As llama.cpp calls it.
    pub fn name(self) -> &'static str {
        match self {
            BlockType::F32 => "F32",
            BlockType::F16 => "F16",
            BlockType::Bf16 => "BF16",
            BlockType::Q8_0 => "Q8_0",
            BlockType::Q4_0 => "Q4_0",
            BlockType::Q5_0 => "Q5_0",
            BlockType::Q4K => "Q4_K",
            BlockType::Q6K => "Q6_K",
        }
    }

    /// Values of one block; a row is whole blocks.
    pub fn values(self) -> usize {
        match self {
            BlockType::F32 | BlockType::F16 | BlockType::Bf16 => 1,
            BlockType::Q8_0 | BlockType::Q4_0 | BlockType::Q5_0 => 32,
            BlockType::Q4K | BlockType::Q6K => K,
        }
    }

    /// Bytes of one block.
    pub fn bytes(self) -> usize {
        match self {
            BlockType::F32 => 4,
            BlockType::F16 | BlockType::Bf16 => 2,
            BlockType::Q8_0 => 2 + 32,
            BlockType::Q4_0 => 2 + 16,
            BlockType::Q5_0 => 2 + 4 + 16,
            BlockType::Q4K => 2 + 2 + 12 + 128,
            BlockType::Q6K => 128 + 64 + 16 + 2,
        }
    }

    /// Bytes of a row of so many values, when they fill whole blocks.
    pub(super) fn row_bytes(self, values: usize) -> Option<usize> {
        let whole = values.is_multiple_of(self.values());
        if whole { (values / self.values()).checked_mul(self.bytes()) } else { None }
    }

    /// Unpacks whole blocks into as many values as they hold.
    pub(super) fn unpack(self, bytes: &[u8], out: &mut [f32]) {
        assert_eq!(Some(bytes.len()), self.row_bytes(out.len()), "the blocks hold the values asked for");
        match self {
            BlockType::F32 => each(bytes, out, |b: &[u8; 4], y: &mut [f32; 1]| y[0] = f32::from_le_bytes(*b)),
            BlockType::F16 => each(bytes, out, |b: &[u8; 2], y: &mut [f32; 1]| y[0] = half(*b)),
            BlockType::Bf16 => {
                each(bytes, out, |b: &[u8; 2], y: &mut [f32; 1]| y[0] = bf16::from_le_bytes(*b).to_f32());
            }
            BlockType::Q8_0 => each(bytes, out, q8_0),
            BlockType::Q4_0 => each(bytes, out, q4_0),
            BlockType::Q5_0 => each(bytes, out, q5_0),
            BlockType::Q4K => each(bytes, out, q4_k),
            BlockType::Q6K => each(bytes, out, q6_k),
        }
    }
}

fn each<const B: usize, const N: usize>(
    bytes: &[u8],
    out: &mut [f32],
    block: impl Fn(&[u8; B], &mut [f32; N]),
) {
    for (b, y) in bytes.as_chunks::<B>().0.iter().zip(out.as_chunks_mut::<N>().0) {
        block(b, y);
    }
}

fn half(bytes: [u8; 2]) -> f32 {
    f16::from_le_bytes(bytes).to_f32()
}

fn q8_0(b: &[u8; 34], y: &mut [f32; 32]) {
    let d = half([b[0], b[1]]);
    for (y, q) in y.iter_mut().zip(&b[2..]) {
        *y = f32::from(q.cast_signed()) * d;
    }
}

/// The low halves of the bytes are the first sixteen values, the high halves the others.
fn q4_0(b: &[u8; 18], y: &mut [f32; 32]) {
    let d = half([b[0], b[1]]);
    for (j, q) in b[2..].iter().enumerate() {
        y[j] = f32::from((q & 15).cast_signed() - 8) * d;
        y[j + 16] = f32::from((q >> 4).cast_signed() - 8) * d;
    }
}

/// As [`q4_0`], with the fifth bit of value `j` at bit `j` of a little-endian word.
fn q5_0(b: &[u8; 22], y: &mut [f32; 32]) {
    let d = half([b[0], b[1]]);
    let high = u32::from_le_bytes([b[2], b[3], b[4], b[5]]);
    let fifth = |j: usize| ((high >> j) as u8 & 1) << 4;
    for (j, q) in b[6..].iter().enumerate() {
        y[j] = f32::from((q & 15 | fifth(j)).cast_signed() - 16) * d;
        y[j + 16] = f32::from((q >> 4 | fifth(j + 16)).cast_signed() - 16) * d;
    }
}

/// Scale and minimum of group `j`, 0 to 63 each. Of the twelve bytes, 0 to 3 and 4 to 7 hold the scales and minima of groups
/// 0 to 3 in their low six bits; 8 to 11 the low four bits of the scales and minima of groups 4 to 7, whose upper two
/// bits are the upper two of the first eight bytes.
pub(super) fn scale_and_min(packed: &[u8], j: usize) -> (u8, u8) {
    if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        (packed[j + 4] & 15 | packed[j - 4] >> 6 << 4, packed[j + 4] >> 4 | packed[j] >> 6 << 4)
    }
}

/// Groups of 32 in pairs: the low halves of 32 bytes are one group, the high halves the next.
fn q4_k(b: &[u8; 144], y: &mut [f32; K]) {
    let (d, dmin) = (half([b[0], b[1]]), half([b[2], b[3]]));
    for (pair, y) in y.as_chunks_mut::<64>().0.iter_mut().enumerate() {
        let quarter = &b[16 + 32 * pair..][..32];
        let (low, high) = y.split_at_mut(32);
        let group = |j: usize| {
            let (scale, min) = scale_and_min(&b[4..16], j);
            (d * f32::from(scale), dmin * f32::from(min))
        };
        let ((d1, m1), (d2, m2)) = (group(2 * pair), group(2 * pair + 1));
        for (l, q) in quarter.iter().enumerate() {
            low[l] = d1 * f32::from(q & 15) - m1;
            high[l] = d2 * f32::from(q >> 4) - m2;
        }
    }
}

/// Halves of 128 values: the low four bits of value `32 k + l` are in byte `l + 32 (k mod 2)`, low half for `k < 2`; its
/// upper two bits are bits `2 k` and `2 k + 1` of byte `l` of the second field.
fn q6_k(b: &[u8; 210], y: &mut [f32; K]) {
    let d = half([b[208], b[209]]);
    for (part, y) in y.as_chunks_mut::<128>().0.iter_mut().enumerate() {
        let (low, high) = (&b[64 * part..][..64], &b[128 + 32 * part..][..32]);
        let scales = &b[192 + 8 * part..][..8];
        for (k, y) in y.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            for (l, y) in y.iter_mut().enumerate() {
                let four = low[l + 32 * (k % 2)] >> (4 * (k / 2)) & 15;
                let two = high[l] >> (2 * k) & 3;
                let scale = d * f32::from(scales[2 * k + l / 16].cast_signed());
                *y = scale * f32::from((four | two << 4).cast_signed() - 32);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unpacked(kind: BlockType, bytes: &[u8]) -> Vec<f32> {
        let mut values = vec![f32::NAN; bytes.len() / kind.bytes() * kind.values()];
        kind.unpack(bytes, &mut values);
        values
    }

    /// 0.5 as f16.
    const HALF: [u8; 2] = [0x00, 0x38];

    #[test]
    fn plain_types_are_their_values() {
        assert_eq!(unpacked(BlockType::F32, &[0, 0, 0x80, 0xBF]), [-1.0]);
        assert_eq!(unpacked(BlockType::F16, &[0x00, 0x3C, 0x01, 0x00]), [1.0, 2.0_f32.powi(-24)]);
        assert_eq!(unpacked(BlockType::Bf16, &[0xC0, 0x3F]), [1.5]);
    }

    #[test]
    fn blocks_of_32_by_hand() {
        let mut q8 = HALF.to_vec();
        q8.extend(128..160_u8);
        let values = unpacked(BlockType::Q8_0, &q8);
        assert_eq!((values[0], values[1], values[31]), (-64.0, -63.5, -48.5));

        // Byte j holds j low and 15 - j high.
        let nibbles = (0..16_u8).map(|j| j | (15 - j) << 4);
        let q4: Vec<u8> = HALF.into_iter().chain(nibbles.clone()).collect();
        let values = unpacked(BlockType::Q4_0, &q4);
        assert_eq!((values[0], values[8], values[15], values[16], values[31]), (-4.0, 0.0, 3.5, 3.5, -4.0));

        // Fifth bits: of value 0 and of value 16 (bit 16 of the word).
        let q5: Vec<u8> = HALF.into_iter().chain([1, 0, 1, 0]).chain(nibbles).collect();
        let values = unpacked(BlockType::Q5_0, &q5);
        assert_eq!((values[0], values[1], values[16], values[17]), (0.0, -7.5, 7.5, -1.0));
    }

    #[test]
    fn a_q4_k_block_by_hand() {
        let mut block = [0_u8; 144];
        block[..2].copy_from_slice(&HALF);
        block[2..4].copy_from_slice(&[0x00, 0x34]); // 0.25
        // Group 0: scale 3, minimum 5. Group 4: scale 0x21 (low four bits 1, upper two 2), minimum 0x12.
        block[4] = 3 | 2 << 6;
        block[8] = 5 | 1 << 6;
        block[12] = 0x1 | 0x2 << 4;
        // Group 0 is the low half of the first 32 bytes, group 4 the low half of the third.
        block[16] = 0x0F;
        block[16 + 64 + 31] = 0x07;
        let values = unpacked(BlockType::Q4K, &block);
        assert_eq!(values[0], 0.5 * 3.0 * 15.0 - 0.25 * 5.0);
        assert_eq!(values[1], -0.25 * 5.0);
        assert_eq!(values[32], 0.0, "group 1 has no scale and no minimum");
        assert_eq!(values[128 + 31], 0.5 * 33.0 * 7.0 - 0.25 * 18.0);
        assert_eq!(values[128], -0.25 * 18.0);
        for j in 0..8 {
            let mut packed = [0_u8; 12];
            let before = scale_and_min(&packed, j);
            packed.fill(0xFF);
            assert_eq!((before, scale_and_min(&packed, j)), ((0, 0), (63, 63)), "group {j}");
        }
    }

    #[test]
    fn a_q6_k_block_by_hand() {
        let mut block = [0_u8; 210];
        block[208..].copy_from_slice(&HALF);
        block[192] = 4; // values 0 to 15
        block[192 + 8 + 7] = (-2_i8) as u8; // values 240 to 255
        // Value 0: low four bits 9, upper two 3: 57 - 32 = 25.
        block[0] = 9;
        block[128] = 3;
        // Value 255 (second half, k = 3, l = 31): high half of byte 63, bits 6 and 7.
        block[64 + 63] = 5 << 4;
        block[128 + 32 + 31] = 1 << 6;
        let values = unpacked(BlockType::Q6K, &block);
        assert_eq!(values[0], 0.5 * 4.0 * 25.0);
        assert_eq!(values[1], 0.5 * 4.0 * -32.0);
        assert_eq!(values[16], 0.0);
        assert_eq!(values[255], 0.5 * -2.0 * (21.0 - 32.0));
        assert_eq!(values[240], 0.5 * -2.0 * -32.0);
    }

    #[test]
    fn ids_and_sizes_are_ggmls() {
        let table: Vec<(u32, usize, usize)> =
            BlockType::ALL.into_iter().map(|t| (t.id(), t.values(), t.bytes())).collect();
        let expected = [
            (0, 1, 4),
            (1, 1, 2),
            (30, 1, 2),
            (8, 32, 34),
            (2, 32, 18),
            (6, 32, 22),
            (12, 256, 144),
            (14, 256, 210),
        ];
        assert_eq!(table, expected);
        assert_eq!(BlockType::Q4K.row_bytes(128), None);
        assert_eq!(BlockType::Q4K.row_bytes(512), Some(288));
        assert_eq!(BlockType::of_id(3), None);
    }
}
