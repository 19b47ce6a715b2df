//! Adapter folders as PEFT writes them: `adapter_config.json` and `adapter_model.safetensors`.

use std::path::Path;

use serde_json::{Value, json};

use super::LoraConfig;
use crate::{
    decoder::Decoder,
    error::Error,
    layers::tensor::Tensor,
    weights::{ElementType, SafetensorsWriter, Weights, create_dir, read_json, write_atomically},
};

impl Decoder {
    /// Puts a PEFT adapter on the model; `trainable` continues its training, with the dropout it was trained with.
    ///
    /// # Errors
    /// When the folder is not a LoRA adapter this program can run exactly, or a tensor is missing, left over or misshapen. The
    /// model is then as before.
    pub fn load_adapter(&mut self, dir: &Path, trainable: bool) -> Result<(), Error> {
        let lora = read_config(dir)?;
        let file = dir.join("adapter_model.safetensors");
        let weights = Weights::open_file(if file.is_file() {
            &file
        } else {
            return self.load_bin(dir, &lora, trainable);
        })?;
        self.take_adapter(&weights, &lora, trainable)
    }

    fn load_bin(&mut self, dir: &Path, lora: &LoraConfig, trainable: bool) -> Result<(), Error> {
        let file = dir.join("adapter_model.bin");
        if !file.is_file() {
            return Err(Error::NoWeights {
                path: dir.to_owned(),
                expected: "adapter_model.safetensors, adapter_model.bin",
            });
        }
        self.take_adapter(&Weights::open_file(&file)?, lora, trainable)
    }

    fn take_adapter(&mut self, weights: &Weights, lora: &LoraConfig, trainable: bool) -> Result<(), Error> {
        self.insert_adapters(lora)?;
        let filled = self.fill_adapters(weights);
        match filled {
            Ok(()) if trainable => self.train_adapters(),
            Ok(()) => {}
            Err(_) => {
                self.linears_mut().into_iter().for_each(|l| l.adapter = None);
                self.adapter = None;
            }
        }
        filled
    }

    fn fill_adapters(&mut self, weights: &Weights) -> Result<(), Error> {
        let mut used = std::collections::BTreeSet::new();
        for linear in self.linears_mut() {
            let Some(adapter) = &mut linear.adapter else { continue };
            let tensors = [Some(&mut adapter.a), Some(&mut adapter.b), adapter.magnitude.as_mut()];
            for tensor in tensors.into_iter().flatten() {
                // Some PEFT versions put the adapter's name in the middle, or `.weight` behind the magnitudes.
                let named = [
                    tensor.name.clone(),
                    tensor.name.replace(".weight", ".default.weight"),
                    format!("{}.weight", tensor.name),
                ];
                let name = named.iter().find(|n| weights.contains(n)).unwrap_or(&named[0]);
                let values = weights.f32(name, &tensor.shape)?;
                tensor.replace(values);
                used.insert(name.clone());
            }
        }
        // A tensor that nothing takes would mean that the adapter does something else than it was trained to.
        match weights.names().find(|n| !used.contains(*n)) {
            Some(name) => Err(Error::Adapter {
                path: weights.place().to_owned(),
                place: format!("tensor `{name}`"),
                expected: "only tensors of the layers that `target_modules` names in this model".to_owned(),
                found: "one of another layer or method".to_owned(),
            }),
            None => Ok(()),
        }
    }

    /// Writes the adapters as a PEFT folder; `base_model` is what `base_model_name_or_path` says.
    ///
    /// # Errors
    /// When there are no adapters or the folder cannot be written.
    pub fn save_adapter(&self, dir: &Path, base_model: &str) -> Result<(), Error> {
        let Some(lora) = &self.adapter else {
            return Err(Error::input("a saved adapter", "a model with adapters", "none"));
        };
        create_dir(dir)?;
        let mut tensors: Vec<&Tensor> = Vec::new();
        for adapter in self.linears().into_iter().filter_map(|l| l.adapter.as_ref()) {
            tensors.extend([&adapter.a, &adapter.b]);
            tensors.extend(&adapter.magnitude);
        }
        let mut writer = SafetensorsWriter::default();
        for tensor in tensors {
            writer.add(tensor.name.clone(), ElementType::F32, &tensor.shape, || tensor.dense());
        }
        writer.write(&dir.join("adapter_model.safetensors"))?;
        let config = self.peft_config(lora, base_model);
        write_atomically(&dir.join("adapter_config.json"), |out| {
            serde_json::to_writer_pretty(&mut *out, &config)?;
            out.write_all(b"\n")
        })
    }

    fn peft_config(&self, lora: &LoraConfig, base_model: &str) -> Value {
        let targets = if lora.targets.iter().any(|t| t == "all-linear") {
            self.target_names()
        } else {
            lora.targets.clone()
        };
        json!({
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base_model,
            "r": lora.rank,
            "lora_alpha": whole(lora.alpha),
            "lora_dropout": f64::from(lora.dropout).clamp(0.0, 1.0),
            "target_modules": targets,
            "use_rslora": lora.rslora,
            "use_dora": lora.dora,
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": true,
            "modules_to_save": null,
            "rank_pattern": {},
            "alpha_pattern": {},
            "layers_to_transform": null,
            "layers_pattern": null,
            "revision": null,
        })
    }
}

/// PEFT writes whole numbers as integers.
fn whole(number: f32) -> Value {
    if number.fract() == 0.0 && number.abs() < 1e9 { json!(number as i64) } else { json!(number) }
}

fn read_config(dir: &Path) -> Result<LoraConfig, Error> {
    let path = dir.join("adapter_config.json");
    let value = read_json(&path)?;
    let wrong = |key: &str, expected: &str| Error::Adapter {
        path: path.clone(),
        place: format!("`{key}`"),
        expected: expected.to_owned(),
        found: value.get(key).map_or_else(|| "nothing".to_owned(), Value::to_string),
    };
    let flag = |key: &str| value.get(key).and_then(Value::as_bool).unwrap_or(false);
    if value.get("peft_type").and_then(Value::as_str) != Some("LORA") {
        return Err(wrong("peft_type", "\"LORA\""));
    }
    let rank = value.get("r").and_then(Value::as_u64).and_then(|r| usize::try_from(r).ok());
    let rank = rank
        .filter(|r| (1..=1 << 20).contains(r))
        .ok_or_else(|| wrong("r", "an integer from 1 to 1048576"))?;
    let alpha =
        value.get("lora_alpha").and_then(Value::as_f64).ok_or_else(|| wrong("lora_alpha", "a number"))?;
    // Each of these changes the result in a way that would go unnoticed if it were ignored.
    for key in [
        "fan_in_fan_out",
        "lora_bias",
        "use_qalora",
        "trainable_token_indices",
        "layer_replication",
        "use_bdlora",
        "alora_invocation_tokens",
    ] {
        if value.get(key).is_some_and(|v| !matches!(v, Value::Null | Value::Bool(false))) {
            return Err(wrong(key, "false or null"));
        }
    }
    for key in ["rank_pattern", "alpha_pattern"] {
        if value.get(key).and_then(Value::as_object).is_some_and(|o| !o.is_empty()) {
            return Err(wrong(key, "an empty object"));
        }
    }
    for key in ["modules_to_save", "layers_to_transform", "target_parameters", "exclude_modules"] {
        if value.get(key).is_some_and(|v| !v.is_null() && v.as_array().is_none_or(|a| !a.is_empty())) {
            return Err(wrong(key, "null"));
        }
    }
    if value.get("bias").is_some_and(|v| v != "none") {
        return Err(wrong("bias", "\"none\""));
    }
    let targets = match value.get("target_modules") {
        Some(Value::String(one)) if one == "all-linear" => vec![one.clone()],
        Some(Value::Array(list)) => list
            .iter()
            .map(|v| v.as_str().map(str::to_owned))
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| wrong("target_modules", "an array of names"))?,
        _ => return Err(wrong("target_modules", "an array of names, or \"all-linear\"")),
    };
    Ok(LoraConfig {
        rank,
        alpha: alpha as f32,
        dropout: value.get("lora_dropout").and_then(Value::as_f64).unwrap_or(0.0) as f32,
        targets,
        rslora: flag("use_rslora"),
        dora: flag("use_dora"),
    })
}
