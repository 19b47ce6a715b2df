//! Tokenizers written into GGUF and read back out of it: the same ids.

use std::fs;
use std::io::Read as _;
use std::path::Path;

use serde_json::Value;
use taiyi_model::tokenizer::{Tokenizer, gguf_vocabulary};
use taiyi_model::weights::gguf::{Exported, Gguf, Mixture, TokenKind, export};
use taiyi_model::weights::{ElementType, SafetensorsWriter, Weights};

use crate::oracle;

fn lines(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn same_ids(folder: &Path, golden: &Path) -> Tokenizer {
    let vocabulary = gguf_vocabulary(folder).unwrap().unwrap();
    let tokenizer = Tokenizer::from_vocabulary(folder, &vocabulary).unwrap();
    let original = Tokenizer::load(folder).unwrap();
    for line in lines(golden) {
        let text = line["text"].as_str().unwrap();
        let expected = ids(&line["ids"]);
        assert_eq!(tokenizer.encode_with_special(text), expected, "{text:?}");
        assert_eq!(tokenizer.encode(text), original.encode(text), "{text:?}");
        assert_eq!(tokenizer.decode(&expected), original.decode(&expected), "{text:?}");
    }
    assert_eq!((tokenizer.eos_id(), tokenizer.pad_id()), (original.eos_id(), original.pad_id()));
    let special = |tokenizer: &Tokenizer| {
        let mut all: Vec<_> = tokenizer.special_tokens().map(|(t, id)| (t.to_owned(), id)).collect();
        all.sort();
        all
    };
    assert_eq!(special(&tokenizer), special(&original));
    tokenizer
}

#[test]
fn qwen_ranks_become_merges() {
    let Some(dir) = oracle("tokenizers/qwen1") else { return };
    same_ids(&dir, &dir.join("golden.jsonl"));
    let vocabulary = gguf_vocabulary(&dir).unwrap().unwrap();
    assert_eq!(vocabulary.pre.as_deref(), Some("qwen2"));
    // Every token of several bytes is reached by a merge.
    assert!(vocabulary.tokens.len() == 151_851 && vocabulary.merges.len() >= 151_643 - 256);
    assert_eq!(vocabulary.tokens[151_644].kind, TokenKind::Control);
    assert_eq!(vocabulary.merges[0], "Ġ Ġ");
}

#[test]
fn glm4_ranks_become_merges() {
    let Some(dir) = oracle("tokenizers/glm4") else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut ranks = Vec::new();
    flate2::read::GzDecoder::new(fs::File::open(dir.join("tokenizer.model.gz")).unwrap())
        .read_to_end(&mut ranks)
        .unwrap();
    fs::write(folder.path().join("tokenizer.model"), ranks).unwrap();
    fs::copy(dir.join("tokenizer_config.json"), folder.path().join("tokenizer_config.json")).unwrap();
    let tokenizer = same_ids(folder.path(), &dir.join("golden.jsonl"));
    let vocabulary = gguf_vocabulary(folder.path()).unwrap().unwrap();
    assert_eq!(vocabulary.pre.as_deref(), Some("chatglm-bpe"));
    assert_eq!(vocabulary.eot, tokenizer.special_id("<|user|>"));
    assert!(vocabulary.eot.is_some() && vocabulary.tokens.len() > 151_331);
}

#[test]
fn sentencepiece_pieces_are_those_of_the_library() {
    let Some(dir) = oracle("tokenizers/sentencepiece") else { return };
    let folder = tempfile::tempdir().unwrap();
    fs::copy(dir.join("bpe.model"), folder.path().join("tokenizer.model")).unwrap();
    let vocabulary = gguf_vocabulary(folder.path()).unwrap().unwrap();
    let expected = lines(&dir.join("bpe_vocab.jsonl"));
    assert_eq!((vocabulary.model.as_str(), vocabulary.tokens.len()), ("llama", expected.len()));
    for (token, line) in vocabulary.tokens.iter().zip(&expected) {
        let kind = match token.kind {
            TokenKind::Normal => "normal",
            TokenKind::Unknown => "unknown",
            TokenKind::Control => "control",
            TokenKind::UserDefined => "user_defined",
            TokenKind::Unused => "unused",
            TokenKind::Byte => "byte",
        };
        assert_eq!((token.text.as_str(), kind), (line[1].as_str().unwrap(), line[3].as_str().unwrap()));
        assert_eq!(token.score, line[2].as_f64().unwrap() as f32, "{}", token.text);
    }
    assert_eq!((vocabulary.unk, vocabulary.bos, vocabulary.eos), (Some(0), Some(1), Some(2)));
    assert_eq!(vocabulary.add_space_prefix, Some(true));
    fs::copy(dir.join("unigram.model"), folder.path().join("tokenizer.model")).unwrap();
    let message = gguf_vocabulary(folder.path()).unwrap_err().to_string();
    assert!(message.contains("Unigram"), "{message}");
}

/// A model folder with our own `tokenizer.json` becomes one file that holds everything.
#[test]
fn a_file_holds_its_tokenizer_and_chat_template() {
    let nano = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/taiyi-nano");
    let config: Value = serde_json::from_slice(&fs::read(nano.join("config.json")).unwrap()).unwrap();
    let place = tempfile::tempdir().unwrap();
    let weights = Weights::open(&nano).unwrap();
    let file = place.path().join("nano.gguf");
    let asked = Exported {
        config: &config,
        place: &nano,
        name: "taiyi-nano",
        vocabulary: gguf_vocabulary(&nano).unwrap(),
        mixture: Mixture::Q8_0,
    };
    let report = export(&weights, asked, &file, &mut |_, _| {}).unwrap();
    assert!(report.notes.is_empty(), "{:?}", report.notes);
    let (original, read) = (Tokenizer::load(&nano).unwrap(), Tokenizer::load(&file).unwrap());
    for text in ["", " ", "急性胰腺炎 with  fever\n\n37.5 °C<|im_end|>", "don't 'RE", "<|im_start|>user\n"]
    {
        assert_eq!(read.encode(text), original.encode(text), "{text:?}");
        assert_eq!(read.encode_with_special(text), original.encode_with_special(text), "{text:?}");
    }
    assert_eq!((read.eos_id(), read.pad_id()), (original.eos_id(), original.pad_id()));
    let vocabulary = Gguf::open(&file).unwrap().vocabulary().unwrap().unwrap();
    assert_eq!(vocabulary.tokens.len(), config["vocab_size"].as_u64().unwrap() as usize);
    let written: Value =
        serde_json::from_slice(&fs::read(nano.join("tokenizer_config.json")).unwrap()).unwrap();
    assert_eq!(vocabulary.chat_template.as_deref(), written["chat_template"].as_str());
}

#[test]
fn a_tokenizer_larger_than_the_embedding_is_refused() {
    let nano = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/taiyi-nano");
    let config = serde_json::json!({
        "model_type": "qwen2", "vocab_size": 4, "hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": 1,
        "num_attention_heads": 1, "tie_word_embeddings": true,
    });
    let place = tempfile::tempdir().unwrap();
    let mut writer = SafetensorsWriter::default();
    writer.add("model.embed_tokens.weight", ElementType::F32, &[4, 4], || vec![1.0; 16]);
    writer.add("model.norm.weight", ElementType::F32, &[4], || vec![1.0; 4]);
    writer.write(&place.path().join("model.safetensors")).unwrap();
    let asked = Exported {
        config: &config,
        place: place.path(),
        name: "x",
        vocabulary: gguf_vocabulary(&nano).unwrap(),
        mixture: Mixture::F16,
    };
    let weights = Weights::open(place.path()).unwrap();
    let message =
        export(&weights, asked, &place.path().join("x.gguf"), &mut |_, _| {}).unwrap_err().to_string();
    assert!(message.contains("vocab_size") && message.contains("tokens of the tokenizer"), "{message}");
}
