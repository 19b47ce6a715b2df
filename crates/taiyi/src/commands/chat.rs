//! `taiyi chat`: a conversation with the model, a line at a time, the reply as it comes.

use std::io::{BufRead, IsTerminal, Write};

use clap::Args;
use taiyi_infer::{ChatOptions, ChatSession, Finish, ReplyModel};

use crate::failure::{CommandResult, Failure, Outcome};
use crate::loading::ModelArguments;
use crate::terminal;

/// Arguments of `taiyi chat`.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// System message that opens the conversation.
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Most tokens of a reply.
    #[arg(long, value_name = "N", default_value_t = 500)]
    max_new_tokens: usize,
    /// 0 takes the likeliest token each time; higher is more varied (default: as published for the chat format).
    #[arg(long, value_name = "NUMBER")]
    temperature: Option<f32>,
    /// Draw only from the likeliest tokens that together reach this probability.
    #[arg(long, value_name = "NUMBER")]
    top_p: Option<f32>,
    /// Draw only from this many of the likeliest tokens; 0 for all.
    #[arg(long, value_name = "N")]
    top_k: Option<usize>,
    /// Above 1 makes tokens that were said already less likely.
    #[arg(long, value_name = "NUMBER")]
    repetition_penalty: Option<f32>,
    /// Seed of the draws: the same seed gives the same conversation.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

/// Said once, before the first reply, in both languages.
const NOTICE: &str = "What follows is written by a language model. It may be wrong and is not medical advice.\n\
                      以下内容由语言模型生成，可能有误，不构成医疗建议。";

const HELP: &str = "/clear forgets the conversation, /exit ends it · /clear 清空对话，/exit 退出";

/// Runs `taiyi chat`.
pub(crate) fn run(arguments: Arguments) -> CommandResult {
    let folder = arguments.model.folder()?;
    let mut model = arguments.model.load(&folder)?;
    let mut options = ChatOptions::for_format(model.format());
    options.system.clone_from(&arguments.system);
    options.max_new_tokens = arguments.max_new_tokens;
    let sampling = &mut options.sampling;
    sampling.temperature = arguments.temperature.unwrap_or(sampling.temperature);
    sampling.top_p = arguments.top_p.unwrap_or(sampling.top_p);
    sampling.top_k = arguments.top_k.unwrap_or(sampling.top_k);
    sampling.repetition_penalty = arguments.repetition_penalty.unwrap_or(sampling.repetition_penalty);
    sampling.seed = arguments.seed;
    sampling.check()?;
    terminal::note(NOTICE);
    terminal::note(HELP);
    talk(&mut model, ChatSession::new(options))
}

fn talk(model: &mut ReplyModel, mut session: ChatSession) -> CommandResult {
    let stdin = std::io::stdin();
    let interactive = stdin.is_terminal();
    let mut lines = stdin.lock();
    let mut outcome = Outcome::Fine;
    let mut bytes = Vec::new();
    for number in 1.. {
        if interactive {
            // A prompt that cannot be drawn is missed by nobody.
            let _ = write!(std::io::stderr(), "> ").and_then(|()| std::io::stderr().flush());
        }
        bytes.clear();
        let read = lines
            .read_until(b'\n', &mut bytes)
            .map_err(|error| Failure::new(format!("stdin: cannot be read: {error}")))?;
        if read == 0 {
            break;
        }
        let refused = |message: String| {
            terminal::note(&format!("error: {message}"));
            Outcome::Findings
        };
        let Ok(line) = std::str::from_utf8(&bytes) else {
            outcome = refused(format!("stdin:{number}: expected UTF-8 text, found other bytes"));
            continue;
        };
        match line.trim() {
            "" => {}
            "/exit" | "/quit" => break,
            "/clear" => {
                session.clear();
                terminal::note("cleared · 已清空");
            }
            "/help" => terminal::note(HELP),
            text => match session.say(model, text, &mut |piece| {
                terminal::stream(piece);
                true
            }) {
                Ok(reply) => {
                    terminal::line("");
                    if reply.finish == Finish::Length {
                        terminal::note("(cut off at --max-new-tokens · 已达最大长度)");
                    }
                }
                Err(error) => outcome = refused(Failure::from(error).message),
            },
        }
    }
    Ok(outcome)
}
