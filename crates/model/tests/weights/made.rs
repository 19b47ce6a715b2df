//! Files made byte by byte: safetensors, pickles, zip archives.

use std::path::PathBuf;

use serde_json::Value;

/// A folder of the oracles, or a line on stderr and `None`.
pub(crate) fn oracle(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/oracles").join(name);
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: no ../shared/oracles/{name} beside the repository");
    None
}

/// A safetensors file of a header and its data.
pub(crate) fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

/// A safetensors file of named tensors: type, shape, bytes.
pub(crate) fn tensors(parts: &[(String, &str, Vec<usize>, Vec<u8>)]) -> Vec<u8> {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, dtype, shape, bytes) in parts {
        let begin = data.len();
        data.extend_from_slice(bytes);
        let entry = serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": [begin, data.len()]});
        header.insert(name.clone(), entry);
    }
    safetensors(&Value::Object(header).to_string(), &data)
}

/// A pickle of protocol 2, one opcode after the other.
#[derive(Clone)]
pub(crate) struct Pickle(Vec<u8>);

impl Pickle {
    pub(crate) fn new() -> Self {
        Self(b"\x80\x02".to_vec())
    }

    pub(crate) fn op(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn global(self, module: &str, name: &str) -> Self {
        self.op(format!("c{module}\n{name}\n").as_bytes())
    }

    pub(crate) fn text(self, text: &str) -> Self {
        self.op(b"X").op(&(text.len() as u32).to_le_bytes()).op(text.as_bytes())
    }

    pub(crate) fn int(self, value: i32) -> Self {
        self.op(b"J").op(&value.to_le_bytes())
    }

    pub(crate) fn float(self, value: f64) -> Self {
        self.op(b"G").op(&value.to_be_bytes())
    }

    /// A plain JSON value as Python pickles it.
    pub(crate) fn json(self, value: &Value) -> Self {
        match value {
            Value::Null => self.op(b"N"),
            Value::Bool(true) => self.op(b"\x88"),
            Value::Bool(false) => self.op(b"\x89"),
            Value::Number(n) if n.is_i64() => self.int(n.as_i64().unwrap() as i32),
            Value::Number(n) => self.float(n.as_f64().unwrap()),
            Value::String(text) => self.text(text),
            Value::Array(values) => values.iter().fold(self.op(b"]("), |p, v| p.json(v)).op(b"e"),
            Value::Object(map) => map.iter().fold(self.op(b"}("), |p, (k, v)| p.text(k).json(v)).op(b"u"),
        }
    }

    /// A contiguous tensor over a whole storage, as `torch.save` describes it.
    pub(crate) fn tensor(self, key: &str, storage: &str, shape: &[usize]) -> Self {
        let elements: usize = shape.iter().product();
        let sizes =
            |p: Self, sizes: &[usize]| sizes.iter().fold(p.op(b"("), |p, &n| p.int(n as i32)).op(b"t");
        let mut strides = vec![1; shape.len()];
        for i in (1..shape.len()).rev() {
            strides[i - 1] = strides[i] * shape[i];
        }
        let p = self.global("torch._utils", "_rebuild_tensor_v2").op(b"((").text("storage");
        let p = p.global("torch", storage).text(key).text("cpu").int(elements as i32).op(b"tQ").int(0);
        let p = sizes(sizes(p, shape), &strides);
        p.op(b"\x89").global("collections", "OrderedDict").op(b")RtR")
    }

    /// An object of a class whose attributes are set.
    pub(crate) fn object(self, module: &str, name: &str, attributes: &Value) -> Self {
        self.global(module, name).op(b")\x81").json(attributes).op(b"b")
    }

    pub(crate) fn bytes(self) -> Vec<u8> {
        self.op(b".").0
    }
}

/// A member of an archive: what the directory says need not be so.
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) data: Vec<u8>,
    pub(crate) method: u16,
    pub(crate) stated_size: Option<u32>,
}

impl Member {
    pub(crate) fn stored(name: &str, data: Vec<u8>) -> Self {
        Self { name: name.to_owned(), data, method: 0, stated_size: None }
    }
}

/// A zip archive of these members.
pub(crate) fn zip(members: &[Member]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for member in members {
        let (at, size) = (file.len() as u32, member.stated_size.unwrap_or(member.data.len() as u32));
        let middle = [
            &20_u16.to_le_bytes()[..],
            &0_u16.to_le_bytes(),
            &member.method.to_le_bytes(),
            &[0; 8],
            &(member.data.len() as u32).to_le_bytes(),
            &size.to_le_bytes(),
            &(member.name.len() as u16).to_le_bytes(),
            &0_u16.to_le_bytes(),
        ]
        .concat();
        file.extend_from_slice(&[&b"PK\x03\x04"[..], &middle, member.name.as_bytes(), &member.data].concat());
        let tail = [&[0; 10][..], &at.to_le_bytes(), member.name.as_bytes()].concat();
        directory.extend_from_slice(&[&b"PK\x01\x02"[..], &20_u16.to_le_bytes(), &middle, &tail].concat());
    }
    let (count, begin) = ((members.len() as u16).to_le_bytes(), (file.len() as u32).to_le_bytes());
    let size = (directory.len() as u32).to_le_bytes();
    let end = [&b"PK\x05\x06"[..], &[0; 4], &count, &count, &size, &begin, &[0; 2]].concat();
    [file, directory, end].concat()
}

/// A PyTorch archive: the pickle and the storages.
pub(crate) fn archive(pickle: Vec<u8>, storages: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut members = vec![Member::stored("archive/data.pkl", pickle)];
    members.push(Member::stored("archive/byteorder", b"little".to_vec()));
    members.extend(
        storages.iter().map(|(key, bytes)| Member::stored(&format!("archive/data/{key}"), bytes.clone())),
    );
    zip(&members)
}

/// A PyTorch file of before 1.6: the pickle, the keys of the storages, and the storages with their numbers of elements.
pub(crate) fn legacy(pickle: Vec<u8>, storages: &[(String, usize, Vec<u8>)]) -> Vec<u8> {
    let magic = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
    let keys: Vec<Value> = storages.iter().map(|(key, _, _)| Value::from(key.as_str())).collect();
    let keys = Pickle::new().json(&Value::Array(keys)).bytes();
    let mut file = [&magic[..], b"\x80\x02M\xe9\x03.", b"\x80\x02}.", &pickle, &keys].concat();
    for (_, elements, bytes) in storages {
        file.extend_from_slice(&(*elements as u64).to_le_bytes());
        file.extend_from_slice(bytes);
    }
    file
}
