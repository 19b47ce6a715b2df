//! The plan is what is then really held.

use taiyi_kernels::Precision;
use taiyi_model::{
    Checkpoint, Decoder, DecoderConfig, Dtype, LoraConfig, StepOptions, Workspace,
    plan::{OptimizerBytes, PlanOptions, Training, plan},
};

use crate::golden::{mark, random_batch, tiny_others, tiny_qwen, tiny_qwen2};

fn check(config: DecoderConfig, dtype: Dtype, lora: Option<&LoraConfig>, checkpoint: Checkpoint) {
    let lengths = [9, 14, 5];
    let mut packed = random_batch(1, &lengths, config.vocab_size);
    mark(&config, &mut packed);
    let what = format!("{} {:?}", config.model_type, config.positions);
    let options = PlanOptions {
        dtype,
        precision: dtype.precision(),
        training: lora.map_or(Training::Full, Training::Lora),
        optimizer: OptimizerBytes::ADAMW,
        tokens: packed.ids.len(),
        longest: 14,
        labelled: packed.batch().labelled(),
        checkpoint,
        cached_tokens: 0,
    };
    let planned = plan(&config, &options).unwrap();
    let mut decoder = Decoder::random(config, 1).unwrap();
    if let Some(lora) = lora {
        let dir = tempfile::tempdir().unwrap();
        decoder.save(dir.path(), Dtype::F32).unwrap();
        decoder = Decoder::load(dir.path(), dtype).unwrap();
        decoder.add_lora(lora, 1).unwrap();
    }
    let mut workspace = Workspace::new();
    let step = StepOptions { checkpoint, dropout_seed: Some(1), ..packed.options(Precision::F32) };
    decoder.loss_and_gradients(&packed.batch(), &step, &mut workspace).unwrap();
    let (values, gradients) = decoder.bytes();
    assert_eq!(planned.weights + planned.adapters, values, "{what} {dtype:?} {lora:?}");
    assert_eq!(planned.gradients, gradients, "{what} {dtype:?} {lora:?}");
    assert_eq!(planned.optimizer, 8 * decoder.trainable_count());
    assert_eq!(
        planned.activations + planned.head,
        workspace.bytes(),
        "{what} {dtype:?} {lora:?} {checkpoint:?}"
    );
}

#[test]
fn the_plan_is_what_is_held() {
    let plain = LoraConfig {
        rank: 3,
        alpha: 4.0,
        dropout: 0.1,
        targets: vec!["all-linear".into()],
        rslora: false,
        dora: false,
    };
    let dora = LoraConfig { dora: true, dropout: 0.0, ..plain.clone() };
    for checkpoint in [Checkpoint::None, Checkpoint::EveryBlock] {
        for config in [tiny_qwen(), tiny_qwen2(true), tiny_qwen2(false)].into_iter().chain(tiny_others()) {
            check(config.clone(), Dtype::F32, None, checkpoint);
            for dtype in [Dtype::F32, Dtype::Bf16, Dtype::Nf4] {
                for lora in [&plain, &dora] {
                    check(config.clone(), dtype, Some(lora), checkpoint);
                }
            }
        }
    }
}
