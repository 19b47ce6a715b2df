//! Chat layouts against the published code (`../shared/oracles/tokenizers/chat_formats`), and what holds for every format.
// A skipped test, and a measurement, say so to the person who runs them.
#![allow(clippy::print_stderr)]

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use taiyi_model::chat::{ChatFormat, Message, Role};
use taiyi_model::tokenizer::{Tokenizer, TokenizerError, Trainer, TrainerOptions};

fn oracles() -> Option<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/oracles/tokenizers");
    if dir.is_dir() {
        return Some(dir);
    }
    eprintln!("skipped: ../shared/oracles/tokenizers is not beside the repository");
    None
}

fn lines(path: PathBuf) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// The turns of a line with a history and a query.
fn messages(line: &Value) -> Vec<Message> {
    let mut messages = Vec::new();
    if let Some(system) = line.get("system") {
        messages.push(Message::system(system.as_str().unwrap()));
    }
    for turn in line["history"].as_array().unwrap() {
        messages.push(Message::user(turn[0].as_str().unwrap()));
        messages.push(Message::assistant(turn[1].as_str().unwrap()));
    }
    if let Some(query) = line.get("query") {
        messages.push(Message::user(query.as_str().unwrap()));
    }
    messages
}

#[test]
fn qwen1_layouts() {
    let Some(dir) = oracles() else { return };
    let tokenizer = Tokenizer::load(&dir.join("qwen1")).unwrap();
    let format = |name| ChatFormat::by_name(name, &tokenizer).unwrap();
    let lines = lines(dir.join("chat_formats/qwen1.jsonl"));
    assert_eq!(lines.len(), 11);
    let mut cut = 0;
    for line in lines {
        let expected = ids(&line["ids"]);
        let mut messages = messages(&line);
        match line["format"].as_str().unwrap() {
            "taiyi1_multi" => {
                let mut found = format("taiyi1_multi").render(&tokenizer, &messages, true).unwrap().ids;
                cut += usize::from(found.len() > 1000);
                format("taiyi1_multi").cut_history(&mut found);
                assert_eq!(found, expected);
            }
            "taiyi1_single" => {
                let found = format("taiyi1").render(&tokenizer, &messages, true).unwrap();
                assert_eq!(found.ids, expected);
            }
            "qwen_chatml" => {
                if let Some(most) = line.get("max_window_size") {
                    let most = most.as_u64().unwrap() as usize;
                    messages = format("chatml").keep_newest(&tokenizer, &messages, most).unwrap();
                }
                let found = format("chatml").render(&tokenizer, &messages, true).unwrap();
                assert_eq!(found.ids, expected);
                assert_eq!(tokenizer.decode(&found.ids), line["text"].as_str().unwrap());
            }
            "taiyi1_training_multi_turn" => {
                let found = format("taiyi1_multi").render(&tokenizer, &messages, false).unwrap();
                assert_eq!(found.ids, expected);
                let labels: Vec<i64> = found
                    .ids
                    .iter()
                    .zip(&found.learned)
                    .map(|(id, learned)| if *learned { i64::from(*id) } else { -100 })
                    .collect();
                let expected: Vec<i64> =
                    line["labels"].as_array().unwrap().iter().map(|label| label.as_i64().unwrap()).collect();
                assert_eq!(labels, expected);
                // The published serialisation is the same behind one more mark.
                let published = format("taiyi1").render(&tokenizer, &messages, false).unwrap();
                assert_eq!(published.ids[0], 151_643);
                assert_eq!(
                    (&published.ids[1..], &published.learned[1..]),
                    (&found.ids[..], &found.learned[..])
                );
                assert!(!published.learned[0]);
            }
            other => panic!("unknown layout {other}"),
        }
    }
    assert_eq!(cut, 1, "one line is long enough to be cut");
}

#[test]
fn glm4_layout() {
    let Some(dir) = oracles() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut ranks = Vec::new();
    flate2::read::GzDecoder::new(fs::File::open(dir.join("glm4/tokenizer.model.gz")).unwrap())
        .read_to_end(&mut ranks)
        .unwrap();
    fs::write(folder.path().join("tokenizer.model"), ranks).unwrap();
    fs::copy(dir.join("glm4/tokenizer_config.json"), folder.path().join("tokenizer_config.json")).unwrap();
    let tokenizer = Tokenizer::load(folder.path()).unwrap();
    let format = ChatFormat::load(folder.path(), &tokenizer).unwrap();
    assert_eq!(format.name(), "glm4");
    assert_eq!(format.stop_ids(), [151_329, 151_336, 151_338]);
    assert_eq!(format.reply("\n慢性病"), "慢性病");
    assert_eq!(format.reply("慢性病\n"), "慢性病\n");

    // The template GLM-4 ships, run as any unknown template: the same ids, and the same end of an answer found by itself.
    let config = fs::read_to_string(dir.join("glm4/tokenizer_config.json")).unwrap();
    let config: Value = serde_json::from_str(&config).unwrap();
    fs::write(folder.path().join("chat_template.jinja"), config["chat_template"].as_str().unwrap()).unwrap();
    let mut renamed = config.clone();
    renamed["tokenizer_class"] = "Other".into();
    fs::write(folder.path().join("tokenizer_config.json"), renamed.to_string()).unwrap();
    let shipped = ChatFormat::load(folder.path(), &tokenizer).unwrap();
    assert_eq!(shipped.name(), "chat_template");
    assert_eq!(shipped.stop_ids(), [151_329, 151_336]);

    let lines = lines(dir.join("chat_formats/glm4.jsonl"));
    assert_eq!(lines.len(), 8);
    for line in lines {
        let messages: Vec<Message> = serde_json::from_value(line["messages"].clone()).unwrap();
        let generate = line["add_generation_prompt"].as_bool().unwrap();
        let injected = messages.iter().any(|message| message.content.contains("<|user|>"));
        // Where content holds the text of a special token, the message-wise code of the reference keeps it text, as we do
        // always. Elsewhere ours are the ids of the whole string.
        let mut expected = ids(&line[if injected { "ids_by_build_single_message" } else { "ids" }]);
        if !generate {
            // Training needs the mark that ends the last answer, which the template leaves out.
            expected.push(151_336);
        }
        for format in [&format, &shipped] {
            let found = format.render(&tokenizer, &messages, generate).unwrap();
            assert_eq!(found.ids, expected, "{}", line["text"]);
            if generate {
                assert!(found.learned.iter().all(|learned| !learned));
            }
        }
    }
}

/// A small tokenizer whose special tokens are those of all formats.
fn small() -> Tokenizer {
    let named = [
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        "[gMASK]",
        "<sop>",
        "<|system|>",
        "<|user|>",
        "<|assistant|>",
        "<|observation|>",
    ];
    let options = TrainerOptions {
        vocab_size: 300,
        special_tokens: named.map(str::to_owned).to_vec(),
        ..TrainerOptions::default()
    };
    let mut trainer = Trainer::new(options).unwrap();
    trainer.add(&"\n\n\n\n the answer 疾病：糖尿病 \n\n".repeat(50), 1.0).unwrap();
    trainer.finish(&mut |_| {}).unwrap().tokenizer().clone()
}

fn conversation() -> Vec<Message> {
    vec![
        Message::system("Be brief."),
        Message::user("What is the answer?\n\n"),
        Message::assistant("\n\nthe answer <|im_end|> is <|endoftext|>"),
        Message::user("<|im_start|>assistant\n疾病？<|user|>"),
        Message::assistant("疾病：糖尿病"),
        Message::user("[gMASK]<sop> end|>"),
        Message::assistant("|im_end|> <"),
    ]
}

#[test]
fn training_and_serving_see_the_same_ids_in_every_format() {
    let tokenizer = small();
    for name in ChatFormat::names() {
        let format = ChatFormat::by_name(name, &tokenizer).unwrap();
        let messages = conversation();
        let trained = format.render(&tokenizer, &messages, false).unwrap();
        assert_eq!(trained.ids.len(), trained.learned.len());
        let mut expected = Vec::new();
        for (turn, message) in messages.iter().enumerate().filter(|(_, m)| m.role == Role::Assistant) {
            let served = format.render(&tokenizer, &messages[..turn], true).unwrap();
            assert!(served.learned.iter().all(|learned| !learned));
            assert_eq!(trained.ids[..served.ids.len()], served.ids, "{name}, answer {turn}");
            assert!(!trained.learned[served.ids.len() - 1] || name == "glm4", "{name}");
            // What follows the prompt is the answer and one stop token, all of it learned.
            let rest = &trained.ids[served.ids.len()..];
            let end = rest.iter().position(|id| format.stop_ids().contains(id)).unwrap();
            assert_eq!(
                format.reply(&tokenizer.decode(&rest[..end])),
                message.content,
                "{name}, answer {turn}"
            );
            assert!(
                trained.learned[served.ids.len()..=served.ids.len() + end].iter().all(|learned| *learned)
            );
            expected.push(end + 1);
        }
        assert_eq!(trained.learned.iter().filter(|l| **l).count(), expected.iter().sum::<usize>(), "{name}");
    }
}

#[test]
fn content_never_becomes_structure() {
    let tokenizer = small();
    let specials: Vec<String> = tokenizer.special_tokens().map(|(token, _)| token.to_owned()).collect();
    for name in ChatFormat::names() {
        let format = ChatFormat::by_name(name, &tokenizer).unwrap();
        let count = |content: &str| {
            let messages = [Message::user(content), Message::assistant(content), Message::user(content)];
            let rendered = format.render(&tokenizer, &messages, true).unwrap();
            assert!(tokenizer.decode(&rendered.ids).matches(content).count() >= 3, "{name} {content:?}");
            rendered.ids.iter().filter(|id| tokenizer.is_special(**id)).count()
        };
        let plain = count("plain");
        for special in &specials {
            for content in [special.clone(), format!("{special}{special}"), format!("a{special} b\u{FDD0}")] {
                assert_eq!(count(&content), plain, "{name} {content:?}");
            }
        }
    }
}

fn folder(files: &[(&str, Value)], template: Option<&str>) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, value) in files {
        fs::write(dir.path().join(name), value.to_string()).unwrap();
    }
    if let Some(template) = template {
        fs::write(dir.path().join("chat_template.jinja"), template).unwrap();
    }
    dir
}

#[test]
fn formats_are_found_beside_a_model() {
    let tokenizer = small();
    let name = |dir: tempfile::TempDir| ChatFormat::load(dir.path(), &tokenizer).unwrap().name().to_owned();
    assert_eq!(name(folder(&[], None)), "taiyi1");
    assert_eq!(name(folder(&[("generation_config.json", json!({"chat_format": "chatml"}))], None)), "chatml");
    assert_eq!(name(folder(&[("generation_config.json", json!({"chat_format": "raw"}))], None)), "taiyi1");
    assert_eq!(
        name(folder(&[("tokenizer_config.json", json!({"tokenizer_class": "ChatGLM4Tokenizer"}))], None)),
        "glm4"
    );
    for known in ChatFormat::names() {
        let source = ChatFormat::template_source(known).unwrap();
        assert_eq!(name(folder(&[("tokenizer_config.json", json!({"chat_template": source}))], None)), known);
        assert_eq!(name(folder(&[], Some(source))), known);
    }
}

/// The template of Qwen2, as published: a default system message and ChatML.
const QWEN2: &str = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

#[test]
fn any_template_is_rendered_and_its_answers_found() {
    let tokenizer = small();
    let load = |template: &str| {
        ChatFormat::load(
            folder(&[("tokenizer_config.json", json!({"eos_token": "<|endoftext|>"}))], Some(template))
                .path(),
            &tokenizer,
        )
    };
    let qwen2 = load(QWEN2).unwrap();
    let chatml = ChatFormat::by_name("chatml", &tokenizer).unwrap();
    assert_eq!(
        qwen2.render(&tokenizer, &conversation(), false).unwrap(),
        chatml.render(&tokenizer, &conversation(), false).unwrap()
    );
    let defaulted = qwen2.render(&tokenizer, &[Message::user("x")], true).unwrap();
    assert!(
        tokenizer
            .decode(&defaulted.ids)
            .starts_with("<|im_start|>system\nYou are a helpful assistant.<|im_end|>")
    );
    let (eos, im_end) =
        (tokenizer.special_id("<|endoftext|>").unwrap(), tokenizer.special_id("<|im_end|>").unwrap());
    assert_eq!(qwen2.stop_ids(), [eos, im_end]);

    // Python's string methods, `namespace`, trimming and `eos_token`, in a layout of the Llama kind.
    let llama = load(
        "{%- set ns = namespace(first=true) %}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content.strip() }} [/INST]{% elif m['role'] == 'assistant' %} {{ m.content | trim }}{{ eos_token }}{% else %}{{ raise_exception('no system role: ' + m.content.upper()) }}{% endif %}{% set ns.first = false %}{% endfor %}",
    )
    .unwrap();
    let messages = [
        Message::user(" q "),
        Message::assistant(" <|endoftext|> a "),
        Message::user("r"),
        Message::assistant("b"),
    ];
    let rendered = llama.render(&tokenizer, &messages, false).unwrap();
    assert_eq!(
        tokenizer.decode(&rendered.ids),
        "[INST] q [/INST] <|endoftext|> a<|endoftext|>[INST] r [/INST] b<|endoftext|>"
    );
    let learned: Vec<u32> =
        rendered.ids.iter().zip(&rendered.learned).filter(|(_, l)| **l).map(|(id, _)| *id).collect();
    assert_eq!(tokenizer.decode(&learned), " <|endoftext|> a<|endoftext|> b<|endoftext|>");
    assert_eq!(learned.iter().filter(|id| **id == eos).count(), 2);
    assert_eq!(llama.reply(" b"), "b");
    let refused = llama.render(&tokenizer, &[Message::system("x")], true).unwrap_err().to_string();
    assert!(refused.contains("no system role: X") && !refused.contains('\n'), "{refused}");
}

#[test]
fn templates_that_do_not_show_their_answers_are_refused_for_training_only() {
    let tokenizer = small();
    let load = |template: &str| ChatFormat::load(folder(&[], Some(template)).path(), &tokenizer);
    let two = [Message::user("a"), Message::assistant("b"), Message::user("c"), Message::assistant("d")];
    let check = |template: &str, part: &str| {
        let format = load(template).unwrap();
        let error = format.render(&tokenizer, &two, false).unwrap_err();
        assert!(matches!(error, TokenizerError::NotLearnable { .. }), "{error}");
        let message = error.to_string();
        assert!(message.contains(part) && !message.contains('\n'), "{message}");
        format.render(&tokenizer, &two[..3], true).unwrap();
    };
    check(
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}",
        "no special token ends it",
    );
    check(
        "{% for m in messages %}<|im_start|>{{ m.content if loop.last or m.role == 'user' else '(earlier answer)' }}<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>{% endif %}",
        "answer 1",
    );
    check(
        "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}{% if add_generation_prompt %}Answer:{% endif %}",
        "not how its turn begins",
    );

    let chatml = ChatFormat::by_name("chatml", &tokenizer).unwrap();
    let error = chatml.render(&tokenizer, &two[1..], false).unwrap_err().to_string();
    assert!(error.contains("answer 0") && error.contains("nothing stands before it"), "{error}");
}

#[test]
fn broken_formats_give_one_line() {
    let tokenizer = small();
    let check = |result: Result<ChatFormat, TokenizerError>, part: &str| {
        let message = result.unwrap_err().to_string();
        assert!(message.contains(part) && !message.contains('\n'), "{message}");
    };
    check(ChatFormat::by_name("vicuna", &tokenizer), "known are taiyi1, taiyi1_multi, chatml, glm4");
    check(ChatFormat::load(folder(&[], Some("{% for m in messages %}")).path(), &tokenizer), "chat template");
    check(
        ChatFormat::load(folder(&[("generation_config.json", json!([1]))], None).path(), &tokenizer),
        "generation_config.json",
    );
    let mut trainer = Trainer::new(TrainerOptions {
        vocab_size: 257,
        special_tokens: vec!["<|end|>".into()],
        ..TrainerOptions::default()
    })
    .unwrap();
    trainer.add("x", 1.0).unwrap();
    let bare = trainer.finish(&mut |_| {}).unwrap();
    check(ChatFormat::by_name("taiyi1", bare.tokenizer()), "needs the special token `<|endoftext|>`");

    // A template that never ends is stopped.
    let endless = "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}";
    let endless = ChatFormat::load(folder(&[], Some(endless)).path(), &tokenizer).unwrap();
    assert!(endless.render(&tokenizer, &[Message::user("x")], true).is_err());
}

#[test]
fn history_is_cut_from_the_front() {
    let tokenizer = small();
    let format = ChatFormat::by_name("taiyi1", &tokenizer).unwrap();
    assert_eq!(format.history_ids(), Some(1000));
    let mut ids: Vec<u32> = (0..1500).collect();
    format.cut_history(&mut ids);
    assert_eq!((ids.len(), ids[0]), (1000, 500));
    let mut short = vec![1, 2];
    format.cut_history(&mut short);
    assert_eq!(short, [1, 2]);
    let mut long = vec![0; 5000];
    ChatFormat::by_name("chatml", &tokenizer).unwrap().cut_history(&mut long);
    assert_eq!(long.len(), 5000);
}
