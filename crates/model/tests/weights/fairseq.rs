//! fairseq's checkpoints, as BioGPT was published: the tensors under Hugging Face's names, and a configuration.

use std::path::Path;

use serde_json::{Value, json};
use taiyi_model::weights::{Weights, config_json, fairseq, is_model};
use taiyi_model::{Decoder, Dtype, KvCache, Logits, Workspace};

use crate::made::{Pickle, archive, legacy, oracle};

/// Tensors of a small decoder: fairseq's name, shape, values.
struct Tensor {
    name: String,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

fn floats(count: usize, seed: usize) -> Vec<u8> {
    (0..count).flat_map(|i| (((i * 37 + seed * 11) % 97) as f32 / 97.0 - 0.5).to_le_bytes()).collect()
}

/// A decoder of two blocks that nobody trained.
fn decoder() -> Vec<Tensor> {
    let (vocabulary, hidden, inner, positions) = (11, 8, 12, 18);
    let mut shapes = vec![
        ("decoder.version".to_owned(), vec![1]),
        ("decoder.embed_tokens.weight".to_owned(), vec![vocabulary, hidden]),
        ("decoder.embed_positions.weight".to_owned(), vec![positions, hidden]),
    ];
    for layer in 0..2 {
        let mut module = |name: &str, weight: Vec<usize>| {
            let bias = vec![weight[0]];
            shapes.push((format!("decoder.layers.{layer}.{name}.weight"), weight));
            shapes.push((format!("decoder.layers.{layer}.{name}.bias"), bias));
        };
        for projection in ["k_proj", "v_proj", "q_proj", "out_proj"] {
            module(&format!("self_attn.{projection}"), vec![hidden, hidden]);
        }
        module("self_attn_layer_norm", vec![hidden]);
        module("fc1", vec![inner, hidden]);
        module("fc2", vec![hidden, inner]);
        module("final_layer_norm", vec![hidden]);
    }
    shapes.push(("decoder.layer_norm.weight".to_owned(), vec![hidden]));
    shapes.push(("decoder.layer_norm.bias".to_owned(), vec![hidden]));
    shapes.push(("decoder.output_projection.weight".to_owned(), vec![vocabulary, hidden]));
    let tensors = shapes.into_iter().enumerate();
    tensors
        .map(|(i, (name, shape))| Tensor { bytes: floats(shape.iter().product(), i), name, shape })
        .collect()
}

/// The arguments that such a decoder is trained with.
fn arguments() -> Value {
    json!({
        "arch": "transformer_lm_biogpt", "activation_fn": "gelu", "dropout": 0.1, "attention_dropout": 0.2,
        "activation_dropout": 0.0, "decoder_layerdrop": 0.0, "decoder_embed_dim": 8, "decoder_output_dim": 8,
        "decoder_input_dim": 8, "decoder_ffn_embed_dim": 12, "decoder_layers": 2, "decoder_attention_heads": 4,
        "decoder_normalize_before": true, "decoder_learned_pos": true, "share_decoder_input_output_embed": true,
        "no_scale_embedding": false, "max_target_positions": 16, "optimizer": "adam", "lr": [0.0005]
    })
}

/// Where the arguments lie: in a namespace of older versions, in a dictionary of newer ones.
#[derive(Clone, Copy)]
enum Form {
    Namespace,
    Configuration,
}

fn model(pickle: Pickle, tensors: &[Tensor]) -> Pickle {
    let pickle = pickle.global("collections", "OrderedDict").op(b")R(");
    let filled = tensors
        .iter()
        .enumerate()
        .fold(pickle, |p, (i, t)| p.text(&t.name).tensor(&i.to_string(), "FloatStorage", &t.shape));
    // The dictionary's own attribute, as `state_dict()` leaves it.
    filled.op(b"u").json(&json!({"_metadata": {"": {"version": 1}}})).op(b"b")
}

fn checkpoint(tensors: &[Tensor], form: Form, arguments: &Value) -> Pickle {
    let pickle = Pickle::new().op(b"}(");
    let pickle = match form {
        // A class of a task's own among the attributes, and one made by a call.
        Form::Namespace => {
            let p = pickle.text("args").global("argparse", "Namespace").op(b")\x81").op(b"}(");
            let p =
                p.text("task_class").object("my_tasks.language_modeling", "Prompt", &json!({"prefix": "x"}));
            let p = p
                .text("backend")
                .global("fairseq.dataclass.constants", "DDP_BACKEND")
                .op(b"(")
                .text("c10d")
                .op(b"tR");
            let fields = arguments.as_object().unwrap();
            fields.iter().fold(p, |p, (k, v)| p.text(k).json(v)).op(b"ub").text("cfg").op(b"N")
        }
        Form::Configuration => {
            let common = json!({"_name": null, "common": {"seed": 1}, "model": arguments});
            pickle.text("args").op(b"N").text("cfg").json(&common)
        }
    };
    let pickle = model(pickle.text("model"), tensors);
    let history = json!([{"criterion_name": "CrossEntropyCriterion", "num_updates": 5}]);
    let pickle = pickle.text("optimizer_history").json(&history).text("extra_state").op(b"}(");
    // Meters are objects of fairseq's classes.
    let pickle =
        pickle.text("metrics").object("fairseq.logging.meters", "MetersDict", &json!({"default": [1, 2]}));
    let pickle = pickle.text("scale").global("numpy.core.multiarray", "scalar").op(b"(N").text("x").op(b"tR");
    pickle.op(b"u").op(b"u")
}

fn zipped(pickle: Pickle, tensors: &[Tensor]) -> Vec<u8> {
    let storages: Vec<_> =
        tensors.iter().enumerate().map(|(i, t)| (i.to_string(), t.bytes.clone())).collect();
    archive(pickle.bytes(), &storages)
}

fn chained(pickle: Pickle, tensors: &[Tensor]) -> Vec<u8> {
    let storages: Vec<_> = tensors
        .iter()
        .enumerate()
        .map(|(i, t)| (i.to_string(), t.bytes.len() / 4, t.bytes.clone()))
        .collect();
    legacy(pickle.bytes(), &storages)
}

fn folder(bytes: &[u8]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("checkpoint.pt"), bytes).unwrap();
    dir
}

fn refuse(bytes: &[u8], parts: &[&str]) {
    let dir = folder(bytes);
    let error = match Weights::open(dir.path()) {
        Err(error) => error,
        Ok(_) => fairseq::config(dir.path())
            .map(|config| panic!("{parts:?}: was accepted: {config:?}"))
            .unwrap_err(),
    };
    let text = error.to_string();
    assert!(!text.contains('\n') && text.len() < 1000 && text.contains("checkpoint.pt"), "{text}");
    for part in parts {
        assert!(text.contains(part), "`{part}` in: {text}");
    }
}

#[test]
fn a_checkpoint_is_read_in_every_form() {
    let tensors = decoder();
    for form in [Form::Namespace, Form::Configuration] {
        let pickle = checkpoint(&tensors, form, &arguments());
        for bytes in [zipped(pickle.clone(), &tensors), chained(pickle, &tensors)] {
            let dir = folder(&bytes);
            assert!(is_model(dir.path()));
            let weights = Weights::open(dir.path()).unwrap();
            assert_eq!(weights.names().count(), tensors.len() - 1, "all but the version");
            for tensor in tensors.iter().filter(|t| t.name != "decoder.version") {
                let name = match tensor.name.as_str() {
                    "decoder.output_projection.weight" => "output_projection.weight".to_owned(),
                    name => name.replace("decoder.", "biogpt."),
                };
                let view = weights.get_shaped(&name, &tensor.shape).unwrap();
                assert_eq!(view.bytes, tensor.bytes, "{name}");
            }
            let (place, config) = config_json(dir.path()).unwrap();
            assert!(place.ends_with("checkpoint.pt"));
            for (key, expected) in [
                ("model_type", json!("biogpt")),
                ("vocab_size", json!(11)),
                ("hidden_size", json!(8)),
                ("intermediate_size", json!(12)),
                ("num_hidden_layers", json!(2)),
                ("num_attention_heads", json!(4)),
                ("max_position_embeddings", json!(16)),
                ("hidden_act", json!("gelu")),
                ("scale_embedding", json!(true)),
                ("tie_word_embeddings", json!(true)),
                ("attention_probs_dropout_prob", json!(0.2)),
                ("torch_dtype", json!("float32")),
            ] {
                assert_eq!(config[key], expected, "{key}");
            }
        }
    }
}

/// The published model in miniature: the same numbers under fairseq's names are the model under Hugging Face's.
#[test]
fn the_reference_model_under_the_names_of_fairseq_is_the_same_model() {
    let Some(source) = oracle("arch/biogpt") else { return };
    let expected = Weights::open(&source).unwrap();
    let (_, config) = config_json(&source).unwrap();
    let tensors: Vec<Tensor> = expected
        .names()
        .map(|name| {
            let view = expected.get(name).unwrap();
            Tensor {
                name: name.replace("biogpt.", "decoder."),
                shape: view.shape.to_vec(),
                bytes: view.bytes.to_vec(),
            }
        })
        .collect();
    let mut arguments = arguments();
    for (key, from) in [
        ("decoder_embed_dim", "hidden_size"),
        ("decoder_output_dim", "hidden_size"),
        ("decoder_input_dim", "hidden_size"),
        ("decoder_ffn_embed_dim", "intermediate_size"),
        ("decoder_layers", "num_hidden_layers"),
        ("decoder_attention_heads", "num_attention_heads"),
    ] {
        arguments[key] = config[from].clone();
    }
    let dir = folder(&zipped(checkpoint(&tensors, Form::Configuration, &arguments), &tensors));
    let found = Weights::open(dir.path()).unwrap();
    assert_eq!(found.names().collect::<Vec<_>>(), expected.names().collect::<Vec<_>>());
    for name in expected.names() {
        assert_eq!(found.get(name).unwrap().bytes, expected.get(name).unwrap().bytes, "{name}");
    }
    let (_, written) = config_json(dir.path()).unwrap();
    for key in [
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "max_position_embeddings",
        "hidden_act",
        "scale_embedding",
    ] {
        assert_eq!(written[key], config[key], "{key}");
    }
    let logits = |dir: &Path| {
        let decoder = Decoder::load(dir, Dtype::F32).unwrap();
        let mut cache = KvCache::new(decoder.config(), 5);
        let ids = [2_u32, 7, 11, 13, 5];
        decoder
            .forward(&mut [(&ids[..], &mut cache)], Logits::All, &mut Workspace::default())
            .unwrap()
            .to_vec()
    };
    assert_eq!(logits(dir.path()), logits(&source));
    Decoder::check(dir.path()).unwrap();
}

#[test]
fn what_is_not_such_a_decoder_is_refused() {
    let tensors = decoder();
    let with = |key: &str, value: Value| {
        let mut arguments = arguments();
        arguments[key] = value;
        zipped(checkpoint(&tensors, Form::Configuration, &arguments), &tensors)
    };
    refuse(&with("decoder_attention_heads", Value::Null), &["decoder_attention_heads", "nothing"]);
    refuse(&with("decoder_attention_heads", json!("four")), &["decoder_attention_heads", "a size"]);
    refuse(&with("decoder_embed_dim", json!(16)), &["decoder_embed_dim", "8, as the tensors have it", "16"]);
    refuse(&with("decoder_normalize_before", json!(false)), &["decoder_normalize_before", "true"]);
    refuse(&with("decoder_learned_pos", json!(false)), &["decoder_learned_pos"]);
    refuse(&with("dropout", json!("much")), &["dropout", "a number"]);
    for name in [
        "encoder.embed_tokens.weight",
        "decoder.layers.0.encoder_attn.k_proj.weight",
        "decoder.layers.x.fc1.weight",
        "decoder.embed_positions._float_tensor",
        "decoder.learned_prompt.weight",
    ] {
        let mut tensors = decoder();
        tensors[4].name = name.to_owned();
        let bytes = zipped(checkpoint(&tensors, Form::Namespace, &arguments()), &tensors);
        refuse(&bytes, &[name, "transformer_lm"]);
    }
    // Without arguments at all.
    let bytes = zipped(model(Pickle::new().op(b"}(").text("model"), &tensors).op(b"u"), &tensors);
    refuse(&bytes, &["decoder_attention_heads"]);
}

/// Classes are passed over; what serves to run code is an attack wherever it stands, and so is any class among bare tensors.
#[test]
fn nothing_named_is_run() {
    let tensors = decoder();
    for (module, name) in [
        ("os", "system"),
        ("posix", "system"),
        ("subprocess", "Popen"),
        ("builtins", "eval"),
        ("__builtin__", "exec"),
        ("builtins", "getattr"),
        ("importlib", "import_module"),
        ("os.path", "join"),
    ] {
        let call = |p: Pickle| p.text("args").global(module, name).op(b"(").text("touch harmed").op(b"tR");
        let pickle = call(Pickle::new().op(b"}(")).text("model");
        let bytes = zipped(model(pickle, &tensors).op(b"u"), &tensors);
        refuse(&bytes, &[&format!("the global `{module}.{name}`"), "refused"]);
    }
    let state = Pickle::new().op(b"}(").text("weight").tensor("0", "FloatStorage", &tensors[0].shape);
    let whole = zipped(state.clone().op(b"u"), &tensors[..1]);
    assert!(Weights::open(folder(&whole).path()).is_ok());
    let named = state.text("config").object("my_package.config", "Config", &json!({})).op(b"u");
    refuse(&zipped(named, &tensors[..1]), &["the global `my_package.config.Config`", "refused"]);
}
