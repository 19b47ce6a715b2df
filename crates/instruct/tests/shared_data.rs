//! The fourteen datasets in their original files: every answer survives the round trip, and the published mix builds.
//! Skipped where `../shared/data` is not beside the repository.

#![allow(clippy::print_stderr, reason = "a test says why it was skipped and what it counted")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use taiyi_corpus::schema::Content;
use taiyi_corpus::{Catalog, read};
use taiyi_instruct::labels::LabelName;
use taiyi_instruct::prompt::{Ask, AskOptions, PromptBuilder};
use taiyi_instruct::roundtrip::{verify, verify_card};
use taiyi_instruct::source::CardSource;
use taiyi_instruct::units::Unit;
use taiyi_instruct::{
    Conversation, ConversationReader, DatasetLabels, LabelNames, MixRecipe, Templates, build::build,
};

fn shared() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    if !folder.is_dir() {
        eprintln!("skipped: no {} beside the repository", folder.display());
        return None;
    }
    Some(folder)
}

const DATASETS: [&str; 14] = [
    "bc5cdr",
    "ncbi_disease",
    "hallmarks_of_cancer",
    "pubmed_qa",
    "evidence_inference",
    "genetag",
    "kuake_qic",
    "cmeee_v2",
    "cmeie_v2",
    "tcm_sd_tc",
    "mqp",
    "bentsao_llamadata",
    "meddialog",
    "covid_dialogue_zh",
];

#[test]
fn every_answer_survives_the_round_trip_under_every_wording() {
    let Some(folder) = shared() else { return };
    let (mut records, mut failures) = (0, 0);
    for id in DATASETS {
        let card = Catalog::embedded().card(id).unwrap();
        let mut documents = Vec::new();
        for split in card.variant(None).unwrap().split_names() {
            documents.extend(read(card, None, split, &folder).unwrap().flatten());
        }
        let mut found = vec![("whole texts", verify_card(card, &documents))];
        let labels = DatasetLabels::from(card);
        if documents.iter().any(|document| matches!(document.content, Content::Ie(_))) {
            let builder =
                PromptBuilder::new(&labels, AskOptions { unit: Unit::Sentence, ..AskOptions::default() });
            found.push(("sentences", verify(&documents, Ask::Ner, &builder, Templates::embedded())));
        }
        for (unit, found) in found {
            eprintln!("{id}, {unit}: {found}");
            assert!(found.records > 0, "{id} gives no record");
            assert!(found.failure_rate() < 0.001, "{id}: {}", found.failure_rate());
            records += found.records;
            failures += found.failures.len();
        }
    }
    eprintln!("in all: {records} records, {failures} failures");
}

#[test]
fn the_published_mix_builds_and_reads_back() {
    let Some(folder) = shared() else { return };
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/recipes/taiyi1/mix.toml");
    let recipe = MixRecipe::load(&recipe).unwrap();
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("mix.jsonl");
    let source = CardSource { catalog: Catalog::embedded(), folder };
    let report = build(&recipe, Templates::embedded(), &source, &path, None, &mut |_| {}).unwrap();
    eprintln!("{}", serde_json::to_string_pretty(&report).unwrap());
    let read: Vec<Conversation> = ConversationReader::open(&path).unwrap().map(Result::unwrap).collect();
    assert_eq!(read.len() as u64, report.conversations);
    assert!(read.iter().zip(1..).all(|(conversation, id)| conversation.conversation_id == id));
    let mut categories: BTreeMap<String, u64> = BTreeMap::new();
    for conversation in &read {
        *categories.entry(conversation.category.clone()).or_default() += 1;
        assert!(!["dev", "test"].contains(&conversation.split.as_deref().unwrap()));
        assert!(conversation.in_stage(2));
        let dialogue = conversation.category.starts_with("QA") || conversation.category == "MRD";
        assert_eq!(conversation.in_stage(1), !dialogue);
    }
    assert_eq!(categories, report.categories);
    // The source at hand has the development splits of CMeEE and CMeIE only.
    let absent: Vec<&str> = report.absent.iter().map(|absent| absent.dataset.as_str()).collect();
    assert_eq!(absent, ["cmeee_v2", "cmeie_v2"]);
    assert!(report.datasets.iter().all(|entry| entry.unreadable == 0));
}

#[test]
fn renamed_types_are_asked_as_one() {
    let mut names = LabelNames::plain(["SpecificDisease", "Modifier"]);
    let name = |source: &str| LabelName { source: source.into(), en: "disease".into(), zh: "疾病".into() };
    names.rename(&[name("SpecificDisease"), name("Modifier"), name("unused")]);
    assert_eq!(names.displays(taiyi_corpus::schema::Language::En), ["disease"]);
}
