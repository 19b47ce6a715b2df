//! What must not change a training step, and what must not be touched by it.

use taiyi_kernels::Precision;
use taiyi_model::{Checkpoint, Decoder, Dtype, LoraConfig, NOT_LEARNED, PackedBatch, StepOptions, Workspace};

use crate::golden::{Packed, mark, random_batch, shake, tiny_others, tiny_qwen, tiny_qwen2};

fn grads(decoder: &mut Decoder) -> Vec<(String, Vec<f32>)> {
    decoder.parameters().iter().map(|p| (p.name.to_owned(), p.grad.to_vec())).collect()
}

fn step(
    decoder: &mut Decoder,
    packed: &Packed,
    options: &StepOptions,
    workspace: &mut Workspace,
) -> (f64, Vec<(String, Vec<f32>)>) {
    decoder.zero_gradients();
    let loss = decoder.loss_and_gradients(&packed.batch(), options, workspace).unwrap();
    (loss.sum, grads(decoder))
}

fn adapted(dora: bool, dropout: f32) -> Decoder {
    let mut decoder = Decoder::random(tiny_qwen2(true), 4).unwrap();
    let lora =
        LoraConfig { rank: 2, alpha: 4.0, dropout, targets: vec!["all-linear".into()], rslora: false, dora };
    decoder.add_lora(&lora, 3).unwrap();
    shake(&mut decoder, 8, 0.2);
    decoder
}

#[test]
fn checkpoints_and_a_used_workspace_give_the_same_bits() {
    let packed = random_batch(1, &[9, 4, 6], 23);
    let other = random_batch(2, &[11, 14], 23);
    let full = || Decoder::random(tiny_qwen(), 4).unwrap();
    for precision in [Precision::F32, Precision::Bf16] {
        for mut decoder in [full(), adapted(false, 0.4), adapted(true, 0.0)] {
            let plain = StepOptions { dropout_seed: Some(5), ..packed.options(precision) };
            let every = StepOptions { checkpoint: Checkpoint::EveryBlock, ..plain };
            let expected = step(&mut decoder, &packed, &plain, &mut Workspace::new());
            assert!(expected.1.iter().all(|(_, g)| g.iter().any(|v| *v != 0.0)));
            let mut used = Workspace::new();
            step(&mut decoder, &other, &plain, &mut used);
            assert_eq!(step(&mut decoder, &packed, &every, &mut used), expected);
            assert_eq!(step(&mut decoder, &packed, &plain, &mut used), expected);
            assert_eq!(step(&mut decoder, &packed, &every, &mut Workspace::new()), expected);
        }
    }
}

#[test]
fn a_workspace_does_not_grow_after_the_first_step() {
    let packed = random_batch(1, &[9, 4, 6], 23);
    let mut decoder = adapted(false, 0.1);
    let options = StepOptions { dropout_seed: Some(1), ..packed.options(Precision::F32) };
    let mut workspace = Workspace::new();
    step(&mut decoder, &packed, &options, &mut workspace);
    let bytes = workspace.bytes();
    step(&mut decoder, &packed, &options, &mut workspace);
    step(&mut decoder, &random_batch(7, &[3, 8], 23), &options, &mut workspace);
    assert_eq!(workspace.bytes(), bytes);
}

#[test]
fn dropout_depends_on_the_seed_and_only_on_it() {
    let packed = random_batch(1, &[9, 4, 6], 23);
    let mut decoder = adapted(false, 0.4);
    let at = |seed| StepOptions { dropout_seed: seed, ..packed.options(Precision::F32) };
    let mut workspace = Workspace::new();
    let off = step(&mut decoder, &packed, &at(None), &mut workspace);
    let one = step(&mut decoder, &packed, &at(Some(1)), &mut workspace);
    let two = step(&mut decoder, &packed, &at(Some(2)), &mut workspace);
    assert_eq!(step(&mut decoder, &packed, &at(Some(1)), &mut workspace), one);
    assert!(off != one && one != two);
    let evaluated = decoder.loss(&packed.batch(), Precision::F32, &mut workspace).unwrap();
    assert_eq!(evaluated.sum, off.0, "evaluation has no dropout");
}

#[test]
fn packing_is_the_same_as_running_each_sequence() {
    for mut decoder in [Decoder::random(tiny_qwen(), 4).unwrap(), adapted(false, 0.0)] {
        let packed = random_batch(1, &[9, 1, 4, 6], 23);
        let options = packed.options(Precision::F32);
        let (loss, together) = step(&mut decoder, &packed, &options, &mut Workspace::new());
        decoder.zero_gradients();
        let mut sum = 0.0;
        for range in packed.cu.windows(2) {
            let (begin, end) = (range[0] as usize, range[1] as usize);
            let batch = PackedBatch {
                ids: &packed.ids[begin..end],
                cu_seqlens: &[0, (end - begin) as u32],
                labels: &packed.labels[begin..end],
            };
            sum += decoder.loss_and_gradients(&batch, &options, &mut Workspace::new()).unwrap().sum;
        }
        assert!((loss - sum).abs() < 1e-5 * loss, "{loss} {sum}");
        for ((name, a), (_, b)) in together.iter().zip(grads(&mut decoder)) {
            let largest = a.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            for (a, b) in a.iter().zip(&b) {
                assert!((a - b).abs() <= 2e-5 * largest + 1e-7, "{name}: {a} {b}");
            }
        }
    }
}

#[test]
fn the_loss_of_long_batches_is_the_same_in_chunks_of_rows() {
    // 1,024 rows are one chunk with a small vocabulary; this batch needs two.
    let packed = random_batch(1, &[1200, 900], 23);
    let mut decoder = Decoder::random(tiny_qwen2(true), 4).unwrap();
    assert!(packed.batch().labelled() > 1024);
    let options = packed.options(Precision::F32);
    let (sum, _) = step(&mut decoder, &packed, &options, &mut Workspace::new());
    let mut parts = 0.0;
    for keep in 0..2 {
        let labels: Vec<i32> = packed
            .labels
            .iter()
            .enumerate()
            .map(|(t, &l)| if t % 2 == keep { l } else { NOT_LEARNED })
            .collect();
        let half = Packed { labels, ..packed.clone() };
        parts += step(&mut decoder, &half, &options, &mut Workspace::new()).0;
    }
    assert!((sum - parts).abs() < 1e-6 * sum, "{sum} {parts}");
}

#[test]
fn frozen_weights_have_no_gradient_and_do_not_change() {
    let packed = random_batch(1, &[9, 4], 23);
    let mut decoder = adapted(false, 0.0);
    assert!(decoder.parameters().iter().all(|p| p.name.starts_with("base_model.model.")));
    let (_, gradient_bytes) = decoder.bytes();
    assert_eq!(gradient_bytes, 4 * decoder.trainable_count());
    let before = decoder.tensor("model.layers.1.mlp.up_proj.weight").unwrap();
    step(&mut decoder, &packed, &packed.options(Precision::F32), &mut Workspace::new());
    assert_eq!(decoder.tensor("model.layers.1.mlp.up_proj.weight").unwrap(), before);
    assert_eq!(decoder.bytes().1, gradient_bytes);
}

#[test]
fn gradients_accumulate_until_they_are_zeroed() {
    let packed = random_batch(1, &[9, 4], 23);
    let mut decoder = adapted(false, 0.0);
    let options = packed.options(Precision::F32);
    let mut workspace = Workspace::new();
    let (_, once) = step(&mut decoder, &packed, &options, &mut workspace);
    decoder.loss_and_gradients(&packed.batch(), &options, &mut workspace).unwrap();
    for ((name, once), (_, twice)) in once.iter().zip(grads(&mut decoder)) {
        for (a, b) in once.iter().zip(twice) {
            assert!((2.0 * a - b).abs() <= 1e-5 * a.abs() + 1e-8, "{name}");
        }
    }
}

#[test]
fn a_batch_without_labels_has_no_loss_and_no_gradients() {
    let mut packed = random_batch(1, &[9, 4], 23);
    packed.labels.fill(NOT_LEARNED);
    let mut decoder = adapted(false, 0.0);
    let (loss, grads) = step(&mut decoder, &packed, &packed.options(Precision::F32), &mut Workspace::new());
    assert_eq!(loss, 0.0);
    assert!(grads.iter().all(|(_, g)| g.iter().all(|v| *v == 0.0)));
    let evaluated = decoder.loss(&packed.batch(), Precision::F32, &mut Workspace::new()).unwrap();
    assert_eq!((evaluated.sum, evaluated.labelled, evaluated.mean()), (0.0, 0, 0.0));
}

#[test]
fn batches_that_break_the_rules_are_refused_in_one_line() {
    let mut decoder = adapted(false, 0.0);
    let good = random_batch(1, &[3, 2], 23);
    let options = good.options(Precision::F32);
    let mut refuse = |packed: &Packed, part: &str| {
        let error = decoder.loss_and_gradients(&packed.batch(), &options, &mut Workspace::new()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(part) && !text.contains('\n'), "{text}");
    };
    let mut bad = good.clone();
    bad.ids[4] = 23;
    refuse(&bad, "token 4: expected an id under the model's vocabulary size 23, found 23");
    let mut bad = good.clone();
    bad.labels[1] = -1;
    refuse(&bad, "label 1");
    let mut bad = good.clone();
    bad.labels.pop();
    refuse(&bad, "labels: expected 5 labels, found 4");
    for cu in [vec![], vec![0], vec![0, 3, 3, 5], vec![1, 5], vec![0, 6]] {
        refuse(&Packed { cu, ..good.clone() }, "cu_seqlens");
    }
}

#[test]
fn random_weights_are_deterministic_and_of_the_right_size() {
    let a = Decoder::random(tiny_qwen2(false), 7).unwrap();
    let b = Decoder::random(tiny_qwen2(false), 7).unwrap();
    let c = Decoder::random(tiny_qwen2(false), 8).unwrap();
    let name = "model.layers.1.self_attn.q_proj.weight";
    assert_eq!(a.tensor(name), b.tensor(name));
    assert_ne!(a.tensor(name), c.tensor(name));
    assert_eq!(a.trainable_count(), a.config().parameter_count());
    let deviation = |name: &str| {
        let v = a.tensor(name).unwrap().1;
        (v.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / v.len() as f64).sqrt()
    };
    assert!((deviation("model.embed_tokens.weight") / 0.3 - 1.0).abs() < 0.15);
    // Divided by sqrt(2 * 3 layers).
    assert!((deviation("model.layers.0.mlp.down_proj.weight") / (0.3 / 6.0f64.sqrt()) - 1.0).abs() < 0.2);
    assert!(a.tensor("model.norm.weight").unwrap().1.iter().all(|v| *v == 1.0));
}

/// A few steps of plain gradient descent learn a batch by heart: forward, backward and update fit together.
#[test]
fn descent_learns_a_batch() {
    let packed = random_batch(1, &[9, 7], 23);
    let mut decoder = Decoder::random(tiny_qwen2(true), 4).unwrap();
    let options = packed.options(Precision::F32);
    let mut workspace = Workspace::new();
    let (first, _) = step(&mut decoder, &packed, &options, &mut workspace);
    let mut last = first;
    for _ in 0..60 {
        for p in decoder.parameters() {
            for (v, g) in p.data.iter_mut().zip(p.grad.iter()) {
                *v -= 0.2 * g;
            }
        }
        last = step(&mut decoder, &packed, &options, &mut workspace).0;
    }
    assert!(last < 0.2 * first, "{first} to {last}");
}

/// QLoRA on every architecture: an NF4 base, adapters on every linear layer, block checkpoints, bf16 products; then the adapter
/// goes through PEFT's layout and a merge.
#[test]
fn adapters_on_four_bits_learn_a_batch_of_every_architecture() {
    let configs = [tiny_qwen(), tiny_qwen2(true)].into_iter().chain(tiny_others());
    for config in configs {
        let what = format!("{} {:?}", config.model_type, config.positions);
        let mut packed = random_batch(1, &[9, 7], 23);
        mark(&config, &mut packed);
        let dir = tempfile::tempdir().unwrap();
        Decoder::random(config, 4).unwrap().save(dir.path(), Dtype::F32).unwrap();
        let load = || Decoder::load_with(dir.path(), Dtype::Nf4, Precision::F32).unwrap();
        let mut decoder = load();
        let lora = LoraConfig {
            rank: 8,
            alpha: 16.0,
            dropout: 0.0,
            targets: vec!["all-linear".into()],
            rslora: false,
            dora: false,
        };
        decoder.add_lora(&lora, 1).unwrap();
        let options = StepOptions { checkpoint: Checkpoint::EveryBlock, ..packed.options(Precision::Bf16) };
        let mut workspace = Workspace::new();
        let (first, _) = step(&mut decoder, &packed, &options, &mut workspace);
        let mut last = first;
        for _ in 0..150 {
            for p in decoder.parameters() {
                let largest = p.grad.iter().fold(1e-12f32, |m, g| m.max(g.abs()));
                for (v, g) in p.data.iter_mut().zip(p.grad.iter()) {
                    *v -= 0.02 * g / largest;
                }
            }
            last = step(&mut decoder, &packed, &options, &mut workspace).0;
        }
        assert!(last < 0.5 * first, "{what}: {first} to {last}");

        let adapter = tempfile::tempdir().unwrap();
        decoder.save_adapter(adapter.path(), "base").unwrap();
        let mut again = load();
        again.load_adapter(adapter.path(), false).unwrap();
        let ids = &packed.ids[..9];
        let logits = crate::golden::logits(&decoder, ids);
        assert_eq!(logits, crate::golden::logits(&again, ids), "{what}");
        let mut whole = Decoder::load(dir.path(), Dtype::F32).unwrap();
        whole.load_adapter(adapter.path(), false).unwrap();
        let apart = crate::golden::logits(&whole, ids);
        whole.merge(None);
        let d = crate::golden::distance(&apart, &crate::golden::logits(&whole, ids));
        assert!(d < 1e-3, "{what}: the merged model differs by {d}");
    }
}

#[test]
fn a_saved_checkpoint_is_the_same_model() {
    for config in [tiny_qwen2(true), tiny_qwen2(false), tiny_qwen()] {
        let tied = config.tie_word_embeddings;
        let decoder = Decoder::random(config, 4).unwrap();
        let dir = tempfile::tempdir().unwrap();
        decoder.save(dir.path(), Dtype::F32).unwrap();
        let again = Decoder::load(dir.path(), Dtype::F32).unwrap();
        assert_eq!(again.trainable_count(), 0);
        let ids = [3, 1, 4, 1, 5];
        let logits = crate::golden::logits(&decoder, &ids);
        assert_eq!(logits, crate::golden::logits(&again, &ids));
        let names: Vec<String> =
            taiyi_model::weights::Weights::open(dir.path()).unwrap().names().map(str::to_owned).collect();
        assert_eq!(names.iter().any(|n| n == "lm_head.weight"), !tied);
        // bf16 on disk is read back exactly as bf16.
        again.save(dir.path(), Dtype::Bf16).unwrap();
        let half = Decoder::load_with(dir.path(), Dtype::Bf16, Precision::F32).unwrap();
        let full = Decoder::load(dir.path(), Dtype::F32).unwrap();
        assert_eq!(crate::golden::logits(&half, &ids), crate::golden::logits(&full, &ids));
        assert!(half.bytes().0 < full.bytes().0);
        let leftovers = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(leftovers, 2, "config.json and model.safetensors, no temporary file");
    }
}
