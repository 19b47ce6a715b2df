//! Evidence Inference: prompts as one CSV, annotations of them as another, splits as lists of article ids.
//!
//! ```text
//! PromptID,PMCID,Outcome,Intervention,Comparator
//! 7,123,pain after a day,aspirin,placebo
//!
//! UserID,PromptID,PMCID,Valid Label,Valid Reasoning,Label,Annotations,Label Code,In Abstract,Evidence Start,Evidence End
//! 0,7,123,True,True,significantly decreased,"Pain fell (p < 0.01).",-1,UNK,10,31
//! ```
//!
//! A document is a prompt: its question is the three fields of the prompt, its contexts are the distinct evidence
//! passages that valid annotations quote, its answer the label most valid annotations give (the first met where two
//! tie). Label codes, not label texts, are counted: the release spells one label two ways. With `labelled = true`
//! only prompts with annotations are read; of these, those without a valid one have no answer.
//! Specification: <https://github.com/jayded/evidence-inference>.

use rustc_hash::FxHashMap;
use serde::Deserialize;

use super::keyed_qa::ids;
use super::{Files, Reading, draft};
use crate::card::Role;
use crate::error::{At, Error};
use crate::schema::{Content, Document, Qa, QaKind};
use crate::source::{Encoding, Input, decode};

/// Options of the format.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// Whether prompts without annotations are left out.
    pub labelled: bool,
}

/// The choices, in the order of the publication: codes -1, 0, 1.
const CHOICES: [(&str, &str); 3] =
    [("-1", "significantly decreased"), ("0", "no significant difference"), ("1", "significantly increased")];

#[derive(Deserialize)]
struct Prompt {
    #[serde(rename = "PromptID")]
    id: String,
    #[serde(rename = "PMCID")]
    article: String,
    #[serde(rename = "Outcome")]
    outcome: String,
    #[serde(rename = "Intervention")]
    intervention: String,
    #[serde(rename = "Comparator")]
    comparator: String,
}

#[derive(Deserialize)]
struct Annotation {
    #[serde(rename = "PromptID")]
    prompt: String,
    #[serde(rename = "Valid Label")]
    valid_label: String,
    #[serde(rename = "Valid Reasoning")]
    valid_reasoning: String,
    #[serde(rename = "Label Code")]
    code: String,
    #[serde(rename = "Annotations")]
    evidence: String,
}

#[derive(Clone, Default)]
struct Annotated {
    votes: [usize; 3],
    first: Option<usize>,
    evidence: Vec<String>,
}

/// Reads the prompts of a split.
///
/// # Errors
/// Where a file cannot be opened, or the annotations or the split's ids cannot be read.
pub fn read(files: &Files, options: &Options) -> Result<Reading, Error> {
    let include = ids(files, Role::Include)?;
    let exclude = ids(files, Role::Exclude)?.unwrap_or_default();
    let mut broken = Vec::new();
    let mut annotated: FxHashMap<String, Annotated> = FxHashMap::default();
    for input in files.open(Role::Annotations)? {
        for row in rows::<Annotation>(input, "a row of annotations") {
            let (at, row) = match row {
                Ok(row) => row,
                Err(error) if error.is_record() => {
                    broken.push(error);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let Some(label) = CHOICES.iter().position(|(code, _)| *code == row.code) else {
                let found = format!("`{}`", row.code);
                broken.push(at.record("label code -1, 0 or 1", found, "repair or remove the annotation"));
                continue;
            };
            let prompt = annotated.entry(row.prompt).or_default();
            if row.valid_label != "True" {
                continue;
            }
            prompt.votes[label] += 1;
            prompt.first = prompt.first.or(Some(label));
            let evidence = row.evidence.trim();
            if row.valid_reasoning == "True"
                && !evidence.is_empty()
                && !prompt.evidence.iter().any(|other| other == evidence)
            {
                prompt.evidence.push(evidence.to_owned());
            }
        }
    }
    let labelled = options.labelled;
    let documents = files.each(move |input| {
        let (include, exclude, annotated) = (include.clone(), exclude.clone(), annotated.clone());
        Box::new(rows::<Prompt>(input, "a prompt").filter_map(move |row| {
            let prompt = match row {
                Ok((_, prompt)) => prompt,
                Err(error) => return Some(Err(error)),
            };
            let inside = include.as_ref().is_none_or(|ids| ids.contains(&prompt.article));
            let found = annotated.get(&prompt.id);
            if !inside || exclude.contains(&prompt.article) || (labelled && found.is_none()) {
                return None;
            }
            Some(Ok(document(prompt, found.cloned().unwrap_or_default())))
        }))
    })?;
    Ok(Box::new(broken.into_iter().map(Err).chain(documents)))
}

fn document(prompt: Prompt, annotated: Annotated) -> Document {
    let most = annotated.votes.iter().copied().max().unwrap_or(0);
    let winner = (0..CHOICES.len()).filter(|&label| most > 0 && annotated.votes[label] == most);
    let winners: Vec<usize> = winner.collect();
    let answer = match annotated.first {
        Some(first) if winners.contains(&first) => Some(first),
        _ => winners.first().copied(),
    };
    let question = format!(
        "Outcome: {}\nIntervention: {}\nComparator: {}",
        prompt.outcome.trim(),
        prompt.intervention.trim(),
        prompt.comparator.trim()
    );
    let qa = Qa {
        question,
        contexts: annotated.evidence,
        choices: CHOICES.iter().map(|(_, label)| (*label).to_owned()).collect(),
        answers: answer.map(|label| CHOICES[label].1.to_owned()).into_iter().collect(),
        kind: QaKind::MultipleChoice,
    };
    let mut document = draft(prompt.article, Content::Qa(qa));
    document.id = prompt.id;
    document
}

/// The rows of a CSV with a heading, with the line each starts on.
pub(crate) fn rows<T: serde::de::DeserializeOwned + Send + 'static>(
    input: Input,
    expected: &'static str,
) -> impl Iterator<Item = Result<(At, T), Error>> + Send {
    let file = input.name;
    let reader = csv::ReaderBuilder::new().from_reader(input.bytes);
    let mut done = false;
    let mut rows = reader.into_byte_records();
    std::iter::from_fn(move || {
        if done {
            return None;
        }
        let heading = match rows.reader_mut().byte_headers() {
            Ok(heading) => heading.clone(),
            Err(error) => {
                done = true;
                return Some(Err(csv_error(&file, 1, error)));
            }
        };
        match rows.next()? {
            Ok(row) => {
                let line = row.position().map_or(0, |position| position.line() as usize);
                let at = At::new(&file, line);
                if let Some(field) = row.iter().find(|field| std::str::from_utf8(field).is_err()) {
                    let error = decode(field.to_vec(), Encoding::Utf8, &file, line);
                    done = matches!(error, Err(Error::Encoding { whole_file: true, .. }));
                    return error.err().map(Err);
                }
                Some(match row.deserialize::<T>(Some(&heading)) {
                    Ok(row) => Ok((at, row)),
                    Err(error) => Err(at.record(expected, error.to_string(), "repair or remove the row")),
                })
            }
            Err(error) => {
                let line = rows.reader().position().line() as usize;
                let error = csv_error(&file, line, error);
                done = !error.is_record();
                Some(Err(error))
            }
        }
    })
}

/// A CSV library error as one of ours: unequal rows lose themselves, the rest lose the file.
pub(crate) fn csv_error(file: &str, line: usize, error: csv::Error) -> Error {
    let shown = error.to_string();
    match error.into_kind() {
        csv::ErrorKind::Io(source) => Error::Read { file: file.to_owned(), line, source },
        csv::ErrorKind::UnequalLengths { pos, expected_len, len } => {
            let line = pos.map_or(line, |pos| pos.line() as usize);
            let expected = format!("{expected_len} columns");
            At::new(file, line).record(expected, format!("{len}"), "look for a lost quotation mark or comma")
        }
        _ => At::new(file, line).format("CSV", shown, "check the file"),
    }
}
