//! Training a byte-level BPE vocabulary.
//!
//! Text is normalised and cut exactly as the finished tokenizer will do it, distinct pieces are counted, and the most frequent
//! neighbours are merged until the vocabulary is full. Nothing depends on the order of a hash table or on threads: the same
//! input gives the same file, byte for byte.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use rustc_hash::FxHashMap;

use super::byte_level::char_of_byte;
use super::normal::nfc;
use super::split::{QWEN_PATTERN, Splitter};
use super::vocabulary::LARGEST_ID;
use super::write::TrainedTokenizer;
use super::{TokenizerError, error::excerpt};

/// What to train.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainerOptions {
    /// Ids of the finished tokenizer: 256 bytes, merges and special tokens together.
    pub vocab_size: usize,
    /// Special tokens, which get the last ids in this order.
    pub special_tokens: Vec<String>,
    /// Longest token, in characters. Longer merges (rows of dashes, boilerplate sentences) are not made.
    pub longest_token_chars: usize,
    /// Longer pieces are cut to this many characters while counting. Chinese text has no spaces, so that a piece may be a
    /// whole sentence; cutting keeps the table of distinct pieces small and loses only the pairs at the cuts.
    pub longest_piece_chars: usize,
    /// Most distinct pieces kept in memory (about 100 bytes each); beyond it the rarer half is forgotten.
    pub most_pieces: usize,
    /// The Jinja chat template written into `tokenizer_config.json`.
    pub chat_template: Option<String>,
}

impl Default for TrainerOptions {
    fn default() -> Self {
        let named = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"].map(str::to_owned);
        Self {
            vocab_size: 16_384,
            special_tokens: named.into_iter().chain((0..13).map(|i| format!("<|extra_{i}|>"))).collect(),
            longest_token_chars: 24,
            longest_piece_chars: 24,
            most_pieces: 4_000_000,
            chat_template: None,
        }
    }
}

/// A text file to train on.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainingInput {
    /// The file, UTF-8.
    pub path: PathBuf,
    /// How often each occurrence counts, above 0 and at most 1000: the balance between languages.
    pub weight: f64,
}

/// How far training has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrainingProgress {
    /// Text is being read.
    Counting {
        /// Bytes read so far.
        bytes: u64,
        /// Bytes of all inputs.
        of: u64,
    },
    /// Merges are being chosen.
    Merging {
        /// Tokens made so far.
        tokens: usize,
        /// Tokens wanted.
        of: usize,
    },
}

/// Counts are fixed-point numbers with this many parts per occurrence, so that weights keep sums exact.
const PARTS: f64 = 256.0;

/// A pair seen fewer than twice (by weight) is not worth a token.
const LEAST_COUNT: u64 = 2 * 256;

/// Trains a tokenizer on files.
///
/// # Errors
///
/// Files that cannot be read or are not UTF-8; options of which nothing can be trained.
pub fn train_bpe(
    inputs: &[TrainingInput],
    options: TrainerOptions,
    progress: &mut dyn FnMut(TrainingProgress),
) -> Result<TrainedTokenizer, TokenizerError> {
    let mut trainer = Trainer::new(options)?;
    let mut sizes = Vec::with_capacity(inputs.len());
    for TrainingInput { path, .. } in inputs {
        sizes.push(std::fs::metadata(path).map_err(|e| TokenizerError::io(path, e))?.len());
    }
    let of = sizes.iter().sum();
    let mut before = 0;
    for (TrainingInput { path, weight }, size) in inputs.iter().zip(sizes) {
        for_each_block(path, &mut |text, bytes| {
            trainer.add(text, *weight)?;
            progress(TrainingProgress::Counting { bytes: before + bytes, of });
            Ok(())
        })?;
        before += size;
    }
    trainer.finish(progress)
}

/// Calls back with a file's text in blocks of about a megabyte, cut at line ends, and the bytes read so far.
fn for_each_block(
    path: &Path,
    block: &mut dyn FnMut(&str, u64) -> Result<(), TokenizerError>,
) -> Result<(), TokenizerError> {
    const BLOCK: u64 = 1 << 20;
    let mut file = File::open(path).map_err(|e| TokenizerError::io(path, e))?;
    let mut held = Vec::new();
    let mut done = 0u64;
    loop {
        let read = (&mut file).take(BLOCK).read_to_end(&mut held).map_err(|e| TokenizerError::io(path, e))?;
        let end = match held.iter().rposition(|&b| b == b'\n') {
            _ if read == 0 => held.len(),
            Some(line_end) => line_end + 1,
            // No line end in a megabyte: cut at the last character that is complete.
            None => match std::str::from_utf8(&held) {
                Err(error) if error.error_len().is_none() => error.valid_up_to(),
                _ => held.len(),
            },
        };
        let text = std::str::from_utf8(&held[..end]).map_err(|error| {
            let at = error.valid_up_to();
            TokenizerError::malformed(
                path,
                format!("byte {}", done + at as u64),
                "UTF-8 text (convert GB18030 and other encodings first)",
                format!("byte 0x{:02X}", held[at]),
            )
        })?;
        done += end as u64;
        block(text, done)?;
        held.drain(..end);
        if read == 0 {
            return Ok(());
        }
    }
}

/// Counts the pieces of text given to it, then merges.
#[derive(Debug)]
pub struct Trainer {
    options: TrainerOptions,
    splitter: Splitter,
    counts: FxHashMap<Box<[u8]>, u64>,
}

impl Trainer {
    /// Starts with empty counts.
    ///
    /// # Errors
    ///
    /// A vocabulary too small for the bytes and special tokens, or a special token that is empty or occurs twice.
    pub fn new(options: TrainerOptions) -> Result<Self, TokenizerError> {
        let least = 256 + options.special_tokens.len();
        let refuse = |reason: String| Err(TokenizerError::Training { reason });
        if options.vocab_size < least || options.vocab_size > LARGEST_ID as usize {
            return refuse(format!(
                "vocab_size is {}, expected {least} (256 bytes and {} special tokens) to {LARGEST_ID}",
                options.vocab_size,
                options.special_tokens.len()
            ));
        }
        for (i, token) in options.special_tokens.iter().enumerate() {
            if token.is_empty() || options.special_tokens[..i].contains(token) {
                return refuse(format!("special token {i} (`{}`) is empty or occurs twice", excerpt(token)));
            }
        }
        if options.longest_token_chars < 2 || options.longest_piece_chars < 2 || options.most_pieces == 0 {
            return refuse(
                "longest_token_chars and longest_piece_chars must be at least 2, most_pieces 1".into(),
            );
        }
        let splitter = Splitter::new(QWEN_PATTERN).expect("a known pattern");
        Ok(Self { options, splitter, counts: FxHashMap::default() })
    }

    /// Counts the pieces of a text, each occurrence `weight` times.
    ///
    /// # Errors
    ///
    /// A weight that is not above 0 and at most 1000.
    pub fn add(&mut self, text: &str, weight: f64) -> Result<(), TokenizerError> {
        if !(weight > 0.0 && weight <= 1000.0) {
            let reason = format!("weight is {weight}, expected above 0 and at most 1000");
            return Err(TokenizerError::Training { reason });
        }
        let parts = ((weight * PARTS).round() as u64).max(1);
        let longest = self.options.longest_piece_chars;
        let counts = &mut self.counts;
        let mut count = |piece: &str| match counts.get_mut(piece.as_bytes()) {
            Some(count) => *count += parts,
            None => {
                counts.insert(piece.as_bytes().into(), parts);
            }
        };
        self.splitter.split(&nfc(text), |mut piece| {
            // A character has at most four bytes: shorter pieces need no counting of characters.
            while piece.len() > longest
                && let Some((cut, _)) = piece.char_indices().nth(longest)
            {
                count(&piece[..cut]);
                piece = &piece[cut..];
            }
            count(piece);
        });
        if self.counts.len() > self.options.most_pieces {
            self.forget_rare();
        }
        Ok(())
    }

    /// Drops every piece that is no more frequent than the median one.
    fn forget_rare(&mut self) {
        let mut counts: Vec<u64> = self.counts.values().copied().collect();
        let middle = counts.len() / 2;
        let (_, &mut median, _) = counts.select_nth_unstable(middle);
        self.counts.retain(|_, count| *count > median);
        tracing::debug!(kept = self.counts.len(), "forgot rare pieces");
    }

    /// Chooses the merges.
    ///
    /// A text too small for the vocabulary gives a smaller one; [`TrainedTokenizer::vocab_size`] tells.
    ///
    /// # Errors
    ///
    /// No text was added.
    pub fn finish(
        self,
        progress: &mut dyn FnMut(TrainingProgress),
    ) -> Result<TrainedTokenizer, TokenizerError> {
        if self.counts.is_empty() {
            return Err(TokenizerError::Training { reason: "there is no text to train on".into() });
        }
        let wanted = self.options.vocab_size - self.options.special_tokens.len();
        let mut merger = Merger::new(self.counts, self.options.longest_token_chars);
        let mut merges = Vec::new();
        progress(TrainingProgress::Merging { tokens: merger.tokens.len(), of: wanted });
        while merger.tokens.len() < wanted {
            let Some(pair) = merger.next_pair() else { break };
            merges.push(pair);
            merger.merge(pair);
            if merges.len() % 256 == 0 {
                progress(TrainingProgress::Merging { tokens: merger.tokens.len(), of: wanted });
            }
        }
        progress(TrainingProgress::Merging { tokens: merger.tokens.len(), of: wanted });
        TrainedTokenizer::new(merger.tokens, merges, self.options.special_tokens, self.options.chat_template)
    }
}

/// The pieces as symbols, and the counts of neighbours in them.
struct Merger {
    /// The bytes of every token made so far; the first 256 are single bytes in the order of their printable stand-ins.
    tokens: Vec<Vec<u8>>,
    by_bytes: FxHashMap<Vec<u8>, u32>,
    longest_token_chars: usize,
    /// The symbols of all pieces, one piece after the other; a piece shrinks in place.
    symbols: Vec<u32>,
    pieces: Vec<Piece>,
    pairs: FxHashMap<(u32, u32), Pair>,
    /// Pairs by count, the smaller pair first on ties; entries are stale when the pair's count has changed since.
    queue: BinaryHeap<(u64, Reverse<(u32, u32)>)>,
}

struct Piece {
    start: usize,
    len: usize,
    count: u64,
}

#[derive(Default)]
struct Pair {
    count: u64,
    /// Pieces that held the pair at some time, ascending runs, possibly repeated.
    pieces: Vec<u32>,
}

impl Merger {
    fn new(counts: FxHashMap<Box<[u8]>, u64>, longest_token_chars: usize) -> Self {
        let mut bytes: Vec<u8> = (0..=255).collect();
        bytes.sort_by_key(|&b| char_of_byte(b));
        let tokens: Vec<Vec<u8>> = bytes.iter().map(|&b| vec![b]).collect();
        let mut id_of_byte = [0u32; 256];
        for (id, &byte) in bytes.iter().enumerate() {
            id_of_byte[usize::from(byte)] = id as u32;
        }
        // The order of pieces changes no count and no choice; sorting makes the walk over memory the same each time too.
        let mut counts: Vec<(Box<[u8]>, u64)> = counts.into_iter().collect();
        counts.sort_unstable();
        let mut merger = Self {
            by_bytes: tokens.iter().zip(0..).map(|(token, id)| (token.clone(), id)).collect(),
            tokens,
            longest_token_chars,
            symbols: Vec::with_capacity(counts.iter().map(|(piece, _)| piece.len()).sum()),
            pieces: Vec::with_capacity(counts.len()),
            pairs: FxHashMap::default(),
            queue: BinaryHeap::new(),
        };
        for (piece, count) in counts {
            if piece.len() < 2 {
                continue;
            }
            let start = merger.symbols.len();
            merger.symbols.extend(piece.iter().map(|&b| id_of_byte[usize::from(b)]));
            let index = merger.pieces.len() as u32;
            merger.pieces.push(Piece { start, len: piece.len(), count });
            for pair in merger.symbols[start..].windows(2) {
                let pair = merger.pairs.entry((pair[0], pair[1])).or_default();
                pair.count += count;
                if pair.pieces.last() != Some(&index) {
                    pair.pieces.push(index);
                }
            }
        }
        merger.queue = merger.pairs.iter().map(|(&pair, held)| (held.count, Reverse(pair))).collect();
        merger
    }

    /// The most frequent pair that may be merged.
    fn next_pair(&mut self) -> Option<(u32, u32)> {
        while let Some((count, Reverse(pair))) = self.queue.pop() {
            if count < LEAST_COUNT {
                return None;
            }
            let now = self.pairs.get(&pair).map_or(0, |held| held.count);
            if now != count {
                // Growing counts were pushed when they grew; a shrunken one comes back at its place.
                if now > 0 && now < count {
                    self.queue.push((now, Reverse(pair)));
                }
                continue;
            }
            let chars =
                |token: u32| self.tokens[token as usize].iter().filter(|&&b| b & 0xC0 != 0x80).count();
            if chars(pair.0) + chars(pair.1) > self.longest_token_chars {
                self.pairs.remove(&pair);
                continue;
            }
            return Some(pair);
        }
        None
    }

    /// Merges a pair wherever it stands and updates the counts around it.
    fn merge(&mut self, (left, right): (u32, u32)) {
        let Some(Pair { mut pieces, .. }) = self.pairs.remove(&(left, right)) else { return };
        pieces.sort_unstable();
        pieces.dedup();
        let mut bytes = self.tokens[left as usize].clone();
        bytes.extend_from_slice(&self.tokens[right as usize]);
        let fresh = self.tokens.len() as u32;
        let merged = *self.by_bytes.entry(bytes.clone()).or_insert(fresh);
        if merged == fresh {
            self.tokens.push(bytes);
        }
        let mut changes: FxHashMap<(u32, u32), i64> = FxHashMap::default();
        for index in pieces {
            let Piece { start, len, count } = self.pieces[index as usize];
            let count = count as i64;
            let symbols = &mut self.symbols[start..start + len];
            let (mut read, mut write) = (0, 0);
            while read < len {
                if read + 1 < len && symbols[read] == left && symbols[read + 1] == right {
                    if write > 0 {
                        let before = symbols[write - 1];
                        *changes.entry((before, left)).or_default() -= count;
                        *changes.entry((before, merged)).or_default() += count;
                        self.pairs.entry((before, merged)).or_default().hold(index);
                    }
                    if read + 2 < len {
                        let after = symbols[read + 2];
                        *changes.entry((right, after)).or_default() -= count;
                        *changes.entry((merged, after)).or_default() += count;
                        self.pairs.entry((merged, after)).or_default().hold(index);
                    }
                    symbols[write] = merged;
                    read += 2;
                } else {
                    symbols[write] = symbols[read];
                    read += 1;
                }
                write += 1;
            }
            self.pieces[index as usize].len = write;
        }
        changes.remove(&(left, right));
        for (pair, change) in changes {
            let Some(held) = self.pairs.get_mut(&pair) else { continue };
            held.count = held.count.saturating_add_signed(change);
            if held.count == 0 {
                self.pairs.remove(&pair);
            } else if change > 0 {
                self.queue.push((held.count, Reverse(pair)));
            }
        }
    }
}

impl Pair {
    fn hold(&mut self, piece: u32) {
        if self.pieces.last() != Some(&piece) {
            self.pieces.push(piece);
        }
    }
}
