//! `taiyi chat` with lines from a pipe.

use std::io::Write;
use std::process::Stdio;

use crate::place::{Place, Ran, tiny_model};

fn say(place: &Place, arguments: &str, input: &[u8]) -> Ran {
    let mut child = place
        .command(&format!("chat --model model --max-new-tokens 12 {arguments}"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    Ran::of(child.wait_with_output().unwrap())
}

#[test]
fn replies_stream_to_stdout_and_the_notice_comes_once() {
    let place = Place::new();
    tiny_model(&place.path("model"), 7);
    let once = say(&place, "", "aspirin?\n头痛\n/exit\nnot read".as_bytes()).fine();
    assert!(once.stdout.len() > 4, "{}", once.stdout);
    for notice in ["not medical advice", "不构成医疗建议"] {
        assert_eq!(once.stderr.matches(notice).count(), 1, "{}", once.stderr);
    }
    assert_eq!(say(&place, "", "aspirin?\n头痛\n".as_bytes()).fine().stdout, once.stdout, "the same seed");
    assert_ne!(
        say(&place, "--seed 9 --temperature 2", "aspirin?\n头痛\n".as_bytes()).fine().stdout,
        once.stdout
    );
    assert_eq!(say(&place, "", b"").fine().stdout, "");
}

#[test]
fn clear_forgets_and_the_system_message_stays() {
    let place = Place::new();
    tiny_model(&place.path("model"), 7);
    let reply = |arguments: &str, input: &str| say(&place, arguments, input.as_bytes()).fine().stdout;
    // Taiyi 1's format, the default of a folder without a template, has no system message.
    for arguments in ["--temperature 0", "--temperature 0 --chat-format chatml --system Briefly"] {
        let one = reply(arguments, "fever?\n");
        assert_eq!(reply(arguments, "fever?\n/clear\nfever?\n"), one.repeat(2), "{arguments}");
        assert_ne!(reply(arguments, "fever?\nfever?\n"), one.repeat(2), "{arguments}: the history is seen");
    }
    let with = reply("--temperature 0 --chat-format chatml --system Briefly", "fever?\n");
    assert_ne!(reply("--temperature 0 --chat-format chatml", "fever?\n"), with);
}

#[test]
fn a_bad_line_is_told_and_the_rest_goes_on() {
    let place = Place::new();
    tiny_model(&place.path("model"), 7);
    let long = "headache ".repeat(600);
    let ran = say(
        &place,
        "--temperature 0 --chat-format chatml",
        &[b"\xbb\xbc\xd5\xdf\n", long.as_bytes(), b"\nfever?\n"].concat(),
    );
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    let errors: Vec<&str> = ran.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 2, "{}", ran.stderr);
    assert!(
        errors[0].contains("stdin:1: expected UTF-8 text") && errors[1].contains("512"),
        "{}",
        ran.stderr
    );
    assert_eq!(ran.stdout, say(&place, "--temperature 0 --chat-format chatml", b"fever?\n").fine().stdout);
}

#[test]
fn values_outside_their_range_are_refused() {
    let place = Place::new();
    tiny_model(&place.path("model"), 7);
    for (arguments, part) in [
        ("--temperature=-1", "temperature"),
        ("--top-p 0", "top_p"),
        ("--repetition-penalty 0", "repetition_penalty"),
    ] {
        let ran = say(&place, arguments, b"fever?\n");
        assert_eq!(ran.code, Some(2), "{}", ran.stderr);
        assert!(ran.stderr.contains(&format!("error: {part}: expected")), "{}", ran.stderr);
    }
}
