//! Writes small inputs that are right, from which a fuzzer finds its way into each format: `seeds FOLDER`.

use std::{fs, path::PathBuf};

#[allow(dead_code, reason = "shared with the tests, which use all of it")]
#[path = "../../../crates/model/tests/weights/made.rs"]
mod made;

#[allow(dead_code, reason = "shared with the tests, which use all of it")]
#[path = "../../../crates/model/tests/sentencepiece/made.rs"]
mod sentencepiece;

use made::{Pickle, archive, legacy, safetensors};
use taiyi_model::{
    Decoder, DecoderConfig, Dtype,
    tokenizer::gguf_vocabulary,
    weights::{
        Weights,
        gguf::{Exported, Mixture, export},
    },
};

fn main() {
    let Some(root) = std::env::args_os().nth(1).map(PathBuf::from) else { panic!("usage: seeds FOLDER") };
    let write = |target: &str, name: &str, bytes: &[u8]| {
        let folder = root.join(target);
        fs::create_dir_all(&folder).expect("the folder can be made");
        fs::write(folder.join(name), bytes).expect("a seed can be written");
    };

    let plain = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"BF16","shape":[2,1],"data_offsets":[4,8]}}"#;
    write("safetensors", "plain", &safetensors(plain, &[0, 0, 128, 63, 1, 2, 3, 4]));
    write("safetensors", "four_bits", &four_bits(false));
    write("safetensors", "four_bits_double", &four_bits(true));

    let state = |p: Pickle| {
        let p = p.op(b"}(").text("a").tensor("0", "FloatStorage", &[2, 2]);
        p.text("b").tensor("1", "HalfStorage", &[3]).op(b"u")
    };
    let storages = [("0".to_owned(), vec![1; 16]), ("1".to_owned(), vec![2; 6])];
    let counted = [("0".to_owned(), 4, vec![1; 16]), ("1".to_owned(), 3, vec![2; 6])];
    let pickle = state(Pickle::new()).bytes();
    write("pytorch", "zip", &archive(pickle.clone(), &storages));
    write("pytorch", "legacy", &legacy(pickle, &counted));
    let arguments =
        serde_json::json!({"decoder_attention_heads": 2, "dropout": 0.1, "activation_fn": "gelu"});
    let p = Pickle::new()
        .op(b"}(")
        .text("args")
        .object("argparse", "Namespace", &arguments)
        .text("model")
        .op(b"}(");
    let tensors = [
        ("decoder.embed_tokens.weight", vec![3, 2]),
        ("decoder.embed_positions.weight", vec![4, 2]),
        ("decoder.layers.0.fc1.weight", vec![4, 2]),
    ];
    let (mut p, mut storages, mut counted) = (p, Vec::new(), Vec::new());
    for (i, (name, shape)) in tensors.iter().enumerate() {
        let count: usize = shape.iter().product();
        p = p.text(name).tensor(&i.to_string(), "FloatStorage", shape);
        storages.push((i.to_string(), vec![0; 4 * count]));
        counted.push((i.to_string(), count, vec![0; 4 * count]));
    }
    let pickle = p.op(b"uu").bytes();
    write("pytorch", "fairseq_zip", &archive(pickle.clone(), &storages));
    write("pytorch", "fairseq_legacy", &legacy(pickle, &counted));

    write("index", "one", br#"{"metadata":{"total_size":4},"weight_map":{"a":"a.safetensors"}}"#);
    for (name, config) in configurations() {
        write("config", name, config.as_bytes());
    }
    let adapter = r#"{"peft_type":"LORA","r":1,"lora_alpha":2,"lora_dropout":0.0,"target_modules":["q_proj"],"bias":"none","use_dora":false,"use_rslora":false,"rank_pattern":{},"modules_to_save":null}"#;
    write("adapter_config", "lora", adapter.as_bytes());
    let tokenizer = taiyi_fuzz::tokenizer();
    let json = fs::read(taiyi_fuzz::folder(&[]).join("tokenizer/tokenizer.json")).expect("it was written");
    assert!(tokenizer.vocab_size() > 0);
    write("tokenizer_json", "byte_level", &json);
    for (name, mixture) in [("f16", Mixture::F16), ("q8_0", Mixture::Q8_0)] {
        let file = gguf(mixture);
        write("gguf", name, &file);
        write("gguf_tokenizer", name, &file);
    }
    let model = sentencepiece::llama(&["\u{2581}a", "ab", "\u{2581}", "a", "b"]);
    write("sentencepiece", "llama", &[b"\0", &model[..]].concat());
    let words = [("\u{2581}", sentencepiece::NORMAL), ("a", sentencepiece::NORMAL), ("<|x|>", sentencepiece::USER_DEFINED)];
    let pieces: Vec<u8> = words.iter().flat_map(|(word, kind)| sentencepiece::piece(word, -1.0, *kind)).collect();
    let settings = [sentencepiece::trainer(sentencepiece::UNIGRAM_TYPE, false), sentencepiece::identity()].concat();
    write("sentencepiece", "chatglm", &[b"\x01", &sentencepiece::start()[..], &pieces, &settings].concat());
    write("word_files", "bert", b"\x00[PAD]\n[UNK]\n[CLS]\n[SEP]\naspirin\n##s\n.\n\0{\"do_lower_case\": true}");
    write("word_files", "biogpt", b"\x01{\"<unk>\": 0, \"</s>\": 1, \"a\": 2, \"s</w>\": 3, \"as</w>\": 4}\0a s</w>\n");
    write("word_files", "fairseq", b"\x02a@@ 9\nas 8\n\0a s</w> 5\n");
    write("tiktoken", "letters", b"YQ== 0\nYg== 1\nYWI= 2\n5aS0 3\nIGE= 4\n");
    write("sentencepiece", "unigram", &sentencepiece(1));
    write("sentencepiece", "bpe", &sentencepiece(2));
    write(
        "wordpiece",
        "small",
        "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n##s\n##pirin\n头\n##痛\n100\n".as_bytes(),
    );
    let config = r#"{"tokenizer_class":"BertTokenizer","do_lower_case":true,"unk_token":"[UNK]","cls_token":{"content":"[CLS]","lstrip":false},"added_tokens_decoder":{"2":{"content":"[CLS]","special":true}},"chat_template":"{{ messages[0].content }}","add_bos_token":true}"#;
    write("tokenizer_config", "bert", config.as_bytes());
    let halves = |first: &str, second: &str| [first.as_bytes(), &[0xff], second.as_bytes()].concat();
    let vocabulary = r#"{"<s>":0,"<pad>":1,"</s>":2,"<unk>":3,"a":4,"s":5,"as":6,"Ġ":7,"Ġa":8,"a</w>":9}"#;
    write("vocab_merges", "bytes", &halves(vocabulary, "#version: 0.2\na s\nĠ a\n"));
    write("vocab_merges", "words", &halves(vocabulary, "a s 10\na a</w> 5\n"));
    write("fairseq_bpe", "words", &halves("a</w> 10\nas 5\n@@ 1\n", "a s 10\nas a</w> 5\n"));
    let chatml = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
    write("chat_template", "chatml", chatml.as_bytes());
    write("chat_template", "loop", b"{% set ns = namespace(x='') %}{% for m in messages if m.role != 'system' %}{% set ns.x = ns.x ~ m.content|trim %}{{ loop.index }}: {{ ns.x[:20] }}{% endfor %}{{ raise_exception('no') if false }}");
}

/// One matrix of 2 by 32 elements as bitsandbytes stores it.
fn four_bits(double: bool) -> Vec<u8> {
    let codes: Vec<u8> = taiyi_fuzz::nf4_codes().iter().flat_map(|v| v.to_le_bytes()).collect();
    let mut state =
        serde_json::json!({"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": [2, 32]});
    let mut parts = vec![
        ("w".to_owned(), "U8", vec![32, 1], vec![0x3c; 32]),
        ("w.quant_map".to_owned(), "F32", vec![16], codes),
    ];
    if double {
        state["nested_blocksize"] = 256.into();
        state["nested_dtype"] = "float32".into();
        state["nested_offset"] = 0.5.into();
        parts.push(("w.absmax".to_owned(), "U8", vec![1], vec![200]));
        parts.push(("w.nested_absmax".to_owned(), "F32", vec![1], 0.25_f32.to_le_bytes().to_vec()));
        parts.push(("w.nested_quant_map".to_owned(), "F32", vec![256], vec![0; 1024]));
    } else {
        parts.push(("w.absmax".to_owned(), "F32", vec![1], 0.25_f32.to_le_bytes().to_vec()));
    }
    let state = state.to_string().into_bytes();
    parts.push(("w.quant_state.bitsandbytes__nf4".to_owned(), "U8", vec![state.len()], state));
    made::tensors(&parts)
}

/// A small model and its tokenizer in GGUF.
fn gguf(mixture: Mixture) -> Vec<u8> {
    let tokenizer = taiyi_fuzz::tokenizer();
    let folder = taiyi_fuzz::folder(&[]);
    let config = serde_json::json!({
        "model_type": "qwen2", "vocab_size": tokenizer.vocab_size(), "hidden_size": 32, "intermediate_size": 32,
        "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 16, "rms_norm_eps": 1e-6
    });
    let place = folder.join("tokenizer");
    let described = DecoderConfig::from_json(&config, &place).expect("a known architecture");
    Decoder::random(described, 1)
        .and_then(|d| d.save(&place, Dtype::F32))
        .expect("the folder can be written");
    let weights = Weights::open(&place).expect("what was written is read");
    let vocabulary = gguf_vocabulary(&place).expect("a tokenizer of bytes");
    let out = folder.join("seed.gguf");
    let asked = Exported { config: &config, place: &place, name: "seed", vocabulary, mixture };
    export(&weights, asked, &out, &mut |_, _| {}).expect("an architecture that GGUF has");
    fs::read(out).expect("it was written")
}

/// A SentencePiece model (protobuf) of this type: 1 is unigram, 2 BPE.
fn sentencepiece(kind: u8) -> Vec<u8> {
    let field = |number: u8, bytes: &[u8]| [&[number << 3 | 2, bytes.len() as u8], bytes].concat();
    let pieces: [(&str, f32, u8); 9] = [
        ("<unk>", 0.0, 2),
        ("<s>", 0.0, 3),
        ("</s>", 0.0, 3),
        ("<0x41>", 0.0, 6),
        ("\u{2581}", -1.0, 1),
        ("a", -2.0, 1),
        ("s", -3.0, 1),
        ("as", -4.0, 1),
        ("<sep>", 0.0, 4),
    ];
    let piece = |(text, score, kind): (&str, f32, u8)| {
        let inside =
            [field(1, text.as_bytes()), [&[0x15][..], &score.to_le_bytes(), &[0x18, kind]].concat()].concat();
        field(1, &inside)
    };
    let mut model = pieces.into_iter().map(piece).collect::<Vec<_>>().concat();
    model.extend(field(2, &[0x18, kind, 0x98, 0x02, 1]));
    model.extend(field(3, &[&field(1, b"identity")[..], &[0x18, 1, 0x20, 0, 0x28, 1]].concat()));
    model
}

/// A `config.json` of each architecture, sizes made up.
fn configurations() -> Vec<(&'static str, &'static str)> {
    vec![
        (
            "qwen2",
            r#"{"model_type":"qwen2","vocab_size":16,"hidden_size":8,"intermediate_size":8,"num_hidden_layers":1,"num_attention_heads":2,"num_key_value_heads":1,"max_position_embeddings":16,"rms_norm_eps":1e-6,"rope_theta":1000000.0,"use_sliding_window":false,"hidden_act":"silu","tie_word_embeddings":true,"rope_parameters":{"rope_type":"default","rope_theta":1e6}}"#,
        ),
        (
            "llama",
            r#"{"model_type":"llama","vocab_size":16,"hidden_size":8,"intermediate_size":8,"num_hidden_layers":1,"num_attention_heads":2,"max_position_embeddings":16,"rms_norm_eps":1e-5,"rope_theta":500000.0,"rope_scaling":{"rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":8}}"#,
        ),
        (
            "qwen",
            r#"{"model_type":"qwen","vocab_size":16,"hidden_size":8,"intermediate_size":16,"num_hidden_layers":1,"num_attention_heads":2,"kv_channels":4,"seq_length":16,"layer_norm_epsilon":1e-6,"rotary_emb_base":10000,"use_dynamic_ntk":true,"use_logn_attn":true,"no_bias":true}"#,
        ),
        (
            "chatglm4",
            r#"{"model_type":"chatglm","padded_vocab_size":16,"hidden_size":8,"ffn_hidden_size":8,"num_layers":1,"num_attention_heads":2,"kv_channels":4,"multi_query_attention":true,"multi_query_group_num":1,"add_qkv_bias":true,"seq_length":16,"layernorm_epsilon":1e-5,"rmsnorm":true,"rope_ratio":1}"#,
        ),
        (
            "chatglm6",
            r#"{"model_type":"chatglm","vocab_size":600,"hidden_size":8,"inner_hidden_size":16,"num_layers":1,"num_attention_heads":2,"position_encoding_2d":true,"max_sequence_length":64,"layernorm_epsilon":1e-5,"bos_token_id":504,"eos_token_id":505,"gmask_token_id":501,"mask_token_id":500,"pad_token_id":3}"#,
        ),
        (
            "bloom",
            r#"{"model_type":"bloom","vocab_size":16,"n_embed":8,"n_layer":1,"num_attention_heads":2,"layer_norm_epsilon":1e-5}"#,
        ),
        (
            "baichuan",
            r#"{"model_type":"baichuan","architectures":["BaichuanForCausalLM"],"vocab_size":16,"hidden_size":8,"intermediate_size":8,"num_hidden_layers":1,"num_attention_heads":2,"model_max_length":16,"rms_norm_eps":1e-6,"z_loss_weight":0}"#,
        ),
        (
            "biogpt",
            r#"{"model_type":"biogpt","vocab_size":16,"hidden_size":8,"intermediate_size":8,"num_hidden_layers":1,"num_attention_heads":2,"max_position_embeddings":16,"scale_embedding":true,"hidden_act":"gelu","pad_token_id":1}"#,
        ),
        (
            "bert",
            r#"{"model_type":"bert","architectures":["BertForTokenClassification"],"vocab_size":16,"hidden_size":8,"intermediate_size":8,"num_hidden_layers":1,"num_attention_heads":2,"max_position_embeddings":16,"type_vocab_size":2,"layer_norm_eps":1e-12,"hidden_act":"gelu","id2label":{"0":"O","1":"B"}}"#,
        ),
    ]
}
