//! `taiyi extract` with a model that was trained, in the test, to answer two questions.

use std::process::Stdio;

use serde_json::{Value, json};
use taiyi_corpus::schema::Language;
use taiyi_instruct::{Answer, Question, Templates};

use crate::place::{Place, RECIPE, conversations, tiny_model};

const ENGLISH: &str = "aspirin helps against headache";
const CHINESE: &str = "患者头痛，予阿司匹林。";

/// A place with `model` and `tuned`, an adapter that knows the drugs of the two texts.
fn trained() -> Place {
    let place = Place::new();
    tiny_model(&place.path("model"), 11);
    let pair = |text: &str, kind: &str, found: &str, language| {
        let question = Question::entities(text, vec![kind.to_owned()], language);
        let answer = Answer::Entities(vec![(kind.to_owned(), vec![found.to_owned()])]);
        (Templates::embedded().of(&question).fill(&question, 0), question.spec.render(&answer).unwrap())
    };
    let pairs =
        [pair(ENGLISH, "drug", "aspirin", Language::En), pair(CHINESE, "药物", "阿司匹林", Language::Zh)];
    let pairs: Vec<(&str, &str)> =
        pairs.iter().map(|(prompt, reply)| (prompt.as_str(), reply.as_str())).collect();
    place.write("data.jsonl", conversations(&pairs));
    let recipe = RECIPE
        .replace("epochs = 10", "epochs = 60")
        .replace("per_device_batch = 3", "per_device_batch = 2")
        .replace("save_every = 5", "save_every = 0");
    place.write("recipe.toml", recipe);
    place.taiyi("train --recipe recipe.toml --out tuned").fine();
    place
}

const WITH: &str = "--model model --adapter tuned --dtype f32 --types drug:药物 --max-new-tokens 40";

#[test]
fn what_the_model_says_is_placed_in_files_of_every_format() {
    let place = trained();
    place.write("notes/en.txt", ENGLISH);
    place.write("notes/deep/zh.jsonl", format!("{}\n", json!({"id": "七", "text": CHINESE})));
    place.write("notes/scan.pdf", "%PDF");
    let ran =
        place.taiyi(&format!("extract notes {WITH} --out out.jsonl --report report.jsonl --json")).fine();
    let summary: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(summary["entities"], json!({"drug": 2}), "{}", ran.stderr);
    assert_eq!((summary["documents"].as_u64(), summary["questions"].as_u64()), (Some(2), Some(2)));
    assert_eq!(summary["unsupported"], json!({".pdf": 1}));
    assert!(ran.stderr.contains("2 documents: 2 entities (drug 2)"), "{}", ran.stderr);
    assert!(ran.stderr.contains("1 files of no known format (.pdf 1)"), "{}", ran.stderr);
    let lines: Vec<Value> =
        place.read("out.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let found: Vec<_> =
        lines.iter().map(|line| (&line["document_id"], &line["entities"][0]["offsets"])).collect();
    assert_eq!(found, [(&json!("七"), &json!([[6, 10]])), (&json!("en"), &json!([[0, 7]]))]);
    assert_eq!(place.read("report.jsonl").lines().count(), 2);

    // The same to stdout, from what was written: documents of the corpus schema are read, and asked again.
    let again = place.taiyi(&format!("extract out.jsonl {WITH}")).fine();
    let entities = |text: &str| -> Vec<Value> {
        text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["entities"].clone()).collect()
    };
    assert_eq!(entities(&again.stdout), entities(&place.read("out.jsonl")));

    let ran = place.taiyi(&format!("extract notes/en.txt {WITH} --to pubtator")).fine();
    assert_eq!(ran.stdout, format!("en|t|{ENGLISH}\nen|a|\nen\t0\t7\taspirin\tdrug\t-\n\n"));
    place.taiyi(&format!("extract notes {WITH} --to brat --out brat")).fine();
    assert_eq!(place.names("brat"), ["annotation.conf", "en.ann", "en.txt", "七.ann", "七.txt"]);
    assert_eq!(place.read("brat/七.ann"), "T1\tdrug 6 10\t阿司匹林\n");
}

#[test]
fn unreadable_inputs_are_counted_and_the_exit_code_remembers() {
    let place = Place::new();
    tiny_model(&place.path("model"), 7);
    place.write("notes/a.jsonl", "{\"text\": \"fever\"}\n{\"text\": 7}\nnot json\n\n{\"text\": \"\"}\n");
    place.write("notes/b.txt", b"\x80\xff\xff\xff");
    place.write("notes/c.txt", "");
    place.write("notes/d.txt.gz", b"\x1f\x8b\x08\x00cut off");
    // GB18030 is recognised: 患者头痛.
    place.write("notes/e.txt", b"\xbb\xbc\xd5\xdf\xcd\xb7\xcd\xb4");
    let ran =
        place.taiyi("extract notes --model model --types disease --max-new-tokens 4 --out out.jsonl --json");
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    let summary: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(summary["unreadable"], 4, "{}", ran.stderr);
    assert_eq!(summary["documents"], 4, "{}", ran.stderr);
    assert_eq!(summary["questions"], 2, "an empty text is not asked about: {}", ran.stderr);
    for place in ["a.jsonl:2", "a.jsonl:3", "b.txt", "d.txt.gz"] {
        assert_eq!(
            ran.stderr.lines().filter(|line| line.contains(place)).count(),
            1,
            "{place}: {}",
            ran.stderr
        );
    }
    assert!(place.read("out.jsonl").contains("患者头痛"));
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    let place = Place::new();
    tiny_model(&place.path("model"), 7);
    place.write("many.jsonl", "{\"text\": \"fever and headache\"}\n".repeat(200));
    let mut child = place
        .command("extract many.jsonl --model model --types disease --max-new-tokens 1")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(!stderr.contains("panic") && !stderr.contains("error"), "{stderr}");
}

#[test]
fn paths_that_cannot_be_read_are_refused() {
    let place = Place::new();
    place.write("scan.pdf", "%PDF");
    std::fs::create_dir(place.path("empty")).unwrap();
    for (path, part) in [
        ("absent.txt", "absent.txt: "),
        ("scan.pdf", "scan.pdf: expected a folder, or a .txt"),
        ("empty", "expected a .txt, .jsonl, .pubtator or BioC .xml file, found none"),
    ] {
        place.taiyi(&format!("extract {path} --model model --types a --out out.jsonl")).refused(&[part]);
    }
    place.write("a.txt", "fever");
    place.taiyi("extract a.txt --model model --types a --out out.jsonl").refused(&["model", "config.json"]);
    place.write("full/file", "");
    place
        .taiyi("extract a.txt --model model --types a --to brat --out full")
        .refused(&["full", "empty folder"]);
    assert_eq!(place.names("."), ["a.txt", "empty", "full", "scan.pdf"]);
    let mut nothing = place.command("extract a.txt --model model --types");
    nothing.arg(" , ").stdin(Stdio::null());
    crate::place::Ran::of(nothing.output().unwrap()).refused(&["expected a name in --types or --relations"]);
}

#[test]
fn an_untrained_model_names_only_what_is_there_unless_it_is_let() {
    let place = Place::new();
    tiny_model(&place.path("model"), 7);
    place.write("a.txt", ENGLISH);
    place.write("b.txt", CHINESE);
    let extract = "extract a.txt b.txt --model model --types drug,disease --max-new-tokens 60";
    let summary = |flags: &str| -> Value {
        let ran =
            place.taiyi(&format!("{extract} {flags} --out out.jsonl --report report.jsonl --json")).fine();
        serde_json::from_str(&ran.stdout).unwrap()
    };
    let constrained = summary("");
    assert_eq!((&constrained["not_asked"], &constrained["questions"]), (&json!(0), &json!(2)));
    // What is not found was cut off in the middle of a word.
    assert!(constrained["unfound"].as_u64() <= constrained["cut_off"].as_u64(), "{constrained}");
    let free = summary("--unconstrained");
    assert_ne!(constrained, free);
    assert_eq!(free["entities"], json!({}), "a model that was never trained finds nothing by itself");
}
