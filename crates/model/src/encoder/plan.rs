//! Byte counts of an encoder's training step before it is run, from the configuration alone.
//!
//! Counted is what this crate holds, as in [`crate::plan`].

use taiyi_kernels::Precision;

use super::{EncoderConfig, EncoderTask, assemble};
use crate::{
    batch::Checkpoint,
    error::Error,
    layers::{
        source::{Role, Source},
        tensor::{Data, Tensor},
    },
    plan::{OptimizerBytes, Plan},
};

/// What is going to be run: a step that trains every weight.
#[derive(Debug, Clone, Copy)]
pub struct EncoderPlanOptions {
    /// What the optimizer keeps.
    pub optimizer: OptimizerBytes,
    /// Tokens of the largest batch, `T`.
    pub tokens: usize,
    /// Sequences of the largest batch.
    pub sequences: usize,
    /// What the forward pass keeps.
    pub checkpoint: Checkpoint,
}

/// Works out where memory goes.
///
/// # Errors
/// When the configuration's `model_type` is unknown.
pub fn plan(config: &EncoderConfig, options: &EncoderPlanOptions) -> Result<Plan, Error> {
    let mut counted = Counted { values: 0, optimizer: 0, scratch: 0, needs: options.optimizer };
    assemble(config.clone(), Precision::F32, &mut counted)?;
    let (t, layers, d) = (options.tokens, config.num_hidden_layers, config.hidden_size);
    let (f, h, n) = (config.intermediate_size, config.num_attention_heads, config.outputs());
    let kept = if options.checkpoint == Checkpoint::None { layers } else { 1 };
    // Two norms with two statistics each; middle, last and the MLP's input; q, k, v and what was attended; the MLP's two.
    let block = 4 + 3 * d + 4 * d + h + 2 * f;
    let streams = (layers + 1) * d + d;
    let scratch = 5 * d + 2 * f;
    let embedding = 2 * d + 2;
    let head = match config.task {
        EncoderTask::MaskedLm => t * (4 * d + 2 + n),
        EncoderTask::TokenClassification => t * n,
        EncoderTask::SequenceClassification { .. } => options.sequences * (3 * d + n),
    };
    Ok(Plan {
        weights: 4 * counted.values,
        gradients: 4 * counted.values,
        optimizer: counted.optimizer + counted.scratch,
        activations: 4 * t * (kept * block + streams + scratch + embedding),
        head: 4 * head,
        ..Plan::default()
    })
}

/// Adds up the values of all tensors, and what the optimizer needs for them.
struct Counted {
    values: usize,
    optimizer: usize,
    scratch: usize,
    needs: OptimizerBytes,
}

impl Source for Counted {
    fn tensor(&mut self, name: String, _: Role, shape: &[usize]) -> Result<Tensor, Error> {
        self.values += shape.iter().product::<usize>();
        self.optimizer += (self.needs.state)(&name, shape);
        self.scratch = self.scratch.max((self.needs.scratch)(&name, shape));
        Ok(Tensor::new(name, shape, Data::f32(Vec::new())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Encoder, EncoderBatch, Labels, StepOptions, Workspace};
    use std::path::Path;

    fn config(model_type: &str) -> EncoderConfig {
        let json = serde_json::json!({
            "model_type": model_type, "vocab_size": 40, "hidden_size": 24, "intermediate_size": 52, "num_hidden_layers": 3,
            "num_attention_heads": 4, "max_position_embeddings": 30, "type_vocab_size": 2,
        });
        EncoderConfig::from_json(&json, Path::new("config.json")).unwrap()
    }

    #[test]
    fn the_plan_is_what_is_held() {
        let ids: Vec<u32> = (0..27).map(|i| 2 + (i * 7) % 38).collect();
        let cu = [0, 9, 22, 27];
        let batch = EncoderBatch { ids: &ids, token_types: &[], cu_seqlens: &cu };
        let names: Vec<String> = ["a", "b", "c", "d", "e"].map(str::to_owned).to_vec();
        let tokens: Vec<i32> = (0..27).map(|i| i % 5).collect();
        let several: Vec<f32> = (0..15).map(|i| (i % 2) as f32).collect();
        let tasks = [
            (EncoderTask::MaskedLm, Vec::new(), Labels::Tokens(&tokens)),
            (EncoderTask::TokenClassification, names.clone(), Labels::Tokens(&tokens)),
            (
                EncoderTask::SequenceClassification { multi_label: false },
                names.clone(),
                Labels::Classes(&[4, 0, 1]),
            ),
            (EncoderTask::SequenceClassification { multi_label: true }, names, Labels::Several(&several)),
        ];
        for model_type in ["bert", "roberta"] {
            for (task, names, labels) in &tasks {
                for checkpoint in [Checkpoint::None, Checkpoint::EveryBlock] {
                    let config = config(model_type).with_task(*task, names.clone());
                    let options = EncoderPlanOptions {
                        optimizer: OptimizerBytes::ADAMW,
                        tokens: 27,
                        sequences: 3,
                        checkpoint,
                    };
                    let planned = plan(&config, &options).unwrap();
                    let mut encoder = Encoder::random(config, 1).unwrap();
                    let mut workspace = Workspace::new();
                    let step = StepOptions {
                        precision: Precision::F32,
                        loss_scale: 1.0,
                        dropout_seed: None,
                        checkpoint,
                    };
                    encoder.loss_and_gradients(&batch, labels, &step, &mut workspace).unwrap();
                    let what = format!("{model_type} {task:?} {checkpoint:?}");
                    assert_eq!((planned.weights, planned.gradients), encoder.bytes(), "{what}");
                    assert_eq!(planned.optimizer, 8 * encoder.parameter_count(), "{what}");
                    assert_eq!(planned.activations + planned.head, workspace.bytes(), "{what}");
                }
            }
        }
    }

    #[test]
    fn the_loss_alone_is_that_of_the_step() {
        let names: Vec<String> = ["a", "b", "c"].map(str::to_owned).to_vec();
        let ids = [3, 9, 4, 30, 5];
        let batch = EncoderBatch { ids: &ids, token_types: &[], cu_seqlens: &[0, 3, 5] };
        let step = StepOptions {
            precision: Precision::F32,
            loss_scale: 0.5,
            dropout_seed: None,
            checkpoint: Checkpoint::None,
        };
        for (multi_label, labels) in
            [(false, Labels::Classes(&[2, 0])), (true, Labels::Several(&[1.0, 0.0, 1.0, 0.0, 0.0, 0.0]))]
        {
            let task = EncoderTask::SequenceClassification { multi_label };
            let mut encoder = Encoder::random(config("bert").with_task(task, names.clone()), 4).unwrap();
            let mut workspace = Workspace::new();
            let alone = encoder.loss(&batch, &labels, &mut workspace).unwrap();
            let stepped = encoder.loss_and_gradients(&batch, &labels, &step, &mut workspace).unwrap();
            assert!((alone.sum - stepped.sum).abs() < 1e-9 && alone.sum > 0.0, "{alone:?} {stepped:?}");
            assert_eq!(alone.labelled, stepped.labelled);
            assert!(encoder.loss(&batch, &Labels::Classes(&[7, 0]), &mut workspace).is_err());
        }
    }

    #[test]
    fn the_tuned_length_is_kept_in_the_configuration() {
        let mut encoder = Encoder::random(config("bert"), 1).unwrap();
        assert_eq!(encoder.config().tuned_length(), 30);
        encoder.set_tuned_length(17);
        let dir = tempfile::tempdir().unwrap();
        encoder.save(dir.path(), crate::Dtype::F32).unwrap();
        let read = EncoderConfig::load(dir.path()).unwrap();
        assert_eq!(read.tuned_length(), 17);
        let mut odd = read.clone();
        for value in [serde_json::json!("x"), serde_json::json!({"classification": {"max_length": 999}})] {
            odd.source.insert(PLACE_OF_TESTS.to_owned(), value);
            assert_eq!(odd.tuned_length(), 30);
        }
    }

    const PLACE_OF_TESTS: &str = "task_specific_params";
}
