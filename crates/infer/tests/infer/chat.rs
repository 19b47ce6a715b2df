//! What of a conversation the model is shown, and what stays of it.

use taiyi_infer::{ChatOptions, ChatSession, Finish, Sampling};
use taiyi_model::chat::{ChatFormat, Message, Role};

use crate::tiny::{model, tokenizer};

fn options(max_new_tokens: usize) -> ChatOptions {
    ChatOptions { max_new_tokens, ..ChatOptions::taiyi1() }
}

#[test]
fn presets_are_as_published() {
    let trained = tokenizer();
    let format = ChatFormat::by_name("taiyi1", trained.tokenizer()).unwrap();
    let ChatOptions { sampling, max_new_tokens, .. } = ChatOptions::for_format(&format);
    assert_eq!((sampling.top_p, sampling.temperature, sampling.repetition_penalty), (0.9, 0.3, 1.0));
    assert_eq!(max_new_tokens, 500);
    let second = ChatOptions::taiyi2().sampling;
    assert_eq!(
        (second.top_p, second.top_k, second.temperature, second.repetition_penalty),
        (0.7, 20, 0.3, 1.05)
    );
}

#[test]
fn a_conversation_remembers_and_each_turn_draws_anew() {
    let mut model = model("taiyi1", 1200, 1);
    let drawn = Sampling { temperature: 1.0, ..Sampling::TAIYI1 };
    let mut session = ChatSession::new(ChatOptions { sampling: drawn, ..options(20) });
    let mut said = Vec::new();
    for text in ["头痛", "fever?", "头痛"] {
        let mut pieces = String::new();
        let reply = session.say(&mut model, text, &mut |piece| {
            pieces.push_str(piece);
            true
        });
        assert_eq!(reply.unwrap().text, pieces);
        said.extend([Message::user(text), Message::assistant(pieces)]);
        assert_eq!(session.messages(), said);
    }
    // The same words again, in a session of the same seed, get the same replies.
    let mut again = ChatSession::new(ChatOptions { sampling: drawn, ..options(20) });
    for text in ["头痛", "fever?", "头痛"] {
        again.say(&mut model, text, &mut |_| true).unwrap();
    }
    assert_eq!(again.messages(), session.messages());
    session.clear();
    assert!(session.messages().is_empty());
}

#[test]
fn taiyi_1_is_shown_the_last_thousand_ids() {
    let mut model = model("taiyi1", 2000, 1);
    let mut session = ChatSession::new(options(5));
    let long = "头痛 fever; ".repeat(30);
    let mut cut = false;
    for _ in 0..8 {
        session.say(&mut model, &long, &mut |_| true).unwrap();
        let whole = model.prompt_ids(session.messages()).unwrap();
        let shown = session.prompt(&model).unwrap();
        assert_eq!(shown, whole[whole.len().saturating_sub(1000)..]);
        cut |= shown.len() < whole.len();
    }
    assert!(cut);
}

#[test]
fn a_small_model_is_shown_less_and_other_formats_lose_whole_turns() {
    let mut taiyi = model("taiyi1", 120, 1);
    let mut session = ChatSession::new(options(40));
    for text in ["头痛三天", "fever and headache", "血压高", "the patient had fever"].repeat(3) {
        session.say(&mut taiyi, text, &mut |_| true).unwrap();
        assert!(session.prompt(&taiyi).unwrap().len() <= 80);
    }

    let mut chatml = model("chatml", 200, 1);
    let system = ChatOptions { system: Some("You help.".into()), ..options(40) };
    let mut session = ChatSession::new(system);
    for at in 0..12 {
        session.say(&mut chatml, &format!("turn {at}"), &mut |_| true).unwrap();
    }
    let shown = chatml.tokenizer().decode(&session.prompt(&chatml).unwrap());
    assert!(
        shown.contains("You help.") && shown.contains("turn 11") && !shown.contains("turn 0<"),
        "{shown}"
    );
    assert!(session.prompt(&chatml).unwrap().len() <= 160);
    assert_eq!(session.messages()[0].role, Role::System);
    session.clear();
    assert_eq!(session.messages(), [Message::system("You help.")]);
}

#[test]
fn what_fails_leaves_the_conversation_as_it_was() {
    let mut model = model("chatml", 100, 1);
    let mut session = ChatSession::new(options(10));
    session.say(&mut model, "头痛", &mut |_| true).unwrap();
    let before = session.messages().to_vec();
    let error = session.say(&mut model, &"头痛 ".repeat(200), &mut |_| true).unwrap_err().to_string();
    assert!(error.contains("expected fewer than the 100 tokens"), "{error}");
    assert_eq!(session.messages(), before);
    let reply = session.say(&mut model, "fever", &mut |_| false).unwrap();
    assert!(matches!(reply.finish, Finish::Cancelled | Finish::Stop));
    assert_eq!(session.messages().last().unwrap().content, reply.text);
}
