//! From replies to entities and relations of the document.

use std::collections::{BTreeMap, BTreeSet};

use taiyi_corpus::offsets::{CharSpan, TextIndex};
use taiyi_corpus::schema::{Content, Entity, Relation, RelationLevel};
use taiyi_instruct::answers::{Answer, Triple};
use taiyi_instruct::projection::project;

use super::questions::Plan;
use super::{ARGUMENT, ExtractOptions, Extracted, UnparsableReply};
use crate::generate::Finish;
use crate::model::Reply;

/// What the replies about one piece of text say.
#[derive(Default)]
struct Piece<'a> {
    text: &'a str,
    /// Types as documents spell them, with strings.
    entities: Vec<(String, String)>,
    /// Relations under their readable names.
    triples: Vec<Triple>,
}

/// Places the replies to a plan's prompts in the document's text.
pub(super) fn place(plan: Plan, replies: &[Reply], options: &ExtractOptions) -> Extracted {
    let Plan { mut document, language, questions, mut report, .. } = plan;
    let Content::Ie(ie) = &mut document.content else { return Extracted { document, report } };
    // By span; a piece of an entity question and one of a relation question may be the same.
    let mut pieces: BTreeMap<CharSpan, Piece> = BTreeMap::new();
    for (asked, reply) in questions.iter().zip(replies) {
        report.count(reply);
        if reply.finish == Finish::TooLong {
            continue;
        }
        let piece = pieces.entry(asked.span).or_default();
        piece.text = &asked.text;
        match asked.spec.parse(&reply.text) {
            Ok(Answer::Entities(groups)) => {
                for (name, strings) in groups {
                    if asked.spec.names.contains(&name) {
                        let kind = options.entities.sources(&name, language)[0];
                        piece.entities.extend(strings.into_iter().map(|string| (kind.to_owned(), string)));
                    } else {
                        report.not_asked += strings.len();
                    }
                }
            }
            Ok(Answer::Triples(triples)) => {
                for triple in triples {
                    if asked.spec.names.contains(&triple.relation) {
                        piece.triples.push(triple);
                    } else {
                        report.not_asked += 1;
                    }
                }
            }
            // An entity or relation question is not answered by a label.
            Ok(Answer::Labels(_) | Answer::Choice(_) | Answer::Text(_)) => {}
            Err(unparsable) => report.unparsable.push(UnparsableReply {
                asked: asked.spec.names.clone(),
                span: asked.span,
                reason: unparsable.reason,
                reply: reply.text.clone(),
            }),
        }
    }
    let arguments_only = options.entities.is_empty();
    let mut found: BTreeSet<(CharSpan, String)> = BTreeSet::new();
    for (span, piece) in &mut pieces {
        if arguments_only {
            let strings = piece.triples.iter().flat_map(|triple| [&triple.head, &triple.tail]);
            piece.entities = strings.map(|string| (ARGUMENT.to_owned(), string.clone())).collect();
        }
        let projection = project(piece.text, &piece.entities, options.nested || arguments_only);
        report.unfound.extend(projection.unfound);
        found.extend(projection.found.into_iter().map(|placed| {
            let at = CharSpan::new(placed.span.start + span.start, placed.span.end + span.start);
            (at, placed.kind)
        }));
    }
    let text = ie.text();
    let index = TextIndex::new(&text);
    ie.entities = entities(&index, found);
    let mut pairs: BTreeSet<(usize, usize, String)> = BTreeSet::new();
    for (span, piece) in pieces {
        for triple in piece.triples {
            match pair(&ie.entities, span, &triple) {
                Some((head, tail)) => {
                    let kind = options.relations.sources(&triple.relation, language)[0];
                    pairs.insert((head, tail, kind.to_owned()));
                }
                None => report.unplaced.push(triple),
            }
        }
    }
    ie.relations = pairs
        .into_iter()
        .enumerate()
        .map(|(at, (head, tail, kind))| Relation {
            id: format!("R{}", at + 1),
            kind,
            arg1_id: ie.entities[head].id.clone(),
            arg2_id: ie.entities[tail].id.clone(),
            level: RelationLevel::Mention,
            normalized: Vec::new(),
        })
        .collect();
    Extracted { document, report }
}

/// The two entities inside a piece that a triple means: of all mentions of its strings, those nearest to each other, of
/// several the first.
fn pair(entities: &[Entity], piece: CharSpan, triple: &Triple) -> Option<(usize, usize)> {
    let mentions = |string: &str| -> Vec<(usize, CharSpan)> {
        let inside = |span: &CharSpan| piece.start <= span.start && span.end <= piece.end;
        let places = entities
            .iter()
            .enumerate()
            .filter_map(|(at, entity)| Some((at, entity, *entity.offsets.first()?)));
        let here: Vec<_> = places.filter(|(.., span)| inside(span)).collect();
        let called = |same: &dyn Fn(&str) -> bool| -> Vec<(usize, CharSpan)> {
            let named = here.iter().filter(|(_, entity, _)| entity.text.iter().any(|text| same(text)));
            named.map(|(at, _, span)| (*at, *span)).collect()
        };
        let string = string.trim();
        let exact = called(&|text| text == string);
        if exact.is_empty() { called(&|text| text.eq_ignore_ascii_case(string)) } else { exact }
    };
    let (heads, tails) = (mentions(&triple.head), mentions(&triple.tail));
    let distance =
        |a: CharSpan, b: CharSpan| b.start.saturating_sub(a.end).max(a.start.saturating_sub(b.end));
    let pairs = heads.iter().flat_map(|head| tails.iter().map(move |tail| (head, tail)));
    pairs
        .filter(|(head, tail)| head.0 != tail.0)
        .min_by_key(|(head, tail)| (distance(head.1, tail.1), head.1, tail.1))
        .map(|(head, tail)| (head.0, tail.0))
}

/// Entities `T1`, `T2`, … of spans of a text and what they are called.
pub(super) fn entities(
    index: &TextIndex<'_>,
    found: impl IntoIterator<Item = (CharSpan, String)>,
) -> Vec<Entity> {
    let texts =
        found.into_iter().filter_map(|(span, kind)| Some((span, kind, index.slice(span)?.to_owned())));
    let entity = |(at, (span, kind, text)): (usize, (CharSpan, String, String))| Entity {
        id: format!("T{}", at + 1),
        kind,
        text: vec![text],
        offsets: vec![span],
        normalized: Vec::new(),
    };
    texts.enumerate().map(entity).collect()
}
