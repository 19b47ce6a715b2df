//! A trained tokenizer encodes as Hugging Face's own library does from the same file, and trains the same each time.

use std::fmt::Write as _;
use std::fs;

use taiyi_model::tokenizer::{
    Tokenizer, TokenizerError, Trainer, TrainerOptions, TrainingInput, TrainingProgress, train_bpe,
};

/// Bilingual lines with every kind of character the pipeline treats apart.
fn lines() -> Vec<String> {
    let english = [
        "The patient's blood pressure was 152/94 mmHg, and she didn't report chest pain.",
        "BRCA1 c.68_69delAG (p.Glu23Valfs*17) was found in 3 of 1,204 probands.",
        "We'll re-evaluate the dose: 0.5 mg/kg q.i.d. for 10-14 days.",
        "Aspirin irreversibly inhibits cyclooxygenase-1 in platelets; aspirin inhibits platelet aggregation.",
    ];
    let chinese = [
        "患者因反复胸闷、气促三天入院，既往有高血压病史十年，血压控制不佳。",
        "慢性阻塞性肺疾病（COPD）是一种常见的、可以预防和治疗的疾病。",
        "糖尿病患者应当控制饮食，适量运动，定期监测血糖，必要时使用胰岛素治疗。",
        "請問服用阿司匹林期間可以飲酒嗎？副作用有哪些？",
    ];
    let other = [
        "  leading and   inner    spaces\tand\t\ttabs  ",
        "\n\n\nline ends \r\n\r\n mixed \n \n",
        "🧬👩\u{200d}⚕\u{fe0f}x 🎅💨 emoji",
        "cafe\u{301} naïve Ångström \u{212b} 한국어 \u{1112}\u{1161}\u{11ab} ไทย عربى",
        "\u{3000}全角　空格\u{a0}nbsp\u{2028}ls",
        "½ Ⅷ ٣ ² 𝟘① 1234567890 3.14159",
        "'S 'LL l'ſ ''re IT'S don't",
        "飘飘飘\u{20000}\u{2a6a5}龘靐齉",
        "\u{0}\u{1}\u{7f}\u{fffd}\u{feff}\u{10ffff}",
        "<|endoftext|>inside<|im_end|>text<|extra_0|><|extra_99|>",
        "",
    ];
    let mut lines: Vec<String> =
        english.iter().chain(&chinese).chain(&other).map(|s| s.to_string()).collect();
    // Further mixtures: every line beside every other, cut at odd places.
    for (i, a) in english.iter().chain(&other).enumerate() {
        for b in chinese.iter().chain(&other) {
            let a: String = a.chars().skip(i).collect();
            let b: String = b.chars().skip(i / 2).collect();
            lines.push(format!("{a}{b}"));
            lines.push(format!("{b} {a}"));
        }
    }
    lines
}

/// Enough repetition for a few hundred merges.
fn corpus() -> String {
    let mut text = String::new();
    for (i, line) in lines().iter().cycle().take(1500).enumerate() {
        writeln!(text, "{line} {}", i * 37 % 1001).unwrap();
    }
    text
}

fn options() -> TrainerOptions {
    TrainerOptions { vocab_size: 900, ..TrainerOptions::default() }
}

fn train(texts: &[(&str, f64)], options: TrainerOptions) -> taiyi_model::tokenizer::TrainedTokenizer {
    let mut trainer = Trainer::new(options).unwrap();
    for (text, weight) in texts {
        trainer.add(text, *weight).unwrap();
    }
    trainer.finish(&mut |_| {}).unwrap()
}

#[test]
fn hugging_face_encodes_the_same_from_the_written_file() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = corpus();
    let trained = train(&[(&corpus, 1.0)], options());
    trained.save(dir.path()).unwrap();
    let ours = Tokenizer::load(dir.path()).unwrap();
    assert_eq!(ours.vocab_size(), 900);
    assert_eq!(ours.special_id("<|endoftext|>"), Some(884));
    assert_eq!(ours.special_id("<|extra_12|>"), Some(899));
    assert_eq!(ours.eos_id(), Some(884));

    let theirs = tokenizers::Tokenizer::from_file(dir.path().join("tokenizer.json")).unwrap();
    assert_eq!(theirs.get_vocab_size(true), 900);
    let mut without_special = theirs.clone();
    without_special.set_encode_special_tokens(true);
    for line in lines() {
        let ids = ours.encode_with_special(&line);
        assert_eq!(ids, theirs.encode(line.as_str(), false).unwrap().get_ids(), "{line:?}");
        let ordinary = ours.encode(&line);
        assert_eq!(ordinary, without_special.encode(line.as_str(), false).unwrap().get_ids(), "{line:?}");
        assert_eq!(ours.decode(&ids), theirs.decode(&ids, false).unwrap());
        assert_eq!(ours.decode_without_special(&ids), theirs.decode(&ids, true).unwrap());
        assert_eq!(ours.decode(&ordinary), ours.decode(&ids));
        assert_eq!(trained.tokenizer().encode(&line), ordinary);
    }
    // Not just bytes: the vocabulary holds words of both languages.
    let words = lines()[..8].concat();
    assert!(ours.encode(&words).len() * 2 < words.len());
}

#[test]
fn whole_text_and_long_pieces_agree_with_hugging_face() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = corpus();
    train(&[(&corpus, 1.0)], options()).save(dir.path()).unwrap();
    let ours = Tokenizer::load(dir.path()).unwrap();
    let theirs = tokenizers::Tokenizer::from_file(dir.path().join("tokenizer.json")).unwrap();
    // Pieces beyond what the scanning merge loop takes: long runs of letters, of one letter, of spaces, of marks.
    let run: String = corpus.chars().filter(|c| c.is_alphabetic()).take(3000).collect();
    for text in
        [&corpus[..20_000.min(corpus.len())], &run, &"a".repeat(999), &" ".repeat(500), &"。！".repeat(300)]
    {
        let text = &text[..text.floor_char_boundary(text.len())];
        let ids = ours.encode_with_special(text);
        let expected = theirs.encode(text, false).unwrap();
        let differs = ids.iter().zip(expected.get_ids()).position(|(a, b)| a != b);
        assert!(differs.is_none() && ids.len() == expected.get_ids().len(), "at id {differs:?}");
        assert!(ours.decode(&ids) == theirs.decode(&ids, false).unwrap());
    }
}

#[test]
fn training_is_deterministic_and_weights_shift_the_balance() {
    let (english, chinese): (Vec<String>, Vec<String>) =
        lines().into_iter().partition(|line| line.is_ascii());
    let (english, chinese) = (english.join("\n").repeat(20), chinese.join("\n").repeat(20));
    let saved = |texts: &[(&str, f64)]| {
        let dir = tempfile::tempdir().unwrap();
        train(texts, TrainerOptions { vocab_size: 420, ..options() }).save(dir.path()).unwrap();
        fs::read_to_string(dir.path().join("tokenizer.json")).unwrap()
    };
    let even = saved(&[(&english, 1.0), (&chinese, 1.0)]);
    assert_eq!(even, saved(&[(&english, 1.0), (&chinese, 1.0)]));
    assert_eq!(even, saved(&[(&chinese, 1.0), (&english, 1.0)]), "the order of inputs does not matter");

    let length = |weights: (f64, f64)| {
        let trained = train(
            &[(&english, weights.0), (&chinese, weights.1)],
            TrainerOptions { vocab_size: 420, ..options() },
        );
        (trained.tokenizer().encode(&english).len(), trained.tokenizer().encode(&chinese).len())
    };
    let (for_english, for_chinese) = (length((20.0, 1.0)), length((1.0, 20.0)));
    assert!(
        for_english.0 < for_chinese.0 && for_english.1 > for_chinese.1,
        "{for_english:?} {for_chinese:?}"
    );
}

#[test]
fn limits_are_kept() {
    let line = "-".repeat(64) + &"病".repeat(64) + "\n";
    let trained = train(
        &[(&line.repeat(100), 1.0)],
        TrainerOptions { vocab_size: 400, longest_token_chars: 4, longest_piece_chars: 8, ..options() },
    );
    let tokenizer = trained.tokenizer();
    assert!(trained.vocab_size() < 400, "there are not that many merges in this text");
    assert!(tokenizer.token_to_id("----").is_some() && tokenizer.token_to_id("-----").is_none());
    assert!(tokenizer.token_to_id("病病病病").is_some() && tokenizer.token_to_id("病病病病病").is_none());

    // With room for few pieces the frequent ones are kept.
    let mut trainer = Trainer::new(TrainerOptions { most_pieces: 50, vocab_size: 300, ..options() }).unwrap();
    for i in 0..400 {
        let rare: String = (0..5).map(|k| char::from(b'a' + (i * 7 + k * k * 3) as u8 % 26)).collect();
        trainer.add(&format!(" platelet {rare}{i}"), 1.0).unwrap();
    }
    let trained = trainer.finish(&mut |_| {}).unwrap();
    assert!(trained.tokenizer().token_to_id(" platelet").is_some());
}

#[test]
fn files_are_read_in_blocks_and_progress_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let text = corpus();
    let (lines, line) = (dir.path().join("lines.txt"), dir.path().join("line.txt"));
    fs::write(&lines, &text).unwrap();
    // One line of more than a block, Chinese, so that blocks end inside characters.
    fs::write(&line, "糖尿病患者应当控制饮食".repeat(80_000)).unwrap();
    let inputs = [TrainingInput { path: lines, weight: 1.0 }, TrainingInput { path: line, weight: 0.5 }];
    let mut seen = Vec::new();
    let trained = train_bpe(&inputs, options(), &mut |progress| seen.push(progress)).unwrap();
    assert!(trained.tokenizer().encode("糖尿病患者应当控制饮食").len() <= 4);
    let total = inputs.iter().map(|input| fs::metadata(&input.path).unwrap().len()).sum();
    assert!(seen.contains(&TrainingProgress::Counting { bytes: total, of: total }), "{seen:?}");
    assert!(matches!(seen.last(), Some(TrainingProgress::Merging { of: 884, .. })));
}

#[test]
fn impossible_training_is_refused_in_one_line() {
    let check = |error: TokenizerError, part: &str| {
        let message = error.to_string();
        assert!(message.contains(part) && !message.contains('\n'), "{message}");
    };
    check(Trainer::new(TrainerOptions { vocab_size: 271, ..options() }).unwrap_err(), "expected 272");
    let twice = vec!["<|a|>".to_owned(), "<|a|>".to_owned()];
    check(Trainer::new(TrainerOptions { special_tokens: twice, ..options() }).unwrap_err(), "occurs twice");
    check(Trainer::new(options()).unwrap().finish(&mut |_| {}).unwrap_err(), "no text");
    check(Trainer::new(options()).unwrap().add("x", f64::NAN).unwrap_err(), "weight");
    check(Trainer::new(options()).unwrap().add("x", 0.0).unwrap_err(), "weight");

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gb18030.txt");
    fs::write(&path, b"plain\n\xcc\xc7\xc4\xf2\xb2\xa1\n").unwrap();
    let inputs = [TrainingInput { path, weight: 1.0 }];
    check(train_bpe(&inputs, options(), &mut |_| {}).unwrap_err(), "byte 6: expected UTF-8 text");
    let inputs = [TrainingInput { path: dir.path().join("none.txt"), weight: 1.0 }];
    check(train_bpe(&inputs, options(), &mut |_| {}).unwrap_err(), "none.txt");
}
