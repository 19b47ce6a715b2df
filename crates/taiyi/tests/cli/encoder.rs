//! Encoders through the program: tuned on documents that `corpus build` writes, then extracting and answering benchmarks.

use std::fs;
use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use taiyi_model::{Dtype, Encoder, EncoderConfig};

use crate::place::{Place, tiny_model};

/// PubMed id, title, abstract, mentions with their types.
type Article = (u32, &'static str, &'static str, &'static [(&'static str, &'static str)]);

const ARTICLES: [Article; 8] = [
    (101, "A naïve case of hay fever.", "The fever was mild.", &[("hay fever", "SpecificDisease")]),
    (
        102,
        "On 糖尿病 and café spots.",
        "Mild 糖尿病 it was.",
        &[("糖尿病", "Modifier"), ("café spots", "DiseaseClass")],
    ),
    (103, "Nothing was found.", "The case was mild.", &[]),
    (104, "Spots without hay fever.", "A naïve spot.", &[("hay fever", "SpecificDisease")]),
    (105, "A mild spot.", "It was a case of 糖尿病 again.", &[("糖尿病", "Modifier")]),
    (106, "Was it naïve?", "No case of café spots.", &[("café spots", "DiseaseClass")]),
    (107, "Again nothing.", "Not a spot.", &[]),
    (108, "Fever and spots.", "Found mild.", &[]),
];

fn offsets(text: &str, mention: &str) -> Vec<(usize, usize)> {
    let length = mention.chars().count();
    let start = |(at, _): (usize, &str)| text[..at].chars().count();
    text.match_indices(mention).map(start).map(|start| (start, start + length)).collect()
}

fn pubtator() -> String {
    let article = |(id, title, body, mentions): &Article| {
        let text = format!("{title} {body}");
        let mention = |(mention, kind): &(&str, &str)| -> String {
            let line = |(start, end)| format!("{id}\t{start}\t{end}\t{mention}\t{kind}\tD1\n");
            offsets(&text, mention).into_iter().map(line).collect()
        };
        let mentions: String = mentions.iter().map(mention).collect();
        format!("{id}|t|{title}\n{id}|a|{body}\n{mentions}\n")
    };
    ARTICLES.iter().map(article).collect()
}

fn gz(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

/// A BERT of a few thousand random weights with a vocabulary of letters.
fn bert(place: &Place) {
    let folder = place.path("bert");
    fs::create_dir_all(&folder).unwrap();
    let text = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,?;ïé糖尿病头痛挂什么科甲乙药多少钱虚构：怎办发热为会有用";
    let mut letters: Vec<char> = text.chars().collect();
    letters.sort_unstable();
    letters.dedup();
    let mut vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(str::to_owned).to_vec();
    vocabulary.extend(letters.iter().map(char::to_string));
    vocabulary.extend(letters.iter().map(|c| format!("##{c}")));
    fs::write(folder.join("vocab.txt"), vocabulary.join("\n") + "\n").unwrap();
    let config = json!({
        "model_type": "bert", "architectures": ["BertForMaskedLM"], "vocab_size": vocabulary.len(), "hidden_size": 32,
        "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64,
        "type_vocab_size": 2, "initializer_range": 0.15
    });
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let encoder = Encoder::random(EncoderConfig::load(&folder).unwrap(), 11).unwrap();
    encoder.save(&folder, Dtype::F32).unwrap();
}

fn recipe(place: &Place, kind: &str, epochs: usize) {
    let recipe = format!(
        "kind = \"{kind}\"\nstage = \"labels\"\nbase = \"bert\"\nseed = 5\ndtype = \"f32\"\nlearning_rate = 3e-3\n\
         schedule = \"linear\"\nwarmup_ratio = 0.1\nmax_length = 64\nper_device_batch = 4\nepochs = {epochs}\n\
         tokens_per_batch = 256\n"
    );
    place.write("recipe.toml", recipe);
}

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn entities_from_documents_to_a_tuned_encoder_to_spans_and_scores() {
    let place = Place::new();
    bert(&place);
    for name in ["NCBIdevelopset_corpus.txt", "NCBItestset_corpus.txt"] {
        place.write(&format!("source/ncbi_disease/{name}"), pubtator());
    }
    place.write("source/ncbi_disease/NCBItrainset_corpus.txt.gz", gz(&pubtator()));
    place.taiyi("corpus build ncbi_disease --source source --out corpus").fine();
    recipe(&place, "token_classification", 60);
    let ran =
        place.taiyi("train --recipe recipe.toml --data corpus/ncbi_disease/train.jsonl --out tuned").fine();
    assert!(ran.stderr.contains("train.jsonl: 7 entities labelled"), "{}", ran.stderr);
    assert!(ran.stderr.contains("gradients"), "a memory plan: {}", ran.stderr);

    // Every mention of the training texts is found again, at its place.
    let ran = place
        .taiyi("extract corpus/ncbi_disease/test.jsonl --model tuned --dtype f32 --out found.jsonl --json")
        .fine();
    let summary = json_of(&ran.stdout);
    assert_eq!((&summary["documents"], &summary["questions"]), (&json!(8), &json!(8)), "{summary}");
    let entities = |text: &str| -> Vec<Vec<(String, String, Value)>> {
        text.lines()
            .map(|line| {
                let document = json_of(line);
                let one = |e: &Value| (e["type"].to_string(), e["text"].to_string(), e["offsets"].clone());
                let mut found: Vec<_> = document["entities"].as_array().unwrap().iter().map(one).collect();
                found.sort_by_key(|(_, _, offsets)| offsets[0][0].as_u64());
                found
            })
            .collect()
    };
    let gold = entities(&place.read("corpus/ncbi_disease/test.jsonl"));
    assert_eq!(gold.iter().map(Vec::len).sum::<usize>(), 7);
    assert_eq!(entities(&place.read("found.jsonl")), gold);
    // Of some types, under the name that was asked for.
    place.write("note.txt", "On 糖尿病 and café spots. Mild 糖尿病 it was.");
    let extract = "extract note.txt --model tuned --dtype f32";
    let ran = place.taiyi(&format!("{extract} --types modifier --to pubtator")).fine();
    let found: Vec<&str> = ran.stdout.lines().filter(|line| line.contains('\t')).collect();
    assert_eq!(found, ["note\t3\t6\t糖尿病\tmodifier\t-", "note\t28\t31\t糖尿病\tmodifier\t-"]);
    place
        .taiyi(&format!("{extract} --types gene --out x.jsonl"))
        .refused(&["no label for the type `gene`", "Modifier"]);
    place.taiyi(&format!("{extract} --relations CID --out x.jsonl")).refused(&["--relations", "encoder"]);
    place.taiyi(&format!("{extract} --adapter bert --out x.jsonl")).refused(&["adapter"]);
    place
        .taiyi("extract note.txt --model bert --out x.jsonl")
        .refused(&["bert", "masked language modelling"]);

    // The benchmark takes the source's types as one.
    let run = "eval run --benchmark ncbi_disease --model tuned --dtype f32 --source source --out out --json";
    let report = json_of(&place.taiyi(run).fine().stdout);
    let one = &report["benchmarks"][0];
    assert_eq!((&one["score"], &one["unparsable"]), (&json!(1.0), &json!(0)), "{one}");
    let predictions = place.read("out/predictions-ncbi_disease.jsonl");
    let first = json_of(predictions.lines().next().unwrap());
    assert_eq!(first["prompt"], "A naïve case of hay fever. The fever was mild.");
    assert!(first.get("reply").is_none(), "{first}");
    assert_eq!(
        first["prediction"],
        json!({"entities": [{"type": "disease", "text": "hay fever", "offsets": [[16, 25]]}]})
    );
    let score = "eval score --benchmark ncbi_disease --predictions out/predictions-ncbi_disease.jsonl --source source --json";
    assert_eq!(json_of(&place.taiyi(score).fine().stdout)["benchmarks"][0]["score"], json!(1.0));
    // What was answered is not read again, and another encoder's answers are its own.
    let half: String = predictions.lines().take(3).map(|line| format!("{line}\n")).collect();
    place.write("out/predictions-ncbi_disease.jsonl", half);
    let again = place.taiyi(run).fine();
    assert!(again.stderr.contains("(3 reused"), "{}", again.stderr);
    assert_eq!(place.read("out/predictions-ncbi_disease.jsonl"), predictions);
    fs::copy(place.path("tuned/manifest.json"), place.path("tuned/other.json")).unwrap();
    assert!(place.taiyi(run).fine().stderr.contains("(0 reused"));

    // What it cannot answer: of all benchmarks it is left out, by name it is refused.
    place.write("source/kuake_qic/KUAKE-QIC_dev.json", queries());
    let run = "eval run --model tuned --source source --out all --benchmark";
    let ran = place.taiyi(&format!("{run} all"));
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    let left_out = "kuake_qic_dev: left out: expected a model for labels of texts, found an encoder for token classification";
    assert!(ran.stderr.contains(left_out), "{}", ran.stderr);
    place
        .taiyi(&format!("{run} kuake_qic_dev"))
        .refused(&["kuake_qic_dev: expected a model for labels of texts"]);
    // A model for other labels.
    let config = place.read("tuned/config.json").replace("SpecificDisease", "x").replace("DiseaseClass", "y");
    let config = config.replace("CompositeMention", "z").replace("Modifier", "w");
    place.write("tuned/config.json", config);
    place
        .taiyi(&format!("{run} ncbi_disease"))
        .refused(&["the encoder's labels (", ") are none of those asked for (disease)"]);
    // A chat with one that only labels.
    place.taiyi("chat --model tuned").refused(&["bert"]);
}

const QUERIES: [(&str, &str); 6] = [
    ("虚构：头痛挂什么科", "就医建议"),
    ("虚构：甲药多少钱", "医疗费用"),
    ("虚构：发热怎么办", "治疗方案"),
    ("虚构：为什么会头痛", "病因分析"),
    ("虚构：甲药有什么用", "功效作用"),
    ("虚构：乙药多少钱", "医疗费用"),
];

fn queries() -> String {
    let record = |(at, (query, label)): (usize, &(&str, &str))| json!({"id": format!("s{at}"), "query": query, "label": label});
    serde_json::to_string(&QUERIES.iter().enumerate().map(record).collect::<Vec<Value>>()).unwrap()
}

fn scored(place: &Place, benchmark: &str) -> Value {
    let run = format!(
        "eval run --benchmark {benchmark} --model tuned --dtype f32 --source source --out out --json"
    );
    let report = json_of(&place.taiyi(&run).fine().stdout);
    report["benchmarks"][0]["score"].clone()
}

#[test]
fn texts_and_pairs_are_classified_with_one_label_and_with_several() {
    let place = Place::new();
    bert(&place);
    for split in ["train", "dev"] {
        place.write(&format!("source/kuake_qic/KUAKE-QIC_{split}.json"), queries());
    }
    place.taiyi("corpus build kuake_qic --source source --out corpus").fine();
    recipe(&place, "sequence_classification", 80);
    let train = "train --recipe recipe.toml --out tuned --data";
    place.taiyi(&format!("{train} corpus/kuake_qic/train.jsonl")).fine();
    assert_eq!(scored(&place, "kuake_qic_dev"), json!(1.0));
    place.write("note.txt", "头痛");
    place
        .taiyi("extract note.txt --model tuned --out x.jsonl")
        .refused(&["sequence classification; expected one for token classification"]);

    // Several labels, or none.
    let (a, b) = ("resisting cell death", "inducing angiogenesis");
    let rows = [
        ("1", "cells live", a),
        ("2", "cells grow and live", "a;b"),
        ("3", "no cells", ""),
        ("4", "all grow", b),
    ];
    let row = |(id, text, labels): &(&str, &str, &str)| {
        let both = format!("{a};{b}");
        format!("{id}\t{text}\t{}\n", if *labels == "a;b" { &both } else { *labels })
    };
    let table: String = ["pmid\ttext\tlabels\n".to_owned()].into_iter().chain(rows.iter().map(row)).collect();
    for name in ["dev.tsv", "test.tsv"] {
        place.write(&format!("source/hallmarks_of_cancer/doc_level_{name}"), &table);
    }
    place.write("source/hallmarks_of_cancer/doc_level_train.tsv.gz", gz(&table));
    place.taiyi("corpus build hallmarks_of_cancer --variant document --source source --out corpus").fine();
    fs::remove_dir_all(place.path("tuned")).unwrap();
    recipe(&place, "sequence_classification", 100);
    place.write("recipe.toml", place.read("recipe.toml") + "multi_label = true\n");
    place.taiyi(&format!("{train} corpus/hallmarks_of_cancer/train.jsonl")).fine();
    assert_eq!(scored(&place, "hoc"), json!(1.0));
    let predictions = place.read("out/predictions-hoc.jsonl");
    let labels: Vec<Value> =
        predictions.lines().map(|line| json_of(line)["prediction"]["labels"].clone()).collect();
    assert_eq!(labels, [json!([a]), json!([b, a]), json!([]), json!([b])]);

    // Questions with contexts, as pairs.
    let question = |answer: &str, at: usize| json!({"QUESTION": format!("Is it {answer}?"), "CONTEXTS": ["It is", format!("no {at}.")], "final_decision": answer});
    let questions = json!({"11": question("yes", 1), "12": question("no", 2), "13": question("maybe", 3), "14": question("no", 4)});
    place.write("source/pubmed_qa/ori_pqal.json.gz", gz(&questions.to_string()));
    place.write("source/pubmed_qa/test_ground_truth.json", json!({"14": "no", "13": "maybe"}).to_string());
    place.taiyi("corpus build pubmed_qa --variant pqa_l --source source --out corpus").fine();
    fs::remove_dir_all(place.path("tuned")).unwrap();
    recipe(&place, "sequence_classification", 100);
    place.taiyi(&format!("{train} corpus/pubmed_qa/train.jsonl corpus/pubmed_qa/test.jsonl")).fine();
    assert_eq!(scored(&place, "pubmedqa"), json!(1.0));
    let first = json_of(place.read("out/predictions-pubmedqa.jsonl").lines().next().unwrap());
    assert!(first["prompt"].as_str().unwrap().starts_with("Is it "), "{first}");
    assert!(first["prompt"].as_str().unwrap().contains("\nIt is no "), "{first}");
    place
        .taiyi("eval run --benchmark hoc --model tuned --source source --out out")
        .refused(&["hoc: the encoder's labels (maybe, no, yes) are none of those asked for ("]);
}

#[test]
fn a_model_of_the_other_kind_is_refused_in_one_line() {
    let place = Place::new();
    bert(&place);
    tiny_model(&place.path("llm"), 3);
    let document = json!({
        "id": "1", "document_id": "1", "dataset": "d", "split": "train", "language": "en", "schema": "TC", "text": "so", "labels": ["a"]
    });
    place.write("data.jsonl", document.to_string() + "\n");
    recipe(&place, "token_classification", 1);
    let train = "train --recipe recipe.toml --data data.jsonl --out tuned";
    let refused = |arguments: &str, parts: &[&str]| {
        let ran = place.taiyi(arguments);
        ran.refused(parts);
    };
    refused(
        &format!("{train} --base llm"),
        &["recipe.toml: `base` is llm, no encoder", "an encoder (bert, roberta)"],
    );
    refused(train, &["data.jsonl:1: expected a document with entities"]);
    place.write("recipe.toml", place.read("recipe.toml").replace("token_classification", "sft"));
    refused(train, &["`base` is bert, an encoder", "expected a language model"]);
    let recipe = place.read("recipe.toml").replace("\"sft\"", "\"token_classification\"\nlora_rank = 8");
    place.write("recipe.toml", recipe);
    refused(train, &["`lora_rank` is 8; expected 0: encoders are trained in full"]);
}
