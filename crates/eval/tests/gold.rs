//! Every benchmark on its real test set: gold against itself, and the ceiling of replies.

#![allow(clippy::print_stderr)] // tests may say why they skip

use std::path::PathBuf;

use taiyi_corpus::Catalog;
use taiyi_eval::items::{baseline_documents, items};
use taiyi_eval::score::{ceiling, gold_prediction, gold_reply};
use taiyi_eval::{Benchmark, Given, Metric, baselines, predictions, score};

fn source() -> Option<PathBuf> {
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    if source.is_dir() {
        return Some(source);
    }
    eprintln!("skipped: the corpora are not beside the repository ({})", source.display());
    None
}

/// What the gold strings reach by the strict rule once they are projected onto the text: a string stands for all its
/// places, annotated or not.
const CEILINGS: [(&str, f64); 4] = [
    ("bc5cdr_chemical", 0.9974),
    ("bc5cdr_disease", 0.9990),
    ("ncbi_disease", 0.9826),
    ("cmeee_v2_dev", 0.9513),
];

/// Items and, of the trivial baselines, the best score by the main metric.
const TRIVIAL: [(&str, usize, f64); 9] = [
    ("bc5cdr_chemical", 500, 0.6597),
    ("bc5cdr_disease", 500, 0.6876),
    ("ncbi_disease", 100, 0.5913),
    ("bc5cdr_re", 500, 0.2061),
    ("hoc", 315, 0.1765),
    ("kuake_qic_dev", 1955, 0.3458),
    ("pubmedqa", 500, 0.5520),
    ("cmeee_v2_dev", 5000, 0.0),
    ("cmeie_v2_dev", 3585, 0.0),
];

/// How many entities, relations, labels or answers there are to find. BC5CDR: what the release counts; NCBI disease and
/// CMeEE: the same; CMeIE: 16,309 less the 12 that the source repeats.
const GOLD: [(&str, u64); 9] = [
    ("bc5cdr_chemical", 5385),
    ("bc5cdr_disease", 4424),
    ("ncbi_disease", 960),
    ("bc5cdr_re", 1066),
    ("hoc", 478),
    ("kuake_qic_dev", 1955),
    ("pubmedqa", 500),
    ("cmeee_v2_dev", 26081),
    ("cmeie_v2_dev", 16297),
];

#[test]
fn gold_against_itself_is_one_and_replies_reach_the_ceiling() {
    let Some(source) = source() else { return };
    let folder = tempfile::tempdir().unwrap();
    for benchmark in Benchmark::all().unwrap() {
        let set = items(&benchmark, Catalog::embedded(), &source, None).unwrap();
        assert!(set.skipped.is_empty(), "{}: {:?}", benchmark.id, set.skipped);

        let path = folder.path().join(&benchmark.id);
        let lines: Vec<String> = set
            .items
            .iter()
            .map(|item| serde_json::json!({"id": item.id, "prediction": gold_prediction(item)}).to_string())
            .collect();
        std::fs::write(&path, lines.join("\n")).unwrap();
        let given = predictions::read(&path, &set.items).unwrap();
        for scores in score(&set.items, &given, &benchmark.metrics).unwrap().scores {
            assert_eq!(scores.value(), 1.0, "{} {:?}: {:?}", benchmark.id, scores.metric, scores.total());
            if scores.metric == benchmark.metric() {
                let (_, gold) = GOLD.iter().find(|(id, _)| *id == benchmark.id).unwrap();
                assert_eq!(scores.total().true_positives, *gold, "{}", benchmark.id);
            }
        }

        let replies = set
            .items
            .iter()
            .map(|item| Some(Given::reply(gold_reply(item).expect("the gold can be written"))));
        let scored = score(&set.items, &replies.collect::<Vec<_>>(), &benchmark.metrics).unwrap();
        assert_eq!(scored.unparsable().values().sum::<usize>(), 0, "{}", benchmark.id);
        for scores in &scored.scores {
            let known =
                CEILINGS.iter().find(|(id, _)| *id == benchmark.id && scores.metric == Metric::StrictMicroF1);
            let expected = known.map_or(1.0, |(_, value)| *value);
            assert!(
                (scores.value() - expected).abs() < 5e-5,
                "{} {:?}: {}",
                benchmark.id,
                scores.metric,
                scores.value()
            );
            assert_eq!(ceiling(&set.items, scores.metric).unwrap(), scores.value());
        }
    }
}

#[test]
fn trivial_baselines_reach_what_the_documentation_says() {
    let Some(source) = source() else { return };
    for benchmark in Benchmark::all().unwrap() {
        let set = items(&benchmark, Catalog::embedded(), &source, None).unwrap();
        let learned = match baseline_documents(&benchmark, Catalog::embedded(), &source).unwrap() {
            Some(documents) => baselines::learn(&documents, &set.labels, set.ask, 17),
            None => Vec::new(),
        };
        let scored = baselines::score_all(&learned, &set.items, &benchmark.metrics).unwrap();
        let best = scored.iter().map(|one| one.scored.scores[0].value()).fold(0.0, f64::max);
        let (_, items, expected) = TRIVIAL.iter().find(|(id, ..)| *id == benchmark.id).unwrap();
        assert_eq!(set.items.len(), *items);
        assert!((best - expected).abs() < 5e-5, "{}: {best}", benchmark.id);
        if benchmark.id == "pubmedqa" {
            let random = scored.iter().find(|one| one.name == "random choice").unwrap();
            assert!((random.expected.unwrap() - 1.0 / 3.0).abs() < 1e-12);
            assert!((random.scored.scores[0].value() - 1.0 / 3.0).abs() < 0.06);
        }
    }
}

#[test]
fn a_prediction_may_name_the_sources_own_id() {
    let Some(source) = source() else { return };
    let benchmark = Benchmark::by_id("kuake_qic_dev").unwrap();
    let set = items(&benchmark, Catalog::embedded(), &source, Some(3)).unwrap();
    assert_eq!(set.items.len(), 3);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p");
    std::fs::write(&path, "{\"id\": \"s2\", \"reply\": \"x\"}\n{\"document_id\": \"s3\", \"reply\": \"x\"}")
        .unwrap();
    let given = predictions::read(&path, &set.items).unwrap();
    assert_eq!(given.iter().map(Option::is_some).collect::<Vec<_>>(), [false, true, true]);
}
