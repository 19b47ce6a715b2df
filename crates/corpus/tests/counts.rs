//! Every reader against the real files: counts per split and type equal the cards, which repeat the independent
//! counts of `../shared/data/counts.json`. Skipped, with the reason, where the files are not beside the repository.

use std::path::PathBuf;

use taiyi_corpus::schema::Content;
use taiyi_corpus::{Catalog, read};

fn source() -> Option<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    if folder.join("counts.json").is_file() {
        return Some(folder);
    }
    eprintln!("skipped: {} is not there", folder.display());
    None
}

#[test]
fn probe() {
    let Some(source) = source() else { return };
    for card in Catalog::embedded().iter() {
        for variant in &card.variants {
            for split in variant.split_names() {
                let expected = variant.splits[split].expected.clone().unwrap_or_default();
                let (mut documents, mut errors, mut entities, mut relations) = (0, 0, std::collections::BTreeMap::new(), std::collections::BTreeMap::new());
                for document in read(card, Some(&variant.id), split, &source).unwrap() {
                    match document {
                        Ok(document) => {
                            documents += 1;
                            if let Content::Ie(ie) = document.content {
                                for e in ie.entities { *entities.entry(e.kind).or_insert(0) += 1; }
                                for e in ie.relations { *relations.entry(e.kind).or_insert(0) += 1; }
                            }
                        }
                        Err(error) => { errors += 1; eprintln!("{error}"); }
                    }
                }
                eprintln!("{} {} {split}: {documents} {errors} {}", card.id, variant.id,
                    expected.documents == Some(documents) && expected.entities.unwrap_or_default() == entities && expected.relations.unwrap_or_default() == relations);
            }
        }
    }
}
