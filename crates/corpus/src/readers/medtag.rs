//! MedTag (GENETAG): tagged sentences in one file, mentions by token number in another.
//!
//! ```text
//! @@12345 We/PRP cloned/VBD p53/NEWGENE and/CC Rb1/NEWGENE //NEWGENE Rb2/NEWGENE1 ./.
//!
//! @@12345|2 2|p53
//! @@12345|4 6|Rb1 / Rb2
//! ```
//!
//! The text is the tokens joined by one space: the release has no other. Token numbers start at 0 and both ends
//! belong to the mention. The tags tell genes from words too, but where two genes touch only the mention file says
//! where one ends, so mentions come from it. Specification: the README of the GENETAG release.

use rustc_hash::{FxHashMap, FxHashSet};
use serde::Deserialize;

use super::{Files, Reading, draft};
use crate::card::Role;
use crate::error::{At, Error, quote};
use crate::offsets::CharSpan;
use crate::schema::{Content, Document, Entity, Ie, Passage};

/// Options of the format.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// The type every mention gets.
    pub kind: String,
}

/// A mention's token numbers, both inclusive, its text and its line.
type Mention = (usize, usize, String, usize);

/// Reads the sentences of a split with their mentions.
///
/// # Errors
/// Where a file cannot be opened, or the mention file cannot be read.
pub fn read(files: &Files, options: &Options) -> Result<Reading, Error> {
    let mut mentions: FxHashMap<String, Vec<Mention>> = FxHashMap::default();
    let mut broken = Vec::new();
    let mut mention_file = String::new();
    for input in files.open(Role::Annotations)? {
        mention_file = input.name.clone();
        for line in input.lines() {
            match line {
                Ok((_, line)) if line.trim().is_empty() => {}
                Ok((number, line)) => match mention(&line) {
                    Some((id, (first, last, text))) => {
                        mentions.entry(id.to_owned()).or_default().push((
                            first,
                            last,
                            text.to_owned(),
                            number,
                        ));
                    }
                    None => broken.push(At::new(&mention_file, number).record(
                        "`@@id|first last|text`",
                        quote(&line),
                        "repair or remove the line",
                    )),
                },
                Err(error) if error.is_record() => broken.push(error),
                Err(error) => return Err(error),
            }
        }
    }
    let mut lines = Vec::new();
    for input in files.open(Role::Documents)? {
        lines.push((input.name.clone(), input.lines()));
    }
    let lines = lines.into_iter().flat_map(|(file, lines)| lines.map(move |line| (file.clone(), line)));
    let lines = Box::new(lines.filter(|(_, line)| !matches!(line, Ok((_, text)) if text.trim().is_empty())));
    let sentences =
        Sentences { lines, mentions, mention_file, used: FxHashSet::default(), options: options.clone() };
    Ok(Box::new(broken.into_iter().map(Err).chain(sentences)))
}

type NamedLines = Box<dyn Iterator<Item = (String, Result<(usize, String), Error>)> + Send>;

struct Sentences {
    lines: NamedLines,
    mentions: FxHashMap<String, Vec<Mention>>,
    mention_file: String,
    used: FxHashSet<String>,
    options: Options,
}

impl Iterator for Sentences {
    type Item = Result<Document, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some((file, line)) = self.lines.next() {
            return Some(line.and_then(|(number, line)| {
                let at = At::new(&file, number);
                let document = document(&line, &at, &self.mentions, &self.mention_file, &self.options)?;
                self.used.insert(document.document_id.clone());
                Ok(document)
            }));
        }
        // Mentions of sentences that are nowhere, in the order of their lines.
        let lost = self.mentions.iter().filter(|(id, _)| !self.used.contains(*id));
        let (id, line) = lost.map(|(id, found)| (id.clone(), found[0].3)).min_by_key(|(_, line)| *line)?;
        self.used.insert(id.clone());
        Some(Err(At::new(&self.mention_file, line).record(
            "a mention of one of the sentences",
            format!("sentence `{id}`, which is missing or could not be read"),
            "remove the mention or add the sentence",
        )))
    }
}

fn mention(line: &str) -> Option<(&str, (usize, usize, &str))> {
    let mut parts = line.strip_prefix("@@")?.splitn(3, '|');
    let id = parts.next()?;
    let (first, rest) = parts.next()?.split_once(' ')?;
    let (last, text) = match parts.next() {
        Some(text) => (rest, text),
        // One line of the release lost its second bar (`11 11OCT-1`); the digits still end the numbers.
        None => rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?),
    };
    Some((id, (first.parse().ok()?, last.parse().ok()?, text)))
}

fn document(
    line: &str,
    at: &At,
    mentions: &FxHashMap<String, Vec<Mention>>,
    mention_file: &str,
    options: &Options,
) -> Result<Document, Error> {
    let expected = || at.record("`@@id token/TAG token/TAG …`", quote(line), "repair or remove the sentence");
    let (id, words) =
        line.trim_end().strip_prefix("@@").and_then(|rest| rest.split_once(' ')).ok_or_else(expected)?;
    let mut text = String::new();
    let mut chars = 0;
    let mut tokens: Vec<CharSpan> = Vec::new();
    for word in words.split(' ').filter(|word| !word.is_empty()) {
        // The token may hold slashes (`//NEWGENE`), the tag never does.
        let (token, _) = word.rsplit_once('/').ok_or_else(expected)?;
        if !tokens.is_empty() {
            text.push(' ');
            chars += 1;
        }
        let length = token.chars().count();
        text.push_str(token);
        tokens.push(CharSpan::new(chars, chars + length));
        chars += length;
    }
    let mut entities = Vec::new();
    for (first, last, surface, number) in mentions.get(id).map(Vec::as_slice).unwrap_or_default() {
        let span = match (tokens.get(*first), tokens.get(*last)) {
            (Some(first), Some(last)) if first.start < last.end => CharSpan::new(first.start, last.end),
            _ => {
                return Err(At::new(mention_file, *number).record(
                    format!("tokens within the {} of sentence {id}", tokens.len()),
                    format!("`{first} {last}`"),
                    "repair or remove the mention",
                ));
            }
        };
        entities.push((span, surface.clone()));
    }
    // The mention files are sorted by bytes ("14 18" before "9 9"); documents list mentions as they are read.
    entities.sort_by_key(|(span, _)| *span);
    let entities = entities.into_iter().enumerate().map(|(number, (span, surface))| Entity {
        id: format!("T{}", number + 1),
        kind: options.kind.clone(),
        text: vec![surface],
        offsets: vec![span],
        normalized: Vec::new(),
    });
    let entities = entities.collect();
    let offsets = CharSpan::new(0, chars);
    let passages = vec![Passage { id: "sentence".into(), kind: "sentence".into(), text, offsets }];
    Ok(draft(id, Content::Ie(Ie { passages, entities, ..Ie::default() })))
}
