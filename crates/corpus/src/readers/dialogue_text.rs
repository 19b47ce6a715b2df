//! Dialogues as plain text: a block per dialogue, headings and speakers on lines of their own (COVID-Dialogue, English).
//!
//! ```text
//! id=1
//! https://example.org/question
//!
//! Description
//! A made-up cough.
//!
//! Dialogue
//! Patient:
//! I have a cough.
//! Doctor:
//! Since when?
//! ```
//!
//! The description is the dialogue's context. An utterance ends where the next speaker's line or the next block
//! starts; its inner line breaks are kept. Specification: <https://github.com/UCSD-AI4H/COVID-Dialogue>.

use serde::Deserialize;

use super::{Reading, draft};
use crate::error::{At, Error, quote};
use crate::schema::{Content, Document, Mrd, Speaker, Utterance};
use crate::source::{Input, Lines};

/// Options of the format: the marks.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// What the first line of a block starts with; the rest of it is the id.
    pub id: String,
    /// The heading of the description.
    pub description: String,
    /// The heading of the dialogue.
    pub dialogue: String,
    /// The line before what the patient says.
    pub patient: String,
    /// The line before what the doctor says.
    pub doctor: String,
}

/// Reads dialogues into documents.
pub fn read(input: Input, options: &Options) -> Reading {
    Box::new(Reader { lines: input.lines(), pushed: None, started: false, options: options.clone() })
}

struct Reader {
    lines: Lines,
    pushed: Option<(usize, String)>,
    started: bool,
    options: Options,
}

impl Iterator for Reader {
    type Item = Result<Document, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut block: Vec<(usize, String)> = Vec::new();
        block.extend(self.pushed.take());
        let mut bad_line = None;
        for line in self.lines.by_ref() {
            match line {
                Err(error) if error.is_record() => bad_line = bad_line.or(Some(error)),
                Err(error) => return Some(Err(error)),
                Ok((number, line)) => {
                    if line.starts_with(&self.options.id) {
                        if self.started {
                            self.pushed = Some((number, line));
                            break;
                        }
                        self.started = true;
                    }
                    block.push((number, line));
                }
            }
        }
        if let Some(error) = bad_line {
            return Some(Err(error));
        }
        if block.iter().all(|(_, line)| line.trim().is_empty()) {
            return None;
        }
        Some(document(&block, self.lines.name(), &self.options))
    }
}

enum Part {
    Head,
    Description,
    Dialogue,
}

fn document(block: &[(usize, String)], file: &str, options: &Options) -> Result<Document, Error> {
    let at = |number: usize| At::new(file, number);
    let (first, line) = &block[0];
    let id = line.strip_prefix(&options.id).map(str::trim).ok_or_else(|| {
        at(*first).record(
            format!("a block that starts with `{}`", options.id),
            quote(line),
            "repair the block",
        )
    })?;
    let mut part = Part::Head;
    let mut context = String::new();
    let mut utterances: Vec<Utterance> = Vec::new();
    for (number, line) in &block[1..] {
        let mark = line.trim();
        match part {
            Part::Head if mark == options.description => part = Part::Description,
            Part::Head | Part::Description if mark == options.dialogue => part = Part::Dialogue,
            Part::Head => {}
            Part::Description => {
                context.push_str(line);
                context.push('\n');
            }
            Part::Dialogue if mark == options.patient || mark == options.doctor => {
                let speaker = if mark == options.patient { Speaker::Patient } else { Speaker::Doctor };
                utterances.push(Utterance { speaker, text: String::new() });
            }
            Part::Dialogue => match utterances.last_mut() {
                Some(said) => {
                    said.text.push_str(line);
                    said.text.push('\n');
                }
                None if mark.is_empty() => {}
                None => {
                    let expected = format!("`{}` or `{}`", options.patient, options.doctor);
                    return Err(at(*number).record(expected, quote(line), "name the speaker"));
                }
            },
        }
    }
    if utterances.is_empty() {
        let expected = format!("a heading `{}` and utterances after it", options.dialogue);
        return Err(at(*first).record(expected, "none", "repair or remove the block"));
    }
    for said in &mut utterances {
        // Some utterances came from a page with old line ends: a carriage return is a line break there.
        said.text = said.text.trim().replace('\r', "\n");
    }
    let context = Some(context.trim().to_owned()).filter(|context| !context.is_empty());
    Ok(draft(id, Content::Mrd(Mrd { context, utterances })))
}
