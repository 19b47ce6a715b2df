//! Every gradient against finite differences: each tensor of every architecture, each adapted projection, each kind of adapter.

use taiyi_kernels::Precision;
use taiyi_model::{Decoder, DecoderConfig, LoraConfig, StepOptions, Workspace};

use crate::golden::{Packed, mark, noise, random_batch, shake, tiny_others, tiny_qwen, tiny_qwen2};

/// Sum of the token losses, scaled, with the options of a step.
fn loss(decoder: &mut Decoder, packed: &Packed, options: &StepOptions, workspace: &mut Workspace) -> f64 {
    let loss = decoder.loss_and_gradients(&packed.batch(), options, workspace).unwrap();
    loss.sum * f64::from(options.loss_scale)
}

/// Compares, for every trainable tensor, the directional derivative along two random directions, and along single elements,
/// with central differences.
fn check(decoder: &mut Decoder, packed: &Packed, options: &StepOptions, what: &str) -> usize {
    let mut workspace = Workspace::new();
    decoder.zero_gradients();
    loss(decoder, packed, options, &mut workspace);
    let grads: Vec<(String, Vec<f32>)> =
        decoder.parameters().iter().map(|p| (p.name.to_owned(), p.grad.to_vec())).collect();
    for (i, (name, grad)) in grads.iter().enumerate() {
        assert!(grad.iter().any(|g| *g != 0.0), "{what}: {name} has no gradient");
        let original = decoder.parameters()[i].data.to_vec();
        let strongest = (0..grad.len()).max_by(|&a, &b| grad[a].abs().total_cmp(&grad[b].abs())).unwrap();
        for trial in 0..3 {
            // Two directions through all elements, and the element with the largest gradient alone.
            let direction: Vec<f32> = match trial {
                2 => (0..grad.len()).map(|j| if j == strongest { 1.0 } else { 0.0 }).collect(),
                _ => noise(17 * i as u64 + trial, grad.len())
                    .iter()
                    .map(|n| (n % 201) as f32 / 100.0 - 1.0)
                    .collect(),
            };
            let length = direction.iter().map(|d| d * d).sum::<f32>().sqrt();
            // Small, because rope and softmax of a random tiny network bend sharply.
            let step = 0.005 / length;
            let mut at = |h: f32| {
                for ((v, o), d) in decoder.parameters()[i].data.iter_mut().zip(&original).zip(&direction) {
                    *v = o + h * d;
                }
                let value = loss(decoder, packed, options, &mut workspace);
                decoder.parameters()[i].data.copy_from_slice(&original);
                value
            };
            // Fourth-order central difference: the truncation error falls under the rounding error of an f32 network.
            let h = f64::from(step);
            let difference = (8.0 * (at(step) - at(-step)) - (at(2.0 * step) - at(-2.0 * step))) / (12.0 * h);
            let analytic: f64 = grad.iter().zip(&direction).map(|(g, d)| f64::from(*g) * f64::from(*d)).sum();
            let scale =
                grad.iter().map(|g| f64::from(*g) * f64::from(*g)).sum::<f64>().sqrt() * f64::from(length);
            // The second term is the rounding of a loss of a few nats from f32 products, over the step.
            let tolerance = 3e-3 * scale + 1e-6 / h;
            assert!(
                (difference - analytic).abs() <= tolerance,
                "{what}: {name}, direction {trial}: difference {difference}, gradient {analytic}, tolerance {tolerance}"
            );
        }
    }
    grads.len()
}

fn options(packed: &Packed, dropout_seed: Option<u64>) -> StepOptions {
    StepOptions { dropout_seed, ..packed.options(Precision::F32) }
}

fn lora(targets: &[&str]) -> LoraConfig {
    LoraConfig {
        rank: 3,
        alpha: 6.0,
        dropout: 0.0,
        targets: targets.iter().map(|t| (*t).to_owned()).collect(),
        rslora: false,
        dora: false,
    }
}

fn decoder(config: DecoderConfig) -> Decoder {
    let mut decoder = Decoder::random(config, 5).unwrap();
    // Biases are 0 and norms 1 at first; gradients are tested away from such points.
    shake(&mut decoder, 9, 0.1);
    decoder
}

fn packed() -> Packed {
    random_batch(3, &[5, 1, 7], 23)
}

#[test]
fn full_training_of_qwen2_untied_and_tied() {
    for (tied, tensors) in [(false, 1 + 3 * 12 + 2), (true, 1 + 3 * 12 + 1)] {
        let packed = packed();
        let mut decoder = decoder(tiny_qwen2(tied));
        let count = check(&mut decoder, &packed, &options(&packed, None), &format!("qwen2, tied {tied}"));
        assert_eq!(count, tensors);
    }
}

#[test]
fn full_training_of_qwen1() {
    let packed = packed();
    let mut decoder = decoder(tiny_qwen());
    assert_eq!(check(&mut decoder, &packed, &options(&packed, None), "qwen"), 1 + 2 * 8 + 2);
}

#[test]
fn full_training_of_every_other_architecture() {
    for config in tiny_others() {
        let mut packed = random_batch(3, &[5, 3, 7], 23);
        mark(&config, &mut packed);
        let what = format!("{} {:?}", config.model_type, config.positions);
        let mut decoder = decoder(config);
        let count = check(&mut decoder, &packed, &options(&packed, None), &what);
        assert_eq!(count, decoder.parameters().len());
    }
}

#[test]
fn adapters_of_every_other_architecture() {
    for config in tiny_others() {
        let mut packed = random_batch(4, &[4, 8], 23);
        mark(&config, &mut packed);
        let what = format!("adapters of {} {:?}", config.model_type, config.positions);
        let mut decoder = decoder(config);
        decoder.add_lora(&LoraConfig { dropout: 0.2, ..lora(&["all-linear"]) }, 1).unwrap();
        shake(&mut decoder, 2, 0.3);
        assert!(check(&mut decoder, &packed, &options(&packed, Some(5)), &what) >= 2 * 4 * 2);
    }
}

/// One projection at a time: the layers around it are frozen, and so is everything that could hide a missing path.
#[test]
fn every_adapted_projection_of_qwen2_alone() {
    let packed = packed();
    for target in ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"] {
        let mut decoder = decoder(tiny_qwen2(false));
        decoder.add_lora(&lora(&[target]), 1).unwrap();
        shake(&mut decoder, 2, 0.3);
        assert_eq!(check(&mut decoder, &packed, &options(&packed, None), target), 2 * 3);
    }
}

#[test]
fn every_adapted_projection_of_qwen1_alone() {
    let packed = packed();
    for (target, layers) in
        [("c_attn", 1), ("attn.c_proj", 1), ("mlp.c_proj", 1), ("c_proj", 2), ("w1", 1), ("w2", 1)]
    {
        let mut decoder = decoder(tiny_qwen());
        decoder.add_lora(&lora(&[target]), 1).unwrap();
        shake(&mut decoder, 2, 0.3);
        assert_eq!(check(&mut decoder, &packed, &options(&packed, None), target), 2 * 2 * layers);
    }
}

#[test]
fn adapters_with_dropout_and_rank_stabilised_scaling() {
    let packed = packed();
    let mut decoder = decoder(tiny_qwen2(true));
    let config = LoraConfig { dropout: 0.3, rslora: true, ..lora(&["all-linear"]) };
    decoder.add_lora(&config, 1).unwrap();
    shake(&mut decoder, 2, 0.3);
    assert_eq!(check(&mut decoder, &packed, &options(&packed, Some(77)), "dropout"), 2 * 7 * 3);
}

/// DoRA treats the row norm as a constant in backward, so only the magnitudes have the gradient of the computed function.
#[test]
fn magnitudes_of_dora() {
    let packed = packed();
    let mut decoder = decoder(tiny_qwen2(false));
    let config = LoraConfig { dora: true, ..lora(&["q_proj", "down_proj"]) };
    decoder.add_lora(&config, 1).unwrap();
    shake(&mut decoder, 2, 0.2);
    let options = options(&packed, None);
    let mut workspace = Workspace::new();
    decoder.zero_gradients();
    loss(&mut decoder, &packed, &options, &mut workspace);
    let grads: Vec<(String, Vec<f32>)> =
        decoder.parameters().iter().map(|p| (p.name.to_owned(), p.grad.to_vec())).collect();
    let mut compared = 0;
    for (i, (name, grad)) in grads.iter().enumerate() {
        assert!(grad.iter().any(|g| *g != 0.0), "{name} has no gradient");
        if !name.ends_with("lora_magnitude_vector") {
            continue;
        }
        for j in 0..grad.len().min(4) {
            let original = decoder.parameters()[i].data[j];
            let mut at = |h: f32| {
                decoder.parameters()[i].data[j] = original + h;
                let value = loss(&mut decoder, &packed, &options, &mut workspace);
                decoder.parameters()[i].data[j] = original;
                value
            };
            let difference = (at(0.01) - at(-0.01)) / 0.02;
            let largest = grad.iter().fold(0.0f32, |m, g| m.max(g.abs()));
            let apart = (difference - f64::from(grad[j])).abs();
            assert!(
                apart <= 5e-3 * f64::from(largest) + 2e-4,
                "{name}[{j}]: {difference} against {}",
                grad[j]
            );
            compared += 1;
        }
    }
    assert_eq!(compared, 6 * 4);
}

/// What DoRA's backward does compute for `A` and `B`: the gradient with the row norms held fixed. A LoRA model whose weight and
/// `B` rows are multiplied by those norms' factors is that function, and its gradients follow by the chain rule.
#[test]
fn dora_is_lora_on_rescaled_rows_with_the_norm_held_fixed() {
    let packed = packed();
    let mut dora = decoder(tiny_qwen2(false));
    let plain = LoraConfig { dora: false, ..lora(&["o_proj"]) };
    dora.add_lora(&LoraConfig { dora: true, ..plain.clone() }, 1).unwrap();
    shake(&mut dora, 2, 0.2);
    let options = options(&packed, None);
    dora.zero_gradients();
    let dora_loss = loss(&mut dora, &packed, &options, &mut Workspace::new());

    // Build the rescaled LoRA model through a checkpoint: rows of o_proj times g, no bias there.
    let mut lora_model = decoder(tiny_qwen2(false));
    let (rank, scaling) = (3, plain.scaling());
    let mut factors = Vec::new();
    for layer in 0..3 {
        let module = format!("model.layers.{layer}.self_attn.o_proj");
        let get = |name: &str| dora.tensor(&format!("base_model.model.{module}.{name}")).unwrap().1;
        let (shape, w) = dora.tensor(&format!("{module}.weight")).unwrap();
        let (a, b, m) = (get("lora_A.weight"), get("lora_B.weight"), get("lora_magnitude_vector"));
        let (out, input) = (shape[0], shape[1]);
        let g: Vec<f32> = (0..out)
            .map(|o| {
                let row = (0..input).map(|i| {
                    let low: f32 = (0..rank).map(|r| b[o * rank + r] * a[r * input + i]).sum();
                    f64::from(w[o * input + i] + scaling * low).powi(2)
                });
                m[o] / row.sum::<f64>().sqrt() as f32
            })
            .collect();
        let name = format!("{module}.weight");
        for p in lora_model.parameters().into_iter().filter(|p| p.name == name) {
            for (i, v) in p.data.iter_mut().enumerate() {
                *v = w[i] * g[i / input];
            }
        }
        factors.push(g);
    }
    lora_model.add_lora(&plain, 1).unwrap();
    for p in lora_model.parameters() {
        let layer: usize = p.name.split('.').nth(4).unwrap().parse().unwrap();
        let values = dora.tensor(p.name).unwrap().1;
        for (i, v) in p.data.iter_mut().enumerate() {
            *v = values[i] * if p.name.ends_with("lora_B.weight") { factors[layer][i / rank] } else { 1.0 };
        }
    }
    lora_model.zero_gradients();
    let lora_loss = loss(&mut lora_model, &packed, &options, &mut Workspace::new());
    assert!((dora_loss - lora_loss).abs() < 1e-5, "{dora_loss} against {lora_loss}");
    let expected: Vec<(String, Vec<f32>)> =
        lora_model.parameters().iter().map(|p| (p.name.to_owned(), p.grad.to_vec())).collect();
    for (name, grad) in expected {
        let layer: usize = name.split('.').nth(4).unwrap().parse().unwrap();
        let parameters = dora.parameters();
        let ours = parameters.iter().find(|p| p.name == name).unwrap();
        let largest = grad.iter().fold(0.0f32, |m, g| m.max(g.abs()));
        for (i, (ours, theirs)) in ours.grad.iter().zip(&grad).enumerate() {
            // d/dB = g * d/d(g B).
            let theirs =
                theirs * if name.ends_with("lora_B.weight") { factors[layer][i / rank] } else { 1.0 };
            assert!(
                (ours - theirs).abs() <= 1e-4 * largest.max(1e-3) * 3.0,
                "{name}[{i}]: {ours} against {theirs}"
            );
        }
    }
}
