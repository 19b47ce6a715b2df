//! From a document to the questions about its pieces.

use std::collections::VecDeque;

use taiyi_corpus::offsets::CharSpan;
use taiyi_corpus::schema::{Content, Document, Ie, Language, Passage};
use taiyi_instruct::labels::prompt_language;
use taiyi_instruct::units::{text_units, units};
use taiyi_instruct::{AnswerFormat, AnswerSpec, LabelNames, Question, Templates, Unit};

use super::{ExtractOptions, ExtractReport, Replier};
use crate::error::InferError;

/// The questions about one document.
pub(super) struct Plan {
    /// The document without annotations.
    pub(super) document: Document,
    /// Language of the prompts.
    pub(super) language: Language,
    /// Entity questions first; those about one piece stand side by side.
    pub(super) questions: Vec<Asked>,
    /// A worded question each.
    pub(super) prompts: Vec<String>,
    pub(super) report: ExtractReport,
}

/// A question about a piece.
pub(super) struct Asked {
    pub(super) span: CharSpan,
    pub(super) text: String,
    pub(super) spec: AnswerSpec,
}

impl Plan {
    pub(super) fn of(
        document: &Document,
        options: &ExtractOptions,
        templates: &Templates,
        replier: &dyn Replier,
    ) -> Result<Self, InferError> {
        let language = prompt_language(options.language.unwrap_or(document.language));
        let mut plan = Self {
            document: document.clone(),
            language,
            questions: Vec::new(),
            prompts: Vec::new(),
            report: ExtractReport { id: document.id.clone(), ..ExtractReport::default() },
        };
        let Some(ie) = text_of(&document.content) else {
            plan.report.skipped = Some(NO_TEXT.to_owned());
            return Ok(plan);
        };
        for (names, unit, format) in [
            (&options.entities, options.unit, AnswerFormat::Entities),
            (&options.relations, options.relation_unit, AnswerFormat::Triples),
        ] {
            let wanted = wanted(names, options.one_at_a_time, language);
            if wanted.is_empty() {
                continue;
            }
            let word = |text: &str| -> Vec<(Question, String)> {
                let question =
                    |names: &Vec<String>| ask(format, text, names, options.one_at_a_time, language);
                let worded = |question: Question| {
                    let prompt = templates.of(&question).fill(&question, options.wording);
                    (question, prompt)
                };
                wanted.iter().map(question).map(worded).collect()
            };
            let mut pieces: VecDeque<(CharSpan, String)> = units(&ie, unit).into();
            // Where a text of one character is too long, cutting is of no use.
            let mut hopeless = false;
            for (_, prompt) in word("x") {
                hopeless = hopeless || !replier.fits(&prompt)?;
            }
            if hopeless && pieces.iter().any(|(_, text)| !text.trim().is_empty()) {
                plan.report.too_long += 1;
                continue;
            }
            while let Some((span, text)) = pieces.pop_front() {
                if text.trim().is_empty() {
                    continue;
                }
                let worded = word(&text);
                let mut fits = true;
                for (_, prompt) in &worded {
                    fits = fits && replier.fits(prompt)?;
                }
                if fits {
                    for (question, prompt) in worded {
                        plan.questions.push(Asked { span, text: text.clone(), spec: question.spec });
                        plan.prompts.push(prompt);
                    }
                    continue;
                }
                match halves(&text, span) {
                    Some(smaller) => smaller.into_iter().rev().for_each(|piece| pieces.push_front(piece)),
                    None => plan.report.too_long += 1,
                }
            }
        }
        plan.report.questions = plan.prompts.len();
        plan.document.content = Content::Ie(ie);
        Ok(plan)
    }
}

/// Why a document is passed on as it was.
pub(super) const NO_TEXT: &str = "the record holds no single text to extract from";

/// The passages of a document that holds one text.
pub(super) fn text_of(content: &Content) -> Option<Ie> {
    let text = match content {
        Content::Ie(ie) => return Some(Ie { passages: ie.passages.clone(), ..Ie::default() }),
        Content::Tc(tc) => &tc.text,
        Content::Mt(mt) => &mt.source,
        Content::Tt(tt) => &tt.source,
        Content::Qa(_) | Content::Mrd(_) | Content::Tp(_) => return None,
    };
    Some(whole_text(text))
}

/// A text as a document of one passage.
pub(crate) fn whole_text(text: &str) -> Ie {
    let passage = Passage {
        id: "P1".to_owned(),
        kind: "text".to_owned(),
        text: text.to_owned(),
        offsets: CharSpan::new(0, text.chars().count()),
    };
    Ie { passages: vec![passage], ..Ie::default() }
}

/// The names that each question asks for.
fn wanted(names: &LabelNames, one_at_a_time: bool, language: Language) -> Vec<Vec<String>> {
    let all = names.displays(language);
    match (all.is_empty(), one_at_a_time) {
        (true, _) => Vec::new(),
        (false, true) => all.into_iter().map(|name| vec![name]).collect(),
        (false, false) => vec![all],
    }
}

fn ask(format: AnswerFormat, text: &str, names: &[String], one: bool, language: Language) -> Question {
    match (format, names) {
        (AnswerFormat::Triples, [only]) if one => Question::relations_of(text, only, language),
        (AnswerFormat::Triples, _) => Question::relations(text, names.to_vec(), language),
        (_, [only]) if one => Question::entities_of(text, only, language),
        _ => Question::entities(text, names.to_vec(), language),
    }
}

/// A piece cut into smaller ones, between sentences where it has some, else at a blank or a comma near the middle, else
/// in the middle; `None` for a single character.
fn halves(text: &str, span: CharSpan) -> Option<Vec<(CharSpan, String)>> {
    let characters: Vec<char> = text.chars().collect();
    let length = characters.len();
    if length < 2 {
        return None;
    }
    let shifted = |part: CharSpan| CharSpan::new(part.start + span.start, part.end + span.start);
    let parts = text_units(text, Unit::Window(length / 2));
    if parts.len() > 1 {
        return Some(parts.into_iter().map(|(part, text)| (shifted(part), text)).collect());
    }
    let parting = |at: &usize| {
        let before = characters[at - 1];
        before.is_whitespace() || matches!(before, ',' | ';' | '，' | '；' | '、' | '：')
    };
    let middle = length / 2;
    let near = (0..=length / 4)
        .flat_map(|away| [middle - away, middle + away])
        .filter(|at| (1..length).contains(at));
    let cut = near.into_iter().find(parting).unwrap_or(middle);
    let part = |from: usize, to: usize| {
        (shifted(CharSpan::new(from, to)), characters[from..to].iter().collect::<String>())
    };
    Some(vec![part(0, cut), part(cut, length)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pieces_are_cut_where_it_hurts_least() {
        let cut = |text: &str| -> Vec<String> {
            let parts = halves(text, CharSpan::new(7, 7 + text.chars().count())).unwrap();
            for (span, part) in &parts {
                let at = TextAt(text);
                assert_eq!(at.slice(span.start - 7, span.end - 7), *part);
            }
            parts.into_iter().map(|(_, part)| part).collect()
        };
        assert_eq!(cut("患者头痛。予阿司匹林。"), ["患者头痛。", "予阿司匹林。"]);
        assert_eq!(cut("chest pain and fever"), ["chest pain ", "and fever"]);
        assert_eq!(cut("头痛、发热"), ["头痛、", "发热"]);
        assert_eq!(cut("aaaaa"), ["aa", "aaa"]);
        assert_eq!(halves("a", CharSpan::new(0, 1)), None);
    }

    struct TextAt<'a>(&'a str);

    impl TextAt<'_> {
        fn slice(&self, start: usize, end: usize) -> String {
            self.0.chars().skip(start).take(end - start).collect()
        }
    }

    proptest! {
        #[test]
        fn cutting_ends_and_loses_only_blanks(text in "([a-z]{1,9}[ ,.]{0,2}|[血压。，]{1,5}|\\n|.){0,20}") {
            let length = text.chars().count();
            let mut pieces = VecDeque::from([(CharSpan::new(0, length), text.clone())]);
            let mut seen = String::new();
            while let Some((span, piece)) = pieces.pop_front() {
                prop_assert_eq!(TextAt(&text).slice(span.start, span.end), piece.clone());
                match halves(&piece, span) {
                    Some(parts) => {
                        prop_assert!(parts.iter().all(|(part, _)| part.len() < span.len()));
                        parts.into_iter().rev().for_each(|part| pieces.push_front(part));
                    }
                    None => seen.push_str(&piece),
                }
            }
            let bare = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
            prop_assert_eq!(bare(&seen), bare(&text));
        }
    }
}
