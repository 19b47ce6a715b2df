//! `taiyi instruct`: documents become conversations; what a sample looks like; the round trip of answers.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use taiyi_instruct::show::{self, Side};
use taiyi_instruct::{CardSource, Conversation, ConversationReader, MixRecipe, Templates};
use taiyi_model::chat::{ChatFormat, Message};
use taiyi_model::tokenizer::Tokenizer;

use crate::cards::{CardFiles, Cards};
use crate::failure::{CommandResult, Failure, Outcome};
use crate::terminal::{self, Progress};

/// Arguments of `taiyi instruct`.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Builds the instruction data of a mix recipe.
    Build {
        /// Mix recipe (TOML).
        #[arg(long, value_name = "FILE")]
        recipe: PathBuf,
        #[command(flatten)]
        cards: CardFiles,
        /// Folder with one folder per dataset, in its original files.
        #[arg(long, value_name = "DIR")]
        source: PathBuf,
        /// File to write: conversations, one JSON object a line; `FILE.manifest.json` stands beside it.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Seed, in place of the recipe's.
        #[arg(long, value_name = "N")]
        seed: Option<u64>,
        /// Print the manifest as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Shows samples of an instruction file; with `--mask`, exactly which tokens are learned.
    Show {
        /// Conversations, one JSON object a line.
        file: PathBuf,
        /// How many samples.
        #[arg(long, default_value_t = 3, value_name = "N")]
        limit: usize,
        /// Only this dataset.
        #[arg(long, value_name = "ID")]
        dataset: Option<String>,
        /// Mark the tokens that are learned.
        #[arg(long, requires = "model")]
        mask: bool,
        /// Model folder whose tokenizer and chat format are used.
        #[arg(long, value_name = "DIR")]
        model: Option<PathBuf>,
        /// Counts per dataset and category in place of samples.
        #[arg(long)]
        summary: bool,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Renders and parses back the answer of every record with every wording; exit 1 at 0.1 % failures or more.
    Verify {
        /// Dataset ids, or `all` for every dataset the source folder has.
        #[arg(required_unless_present = "files")]
        ids: Vec<String>,
        #[command(flatten)]
        cards: CardFiles,
        /// Folder with one folder per dataset, in its original files.
        #[arg(long, value_name = "DIR")]
        source: PathBuf,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Runs `taiyi instruct`.
pub(crate) fn run(arguments: Arguments) -> CommandResult {
    match arguments.verb {
        Verb::Build { recipe, cards, source, out, seed, json } => {
            build(&recipe, &cards.read()?, &source, &out, seed, json)
        }
        Verb::Show { file, limit, dataset, mask, model, summary, json } => {
            let picked = Picked { limit, dataset };
            match (summary, model.filter(|_| mask)) {
                (true, _) => summarise(&file, &picked, json),
                (false, Some(model)) => show_mask(&file, &picked, &model, json),
                (false, None) => show_samples(&file, &picked, json),
            }
        }
        Verb::Verify { ids, cards, source, json } => verify(&ids, &cards.read()?, &source, json),
    }
}

fn build(
    recipe: &Path,
    cards: &Cards,
    source: &Path,
    out: &Path,
    seed: Option<u64>,
    json: bool,
) -> CommandResult {
    let recipe = MixRecipe::load(recipe)?;
    let source = CardSource { catalog: &cards.catalog, folder: source.to_owned() };
    let progress = Progress::new(&recipe.name, 0, "documents");
    let report = taiyi_instruct::build(&recipe, Templates::embedded(), &source, out, seed, &mut |at| {
        progress.set(at.documents, &format!("{}:{}", at.dataset, at.split));
    })?;
    progress.finish();
    if json {
        terminal::json(&report)?;
    } else {
        for entry in &report.datasets {
            let written: u64 = entry.written.values().sum();
            let skipped: u64 = entry.skipped.values().sum();
            let capped: u64 = entry.capped.values().sum();
            terminal::line(&format!(
                "{:<28} {:>8} documents {:>8} conversations {:>7} over a cap {:>7} gave nothing {:>5} unreadable",
                entry.dataset, entry.documents, written, capped, skipped, entry.unreadable
            ));
        }
        for absent in &report.absent {
            terminal::line(&format!("absent: {}:{}: {}", absent.dataset, absent.split, absent.reason));
        }
        terminal::line(&format!("{}: {} conversations", out.display(), report.conversations));
    }
    Ok(if report.absent.is_empty() { Outcome::Fine } else { Outcome::Findings })
}

struct Picked {
    limit: usize,
    dataset: Option<String>,
}

impl Picked {
    fn read(&self, file: &Path) -> Result<Vec<Conversation>, Failure> {
        let mut picked = Vec::new();
        for conversation in ConversationReader::open(file)? {
            let conversation = conversation?;
            if self.dataset.as_ref().is_none_or(|dataset| *dataset == conversation.dataset) {
                picked.push(conversation);
                if picked.len() == self.limit {
                    break;
                }
            }
        }
        Ok(picked)
    }
}

fn show_samples(file: &Path, picked: &Picked, json: bool) -> CommandResult {
    let samples: Vec<show::Sample> = picked.read(file)?.iter().map(show::sample).collect();
    if json {
        terminal::json(&samples)?;
        return Ok(Outcome::Fine);
    }
    for sample in samples {
        let facts: Vec<String> = sample.facts.iter().map(|(name, value)| format!("{name} {value}")).collect();
        terminal::line(&format!("── {}", facts.join(" · ")));
        for (side, text) in &sample.lines {
            let who = match side {
                Side::Human => "human",
                Side::Assistant => "assistant",
            };
            terminal::line(&format!("[{who}] {text}"));
        }
    }
    Ok(Outcome::Fine)
}

fn summarise(file: &Path, picked: &Picked, json: bool) -> CommandResult {
    let wanted = |conversation: &Result<Conversation, taiyi_instruct::Error>| match conversation {
        Ok(conversation) => picked.dataset.as_ref().is_none_or(|dataset| *dataset == conversation.dataset),
        Err(_) => true,
    };
    let summary = show::Summary::of(ConversationReader::open(file)?.filter(wanted))?;
    if json {
        terminal::json(&summary)?;
    } else {
        terminal::line(&serde_json::to_string_pretty(&summary)?);
    }
    Ok(Outcome::Fine)
}

fn show_mask(file: &Path, picked: &Picked, model: &Path, json: bool) -> CommandResult {
    let tokenizer = Tokenizer::load(model)?;
    let format = ChatFormat::load(model, &tokenizer)?;
    for conversation in picked.read(file)? {
        let messages: Vec<Message> = conversation
            .conversation
            .iter()
            .flat_map(|turn| [Message::user(turn.human.clone()), Message::assistant(turn.assistant.clone())])
            .collect();
        for rendered in format.render_for_training(&tokenizer, &messages)? {
            if json {
                terminal::line(
                    &serde_json::json!({
                        "conversation_id": conversation.conversation_id,
                        "ids": rendered.ids,
                        "learned": rendered.learned,
                    })
                    .to_string(),
                );
                continue;
            }
            terminal::line(&format!(
                "── {} {} {}: {} tokens, {} learned (between ⟦ and ⟧)",
                conversation.dataset,
                conversation.category,
                conversation.conversation_id,
                rendered.ids.len(),
                rendered.learned.iter().filter(|&&learned| learned).count()
            ));
            let mut text = String::new();
            let mut at = 0;
            while at < rendered.ids.len() {
                let learned = rendered.learned[at];
                let end = (at..rendered.ids.len())
                    .find(|&t| rendered.learned[t] != learned)
                    .unwrap_or(rendered.ids.len());
                let piece = tokenizer.decode(&rendered.ids[at..end]);
                text.push_str(&if learned { format!("⟦{piece}⟧") } else { piece });
                at = end;
            }
            terminal::line(&text);
        }
    }
    Ok(Outcome::Fine)
}

fn verify(ids: &[String], cards: &Cards, source: &Path, json: bool) -> CommandResult {
    let mut worst = Outcome::Fine;
    let mut rows = Vec::new();
    for card in cards.chosen(ids, source)? {
        let progress = Progress::new(&card.id, 0, "documents");
        let mut documents = Vec::new();
        for split in card.variant(None)?.split_names() {
            for document in taiyi_corpus::read(card, None, split, source)? {
                match document {
                    Ok(document) => documents.push(document),
                    Err(error) if error.is_record() => progress.note(&error.to_string()),
                    Err(error) => return Err(error.into()),
                }
                progress.set(documents.len() as u64, split);
            }
        }
        progress.finish();
        let trip = taiyi_instruct::roundtrip::verify_card(card, &documents);
        if trip.failure_rate() >= 0.001 {
            worst = Outcome::Findings;
        }
        if !json {
            terminal::line(&format!("{}: {trip}", card.id));
        }
        rows.push(serde_json::json!({ "dataset": card.id, "round_trip": trip }));
    }
    if json {
        terminal::json(&rows)?;
    }
    Ok(worst)
}
