//! A corpus of the user's own, by a card file, through every command that takes datasets.

use serde_json::Value;

use crate::place::Place;

const CARD: &str = r#"
id = "desk_queries"
display_name = "Desk queries (made up)"
languages = ["zh"]
tasks = ["TC"]
license = "ours"
redistributable = false
local = true
homepage = "none"
citation = "none"
document_ids = "dataset"
notes = "Three made-up queries."

[labels]
labels = [
    { name = "准备", en = "preparation", zh = "准备" },
    { name = "费用", en = "costs", zh = "费用" },
]

[[variants]]
id = "jsonl"

[variants.format]
name = "labelled_json"
id = "qid"
text = ["question"]
label = "intent"

[variants.splits.train]
files = [{ path = "desk_queries/train.jsonl" }]
expected.items = 3
expected.labels = { "准备" = 2, "费用" = 1 }
"#;

const MIX: &str = r#"
name = "mine"
version = 1
seed = 1
[[dataset]]
id = "desk_queries"
splits = ["train"]
tasks = ["tc"]
"#;

fn place() -> Place {
    let place = Place::new();
    place.write("desk_queries.toml", CARD);
    place.write("mix.toml", MIX);
    place.write(
        "own/desk_queries/train.jsonl",
        r#"{"qid": "q1", "question": "体检前要空腹吗", "intent": "准备"}
{"qid": "q2", "question": "发票在哪里打印", "intent": "费用"}
{"qid": "q3", "question": "抽血前能喝水吗", "intent": "准备"}
"#,
    );
    place
}

#[test]
fn a_card_file_serves_every_command_on_datasets() {
    let place = place();
    let json = |command: &str| -> Value {
        serde_json::from_str(&place.taiyi(command).fine().stdout).expect("JSON on stdout")
    };
    // Without ids the command means the card's own dataset.
    let checked = json("corpus check --card desk_queries.toml --source own --json");
    assert_eq!(checked["datasets"][0]["splits"]["train"]["labels"]["准备"], 2);
    json("corpus build --card desk_queries.toml --source own --out built --json");
    assert_eq!(place.read("built/desk_queries/train.jsonl").lines().count(), 3);
    let verified = json("instruct verify desk_queries --card desk_queries.toml --source own --json");
    assert_eq!(verified[0]["dataset"], "desk_queries");
    json("instruct build --recipe mix.toml --card desk_queries.toml --source own --out mine.jsonl --json");
    assert_eq!(place.read("mine.jsonl").lines().count(), 3);
    let leak = place.taiyi(
        "corpus leak desk_queries --against desk_queries:train --card desk_queries.toml --source own --json",
    );
    let leak: Value = serde_json::from_str(&leak.fine().stdout).unwrap();
    assert_eq!(leak["documents"], 3, "a split does not leak into itself");
}

#[test]
fn a_dataset_without_a_card_is_named() {
    let place = place();
    place.taiyi("instruct build --recipe mix.toml --source own --out mine.jsonl").refused(&["desk_queries"]);
    place.taiyi("corpus build desk_queries --source own --out built").refused(&["desk_queries", "dataset"]);
    assert_eq!(place.names("built"), Vec::<String>::new());
}
