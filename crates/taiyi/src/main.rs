//! `taiyi`: a bilingual biomedical multi-task language-model system.
//!
//! This crate holds what a person touches: arguments, progress, messages, exit codes. Everything else is in the
//! libraries, which know nothing of it.
#![forbid(unsafe_code)]

mod cards;
mod commands;
mod embedded;
mod failure;
mod labeller;
mod loading;
mod replier;
mod terminal;

use std::process::ExitCode;

use clap::Parser;

use failure::Outcome;

/// A bilingual (Chinese/English) biomedical multi-task language-model system.
///
/// The line runs corpus -> instructions -> training -> model -> inference -> evaluation; every stage reads and
/// writes files. `taiyi quickstart` walks all of it on the shipped samples.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Arguments {
    /// What libraries report on stderr: error, warn, info, debug or trace.
    #[arg(long, global = true, default_value = "warn", value_name = "LEVEL", display_order = 900)]
    log: String,
    /// Threads to compute with (default: all cores).
    #[arg(long, global = true, value_name = "N", display_order = 901)]
    threads: Option<usize>,
    #[command(subcommand)]
    command: commands::Command,
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    let filter = tracing_subscriber::EnvFilter::try_new(&arguments.log)
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false).init();
    if let Some(threads) = arguments.threads {
        taiyi_kernels::set_threads(threads);
    }
    match arguments.command.run() {
        Ok(Outcome::Fine) => ExitCode::SUCCESS,
        Ok(Outcome::Findings) => ExitCode::from(1),
        Err(failure) => {
            terminal::note(&format!("error: {}", failure.message));
            if let Some(hint) = failure.hint {
                terminal::note(&format!("\nhint: {hint}"));
            }
            ExitCode::from(2)
        }
    }
}
