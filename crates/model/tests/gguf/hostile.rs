//! Broken and doctored files: one line, at once, and little memory.

use std::path::Path;
use std::time::Instant;

use taiyi_model::tokenizer::Tokenizer;
use taiyi_model::weights::{Weights, gguf::Gguf};

/// Builds files a field at a time.
#[derive(Clone, Default)]
struct File(Vec<u8>);

impl File {
    fn u32(mut self, n: u32) -> Self {
        self.0.extend(n.to_le_bytes());
        self
    }

    fn u64(mut self, n: u64) -> Self {
        self.0.extend(n.to_le_bytes());
        self
    }

    fn text(self, text: &str) -> Self {
        let mut file = self.u64(text.len() as u64);
        file.0.extend(text.as_bytes());
        file
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    fn start(version: u32, tensors: u64, entries: u64) -> Self {
        File::default().bytes(b"GGUF").u32(version).u64(tensors).u64(entries)
    }

    fn size(self, key: &str, n: u32) -> Self {
        self.text(key).u32(4).u32(n)
    }

    fn string(self, key: &str, value: &str) -> Self {
        self.text(key).u32(8).text(value)
    }

    fn tensor(self, name: &str, dims: &[u64], kind: u32, offset: u64) -> Self {
        let mut file = self.text(name).u32(dims.len() as u32);
        for &size in dims {
            file = file.u64(size);
        }
        file.u32(kind).u64(offset)
    }

    fn data(mut self, bytes: usize) -> Self {
        self.0.resize(self.0.len().next_multiple_of(32) + bytes, 0);
        self
    }
}

/// The entries of a small LLaMA.
fn llama(tensors: u64, more: u64) -> File {
    File::start(3, tensors, 7 + more)
        .string("general.architecture", "llama")
        .size("llama.context_length", 8)
        .size("llama.embedding_length", 4)
        .size("llama.feed_forward_length", 8)
        .size("llama.block_count", 1)
        .size("llama.attention.head_count", 2)
        .text("llama.attention.layer_norm_rms_epsilon")
        .u32(6)
        .bytes(&1e-5_f32.to_le_bytes())
}

fn refused(name: &str, file: &File) -> String {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("model.gguf");
    std::fs::write(&path, &file.0).unwrap();
    let start = Instant::now();
    let message = match Weights::open(&path) {
        Err(error) => error.to_string(),
        Ok(_) => {
            let gguf = Gguf::open(&path).unwrap();
            let wrong = gguf.config().map(|_| ()).and_then(|()| gguf.vocabulary().map(|_| ()));
            match wrong {
                Err(error) => error.to_string(),
                Ok(()) => Tokenizer::load(&path).expect_err(name).to_string(),
            }
        }
    };
    assert!(start.elapsed().as_secs() < 2, "{name}: {:?}", start.elapsed());
    assert!(!message.contains('\n') && message.len() < 700, "{name}: {message}");
    assert!(message.contains("model.gguf: "), "{name}: {message}");
    message
}

#[test]
fn counts_and_lengths_are_held_against_the_file() {
    let huge = [1 << 60, u64::MAX, 1 << 63, u64::MAX / 33];
    for n in huge {
        let message = refused("tensors", &File::start(3, n, 0).data(64));
        assert!(message.contains("the number of tensors") && message.contains(&n.to_string()), "{message}");
        let message = refused("entries", &File::start(2, 0, n).data(64));
        assert!(message.contains("the number of metadata entries"), "{message}");
        let message = refused("key", &File::start(3, 0, 1).u64(n).data(64));
        assert!(message.contains("a metadata key"), "{message}");
        let message = refused("string", &File::start(3, 0, 1).text("k").u32(8).u64(n).data(64));
        assert!(message.contains("metadata `k`"), "{message}");
        for kind in [0, 4, 8, 9, 12] {
            let file = File::start(3, 0, 1).text("k").u32(9).u32(kind).u64(n).data(64);
            assert!(refused("array", &file).contains("metadata `k`"), "{kind}");
        }
        // Lengths inside an array of strings.
        let file = File::start(3, 0, 1).text("k").u32(9).u32(8).u64(2).text("a").u64(n).data(64);
        assert!(refused("array of strings", &file).contains("metadata `k`"));
    }
    // As many entries as would fit if each were the shortest there can be.
    let file = File::start(3, 0, 1 << 16).data(14 << 16);
    assert!(refused("empty entries", &file).contains("every key once"));
}

#[test]
fn nesting_is_bounded() {
    let mut file = File::start(3, 0, 1).text("k").u32(9);
    for _ in 0..100_000 {
        file = file.u32(9).u64(1);
    }
    assert!(refused("nesting", &file).contains("at most 4 deep"));
    // Arrays of nothing, many of them.
    let mut file = File::start(3, 0, 1).text("k").u32(9).u32(9).u64(10_000);
    for _ in 0..10_000 {
        file = file.u32(0).u64(0);
    }
    assert!(refused("empty arrays", &file).contains("general.architecture"));
}

#[test]
fn shapes_and_places_are_checked() {
    let one =
        |dims: &[u64], kind, offset| llama(1, 0).tensor("token_embd.weight", dims, kind, offset).data(64);
    for (what, dims, kind, offset) in [
        ("overflow", &[1 << 32, 1 << 32][..], 0, 0),
        ("overflow of bytes", &[1 << 62], 0, 0),
        ("overflow of values", &[256, 1 << 57], 12, 0),
        ("four sizes", &[1 << 20, 1 << 20, 1 << 20, 1 << 20], 0, 0),
    ] {
        let message = refused(what, &one(dims, kind, offset));
        assert!(message.contains("can be counted") || message.contains("truncated"), "{what}: {message}");
    }
    assert!(refused("zero", &one(&[4, 0], 0, 0)).contains("sizes above zero"));
    assert!(refused("no size", &one(&[], 0, 0)).contains("one to four dimensions"));
    assert!(refused("five", &one(&[1, 1, 1, 1, 1], 0, 0)).contains("one to four dimensions"));
    assert!(refused("a type", &one(&[4, 4], 11, 0)).contains("type 11"));
    assert!(refused("rows", &one(&[4, 4], 2, 0)).contains("whole Q4_0 blocks of 32"));
    assert!(refused("offset", &one(&[4, 4], 0, 8)).contains("a multiple of 32"));
    assert!(refused("past the end", &one(&[4, 4], 0, 32)).contains("truncated"));
    assert!(refused("far past it", &one(&[4, 4], 0, u64::MAX - 31)).contains("truncated"));
    let two = |offset| {
        llama(2, 0).tensor("token_embd.weight", &[4, 4], 0, 0).tensor("b", &[4, 4], 0, offset).data(128)
    };
    assert!(refused("overlap", &two(32)).contains("tensors overlap"));
    assert!(refused("twice in one place", &two(0)).contains("tensors overlap"));
    let twice = llama(2, 0)
        .tensor("token_embd.weight", &[4, 4], 0, 0)
        .tensor("token_embd.weight", &[4, 4], 0, 64)
        .data(128);
    assert!(refused("twice", &twice).contains("every tensor once"));
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let whole = llama(1, 1)
        .string("tokenizer.ggml.model", "gpt2")
        .tensor("token_embd.weight", &[4, 4], 0, 0)
        .data(64);
    for end in 0..whole.0.len() - 1 {
        refused("cut", &File(whole.0[..end].to_vec()));
    }
    // Not cut, it has no tokens.
    assert!(refused("whole", &whole).contains("tokenizer.ggml.tokens"));
}

#[test]
fn headers_of_other_kinds_are_told_apart() {
    assert!(refused("magic", &File::default().bytes(b"GGML").u32(1).data(64)).contains("GGUF"));
    assert!(refused("version 1", &File::start(1, 0, 0).data(64)).contains("2 or 3"));
    assert!(refused("big-endian", &File::start(3_u32.swap_bytes(), 0, 0).data(64)).contains("big-endian"));
    assert!(refused("nothing", &File::default()).contains("the magic number"));
    let other = File::start(3, 0, 1).string("general.architecture", "a\nb\u{1b}[31m");
    assert!(refused("architecture", &other).contains("`a\\nb\\u{1b}[31m`"));
    let parts = File::start(3, 0, 1).text("split.count").u32(2).bytes(&3_u16.to_le_bytes());
    assert!(refused("split", &parts.data(64)).contains("a model in one file"));
    let alignment = File::start(3, 0, 1).size("general.alignment", 24);
    assert!(refused("alignment", &alignment.data(64)).contains("a power of two"));
    let flag = File::start(3, 0, 1).text("f").u32(7).bytes(&[2]);
    assert!(refused("flag", &flag.data(64)).contains("0 or 1"));
    let kind = File::start(3, 0, 1).text("f").u32(13);
    assert!(refused("kind", &kind.data(64)).contains("from 0 to 12"));
    let spelled = File::start(3, 0, 1).u64(2).bytes(&[0xFF, 0xFE]);
    assert!(refused("utf-8", &spelled.data(64)).contains("UTF-8"));
}

#[test]
fn sizes_that_make_no_sense_end_nowhere_bad() {
    // Heads that do not share the rows, and a number of layers that no file holds.
    let query = |heads: u32, layers: u32| {
        let file = File::start(3, 2, 7)
            .string("general.architecture", "llama")
            .size("llama.context_length", 8)
            .size("llama.embedding_length", 4)
            .size("llama.feed_forward_length", 8)
            .size("llama.block_count", layers)
            .size("llama.attention.head_count", heads)
            .text("llama.attention.layer_norm_rms_epsilon")
            .u32(6)
            .bytes(&1e-5_f32.to_le_bytes());
        file.tensor("token_embd.weight", &[4, 4], 0, 0)
            .tensor("blk.0.attn_q.weight", &[4, 4], 0, 64)
            .data(128)
    };
    assert!(refused("heads", &query(3, 1)).contains("suits the number of heads"));
    assert!(refused("no heads", &query(0, 1)).contains("suits the number of heads"));
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("model.gguf");
    std::fs::write(&path, query(1, u32::MAX).0).unwrap();
    let start = Instant::now();
    assert!(Weights::open(&path).is_ok());
    assert!(taiyi_model::Decoder::check(&path).is_err());
    assert!(start.elapsed().as_secs() < 2, "{:?}", start.elapsed());
}

#[test]
fn tokenizers_that_do_not_fit_together() {
    let with = |more: u64, entries: &dyn Fn(File) -> File| {
        let file = entries(llama(1, more).string("tokenizer.ggml.model", "gpt2"));
        file.tensor("token_embd.weight", &[4, 4], 0, 0).data(64)
    };
    let tokens = |file: File| file.text("tokenizer.ggml.tokens").u32(9).u32(8).u64(2).text("a").text("b");
    let message = refused("pre", &with(2, &|file| tokens(file)));
    assert!(message.contains("`default` is not supported"), "{message}");
    let message = refused("bytes", &with(3, &|file| tokens(file).string("tokenizer.ggml.pre", "qwen2")));
    assert!(message.contains("none for byte 0x00"), "{message}");
    let kinds = |file: File, n: u64| {
        let mut file = file.text("tokenizer.ggml.token_type").u32(9).u32(5).u64(n);
        for _ in 0..n {
            file = file.u32(9);
        }
        file
    };
    let message = refused("too few kinds", &with(3, &|file| kinds(tokens(file), 1)));
    assert!(message.contains("one for each token"), "{message}");
    let message = refused("odd kinds", &with(3, &|file| kinds(tokens(file), 2)));
    assert!(message.contains("numbers from 1 to 6"), "{message}");
    let path = Path::new("nowhere/model.gguf");
    assert!(Tokenizer::load(path).is_err() && Weights::open(path).is_err());
}
