//! Building instruction files from documents in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use taiyi_corpus::LeakIndex;
use taiyi_corpus::card::IdSpace;
use taiyi_corpus::plain_text::{Layout, TextRecipe, TextSource};
use taiyi_corpus::schema::{Content, Document, Language, Tc};
use taiyi_instruct::build::{Absent, BuildReport, build, manifest_path};
use taiyi_instruct::source::{DocumentSource, Opened};
use taiyi_instruct::{
    Conversation, ConversationReader, DatasetLabels, Error, LabelNames, MixRecipe, Templates,
};

/// Documents by dataset and split.
#[derive(Default)]
struct Memory(BTreeMap<(String, String), Vec<Document>>);

impl Memory {
    fn with(mut self, dataset: &str, split: &str, texts: &[(&str, &str)]) -> Self {
        let documents = texts.iter().enumerate().map(|(at, (text, label))| Document {
            id: format!("{split}-{at}"),
            document_id: at.to_string(),
            dataset: dataset.into(),
            split: split.into(),
            language: Language::En,
            content: Content::Tc(Tc { text: (*text).into(), labels: vec![(*label).into()] }),
        });
        self.0.insert((dataset.into(), split.into()), documents.collect());
        self
    }
}

impl DocumentSource for Memory {
    fn labels(&self, dataset: &str) -> Option<DatasetLabels> {
        let classes = LabelNames::plain(["common", "rare"]);
        (dataset == "a").then(|| DatasetLabels { classes, ..DatasetLabels::default() })
    }

    fn ids(&self, _: &str) -> IdSpace {
        IdSpace::Split
    }

    fn open(&self, dataset: &str, split: &str) -> Result<Opened<'_>, Error> {
        Ok(match self.0.get(&(dataset.to_owned(), split.to_owned())) {
            Some(documents) => Opened::Documents(Box::new(documents.iter().cloned().map(Ok))),
            None => Opened::Absent("no such file".to_owned()),
        })
    }

    fn exclude_files(&self, source: &TextSource, excluded: &mut LeakIndex) -> Result<Vec<Absent>, Error> {
        excluded.add_text(&source.dataset, "text number 7");
        let (dataset, split) = (source.dataset.clone(), source.files.join(","));
        Ok(vec![Absent { dataset, split, reason: "no such file".to_owned() }])
    }
}

fn source() -> Memory {
    let texts: Vec<(String, &str)> = (0..100)
        .map(|at| (format!("text number {at}"), if at % 10 == 0 { "rare" } else { "common" }))
        .collect();
    let texts: Vec<(&str, &str)> = texts.iter().map(|(text, label)| (text.as_str(), *label)).collect();
    Memory::default().with("a", "train", &texts).with("b", "train", &texts[..5])
}

fn made(recipe: &str, source: &Memory, seed: Option<u64>) -> (BuildReport, Vec<Conversation>, Vec<u8>) {
    let recipe = format!("name = \"x\"\nversion = 1\nseed = 7\n{recipe}");
    let recipe = MixRecipe::parse(Path::new("x.toml"), &recipe).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("mix.jsonl");
    let mut calls = 0;
    let report = build(&recipe, Templates::embedded(), source, &out, seed, &mut |_| calls += 1).unwrap();
    assert!(calls > 0);
    let mut files: Vec<_> =
        std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert_eq!(files, [out.clone(), manifest_path(&out)], "nothing temporary is left");
    let manifest: serde_json::Value =
        serde_json::from_slice(&std::fs::read(manifest_path(&out)).unwrap()).unwrap();
    assert_eq!(manifest["conversations"], report.conversations);
    let read = ConversationReader::open(&out).unwrap().map(Result::unwrap).collect();
    (report, read, std::fs::read(&out).unwrap())
}

const ALL: &str = "[[dataset]]\nid = \"a\"\nsplits = [\"train\"]\ntasks = [\"tc\"]\n";

#[test]
fn the_seed_alone_decides() {
    let one = made(ALL, &source(), None);
    let two = made(ALL, &source(), None);
    let other = made(ALL, &source(), Some(8));
    assert_eq!(one.2, two.2);
    assert_ne!(one.2, other.2);
    assert_eq!((one.0.seed, other.0.seed), (7, 8));
    assert_eq!(one.1.len(), 100);
    let ids: Vec<u64> = one.1.iter().map(|conversation| conversation.conversation_id).collect();
    assert_eq!(ids, (1..=100).collect::<Vec<_>>());
    let documents: Vec<&str> =
        one.1.iter().filter_map(|conversation| conversation.document_id.as_deref()).collect();
    assert_ne!(documents[..5], ["0", "1", "2", "3", "4"], "shuffled");
    let (_, plain, _) = made(&format!("shuffle = false\n{ALL}"), &source(), None);
    assert!(plain.iter().zip(0..).all(|(conversation, at)| conversation.document_id == Some(at.to_string())));
}

#[test]
fn a_capped_dataset_is_spread_over_the_whole_file() {
    let recipe = format!(
        "{ALL}cap = 10\n[[dataset]]\nid = \"b\"\nsplits = [\"train\"]\ntasks = [\"tc\"]\nrepeat = 20\n"
    );
    let (report, read, _) = made(&recipe, &source(), None);
    assert_eq!((report.datasets[0].made, read.len()), (100, 110));
    assert_eq!(report.datasets[0].capped, BTreeMap::from([("cap", 90)]));
    let places: Vec<usize> = (0..110).filter(|&at| read[at].dataset == "a").collect();
    assert!(places[9] > 55, "a tight cap must not push its records to the front: {places:?}");
}

#[test]
fn caps_per_label_keep_the_rare() {
    let (report, read, _) = made(&format!("{ALL}cap_per_label = 12\n"), &source(), None);
    let count = |label: &str| {
        read.iter().filter(|c| c.conversation[0].assistant == format!("Result: {label}")).count()
    };
    assert_eq!((count("common"), count("rare")), (12, 10));
    assert_eq!(report.datasets[0].capped["cap_per_label"], 78);
    let (report, read, _) = made(
        &format!("[caps]\ntotal = 30\nlanguage = {{ en = 50 }}\ncategory = {{ TC = 40 }}\n{ALL}"),
        &source(),
        None,
    );
    assert_eq!((read.len(), report.categories["TC"], report.datasets[0].capped["caps.total"]), (30, 30, 70));
}

#[test]
fn repeats_and_wordings_differ() {
    let (_, read, _) = made(&format!("{ALL}wordings = 3\nrepeat = 1.5\n"), &source(), None);
    let mut templates: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for conversation in &read {
        let fresh = templates.entry(conversation.document_id.as_deref().unwrap()).or_default();
        assert!(
            fresh.insert(conversation.template.as_deref().unwrap()),
            "one wording twice for one document"
        );
    }
    assert!(templates.values().all(|wordings| [3, 6].contains(&wordings.len())));
    assert!((400..500).contains(&read.len()), "{}", read.len());
    let (_, read, _) = made(&format!("{ALL}first_wordings = 2\n"), &source(), None);
    let used: BTreeSet<&str> =
        read.iter().filter_map(|conversation| conversation.template.as_deref()).collect();
    assert_eq!(used, BTreeSet::from(["tc.en:0", "tc.en:1"]));
}

const EXCLUDE: &str = r#"
[[exclude]]
dataset = "t"
language = "en"
layout = { kind = "card", splits = ["test", "dev"] }
[[exclude]]
dataset = "u"
language = "en"
files = ["ids.txt"]
layout = { kind = "ids" }
"#;

#[test]
fn what_is_absent_or_excluded_is_reported() {
    let source =
        source().with("t", "test", &[("Text, number 3!", "common"), ("something else entirely", "common")]);
    let recipe = format!(
        "{EXCLUDE}{ALL}stage = 2\n[[dataset]]\nid = \"gone\"\nsplits = [\"train\"]\ntasks = [\"ner\"]\n"
    );
    let (report, read, _) = made(&recipe, &source, None);
    assert_eq!(read.len(), 98);
    assert!(read.iter().all(|conversation| !matches!(conversation.document_id.as_deref(), Some("3" | "7"))));
    let reasons = ["also in t/test, which is excluded", "also in u, which is excluded"];
    assert_eq!(report.datasets[0].skipped, reasons.map(|reason| (reason.to_owned(), 1)).into());
    assert_eq!(report.stages, BTreeMap::from([(2, 98)]));
    let absent: Vec<(&str, &str)> =
        report.absent.iter().map(|gone| (gone.dataset.as_str(), gone.split.as_str())).collect();
    assert_eq!(absent, [("t", "dev"), ("u", "ids.txt"), ("gone", "train")]);
}

#[test]
fn labels_are_observed_where_no_card_names_them_and_limited_where_asked() {
    let (_, read, _) =
        made("[[dataset]]\nid = \"b\"\nsplits = [\"train\"]\ntasks = [\"tc\"]\n", &source(), None);
    assert!(read.iter().all(|conversation| conversation.conversation[0].human.contains("rare, common")));
    let (report, read, _) = made(&format!("{ALL}only = [\"rare\"]\n"), &source(), None);
    assert_eq!(read.len(), 10);
    assert_eq!(
        report.datasets[0].skipped,
        BTreeMap::from([("label `common`, which the card does not list".to_owned(), 90)])
    );
}

#[test]
fn a_failed_build_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("mix.jsonl");
    let recipe = "name = \"x\"\nversion = 1\nseed = 7\n[[dataset]]\nid = \"gone\"\nsplits = [\"train\"]\ntasks = [\"tc\"]\n";
    let recipe = MixRecipe::parse(Path::new("x.toml"), recipe).unwrap();
    let error = build(&recipe, Templates::embedded(), &source(), &out, None, &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("absent: gone/train: no such file"), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn broken_recipes_are_refused() {
    let parse = |text: &str| MixRecipe::parse(Path::new("x.toml"), text).unwrap_err().to_string();
    let head = "name = \"x\"\nversion = 1\nseed = 7\n";
    for (tail, says) in [
        ("dataset = []\n".to_owned(), "at least one [[dataset]]"),
        (format!("{ALL}kap = 3\n"), "on line 8: unknown field `kap`"),
        (format!("{ALL}negatives = -1\n"), "`negatives` in 0..1000, found -1 for `a`"),
        (format!("{ALL}repeat = nan\n"), "`repeat` in 0..1000"),
        (format!("{ALL}unit = {{ window = 0 }}\n"), "a window of at least 1"),
        (format!("{ALL}stage = 3\n"), "`stage` 1 or 2"),
        (ALL.replace("tc", "tx"), "on line 7: unknown variant `tx`"),
        (ALL.replace("[\"tc\"]", "[]"), "the tasks to ask, found none for `a`"),
    ] {
        let message = parse(&format!("{head}{tail}"));
        assert!(message.starts_with("x.toml: expected ") && message.contains(says), "{message}");
    }
}

#[test]
fn every_shipped_mix_loads() {
    let recipes = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/recipes");
    let mut loaded = 0;
    for entry in std::fs::read_dir(recipes).unwrap() {
        let mix = entry.unwrap().path().join("mix.toml");
        if mix.is_file() {
            MixRecipe::load(&mix).unwrap();
            loaded += 1;
        }
    }
    assert!(loaded > 0);
}

/// What the text of our own base model must not hold, its instructions must not hold either.
#[test]
fn text_and_instructions_of_nano_exclude_the_same_sets() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/recipes/nano");
    let text = TextRecipe::load(&folder.join("text.toml")).unwrap();
    let mix = MixRecipe::load(&folder.join("instructions.toml")).unwrap();
    assert_eq!(text.exclude, mix.exclude);
    for entry in &mix.dataset {
        let scored = |sources: &[TextSource]| {
            sources.iter().any(|source| match &source.layout {
                Layout::Card { splits } => {
                    source.dataset == entry.id && splits.iter().any(|split| entry.splits.contains(split))
                }
                _ => source.dataset == entry.id,
            })
        };
        assert!(!scored(&mix.exclude), "{} {:?}", entry.id, entry.splits);
        assert!(!entry.id.starts_with("sample_") && !entry.id.starts_with("taiyi_"), "{}", entry.id);
    }
}
