//! Leaks: documents that a corpus shares with a test set, by id, by exact text and by nearly the same text.
//!
//! A [`LeakIndex`] holds the documents that must not be trained on; it is asked about one text or document at a
//! time and answers the same whatever the order or the number of threads. Texts are compared as sequences of words
//! (Latin) and characters (Chinese), without case, punctuation, spacing or width, so that a tokenised and a plain
//! copy of one abstract are the same. Overlap is measured on shingles, runs of 5 words, or 8 Chinese characters, or
//! a mixture of that weight, through an inverted index: exact set sizes, where MinHash (Broder 1997, "On the
//! resemblance and containment of documents") would estimate them. Containment is what pre-training text needs: a
//! test abstract may stand inside a longer text, or a text be a piece of a test document.
//!
//! ```
//! use taiyi_corpus::leak::{How, LeakIndex};
//!
//! let mut index = LeakIndex::new();
//! index.add_text("test 7", "Aspirin reduced the risk of stroke in patients with atrial fibrillation.");
//! let copy = "BACKGROUND: aspirin reduced the risk of stroke , in patients with atrial fibrillation";
//! assert_eq!(index.find_text(copy).unwrap().how, How::Near);
//! assert!(index.find_text("Warfarin was better than aspirin in a trial of forty patients.").is_none());
//! ```

use rustc_hash::{FxHashMap, FxHashSet};
use serde::Serialize;
use unicode_normalization::UnicodeNormalization;
use xxhash_rust::xxh3::xxh3_64;

use crate::card::{Card, IdSpace};
use crate::error::Error;
use crate::readers::{Documents, read_from};
use crate::schema::{Content, Document};
use crate::source::{Input, Source};

/// The weight of a shingle: 5 words of weight 3, or 8 characters of weight 2.
const SHINGLE_WEIGHT: usize = 15;
const WORD_WEIGHT: usize = 3;
const CHARACTER_WEIGHT: usize = 2;

/// When two texts are too much alike.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LeakOptions {
    /// Shared shingles over all shingles (Jaccard) from which two texts are nearly the same.
    pub resemblance: f64,
    /// Shared shingles over the shingles of the shorter text from which it is contained in the other.
    pub containment: f64,
    /// Shared shingles that resemblance and containment need, so that a stock phrase is no leak.
    pub least_shared: usize,
}

impl Default for LeakOptions {
    /// 0.5, 0.7 and 4 shingles (8 words or 11 characters). One changed word breaks up to five shingles, so these
    /// find a copy with one word in twelve changed, or an abstract without its title and in other tokenisation.
    fn default() -> Self {
        Self { resemblance: 0.5, containment: 0.7, least_shared: 4 }
    }
}

/// How a text leaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// The same id, of the same kind.
    Id,
    /// The same words.
    Exact,
    /// One of the two stands, nearly whole, inside the other.
    Contained,
    /// Nearly the same words.
    Near,
}

/// A leak: what was found, and how much of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Leak {
    /// The name under which the forbidden document was added.
    pub against: String,
    /// How the two are alike.
    pub how: How,
    /// How much alike, 0 to 1: 1 for ids and exact texts, the measure itself for the others.
    pub score: f64,
    /// Shingles they share; 0 for ids.
    pub shared: usize,
}

/// The documents that must not be met.
#[derive(Clone, Debug, Default)]
pub struct LeakIndex {
    options: LeakOptions,
    names: Vec<String>,
    /// Shingles of each text.
    sizes: Vec<u32>,
    ids: FxHashMap<(IdSpace, String), u32>,
    exact: FxHashMap<u64, u32>,
    /// Texts that hold a shingle, in the order in which they were added.
    postings: FxHashMap<u64, Vec<u32>>,
}

impl LeakIndex {
    /// An empty index with the usual thresholds.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty index with thresholds of one's own.
    pub fn with_options(options: LeakOptions) -> Self {
        Self { options, ..Self::default() }
    }

    /// The number of names added.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    fn name(&mut self, name: &str) -> u32 {
        self.names.push(name.to_owned());
        self.sizes.push(0);
        (self.names.len() - 1) as u32
    }

    /// Forbids an id. Ids that mean something within one split only are not kept: they would match by accident.
    pub fn add_id(&mut self, name: &str, space: IdSpace, id: &str) {
        if space != IdSpace::Split {
            let at = self.name(name);
            self.ids.entry((space, id.trim().to_owned())).or_insert(at);
        }
    }

    /// Forbids a text.
    pub fn add_text(&mut self, name: &str, text: &str) {
        self.add_texts(name, &[text]);
    }

    /// Forbids a document of several parts; no shingle runs across two of them.
    pub fn add_texts(&mut self, name: &str, parts: &[&str]) {
        let prints = Prints::of(parts);
        if prints.words == 0 {
            return;
        }
        let at = self.name(name);
        self.sizes[at as usize] = prints.shingles.len() as u32;
        self.exact.entry(prints.whole).or_insert(at);
        for shingle in prints.shingles {
            self.postings.entry(shingle).or_default().push(at);
        }
    }

    /// Forbids a document: its id, where ids of `space` can be compared, and its text.
    pub fn add_document(&mut self, document: &Document, space: IdSpace) {
        let name = format!("{}:{}:{}", document.dataset, document.split, document.id);
        self.add_id(&name, space, &dataset_id(document, space));
        let parts = texts(document);
        self.add_texts(&name, &parts.iter().map(String::as_str).collect::<Vec<_>>());
    }

    /// Whether an id is forbidden.
    pub fn find_id(&self, space: IdSpace, id: &str) -> Option<Leak> {
        let at = *self.ids.get(&(space, id.trim().to_owned()))?;
        Some(Leak { against: self.names[at as usize].clone(), how: How::Id, score: 1.0, shared: 0 })
    }

    /// Whether a text is, nearly is, holds, or stands in a forbidden one; the closest of them, the first added where
    /// several are equally close.
    pub fn find_text(&self, text: &str) -> Option<Leak> {
        self.find_texts(&[text])
    }

    /// As [`Self::find_text`], for a document of several parts.
    pub fn find_texts(&self, parts: &[&str]) -> Option<Leak> {
        let prints = Prints::of(parts);
        if prints.words == 0 {
            return None;
        }
        if let Some(&at) = self.exact.get(&prints.whole) {
            let shared = prints.shingles.len();
            return Some(Leak {
                against: self.names[at as usize].clone(),
                how: How::Exact,
                score: 1.0,
                shared,
            });
        }
        let mut counts: FxHashMap<u32, u32> = FxHashMap::default();
        for shingle in &prints.shingles {
            for &at in self.postings.get(shingle).map(Vec::as_slice).unwrap_or_default() {
                *counts.entry(at).or_insert(0) += 1;
            }
        }
        let mut best: Option<(f64, u32, How, usize)> = None;
        for (at, shared) in counts {
            let (mine, theirs, shared) =
                (prints.shingles.len(), self.sizes[at as usize] as usize, shared as usize);
            if shared < self.options.least_shared {
                continue;
            }
            let resemblance = shared as f64 / (mine + theirs - shared) as f64;
            let containment = shared as f64 / mine.min(theirs) as f64;
            let (how, score) = if resemblance >= self.options.resemblance {
                (How::Near, resemblance)
            } else if containment >= self.options.containment {
                (How::Contained, containment)
            } else {
                continue;
            };
            let better = match best {
                None => true,
                // The map's order is no order: ties go to the text that was added first.
                Some((other, name, ..)) => score > other || (score == other && at < name),
            };
            if better {
                best = Some((score, at, how, shared));
            }
        }
        best.map(|(score, at, how, shared)| Leak {
            against: self.names[at as usize].clone(),
            how,
            score,
            shared,
        })
    }

    /// Forbids the documents of a split; returns how many. Records that cannot be read are left out: `taiyi corpus
    /// check` is what complains about them.
    ///
    /// # Errors
    /// Where the split cannot be opened or stops early.
    pub fn add_split<S: Source + ?Sized>(
        &mut self,
        card: &Card,
        variant: Option<&str>,
        split: &str,
        source: &S,
    ) -> Result<u64, Error> {
        let mut count = 0;
        for document in read_from(card, variant, split, source)? {
            match document {
                Ok(document) => {
                    self.add_document(&document, card.document_ids);
                    count += 1;
                }
                Err(error) if error.is_record() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(count)
    }

    /// Forbids the ids of a file, one per line; returns how many.
    ///
    /// # Errors
    /// Where the file cannot be read as text.
    pub fn add_ids(&mut self, input: Input, space: IdSpace) -> Result<u64, Error> {
        let name = input.name.clone();
        let mut count = 0;
        for line in input.lines() {
            let (_, line) = line?;
            let id = line.trim();
            if !id.is_empty() {
                self.add_id(&format!("{name}:{id}"), space, id);
                count += 1;
            }
        }
        Ok(count)
    }

    /// The documents of a split that leak, with how; the others and unreadable records are passed over.
    pub fn leaks(
        &self,
        documents: Documents,
        space: IdSpace,
    ) -> impl Iterator<Item = Result<(Document, Leak), Error>> {
        documents.filter_map(move |document| match document {
            Ok(document) => self.find_document(&document, space).map(|leak| Ok((document, leak))),
            Err(error) if error.is_record() => None,
            Err(error) => Some(Err(error)),
        })
    }

    /// Whether a document's id or text is forbidden.
    pub fn find_document(&self, document: &Document, space: IdSpace) -> Option<Leak> {
        self.find_id(space, &dataset_id(document, space)).or_else(|| {
            let parts = texts(document);
            self.find_texts(&parts.iter().map(String::as_str).collect::<Vec<_>>())
        })
    }
}

/// Ids of a dataset are compared within the dataset: they carry its name.
fn dataset_id(document: &Document, space: IdSpace) -> String {
    match space {
        IdSpace::Dataset => format!("{}:{}", document.dataset, document.document_id),
        _ => document.document_id.clone(),
    }
}

/// The texts of a document that must not be met again: what a reader is given, not the answer.
pub fn texts(document: &Document) -> Vec<String> {
    match &document.content {
        Content::Ie(ie) => ie.passages.iter().map(|passage| passage.text.clone()).collect(),
        Content::Tc(tc) => vec![tc.text.clone()],
        Content::Qa(qa) => std::iter::once(&qa.question).chain(&qa.contexts).cloned().collect(),
        Content::Mrd(mrd) => {
            mrd.context.iter().cloned().chain(mrd.utterances.iter().map(|said| said.text.clone())).collect()
        }
        Content::Mt(mt) => vec![mt.source.clone(), mt.target.clone()],
        Content::Tp(tp) => vec![tp.text_1.clone(), tp.text_2.clone()],
        Content::Tt(tt) => vec![tt.source.clone(), tt.target.clone()],
    }
}

/// A text's words for comparison: lower case, no punctuation; each Chinese character is a word of its own.
///
/// Full-width forms and ligatures are folded. Other letters beyond ASCII end a word, as punctuation does: Greek and
/// accented letters are what copies differ in (`NF-κB`, `NF-kB`, and `NF-ÎºB` where an encoding was mistaken).
pub fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let folded =
        |c: char| matches!(c, '\u{f900}'..='\u{faff}' | '\u{fb00}'..='\u{fb06}' | '\u{ff00}'..='\u{ffef}');
    let fold = |c: char| (folded(c).then(|| c.nfkc()), (!folded(c)).then_some(c));
    for c in text.chars().map(fold).flat_map(|(folded, own)| folded.into_iter().flatten().chain(own)) {
        if c.is_ascii_alphanumeric() {
            word.push(c.to_ascii_lowercase());
            continue;
        }
        if !word.is_empty() {
            words.push(std::mem::take(&mut word));
        }
        if is_chinese(c) {
            words.push(c.to_string());
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// A 64-bit hash of a text's words: equal texts in the sense of this module have equal fingerprints.
pub fn fingerprint(parts: &[&str]) -> u64 {
    Prints::of(parts).whole
}

fn is_chinese(c: char) -> bool {
    matches!(c, '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3134f}')
}

struct Prints {
    /// Hash of all words.
    whole: u64,
    /// Hashes of the distinct shingles.
    shingles: FxHashSet<u64>,
    words: usize,
}

impl Prints {
    fn of(parts: &[&str]) -> Self {
        let mut all = Vec::new();
        let mut shingles = FxHashSet::default();
        let mut count = 0;
        let mut buffer = Vec::new();
        for part in parts {
            let words = words(part);
            count += words.len();
            for start in 0..words.len() {
                buffer.clear();
                let mut weight = 0;
                for word in &words[start..] {
                    weight += if word.chars().all(is_chinese) { CHARACTER_WEIGHT } else { WORD_WEIGHT };
                    buffer.extend_from_slice(word.as_bytes());
                    buffer.push(0);
                    if weight >= SHINGLE_WEIGHT {
                        shingles.insert(xxh3_64(&buffer));
                        break;
                    }
                }
            }
            for word in words {
                all.extend_from_slice(word.as_bytes());
                all.push(0);
            }
        }
        Self { whole: xxh3_64(&all), shingles, words: count }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABSTRACT: &str = "Famotidine is a histamine H2-receptor antagonist used in inpatient settings for prevention \
        of stress ulcers. The authors report six made-up cases of delirium in hospitalised patients who cleared \
        completely upon removal of the drug.";
    const CHINESE: &str = "患者三天前无明显诱因出现头痛，伴恶心呕吐，自服布洛芬后稍缓解，今来我院就诊。";

    fn index() -> LeakIndex {
        let mut index = LeakIndex::new();
        index.add_text("en", ABSTRACT);
        index.add_text("zh", CHINESE);
        index
    }

    #[test]
    fn spelling_and_spacing_do_not_hide_a_copy() {
        let tokenised = ABSTRACT.replace('-', " - ").replace('.', " .").to_uppercase();
        assert_eq!(index().find_text(&tokenised).unwrap().how, How::Exact);
        let wide: String = CHINESE.replace('，', ",").replace('。', "");
        assert_eq!(index().find_text(&wide).unwrap().how, How::Exact);
    }

    #[test]
    fn changed_words_make_it_near() {
        let changed = ABSTRACT.replace("six", "seven").replace("completely", "fully");
        let leak = index().find_text(&changed).unwrap();
        assert_eq!((leak.how, leak.against.as_str()), (How::Near, "en"));
        assert!(leak.score > 0.5 && leak.score < 1.0, "{}", leak.score);
        let changed = CHINESE.replace("三天", "五天");
        assert_eq!(index().find_text(&changed).unwrap().how, How::Near);
    }

    #[test]
    fn containment_goes_both_ways() {
        let other: String = (0..99).map(|number| format!("Sentence {number} says another thing. ")).collect();
        let longer = format!("{other} {ABSTRACT} {other}");
        assert_eq!(index().find_text(&longer).unwrap().how, How::Contained);
        let piece = "used in inpatient settings for prevention of stress ulcers.";
        assert_eq!(index().find_text(piece).unwrap().how, How::Contained);
        let other: String = (0..99).map(|number| format!("第{number}段说的是别的事情。")).collect();
        let longer = format!("{other}{CHINESE}{other}");
        assert_eq!(index().find_text(&longer).unwrap().how, How::Contained);
    }

    #[test]
    fn stock_phrases_and_other_texts_pass() {
        let index = index();
        for text in ["", "stress ulcers", "the authors report six", "患者三天前头痛", "今来我院就诊"]
        {
            assert_eq!(index.find_text(text), None, "{text}");
        }
        let other = "Ranitidine is another antagonist of the same receptor. It was given to patients in hospital \
            settings, and no case of delirium was seen in two hundred made-up cases.";
        assert_eq!(index.find_text(other), None);
    }

    #[test]
    fn letters_that_copies_spell_differently_do_not_hide_them() {
        assert_eq!(words("NF-κB ﬁbre"), words("nf-ÎºB　ＦＩＢＲＥ"));
        assert_eq!(words("血压Ａ1"), ["血", "压", "a1"]);
    }

    #[test]
    fn ids_of_different_kinds_do_not_meet() {
        let mut index = LeakIndex::new();
        index.add_id("bc5cdr:test", IdSpace::Pmid, "8701013");
        index.add_id("kuake_qic:dev", IdSpace::Split, "s1");
        assert_eq!(index.find_id(IdSpace::Pmid, "8701013").unwrap().how, How::Id);
        assert_eq!(index.find_id(IdSpace::Pmcid, "8701013"), None);
        assert_eq!(index.find_id(IdSpace::Split, "s1"), None);
    }
}
