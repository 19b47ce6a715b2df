//! Wordings of prompts, from the data files `data/templates/<task>.<lang>.toml`.
//!
//! A wording holds each slot of its task exactly once, as `{text}`; `{{` and `}}` are braces. What fills a slot is put
//! in verbatim and never read as a wording, whatever it holds.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde::Deserialize;
use taiyi_corpus::schema::Language;

use crate::error::Error;
use crate::question::{PromptTask, Question, Slot};

/// All wordings of one task in one language.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// The kind of prompt.
    pub task: PromptTask,
    /// `En` or `Zh`.
    pub language: Language,
    wordings: Vec<Wording>,
}

/// One wording, cut at its slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wording {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Words(String),
    Slot(Slot),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    task: PromptTask,
    language: Language,
    wordings: Vec<String>,
}

impl Template {
    /// Reads one file's text; `path` is named in errors.
    ///
    /// # Errors
    /// Where it is no TOML, holds an unknown key, no wording, a wording twice, or one without exactly its task's slots.
    pub fn parse(path: &Path, text: &str) -> Result<Self, Error> {
        let wrong =
            |expected: String, found: String| Error::Template { path: path.to_owned(), expected, found };
        let file: File = toml::from_str(text).map_err(|error| {
            wrong(
                "the keys `task`, `language`, `wordings`".to_owned(),
                error.to_string().trim().replace('\n', " "),
            )
        })?;
        if !matches!(file.language, Language::En | Language::Zh) {
            return Err(wrong("language `en` or `zh`".to_owned(), format!("`{}`", file.language.code())));
        }
        if file.wordings.is_empty() {
            return Err(wrong("at least one wording".to_owned(), "none".to_owned()));
        }
        let mut wordings = Vec::with_capacity(file.wordings.len());
        for (at, source) in file.wordings.iter().enumerate() {
            let wording = Wording::parse(source, file.task.slots()).map_err(|(expected, found)| {
                wrong(expected, format!("{found} in wording {at}: `{source}`"))
            })?;
            if wordings.contains(&wording) {
                return Err(wrong(
                    "different wordings".to_owned(),
                    format!("wording {at} twice: `{source}`"),
                ));
            }
            wordings.push(wording);
        }
        Ok(Self { task: file.task, language: file.language, wordings })
    }

    /// The file's stem: `ner_one.zh`.
    pub fn name(&self) -> String {
        format!("{}.{}", self.task.name(), self.language.code())
    }

    /// How many wordings there are; at least one.
    pub fn len(&self) -> usize {
        self.wordings.len()
    }

    /// Always false: a template has at least one wording.
    pub fn is_empty(&self) -> bool {
        self.wordings.is_empty()
    }

    /// Words a question; `wording` counts round from the last to the first.
    pub fn fill(&self, question: &Question, wording: usize) -> String {
        self.wordings[wording % self.wordings.len()].fill(question)
    }
}

impl Wording {
    fn parse(source: &str, slots: &[Slot]) -> Result<Self, (String, String)> {
        let names: Vec<String> = slots.iter().map(|slot| format!("{{{}}}", slot.name())).collect();
        let expected = || format!("each of {} once, and `{{{{` for a brace", names.join(" "));
        let mut parts = Vec::new();
        let mut words = String::new();
        let mut rest = source;
        while let Some(at) = rest.find(['{', '}']) {
            words.push_str(&rest[..at]);
            let brace = &rest[at..];
            if let Some(after) = brace.strip_prefix("{{").or_else(|| brace.strip_prefix("}}")) {
                words.push_str(&brace[..1]);
                rest = after;
                continue;
            }
            let inside = brace.strip_prefix('{').and_then(|inside| inside.split_once('}'));
            let Some((name, after)) = inside else {
                return Err((expected(), "a single brace".to_owned()));
            };
            let slot = Slot::named(name).filter(|slot| slots.contains(slot));
            let slot = slot.ok_or_else(|| (expected(), format!("`{{{name}}}`")))?;
            if parts.contains(&Part::Slot(slot)) {
                return Err((expected(), format!("`{{{name}}}` twice")));
            }
            if !words.is_empty() {
                parts.push(Part::Words(std::mem::take(&mut words)));
            }
            parts.push(Part::Slot(slot));
            rest = after;
        }
        words.push_str(rest);
        if !words.is_empty() {
            parts.push(Part::Words(words));
        }
        match slots.iter().find(|slot| !parts.contains(&Part::Slot(**slot))) {
            Some(missing) => Err((expected(), format!("no `{{{}}}`", missing.name()))),
            None => Ok(Self { parts }),
        }
    }

    fn fill(&self, question: &Question) -> String {
        self.parts
            .iter()
            .map(|part| match part {
                Part::Words(words) => words.as_str(),
                Part::Slot(slot) => question.slot(*slot),
            })
            .collect()
    }
}

/// The templates of every task in both languages.
#[derive(Clone, Debug)]
pub struct Templates {
    templates: Vec<Template>,
}

macro_rules! embedded {
    ($($name:literal)*) => {
        [$(($name, include_str!(concat!("../../../data/templates/", $name, ".toml")))),*]
    };
}

const EMBEDDED: [(&str, &str); 30] = embedded! {
    "ner.en" "ner.zh" "ner_one.en" "ner_one.zh" "re.en" "re.zh" "re_one.en" "re_one.zh" "tc.en" "tc.zh"
    "tc_multi.en" "tc_multi.zh" "tp_similarity.en" "tp_similarity.zh" "tp_entailment.en" "tp_entailment.zh"
    "tp_relevance.en" "tp_relevance.zh" "qa_choice.en" "qa_choice.zh" "qa_choice_context.en" "qa_choice_context.zh"
    "qa_simple.en" "qa_simple.zh" "qa_context.en" "qa_context.zh" "mrd.en" "mrd.zh" "mt.en" "mt.zh"
};

impl Templates {
    /// The templates that the program carries: those of `data/templates` when it was built.
    pub fn embedded() -> &'static Self {
        static TEMPLATES: OnceLock<Templates> = OnceLock::new();
        TEMPLATES.get_or_init(|| {
            let files = EMBEDDED
                .iter()
                .map(|(name, text)| (PathBuf::from(format!("{name}.toml")), (*text).to_owned()));
            Self::from_files(files).expect("a test loads every shipped template")
        })
    }

    /// The templates of a folder, in place of the embedded ones: every `<task>.<lang>.toml` of it, all tasks present.
    ///
    /// # Errors
    /// Where a file cannot be read or is no template, or a task lacks one.
    pub fn load(folder: &Path) -> Result<Self, Error> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(Error::io(folder, "open"))? {
            let path = entry.map_err(Error::io(folder, "read"))?.path();
            if path.extension().is_some_and(|extension| extension == "toml") {
                let text = std::fs::read_to_string(&path).map_err(Error::io(&path, "read"))?;
                files.push((path, text));
            }
        }
        files.sort();
        Self::from_files(files).map_err(|error| match error {
            Error::Template { path, expected, found } if path.as_os_str().is_empty() => {
                Error::Template { path: folder.to_owned(), expected, found }
            }
            error => error,
        })
    }

    fn from_files(files: impl IntoIterator<Item = (PathBuf, String)>) -> Result<Self, Error> {
        let mut templates: Vec<Template> = Vec::new();
        for (path, text) in files {
            let template = Template::parse(&path, &text)?;
            let name = template.name();
            if path.file_stem().is_none_or(|stem| *stem != *name) {
                let expected = format!("the name `{name}.toml` for its task and language");
                return Err(Error::Template { found: format!("`{}`", path.display()), path, expected });
            }
            templates.push(template);
        }
        for task in PromptTask::ALL {
            for language in [Language::En, Language::Zh] {
                if !templates.iter().any(|known| known.task == task && known.language == language) {
                    let expected = format!("a file `{}.{}.toml`", task.name(), language.code());
                    return Err(Error::Template { path: PathBuf::new(), expected, found: "none".to_owned() });
                }
            }
        }
        Ok(Self { templates })
    }

    /// All templates.
    pub fn all(&self) -> &[Template] {
        &self.templates
    }

    /// The template that words a question.
    pub fn of(&self, question: &Question) -> &Template {
        self.get(question.task, question.language)
    }

    /// The template of a task; any language but Chinese counts as English.
    pub fn get(&self, task: PromptTask, language: Language) -> &Template {
        let language = crate::labels::prompt_language(language);
        let found = self.templates.iter().find(|known| known.task == task && known.language == language);
        found.expect("loading makes sure of every task in both languages")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shipped_template_loads_with_twelve_wordings() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/templates");
        let loaded = Templates::load(&folder).unwrap();
        let embedded = Templates::embedded();
        assert_eq!(loaded.all().len(), embedded.all().len());
        for template in loaded.all() {
            assert!(template.len() >= 12, "{} has {} wordings", template.name(), template.len());
            assert_eq!(
                embedded.get(template.task, template.language),
                template,
                "rebuild to embed {}",
                template.name()
            );
        }
    }

    #[test]
    fn a_slot_is_filled_verbatim() {
        let text = "a {labels} {{b}} {text} \\n ${c} %s";
        let question = Question::entities(text, vec!["{text}".to_owned(), "疾病".to_owned()], Language::Zh);
        let source = "task = \"ner\"\nlanguage = \"zh\"\nwordings = [\"{{{labels}}}|{text}\"]";
        let template = Template::parse(Path::new("ner.zh.toml"), source).unwrap();
        assert_eq!(template.fill(&question, 5), format!("{{{{text}}，疾病}}|{text}"));
    }

    #[test]
    fn broken_templates_are_refused() {
        let parse = |head: &str, wordings: &str| {
            let text = format!("task = \"ner\"\nlanguage = \"en\"\n{head}wordings = [{wordings}]");
            Template::parse(Path::new("x/ner.en.toml"), &text).map_err(|error| error.to_string())
        };
        assert!(parse("", "\"{text} {labels}\"").is_ok());
        for (head, wordings, says) in [
            ("", "", "at least one wording"),
            ("", "\"{text}\"", "no `{labels}` in wording 0"),
            ("", "\"{text} {labels} {labels}\"", "`{labels}` twice"),
            ("", "\"{text} {labels} {type}\"", "`{type}` in wording 0"),
            ("", "\"{text} {labels} {\"", "a single brace"),
            ("", "\"{text} {labels} }\"", "a single brace"),
            ("", "\"{text} {labels}\", \"{text} {labels}\"", "wording 1 twice"),
            ("note = 1\n", "\"{text} {labels}\"", "unknown field `note`"),
        ] {
            let message = parse(head, wordings).unwrap_err();
            assert!(message.starts_with("x/ner.en.toml: expected ") && message.contains(says), "{message}");
        }
    }
}
