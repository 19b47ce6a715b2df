//! What a template may cost: time and memory for the conversation at hand, not for what a hostile author thought up.
//!
//! The engine counts instructions, but one instruction can double a string. So every place of a template where values are made or
//! read in bulk is led through a filter that counts bytes: the source is parsed, and `{{ a ~ b }}` becomes
//! `{{ ((a)|bounded ~ (b)|bounded)|bounded }}`. Text that the template emits as it stands is bounded by the number of instructions and
//! the length of its longest piece.

use std::cell::Cell;

use minijinja::machinery::ast::{BinOpKind, Call, CallArg, Expr, Macro, Stmt};
use minijinja::machinery::{Token, parse, tokenize};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};

/// The filter that counts.
pub(super) const FILTER: &str = "bounded";

/// The filter for what is cut with a step (`x[::-1]`).
pub(super) const STEPPED: &str = "stepped";

/// Longest source of a template; published ones have some 20 kB.
const LONGEST_SOURCE_BYTES: usize = 256 * 1024;

/// Tokens within one pair of braces: the engine's recursion over an expression is about as deep.
const MOST_TOKENS: usize = 1_000;

/// Branches of all conditions together: each lies inside the one before it.
const MOST_BRANCHES: usize = 400;

/// Instructions a rendering may take: a template of some hundred over thousands of messages.
const FUEL: u64 = 2_000_000;

/// Bytes that a rendering may make or read, whatever the conversation.
const LEAST_BYTES: usize = 16 << 20;

/// And as many for each byte of the conversation.
const BYTES_EACH: usize = 256;

/// Lists within lists, and values in one.
const DEEPEST: usize = 32;
const MOST_VALUES: usize = 200_000;

/// Bytes of text that a list may hold without being counted: the messages are read again and again, and lie there once.
const SHARED_BYTES: usize = 1 << 20;
const SHARED_EACH: usize = 4;

/// Memory that the text a template emits as it stands may take.
const EMITTED_BYTES: u64 = 1 << 30;

thread_local! {
    static LEFT: Cell<usize> = const { Cell::new(0) };
    static SHARED: Cell<usize> = const { Cell::new(0) };
}

fn too_much(what: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("the template {what}; it is refused"))
}

/// Runs a rendering of a conversation with so many bytes under the count.
pub(super) fn counted<R>(conversation_bytes: usize, render: impl FnOnce() -> R) -> R {
    LEFT.set(LEAST_BYTES.saturating_add(conversation_bytes.saturating_mul(BYTES_EACH)));
    SHARED.set(SHARED_BYTES.saturating_add(conversation_bytes.saturating_mul(SHARED_EACH)));
    render()
}

/// Takes from what is left.
pub(super) fn charge(bytes: usize) -> Result<(), Error> {
    let left = LEFT.get();
    LEFT.set(left.saturating_sub(bytes));
    if bytes > left { Err(too_much("makes far more text than the conversation has")) } else { Ok(()) }
}

/// Counts a value and gives it back.
pub(super) fn bounded(value: Value) -> Result<Value, Error> {
    charge_value(&value)?;
    Ok(value)
}

/// As [`bounded`]; what is empty becomes nothing, of which the engine cuts an empty list. Stepping backwards through an empty list it
/// reads past the end.
pub(super) fn stepped(value: Value) -> Result<Value, Error> {
    let value = bounded(value)?;
    Ok(if value.len() == Some(0) { Value::from(()) } else { value })
}

/// Counts a value: a text, or all that a list holds; the text in a list only where it is more than the conversation could
/// account for, as when one string stands in it a thousand times.
pub(super) fn charge_value(value: &Value) -> Result<(), Error> {
    if let Some(text) = value.as_str() {
        return charge(text.len());
    }
    let mut held = Held::default();
    held.add(value, 0)?;
    charge(held.values)?;
    if held.text > SHARED.get() { charge(held.text) } else { Ok(()) }
}

/// What a value holds.
#[derive(Default)]
struct Held {
    values: usize,
    text: usize,
}

impl Held {
    fn add(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.values += 1;
        if self.values > MOST_VALUES {
            return Err(too_much("makes lists of hundreds of thousands of values"));
        }
        if let Some(text) = value.as_str() {
            self.text = self.text.saturating_add(text.len());
            return Ok(());
        }
        let (holds, keyed) = match value.kind() {
            ValueKind::Seq | ValueKind::Iterable => (true, false),
            ValueKind::Map => (true, true),
            ValueKind::Plain => (value.as_object().is_some(), true),
            _ => (false, false),
        };
        if !holds {
            return Ok(());
        }
        if depth == DEEPEST {
            return Err(too_much("nests lists too deeply"));
        }
        let Ok(items) = value.try_iter() else { return Ok(()) };
        for item in items {
            if keyed {
                self.add(&value.get_item(&item).unwrap_or_default(), depth + 1)?;
            }
            self.add(&item, depth + 1)?;
        }
        Ok(())
    }
}

/// A template that counts what it makes, and the instructions it may take.
pub(super) struct Counting {
    pub(super) source: String,
    pub(super) fuel: u64,
}

/// Leads the values of a template through the count.
pub(super) fn counting(source: &str, syntax: &SyntaxConfig) -> Result<Counting, Error> {
    if source.len() > LONGEST_SOURCE_BYTES {
        return Err(too_much("is longer than 256 KiB"));
    }
    let (mut inside, mut branches) = (0, 0);
    for token in tokenize(source, false, syntax.clone()) {
        match token?.0 {
            Token::VariableStart | Token::BlockStart => inside = 0,
            Token::Ident("elif" | "if") => branches += 1,
            _ => {}
        }
        inside += 1;
        if inside > MOST_TOKENS {
            return Err(too_much("has an expression of a thousand parts"));
        }
    }
    if branches > MOST_BRANCHES {
        return Err(too_much("has hundreds of conditions"));
    }
    let tree = parse(source, "chat", syntax.clone())?;
    let mut walk = Walk::default();
    walk.statement(&tree);
    // Where several stand at one place, those that end come first, from the inside out, which is the order they were found in; of
    // those that begin any order is the same text.
    walk.insertions.sort_by_key(|(at, text)| (*at, text.starts_with('(')));
    let mut counting = String::with_capacity(source.len() + 16 * walk.insertions.len());
    let mut at = 0;
    for (place, text) in walk.insertions {
        let piece = source.get(at..place).ok_or_else(|| too_much("cannot be taken apart"))?;
        counting.push_str(piece);
        counting.push_str(text);
        at = place;
    }
    counting.push_str(&source[at..]);
    // A loop takes at least three instructions to emit a piece of text.
    let fuel = (3 * EMITTED_BYTES / walk.longest_text.max(1) as u64).min(FUEL);
    Ok(Counting { source: counting, fuel })
}

const OPEN: &str = "(";
const CLOSE: &str = ")|bounded";
const OPEN_TIGHT: &str = "((";
const CLOSE_TIGHT: &str = ")|bounded)";
const CLOSE_STEPPED: &str = ")|stepped)";

#[derive(Default)]
struct Walk {
    insertions: Vec<(usize, &'static str)>,
    longest_text: usize,
}

impl Walk {
    fn statements(&mut self, statements: &[Stmt<'_>]) {
        statements.iter().for_each(|statement| self.statement(statement));
    }

    fn statement(&mut self, statement: &Stmt<'_>) {
        match statement {
            Stmt::Template(node) => self.statements(&node.children),
            Stmt::EmitExpr(node) => self.expressions([&node.expr]),
            Stmt::EmitRaw(node) => self.longest_text = self.longest_text.max(node.raw.len()),
            Stmt::ForLoop(node) => {
                self.expression(&node.iter);
                self.expressions(&node.filter_expr);
                self.statements(&node.body);
                self.statements(&node.else_body);
            }
            Stmt::IfCond(node) => {
                self.expression(&node.expr);
                self.statements(&node.true_body);
                self.statements(&node.false_body);
            }
            Stmt::WithBlock(node) => {
                self.expressions(node.assignments.iter().map(|(_, expr)| expr));
                self.statements(&node.body);
            }
            Stmt::Set(node) => self.expressions([&node.expr]),
            // What is captured passes the formatter, and filters of blocks look at what was captured.
            Stmt::SetBlock(node) => self.statements(&node.body),
            Stmt::FilterBlock(node) => self.statements(&node.body),
            Stmt::AutoEscape(node) => self.statements(&node.body),
            Stmt::Block(node) => self.statements(&node.body),
            Stmt::Macro(node) => self.definition(node),
            Stmt::CallBlock(node) => {
                self.arguments(&node.call);
                self.definition(&node.macro_decl);
            }
            Stmt::Do(node) => self.arguments(&node.call),
            Stmt::Import(_)
            | Stmt::FromImport(_)
            | Stmt::Extends(_)
            | Stmt::Include(_)
            | Stmt::Continue(_)
            | Stmt::Break(_) => {}
        }
    }

    fn definition(&mut self, node: &Macro<'_>) {
        self.expressions(&node.defaults);
        self.statements(&node.body);
    }

    fn arguments(&mut self, call: &Call<'_>) {
        self.expression(&call.expr);
        self.passed(&call.args);
    }

    fn passed(&mut self, args: &[CallArg<'_>]) {
        for arg in args {
            match arg {
                CallArg::Pos(expr)
                | CallArg::Kwarg(_, expr)
                | CallArg::PosSplat(expr)
                | CallArg::KwargSplat(expr) => self.expressions([expr]),
            }
        }
    }

    /// An expression, and where it makes a value also that value; says whether it does.
    fn expression(&mut self, expr: &Expr<'_>) -> bool {
        let makes = match expr {
            Expr::Var(_) | Expr::Const(_) => false,
            Expr::Slice(node) => {
                self.expression(&node.expr);
                let close = if node.step.is_some() { CLOSE_STEPPED } else { CLOSE_TIGHT };
                self.wrap_as(&node.expr, OPEN_TIGHT, close);
                self.expressions([&node.start, &node.stop, &node.step].into_iter().flatten());
                true
            }
            Expr::UnaryOp(node) => {
                self.expression(&node.expr);
                false
            }
            Expr::BinOp(node) => {
                if matches!(node.op, BinOpKind::ScAnd | BinOpKind::ScOr) {
                    self.expression(&node.left);
                    self.expression(&node.right);
                } else {
                    self.term(&node.left);
                    self.term(&node.right);
                }
                matches!(node.op, BinOpKind::Add | BinOpKind::Concat | BinOpKind::Mul | BinOpKind::Pow)
            }
            Expr::Compare(node) => {
                self.operand(&node.expr);
                node.ops.iter().for_each(|op| self.operand(&op.expr));
                false
            }
            Expr::IfExpr(node) => {
                self.expression(&node.test_expr);
                self.expression(&node.true_expr);
                self.expressions(&node.false_expr);
                false
            }
            Expr::Filter(node) => {
                node.expr.iter().for_each(|expr| self.operand(expr));
                self.passed(&node.args);
                true
            }
            Expr::Test(node) => {
                // What is asked about need not exist.
                self.expression(&node.expr);
                self.passed(&node.args);
                false
            }
            Expr::GetAttr(node) => {
                self.expression(&node.expr);
                false
            }
            Expr::GetItem(node) => {
                self.expression(&node.expr);
                self.expression(&node.subscript_expr);
                false
            }
            Expr::Call(node) => {
                self.arguments(node);
                true
            }
            Expr::List(node) => {
                self.expressions(&node.items);
                true
            }
            Expr::Tuple(node) => {
                self.expressions(&node.items);
                true
            }
            Expr::Map(node) => {
                self.expressions(node.keys.iter().chain(&node.values));
                true
            }
        };
        if makes {
            self.wrap(expr);
        }
        makes
    }

    fn expressions<'e, 's: 'e>(&mut self, expressions: impl IntoIterator<Item = &'e Expr<'s>>) {
        for expr in expressions {
            self.expression(expr);
        }
    }

    /// An operand of a sum: of a chain of sums each term counts, and the whole; what is between does not live long.
    fn term(&mut self, expr: &Expr<'_>) {
        match expr {
            Expr::BinOp(node) if matches!(node.op, BinOpKind::Add | BinOpKind::Concat) => {
                self.term(&node.left);
                self.term(&node.right);
            }
            _ => self.operand(expr),
        }
    }

    /// An expression whose value is read from end to end. Wrapping a constant also keeps the compiler from computing with it.
    fn operand(&mut self, expr: &Expr<'_>) {
        if !self.expression(expr) {
            self.wrap(expr);
        }
    }

    fn wrap(&mut self, expr: &Expr<'_>) {
        // What may stand before `.x` or `[x]`, which bind closer than a filter, is put in parentheses with it.
        let tight =
            matches!(expr, Expr::Slice(_) | Expr::Call(_) | Expr::List(_) | Expr::Tuple(_) | Expr::Map(_));
        let (open, close) = if tight { (OPEN_TIGHT, CLOSE_TIGHT) } else { (OPEN, CLOSE) };
        self.wrap_as(expr, open, close);
    }

    fn wrap_as(&mut self, expr: &Expr<'_>, open: &'static str, close: &'static str) {
        self.insertions.push((start(expr), open));
        self.insertions.push((expr.span().end_offset as usize, close));
    }
}

/// Where an expression begins. Of what is written behind a value (`x[1]`, `x|f`) the engine notes the place of that alone; a
/// parenthesis opened before the value is as good as one opened behind parentheses that stand there.
fn start(expr: &Expr<'_>) -> usize {
    let first = match expr {
        Expr::Slice(node) => Some(&node.expr),
        Expr::GetAttr(node) => Some(&node.expr),
        Expr::GetItem(node) => Some(&node.expr),
        Expr::Call(node) => Some(&node.expr),
        Expr::Test(node) => Some(&node.expr),
        Expr::Filter(node) => node.expr.as_ref(),
        Expr::UnaryOp(node) => Some(&node.expr),
        Expr::BinOp(node) => Some(&node.left),
        Expr::Compare(node) => Some(&node.expr),
        Expr::IfExpr(node) => Some(&node.true_expr),
        _ => None,
    };
    let own = expr.span().start_offset as usize;
    first.map_or(own, |first| own.min(start(first)))
}
