//! What a person and a program see.

use taiyi_corpus::schema::{Document, Language};
use taiyi_eval::comparison::{add_losses, add_scores};
use taiyi_eval::report::figures::Curve;
use taiyi_eval::report::html::Page;
use taiyi_eval::score::metrics_of;
use taiyi_eval::{
    Benchmark, BenchmarkReport, Comparison, EvalReport, Given, ItemOptions, Items, baselines, score,
};
use taiyi_instruct::{Ask, DatasetLabels};

mod made_up;
use made_up::{drug_labels, names, question, text};

fn entity_benchmark() -> Benchmark {
    let file = r#"
        id = "made_up"
        version = 3
        display_name = "Made up | entities"
        dataset = "made_up"
        split = "test"
        task = "NER"
        language = "en"
        template = 0
        metrics = ["strict_micro_f1", "surface_micro_f1"]
        baseline_split = "train"
        gold = "Mentions as made up."
        [[published]]
        system = "Somebody"
        score = 80.2
        source = "Somebody et al. 2024"
        [[published]]
        system = "BERT (specialised)"
        score = 90.0
        source = "Somebody et al. 2024"
    "#;
    Benchmark::parse("made_up", file).unwrap()
}

/// Texts in which `lithium` and `tremor` are always annotated and `ether` never in training.
fn texts(split: &str) -> Vec<Document> {
    let lithium: &[(&str, usize, &str, &[&str])] =
        &[("lithium", 0, "Chemical", &[]), ("hand tremor", 0, "Disease", &[])];
    let ether: &[(&str, usize, &str, &[&str])] =
        &[("ether", 0, "Chemical", &[]), ("nausea", 0, "Disease", &[])];
    let tremor: &[(&str, usize, &str, &[&str])] = &[("Tremor", 0, "Disease", &[])];
    vec![
        text(
            &format!("{split}1"),
            Language::En,
            "On lithium a <hand tremor> began; lithium was stopped.",
            lithium,
        ),
        text(
            &format!("{split}2"),
            Language::En,
            "After ether came nausea.",
            if split == "train" { &[] } else { ether },
        ),
        text(&format!("{split}3"), Language::En, "Tremor & fear.", tremor),
    ]
}

fn report() -> EvalReport {
    let benchmark = entity_benchmark();
    let set = Items::of(&texts("test"), drug_labels(), &ItemOptions::new(Ask::Ner));
    let given = [
        Some(Given::reply("chemical: lithium; ether\ndisease: tremor")),
        Some(Given { cut_off: true, ..Given::reply("I am only a model") }),
        None,
    ];
    let scored = score(&set.items, &given, &benchmark.metrics).unwrap();
    let learned = baselines::learn(&texts("train"), &set.labels, set.ask, 5);
    let beside = baselines::score_all(&learned, &set.items, &benchmark.metrics).unwrap();
    let one = BenchmarkReport::new(&benchmark, &set, &given, &scored, &beside, None, 5).unwrap();
    let questions: Vec<_> =
        (0..4).map(|at| question(&format!("q{at}"), "Is it?", if at == 0 { "no" } else { "yes" })).collect();
    let set = Items::of(
        &questions,
        DatasetLabels::default(),
        &ItemOptions { limit: Some(3), ..ItemOptions::new(Ask::Qa) },
    );
    let given = ["(A) yes", "(A) yes", "B"].map(|reply| Some(Given::reply(reply)));
    let benchmark = Benchmark { published: Vec::new(), ..Benchmark::by_id("pubmedqa").unwrap() };
    let scored = score(&set.items, &given, &benchmark.metrics).unwrap();
    let absent = Some("the source has no split `train`".to_owned());
    let beside =
        baselines::score_all(&baselines::untrained(set.ask, 5), &set.items, &benchmark.metrics).unwrap();
    let two = BenchmarkReport::new(&benchmark, &set, &given, &scored, &beside, absent, 5).unwrap();
    EvalReport::new("models/tiny", Some("runs/adapter"), 5, 12.4, vec![one, two])
}

#[test]
fn markdown() {
    insta::assert_snapshot!(report().markdown());
}

#[test]
fn json_has_the_documented_shape() {
    let json: serde_json::Value = serde_json::from_str(&report().json()).unwrap();
    let one = &json["benchmarks"][0];
    for key in ["id", "metric", "score", "interval", "items", "unparsable", "per_type", "published"] {
        assert!(one.get(key).is_some(), "{key}");
    }
    assert_eq!(one["metric"], "strict_micro_f1");
    // Gold: lithium, hand tremor; ether, nausea; Tremor. Found: lithium twice, tremor inside; ether is in no such text.
    assert_eq!(one["scores"][0]["all"]["true_positives"], 1);
    assert_eq!(one["scores"][0]["all"]["false_positives"], 3);
    assert_eq!(one["scores"][0]["all"]["false_negatives"], 4);
    assert!((one["score"].as_f64().unwrap() - 2.0 / 9.0).abs() < 1e-12);
    assert_eq!(one["interval"].as_array().unwrap().len(), 2);
    assert_eq!(
        (one["items"].as_u64(), one["unparsable"].as_u64(), one["missing"].as_u64()),
        (Some(3), Some(1), Some(1))
    );
    assert_eq!(one["cut_off"], 1);
    assert_eq!(one["per_type"]["Chemical"]["false_negatives"], 1);
    assert_eq!(one["published"][0]["score"], 0.802);
    assert_eq!(one["published"][0]["source"], "Somebody et al. 2024");
    assert_eq!(one["baselines"][0]["name"], "dictionary of training mentions");
    // The dictionary has lithium, hand tremor and tremor: all but ether and nausea, and one lithium too many.
    let baseline = one["baselines"][0]["score"].as_f64().unwrap();
    assert!((baseline - 6.0 / (6.0 + 1.0 + 2.0)).abs() < 1e-12, "{baseline}");
    assert_eq!(json["benchmarks"][1]["limit"], 3);
    assert_eq!(json["benchmarks"][1]["baselines"][0]["name"], "random choice");
}

#[test]
fn html_is_one_page_without_anything_from_elsewhere() {
    let folder = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("report");
    report().write(&folder).unwrap();
    let html = std::fs::read_to_string(folder.join("report.html")).unwrap();
    assert!(html.starts_with("<!doctype html>"));
    assert!(html.contains("not medical advice") && html.contains("不构成医疗建议"));
    assert!(html.contains("&lt;") && !html.contains("<hand tremor>"), "text is escaped");
    for sign in ["chemical ✓", "chemical ✗", "disease ✗", "disease ○", "ether (chemical)"] {
        assert!(html.contains(sign), "{sign}");
    }
    for outside in ["<script", "src=", "href=", "@import", "url("] {
        assert!(!html.contains(outside), "{outside}");
    }
    assert_eq!(html.matches("<svg").count(), 3, "all benchmarks, then one each");
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 3, "nothing temporary is left");
}

fn comparison(after: [&str; 40], majority: bool) -> Comparison {
    let documents: Vec<_> = (0..40)
        .map(|at| question(&format!("q{at}"), "Is it?", if at % 2 == 0 { "no" } else { "yes" }))
        .collect();
    let set = Items::of(&documents, DatasetLabels::default(), &ItemOptions::new(Ask::Qa));
    let metrics = metrics_of(Ask::Qa);
    let by = |replies: &[&str]| {
        let given: Vec<_> = replies.iter().map(|reply| Some(Given::reply(*reply))).collect();
        score(&set.items, &given, &metrics).unwrap()
    };
    let learned = if majority { baselines::learn(&documents, &set.labels, set.ask, 1) } else { Vec::new() };
    let beside = baselines::score_all(&learned, &set.items, &metrics).unwrap();
    // The base model is right on every fourth item.
    let before: Vec<&str> = (0..40).map(|at| if at % 4 == 0 { "no" } else { "unclear" }).collect();
    Comparison::new("qa", "Made up 问题", &set, &beside, &by(&before), &by(&after), 9).unwrap()
}

#[test]
fn after_is_compared_with_the_better_of_before_and_trivial() {
    // Right on all even items and half of the odd ones: 30 of 40.
    let after: [&str; 40] = std::array::from_fn(|at| if at % 4 == 1 { "yes" } else { "no" });
    let with = comparison(after, true);
    assert_eq!((with.before, with.after, with.trivial), (0.25, 0.75, 0.5));
    assert_eq!((with.compared_with, with.trivial_name.as_str()), ("trivial", "majority answer"));
    assert_eq!((with.unparsable_before, with.unparsable_after, with.items), (30, 0, 40));
    // Ten of forty items improve on the majority and none worsens: 0.25 +- 1.96 sqrt(0.1875 / 40).
    assert!(
        (with.interval.0 - 0.116).abs() < 0.03 && (with.interval.1 - 0.384).abs() < 0.03,
        "{:?}",
        with.interval
    );
    assert!(with.improved());
    let without = comparison(after, false);
    assert_eq!((without.compared_with, without.trivial), ("before", 0.0));
    assert!(without.interval.0 > with.interval.0);
    assert!(!comparison(["no"; 40], true).improved(), "no better than the majority");
    let json = serde_json::to_value(&with).unwrap();
    for key in ["id", "language", "task", "metric", "trivial", "before", "after", "interval", "items"] {
        assert!(json.get(key).is_some(), "{key}");
    }
    assert_eq!((json["task"].as_str(), json["metric"].as_str()), (Some("QA"), Some("accuracy")));
}

#[test]
fn scores_before_and_after_as_a_page() {
    let after: [&str; 40] = std::array::from_fn(|at| if at % 4 == 1 { "yes" } else { "no" });
    let mut ner = comparison(after, true);
    ner.display_name = "中文实体识别 (NER)".to_owned();
    let comparisons = [ner, comparison(after, false), comparison(["no"; 40], true)];
    let mut page = Page::new("Quickstart 快速开始", "taiyi-nano");
    add_scores(&mut page, &comparisons).unwrap();
    let loss = |name: &str, from: f64| Curve {
        name: name.to_owned(),
        points: (0..200)
            .map(|at| (f64::from(at) + from, 3.0 / (1.0 + (f64::from(at) + from) / 40.0)))
            .collect(),
    };
    add_losses(&mut page, &[loss("stage 1 第一阶段", 0.0), loss("stage 2 第二阶段", 200.0)]).unwrap();
    let html = page.render();
    std::fs::write(std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("quickstart.html"), &html)
        .unwrap();
    assert_eq!(html.matches("✓ better").count(), 2);
    assert_eq!(html.matches("✗ not shown").count(), 1);
    assert_eq!(html.matches("<svg").count(), 2);
    assert!(html.contains("+11.") || html.contains("+12."), "the gain's lower end, signed");
}

#[test]
fn labels_without_texts_are_fine() {
    let labels = DatasetLabels { classes: names(&[("1", "a", "甲")]), ..DatasetLabels::default() };
    let set = Items::of(&[], labels, &ItemOptions::new(Ask::Tc));
    let scored = score(&set.items, &[], &metrics_of(Ask::Tc)).unwrap();
    assert_eq!(scored.scores[0].value(), 0.0);
}
