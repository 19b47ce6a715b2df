//! Writing of a checkpoint folder in the Hugging Face layout.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{Decoder, Dtype};
use crate::{
    error::Error,
    layers::tensor::Tensor,
    weights::{ElementType, SafetensorsWriter, create_dir, write_atomically},
};

impl Decoder {
    /// Writes `config.json` and `model.safetensors`, each to a temporary name first; tokenizer files are not this crate's
    /// decoder's business. A tied head is left out, as transformers does. Weights stored in NF4 are written dequantised.
    ///
    /// # Errors
    /// When the folder cannot be written, `dtype` is NF4, or there are adapters that were not merged.
    pub fn save(&self, dir: &Path, dtype: Dtype) -> Result<(), Error> {
        let (element, name) = match dtype {
            Dtype::F32 => (ElementType::F32, "float32"),
            Dtype::Bf16 => (ElementType::Bf16, "bfloat16"),
            Dtype::Nf4 => return Err(Error::input("dtype of a saved checkpoint", "f32 or bf16", "nf4")),
        };
        if self.adapter.is_some() {
            return Err(Error::input(
                "a saved checkpoint",
                "a model without adapters",
                "adapters; merge or save them apart",
            ));
        }
        create_dir(dir)?;
        let mut writer = SafetensorsWriter::default();
        let mut all: Vec<&Tensor> = Vec::new();
        self.tensors(&mut |t| all.push(t));
        for tensor in all {
            writer.add(tensor.name.clone(), element, &tensor.shape, || tensor.dense());
        }
        writer.write(&dir.join("model.safetensors"))?;
        let config = self.config_json(name);
        write_atomically(&dir.join("config.json"), |out| {
            serde_json::to_writer_pretty(&mut *out, &config)?;
            out.write_all(b"\n")
        })
    }

    pub(super) fn config_json(&self, dtype: &str) -> Map<String, Value> {
        let mut config = self.config.source.clone();
        config.insert("model_type".to_owned(), json!(self.config.model_type));
        // Newer files say `dtype`; whichever key is there is kept current.
        let key = if config.contains_key("dtype") { "dtype" } else { "torch_dtype" };
        config.insert(key.to_owned(), json!(dtype));
        for flag in ["bf16", "fp16", "fp32"] {
            let value = flag == if dtype == "bfloat16" { "bf16" } else { "fp32" };
            if let Some(old) = config.get_mut(flag) {
                *old = json!(value);
            }
        }
        config.remove("quantization_config");
        config
    }
}
