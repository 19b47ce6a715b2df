//! Writing of a GGUF file from the tensors of a Hugging Face checkpoint, a few rows at a time.

use std::{cell::RefCell, io::Write, ops::Range, path::Path};

use serde_json::Value;

use super::{
    Mixture, Vocabulary,
    architectures::{self, Architecture, More, Presence, Sizes},
    blocks::BlockType,
    in_layer, quoted,
    rows::Order,
    vocabulary::ADD_BOS,
    write::{self, Entry, Outline},
};
use crate::{
    config::DecoderConfig,
    error::Error,
    weights::{TensorView, Weights, write_atomically},
};

/// Where the tensors of an export come from, by their Hugging Face names: a checkpoint, or a model in memory.
pub trait TensorSource {
    /// Finds a tensor; `None` where there is none of this name.
    fn tensor(&self, name: &str) -> Option<ExportTensor<'_>>;

    /// Names of all tensors.
    fn names(&self) -> Vec<String>;
}

/// A floating-point tensor to be written.
pub enum ExportTensor<'a> {
    /// In a mapped file.
    Mapped(TensorView<'a>),
    /// In memory.
    Values {
        /// Shape, outermost first.
        shape: Vec<usize>,
        /// The elements, row-major.
        values: Vec<f32>,
    },
}

impl TensorSource for Weights {
    fn tensor(&self, name: &str) -> Option<ExportTensor<'_>> {
        let (view, shape) = (self.get(name).ok()?, self.shape(name)?);
        if view.shape == shape {
            return Some(ExportTensor::Mapped(view));
        }
        // A matrix in 4 bits.
        let values = self.f32(name, shape).ok()?;
        Some(ExportTensor::Values { shape: shape.to_vec(), values })
    }

    fn names(&self) -> Vec<String> {
        Weights::names(self).map(str::to_owned).collect()
    }
}

impl ExportTensor<'_> {
    fn shape(&self) -> &[usize] {
        match self {
            ExportTensor::Mapped(view) => view.shape,
            ExportTensor::Values { shape, .. } => shape,
        }
    }

    /// Reads whole rows; `false` where the elements are no floating-point numbers.
    fn read_rows(&self, rows: Range<usize>, out: &mut [f32]) -> bool {
        match self {
            ExportTensor::Mapped(view) => view.read_rows(rows, out),
            ExportTensor::Values { values, .. } => {
                let columns = out.len() / rows.len().max(1);
                out.copy_from_slice(&values[rows.start * columns..rows.end * columns]);
                true
            }
        }
    }
}

/// What an export is asked for.
pub struct Exported<'a> {
    /// `config.json` of the checkpoint.
    pub config: &'a Value,
    /// The file or folder that errors about the configuration name.
    pub place: &'a Path,
    /// What to call the model (`general.name`).
    pub name: &'a str,
    /// The tokenizer; `None` writes a file that knows token ids only.
    pub vocabulary: Option<Vocabulary>,
    /// The types of the tensors.
    pub mixture: Mixture,
}

/// What an export did.
#[derive(Debug, Clone, PartialEq)]
pub struct ExportReport {
    /// Bytes of the file.
    pub bytes: u64,
    /// By type, in the order of precision.
    pub types: Vec<TypeReport>,
    /// Tensors whose rows do not fill the blocks of the type they should have had.
    pub fallbacks: Vec<Fallback>,
    /// What a person should know about the file.
    pub notes: Vec<String>,
}

/// The tensors of one type.
#[derive(Debug, Clone, PartialEq)]
pub struct TypeReport {
    /// The type.
    pub kind: BlockType,
    /// How many tensors.
    pub tensors: usize,
    /// Their values.
    pub values: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Root of the mean square of what packing changed, by that of the values.
    pub relative_rms_error: f64,
}

/// A tensor that got another type.
#[derive(Debug, Clone, PartialEq)]
pub struct Fallback {
    /// The tensor's name in GGUF.
    pub tensor: String,
    /// Values of a row.
    pub columns: usize,
    /// The type whose blocks they do not fill.
    pub wanted: BlockType,
    /// The type it got.
    pub used: BlockType,
}

/// A GGUF tensor, and the rows of the Hugging Face tensor that go into it.
struct Planned {
    outline: Outline,
    from: From,
}

enum From {
    Source {
        name: String,
        /// Its first row in that tensor.
        first: usize,
        order: Order,
        /// Whether rows are divided by their lengths.
        normalised: bool,
    },
    Vector(Vec<f32>),
}

/// Writes a GGUF file, temporary first. `progress` is called with the values that have been written and that there are.
///
/// # Errors
/// When the architecture has no GGUF, the checkpoint lacks a tensor or has one that GGUF has no place for, shapes do not
/// fit, a value is not finite or does not fit f16, or the file cannot be written.
pub fn export(
    source: &dyn TensorSource,
    asked: Exported<'_>,
    out: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<ExportReport, Error> {
    let config = DecoderConfig::from_json(asked.config, asked.place)?;
    let architecture = architectures::of_config(&config, asked.place)?;
    let sizes = architecture.sizes(&config);
    let more = (architecture.more)(&config, asked.place)?;
    let tied = config.tie_word_embeddings;
    let entries = entries(&asked, architecture, &sizes, &more)?;
    let (planned, fallbacks) = plan(source, &asked, architecture, &sizes, &more, tied)?;
    let outlines: Vec<Outline> = planned.iter().map(|p| p.outline.clone()).collect();
    let values_of = |outline: &Outline| outline.shape.iter().product::<usize>() as u64;
    let all: u64 = outlines.iter().map(values_of).sum();

    let mut measures: Vec<(BlockType, Measure)> = Vec::new();
    // The closure can only give an input or output error; what is wrong with a tensor waits here.
    let trouble = RefCell::new(None);
    let mut done = 0;
    let written = write_atomically(out, |out| {
        write::header(out, &entries, &outlines)?;
        for planned in &planned {
            let before = done;
            let measured = write_tensor(out, source, asked.place, planned, &mut |values| {
                done = before + values;
                progress(done, all);
            });
            let measure = match measured {
                Ok(measure) => measure,
                Err(Failure::Io(error)) => return Err(error),
                Err(Failure::Tensor(error)) => {
                    *trouble.borrow_mut() = Some(error);
                    return Err(std::io::Error::other("a tensor cannot be written"));
                }
            };
            write::padding(out, &planned.outline)?;
            match measures.iter_mut().find(|(kind, _)| *kind == planned.outline.kind) {
                Some((_, sum)) => sum.add(&measure),
                None => measures.push((planned.outline.kind, measure)),
            }
        }
        Ok(())
    });
    if let Some(error) = trouble.into_inner() {
        return Err(error);
    }
    written?;
    measures.sort_by_key(|(kind, _)| *kind);
    let types = measures.into_iter().map(|(kind, measure)| measure.report(kind)).collect();
    let mut notes = more.notes;
    if asked.vocabulary.is_none() {
        notes.push("the file has no tokenizer: programs can feed it token ids, but no text".to_owned());
    }
    let bytes = std::fs::metadata(out).map_err(Error::io(out))?.len();
    Ok(ExportReport { bytes, types, fallbacks, notes })
}

fn entries(
    asked: &Exported<'_>,
    architecture: &Architecture,
    sizes: &Sizes,
    more: &More,
) -> Result<Vec<(String, Entry)>, Error> {
    let text = |value: &str| Entry::Text(value.to_owned());
    let mut entries = vec![
        ("general.architecture".to_owned(), text(architecture.name)),
        ("general.type".to_owned(), text("model")),
        ("general.name".to_owned(), text(asked.name)),
        ("general.file_type".to_owned(), Entry::U32(asked.mixture.file_type())),
        ("general.quantization_version".to_owned(), Entry::U32(2)),
    ];
    entries.extend(architecture.entries(sizes));
    match &asked.vocabulary {
        None => entries.push(("tokenizer.ggml.model".to_owned(), text("none"))),
        Some(vocabulary) => {
            if vocabulary.tokens.len() > sizes.vocab {
                return Err(Error::Config {
                    path: asked.place.to_owned(),
                    key: "vocab_size".to_owned(),
                    expected: format!("at least the {} tokens of the tokenizer", vocabulary.tokens.len()),
                    found: sizes.vocab.to_string(),
                });
            }
            let mut vocabulary = vocabulary.clone();
            vocabulary.fill(sizes.vocab);
            entries.extend(vocabulary.entries());
        }
    }
    for (key, entry) in &more.entries {
        let key = if key.starts_with('.') { format!("{}{key}", architecture.name) } else { key.clone() };
        // What the tokenizer's own files say goes before what is usual for the architecture.
        let said = key == ADD_BOS && entries.iter().any(|(other, _)| *other == key);
        if !said {
            entries.push((key, entry.clone()));
        }
    }
    Ok(entries)
}

fn plan(
    source: &dyn TensorSource,
    asked: &Exported<'_>,
    architecture: &Architecture,
    sizes: &Sizes,
    more: &More,
    tied: bool,
) -> Result<(Vec<Planned>, Vec<Fallback>), Error> {
    let mut planned = Vec::new();
    let mut fallbacks = Vec::new();
    let mut taken = std::collections::BTreeSet::new();
    let mut push = |name: String, shape: Vec<usize>, from: From| {
        let (kind, wanted) = asked.mixture.choose(&name, &shape, tied, sizes.layers);
        if let Some(wanted) = wanted {
            let columns = *shape.last().unwrap_or(&1);
            fallbacks.push(Fallback { tensor: name.clone(), columns, wanted, used: kind });
        }
        planned.push(Planned { outline: Outline { name, kind, shape }, from });
    };
    for (name, values) in &more.vectors {
        push(name.clone(), vec![values.len()], From::Vector(values.clone()));
    }
    for tensor in architecture.tensors {
        let layers = if tensor.hf.contains("{}") { sizes.layers } else { 1 };
        for layer in 0..layers {
            let full = in_layer(tensor.hf, layer);
            let bare = full.strip_prefix(architecture.optional_prefix).unwrap_or(&full);
            let found = [full.as_str(), bare].into_iter().find_map(|name| Some((name, source.tensor(name)?)));
            let absent = match (tensor.presence, &found) {
                (Presence::UnlessTied, Some((name, _))) if tied => {
                    taken.insert((*name).to_owned());
                    continue;
                }
                (Presence::UnlessTied, None) => !tied,
                (Presence::Always, None) => true,
                _ => false,
            };
            let Some((name, found)) = found else {
                if absent {
                    return Err(Error::MissingTensor {
                        path: asked.place.to_owned(),
                        name: full,
                        held: source.names().len(),
                        nearest: None,
                    });
                }
                continue;
            };
            taken.insert(name.to_owned());
            let shape = found.shape().to_vec();
            let rows = shape.first().copied().unwrap_or(0);
            let share = rows / tensor.parts.len();
            let head = tensor.presence == Presence::UnlessTied;
            let fits = !shape.is_empty()
                && shape.len() <= 2
                && !shape.contains(&0)
                && rows.is_multiple_of(tensor.parts.len())
                && tensor.parts.iter().all(|(_, rows)| rows.order(sizes).fits(share));
            let right = match (shape.as_slice(), head || tensor.hf == architecture.tensors[0].hf) {
                (&[rows, columns], true) => rows == sizes.vocab && columns == sizes.hidden,
                (_, table) => !table,
            };
            if !fits || !right {
                return Err(Error::malformed(
                    asked.place,
                    format!("tensor {}", quoted(name)),
                    "a shape that suits the sizes of the configuration",
                    format!("{shape:?}"),
                ));
            }
            for (at, (part, order)) in tensor.parts.iter().enumerate() {
                let mut shape = shape.clone();
                shape[0] = share;
                let from = From::Source {
                    name: name.to_owned(),
                    first: at * share,
                    order: order.order(sizes),
                    normalised: more.normalised_head && head,
                };
                push(in_layer(part, layer), shape, from);
            }
        }
    }
    let left = source
        .names()
        .into_iter()
        .find(|name| !taken.contains(name) && !architecture.buffers.iter().any(|end| name.ends_with(end)));
    if let Some(name) = left {
        return Err(Error::malformed(
            asked.place,
            format!("tensor {}", quoted(&name)),
            format!("only tensors that `{}` has in GGUF", architecture.model_type),
            "one that would be lost",
        ));
    }
    Ok((planned, fallbacks))
}

/// What went wrong while a tensor was written.
enum Failure {
    Io(std::io::Error),
    Tensor(Error),
}

impl std::convert::From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        Failure::Io(error)
    }
}

/// What packing changed.
#[derive(Debug, Clone, Copy, Default)]
struct Measure {
    tensors: usize,
    values: u64,
    bytes: u64,
    /// Sum of the squares of the values, and of what packing changed.
    squares: f64,
    changes: f64,
}

impl Measure {
    fn add(&mut self, other: &Measure) {
        self.tensors += other.tensors;
        self.values += other.values;
        self.bytes += other.bytes;
        self.squares += other.squares;
        self.changes += other.changes;
    }

    fn report(&self, kind: BlockType) -> TypeReport {
        let error = if self.squares > 0.0 { (self.changes / self.squares).sqrt() } else { 0.0 };
        TypeReport {
            kind,
            tensors: self.tensors,
            values: self.values,
            bytes: self.bytes,
            relative_rms_error: error,
        }
    }
}

/// Rows in hand at a time, on one thread.
struct Chunk {
    values: Vec<f32>,
    seen: Vec<f32>,
    packed: Vec<u8>,
    rows: Range<usize>,
    squares: f64,
    changes: f64,
    /// A row with a value that cannot be written.
    bad_row: Option<usize>,
}

/// Values that a thread packs before they are written.
const CHUNK: usize = 1 << 19;

fn write_tensor(
    out: &mut dyn Write,
    source: &dyn TensorSource,
    place: &Path,
    planned: &Planned,
    progress: &mut dyn FnMut(u64),
) -> Result<Measure, Failure> {
    let Outline { kind, shape, name } = &planned.outline;
    // A vector is one row here: it stays F32, whatever its order.
    let vector = shape.len() == 1;
    let (rows, columns) = if vector { (shape[0], 1) } else { (shape[0], shape[1]) };
    let tensor = match &planned.from {
        From::Vector(values) => ExportTensor::Values { shape: shape.clone(), values: values.clone() },
        From::Source { name, .. } => source.tensor(name).ok_or_else(|| {
            Failure::Tensor(Error::MissingTensor {
                path: place.to_owned(),
                name: name.clone(),
                held: source.names().len(),
                nearest: None,
            })
        })?,
    };
    let (first, order, normalised) = match planned.from {
        From::Vector(_) => (0, Order::Same, false),
        From::Source { first, order, normalised, .. } => (first, order, normalised),
    };
    let row_bytes = kind.row_bytes(columns).expect("a type whose blocks fill the rows was chosen");
    let rows_in_hand = (CHUNK / columns).clamp(1, rows);
    let fill = |chunk: &mut Chunk| -> bool {
        let count = chunk.rows.len();
        chunk.values.resize(count * columns, 0.0);
        chunk.seen.resize(count * columns, 0.0);
        chunk.packed.resize(count * row_bytes, 0);
        if order == Order::Same {
            let wanted = first + chunk.rows.start..first + chunk.rows.end;
            if !tensor.read_rows(wanted, &mut chunk.values) {
                return false;
            }
        } else {
            for (row, values) in chunk.rows.clone().zip(chunk.values.chunks_mut(columns)) {
                let row = first + order.to_hf(rows, row);
                if !tensor.read_rows(row..row + 1, values) {
                    return false;
                }
            }
        }
        if normalised {
            chunk.values.chunks_mut(columns).for_each(normalise);
        }
        kind.pack(&chunk.values, &mut chunk.packed);
        kind.unpack(&chunk.packed, &mut chunk.seen);
        (chunk.squares, chunk.changes, chunk.bad_row) = (0.0, 0.0, None);
        let both = chunk.values.chunks(columns).zip(chunk.seen.chunks(columns));
        for (row, (values, seen)) in chunk.rows.clone().zip(both) {
            let (mut squares, mut changes) = (0.0, 0.0);
            for (&x, &y) in values.iter().zip(seen) {
                squares += f64::from(x) * f64::from(x);
                changes += f64::from(x - y) * f64::from(x - y);
            }
            // One value that is not finite, before or after, makes the sum so.
            if !changes.is_finite() {
                chunk.bad_row = chunk.bad_row.or(Some(row));
            }
            chunk.squares += squares;
            chunk.changes += changes;
        }
        true
    };
    let values = rows as u64 * columns as u64;
    let mut measure =
        Measure { tensors: 1, values, bytes: rows as u64 * row_bytes as u64, ..Measure::default() };
    let threads = taiyi_kernels::threads().min(rows.div_ceil(rows_in_hand));
    let mut chunks: Vec<Chunk> = (0..threads)
        .map(|_| Chunk {
            values: Vec::new(),
            seen: Vec::new(),
            packed: Vec::new(),
            rows: 0..0,
            squares: 0.0,
            changes: 0.0,
            bad_row: None,
        })
        .collect();
    let mut next = 0;
    while next < rows {
        let mut used = 0;
        for chunk in &mut chunks {
            let end = (next + rows_in_hand).min(rows);
            chunk.rows = next..end;
            next = end;
            used += usize::from(!chunk.rows.is_empty());
        }
        let filled = match &mut chunks[..used] {
            [only] => fill(only),
            several => std::thread::scope(|scope| {
                let handles: Vec<_> = several.iter_mut().map(|chunk| scope.spawn(|| fill(chunk))).collect();
                handles.into_iter().all(|handle| handle.join().unwrap_or(false))
            }),
        };
        if !filled {
            return Err(Failure::Tensor(Error::ElementType {
                path: place.to_owned(),
                name: name.clone(),
                found: "elements that are no floating-point numbers".to_owned(),
            }));
        }
        for chunk in &chunks[..used] {
            if let Some(row) = chunk.bad_row {
                return Err(Failure::Tensor(Error::malformed(
                    place,
                    format!("tensor {}, row {row}", quoted(name)),
                    format!("finite values that fit {}", kind.name()),
                    "another",
                )));
            }
            out.write_all(&chunk.packed)?;
            measure.squares += chunk.squares;
            measure.changes += chunk.changes;
        }
        progress(next as u64 * columns as u64);
    }
    Ok(measure)
}

/// Divides a row by its length, as Baichuan2's NormHead does (no shorter than 1e-12).
fn normalise(row: &mut [f32]) {
    let length = row.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt().max(1e-12);
    for v in row {
        *v = (f64::from(*v) / length) as f32;
    }
}
