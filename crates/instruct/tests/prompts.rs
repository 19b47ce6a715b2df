//! What prompts look like: every task in both languages, from made-up documents.

use taiyi_corpus::offsets::CharSpan;
use taiyi_corpus::schema::{
    Content, Document, Entity, Ie, Language, Mrd, Mt, Normalized, Passage, Qa, QaKind, Relation,
    RelationLevel, Speaker, Tc, Tp, TpKind, Utterance,
};
use taiyi_instruct::prompt::{Ask, AskOptions, PromptBuilder, Skip};
use taiyi_instruct::{Answer, DatasetLabels, LabelName, LabelNames, Templates, Triple, Unit};

fn document(language: Language, content: Content) -> Document {
    Document {
        id: "1".into(),
        document_id: "1".into(),
        dataset: "made_up".into(),
        split: "train".into(),
        language,
        content,
    }
}

fn names(names: &[(&str, &str, &str)]) -> LabelNames {
    let name = |&(source, en, zh): &(&str, &str, &str)| LabelName {
        source: source.into(),
        en: en.into(),
        zh: zh.into(),
    };
    LabelNames::new(names.iter().map(name).collect())
}

fn labels(multi_label: bool) -> DatasetLabels {
    DatasetLabels {
        entities: names(&[
            ("Chemical", "chemical", "药物"),
            ("Disease", "disease", "疾病"),
            ("Gene", "gene", "基因"),
        ]),
        relations: names(&[
            ("CID", "chemical-induced disease", "药物所致疾病"),
            ("TREAT", "treatment", "治疗"),
        ]),
        classes: names(&[("1", "similar", "相似"), ("0", "different", "不相似")]),
        multi_label,
    }
}

/// An extraction document; each entity is a type, a string that is looked up from `from`, and a concept.
fn extraction(
    language: Language,
    passages: &[&str],
    entities: &[(&str, &str, &str)],
    relations: &[(&str, &str, &str)],
) -> Document {
    let mut ie = Ie::default();
    let mut start = 0;
    for (at, text) in passages.iter().enumerate() {
        let end = start + text.chars().count();
        ie.passages.push(Passage {
            id: format!("P{at}"),
            kind: "p".into(),
            text: (*text).into(),
            offsets: CharSpan::new(start, end),
        });
        start = end + 1;
    }
    let text = ie.text();
    let mut from = 0;
    for (at, (kind, string, concept)) in entities.iter().enumerate() {
        let found = from + text[from..].find(string).unwrap();
        from = found + string.len();
        let start = text[..found].chars().count();
        ie.entities.push(Entity {
            id: format!("T{at}"),
            kind: (*kind).into(),
            text: vec![(*string).into()],
            offsets: vec![CharSpan::new(start, start + string.chars().count())],
            normalized: vec![Normalized { db_name: "MESH".into(), db_id: (*concept).into() }],
        });
    }
    for (at, (kind, head, tail)) in relations.iter().enumerate() {
        ie.relations.push(Relation {
            id: format!("R{at}"),
            kind: (*kind).into(),
            arg1_id: (*head).into(),
            arg2_id: (*tail).into(),
            level: RelationLevel::Concept,
            normalized: vec![],
        });
    }
    document(language, Content::Ie(ie))
}

fn example(language: Language) -> Document {
    match language {
        Language::Zh => extraction(
            Language::Zh,
            &["患者因肝衰竭入院。", "既往服用对乙酰氨基酚。停药后肝衰竭好转；阿司匹林可治疗头痛。"],
            &[
                ("Disease", "肝衰竭", "D1"),
                ("Chemical", "对乙酰氨基酚", "C1"),
                ("Disease", "肝衰竭", "D1"),
                ("Chemical", "阿司匹林", "C2"),
                ("Disease", "头痛", "D2"),
            ],
            &[("TREAT", "C2", "D2"), ("CID", "C1", "D1")],
        ),
        _ => extraction(
            Language::En,
            &[
                "Liver failure after paracetamol",
                "The woman took paracetamol [500 mg]. Liver failure followed. Aspirin relieved her headache.",
            ],
            &[
                ("Disease", "Liver failure", "D1"),
                ("Chemical", "paracetamol", "C1"),
                ("Chemical", "paracetamol", "C1"),
                ("Disease", "Liver failure", "D1"),
                ("Chemical", "Aspirin", "C2"),
                ("Disease", "headache", "D2"),
            ],
            &[("TREAT", "C2", "D2"), ("CID", "C1", "D1")],
        ),
    }
}

fn others(language: Language) -> Vec<(Ask, bool, Document)> {
    let zh = language == Language::Zh;
    let pick = |en: &str, zh_text: &str| if zh { zh_text.to_owned() } else { en.to_owned() };
    let tc = |labels: &[&str]| {
        Content::Tc(Tc {
            text: pick("Can I stop taking it?", "可以停药吗？"),
            labels: labels.iter().map(|s| (*s).into()).collect(),
        })
    };
    let pair = |kind| {
        Content::Tp(Tp {
            text_1: pick("Is fever dangerous?", "发烧危险吗？"),
            text_2: pick("Can a fever harm me?", "发热对人有害吗？"),
            label: "1".into(),
            kind,
        })
    };
    let qa = |kind, contexts: bool, choices: bool| {
        Content::Qa(Qa {
            question: pick("Does it work?", "有效吗？"),
            contexts: if contexts {
                vec![pick("It did not.", "无效。"), pick("Twice.", "两次。")]
            } else {
                vec![]
            },
            choices: if choices { vec![pick("yes", "是"), pick("no", "否")] } else { vec![] },
            answers: vec![pick("no", "否")],
            kind,
        })
    };
    let say = |speaker, en: &str, zh: &str| Utterance { speaker, text: pick(en, zh) };
    let talk = Content::Mrd(Mrd {
        context: Some(pick("Cough for a week.", "咳嗽一周。")),
        utterances: vec![
            say(Speaker::Patient, "I cough a lot.", "我咳得厉害。"),
            say(Speaker::Doctor, "Any fever?", "发烧吗？"),
            say(Speaker::Patient, "No.", "没有。"),
            say(Speaker::Doctor, "Good.", "好。"),
            say(Speaker::Doctor, "Drink water.", "多喝水。"),
            say(Speaker::Patient, "Thanks.", "谢谢。"),
        ],
    });
    let translation =
        Content::Mt(Mt { source: pick("A fever.", "发热。"), target: pick("发热。", "A fever.") });
    let direction = if zh { Language::ZhEn } else { Language::EnZh };
    vec![
        (Ask::Tc, false, document(language, tc(&["0"]))),
        (Ask::Tc, true, document(language, tc(&["1", "0"]))),
        (Ask::Tc, true, document(language, tc(&[]))),
        (Ask::Tp, false, document(language, pair(TpKind::Similarity))),
        (Ask::Tp, false, document(language, pair(TpKind::Entailment))),
        (Ask::Tp, false, document(language, pair(TpKind::Relevance))),
        (Ask::Qa, false, document(language, qa(QaKind::MultipleChoice, false, true))),
        (Ask::Qa, false, document(language, qa(QaKind::MultipleChoice, true, true))),
        (Ask::Qa, false, document(language, qa(QaKind::Simple, false, false))),
        (Ask::Qa, false, document(language, qa(QaKind::Context, true, false))),
        (Ask::Mrd, false, document(language, talk)),
        (Ask::Mt, false, document(direction, translation)),
    ]
}

/// Two wordings of every question of every task, with what is learned.
fn gallery(language: Language) -> String {
    let mut cases: Vec<(Ask, bool, Document)> =
        [Ask::Ner, Ask::NerOne, Ask::Re, Ask::ReOne].map(|ask| (ask, false, example(language))).into();
    cases.extend(others(language));
    let mut shown = String::new();
    for (ask, multi_label, document) in cases {
        let labels = labels(multi_label);
        let builder = PromptBuilder::new(&labels, AskOptions::default());
        for (number, asked) in builder.asked(&document, ask).unwrap().iter().enumerate() {
            for wording in [number, number + 5] {
                let prompt = Templates::embedded().prompt(asked, wording).unwrap();
                shown += &format!(
                    "=== {} {} {}\n{}\n",
                    prompt.template,
                    asked.category,
                    document.language.code(),
                    prompt.human
                );
                shown += &format!("--> {}\n", prompt.assistant);
                for turn in &asked.following {
                    shown += &format!("<-- {}\n--> {}\n", turn.human, turn.assistant);
                }
                assert_eq!(asked.question.spec.parse(&prompt.assistant).unwrap(), asked.answer);
            }
        }
    }
    shown
}

#[test]
fn english_prompts() {
    insta::assert_snapshot!(gallery(Language::En));
}

#[test]
fn chinese_prompts() {
    insta::assert_snapshot!(gallery(Language::Zh));
}

#[test]
fn concepts_are_named_by_their_first_mention_and_order_is_the_cards() {
    let labels = labels(false);
    let builder = PromptBuilder::new(&labels, AskOptions::default());
    let asked = builder.asked(&example(Language::En), Ask::Re).unwrap();
    let triple = |relation: &str, head: &str, tail: &str| Triple {
        relation: relation.into(),
        head: head.into(),
        tail: tail.into(),
    };
    let expected = [
        triple("chemical-induced disease", "paracetamol", "Liver failure"),
        triple("treatment", "Aspirin", "headache"),
    ];
    assert_eq!(asked[0].answer, Answer::Triples(expected.into()));
}

#[test]
fn sentences_share_out_the_entities() {
    let labels = labels(false);
    let options = AskOptions { unit: Unit::Sentence, empty: 0.0, ..AskOptions::default() };
    let document = example(Language::En);
    let Content::Ie(ie) = &document.content else { unreachable!() };
    let text = ie.text();
    let asked = PromptBuilder::new(&labels, options).asked(&document, Ask::Ner).unwrap();
    let pieces: Vec<String> = asked
        .iter()
        .map(|asked| {
            let span = asked.span.unwrap();
            text.chars().skip(span.start).take(span.len()).collect()
        })
        .collect();
    assert_eq!(
        pieces,
        [
            "Liver failure after paracetamol",
            "The woman took paracetamol [500 mg].",
            "Liver failure followed.",
            "Aspirin relieved her headache."
        ]
    );
    assert_eq!(asked.iter().map(|asked| asked.answer.len()).sum::<usize>(), 6);
}

#[test]
fn negatives_follow_the_ratio() {
    let labels = labels(false);
    let count = |negatives: f64| -> (usize, usize) {
        let options = AskOptions { negatives, ..AskOptions::default() };
        let builder = PromptBuilder::new(&labels, options);
        let asked: Vec<_> = (0..400)
            .flat_map(|at| {
                builder.asked(&Document { id: at.to_string(), ..example(Language::Zh) }, Ask::NerOne).unwrap()
            })
            .collect();
        let positive = asked.iter().filter(|asked| !asked.answer.is_empty()).count();
        (positive, asked.len() - positive)
    };
    // Two types of three occur: a ratio of 0.25 asks for the third in half of the documents.
    assert_eq!(count(0.0), (800, 0));
    let (positive, negative) = count(0.25);
    assert_eq!(positive, 800);
    assert!((160..240).contains(&negative), "{negative}");
    assert_eq!(count(1.0), (800, 400));
}

#[test]
fn offered_labels_hold_the_answers() {
    let mut labels = labels(false);
    labels.classes = LabelNames::plain((0..50).map(|at| format!("c{at}")));
    let options = AskOptions { offered: Some(4), ..AskOptions::default() };
    let builder = PromptBuilder::new(&labels, options);
    let mut seen = std::collections::BTreeSet::new();
    for at in 0..50 {
        let content = Content::Tc(Tc { text: "x".into(), labels: vec![format!("c{at}")] });
        let asked = builder
            .asked(&Document { id: at.to_string(), ..document(Language::En, content) }, Ask::Tc)
            .unwrap();
        let names = &asked[0].question.spec.names;
        assert_eq!(names.len(), 4);
        assert!(names.contains(&format!("c{at}")));
        seen.extend(names.iter().cloned());
    }
    assert!(seen.len() > 45, "the draw must reach all labels: {}", seen.len());
}

#[test]
fn what_cannot_be_asked_says_why() {
    let labels = labels(false);
    let builder = PromptBuilder::new(&labels, AskOptions::default());
    let tc = |text: &str, labels: &[&str]| {
        Content::Tc(Tc { text: text.into(), labels: labels.iter().map(|s| (*s).into()).collect() })
    };
    let qa = |choices: &[&str], answers: &[&str]| {
        Content::Qa(Qa {
            question: "q".into(),
            contexts: vec![],
            choices: choices.iter().map(|s| (*s).into()).collect(),
            answers: answers.iter().map(|s| (*s).into()).collect(),
            kind: if choices.is_empty() { QaKind::Simple } else { QaKind::MultipleChoice },
        })
    };
    let doctor = Utterance { speaker: Speaker::Doctor, text: "hello".into() };
    for (ask, content, skip) in [
        (Ask::Ner, tc("x", &["1"]), Skip::OtherTask { asked: "ner" }),
        (Ask::Tc, tc(" ", &["1"]), Skip::Blank),
        (Ask::Tc, tc("x", &[]), Skip::NoAnswer),
        (Ask::Tc, tc("x", &["1", "0"]), Skip::SeveralAnswers),
        (Ask::Tc, tc("x", &["7"]), Skip::UnknownLabel { label: "7".into() }),
        (Ask::Qa, qa(&["a", "b"], &["c"]), Skip::NotAChoice),
        (Ask::Qa, qa(&["a", "b"], &["a", "b"]), Skip::SeveralAnswers),
        (Ask::Qa, qa(&[], &[" "]), Skip::NoAnswer),
        (Ask::Mrd, Content::Mrd(Mrd { context: None, utterances: vec![doctor] }), Skip::NoReply),
    ] {
        assert_eq!(builder.asked(&document(Language::En, content), ask).unwrap_err(), skip);
    }
    let lost =
        extraction(Language::En, &["aspirin"], &[("Chemical", "aspirin", "C1")], &[("CID", "C1", "D9")]);
    assert_eq!(builder.asked(&lost, Ask::Re).unwrap_err(), Skip::NoMention);
}
