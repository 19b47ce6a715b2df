//! From the files of a model folder to a tokenizer.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::added::AddedToken;
use super::config::TokenizerConfig;
use super::foreign::Foreign;
use super::frame::Frame;
use super::gguf;
use super::json::{self, Pipeline};
use super::kind::Kind;
use super::ranks::{self, RankFamily};
use super::sentencepiece::chatglm::{self, ChatGlm};
use super::sentencepiece::{SentencePiece, looks_like_model};
use super::split::{GPT2_PATTERN, QWEN_PATTERN};
use super::word_bpe::{END, FAIRSEQ_SPECIAL, WordBpe};
use super::wordpiece::WordPiece;
use super::{Tokenizer, TokenizerError, read_file};

/// Largest SentencePiece model or rank list read; the largest published ones have some 5 MB.
const LARGEST_MODEL_BYTES: usize = 64 << 20;

impl Tokenizer {
    /// Loads the tokenizer of a model folder.
    ///
    /// Looked for, in this order:
    ///
    /// | file | tokenizer |
    /// |---|---|
    /// | `ice_text.model` | ChatGLM-6B |
    /// | `tokenizer.json` | any pipeline of Hugging Face tokenizers |
    /// | `*.tiktoken` | ranks of Qwen, first generation |
    /// | `tokenizer.model`, or the only `*.model` | ranks of GLM-4, or a SentencePiece model |
    /// | `vocab.txt` | WordPiece (BERT) |
    /// | `vocab.json` with `merges.txt` | byte-level BPE (RoBERTa, GPT-2, Qwen2), or BioGPT |
    /// | `dict.txt` with `bpecodes` | BioGPT as fairseq has it |
    /// | the only `*.gguf` | the one in its metadata |
    ///
    /// `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json` beside them name the special tokens and set
    /// what may be set. Where LLaMA's `tokenizer.json` and `tokenizer.model` stand side by side, the latter is read: it is what the
    /// former was made from. A path to a `.json`, `.model`, `.tiktoken` or `.gguf` file loads that file.
    ///
    /// # Errors
    ///
    /// None of these files, files that break their format, kinds of tokenizer that are not supported.
    pub fn load(path: &Path) -> Result<Self, TokenizerError> {
        if !path.is_dir()
            && let Some((file, vocabulary)) = gguf::of_path(path)?
        {
            return Self::from_vocabulary(&file, &vocabulary);
        }
        if path.is_file() {
            return Self::load_file(path);
        }
        let dir = path;
        let config = TokenizerConfig::read(dir)?;
        let file = |name: &str| Some(dir.join(name)).filter(|path| path.exists());
        if let Some(path) = file("ice_text.model") {
            return Self::from_chatglm(&path, dir, &config);
        }
        if let Some(json) = file("tokenizer.json") {
            let model = file("tokenizer.model");
            return Self::from_json(&json, &read_file(&json)?, &config, model.as_deref());
        }
        if let Some(path) = only_file(dir, "tiktoken")? {
            return Self::from_ranks(&path, &read_model(&path)?, &config);
        }
        let model = match file("tokenizer.model") {
            Some(path) => Some(path),
            None => only_file(dir, "model")?,
        };
        if let Some(path) = model {
            let bytes = read_model(&path)?;
            return Self::from_model(&path, &bytes, &config);
        }
        if let Some(path) = file("vocab.txt") {
            return Self::from_wordpiece(&path, &config);
        }
        if let (Some(vocabulary), Some(merges)) = (file("vocab.json"), file("merges.txt")) {
            return Self::from_vocabulary_and_merges(&vocabulary, &merges, dir, &config);
        }
        if let (Some(dictionary), Some(codes)) = (file("dict.txt"), file("bpecodes")) {
            let words = WordBpe::read_fairseq(
                (&dictionary, &read_file(&dictionary)?),
                (&codes, &read_file(&codes)?),
            )?;
            return Self::from_words(&dictionary, words, &config);
        }
        match gguf::of_path(dir)? {
            Some((file, vocabulary)) => Self::from_vocabulary(&file, &vocabulary),
            None => Err(TokenizerError::NoTokenizer { path: dir.to_owned() }),
        }
    }

    /// Loads one file; the configuration beside it counts.
    fn load_file(path: &Path) -> Result<Self, TokenizerError> {
        let config = TokenizerConfig::read(path.parent().unwrap_or(Path::new("")))?;
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("json") => Self::from_json(path, &read_file(path)?, &config, None),
            Some("model" | "tiktoken") => Self::from_model(path, &read_model(path)?, &config),
            _ => Err(TokenizerError::Unsupported {
                path: path.to_owned(),
                what: "a file of this name".into(),
                hint: "give a model folder, or a .json, .model or .tiktoken file".into(),
            }),
        }
    }

    pub(super) fn from_json(
        path: &Path,
        bytes: &[u8],
        config: &TokenizerConfig,
        sentencepiece: Option<&Path>,
    ) -> Result<Self, TokenizerError> {
        match json::read_json(path, bytes)? {
            Pipeline::ByteLevel { bpe, added, frame } => {
                Self::assemble(path, Kind::Bytes(bpe), added, frame, config)
            }
            Pipeline::Foreign { .. } if config.is_llama() && sentencepiece.is_some() => {
                let path = sentencepiece.unwrap_or(path);
                return Self::from_model(path, &read_model(path)?, config);
            }
            Pipeline::Foreign { frame } => {
                let foreign = Foreign::read(path, bytes)?;
                let added = foreign.added_tokens();
                Self::assemble(path, Kind::Foreign(Box::new(foreign)), added, frame, config)
            }
        }
        .map(Self::with_default_end)
    }

    /// A `.model` file: a rank list, or a SentencePiece model.
    fn from_model(path: &Path, bytes: &[u8], config: &TokenizerConfig) -> Result<Self, TokenizerError> {
        if ranks::looks_like_ranks(bytes) {
            Self::from_ranks(path, bytes, config)
        } else if looks_like_model(bytes) {
            Self::from_sentencepiece(path, bytes, config)
        } else {
            let found = "neither";
            Err(TokenizerError::malformed(path, "start", "a rank list or a SentencePiece model", found))
        }
    }

    fn from_ranks(path: &Path, bytes: &[u8], config: &TokenizerConfig) -> Result<Self, TokenizerError> {
        let class = config.tokenizer_class.as_deref().unwrap_or_default();
        let family = match class {
            "QWenTokenizer" => RankFamily::Qwen,
            "ChatGLM4Tokenizer" => RankFamily::Glm4,
            "" if path.file_name().is_some_and(|name| name == "qwen.tiktoken") => RankFamily::Qwen,
            _ => {
                return Err(TokenizerError::Unsupported {
                    path: path.to_owned(),
                    what: format!("a rank list of the class `{class}`"),
                    hint: "tokenizer_config.json must name QWenTokenizer or ChatGLM4Tokenizer as tokenizer_class".into(),
                });
            }
        };
        let bpe = ranks::read_ranks(path, bytes, family)?;
        let mut added = config.added_tokens.clone();
        if added.is_empty() && family == RankFamily::Qwen {
            added = ranks::qwen_special_tokens(bpe.vocabulary.len() as u32);
        }
        for token in &mut added {
            token.normalised = family == RankFamily::Qwen;
        }
        let named = |name: &str| added.iter().find(|token| token.content == name).map(|token| token.id);
        let frame = match (family, named("[gMASK]"), named("<sop>")) {
            (RankFamily::Glm4, Some(gmask), Some(sop)) => {
                Frame { of_chat: true, ..Frame::around(&[gmask, sop], &[]) }
            }
            _ => Frame::default(),
        };
        let kind = Kind::Bytes(Box::new(bpe));
        Self::assemble(path, kind, added, frame, config).map(Self::with_default_end)
    }

    /// A SentencePiece model. With a configuration beside it, its special tokens are recognised in text, as transformers does;
    /// a bare model finds user-defined pieces only, as the SentencePiece library does.
    fn from_sentencepiece(
        path: &Path,
        bytes: &[u8],
        config: &TokenizerConfig,
    ) -> Result<Self, TokenizerError> {
        // Other classes renumber the pieces, add some or change the text before.
        let known = ["llama", "codellama", "baichuan", "internlm"];
        let is_xlm = config.tokenizer_class.is_none() && path.ends_with("sentencepiece.bpe.model");
        if is_xlm || !config.class_is(|class| known.iter().any(|known| class.starts_with(known))) {
            return Err(config.unsupported(path, "a SentencePiece model"));
        }
        let structure = |piece: &str| {
            config.named().any(|named| named == piece)
                || config.added_tokens.iter().any(|token| token.special && token.content == piece)
        };
        let model = SentencePiece::read(path, bytes, &structure)?;
        let mut added: Vec<AddedToken> = config.added_tokens.clone();
        for (id, piece, is_structure) in model.named_pieces() {
            if (is_structure || structure(piece)) && !added.iter().any(|token| token.id == id) {
                added.push(AddedToken { in_text: structure(piece), ..AddedToken::special(id, piece) });
            }
        }
        let id = |token: &Option<String>, default: &str| {
            let name = token.as_deref().unwrap_or(default);
            let added = added.iter().find(|token| token.content == name).map(|token| token.id);
            added.or_else(|| model.id_of(name))
        };
        // The library itself adds neither; transformers' classes put `<s>` in front unless told otherwise.
        let wants = |flag: Option<bool>, default: bool| config.exists && flag.unwrap_or(default);
        let bos = id(&config.bos_token, "<s>").filter(|_| wants(config.add_bos_token, true));
        let eos = id(&config.eos_token, "</s>").filter(|_| wants(config.add_eos_token, false));
        let frame = match (bos, eos) {
            (None, None) => Frame::default(),
            _ => Frame::around(bos.as_slice(), eos.as_slice()),
        };
        let mut config = config.clone();
        for (token, default) in [(&mut config.bos_token, "<s>"), (&mut config.eos_token, "</s>")] {
            token.get_or_insert_with(|| default.to_owned());
        }
        if config.pad_token.is_none() && added.iter().any(|token| token.content == "<pad>") {
            config.pad_token = Some("<pad>".to_owned());
        }
        let kind = Kind::SentencePiece {
            model: Box::new(model),
            blank_after_special: config.legacy.unwrap_or(true),
        };
        Self::assemble(path, kind, added, frame, &config).map(Self::with_default_end)
    }

    fn from_chatglm(path: &Path, dir: &Path, config: &TokenizerConfig) -> Result<Self, TokenizerError> {
        let rows = model_config(dir)?.get("vocab_size").and_then(Value::as_u64);
        let shift = |pieces: usize| match (config.num_image_tokens, rows) {
            (Some(count), _) => count,
            (None, Some(rows)) if rows < pieces as u64 + u64::from(chatglm::IMAGE_IDS) => 0,
            (None, _) => chatglm::IMAGE_IDS,
        };
        let model = ChatGlm::read(path, &read_model(path)?, shift)?;
        let mut added = Vec::new();
        let others = ["<unk>", "<s>", "</s>", "<pad>"];
        for name in chatglm::SPECIAL.iter().chain(&others) {
            if let Some(id) = model.id_of(name) {
                added.push(AddedToken::special(id, *name));
            }
        }
        let named = |name: &str| added.iter().find(|token| token.content == name).map(|token| token.id);
        // The first release calls its marks differently in its configuration than in its vocabulary.
        let mut config = config.clone();
        for (token, name) in [
            (&mut config.bos_token, "<sop>"),
            (&mut config.eos_token, "<eop>"),
            (&mut config.pad_token, "<pad>"),
        ] {
            if token.as_deref().and_then(named).is_none() {
                *token = Some(name.to_owned());
            }
        }
        let frame = match (named("[gMASK]"), config.bos_token.as_deref().and_then(named)) {
            (Some(gmask), Some(bos)) => Frame { of_chat: true, ..Frame::around(&[], &[gmask, bos]) },
            _ => Frame::default(),
        };
        Self::assemble(path, Kind::ChatGlm(Box::new(model)), added, frame, &config)
            .map(Self::with_default_end)
    }

    fn from_wordpiece(path: &Path, config: &TokenizerConfig) -> Result<Self, TokenizerError> {
        let is_bert = |class: &str| class.contains("bert") || class.contains("electra");
        let differs =
            |class: &str| ["japanese", "tweet", "camembert", "roberta"].iter().any(|c| class.contains(c));
        if !config.class_is(|class| is_bert(class) && !differs(class)) {
            return Err(config.unsupported(path, "a vocabulary"));
        }
        let model = WordPiece::read(path, &read_file(path)?, config)?;
        let mut config = config.clone();
        for (token, default) in [
            (&mut config.unk_token, "[UNK]"),
            (&mut config.sep_token, "[SEP]"),
            (&mut config.pad_token, "[PAD]"),
            (&mut config.cls_token, "[CLS]"),
            (&mut config.mask_token, "[MASK]"),
        ] {
            token.get_or_insert_with(|| default.to_owned());
        }
        let added = config.special_tokens(|name| model.id_of(name));
        let named = |name: &Option<String>| {
            let name = name.as_deref()?;
            added.iter().find(|token| token.content == name).map(|token| token.id)
        };
        let frame = match (named(&config.cls_token), named(&config.sep_token)) {
            (Some(cls), Some(sep)) => Frame::bert(cls, sep),
            _ => Frame::default(),
        };
        Self::assemble(path, Kind::WordPiece(Box::new(model)), added, frame, &config)
    }

    /// `vocab.json` and `merges.txt`: whose they are follows from the configuration, or else from the tokens.
    fn from_vocabulary_and_merges(
        vocabulary: &Path,
        merges: &Path,
        dir: &Path,
        config: &TokenizerConfig,
    ) -> Result<Self, TokenizerError> {
        let (vocabulary_bytes, merges_bytes) = (read_file(vocabulary)?, read_file(merges)?);
        let files = ((vocabulary, vocabulary_bytes.as_slice()), (merges, merges_bytes.as_slice()));
        let model = model_config(dir)?;
        let class = config.tokenizer_class.as_deref().or_else(|| model.get("model_type")?.as_str());
        let class = class.unwrap_or_default().to_ascii_lowercase();
        let holds = |text: &str| vocabulary_bytes.windows(text.len()).any(|part| part == text.as_bytes());
        if class.starts_with("biogpt") || (class.is_empty() && holds(END)) {
            let unknown = config.unk_token.as_deref().unwrap_or(FAIRSEQ_SPECIAL[3]);
            let words = WordBpe::read_hugging_face(files.0, files.1, unknown)?;
            return Self::from_words(vocabulary, words, config);
        }
        let known = ["roberta", "bart", "longformer", "gpt2", "qwen2"];
        if !class.is_empty() && !known.iter().any(|known| class.starts_with(known)) {
            return Err(config.unsupported(vocabulary, "a vocabulary"));
        }
        if config.add_prefix_space == Some(true) {
            return Err(TokenizerError::Unsupported {
                path: vocabulary.to_owned(),
                what: "add_prefix_space".into(),
                hint: "save the tokenizer as tokenizer.json".into(),
            });
        }
        let is_qwen2 = class.starts_with("qwen2");
        let pattern = if is_qwen2 { QWEN_PATTERN } else { GPT2_PATTERN };
        let bpe = json::byte_level_files(files.0, files.1, pattern, is_qwen2)?;
        let mut config = config.clone();
        let like_roberta = ["roberta", "bart", "longformer"].iter().any(|known| class.starts_with(known));
        let is_roberta = like_roberta || (class.is_empty() && holds("\"<mask>\""));
        if is_roberta {
            for (token, default) in [
                (&mut config.bos_token, "<s>"),
                (&mut config.eos_token, "</s>"),
                (&mut config.sep_token, "</s>"),
                (&mut config.cls_token, "<s>"),
                (&mut config.unk_token, "<unk>"),
                (&mut config.pad_token, "<pad>"),
                (&mut config.mask_token, "<mask>"),
            ] {
                token.get_or_insert_with(|| default.to_owned());
            }
        } else {
            config.eos_token.get_or_insert_with(|| "<|endoftext|>".to_owned());
        }
        let mut added = config.special_tokens(|name| bpe.vocabulary.id_of(name.as_bytes()));
        // A mask takes the blank before it along, as it stands for a word.
        if config.added_tokens.is_empty()
            && let Some(mask) = added.iter_mut().find(|t| Some(&t.content) == config.mask_token.as_ref())
        {
            mask.strip_left = true;
        }
        let named = |name: &Option<String>| {
            let name = name.as_deref()?;
            added.iter().find(|token| token.content == name).map(|token| token.id)
        };
        let frame = match (named(&config.cls_token), named(&config.sep_token)) {
            (Some(cls), Some(sep)) if is_roberta => Frame::roberta(cls, sep),
            _ if config.add_bos_token == Some(true) => {
                Frame::around(named(&config.bos_token).as_slice(), &[])
            }
            _ => Frame::default(),
        };
        Self::assemble(vocabulary, Kind::Bytes(Box::new(bpe)), added, frame, &config)
            .map(Self::with_default_end)
    }

    /// BioGPT: `</s>` in front of every text.
    fn from_words(path: &Path, words: WordBpe, config: &TokenizerConfig) -> Result<Self, TokenizerError> {
        let mut config = config.clone();
        for (token, default) in [
            (&mut config.bos_token, FAIRSEQ_SPECIAL[0]),
            (&mut config.pad_token, FAIRSEQ_SPECIAL[1]),
            (&mut config.eos_token, FAIRSEQ_SPECIAL[2]),
            (&mut config.sep_token, FAIRSEQ_SPECIAL[2]),
            (&mut config.unk_token, FAIRSEQ_SPECIAL[3]),
        ] {
            token.get_or_insert_with(|| default.to_owned());
        }
        let added = config.special_tokens(|name| words.id_of(name));
        let sep = config.sep_token.as_deref().and_then(|name| words.id_of(name));
        let frame = Frame::around(sep.as_slice(), &[]);
        let clean_up = config.clean_up_tokenization_spaces.unwrap_or(true);
        Self::assemble(path, Kind::Moses { words: Box::new(words), clean_up }, added, frame, &config)
    }
}

impl TokenizerConfig {
    /// The added tokens, and the named ones that the vocabulary has and the configuration does not list.
    fn special_tokens(&self, id_of: impl Fn(&str) -> Option<u32>) -> Vec<AddedToken> {
        let mut tokens = self.added_tokens.clone();
        for name in self.named() {
            if tokens.iter().any(|token| token.content == name) {
                continue;
            }
            if let Some(id) = id_of(name) {
                tokens.push(AddedToken::special(id, name));
            }
        }
        tokens
    }

    /// Whether the class of the tokenizer, in small letters, is as asked for; where none is named, it is.
    fn class_is(&self, wanted: impl Fn(&str) -> bool) -> bool {
        self.tokenizer_class.as_deref().is_none_or(|class| wanted(&class.to_ascii_lowercase()))
    }

    /// The error of a class whose rules are not known.
    fn unsupported(&self, path: &Path, what: &str) -> TokenizerError {
        let class = self.tokenizer_class.as_deref().unwrap_or_default();
        TokenizerError::Unsupported {
            path: path.to_owned(),
            what: format!("{what} of the class `{class}`"),
            hint: "put the model's tokenizer.json beside it".into(),
        }
    }

    /// Whether the tokenizer is LLaMA's.
    fn is_llama(&self) -> bool {
        self.tokenizer_class.as_deref().is_some_and(|class| class.starts_with("Llama"))
    }
}

/// `config.json` of the model; empty where there is none.
fn model_config(dir: &Path) -> Result<Map<String, Value>, TokenizerError> {
    let path = dir.join("config.json");
    if !path.exists() {
        return Ok(Map::new());
    }
    serde_json::from_slice(&read_file(&path)?).map_err(|e| TokenizerError::json(&path, e))
}

fn read_model(path: &Path) -> Result<Vec<u8>, TokenizerError> {
    let bytes = std::fs::metadata(path).map_err(|e| TokenizerError::io(path, e))?.len();
    if bytes > LARGEST_MODEL_BYTES as u64 {
        return Err(TokenizerError::malformed(path, "size", "at most 64 MiB", format!("{bytes} bytes")));
    }
    read_file(path)
}

/// The rank list of a folder.
pub(super) fn rank_list(dir: &Path) -> Result<Option<PathBuf>, TokenizerError> {
    let model = Some(dir.join("tokenizer.model")).filter(|path| path.exists());
    Ok(only_file(dir, "tiktoken")?.or(model))
}

/// The only file of a folder with an extension.
fn only_file(dir: &Path, extension: &str) -> Result<Option<PathBuf>, TokenizerError> {
    let entries = std::fs::read_dir(dir).map_err(|e| TokenizerError::io(dir, e))?;
    let mut files: Vec<_> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|e| e == extension))
        .collect();
    files.sort();
    match files.as_slice() {
        [] => Ok(None),
        [only] => Ok(Some(only.clone())),
        [first, second, ..] => Err(TokenizerError::Unsupported {
            path: first.clone(),
            what: format!("a second vocabulary, {}, in one folder", second.display()),
            hint: "keep the one that belongs to the model".into(),
        }),
    }
}
