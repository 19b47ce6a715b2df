//! A reader for the pickles that PyTorch writes around weights. It is an interpreter of data, not of code: it builds
//! dictionaries, lists, tuples, strings, numbers and descriptions of tensors, and nothing that a pickle names is ever called.
//! A class that is not on the short list below becomes an object without behaviour, whose attributes can be looked at; a
//! function that serves to run code (`os.system`, `builtins.eval`, …) ends the reading, because such a file is an attack.
//!
//! Values live in an arena and refer to each other by index, so that neither deep nesting nor shared references cost more
//! than the bytes that spell them; the numbers of bytes, values and nodes are bounded. Opcodes: Python's `pickletools`.

use std::path::Path;

use super::ElementType;
use crate::error::Error;

/// Bytes of one pickle: descriptions of tensors take some 200 bytes each, however large the tensors.
const MAX_BYTES: usize = 32 << 20;

/// Values on the stack, and nodes in the arena; a tensor takes some ten.
const MAX_VALUES: usize = 4 << 20;

/// Characters of names: of classes, storages, tensors.
pub(super) const MAX_NAME: usize = 512;

/// Dimensions of a tensor, as in PyTorch.
const MAX_DIMENSIONS: usize = 64;

/// A value; what is larger than a number is an index into the arena.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Global(Global),
    Node(usize),
}

/// The only globals there are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Storage(ElementType),
    /// Any other class or function: never looked up, never called.
    Foreign,
}

#[derive(Debug)]
pub(super) enum Node {
    Text(String),
    /// An integer too long for 64 bits, little-endian two's complement.
    Long(Vec<u8>),
    Tuple(Vec<Value>),
    List(Vec<Value>),
    Dict(Vec<(Value, Value)>),
    Storage {
        key: String,
        dtype: ElementType,
        elements: usize,
    },
    Tensor(Tensor),
    /// What a foreign class would have made, with the attributes it would have been given.
    Object(Option<Value>),
}

/// A tensor as a view of a storage; offset, sizes and strides count elements.
#[derive(Debug, Clone)]
pub(super) struct Tensor {
    pub(super) storage: usize,
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
}

/// What one pickle held.
pub(super) struct Unpickled {
    pub(super) root: Value,
    pub(super) arena: Vec<Node>,
    /// Bytes up to and including the stop opcode.
    pub(super) length: usize,
    /// The first foreign global and the byte of the file behind its name.
    pub(super) foreign: Option<(String, usize)>,
}

impl Unpickled {
    pub(super) fn node(&self, value: Value) -> Option<&Node> {
        match value {
            Value::Node(i) => self.arena.get(i),
            _ => None,
        }
    }

    pub(super) fn text(&self, value: Value) -> Option<&str> {
        match self.node(value) {
            Some(Node::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// The value of a string key in a dictionary or among the attributes of an object; the last one counts.
    pub(super) fn field(&self, value: Value, key: &str) -> Option<Value> {
        let items = match self.node(value)? {
            Node::Dict(items) => items,
            Node::Object(Some(state)) => match self.node(*state)? {
                Node::Dict(items) => items,
                _ => return None,
            },
            _ => return None,
        };
        items.iter().rev().find(|(k, _)| self.text(*k) == Some(key)).map(|(_, v)| *v)
    }
}

/// Interprets the pickle at the start of `bytes`; `base` is where it lies in the file, for messages.
pub(super) fn read(path: &Path, bytes: &[u8], base: usize) -> Result<Unpickled, Error> {
    Machine {
        path,
        bytes,
        base,
        at: 0,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: Vec::new(),
        arena: Vec::new(),
        foreign: None,
    }
    .run()
}

/// What a pickle that names more than tensors is told, wherever it is found out.
pub(super) fn more_than_tensors(path: &Path, name: &str, at: usize) -> Error {
    Error::malformed(
        path,
        format!("pickle, byte {at}"),
        "only tensors (a pickle that names other globals can run code when Python loads it, and is refused here)",
        format!("the global `{name}`"),
    )
}

struct Machine<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    base: usize,
    at: usize,
    stack: Vec<Value>,
    marks: Vec<usize>,
    memo: Vec<Option<Value>>,
    arena: Vec<Node>,
    foreign: Option<(String, usize)>,
}

impl Machine<'_> {
    fn wrong(&self, expected: &str, found: impl Into<String>) -> Error {
        Error::malformed(self.path, format!("pickle, byte {}", self.base + self.at), expected, found)
    }

    fn take(&mut self, n: usize) -> Result<&[u8], Error> {
        let left = self.bytes.len() - self.at;
        if n > left {
            return Err(self.wrong(&format!("{n} more bytes"), format!("{left}; is the file truncated?")));
        }
        if n > MAX_BYTES - self.at {
            return Err(self.wrong(&format!("a pickle of at most {MAX_BYTES} bytes"), "a longer one"));
        }
        self.at += n;
        Ok(&self.bytes[self.at - n..self.at])
    }

    fn byte(&mut self) -> Result<u8, Error> {
        Ok(self.take(1)?[0])
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    /// A length of `width` bytes, little-endian.
    fn length(&mut self, width: usize) -> Result<usize, Error> {
        let mut length = [0; 8];
        length[..width].copy_from_slice(self.take(width)?);
        Ok(usize::try_from(u64::from_le_bytes(length)).unwrap_or(usize::MAX))
    }

    fn text(&mut self, n: usize) -> Result<String, Error> {
        let bytes = self.take(n)?.to_vec();
        String::from_utf8(bytes).map_err(|_| self.wrong("UTF-8 text", "other bytes"))
    }

    /// A line of a global's name.
    fn line(&mut self) -> Result<String, Error> {
        let rest = &self.bytes[self.at..];
        let n = rest.iter().take(MAX_NAME + 1).position(|&b| b == b'\n').ok_or_else(|| {
            self.wrong("the name of a global", "no end of the line; is the file truncated?")
        })?;
        let line = self.text(n)?;
        self.take(1)?;
        Ok(line)
    }

    fn push(&mut self, value: Value) -> Result<(), Error> {
        if self.stack.len() >= MAX_VALUES {
            return Err(self.wrong(&format!("at most {MAX_VALUES} values on the stack"), "more"));
        }
        self.stack.push(value);
        Ok(())
    }

    fn node(&mut self, node: Node) -> Result<(), Error> {
        if self.arena.len() >= MAX_VALUES {
            return Err(self.wrong(&format!("at most {MAX_VALUES} strings, tuples and tensors"), "more"));
        }
        self.arena.push(node);
        self.push(Value::Node(self.arena.len() - 1))
    }

    fn pop(&mut self) -> Result<Value, Error> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err(self.wrong("a value on the stack", "none"));
        }
        self.stack.pop().ok_or_else(|| self.wrong("a value on the stack", "none"))
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Value>, Error> {
        let mark = self.marks.pop().ok_or_else(|| self.wrong("a mark on the stack", "none"))?;
        Ok(self.stack.split_off(mark))
    }

    fn pop_tuple(&mut self, n: usize) -> Result<(), Error> {
        let mut values = Vec::with_capacity(n);
        for _ in 0..n {
            values.push(self.pop()?);
        }
        values.reverse();
        self.node(Node::Tuple(values))
    }

    fn put(&mut self, index: usize) -> Result<(), Error> {
        let value = *self.stack.last().ok_or_else(|| self.wrong("a value to remember", "none"))?;
        // Indices count what was remembered before; one beyond the bytes read so far is an attack on our memory.
        if index > self.at.min(MAX_VALUES) {
            return Err(self.wrong("a memo index within the pickle", index.to_string()));
        }
        if self.memo.len() <= index {
            self.memo.resize(index + 1, None);
        }
        self.memo[index] = Some(value);
        Ok(())
    }

    fn get(&mut self, index: usize) -> Result<(), Error> {
        let value = self.memo.get(index).copied().flatten();
        let value =
            value.ok_or_else(|| self.wrong("a remembered value", format!("memo {index}, which is empty")))?;
        self.push(value)
    }

    fn run(mut self) -> Result<Unpickled, Error> {
        loop {
            let opcode = self.byte()?;
            match opcode {
                0x80 => {
                    self.byte()?;
                }
                0x95 => {
                    self.number::<8>()?;
                }
                b'}' => self.node(Node::Dict(Vec::new()))?,
                b']' => self.node(Node::List(Vec::new()))?,
                b')' => self.node(Node::Tuple(Vec::new()))?,
                b'(' => {
                    if self.marks.len() >= MAX_VALUES {
                        return Err(self.wrong(&format!("at most {MAX_VALUES} open marks"), "more"));
                    }
                    self.marks.push(self.stack.len());
                }
                b'0' => {
                    self.pop()?;
                }
                b'1' => {
                    self.pop_to_mark()?;
                }
                b'2' => {
                    let value = self.pop()?;
                    self.push(value)?;
                    self.push(value)?;
                }
                b'q' => {
                    let i = self.byte()?;
                    self.put(usize::from(i))?;
                }
                b'r' => {
                    let i = u32::from_le_bytes(self.number()?);
                    self.put(i as usize)?;
                }
                0x94 => self.put(self.memo.len())?,
                b'h' => {
                    let i = self.byte()?;
                    self.get(usize::from(i))?;
                }
                b'j' => {
                    let i = u32::from_le_bytes(self.number()?);
                    self.get(i as usize)?;
                }
                b'X' | b'T' => self.sized_text(4)?,
                0x8c | b'U' => self.sized_text(1)?,
                0x8d => self.sized_text(8)?,
                b'B' => self.skip_bytes(4)?,
                b'C' => self.skip_bytes(1)?,
                0x8e | 0x96 => self.skip_bytes(8)?,
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.global(&module, &name)?;
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    let (module, name) = (self.text_of(module)?.to_owned(), self.text_of(name)?.to_owned());
                    self.global(&module, &name)?;
                }
                b't' => {
                    let values = self.pop_to_mark()?;
                    self.node(Node::Tuple(values))?;
                }
                b'l' => {
                    let values = self.pop_to_mark()?;
                    self.node(Node::List(values))?;
                }
                b'd' => {
                    let values = self.pop_to_mark()?;
                    let items = self.pairs(&values)?;
                    self.node(Node::Dict(items))?;
                }
                0x85..=0x87 => self.pop_tuple(usize::from(opcode - 0x84))?,
                b'J' => {
                    let n = i32::from_le_bytes(self.number()?);
                    self.push(Value::Int(i64::from(n)))?;
                }
                b'K' => {
                    let n = self.byte()?;
                    self.push(Value::Int(i64::from(n)))?;
                }
                b'M' => {
                    let n = u16::from_le_bytes(self.number()?);
                    self.push(Value::Int(i64::from(n)))?;
                }
                0x8a => self.long(1)?,
                0x8b => self.long(4)?,
                b'G' => {
                    let x = f64::from_be_bytes(self.number()?);
                    self.push(Value::Float(x))?;
                }
                b'N' => self.push(Value::None)?,
                0x88 => self.push(Value::Bool(true))?,
                0x89 => self.push(Value::Bool(false))?,
                // Sets hold nothing that is looked for; they are objects that swallow what is put in.
                0x8f => self.node(Node::Object(None))?,
                0x90 => {
                    self.pop_to_mark()?;
                    self.expect_object("a set")?;
                }
                0x91 => {
                    self.pop_to_mark()?;
                    self.node(Node::Object(None))?;
                }
                b'Q' => self.persistent()?,
                b'R' => self.reduce()?,
                0x81 => {
                    let (_arguments, class) = (self.pop()?, self.pop()?);
                    self.construct(class)?;
                }
                0x92 => {
                    let (_keywords, _arguments, class) = (self.pop()?, self.pop()?, self.pop()?);
                    self.construct(class)?;
                }
                b'b' => self.build()?,
                b's' => {
                    let (value, key) = (self.pop()?, self.pop()?);
                    self.dict(&[(key, value)])?;
                }
                b'u' => {
                    let values = self.pop_to_mark()?;
                    let items = self.pairs(&values)?;
                    self.dict(&items)?;
                }
                b'a' => {
                    let value = self.pop()?;
                    self.list(&[value])?;
                }
                b'e' => {
                    let values = self.pop_to_mark()?;
                    self.list(&values)?;
                }
                b'.' => {
                    let root = self.pop()?;
                    let Machine { arena, at: length, foreign, .. } = self;
                    return Ok(Unpickled { root, arena, length, foreign });
                }
                other => return Err(self.wrong("an opcode that weight files use", format!("0x{other:02x}"))),
            }
        }
    }

    fn sized_text(&mut self, width: usize) -> Result<(), Error> {
        let length = self.length(width)?;
        let text = self.text(length)?;
        self.node(Node::Text(text))
    }

    fn skip_bytes(&mut self, width: usize) -> Result<(), Error> {
        let length = self.length(width)?;
        self.take(length)?;
        self.node(Node::Object(None))
    }

    fn long(&mut self, width: usize) -> Result<(), Error> {
        let n = self.length(width)?;
        let bytes = self.take(n)?.to_vec();
        if n > 8 {
            return self.node(Node::Long(bytes));
        }
        let fill = if bytes.last().is_some_and(|b| b & 0x80 != 0) { 0xff } else { 0 };
        let mut all = [fill; 8];
        all[..n].copy_from_slice(&bytes);
        self.push(Value::Int(i64::from_le_bytes(all)))
    }

    fn pairs(&self, values: &[Value]) -> Result<Vec<(Value, Value)>, Error> {
        if !values.len().is_multiple_of(2) {
            return Err(self.wrong("keys and values in pairs", format!("{} values", values.len())));
        }
        Ok(values.chunks(2).map(|pair| (pair[0], pair[1])).collect())
    }

    /// Puts items into the dictionary on top of the stack.
    fn dict(&mut self, items: &[(Value, Value)]) -> Result<(), Error> {
        let top = self.stack.last().copied();
        let node = match top {
            Some(Value::Node(i)) => self.arena.get_mut(i),
            _ => None,
        };
        match node {
            Some(Node::Dict(held)) => held.extend_from_slice(items),
            Some(Node::Object(_)) => {}
            _ => return Err(self.wrong("a dictionary", "another value")),
        }
        Ok(())
    }

    /// Puts values into the list on top of the stack.
    fn list(&mut self, values: &[Value]) -> Result<(), Error> {
        let top = self.stack.last().copied();
        let node = match top {
            Some(Value::Node(i)) => self.arena.get_mut(i),
            _ => None,
        };
        match node {
            Some(Node::List(held)) => held.extend_from_slice(values),
            Some(Node::Object(_)) => {}
            _ => return Err(self.wrong("a list", "another value")),
        }
        Ok(())
    }

    fn expect_object(&self, what: &str) -> Result<(), Error> {
        match self.stack.last() {
            Some(&Value::Node(i)) if matches!(self.arena[i], Node::Object(_)) => Ok(()),
            _ => Err(self.wrong(what, "another value")),
        }
    }

    /// Attributes for what is on top of the stack.
    fn build(&mut self) -> Result<(), Error> {
        let state = self.pop()?;
        let top = self.stack.last().copied();
        let node = match top {
            Some(Value::Node(i)) => self.arena.get_mut(i),
            _ => None,
        };
        match node {
            // A state dictionary's version numbers; nothing here needs them.
            Some(Node::Dict(_)) => Ok(()),
            Some(Node::Object(held)) => {
                *held = Some(state);
                Ok(())
            }
            _ => Err(self.wrong("attributes of a dictionary or an object", "attributes of another value")),
        }
    }

    fn text_of(&self, value: Value) -> Result<&str, Error> {
        let text = match value {
            Value::Node(i) => match &self.arena[i] {
                Node::Text(text) => text,
                _ => return Err(self.wrong("a string", "another value")),
            },
            other => return Err(self.wrong("a string", format!("{other:?}"))),
        };
        if text.len() > MAX_NAME {
            return Err(self.wrong(&format!("a name of at most {MAX_NAME} bytes"), text.len().to_string()));
        }
        Ok(text)
    }

    fn tuple_of(&self, value: Value) -> Result<&[Value], Error> {
        match value {
            Value::Node(i) => match &self.arena[i] {
                Node::Tuple(values) => Ok(values),
                _ => Err(self.wrong("a tuple", "another value")),
            },
            other => Err(self.wrong("a tuple", format!("{other:?}"))),
        }
    }

    fn size_of(&self, value: Value) -> Result<usize, Error> {
        match value {
            Value::Int(n) => usize::try_from(n).map_err(|_| self.wrong("a size", n.to_string())),
            other => Err(self.wrong("a size", format!("{other:?}"))),
        }
    }

    fn sizes_of(&self, value: Value) -> Result<Vec<usize>, Error> {
        let sizes = self.tuple_of(value)?;
        if sizes.len() > MAX_DIMENSIONS {
            return Err(self.wrong(&format!("at most {MAX_DIMENSIONS} dimensions"), sizes.len().to_string()));
        }
        sizes.iter().map(|&v| self.size_of(v)).collect()
    }

    fn global(&mut self, module: &str, name: &str) -> Result<(), Error> {
        let storage = Global::Storage;
        let global = match (module, name) {
            ("collections", "OrderedDict") => Global::OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2" | "_rebuild_tensor") => Global::RebuildTensor,
            ("torch._utils", "_rebuild_parameter") => Global::RebuildParameter,
            ("torch", "DoubleStorage") => storage(ElementType::F64),
            ("torch", "FloatStorage") => storage(ElementType::F32),
            ("torch", "HalfStorage") => storage(ElementType::F16),
            ("torch", "BFloat16Storage") => storage(ElementType::Bf16),
            ("torch", "LongStorage") => storage(ElementType::I64),
            ("torch", "IntStorage") => storage(ElementType::I32),
            ("torch", "ShortStorage") => storage(ElementType::I16),
            ("torch", "CharStorage") => storage(ElementType::I8),
            ("torch", "ByteStorage") => storage(ElementType::U8),
            ("torch", "BoolStorage") => storage(ElementType::Bool),
            _ => {
                let (whole, at) = (format!("{module}.{name}"), self.base + self.at);
                if runs_code(module, name) {
                    return Err(more_than_tensors(self.path, &whole, at));
                }
                self.foreign.get_or_insert((whole, at));
                Global::Foreign
            }
        };
        self.push(Value::Global(global))
    }

    /// `('storage', type, key, location, elements[, view])`.
    fn persistent(&mut self) -> Result<(), Error> {
        let id = self.pop()?;
        let parts = self.tuple_of(id)?;
        let &[tag, Value::Global(Global::Storage(dtype)), key, _location, elements, ref view @ ..] = parts
        else {
            return Err(self.wrong("a storage", "another persistent id"));
        };
        if self.text_of(tag)? != "storage" || view.len() > 1 || view.iter().any(|v| *v != Value::None) {
            return Err(self.wrong("a storage that is not a view", "another persistent id"));
        }
        let key = self.text_of(key)?.to_owned();
        let elements = self.size_of(elements)?;
        self.node(Node::Storage { key, dtype, elements })
    }

    /// What a class makes of arguments that its constructor would have been given.
    fn construct(&mut self, class: Value) -> Result<(), Error> {
        match class {
            Value::Global(Global::OrderedDict) => self.node(Node::Dict(Vec::new())),
            Value::Global(Global::Foreign) => self.node(Node::Object(None)),
            _ => Err(self.wrong("a class", "another value")),
        }
    }

    fn reduce(&mut self) -> Result<(), Error> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        match (function, self.tuple_of(arguments)?) {
            (Value::Global(Global::OrderedDict), []) => self.node(Node::Dict(Vec::new())),
            (Value::Global(Global::Foreign), _) => self.node(Node::Object(None)),
            (Value::Global(Global::RebuildTensor), &[Value::Node(storage), offset, shape, strides, ..]) => {
                if !matches!(self.arena[storage], Node::Storage { .. }) {
                    return Err(self.wrong("a storage under the tensor", "another value"));
                }
                let (shape, strides) = (self.sizes_of(shape)?, self.sizes_of(strides)?);
                let offset = self.size_of(offset)?;
                self.node(Node::Tensor(Tensor { storage, offset, shape, strides }))
            }
            (Value::Global(Global::RebuildParameter), &[Value::Node(tensor), ..])
                if matches!(self.arena[tensor], Node::Tensor(_)) =>
            {
                self.push(Value::Node(tensor))
            }
            _ => Err(self.wrong("a tensor or an ordered dictionary to be built", "another call")),
        }
    }
}

/// Whether a global is one that attacks use to run code. Nothing is run here either way; the file is named for what it is.
fn runs_code(module: &str, name: &str) -> bool {
    const MODULES: [&str; 28] = [
        "os",
        "posix",
        "nt",
        "ntpath",
        "subprocess",
        "_posixsubprocess",
        "sys",
        "importlib",
        "imp",
        "runpy",
        "socket",
        "shutil",
        "pty",
        "ctypes",
        "_ctypes",
        "pickle",
        "_pickle",
        "dill",
        "cloudpickle",
        "marshal",
        "code",
        "codeop",
        "commands",
        "webbrowser",
        "pdb",
        "bdb",
        "timeit",
        "pip",
    ];
    // Of the builtins only types are data.
    const TYPES: [&str; 17] = [
        "object",
        "set",
        "frozenset",
        "list",
        "dict",
        "tuple",
        "int",
        "long",
        "float",
        "complex",
        "str",
        "unicode",
        "bytes",
        "bytearray",
        "bool",
        "slice",
        "range",
    ];
    let package = module.split('.').next().unwrap_or_default();
    match package {
        "builtins" | "__builtin__" | "__builtins__" => !TYPES.contains(&name),
        "torch" => matches!(name, "load" | "_load_from_bytes" | "hub"),
        package => MODULES.contains(&package),
    }
}
