//! Recipes of instruction mixes: which datasets, how much of each, asked how.
//!
//! A recipe is a TOML file (`data/recipes/<system>/mix.toml`); unknown keys are refused.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use taiyi_corpus::plain_text::TextSource;

use crate::error::Error;
use crate::labels::LabelName;
use crate::prompt::{Ask, AskOptions};
use crate::units::Unit;

/// A mix.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MixRecipe {
    /// The name of the mix, kept in the manifest.
    pub name: String,
    /// Raised whenever the same recipe would give other conversations.
    pub version: u32,
    /// Seed of everything that is drawn; the command line may give another.
    pub seed: u64,
    /// Whether the conversations are shuffled; otherwise they stand in the order of the recipe and the sources.
    #[serde(default = "yes")]
    pub shuffle: bool,
    /// Conversations with more code points than this, over all turns, are left out and counted.
    #[serde(default)]
    pub longest_chars: Option<usize>,
    /// At most this many conversations over all, per published category and per language.
    #[serde(default)]
    pub caps: Caps,
    /// Documents that must not be learned, such as those of the test sets: whatever shares an id with one of them, or
    /// nearly its text, is left out of every dataset and counted. Written as in a text recipe; a test set without a card
    /// is named by its files.
    #[serde(default)]
    pub exclude: Vec<TextSource>,
    /// The datasets in order.
    pub dataset: Vec<DatasetMix>,
}

/// Limits over the whole mix.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Caps {
    /// Conversations in all.
    pub total: Option<usize>,
    /// Per category: `NER = 5000`.
    pub category: BTreeMap<String, usize>,
    /// Per language: `zh = 20000`.
    pub language: BTreeMap<String, usize>,
}

/// What one dataset gives to the mix. A dataset may be listed several times, with other tasks or other limits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetMix {
    /// The dataset's id.
    pub id: String,
    /// The splits to take, such as `["train"]`.
    pub splits: Vec<String>,
    /// What is asked of each document.
    pub tasks: Vec<Ask>,
    /// Conversations of this entry at most, drawn.
    #[serde(default)]
    pub cap: Option<usize>,
    /// Conversations of this entry per label of the answer at most: a rare label is kept whole, a frequent one is cut.
    #[serde(default)]
    pub cap_per_label: Option<usize>,
    /// How often each document is used: 2 twice, in other wordings; 0.5 every second one, drawn.
    #[serde(default = "once")]
    pub repeat: f64,
    /// In how many different wordings each question is asked.
    #[serde(default = "one")]
    pub wordings: usize,
    /// Only the first so many wordings of each template are used: a small model learns few wordings faster.
    #[serde(default)]
    pub first_wordings: Option<usize>,
    /// The piece of text that an entity question is about: `"document"`, `"sentence"`, `{ window = 400 }`.
    #[serde(default)]
    pub unit: Unit,
    /// One type at a time: absent types asked for, per type that is present.
    #[serde(default = "once")]
    pub negatives: f64,
    /// All types at once: the share kept of texts without a single answer.
    #[serde(default = "once")]
    pub empty: f64,
    /// At most so many labels are offered in a prompt.
    #[serde(default)]
    pub offered: Option<usize>,
    /// Contexts of questions are cut to so many code points.
    #[serde(default)]
    pub context_chars: Option<usize>,
    /// Only these types of entities or relations, or classes, as the source spells them; all where left out.
    #[serde(default)]
    pub only: Option<Vec<String>>,
    /// Other readable names for source labels; labels given one name are asked and answered as one.
    #[serde(default)]
    pub rename: Vec<LabelName>,
    /// Whether a text may have several classes, or none.
    #[serde(default)]
    pub multi_label: bool,
    /// The training stage that first learns these conversations, 1 or 2; where left out, the category decides.
    #[serde(default)]
    pub stage: Option<u8>,
}

fn yes() -> bool {
    true
}

fn once() -> f64 {
    1.0
}

fn one() -> usize {
    1
}

impl MixRecipe {
    /// Loads a recipe.
    ///
    /// # Errors
    /// Where the file cannot be read, is no TOML, holds an unknown key or a value out of range.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path, "read"))?;
        Self::parse(path, &text)
    }

    /// Reads a recipe's text; `path` is named in errors.
    ///
    /// # Errors
    /// As for [`load`](Self::load).
    pub fn parse(path: &Path, text: &str) -> Result<Self, Error> {
        let wrong = |expected: &str, found: String| Error::Recipe {
            path: path.to_owned(),
            expected: expected.to_owned(),
            found,
        };
        let recipe: Self = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(0, |span| text[..span.start].matches('\n').count() + 1);
            wrong("the keys of a mix", format!("on line {line}: {}", error.message().replace('\n', " ")))
        })?;
        if recipe.dataset.is_empty() {
            return Err(wrong("at least one [[dataset]]", "none".to_owned()));
        }
        for entry in &recipe.dataset {
            let check = |fine: bool, expected: &str, found: String| {
                if fine { Ok(()) } else { Err(wrong(expected, format!("{found} for `{}`", entry.id))) }
            };
            let share = |number: f64| (0.0..=1.0).contains(&number);
            check(!entry.splits.is_empty(), "the splits to take", "none".to_owned())?;
            check(!entry.tasks.is_empty(), "the tasks to ask", "none".to_owned())?;
            check((0.0..=1000.0).contains(&entry.repeat), "`repeat` in 0..1000", entry.repeat.to_string())?;
            check(
                (0.0..=1000.0).contains(&entry.negatives),
                "`negatives` in 0..1000",
                entry.negatives.to_string(),
            )?;
            check(share(entry.empty), "`empty` in 0..1", entry.empty.to_string())?;
            check(entry.wordings > 0, "`wordings` of at least 1", "0".to_owned())?;
            check(entry.first_wordings != Some(0), "`first_wordings` of at least 1", "0".to_owned())?;
            check(entry.offered != Some(0), "`offered` of at least 1", "0".to_owned())?;
            check(entry.unit != Unit::Window(0), "a window of at least 1", "0".to_owned())?;
            check(matches!(entry.stage, None | Some(1 | 2)), "`stage` 1 or 2", format!("{:?}", entry.stage))?;
        }
        Ok(recipe)
    }
}

impl DatasetMix {
    /// How this entry cuts documents into questions.
    pub fn options(&self, seed: u64) -> AskOptions {
        AskOptions {
            unit: self.unit,
            negatives: self.negatives,
            empty: self.empty,
            offered: self.offered,
            context_chars: self.context_chars,
            seed,
        }
    }
}
