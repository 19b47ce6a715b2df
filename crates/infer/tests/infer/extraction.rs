//! Scripted replies become exactly these entities and relations.

use std::path::Path;

use proptest::prelude::*;
use taiyi_corpus::offsets::{CharSpan, TextIndex};
use taiyi_corpus::schema::{Content, Document, Ie, Language, Passage, Tc, Tp, TpKind};
use taiyi_corpus::writers::{DocumentFormat, write_documents};
use taiyi_infer::extract::{
    ARGUMENT, ExtractOptions, Extracted, Extractor, NameKind, Replier, TextPrompt, all_named,
};
use taiyi_infer::{Finish, InferError, ModelReplier, Reply, ReplyOptions, input, language_of};
use taiyi_instruct::answers::Reason;
use taiyi_instruct::{LabelName, LabelNames, Templates, Unit};

use crate::tiny::model;

/// Replies by a function of the prompt; holds prompts up to a length.
struct Script<F> {
    reply: F,
    most_chars: usize,
    prompts: Vec<String>,
}

impl<F: FnMut(&str) -> String> Script<F> {
    fn new(reply: F) -> Self {
        Self { reply, most_chars: usize::MAX, prompts: Vec::new() }
    }
}

impl<F: FnMut(&str) -> String> Replier for Script<F> {
    fn reply(&mut self, prompts: &[TextPrompt]) -> Result<Vec<Reply>, InferError> {
        self.prompts.extend(prompts.iter().map(|prompt| prompt.text.clone()));
        let reply = |prompt: &TextPrompt| {
            let text = (self.reply)(&prompt.text);
            let finish = if text.ends_with(';') { Finish::Length } else { Finish::Stop };
            Reply { tokens: text.len(), text, finish }
        };
        Ok(prompts.iter().map(reply).collect())
    }

    fn fits(&self, prompt: &str) -> Result<bool, InferError> {
        Ok(prompt.chars().count() <= self.most_chars)
    }
}

pub(crate) fn passages(texts: &[&str], language: Language) -> Document {
    let mut start = 0;
    let mut ie = Ie::default();
    for (at, text) in texts.iter().enumerate() {
        let end = start + text.chars().count();
        let offsets = CharSpan::new(start, end);
        ie.passages.push(Passage { id: at.to_string(), kind: "p".into(), text: (*text).into(), offsets });
        start = end + 1;
    }
    Document {
        id: "1".into(),
        document_id: "1".into(),
        dataset: "made_up".into(),
        split: "test".into(),
        language,
        content: Content::Ie(ie),
    }
}

fn types(names: &[&str]) -> LabelNames {
    all_named(NameKind::Entity, names.iter().copied())
}

fn run(document: &Document, options: &ExtractOptions, script: &mut dyn Replier) -> Extracted {
    let extractor = Extractor::new(options, Templates::embedded());
    extractor.extract(std::slice::from_ref(document), script).unwrap().pop().unwrap()
}

fn ie(extracted: &Extracted) -> &Ie {
    match &extracted.document.content {
        Content::Ie(ie) => ie,
        other => panic!("{other:?}"),
    }
}

fn found(extracted: &Extracted) -> Vec<(String, usize, usize, String)> {
    let one = |entity: &taiyi_corpus::schema::Entity| {
        let [span] = entity.offsets[..] else { panic!("{entity:?}") };
        (entity.kind.clone(), span.start, span.end, entity.surface())
    };
    ie(extracted).entities.iter().map(one).collect()
}

#[test]
fn all_types_at_once_in_the_language_of_the_text() {
    let document = passages(&["患者胃癌术后。", "予顺铂，胃痛缓解。胃癌复发。"], Language::Zh);
    let options =
        ExtractOptions {
            entities: types(&["disease", "药物"]), unit: Unit::Sentence, ..Default::default()
        };
    let mut script = Script::new(|prompt| {
        assert!(prompt.contains("类型：疾病，药物\n"), "{prompt}");
        match () {
            () if prompt.contains("患者胃癌术后。") => "疾病：胃癌".into(),
            () if prompt.contains("予顺铂") => "药物：顺铂；卡铂\n疾病：胃痛\n症状：缓解".into(),
            () => "疾病：胃癌; 胃癌复发;".into(),
        }
    });
    let extracted = run(&document, &options, &mut script);
    assert_eq!(script.prompts.len(), 3, "a question a sentence");
    let entity = |kind: &str, start, end, text: &str| (kind.to_owned(), start, end, text.to_owned());
    // Longer strings claim their places first, so 胃癌 is not found inside 胃癌复发.
    assert_eq!(
        found(&extracted),
        [
            entity("disease", 2, 4, "胃癌"),
            entity("药物", 9, 11, "顺铂"),
            entity("disease", 12, 14, "胃痛"),
            entity("disease", 17, 21, "胃癌复发"),
        ]
    );
    assert_eq!(ie(&extracted).entities[3].id, "T4");
    let report = &extracted.report;
    assert_eq!((report.questions, report.cut_off, report.not_asked), (3, 1, 1));
    assert_eq!(report.unfound, [("药物".to_owned(), "卡铂".to_owned())]);
    assert!(report.unparsable.is_empty() && report.skipped.is_none());
    let nested = ExtractOptions { nested: true, ..options };
    assert_eq!(found(&run(&document, &nested, &mut script)).len(), 5);
}

#[test]
fn one_type_at_a_time_and_replies_that_cannot_be_read() {
    let text = "Aspirin helps against fever and ASPIRIN is cheap.";
    let document = passages(&[text], Language::En);
    let options = ExtractOptions {
        entities: types(&["Chemical", "disease"]),
        one_at_a_time: true,
        ..Default::default()
    };
    let mut script = Script::new(|prompt| {
        if prompt.contains("chemical") { "chemical: aspirin".into() } else { "This is a nice: text.".into() }
    });
    let extracted = run(&document, &options, &mut script);
    let whole = |start| ("Chemical".to_owned(), start, start + 7, text[start..start + 7].to_owned());
    assert_eq!(found(&extracted), [whole(0), whole(32)]);
    let [unparsable] = &extracted.report.unparsable[..] else { panic!("{:?}", extracted.report) };
    assert_eq!(unparsable.asked, ["disease"]);
    assert_eq!(unparsable.reason, Reason::NoEntityType);
    assert_eq!(unparsable.reply, "This is a nice: text.");
    assert_eq!(unparsable.span, CharSpan::new(0, 49));
    assert_eq!(extracted.report.questions, 2);
}

fn relations(options: ExtractOptions) -> ExtractOptions {
    let name = |source: &str| LabelName { source: source.into(), en: "treats".into(), zh: "治疗".into() };
    ExtractOptions { relations: LabelNames::new(vec![name("TREATS")]), ..options }
}

#[test]
fn relations_link_the_nearest_mentions_of_their_arguments() {
    let text = "Fever came. Aspirin treats fever. Later, fever rose; Aspirin failed, pain stayed.";
    let document = passages(&[text], Language::En);
    let options = relations(ExtractOptions { entities: types(&["drug", "disease"]), ..Default::default() });
    let mut script = Script::new(|prompt| {
        if prompt.contains("treats.") || prompt.contains(": treats") {
            "treats: [aspirin, fever]; [Aspirin, pain]; [Aspirin, aspirin]".into()
        } else {
            "drug: Aspirin\ndisease: fever; Fever".into()
        }
    });
    let extracted = run(&document, &options, &mut script);
    let Ie { entities, relations, .. } = ie(&extracted);
    assert_eq!(entities.len(), 5, "{entities:?}");
    let place = |id: &str| entities.iter().find(|entity| entity.id == id).unwrap().offsets[0].start;
    let links: Vec<_> =
        relations.iter().map(|one| (&*one.kind, place(&one.arg1_id), place(&one.arg2_id))).collect();
    // `aspirin` is `Aspirin` here; its second mention stands 7 characters behind a `fever`, its first 8 before one.
    assert_eq!(links, [("TREATS", 12, 53), ("TREATS", 53, 41)]);
    assert_eq!(extracted.report.unplaced.len(), 1, "pain is no entity");
    assert_eq!(extracted.report.unplaced[0].tail, "pain");
}

#[test]
fn relations_alone_make_their_arguments_entities() {
    let document = passages(&["二甲双胍治疗糖尿病。"], Language::Zh);
    let options = relations(ExtractOptions { one_at_a_time: true, ..Default::default() });
    let mut script = Script::new(|_| "治疗：[二甲双胍, 糖尿病]; [二甲双胍, 高血压]".into());
    let extracted = run(&document, &options, &mut script);
    let argument = |start, end, text: &str| (ARGUMENT.to_owned(), start, end, text.to_owned());
    assert_eq!(found(&extracted), [argument(0, 4, "二甲双胍"), argument(6, 9, "糖尿病")]);
    let [relation] = &ie(&extracted).relations[..] else { panic!() };
    assert_eq!((&*relation.arg1_id, &*relation.arg2_id, &*relation.kind), ("T1", "T2", "TREATS"));
    assert_eq!(extracted.report.unplaced.len(), 1);
    assert_eq!(extracted.report.unfound.len(), 1);
}

#[test]
fn pieces_are_as_small_as_the_model_needs() {
    let text = "First sentence names fever. Second sentence names cough, and goes on without a stop for long";
    let document = passages(&[text], Language::En);
    let options =
        ExtractOptions { entities: types(&["symptom"]), unit: Unit::Document, ..Default::default() };
    let mut script = Script::new(|prompt| {
        let known = ["fever", "cough", "long"].into_iter().filter(|word| prompt.contains(word));
        format!("symptom: {}", known.collect::<Vec<_>>().join("; "))
    });
    let whole = run(&document, &options, &mut script);
    let instruction = script.prompts[0].chars().count() - text.chars().count();
    script.most_chars = instruction + 40;
    script.prompts.clear();
    let pieces = run(&document, &options, &mut script);
    assert_eq!(script.prompts.len(), 3, "{:?}", script.prompts);
    assert_eq!(found(&pieces), found(&whole));
    assert_eq!(found(&pieces).len(), 3);
    script.most_chars = instruction / 2;
    let none = run(&document, &options, &mut script);
    assert_eq!(none.report.questions, 0);
    assert_eq!(none.report.too_long, 1, "the question alone is too long");
    assert!(found(&none).is_empty());
}

#[test]
fn annotations_of_the_input_are_not_part_of_the_output() {
    let mut document = passages(&["fever"], Language::En);
    let options = ExtractOptions { entities: types(&["symptom"]), ..Default::default() };
    let mut script = Script::new(|_| "symptom: fever".into());
    let once = run(&document, &options, &mut script);
    let twice = run(&once.document, &options, &mut Script::new(|_| "No entities found.".into()));
    assert_eq!(found(&once).len(), 1);
    assert!(found(&twice).is_empty());
    document.content = Content::Tc(Tc { text: "fever".into(), labels: vec!["x".into()] });
    assert_eq!(found(&run(&document, &options, &mut script)), found(&once));
    document.content = Content::Tp(Tp {
        text_1: "a".into(),
        text_2: "b".into(),
        label: "c".into(),
        kind: TpKind::Similarity,
    });
    let pair = run(&document, &options, &mut script);
    assert!(pair.report.skipped.is_some());
    assert_eq!(pair.document, document);
    let blank = run(&passages(&[" \n ", ""], Language::En), &options, &mut script);
    assert_eq!((blank.report.questions, found(&blank).len()), (0, 0));
}

#[test]
fn documents_come_out_in_order_and_bad_inputs_in_their_place() {
    let options = ExtractOptions { entities: types(&["symptom"]), ..Default::default() };
    let extractor = Extractor::new(&options, Templates::embedded());
    let mut script = Script::new(|prompt| {
        let number = prompt.rsplit_once("fever").unwrap().1.trim().to_owned();
        format!("symptom: fever{number}")
    });
    let mut documents = (0..300).map(|at| {
        if at == 7 {
            return Err(InferError::Replier { reason: "bad input".into() });
        }
        let mut document = passages(&[&format!("fever{at}")], Language::En);
        document.id = at.to_string();
        Ok(document)
    });
    let mut seen = Vec::new();
    let mut sink = |done: Result<Extracted, InferError>| {
        match done {
            Ok(done) => {
                assert_eq!(found(&done)[0].3, format!("fever{}", done.document.id));
                seen.push(done.document.id);
            }
            Err(error) => seen.push(error.to_string()),
        }
        Ok(())
    };
    extractor.extract_each(&mut documents, &mut script, &mut sink).unwrap();
    assert_eq!(seen.len(), 300);
    assert_eq!((&*seen[6], &*seen[7], &*seen[8]), ("6", "the replier gave up: bad input", "8"));

    struct Short;
    impl Replier for Short {
        fn reply(&mut self, _: &[TextPrompt]) -> Result<Vec<Reply>, InferError> {
            Ok(Vec::new())
        }
        fn fits(&self, _: &str) -> Result<bool, InferError> {
            Ok(true)
        }
    }
    let error = extractor.extract(&[passages(&["a"], Language::En)], &mut Short).unwrap_err();
    assert_eq!(error.to_string(), "expected 1 replies, found 0; this is a mistake of the replier");
}

#[test]
fn a_babbling_model_extracts_without_harm() {
    let mut model = model("taiyi1", 300, 1);
    let options = ExtractOptions {
        entities: types(&["disease", "drug"]),
        unit: Unit::Window(40),
        constrained: false,
        ..Default::default()
    };
    let document = passages(&["头痛三天，予阿司匹林。", &"The patient had fever. ".repeat(20)], Language::Zh);
    let reply = ReplyOptions { max_new_tokens: 30, ..ReplyOptions::default() };
    let mut last = (0, 0);
    let replier = ModelReplier::new(&mut model, reply).with_system(Some("s".into()));
    let mut replier = replier.with_progress(|at| last = (at.done, at.total));
    let extracted = run(&document, &options, &mut replier);
    drop(replier);
    let report = &extracted.report;
    assert_eq!(last, (report.questions, report.questions));
    assert!(report.questions > 5 && report.too_long == 0, "{report:?}");
    assert!(report.unparsable.len() + report.cut_off > 0, "{report:?}");
}

/// Text file in, BRAT and PubTator out, PubTator in again.
#[test]
fn files_go_through_the_whole_line() {
    let folder = tempfile::tempdir().unwrap();
    let (inputs, brat) = (folder.path().join("in"), folder.path().join("brat"));
    std::fs::create_dir(&inputs).unwrap();
    std::fs::write(inputs.join("病历.txt"), "主诉\r\n头痛\t发热。\r\n予阿司匹林。\r\n").unwrap();
    std::fs::write(inputs.join("note.txt"), "Fever and cough.\nAspirin was given.").unwrap();
    let options = ExtractOptions { entities: types(&["symptom", "drug"]), ..Default::default() };
    let mut script = Script::new(|prompt| {
        if prompt.contains("头痛") {
            "症状：头痛; 发热\n药物：阿司匹林".into()
        } else {
            "symptom: fever; cough\ndrug: Aspirin".into()
        }
    });
    let found_files = input::find(&[inputs]).unwrap();
    let documents: Vec<Document> = input::read(found_files.files).map(Result::unwrap).collect();
    let extractor = Extractor::new(&options, Templates::embedded());
    let done: Vec<Document> =
        extractor.extract(&documents, &mut script).unwrap().into_iter().map(|one| one.document).collect();

    let written = write_documents(&brat, DocumentFormat::Brat, &done).unwrap();
    assert_eq!(written.documents, 2);
    assert!(written.losses.is_none());
    let text = std::fs::read_to_string(brat.join("病历.txt")).unwrap();
    assert_eq!(text, "主诉\r\n头痛\t发热。\r\n予阿司匹林。\r\n", "exactly the input");
    let annotations = std::fs::read_to_string(brat.join("病历.ann")).unwrap();
    let characters: Vec<char> = text.chars().collect();
    assert_eq!(annotations.lines().count(), 3);
    for line in annotations.lines() {
        let columns: Vec<&str> = line.split('\t').collect();
        let place: Vec<usize> = columns[1].split(' ').skip(1).map(|number| number.parse().unwrap()).collect();
        assert_eq!(characters[place[0]..place[1]].iter().collect::<String>(), columns[2]);
    }
    assert!(
        std::fs::read_to_string(brat.join("annotation.conf"))
            .unwrap()
            .starts_with("[entities]\ndrug\nsymptom\n")
    );

    let pubtator = folder.path().join("out.pubtator");
    let written = write_documents(&pubtator, DocumentFormat::Pubtator, &done).unwrap();
    assert!(written.losses.characters > 0, "the tab and line breaks are blanks now");
    let again = read_back(&pubtator);
    for (own, read) in done.iter().zip(&again) {
        let (Content::Ie(own), Content::Ie(read)) = (&own.content, &read.content) else { panic!() };
        assert_eq!(own.entities, read.entities);
    }
    let jsonl = folder.path().join("out.jsonl");
    assert!(write_documents(&jsonl, DocumentFormat::Jsonl, &done).unwrap().losses.is_none());
    assert_eq!(read_back(&jsonl), done);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 4, "no temporary file is left");
}

fn read_back(path: &Path) -> Vec<Document> {
    input::read(input::find(&[path.to_owned()]).unwrap().files).map(Result::unwrap).collect()
}

/// Replies made of what replies are made of.
fn reply() -> impl Strategy<Value = String> {
    let pieces = [
        "疾病", "drug", "treats", "：", ": ", "; ", "；", "[", "]", ", ", "\n", "\\", "fever", "胃癌", "胃",
        " ", "None",
    ];
    let piece =
        prop_oneof![4 => prop::sample::select(pieces.to_vec()).prop_map(str::to_owned), 1 => "\\PC{0,4}"];
    prop::collection::vec(piece, 0..14).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]
    #[test]
    fn whatever_is_replied_offsets_slice_to_their_text(
        texts in prop::collection::vec("(fever|胃癌|drug|疾病|[ .。\\n\\t]|\\PC){0,20}", 0..4),
        replies in prop::collection::vec(reply(), 1..6),
        (one_at_a_time, nested, with_entities) in any::<(bool, bool, bool)>(),
        window in 1_usize..30,
        most_chars in prop_oneof![Just(usize::MAX), 40_usize..160],
    ) {
        let document = passages(&texts.iter().map(String::as_str).collect::<Vec<_>>(), language_of(&texts.concat()));
        let options = relations(ExtractOptions {
            entities: if with_entities { types(&["disease", "drug"]) } else { LabelNames::default() },
            one_at_a_time,
            nested,
            unit: Unit::Window(window),
            ..Default::default()
        });
        let mut next = replies.iter().cycle();
        let mut script = Script::new(|_| next.next().unwrap().clone());
        script.most_chars = most_chars;
        let extracted = run(&document, &options, &mut script);
        let (Content::Ie(input), output) = (&document.content, ie(&extracted)) else { panic!() };
        prop_assert_eq!(&input.passages, &output.passages);
        let text = input.text();
        let index = TextIndex::new(&text);
        for entity in &output.entities {
            prop_assert_eq!(index.slice(entity.offsets[0]), Some(entity.text[0].as_str()));
        }
        for relation in &output.relations {
            prop_assert!(output.entity(&relation.arg1_id).is_some() && output.entity(&relation.arg2_id).is_some());
            prop_assert_ne!(&relation.arg1_id, &relation.arg2_id);
        }
    }
}
