//! An encoder that labels: offsets into any text, windows, documents of every kind.
//!
//! The heads here are set by hand, so that what each token is called is known.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;
use taiyi_corpus::offsets::CharSpan;
use taiyi_corpus::schema::{Content, Document};
use taiyi_infer::extract::{NameKind, all_named};
use taiyi_infer::{InferError, LabelExtractor, LabelModel, TextMention};
use taiyi_instruct::LabelNames;
use taiyi_model::{Dtype, Encoder, EncoderConfig, EncoderTask};
use tempfile::TempDir;

const POSITIONS: usize = 12;

/// Writes a model folder whose head gives every token, or every text, the same scores.
fn folder(task: EncoderTask, labels: &[&str], scores: &[f32], lower_case: bool) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model");
    fs::create_dir_all(&path).unwrap();
    let letters = "abcdefghijklmnopqrstuvwxyzABC0123456789.,-éï患者有糖尿病，服阿司匹林。";
    let mut vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(str::to_owned).to_vec();
    vocabulary.extend(letters.chars().map(|c| c.to_string()));
    vocabulary.extend(letters.chars().map(|c| format!("##{c}")));
    fs::write(path.join("vocab.txt"), vocabulary.join("\n") + "\n").unwrap();
    fs::write(path.join("tokenizer_config.json"), json!({"do_lower_case": lower_case}).to_string()).unwrap();
    let config = json!({
        "model_type": "bert", "vocab_size": vocabulary.len(), "hidden_size": 16, "intermediate_size": 24,
        "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": POSITIONS, "initializer_range": 0.3
    });
    let config = EncoderConfig::from_json(&config, Path::new("config.json")).unwrap();
    let labels = labels.iter().map(|label| (*label).to_owned()).collect();
    let mut encoder = Encoder::random(config.with_task(task, labels), 3).unwrap();
    for parameter in encoder.parameters() {
        match parameter.name {
            "classifier.weight" => parameter.data.fill(0.0),
            "classifier.bias" => parameter.data.copy_from_slice(scores),
            _ => {}
        }
    }
    encoder.save(&path, Dtype::F32).unwrap();
    (dir, path)
}

const TAGS: [&str; 3] = ["O", "B-drug", "I-drug"];

fn tagger(scores: [f32; 3], lower_case: bool) -> LabelModel {
    let (_dir, path) = folder(EncoderTask::TokenClassification, &TAGS, &scores, lower_case);
    LabelModel::load(&path, Dtype::F32).unwrap()
}

fn strings<'a>(text: &'a str, mentions: &[TextMention]) -> Vec<&'a str> {
    let at = |chars: usize| text.char_indices().map(|(byte, _)| byte).chain([text.len()]).nth(chars).unwrap();
    mentions.iter().map(|mention| &text[at(mention.span.start)..at(mention.span.end)]).collect()
}

#[test]
fn offsets_are_those_of_the_text_with_accents_and_chinese() {
    // Every token begins a mention, so that mentions are tokens. Lower-casing takes accents away, also those that stand behind
    // their letter as characters of their own.
    let text = "  Naïve e\u{301}té，患者 有糖尿病\u{3000}é";
    let found = tagger([0.0, 1.0, 0.5], true).mentions(&[text]).unwrap();
    let expected =
        ["N", "a", "ï", "v", "e", "e\u{301}", "t", "é", "，", "患", "者", "有", "糖", "尿", "病", "é"];
    assert_eq!(strings(text, &found[0].mentions), expected);
    assert_eq!(found[0].mentions[2].span, CharSpan::new(4, 5));
    // Sixteen tokens in windows of ten.
    assert_eq!(found[0].windows, 2);
    let cased = tagger([0.0, 1.0, 0.5], false).mentions(&["Bé 病"]).unwrap();
    assert_eq!(strings("Bé 病", &cased[0].mentions), ["B", "é", "病"]);
}

#[test]
fn windows_are_joined_and_texts_do_not_see_each_other() {
    let mut model = tagger([0.0, 0.5, 1.0], true);
    let long = "患者有糖尿病，服阿司匹林。".repeat(9);
    let found = model.mentions(&["", " \n", "a b", &long]).unwrap();
    let counts: Vec<(usize, usize)> =
        found.iter().map(|found| (found.windows, found.mentions.len())).collect();
    // Everything goes on, so that each text is one mention, however many windows it is read in.
    assert_eq!(&counts[..3], &[(0, 0), (0, 0), (1, 1)]);
    assert_eq!(found[3].mentions[0].span, CharSpan::new(0, 117));
    assert!(counts[3].0 >= 12 && counts[3].1 == 1, "{counts:?}");
    assert_eq!(found[2].mentions, [TextMention { span: CharSpan::new(0, 3), kind: "drug".to_owned() }]);
    assert_eq!(model.mentions(&[&long]).unwrap()[0], found[3]);
    assert_eq!(model.types(), Some(&["drug".to_owned()][..]));
}

#[test]
fn texts_are_labelled_and_only_what_is_offered_is_chosen() {
    let names = ["a", "b", "c"];
    let several = EncoderTask::SequenceClassification { multi_label: true };
    let (_dir, path) = folder(several, &names, &[0.5, -0.1, 2.0], true);
    let mut model = LabelModel::load(&path, Dtype::F32).unwrap();
    let pair = ("so it is", Some("and it is much longer than the model reads"));
    let scores = model.scores(&[("so", None), ("", None), pair]).unwrap();
    assert_eq!(scores, vec![vec![0.5, -0.1, 2.0]; 3]);
    assert_eq!(model.chosen(&scores[0], |_| true), ["a", "c"]);
    assert_eq!(model.chosen(&scores[0], |label| label != "c"), ["a"]);
    let one = EncoderTask::SequenceClassification { multi_label: false };
    let (_dir, path) = folder(one, &names, &[0.5, -0.1, 2.0], true);
    let model = LabelModel::load(&path, Dtype::F32).unwrap();
    assert_eq!(model.chosen(&scores[0], |_| true), ["c"]);
    assert_eq!(model.chosen(&scores[0], |label| label == "b"), ["b"]);
    assert_eq!(model.chosen(&scores[0], |_| false), [""; 0]);
}

#[test]
fn another_head_is_refused_in_one_line() {
    let message = |error: InferError| error.to_string();
    let mut model = tagger([0.0; 3], true);
    let error = message(model.scores(&[("so", None)]).unwrap_err());
    assert_eq!(
        error,
        "the encoder's head is for token classification; expected one for sequence classification, which labels texts"
    );
    let one = EncoderTask::SequenceClassification { multi_label: false };
    let (_dir, path) = folder(one, &["a", "b"], &[0.0; 2], true);
    let mut texts = LabelModel::load(&path, Dtype::F32).unwrap();
    assert!(message(texts.mentions(&["so"]).unwrap_err()).contains("expected one for token classification"));
    let error = LabelExtractor::new(&mut texts, &LabelNames::default()).err().map(message).unwrap();
    assert!(error.contains("expected one for token classification"), "{error}");
    let (_dir, path) = folder(EncoderTask::TokenClassification, &["LABEL_0"], &[0.0], true);
    let error = LabelModel::load(&path, Dtype::F32).err().map(message).unwrap();
    assert!(error.contains("the label `LABEL_0` is neither `O` nor begins with `B-` or `I-`"), "{error}");
    let (_dir, path) = folder(EncoderTask::MaskedLm, &[], &[], true);
    let error = LabelModel::load(&path, Dtype::F32).err().map(message).unwrap();
    assert!(error.contains("masked language modelling"), "{error}");
}

fn document(id: &str, content: serde_json::Value) -> Document {
    let mut document =
        json!({"id": id, "document_id": id, "dataset": "made_up", "split": "test", "language": "en"});
    document.as_object_mut().unwrap().extend(content.as_object().unwrap().clone());
    serde_json::from_value(document).unwrap()
}

#[test]
fn documents_keep_their_text_and_get_the_entities_that_are_wanted() {
    let passages = json!([
        {"id": "t", "type": "title", "text": "病", "offsets": [0, 1]},
        {"id": "a", "type": "abstract", "text": "ab", "offsets": [2, 4]}
    ]);
    let old = json!([{"id": "X", "type": "drug", "text": ["病"], "offsets": [[0, 1]]}]);
    let documents = [
        document("1", json!({"schema": "IE", "passages": passages, "entities": old})),
        document("2", json!({"schema": "TC", "text": "a", "labels": ["x"]})),
        document("3", json!({"schema": "QA", "question": "?", "answers": ["a"], "kind": "simple"})),
    ];
    let mut model = tagger([0.0, 0.5, 1.0], true);
    let found = |model: &mut LabelModel, names: &[&str]| -> Vec<Vec<String>> {
        let names = all_named(NameKind::Entity, names.iter().copied());
        let mut extractor = LabelExtractor::new(model, &names).unwrap();
        let extracted = extractor.extract(&documents).unwrap();
        // One by one, with an input between them that cannot be read.
        let unreadable = || InferError::EmptyPrompt { request: 0 };
        let inputs = documents.iter().cloned().map(Ok).chain([Err(unreadable())]);
        let (mut each, mut errors) = (Vec::new(), 0);
        extractor
            .extract_each(&mut inputs.into_iter(), &mut |one| {
                match one {
                    Ok(one) => each.push(one),
                    Err(_) => errors += 1,
                }
                Ok(())
            })
            .unwrap();
        assert_eq!((&each, errors), (&extracted, 1));
        assert_eq!(extracted[0].report.questions, 1);
        assert!(extracted[2].report.skipped.is_some());
        assert_eq!(extracted[2].document, documents[2]);
        extracted
            .iter()
            .map(|one| match &one.document.content {
                Content::Ie(ie) => {
                    assert!(ie.relations.is_empty() && ie.passages.len() < 3);
                    ie.entities
                        .iter()
                        .map(|e| format!("{} {:?} {}", e.kind, e.offsets[0], e.text[0]))
                        .collect()
                }
                _ => Vec::new(),
            })
            .collect()
    };
    let whole = |kind: &str| {
        vec![
            vec![format!("{kind} CharSpan {{ start: 0, end: 4 }} 病 ab")],
            vec![format!("{kind} CharSpan {{ start: 0, end: 1 }} a")],
            vec![],
        ]
    };
    assert_eq!(found(&mut model, &[]), whole("drug"));
    // Documents say what was asked for; the label is meant in any case.
    assert_eq!(found(&mut model, &["Drug"]), whole("Drug"));
    assert_eq!(found(&mut model, &["药物质=drug/药"]), whole("药物质"));
    let names = all_named(NameKind::Entity, ["sign"]);
    let error = LabelExtractor::new(&mut model, &names).err().unwrap().to_string();
    assert_eq!(error, "the encoder has no label for the type `sign`; it has drug");
}
