//! A disk that fills up: one clear line, and no file that is not whole.
//!
//! Two stand-ins for a full disk: a small file system in memory, where the user may mount one, and a limit on the size of
//! files, which every user may set.

use std::fs;
use std::process::Command;

use crate::place::{PAIRS, Place, RECIPE, Ran, conversations, tiny_adapter, tiny_model};

/// Runs the program in a shell that lets no file grow over `blocks` of 512 bytes.
fn limited(place: &Place, blocks: usize, arguments: &str) -> Ran {
    let program = place.command(arguments);
    let mut shell = Command::new("sh");
    // The signal that comes with the limit must not kill it: then writing fails, as on a full disk.
    shell.args(["-c", &format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"")]);
    shell.arg(program.get_program()).args(program.get_args()).current_dir(place.root());
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    Ran::of(shell.output().unwrap())
}

fn place() -> Place {
    let place = Place::new();
    tiny_model(&place.path("model"), 7);
    tiny_adapter(&place.path("model"), &place.path("adapter"));
    let ids: Vec<u32> = (0..100).collect();
    place.write("tokens.json", serde_json::json!({ "input_ids": [ids] }).to_string());
    place.write("data.jsonl", conversations(&PAIRS));
    place.write("recipe.toml", RECIPE);
    let mix = "name = \"m\"\nversion = 1\nseed = 1\n[[dataset]]\nid = \"kuake_qic\"\nsplits = [\"train\"]\ntasks = [\"tc\"]\n";
    place.write("mix.toml", mix);
    // Words without end, so that the vocabulary gets as large as it may.
    let letter = |digit: char| char::from(b'a' + digit as u8 - b'0');
    let word = |n: u32| n.wrapping_mul(2_654_435_761).to_string().chars().map(letter).collect::<String>();
    place.write("words.txt", (0..3000).map(|n| word(n % 1500) + " ").collect::<String>());
    let record = "{\"id\": \"ID\", \"query\": \"虚构：头痛挂什么科\", \"label\": \"就医建议\"}";
    let records: Vec<String> = (0..400).map(|id| record.replace("ID", &id.to_string())).collect();
    for split in ["train", "dev"] {
        place.write(&format!("source/kuake_qic/KUAKE-QIC_{split}.json"), format!("[{}]", records.join(",")));
    }
    place
}

/// Commands that write more than 32 KiB, and what their output is called.
const WRITERS: [(&str, &str); 6] = [
    ("model logits --model model --tokens tokens.json --out OUT/logits.safetensors", "logits.safetensors"),
    ("model merge --model model --adapter adapter --dtype f32 --out OUT/merged", "merged"),
    ("corpus build kuake_qic --source source --out OUT", "kuake_qic"),
    ("tokenizer train --input words.txt --vocab-size 2000 --out OUT/tokenizer", "tokenizer"),
    ("instruct build --recipe mix.toml --source source --out OUT/made/mix.jsonl", "made"),
    ("train --recipe recipe.toml --max-steps 2 --out OUT/trained", "trained"),
];

/// Asserts that a command told of the disk in one line and left no file that looks whole.
fn assert_told(place: &Place, ran: Ran, out: &str, name: &str, reason: &str) {
    assert_eq!(ran.code, Some(2), "{name}: {}", ran.stderr);
    let errors: Vec<&str> = ran.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    let [error] = errors.as_slice() else { panic!("{name}: {}", ran.stderr) };
    assert!(error.contains(reason) && error.contains(out), "{name}: {error}");
    assert!(!ran.stderr.contains("panicked"), "{name}: {}", ran.stderr);
    let left: Vec<String> =
        ["", name].iter().flat_map(|folder| place.names(&format!("{out}/{folder}"))).collect();
    let wholes = [
        "logits.safetensors",
        "merged",
        "manifest.json",
        "tokenizer.json",
        "mix.jsonl",
        "adapter_model.safetensors",
    ];
    assert!(!left.iter().any(|left| wholes.contains(&left.as_str())), "{name}: {left:?}");
    for partial in [".partial", ".tmp"] {
        assert!(!left.iter().any(|left| left.ends_with(partial)), "{name}: {left:?}");
    }
}

#[test]
fn files_that_cannot_grow_are_told_and_not_left() {
    let place = place();
    for (at, (arguments, name)) in WRITERS.iter().enumerate() {
        let out = format!("out{at}");
        fs::create_dir(place.path(&out)).unwrap();
        let ran = limited(&place, 32, &arguments.replace("OUT", &out));
        assert_told(&place, ran, &out, name, "File too large");
        // With room, the same command in the same place works.
        let again = if name == &"trained" { " --resume" } else { "" };
        place.taiyi(&(arguments.replace("OUT", &out) + again)).fine();
    }
}

#[test]
fn an_extraction_that_cannot_be_written_is_told_and_not_left() {
    let place = place();
    place.write(
        "many.jsonl",
        format!("{{\"text\": \"{}\"}}\n", "fever and headache. ".repeat(10)).repeat(100),
    );
    let arguments =
        "extract many.jsonl --model model --types disease --max-new-tokens 1 --out out/found.jsonl";
    let ran = limited(&place, 32, arguments);
    assert_told(&place, ran, "out", "found.jsonl", "File too large");
    assert_eq!(place.names("out"), [""; 0]);
    place.taiyi(arguments).fine();
    assert_eq!(place.read("out/found.jsonl").lines().count(), 100);
}

/// A file system of a few kibibytes, unmounted when it goes.
struct SmallDisk<'a>(&'a Place);

impl<'a> SmallDisk<'a> {
    fn mount(place: &'a Place, size: &str) -> Option<Self> {
        fs::create_dir(place.path("disk")).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "taiyi-test"])
            .arg(place.path("disk"))
            .output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(place)),
            Ok(output) => {
                eprintln!(
                    "skipped: no file system can be mounted: {}",
                    String::from_utf8_lossy(&output.stderr).trim()
                );
                None
            }
            Err(error) => {
                eprintln!("skipped: there is no `mount`: {error}");
                None
            }
        }
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let done = Command::new("umount").arg(self.0.path("disk")).status();
        if !done.is_ok_and(|status| status.success()) {
            eprintln!("{} could not be unmounted", self.0.path("disk").display());
        }
    }
}

#[test]
fn a_full_disk_is_told_and_nothing_half_written_is_left() {
    let place = place();
    for (arguments, name) in WRITERS {
        let Some(_disk) = SmallDisk::mount(&place, "24k") else { return };
        let ran = place.taiyi(&arguments.replace("OUT", "disk"));
        assert_told(&place, ran, "disk", name, "No space left on device");
        drop(_disk);
        fs::remove_dir(place.path("disk")).unwrap();
    }
}

#[test]
fn a_run_whose_disk_fills_up_goes_on_from_its_last_checkpoint() {
    let place = place();
    let recipe = RECIPE.replace("save_every = 5", "save_every = 1");
    place.write("recipe.toml", &recipe);
    place.taiyi("train --recipe recipe.toml --out whole").fine();
    let checkpoint: u64 = fs::read_dir(place.path("whole/checkpoints"))
        .unwrap()
        .flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap())
        .map(|file| file.unwrap().metadata().unwrap().len())
        .sum();
    // Room for a checkpoint and a half: the second one does not fit beside the first.
    let Some(disk) = SmallDisk::mount(&place, &format!("{}", checkpoint * 3 / 2 + (64 << 10))) else {
        return;
    };
    let ran = place.taiyi("train --recipe recipe.toml --out disk/run");
    assert_eq!(ran.code, Some(2), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("error: disk/run/") && ran.stderr.contains("No space left on device"),
        "{}",
        ran.stderr
    );
    assert_eq!(place.names("disk/run/checkpoints"), ["step-00000001"]);
    // Elsewhere, with room, it goes on to the same result.
    let copied =
        Command::new("cp").arg("-r").arg(place.path("disk/run")).arg(place.path("moved")).status().unwrap();
    assert!(copied.success());
    drop(disk);
    let ran = place.taiyi("train --recipe recipe.toml --out moved --resume").fine();
    assert!(ran.stderr.contains("resumed from step 1"), "{}", ran.stderr);
    let bytes = |out: &str| fs::read(place.path(out).join("adapter_model.safetensors")).unwrap();
    assert_eq!(bytes("moved"), bytes("whole"));
}
