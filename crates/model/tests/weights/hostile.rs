//! Files that mean harm: refused in one line, in bounded time, without memory for what they claim to hold.

use std::{
    fs::File,
    io::{Seek, SeekFrom, Write},
    path::Path,
    time::{Duration, Instant},
};

use serde_json::json;
use taiyi_model::{
    Error,
    weights::{Weights, config_json},
};

use crate::made::{Member, Pickle, archive, legacy, safetensors, zip};

/// Far more than any of these takes in a debug build on a busy machine; a file that is believed takes minutes.
const LONGEST: Duration = Duration::from_secs(30);

/// Asserts that a file of these bytes is refused in one short line that holds all of `parts`.
#[track_caller]
fn refuse(name: &str, bytes: &[u8], parts: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    refuse_with(parts, || Weights::open_file(&path).err());
}

#[track_caller]
fn refuse_with(parts: &[&str], open: impl FnOnce() -> Option<Error>) {
    let begin = Instant::now();
    let Some(error) = open() else { panic!("{parts:?}: was accepted") };
    assert!(begin.elapsed() < LONGEST, "{parts:?}: {:?}", begin.elapsed());
    let text = error.to_string();
    assert!(!text.contains('\n') && text.chars().count() < 900, "one line: {text}");
    for part in parts {
        assert!(text.contains(part), "`{part}` in: {text}");
    }
}

const SAFE: &str = "model.safetensors";
const BIN: &str = "pytorch_model.bin";

#[test]
fn headers_that_claim_two_gigabytes() {
    refuse(SAFE, &(2_u64 << 30).to_le_bytes(), &["header length", "2147483648 bytes"]);
    refuse(SAFE, &u64::MAX.to_le_bytes(), &["header length", "18446744073709551615"]);
    // The same with the bytes there: a file with a hole takes no space on the disk.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(SAFE);
    let mut file = File::create(&path).unwrap();
    file.write_all(&(2_u64 << 30).to_le_bytes()).unwrap();
    file.set_len((2 << 30) + 4096).unwrap();
    refuse_with(&["header length", "at most 100000000 bytes"], || Weights::open_file(&path).err());
    // Within the bound, but of nothing.
    file.seek(SeekFrom::Start(0)).unwrap();
    file.write_all(&90_000_000_u64.to_le_bytes()).unwrap();
    refuse_with(&["a JSON object"], || Weights::open_file(&path).err());
}

#[test]
fn headers_of_garbage() {
    let nested = |open: &str, n: usize| safetensors(&open.repeat(n), b"");
    refuse(SAFE, &nested("[", 1_000_000), &["a JSON object"]);
    refuse(SAFE, &nested("{\"a\":", 1_000_000), &["not valid JSON"]);
    refuse(SAFE, &safetensors(&format!("{{\"a\":{}", "[".repeat(1_000_000)), b""), &["not valid JSON"]);
    let inside = |value: &str| {
        safetensors(&format!(r#"{{"a":{{"dtype":"F32","shape":{value},"data_offsets":[0,4]}}}}"#), &[0; 4])
    };
    refuse(SAFE, &inside(&"[".repeat(1_000_000)), &["not valid JSON"]);
    let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
    refuse(SAFE, &inside(&deep), &["`shape`", "an array of something else"]);
    // Sizes without end take no memory, and their product does not overflow.
    refuse(SAFE, &inside(&format!("[{}1]", "1,".repeat(2_000_000))), &["`shape`"]);
    refuse(SAFE, &inside(&format!("[{}1]", "4294967296,".repeat(20))), &["countable"]);
    let long = "x".repeat(3_000_000);
    refuse(SAFE, &safetensors(&format!("{{\"{long}\":7}}"), b""), &["not valid JSON"]);
    refuse(SAFE, &safetensors(&format!("{{\"a\":\"{long}\"}}"), b""), &["not valid JSON"]);
    refuse(SAFE, &safetensors("{\"a\\nb\":{}}", b""), &["a\u{fffd}b", "`dtype`"]);
    refuse(SAFE, &safetensors(&format!("{{\"{long}\":{{}}}}"), b""), &["`dtype`", "xxx…"]);
    refuse(SAFE, &inside(&format!("\"{long}\"")), &["`shape`", "xxx"]);
}

#[test]
fn tensors_that_overlap_or_are_there_twice() {
    let entry = |begin: usize, end: usize| {
        format!(r#"{{"dtype":"F32","shape":[{}],"data_offsets":[{begin},{end}]}}"#, (end - begin) / 4)
    };
    let two = |a: String, b: String| safetensors(&format!(r#"{{"a":{a},"b":{b}}}"#), &[0; 16]);
    refuse(SAFE, &two(entry(0, 12), entry(8, 16)), &["overlap"]);
    refuse(SAFE, &two(entry(0, 16), entry(0, 16)), &["overlap"]);
    refuse(SAFE, &two(entry(0, 4), entry(8, 16)), &["a hole"]);
    refuse(SAFE, &two(entry(0, 8), entry(8, 12)), &["the end of the data"]);
    let twice = format!(r#"{{"a":{},"a":{}}}"#, entry(0, 8), entry(8, 16));
    refuse(SAFE, &safetensors(&twice, &[0; 16]), &["tensor `a`", "two of it"]);
    let twice = r#"{"a":{"dtype":"F32","shape":[2],"shape":[4],"data_offsets":[0,16]}}"#;
    refuse(SAFE, &safetensors(twice, &[0; 16]), &["twice"]);
}

fn both_layouts(pickle: Vec<u8>, parts: &[&str]) {
    refuse(BIN, &archive(pickle.clone(), &[]), parts);
    refuse(BIN, &legacy(pickle, &[]), parts);
}

#[test]
fn pickles_that_run_code() {
    let call = |module: &str, name: &str| {
        Pickle::new().global(module, name).op(b"(").text("touch /tmp/harmed").op(b"tR").bytes()
    };
    both_layouts(call("os", "system"), &["the global `os.system`", "can run code", "refused"]);
    both_layouts(call("builtins", "exec"), &["the global `builtins.exec`", "refused"]);
    both_layouts(call("torch.hub", "load"), &["the global `torch.hub.load`", "refused"]);
    // By way of the stack, as newer protocols name things.
    let stacked =
        Pickle::new().text("posix").text("system").op(b"\x93").op(b"(").text("true").op(b"tR").bytes();
    both_layouts(stacked, &["the global `posix.system`", "refused"]);
    // A class that does nothing is not called either, and has no place among bare tensors.
    both_layouts(call("collections", "Counter"), &["a dictionary of tensors"]);
    let inside = Pickle::new().op(b"}(").text("a").global("collections", "Counter").op(b")Ru").bytes();
    both_layouts(inside, &["the global `collections.Counter`", "refused"]);
    let name = "x".repeat(100_000);
    both_layouts(call(&name, "y"), &["the name of a global"]);
    // Extension codes and the oldest protocol's calls are not spoken at all.
    both_layouts(Pickle::new().op(b"\x82\x01").bytes(), &["opcode", "0x82"]);
    both_layouts(Pickle::new().op(b"(S'true'\nios\nsystem\n").bytes(), &["opcode"]);
}

#[test]
fn pickles_that_eat_memory() {
    // Nesting is flat in the arena, and dropped flat.
    let deep = [&b"\x80\x02N"[..], &vec![0x85; 1_000_000], b"."].concat();
    both_layouts(deep, &["a dictionary of tensors"]);
    let lists = [&b"\x80\x02"[..], &b"]".repeat(1_000_000), &b"a".repeat(999_999), b"."].concat();
    both_layouts(lists, &["a dictionary of tensors"]);
    // A few bytes that would be a memo of four billion places.
    both_layouts(Pickle::new().op(b"Nr\xff\xff\xff\xff").bytes(), &["memo index"]);
    both_layouts(Pickle::new().op(b"Nr\x00\x00\x00\x01").bytes(), &["memo index"]);
    // Lengths beyond the file.
    both_layouts(Pickle::new().op(b"X\xff\xff\xff\xff").bytes(), &["more bytes", "truncated"]);
    both_layouts(Pickle::new().op(b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff").bytes(), &["more bytes"]);
    both_layouts(Pickle::new().op(b"\x8b\xff\xff\xff\x7f").bytes(), &["more bytes"]);
    both_layouts(Pickle::new().op(b"\x96\xff\xff\xff\xff\xff\xff\xff\xff").bytes(), &["more bytes"]);
    // Without end: values, marks, nodes, and bytes.
    let many = |op: &[u8], n: usize| [&b"\x80\x02"[..], &op.repeat(n)].concat();
    both_layouts(many(b"N", 5_000_000), &["values on the stack"]);
    both_layouts(many(b"(", 5_000_000), &["open marks"]);
    both_layouts(many(b")0", 5_000_000), &["strings, tuples and tensors"]);
    let long = [&b"\x80\x02X"[..], &(40_u32 << 20).to_le_bytes(), &vec![b'x'; 40 << 20], b"."].concat();
    refuse(BIN, &legacy(long, &[]), &["a pickle of at most 33554432 bytes"]);
}

/// One large value, remembered and used over and over: a few bytes a use must not cost what the value costs.
#[test]
fn pickles_that_multiply() {
    let shape = (0..1_000_000).fold(Pickle::new().op(b"("), |p, _| p.op(b"K\x01")).op(b"tq\x010");
    let storage = |p: Pickle| {
        p.op(b"(")
            .text("storage")
            .global("torch", "FloatStorage")
            .text("0")
            .text("cpu")
            .int(1)
            .op(b"tQq\x020")
    };
    let tensors = (0..200_000)
        .fold(storage(shape), |p, _| p.op(b"ctorch._utils\n_rebuild_tensor_v2\n(h\x02K\x00h\x01h\x01tR0"));
    both_layouts(tensors.bytes(), &["at most 64 dimensions"]);
    let name = Pickle::new().text(&"k".repeat(1_000_000)).op(b"q\x010");
    let storages =
        (0..200_000).fold(name, |p, _| p.op(b"(U\x07storagectorch\nFloatStorage\nh\x01h\x01K\x01tQ0"));
    both_layouts(storages.bytes(), &["a name of at most 512 bytes"]);
    let name = Pickle::new().text(&"k".repeat(1_000_000)).op(b"q\x010}(");
    let entries = (0..500_000).fold(name, |p, _| p.op(b"h\x01N")).op(b"u");
    both_layouts(entries.bytes(), &["names as keys"]);
    let arguments = (0..1_000_000).fold(Pickle::new().op(b"("), |p, _| p.op(b"N")).op(b"tq\x010");
    let calls = (0..500_000).fold(arguments, |p, _| p.op(b"ca\nb\nh\x01R0"));
    both_layouts(calls.op(b"}").bytes(), &["the global `a.b`"]);
}

#[test]
fn archives_that_lie() {
    let pickle = Pickle::new().op(b"}(").text("a").tensor("0", "FloatStorage", &[4]).op(b"u").bytes();
    let member = |name: &str, data: &[u8]| Member::stored(name, data.to_vec());
    let with = |members: Vec<Member>| {
        let mut all = vec![member("x/data.pkl", &pickle)];
        all.extend(members);
        zip(&all)
    };
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join(BIN);
    std::fs::write(&whole, with(vec![member("x/data/0", &[0; 16])])).unwrap();
    assert_eq!(Weights::open_file(&whole).unwrap().f32("a", &[4]).unwrap(), [0.0; 4]);

    refuse(BIN, &with(vec![]), &["tensor `a`", "no data under that key"]);
    refuse(BIN, &with(vec![member("x/data/0", &[0; 12])]), &["tensor `a`", "past its end"]);
    let lying = |size: u32| Member { stated_size: Some(size), ..member("x/data/0", &[0; 16]) };
    refuse(BIN, &with(vec![lying(u32::MAX - 1)]), &["member `x/data/0`", "4294967294 bytes"]);
    refuse(BIN, &with(vec![lying(u32::MAX)]), &["x/data/0"]);
    refuse(BIN, &with(vec![lying(4)]), &["tensor `a`", "past its end"]);
    // A bomb is compressed; nothing is unpacked.
    let bomb = Member { method: 8, stated_size: Some(1 << 31), ..member("x/data/0", &[0; 64]) };
    refuse(BIN, &with(vec![bomb]), &["member `x/data/0`", "stored data", "compressed"]);
    refuse(BIN, &with(vec![member("x/data/0", &[0; 16]), member("x/data/0", &[1; 16])]), &["two of it"]);
    refuse(BIN, &with(vec![member("y/data.pkl", &pickle)]), &["one member `data.pkl`"]);
    refuse(BIN, &with(vec![member(&"n".repeat(60_000), &[])]), &["names of at most 512 bytes"]);
    refuse(BIN, &with(vec![member("x/byteorder", b"big"), member("x/data/0", &[0; 16])]), &["byteorder"]);
    // A directory that claims more members than there can be, in 64 bits.
    let file = with(vec![]);
    let end = file.len() - 22;
    let record = [&b"PK\x06\x06"[..], &[0; 28], &u64::MAX.to_le_bytes(), &[0; 16]].concat();
    let locator = [&b"PK\x06\x07"[..], &[0; 4], &(end as u64).to_le_bytes(), &[0; 4]].concat();
    refuse(BIN, &[&file[..end], &record, &locator, &file[end..]].concat(), &["at most 262144 members"]);
    // A locator that points at the end of the address space.
    let locator = [&b"PK\x06\x07"[..], &[0; 4], &u64::MAX.to_le_bytes(), &[0; 4]].concat();
    refuse(BIN, &[&file[..end], &locator, &file[end..]].concat(), &["64-bit end record"]);
    // A directory that begins at itself for ever.
    let mut circular = with(vec![member("x/data/0", &[0; 16])]);
    let end = circular.len() - 22;
    circular[end + 10..end + 12].copy_from_slice(&u16::MAX.to_le_bytes());
    refuse(BIN, &circular, &["central directory"]);
}

#[test]
fn tensors_that_reach_beyond_their_storage() {
    let tensor = |sizes: &[u8], strides: &[u8], offset: i32| {
        let p = Pickle::new().op(b"}(").text("a").global("torch._utils", "_rebuild_tensor_v2").op(b"((");
        let p = p.text("storage").global("torch", "FloatStorage").text("0").text("cpu").int(4).op(b"tQ");
        let p = p.int(offset).op(sizes).op(strides).op(b"\x89").global("collections", "OrderedDict");
        archive(p.op(b")RtRu").bytes(), &[("0".to_owned(), vec![0; 16])])
    };
    let big = b"(\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7ft";
    refuse(BIN, &tensor(big, b"(K\x01t", 0), &["past its end"]);
    refuse(BIN, &tensor(b"(K\x04t", b"(K\x01t", 1), &["past its end"]);
    refuse(BIN, &tensor(b"(K\x04t", b"(K\x01t", i32::MAX), &["past its end"]);
    refuse(BIN, &tensor(b"(K\x04t", b"(K\x01t", -1), &["a size"]);
    refuse(BIN, &tensor(b"(K\x04K\x04t", b"(K\x00K\x01t", 0), &["contiguous"]);
    refuse(BIN, &tensor(b"(K\x04K\x01t", b"(K\x01t", 0), &["past its end"]);
    refuse(BIN, &tensor(b"(\x8a\x08\xff\xff\xff\xff\xff\xff\xff\xfft", b"(K\x01t", 0), &["a size"]);
}

/// A folder with a file outside it that something in it points at.
fn escape() -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    std::fs::create_dir(&model).unwrap();
    let whole = safetensors(r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, &[0; 4]);
    std::fs::write(dir.path().join("secret.safetensors"), whole).unwrap();
    (dir, model)
}

#[test]
fn an_index_that_reaches_outside() {
    let (_keep, model) = escape();
    let index = model.join("model.safetensors.index.json");
    for name in
        ["../secret.safetensors", "/etc/passwd", "..", "", "a/b.safetensors", "..\\secret.safetensors"]
    {
        std::fs::write(&index, json!({"weight_map": {"a": name}}).to_string()).unwrap();
        refuse_with(&["index.json", "the file name"], || Weights::open(&model).err());
    }
    std::fs::write(&index, json!({"weight_map": {"a": "."}}).to_string()).unwrap();
    refuse_with(&["an ordinary file"], || Weights::open(&model).err());
    for broken in ["[[[[", "[]", "{\"weight_map\": {\"a\": 7}}", "{\"weight_map\": []}"] {
        std::fs::write(&index, broken).unwrap();
        refuse_with(&["index.json"], || Weights::open(&model).err());
    }
    std::fs::write(&index, format!("{{\"weight_map\": {}", "[".repeat(2_000_000))).unwrap();
    refuse_with(&["index.json", "not valid JSON"], || Weights::open(&model).err());
    File::create(&index).unwrap().set_len(3 << 30).unwrap();
    refuse_with(&["index.json", "at most 16777216 bytes"], || Weights::open(&model).err());
}

#[cfg(unix)]
#[test]
fn a_link_that_leads_outside() {
    use std::os::unix::fs::symlink;

    let (dir, model) = escape();
    let secret = dir.path().join("secret.safetensors");
    symlink("../secret.safetensors", model.join(SAFE)).unwrap();
    refuse_with(&[SAFE, "a link to", "secret.safetensors", "copy or move"], || Weights::open(&model).err());
    std::fs::remove_file(model.join(SAFE)).unwrap();
    // Through an index too.
    symlink(&secret, model.join("shard.safetensors")).unwrap();
    let index = json!({"weight_map": {"a": "shard.safetensors"}}).to_string();
    std::fs::write(model.join("model.safetensors.index.json"), index).unwrap();
    refuse_with(&["shard.safetensors", "a link to"], || Weights::open(&model).err());
    // A folder that is itself a link is the user's own choice, and links inside a folder stay inside it.
    std::fs::remove_file(model.join("model.safetensors.index.json")).unwrap();
    std::fs::copy(&secret, model.join("real.safetensors")).unwrap();
    symlink("real.safetensors", model.join(SAFE)).unwrap();
    symlink(&model, dir.path().join("alias")).unwrap();
    assert!(Weights::open(&dir.path().join("alias")).is_ok());
    // The Hugging Face cache is made of links.
    let (snapshot, blobs) = (dir.path().join("hub/snapshots/abc"), dir.path().join("hub/blobs"));
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::create_dir_all(&blobs).unwrap();
    std::fs::copy(&secret, blobs.join("0123")).unwrap();
    symlink("../../blobs/0123", snapshot.join(SAFE)).unwrap();
    assert!(Weights::open(&snapshot).is_ok());
    std::fs::remove_file(snapshot.join(SAFE)).unwrap();
    symlink(&secret, snapshot.join(SAFE)).unwrap();
    refuse_with(&["a link to"], || Weights::open(&snapshot).err());
    // What never ends is no file.
    std::fs::remove_file(model.join(SAFE)).unwrap();
    symlink("/dev/zero", model.join(SAFE)).unwrap();
    refuse_with(&["no weights"], || Weights::open(&model).err());
}

#[test]
fn configurations_without_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    let refuse = |parts: &[&str]| refuse_with(parts, || config_json(dir.path()).err());
    refuse(&["config.json"]);
    std::fs::write(&path, "[".repeat(2_000_000)).unwrap();
    refuse(&["config.json", "not valid JSON"]);
    std::fs::write(&path, b"\xff\xfe{}").unwrap();
    refuse(&["config.json"]);
    File::create(&path).unwrap().set_len(3 << 30).unwrap();
    refuse(&["config.json", "at most 8388608 bytes"]);
    assert!(Path::new(&path).exists());
}
