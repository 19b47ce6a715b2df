//! What a person sees: stdout is data, everything else goes to stderr; progress only where someone watches.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::failure::Failure;

/// Writes a line of data to stdout. A reader that went away (`| head`) ends the program quietly.
pub(crate) fn line(text: &str) {
    let mut stdout = std::io::stdout().lock();
    if stdout.write_all(text.as_bytes()).and_then(|()| stdout.write_all(b"\n")).is_err() {
        std::process::exit(0);
    }
}

/// Writes text to stdout at once, without a line end: streamed replies.
pub(crate) fn stream(text: &str) {
    let mut stdout = std::io::stdout().lock();
    if stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).is_err() {
        std::process::exit(0);
    }
}

/// Writes a value to stdout as indented JSON.
pub(crate) fn json(value: &impl Serialize) -> Result<(), Failure> {
    line(&serde_json::to_string_pretty(value)?);
    Ok(())
}

/// Writes a line for people to stderr.
pub(crate) fn note(text: &str) {
    // Nobody is left to tell when stderr is gone.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// A progress bar with rate and time left on stderr; a line every few seconds where stderr is not a terminal.
pub(crate) struct Progress {
    bar: ProgressBar,
    unit: &'static str,
    label: String,
    quiet_since: std::cell::Cell<std::time::Instant>,
}

/// How often a line is written where no bar can be drawn.
const LINE_EVERY: Duration = Duration::from_secs(10);

impl Progress {
    /// A bar of `total` units; 0 where the total is not known.
    pub(crate) fn new(label: &str, total: u64, unit: &'static str) -> Self {
        let bar = if total == 0 { ProgressBar::new_spinner() } else { ProgressBar::new(total) };
        if std::io::stderr().is_terminal() {
            let template = if total == 0 {
                format!("{{msg}} {{spinner}} {{human_pos}} {unit} ({{per_sec}}, {{elapsed}})")
            } else {
                format!("{{msg}} [{{bar:30}}] {{human_pos}}/{{human_len}} {unit} ({{per_sec}}, {{eta}} left)")
            };
            bar.set_style(
                ProgressStyle::with_template(&template).expect("the template is fixed").progress_chars("=> "),
            );
        } else {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        bar.set_message(label.to_owned());
        Self {
            bar,
            unit,
            label: label.to_owned(),
            quiet_since: std::cell::Cell::new(std::time::Instant::now()),
        }
    }

    /// Moves to `done` units, with a remark behind the label.
    pub(crate) fn set(&self, done: u64, remark: &str) {
        self.bar.set_position(done);
        let message =
            if remark.is_empty() { self.label.clone() } else { format!("{} ({remark})", self.label) };
        if self.bar.is_hidden() && self.quiet_since.get().elapsed() > LINE_EVERY {
            self.quiet_since.set(std::time::Instant::now());
            let total = self.bar.length().map(|total| format!("/{total}")).unwrap_or_default();
            note(&format!(
                "{message}: {done}{total} {} ({:.1}/s, {} s left)",
                self.unit,
                self.bar.per_sec(),
                self.bar.eta().as_secs()
            ));
        }
        self.bar.set_message(message);
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }

    /// Writes a line above the bar.
    pub(crate) fn note(&self, text: &str) {
        self.bar.suspend(|| note(text));
    }
}
