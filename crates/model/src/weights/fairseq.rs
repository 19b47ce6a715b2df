//! Checkpoints of fairseq's `transformer_lm`, the form in which BioGPT was published: a PyTorch file
//! `{"args": Namespace | None, "cfg": {"model": {…}}, "model": OrderedDict, …}` beside `dict.txt` and `bpecodes`.
//!
//! Only the tensors under `model` are taken, under the names that Hugging Face gives them (transformers'
//! `convert_biogpt_original_pytorch_checkpoint_to_pytorch.py` maps them alike), and of the arguments only what its
//! `config.json` would say. Everything else in the file (optimizer, meters, the classes of the arguments) is passed over.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value as Json, json};
use taiyi_kernels::MappedFile;

use super::{
    Weights,
    pickle::{Node, Unpickled, Value},
    pytorch,
};
use crate::error::Error;

/// File names of fairseq checkpoints, in the order in which they are looked for.
pub(super) const FILES: [&str; 5] =
    ["checkpoint.pt", "checkpoint_avg.pt", "checkpoint_best.pt", "checkpoint_last.pt", "model.pt"];

/// The fairseq checkpoint of a folder, if it has one.
pub(super) fn checkpoint(dir: &Path) -> Option<PathBuf> {
    FILES.iter().map(|name| dir.join(name)).find(|path| path.is_file())
}

/// The state dictionary inside a fairseq checkpoint; `None` for any other pickle.
pub(super) fn state_dictionary(pickle: &Unpickled) -> Option<&[(Value, Value)]> {
    let model = pickle.field(pickle.root, "model")?;
    match pickle.node(model) {
        Some(Node::Dict(items)) => Some(items),
        _ => None,
    }
}

/// Endings of the tensors of a block, the same in both programs.
const BLOCK: [&str; 8] = [
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.out_proj",
    "self_attn_layer_norm",
    "fc1",
    "fc2",
    "final_layer_norm",
];

/// Hugging Face's name of a tensor, for all parameters of a plain decoder; `None` for what is no parameter.
///
/// | fairseq | Hugging Face |
/// |---|---|
/// | `decoder.embed_tokens.weight`, `decoder.embed_positions.weight` | `biogpt.` and the rest |
/// | `decoder.layers.N.*`, `decoder.layer_norm.*` | `biogpt.` and the rest |
/// | `decoder.output_projection.weight` | `output_projection.weight` |
/// | `decoder.version` | – |
///
/// # Errors
/// When it is a parameter of something else, without which the model would compute something else.
pub(super) fn hugging_face_name(path: &Path, name: &str) -> Result<Option<String>, Error> {
    let part = name.strip_prefix("decoder.").unwrap_or_default();
    let known = match part {
        "version" => return Ok(None),
        "output_projection.weight" => return Ok(Some(part.to_owned())),
        "embed_tokens.weight" | "embed_positions.weight" | "layer_norm.weight" | "layer_norm.bias" => true,
        _ => {
            part.strip_prefix("layers.").and_then(|rest| rest.split_once('.')).is_some_and(|(layer, rest)| {
                let module = rest.strip_suffix(".weight").or_else(|| rest.strip_suffix(".bias"));
                layer.parse::<u32>().is_ok() && module.is_some_and(|module| BLOCK.contains(&module))
            })
        }
    };
    if known {
        return Ok(Some(format!("biogpt.{part}")));
    }
    Err(Error::malformed(
        path,
        format!("tensor `{name}`"),
        "only tensors of a fairseq `transformer_lm` with learned positions",
        "one of another model",
    ))
}

/// What `config.json` would say, from the arguments that the checkpoint in a folder was trained with and the shapes of its
/// tensors; `None` where the folder holds no fairseq checkpoint.
///
/// # Errors
/// When the checkpoint is broken, does not say how many heads it has, or is of a model that Hugging Face's BioGPT is not.
pub fn config(dir: &Path) -> Result<Option<Map<String, Json>>, Error> {
    let Some(path) = checkpoint(dir) else { return Ok(None) };
    let weights = Weights::open_file(&path)?;
    let map = MappedFile::open(&path).map_err(Error::kernels(&path))?;
    let (pickle, _) = pytorch::open(&path, &map)?;
    if state_dictionary(&pickle).is_none() {
        return Ok(None);
    }
    let root = |key: &str| pickle.field(pickle.root, key).filter(|v| *v != Value::None);
    let arguments = root("args").or_else(|| pickle.field(root("cfg")?, "model"));
    Arguments { path: &path, pickle: &pickle, value: arguments.unwrap_or(Value::None) }
        .config(&weights)
        .map(Some)
}

/// The arguments of the training run: an `argparse.Namespace` or a dictionary.
struct Arguments<'a> {
    path: &'a Path,
    pickle: &'a Unpickled,
    value: Value,
}

impl Arguments<'_> {
    fn config(&self, weights: &Weights) -> Result<Map<String, Json>, Error> {
        let (vocab_size, hidden_size) = matrix(weights, "biogpt.embed_tokens.weight")?;
        let (positions, _) = matrix(weights, "biogpt.embed_positions.weight")?;
        let (intermediate_size, _) = matrix(weights, "biogpt.layers.0.fc1.weight")?;
        let layers = (0..).take_while(|i| weights.contains(&format!("biogpt.layers.{i}.fc1.weight"))).count();
        for (key, expected) in [("decoder_normalize_before", true), ("decoder_learned_pos", true)] {
            if self.flag(key)?.unwrap_or(expected) != expected {
                return Err(self.wrong(key, &expected.to_string(), (!expected).to_string()));
            }
        }
        for (key, expected) in [
            ("decoder_embed_dim", hidden_size),
            ("decoder_output_dim", hidden_size),
            ("decoder_input_dim", hidden_size),
            ("decoder_ffn_embed_dim", intermediate_size),
            ("decoder_layers", layers),
        ] {
            let found = self.size(key)?.unwrap_or(expected);
            if found != expected {
                return Err(self.wrong(
                    key,
                    &format!("{expected}, as the tensors have it"),
                    found.to_string(),
                ));
            }
        }
        let heads = self.size("decoder_attention_heads")?;
        let heads =
            heads.ok_or_else(|| self.wrong("decoder_attention_heads", "a number", "nothing".to_owned()))?;
        let tied = match self.flag("share_decoder_input_output_embed")? {
            Some(tied) => tied,
            None => !weights.contains("output_projection.weight"),
        };
        let dtype = match weights.get("biogpt.embed_tokens.weight")?.dtype {
            super::ElementType::F16 => "float16",
            super::ElementType::Bf16 => "bfloat16",
            _ => "float32",
        };
        let config = json!({
            "architectures": ["BioGptForCausalLM"],
            "model_type": "biogpt",
            "vocab_size": vocab_size,
            "hidden_size": hidden_size,
            "intermediate_size": intermediate_size,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "hidden_act": self.text("activation_fn")?.unwrap_or("gelu"),
            // The rows before the first position are fairseq's padding index and the one before it.
            "max_position_embeddings": positions.saturating_sub(2),
            "scale_embedding": !self.flag("no_scale_embedding")?.unwrap_or(false),
            "tie_word_embeddings": tied,
            "hidden_dropout_prob": self.number("dropout")?.unwrap_or(0.1),
            "attention_probs_dropout_prob": self.number("attention_dropout")?.unwrap_or(0.1),
            "activation_dropout": self.number("activation_dropout")?.unwrap_or(0.0),
            "layerdrop": self.number("decoder_layerdrop")?.unwrap_or(0.0),
            "layer_norm_eps": 1e-12,
            "initializer_range": 0.02,
            "bos_token_id": 0,
            "pad_token_id": 1,
            "eos_token_id": 2,
            "torch_dtype": dtype,
        });
        match config {
            Json::Object(config) => Ok(config),
            _ => unreachable!("the literal above is an object"),
        }
    }

    fn wrong(&self, key: &str, expected: &str, found: String) -> Error {
        Error::Config {
            path: self.path.to_owned(),
            key: key.to_owned(),
            expected: expected.to_owned(),
            found,
        }
    }

    fn get(&self, key: &str) -> Option<Value> {
        self.pickle.field(self.value, key).filter(|v| *v != Value::None)
    }

    fn flag(&self, key: &str) -> Result<Option<bool>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(_) => Err(self.wrong(key, "true or false", "another value".to_owned())),
        }
    }

    fn size(&self, key: &str) -> Result<Option<usize>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Int(n)) if (0..1 << 32).contains(&n) => Ok(usize::try_from(n).ok()),
            Some(_) => Err(self.wrong(key, "a size", "another value".to_owned())),
        }
    }

    fn number(&self, key: &str) -> Result<Option<f64>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Float(x)) if x.is_finite() => Ok(Some(x)),
            Some(Value::Int(n)) => Ok(Some(n as f64)),
            Some(_) => Err(self.wrong(key, "a number", "another value".to_owned())),
        }
    }

    fn text(&self, key: &str) -> Result<Option<&str>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let text = self.pickle.text(value);
        text.map(Some).ok_or_else(|| self.wrong(key, "a string", "another value".to_owned()))
    }
}

fn matrix(weights: &Weights, name: &str) -> Result<(usize, usize), Error> {
    let view = weights.get(name)?;
    match *view.shape {
        [rows, cols] => Ok((rows, cols)),
        _ => Err(Error::malformed(
            weights.place(),
            format!("tensor `{name}`"),
            "a matrix",
            format!("shape {:?}", view.shape),
        )),
    }
}
