//! Single-thread encoding speed in megabytes of UTF-8 a second, on the text the peers were measured on
//! (`../shared/peers/data/text.txt.gz`, line by line): the vocabulary of Qwen, and one trained here, by our encoder and by the
//! `tokenizers` crate. With `--json` only Qwen's encoding is measured, for `scripts/tokenizer-peers`.
// A skipped test, and a measurement, say so to the person who runs them.
#![allow(clippy::print_stderr)]

use std::io::Read as _;
use std::path::Path;
use std::time::Instant;

use taiyi_model::tokenizer::{Tokenizer, TrainerOptions, TrainingInput, train_bpe};

fn main() {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let Ok(file) = std::fs::File::open(shared.join("peers/data/text.txt.gz")) else {
        eprintln!("skipped: ../shared/peers/data/text.txt.gz is not beside the repository");
        return;
    };
    let mut text = String::new();
    flate2::read::GzDecoder::new(file).read_to_string(&mut text).expect("the file is gzip of UTF-8");
    let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
    let megabytes = lines.iter().map(|line| line.len()).sum::<usize>() as f64 / 1e6;

    let start = Instant::now();
    let qwen =
        Tokenizer::load(&shared.join("oracles/tokenizers/qwen1")).expect("the oracle's vocabulary loads");
    eprintln!("qwen.tiktoken loaded in {:.3} s", start.elapsed().as_secs_f64());
    let ours = |tokenizer: &Tokenizer| {
        let mut ids = Vec::new();
        let mut count = 0;
        for line in &lines {
            ids.clear();
            tokenizer.encode_into(line, &mut ids);
            count += ids.len();
        }
        count
    };
    if std::env::args().any(|argument| argument == "--json") {
        let (first, median, tokens) = speeds(megabytes, || ours(&qwen));
        eprintln!("{{\"first\": {first:.2}, \"median\": {median:.2}, \"tokens\": {tokens}}}");
        return;
    }
    measure("qwen.tiktoken", megabytes, || ours(&qwen));
    let ids: Vec<u32> = lines.iter().flat_map(|line| qwen.encode(line)).collect();
    measure("qwen.tiktoken, decoding", megabytes, || {
        std::hint::black_box(qwen.decode(&ids));
        ids.len()
    });

    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("text.txt");
    std::fs::write(&path, &text).expect("room for the text");
    let start = Instant::now();
    let options = TrainerOptions { vocab_size: 16_384, ..TrainerOptions::default() };
    let trained = train_bpe(&[TrainingInput { path, weight: 1.0 }], options, &mut |_| {}).expect("it trains");
    eprintln!("16,384 tokens trained on {megabytes:.1} MB in {:.2} s", start.elapsed().as_secs_f64());
    measure("trained, tokenizer.json", megabytes, || ours(trained.tokenizer()));
    trained.save(dir.path()).expect("room for the files");
    let theirs = tokenizers::Tokenizer::from_file(dir.path().join("tokenizer.json")).expect("it loads");
    measure("the same by the tokenizers crate", megabytes, || {
        lines.iter().map(|line| theirs.encode_fast(*line, false).map_or(0, |ids| ids.len())).sum()
    });
}

/// Runs a few passes and prints the first and the median of the others.
fn measure(name: &str, megabytes: f64, pass: impl FnMut() -> usize) {
    let clock = if on_processor().is_some() { "processor time" } else { "wall time" };
    let (first, median, tokens) = speeds(megabytes, pass);
    eprintln!("{name}: {median:.1} MB/s of {clock} (first pass {first:.1}), {tokens} tokens");
}

/// Runs a few passes: megabytes a second of the first, the median of the others, and what a pass counted. On a shared
/// machine the time on the processor is the fairer one.
fn speeds(megabytes: f64, mut pass: impl FnMut() -> usize) -> (f64, f64, usize) {
    let mut tokens = 0;
    let mut speeds: Vec<f64> = (0..6)
        .map(|_| {
            let (start, before) = (Instant::now(), on_processor());
            tokens = pass();
            let seconds = match (before, on_processor()) {
                (Some(before), Some(after)) => (after - before) as f64 / 1e9,
                _ => start.elapsed().as_secs_f64(),
            };
            megabytes / seconds
        })
        .collect();
    let first = speeds.remove(0);
    speeds.sort_by(f64::total_cmp);
    (first, speeds[speeds.len() / 2], tokens)
}

/// Nanoseconds this thread has run, where Linux tells.
fn on_processor() -> Option<u64> {
    std::fs::read_to_string("/proc/thread-self/schedstat").ok()?.split(' ').next()?.parse().ok()
}
