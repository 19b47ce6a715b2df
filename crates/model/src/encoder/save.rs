//! Writing of an encoder's folder in the Hugging Face layout.

use std::path::Path;

use serde_json::json;

use super::Encoder;
use crate::{
    decoder::Dtype,
    error::Error,
    layers::tensor::Tensor,
    weights::{ElementType, SafetensorsWriter, create_dir, write_atomically},
};

impl Encoder {
    /// Writes `config.json` and `model.safetensors`, each to a temporary name first. The tied output matrix is left out, as
    /// transformers does.
    ///
    /// # Errors
    /// When the folder cannot be written or `dtype` is NF4.
    pub fn save(&self, dir: &Path, dtype: Dtype) -> Result<(), Error> {
        let (element, name) = match dtype {
            Dtype::F32 => (ElementType::F32, "float32"),
            Dtype::Bf16 => (ElementType::Bf16, "bfloat16"),
            Dtype::Nf4 => return Err(Error::input("dtype of a saved checkpoint", "f32 or bf16", "nf4")),
        };
        create_dir(dir)?;
        let mut writer = SafetensorsWriter::default();
        let mut all: Vec<&Tensor> = Vec::new();
        self.tensors(&mut |t| all.push(t));
        for tensor in all {
            writer.add(tensor.name.clone(), element, &tensor.shape, || tensor.dense());
        }
        writer.write(&dir.join("model.safetensors"))?;
        let mut config = self.config.source.clone();
        let key = if config.contains_key("dtype") { "dtype" } else { "torch_dtype" };
        config.insert(key.to_owned(), json!(name));
        write_atomically(&dir.join("config.json"), |out| {
            serde_json::to_writer_pretty(&mut *out, &config)?;
            out.write_all(b"\n")
        })
    }
}
