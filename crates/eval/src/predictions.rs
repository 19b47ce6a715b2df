//! Predictions: what was replied, one JSON object a line, written before it is scored.
//!
//! ```json
//! {"id": "8701013", "document_id": "8701013", "prompt": "Find every …", "reply": "disease: delirium", "prediction": {"entities": [{"type": "Disease", "text": "delirium", "offsets": [[73, 81]]}]}}
//! ```
//!
//! An encoder does not reply: its lines have the text in place of the prompt, and no `reply`. To be scored, a line needs `id` (or a `document_id` that belongs to one item only) and `reply` or `prediction`. Where both stand there, the
//! reply counts: the prediction was made of it. A `prediction` holds one of
//!
//! - `"entities"`: each with `"type"`, `"text"`, and `"offsets"`, a list of half-open spans in code points of the document's passages
//!   joined by one space (`"start"` and `"end"` will do). An entity without offsets is looked for in the text; with an
//!   empty list it has no place of its own in it.
//! - `"relations"` (or `"triples"`): each with `"relation"` (or `"type"`), `"head"` and `"tail"`;
//! - `"labels"`: a list (or `"label"`: one);
//! - `"choice"`: the text of the chosen choice.
//!
//! Types and labels may be written as in prompts or as the source spells them.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use taiyi_corpus::offsets::{CharSpan, TextIndex};
use taiyi_instruct::Triple;

use crate::error::EvalError;
use crate::items::{Gold, Item};

/// A prediction in place of a reply, or made of one. Types and labels are in the names of reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Prediction {
    /// Entities.
    Entities(Vec<PredictedEntity>),
    /// Relations.
    Relations(Vec<Triple>),
    /// Labels.
    Labels(Vec<String>),
    /// The text of a choice; `None` where none was made.
    Choice(Option<String>),
}

/// A predicted entity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PredictedEntity {
    /// The type.
    #[serde(rename = "type")]
    pub kind: String,
    /// The string.
    pub text: String,
    /// Where it stands, in code points; `None` where it is to be looked for, empty where it has no place of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offsets: Option<Vec<CharSpan>>,
}

impl Prediction {
    /// A prediction of nothing, of the kind that `item` asks for.
    pub fn nothing(item: &Item) -> Self {
        match item.gold {
            Gold::Entities { .. } => Self::Entities(Vec::new()),
            Gold::Triples { .. } => Self::Relations(Vec::new()),
            Gold::Labels(_) => Self::Labels(Vec::new()),
            Gold::Choice(_) => Self::Choice(None),
        }
    }
}

/// What a line of a predictions file says of one item.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// The model's reply.
    pub reply: Option<String>,
    /// A prediction.
    pub prediction: Option<Prediction>,
    /// Whether the reply was cut off at the length limit.
    pub cut_off: bool,
}

impl Given {
    /// A reply alone.
    pub fn reply(text: impl Into<String>) -> Self {
        Self { reply: Some(text.into()), ..Self::default() }
    }

    /// A prediction alone.
    pub fn prediction(prediction: Prediction) -> Self {
        Self { prediction: Some(prediction), ..Self::default() }
    }
}

/// A line as it is written.
#[derive(Serialize)]
pub(crate) struct Line<'a> {
    pub(crate) id: &'a str,
    pub(crate) document_id: &'a str,
    pub(crate) prompt: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reply: Option<&'a str>,
    pub(crate) prediction: &'a Prediction,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) unparsable: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) cut_off: bool,
    pub(crate) model: &'a str,
}

/// A line as it is read.
#[derive(Deserialize)]
struct ReadLine {
    id: Option<Id>,
    document_id: Option<Id>,
    prompt: Option<String>,
    reply: Option<String>,
    prediction: Option<Value>,
    #[serde(default)]
    cut_off: bool,
    model: Option<String>,
}

/// An id; some programs write PubMed ids as numbers.
#[derive(Deserialize)]
#[serde(untagged)]
enum Id {
    Text(String),
    Number(u64),
}

impl Id {
    fn text(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Number(number) => number.to_string(),
        }
    }
}

/// Reads a predictions file: what it says of each item, in the order of the items; `None` where it says nothing.
///
/// # Errors
/// When the file cannot be read, a line is no prediction, names no item, an item twice, or spans past the text's end.
pub fn read(path: &Path, items: &[Item]) -> Result<Vec<Option<Given>>, EvalError> {
    let finder = Finder::new(items);
    let mut given: Vec<Option<Given>> = vec![None; items.len()];
    for line in Lines::open(path)? {
        let (number, text) = line?;
        if text.trim().is_empty() {
            continue;
        }
        let wrong = |found: String| EvalError::Prediction { path: path.to_owned(), line: number, found };
        let line: ReadLine = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        let at = finder.find(&line).map_err(|problem| match problem {
            NotFound::NoId => wrong("neither id".to_owned()),
            NotFound::Problem(id, problem) => {
                EvalError::PredictionId { path: path.to_owned(), line: number, id, problem }
            }
        })?;
        let prediction = match &line.prediction {
            None | Some(Value::Null) => None,
            Some(value) => Some(from_value(value, &items[at]).map_err(wrong)?),
        };
        if line.reply.is_none() && prediction.is_none() {
            return Err(wrong("neither of the two".to_owned()));
        }
        if given[at].is_some() {
            return Err(EvalError::PredictionId {
                path: path.to_owned(),
                line: number,
                id: items[at].id.clone(),
                problem: "has a prediction on an earlier line already",
            });
        }
        given[at] = Some(Given { reply: line.reply, prediction, cut_off: line.cut_off });
    }
    Ok(given)
}

/// What an interrupted or earlier run by the same model said of the same inputs, by item; `asked` is what an item's line must say
/// was asked. Lines that cannot be read, such as a last one that was being written, are not reused.
pub(crate) fn reusable(
    path: &Path,
    items: &[Item],
    model: &str,
    asked: &dyn Fn(&Item) -> String,
) -> Result<Vec<Option<Given>>, EvalError> {
    let mut given: Vec<Option<Given>> = vec![None; items.len()];
    if !path.exists() {
        return Ok(given);
    }
    let finder = Finder::new(items);
    for line in Lines::open(path)? {
        let Ok((_, text)) = line else { break };
        let Ok(line) = serde_json::from_str::<ReadLine>(&text) else { continue };
        let Ok(at) = finder.find(&line) else { continue };
        let item = &items[at];
        if line.model.as_deref() != Some(model) || line.prompt.as_deref() != Some(&asked(item)) {
            continue;
        }
        given[at] = match (line.reply, line.prediction) {
            (Some(reply), _) => Some(Given { reply: Some(reply), prediction: None, cut_off: line.cut_off }),
            (None, Some(value)) => from_value(&value, item).ok().map(Given::prediction),
            (None, None) => None,
        };
    }
    Ok(given)
}

struct Finder<'a> {
    by_id: HashMap<&'a str, usize>,
    /// `None` for a document that several items are about.
    by_document: HashMap<&'a str, Option<usize>>,
}

enum NotFound {
    NoId,
    Problem(String, &'static str),
}

impl<'a> Finder<'a> {
    fn new(items: &'a [Item]) -> Self {
        let mut by_document: HashMap<&str, Option<usize>> = HashMap::with_capacity(items.len());
        for (at, item) in items.iter().enumerate() {
            by_document.entry(&item.document_id).and_modify(|several| *several = None).or_insert(Some(at));
        }
        Self {
            by_id: items.iter().enumerate().map(|(at, item)| (item.id.as_str(), at)).collect(),
            by_document,
        }
    }

    fn find(&self, line: &ReadLine) -> Result<usize, NotFound> {
        let text = |id: &Id| match id {
            Id::Text(text) => text.clone(),
            Id::Number(number) => Id::Number(*number).text(),
        };
        let id = line.id.as_ref().map(text);
        if let Some(at) = id.as_ref().and_then(|id| self.by_id.get(id.as_str())) {
            return Ok(*at);
        }
        // Where ids repeat across splits an item's own id has its split before the source's one.
        let document = line.document_id.as_ref().map(text).or(id).ok_or(NotFound::NoId)?;
        match self.by_document.get(document.as_str()) {
            Some(Some(at)) => Ok(*at),
            Some(None) => {
                Err(NotFound::Problem(document, "is a document with several items; give the `id` of one"))
            }
            None => Err(NotFound::Problem(document, "is not among the items that are scored")),
        }
    }
}

struct Lines {
    path: PathBuf,
    reader: BufReader<File>,
    number: usize,
}

impl Lines {
    fn open(path: &Path) -> Result<Self, EvalError> {
        let file = File::open(path).map_err(EvalError::io(path))?;
        Ok(Self { path: path.to_owned(), reader: BufReader::new(file), number: 0 })
    }
}

impl Iterator for Lines {
    type Item = Result<(usize, String), EvalError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut bytes = Vec::new();
        self.number += 1;
        match self.reader.read_until(b'\n', &mut bytes) {
            Ok(0) => None,
            Ok(_) => Some(match String::from_utf8(bytes) {
                Ok(text) => Ok((self.number, text)),
                Err(_) => Err(EvalError::Prediction {
                    path: self.path.clone(),
                    line: self.number,
                    found: "text that is not UTF-8".to_owned(),
                }),
            }),
            Err(source) => Some(Err(EvalError::Io { path: self.path.clone(), source })),
        }
    }
}

/// Reads the value of `prediction`.
fn from_value(value: &Value, item: &Item) -> Result<Prediction, String> {
    let field =
        |names: &[&str]| names.iter().find_map(|name| value.get(name)).filter(|value| !value.is_null());
    let list = |value: &Value| match value {
        Value::Array(values) => values.clone(),
        one => vec![one.clone()],
    };
    let text = |value: &Value, what: &str| match value {
        Value::String(text) => Ok(text.clone()),
        other => Err(format!("{what} that is not a text: {other}")),
    };
    let found = match &item.gold {
        Gold::Entities { .. } => {
            let index = TextIndex::new(&item.text);
            field(&["entities"]).map(|value| {
                let entities =
                    list(value).iter().map(|value| entity(value, item, &index)).collect::<Result<_, _>>()?;
                Ok(Prediction::Entities(entities))
            })
        }
        Gold::Triples { .. } => field(&["relations", "triples"]).map(|value| {
            let triple = |value: &Value| {
                let part = |names: &[&str]| {
                    let found = names.iter().find_map(|name| value.get(name));
                    text(found.unwrap_or(&Value::Null), &format!("a relation's `{}`", names[0]))
                };
                let relation = item.names.reported(&part(&["relation", "type"])?).to_owned();
                Ok(Triple { relation, head: part(&["head"])?, tail: part(&["tail"])? })
            };
            Ok(Prediction::Relations(list(value).iter().map(triple).collect::<Result<_, String>>()?))
        }),
        Gold::Labels(_) => field(&["labels", "label"]).map(|value| {
            let label = |value: &Value| Ok(item.names.reported(&text(value, "a label")?).to_owned());
            Ok(Prediction::Labels(list(value).iter().map(label).collect::<Result<_, String>>()?))
        }),
        Gold::Choice(_) => match value.get("choice") {
            Some(Value::Null) => Some(Ok(Prediction::Choice(None))),
            Some(choice) => Some(text(choice, "a choice").map(|choice| Prediction::Choice(Some(choice)))),
            None => None,
        },
    };
    found.unwrap_or_else(|| {
        let wanted = match &item.gold {
            Gold::Entities { .. } => "entities",
            Gold::Triples { .. } => "relations",
            Gold::Labels(_) => "labels",
            Gold::Choice(_) => "choice",
        };
        Err(format!("a `prediction` without `{wanted}`"))
    })
}

fn entity(value: &Value, item: &Item, index: &TextIndex) -> Result<PredictedEntity, String> {
    let kind = value
        .get("type")
        .and_then(Value::as_str)
        .ok_or_else(|| format!("an entity without a `type`: {value}"))?;
    let number = |value: &Value| value.as_u64().and_then(|number| usize::try_from(number).ok());
    let span = |start: &Value, end: &Value| match (number(start), number(end)) {
        (Some(start), Some(end)) => Ok(CharSpan::new(start, end)),
        _ => Err(format!("offsets that are not whole numbers: {value}")),
    };
    let offsets = match (value.get("offsets"), value.get("start"), value.get("end")) {
        (Some(Value::Array(parts)), ..) => match parts.as_slice() {
            [start @ Value::Number(_), end] => Some(vec![span(start, end)?]),
            parts => {
                let part = |part: &Value| match part.as_array().map(Vec::as_slice) {
                    Some([start, end]) => span(start, end),
                    _ => Err(format!("offsets that are not pairs of numbers: {value}")),
                };
                Some(parts.iter().map(part).collect::<Result<Vec<_>, _>>()?)
            }
        },
        (None | Some(Value::Null), Some(start), Some(end)) => Some(vec![span(start, end)?]),
        (None | Some(Value::Null), None, None) => None,
        _ => return Err(format!("an entity with half an offset: {value}")),
    };
    let mut strings = Vec::new();
    for span in offsets.iter().flatten() {
        let string = index.slice(*span).filter(|string| !string.is_empty()).ok_or_else(|| {
            format!("offsets {}..{} in a text of {} code points", span.start, span.end, index.chars())
        })?;
        strings.push(string);
    }
    let text = match value.get("text") {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => parts.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "),
        _ => strings.join(" "),
    };
    if text.trim().is_empty() {
        return Err(format!("an entity with neither text nor offsets: {value}"));
    }
    Ok(PredictedEntity { kind: item.names.reported(kind).to_owned(), text, offsets })
}

/// Appends lines to `<name>.part` beside the target; [`finish`](Self::finish) puts the whole file in place.
pub(crate) struct Writer {
    target: PathBuf,
    part: PathBuf,
    /// Whether what was reused is still being copied into `<name>.part.new`.
    fresh: bool,
    file: BufWriter<File>,
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.fresh {
            // The copy is not whole; what it was copied from is still there.
            let _ = std::fs::remove_file(fresh_path(&self.part));
        }
    }
}

fn fresh_path(part: &Path) -> PathBuf {
    let mut name = part.to_owned().into_os_string();
    name.push(".new");
    name.into()
}

impl Writer {
    /// Where the lines of an unfinished run stand.
    pub(crate) fn part_path(target: &Path) -> PathBuf {
        let mut name = target.file_name().unwrap_or_default().to_owned();
        name.push(".part");
        target.with_file_name(name)
    }

    /// Starts the part anew; what is reused is written into it again first.
    pub(crate) fn create(target: &Path) -> Result<Self, EvalError> {
        if let Some(folder) = target.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(EvalError::io(folder))?;
        }
        let part = Self::part_path(target);
        let fresh = fresh_path(&part);
        let file = File::create(&fresh).map_err(EvalError::io(&fresh))?;
        Ok(Self { target: target.to_owned(), part, fresh: true, file: BufWriter::new(file) })
    }

    /// What was reused stands in the new file: from here on it is the part.
    pub(crate) fn replace_part(&mut self) -> Result<(), EvalError> {
        self.flush()?;
        std::fs::rename(fresh_path(&self.part), &self.part).map_err(EvalError::io(&self.part))?;
        self.fresh = false;
        Ok(())
    }

    pub(crate) fn write(&mut self, line: &Line) -> Result<(), EvalError> {
        let fail = EvalError::io(&self.part);
        let mut text = serde_json::to_vec(line).expect("a line holds texts and numbers only");
        text.push(b'\n');
        self.file.write_all(&text).map_err(fail)
    }

    /// Hands what was written to the system, so that a killed run loses at most what was asked since.
    pub(crate) fn flush(&mut self) -> Result<(), EvalError> {
        self.file.flush().map_err(EvalError::io(&self.part))
    }

    /// Puts the file in place.
    pub(crate) fn finish(mut self) -> Result<(), EvalError> {
        self.flush()?;
        self.file.get_ref().sync_all().map_err(EvalError::io(&self.part))?;
        std::fs::rename(&self.part, &self.target).map_err(EvalError::io(&self.target))
    }
}
