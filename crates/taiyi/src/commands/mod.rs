//! The commands: one file each with its arguments and `run`, and a line here.

mod chat;
mod corpus;
mod eval;
mod extract;
mod instruct;
mod model;
mod quickstart;
mod tokenize;
mod tokenizer;
pub(crate) mod train;

use crate::failure::CommandResult;

macro_rules! commands {
    ($($(#[$meta:meta])* $name:ident($module:ident),)*) => {
        /// The verbs of the command line.
        #[derive(clap::Subcommand)]
        pub(crate) enum Command {
            $($(#[$meta])* $name($module::Arguments),)*
        }

        impl Command {
            /// Runs the command.
            pub(crate) fn run(self) -> CommandResult {
                match self {
                    $(Self::$name(arguments) => $module::run(arguments),)*
                }
            }
        }
    };
}

commands! {
    /// Talk to a model, a line at a time.
    Chat(chat),
    /// The datasets: list, build, check, find leaks, collect pre-training text.
    Corpus(corpus),
    /// Benchmarks: ask a model or an endpoint, score replies.
    Eval(eval),
    /// Entities and relations out of files and folders, with offsets.
    Extract(extract),
    /// Instruction data: build it, look at it, prove that answers can be read back.
    Instruct(instruct),
    /// Checkpoints: what they are, logits, greedy continuations, merging of adapters.
    Model(model),
    /// The whole line on the shipped samples, offline: data, two-stage tuning, scores before and after, a report.
    Quickstart(quickstart),
    /// Text to token ids and back.
    Tokenize(tokenize),
    /// A tokenizer of one's own.
    Tokenizer(tokenizer),
    /// Pre-training and two-stage fine-tuning, as a recipe says.
    Train(train),
}
