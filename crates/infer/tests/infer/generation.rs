//! However requests are run together, each gets what it gets alone.

use taiyi_infer::{BatchOptions, Event, Finish, Generation, InferError, Request, Sampling, generate};
use taiyi_kernels::Precision;
use taiyi_model::{Decoder, KvCache, Logits, Workspace};

use crate::tiny::{qwen, qwen2};

const VOCABULARY: usize = 61;

fn ids(seed: u32, n: usize) -> Vec<u32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) % VOCABULARY as u32
    };
    (0..n).map(|_| next()).collect()
}

fn request(prompt: Vec<u32>, max_new_tokens: usize) -> Request {
    Request { prompt, max_new_tokens, sampling: Sampling::GREEDY, constraint: None }
}

fn run(decoder: &Decoder, requests: &[Request], batch: usize, stop_ids: &[u32]) -> Vec<Generation> {
    generate(decoder, requests, BatchOptions { stop_ids, batch }, &mut |_, _| true).unwrap()
}

fn alone(decoder: &Decoder, requests: &[Request], stop_ids: &[u32]) -> Vec<Generation> {
    requests.iter().flat_map(|one| run(decoder, std::slice::from_ref(one), 1, stop_ids)).collect()
}

fn without_reuse(generations: Vec<Generation>) -> Vec<Generation> {
    generations.into_iter().map(|one| Generation { reused: 0, ..one }).collect()
}

/// Exact products, rounded ones, and a model whose rope depends on the length of the prompt.
fn decoders() -> Vec<Decoder> {
    let mut rounded = Decoder::random(qwen2(VOCABULARY, 400), 2).unwrap();
    rounded.set_precision(Precision::Bf16);
    let scaled = Decoder::random(qwen(VOCABULARY, 32, 400), 3).unwrap();
    vec![Decoder::random(qwen2(VOCABULARY, 400), 1).unwrap(), rounded, scaled]
}

/// An instruction before texts of all lengths, one text before several questions, prompts of nothing in common, a prompt
/// inside another, a prompt twice; greedy and drawn.
fn mixed() -> Vec<Request> {
    let instruction = ids(1, 40);
    let text = ids(2, 150);
    let mut requests = Vec::new();
    for (seed, n) in [(10, 1), (11, 30), (12, 170), (13, 7), (14, 90)] {
        requests.push(request([&instruction[..], &ids(seed, n)].concat(), 12));
        requests.push(request([&text[..], &ids(seed, 3)].concat(), 5 + n % 9));
        requests.push(request(ids(seed + 100, n), 8));
    }
    requests.push(request(instruction.clone(), 6));
    requests.push(request(instruction, 9));
    for (at, request) in requests.iter_mut().enumerate().filter(|(at, _)| at % 3 == 1) {
        request.sampling = Sampling { seed: at as u64, temperature: 0.9, ..Sampling::TAIYI2 };
    }
    requests
}

#[test]
fn a_batch_gives_each_request_what_it_gets_alone() {
    for decoder in decoders() {
        let requests = mixed();
        let expected = alone(&decoder, &requests, &[7, 8]);
        assert!(expected.iter().any(|one| one.finish == Finish::Stop), "stop ids were met");
        assert!(expected.iter().any(|one| one.finish == Finish::Length));
        assert!(expected.iter().all(|one| one.reused == 0));
        for batch in [1, 2, 5, 64] {
            let found = run(&decoder, &requests, batch, &[7, 8]);
            let reused: usize = found.iter().map(|one| one.reused).sum();
            assert!(batch < 5 || reused > 300, "{reused} tokens shared, {batch} side by side");
            assert_eq!(without_reuse(found), expected, "{batch} side by side");
        }
    }
}

#[test]
fn a_shared_beginning_is_run_once() {
    let decoder = Decoder::random(qwen2(VOCABULARY, 400), 1).unwrap();
    let instruction = ids(1, 100);
    let prompts: Vec<Vec<u32>> =
        (0..9).map(|at| [&instruction[..], &[at], &ids(50 + at, 20)].concat()).collect();
    let requests: Vec<Request> = prompts.into_iter().map(|prompt| request(prompt, 4)).collect();
    for batch in [1, 4, 32] {
        let found = run(&decoder, &requests, batch, &[]);
        assert_eq!(found[0].reused, 0);
        for one in &found[1..] {
            assert_eq!(one.reused, 100, "{batch} side by side");
        }
    }
}

/// What makes sharing right: keys and values taken over give the same logits, bit for bit, as those run here.
#[test]
fn taken_over_keys_give_the_same_bits() {
    for decoder in decoders() {
        let (v, prompt) = (decoder.config().vocab_size, ids(5, 300));
        let mut workspace = Workspace::new();
        let mut whole = KvCache::new(decoder.config(), 300);
        let expected =
            decoder.forward(&mut [(&prompt, &mut whole)], Logits::Last, &mut workspace).unwrap().to_vec();
        for shared in [1, 16, 127, 128, 129, 200, 299] {
            // Another prompt of the same length, so that lengths decide nothing.
            let other = [&prompt[..shared], &ids(6, 300 - shared)].concat();
            let mut source = KvCache::new(decoder.config(), 300);
            decoder.forward(&mut [(&other, &mut source)], Logits::Last, &mut workspace).unwrap();
            let mut cache = KvCache::new(decoder.config(), 320);
            cache.copy_prefix(&source, shared).unwrap();
            let found = decoder
                .forward(&mut [(&prompt[shared..], &mut cache)], Logits::Last, &mut workspace)
                .unwrap();
            let same = found.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same && found.len() == v, "{shared} of 300 taken over");
        }
    }
}

#[test]
fn keys_of_another_scaling_are_not_taken_over() {
    // Qwen v1 turns keys otherwise in prompts beyond 32 tokens, and again beyond 64.
    let decoder = Decoder::random(qwen(VOCABULARY, 32, 400), 3).unwrap();
    let long = ids(1, 120);
    // One new token each, whose keys are never needed: only prompts can be taken over.
    let requests: Vec<Request> = [100, 20, 30, 120, 60].map(|n| request(long[..n].to_vec(), 1)).into();
    let expected = alone(&decoder, &requests, &[]);
    // One at a time only the sequence that ended last is kept.
    for (batch, shared) in [(1, [0, 0, 20, 0, 0]), (8, [0, 0, 20, 100, 0])] {
        let found = run(&decoder, &requests, batch, &[]);
        let reused: Vec<usize> = found.iter().map(|one| one.reused).collect();
        assert_eq!(reused, shared);
        assert_eq!(without_reuse(found), expected);
    }
}

#[test]
fn a_stop_id_ends_a_sequence_and_is_not_part_of_it() {
    let decoder = Decoder::random(qwen2(VOCABULARY, 400), 1).unwrap();
    let requests = [request(ids(3, 9), 20)];
    let free = &run(&decoder, &requests, 1, &[])[0];
    assert_eq!((free.ids.len(), free.finish), (20, Finish::Length));
    for stop in &free.ids {
        let before = free.ids.iter().position(|id| id == stop).unwrap();
        let stopped = &run(&decoder, &requests, 1, &[*stop])[0];
        assert_eq!(stopped.ids, free.ids[..before]);
        assert_eq!(stopped.finish, Finish::Stop);
    }
}

#[test]
fn lengths_are_kept_to() {
    let decoder = Decoder::random(qwen2(VOCABULARY, 50), 1).unwrap();
    let requests = [request(ids(3, 47), 20), request(ids(4, 10), 5), request(ids(5, 10), 0)];
    let found = run(&decoder, &requests, 8, &[]);
    let lengths: Vec<usize> = found.iter().map(|one| one.ids.len()).collect();
    assert_eq!(lengths, [3, 5, 0], "the model's last position, the limit, nothing");
    assert!(found.iter().all(|one| one.finish == Finish::Length));
}

#[test]
fn prompts_without_room_are_one_clear_error() {
    let decoder = Decoder::random(qwen2(VOCABULARY, 50), 1).unwrap();
    let options = BatchOptions { stop_ids: &[], batch: 2 };
    let mut told = 0;
    let requests = [request(ids(3, 5), 3), request(ids(3, 50), 1)];
    let error = generate(&decoder, &requests, options, &mut |_, _| {
        told += 1;
        true
    })
    .unwrap_err();
    assert_eq!(told, 0, "nothing is run before all prompts are checked");
    assert_eq!(
        error.to_string(),
        "prompt 1: expected fewer than the 50 tokens that the model holds, found 50; shorten the text or split it"
    );
    let error = generate(&decoder, &[request(vec![], 1)], options, &mut |_, _| true).unwrap_err();
    assert!(matches!(error, InferError::EmptyPrompt { request: 0 }));
    let wrong = Request { sampling: Sampling { top_p: 2.0, ..Sampling::GREEDY }, ..request(ids(1, 3), 1) };
    let error = generate(&decoder, &[wrong], options, &mut |_, _| true).unwrap_err();
    assert_eq!(error.to_string(), "top_p: expected a number above 0 and at most 1, found 2");
    let unknown = request(vec![VOCABULARY as u32], 1);
    assert!(matches!(
        generate(&decoder, &[unknown], options, &mut |_, _| true).unwrap_err(),
        InferError::Model(_)
    ));
}

#[test]
fn a_listener_hears_everything_and_can_end_one_sequence() {
    let decoder = Decoder::random(qwen2(VOCABULARY, 400), 1).unwrap();
    let requests = [request(ids(3, 9), 10), request(ids(4, 9), 10), request(ids(5, 30), 10)];
    let expected = alone(&decoder, &requests, &[]);
    let mut heard = vec![Vec::new(); 3];
    let mut ended = Vec::new();
    let options = BatchOptions { stop_ids: &[], batch: 3 };
    let found = generate(&decoder, &requests, options, &mut |at, event| match event {
        Event::Token(id) => {
            heard[at].push(id);
            at != 1 || heard[1].len() < 4
        }
        Event::Finished(generation) => {
            ended.push((at, generation.finish));
            true
        }
    })
    .unwrap();
    assert_eq!(found[1].finish, Finish::Cancelled);
    assert_eq!(found[1].ids, expected[1].ids[..4]);
    assert_eq!((&found[0], &found[2]), (&expected[0], &expected[2]));
    assert_eq!(ended, [(1, Finish::Cancelled), (0, Finish::Length), (2, Finish::Length)]);
    for (heard, generation) in heard.iter().zip(&found) {
        assert_eq!(heard, &generation.ids);
    }
}
