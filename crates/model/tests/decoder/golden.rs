//! Access to the reference results in `../shared/oracles`, and comparison within their tolerances.

use std::path::PathBuf;

use taiyi_kernels::Precision;
use taiyi_model::{
    Checkpoint, Decoder, DecoderConfig, KvCache, Logits, NOT_LEARNED, PackedBatch, StepOptions, Workspace,
    weights::Weights,
};

/// The oracle folder of this name, or a line on stderr and `None` where there are no oracles.
pub(crate) fn oracle(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/oracles").join(name);
    if path.is_dir() {
        return Some(path);
    }
    eprintln!("skipped: no ../shared/oracles/{name} beside the repository");
    None
}

pub(crate) struct Golden(Weights);

impl Golden {
    pub(crate) fn open(dir: &std::path::Path) -> Golden {
        Golden(Weights::open_file(&dir.join("golden.safetensors")).unwrap())
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.0.names().map(str::to_owned).collect()
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.contains(name)
    }

    pub(crate) fn floats(&self, name: &str) -> Vec<f32> {
        self.0.get(name).unwrap().to_f32().unwrap()
    }

    pub(crate) fn bytes(&self, name: &str) -> Vec<u8> {
        self.0.get(name).unwrap().bytes.to_vec()
    }

    pub(crate) fn ints(&self, name: &str) -> Vec<i64> {
        self.0.get(name).unwrap().to_i64().unwrap()
    }

    pub(crate) fn shape(&self, name: &str) -> Vec<usize> {
        self.0.get(name).unwrap().shape.to_vec()
    }

    pub(crate) fn ids(&self, name: &str) -> Vec<u32> {
        self.ints(name).into_iter().map(|i| u32::try_from(i).unwrap()).collect()
    }

    /// Rows of a padded batch: for each, the number of pads in front and the real ids.
    pub(crate) fn rows(&self, prefix: &str) -> Vec<(usize, Vec<u32>)> {
        let ids = self.ids(&format!("{prefix}.input_ids"));
        let mask = self.ints(&format!("{prefix}.attention_mask"));
        let width = self.shape(&format!("{prefix}.input_ids"))[1];
        ids.chunks(width)
            .zip(mask.chunks(width))
            .map(|(ids, mask)| {
                let front = mask.iter().take_while(|&&m| m == 0).count();
                (front, ids.iter().zip(mask).filter(|(_, m)| **m == 1).map(|(id, _)| *id).collect())
            })
            .collect()
    }

    /// A right-padded training batch as packed sequences with shifted labels.
    pub(crate) fn packed(&self, prefix: &str) -> Packed {
        let shape = self.shape(&format!("{prefix}.input_ids"));
        let ids = self.ids(&format!("{prefix}.input_ids"));
        let labels = self.ints(&format!("{prefix}.labels"));
        let mask_name = format!("{prefix}.attention_mask");
        let mask = if self.has(&mask_name) { self.ints(&mask_name) } else { vec![1; ids.len()] };
        let mut packed = Packed { ids: Vec::new(), cu: vec![0], labels: Vec::new() };
        for row in 0..shape[0] {
            let at = row * shape[1];
            let len = mask[at..at + shape[1]].iter().filter(|&&m| m == 1).count();
            for t in 0..len {
                packed.ids.push(ids[at + t]);
                let next = if t + 1 < shape[1] { labels[at + t + 1] } else { i64::from(NOT_LEARNED) };
                packed.labels.push(next as i32);
            }
            packed.cu.push(packed.ids.len() as u32);
        }
        packed
    }
}

#[derive(Clone)]
pub(crate) struct Packed {
    pub(crate) ids: Vec<u32>,
    pub(crate) cu: Vec<u32>,
    pub(crate) labels: Vec<i32>,
}

impl Packed {
    pub(crate) fn batch(&self) -> PackedBatch<'_> {
        PackedBatch { ids: &self.ids, cu_seqlens: &self.cu, labels: &self.labels }
    }

    /// Mean loss, with gradients of it, in f32 without dropout or checkpoints.
    pub(crate) fn step(&self, decoder: &mut Decoder) -> f64 {
        let options = self.options(Precision::F32);
        decoder.zero_gradients();
        decoder.loss_and_gradients(&self.batch(), &options, &mut Workspace::new()).unwrap().mean()
    }

    pub(crate) fn options(&self, precision: Precision) -> StepOptions {
        let labelled = self.batch().labelled().max(1);
        StepOptions {
            precision,
            loss_scale: 1.0 / labelled as f32,
            dropout_seed: None,
            checkpoint: Checkpoint::None,
        }
    }
}

/// Runs one sequence from an empty cache and returns all logits.
pub(crate) fn logits(decoder: &Decoder, ids: &[u32]) -> Vec<f32> {
    let mut cache = KvCache::new(decoder.config(), ids.len());
    let mut workspace = Workspace::new();
    decoder.forward(&mut [(ids, &mut cache)], Logits::All, &mut workspace).unwrap().to_vec()
}

/// Largest absolute difference.
pub(crate) fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, |m, d| if d.is_nan() { f32::INFINITY } else { m.max(d) })
}

pub(crate) fn assert_close(what: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    let d = distance(found, expected);
    assert!(d <= tolerance, "{what}: differs by {d:e}, tolerance {tolerance:e}");
}

/// Compares every `<prefix><name>` gradient of the golden with the decoder's; returns how many there were.
pub(crate) fn assert_gradients(golden: &Golden, prefix: &str, decoder: &mut Decoder) -> usize {
    let names: Vec<String> = golden.names().into_iter().filter(|n| n.starts_with(prefix)).collect();
    let largest = |v: &[f32]| v.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    let overall = names.iter().map(|n| largest(&golden.floats(n))).fold(0.0, f32::max);
    let parameters = decoder.parameters();
    for name in &names {
        let expected = golden.floats(name);
        let ours = parameters.iter().find(|p| p.name == &name[prefix.len()..]);
        let ours = ours.unwrap_or_else(|| panic!("{name} is not trainable here"));
        assert_eq!(ours.shape, golden.shape(name), "{name}");
        let tolerance = 1e-4 * largest(&expected) + 1e-7 * overall;
        assert_close(name, ours.grad, &expected, tolerance);
    }
    names.len()
}

/// A tiny Qwen2 configuration that needs no file.
pub(crate) fn tiny_qwen2(tied: bool) -> DecoderConfig {
    let json = serde_json::json!({
        "model_type": "qwen2", "vocab_size": 23, "hidden_size": 12, "intermediate_size": 20,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4,
        "rms_norm_eps": 1e-6, "rope_theta": 1000.0, "tie_word_embeddings": tied, "initializer_range": 0.3
    });
    DecoderConfig::from_json(&json, std::path::Path::new("config.json")).unwrap()
}

/// A tiny Qwen v1 configuration that needs no file.
pub(crate) fn tiny_qwen() -> DecoderConfig {
    let json = serde_json::json!({
        "model_type": "qwen", "padded_vocab_size": 23, "n_embd": 12, "ffn_hidden_size": 40,
        "n_layer": 2, "n_head": 3, "n_positions": 16, "layer_norm_epsilon": 1e-6, "initializer_range": 0.3
    });
    DecoderConfig::from_json(&json, std::path::Path::new("config.json")).unwrap()
}

/// A tiny configuration of every other architecture, each with what only it has.
pub(crate) fn tiny_others() -> Vec<DecoderConfig> {
    let llama = serde_json::json!({
        "vocab_size": 23, "hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 3,
        "num_key_value_heads": 1, "rms_norm_eps": 1e-6, "rope_theta": 1000.0, "initializer_range": 0.3
    });
    let with = |more: serde_json::Value| {
        let mut json = llama.clone();
        for (key, value) in more.as_object().unwrap() {
            json[key] = value.clone();
        }
        json
    };
    let scaling = serde_json::json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16
    });
    let chatglm4 = serde_json::json!({
        "model_type": "chatglm", "padded_vocab_size": 23, "hidden_size": 16, "ffn_hidden_size": 20, "num_layers": 2,
        "num_attention_heads": 4, "multi_query_attention": true, "multi_query_group_num": 2, "kv_channels": 8,
        "add_qkv_bias": true, "rope_ratio": 2.0, "layernorm_epsilon": 1e-6
    });
    let bloom = serde_json::json!({
        "model_type": "bloom", "vocab_size": 23, "n_embed": 12, "n_layer": 2, "num_attention_heads": 3,
        "initializer_range": 0.3
    });
    let jsons = [
        with(serde_json::json!({"model_type": "llama", "rope_scaling": scaling})),
        with(serde_json::json!({"model_type": "qwen3", "head_dim": 6, "tie_word_embeddings": true})),
        with(serde_json::json!({"model_type": "glm", "head_dim": 8, "attention_bias": true})),
        with(serde_json::json!({"model_type": "biogpt", "max_position_embeddings": 40})),
        with(
            serde_json::json!({"model_type": "baichuan", "num_key_value_heads": 3, "max_position_embeddings": 40}),
        ),
        with(serde_json::json!({"model_type": "baichuan", "num_key_value_heads": 3, "z_loss_weight": 0})),
        chatglm4,
        bloom,
        chatglm6_json(),
    ];
    let read = |json| {
        let config = DecoderConfig::from_json(&json, std::path::Path::new("config.json")).unwrap();
        DecoderConfig { initializer_range: 0.3, ..config }
    };
    jsons.into_iter().map(read).collect()
}

fn chatglm6_json() -> serde_json::Value {
    serde_json::json!({
        "model_type": "chatglm", "position_encoding_2d": true, "vocab_size": 23, "hidden_size": 16,
        "inner_hidden_size": 20, "num_layers": 2, "num_attention_heads": 2, "layernorm_epsilon": 1e-5,
        "bos_token_id": 22, "gmask_token_id": 21, "mask_token_id": 20
    })
}

/// Puts the marks of ChatGLM-6B into each sequence of a batch, a third of the way in, if the model needs them.
pub(crate) fn mark(config: &DecoderConfig, packed: &mut Packed) {
    if config.prefix.is_some() {
        for range in packed.cu.windows(2) {
            let (begin, end) = (range[0] as usize, range[1] as usize);
            let at = begin + (end - begin) / 3;
            packed.ids[begin..end].iter_mut().for_each(|id| *id %= 20);
            packed.labels[begin..end].iter_mut().filter(|l| **l >= 20).for_each(|l| *l -= 4);
            (packed.ids[at], packed.ids[at + 1]) = (21, 22);
        }
    }
}

/// As [`mark`], for one text.
pub(crate) fn mark_text(config: &DecoderConfig, ids: &mut [u32]) {
    if config.prefix.is_some() {
        ids.iter_mut().for_each(|id| *id %= 20);
        let at = ids.len() / 3;
        (ids[at], ids[at + 1]) = (21, 22);
    }
}

/// Numbers that look random, from a counter.
pub(crate) fn noise(seed: u64, n: usize) -> Vec<u64> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(1);
    (0..n)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state >> 16
        })
        .collect()
}

/// Packed sequences of these lengths with random ids and about two thirds of the labels set.
pub(crate) fn random_batch(seed: u64, lengths: &[usize], vocab: usize) -> Packed {
    let mut packed = Packed { ids: Vec::new(), cu: vec![0], labels: Vec::new() };
    for (s, &len) in lengths.iter().enumerate() {
        let ids: Vec<u32> =
            noise(seed + s as u64, len + 1).iter().map(|n| (n % vocab as u64) as u32).collect();
        for t in 0..len {
            packed.ids.push(ids[t]);
            let learned = !noise(seed + 100 + s as u64, t + 1)[t].is_multiple_of(3);
            packed.labels.push(if learned && t + 1 < len { ids[t + 1] as i32 } else { NOT_LEARNED });
        }
        packed.cu.push(packed.ids.len() as u32);
    }
    packed
}

/// Moves every trainable tensor away from zero, so that adapters and biases matter.
pub(crate) fn shake(decoder: &mut Decoder, seed: u64, size: f32) {
    for (i, p) in decoder.parameters().into_iter().enumerate() {
        for (v, n) in p.data.iter_mut().zip(noise(seed + i as u64, p.grad.len())) {
            *v += size * ((n % 2001) as f32 / 1000.0 - 1.0);
        }
    }
}
