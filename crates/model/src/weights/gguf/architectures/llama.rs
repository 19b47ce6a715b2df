//! LLaMA 1 to 3: the rows of query and key are kept for interleaved rotation, and llama3's scaling of the frequencies is a
//! tensor of divisors.

use std::path::Path;

use super::{
    Architecture, Described, More,
    Rows::{Key, Query, Same},
    Tensor, same,
};
use crate::{
    config::{DecoderConfig, Positions, RopeScaling},
    error::Error,
    weights::gguf::write::Entry,
};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "llama",
    name: "llama",
    sign: "token_embd.weight",
    tensors: TENSORS,
    buffers: &["rotary_emb.inv_freq"],
    described: &[DIVISORS],
    optional_prefix: "",
    branches: 1,
    may_be_tied: true,
    more,
    config,
};

const TENSORS: &[Tensor] = &[
    same("model.embed_tokens.weight", &[("token_embd.weight", Same)]),
    same("model.layers.{}.input_layernorm.weight", &[("blk.{}.attn_norm.weight", Same)]),
    same("model.layers.{}.self_attn.q_proj.weight", &[("blk.{}.attn_q.weight", Query)]),
    same("model.layers.{}.self_attn.q_proj.bias", &[("blk.{}.attn_q.bias", Query)]).optional(),
    same("model.layers.{}.self_attn.k_proj.weight", &[("blk.{}.attn_k.weight", Key)]),
    same("model.layers.{}.self_attn.k_proj.bias", &[("blk.{}.attn_k.bias", Key)]).optional(),
    same("model.layers.{}.self_attn.v_proj.weight", &[("blk.{}.attn_v.weight", Same)]),
    same("model.layers.{}.self_attn.v_proj.bias", &[("blk.{}.attn_v.bias", Same)]).optional(),
    same("model.layers.{}.self_attn.o_proj.weight", &[("blk.{}.attn_output.weight", Same)]),
    same("model.layers.{}.self_attn.o_proj.bias", &[("blk.{}.attn_output.bias", Same)]).optional(),
    same("model.layers.{}.post_attention_layernorm.weight", &[("blk.{}.ffn_norm.weight", Same)]),
    same("model.layers.{}.mlp.gate_proj.weight", &[("blk.{}.ffn_gate.weight", Same)]),
    same("model.layers.{}.mlp.up_proj.weight", &[("blk.{}.ffn_up.weight", Same)]),
    same("model.layers.{}.mlp.down_proj.weight", &[("blk.{}.ffn_down.weight", Same)]),
    same("model.norm.weight", &[("output_norm.weight", Same)]),
    same("lm_head.weight", &[("output.weight", Same)]).unless_tied(),
];

/// The tensor of divisors, one for each frequency.
const DIVISORS: &str = "rope_freqs.weight";

/// What LLaMA 3's scaling divides each of the frequencies `base^(-2i/turned)` by.
fn divisors(scaling: RopeScaling, turned: usize, base: f64) -> Vec<f32> {
    let frequencies = (0..turned / 2).map(|i| base.powf(-2.0 * i as f64 / turned as f64));
    frequencies.map(|frequency| (frequency / scaling.of_frequency(frequency)) as f32).collect()
}

/// Metadata that llama.cpp has no use for, so that `rope_scaling` comes back as it was.
const KEYS: [&str; 3] = [
    ".rope.scaling.low_freq_factor",
    ".rope.scaling.high_freq_factor",
    ".rope.scaling.original_max_position_embeddings",
];

fn more(config: &DecoderConfig, _: &Path) -> Result<More, Error> {
    let mut more = More::default();
    if let Positions::Rope(rope) = config.positions
        && let RopeScaling::Llama3 { low, high, original, .. } = rope.scaling
    {
        more.vectors.push((DIVISORS.to_owned(), divisors(rope.scaling, rope.rotary_dim, rope.theta)));
        let values = [low, high, original];
        more.entries
            .extend(KEYS.into_iter().zip(values).map(|(key, x)| (key.to_owned(), Entry::F32(x as f32))));
    }
    Ok(more)
}

fn config(file: &Described<'_>) -> Result<serde_json::Map<String, serde_json::Value>, Error> {
    let mut config = file.llama_like("llama", "LlamaForCausalLM")?;
    let has = |name: &str| file.header.tensors.contains_key(name);
    config.insert("attention_bias".to_owned(), has("blk.0.attn_q.bias").into());
    config.insert("mlp_bias".to_owned(), false.into());
    if let Some(divisors) = file.header.tensors.get(DIVISORS) {
        let mut found = vec![0.0; divisors.shape.iter().product()];
        divisors.kind.unpack(&file.bytes[divisors.begin..divisors.end], &mut found);
        let [factor, low, high, original] = scaling_of(file, &found)?;
        config.insert(
            "rope_scaling".to_owned(),
            serde_json::json!({
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low,
                "high_freq_factor": high,
                "original_max_position_embeddings": original as u64,
            }),
        );
    }
    Ok(config)
}

/// Factor, low, high and original length of the scaling that gives these divisors: those the metadata name, or those of the
/// published models.
fn scaling_of(file: &Described<'_>, found: &[f32]) -> Result<[f64; 4], Error> {
    let (turned, base) = file.sizes.rope.unwrap_or((0, 10_000.0));
    let factor = found.iter().fold(1.0, |most: f64, &d| most.max(f64::from(d)));
    let [mut low, mut high, mut original] = [1.0, 4.0, 8192.0];
    for (key, value) in KEYS.into_iter().zip([&mut low, &mut high, &mut original]) {
        *value = file.header.number(&format!("llama{key}"))?.unwrap_or(*value);
    }
    let expected = divisors(RopeScaling::Llama3 { factor, low, high, original }, turned, base);
    // Converters work in f32; a wrong parameter moves the mixed frequencies by far more.
    let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-3 * b.abs();
    if found.len() == expected.len() && found.iter().zip(&expected).all(near) {
        return Ok([factor, low, high, original]);
    }
    Err(Error::malformed(
        &file.header.path,
        format!("tensor `{DIVISORS}`"),
        format!("the {} divisors of llama3's scaling, factors 1 and 4 of length 8192", expected.len()),
        format!("{} others, {:?} …", found.len(), &found[..found.len().min(4)]),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The worked values of the published scaling (factor 8, 1, 4, 8192; base 500000; heads of 128).
    #[test]
    fn divisors_of_llama_3_1() {
        let scaling = RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 8192.0 };
        let divisors = divisors(scaling, 128, 500_000.0);
        assert_eq!(divisors.len(), 64);
        // Wavelength 2 pi 500000^(2i/128): 2048 is passed between i = 28 (1956) and 29 (2402), 8192 between 34 and 35.
        assert_eq!((divisors[0], divisors[28], divisors[35], divisors[63]), (1.0, 1.0, 8.0, 8.0));
        let wavelength = std::f64::consts::TAU * 500_000.0_f64.powf(58.0 / 128.0);
        let smooth = (8192.0 / wavelength - 1.0) / 3.0;
        let mixed = ((1.0 - smooth) / 8.0 + smooth).recip() as f32;
        assert!(divisors[29] == mixed && (1.0..8.0).contains(&mixed), "{mixed}");
        assert!(divisors[29..35].windows(2).all(|pair| pair[0] < pair[1]));
    }
}
