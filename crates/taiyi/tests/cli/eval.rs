//! `taiyi eval` with a tiny model and with a scripted server, on a made-up copy of a benchmark's files.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, channel};

use serde_json::{Value, json};

use crate::place::{Place, tiny_model};

const QUERIES: [(&str, &str); 6] = [
    ("虚构：头痛挂什么科", "就医建议"),
    ("虚构：甲药多少钱", "医疗费用"),
    ("虚构：发热怎么办", "治疗方案"),
    ("虚构：为什么会头痛", "病因分析"),
    ("虚构：甲药有什么用", "功效作用"),
    ("虚构：乙药多少钱", "医疗费用"),
];

fn place() -> Place {
    let place = Place::new();
    let records: Vec<Value> = QUERIES
        .iter()
        .enumerate()
        .map(|(at, (query, label))| json!({"id": format!("s{at}"), "query": query, "label": label}))
        .collect();
    place.write("source/kuake_qic/KUAKE-QIC_dev.json", serde_json::to_string(&records).unwrap());
    place.write("source/kuake_qic/KUAKE-QIC_train.json", serde_json::to_string(&records[..3]).unwrap());
    place
}

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn a_run_writes_predictions_and_reports_and_goes_on_where_it_stopped() {
    let place = place();
    tiny_model(&place.path("model"), 7);
    let run = "eval run --benchmark all --model model --source source --out out --max-new-tokens 6 --json";
    let ran = place.taiyi(run);
    assert_eq!(ran.code, Some(1), "the other benchmarks are left out, and that is said: {}", ran.stderr);
    assert!(ran.stderr.contains("hoc: left out"), "{}", ran.stderr);
    let mut report = json_of(&ran.stdout);
    assert_eq!(report, json_of(&place.read("out/report.json")));
    let one = report["benchmarks"][0].take();
    assert_eq!(
        (&one["id"], &one["items"], &one["metric"]),
        (&json!("kuake_qic_dev"), &json!(6), &json!("label_micro_f1"))
    );
    assert_eq!(one["published"][0]["system"], "Taiyi 1");
    assert!(one["interval"].as_array().is_some_and(|interval| interval.len() == 2));
    assert_eq!(
        place.names("out"),
        ["predictions-kuake_qic_dev.jsonl", "report.html", "report.json", "report.md"]
    );
    let predictions = place.read("out/predictions-kuake_qic_dev.jsonl");
    assert_eq!(predictions.lines().count(), 6);
    let first = json_of(predictions.lines().next().unwrap());
    for key in ["id", "document_id", "prompt", "reply", "prediction"] {
        assert!(first.get(key).is_some(), "{key} in {first}");
    }

    // Killed after two replies: only the other four are asked for, and the file is the same.
    let half: String = predictions.lines().take(2).map(|line| format!("{line}\n")).collect();
    place.write("out/predictions-kuake_qic_dev.jsonl.part", half + "{\"id\": \"s");
    std::fs::remove_file(place.path("out/predictions-kuake_qic_dev.jsonl")).unwrap();
    let again = place.taiyi(run);
    assert!(again.stderr.contains("(2 reused"), "{}", again.stderr);
    assert_eq!(place.read("out/predictions-kuake_qic_dev.jsonl"), predictions);

    // Another model's replies are not taken for its own.
    tiny_model(&place.path("model"), 8);
    assert!(place.taiyi(run).stderr.contains("(0 reused"));
    assert_ne!(place.read("out/predictions-kuake_qic_dev.jsonl"), predictions);

    // What was written can be scored again, without the model.
    let score = "eval score --benchmark kuake_qic_dev --predictions out/predictions-kuake_qic_dev.jsonl --source source";
    let scored = json_of(&place.taiyi(&format!("{score} --json")).fine().stdout);
    assert_eq!(
        scored["benchmarks"][0]["score"],
        json_of(&place.read("out/report.json"))["benchmarks"][0]["score"]
    );
}

#[test]
fn a_constrained_run_is_always_readable_and_a_run_of_its_own() {
    let place = place();
    tiny_model(&place.path("model"), 7);
    let run = "eval run --benchmark kuake_qic_dev --model model --source source --out out --max-new-tokens 60 --json";
    place.taiyi(run).fine();
    let free = place.read("out/predictions-kuake_qic_dev.jsonl");
    let ran = place.taiyi(&format!("{run} --constrain")).fine();
    assert!(ran.stderr.contains("(0 reused"), "{}", ran.stderr);
    let report = json_of(&ran.stdout);
    assert_eq!(report["benchmarks"][0]["unparsable"], 0, "{report}");
    assert!(place.read("out/report.md").contains("(constrained decoding)"));
    let constrained = place.read("out/predictions-kuake_qic_dev.jsonl");
    for line in constrained.lines().map(json_of) {
        assert!(line["model"].as_str().unwrap().ends_with(" constrained"), "{line}");
        assert_eq!(line["prediction"]["labels"].as_array().map(Vec::len), Some(1), "{line}");
    }
    assert!(place.taiyi(&format!("{run} --constrain")).fine().stderr.contains("(6 reused"));
    assert!(place.taiyi(run).fine().stderr.contains("(0 reused"), "not mixed with those of another kind");
    assert_eq!(place.read("out/predictions-kuake_qic_dev.jsonl"), free);
}

#[test]
fn predictions_are_scored_as_worked_by_hand() {
    let place = place();
    // Two right, one wrong, one that cannot be read, one as a prediction, one missing: 3 of 4 given, 3 of 6 wanted.
    let lines = [
        json!({"id": "s0", "reply": "上述文本被分类为：就医建议"}),
        json!({"id": "s1", "reply": "上述文本被分类为：医疗费用"}),
        json!({"document_id": "s2", "reply": "上述文本被分类为：病因分析"}),
        json!({"id": "s3", "reply": ""}),
        json!({"id": "s4", "prediction": {"labels": ["功效作用"]}}),
    ];
    place.write("given.jsonl", lines.map(|line| format!("{line}\n")).concat());
    let score = "eval score --benchmark kuake_qic_dev --predictions given.jsonl --source source";
    let ran = place.taiyi(&format!("{score} --json --out scored")).fine();
    let report = json_of(&ran.stdout);
    let one = &report["benchmarks"][0];
    let expected = 2.0 * 0.75 * 0.5 / (0.75 + 0.5);
    assert!((one["score"].as_f64().unwrap() - expected).abs() < 1e-12, "{one}");
    assert_eq!((&one["unparsable"], &one["missing"]), (&json!(1), &json!(1)));
    assert!(ran.stderr.contains("1 of 6 items have no prediction"), "{}", ran.stderr);
    assert_eq!(place.names("scored"), ["report.html", "report.json", "report.md"]);
    let line = place.taiyi(score).fine().stdout;
    assert!(line.starts_with("kuake_qic_dev    label_micro_f1     0.6000 ["), "{line}");
}

/// What a scripted server was asked: the head of the request and its body.
struct Asked {
    head: String,
    body: Value,
}

/// A server that answers each request with what `answer` makes of its number, path and body: status, extra head lines, body.
fn server(
    answer: impl Fn(usize, &str, &Value) -> (u16, &'static str, String) + Send + 'static,
) -> (String, Receiver<Asked>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let mut stream = BufReader::new(stream.unwrap());
            let (mut head, mut length) = (String::new(), 0);
            loop {
                let mut line = String::new();
                if stream.read_line(&mut line).unwrap() == 0 || line == "\r\n" {
                    break;
                }
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                head.push_str(&line);
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).unwrap();
            let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
            let path = head.split_whitespace().nth(1).unwrap_or_default().to_owned();
            let (status, more, text) = answer(number, &path, &body);
            // Nobody may listen any more.
            let _ = write!(
                stream.get_mut(),
                "HTTP/1.1 {status} Scripted\r\ncontent-length: {}\r\nconnection: close\r\n{more}\r\n{text}",
                text.len()
            );
            if sender.send(Asked { head, body }).is_err() {
                break;
            }
        }
    });
    (url, receiver)
}

/// The right answer to a prompt, as a chat completion.
fn completion(body: &Value) -> String {
    let prompt = body["messages"][0]["content"].as_str().unwrap();
    let label = QUERIES.iter().find(|(query, _)| prompt.contains(query)).map_or("其他", |(_, label)| label);
    json!({"choices": [{"message": {"role": "assistant", "content": format!("上述文本被分类为：{label}")}, "finish_reason": "stop"}]})
        .to_string()
}

const RUN: &str = "eval run --benchmark kuake_qic_dev --source source --out out --json";

#[test]
fn an_endpoint_is_asked_again_when_it_is_busy() {
    let place = place();
    let (url, asked) = server(|number, path, body| match (number, path) {
        (0, "/v1/models") => (200, "", json!({"data": [{"id": "scripted-7b"}]}).to_string()),
        (1, _) => (503, "retry-after: 0\r\n", "busy".to_owned()),
        (2, _) => (429, "retry-after: 0\r\n", String::new()),
        _ => (200, "content-type: application/json\r\n", completion(body)),
    });
    let mut command = place.command(RUN);
    command
        .args(["--endpoint", &url, "--batch", "1", "--max-new-tokens", "33"])
        .env("TAIYI_API_KEY", "secret");
    let ran = crate::place::Ran::of(command.output().unwrap()).fine();
    let report = json_of(&ran.stdout);
    assert_eq!(report["benchmarks"][0]["score"], 1.0, "{}", ran.stderr);
    assert_eq!(report["model"], format!("scripted-7b at {url}"));
    let asked: Vec<Asked> = asked.try_iter().collect();
    assert_eq!(asked.len(), 1 + 2 + QUERIES.len());
    assert!(asked.iter().all(|asked| asked.head.to_lowercase().contains("authorization: bearer secret\r\n")));
    let first = &asked[1].body;
    assert_eq!(
        (&first["model"], &first["max_tokens"], &first["temperature"]),
        (&json!("scripted-7b"), &json!(33), &json!(0))
    );
    assert!(asked[1].head.starts_with("POST /v1/chat/completions HTTP/1.1\r\n"), "{}", asked[1].head);
    assert_eq!(asked[1].body, asked[3].body, "the same question until it is answered");
}

#[test]
fn replies_keep_their_places_however_many_are_asked_for_at_once() {
    let place = place();
    let (url, _asked) = server(|_, _, body| {
        let prompt = body["messages"][0]["content"].as_str().unwrap();
        if prompt.contains("乙药") {
            return (
                400,
                "",
                json!({"error": {"message": "maximum context length is 9 tokens"}}).to_string(),
            );
        }
        (200, "", completion(body))
    });
    let ran =
        place.taiyi(&format!("{RUN} --endpoint {url}/chat/completions --endpoint-model m --batch 4")).fine();
    let one = &json_of(&ran.stdout)["benchmarks"][0];
    // What is too long for the model is an empty reply, which is counted.
    assert_eq!(one["unparsable"], 1, "{}", ran.stderr);
    let expected = 2.0 * (5.0 / 6.0) / (1.0 + 5.0 / 6.0);
    assert!((one["score"].as_f64().unwrap() - expected).abs() < 1e-12, "{one}");
}

#[test]
fn an_endpoint_that_refuses_or_is_not_there_is_one_line() {
    let place = place();
    let (url, _asked) = server(|_, path, _| match path {
        "/v1/models" => (404, "", "no such page".to_owned()),
        _ => (401, "", json!({"error": {"message": "wrong\nkey"}}).to_string()),
    });
    place.taiyi(&format!("{RUN} --endpoint {url}")).refused(&["/v1/models", "list of models"]);
    place
        .taiyi(&format!("{RUN} --endpoint {url} --endpoint-model m"))
        .refused(&["/chat/completions", "status 401: wrong key"]);
    assert!(!place.names("out").contains(&"report.json".to_owned()));
    let (url, _asked) = server(|_, _, _| (200, "", "[]".to_owned()));
    place
        .taiyi(&format!("{RUN} --endpoint {url} --endpoint-model m"))
        .refused(&["expected {\"choices\"", "found []"]);
    for (url, part) in [
        // Nobody listens at the discard port.
        ("http://127.0.0.1:9/v1", "http://127.0.0.1:9/v1/models: "),
        ("https://127.0.0.1/v1", "expected an http:// address, found https://"),
        ("localhost:8000", "expected an address such as"),
        ("http://", "expected an address such as"),
    ] {
        place.taiyi(&format!("{RUN} --endpoint {url}")).refused(&[part]);
    }
}

#[test]
fn benchmarks_and_sources_that_are_not_there_are_named() {
    let place = place();
    place
        .taiyi("eval run --benchmark hocc --model m --source source --out out")
        .refused(&["`hocc`", "hoc, "]);
    place
        .taiyi("eval run --benchmark hoc --model m --source source --out out")
        .refused(&["hallmarks_of_cancer"]);
    place
        .taiyi("eval run --benchmark all --model m --source out --out out")
        .refused(&["expected folders named after datasets"]);
    place
        .taiyi("eval run --benchmark kuake_qic_dev --model m --source source --out out")
        .refused(&["config.json"]);
    let list = place.taiyi("eval list --json").fine();
    assert_eq!(json_of(&list.stdout).as_array().unwrap().len(), 9);
}
