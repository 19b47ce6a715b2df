//! Every format on made-up records, through the real cards: snapshots of the documents, findings, round trips.

use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

use taiyi_corpus::schema::Document;
use taiyi_corpus::source::Source;
use taiyi_corpus::{Card, Catalog, Error, OutputFormat, build, check, parquet, read_from, readers};

/// The plain files under `tests/fixtures`, compressed as the cards say the real ones are.
struct Fixtures;

impl Source for Fixtures {
    fn open(&self, path: &str) -> Result<Box<dyn Read + Send>, Error> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        let failed = |source| Error::Open { path: path.to_owned(), source };
        let bytes = if let Some(name) = path.strip_suffix(".tar.gz") {
            gzip(&tar(&folder.join(name)).map_err(failed)?)
        } else if let Some(name) = path.strip_suffix(".gz") {
            gzip(&std::fs::read(folder.join(name)).map_err(failed)?)
        } else {
            std::fs::read(folder.join(path)).map_err(failed)?
        };
        Ok(Box::new(Cursor::new(bytes)))
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::read::GzEncoder::new(bytes, flate2::Compression::fast());
    let mut out = Vec::new();
    encoder.read_to_end(&mut out).unwrap();
    out
}

fn tar(folder: &Path) -> std::io::Result<Vec<u8>> {
    let mut files: Vec<PathBuf> = Vec::new();
    for sub in std::fs::read_dir(folder)? {
        for file in std::fs::read_dir(sub?.path())? {
            files.push(file?.path());
        }
    }
    files.sort();
    let mut archive = tar::Builder::new(Vec::new());
    for file in files {
        archive.append_path_with_name(&file, file.strip_prefix(folder).unwrap())?;
    }
    archive.into_inner()
}

/// The documents of every split of every variant whose files have a fixture.
fn documents(card: &Card) -> Vec<(String, Vec<Document>)> {
    let mut all = Vec::new();
    for variant in &card.variants {
        for split in variant.split_names() {
            if variant.splits[split].files.iter().any(|file| Fixtures.open(&file.path).is_err()) {
                continue;
            }
            let found = read_from(card, Some(&variant.id), split, &Fixtures).unwrap();
            all.push((format!("{}/{split}", variant.id), found.map(Result::unwrap).collect()));
        }
    }
    all
}

fn cards() -> impl Iterator<Item = &'static Card> {
    let real = |card: &&Card| !matches!(card.variants[0].format, readers::Format::Jsonl(_));
    Catalog::embedded().iter().filter(real)
}

#[test]
fn documents_of_every_dataset() {
    for card in cards() {
        let mut shown = String::new();
        for (split, documents) in documents(card) {
            shown.push_str(&format!("# {split}\n"));
            for document in documents {
                shown.push_str(&serde_json::to_string(&document).unwrap());
                shown.push('\n');
            }
        }
        assert!(!shown.is_empty(), "{} has no fixture", card.id);
        insta::assert_snapshot!(card.id.clone(), shown);
    }
}

#[test]
fn jsonl_and_parquet_read_back_to_equal_documents() {
    let folder = tempfile::tempdir().unwrap();
    for card in cards() {
        for (number, (_, documents)) in documents(card).into_iter().enumerate() {
            let path = folder.path().join(format!("{}-{number}.parquet", card.id));
            assert_eq!(parquet::write(&path, documents.clone().into_iter()).unwrap(), documents.len() as u64);
            let back: Vec<Document> = parquet::read(&path).unwrap().map(Result::unwrap).collect();
            assert_eq!(back, documents);
            let path = path.with_extension("jsonl");
            taiyi_corpus::write::write_jsonl(&path, documents.clone().into_iter()).unwrap();
            let text = std::fs::read_to_string(&path).unwrap();
            let back: Vec<Document> = readers::jsonl::from_text("x", &text).map(Result::unwrap).collect();
            assert_eq!(back, documents);
        }
    }
}

#[test]
fn a_build_is_complete_when_its_manifest_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let card = Catalog::embedded().card("pubmed_qa").unwrap();
    for format in [OutputFormat::Jsonl, OutputFormat::Parquet] {
        let manifest = build(card, None, &Fixtures, folder.path(), format, &mut |_| {}).unwrap();
        let text = std::fs::read_to_string(folder.path().join("pubmed_qa/manifest.json")).unwrap();
        assert_eq!(serde_json::from_str::<taiyi_corpus::Manifest>(&text).unwrap(), manifest);
        let sizes: Vec<_> =
            manifest.splits.iter().map(|split| (split.split.as_str(), split.documents)).collect();
        assert_eq!(sizes, [("train", 1), ("test", 1)]);
    }
    // A source that is not there leaves no manifest behind, not even the old one.
    let empty = taiyi_corpus::source::Memory::default();
    let error = build(card, None, &empty, folder.path(), OutputFormat::Jsonl, &mut |_| {}).unwrap_err();
    assert!(error.to_string().starts_with("pubmed_qa/"), "{error}");
    assert!(!folder.path().join("pubmed_qa/manifest.json").exists());
    let left = std::fs::read_dir(folder.path().join("pubmed_qa")).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(left.iter().all(|name| !name.starts_with(".tmp")), "{left:?}");
}

#[test]
fn a_check_finds_what_is_wrong() {
    let bad = [
        // The text of T1 is not what stands at its offsets; T2's type is unknown; R1 names a concept no mention has.
        "1|t|Made up.\n1|a|Drug A.\n1\t9\t15\tDrug B\tChemical\tD1\n1\t9\t15\tDrug A\tGene\tD1\n1\tCID\tD1\tD2\n",
        // Past the end: the document is lost, the rest goes on.
        "2|t|Made up.\n2|a|x\n2\t3\t99\tx\tChemical\tD1\n",
        // The text of 1 again.
        "3|t|MADE UP\n3|a|drug-a\n",
    ];
    let path = |split: &str| format!("bc5cdr/CDR_{split}Set.PubTator.txt.gz");
    let mut memory = taiyi_corpus::source::Memory::default();
    memory.0.insert(path("Training"), gzip(b"1|t|Made up.\n1|a|Drug A.\n"));
    memory.0.insert(path("Development"), gzip(b""));
    memory.0.insert(path("Test"), gzip(bad.join("\n").as_bytes()));
    let card = Catalog::embedded().card("bc5cdr").unwrap();
    let report = check(card, Some("pubtator"), &memory, &mut |_, _| {}).unwrap();
    assert!(!report.is_clean());
    let findings = &report.datasets[0].findings;
    let in_test = findings.iter().filter(|finding| finding.split == "test" && finding.place != "card");
    let found: Vec<_> = in_test.map(|finding| (finding.code, finding.place.as_str())).collect();
    assert_eq!(
        found,
        [
            ("file_changed", "bc5cdr/CDR_TestSet.PubTator.txt.gz"),
            ("duplicate_id", "1"),
            ("shared_id", "1"),
            ("shared_text", "1"),
            ("unknown_label", "1"),
            ("text_mismatch", "1/T1"),
            ("unresolved_reference", "1/R1"),
            ("unreadable_record", "bc5cdr/CDR_TestSet.PubTator.txt.gz:9"),
            ("shared_text", "3"),
        ]
    );
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["datasets"][0]["splits"]["test"]["entities"]["Chemical"], 1);
    assert_eq!(json["datasets"][0]["splits"]["test"]["relations"]["CID"], 1);
    assert!(json["datasets"][0]["findings"][0]["where"].is_string());
}

#[test]
fn known_errors_are_counted_not_hidden() {
    let card = "id = 'made_up'\ndisplay_name = 'x'\nlanguages = ['en']\ntasks = ['TC']\nlicense = 'x'\n\
        redistributable = true\nlocal = false\nhomepage = 'x'\ncitation = 'x'\ndocument_ids = 'split'\nnotes = ''\n\
        [[variants]]\nid = 'v'\nformat = { name = 'labelled_json', text = ['t'], label = 'l' }\n\
        splits.all.files = [{ path = 'x.json' }]\n\
        known = [{ code = 'duplicate_text', split = 'all', count = N, note = 'made up' }]\n";
    let mut memory = taiyi_corpus::source::Memory::default();
    let record = r#"{"t": "the same", "l": "a"}"#;
    memory.0.insert("x.json".into(), format!("[{record}, {record}, {record}]").into_bytes());
    let clean = |count: usize| {
        let card = Card::parse("made_up.toml", &card.replace('N', &count.to_string())).unwrap();
        let report = check(&card, None, &memory, &mut |_, _| {}).unwrap();
        (report.is_clean(), report.datasets[0].findings.len())
    };
    assert_eq!(clean(1), (false, 2), "one more than declared fails");
    assert_eq!(clean(2), (true, 2));
    assert_eq!(clean(3), (false, 3), "a card that declares too many is wrong");
}
