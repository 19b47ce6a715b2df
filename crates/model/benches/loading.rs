//! Speed and memory of loading a checkpoint with the widths of a 7B model from the page cache:
//! `cargo bench -p taiyi-model --bench loading -- FOLDER [LAYERS]`.
//!
//! Writes a checkpoint of random bf16 numbers (LLaMA layout, 0.4 GB a layer, 8 layers unless told otherwise) to a temporary folder
//! inside FOLDER and removes it afterwards.
#![allow(clippy::print_stdout)]

use std::fs::File;
use std::io::{BufWriter, Error, Read as _, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use taiyi_kernels::{FloatBytes, MappedFile, Nf4, Precision, level, threads};
use taiyi_model::{Decoder, Dtype};

const HIDDEN: usize = 4096;
const INNER: usize = 11_008;
const VOCABULARY: usize = 32_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with("--"));
    let Some(folder) = arguments.next() else {
        println!("skipped: give a folder that holds a few gigabytes");
        return Ok(());
    };
    let layers = arguments.next().map_or(Ok(8), |layers| layers.parse())?;
    let dir = tempfile::tempdir_in(folder)?;
    let bytes = write(dir.path(), layers)?;
    println!("{:?}, {} threads; {layers} layers, {:.2} GB of bf16", level(), threads(), bytes as f64 / 1e9);

    // Into the page cache; and what reading alone costs.
    for _ in 0..2 {
        let start = Instant::now();
        let mut file = File::open(dir.path().join("model.safetensors"))?;
        let (mut buffer, mut read) = (vec![0; 1 << 20], 0);
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                count => read += count,
            }
        }
        println!("plain read: {:.2} GB/s", read as f64 / start.elapsed().as_secs_f64() / 1e9);
    }
    let map = MappedFile::open(&dir.path().join("model.safetensors"))?;
    let (matrix, begin) =
        (HIDDEN * INNER, map.len() - 2 * VOCABULARY * HIDDEN - 2 * HIDDEN - 2 * HIDDEN * INNER);
    let stored = FloatBytes::Bf16(&map[begin..begin + 2 * matrix]);
    for name in ["first", "second", "third"] {
        let start = Instant::now();
        std::hint::black_box(Nf4::quantize_bytes(stored, Precision::Bf16, INNER, HIDDEN, true));
        let rate = 2.0 * matrix as f64 / start.elapsed().as_secs_f64() / 1e9;
        println!("one matrix of the mapped file to NF4, {name} time: {rate:.2} GB/s of bf16");
    }
    drop(map);
    for dtype in [Dtype::Nf4, Dtype::Bf16] {
        let before = anonymous();
        let (peak, decoder, seconds) = watched(|| Decoder::load(dir.path(), dtype));
        let decoder = decoder?;
        let kept = anonymous().saturating_sub(before);
        let (weights, _) = decoder.bytes();
        let peak = peak.saturating_sub(before);
        println!(
            "load {dtype:?}: {seconds:.2} s, {:.2} GB/s of bf16; anonymous memory: peak {:.3} GB, kept {:.3} GB, ratio {:.3}; weights {:.3} GB",
            bytes as f64 / seconds / 1e9,
            peak as f64 / 1e9,
            kept as f64 / 1e9,
            peak as f64 / kept as f64,
            weights as f64 / 1e9,
        );
    }
    Ok(())
}

/// Runs `load` and watches the anonymous memory of the process meanwhile; the peak in bytes.
fn watched<R>(load: impl FnOnce() -> R) -> (u64, R, f64) {
    let (done, peak) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                peak.fetch_max(anonymous(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        let start = Instant::now();
        let result = load();
        let seconds = start.elapsed().as_secs_f64();
        done.store(true, Ordering::Relaxed);
        (peak.load(Ordering::Relaxed).max(anonymous()), result, seconds)
    })
}

/// Anonymous memory of this process in bytes.
fn anonymous() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
}

/// Writes the checkpoint; the bytes of its tensors.
fn write(dir: &Path, layers: usize) -> Result<usize, Error> {
    let config = format!(
        r#"{{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": {VOCABULARY}, "hidden_size": {HIDDEN},
        "intermediate_size": {INNER}, "num_hidden_layers": {layers}, "num_attention_heads": 32, "num_key_value_heads": 32,
        "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": false,
        "hidden_act": "silu", "torch_dtype": "bfloat16"}}"#
    );
    std::fs::write(dir.join("config.json"), config)?;
    let mut tensors = vec![("model.embed_tokens".to_owned(), vec![VOCABULARY, HIDDEN])];
    for layer in 0..layers {
        let mut add = |name: &str, shape: &[usize]| {
            tensors.push((format!("model.layers.{layer}.{name}"), shape.to_vec()));
        };
        add("input_layernorm", &[HIDDEN]);
        add("post_attention_layernorm", &[HIDDEN]);
        for name in ["q_proj", "k_proj", "v_proj", "o_proj"] {
            add(&format!("self_attn.{name}"), &[HIDDEN, HIDDEN]);
        }
        add("mlp.gate_proj", &[INNER, HIDDEN]);
        add("mlp.up_proj", &[INNER, HIDDEN]);
        add("mlp.down_proj", &[HIDDEN, INNER]);
    }
    tensors.push(("model.norm".to_owned(), vec![HIDDEN]));
    tensors.push(("lm_head".to_owned(), vec![VOCABULARY, HIDDEN]));
    let mut at = 0;
    let mut header = Vec::new();
    for (name, shape) in &tensors {
        let end = at + 2 * shape.iter().product::<usize>();
        header.push(format!(
            r#""{name}.weight":{{"dtype":"BF16","shape":{shape:?},"data_offsets":[{at},{end}]}}"#
        ));
        at = end;
    }
    let mut header = format!("{{{}}}", header.join(","));
    header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
    let mut file = BufWriter::new(File::create(dir.join("model.safetensors"))?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    // Sums of four uniform numbers, the bell of trained weights; a piece of them again and again.
    let mut state = 1_u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    let piece: Vec<u8> = (0..4 << 20)
        .flat_map(|_| {
            half::bf16::from_f32(0.03 * (uniform() + uniform() + uniform() + uniform())).to_le_bytes()
        })
        .collect();
    let mut left = at;
    while left > 0 {
        let part = left.min(piece.len());
        file.write_all(&piece[..part])?;
        left -= part;
    }
    file.flush()?;
    Ok(at)
}
