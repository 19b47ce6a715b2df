//! The commands: one file each with its arguments and `run`, and a line here.

mod corpus;

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
    /// The datasets: list, build, check, find leaks, collect pre-training text.
    Corpus(corpus),
}
