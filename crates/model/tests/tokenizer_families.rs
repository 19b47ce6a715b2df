//! Every tokenizer family against its reference (`../shared/oracles/tokenizers`): ids, text, offsets, streams.
// A skipped test says so to the person who runs it.
#![allow(clippy::print_stderr)]

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use taiyi_model::tokenizer::{Origin, Tokenizer};

fn oracles() -> Option<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/oracles/tokenizers");
    if dir.is_dir() {
        return Some(dir);
    }
    eprintln!("skipped: ../shared/oracles/tokenizers is not beside the repository");
    None
}

fn lines(path: PathBuf) -> Vec<Value> {
    let text = fs::read_to_string(&path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn streamed(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let mut stream = tokenizer.decode_stream();
    let mut text = String::new();
    for &id in ids {
        let part = stream.push(id);
        assert_ne!(part.as_deref(), Some(""), "nothing is said as nothing");
        text.extend(part);
    }
    text.extend(stream.finish());
    text
}

#[test]
fn sentencepiece_models_agree_on_every_line() {
    let Some(dir) = oracles() else { return };
    for (kind, count, decodes) in [("bpe", 346, 80), ("unigram", 346, 73), ("unigram_byte", 346, 79)] {
        let tokenizer = Tokenizer::load(&dir.join(format!("sentencepiece/{kind}.model"))).unwrap();
        let vocabulary = lines(dir.join(format!("sentencepiece/{kind}_vocab.jsonl")));
        assert_eq!(tokenizer.vocab_size(), vocabulary.len());
        for entry in &vocabulary {
            let (id, piece) = (entry[0].as_u64().unwrap() as u32, entry[1].as_str().unwrap());
            assert_eq!(tokenizer.token_to_id(piece), Some(id), "{kind} {piece:?}");
        }
        assert_eq!((tokenizer.bos_id(), tokenizer.eos_id()), (Some(1), Some(2)));
        assert!(tokenizer.prefix().is_empty() && tokenizer.suffix().is_empty());
        let golden = lines(dir.join(format!("sentencepiece/{kind}.jsonl")));
        assert_eq!(golden.len(), count);
        for line in &golden {
            let text = line["text"].as_str().unwrap();
            let expected = ids(&line["ids"]);
            assert_eq!(tokenizer.encode(text), expected, "{kind} {text:?}");
            // Nothing marks control pieces for being looked for in text.
            assert_eq!(tokenizer.encode_with_special(text), expected, "{kind} {text:?}");
            let framed = [tokenizer.bos_id().as_slice(), &expected].concat();
            assert_eq!(framed, ids(&line["ids_bos"]));
            let decoded = line["decoded"].as_str().unwrap();
            assert_eq!(tokenizer.decode(&expected), decoded, "{kind} {text:?}");
            assert_eq!(tokenizer.decode(&framed), decoded, "{kind} {text:?}");
            assert_eq!(streamed(&tokenizer, &framed), decoded, "{kind} {text:?}");
        }
        let golden = lines(dir.join(format!("sentencepiece/{kind}_decode.jsonl")));
        assert_eq!(golden.len(), decodes);
        for line in &golden {
            let (ids, text) = (ids(&line["ids"]), line["text"].as_str().unwrap());
            assert_eq!(tokenizer.decode(&ids), text, "{kind} {ids:?}");
            assert_eq!(streamed(&tokenizer, &ids), text, "{kind} {ids:?}");
        }
    }
}

#[test]
fn wordpiece_agrees_on_every_line() {
    let Some(dir) = oracles() else { return };
    for (kind, differences) in [("bert_cased", 5), ("bert_uncased", 3)] {
        // Cased or not is told from the vocabulary here; a configuration says so too.
        let tokenizer = Tokenizer::load(&dir.join(kind)).unwrap();
        assert_eq!((tokenizer.prefix(), tokenizer.suffix()), (&[2][..], &[3][..]));
        assert_eq!(tokenizer.pad_id(), Some(0));
        let golden = lines(dir.join(kind).join("golden.jsonl"));
        assert_eq!(golden.len(), 320);
        let (mut offsets, mut fast) = (0, 0);
        for line in &golden {
            let text = line["text"].as_str().unwrap();
            let expected = ids(&line["ids"]);
            if let Some(second) = line.get("text_pair") {
                let input = tokenizer.encode_input(text, second.as_str(), 512).unwrap();
                assert_eq!(input.ids, expected);
                assert_eq!(input.token_type_ids, ids(&line["token_type_ids"]));
                continue;
            }
            let inside = tokenizer.encode_with_special(text);
            let mut framed = inside;
            tokenizer.frame_text(&mut framed);
            assert_eq!(framed, expected, "{kind} {text:?}");
            // The fast tokenizer, which works by other Unicode tables, differs on a few lines of rare characters.
            fast += usize::from(line.get("ids_fast_tokenizer").is_some());
            if let Some(expected) = line.get("offsets_fast") {
                offsets += 1;
                let input = tokenizer.encode_input(text, None, usize::MAX).unwrap();
                assert_eq!(input.ids, framed, "{kind} {text:?}");
                let characters = |byte: usize| text[..byte].chars().count() as u64;
                let found: Vec<Value> = input
                    .origins
                    .iter()
                    .map(|origin| match origin {
                        Origin::Special => json!([0, 0]),
                        Origin::First(range) => json!([characters(range.start), characters(range.end)]),
                        Origin::Second(_) => unreachable!("one text"),
                    })
                    .collect();
                assert_eq!(&Value::from(found), expected, "{kind} {text:?}");
            }
        }
        assert_eq!((offsets, fast), (59, differences));
    }
}

#[test]
fn roberta_files_agree_on_every_line() {
    let Some(dir) = oracles() else { return };
    let tokenizer = Tokenizer::load(&dir.join("roberta_bpe")).unwrap();
    assert_eq!((tokenizer.prefix(), tokenizer.suffix()), (&[0][..], &[2][..]));
    assert_eq!((tokenizer.bos_id(), tokenizer.pad_id(), tokenizer.eos_id()), (Some(0), Some(1), Some(2)));
    let golden = lines(dir.join("roberta_bpe/golden.jsonl"));
    assert_eq!(golden.len(), 319);
    for line in &golden {
        let text = line["text"].as_str().unwrap();
        let expected = ids(&line["ids"]);
        let inside = tokenizer.encode_with_special(text);
        assert_eq!([tokenizer.prefix(), &inside, tokenizer.suffix()].concat(), expected, "{text:?}");
        assert_eq!(tokenizer.decode_without_special(&tokenizer.encode(text)), text);
        for (id, range) in tokenizer.encode_with_offsets(text).unwrap() {
            let token = tokenizer.decode(&[id]);
            let part = &text[range];
            assert!(part.contains(token.trim()) || token.contains('\u{FFFD}'), "{token:?} {part:?}");
        }
    }
    let pair = tokenizer.encode_input("a", Some("b"), 512).unwrap();
    let [a, b] = ["a", "b"].map(|text| tokenizer.encode(text)[0]);
    assert_eq!(pair.ids, [0, a, 2, 2, b, 2]);
    assert_eq!(pair.token_type_ids, [0; 6]);
    assert_eq!(pair.origins[4], Origin::Second(0..1));
}

/// Both layouts of BioGPT give the same ids.
#[test]
fn biogpt_agrees_on_every_line() {
    let Some(dir) = oracles() else { return };
    let hugging_face = Tokenizer::load(&dir.join("biogpt")).unwrap();
    let folder = fairseq(&dir.join("biogpt"));
    let fairseq = Tokenizer::load(folder.path()).unwrap();
    let golden = lines(dir.join("biogpt/golden.jsonl"));
    assert_eq!(golden.len(), 206);
    for tokenizer in [&hugging_face, &fairseq] {
        assert_eq!(tokenizer.vocab_size(), 42_384);
        assert_eq!((tokenizer.prefix(), tokenizer.suffix()), (&[2][..], &[][..]));
        assert_eq!((tokenizer.bos_id(), tokenizer.pad_id(), tokenizer.eos_id()), (Some(0), Some(1), Some(2)));
        for line in &golden {
            let text = line["text"].as_str().unwrap();
            let expected = ids(&line["ids"]);
            let framed = [tokenizer.prefix(), &tokenizer.encode_with_special(text)].concat();
            assert_eq!(framed, expected, "{text:?}");
            assert_eq!(tokenizer.encode_framed(text), expected, "{text:?}");
            assert_eq!(tokenizer.decode(&expected), line["decoded_raw"].as_str().unwrap());
            assert_eq!(tokenizer.decode_without_special(&expected), line["decoded"].as_str().unwrap());
            assert_eq!(streamed(tokenizer, &expected), line["decoded_raw"].as_str().unwrap());
        }
    }
}

/// The files fairseq would have for the vocabulary: the dictionary in order of the ids, `@@` on what goes on, and the codes.
fn fairseq(dir: &Path) -> tempfile::TempDir {
    let vocabulary: serde_json::Map<String, Value> =
        serde_json::from_slice(&fs::read(dir.join("vocab.json")).unwrap()).unwrap();
    let mut tokens: Vec<(u64, String)> =
        vocabulary.into_iter().map(|(token, id)| (id.as_u64().unwrap(), token)).collect();
    tokens.sort();
    let special: Vec<&str> = tokens[..4].iter().map(|(_, token)| token.as_str()).collect();
    assert_eq!(special, ["<s>", "<pad>", "</s>", "<unk>"]);
    let dictionary: String = tokens[4..]
        .iter()
        .map(|(id, token)| match token.strip_suffix("</w>") {
            Some(word) => format!("{word} {}\n", 1_000_000 - id),
            None => format!("{token}@@ {}\n", 1_000_000 - id),
        })
        .collect();
    let codes: String = fs::read_to_string(dir.join("merges.txt"))
        .unwrap()
        .lines()
        .enumerate()
        .map(|(i, merge)| format!("{merge} {}\n", 500_000 - i))
        .collect();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("dict.txt"), dictionary).unwrap();
    fs::write(folder.path().join("bpecodes"), codes).unwrap();
    folder
}
