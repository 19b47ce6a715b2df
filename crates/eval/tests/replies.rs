//! Whatever a model replies, it is scored; and scoring the prediction made of it gives the same score.

use proptest::prelude::*;
use taiyi_corpus::schema::Language;
use taiyi_eval::predictions::{self, Prediction};
use taiyi_eval::score::{metrics_of, read};
use taiyi_eval::{Given, Item, ItemOptions, Items, score};
use taiyi_instruct::{Ask, DatasetLabels};

mod made_up;
use made_up::{drug_labels, question, text, with_concept_relations};

fn entity_items() -> Vec<Item> {
    let mentions: &[(&str, usize, &str, &[&str])] = &[
        ("Lithium", 0, "Chemical", &["C"]),
        ("tremor", 1, "Disease", &["D"]),
        ("hand tremor", 0, "Disease", &["D"]),
    ];
    let document = text("1", Language::En, "Lithium: hand tremor, tremor (LITHIUM).", mentions);
    let document = with_concept_relations(document, &[("CID", "C", "D")]);
    let mut items = Vec::new();
    for (ask, nested) in [(Ask::Ner, false), (Ask::Ner, true), (Ask::Re, false)] {
        let options = ItemOptions { nested, ..ItemOptions::new(ask) };
        items.extend(Items::of(std::slice::from_ref(&document), drug_labels(), &options).items);
    }
    let qa =
        Items::of(&[question("q", "Is it?", "yes")], DatasetLabels::default(), &ItemOptions::new(Ask::Qa));
    items.extend(qa.items);
    items
}

/// Pieces that replies are made of.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "chemical: ",
            "disease: ",
            "dose: ",
            "chemical-induced disease: ",
            "Lithium",
            "lithium",
            "LITHIUM",
            "tremor",
            "hand tremor",
            " tremor",
            "; ",
            "\n",
            "\\",
            "[",
            "]",
            ", ",
            ".",
            "(A)",
            "yes",
            "no",
            " ",
            "：",
            "；",
            "ataxia",
        ])
        .prop_map(str::to_owned),
        any::<char>().prop_map(String::from),
    ]
}

proptest! {
    #[test]
    fn a_reply_and_its_prediction_score_alike(parts in prop::collection::vec(piece(), 0..14)) {
        let reply = parts.concat();
        for (at, item) in entity_items().into_iter().enumerate() {
            let ask = [Ask::Ner, Ask::Ner, Ask::Re, Ask::Qa][at];
            let (prediction, reason) = read(&item, &Given::reply(reply.clone()));
            let items = [item];
            // As a file holds it.
            let line = serde_json::json!({"id": items[0].id, "prediction": prediction}).to_string();
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("p");
            std::fs::write(&path, line).unwrap();
            let from_file = predictions::read(&path, &items).unwrap();
            prop_assert_eq!(from_file[0].as_ref().unwrap().prediction.as_ref(), Some(&prediction));
            let by_reply = score(&items, &[Some(Given::reply(reply.clone()))], &metrics_of(ask)).unwrap();
            let by_prediction = score(&items, &from_file, &metrics_of(ask)).unwrap();
            for (a, b) in by_reply.scores.iter().zip(&by_prediction.scores) {
                prop_assert_eq!(&a.items, &b.items, "{:?}", prediction);
                prop_assert!((0.0..=1.0).contains(&a.value()));
            }
            if reason.is_some() {
                prop_assert_eq!(&prediction, &Prediction::nothing(&items[0]));
            }
        }
    }
}
