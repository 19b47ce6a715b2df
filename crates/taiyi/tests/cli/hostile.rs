//! Model folders that mean harm, through the program: one line, soon, and in little memory.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::place::{Place, Ran, config};

/// What a folder is refused in, at the latest; a debug build on a busy machine takes a tenth of it.
const LONGEST: Duration = Duration::from_secs(30);

/// Address space of the program in KiB. Files are mapped, so the largest of them counts, 3 GiB.
const MEMORY_KIB: usize = 4 << 20;

fn place() -> Place {
    let place = Place::new();
    place.write("model/config.json", config(300).to_string());
    place
}

/// Asks for the model's description where memory is short, and expects one line about it.
#[track_caller]
fn refused(place: &Place, parts: &[&str]) {
    let begin = Instant::now();
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("ulimit -v {MEMORY_KIB}; exec \"$0\" \"$@\"")])
        .arg(env!("CARGO_BIN_EXE_taiyi"))
        .args(["model", "info", "--model", "model"])
        .current_dir(place.root())
        .env("TAIYI_THREADS", "1");
    let ran = Ran::of(command.output().unwrap());
    assert!(begin.elapsed() < LONGEST, "{:?}", begin.elapsed());
    assert!(ran.stderr.len() < 2000, "a line, not the file: {}", ran.stderr.len());
    ran.refused(parts);
}

/// A pickle in the layout of before PyTorch 1.6.
fn legacy(body: &[u8]) -> Vec<u8> {
    let magic = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
    [&magic[..], b"\x80\x02M\xe9\x03.", b"\x80\x02}.", b"\x80\x02", body, b"."].concat()
}

#[test]
fn weights_that_mean_harm() {
    let place = place();
    let bin = |body: &[u8], parts: &[&str]| {
        place.write("model/pytorch_model.bin", legacy(body));
        refused(&place, parts);
    };
    let harmed = place.path("harmed").display().to_string();
    let order = format!("touch {harmed}");
    let length = (order.len() as u32).to_le_bytes();
    let call = [&b"cos\nsystem\n(X"[..], &length, order.as_bytes(), b"tR"].concat();
    bin(&call, &["pytorch_model.bin", "the global `os.system`", "refused"]);
    assert!(!place.path("harmed").exists(), "nothing is run");
    bin(b"Nr\xff\xff\xff\xff", &["pytorch_model.bin", "memo index"]);
    bin(b"X\xff\xff\xff\x7f", &["pytorch_model.bin", "truncated"]);
    bin(&[&b"N"[..], &vec![0x85; 2_000_000]].concat(), &["pytorch_model.bin"]);
    bin(&b")".repeat(20_000_000), &["pytorch_model.bin", "at most"]);
    std::fs::remove_file(place.path("model/pytorch_model.bin")).unwrap();

    // Two gigabytes of header, claimed and there.
    let name = "model/model.safetensors";
    place.write(name, (2_u64 << 30).to_le_bytes());
    refused(&place, &["model.safetensors", "the header length", "2147483648"]);
    let mut file = File::options().write(true).open(place.path(name)).unwrap();
    file.set_len((2 << 30) + 8).unwrap();
    refused(&place, &["model.safetensors", "the header length", "at most 100000000 bytes"]);
    // As large a header as is allowed, all of it brackets.
    file.set_len(8).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.write_all(&100_000_000_u64.to_le_bytes()).unwrap();
    file.write_all(b"{\"a\":{\"shape\":").unwrap();
    let rest = 100_000_000 - 14;
    (0..rest / 1000).for_each(|_| file.write_all(&[b'['; 1000]).unwrap());
    file.write_all(&vec![b'['; rest % 1000]).unwrap();
    refused(&place, &["model.safetensors", "not valid JSON"]);
    std::fs::remove_file(place.path(name)).unwrap();

    let overlapping = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#;
    let bytes = [&(overlapping.len() as u64).to_le_bytes()[..], overlapping.as_bytes(), &[0; 12]].concat();
    place.write(name, bytes);
    refused(&place, &["model.safetensors", "overlap"]);
    std::fs::remove_file(place.path(name)).unwrap();

    let index = "model/model.safetensors.index.json";
    place.write(index, json!({"weight_map": {"a": "../../secret"}}).to_string());
    refused(&place, &["index.json", "the file name `../../secret`"]);
    File::create(place.path(index)).unwrap().set_len(3 << 30).unwrap();
    refused(&place, &["index.json", "a longer file"]);
}

#[cfg(unix)]
#[test]
fn links_out_of_the_folder() {
    let place = place();
    place.write("secret.safetensors", [&2_u64.to_le_bytes()[..], b"{}"].concat());
    std::os::unix::fs::symlink("../secret.safetensors", place.path("model/model.safetensors")).unwrap();
    refused(&place, &["model.safetensors", "a link to", "copy or move the file"]);
}
