//! How a command ends: exit 0 fine, 1 findings, 2 error; one line that says what, and a hint what to do.

use std::fmt::Display;

/// A command's error, as a person sees it.
#[derive(Debug)]
pub(crate) struct Failure {
    /// Where, what was expected, what was found; one line.
    pub(crate) message: String,
    /// What to do about it.
    pub(crate) hint: Option<String>,
}

impl Failure {
    /// An error without a hint.
    pub(crate) fn new(message: impl Display) -> Self {
        Self { message: one_line(&message.to_string()), hint: None }
    }

    /// Adds what to do about it.
    pub(crate) fn hint(mut self, hint: impl Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }
}

/// Any library error becomes one line: its own words and those of its causes that it does not already quote.
impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(inner) = cause {
            let text = inner.to_string();
            if !message.contains(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
            cause = inner.source();
        }
        Self::new(message)
    }
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

/// What a command found, where it did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Nothing to report: exit 0.
    Fine,
    /// Findings were printed: exit 1.
    Findings,
}

/// What every command returns.
pub(crate) type CommandResult = Result<Outcome, Failure>;
