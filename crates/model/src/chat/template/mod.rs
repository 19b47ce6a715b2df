//! Running a Hugging Face chat template.

mod bounds;
mod python;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Rest;
use minijinja::{Environment, Error, ErrorKind, State, Value, escape_formatter, filters};

use super::{Message, Role};
use crate::tokenizer::TokenizerError;

/// A compiled template.
#[derive(Debug)]
pub(crate) struct Template {
    name: String,
    environment: Environment<'static>,
    /// `bos_token` and the like, by name.
    tokens: BTreeMap<String, String>,
    marks_answers: bool,
}

/// Characters that a rendering puts before and after what the template marks as said by the model.
pub(crate) type Marks = [char; 2];

/// The name the template goes by inside its environment.
const SOLE: &str = "chat";

/// The names of the templates that write the marks, and of the variables that hold them.
const BEGIN: &str = "generation_begins";
const END: &str = "generation_ends";

/// What a message counts beside its text: templates look at all messages for each of them.
const EACH_MESSAGE_BYTES: usize = 256;

/// How deep macros may call macros.
const DEEPEST_CALL: usize = 100;

impl Template {
    /// Compiles a template under the settings Hugging Face's libraries use; `tokens` are the special tokens by name.
    pub(crate) fn new(
        name: &str,
        source: &str,
        tokens: BTreeMap<String, String>,
    ) -> Result<Self, TokenizerError> {
        let (environment, marks_answers) = environment(source).map_err(|error| refused(name, &error))?;
        Ok(Self { name: name.to_owned(), environment, tokens, marks_answers })
    }

    /// Whether the template says itself, with `{% generation %}`, what the model says.
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
            // Templates that know it leave the thinking out; others ignore it.
            ("enable_thinking", false.into()),
            ("tools", ().into()),
            ("documents", ().into()),
            (BEGIN, Value::from(marks[0].to_string())),
            (END, Value::from(marks[1].to_string())),
        ];
        let tokens = self.tokens.iter().map(|(name, token)| (name.as_str(), Value::from(token.as_str())));
        let variables = Value::from_pairs(tokens.chain(variables));
        let bytes = messages.iter().map(|message| message.content.len() + EACH_MESSAGE_BYTES).sum();
        let render = || bounds::counted(bytes, || self.environment.get_template(SOLE)?.render(variables));
        // The engine panics on a few odd slices (`x[0:5:-1]`); nothing of ours is touched when it does.
        let rendered = catch_unwind(AssertUnwindSafe(render)).unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::InvalidOperation, "the template engine failed on it"))
        });
        rendered.map_err(|error| refused(&self.name, &error))
    }
}

/// The environment with the template in it, and whether the template marks answers.
fn environment(source: &str) -> Result<(Environment<'static>, bool), Error> {
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?;
    let marked = with_marks(source);
    let counting = bounds::counting(marked.as_deref().unwrap_or(source), &syntax)?;

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
    environment.add_filter(bounds::STEPPED, bounds::stepped);
    environment.add_filter("tojson", python::tojson);
    // Filters that make more than they are given; the engine's own go by names that no template can write.
    environment.add_filter("own replace", filters::replace);
    environment.add_filter("own join", filters::join);
    environment.add_filter("own indent", filters::indent);
    environment.add_filter("own format", filters::format);
    environment.add_filter("replace", |state: &mut State, args: Rest<Value>| {
        let text = |index: usize| args.get(index).and_then(Value::as_str);
        python::replaced(text(0).unwrap_or_default(), text(1), text(2))?;
        state.apply_filter("own replace", &args)
    });
    environment.add_filter("join", |state: &mut State, args: Rest<Value>| {
        let between = args.get(1).and_then(Value::as_str).unwrap_or_default();
        python::joined(args.first().unwrap_or(&Value::UNDEFINED), between)?;
        state.apply_filter("own join", &args)
    });
    environment.add_filter("indent", |state: &mut State, args: Rest<Value>| {
        let text = args.first().and_then(Value::as_str).unwrap_or_default();
        python::indented(text, &args[1.min(args.len())..])?;
        state.apply_filter("own indent", &args)
    });
    environment.add_filter("format", |state: &mut State, args: Rest<Value>| {
        python::plain_format(args.first().and_then(Value::as_str).unwrap_or_default())?;
        state.apply_filter("own format", &args)
    });
    for name in ["pprint", "batch", "slice"] {
        environment.remove_filter(name);
    }
    // Nothing is no list in Python.
    environment
        .add_test("iterable", |value: &Value| !value.is_none() && minijinja::tests::is_iterable(value));
    // Shows all variables, of any size.
    environment.remove_global("debug");
    environment.add_function("raise_exception", |reason: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, reason))
    });
    let today = today();
    environment.add_function("strftime_now", move |format: String| python::strftime(today, &format));
    for name in [BEGIN, END] {
        environment.add_template_owned(name, format!("{{{{ {name} }}}}"))?;
    }
    environment.add_template_owned(SOLE, counting.source)?;
    Ok((environment, marked.is_some()))
}

/// The source with `{% generation %}` and its end, which mark what the model says, put as blocks the engine knows. Nothing where
/// there are none.
fn with_marks(source: &str) -> Option<String> {
    let mut marked = String::new();
    let mut rest = source;
    let mut found = false;
    while let Some(at) = rest.find("{%") {
        let (before, block) = rest.split_at(at);
        marked.push_str(before);
        // From behind the opening mark: `{%}` is no block that ends where it begins.
        let Some(inside) = block[2..].split_once("%}").map(|(inside, _)| inside) else {
            rest = block;
            break;
        };
        let words = inside.trim_start_matches(['-', '+']).trim_end_matches(['-', '+']);
        let name = match words.trim() {
            "generation" => Some(BEGIN),
            "endgeneration" => Some(END),
            _ => None,
        };
        match name {
            Some(name) => {
                found = true;
                let (left, right) = inside.split_once(words).unwrap_or_default();
                marked.push_str(&format!("{{%{left} include '{name}' {right}%}}"));
                rest = &block[2 + inside.len() + 2..];
            }
            None => {
                marked.push_str("{%");
                rest = &block[2..];
            }
        }
    }
    marked.push_str(rest);
    found.then_some(marked)
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

fn refused(name: &str, error: &Error) -> TokenizerError {
    // A template may quote a message, whose content can hold the shield's noncharacters.
    let mut reason = error.to_string().replace(char::is_control, " ");
    reason.retain(|c| !('\u{FDD0}'..='\u{FDEF}').contains(&c));
    if let Some((end, _)) = reason.char_indices().nth(LONGEST_REASON) {
        reason.truncate(end);
        reason.push('…');
    }
    TokenizerError::Template { format: name.to_owned(), reason }
}

/// Characters of what a template says on refusing.
const LONGEST_REASON: usize = 400;

#[cfg(test)]
mod tests {
    use super::*;

    fn run(source: &str, messages: &[Message]) -> Result<String, String> {
        let tokens = BTreeMap::from([("eos_token".to_owned(), "</s>".to_owned())]);
        let template = Template::new("test", source, tokens).map_err(|error| error.to_string())?;
        template.render(messages, true, ['⟦', '⟧']).map_err(|error| error.to_string())
    }

    fn shown(source: &str) -> String {
        run(source, &[Message::user("q\"<é>"), Message::assistant("a")]).unwrap()
    }

    /// Found by fuzzing: the closing mark was looked for from the opening one's second character.
    #[test]
    fn a_block_that_ends_in_its_opening_mark_is_refused() {
        for source in ["{%}", "{% for m in messages {%}A{{ '<", "{%generation%}{%}", "a{%"] {
            assert!(run(source, &[Message::user("q")]).is_err(), "{source}");
        }
        assert_eq!(shown("{% generation %}x{% endgeneration %}{%- if true %}y{% endif %}"), "⟦x⟧y");
    }

    #[test]
    fn what_published_templates_use_gives_what_jinja2_gives() {
        // Each right side is what jinja2 3.1 with transformers' settings prints.
        for (source, expected) in [
            (
                "{%- set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
                "2",
            ),
            ("{% for m in messages[::-1] %}{{ m.role }} {% endfor %}", "assistant user "),
            (
                "{% for m in messages %}{% if loop.last %}{% break %}{% endif %}{{ m.content }}{% continue %}x{% endfor %}",
                "q\"<é>",
            ),
            ("{{ messages[0].content | tojson }}", r#""q\"<é>""#),
            (
                "{{ {'b': [1, 2.5, none, true], 'a': {}} | tojson }}",
                r#"{"b": [1, 2.5, null, true], "a": {}}"#,
            ),
            ("{{ {'b': [1], 'a': []} | tojson(indent=2) }}", "{\n  \"b\": [\n    1\n  ],\n  \"a\": []\n}"),
            (
                "{{ {'b': 'é', 'a': 1} | tojson(sort_keys=true, ensure_ascii=true, separators=(',', ':')) }}",
                "{\"a\":1,\"b\":\"\\u00e9\"}",
            ),
            ("{{ 'a</think>\n\nb'.split('</think>')[-1].lstrip('\n') }}", "b"),
            (
                "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | join(', ') }}",
                "q\"<é>",
            ),
            ("{% macro f(x, y='!') %}[{{ x }}{{ y }}]{% endmacro %}{{ f('a') ~ f('b', y='?') }}", "[a!][b?]"),
            (
                "{{ messages[0]['content'] is string and messages[0].tools is not defined and tools is none }}",
                "True",
            ),
            ("{{ 'x' if messages|length % 2 == 0 else 'y' }}{{ (1 if true else 2) + 3 }}", "x4"),
            ("{% set x %}a\n  {% if true %}\n  b\n  {% endif %}\n{% endset %}{{ x }}", "a\n  b\n"),
            ("{{ '%s-%03d' | format('a', 7) }}{{ 'b' * 3 }}{{ ['a'] + ['b'] }}", "a-007bbb['a', 'b']"),
            ("{{ messages[0].get('name', 'nobody') }}{{ 'abc'[1:] }}{{ 'abc'[-1] }}", "nobodybcc"),
            (
                "{% for k, v in {'a': 1}.items() %}{{ k }}{{ v }}{% endfor %}{{ ('a' ~ 1) in ['a1'] }}",
                "a1True",
            ),
            ("{% generation %}x{%- endgeneration -%} y", "⟦x⟧y"),
            (
                "{{ eos_token + 'b' | upper }}{{ not('a' == 'b') }}{{ 'abc'.removeprefix('a') }}",
                "</s>BTruebc",
            ),
            ("{% raw %}{{ x }}{% endraw %}{# a comment #}\n", "{{ x }}"),
        ] {
            assert_eq!(shown(source), expected, "{source}");
        }
        assert_eq!(shown("{{ strftime_now('%d') }}").len(), 2);
        assert_eq!(run("{% for m in messages[::-1] %}{{ m }}{% endfor %}.", &[]).unwrap(), ".");
        assert_eq!(run("{{ ''[::-1] | length }}", &[]).unwrap(), "0");
        // In a debug build the engine panics on this one.
        assert!(
            run("{{ 'abc'[0:2:-1] }}", &[]).is_err_and(|error| error.contains("engine failed"))
                || !cfg!(debug_assertions)
        );
    }

    /// Writes expressions at random, most of them nonsense.
    struct Writer(u64);

    impl Writer {
        fn below(&mut self, end: usize) -> usize {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((self.0 >> 33) as usize) % end
        }

        fn pick(&mut self, of: &[&'static str]) -> &'static str {
            of[self.below(of.len())]
        }

        fn expression(&mut self, depth: usize) -> String {
            const ATOMS: [&str; 12] = [
                "eos_token",
                "'a b'",
                "\"ca\"",
                "2",
                "-1",
                "messages[0].content",
                "messages[1]['role']",
                "nobody",
                "true",
                "[1, 'a']",
                "{'a': 'b'}",
                "'糖尿'",
            ];
            if depth == 0 {
                return self.pick(&ATOMS).to_owned();
            }
            let a = self.expression(depth - 1);
            let (kind, b) = (self.below(14), self.expression(depth - 1));
            match kind {
                0 | 1 => format!("{a} {} {b}", self.pick(&["~", "+", "*", "-", "~", "+"])),
                2 => format!("{a} {} {b}", self.pick(&["==", "!=", "in", "not in", "<", "and", "or"])),
                3 => format!("({a})"),
                4 => format!("({a} if {b} else {a})"),
                5 => format!(
                    "{a} | {}",
                    self.pick(&[
                        "upper",
                        "trim",
                        "length",
                        "list",
                        "first",
                        "default('d')",
                        "join('-')",
                        "replace('a', 'bb')",
                        "reverse | list",
                        "tojson"
                    ])
                ),
                6 => format!(
                    "({a}).{}",
                    self.pick(&[
                        "strip()",
                        "split('a')",
                        "upper()",
                        "startswith('a')",
                        "replace('a', 'x')",
                        "items() | list"
                    ])
                ),
                7 => format!("({a}){}", self.pick(&["[0]", "[1:]", "[::-1]", "[-1]", "[:2][0]", "['a']"])),
                8 => format!("[{a}, {b}]{}", self.pick(&["", "[0]", "[1:]", " | length"])),
                9 => format!("{{'k': {a}, 'l': {b}}}{}", self.pick(&["", "['k']", ".l", ".get('k')"])),
                10 => format!("(not {a})"),
                11 => format!(
                    "{a} is {}",
                    self.pick(&["string", "defined", "none", "mapping", "not number", "in [1]", "eq 2"])
                ),
                12 => format!("f({a}, y={b}){}", self.pick(&["", ".strip()", "[0]", " | upper"])),
                _ => format!("dict(a={a}, b=({b})).a"),
            }
        }
    }

    /// The counting is not seen: a template gives what it gives without.
    #[test]
    fn counted_templates_say_the_same() {
        let plain = |source: &str| -> Result<String, Error> {
            let mut environment = Environment::new();
            environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
            environment.add_filter("tojson", python::tojson);
            environment.add_template("chat", source)?;
            let message =
                |role: &str, content: &str| Value::from_pairs([("role", role), ("content", content)]);
            let render = || {
                environment.get_template("chat")?.render(minijinja::context! {
                    messages => [message("user", "an aside"), message("assistant", "a")],
                    eos_token => "</s>",
                })
            };
            bounds::counted(0, || catch_unwind(AssertUnwindSafe(render)))
                .unwrap_or_else(|_| Ok("panicked".to_owned()))
        };
        let mut writer = Writer(7);
        let (mut same, mut refused) = (0, 0);
        for round in 0..2000 {
            let (a, b) = (writer.expression(1 + round % 4), writer.expression(round % 3));
            let source = match round % 5 {
                0 => format!("{{% set x = {a} %}}{{{{ x ~ {b} }}}}"),
                1 => format!("{{% for x in {a} %}}{{{{ x }}}}{{% else %}}{{{{ {b} }}}}{{% endfor %}}"),
                2 => format!("{{% if {a} %}}1{{% elif {b} %}}2{{% endif %}}"),
                _ => format!("{{{{ {a} }}}}"),
            };
            let source = format!("{{% macro f(x, y) %}}{{{{ x }}}}{{{{ y }}}}{{% endmacro %}}{source}");
            let messages = [Message::user("an aside"), Message::assistant("a")];
            match (plain(&source), run(&source, &messages)) {
                // What the engine alone panics on need only come back.
                (Ok(expected), _) if expected == "panicked" => refused += 1,
                (Ok(expected), found) => {
                    assert_eq!(found.as_deref(), Ok(expected.as_str()), "{source}");
                    same += 1;
                }
                (Err(_), found) => {
                    assert!(found.is_err(), "{source}: {found:?}");
                    refused += 1;
                }
            }
        }
        assert!(same > 500 && refused > 100, "{same} said the same, {refused} were refused");
    }

    #[test]
    fn hostile_templates_are_stopped() {
        for source in [
            // Time.
            "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
            "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
            "{% for a in messages recursive %}{{ loop(messages) }}{% endfor %}",
            "{% set x = 'a' * 10000000 %}{% for a in range(100000) %}{% if 'b' in x %}{% endif %}{% endfor %}",
            "{% set x = 'a' * 10000000 %}{% for a in range(100000) %}{{ x | length }}{% endfor %}",
            "{% set x = 'a' * 10000000 %}{% for a in range(100000) %}{% if x == x ~ '' %}{% endif %}{% endfor %}",
            "{% set x = 'a' * 10000000 %}{% for a in range(100000) %}{% set y = x.find('b') %}{% endfor %}",
            // Memory.
            "{% set ns = namespace(x='a') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
            "{% set ns = namespace(x='a') %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
            "{% set ns = namespace(x=['a']) %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}",
            "{% set ns = namespace(x='a') %}{% for i in range(99) %}{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}{% endfor %}",
            "{% set ns = namespace(x='a') %}{% for i in range(99) %}{% set ns.x = [ns.x, ns.x] | join %}{% endfor %}",
            "{% set ns = namespace(x='a') %}{% for i in range(99) %}{% set ns.x = ns.x.replace('a', 'aa') %}{% endfor %}",
            "{% set ns = namespace(x='a') %}{% for i in range(99) %}{% set ns.x = ns.x | replace('a', 'aa') %}{% endfor %}",
            "{% macro f(x) %}{{ f(x ~ x) }}{% endmacro %}{{ f('aa') }}",
            "{% macro f(x) %}{{ x }}{{ x }}{% endmacro %}{% set ns = namespace(x='a') %}{% for i in range(99) %}{% set ns.x = f(ns.x) %}{% endfor %}",
            "{{ 'a' * 100000000 }}",
            "{% set a = ('a' * 90000000) ~ ('a' * 90000000) ~ ('a' * 90000000) ~ ('a' * 90000000) %}",
            "{{ ['a'] * 90000000 }}",
            "{{ ('a' * 1000000).replace('a', 'b' * 1000000) }}",
            "{{ 'a' | indent(4000000000, true) }}{{ 'a\nb' | indent(width=4000000000) }}",
            "{{ '%4000000000d' | format(1) }}",
            "{{ '{:4000000000}'.format(1) }}",
            "{{ range(100000) | map('string') | join('a' * 100000) }}",
            "{{ [messages] | tojson(indent=4000000000) }}{{ range(100000) | list | tojson(indent=4000000000) }}",
            "{% set ns = namespace(l=[]) %}{% for i in range(100000) %}{% set ns.l = ns.l + ['a' * 1000000] %}{% endfor %}",
            "{% set ns = namespace(l=[], x='a' * 1000000) %}{% for i in range(100000) %}{% set ns.l = ns.l + [ns.x[1:]] %}{% endfor %}",
            "{% for i in range(100000) %}{{ 'a' * 1000 }}{% endfor %}",
            // Depth.
            "{% set ns = namespace(x=1) %}{% for i in range(100000) %}{% set ns.x = [ns.x] %}{% endfor %}",
            "{% set ns = namespace(x=1) %}{% for i in range(100000) %}{% set ns.x = {'a': ns.x} %}{% endfor %}",
            "{% set ns = namespace(x=1) %}{% for i in range(100000) %}{% set ns.x = namespace(x=ns.x) %}{% endfor %}",
            "{% set x = ['a' * 1000000] * 1000 %}{{ x }}",
            "{% set x = ['a' * 1000000] * 1000 %}{{ x | upper }}",
            "{% set x = ['a' * 1000000] * 1000 %}{{ x ~ '' }}",
            "{% set ns = namespace() %}{% set ns.a = ns %}{% set ns.b = ns %}{{ ns }}",
            "{% include 'chat' %}",
        ] {
            let begin = std::time::Instant::now();
            let error = run(source, &[Message::user("x")]).unwrap_err();
            assert!(!error.contains('\n') && error.len() < 1000, "{source}: {error}");
            assert!(begin.elapsed().as_secs() < 10, "{source} took {:?}", begin.elapsed());
        }
        let nested = |open: &str, inner: &str, close: &str, times: usize| {
            format!("{}{inner}{}", open.repeat(times), close.repeat(times))
        };
        for source in [
            nested("{{ (", "1", ") }}", 1),
            format!("{{{{ {} }}}}", nested("(", "1", ")", 100_000)),
            format!("{{{{ {} }}}}", nested("[", "1", "]", 100_000)),
            format!("{{{{ 1{} }}}}", " + 1".repeat(100_000)),
            format!("{{{{ 'a'{} }}}}", "|upper".repeat(100_000)),
            format!("{{{{ not {} 1 }}}}", "not ".repeat(100_000)),
            nested("{% if true %}", "a", "{% endif %}", 10_000),
            format!("{{% if x %}}{}{{% endif %}}", "{% elif x %}".repeat(10_000)),
            nested("{% for a in messages %}", "a", "{% endfor %}", 10_000),
            "a".repeat(300 * 1024),
            format!(
                "{{% for a in range(100000) %}}{{% for b in range(10) %}}{}{{% endfor %}}{{% endfor %}}",
                "a".repeat(200 * 1024)
            ),
        ]
        .iter()
        .skip(1)
        {
            let error = run(source, &[Message::user("x")]).unwrap_err();
            assert!(!error.contains('\n') && error.len() < 1000, "{error}");
        }
    }

    #[test]
    fn long_conversations_are_not_stopped() {
        let source = "{%- set ns = namespace(text='', last=-1) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}\
            {% for m in messages %}{% set content = m.content.strip() %}{% if '</think>' in content %}{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}\
            {{ '<|' + m.role + '|>' + content + eos_token }}{% endfor %}";
        let long = "A sentence of some length about blood pressure. ".repeat(20);
        let messages: Vec<Message> = (0..1000)
            .flat_map(|_| {
                [Message::user(long.clone()), Message::assistant(format!("<think>x</think>\n{long}"))]
            })
            .collect();
        assert!(run(source, &messages).unwrap().len() > 1_900_000);
        let asks_how_many = "{% for m in messages %}{% if messages | length - 1 == loop.index0 %}{{ messages[loop.index0:] | length }}{% endif %}\
            {% if messages[-1].role == 'user' and messages is iterable %}{{ m.role }}{% endif %}{% endfor %}";
        assert_eq!(run(asks_how_many, &messages).unwrap(), "1");
        let short: Vec<Message> =
            messages.iter().map(|m| Message { role: m.role, content: "x".into() }).collect();
        assert_eq!(run(asks_how_many, &short).unwrap(), "1");
        let document = [Message::user("糖尿病 ".repeat(1_000_000))];
        assert!(run(source, &document).unwrap().len() > 9_000_000);
    }
}
