//! Writing of a checkpoint folder in 4 bits, as bitsandbytes and transformers load it.

use std::{collections::BTreeSet, path::Path};

use serde_json::json;
use taiyi_kernels::Nf4;

use super::{Decoder, Dtype};
use crate::{
    architectures,
    error::Error,
    layers::tensor::{Data, Tensor},
    weights::{ElementType, SafetensorsWriter, bitsandbytes, create_dir, write_atomically},
};

impl Decoder {
    /// Writes `config.json` and `model.safetensors` with the linear layers of the blocks in NF4 with double quantisation and
    /// everything else in `dtype`. Matrices that are NF4 already keep their codes.
    ///
    /// # Errors
    /// When the folder cannot be written, `dtype` is NF4, or there are adapters that were not merged.
    pub fn save_nf4(&self, dir: &Path, dtype: Dtype) -> Result<(), Error> {
        let element = match dtype {
            Dtype::F32 => ElementType::F32,
            Dtype::Bf16 => ElementType::Bf16,
            Dtype::Nf4 => {
                return Err(Error::input("dtype of what stays whole", "f32 or bf16", "nf4"));
            }
        };
        if self.adapter.is_some() {
            return Err(Error::input(
                "a saved checkpoint",
                "a model without adapters",
                "adapters; merge or save them apart",
            ));
        }
        create_dir(dir)?;
        let linear: BTreeSet<&str> =
            self.blocks.iter().flat_map(|b| b.linears()).map(|l| l.weight.name.as_str()).collect();
        let mut all: Vec<&Tensor> = Vec::new();
        self.tensors(&mut |t| all.push(t));
        let mut writer = SafetensorsWriter::default();
        for tensor in all {
            match tensor.shape[..] {
                [rows, cols] if linear.contains(tensor.name.as_str()) => {
                    writer.add_nf4(&tensor.name, element, [rows, cols], move || match &tensor.data {
                        Data::Nf4(matrix) => matrix.clone(),
                        _ => Nf4::quantize(&tensor.dense(), rows, cols, true),
                    });
                }
                _ => writer.add(tensor.name.clone(), element, &tensor.shape, || tensor.dense()),
            }
        }
        writer.write(&dir.join("model.safetensors"))?;
        let head = (architectures::of(&self.config)?.names)(&self.config).head;
        let mut config = self.config_json(bitsandbytes::torch_name(element));
        let quantization = bitsandbytes::quantization_config(element, &[head]);
        config.insert("quantization_config".to_owned(), json!(quantization));
        write_atomically(&dir.join("config.json"), |out| {
            serde_json::to_writer_pretty(&mut *out, &config)?;
            out.write_all(b"\n")
        })
    }
}
