//! What the program says of itself, as people see it.

use crate::place::{Place, Ran};

/// The help of a command and of all below it.
fn helps(place: &Place, path: &[String], all: &mut Vec<String>) {
    let output = place
        .command("")
        .args(path)
        .arg("--help")
        // Help is wrapped to the width of the terminal.
        .env("COLUMNS", "100")
        .output()
        .unwrap();
    let help = Ran::of(output).fine().stdout;
    all.push(format!(
        "$ taiyi {}--help\n{help}",
        path.iter().map(|word| format!("{word} ")).collect::<String>()
    ));
    let commands = help.split_once("\nCommands:\n").map_or("", |(_, rest)| rest);
    for line in commands.lines().take_while(|line| !line.is_empty()) {
        // A verb stands two blanks in; what its description runs on with stands further in.
        let verb = line.strip_prefix("  ").and_then(|line| line.split_whitespace().next());
        if let Some(verb) = verb
            && !line.starts_with("   ")
            && verb != "help"
        {
            helps(place, &[path, &[verb.to_owned()]].concat(), all);
        }
    }
}

#[test]
fn help_of_every_command() {
    let mut all = Vec::new();
    helps(&Place::new(), &[], &mut all);
    assert!(all.len() >= 20, "{}", all.len());
    insta::assert_snapshot!(all.join("\n"));
}

#[test]
fn wrong_arguments_exit_2_and_say_what_is_meant() {
    let place = Place::new();
    for (arguments, part) in [
        ("", "Usage: taiyi"),
        ("modle info", "unrecognized subcommand 'modle'"),
        ("model logits --model m", "--tokens <FILE.json>"),
        ("model logits --model m --tokens t --out o --dtype f16", "[possible values: f32, bf16, nf4]"),
        ("model merge --model m --adapter a --out o --to gguf", "[possible values: hf,"),
        ("extract notes", "expected a name in --types or --relations"),
        ("extract notes --types a --to brat", "--out <PATH>"),
        ("extract notes --types a --unit page", "expected `document`, `sentence` or a number of characters"),
        ("eval run --benchmark hoc --model m --endpoint http://x --source s --out o", "cannot be used with"),
        (
            "eval run --benchmark hoc --constrain --endpoint http://x --source s --out o",
            "cannot be used with",
        ),
    ] {
        let ran = place.taiyi(arguments);
        assert_eq!(ran.code, Some(2), "{arguments}: {}", ran.stderr);
        assert!(ran.stderr.contains(part), "{arguments}: {}", ran.stderr);
        assert_eq!(ran.stdout, "", "{arguments}");
    }
}
