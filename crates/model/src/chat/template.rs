//! Running a Hugging Face chat template.

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, Value, context};

use super::{Message, Role};
use crate::tokenizer::TokenizerError;

/// A compiled template.
#[derive(Debug)]
pub(crate) struct Template {
    name: String,
    environment: Environment<'static>,
    bos_token: Option<String>,
    eos_token: Option<String>,
}

/// The name the template goes by inside its environment.
const SOLE: &str = "chat";

/// Steps a rendering may take: a template of some hundred instructions over thousands of messages.
const FUEL: u64 = 2_000_000;

impl Template {
    /// Compiles a template under the settings Hugging Face's libraries use.
    pub(crate) fn new(
        name: &str,
        source: &str,
        bos_token: Option<String>,
        eos_token: Option<String>,
    ) -> Result<Self, TokenizerError> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| refused(name, &error))?);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |reason: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, reason))
        });
        environment.add_template_owned(SOLE, source.to_owned()).map_err(|error| refused(name, &error))?;
        Ok(Self { name: name.to_owned(), environment, bos_token, eos_token })
    }

    /// Renders messages to text.
    pub(crate) fn render(&self, messages: &[Message], generate: bool) -> Result<String, TokenizerError> {
        let spoken = |message: &Message| {
            let role = match message.role {
                Role::System => "system",
                Role::User => "user",
                Role::Assistant => "assistant",
            };
            Value::from_pairs([("role", role), ("content", message.content.as_str())])
        };
        let render = || {
            self.environment.get_template(SOLE)?.render(context! {
                messages => messages.iter().map(spoken).collect::<Vec<_>>(),
                add_generation_prompt => generate,
                bos_token => self.bos_token.as_deref().unwrap_or_default(),
                eos_token => self.eos_token.as_deref().unwrap_or_default(),
                tools => (),
                documents => (),
            })
        };
        render().map_err(|error| refused(&self.name, &error))
    }
}

fn refused(name: &str, error: &Error) -> TokenizerError {
    // A template may quote a message, whose content can hold the shield's noncharacters.
    let reason = error.to_string().replace('\n', " ").replace(|c| ('\u{FDD0}'..='\u{FDEF}').contains(&c), "");
    TokenizerError::Template { format: name.to_owned(), reason }
}
