//! Running a Hugging Face chat template.

mod bounds;
mod python;

use std::borrow::Cow;
use std::collections::BTreeMap;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Rest};
use minijinja::{Environment, Error, ErrorKind, State, Value, escape_formatter};

use super::{Message, Role};
use crate::tokenizer::TokenizerError;

/// A compiled template.
#[derive(Debug)]
pub(crate) struct Template {
    name: String,
    environment: Environment<'static>,
    /// `bos_token` and the like, by name.
    tokens: BTreeMap<String, String>,
    /// Whether the template marks what the model says with `{% generation %}`.
    marks_answers: bool,
}

/// Characters that a rendering puts before and after what the template marks as said by the model.
pub(crate) type Marks = [char; 2];

/// The names templates go by inside their environment: the one, and what `{% generation %}` and its end stand for.
const SOLE: &str = "chat";
const BEGIN: &str = "generation begins";
const END: &str = "generation ends";

/// Macros that call macros.
const DEEPEST_CALL: usize = 100;

impl Template {
    /// Compiles a template under the settings Hugging Face's libraries use; `tokens` are the special tokens by name.
    pub(crate) fn new(
        name: &str,
        source: &str,
        tokens: BTreeMap<String, String>,
    ) -> Result<Self, TokenizerError> {
        let (environment, marks_answers) =
            environment(source).map_err(|error| refused(name, &error))?;
        Ok(Self { name: name.to_owned(), environment, tokens, marks_answers })
    }

    /// Whether the template itself says what the model says.
    pub(crate) fn marks_answers(&self) -> bool {
        self.marks_answers
    }

    /// Renders messages to text, with `marks` where the template marks answers.
    pub(crate) fn render(
        &self,
        messages: &[Message],
        generate: bool,
        marks: Marks,
    ) -> Result<String, TokenizerError> {
        let spoken = |message: &Message| {
            let role = match message.role {
                Role::System => "system",
                Role::User => "user",
                Role::Assistant => "assistant",
            };
            Value::from_pairs([("role", role), ("content", message.content.as_str())])
        };
        let variables = [
            ("messages", messages.iter().map(spoken).collect::<Vec<_>>().into()),
            ("add_generation_prompt", generate.into()),
            ("enable_thinking", false.into()),
            ("tools", ().into()),
            ("documents", ().into()),
            (BEGIN, marks[0].into()),
            (END, marks[1].into()),
        ];
        let tokens = self.tokens.iter().map(|(name, token)| (name.as_str(), Value::from(token.as_str())));
        let variables: Value = tokens.chain(variables).collect();
        let bytes = messages.iter().map(|message| message.content.len()).sum();
        bounds::counted(bytes, || self.environment.get_template(SOLE)?.render(variables))
            .map_err(|error| refused(&self.name, &error))
    }
}

/// The environment with the template in it, and whether the template marks answers.
fn environment(source: &str) -> Result<(Environment<'static>, bool), Error> {
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?;
    let (source, marks_answers) = without_generation_tags(source);
    let counting = bounds::counting(&source, &syntax)?;

    let mut environment = Environment::new();
    environment.set_syntax(syntax);
    environment.set_fuel(Some(counting.fuel));
    environment.set_recursion_limit(DEEPEST_CALL);
    environment.set_unknown_method_callback(python::method);
    environment.set_formatter(|out, state, value| {
        bounds::charge_value(value)?;
        escape_formatter(out, state, value)
    });
    environment.add_filter(bounds::FILTER, bounds::bounded);
    environment.add_filter("tojson", python::tojson);
    environment.add_filter("replace", |state: &mut State, text: Cow<'_, str>, from: Cow<'_, str>, to: Cow<'_, str>| {
        python::replaced(&text, Some(&from), Some(&to))?;
        minijinja::filters::replace(state, text, from, to)
    });
    environment.add_filter("join", |list: Value, between: Option<Cow<'_, str>>| {
        python::joined(&list, between.as_deref().unwrap_or_default())?;
        minijinja::filters::join(&list, between)
    });
    environment.add_filter("indent", |text: Cow<'_, str>, width: Option<Value>, first: Option<bool>, blank: Option<bool>| {
        let width = width.unwrap_or_else(|| Value::from(4));
        python::indented(&text, &width)?;
        let width = usize::try_from(width).unwrap_or(4);
        Ok::<_, Error>(minijinja::filters::indent(text.into_owned(), width, first, blank))
    });
    environment.add_filter("format", |format: Cow<'_, str>, values: Rest<Value>, named: Kwargs| {
        python::plain_format(&format)?;
        minijinja::filters::format(&format, values, named)
    });
    environment.add_function("raise_exception", |reason: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, reason))
    });
    let today = today();
    environment.add_function("strftime_now", move |format: &str| python::strftime(today, format));
    // Shows all variables, of any size.
    environment.remove_global("debug");
    environment.remove_filter("pprint");
    environment.add_template_owned(BEGIN, format!("{{{{ self_mark }}}}"))?;
    environment.add_template_owned(END, String::new())?;
    environment.add_template_owned(SOLE, counting.source)?;
    Ok((environment, marks_answers))
}

/// Seconds since 1970 for templates that show the date: the same for as long as a format is in use, and what `SOURCE_DATE_EPOCH`
/// says where it is set, so that a prompt can be the same on another day.
fn today() -> i64 {
    let said = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|text| text.trim().parse().ok());
    said.unwrap_or_else(|| {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(0))
    })
}
