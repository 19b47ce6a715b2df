//! A reader for the pickles that PyTorch writes around weights. It is an interpreter of data, not of code: it builds
//! dictionaries, lists, tuples, strings, numbers and descriptions of tensors; a global that is not on the short list below
//! ends it, and nothing that a pickle names is ever called.
//!
//! Values live in an arena and refer to each other by index, so that neither deep nesting nor shared references cost more
//! than the bytes that spell them. Opcodes: Python's `pickletools`.

use std::path::Path;

use super::ElementType;
use crate::error::Error;

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
    }
    .run()
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

    fn text(&mut self, n: usize) -> Result<String, Error> {
        let bytes = self.take(n)?.to_vec();
        String::from_utf8(bytes).map_err(|_| self.wrong("UTF-8 text", "other bytes"))
    }

    fn line(&mut self) -> Result<String, Error> {
        let rest = &self.bytes[self.at..];
        let n = rest
            .iter()
            .position(|&b| b == b'\n')
            .ok_or_else(|| self.wrong("a line", "the end of the file"))?;
        let line = self.text(n)?;
        self.at += 1;
        Ok(line)
    }

    fn node(&mut self, node: Node) {
        self.arena.push(node);
        self.stack.push(Value::Node(self.arena.len() - 1));
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
        self.node(Node::Tuple(values));
        Ok(())
    }

    fn put(&mut self, index: usize) -> Result<(), Error> {
        let value = *self.stack.last().ok_or_else(|| self.wrong("a value to remember", "none"))?;
        // A memo index is never larger than the number of opcodes, so a huge one is an attack on our memory.
        if index > self.bytes.len() {
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
        self.stack.push(value);
        Ok(())
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
                b'}' => self.node(Node::Dict(Vec::new())),
                b']' => self.node(Node::List(Vec::new())),
                b')' => self.node(Node::Tuple(Vec::new())),
                b'(' => self.marks.push(self.stack.len()),
                b'0' => {
                    self.pop()?;
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
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    let global = self.global(&module, &name)?;
                    self.stack.push(global);
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    let (module, name) = (self.text_of(module)?, self.text_of(name)?);
                    let global = self.global(&module, &name)?;
                    self.stack.push(global);
                }
                b't' => {
                    let values = self.pop_to_mark()?;
                    self.node(Node::Tuple(values));
                }
                0x85..=0x87 => self.pop_tuple(usize::from(opcode - 0x84))?,
                b'J' => {
                    let n = i32::from_le_bytes(self.number()?);
                    self.stack.push(Value::Int(i64::from(n)));
                }
                b'K' => {
                    let n = self.byte()?;
                    self.stack.push(Value::Int(i64::from(n)));
                }
                b'M' => {
                    let n = u16::from_le_bytes(self.number()?);
                    self.stack.push(Value::Int(i64::from(n)));
                }
                0x8a => self.long()?,
                b'G' => {
                    let x = f64::from_be_bytes(self.number()?);
                    self.stack.push(Value::Float(x));
                }
                b'N' => self.stack.push(Value::None),
                0x88 => self.stack.push(Value::Bool(true)),
                0x89 => self.stack.push(Value::Bool(false)),
                b'Q' => self.persistent()?,
                b'R' => self.reduce()?,
                b'b' => {
                    // Attributes of a dictionary (a state dict's version numbers); nothing here needs them.
                    self.pop()?;
                    let target = self.stack.last().copied();
                    if !matches!(target, Some(Value::Node(i)) if matches!(self.arena[i], Node::Dict(_))) {
                        return Err(self.wrong("attributes of a dictionary", "attributes of another value"));
                    }
                }
                b's' => {
                    let (value, key) = (self.pop()?, self.pop()?);
                    self.dict()?.push((key, value));
                }
                b'u' => {
                    let values = self.pop_to_mark()?;
                    if values.len() % 2 != 0 {
                        return Err(
                            self.wrong("keys and values in pairs", format!("{} values", values.len()))
                        );
                    }
                    self.dict()?.extend(values.chunks(2).map(|pair| (pair[0], pair[1])));
                }
                b'a' => {
                    let value = self.pop()?;
                    self.list()?.push(value);
                }
                b'e' => {
                    let values = self.pop_to_mark()?;
                    self.list()?.extend(values);
                }
                b'.' => {
                    let root = self.pop()?;
                    return Ok(Unpickled { root, arena: self.arena, length: self.at });
                }
                other => return Err(self.wrong("an opcode that weight files use", format!("0x{other:02x}"))),
            }
        }
    }

    fn sized_text(&mut self, width: usize) -> Result<(), Error> {
        let mut length = [0; 8];
        length[..width].copy_from_slice(self.take(width)?);
        let length = usize::try_from(u64::from_le_bytes(length)).unwrap_or(usize::MAX);
        let text = self.text(length)?;
        self.node(Node::Text(text));
        Ok(())
    }

    fn long(&mut self) -> Result<(), Error> {
        let n = usize::from(self.byte()?);
        let bytes = self.take(n)?.to_vec();
        if n > 8 {
            self.node(Node::Long(bytes));
            return Ok(());
        }
        let fill = if bytes.last().is_some_and(|b| b & 0x80 != 0) { 0xff } else { 0 };
        let mut all = [fill; 8];
        all[..n].copy_from_slice(&bytes);
        self.stack.push(Value::Int(i64::from_le_bytes(all)));
        Ok(())
    }

    fn dict(&mut self) -> Result<&mut Vec<(Value, Value)>, Error> {
        let error = self.wrong("a dictionary", "another value");
        match self.stack.last() {
            Some(&Value::Node(i)) => match &mut self.arena[i] {
                Node::Dict(entries) => Ok(entries),
                _ => Err(error),
            },
            _ => Err(error),
        }
    }

    fn list(&mut self) -> Result<&mut Vec<Value>, Error> {
        let error = self.wrong("a list", "another value");
        match self.stack.last() {
            Some(&Value::Node(i)) => match &mut self.arena[i] {
                Node::List(values) => Ok(values),
                _ => Err(error),
            },
            _ => Err(error),
        }
    }

    fn text_of(&self, value: Value) -> Result<String, Error> {
        match value {
            Value::Node(i) => match &self.arena[i] {
                Node::Text(text) => Ok(text.clone()),
                other => {
                    Err(self.wrong("a string", format!("{other:?}").chars().take(40).collect::<String>()))
                }
            },
            other => Err(self.wrong("a string", format!("{other:?}"))),
        }
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
        self.tuple_of(value)?.iter().map(|&v| self.size_of(v)).collect()
    }

    fn global(&self, module: &str, name: &str) -> Result<Value, Error> {
        let storage = |dtype| Ok(Value::Global(Global::Storage(dtype)));
        match (module, name) {
            ("collections", "OrderedDict") => Ok(Value::Global(Global::OrderedDict)),
            ("torch._utils", "_rebuild_tensor_v2") => Ok(Value::Global(Global::RebuildTensor)),
            ("torch._utils", "_rebuild_parameter") => Ok(Value::Global(Global::RebuildParameter)),
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
            _ => Err(self.wrong(
                "only tensors (a pickle that names other globals can run code when Python loads it, and is refused here)",
                format!("the global `{}.{}`", clipped(module), clipped(name)),
            )),
        }
    }

    /// `('storage', type, key, location, elements[, view])`.
    fn persistent(&mut self) -> Result<(), Error> {
        let id = self.pop()?;
        let parts = self.tuple_of(id)?.to_vec();
        let [tag, Value::Global(Global::Storage(dtype)), key, _location, elements, ref view @ ..] = parts[..]
        else {
            return Err(self.wrong("a storage", "another persistent id"));
        };
        if self.text_of(tag)? != "storage" || view.iter().any(|v| *v != Value::None) {
            return Err(self.wrong("a storage that is not a view", "another persistent id"));
        }
        let key = self.text_of(key)?;
        let elements = self.size_of(elements)?;
        self.node(Node::Storage { key, dtype, elements });
        Ok(())
    }

    fn reduce(&mut self) -> Result<(), Error> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let arguments = self.tuple_of(arguments)?.to_vec();
        match (function, &arguments[..]) {
            (Value::Global(Global::OrderedDict), []) => self.node(Node::Dict(Vec::new())),
            (Value::Global(Global::RebuildTensor), &[Value::Node(storage), offset, shape, strides, ..]) => {
                if !matches!(self.arena[storage], Node::Storage { .. }) {
                    return Err(self.wrong("a storage under the tensor", "another value"));
                }
                let (shape, strides) = (self.sizes_of(shape)?, self.sizes_of(strides)?);
                let offset = self.size_of(offset)?;
                self.node(Node::Tensor(Tensor { storage, offset, shape, strides }));
            }
            (Value::Global(Global::RebuildParameter), &[Value::Node(tensor), ..])
                if matches!(self.arena[tensor], Node::Tensor(_)) =>
            {
                self.stack.push(Value::Node(tensor));
            }
            _ => return Err(self.wrong("a tensor or an ordered dictionary to be built", "another call")),
        }
        Ok(())
    }
}

fn clipped(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(60).collect()
}
