//! Tokenizers inside GGUF files: read from one, and made for one from the tokenizer files of a model folder.

use std::path::Path;

use rustc_hash::FxHashMap;
use serde_json::Value;

use super::TokenizerError;
use super::added::AddedToken;
use super::bpe::{ByteBpe, Pool};
use super::byte_level::ByteAlphabet;
use super::config::TokenizerConfig;
use super::load::rank_list;
use super::merge::Merges;
use super::ranks::{self, byte_ids};
use super::split::{GLM4_PATTERN, GPT2_PATTERN, QWEN_PATTERN, Splitter};
use super::vocabulary::{LARGEST_ID, Vocabulary as Bytes};
use super::{read_file, sentencepiece};
use crate::weights::gguf::{Gguf, Token, TokenKind, Vocabulary, find};

/// How text is cut, by llama.cpp's name for it.
struct Pre {
    name: &'static str,
    pattern: &'static str,
    /// Whether a piece that is itself a token is that token, without merging.
    whole_pieces: bool,
    /// Whether text is put into normalisation form C first, as the model's own tokenizer does (llama.cpp does not).
    normalise: bool,
}

/// The pattern of BLOOM: words and everything that is no punctuation.
const BLOOM_PATTERN: &str = r" ?[^(\s|[.,!?…。，、।۔،])]+";

const fn pre(name: &'static str, pattern: &'static str, whole_pieces: bool, normalise: bool) -> Pre {
    Pre { name, pattern, whole_pieces, normalise }
}

/// The ones that are known; of several with one pattern the first is written.
const PRE: &[Pre] = &[
    pre("qwen2", QWEN_PATTERN, false, true),
    pre("deepseek-r1-qwen", QWEN_PATTERN, false, false),
    pre("llama-bpe", GLM4_PATTERN, true, false),
    pre("llama3", GLM4_PATTERN, true, false),
    pre("llama-v3", GLM4_PATTERN, true, false),
    pre(GLM4, GLM4_PATTERN, true, false),
    pre("glm4", GLM4_PATTERN, true, false),
    pre("gpt-2", GPT2_PATTERN, false, false),
    pre("bloom", BLOOM_PATTERN, false, false),
];

/// Llama 3 and GLM-4 share a pattern; llama.cpp begins the text of one of them with a mark.
const GLM4: &str = "chatglm-bpe";
/// A token that every GLM-4 vocabulary has.
const GLM4_MARK: &str = "[gMASK]";
/// The end of a GLM-4 turn.
const GLM4_TURN: &str = "<|user|>";

fn unsupported(path: &Path, what: impl Into<String>, hint: impl Into<String>) -> TokenizerError {
    TokenizerError::Unsupported { path: path.to_owned(), what: what.into(), hint: hint.into() }
}

/// The tokenizer of the GGUF file that a path names, if it names one that has a tokenizer.
pub(super) fn of_path(path: &Path) -> Result<Option<(std::path::PathBuf, Vocabulary)>, TokenizerError> {
    let Some(file) = find(path).map_err(TokenizerError::weights)? else { return Ok(None) };
    let vocabulary = Gguf::open(&file).and_then(|gguf| gguf.vocabulary()).map_err(TokenizerError::weights)?;
    Ok(vocabulary.map(|vocabulary| (file, vocabulary)))
}

/// What `tokenizer_config.json` would say.
pub(super) fn config(vocabulary: &Vocabulary) -> TokenizerConfig {
    let text = |id: Option<u32>| id.map(|id| vocabulary.tokens[id as usize].text.clone());
    TokenizerConfig {
        eos_token: text(vocabulary.eos),
        bos_token: text(vocabulary.bos),
        pad_token: text(vocabulary.pad),
        chat_template: vocabulary.chat_template.clone(),
        added_tokens: added(vocabulary),
        ..TokenizerConfig::default()
    }
}

pub(super) fn added(vocabulary: &Vocabulary) -> Vec<AddedToken> {
    let tokens = (0_u32..).zip(&vocabulary.tokens);
    tokens
        .filter(|(_, token)| matches!(token.kind, TokenKind::Control | TokenKind::UserDefined))
        .map(|(id, token)| AddedToken {
            special: token.kind == TokenKind::Control,
            ..AddedToken::special(id, token.text.clone())
        })
        .collect()
}

/// Makes the encoder of a byte-level vocabulary (`gpt2`), and the tokens that are cut out before it.
pub(super) fn byte_level(
    path: &Path,
    vocabulary: &Vocabulary,
) -> Result<(ByteBpe, Vec<AddedToken>), TokenizerError> {
    let known = || PRE.iter().map(|pre| pre.name).collect::<Vec<_>>().join(", ");
    if vocabulary.model != "gpt2" {
        return Err(unsupported(
            path,
            format!("a GGUF tokenizer of the kind `{}`", super::error::excerpt(&vocabulary.model)),
            "put the model's tokenizer files beside it",
        ));
    }
    let name = vocabulary.pre.as_deref().unwrap_or("default");
    let Some(pre) = PRE.iter().find(|pre| pre.name == name) else {
        return Err(unsupported(
            path,
            format!("the pre-tokenizer `{}`", super::error::excerpt(name)),
            format!("put the model's tokenizer.json beside it; known are {}", known()),
        ));
    };
    if vocabulary.tokens.len() > LARGEST_ID as usize {
        return Err(TokenizerError::malformed(
            path,
            "tokens",
            "fewer than 4194304",
            vocabulary.tokens.len().to_string(),
        ));
    }
    let alphabet = ByteAlphabet::new();
    let mut ids: FxHashMap<&str, u32> = FxHashMap::default();
    let mut tokens = Vec::with_capacity(vocabulary.tokens.len());
    for (id, token) in (0_u32..).zip(&vocabulary.tokens) {
        if token.kind != TokenKind::Normal {
            continue;
        }
        if ids.insert(&token.text, id).is_some() {
            return Err(TokenizerError::malformed(
                path,
                format!("token {id}"),
                "every token once",
                token.text.clone(),
            ));
        }
        let bytes = alphabet.read(&token.text).unwrap_or_else(|| token.text.clone().into_bytes());
        tokens.push((id, bytes));
    }
    let bytes = Bytes::new(&tokens);
    let byte_ids = byte_ids(path, &bytes)?;
    let mut list = Vec::with_capacity(vocabulary.merges.len());
    for (rank, merge) in vocabulary.merges.iter().enumerate() {
        let parts = merge.split_once(' ').and_then(|(left, right)| {
            let joined = format!("{left}{right}");
            Some((*ids.get(left)?, *ids.get(right)?, *ids.get(joined.as_str())?))
        });
        list.push(parts.ok_or_else(|| {
            let expected = "two tokens and one space between, which join to a token";
            TokenizerError::malformed(path, format!("merge {rank}"), expected, merge.clone())
        })?);
    }
    let bpe = ByteBpe {
        merges: Merges::from_list(byte_ids, list.into_iter(), &bytes),
        vocabulary: bytes,
        whole_pieces: pre.whole_pieces,
        splitters: vec![Splitter::new(pre.pattern).expect("the patterns of the table compile")],
        normalise: pre.normalise,
        scratch: Pool::default(),
    };
    Ok((bpe, added(vocabulary)))
}

/// Makes the tokenizer part of a GGUF file from the tokenizer files of a model folder; `None` where there are none.
///
/// SentencePiece models go before `tokenizer.json`, as in llama.cpp's converter: their scores are lost in the other.
pub(super) fn of_folder(dir: &Path) -> Result<Option<Vocabulary>, TokenizerError> {
    if let Some((_, vocabulary)) = of_path(dir)? {
        return Ok(Some(vocabulary));
    }
    let config = TokenizerConfig::read(dir)?;
    let (model, json) = (dir.join("tokenizer.model"), dir.join("tokenizer.json"));
    let mut vocabulary = None;
    if model.exists() {
        let bytes = read_file(&model)?;
        if !ranks::looks_like_ranks(&bytes) {
            vocabulary = Some(sentencepiece::gguf::vocabulary(&model, &bytes)?);
        }
    }
    if vocabulary.is_none() && json.exists() {
        vocabulary = Some(of_json(&json, &read_file(&json)?)?);
    }
    let mut vocabulary = match vocabulary {
        Some(vocabulary) => vocabulary,
        None => match rank_list(dir)? {
            Some(path) => of_ranks(&path, &read_file(&path)?, &config)?,
            None => return Ok(None),
        },
    };
    add_configuration(dir, &config, &mut vocabulary)?;
    Ok(Some(vocabulary))
}

fn add_configuration(
    dir: &Path,
    config: &TokenizerConfig,
    vocabulary: &mut Vocabulary,
) -> Result<(), TokenizerError> {
    for token in &config.added_tokens {
        let id = token.id as usize;
        let kind = if token.special { TokenKind::Control } else { TokenKind::UserDefined };
        match vocabulary.tokens.get_mut(id) {
            // A SentencePiece model's own pieces keep their kind, except that structure is made of any.
            Some(found) if found.text == token.content => found.kind = kind,
            Some(_) => {}
            None => {
                while vocabulary.tokens.len() < id {
                    let text = format!("[PAD{}]", vocabulary.tokens.len());
                    vocabulary.tokens.push(Token { text, score: 0.0, kind: TokenKind::Unused });
                }
                let score = if vocabulary.model == "llama" { -1000.0 } else { 0.0 };
                vocabulary.tokens.push(Token { text: token.content.clone(), score, kind });
            }
        }
    }
    let id_of = |text: &str| {
        let named = |token: &Token| token.text == text && token.kind != TokenKind::Unused;
        vocabulary.tokens.iter().position(named).map(|id| id as u32)
    };
    let model_config = optional_json(&dir.join("config.json"))?;
    let tokenizer_config = optional_json(&dir.join("tokenizer_config.json"))?;
    // Where several ids end a text, the first is the end of the text and the others are ends of turns.
    let from_model = |key: &str| {
        let value = model_config.get(key)?;
        let id = value.as_array().map_or(Some(value), |list| list.first())?.as_u64()?;
        u32::try_from(id).ok().filter(|&id| (id as usize) < vocabulary.tokens.len())
    };
    let special =
        |token: &Option<String>, key: &str| token.as_deref().and_then(id_of).or_else(|| from_model(key));
    let bos = special(&config.bos_token, "bos_token_id");
    let eos = special(&config.eos_token, "eos_token_id").or_else(|| id_of("<|endoftext|>"));
    let pad = special(&config.pad_token, "pad_token_id");
    let eot = if vocabulary.pre.as_deref() == Some(GLM4) { id_of(GLM4_TURN) } else { None };
    vocabulary.bos = bos.or(vocabulary.bos);
    vocabulary.eos = eos.or(vocabulary.eos);
    vocabulary.pad = pad.or(vocabulary.pad);
    vocabulary.eot = eot;
    let flag = |key: &str| tokenizer_config.get(key).and_then(Value::as_bool);
    vocabulary.add_bos = flag("add_bos_token");
    vocabulary.add_eos = flag("add_eos_token");
    if vocabulary.model == "llama" {
        vocabulary.add_space_prefix = flag("add_prefix_space").or(vocabulary.add_space_prefix);
    }
    let template = dir.join("chat_template.jinja");
    vocabulary.chat_template = match &config.chat_template {
        Some(template) => Some(template.clone()),
        None if template.exists() => Some(String::from_utf8_lossy(&read_file(&template)?).into_owned()),
        None => None,
    };
    Ok(())
}

fn optional_json(path: &Path) -> Result<Value, TokenizerError> {
    if !path.exists() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&read_file(path)?).map_err(|e| TokenizerError::json(path, e))
}

/// A rank list: whatever two neighbours make a token merge, the smallest rank first, so every way of cutting a token in two is a
/// merge (as in transformers' conversion of such lists).
fn of_ranks(path: &Path, bytes: &[u8], config: &TokenizerConfig) -> Result<Vocabulary, TokenizerError> {
    let glm4 = config.tokenizer_class.as_deref() == Some("ChatGLM4Tokenizer");
    let family = if glm4 { ranks::RankFamily::Glm4 } else { ranks::RankFamily::Qwen };
    let list = ranks::read_ranks(path, bytes, family)?.vocabulary;
    let alphabet = ByteAlphabet::new();
    let mut vocabulary = Vocabulary {
        model: "gpt2".to_owned(),
        pre: Some(if glm4 { GLM4 } else { "qwen2" }.to_owned()),
        ..Vocabulary::default()
    };
    for id in 0..list.len() as u32 {
        let token = list.bytes_of(id);
        let (text, kind) = match token {
            [] => (format!("[PAD{id}]"), TokenKind::Unused),
            _ => (alphabet.spell(token), TokenKind::Normal),
        };
        vocabulary.tokens.push(Token { text, score: 0.0, kind });
        let merges = cuts(&list, token).into_iter();
        vocabulary.merges.extend(
            merges.map(|(left, right)| format!("{} {}", alphabet.spell(left), alphabet.spell(right))),
        );
    }
    if !glm4 && config.added_tokens.is_empty() {
        for token in ranks::qwen_special_tokens(list.len() as u32) {
            vocabulary.tokens.push(Token { text: token.content, score: 0.0, kind: TokenKind::Control });
        }
    }
    Ok(vocabulary)
}

/// The ways of cutting a token into two tokens, by their ranks.
fn cuts<'t>(list: &Bytes, token: &'t [u8]) -> Vec<(&'t [u8], &'t [u8])> {
    let mut found: Vec<_> = (1..token.len())
        .filter_map(|at| {
            let (left, right) = token.split_at(at);
            Some((list.id_of(left)?, list.id_of(right)?, left, right))
        })
        .collect();
    found.sort();
    found.into_iter().map(|(_, _, left, right)| (left, right)).collect()
}

/// A byte-level `tokenizer.json`.
fn of_json(path: &Path, bytes: &[u8]) -> Result<Vocabulary, TokenizerError> {
    let file: Value = serde_json::from_slice(bytes).map_err(|e| TokenizerError::json(path, e))?;
    let model = &file["model"];
    let added = file["added_tokens"].as_array().map(Vec::as_slice).unwrap_or_default();
    let glm4 = added.iter().any(|token| token["content"] == GLM4_MARK);
    let pattern = byte_level_pattern(&file["pre_tokenizer"]);
    let named = |pattern: &str| PRE.iter().find(|pre| pre.pattern == pattern && (!glm4 || pre.name == GLM4));
    let (Some(vocab), Some(merges)) = (model["vocab"].as_object(), model["merges"].as_array()) else {
        return Err(unsupported(
            path,
            "a tokenizer without merges",
            "GGUF takes byte-level BPE and SentencePiece",
        ));
    };
    let Some(pre) = pattern.as_deref().and_then(named) else {
        return Err(match pattern {
            None => unsupported(
                path,
                "a tokenizer that is not byte-level BPE",
                "put the model's tokenizer.model (SentencePiece) beside it",
            ),
            Some(pattern) => unsupported(
                path,
                format!("the pattern {}", super::error::excerpt(&pattern)),
                "llama.cpp has a fixed list of patterns, and this one is not known to be of it",
            ),
        });
    };
    let mut tokens: Vec<Option<Token>> = Vec::new();
    let mut put = |id: Option<u64>, text: &str, kind: TokenKind| -> Result<(), TokenizerError> {
        let id = id.filter(|&id| id <= u64::from(LARGEST_ID)).ok_or_else(|| {
            TokenizerError::malformed(path, format!("token `{text}`"), "an id below 4194304", "another")
        })? as usize;
        if tokens.len() <= id {
            tokens.resize(id + 1, None);
        }
        tokens[id] = Some(Token { text: text.to_owned(), score: 0.0, kind });
        Ok(())
    };
    for (text, id) in vocab {
        put(id.as_u64(), text, TokenKind::Normal)?;
    }
    for token in added {
        let special = token["special"].as_bool().unwrap_or(false);
        let kind = if special { TokenKind::Control } else { TokenKind::UserDefined };
        put(token["id"].as_u64(), token["content"].as_str().unwrap_or_default(), kind)?;
    }
    let unused = |id: usize| Token { text: format!("[PAD{id}]"), score: 0.0, kind: TokenKind::Unused };
    let tokens =
        tokens.into_iter().enumerate().map(|(id, token)| token.unwrap_or_else(|| unused(id))).collect();
    let mut list = Vec::with_capacity(merges.len());
    for (rank, merge) in merges.iter().enumerate() {
        let text = match merge {
            Value::String(text) => Some(text.clone()),
            Value::Array(pair) => match pair.as_slice() {
                [Value::String(left), Value::String(right)] => Some(format!("{left} {right}")),
                _ => None,
            },
            _ => None,
        };
        let expected = "two tokens, as a pair or with a space between";
        list.push(text.ok_or_else(|| {
            TokenizerError::malformed(path, format!("merge {rank}"), expected, merge.to_string())
        })?);
    }
    Ok(Vocabulary {
        model: "gpt2".to_owned(),
        pre: Some(pre.name.to_owned()),
        tokens,
        merges: list,
        ..Vocabulary::default()
    })
}

/// The one pattern of a byte-level pre-tokenizer; `None` for any other.
fn byte_level_pattern(stages: &Value) -> Option<String> {
    let stages = match stages["pretokenizers"].as_array() {
        Some(stages) => stages.as_slice(),
        None => std::slice::from_ref(stages),
    };
    let (last, first) = stages.split_last()?;
    if last["type"] != "ByteLevel" || last["add_prefix_space"].as_bool().unwrap_or(true) {
        return None;
    }
    let own = last["use_regex"].as_bool().unwrap_or(true);
    match first {
        [] if own => Some(GPT2_PATTERN.to_owned()),
        [split] if !own && split["type"] == "Split" => Some(split["pattern"]["Regex"].as_str()?.to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pattern_compiles() {
        for pre in PRE {
            assert!(Splitter::new(pre.pattern).is_ok(), "{}", pre.name);
        }
    }

    #[test]
    fn every_cut_of_a_token_is_a_merge() {
        let texts = [&b"a"[..], b"b", b"c", b"ab", b"bc", b"abc", b"xyz"];
        let tokens: Vec<(u32, Vec<u8>)> = (0..).zip(texts.map(<[u8]>::to_vec)).collect();
        let list = Bytes::new(&tokens);
        let of = |rank: u32| cuts(&list, list.bytes_of(rank));
        assert_eq!(of(0), []);
        assert_eq!(of(3), [(&b"a"[..], &b"b"[..])]);
        assert_eq!(of(5), [(&b"a"[..], &b"bc"[..]), (&b"ab"[..], &b"c"[..])]);
        assert_eq!(of(6), [], "no merges lead to it");
    }
}
