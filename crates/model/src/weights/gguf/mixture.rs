//! Which type each tensor of an exported file gets.
//!
//! The choices are those of llama.cpp's `llama-quantize` (`llama-quant.cpp`): norms, biases and other vectors stay F32; the
//! output head, or the embedding where it is the head, has more bits than the rest; in Q4_K_M so have the value projection and
//! the second matrix of the MLP of the first eighth, the last eighth and every third of the other layers.

use super::blocks::BlockType;

/// What a file is to be made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mixture {
    /// Matrices in half precision.
    F16,
    /// Matrices in 8 bits.
    Q8_0,
    /// Matrices in 4 bits, the output head in Q6_K.
    Q4_0,
    /// llama.cpp's Q4_K_M: Q4_K and Q6_K.
    Q4KM,
}

impl Mixture {
    /// The number that stands for the mixture in a file (`general.file_type`).
    pub(super) fn file_type(self) -> u32 {
        match self {
            Mixture::F16 => 1,
            Mixture::Q4_0 => 2,
            Mixture::Q8_0 => 7,
            Mixture::Q4KM => 15,
        }
    }

    /// The type most matrices get.
    fn base(self) -> BlockType {
        match self {
            Mixture::F16 => BlockType::F16,
            Mixture::Q8_0 => BlockType::Q8_0,
            Mixture::Q4_0 => BlockType::Q4_0,
            Mixture::Q4KM => BlockType::Q4K,
        }
    }

    /// The type of a matrix whose rows would fit any type.
    fn wanted(self, name: &str, tied: bool, layers: usize) -> BlockType {
        let base = self.base();
        let head = name == "output.weight" || (tied && name == "token_embd.weight");
        match self {
            Mixture::Q4_0 | Mixture::Q4KM if head => BlockType::Q6K,
            Mixture::Q4KM => {
                let sensitive = ["attn_v.weight", "attn_qkv.weight", "ffn_down.weight"]
                    .iter()
                    .any(|end| name.ends_with(end));
                let layer = name.strip_prefix("blk.").and_then(|rest| rest.split('.').next()?.parse().ok());
                match layer {
                    Some(layer) if sensitive && more_bits(layer, layers) => BlockType::Q6K,
                    _ => base,
                }
            }
            _ => base,
        }
    }

    /// The type of a tensor, and the one it would have got had its rows been whole blocks of that.
    pub(super) fn choose(
        self,
        name: &str,
        shape: &[usize],
        tied: bool,
        layers: usize,
    ) -> (BlockType, Option<BlockType>) {
        let (&columns, rows) = shape.split_last().unwrap_or((&1, &[]));
        if rows.is_empty() || !name.ends_with(".weight") || name.contains("_norm.weight") {
            return (BlockType::F32, None);
        }
        let wanted = self.wanted(name, tied, layers);
        let fits = |kind: BlockType| kind.row_bytes(columns).is_some();
        if fits(wanted) {
            return (wanted, None);
        }
        let smaller = match wanted {
            BlockType::Q4K => BlockType::Q5_0,
            BlockType::Q6K => BlockType::Q8_0,
            _ => BlockType::F16,
        };
        (if fits(smaller) { smaller } else { BlockType::F16 }, Some(wanted))
    }
}

/// The layers whose sensitive matrices get more bits.
fn more_bits(layer: usize, layers: usize) -> bool {
    layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_with_more_bits() {
        let of = |layers| (0..layers).filter(|&layer| more_bits(layer, layers)).collect::<Vec<_>>();
        assert_eq!(of(32), [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]);
        assert_eq!(of(3), [2]);
        assert_eq!(of(1), [0]);
    }

    #[test]
    fn types_by_name_and_shape() {
        use BlockType::{F16, F32, Q4_0, Q4K, Q5_0, Q6K, Q8_0};
        let choose =
            |mixture: Mixture, name: &str, shape: &[usize], tied| mixture.choose(name, shape, tied, 32);
        for mixture in [Mixture::F16, Mixture::Q8_0, Mixture::Q4_0, Mixture::Q4KM] {
            assert_eq!(choose(mixture, "blk.0.attn_norm.weight", &[256], false), (F32, None));
            assert_eq!(choose(mixture, "blk.0.attn_q.bias", &[256], false), (F32, None));
            assert_eq!(choose(mixture, "rope_freqs.weight", &[64], false), (F32, None));
        }
        let row = |mixture, name: &str, tied| choose(mixture, name, &[10, 256], tied).0;
        assert_eq!(row(Mixture::F16, "output.weight", false), F16);
        assert_eq!(row(Mixture::Q8_0, "output.weight", false), Q8_0);
        assert_eq!(row(Mixture::Q4_0, "output.weight", false), Q6K);
        assert_eq!(row(Mixture::Q4_0, "token_embd.weight", false), Q4_0);
        assert_eq!(row(Mixture::Q4_0, "token_embd.weight", true), Q6K);
        assert_eq!(row(Mixture::Q4_0, "blk.0.attn_v.weight", false), Q4_0);
        assert_eq!(row(Mixture::Q4KM, "token_embd.weight", false), Q4K);
        assert_eq!(row(Mixture::Q4KM, "blk.0.attn_v.weight", false), Q6K);
        assert_eq!(row(Mixture::Q4KM, "blk.5.attn_v.weight", false), Q4K);
        assert_eq!(row(Mixture::Q4KM, "blk.31.ffn_down.weight", false), Q6K);
        assert_eq!(row(Mixture::Q4KM, "blk.31.ffn_up.weight", false), Q4K);
        assert_eq!(row(Mixture::Q4KM, "blk.6.attn_qkv.weight", false), Q6K);
        // Rows of other lengths.
        assert_eq!(choose(Mixture::Q4KM, "blk.5.attn_q.weight", &[4, 96], false), (Q5_0, Some(Q4K)));
        assert_eq!(choose(Mixture::Q4KM, "output.weight", &[4, 96], false), (Q8_0, Some(Q6K)));
        assert_eq!(choose(Mixture::Q4KM, "blk.5.attn_q.weight", &[4, 40], false), (F16, Some(Q4K)));
        assert_eq!(choose(Mixture::Q8_0, "blk.5.attn_q.weight", &[4, 40], false), (F16, Some(Q8_0)));
        assert_eq!(choose(Mixture::Q4_0, "blk.5.attn_q.weight", &[4, 96], false), (Q4_0, None));
    }
}
