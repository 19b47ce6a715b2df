//! The leak index on the real corpora. Skipped, with the reason, where the files are not beside the repository.

#![allow(clippy::print_stderr, reason = "a skipped test says why")]

use std::path::PathBuf;

use taiyi_corpus::card::IdSpace;
use taiyi_corpus::leak::{How, texts, words};
use taiyi_corpus::schema::Document;
use taiyi_corpus::source::{Encoding, Input};
use taiyi_corpus::{Catalog, LeakIndex, read};

fn shared() -> Option<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    if folder.join("counts.json").is_file() {
        return Some(folder);
    }
    eprintln!("skipped: {} is not there", folder.display());
    None
}

fn documents(source: &std::path::Path, id: &str, variant: &str, split: &str) -> Vec<Document> {
    let card = Catalog::embedded().card(id).unwrap();
    read(card, Some(variant), split, source).unwrap().map(Result::unwrap).collect()
}

fn index_of(documents: &[Document]) -> LeakIndex {
    let mut index = LeakIndex::new();
    // Texts alone: ids of split scope are not compared.
    documents.iter().for_each(|document| index.add_document(document, IdSpace::Split));
    index
}

fn found(index: &LeakIndex, documents: &[Document]) -> Vec<(String, How)> {
    let leak = |document: &Document| {
        index.find_document(document, IdSpace::Split).map(|leak| (leak.against, leak.how))
    };
    documents.iter().filter_map(leak).collect()
}

#[test]
fn the_same_abstracts_in_another_format_are_all_found() {
    let Some(source) = shared() else { return };
    let index = index_of(&documents(&source, "bc5cdr", "pubtator", "test"));
    let leaks = found(&index, &documents(&source, "bc5cdr", "bioc", "test"));
    assert_eq!(leaks.iter().filter(|(_, how)| *how == How::Exact).count(), 500);
}

#[test]
fn other_abstracts_on_the_same_subjects_are_not() {
    let Some(source) = shared() else { return };
    let index = index_of(&documents(&source, "bc5cdr", "pubtator", "test"));
    for (id, variant, split) in [
        ("bc5cdr", "pubtator", "train"),
        ("ncbi_disease", "pubtator", "train"),
        ("drugprot", "pubtator", "dev"),
    ] {
        assert_eq!(found(&index, &documents(&source, id, variant, split)), [], "{id}");
    }
    let index = index_of(&documents(&source, "pubmed_qa", "pqa_l", "test"));
    assert_eq!(found(&index, &documents(&source, "pubmed_qa", "pqa_l", "train")), []);
}

#[test]
fn sentences_are_found_inside_their_documents() {
    let Some(source) = shared() else { return };
    let index = index_of(&documents(&source, "hallmarks_of_cancer", "document", "test"));
    let sentences = documents(&source, "hallmarks_of_cancer", "sentence_split", "test");
    let (mut long, mut missed) = (0, Vec::new());
    for sentence in &sentences {
        // Four shingles of five words are eight words.
        if words(&texts(sentence).join(" ")).len() < 8 {
            continue;
        }
        long += 1;
        match index.find_document(sentence, IdSpace::Split) {
            Some(leak) => assert!(leak.score >= 0.5, "{leak:?}"),
            None => missed.push(&sentence.id),
        }
    }
    // The two editions differ in a few sentences (spacing that joins words, cut ones).
    assert!(missed.len() * 200 < long, "{missed:?} of {long}");
    assert!(long > 2500, "{long} of {}", sentences.len());
}

#[test]
fn ids_of_a_list_are_found_in_every_split() {
    let Some(source) = shared() else { return };
    let mut index = LeakIndex::new();
    let ids = Input::open(source.as_path(), "biored/test_pmids.txt", Encoding::Utf8).unwrap();
    assert_eq!(index.add_ids(ids, IdSpace::Pmid).unwrap(), 100);
    let card = Catalog::embedded().card("bc5cdr").unwrap();
    // Counted apart from this code, with grep, over the PubTator files.
    for (split, count) in [("train", 10), ("dev", 11), ("test", 13)] {
        let documents = read(card, None, split, &source).unwrap();
        let leaks: Vec<_> = index.leaks(documents, card.document_ids).map(Result::unwrap).collect();
        assert_eq!(leaks.len(), count, "{split}");
        assert!(leaks.iter().all(|(_, leak)| leak.how == How::Id));
    }
}

#[test]
fn two_chinese_benchmarks_share_sentences() {
    let Some(source) = shared() else { return };
    let index = index_of(&documents(&source, "cmeee_v2", "json", "dev"));
    let leaks = found(&index, &documents(&source, "cmeie_v2", "jsonl", "dev"));
    let count = |how: How| leaks.iter().filter(|(_, found)| *found == how).count();
    // The figure the notes of both cards give.
    assert_eq!((leaks.len(), count(How::Exact)), (116, 8));
    // Short queries are compared word for word only, and none of KUAKE-QIC's stands in both of its splits.
    let index = index_of(&documents(&source, "kuake_qic", "json", "dev"));
    assert_eq!(found(&index, &documents(&source, "kuake_qic", "json", "train")), []);
}
