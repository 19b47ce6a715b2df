//! Every card against the real files: what the readers count equals the independent counts of
//! `../shared/data/counts.json`, and nothing is found that a card does not declare. The shipped samples are always
//! there; the rest is skipped, with the reason, where the files are not beside the repository.

#![allow(clippy::print_stderr, reason = "a skipped test says why")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use taiyi_corpus::card::Role;
use taiyi_corpus::checks::Counts;
use taiyi_corpus::readers::Format;
use taiyi_corpus::{Card, Catalog, check};

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn shared() -> Option<PathBuf> {
    let folder = repository().join("../shared/data");
    if folder.join("counts.json").is_file() {
        return Some(folder);
    }
    eprintln!("skipped: {} is not there", folder.display());
    None
}

fn is_sample(card: &Card) -> bool {
    card.variants.iter().all(|variant| matches!(variant.format, Format::Jsonl(_)))
}

/// The counts of every split of a dataset by variant and split, after asserting that nothing new was found.
fn counts(card: &Card, source: &Path) -> BTreeMap<(String, String), Counts> {
    let report = check(card, None, source, &mut |_, _| {}).unwrap();
    let new: Vec<String> = report
        .datasets
        .iter()
        .flat_map(|row| {
            row.findings.iter().filter(|finding| !finding.known).map(move |finding| (row, finding))
        })
        .map(|(row, f)| {
            format!("{}/{}/{} {} at {}: {}", row.id, row.variant, f.split, f.code, f.place, f.message)
        })
        .collect();
    assert!(new.is_empty() && report.is_clean(), "{}", new.join("\n"));
    let rows = report.datasets.into_iter().flat_map(|row| {
        let variant = row.variant;
        row.splits.into_iter().map(move |(split, counts)| ((variant.clone(), split), counts))
    });
    rows.collect()
}

#[test]
fn samples_have_the_counts_of_their_cards() {
    for card in Catalog::embedded().iter().filter(|card| is_sample(card)) {
        counts(card, &repository().join("data/samples"));
    }
}

#[test]
fn datasets_have_the_counts_of_the_manifest() {
    let Some(source) = shared() else { return };
    let text = std::fs::read_to_string(source.join("counts.json")).unwrap();
    let rows: Vec<Value> = serde_json::from_str(&text).unwrap();
    let mut compared: BTreeMap<String, usize> = BTreeMap::new();
    for card in Catalog::embedded().iter().filter(|card| !is_sample(card)) {
        let counts = counts(card, &source);
        for row in rows.iter().filter(|row| row["dataset"] == card.id.as_str()) {
            let file = row["file"].as_str().unwrap();
            for variant in &card.variants {
                // A file that several splits share (ids select from it) is counted over all of them.
                let mut all = Counts::default();
                let splits = variant.splits.iter().filter(|(_, split)| {
                    split.files.iter().any(|entry| entry.path == file && entry.role == Role::Documents)
                });
                let mut any = false;
                for (name, _) in splits {
                    any = true;
                    add(&mut all, &counts[&(variant.id.clone(), name.clone())]);
                }
                if any && !(card.id == "evidence_inference" && variant.id == "v2") {
                    *compared.entry(card.id.clone()).or_insert(0) += compare(row, &all);
                }
            }
        }
    }
    for card in Catalog::embedded().iter().filter(|card| !is_sample(card)) {
        // These have no row of counts; their figures in the manifest are in their cards, which were compared.
        let without = ["cmid_36", "cmid_ner", "meddialog", "tcm_sd_tc"].contains(&card.id.as_str());
        assert!(without || compared.contains_key(&card.id), "{} was compared with nothing", card.id);
    }
}

fn add(all: &mut Counts, one: &Counts) {
    all.documents += one.documents;
    all.items += one.items;
    all.unreadable += one.unreadable;
    all.utterances += one.utterances;
    let maps = [
        (&mut all.entities, &one.entities),
        (&mut all.relations, &one.relations),
        (&mut all.labels, &one.labels),
    ];
    for (into, from) in maps {
        from.iter().for_each(|(kind, count)| *into.entry(kind.clone()).or_insert(0) += count);
    }
}

/// Compares a row of counts.json with counts of ours; returns how many figures were compared.
fn compare(row: &Value, ours: &Counts) -> usize {
    let file = row["file"].as_str().unwrap();
    let mut compared = 0;
    // The rows call sentences, items or documents what is one document here; HoC's abstracts come with both.
    let size = ["documents", "items", "sentences"].into_iter().find_map(|key| row[key].as_u64());
    if let Some(size) = size {
        // A record that is left out here is in the row, with its mentions (tmVar), unless it is no document (GENETAG).
        if ours.unreadable > 0 && size == ours.documents + ours.unreadable {
            return 1;
        }
        assert_eq!(ours.documents, size, "{file}: documents");
        compared += 1;
    }
    if let Some(items) = row["items"].as_u64() {
        assert_eq!(ours.items, items, "{file}: items");
        compared += 1;
    }
    for (key, ours) in
        [("entities", &ours.entities), ("relations", &ours.relations), ("labels", &ours.labels)]
    {
        if let Some(theirs) = row[key].as_object() {
            let theirs: BTreeMap<String, u64> =
                theirs.iter().map(|(kind, count)| (kind.clone(), count.as_u64().unwrap())).collect();
            assert_eq!(*ours, theirs, "{file}: {key}");
            compared += theirs.len();
        }
    }
    // Some figures are only in the sentence that describes the count.
    let sentence = row["counted"].as_str().unwrap();
    for (before, ours) in [
        ("predicates (", &ours.relations),
        ("top-level labels over zip(sentence,label) (", &ours.labels),
        ("final_decision (", &ours.labels),
    ] {
        if let Some((_, rest)) = sentence.split_once(before) {
            let list = rest.split_once("); ").unwrap().0;
            let theirs: BTreeMap<String, u64> = list
                .split(", ")
                .map(|part| {
                    part.rsplit_once('=').map(|(kind, n)| (kind.to_owned(), n.parse().unwrap())).unwrap()
                })
                .collect();
            assert_eq!(*ours, theirs, "{file}: {before}");
            compared += theirs.len();
        }
    }
    if let Some((number, _)) = sentence.split_once(" utterances").and_then(|(head, rest)| {
        head.rsplit(' ').next().and_then(|number| number.parse::<u64>().ok()).map(|number| (number, rest))
    }) {
        assert_eq!(ours.utterances, number, "{file}: utterances");
        compared += 1;
    }
    compared
}

#[test]
fn sizes_that_no_row_of_counts_gives() {
    let Some(source) = shared() else { return };
    let catalog = Catalog::embedded();
    // Mention lines of GENETAG's two mention files, from `counted` of their rows; one line of Correct.Data belongs
    // to no sentence.
    let genetag = counts(catalog.card("genetag").unwrap(), &source);
    let mentions = |variant: &str, split: &str| genetag[&(variant.into(), split.into())].entities["NEWGENE"];
    assert_eq!(["train", "dev", "test"].map(|split| mentions("gold", split)), [8935, 5949, 2987]);
    assert_eq!(["train", "dev", "test"].map(|split| mentions("alternatives", split)), [6593 - 1, 4275, 2158]);
    // The split of PubMedQA: 500 keys of the test set and the rest, with the same labels.
    let pubmed_qa = counts(catalog.card("pubmed_qa").unwrap(), &source);
    for split in ["train", "test"] {
        let labels = &pubmed_qa[&("pqa_l".into(), split.into())].labels;
        assert_eq!([labels["yes"], labels["no"], labels["maybe"]], [276, 169, 55]);
    }
    // Prompts of Evidence Inference by split list, and those with annotations of version 2.
    let evidence = counts(catalog.card("evidence_inference").unwrap(), &source);
    let items = |variant: &str| {
        let rows = evidence.iter().filter(|((id, _), _)| id == variant);
        rows.map(|((_, split), counts)| (split.as_str(), counts.items)).collect::<BTreeMap<_, _>>()
    };
    let all = [("train", 10326), ("dev", 1258), ("test", 1252), ("unassigned", 29)];
    assert_eq!(items("prompts"), BTreeMap::from(all));
    assert_eq!(items("v2").values().sum::<u64>(), 2444);
    // The sentences of HoC in the split of its document edition.
    let hoc = counts(catalog.card("hallmarks_of_cancer").unwrap(), &source);
    let sentences = |split: &str| hoc[&("sentence_split".into(), split.into())].documents;
    assert_eq!(["train", "dev", "test", "unassigned"].map(sentences), [10527, 1496, 2896, 2545]);
    // Speaker lines of MedDialog.
    let meddialog = counts(catalog.card("meddialog").unwrap(), &source);
    assert_eq!(meddialog[&("text".into(), "all".into())].utterances, 616 + 616);
}

#[test]
fn composite_mentions_are_the_whole_difference_between_bioc_and_pubtator() {
    let Some(source) = shared() else { return };
    let card = Catalog::embedded().card("bc5cdr").unwrap();
    for split in ["train", "dev", "test"] {
        let read = |variant: &str| -> Vec<_> {
            let documents = taiyi_corpus::read(card, Some(variant), split, &source).unwrap();
            documents
                .map(|document| match document.unwrap().content {
                    taiyi_corpus::schema::Content::Ie(ie) => ie,
                    other => panic!("{other:?}"),
                })
                .collect()
        };
        for (pubtator, bioc) in read("pubtator").iter().zip(read("bioc")) {
            assert_eq!(pubtator.text(), bioc.text());
            let relations = |ie: &taiyi_corpus::schema::Ie| {
                let mut pairs: Vec<_> =
                    ie.relations.iter().map(|r| (r.arg1_id.clone(), r.arg2_id.clone())).collect();
                pairs.sort();
                pairs
            };
            assert_eq!(relations(pubtator), relations(&bioc));
            // Every PubTator mention is a BioC annotation with the same span, type and concepts.
            for entity in &pubtator.entities {
                let same = bioc.entities.iter().any(|other| {
                    other.offsets == entity.offsets
                        && other.kind == entity.kind
                        && other.normalized == entity.normalized
                });
                let misplaced = entity.text[0] == "midline (MD) defects";
                assert!(same || misplaced, "{split}: {entity:?}");
            }
        }
    }
}
