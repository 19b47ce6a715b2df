//! A run: every item is answered, every answer is written, before anything is scored.

use std::path::Path;
use std::time::Instant;

use crate::error::EvalError;
use crate::items::Item;
use crate::predictions::{Given, Line, Writer, reusable};
use crate::score;

/// A prompt to answer.
#[derive(Clone, Copy, Debug)]
pub struct Prompt<'a> {
    /// The item's id.
    pub id: &'a str,
    /// What the human says.
    pub text: &'a str,
    /// The grammar of the reply, where it is constrained.
    pub grammar: Option<&'a str>,
}

/// A reply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// What the assistant says.
    pub text: String,
    /// Whether it was cut off at the length limit.
    pub cut_off: bool,
}

/// Why a replier gave up.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct ReplyError {
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl ReplyError {
    /// An error with nothing behind it.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), source: None }
    }

    /// An error of the model or the endpoint.
    pub fn of(source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self { message: source.to_string(), source: Some(Box::new(source)) }
    }
}

/// Whatever answers prompts: a local model, an endpoint, a script.
pub trait Replier {
    /// Answers prompts, a reply each, in order.
    ///
    /// # Errors
    /// When it cannot go on. What it could not answer for the prompt's own sake, such as one too long for the
    /// model, is an empty reply instead: it is counted.
    fn reply(&mut self, prompts: &[Prompt]) -> Result<Vec<Reply>, ReplyError>;

    /// How many prompts it likes to get at once; replies are written after each such batch.
    fn batch(&self) -> usize {
        32
    }
}

/// Whatever answers items: with replies to their prompts, or in another way.
pub trait Answerer {
    /// What it is given of an item, as predictions files keep it; a run does not ask again for what was answered already.
    fn asked(&self, item: &Item) -> String;

    /// Answers items, each with a reply or a prediction, in order.
    ///
    /// # Errors
    /// When it cannot go on.
    fn answer(&mut self, items: &[&Item]) -> Result<Vec<Given>, ReplyError>;

    /// How many items it likes to get at once.
    fn batch(&self) -> usize;
}

/// Has prompts replied to.
struct Asking<'a> {
    replier: &'a mut dyn Replier,
    constrained: bool,
}

impl Answerer for Asking<'_> {
    fn asked(&self, item: &Item) -> String {
        item.prompt.clone()
    }

    fn answer(&mut self, items: &[&Item]) -> Result<Vec<Given>, ReplyError> {
        let grammar = |item: &&Item| self.constrained.then(|| item.spec.grammar(&item.text)).flatten();
        let grammars: Vec<Option<String>> = items.iter().map(grammar).collect();
        let prompts: Vec<Prompt> = items
            .iter()
            .zip(&grammars)
            .map(|(item, grammar)| Prompt { id: &item.id, text: &item.prompt, grammar: grammar.as_deref() })
            .collect();
        let given =
            |reply: Reply| Given { reply: Some(reply.text), prediction: None, cut_off: reply.cut_off };
        Ok(self.replier.reply(&prompts)?.into_iter().map(given).collect())
    }

    fn batch(&self) -> usize {
        self.replier.batch()
    }
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Items with a reply.
    pub done: usize,
    /// Of these, replies of an earlier run.
    pub reused: usize,
    /// Items in all.
    pub total: usize,
}

/// What a run did.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// What was replied, in the order of the items.
    pub given: Vec<Option<Given>>,
    /// Replies of an earlier run.
    pub reused: usize,
    /// Seconds spent on asking.
    pub seconds: f64,
}

/// Asks every item and writes the replies to `out`, a predictions file. Where `constrained`, prompts come with the
/// grammar of their answer, and the model's name says so in the file: such replies are not mixed with others.
///
/// Otherwise as [`run_with`].
///
/// # Errors
/// As [`run_with`].
pub fn run(
    items: &[Item],
    model: &str,
    constrained: bool,
    replier: &mut dyn Replier,
    out: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<Run, EvalError> {
    let model = if constrained { format!("{model} constrained") } else { model.to_owned() };
    run_with(items, &model, &mut Asking { replier, constrained }, out, progress)
}

/// Has every item answered and writes the answers to `out`, a predictions file.
///
/// Answers that `out`, or an interrupted run beside it, already holds of the same input by the same `model` are not asked for
/// again. Until all are there the lines stand in `<out>.part`; then the file appears whole, in the order of the items.
///
/// # Errors
/// When the answerer gives up or the file cannot be written; what was answered until then is kept for the next run.
pub fn run_with(
    items: &[Item],
    model: &str,
    answerer: &mut dyn Answerer,
    out: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<Run, EvalError> {
    let started = Instant::now();
    let mut given = reusable(out, items, model, &|item| answerer.asked(item))?;
    let part = reusable(&Writer::part_path(out), items, model, &|item| answerer.asked(item))?;
    for (slot, earlier) in given.iter_mut().zip(part) {
        if slot.is_none() {
            *slot = earlier;
        }
    }
    let mut writer = Writer::create(out)?;
    let all = |writer: &mut Writer, given: &[Option<Given>], answerer: &dyn Answerer| {
        for (item, given) in items.iter().zip(given) {
            if let Some(given) = given {
                write(writer, item, &answerer.asked(item), given, model)?;
            }
        }
        Ok::<(), EvalError>(())
    };
    all(&mut writer, &given, answerer)?;
    writer.replace_part()?;
    let reused = given.iter().flatten().count();
    let mut at = Progress { done: reused, reused, total: items.len() };
    progress(at);
    let open: Vec<usize> = (0..items.len()).filter(|&at| given[at].is_none()).collect();
    for batch in open.chunks(answerer.batch().max(1)) {
        let asked: Vec<&Item> = batch.iter().map(|&at| &items[at]).collect();
        let answers = answerer.answer(&asked)?;
        if answers.len() != asked.len() {
            return Err(EvalError::Replies { asked: asked.len(), replied: answers.len() });
        }
        for (&at, answer) in batch.iter().zip(answers) {
            write(&mut writer, &items[at], &answerer.asked(&items[at]), &answer, model)?;
            given[at] = Some(answer);
        }
        writer.flush()?;
        at.done += batch.len();
        progress(at);
    }
    if !open.is_empty() && reused > 0 {
        // The part holds them in the order of asking.
        writer.flush()?;
        writer = Writer::create(out)?;
        all(&mut writer, &given, answerer)?;
        writer.replace_part()?;
    }
    writer.finish()?;
    Ok(Run { given, reused, seconds: started.elapsed().as_secs_f64() })
}

fn write(writer: &mut Writer, item: &Item, asked: &str, given: &Given, model: &str) -> Result<(), EvalError> {
    let (prediction, reason) = score::read(item, given);
    writer.write(&Line {
        id: &item.id,
        document_id: &item.document_id,
        prompt: asked,
        reply: given.reply.as_deref(),
        prediction: &prediction,
        unparsable: reason.map(|reason| reason.to_string()),
        cut_off: given.cut_off,
        model,
    })
}
