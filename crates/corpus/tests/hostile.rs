//! Readers never panic, whatever the bytes: random ones, and fixtures cut, spliced and overwritten.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use taiyi_corpus::source::Memory;
use taiyi_corpus::{Card, Catalog, Error, read_from};

/// The fixture of a card's file, compressed or not as its name says.
fn fixture(path: &str) -> Option<PathBuf> {
    let plain = path.trim_end_matches(".gz");
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(plain);
    file.is_file().then_some(file)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Read;
    let mut out = Vec::new();
    flate2::read::GzEncoder::new(bytes, flate2::Compression::fast()).read_to_end(&mut out).unwrap();
    out
}

fn read_all(card: &Card, memory: &Memory) {
    for variant in &card.variants {
        for split in variant.splits.keys() {
            let Ok(documents) = read_from(card, Some(&variant.id), split, memory) else { continue };
            let mut after_fault = 0;
            for document in documents {
                if let Err(error) = document {
                    after_fault += usize::from(!error.is_record());
                    let line = error.to_string();
                    assert!(!line.contains('\n'), "one line: {line}");
                }
            }
            assert!(after_fault <= 1, "nothing follows a fault of the whole file");
        }
    }
}

fn with(card: &Card, mut change: impl FnMut(Vec<u8>) -> Vec<u8>) -> Memory {
    let mut memory = Memory::default();
    let files =
        card.variants.iter().flat_map(|variant| variant.splits.values()).flat_map(|split| &split.files);
    for file in files {
        if memory.0.contains_key(&file.path) {
            continue;
        }
        let bytes = fixture(&file.path).map(|path| std::fs::read(path).unwrap()).unwrap_or_default();
        let bytes = change(bytes);
        memory.0.insert(file.path.clone(), if file.path.ends_with(".gz") { gzip(&bytes) } else { bytes });
    }
    memory
}

/// Enough for every run, the same each time; `TAIYI_HOSTILE_CASES` asks for more.
fn cases() -> u32 {
    std::env::var("TAIYI_HOSTILE_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(64)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), rng_seed: RngSeed::Fixed(20), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        for card in Catalog::embedded().iter() {
            read_all(card, &with(card, |_| bytes.clone()));
        }
    }

    #[test]
    fn changed_fixtures(cuts in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4_u8), 1..6)) {
        for card in Catalog::embedded().iter() {
            let memory = with(card, |mut bytes| {
                for (at, byte, what) in &cuts {
                    if bytes.is_empty() {
                        break;
                    }
                    let at = at.index(bytes.len());
                    match what {
                        0 => bytes[at] = *byte,
                        1 => bytes.truncate(at),
                        2 => bytes.insert(at, *byte),
                        _ => drop(bytes.remove(at)),
                    }
                }
                bytes
            });
            read_all(card, &memory);
        }
    }

    #[test]
    fn truncated_archives(cut in any::<prop::sample::Index>()) {
        for card in Catalog::embedded().iter() {
            let mut memory = with(card, |bytes| bytes);
            for bytes in memory.0.values_mut() {
                if !bytes.is_empty() {
                    bytes.truncate(cut.index(bytes.len()));
                }
            }
            read_all(card, &memory);
        }
    }
}

#[test]
fn a_wrong_encoding_is_one_line_for_every_format() {
    for card in Catalog::embedded().iter().filter(|card| card.language().code() == "zh") {
        let gb = |bytes: Vec<u8>| {
            let text = String::from_utf8(bytes).unwrap();
            encoding_rs::GB18030.encode(&text).0.into_owned()
        };
        let memory = with(card, gb);
        for variant in &card.variants {
            for (split, entry) in &variant.splits {
                if entry.files.iter().any(|file| fixture(&file.path).is_none()) {
                    continue;
                }
                let failed = match read_from(card, Some(&variant.id), split, &memory) {
                    Ok(documents) => documents.filter_map(Result::err).collect(),
                    Err(error) => vec![error],
                };
                assert_eq!(failed.len(), 1, "{}: {failed:?}", card.id);
                assert!(matches!(failed[0], Error::Encoding { .. }), "{}: {}", card.id, failed[0]);
                assert!(failed[0].to_string().contains("GB18030"), "{}", failed[0]);
            }
        }
    }
}
