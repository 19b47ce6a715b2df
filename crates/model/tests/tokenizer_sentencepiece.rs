//! SentencePiece models made up here: what the reference files do not cover (special tokens of LLaMA's classes, places, ChatGLM-6B,
//! unused pieces), and files that are broken on purpose.

#[path = "sentencepiece/made.rs"]
mod made;

use std::fs;
use std::time::Instant;

use serde_json::{Value, json};
use taiyi_model::tokenizer::{Place, Tokenizer, TokenizerError};

use made::{
    BPE_TYPE, BYTE, CONTROL, NORMAL, UNIGRAM_TYPE, UNKNOWN, UNUSED, USER_DEFINED, byte_pieces, bytes,
    identity, llama, piece, start, trainer,
};

const WORDS: [&str; 12] = ["▁a", "ab", "▁ab", "▁", "a", "b", "c", "<", "s", ">", "/", "▁▁"];

fn load(files: &[(&str, &[u8])]) -> Result<Tokenizer, TokenizerError> {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    Tokenizer::load(dir.path())
}

fn load_with(model: &[u8], config: &Value) -> Tokenizer {
    load(&[("tokenizer.model", model), ("tokenizer_config.json", config.to_string().as_bytes())]).unwrap()
}

fn pieces(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
    // What an id reads like behind other text, where no blank is taken off.
    let c = tokenizer.token_to_id("c").unwrap();
    ids.iter().map(|&id| tokenizer.decode(&[c, id])[1..].to_owned()).collect()
}

fn streamed(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let mut stream = tokenizer.decode_stream();
    let mut text: String = ids.iter().filter_map(|&id| stream.push(id)).collect();
    text.extend(stream.finish());
    text
}

#[test]
fn special_tokens_of_llama() {
    let model = llama(&WORDS);
    // The bare model, as the library reads it: nothing in front, `<s>` is text.
    let bare = load(&[("tokenizer.model", &model)]).unwrap();
    assert!(bare.prefix().is_empty());
    assert_eq!(bare.encode_with_special("<s>ab"), bare.encode("<s>ab"));
    assert_eq!(pieces(&bare, &bare.encode("<s>ab")), [" ", "<", "s", ">", "ab"]);
    assert_eq!(bare.decode(&[1, 2]), "");

    let config = json!({"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": {"content": "</s>"}, "unk_token": "<unk>"});
    let tokenizer = load_with(&model, &config);
    assert_eq!(
        (tokenizer.prefix(), tokenizer.suffix()),
        (&[1][..], &[][..]),
        "add_bos_token is on by default"
    );
    let a = tokenizer.token_to_id("▁ab").unwrap();
    assert_eq!(tokenizer.encode_framed("ab"), [1, a]);
    let ids = tokenizer.encode_with_special("<s>ab</s>ab");
    assert_eq!(ids, [1, a, 2, a], "in the older manner text after a special token starts with a blank");
    assert_eq!(tokenizer.decode(&ids), "<s>ab</s>ab");
    assert_eq!(streamed(&tokenizer, &ids), "<s>ab</s>ab");
    assert_eq!(tokenizer.decode_without_special(&ids), "ab ab");
    assert_eq!(tokenizer.encode("<s>ab"), bare.encode("<s>ab"), "what others wrote is text");

    let mut config = config;
    config["legacy"] = false.into();
    config["add_bos_token"] = false.into();
    config["add_eos_token"] = true.into();
    let tokenizer = load_with(&model, &config);
    assert_eq!((tokenizer.prefix(), tokenizer.suffix()), (&[][..], &[2][..]));
    let ids = tokenizer.encode_with_special("ab</s>ab");
    let inside = tokenizer.token_to_id("ab").unwrap();
    assert_eq!(ids, [a, 2, inside]);
    assert_eq!(tokenizer.decode(&ids), "ab</s>ab");
    assert_eq!(streamed(&tokenizer, &ids), "ab</s>ab");
}

#[test]
fn text_in_parts_is_encoded_by_its_place() {
    let model = llama(&WORDS);
    let config = json!({"tokenizer_class": "LlamaTokenizer", "legacy": false});
    let tokenizer = load_with(&model, &config);
    let at = |text: &str, place: Place| {
        let mut ids = Vec::new();
        tokenizer.encode_at(text, place, &mut ids);
        pieces(&tokenizer, &ids)
    };
    assert_eq!(at("ab", Place::Start), [" ab"]);
    assert_eq!(at("ab", Place::AfterSpecial), ["ab"]);
    assert_eq!(at("ab", Place::Inside), ["ab"]);
    assert_eq!(at(" ab", Place::Inside), [" ab"]);
    // In parts or whole, the same ids.
    let mut parts = Vec::new();
    tokenizer.encode_at("ab ab", Place::Start, &mut parts);
    tokenizer.encode_at(" ab", Place::Inside, &mut parts);
    assert_eq!(parts, tokenizer.encode("ab ab ab"));
}

#[test]
fn added_tokens_are_known_by_name_and_id() {
    let config = json!({"tokenizer_class": "LlamaTokenizer", "added_tokens_decoder": {
        "0": {"content": "<unk>", "special": true}, "1": {"content": "<s>", "special": true}, "2": {"content": "</s>", "special": true},
        "271": {"content": "<|user|>", "special": true}, "272": {"content": "mg/dL", "special": false}}});
    let tokenizer = load_with(&llama(&WORDS), &config);
    assert_eq!(tokenizer.vocab_size(), 273);
    assert_eq!(tokenizer.special_id("<|user|>"), Some(271));
    let ids = tokenizer.encode("ab mg/dL");
    assert_eq!(ids.last(), Some(&272), "words that were added are found in any text");
    assert_eq!(tokenizer.decode(&ids), "ab mg/dL");
    assert!(!tokenizer.encode("<|user|>").contains(&271));
    assert_eq!(tokenizer.encode_with_special("<|user|>")[..], [271]);
}

#[test]
fn bytes_that_are_no_characters_are_shown_one_by_one() {
    let tokenizer = load(&[("tokenizer.model", &llama(&WORDS))]).unwrap();
    let byte = |byte: u8| tokenizer.token_to_id(&format!("<0x{byte:02X}>")).unwrap();
    let ids = tokenizer.encode("糖");
    assert_eq!(ids[1..], [0xE7, 0xB3, 0x96].map(byte));
    assert_eq!(tokenizer.decode(&ids), "糖");
    let mut stream = tokenizer.decode_stream();
    let shown: Vec<Option<String>> = ids.iter().map(|&id| stream.push(id)).collect();
    assert_eq!(shown, [None, None, None, Some("糖".to_owned())]);
    let c = tokenizer.token_to_id("c").unwrap();
    for (ids, text) in [
        (vec![byte(0xE7), byte(0xB3)], "\u{FFFD}\u{FFFD}"),
        (vec![byte(0xE7), byte(0xB3), c], "\u{FFFD}\u{FFFD}c"),
        (vec![byte(0xE7), byte(b'x'), byte(0xB3)], "\u{FFFD}x\u{FFFD}"),
        (vec![byte(0xF0), byte(0x9F), byte(0xE7), byte(0xB3), byte(0x96)], "\u{FFFD}\u{FFFD}糖"),
    ] {
        assert_eq!(tokenizer.decode(&ids), text);
        assert_eq!(streamed(&tokenizer, &ids), text);
    }
    assert_eq!(tokenizer.decode_bytes(&[byte(0xE7), c, 1]), [0xE7, b'c']);
}

/// A piece that is a step on the way only is taken apart again.
#[test]
fn unused_pieces_are_no_result() {
    let mut model = start();
    let all = [("ab", UNUSED), ("abc", NORMAL), ("a", NORMAL), ("b", NORMAL), ("c", NORMAL), ("▁", NORMAL)];
    for (i, (text, kind)) in all.into_iter().enumerate() {
        model.extend(piece(text, -(i as f32), kind));
    }
    model.extend([trainer(BPE_TYPE, false), identity()].concat());
    let tokenizer = load(&[("tokenizer.model", &model)]).unwrap();
    assert_eq!(pieces(&tokenizer, &tokenizer.encode("abc")), [" ", "abc"]);
    assert_eq!(pieces(&tokenizer, &tokenizer.encode("abb")), [" ", "a", "b", "b"]);
    // Without bytes, unknown characters side by side are one unknown piece.
    assert_eq!(tokenizer.encode("a糖尿b")[2..], [0, tokenizer.token_to_id("b").unwrap()]);
}

/// A model in the manner of ChatGLM-6B; with `complete`, the pieces of its own are in the file.
fn chatglm(complete: bool) -> (Vec<u8>, u32) {
    let mut model =
        [piece("<unk>", 0.0, UNKNOWN), piece("<s>", 0.0, CONTROL), piece("</s>", 0.0, CONTROL)].concat();
    let words =
        ["<pad>", "<n>", "▁", "a", "b", "▁a", "▁b", "[", "]", "M", "g", "A", "S", "K", "<", ">", "|", "c"];
    for (i, word) in words.iter().enumerate() {
        let kind = match i {
            0 => CONTROL,
            1 => USER_DEFINED,
            _ => NORMAL,
        };
        model.extend(piece(word, -(i as f32), kind));
    }
    let count = 3 + words.len() as u32;
    if complete {
        for name in ["[MASK]", "[gMASK]", "[sMASK]", "<unused_0>", "<sop>", "<eop>", "<ENC>", "<dBLOCK>"] {
            model.extend(piece(name, 0.0, USER_DEFINED));
        }
        model.extend(piece("<|tab|>", 0.0, USER_DEFINED));
        model.extend((2..=80).flat_map(|n| piece(&format!("<|blank_{n}|>"), 0.0, USER_DEFINED)));
        model.extend(byte_pieces());
    }
    model.extend([trainer(UNIGRAM_TYPE, complete), identity()].concat());
    (model, count)
}

/// Both releases: the file with all pieces and no room for images, and the one whose tokenizer adds pieces and keeps 20,000 ids.
#[test]
fn chatglm_6b() {
    for (complete, config, rows, shift) in [
        (true, json!({"tokenizer_class": "ChatGLMTokenizer", "num_image_tokens": 0}), 512, 0),
        (
            false,
            json!({"tokenizer_class": "ChatGLMTokenizer", "bos_token": "sop", "eos_token": "eos"}),
            20_512,
            20_000,
        ),
        (true, json!({"tokenizer_class": "ChatGLMTokenizer"}), 512, 0),
    ] {
        let (model, trained) = chatglm(complete);
        let tokenizer = load(&[
            ("ice_text.model", &model),
            ("tokenizer_config.json", config.to_string().as_bytes()),
            ("config.json", json!({"vocab_size": rows}).to_string().as_bytes()),
        ])
        .unwrap();
        assert_eq!(tokenizer.vocab_size() as u32, shift + trained + 8 + 1 + 79 + 256);
        tokenizer.check_fits(rows).unwrap();
        let first = shift + trained;
        assert_eq!(tokenizer.special_id("[MASK]"), Some(first));
        assert_eq!(tokenizer.special_id("[gMASK]"), Some(first + 1));
        assert_eq!((tokenizer.bos_id(), tokenizer.eos_id()), (Some(first + 4), Some(first + 5)));
        assert_eq!(tokenizer.pad_id(), Some(shift + 3));
        assert_eq!((tokenizer.prefix(), tokenizer.suffix()), (&[][..], &[first + 1, first + 4][..]));
        let id = |piece: &str| tokenizer.token_to_id(piece).unwrap();
        assert_eq!(id("<|tab|>"), first + 8);
        assert_eq!(id("<|blank_2|>"), first + 9);
        assert_eq!(id("<0x00>"), first + 88);

        let ids = tokenizer.encode("a\nb\tb   a");
        assert_eq!(ids, ["▁a", "<n>", "b", "<|tab|>", "b", "<|blank_3|>", "a"].map(id));
        for text in ["a\nb\tb   a", "a", "\n\na", "a b", "糖", "a<", "a<n", "<|blank", "a  ", "  a"] {
            let ids = tokenizer.encode(text);
            assert_eq!(tokenizer.decode(&ids), text);
            assert_eq!(streamed(&tokenizer, &ids), text, "{text:?}");
        }
        // Special tokens are structure only where that is asked for.
        assert!(!tokenizer.encode("a[gMASK]").contains(&(first + 1)));
        assert_eq!(tokenizer.decode(&tokenizer.encode("a[gMASK]")), "a[gMASK]");
        assert_eq!(tokenizer.encode_with_special("a[gMASK]<sop>"), [id("▁a"), first + 1, first + 4]);
        if shift > 0 {
            assert_eq!(tokenizer.decode(&[17, id("▁a"), 19_999]), "a", "ids of images have no text");
        }
    }
}

#[test]
fn broken_models_give_one_line_in_no_time() {
    let begin = Instant::now();
    let check = |model: &[u8], part: &str| {
        let message = load(&[("tokenizer.model", model)]).unwrap_err().to_string();
        assert!(message.contains(part) && !message.contains('\n') && message.len() < 600, "{message}");
    };
    let with = |more: &[Vec<u8>]| [start(), more.concat()].concat();
    let word = |text: &str| piece(text, 0.0, NORMAL);
    check(b"", "neither");
    check(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "neither");
    check(&with(&[b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f".to_vec()]), "a field of the length it states");
    check(&with(&[vec![0xff; 11]]), "at most ten bytes");
    check(&with(&[vec![0x0b]]), "wire type 3");
    check(&with(&[vec![0x12, 0x02, 0x0c]]), "bytes left");
    check(&with(&[bytes(1, b"")]), "piece 3: expected a piece of 1 to 1024 bytes");
    check(&with(&[word(&"a".repeat(1025))]), "1 to 1024 bytes");
    check(&with(&[bytes(1, &bytes(1, b"\xff\xfe"))]), "expected UTF-8");
    check(&with(&[word("a"), word("a")]), "every piece once, found `a` again, at 4");
    check(&with(&[piece("a", f32::NAN, NORMAL)]), "a finite score");
    check(&with(&[piece("a", f32::INFINITY, NORMAL)]), "a finite score");
    check(&with(&[piece("a", 0.0, 9)]), "a type from 1 to 6");
    check(&with(&[piece("<0x1>", 0.0, BYTE)]), "a byte piece such as <0x0A>");
    check(&with(&[piece("<u>", 0.0, UNKNOWN)]), "one unknown piece");
    check(&piece("a", 0.0, NORMAL), "an unknown piece, found none");
    check(&with(&[trainer(BPE_TYPE, true)]), "a piece for each of the 256 bytes");
    check(&with(&[trainer(3, false)]), "word and character models are not");
    check(&with(&[bytes(2, &bytes(44, &[b'x'; 2000]))]), "unk_surface");
    let rules = |table: &[u8]| bytes(3, &bytes(2, table));
    check(&with(&[rules(b"\x01\x00")]), "precompiled_charsmap: expected its size in four bytes");
    check(&with(&[rules(&[0xff; 8])]), "as many bytes as it states");
    check(&with(&[rules(&[3, 0, 0, 0, 1, 2, 3])]), "units of four bytes");
    check(&with(&[rules(&[0, 0, 0, 0, 0xff])]), "replacements in UTF-8");
    let long = [&[0u8; 4][..], &[b'x'; 300]].concat();
    check(&with(&[rules(&long)]), "replacements of at most 256 bytes");
    // A million pieces that are the same, and a number of pieces beyond every vocabulary, each in its own bytes.
    check(&with(&[word("a").repeat(1_000_000)]), "every piece once");
    check(&vec![0u8; 65 << 20], "at most 64 MiB");
    let cut = llama(&WORDS);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cut.model");
    for length in (0..cut.len()).step_by(5) {
        fs::write(&file, &cut[..length]).unwrap();
        if let Err(error) = Tokenizer::load(&file) {
            assert!(!error.to_string().contains('\n'));
        }
    }
    assert!(begin.elapsed().as_secs() < 40, "{:?}", begin.elapsed());
}

/// Every byte of a small model changed in several ways: an error or a tokenizer that works, never a panic.
#[test]
fn changed_models_never_panic() {
    let mut rules = [12u32, 0x400 | 1 << 8, 0x1_0061, 0x8000_0001].map(u32::to_le_bytes).concat();
    rules.extend_from_slice(b"\0b\0");
    let user_defined =
        [piece("<|x|>", 0.0, USER_DEFINED), piece("▁a", -1.0, NORMAL), piece("ab", -2.0, UNUSED)];
    let base =
        [start(), user_defined.concat(), trainer(UNIGRAM_TYPE, false), bytes(3, &bytes(2, &rules))].concat();
    let bpe = [start(), user_defined.concat(), trainer(BPE_TYPE, false), identity()].concat();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("changed.model");
    for model in [base, bpe] {
        load(&[("tokenizer.model", &model)]).unwrap();
        for at in 0..model.len() {
            for change in [0x01, 0x08, 0x80, 0xff] {
                let mut model = model.clone();
                model[at] ^= change;
                fs::write(&file, &model).unwrap();
                let Ok(tokenizer) = Tokenizer::load(&file) else { continue };
                let ids = tokenizer.encode("ab <|x|> a\u{3000}糖\u{0} ab");
                tokenizer.decode(&ids);
                streamed(&tokenizer, &[0, 1, 2, 3, 4, 5, u32::MAX]);
            }
        }
    }
}

/// Tables that lead in circles, and text without an end: time grows with the text only.
#[test]
fn long_text_takes_time_by_its_length() {
    // Each unit leads back to itself by the byte `a`, without ever giving a rule.
    let units: Vec<u8> = (0..256u32).flat_map(|i| (i & 0xFF).to_le_bytes()).collect();
    let table = [&(units.len() as u32).to_le_bytes()[..], &units, b"x\0"].concat();
    let circle = [start(), trainer(UNIGRAM_TYPE, false), bytes(3, &bytes(2, &table))].concat();
    let prefixes: Vec<u8> = (1..=60).flat_map(|n| piece(&"a".repeat(n), -(n as f32), NORMAL)).collect();
    let unigram = [start(), prefixes.clone(), trainer(UNIGRAM_TYPE, false), identity()].concat();
    let bpe = [start(), prefixes, trainer(BPE_TYPE, false), identity()].concat();
    let begin = Instant::now();
    for model in [circle, unigram, bpe, llama(&WORDS), chatglm(true).0] {
        let tokenizer = load(&[("tokenizer.model", &model)]).unwrap();
        for text in ["a", " ", "糖", "ab", "<|x|>", "\u{0}"] {
            let text = text.repeat(100_000);
            let ids = tokenizer.encode(&text);
            assert!(ids.len() <= text.len() + 1);
            tokenizer.decode(&ids);
        }
    }
    assert!(begin.elapsed().as_secs() < 40, "{:?}", begin.elapsed());
}
