//! The known formats, and formats made from any template.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;

use super::Message;
use super::shield::Shield;
use super::template::Template;
use crate::tokenizer::{Tokenizer, TokenizerError};

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
    pub(super) apart: bool,
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
    #[serde(default)]
    stop: Vec<String>,
    /// Whether the tokenizer's end-of-text token ends a reply, whatever it is called.
    #[serde(default)]
    stop_at_end: bool,
    /// Further tokens that the template writes.
    #[serde(default)]
    tokens: Vec<String>,
    /// The special token that closes the last answer of a training conversation, where the template closes none.
    #[serde(default)]
    close: Option<String>,
    /// Whether an answer is tokenised as a text of its own, and not as what follows its prompt.
    #[serde(default)]
    apart: bool,
    /// What a reply starts with that is no part of its content.
    #[serde(default)]
    reply_start: String,
    /// How many ids a chat feeds at most; the oldest go first.
    #[serde(default)]
    history_ids: Option<usize>,
}

/// A table of the formats that come with the program: name, facts, template.
macro_rules! known {
    ($($name:literal),* $(,)?) => {
        [$((
            $name,
            include_str!(concat!("../../../../data/chat/", $name, ".toml")),
            include_str!(concat!("../../../../data/chat/", $name, ".jinja")),
        )),*]
    };
}

const KNOWN: [(&str, &str, &str); 18] = known![
    "taiyi1",
    "taiyi1_multi",
    "chatml",
    "glm4",
    "qwen3",
    "vicuna",
    "alpaca",
    "alpaca_zh",
    "alpaca2_zh",
    "llama2",
    "llama3",
    "baichuan",
    "baichuan2",
    "chatglm",
    "biogpt",
    "biogpt_prompt",
    "bloom",
    "completion",
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

    /// A format that comes with the program; [`names`](Self::names) lists them.
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
        let missing =
            |token: &str| TokenizerError::NoSpecial { format: name.to_owned(), token: token.to_owned() };
        // Some vocabularies hold the tokens of a format among ordinary ones.
        let find = |token: &String| {
            let id = tokenizer.special_id(token).or_else(|| tokenizer.token_to_id(token));
            Ok((token.clone(), id.ok_or_else(|| missing(token))?))
        };
        let mut stop_ids = Vec::new();
        let mut own = Vec::new();
        for token in facts.stop.iter().chain(&facts.close) {
            let (token, id) = find(token)?;
            if !stop_ids.contains(&id) {
                stop_ids.push(id);
            }
            own.push((token, id));
        }
        for token in &facts.tokens {
            own.push(find(token)?);
        }
        let tokens = boundaries(tokenizer);
        if facts.stop_at_end {
            let end = tokenizer.eos_id().ok_or_else(|| missing("eos_token"))?;
            stop_ids.insert(0, end);
        }
        let inner = Inner {
            name: name.to_owned(),
            shield: shield(name, tokenizer, own, &tokens)?,
            template: Template::new(name, template, tokens)?,
            stop_ids,
            close: facts.close,
            apart: facts.apart,
            reply_start: facts.reply_start,
            history_ids: facts.history_ids,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The known format whose template this is.
    pub(super) fn of_known_template(source: &str) -> Option<&'static str> {
        KNOWN.iter().find(|(.., known)| known.trim() == source.trim()).map(|(name, ..)| *name)
    }

    /// A format from any template: what closes an answer is found by rendering a small conversation. `tokens` are the special
    /// tokens by name, as the configuration gives them.
    pub(super) fn from_template(
        source: &str,
        tokenizer: &Tokenizer,
        tokens: BTreeMap<String, String>,
        stop_ids: Vec<u32>,
    ) -> Result<Self, TokenizerError> {
        const NAME: &str = "chat_template";
        let mut named = boundaries(tokenizer);
        named.extend(tokens);
        let mut inner = Inner {
            name: NAME.to_owned(),
            shield: shield(NAME, tokenizer, Vec::new(), &named)?,
            template: Template::new(NAME, source, named)?,
            stop_ids,
            close: None,
            apart: false,
            reply_start: String::new(),
            history_ids: None,
        };
        // Digits, which no template changes.
        let answer = [Message::user("1"), Message::assistant("2")];
        let next = [answer[0].clone(), answer[1].clone(), Message::user("3")];
        let marks = ['\u{FDD0}', '\u{FDD1}'];
        let render = |messages: &[Message], generate| {
            let text = inner.template.render(messages, generate, marks);
            text.map(|text| text.replace(marks, ""))
        };
        // A template that refuses these can still serve conversations it accepts.
        if let (Ok(asked), Ok(answered)) = (render(&answer[..1], true), render(&answer, false))
            && let Some(said) = answered.strip_prefix(&asked)
        {
            let within = inner.shield.find(said);
            let mark = match within.last() {
                Some((_, id)) => Some(*id),
                None => {
                    let followed = render(&next, false).unwrap_or_default();
                    let rest = followed.strip_prefix(&answered).unwrap_or_default();
                    let opening = inner.shield.find(rest).into_iter().find(|(at, _)| at.start == 0);
                    inner.close = opening.as_ref().map(|(at, _)| rest[at.clone()].to_owned());
                    opening.map(|(_, id)| id)
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

/// The tokens that begin and end a text, by the names templates use; empty where the vocabulary has none.
fn boundaries(tokenizer: &Tokenizer) -> BTreeMap<String, String> {
    let text = |id: u32| {
        let special = tokenizer.special_tokens().find(|(_, special)| *special == id);
        special.map_or_else(|| tokenizer.decode(&[id]), |(token, _)| token.to_owned())
    };
    let named = [("bos_token", tokenizer.bos_id()), ("eos_token", tokenizer.eos_id())];
    named.into_iter().map(|(name, id)| (name.to_owned(), id.map(text).unwrap_or_default())).collect()
}

/// Guards content against the tokenizer's special tokens, the format's `own` and those that its template writes by name.
fn shield(
    name: &str,
    tokenizer: &Tokenizer,
    own: Vec<(String, u32)>,
    named: &BTreeMap<String, String>,
) -> Result<Shield, TokenizerError> {
    let named = named.values().filter_map(|token| Some((token.clone(), tokenizer.token_to_id(token)?)));
    let special = tokenizer.special_tokens().map(|(token, id)| (token.to_owned(), id));
    let all: Vec<(String, u32)> = special.chain(own).chain(named).collect();
    let shield = Shield::new(all.iter().map(|(token, id)| (token.as_str(), *id)));
    let mut shield = shield.map_err(|error| TokenizerError::Template {
        format: name.to_owned(),
        reason: format!("the special tokens cannot be searched for: {error}"),
    })?;
    // What no vocabulary holds shows the unknown token, which ordinary text may become.
    shield.allow(&tokenizer.encode("\u{10FFFD}"));
    Ok(shield)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn every_format_file_is_read_and_names_its_template() {
        for (name, facts, template) in KNOWN {
            let facts: Facts = toml::from_str(facts).unwrap();
            assert_eq!(facts._template, format!("{name}.jinja"));
            assert!(facts.stop_at_end || !facts.stop.is_empty(), "{name}: nothing ends a reply");
            Template::new(name, template, BTreeMap::new()).unwrap();
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
