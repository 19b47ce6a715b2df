//! The shipped samples: readable, correct, large enough, and no test document nearly in training.

use std::path::{Path, PathBuf};

use taiyi_corpus::leak::{LeakIndex, texts};
use taiyi_corpus::schema::{Content, Document, QaKind, Task};
use taiyi_corpus::{Catalog, check, read};

/// Sample, fewest training and test documents it must have.
const SAMPLES: [(&str, usize, usize); 5] = [
    ("sample_drugprot", 1500, 200),
    ("sample_evidence_inference", 1500, 200),
    ("sample_genetag", 1500, 200),
    ("taiyi_zh_intent", 600, 200),
    ("taiyi_zh_ner", 600, 150),
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/samples")
}

fn documents(id: &str, split: &str) -> Vec<Document> {
    let card = Catalog::embedded().card(id).unwrap();
    read(card, None, split, &folder()).unwrap().map(Result::unwrap).collect()
}

#[test]
fn every_sample_folder_has_a_card_an_attribution_and_is_listed_here() {
    let mut found: Vec<String> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    found.sort();
    assert_eq!(found, SAMPLES.map(|(id, ..)| id));
    for (id, ..) in SAMPLES {
        let card = Catalog::embedded().card(id).unwrap();
        assert!(card.redistributable && !card.local, "{id}");
        let attribution = std::fs::read_to_string(folder().join(id).join("ATTRIBUTION.md")).unwrap();
        assert!(attribution.starts_with(&format!("# {id}\n")), "{id}");
        assert!(attribution.contains("icence"), "{id}");
    }
}

/// The crate's own check: unique ids, text at offsets, known labels, texts of their own, the card's counts.
#[test]
fn every_sample_is_clean() {
    for (id, ..) in SAMPLES {
        let card = Catalog::embedded().card(id).unwrap();
        let report = check(card, None, folder().as_path(), &mut |_, _| {}).unwrap();
        let bad: Vec<_> = report.datasets.iter().flat_map(|row| &row.findings).collect();
        assert!(bad.is_empty(), "{id}: {bad:#?}");
    }
}

#[test]
fn every_sample_is_large_enough_and_says_what_it_is() {
    for (id, train, test) in SAMPLES {
        let card = Catalog::embedded().card(id).unwrap();
        for (split, fewest) in [("train", train), ("test", test)] {
            let documents = documents(id, split);
            assert!(documents.len() >= fewest, "{id} {split}: {} of {fewest}", documents.len());
            for document in &documents {
                assert_eq!(
                    (document.dataset.as_str(), document.split.as_str()),
                    (id, split),
                    "{}",
                    document.id
                );
                assert_eq!(document.language, card.language(), "{}", document.id);
                match (&document.content, card.tasks[0]) {
                    (Content::Ie(ie), Task::Ner) => {
                        // One span each: the samples have no discontinuous mention.
                        assert!(
                            ie.entities.iter().all(|entity| entity.offsets.len() == 1),
                            "{}",
                            document.id
                        );
                    }
                    (Content::Tc(tc), Task::Tc) => assert_eq!(tc.labels.len(), 1, "{}", document.id),
                    (Content::Qa(qa), Task::Qa) => {
                        assert_eq!(
                            (qa.choices.len(), qa.answers.len(), qa.contexts.len()),
                            (3, 1, 1),
                            "{}",
                            document.id
                        );
                        assert_eq!(qa.kind, QaKind::MultipleChoice, "{}", document.id);
                    }
                    _ => panic!("{id}: {} is not for {:?}", document.id, card.tasks),
                }
            }
        }
    }
}

/// Whole documents and each of their texts: the question of a QA record must not hide that its passage leaks.
#[test]
fn no_test_document_is_nearly_in_training() {
    for (id, ..) in SAMPLES {
        let space = Catalog::embedded().card(id).unwrap().document_ids;
        let mut held_out = LeakIndex::new();
        for document in documents(id, "test") {
            held_out.add_document(&document, space);
            if let Some(context) = texts(&document).get(1) {
                held_out.add_text(&document.id, context);
            }
        }
        for document in documents(id, "train") {
            let leak = held_out.find_document(&document, space);
            assert_eq!(leak, None, "{id}: {}", document.id);
            if let Some(context) = texts(&document).get(1) {
                assert_eq!(held_out.find_text(context), None, "{id}: {}", document.id);
            }
        }
    }
}

/// Queries are too short for shingles of eight characters; pairs of characters tell copies apart.
#[test]
fn no_chinese_test_text_shares_most_character_pairs_with_training() {
    let pairs = |document: &Document| -> std::collections::BTreeSet<(char, char)> {
        let text: Vec<char> = texts(document)[0].chars().collect();
        text.windows(2).map(|pair| (pair[0], pair[1])).collect()
    };
    for id in ["taiyi_zh_intent", "taiyi_zh_ner"] {
        let train: Vec<_> = documents(id, "train").iter().map(pairs).collect();
        for document in documents(id, "test") {
            let own = pairs(&document);
            for other in &train {
                let shared = own.intersection(other).count();
                assert!(100 * shared < 55 * own.len().min(other.len()), "{id}: {}", document.id);
            }
        }
    }
}

/// The marks are what tells a reader which pair a DrugProt record is about.
#[test]
fn drugprot_records_mark_one_chemical_and_one_gene() {
    for split in ["train", "test"] {
        for document in documents("sample_drugprot", split) {
            let text = &texts(&document)[0];
            for mark in ["[[chemical: ", "[[gene: "] {
                assert_eq!(text.matches(mark).count(), 1, "{}: {text}", document.id);
            }
        }
    }
}
