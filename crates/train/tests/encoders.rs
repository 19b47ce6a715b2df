//! Encoders learn the labels of made-up documents by heart: tokens, texts and pairs, one label and several.

mod small;

use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use taiyi_model::{Encoder, EncoderConfig, EncoderTask};
use taiyi_train::data::SourceReport;
use taiyi_train::{Next, Observer, Overrides, Recipe, RunPlan, Silent, Summary, TrainError, train};
use tempfile::TempDir;

const DRUGS: [&str; 4] = ["aspirin", "warfarin", "阿司匹林", "Zoë-7 syrup"];
const DISEASES: [&str; 4] = ["fever", "hay fever", "糖尿病", "naïve-cell disease"];

/// A configuration and a WordPiece vocabulary of letters, both alone and inside words.
fn base(folder: &Path, weights: bool) {
    fs::create_dir_all(folder).unwrap();
    let letters = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<Vec<char>>();
    let mut all =
        letters("abcdefghijklmnopqrstuvwxyzABZ0123456789.,:;-?!。，、：？患者有服用和因患吗治疗相似与否éëï");
    all.extend(DRUGS.iter().chain(&DISEASES).flat_map(|word| letters(word)));
    all.sort_unstable();
    all.dedup();
    let mut vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(str::to_owned).to_vec();
    vocabulary.extend(all.iter().map(char::to_string));
    vocabulary.extend(all.iter().map(|c| format!("##{c}")));
    vocabulary.extend(["aspi", "##rin", "fever", "was", "given", "against"].map(str::to_owned));
    fs::write(folder.join("vocab.txt"), vocabulary.join("\n") + "\n").unwrap();
    fs::write(folder.join("tokenizer_config.json"), json!({"do_lower_case": false}).to_string()).unwrap();
    let config = json!({
        "model_type": "bert", "architectures": ["BertForMaskedLM"], "vocab_size": vocabulary.len(), "hidden_size": 32,
        "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64,
        "type_vocab_size": 2, "initializer_range": 0.15, "hidden_act": "gelu"
    });
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    if weights {
        let encoder = Encoder::random(EncoderConfig::load(folder).unwrap(), 11).unwrap();
        encoder.save(folder, taiyi_model::Dtype::F32).unwrap();
    }
}

fn document(number: usize, content: Value) -> Value {
    let mut document = json!({
        "id": number.to_string(), "document_id": number.to_string(), "dataset": "made_up", "split": "train", "language": "en"
    });
    document.as_object_mut().unwrap().extend(content.as_object().unwrap().clone());
    document
}

/// A text with entities; the first mention of each is meant.
fn annotated(number: usize, text: &str, entities: &[(&str, &str)]) -> Value {
    let entity = |(at, (kind, string)): (usize, &(&str, &str))| {
        let start = text[..text.find(string).unwrap()].chars().count();
        let end = start + string.chars().count();
        json!({"id": format!("T{at}"), "type": kind, "text": [string], "offsets": [[start, end]]})
    };
    let passage = json!({"id": "p", "type": "text", "text": text, "offsets": [0, text.chars().count()]});
    let entities: Vec<Value> = entities.iter().enumerate().map(entity).collect();
    document(number, json!({"schema": "IE", "passages": [passage], "entities": entities}))
}

fn lines(documents: &[Value]) -> String {
    documents.iter().map(|document| document.to_string() + "\n").collect()
}

/// Two dozen texts in which drugs and diseases change places.
fn annotated_texts() -> Vec<Value> {
    let mut documents = Vec::new();
    for (d, drug) in DRUGS.iter().enumerate() {
        for (s, disease) in DISEASES.iter().enumerate() {
            let text = match (d + s) % 3 {
                0 => format!("{drug} was given against {disease}."),
                1 => format!("患者因{disease}服用{drug}。"),
                _ => format!("in {disease}, no {drug}!"),
            };
            documents.push(annotated(documents.len(), &text, &[("drug", drug), ("Disease", disease)]));
        }
    }
    for text in ["nothing was given.", "患者有否？"] {
        documents.push(annotated(documents.len(), text, &[]));
    }
    documents
}

struct Place(TempDir);

impl Place {
    fn new(documents: &[Value]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        base(&folder.path().join("base"), true);
        let place = Self(folder);
        place.write("data.jsonl", &lines(documents));
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn recipe(&self, change: &[(&str, &str)]) -> Recipe {
        let toml = format!(
            r#"
            kind = "token_classification"
            stage = "encoder"
            base = {base:?}
            data = {data:?}
            seed = 5
            dtype = "f32"
            learning_rate = 3e-3
            schedule = "linear"
            warmup_ratio = 0.1
            max_length = 64
            per_device_batch = 6
            accumulation = 1
            tokens_per_batch = 128
            epochs = 40
            save_every = 5
            "#,
            base = self.path("base"),
            data = self.path("data.jsonl"),
        );
        let toml = change.iter().fold(toml, |text, (old, new)| {
            assert!(text.contains(old), "{old}");
            text.replace(old, new)
        });
        Recipe::parse(Path::new("encoder.toml"), &toml).unwrap()
    }

    fn run<O>(
        &self,
        recipe: &Recipe,
        out: &str,
        resume: bool,
        observer: &mut O,
    ) -> Result<Summary, TrainError>
    where
        O: Observer<taiyi_train::DecoderLearner> + Observer<taiyi_train::EncoderLearner>,
    {
        let overrides = Overrides { out: Some(self.path(out)), resume, ..Overrides::default() };
        train(recipe, &overrides, observer)
    }

    fn refused(&self, recipe: &Recipe) -> String {
        let message = self.run(recipe, "refused", false, &mut Silent).unwrap_err().to_string();
        assert!(!message.contains('\n'), "{message}");
        message
    }

    /// Every number of the metrics that must be equal in two runs.
    fn numbers(&self, out: &str) -> Vec<[u64; 6]> {
        let text = fs::read_to_string(self.path(out).join("metrics.jsonl")).unwrap();
        text.lines()
            .map(|line| {
                let record: taiyi_train::Record = serde_json::from_str(line).unwrap();
                let bits = [record.loss, record.grad_norm, record.learning_rate].map(f64::to_bits);
                [bits[0], bits[1], bits[2], record.step, record.tokens, record.labelled_tokens]
            })
            .collect()
    }
}

/// Keeps what was said before the first step, and stops after some step, as if killed.
#[derive(Default)]
struct Watch {
    reports: Vec<SourceReport>,
    total: Option<u64>,
    kill_after: Option<u64>,
}

impl<L: ?Sized> Observer<L> for Watch {
    fn starting(&mut self, plan: &RunPlan<'_>) {
        self.reports = plan.data.to_vec();
        self.total = plan.memory.map(|memory| memory.total());
    }

    fn step(&mut self, record: &taiyi_train::Record, _: u64, _: bool) -> Next {
        if Some(record.step) == self.kill_after { Next::Abandon } else { Next::Continue }
    }
}

#[test]
fn entities_are_learned_by_heart_and_killed_runs_change_no_bit() {
    let place = Place::new(&annotated_texts());
    let held_out = format!("[validation]\nevery = 30\ndata = [{:?}]\n", place.path("data.jsonl"));
    let recipe = place.recipe(&[("save_every = 5", &format!("save_every = 5\n{held_out}"))]);
    let mut watch = Watch::default();
    let summary = place.run(&recipe, "whole", false, &mut watch).unwrap();
    assert_eq!(summary.total_steps, 120, "18 texts, 6 a step, 40 times");
    assert!(summary.first_loss > 1.0 && summary.last_loss < 0.02, "{summary:?}");
    assert!(summary.held_out[0].loss.unwrap() < 0.02, "{summary:?}");
    let report = &watch.reports[0];
    assert_eq!((report.records, report.samples, report.mentions.kept), (18, 18, 32));
    assert_eq!((report.mentions.overlapping, report.mentions.widened, report.mentions.cut), (0, 0, 0));
    assert!(watch.total.is_some_and(|bytes| bytes > 64 << 20));

    let config = EncoderConfig::load(&place.path("whole")).unwrap();
    assert_eq!(config.task, EncoderTask::TokenClassification);
    assert_eq!(config.labels, ["O", "B-Disease", "I-Disease", "B-drug", "I-drug"]);
    assert_eq!(config.tuned_length(), 64);
    let json: Value = serde_json::from_slice(&fs::read(place.path("whole/config.json")).unwrap()).unwrap();
    assert_eq!(json["architectures"], json!(["BertForTokenClassification"]));
    assert_eq!((&json["id2label"]["3"], &json["label2id"]["I-drug"]), (&json!("B-drug"), &json!(4)));
    for name in ["model.safetensors", "vocab.txt", "tokenizer_config.json", "loss.svg", "manifest.json"] {
        assert!(place.path("whole").join(name).exists(), "{name}");
    }

    for kill_after in [7, 6, 23, 74] {
        let mut watch = Watch { kill_after: Some(kill_after), ..Watch::default() };
        place.run(&recipe, "killed", kill_after != 7, &mut watch).unwrap();
    }
    let summary = place.run(&recipe, "killed", true, &mut Silent).unwrap();
    assert_eq!(summary.resumed_from, Some(70));
    assert_eq!(place.numbers("killed"), place.numbers("whole"));
    let weights = |out: &str| fs::read(place.path(out).join("model.safetensors")).unwrap();
    assert!(weights("killed") == weights("whole"), "the same weights to the bit");

    // Another name for a label is another run, though every number is the same.
    let renamed = fs::read_to_string(place.path("data.jsonl")).unwrap().replace("\"drug\"", "\"drugs\"");
    place.write("data.jsonl", &renamed);
    let error = place.run(&recipe, "killed", true, &mut Silent).unwrap_err().to_string();
    assert!(error.contains("the data, their repeats or the tokenizer have changed"), "{error}");
}

#[test]
fn packing_changes_the_speed_and_not_the_loss() {
    let place = Place::new(&annotated_texts());
    let short = [("epochs = 40", "epochs = 2"), ("save_every = 5", "save_every = 0")];
    place.run(&place.recipe(&short), "packed", false, &mut Silent).unwrap();
    let alone = Recipe { packing: false, per_device_batch: 1, accumulation: 6, ..place.recipe(&short) };
    place.run(&alone, "alone", false, &mut Silent).unwrap();
    for (packed, alone) in place.numbers("packed").iter().zip(place.numbers("alone")) {
        let (packed, alone) = (f64::from_bits(packed[0]), f64::from_bits(alone[0]));
        assert!((packed - alone).abs() < 1e-5 * packed, "{packed} {alone}");
    }
}

#[test]
fn long_texts_are_cut_where_no_entity_is() {
    let text = "so it was. then hay fever and aspirin, again aspirin: and 糖尿病 was given. nothing. 患者服用阿司匹林。";
    let entities =
        [("Disease", "hay fever"), ("drug", "aspirin"), ("Disease", "糖尿病"), ("drug", "阿司匹林")];
    let long = "a".repeat(30);
    let mut documents = vec![annotated(1, text, &entities), annotated(2, &long, &[("drug", &long)])];
    // An entity inside another and one in two pieces.
    documents.push(annotated(3, "hay fever!", &[("Disease", "hay fever"), ("drug", "fever")]));
    let mut split = annotated(4, "hay and fever", &[("drug", "and")]);
    let pieces =
        json!({"id": "T9", "type": "Disease", "text": ["hay", "fever"], "offsets": [[0, 3], [8, 13]]});
    split["entities"].as_array_mut().unwrap().push(pieces);
    documents.push(split);
    let place = Place::new(&documents);
    let recipe = place.recipe(&[
        ("max_length = 64", "max_length = 14"),
        ("epochs = 40", "max_steps = 1"),
        ("tokens_per_batch = 128", ""),
    ]);
    let mut watch = Watch::default();
    place.run(&recipe, "out", false, &mut watch).unwrap();
    let report = &watch.reports[0];
    let mentions = report.mentions;
    assert_eq!((mentions.kept, mentions.overlapping, mentions.discontinuous), (7, 1, 1));
    // Thirty letters do not fit into twelve places: two borders.
    assert_eq!((mentions.cut, mentions.widened, mentions.unplaced), (2, 0, 0));
    assert_eq!(report.truncated, 0);
    // Every token is there once, and a frame of two around each window.
    assert_eq!(report.tokens, report.labelled_tokens + 2 * report.samples);
}

fn classified(number: usize, text: &str, labels: &[&str]) -> Value {
    document(number, json!({"schema": "TC", "text": text, "labels": labels}))
}

#[test]
fn texts_and_pairs_get_one_label_or_several() {
    let mut documents: Vec<Value> = Vec::new();
    for (at, (drug, disease)) in DRUGS.iter().zip(&DISEASES).enumerate() {
        documents.push(classified(at, &format!("what is {drug}?"), &["drug"]));
        documents.push(classified(at + 10, &format!("what is {disease}?"), &["disease"]));
        let other = DRUGS[(at + 1) % 4];
        for (second, label) in [(drug, "same"), (&other, "other")] {
            let pair = json!({"schema": "TP", "text_1": drug, "text_2": second, "label": label, "kind": "similarity"});
            documents.push(document(at, pair));
        }
        let question = json!({
            "schema": "QA", "question": "Is it so?", "contexts": [format!("{drug}."), "so!"], "choices": ["yes", "no"],
            "answers": [if at % 2 == 0 { "yes" } else { "no" }], "kind": "multiple_choice"
        });
        documents.push(document(at + 20, question));
    }
    let place = Place::new(&documents);
    let one = [("token_classification", "sequence_classification"), ("epochs = 40", "epochs = 60")];
    let mut watch = Watch::default();
    let summary = place.run(&place.recipe(&one), "one", false, &mut watch).unwrap();
    assert!(summary.first_loss > 1.0 && summary.last_loss < 0.05, "{summary:?}");
    assert_eq!((watch.reports[0].samples, watch.reports[0].labelled_tokens), (20, 20));
    let config = EncoderConfig::load(&place.path("one")).unwrap();
    assert_eq!(config.labels, ["disease", "drug", "no", "other", "same", "yes"]);
    assert_eq!(config.task, EncoderTask::SequenceClassification { multi_label: false });

    let several: Vec<Value> = (0..16)
        .map(|at| {
            let (drug, disease) = (DRUGS[at % 4], DISEASES[at / 4]);
            let labels: &[&str] = match (at % 3, at % 4) {
                (0, _) => &[],
                (_, 0 | 2) => &["drug", "disease"],
                _ => &["drug", "b2", "drug"],
            };
            classified(at, &format!("{drug} {disease}"), labels)
        })
        .collect();
    place.write("data.jsonl", &lines(&several));
    let change = [one[0], ("stage =", "multi_label = true\nstage ="), ("epochs = 40", "epochs = 80")];
    let summary = place.run(&place.recipe(&change), "several", false, &mut watch).unwrap();
    assert!(summary.first_loss > 0.5 && summary.last_loss < 0.05, "{summary:?}");
    assert_eq!(watch.reports[0].labelled_tokens, 48, "three labels of sixteen texts");
    let config = EncoderConfig::load(&place.path("several")).unwrap();
    assert_eq!(config.task, EncoderTask::SequenceClassification { multi_label: true });
    assert_eq!(config.source["problem_type"], "multi_label_classification");
}

#[test]
fn a_model_may_start_from_its_configuration_alone() {
    let place = Place::new(&annotated_texts());
    fs::remove_file(place.path("base/model.safetensors")).unwrap();
    let change = [("epochs = 40", "max_steps = 2"), ("stage =", "from_scratch = true\nstage =")];
    let summary = place.run(&place.recipe(&change), "out", false, &mut Silent).unwrap();
    assert!(summary.finished && summary.last_loss.is_finite());
    Encoder::load(&place.path("out"), taiyi_model::Dtype::Bf16).unwrap();
}

#[test]
fn what_cannot_be_learned_is_refused_in_one_line() {
    let texts = annotated_texts();
    let place = Place::new(&texts);
    small::base(&place.path("llm"), Some(1));
    let recipe = |change: &[(&str, &str)]| place.recipe(change);
    let classes = ("token_classification", "sequence_classification");

    let message = place.refused(&Recipe { base: Some(place.path("llm")), ..recipe(&[]) });
    assert!(message.contains("llm, no encoder; expected an encoder (bert, roberta)"), "{message}");
    let chat = Recipe { kind: taiyi_train::recipe::Kind::Sft, ..recipe(&[]) };
    let message = place.refused(&chat);
    assert!(message.contains("base, an encoder; expected a language model, or `kind = "), "{message}");
    let message = place.refused(&Recipe { base: Some(place.path("absent")), ..recipe(&[]) });
    assert!(message.contains("absent"), "{message}");
    let message = place.refused(&recipe(&[("max_length = 64", "max_length = 65"), ("= 128", "= 256")]));
    assert!(
        message.contains("`max_length` is 65; expected 3 to 64, for which the model has positions"),
        "{message}"
    );

    let data = place.path("data.jsonl").display().to_string();
    let message = place.refused(&recipe(&[classes]));
    assert!(message.starts_with(&format!("{data}:1: expected a classified text (schema TC)")), "{message}");
    /// A recipe, the files beside it, and a part of what is said.
    type Case<'a> = (String, &'a [(&'a str, &'a str)], &'a str);
    let mut cases: Vec<Case<'_>> = Vec::new();
    let tc = |labels: &[&str]| classified(1, "so", labels);
    cases.push((lines(&[tc(&["a"])]), &[], ":1: expected a document with entities (schema IE)"));
    cases.push((lines(&texts[16..]), &[], "no entity in 2 documents; there is nothing to label"));
    let one = [classes];
    cases.push((lines(&[tc(&[]), tc(&[])]), &one, "no label in 2 documents"));
    cases.push((lines(&[tc(&["a"]), tc(&["a"])]), &one, "only one label in 2 documents"));
    cases.push((
        lines(&[tc(&["a"]), tc(&["b", "c"])]),
        &one,
        ":2: expected one label, found b, c; `multi_label = true`",
    ));
    cases.push((lines(&[tc(&["a"]), tc(&["b"]), tc(&[])]), &one, ":3: expected one label, found no label"));
    cases.push(("{\"text\": \"so\"}\n".to_owned(), &one, ":1: expected a document of the corpus schema"));
    cases.push(("not json\n".to_owned(), &[], ":1: expected a document of the corpus schema"));
    for (content, change, expected) in cases {
        place.write("data.jsonl", &content);
        let message = place.refused(&recipe(change));
        assert!(message.contains(expected), "{expected}: {message}");
    }

    place.write("data.jsonl", &lines(&texts));
    place.write("held.jsonl", &lines(&[annotated(1, "so it was", &[("sign", "it")])]));
    let validation = format!("[validation]\nevery = 5\ndata = [{:?}]\n", place.path("held.jsonl"));
    let message = place.refused(&recipe(&[("save_every = 5", &format!("save_every = 5\n{validation}"))]));
    assert!(
        message
            .contains("held.jsonl:1: the entity type `sign` is none of the training data's: Disease, drug"),
        "{message}"
    );
    assert!(!place.path("refused/manifest.json").exists());
}
