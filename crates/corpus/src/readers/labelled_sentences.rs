//! An archive of texts, one sentence per line, beside label files, one group per sentence (HoC as released).
//!
//! ```text
//! text/1234567.txt     The cells did not die .
//!                      We measured this .
//! labels/1234567.txt   <Resisting cell death--Apoptosis ANDCellular energetics--Glycolysis<
//! ```
//!
//! Every label group starts with `<`; labels in it are joined by `AND` and written from the top of the hierarchy
//! down with `--`; `NULL` says that there is none, as an empty group does. The top is the label, in lower case, as in the document-level edition of the set.
//! Specification: the README of <https://github.com/sb895/Hallmarks-of-Cancer>.

use serde::Deserialize;

use super::keyed_qa::ids;
use super::{Files, Reading, draft};
use crate::card::Role;
use crate::error::{At, Error};
use crate::schema::{Content, Document, Tc};
use crate::source::{Encoding, decode};

/// Options of the format: the folders in the archive.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// The folder of the texts.
    pub texts: String,
    /// The folder of the labels.
    pub labels: String,
}

/// Reads the sentences of a split's documents, in the order of their names.
///
/// # Errors
/// Where a file cannot be opened, or the archive or the split's ids cannot be read.
pub fn read(files: &Files, options: &Options) -> Result<Reading, Error> {
    let include = ids(files, Role::Include)?;
    let exclude = ids(files, Role::Exclude)?.unwrap_or_default();
    let mut documents = Vec::new();
    for input in files.open(Role::Documents)? {
        let archive = input.name.clone();
        let members = input.members()?;
        for (name, bytes) in &members {
            let folder = format!("{}/", options.texts);
            let Some(id) = name.strip_prefix(&folder).and_then(|name| name.strip_suffix(".txt")) else {
                continue;
            };
            if include.as_ref().is_some_and(|ids| !ids.contains(id)) || exclude.contains(id) {
                continue;
            }
            let beside = format!("{}/{id}.txt", options.labels);
            let at = At::new(&format!("{archive}/{name}"), 0);
            match members.get(&beside) {
                Some(labels) => match sentences(id, bytes, labels, &at) {
                    Ok(found) => documents.extend(found.into_iter().map(Ok)),
                    Err(error) => documents.push(Err(error)),
                },
                None => documents.push(Err(at.record(
                    format!("a label file `{beside}`"),
                    "none",
                    "fetch the archive again",
                ))),
            }
        }
    }
    Ok(Box::new(documents.into_iter()))
}

fn sentences(id: &str, text: &[u8], labels: &[u8], at: &At) -> Result<Vec<Document>, Error> {
    let text = decode(text.to_vec(), Encoding::Utf8, &at.file, 1)?;
    let labels = decode(labels.to_vec(), Encoding::Utf8, &at.file, 1)?;
    let sentences: Vec<&str> = text.lines().collect();
    let groups: Vec<&str> = labels.split('<').skip(1).collect();
    if sentences.len() != groups.len() {
        let expected = format!("{} label groups, one per sentence", sentences.len());
        return Err(at.record(expected, groups.len().to_string(), "repair the label file"));
    }
    let numbered = sentences.iter().zip(groups).enumerate();
    Ok(numbered
        .map(|(number, (sentence, group))| {
            let mut labels: Vec<String> = Vec::new();
            for label in group.split("AND") {
                let top = label.split("--").next().unwrap_or_default().trim().to_lowercase();
                if !top.is_empty() && top != "null" && !labels.contains(&top) {
                    labels.push(top);
                }
            }
            let mut document = draft(id, Content::Tc(Tc { text: (*sentence).to_owned(), labels }));
            document.id = format!("{id}-{}", number + 1);
            document
        })
        .collect())
}
