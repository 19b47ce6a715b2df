//! Writing of a checkpoint folder in the Hugging Face layout, whole or in 4 bits.

use std::{collections::BTreeSet, path::Path};

use serde_json::{Map, Value, json};
use taiyi_kernels::Nf4;

use super::{Decoder, Dtype};
use crate::{
    architectures,
    error::Error,
    layers::tensor::{Data, Tensor},
    weights::{ElementType, SafetensorsWriter, bitsandbytes, write_checkpoint},
};

impl Decoder {
    /// Writes `config.json` and `model.safetensors`, each to a temporary name first; tokenizer files are not this crate's
    /// decoder's business. A tied head is left out, as transformers does. Weights stored in NF4 are written dequantised.
    ///
    /// # Errors
    /// When the folder cannot be written, `dtype` is NF4, or there are adapters that were not merged.
    pub fn save(&self, dir: &Path, dtype: Dtype) -> Result<(), Error> {
        let element = dtype.element()?;
        self.check_merged()?;
        let mut writer = SafetensorsWriter::default();
        self.tensors(&mut |t| writer.add(t.name.clone(), element, &t.shape, || t.dense()));
        write_checkpoint(dir, &writer, &saved_config(&self.config.source, &self.config.model_type, element))
    }

    /// As [`Decoder::save`], with the linear layers of the blocks in NF4 with double quantisation and everything else in `dtype`.
    /// Matrices that are NF4 already keep their codes.
    ///
    /// # Errors
    /// As [`Decoder::save`].
    pub fn save_nf4(&self, dir: &Path, dtype: Dtype) -> Result<(), Error> {
        let element = dtype.element()?;
        self.check_merged()?;
        let linear: BTreeSet<&str> =
            self.blocks.iter().flat_map(|b| b.linears()).map(|l| l.weight.name.as_str()).collect();
        let mut writer = SafetensorsWriter::default();
        self.tensors(&mut |tensor: &Tensor| match tensor.shape[..] {
            [rows, cols] if linear.contains(tensor.name.as_str()) => {
                writer.add_nf4(&tensor.name, element, [rows, cols], move || match &tensor.data {
                    Data::Nf4(matrix) => matrix.clone(),
                    _ => Nf4::quantize(&tensor.dense(), rows, cols, true),
                });
            }
            _ => writer.add(tensor.name.clone(), element, &tensor.shape, || tensor.dense()),
        });
        let head = (architectures::of(&self.config)?.names)(&self.config).head;
        let mut config = saved_config(&self.config.source, &self.config.model_type, element);
        let quantization = bitsandbytes::quantization_config(element, &[head]);
        config.insert("quantization_config".to_owned(), json!(quantization));
        write_checkpoint(dir, &writer, &config)
    }

    fn check_merged(&self) -> Result<(), Error> {
        match self.adapter {
            None => Ok(()),
            Some(_) => Err(Error::input(
                "a saved checkpoint",
                "a model without adapters",
                "adapters; merge or save them apart",
            )),
        }
    }
}

impl Dtype {
    /// The type of the numbers of a file whose weights are whole.
    pub(crate) fn element(self) -> Result<ElementType, Error> {
        match self {
            Dtype::F32 => Ok(ElementType::F32),
            Dtype::Bf16 => Ok(ElementType::Bf16),
            Dtype::Nf4 => Err(Error::input("dtype of a saved checkpoint", "f32 or bf16", "nf4")),
        }
    }
}

/// A configuration as it was read, with the keys that a save changes.
pub(crate) fn saved_config(
    source: &Map<String, Value>,
    model_type: &str,
    element: ElementType,
) -> Map<String, Value> {
    let mut config = source.clone();
    config.insert("model_type".to_owned(), json!(model_type));
    // Newer files say `dtype`; whichever key is there is kept current.
    let key = if config.contains_key("dtype") { "dtype" } else { "torch_dtype" };
    config.insert(key.to_owned(), json!(bitsandbytes::torch_name(element)));
    for (flag, of) in [("bf16", ElementType::Bf16), ("fp16", ElementType::F16), ("fp32", ElementType::F32)] {
        if let Some(old) = config.get_mut(flag) {
            *old = json!(of == element);
        }
    }
    config.remove("quantization_config");
    config
}
