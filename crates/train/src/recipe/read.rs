//! Turns the TOML reader's complaints into ours: file, line, key, nearest known key.

use super::Recipe;
use crate::TrainError;
use std::path::Path;

pub(super) fn parse(file: &Path, text: &str) -> Result<Recipe, TrainError> {
    toml::from_str(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start.min(text.len()));
        let line = text.as_bytes()[..start].iter().filter(|&&byte| byte == b'\n').count() + 1;
        let key =
            text.lines().nth(line - 1).and_then(|found| found.split_once('=')).map(|(key, _)| key.trim());
        TrainError::Recipe { file: file.to_owned(), line, message: reword(error.message(), key) }
    })
}

/// Rewords serde's fixed sentences ("unknown field `x`, expected one of `a`, `b`"), and passes any other on.
fn reword(message: &str, key: Option<&str>) -> String {
    let message = message.trim_end();
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    match (quoted.as_slice(), key) {
        ([unknown, known @ ..], _) if message.starts_with("unknown field") => {
            format!("unknown key `{unknown}`; {}", advice(unknown, known, "known keys"))
        }
        ([unknown, known @ ..], Some(key)) if message.starts_with("unknown variant") => {
            format!("`{key}` is `{unknown}`; {}", advice(unknown, known, "expected one of"))
        }
        ([missing], _) if message.starts_with("missing field") => format!("missing key `{missing}`"),
        (_, Some(key)) if message.starts_with("invalid type") => format!("`{key}`: {message}"),
        _ => message.replace('\n', "; "),
    }
}

fn advice(unknown: &str, known: &[&str], list: &str) -> String {
    let nearest = known.iter().min_by_key(|candidate| distance(unknown, candidate));
    match nearest {
        // Further than a third of the word is a guess, not a correction.
        Some(nearest) if distance(unknown, nearest) <= unknown.chars().count().div_ceil(3) => {
            format!("did you mean `{nearest}`?")
        }
        _ => format!("{list}: {}", known.join(", ")),
    }
}

/// Levenshtein distance in characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &cb) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(ca != cb);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::distance;

    #[test]
    fn distances_worked_by_hand() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("epochs", "epochs"), 0);
        assert_eq!(distance("学习率", "学习"), 1);
    }
}
