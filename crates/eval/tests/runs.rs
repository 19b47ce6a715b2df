//! Runs: everything is asked once, written before it is scored, and an interrupted run goes on where it stopped.

use std::path::Path;

use taiyi_eval::run::run;
use taiyi_eval::{
    Given, ItemOptions, Items, Metric, Progress, Prompt, Replier, Reply, ReplyError, predictions, score,
};
use taiyi_instruct::{Ask, DatasetLabels};

mod made_up;
use made_up::question;

/// Answers `yes` until its patience ends.
struct Script {
    asked: Vec<String>,
    patience: usize,
}

impl Replier for Script {
    fn reply(&mut self, prompts: &[Prompt]) -> Result<Vec<Reply>, ReplyError> {
        prompts
            .iter()
            .map(|prompt| {
                if self.asked.len() == self.patience {
                    return Err(ReplyError::new("the endpoint is gone"));
                }
                self.asked.push(prompt.id.to_owned());
                assert!(prompt.text.contains("Is it"));
                Ok(Reply { text: "(A) yes".to_owned(), cut_off: prompt.id == "3" })
            })
            .collect()
    }

    fn batch(&self) -> usize {
        2
    }
}

fn script(patience: usize) -> Script {
    Script { asked: Vec::new(), patience }
}

fn set() -> Items {
    let documents: Vec<_> =
        (0..7).map(|at| question(&at.to_string(), "Is it?", if at < 4 { "yes" } else { "no" })).collect();
    Items::of(&documents, DatasetLabels::default(), &ItemOptions::new(Ask::Qa))
}

fn lines(path: &Path) -> Vec<serde_json::Value> {
    std::fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn an_interrupted_run_goes_on_where_it_stopped() {
    let (folder, set) = (tempfile::tempdir().unwrap(), set());
    let out = folder.path().join("new").join("predictions.jsonl");
    let part = out.with_file_name("predictions.jsonl.part");
    let quiet = &mut |_: Progress| {};
    let error = run(&set.items, "m", false, &mut script(5), &out, quiet).unwrap_err();
    assert_eq!(error.to_string(), "no reply: the endpoint is gone");
    assert!(!out.exists(), "a file that is not whole has another name");
    assert_eq!(lines(&part).len(), 4, "the batch that failed is not written");
    // A line that was being written when the process was killed.
    let torn = format!("{}{{\"id\": \"4\", \"prom", std::fs::read_to_string(&part).unwrap());
    std::fs::write(&part, torn).unwrap();

    let mut second = script(usize::MAX);
    let mut progress = Vec::new();
    let done = run(&set.items, "m", false, &mut second, &out, &mut |at| {
        progress.push((at.done, at.reused, at.total))
    })
    .unwrap();
    assert_eq!(second.asked, ["4", "5", "6"]);
    assert_eq!(progress, [(4, 4, 7), (6, 4, 7), (7, 4, 7)]);
    assert_eq!(done.reused, 4);
    assert!(!part.exists());
    let written = lines(&out);
    let ids: Vec<&str> = written.iter().map(|line| line["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["0", "1", "2", "3", "4", "5", "6"]);
    assert_eq!(written[3]["cut_off"], true);
    assert_eq!(written[0]["prediction"]["choice"], "yes");
    for key in ["id", "document_id", "prompt", "reply", "prediction"] {
        assert!(written[6].get(key).is_some(), "{key}");
    }

    // What was written scores as what was returned.
    let read = predictions::read(&out, &set.items).unwrap();
    let by = |given: &[Option<Given>]| score(&set.items, given, &[Metric::Accuracy]).unwrap();
    assert_eq!(by(&read).scores, by(&done.given).scores);
    assert!((by(&read).scores[0].value() - 4.0 / 7.0).abs() < 1e-12);
    assert_eq!(by(&read).cut_off, 1);
}

#[test]
fn another_model_or_prompt_is_asked_anew() {
    let (folder, set) = (tempfile::tempdir().unwrap(), set());
    let out = folder.path().join("p.jsonl");
    let quiet = &mut |_: Progress| {};
    run(&set.items, "m", false, &mut script(99), &out, quiet).unwrap();
    let before = std::fs::read(&out).unwrap();
    let mut same = script(0);
    assert_eq!(run(&set.items, "m", false, &mut same, &out, quiet).unwrap().reused, 7);
    assert_eq!(std::fs::read(&out).unwrap(), before);
    let mut other = script(99);
    run(&set.items, "other", false, &mut other, &out, quiet).unwrap();
    assert_eq!(other.asked.len(), 7);
    let mut items = set.items.clone();
    items[2].prompt = "Is it really?".to_owned();
    let mut changed = script(99);
    run(&items, "other", false, &mut changed, &out, quiet).unwrap();
    assert_eq!(changed.asked, ["2"]);
    let ids: Vec<_> = lines(&out).iter().map(|line| line["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(
        ids,
        ["0", "1", "2", "3", "4", "5", "6"],
        "in the order of the items, whatever was asked last"
    );
}

#[test]
fn a_replier_that_miscounts_is_refused() {
    struct Short;
    impl Replier for Short {
        fn reply(&mut self, _: &[Prompt]) -> Result<Vec<Reply>, ReplyError> {
            Ok(vec![Reply::default()])
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let error = run(&set().items, "m", false, &mut Short, &folder.path().join("p"), &mut |_| {}).unwrap_err();
    assert_eq!(error.to_string(), "expected a reply to each of 7 prompts, found 1 replies");
}

#[test]
fn a_folder_that_cannot_be_written_is_an_error_of_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error =
        run(&set().items, "m", false, &mut script(9), &file.join("p.jsonl"), &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("file") && !error.to_string().contains('\n'), "{error}");
}

#[test]
fn a_constrained_run_brings_grammars_and_is_not_mixed_with_a_free_one() {
    struct Grammatical(Vec<bool>);
    impl Replier for Grammatical {
        fn reply(&mut self, prompts: &[Prompt]) -> Result<Vec<Reply>, ReplyError> {
            self.0
                .extend(prompts.iter().map(|prompt| prompt.grammar.is_some_and(|it| it.contains("(A) yes"))));
            Ok(vec![Reply { text: "(A) yes".to_owned(), cut_off: false }; prompts.len()])
        }
    }
    let (folder, set) = (tempfile::tempdir().unwrap(), set());
    let out = folder.path().join("predictions.jsonl");
    for (constrained, reused) in [(true, 0), (true, 7), (false, 0), (false, 7), (true, 0)] {
        let mut replier = Grammatical(Vec::new());
        let done = run(&set.items, "m", constrained, &mut replier, &out, &mut |_| {}).unwrap();
        assert_eq!((done.reused, replier.0), (reused, vec![constrained; 7 - reused]));
        assert_eq!(lines(&out)[0]["model"], if constrained { "m constrained" } else { "m" });
    }
}
