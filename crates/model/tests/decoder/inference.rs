//! Caches and batches: however a text is cut and whatever runs beside it, it gets the same logits.

use taiyi_kernels::Precision;
use taiyi_model::{Decoder, Error, KvCache, Logits, LoraConfig, Workspace};

use crate::golden::{logits, mark_text, noise, shake, tiny_others, tiny_qwen, tiny_qwen2};

fn text(seed: u64, n: usize) -> Vec<u32> {
    noise(seed, n).iter().map(|x| (x % 23) as u32).collect()
}

fn decoders() -> Vec<Decoder> {
    let mut adapted = Decoder::random(tiny_qwen2(true), 2).unwrap();
    let lora = LoraConfig {
        rank: 2,
        alpha: 4.0,
        dropout: 0.5,
        targets: vec!["all-linear".into()],
        rslora: false,
        dora: true,
    };
    adapted.add_lora(&lora, 3).unwrap();
    shake(&mut adapted, 8, 0.2);
    let mut rounded = Decoder::random(tiny_qwen2(false), 2).unwrap();
    rounded.set_precision(Precision::Bf16);
    let others = tiny_others().into_iter().map(|config| Decoder::random(config, 2).unwrap());
    [Decoder::random(tiny_qwen(), 2).unwrap(), adapted, rounded].into_iter().chain(others).collect()
}

#[test]
fn a_text_in_pieces_is_the_text_in_one() {
    for decoder in decoders() {
        let mut ids = text(1, 14);
        mark_text(decoder.config(), &mut ids);
        let whole = logits(&decoder, &ids);
        let v = decoder.config().vocab_size;
        for pieces in [vec![14], vec![5, 9], vec![1; 14], vec![7, 1, 1, 5]] {
            // Where a part of the prompt sees itself both ways, that part comes at once.
            if decoder.config().prefix.is_some() && pieces[0] < 6 {
                continue;
            }
            let mut cache = KvCache::new(decoder.config(), 14);
            cache.expect_prefill(14);
            let (mut at, mut workspace) = (0, Workspace::new());
            for n in pieces {
                let piece = &ids[at..at + n];
                let found = decoder.forward(&mut [(piece, &mut cache)], Logits::All, &mut workspace).unwrap();
                assert_eq!(found, &whole[at * v..(at + n) * v], "bit for bit");
                at += n;
                assert_eq!(cache.len(), at);
            }
        }
    }
}

#[test]
fn a_batch_gives_each_sequence_what_it_gets_alone() {
    for decoder in decoders() {
        let mut texts = [text(1, 3), text(2, 20), text(3, 3), text(4, 9)];
        texts.iter_mut().for_each(|ids| mark_text(decoder.config(), ids));
        let v = decoder.config().vocab_size;
        let mut caches: Vec<KvCache> = texts.iter().map(|_| KvCache::new(decoder.config(), 30)).collect();
        let mut alone: Vec<KvCache> = caches.clone();
        let mut workspace = Workspace::new();
        for round in 0..3u32 {
            let new: Vec<Vec<u32>> =
                texts.iter().map(|t| if round == 0 { t.clone() } else { vec![round] }).collect();
            let mut batch: Vec<(&[u32], &mut KvCache)> =
                new.iter().map(|t| &t[..]).zip(&mut caches).collect();
            let found = decoder.forward(&mut batch, Logits::Last, &mut workspace).unwrap().to_vec();
            for (i, (new, cache)) in new.iter().zip(&mut alone).enumerate() {
                let mut own = Workspace::new();
                let expected = decoder.forward(&mut [(new, cache)], Logits::Last, &mut own).unwrap();
                assert_eq!(&found[i * v..(i + 1) * v], expected, "sequence {i}, round {round}");
            }
        }
    }
}

#[test]
fn a_prefix_can_be_shared_and_taken_back() {
    let decoder = &decoders()[0];
    let (prefix, a, b) = (text(1, 6), text(2, 4), text(3, 5));
    let join = |tail: &[u32]| [&prefix[..], tail].concat();
    let mut workspace = Workspace::new();
    let mut shared = KvCache::new(decoder.config(), 6);
    decoder.forward(&mut [(&prefix, &mut shared)], Logits::Last, &mut workspace).unwrap();
    let mut cache = KvCache::new(decoder.config(), 16);
    cache.copy_prefix(&shared, 6).unwrap();
    for tail in [&a, &b] {
        cache.truncate(6);
        let found = decoder.forward(&mut [(tail, &mut cache)], Logits::All, &mut workspace).unwrap();
        let whole = logits(decoder, &join(tail));
        assert_eq!(found, &whole[6 * 23..]);
    }
    let mut small = KvCache::new(decoder.config(), 4);
    assert!(matches!(small.copy_prefix(&shared, 6), Err(Error::CacheFull { .. })));
    assert!(matches!(cache.copy_prefix(&shared, 7), Err(Error::Input { .. })));
}

/// ChatGLM-6B's prompt sees itself both ways, so that no part of it can be kept when the rest is forgotten.
#[test]
fn a_prompt_seen_both_ways_is_whole_or_not_at_all() {
    let config = tiny_others().pop().unwrap();
    let decoder = Decoder::random(config, 2).unwrap();
    let mut ids = text(1, 12);
    mark_text(decoder.config(), &mut ids);
    let mut workspace = Workspace::new();
    let mut cache = KvCache::new(decoder.config(), 12);
    let error = decoder.forward(&mut [(&ids[..4], &mut cache)], Logits::Last, &mut workspace).unwrap_err();
    assert!(error.to_string().contains("the mark that begins the answer (22)"), "{error}");
    decoder.forward(&mut [(&ids, &mut cache)], Logits::Last, &mut workspace).unwrap();
    let mut other = KvCache::new(decoder.config(), 12);
    assert!(other.copy_prefix(&cache, 5).is_err());
    other.copy_prefix(&cache, 6).unwrap();
    let found =
        decoder.forward(&mut [(&ids[6..], &mut other)], Logits::Last, &mut workspace).unwrap().to_vec();
    let whole = logits(&decoder, &ids);
    assert_eq!(found, &whole[11 * 23..]);
    cache.truncate(5);
    assert!(cache.is_empty());
}

#[test]
fn a_sequence_longer_than_its_table_of_positions_is_refused() {
    let config = tiny_others().into_iter().find(|c| c.model_type == "biogpt").unwrap();
    let decoder = Decoder::random(config, 2).unwrap();
    let ids = text(1, 41);
    let mut cache = KvCache::new(decoder.config(), 41);
    let mut workspace = Workspace::new();
    let error = decoder.forward(&mut [(&ids, &mut cache)], Logits::Last, &mut workspace).unwrap_err();
    assert!(error.to_string().contains("at most 40 tokens"), "{error}");
    assert!(cache.is_empty());
    decoder.forward(&mut [(&ids[..40], &mut cache)], Logits::Last, &mut workspace).unwrap();
    assert!(decoder.forward(&mut [(&[1], &mut cache)], Logits::Last, &mut workspace).is_err());
}

#[test]
fn the_alpha_of_the_prefill_stays() {
    let decoder = Decoder::random(tiny_qwen(), 2).unwrap();
    // Trained for 16 tokens: a prefill of 10 goes on past 16 with alpha 1, a prefill of 20 has alpha 3.
    let ids = text(5, 20);
    let run = |pieces: &[usize], expected: Option<usize>| {
        let mut cache = KvCache::new(decoder.config(), 20);
        if let Some(n) = expected {
            cache.expect_prefill(n);
        }
        let (mut at, mut workspace, mut last) = (0, Workspace::new(), Vec::new());
        for n in pieces {
            last = decoder
                .forward(&mut [(&ids[at..at + n], &mut cache)], Logits::Last, &mut workspace)
                .unwrap()
                .to_vec();
            at += n;
        }
        last
    };
    let whole = run(&[20], None);
    let crossing = run(&[10, 10], None);
    assert_ne!(whole, crossing);
    assert_eq!(crossing, run(&[10, 1, 1, 8], None));
    assert_eq!(whole, run(&[10, 10], Some(20)));
}

#[test]
fn what_cannot_be_run_is_refused_and_changes_nothing() {
    let decoder = &decoders()[1];
    let mut workspace = Workspace::new();
    let mut cache = KvCache::new(decoder.config(), 4);
    let mut other = KvCache::new(decoder.config(), 4);
    let error = decoder.forward(&mut [], Logits::Last, &mut workspace).unwrap_err();
    assert_eq!(error.to_string(), "batch: expected at least one sequence, found none");
    decoder.forward(&mut [(&[1, 2, 3], &mut cache)], Logits::Last, &mut workspace).unwrap();
    let error = decoder
        .forward(&mut [(&[1], &mut other), (&[1, 2], &mut cache)], Logits::Last, &mut workspace)
        .unwrap_err();
    assert_eq!(error.to_string(), "key/value cache: 3 of 4 positions are used and 2 more are asked for");
    assert_eq!((cache.len(), other.len()), (3, 0));
    let error = decoder.forward(&mut [(&[], &mut cache)], Logits::Last, &mut workspace).unwrap_err();
    assert!(error.to_string().contains("at least one new token"), "{error}");
    let error = decoder.forward(&mut [(&[23], &mut cache)], Logits::Last, &mut workspace).unwrap_err();
    assert!(error.to_string().contains("vocabulary size 23"), "{error}");
    let mut foreign = KvCache::new(&tiny_qwen(), 4);
    let error = decoder.forward(&mut [(&[1], &mut foreign)], Logits::Last, &mut workspace).unwrap_err();
    assert!(error.to_string().contains("another model"), "{error}");
}
