//! What people have, read into documents.

use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::write::GzEncoder;
use taiyi_corpus::schema::{Content, Document, Language};
use taiyi_corpus::writers::{DocumentFormat, write_documents};
use taiyi_infer::InferError;
use taiyi_infer::input::{self, InputFormat};

fn write(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, bytes).unwrap();
    path
}

fn gzipped(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

fn read(path: &Path) -> Vec<Result<Document, InferError>> {
    input::read(input::find(&[path.to_owned()]).unwrap().files).collect()
}

fn text(document: &Document) -> String {
    match &document.content {
        Content::Ie(ie) => ie.text(),
        other => panic!("{other:?}"),
    }
}

const BIOC: &str = "<?xml version=\"1.0\"?><collection><document><id>77</id><passage><offset>0</offset>\
    <text>Aspirin.</text></passage></document></collection>";

#[test]
fn a_folder_is_read_in_order_and_what_is_left_out_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    write(path, "b/一.txt", "患者头痛。");
    write(path, "b/two.TXT", "\u{feff}Two\r\nlines\r\n");
    write(path, "a.jsonl", "{\"id\": 5, \"text\": \"fever\"}\n\n{\"text\": \"头痛\", \"note\": 1}\n");
    write(path, "c.xml", BIOC);
    write(path, "d.txt.gz", gzipped("1|t|Title\n1|a|Abstract\n1\t0\t5\tTitle\tX\n"));
    write(path, "e.pubtator", "1|t|Other\n1|a|\n");
    write(path, "z.xml", "<html/>");
    write(path, "z.pdf", "%PDF");
    write(path, "sub/z.PDF", "%PDF");
    write(path, "README", "?");
    write(path, ".hidden.txt", "?");
    let found = input::find(&[path.to_owned()]).unwrap();
    let names: Vec<(&str, InputFormat)> = found.files.iter().map(|file| (&*file.name, file.format)).collect();
    assert_eq!(
        names,
        [
            ("a", InputFormat::Jsonl),
            ("b/two", InputFormat::Text),
            ("b/一", InputFormat::Text),
            ("c", InputFormat::BiocXml),
            ("d", InputFormat::Pubtator),
            ("e", InputFormat::Pubtator),
        ]
    );
    let unsupported: Vec<(&str, usize)> =
        found.unsupported.iter().map(|(name, count)| (&**name, *count)).collect();
    assert_eq!(unsupported, [("", 1), (".pdf", 2), (".xml that is no BioC", 1)]);
    assert_eq!(found.unsupported_count(), 4);
    let documents: Vec<Document> = input::read(found.files).map(Result::unwrap).collect();
    let read: Vec<(&str, String, Language)> =
        documents.iter().map(|document| (&*document.id, text(document), document.language)).collect();
    let expected = [
        ("5", "fever", Language::En),
        ("a-2", "头痛", Language::Zh),
        ("b/two", "Two\r\nlines\r\n", Language::En),
        ("b/一", "患者头痛。", Language::Zh),
        ("77", "Aspirin.", Language::En),
        ("1", "Title Abstract", Language::En),
        ("1#2", "Other ", Language::En),
    ];
    assert_eq!(read, expected.map(|(id, text, language)| (id, text.to_owned(), language)));
    assert_eq!(documents[6].document_id, "1");
}

#[test]
fn gb18030_is_recognised_in_every_format() {
    let folder = tempfile::tempdir().unwrap();
    let gb = |text: &str| encoding_rs::GB18030.encode(text).0.into_owned();
    for (name, content, expected) in [
        ("a.txt", "患者头痛三天。", "患者头痛三天。"),
        ("a.jsonl", "{\"text\": \"患者头痛三天。\"}\n", "患者头痛三天。"),
        ("a.pubtator", "1|t|头痛\n1|a|发热\n", "头痛 发热"),
    ] {
        let path = write(folder.path(), name, gb(content));
        let document = read(&path).pop().unwrap().unwrap();
        assert_eq!((text(&document).as_str(), document.language), (expected, Language::Zh), "{name}");
    }
    let path = write(folder.path(), "b.txt", [0xFF, 0xFF, 0x20]);
    let error = read(&path).pop().unwrap().unwrap_err().to_string();
    assert!(error.ends_with("b.txt: expected text in UTF-8 or GB18030, found bytes of neither"), "{error}");
}

#[test]
fn our_own_documents_are_taken_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let line = r#"{"id":"x","document_id":"9","dataset":"d","split":"dev","language":"zh","schema":"TC","text":"fever","labels":[]}"#;
    let path = write(folder.path(), "a.jsonl", line);
    let document = read(&path).pop().unwrap().unwrap();
    assert_eq!(document, serde_json::from_str::<Document>(line).unwrap());
    let again = folder.path().join("b.jsonl");
    write_documents(&again, DocumentFormat::Jsonl, [&document]).unwrap();
    assert_eq!(read(&again).pop().unwrap().unwrap(), document);
}

#[test]
fn a_bad_record_is_one_error_and_the_rest_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(
        folder.path(),
        "a.jsonl",
        "{\"text\": \"a\"}\n{\"txt\": 1}\nnot json\n{\"schema\": \"IE\"}\n{\"text\": \"b\"}\n",
    );
    let documents = read(&path);
    assert_eq!(documents.len(), 5);
    for (at, part) in [(1, "a.jsonl:2: expected {\"text\": \"…\"}"), (2, ":3: "), (3, ":4: ")] {
        let message = documents[at].as_ref().unwrap_err().to_string();
        assert!(message.contains(part) && !message.contains('\n'), "{message}");
    }
    assert_eq!(text(documents[4].as_ref().unwrap()), "b");
    // A file that breaks off is one error, and the next file follows.
    write(folder.path(), "b.xml", &BIOC[..BIOC.len() - 20]);
    let whole = gzipped(&"fever ".repeat(5000));
    write(folder.path(), "c.txt.gz", &whole[..whole.len() / 2]);
    write(folder.path(), "d.txt", "last");
    let documents: Vec<_> = input::read(input::find(&[folder.path().to_owned()]).unwrap().files).collect();
    assert_eq!(documents.len(), 8);
    for (at, part) in [(5, "b.xml:1: expected well-formed XML"), (6, "c.txt.gz:0: expected more data")] {
        let message = documents[at].as_ref().unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    }
    assert_eq!(text(documents[7].as_ref().unwrap()), "last");
}

#[test]
fn paths_that_cannot_be_read_are_one_clear_line() {
    let folder = tempfile::tempdir().unwrap();
    let error = input::find(&[folder.path().join("none")]).unwrap_err().to_string();
    assert!(error.contains("none: expected a readable file"), "{error}");
    let pdf = write(folder.path(), "a.pdf", "%PDF");
    let error = input::find(&[pdf]).unwrap_err().to_string();
    assert!(
        error.contains("a.pdf: expected a folder, or a .txt, .jsonl") && error.ends_with("found `.pdf`"),
        "{error}"
    );
    let bare = write(folder.path(), "bare", "?");
    assert!(input::find(&[bare]).unwrap_err().to_string().ends_with("found no extension"));
}

#[test]
fn a_real_corpus_is_written_and_reads_back_equal() {
    let source = "../../../shared/data/bc5cdr/CDR_TestSet.PubTator.txt.gz";
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(source);
    if !source.exists() {
        eprintln!("skipped: no BC5CDR beside the repository");
        return;
    }
    let documents: Vec<Document> = read(&source).into_iter().map(Result::unwrap).collect();
    assert_eq!(documents.len(), 500);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("again.pubtator");
    let written = write_documents(&path, DocumentFormat::Pubtator, &documents).unwrap();
    assert!(written.documents == 500 && written.losses.is_none(), "{written:?}");
    let again: Vec<Document> = read(&path).into_iter().map(Result::unwrap).collect();
    assert_eq!(again, documents);
    let brat = write_documents(&folder.path().join("brat"), DocumentFormat::Brat, &documents[..20]).unwrap();
    // BC5CDR does not name the terminology of its ids, which BRAT asks for.
    assert_eq!((brat.losses.unplaced, brat.losses.renamed, brat.losses.characters), (0, 0, 0));
}
