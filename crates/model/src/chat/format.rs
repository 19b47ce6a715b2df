//! The known formats, and formats found beside a model.

use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::Message;
use super::shield::Shield;
use super::template::Template;
use crate::tokenizer::{Tokenizer, TokenizerConfig, TokenizerError};

/// How conversations with one model are laid out; cloning shares it.
#[derive(Debug, Clone)]
pub struct ChatFormat {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) name: String,
    pub(super) template: Template,
    pub(super) shield: Shield,
    pub(super) stop_ids: Vec<u32>,
    pub(super) close: Option<String>,
    reply_start: String,
    history_ids: Option<usize>,
}

/// A file `data/chat/<name>.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Facts {
    /// The file of the template, beside this one; the table below holds its text.
    #[serde(rename = "template")]
    _template: String,
    /// Special tokens that end a reply.
    stop: Vec<String>,
    /// The special token that closes the last answer of a training conversation, where the template closes none.
    #[serde(default)]
    close: Option<String>,
    /// What a reply starts with that is no part of its content.
    #[serde(default)]
    reply_start: String,
    /// How many ids a chat feeds at most; the oldest go first.
    #[serde(default)]
    history_ids: Option<usize>,
}

/// The formats that come with the program: name, facts, template.
const KNOWN: [(&str, &str, &str); 4] = [
    (
        "taiyi1",
        include_str!("../../../../data/chat/taiyi1.toml"),
        include_str!("../../../../data/chat/taiyi1.jinja"),
    ),
    (
        "taiyi1_multi",
        include_str!("../../../../data/chat/taiyi1_multi.toml"),
        include_str!("../../../../data/chat/taiyi1_multi.jinja"),
    ),
    (
        "chatml",
        include_str!("../../../../data/chat/chatml.toml"),
        include_str!("../../../../data/chat/chatml.jinja"),
    ),
    (
        "glm4",
        include_str!("../../../../data/chat/glm4.toml"),
        include_str!("../../../../data/chat/glm4.jinja"),
    ),
];

impl ChatFormat {
    /// The names [`by_name`](Self::by_name) knows.
    pub fn names() -> impl Iterator<Item = &'static str> {
        KNOWN.iter().map(|(name, ..)| *name)
    }

    /// The Jinja template of a known format, as `tokenizer_config.json` can hold it.
    pub fn template_source(name: &str) -> Option<&'static str> {
        KNOWN.iter().find(|(known, ..)| *known == name).map(|(.., template)| *template)
    }

    /// A format that comes with the program: `taiyi1`, `taiyi1_multi`, `chatml` or `glm4`.
    ///
    /// # Errors
    ///
    /// An unknown name; a tokenizer without the special tokens of the format.
    pub fn by_name(name: &str, tokenizer: &Tokenizer) -> Result<Self, TokenizerError> {
        let Some((name, facts, template)) = KNOWN.iter().find(|(known, ..)| *known == name) else {
            let known = Self::names().collect::<Vec<_>>().join(", ");
            return Err(TokenizerError::UnknownFormat { name: name.to_owned(), known });
        };
        let facts: Facts = toml::from_str(facts).expect("a test reads every format file");
        Self::known(name, facts, template, tokenizer)
    }

    fn known(
        name: &str,
        facts: Facts,
        template: &str,
        tokenizer: &Tokenizer,
    ) -> Result<Self, TokenizerError> {
        let mut stop_ids = Vec::new();
        for token in facts.stop.iter().chain(&facts.close) {
            let id = tokenizer
                .special_id(token)
                .ok_or_else(|| TokenizerError::NoSpecial { format: name.to_owned(), token: token.clone() })?;
            if !stop_ids.contains(&id) {
                stop_ids.push(id);
            }
        }
        let inner = Inner {
            name: name.to_owned(),
            template: Template::new(name, template, None, None)?,
            shield: shield(name, tokenizer)?,
            stop_ids,
            close: facts.close,
            reply_start: facts.reply_start,
            history_ids: facts.history_ids,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The format of a model folder.
    ///
    /// A template in `chat_template.jinja` or `tokenizer_config.json` counts first (GLM-4's own and copies of the known ones
    /// become the known formats). Without one, Qwen's first generation uses ChatML when its `generation_config.json` says so,
    /// and everything else with an end-of-text mark the serialisation of Taiyi 1.
    ///
    /// # Errors
    ///
    /// Files that cannot be read, a template that does not compile, no format to be found.
    pub fn load(dir: &Path, tokenizer: &Tokenizer) -> Result<Self, TokenizerError> {
        let config = TokenizerConfig::read(dir)?;
        let generation = generation_config(dir)?;
        if config.tokenizer_class.as_deref() == Some("ChatGLM4Tokenizer") {
            return Self::by_name("glm4", tokenizer);
        }
        let file = dir.join("chat_template.jinja");
        let source = match std::fs::read_to_string(&file) {
            Ok(source) => Some(source),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => config.chat_template.clone(),
            Err(source) => return Err(TokenizerError::Io { path: file, source }),
        };
        let Some(source) = source else {
            let chatml = generation.get("chat_format").and_then(Value::as_str) == Some("chatml");
            return Self::by_name(if chatml { "chatml" } else { "taiyi1" }, tokenizer);
        };
        if let Some((name, ..)) = KNOWN.iter().find(|(.., known)| known.trim() == source.trim()) {
            return Self::by_name(name, tokenizer);
        }
        let mut stop_ids: Vec<u32> = tokenizer.eos_id().into_iter().collect();
        let listed = match generation.get("eos_token_id") {
            Some(Value::Array(ids)) => ids.as_slice(),
            Some(id) => std::slice::from_ref(id),
            None => &[],
        };
        for id in listed.iter().filter_map(Value::as_u64).filter_map(|id| u32::try_from(id).ok()) {
            if !stop_ids.contains(&id) {
                stop_ids.push(id);
            }
        }
        Self::from_template(&source, tokenizer, &config, stop_ids)
    }

    /// A format from any template: what closes an answer is found by rendering a small conversation.
    fn from_template(
        source: &str,
        tokenizer: &Tokenizer,
        config: &TokenizerConfig,
        stop_ids: Vec<u32>,
    ) -> Result<Self, TokenizerError> {
        const NAME: &str = "chat_template";
        let mut inner = Inner {
            name: NAME.to_owned(),
            template: Template::new(NAME, source, config.bos_token.clone(), config.eos_token.clone())?,
            shield: shield(NAME, tokenizer)?,
            stop_ids,
            close: None,
            reply_start: String::new(),
            history_ids: None,
        };
        let answer = [Message::user("1"), Message::assistant("2")];
        let next = [answer[0].clone(), answer[1].clone(), Message::user("3")];
        // A template that refuses these can still serve conversations it accepts.
        if let (Ok(asked), Ok(answered), Ok(followed)) = (
            inner.template.render(&answer[..1], true),
            inner.template.render(&answer, false),
            inner.template.render(&next, false),
        ) && let Some(said) = answered.strip_prefix(&asked)
            && let Some(rest) = followed.strip_prefix(&answered)
        {
            let specials: Vec<(&str, u32)> = tokenizer.special_tokens().collect();
            let last = specials
                .iter()
                .filter_map(|(token, id)| Some((said.rfind(token)? + token.len(), token, id)))
                .max_by_key(|(end, ..)| *end);
            let mark = match last {
                Some((_, _, id)) => Some(*id),
                None => {
                    let opening = specials.iter().filter(|(token, _)| rest.starts_with(token));
                    let opening = opening.max_by_key(|(token, _)| token.len());
                    inner.close = opening.map(|(token, _)| (*token).to_owned());
                    opening.map(|(_, id)| *id)
                }
            };
            if let Some(id) = mark.filter(|id| !inner.stop_ids.contains(id)) {
                inner.stop_ids.push(id);
            }
            if let Some((before, _)) = said.split_once('2')
                && before.trim().is_empty()
            {
                inner.reply_start = before.to_owned();
            }
        }
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The name of the format.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The ids at which a reply is over.
    pub fn stop_ids(&self) -> &[u32] {
        &self.inner.stop_ids
    }

    /// How many ids a chat feeds at most, where the format says so.
    pub fn history_ids(&self) -> Option<usize> {
        self.inner.history_ids
    }

    /// Cuts a rendered chat to the last ids, as the published chat script of the format does; the cut may fall inside a
    /// turn. Formats without such a rule leave the ids as they are.
    pub fn cut_history(&self, ids: &mut Vec<u32>) {
        if let Some(most) = self.inner.history_ids
            && ids.len() > most
        {
            ids.drain(..ids.len() - most);
        }
    }

    /// The content of a generated reply: without what the format puts before it (GLM-4's empty metadata line).
    pub fn reply<'t>(&self, generated: &'t str) -> &'t str {
        generated.strip_prefix(self.inner.reply_start.as_str()).unwrap_or(generated)
    }
}

fn shield(name: &str, tokenizer: &Tokenizer) -> Result<Shield, TokenizerError> {
    Shield::new(tokenizer.special_tokens()).map_err(|error| TokenizerError::Template {
        format: name.to_owned(),
        reason: format!("the special tokens cannot be searched for: {error}"),
    })
}

fn generation_config(dir: &Path) -> Result<serde_json::Map<String, Value>, TokenizerError> {
    let path = dir.join("generation_config.json");
    match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|source| TokenizerError::Json { path, source }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Default::default()),
        Err(source) => Err(TokenizerError::Io { path, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_file_is_read_and_names_its_template() {
        for (name, facts, template) in KNOWN {
            let facts: Facts = toml::from_str(facts).unwrap();
            assert_eq!(facts._template, format!("{name}.jinja"));
            Template::new(name, template, None, None).unwrap();
        }
    }

    #[test]
    fn every_file_of_the_folder_is_known() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/chat");
        let mut files: Vec<String> = std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        let mut expected: Vec<String> =
            KNOWN.iter().flat_map(|(name, ..)| [format!("{name}.jinja"), format!("{name}.toml")]).collect();
        expected.sort();
        assert_eq!(files, expected);
    }
}
