//! The one encoder: embedding, blocks that see both ways, and a head, with explicit forward and backward passes.
//!
//! The encoder knows nothing about text, entities or labels' meanings.

use std::path::Path;

use taiyi_kernels::Precision;

use crate::{
    architectures::encoders::{self, TOKEN_HEAD},
    batch::Parameter,
    config::NormKind,
    decoder::{Dtype, random::Random, save::saved_config},
    error::Error,
    layers::{
        attention::{Attention, AttentionInput},
        block::Block,
        embedding::Embedding,
        linear::Linear,
        mlp::{Mlp, MlpInput},
        norm::Norm,
        source::{FileSource, Role, ShapeSource, Source, linear, norm},
        tensor::Tensor,
    },
    weights::{SafetensorsWriter, Weights, write_checkpoint},
};

mod batch;
pub mod config;
mod head;
mod length;
mod pass;
pub mod plan;

pub use batch::{EncoderBatch, Labels};
pub use config::{EncoderConfig, EncoderTask};

/// A bidirectional encoder with one head.
pub struct Encoder {
    pub(crate) config: EncoderConfig,
    precision: Precision,
    embedding: Embedding,
    blocks: Vec<Block>,
    head: Head,
}

/// What stands on top.
#[expect(clippy::large_enum_variant, reason = "a model has one head")]
enum Head {
    /// Dense layer, gelu, norm, then the token embedding as output matrix and a bias (V).
    MaskedLm { dense: Linear, norm: Norm, bias: Tensor },
    /// One linear layer.
    Token(Linear),
    /// Dense layer, tanh, linear layer.
    Sequence { dense: Linear, output: Linear },
}

impl Encoder {
    /// Loads a checkpoint folder in the Hugging Face layout. Nothing is trainable until [`Encoder::train_all`].
    ///
    /// # Errors
    /// When `config.json` or the weights are missing, broken, of another architecture or of another shape.
    pub fn load(dir: &Path, dtype: Dtype) -> Result<Encoder, Error> {
        let config = EncoderConfig::load(dir)?;
        let weights = Weights::open(dir)?;
        let Some(names) = encoders::names_of(&config.model_type) else { return Err(unknown(&config)) };
        let other_names = |name: &str| encoders::other_names(names.prefix, name);
        let mut source = FileSource::new(&weights, dtype, dtype.precision(), &other_names);
        let encoder = assemble(config, dtype.precision(), &mut source)?;
        source.report_unused(&|name| names.is_harmless(name));
        Ok(encoder)
    }

    /// Loads the blocks of a checkpoint and gives them a new head, drawn from `seed`; everything is trainable. The file may have
    /// been saved with another head or with none.
    ///
    /// # Errors
    /// As [`Encoder::load`].
    pub fn load_with_new_head(
        dir: &Path,
        task: EncoderTask,
        labels: Vec<String>,
        seed: u64,
    ) -> Result<Encoder, Error> {
        let config = EncoderConfig::load(dir)?.with_task(task, labels);
        config.check(dir)?;
        let weights = Weights::open(dir)?;
        let Some(names) = encoders::names_of(&config.model_type) else { return Err(unknown(&config)) };
        let other_names = |name: &str| encoders::other_names(names.prefix, name);
        let file = FileSource::new(&weights, Dtype::F32, Precision::F32, &other_names);
        let deviation = f64::from(config.initializer_range);
        let mut source = NewHead { file, prefix: names.prefix, seed, stream: 0, deviation };
        let mut encoder = assemble(config, Precision::F32, &mut source)?;
        encoder.train_all();
        Ok(encoder)
    }

    /// Draws f32 weights, all of them trainable: N(0, initializer_range^2), norms 1, biases 0, as in transformers.
    ///
    /// # Errors
    /// When the configuration's `model_type` is unknown.
    pub fn random(config: EncoderConfig, seed: u64) -> Result<Encoder, Error> {
        let deviation = f64::from(config.initializer_range);
        let mut encoder = assemble(config, Precision::F32, &mut Drawn { seed, stream: 0, deviation })?;
        encoder.train_all();
        Ok(encoder)
    }

    /// Checks that a checkpoint folder holds every tensor of its configuration in the right shape, without reading them.
    ///
    /// # Errors
    /// As [`Encoder::load`].
    pub fn check(dir: &Path) -> Result<EncoderConfig, Error> {
        let config = EncoderConfig::load(dir)?;
        let weights = Weights::open(dir)?;
        let Some(names) = encoders::names_of(&config.model_type) else { return Err(unknown(&config)) };
        let other_names = |name: &str| encoders::other_names(names.prefix, name);
        let mut source = ShapeSource::new(&weights, &other_names);
        Ok(assemble(config, Precision::F32, &mut source)?.config)
    }

    /// Writes `config.json` and `model.safetensors`, each to a temporary name first. The tied output matrix is left out, as
    /// transformers does.
    ///
    /// # Errors
    /// When the folder cannot be written or `dtype` is NF4.
    pub fn save(&self, dir: &Path, dtype: Dtype) -> Result<(), Error> {
        let element = dtype.element()?;
        let mut writer = SafetensorsWriter::default();
        self.tensors(&mut |t| writer.add(t.name.clone(), element, &t.shape, || t.dense()));
        write_checkpoint(dir, &writer, &saved_config(&self.config.source, &self.config.model_type, element))
    }

    /// The configuration.
    pub fn config(&self) -> &EncoderConfig {
        &self.config
    }

    /// Makes every weight trainable, as f32 masters.
    pub fn train_all(&mut self) {
        self.visit(&mut Tensor::train);
    }

    /// The trainable tensors, always in the same order: embeddings, blocks from the first to the last, head.
    pub fn parameters(&mut self) -> Vec<Parameter<'_>> {
        let mut found = Vec::new();
        self.visit(&mut |tensor| found.extend(tensor.parameter()));
        found
    }

    /// Number of weights.
    pub fn parameter_count(&self) -> usize {
        let mut count = 0;
        self.tensors(&mut |t| count += t.len());
        count
    }

    /// Sets all gradients to zero.
    pub fn zero_gradients(&mut self) {
        self.visit(&mut |tensor| {
            if let Some(grad) = tensor.grad() {
                grad.fill(0.0);
            }
        });
    }

    /// Bytes held by weights and by gradients.
    pub fn bytes(&self) -> (usize, usize) {
        let mut total = (0, 0);
        self.tensors(&mut |t| {
            let (values, grad) = t.bytes();
            total = (total.0 + values, total.1 + grad);
        });
        total
    }

    fn visit<'a>(&'a mut self, f: &mut dyn FnMut(&'a mut Tensor)) {
        self.embedding.visit(f);
        self.blocks.iter_mut().for_each(|b| b.visit(f));
        match &mut self.head {
            Head::MaskedLm { dense, norm, bias } => {
                dense.visit(f);
                norm.visit(f);
                f(bias);
            }
            Head::Token(linear) => linear.visit(f),
            Head::Sequence { dense, output } => {
                dense.visit(f);
                output.visit(f);
            }
        }
    }

    fn tensors<'a>(&'a self, f: &mut dyn FnMut(&'a Tensor)) {
        self.embedding.tensors(f);
        self.blocks.iter().for_each(|b| b.tensors(f));
        match &self.head {
            Head::MaskedLm { dense, norm, bias } => {
                dense.tensors(f);
                norm.tensors(f);
                f(bias);
            }
            Head::Token(linear) => linear.tensors(f),
            Head::Sequence { dense, output } => {
                dense.tensors(f);
                output.tensors(f);
            }
        }
    }
}

fn unknown(config: &EncoderConfig) -> Error {
    Error::UnknownModelType {
        path: "config".into(),
        found: config.model_type.clone(),
        known: encoders::known().join(", "),
    }
}

/// Builds the encoder's modules in a fixed order from any source of tensors.
fn assemble(config: EncoderConfig, precision: Precision, source: &mut dyn Source) -> Result<Encoder, Error> {
    let Some(names) = encoders::names_of(&config.model_type) else { return Err(unknown(&config)) };
    let d = config.hidden_size;
    let name = |rest: &str| format!("{}{rest}", names.prefix);
    let embeddings = |source: &mut dyn Source, table: &str, rows| {
        source.tensor(name(&format!("embeddings.{table}.weight")), Role::Table, &[rows, d])
    };
    let embedding = Embedding {
        tokens: embeddings(source, "word_embeddings", config.vocab_size)?,
        positions: Some(embeddings(source, "position_embeddings", config.position_rows)?),
        token_types: Some(embeddings(source, "token_type_embeddings", config.type_vocab_size)?),
        norm: Some(norm(source, &name("embeddings.LayerNorm"), NormKind::Layer, d)?),
    };
    let mut blocks = Vec::new();
    for layer in 0..config.num_hidden_layers {
        blocks.push(block(source, &config, &name(&format!("encoder.layer.{layer}")))?);
    }
    let head = match config.task {
        EncoderTask::MaskedLm => Head::MaskedLm {
            dense: linear(source, names.masked[0], Role::Linear, d, d, true)?,
            norm: norm(source, names.masked[1], NormKind::Layer, d)?,
            bias: source.tensor(names.masked[2].to_owned(), Role::Bias, &[config.vocab_size])?,
        },
        EncoderTask::TokenClassification => {
            Head::Token(linear(source, TOKEN_HEAD, Role::Linear, config.labels.len(), d, true)?)
        }
        EncoderTask::SequenceClassification { .. } => Head::Sequence {
            dense: linear(source, names.sequence[0], Role::Linear, d, d, true)?,
            output: linear(source, names.sequence[1], Role::Linear, config.labels.len(), d, true)?,
        },
    };
    Ok(Encoder { config, precision, embedding, blocks, head })
}

fn block(source: &mut dyn Source, config: &EncoderConfig, layer: &str) -> Result<Block, Error> {
    let (d, f) = (config.hidden_size, config.intermediate_size);
    let square = |source: &mut dyn Source, name: &str| {
        linear(source, &format!("{layer}.attention.{name}"), Role::Linear, d, d, true)
    };
    let input = AttentionInput::Split(Box::new([
        square(source, "self.query")?,
        square(source, "self.key")?,
        square(source, "self.value")?,
    ]));
    let output = square(source, "output.dense")?;
    let attention_norm = norm(source, &format!("{layer}.attention.output.LayerNorm"), NormKind::Layer, d)?;
    let up = linear(source, &format!("{layer}.intermediate.dense"), Role::Linear, f, d, true)?;
    let down = linear(source, &format!("{layer}.output.dense"), Role::Linear, d, f, true)?;
    let mlp_norm = norm(source, &format!("{layer}.output.LayerNorm"), NormKind::Layer, d)?;
    Ok(Block {
        attention_norm,
        attention: Attention { input, head_norms: None, output },
        mlp_norm,
        mlp: Mlp { input: MlpInput::Plain(Box::new(up)), down },
    })
}

/// Draws every tensor.
struct Drawn {
    seed: u64,
    stream: u64,
    deviation: f64,
}

impl Source for Drawn {
    fn tensor(&mut self, name: String, role: Role, shape: &[usize]) -> Result<Tensor, Error> {
        let len = shape.iter().product();
        let mut random = Random::new(self.seed, self.stream);
        self.stream += 1;
        let values = match role {
            Role::Table | Role::Linear | Role::Residual => random.normal(len, self.deviation),
            Role::Norm => vec![1.0; len],
            Role::Bias => vec![0.0; len],
        };
        Ok(Tensor::f32(name, shape, values))
    }
}

/// Reads the blocks and draws the head.
struct NewHead<'a> {
    file: FileSource<'a>,
    prefix: &'static str,
    seed: u64,
    stream: u64,
    deviation: f64,
}

impl Source for NewHead<'_> {
    fn tensor(&mut self, name: String, role: Role, shape: &[usize]) -> Result<Tensor, Error> {
        // BERT's pooler bears the prefix and is learned before the head is; where a file has it, it is kept.
        if name.starts_with(self.prefix) && (!name.contains("pooler") || self.file.has(&name)) {
            return self.file.tensor(name, role, shape);
        }
        let mut drawn = Drawn { seed: self.seed, stream: self.stream, deviation: self.deviation };
        self.stream += 1;
        drawn.tensor(name, role, shape)
    }
}
