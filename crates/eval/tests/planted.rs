//! Predictions with planted errors: the figures were worked by hand.

use std::path::PathBuf;

use taiyi_corpus::schema::{Document, Language};
use taiyi_eval::metrics::Counts;
use taiyi_eval::score::{Outcome, gold_prediction, metrics_of};
use taiyi_eval::{Given, ItemOptions, Items, Metric, Scored, predictions, score};
use taiyi_instruct::{Ask, DatasetLabels};

mod made_up;
use made_up::{classified, drug_labels, names, question, text, with_concept_relations};

fn counts(true_positives: u64, false_positives: u64, false_negatives: u64) -> Counts {
    Counts { true_positives, false_positives, false_negatives }
}

fn items(documents: &[Document], labels: DatasetLabels, ask: Ask) -> Items {
    let set = Items::of(documents, labels, &ItemOptions::new(ask));
    assert!(set.skipped.is_empty(), "{:?}", set.skipped);
    set
}

/// Scores the lines of a predictions file.
fn scored(set: &Items, lines: &[&str]) -> Scored {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("predictions.jsonl");
    std::fs::write(&path, lines.join("\n")).unwrap();
    let given = predictions::read(&path, &set.items).unwrap();
    score(&set.items, &given, &metrics_of(set.ask)).unwrap()
}

fn total(scored: &Scored, metric: Metric) -> Counts {
    scored.of(metric).unwrap().total()
}

/// Four mentions, two of them the same word.
fn tremor() -> Document {
    let mentions: &[(&str, usize, &str, &[&str])] = &[
        ("Lithium", 0, "Chemical", &[]),
        ("lithium carbonate", 0, "Chemical", &[]),
        ("tremor", 0, "Disease", &[]),
        ("tremor", 1, "Disease", &[]),
    ];
    text("1", Language::En, "Lithium and lithium carbonate caused tremor; tremor stopped.", mentions)
}

#[test]
fn entities_by_spans() {
    let set = items(&[tremor()], drug_labels(), Ask::Ner);
    // Right: `Lithium`, the first `tremor`. Wrong: `lithium` of `lithium carbonate`. Missed: that and the second `tremor`.
    let line = r#"{"id": "1", "prediction": {"entities": [
        {"type": "Chemical", "text": "Lithium", "offsets": [[0, 7]]},
        {"type": "chemical", "text": "lithium", "start": 12, "end": 19},
        {"type": "Disease", "offsets": [37, 43]}]}}"#;
    let scored = scored(&set, &[&line.replace('\n', " ")]);
    assert_eq!(total(&scored, Metric::StrictMicroF1), counts(2, 1, 2));
    let scores = scored.of(Metric::StrictMicroF1).unwrap();
    // 2*2 / (2*2 + 1 + 2)
    assert!((scores.value() - 4.0 / 7.0).abs() < 1e-12);
    let per_type = scores.per_type(&set.names());
    assert_eq!(per_type, [("Chemical".to_owned(), counts(1, 1, 1)), ("Disease".to_owned(), counts(1, 0, 1))]);
    // Distinct strings: gold lithium, lithium carbonate, tremor; predicted lithium (twice), tremor.
    assert_eq!(total(&scored, Metric::SurfaceMicroF1), counts(2, 0, 1));
}

#[test]
fn entities_by_replies() {
    let set = items(&[tremor()], drug_labels(), Ask::Ner);
    assert_eq!(set.items[0].spec.names, ["chemical", "disease"]);
    // `tremor` stands for both its places; `ataxia` is not in the text; `dose` is of a type nobody asked for.
    let reply = r#"{"document_id": 1, "reply": "chemical: lithium carbonate\ndisease: tremor; ataxia\ndose: caused"}"#;
    let scored = scored(&set, &[reply]);
    assert_eq!(total(&scored, Metric::StrictMicroF1), counts(3, 2, 1));
    let per_type = scored.of(Metric::StrictMicroF1).unwrap().per_type(&set.names());
    assert_eq!(per_type[1], ("Disease".to_owned(), counts(2, 1, 0)));
    assert_eq!(per_type[2], ("(not asked for)".to_owned(), counts(0, 1, 0)));
    assert_eq!(total(&scored, Metric::SurfaceMicroF1), counts(2, 2, 1));
}

#[test]
fn nested_entities_are_found_where_the_corpus_nests() {
    let mentions: &[(&str, usize, &str, &[&str])] = &[("胃癌", 0, "dis", &[]), ("胃", 0, "bod", &[])];
    let document = text("1", Language::Zh, "患者胃癌术后", mentions);
    let labels = DatasetLabels {
        entities: names(&[("dis", "disease", "疾病"), ("bod", "body", "部位")]),
        ..DatasetLabels::default()
    };
    let reply = [r#"{"id": "1", "reply": "疾病：胃癌\n部位：胃"}"#];
    let mut options = ItemOptions::new(Ask::Ner);
    let flat = Items::of(std::slice::from_ref(&document), labels.clone(), &options);
    assert_eq!(total(&scored(&flat, &reply), Metric::StrictMicroF1), counts(1, 0, 1));
    options.nested = true;
    let nested = Items::of(&[document], labels, &options);
    assert_eq!(total(&scored(&nested, &reply), Metric::StrictMicroF1), counts(2, 0, 0));
}

#[test]
fn several_source_types_behind_one_name_are_scored_as_one() {
    let mentions: &[(&str, usize, &str, &[&str])] =
        &[("colon cancer", 0, "SpecificDisease", &[]), ("cancer", 1, "DiseaseClass", &[])];
    let document = text("1", Language::En, "Is colon cancer a cancer?", mentions);
    let labels = DatasetLabels {
        entities: names(&[("SpecificDisease", "disease", "疾病"), ("DiseaseClass", "disease", "疾病")]),
        ..DatasetLabels::default()
    };
    let set = items(&[document], labels, Ask::Ner);
    assert_eq!(set.items[0].spec.names, ["disease"]);
    // The prediction may name any of the source's types, the readable name, or neither's spelling exactly.
    let line = r#"{"id":"1","prediction":{"entities":[{"type":"Modifier","offsets":[[3,15]]},{"type":"DISEASE","offsets":[[3,15]]},{"type":"SpecificDisease","offsets":[[18,24]]}]}}"#;
    let scored = scored(&set, &[line]);
    assert_eq!(total(&scored, Metric::StrictMicroF1), counts(2, 1, 0));
    assert_eq!(scored.scores[0].per_type(&set.names())[0], ("disease".to_owned(), counts(2, 0, 0)));
}

#[test]
fn one_type_at_a_time_sums_to_the_same_counts() {
    let set = items(&[tremor()], drug_labels(), Ask::NerOne);
    let ids: Vec<&str> = set.items.iter().map(|item| item.id.as_str()).collect();
    assert_eq!(ids, ["1/Chemical", "1/Disease"]);
    let lines = [
        r#"{"id": "1/Chemical", "reply": "chemical: lithium carbonate"}"#,
        r#"{"id": "1/Disease", "reply": "disease: tremor; ataxia"}"#,
    ];
    assert_eq!(total(&scored(&set, &lines), Metric::StrictMicroF1), counts(3, 1, 1));
}

/// Naloxone (D1, also NX) causes hypertension (D2) and the composite of two toxicities (D3, D4); clonidine (D5, also CLON)
/// causes nothing; D9 is named nowhere.
fn relations() -> Document {
    let mentions: &[(&str, usize, &str, &[&str])] = &[
        ("Naloxone", 0, "Chemical", &["D1"]),
        ("NX", 0, "Chemical", &["D1"]),
        ("hypertension", 0, "Disease", &["D2"]),
        ("visual or auditory toxicity", 0, "Disease", &["D3", "D4"]),
        ("Clonidine", 0, "Chemical", &["D5"]),
        ("CLON", 0, "Chemical", &["D5"]),
        ("ether", 0, "Chemical", &[]),
    ];
    let words = "Naloxone (NX) led to hypertension and visual or auditory toxicity. Clonidine (CLON) and ether did not.";
    let document = text("7", Language::En, words, mentions);
    with_concept_relations(
        document,
        &[("CID", "D1", "D2"), ("CID", "D1", "D3"), ("CID", "D1", "D4"), ("CID", "D9", "D2")],
    )
}

#[test]
fn relations_by_any_name_of_a_concept() {
    let set = items(&[relations()], drug_labels(), Ask::Re);
    // Two names of one right pair count once; a composite names both its concepts; two names of one wrong pair are
    // wrong once; nobody can find D9.
    let reply = "chemical-induced disease: [NX, hypertension]; [naloxone, Hypertension]; \
                 [naloxone, visual or auditory  toxicity]; [clonidine, hypertension]; [CLON, hypertension]; [ether, hypertension]";
    let line = serde_json::json!({"id": "7", "reply": reply}).to_string();
    let scored = scored(&set, &[&line]);
    assert_eq!(total(&scored, Metric::TripleMicroF1), counts(3, 2, 1));
    assert_eq!(scored.scores[0].per_type(&set.names())[0].0, "CID");
    // 2*3 / (2*3 + 2 + 1)
    assert!((scored.scores[0].value() - 6.0 / 9.0).abs() < 1e-12);
}

#[test]
fn relations_given_as_values() {
    let set = items(&[relations()], drug_labels(), Ask::Re);
    let line = r#"{"id":"7","prediction":{"relations":[{"type":"CID","head":"D9","tail":"hypertension"},{"relation":"treats","head":"NX","tail":"hypertension"}]}}"#;
    let scored = scored(&set, &[line]);
    assert_eq!(total(&scored, Metric::TripleMicroF1), counts(1, 1, 3));
}

#[test]
fn labels_of_texts() {
    let labels = DatasetLabels {
        classes: names(&[("1", "control", "对照"), ("2", "treatment", "治疗"), ("3", "mechanism", "机制")]),
        multi_label: true,
        ..DatasetLabels::default()
    };
    let documents = [
        classified("a", "first", &["1", "2"]),
        classified("b", "second", &[]),
        classified("c", "third", &["3"]),
        classified("d", "fourth", &["2"]),
        classified("e", "fifth", &["2"]),
    ];
    let set = items(&documents, labels, Ask::Tc);
    let lines = [
        r#"{"id": "a", "reply": "Result: control; mechanism"}"#, // one right, one wrong, one missed
        r#"{"id": "b", "reply": "Result: none of the above"}"#,  // right
        r#"{"id": "c", "reply": "I cannot say."}"#,              // unparsable: one missed
        r#"{"id": "d", "prediction": {"label": "2"}}"#,          // right, in the source's spelling
    ]; // e has no prediction: one missed
    let scored = scored(&set, &lines);
    assert_eq!(total(&scored, Metric::LabelMicroF1), counts(2, 1, 3));
    assert_eq!(scored.missing(), 1);
    assert_eq!(scored.unparsable().values().sum::<usize>(), 1);
    assert!(matches!(scored.outcomes[2], Outcome::Unparsable(_)) && scored.outcomes[4] == Outcome::Missing);
    assert_eq!(scored.scores[0].per_type(&set.names())[0].0, "1");
}

#[test]
fn answers_to_questions() {
    let documents = ["yes", "no", "maybe", "yes"]
        .iter()
        .enumerate()
        .map(|(at, answer)| question(&at.to_string(), "Is it?", answer));
    let set = items(&documents.collect::<Vec<_>>(), DatasetLabels::default(), Ask::Qa);
    let lines = [
        r#"{"id": "0", "reply": "(A) yes"}"#,
        r#"{"id": "1", "reply": "The answer is C"}"#,
        r#"{"id": "2", "prediction": {"choice": "maybe"}}"#,
        r#"{"id": "3", "reply": "who knows"}"#,
    ];
    let scored = scored(&set, &lines);
    assert!((scored.scores[0].value() - 0.5).abs() < 1e-12);
    assert_eq!(scored.unparsable().values().sum::<usize>(), 1);
}

#[test]
fn a_reply_counts_before_a_prediction_made_of_it() {
    let set = items(&[question("0", "Is it?", "yes")], DatasetLabels::default(), Ask::Qa);
    let line = r#"{"id": "0", "reply": "(A) yes", "prediction": {"choice": "no"}, "more": 1}"#;
    assert!((scored(&set, &[line]).scores[0].value() - 1.0).abs() < 1e-12);
}

#[test]
fn gold_against_itself_is_one() {
    for (documents, labels, ask) in [
        (vec![tremor()], drug_labels(), Ask::Ner),
        (vec![tremor()], drug_labels(), Ask::NerOne),
        (vec![relations()], drug_labels(), Ask::Re),
    ] {
        let set = items(&documents, labels, ask);
        let given: Vec<_> =
            set.items.iter().map(|item| Some(Given::prediction(gold_prediction(item)))).collect();
        for scores in score(&set.items, &given, &metrics_of(ask)).unwrap().scores {
            // The relation of D9, which has no mention, goes by its id.
            assert_eq!(scores.value(), 1.0, "{ask:?} {:?}", scores.metric);
        }
    }
}

#[test]
fn broken_lines_are_named_by_file_and_line() {
    let documents = [tremor(), question("q", "Is it?", "yes")];
    let set = Items::of(&documents, drug_labels(), &ItemOptions::new(Ask::Ner));
    assert_eq!(set.skipped.values().sum::<usize>(), 1, "a question has no entities");
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().join("p.jsonl");
    let message = |text: &str| {
        std::fs::write(&path, text).unwrap();
        let message = predictions::read(&path, &set.items).unwrap_err().to_string();
        assert!(!message.contains('\n'), "{message}");
        message.rsplit_once("p.jsonl:").map(|(_, rest)| rest.to_owned()).unwrap()
    };
    let fine = r#"{"id":"1","reply":"x"}"#;
    assert!(message(&format!("\n{fine}\n{fine}")).starts_with("3: `1` has a prediction on an earlier line"));
    assert!(message(r#"{"id":"2","reply":"x"}"#).starts_with("1: `2` is not among"));
    assert!(message(r#"{"reply":"x"}"#).ends_with("found neither id"));
    assert!(message(r#"{"id":"1"}"#).ends_with("found neither of the two"));
    assert!(message("{\"id\":").starts_with("1: expected a prediction"));
    let with = |entity: &str| message(&format!(r#"{{"id":"1","prediction":{{"entities":[{entity}]}}}}"#));
    assert!(
        with(r#"{"type":"Disease","offsets":[[50,90]]}"#)
            .ends_with("offsets 50..90 in a text of 60 code points")
    );
    assert!(with(r#"{"type":"Disease","offsets":[[9,3]]}"#).contains("offsets 9..3"));
    assert!(with(r#"{"text":"tremor"}"#).contains("without a `type`"));
    assert!(with(r#"{"type":"Disease"}"#).contains("neither text nor offsets"));
    assert!(message(r#"{"id":"1","prediction":{"labels":[]}}"#).contains("without `entities`"));
    assert!(
        predictions::read(&folder.path().join("none"), &set.items)
            .unwrap_err()
            .to_string()
            .contains("none: ")
    );
}

#[test]
fn a_metric_that_does_not_fit_is_an_error() {
    let set = items(&[question("q", "Is it?", "yes")], DatasetLabels::default(), Ask::Qa);
    let error = score(&set.items, &[], &[Metric::StrictMicroF1]).unwrap_err().to_string();
    assert_eq!(error, "strict_micro_f1 cannot be applied to item `q`: its gold is a choice");
}
