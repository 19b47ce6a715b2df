//! BioC XML: a collection of documents, passages (and sentences), annotations with locations, relations.
//!
//! ```text
//! <collection><document><id>1234567</id>
//!   <passage><infon key="type">title</infon><offset>0</offset><text>Made-up title on aspirin.</text>
//!     <annotation id="0"><infon key="type">Chemical</infon><infon key="MESH">D001241</infon>
//!       <location offset="17" length="7"/><text>aspirin</text></annotation></passage>
//!   <relation id="R0"><infon key="relation">CID</infon><infon key="Chemical">D001241</infon>
//!     <infon key="Disease">D006261</infon></relation>
//! </document></collection>
//! ```
//!
//! An annotation with several locations is discontinuous: each span gets the text at its place, since the source
//! gives one text for all. Offsets are moved where the source leaves more or less than one character between
//! passages. Relations name annotations by `node`s, or concepts by infons; the card says which.
//! Specification: <https://bioc.sourceforge.net/>, BioC.dtd.

use std::io::BufRead;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use quick_xml::events::{BytesStart, Event};
use serde::Deserialize;

use super::{Reading, draft, pubtator};
use crate::error::{At, Error, quote};
use crate::offsets::{CharSpan, TextIndex};
use crate::schema::{Content, Document, Entity, Ie, Passage, Relation, RelationLevel};
use crate::source::{Encoding, Input};

/// Options of the format.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// The infon that holds an annotation's concept ids; it names the terminology, too.
    #[serde(default)]
    pub concepts: Option<String>,
    /// The infon that holds a relation's type.
    #[serde(default = "relation_type")]
    pub relation_type: String,
    /// The infons that hold the head and the tail of a relation between concepts; without them, relations name
    /// annotations.
    #[serde(default)]
    pub relation_concepts: Option<(String, String)>,
    /// The roles of the nodes that are the head and the tail of a relation between annotations.
    #[serde(default = "roles")]
    pub relation_roles: (String, String),
}

fn relation_type() -> String {
    "type".to_owned()
}

fn roles() -> (String, String) {
    ("head".to_owned(), "tail".to_owned())
}

impl Default for Options {
    fn default() -> Self {
        Self {
            concepts: None,
            relation_type: relation_type(),
            relation_concepts: None,
            relation_roles: roles(),
        }
    }
}

/// Reads a BioC collection into documents, one at a time.
pub fn read(input: Input, options: &Options) -> Reading {
    let line = Arc::new(AtomicUsize::new(1));
    let bytes: Box<dyn BufRead + Send> = match input.encoding {
        Encoding::Utf8 => input.bytes,
        // The XML reader takes UTF-8 alone; no BioC corpus is in anything else, so this path may hold the file whole.
        Encoding::Gb18030 => {
            let name = input.name.clone();
            match input.text() {
                Ok(text) => return read(Input::from_bytes(&name, text), options),
                Err(error) => return Box::new(std::iter::once(Err(error))),
            }
        }
    };
    let xml = quick_xml::Reader::from_reader(CountLines { inner: bytes, line: line.clone() });
    Box::new(Reader { xml, file: input.name, line, options: options.clone(), done: false })
}

/// Counts the lines that have been consumed, so that errors can say where.
struct CountLines {
    inner: Box<dyn BufRead + Send>,
    line: Arc<AtomicUsize>,
}

impl std::io::Read for CountLines {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.count(&buffer[..length]);
        Ok(length)
    }
}

impl CountLines {
    fn count(&self, bytes: &[u8]) {
        self.line.fetch_add(bytes.iter().filter(|&&byte| byte == b'\n').count(), Ordering::Relaxed);
    }
}

impl BufRead for CountLines {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        // What is consumed has been filled, so this neither reads nor fails.
        if let Ok(bytes) = self.inner.fill_buf() {
            let newlines = bytes.iter().take(amount).filter(|&&byte| byte == b'\n').count();
            self.line.fetch_add(newlines, Ordering::Relaxed);
        }
        self.inner.consume(amount);
    }
}

/// An element with its attributes, text and children; BioC has no mixed content.
#[derive(Default)]
struct Element {
    name: String,
    line: usize,
    attributes: Vec<(String, String)>,
    text: String,
    children: Vec<Element>,
}

impl Element {
    fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Element> {
        self.children.iter().filter(move |child| child.name == name)
    }

    fn child(&self, name: &str) -> Option<&Element> {
        self.children.iter().find(|child| child.name == name)
    }

    fn infon(&self, key: &str) -> Option<&str> {
        self.all("infon").find(|infon| infon.attribute("key") == Some(key)).map(|infon| infon.text.as_str())
    }
}

struct Reader {
    xml: quick_xml::Reader<CountLines>,
    file: String,
    line: Arc<AtomicUsize>,
    options: Options,
    done: bool,
}

/// Elements nest this deep at most in BioC (document, passage, sentence, annotation, infon); deeper is not BioC.
const DEEPEST: usize = 32;

impl Reader {
    fn at(&self) -> At {
        At::new(&self.file, self.line.load(Ordering::Relaxed))
    }

    /// The next `document` element, whole; `None` at the end.
    fn element(&mut self) -> Result<Option<Element>, Error> {
        let mut buffer = Vec::new();
        let mut open: Vec<Element> = Vec::new();
        let mut depth = 0_usize;
        loop {
            buffer.clear();
            let event = self.xml.read_event_into(&mut buffer).map_err(|error| match error {
                quick_xml::Error::Io(source) => Error::Read {
                    file: self.file.clone(),
                    line: self.line.load(Ordering::Relaxed),
                    source: std::io::Error::new(source.kind(), source.to_string()),
                },
                error => At::new(&self.file, self.line.load(Ordering::Relaxed)).format(
                    "well-formed XML in UTF-8",
                    error.to_string(),
                    "fetch the file again, or repair it",
                ),
            })?;
            match event {
                Event::Start(start) => {
                    depth += 1;
                    if !open.is_empty() || start.name().0 == "document" {
                        open.push(begin(&start, &self.at())?);
                    }
                    if depth > DEEPEST {
                        return Err(self.at().format(
                            "a BioC collection",
                            "deeper nesting",
                            "check the format",
                        ));
                    }
                }
                Event::Empty(start) => {
                    if let Some(parent) = open.last_mut() {
                        parent.children.push(begin(&start, &At::new(&self.file, parent.line))?);
                    }
                }
                Event::End(_) => {
                    depth = depth.saturating_sub(1);
                    let Some(element) = open.pop() else { continue };
                    match open.last_mut() {
                        Some(parent) => parent.children.push(element),
                        None => return Ok(Some(element)),
                    }
                }
                Event::Text(text) => {
                    if let Some(element) = open.last_mut() {
                        element.text.push_str(&text.xml10_content());
                    }
                }
                Event::CData(text) => {
                    if let Some(element) = open.last_mut() {
                        element.text.push_str(&text.xml10_content());
                    }
                }
                Event::GeneralRef(reference) => {
                    let found = match reference.resolve_char_ref() {
                        Ok(Some(char)) => Some(char.to_string()),
                        Ok(None) => quick_xml::escape::resolve_predefined_entity(&reference.xml10_content())
                            .map(str::to_owned),
                        Err(_) => None,
                    };
                    match (found, open.last_mut()) {
                        (Some(found), Some(element)) => element.text.push_str(&found),
                        (Some(_), None) => {}
                        (None, _) => {
                            let found = format!("`&{};`", &*reference.xml10_content());
                            let hint = "write the character itself";
                            return Err(self.at().format("a predefined XML entity", found, hint));
                        }
                    }
                }
                Event::Eof => {
                    return if open.is_empty() && depth == 0 {
                        Ok(None)
                    } else {
                        let hint = "the file is truncated: fetch it again";
                        Err(self.at().format("the end of the collection", "the end of the file", hint))
                    };
                }
                Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::DocType(_) => {}
            }
        }
    }
}

fn begin(start: &BytesStart, at: &At) -> Result<Element, Error> {
    let mut element = Element { name: start.name().0.to_string(), line: at.line, ..Element::default() };
    for attribute in start.attributes() {
        let fail = |error: String| at.format("XML attributes", error, "repair the file");
        let attribute = attribute.map_err(|error| fail(error.to_string()))?;
        let value = attribute
            .normalized_value(quick_xml::XmlVersion::Implicit1_0)
            .map_err(|error| fail(error.to_string()))?;
        element.attributes.push((attribute.key.0.to_string(), value.into_owned()));
    }
    Ok(element)
}

impl Iterator for Reader {
    type Item = Result<Document, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        match self.element() {
            Ok(Some(element)) => Some(document(&element, &self.file, &self.options)),
            Ok(None) => {
                self.done = true;
                None
            }
            Err(error) => {
                self.done = true;
                Some(Err(error))
            }
        }
    }
}

/// A passage's place in the source and in the joined text, both in code points.
struct Place {
    source: usize,
    joined: CharSpan,
}

fn document(element: &Element, file: &str, options: &Options) -> Result<Document, Error> {
    let at = |element: &Element| At::new(file, element.line);
    let id = element.child("id").map(|id| id.text.trim().to_owned()).unwrap_or_default();
    let mut ie = Ie::default();
    let mut places: Vec<Place> = Vec::new();
    let mut next = 0;
    for passage in element.all("passage") {
        let source = offset(passage).ok_or_else(|| {
            at(passage).record("an `offset` in every passage", "none", "repair or remove the document")
        })?;
        let text = passage_text(passage, source);
        let joined = CharSpan::new(next, next + text.chars().count());
        next = joined.end + 1;
        let kind = passage.infon("type").unwrap_or("passage").to_owned();
        ie.passages.push(Passage { id: format!("P{}", ie.passages.len() + 1), kind, text, offsets: joined });
        places.push(Place { source, joined });
    }
    let text = ie.text();
    let index = TextIndex::new(&text);
    let mut holders: Vec<(&Element, Option<usize>)> = vec![(element, None)];
    for (number, passage) in element.all("passage").enumerate() {
        holders.push((passage, Some(number)));
        holders.extend(passage.all("sentence").map(|sentence| (sentence, Some(number))));
    }
    for (holder, passage) in &holders {
        for annotation in holder.all("annotation") {
            let entity = entity(annotation, *passage, &places, &index, options, &at(annotation))?;
            ie.entities.push(entity);
        }
    }
    for (holder, _) in &holders {
        for element in holder.all("relation") {
            let number = ie.relations.len() + 1;
            ie.relations.push(relation(element, number, options, &at(element))?);
        }
    }
    Ok(draft(id, Content::Ie(ie)))
}

fn offset(element: &Element) -> Option<usize> {
    element.child("offset")?.text.trim().parse().ok()
}

/// A passage's own text, or its sentences set at their offsets.
fn passage_text(passage: &Element, source: usize) -> String {
    if let Some(text) = passage.child("text") {
        return text.text.clone();
    }
    let mut text = String::new();
    let mut length = 0;
    for sentence in passage.all("sentence") {
        let start = offset(sentence).unwrap_or(source + length).saturating_sub(source);
        // A gap far beyond any line break is a wrong offset, which the annotations' check will show.
        let gap = start.saturating_sub(length).min(1000);
        text.extend(std::iter::repeat_n(' ', gap));
        length += gap;
        if let Some(own) = sentence.child("text") {
            text.push_str(&own.text);
            length += own.text.chars().count();
        }
    }
    text
}

fn entity(
    annotation: &Element,
    passage: Option<usize>,
    places: &[Place],
    index: &TextIndex,
    options: &Options,
    at: &At,
) -> Result<Entity, Error> {
    let mut offsets = Vec::new();
    for location in annotation.all("location") {
        let number = |name: &str| location.attribute(name).and_then(|value| value.parse::<usize>().ok());
        let (start, length) = number("offset").zip(number("length")).ok_or_else(|| {
            at.record(
                "`offset` and `length` in every location",
                "something else",
                "repair or remove the annotation",
            )
        })?;
        let holds = |place: &&Place| (place.source..=place.source + place.joined.len()).contains(&start);
        let place = match passage {
            Some(number) => places.get(number),
            None => places.iter().find(holds),
        };
        let span = place
            .and_then(|place| Some(place.joined.start + start.checked_sub(place.source)?))
            .map(|start| CharSpan::new(start, start.saturating_add(length)))
            .filter(|span| index.slice(*span).is_some())
            .ok_or_else(|| {
                at.record(
                    format!("locations within the {} characters of the document", index.chars()),
                    format!("offset {start}, length {length}"),
                    "repair or remove the annotation",
                )
            })?;
        offsets.push(span);
    }
    let kind = annotation.infon("type").ok_or_else(|| {
        at.record("an infon `type` in every annotation", "none", "repair or remove the annotation")
    })?;
    let surface = annotation.child("text").map(|text| text.text.clone()).unwrap_or_default();
    let text = match offsets[..] {
        [] => {
            return Err(at.record(
                "a location in every annotation",
                quote(&surface),
                "remove the annotation",
            ));
        }
        [_] => vec![surface],
        _ => offsets.iter().map(|span| index.slice(*span).unwrap_or_default().to_owned()).collect(),
    };
    let normalized = options.concepts.as_ref().and_then(|key| annotation.infon(key)).map(|ids| {
        let options =
            pubtator::Options { terminology: options.concepts.clone(), ..pubtator::Options::default() };
        pubtator::concepts(ids, &options)
    });
    Ok(Entity {
        id: annotation.attribute("id").unwrap_or_default().to_owned(),
        kind: kind.to_owned(),
        text,
        offsets,
        normalized: normalized.unwrap_or_default(),
    })
}

fn relation(element: &Element, number: usize, options: &Options, at: &At) -> Result<Relation, Error> {
    let missing = |what: String| at.record(what, "none", "check the format options of the card");
    let infon = |key: &str| {
        element
            .infon(key)
            .map(str::to_owned)
            .ok_or_else(|| missing(format!("an infon `{key}` in every relation")))
    };
    let kind = infon(&options.relation_type)?;
    let (arg1_id, arg2_id, level) = match &options.relation_concepts {
        Some((head, tail)) => (infon(head)?, infon(tail)?, RelationLevel::Concept),
        None => {
            let node = |role: &str| {
                let node = element.all("node").find(|node| node.attribute("role") == Some(role));
                node.and_then(|node| node.attribute("refid"))
                    .map(str::to_owned)
                    .ok_or_else(|| missing(format!("a node with the role `{role}` in every relation")))
            };
            (node(&options.relation_roles.0)?, node(&options.relation_roles.1)?, RelationLevel::Mention)
        }
    };
    let id = match element.attribute("id") {
        None | Some("") => format!("R{number}"),
        Some(id) => id.to_owned(),
    };
    Ok(Relation { id, kind, arg1_id, arg2_id, level, normalized: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Vec<Result<Document, Error>> {
        read(Input::from_bytes("made-up.xml", text), &Options::default()).collect()
    }

    #[test]
    fn passages_are_moved_to_where_one_space_joins_them() {
        let text = "<collection><document><id>1</id>\
            <passage><offset>0</offset><text>α &amp; &#946;</text></passage>\
            <passage><offset>10</offset><text>γ cell</text><annotation id='a'><infon key='type'>X</infon>\
            <location offset='12' length='4'/><text>cell</text></annotation></passage>\
            </document></collection>";
        let documents = all(text);
        let Content::Ie(ie) = &documents[0].as_ref().unwrap().content else { panic!() };
        assert_eq!(ie.text(), "α & β γ cell");
        assert_eq!(TextIndex::new(&ie.text()).slice(ie.entities[0].offsets[0]), Some("cell"));
    }

    #[test]
    fn a_truncated_file_says_so_after_what_was_whole() {
        let text = "<collection>\n<document><id>1</id></document>\n<document><id>2</id>\n";
        let documents = all(text);
        assert!(documents[0].is_ok());
        let message = documents[1].as_ref().unwrap_err().to_string();
        assert!(message.starts_with("made-up.xml:4: expected"), "{message}");
        assert_eq!(documents.len(), 2);
    }

    #[test]
    fn a_location_past_the_end_names_its_line() {
        let text = "<collection><document><id>1</id><passage><offset>0</offset><text>ab</text>\n\
            <annotation id='a'><infon key='type'>X</infon><location offset='1' length='9'/><text>b</text>\
            </annotation></passage></document><document><id>2</id></document></collection>";
        let documents = all(text);
        let message = documents[0].as_ref().unwrap_err().to_string();
        assert!(
            message.starts_with("made-up.xml:2: expected locations within the 2 characters"),
            "{message}"
        );
        assert!(documents[1].is_ok());
    }
}
