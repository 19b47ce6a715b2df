//! Writes the English shipped samples, `data/samples/sample_*/{train,test}.jsonl`, from the source files.
//!
//! Run from the repository's root, with the source files of the three corpora beside it:
//!
//! ```text
//! cargo run --release -p taiyi-corpus --example make_samples -- ../shared/data data/samples
//! ```
//!
//! It was run once, for the files that are committed; the same sources give the same bytes again. The Chinese
//! samples have no source but their JSONL. What is selected, and why, is said in each sample's `ATTRIBUTION.md`;
//! the numbers are constants here. Everything is read through the catalogue's cards, so the offsets are those that
//! `taiyi corpus check` has checked.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout)]

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::io::Write;
use std::path::Path;

use taiyi_corpus::leak::{LeakIndex, fingerprint, texts};
use taiyi_corpus::offsets::{CharSpan, TextIndex};
use taiyi_corpus::schema::{Content, Document, Ie, Qa, Tc};
use taiyi_corpus::source::{Encoding, Input};
use taiyi_corpus::{Card, Catalog, read};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Every choice below follows from it.
const SEED: u64 = 20_240_607;

/// GENETAG: sentences of each split, characters of a sentence, the most that may hold no gene.
const GENETAG: [(&str, usize); 2] = [("test", 300), ("train", 1800)];
const SENTENCE_CHARS: std::ops::RangeInclusive<usize> = 40..=300;
const WITHOUT_GENE_PERCENT: usize = 25;

/// DrugProt: records of the test split; the rest is the training split. A class with fewer records is left out.
const DRUGPROT_TEST: usize = 200;
const FEWEST_OF_A_CLASS: usize = 20;
const SHUFFLES: u64 = 1000;

/// Evidence Inference: records of each split, longest context and question.
const EVIDENCE_TEST: usize = 300;
const EVIDENCE_TRAIN: usize = 1800;
const CONTEXT_CHARS: std::ops::RangeInclusive<usize> = 30..=600;
const QUESTION_CHARS: usize = 400;

/// BioRED has no card yet; its documents must not be shipped as training text.
const BIORED: &str = r#"
    id = "biored"
    display_name = "BioRED"
    languages = ["en"]
    tasks = ["RE"]
    license = "none stated here: read, not copied"
    redistributable = false
    local = false
    homepage = "https://github.com/ncbi/BioRED"
    citation = "Luo et al. 2022"
    document_ids = "pmid"
    notes = ""
    [[variants]]
    id = "pubtator"
    format = { name = "pubtator" }
    splits.train.files = [{ path = "biored/Train.PubTator.gz" }]
    splits.dev.files = [{ path = "biored/Dev.PubTator" }]
"#;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [source, target] = &arguments[..] else {
        return Err("usage: make_samples <source folder> <samples folder>".into());
    };
    let (source, target) = (Path::new(source), Path::new(target));
    let benchmarks = benchmarks(source)?;
    println!("{} benchmark documents must not be met", benchmarks.len());
    genetag(source, target, &benchmarks)?;
    drugprot(source, target, &benchmarks)?;
    evidence_inference(source, target, &benchmarks)
}

/// The benchmarks' documents in English that a sentence of a sample could come from.
fn benchmarks(source: &Path) -> Outcome<LeakIndex> {
    let mut index = LeakIndex::new();
    let catalog = Catalog::embedded();
    let biored = Card::parse("biored", BIORED)?;
    let cards = [
        (catalog.card("bc5cdr")?, vec!["dev", "test"]),
        (catalog.card("ncbi_disease")?, vec!["dev", "test"]),
        (catalog.card("hallmarks_of_cancer")?, vec!["dev", "test"]),
        (catalog.card("pubmed_qa")?, vec!["train", "test"]),
        (&biored, vec!["train", "dev"]),
    ];
    for (card, splits) in cards {
        for split in splits {
            for document in read(card, None, split, source)? {
                index.add_document(&document?, card.document_ids);
            }
        }
    }
    Ok(index)
}

fn genetag(source: &Path, target: &Path, benchmarks: &LeakIndex) -> Outcome<()> {
    let card = Catalog::embedded().card("genetag")?;
    let mut held_out = LeakIndex::new();
    for (split, size) in GENETAG {
        let mut seen = BTreeSet::new();
        let mut with = Vec::new();
        let mut without = Vec::new();
        let mut dropped = 0;
        for document in read(card, Some("gold"), split, source)? {
            let mut document = document?;
            let Content::Ie(ie) = &document.content else { continue };
            let text = ie.text();
            if !SENTENCE_CHARS.contains(&text.chars().count()) || !offsets_hold(ie) {
                continue;
            }
            let alike = benchmarks.find_text(&text).is_some() || held_out.find_text(&text).is_some();
            if alike || !seen.insert(fingerprint(&[&text])) {
                dropped += 1;
                continue;
            }
            let pile = if ie.entities.is_empty() { &mut without } else { &mut with };
            document.dataset = "sample_genetag".into();
            pile.push(document);
        }
        let empty = size * WITHOUT_GENE_PERCENT / 100;
        shuffle(&mut with, SEED);
        shuffle(&mut without, SEED + 1);
        let mut chosen: Vec<Document> = with.into_iter().take(size - empty).collect();
        chosen.extend(without.into_iter().take(empty));
        if chosen.len() != size {
            return Err(format!("genetag {split}: {} sentences, {size} wanted", chosen.len()).into());
        }
        shuffle(&mut chosen, SEED + 2);
        if split == "test" {
            chosen.iter().for_each(|document| held_out.add_document(document, card.document_ids));
        }
        println!("genetag {split}: {dropped} near a benchmark or a held-out sentence, or repeated");
        write(target, "sample_genetag", split, &chosen)?;
    }
    Ok(())
}

fn offsets_hold(ie: &Ie) -> bool {
    let text = ie.text();
    let index = TextIndex::new(&text);
    ie.entities.iter().all(|entity| {
        entity.text.len() == entity.offsets.len()
            && entity
                .offsets
                .iter()
                .zip(&entity.text)
                .all(|(span, own)| index.slice(*span) == Some(own.as_str()))
    })
}

fn drugprot(source: &Path, target: &Path, benchmarks: &LeakIndex) -> Outcome<()> {
    let card = Catalog::embedded().card("drugprot")?;
    let mut records: BTreeMap<String, Vec<Document>> = BTreeMap::new();
    let (mut ambiguous, mut wide) = (0, 0);
    for document in read(card, Some("bioc"), "dev", source)? {
        let document = document?;
        if benchmarks.find_document(&document, card.document_ids).is_some() {
            println!("drugprot: {} is in a benchmark", document.document_id);
            continue;
        }
        let Content::Ie(ie) = &document.content else { continue };
        let text = ie.text();
        let sentences = sentences(&text, ie);
        let mut pairs: BTreeMap<(&str, &str), BTreeSet<&str>> = BTreeMap::new();
        for relation in &ie.relations {
            pairs.entry((&relation.arg1_id, &relation.arg2_id)).or_default().insert(&relation.kind);
        }
        for ((head, tail), kinds) in pairs {
            let (Some(chemical), Some(gene)) = (ie.entity(head), ie.entity(tail)) else {
                return Err(format!("drugprot: {}: no entity {head} or {tail}", document.id).into());
            };
            if kinds.len() != 1 {
                ambiguous += 1;
                continue;
            }
            let Some((text, sentences_held)) =
                marked(&text, &sentences, chemical.offsets[0], gene.offsets[0])
            else {
                continue;
            };
            wide += usize::from(sentences_held > 1);
            let labels = kinds.into_iter().map(str::to_owned).collect();
            records.entry(document.document_id.clone()).or_default().push(Document {
                id: format!("{}-{head}-{tail}", document.document_id),
                dataset: "sample_drugprot".into(),
                content: Content::Tc(Tc { text, labels }),
                ..document.clone()
            });
        }
    }
    let counts = label_counts(records.values().flatten());
    for (label, count) in &counts {
        if *count < FEWEST_OF_A_CLASS {
            println!("drugprot: {label} has {count} records and is left out");
        }
    }
    for of_document in records.values_mut() {
        of_document.retain(|record| counts[label_of(record)] >= FEWEST_OF_A_CLASS);
    }
    records.retain(|_, of_document| !of_document.is_empty());
    let all: usize = records.values().map(Vec::len).sum();
    println!("drugprot: {all} records; {ambiguous} pairs with two classes left out; {wide} span sentences");
    let (train, test) = by_document(records)?;
    write(target, "sample_drugprot", "train", &train)?;
    write(target, "sample_drugprot", "test", &test)
}

/// Of many shuffles of the documents, the one whose test split has the classes most nearly as the whole and no
/// sentence that is nearly one of training.
fn by_document(records: BTreeMap<String, Vec<Document>>) -> Outcome<(Vec<Document>, Vec<Document>)> {
    let whole = label_counts(records.values().flatten());
    let total: usize = whole.values().sum();
    let mut best: Option<(f64, Vec<Document>, Vec<Document>)> = None;
    for round in 0..SHUFFLES {
        let mut ids: Vec<&String> = records.keys().collect();
        shuffle(&mut ids, SEED + round);
        let (mut train, mut test) = (Vec::new(), Vec::new());
        for id in ids {
            let of_document = &records[id];
            let pile = if test.len() + of_document.len() <= DRUGPROT_TEST { &mut test } else { &mut train };
            pile.extend(of_document.iter().cloned());
        }
        let counts = label_counts(&test);
        let share = |count: usize, of: usize| count as f64 / of as f64;
        let distance: f64 = whole
            .iter()
            .map(|(label, count)| {
                (share(counts.get(label).copied().unwrap_or(0), test.len()) - share(*count, total)).abs()
            })
            .sum();
        if test.len() < DRUGPROT_TEST || best.as_ref().is_some_and(|(other, ..)| distance >= *other) {
            continue;
        }
        let mut held_out = LeakIndex::new();
        for record in &test {
            texts(record).iter().for_each(|text| held_out.add_text(&record.id, text));
        }
        if train.iter().any(|record| texts(record).iter().any(|text| held_out.find_text(text).is_some())) {
            continue;
        }
        best = Some((distance, train, test));
    }
    let (distance, mut train, mut test) = best.ok_or("drugprot: no split without near-duplicates")?;
    println!("drugprot: classes of the test split differ from the whole by {:.1} % in sum", 100.0 * distance);
    for (split, documents) in [("train", &mut train), ("test", &mut test)] {
        shuffle(documents, SEED);
        documents.iter_mut().for_each(|document| split.clone_into(&mut document.split));
    }
    Ok((train, test))
}

/// The sentence that holds both mentions, with the mentions marked, and the number of sentences it is made of.
/// `None` where the mentions overlap.
fn marked(text: &str, sentences: &[CharSpan], chemical: CharSpan, gene: CharSpan) -> Option<(String, usize)> {
    let (first, second) = if chemical.start < gene.start { (chemical, gene) } else { (gene, chemical) };
    if first.end > second.start {
        return None;
    }
    let from = sentences.iter().position(|sentence| first.start < sentence.end)?;
    let to = sentences.iter().position(|sentence| second.end <= sentence.end)?;
    let index = TextIndex::new(text);
    let slice = |start, end| index.slice(CharSpan::new(start, end));
    let mark = |span: CharSpan| {
        let kind = if span == chemical { "chemical" } else { "gene" };
        Some(format!("[[{kind}: {}]]", index.slice(span)?))
    };
    let marked = [
        slice(sentences[from].start, first.start)?,
        &mark(first)?,
        slice(first.end, second.start)?,
        &mark(second)?,
        slice(second.end, sentences[to].end)?,
    ];
    Some((one_line(&marked.concat()), to - from + 1))
}

/// Sentences of an abstract, in code points: they end at a tab (after the title) and after `.`, `?` or `!` before a
/// space and what can begin a sentence; never within a mention, after an abbreviation or after an initial.
fn sentences(text: &str, ie: &Ie) -> Vec<CharSpan> {
    const ABBREVIATIONS: [&str; 16] = [
        "al", "approx", "ca", "cf", "dr", "e.g", "enc", "fig", "i.e", "no", "resp", "sp", "spp", "subsp",
        "var", "vs",
    ];
    let chars: Vec<char> = text.chars().collect();
    let mut cuts = vec![0];
    for at in 1..chars.len() {
        let title = chars[at - 1] == '\t';
        let stop = at >= 2
            && chars[at - 1] == ' '
            && matches!(chars[at - 2], '.' | '?' | '!')
            && (chars[at].is_uppercase() || chars[at].is_ascii_digit() || matches!(chars[at], '[' | '('));
        let word: String =
            match chars[..at.saturating_sub(2)].iter().rposition(|c| matches!(c, ' ' | '(' | '\t')) {
                Some(space) if stop => chars[space + 1..at - 2].iter().collect(),
                _ => String::new(),
            };
        let short = ABBREVIATIONS.contains(&word.to_lowercase().as_str())
            || (word.chars().count() == 1 && word.chars().all(char::is_uppercase));
        let inside = ie
            .entities
            .iter()
            .flat_map(|entity| &entity.offsets)
            .any(|mention| mention.start < at && at < mention.end);
        if (title || (stop && !short)) && !inside {
            cuts.push(at);
        }
    }
    cuts.push(chars.len());
    cuts.windows(2).map(|pair| CharSpan::new(pair[0], pair[1])).collect()
}

fn evidence_inference(source: &Path, target: &Path, benchmarks: &LeakIndex) -> Outcome<()> {
    let card = Catalog::embedded().card("evidence_inference")?;
    let disputed = disputed(source)?;
    let mut held_out = LeakIndex::new();
    let mut test = Vec::new();
    for split in ["test", "dev"] {
        let mut more = evidence_of(card, split, source, &disputed, &[benchmarks])?;
        shuffle(&mut more, SEED);
        // The official test articles first; validation articles fill up what is missing.
        test.extend(more);
    }
    test.truncate(EVIDENCE_TEST);
    for document in &test {
        held_out.add_document(document, card.document_ids);
        let Content::Qa(qa) = &document.content else { continue };
        qa.contexts.iter().for_each(|context| held_out.add_text(&document.id, context));
    }
    let mut train = evidence_of(card, "train", source, &disputed, &[benchmarks, &held_out])?;
    println!("evidence_inference: {} training records to choose from", train.len());
    shuffle(&mut train, SEED);
    train.truncate(EVIDENCE_TRAIN);
    if test.len() < EVIDENCE_TEST || train.len() < EVIDENCE_TRAIN {
        return Err(format!("evidence_inference: only {} and {} records", train.len(), test.len()).into());
    }
    shuffle(&mut test, SEED);
    for document in &mut test {
        "test".clone_into(&mut document.split);
    }
    write(target, "sample_evidence_inference", "train", &train)?;
    write(target, "sample_evidence_inference", "test", &test)
}

/// The usable prompts of a split, each a plain question over the first evidence passage of fitting length.
fn evidence_of(
    card: &Card,
    split: &str,
    source: &Path,
    disputed: &BTreeSet<String>,
    forbidden: &[&LeakIndex],
) -> Outcome<Vec<Document>> {
    let mut documents = Vec::new();
    let mut seen = BTreeSet::new();
    for document in read(card, Some("v2"), split, source)? {
        let document = document?;
        let Content::Qa(qa) = &document.content else { continue };
        let field = |name: &str| {
            let line = qa.question.split('\n').find_map(|line| line.strip_prefix(name));
            line.map(|text| {
                one_line(&text.replace("&nbsp;", " ")).trim_end_matches(['.', ',', ';']).to_owned()
            })
        };
        let fields = (field("Outcome: "), field("Intervention: "), field("Comparator: "));
        let (Some(outcome), Some(intervention), Some(comparator)) = fields else { continue };
        // A passage that runs over lines is the wreck of a table.
        let mut contexts =
            qa.contexts.iter().filter(|context| !context.contains('\n')).map(|text| one_line(text));
        let context = contexts.find(|context| CONTEXT_CHARS.contains(&context.chars().count()));
        let Some(context) = context else { continue };
        let question = format!(
            "With respect to {outcome}, what is the effect of {intervention} compared with {comparator}?"
        );
        let usable = qa.answers.len() == 1
            && !disputed.contains(&document.id)
            && question.chars().count() <= QUESTION_CHARS
            && [&outcome, &intervention, &comparator].iter().all(|field| field.chars().count() >= 2)
            && seen.insert(fingerprint(&[&question, &context]))
            && forbidden.iter().all(|index| index.find_text(&context).is_none());
        if usable {
            let qa = Qa { question, contexts: vec![context], ..qa.clone() };
            let dataset = "sample_evidence_inference".into();
            documents.push(Document { dataset, content: Content::Qa(qa), ..document });
        }
    }
    Ok(documents)
}

/// Prompts whose valid annotations do not agree; the reader takes the majority, a sample need not.
fn disputed(source: &Path) -> Outcome<BTreeSet<String>> {
    let input = Input::open(&source, "evidence_inference/v2_annotations.csv.gz", Encoding::Utf8)?;
    let mut rows = csv::Reader::from_reader(input.bytes);
    let heading = rows.headers()?.clone();
    let column = |name: &str| heading.iter().position(|own| own == name).ok_or(format!("no column {name}"));
    let (prompt, valid, code) = (column("PromptID")?, column("Valid Label")?, column("Label Code")?);
    let mut codes: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for row in rows.records() {
        let row = row?;
        if &row[valid] == "True" {
            codes.entry(row[prompt].to_owned()).or_default().insert(row[code].to_owned());
        }
    }
    Ok(codes.into_iter().filter(|(_, codes)| codes.len() > 1).map(|(prompt, _)| prompt).collect())
}

/// One space for every run of white space.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn label_of(document: &Document) -> &str {
    match &document.content {
        Content::Tc(tc) => &tc.labels[0],
        _ => "",
    }
}

fn label_counts<'a>(documents: impl IntoIterator<Item = &'a Document>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for document in documents {
        *counts.entry(label_of(document).to_owned()).or_insert(0) += 1;
    }
    counts
}

/// Fisher and Yates's shuffle with SplitMix64; written out so that no library's next version changes the samples.
fn shuffle<T>(items: &mut [T], seed: u64) {
    let mut state = seed;
    for last in (1..items.len()).rev() {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        items.swap(last, (z % (last as u64 + 1)) as usize);
    }
}

fn write(target: &Path, dataset: &str, split: &str, documents: &[Document]) -> Outcome<()> {
    let folder = target.join(dataset);
    std::fs::create_dir_all(&folder)?;
    let (path, half) = (folder.join(format!("{split}.jsonl")), folder.join(format!(".{split}.jsonl.half")));
    let mut file = std::fs::File::create(&half)?;
    for document in documents {
        file.write_all(serde_json::to_string(document)?.as_bytes())?;
        file.write_all(b"\n")?;
    }
    file.sync_all()?;
    std::fs::rename(&half, &path)?;
    println!("{}: {} records {:?}", path.display(), documents.len(), label_counts(documents));
    Ok(())
}
