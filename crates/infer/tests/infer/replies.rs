//! Text in, text out: replies together, replies streamed, models from folders.

use taiyi_infer::{Finish, LoadOptions, Prompt, ReplyModel, ReplyOptions, Sampling};
use taiyi_model::chat::{ChatFormat, Message};
use taiyi_model::{Decoder, Dtype, LoraConfig};

use crate::tiny::{model, qwen2, tokenizer};

fn prompts() -> Vec<Prompt> {
    ["患者头痛、发热三天", "the patient had fever", "", "患者头痛、发热三天", "<|endoftext|> 血压"]
        .map(|text| Prompt::from(vec![Message::user(text)]))
        .to_vec()
}

#[test]
fn streamed_pieces_are_the_reply_and_the_reply_is_the_same_in_a_batch() {
    for (format, seed) in [("taiyi1", 1), ("chatml", 2), ("taiyi1", 3)] {
        let mut model = model(format, 200, seed);
        let drawn = Sampling { temperature: 1.5, seed: 7, ..Sampling::TAIYI1 };
        for sampling in [Sampling::GREEDY, drawn] {
            let options = ReplyOptions { max_new_tokens: 40, sampling, batch: 3 };
            let mut heard = Vec::new();
            let together = model.reply_all(&prompts(), &options, &mut |at| heard.push(at)).unwrap();
            assert_eq!(heard.len(), 6, "once at the start, once a reply");
            let last = heard[5];
            assert_eq!((last.done, last.total), (5, 5));
            assert_eq!(last.tokens, together.iter().map(|reply| reply.tokens).sum::<usize>());
            for (prompt, expected) in prompts().iter().zip(&together) {
                let mut pieces = String::new();
                let reply = model
                    .reply_streamed(prompt, &options, &mut |piece| {
                        assert!(!piece.is_empty());
                        pieces.push_str(piece);
                        true
                    })
                    .unwrap();
                assert_eq!(&reply, expected);
                assert_eq!(pieces, reply.text);
            }
            assert_eq!(together[0], together[3]);
        }
    }
}

#[test]
fn a_prompt_that_is_too_long_is_an_empty_reply_and_the_others_go_on() {
    let mut model = model("taiyi1", 30, 1);
    let long = Prompt::from(vec![Message::user("x y z ".repeat(40))]);
    let options = ReplyOptions { max_new_tokens: 5, ..ReplyOptions::default() };
    let prompts = [long.clone(), vec![Message::user("fever")].into()];
    let replies = model.reply_all(&prompts, &options, &mut |_| {}).unwrap();
    assert_eq!((replies[0].text.as_str(), replies[0].finish, replies[0].tokens), ("", Finish::TooLong, 0));
    assert_ne!(replies[1].finish, Finish::TooLong);
    let error = model.reply_streamed(&long, &options, &mut |_| true).unwrap_err().to_string();
    assert!(error.contains("expected fewer than the 30 tokens"), "{error}");
}

#[test]
fn a_listener_can_stop_a_reply() {
    let mut model = model("taiyi1", 200, 1);
    let options = ReplyOptions { max_new_tokens: 40, ..ReplyOptions::default() };
    let mut pieces = Vec::new();
    let reply = model
        .reply_streamed(&prompts()[0], &options, &mut |piece| {
            pieces.push(piece.to_owned());
            pieces.len() < 3
        })
        .unwrap();
    assert_eq!(reply.finish, Finish::Cancelled);
    assert_eq!(pieces.len(), 3, "nothing comes after the stop");
    assert_eq!(reply.text, pieces.concat());
}

#[test]
fn a_saved_model_replies_as_it_did_and_an_adapter_changes_it() {
    let folder = tempfile::tempdir().unwrap();
    let (base, adapter) = (folder.path().join("base"), folder.path().join("adapter"));
    let trained = tokenizer();
    let config = qwen2(trained.vocab_size(), 200);
    let decoder = Decoder::random(config, 4).unwrap();
    trained.save(&base).unwrap();
    decoder.save(&base, Dtype::F32).unwrap();
    let format = ChatFormat::by_name("taiyi1", trained.tokenizer()).unwrap();
    let mut own = ReplyModel::new(decoder, trained.tokenizer().clone(), format).unwrap();
    let options = ReplyOptions { max_new_tokens: 20, ..ReplyOptions::default() };
    let expected = own.reply_all(&prompts(), &options, &mut |_| {}).unwrap();

    let f32 = LoadOptions { dtype: Dtype::F32, ..LoadOptions::default() };
    let mut loaded = ReplyModel::load(&base, &f32).unwrap();
    assert_eq!(loaded.format().name(), "taiyi1");
    assert_eq!(loaded.reply_all(&prompts(), &options, &mut |_| {}).unwrap(), expected);

    let mut adapted = own.into_decoder();
    adapted.freeze();
    let lora = LoraConfig {
        rank: 2,
        alpha: 32.0,
        dropout: 0.0,
        targets: vec!["all-linear".into()],
        rslora: false,
        dora: false,
    };
    adapted.add_lora(&lora, 5).unwrap();
    for parameter in adapted.parameters() {
        parameter.data.iter_mut().enumerate().for_each(|(at, value)| *value += (at % 7) as f32 * 0.1 - 0.3);
    }
    adapted.save_adapter(&adapter, "base").unwrap();
    let with =
        LoadOptions { adapter: Some(adapter.clone()), chat_format: Some("chatml".into()), ..f32.clone() };
    let mut with = ReplyModel::load(&base, &with).unwrap();
    assert_eq!(with.format().name(), "chatml");
    let format = ChatFormat::by_name("chatml", trained.tokenizer()).unwrap();
    let mut own = ReplyModel::new(adapted, trained.tokenizer().clone(), format).unwrap();
    let found = with.reply_all(&prompts(), &options, &mut |_| {}).unwrap();
    assert_eq!(found, own.reply_all(&prompts(), &options, &mut |_| {}).unwrap());
    assert_ne!(found, expected);

    let unknown = LoadOptions { chat_format: Some("telegram".into()), ..f32.clone() };
    let error = ReplyModel::load(&base, &unknown).err().unwrap().to_string();
    assert!(error.contains("no chat format is called `telegram`"), "{error}");
    let missing = LoadOptions { adapter: Some(folder.path().join("none")), ..f32 };
    assert!(ReplyModel::load(&base, &missing).err().unwrap().to_string().contains("none"));
}

#[test]
fn a_tokenizer_of_another_model_is_refused_before_the_weights_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let trained = tokenizer();
    trained.save(folder.path()).unwrap();
    Decoder::random(qwen2(100, 50), 1).unwrap().save(folder.path(), Dtype::F32).unwrap();
    std::fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    let error = ReplyModel::load(folder.path(), &LoadOptions::default()).err().unwrap().to_string();
    assert!(error.starts_with("the tokenizer has") && error.contains("100 embedding rows"), "{error}");
}
