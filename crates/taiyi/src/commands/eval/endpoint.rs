//! An OpenAI-compatible chat completions endpoint that answers an evaluation's prompts, over plain HTTP: a server on this
//! machine or in its network.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::{Value, json};
use taiyi_eval::{Prompt, Replier, Reply, ReplyError};
use ureq::Agent;
use ureq::http::Response;

use crate::failure::Failure;

/// Holds the key that is sent as bearer token.
const KEY: &str = "TAIYI_API_KEY";

/// Attempts at a request: the pauses between them double from the first.
const ATTEMPTS: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// What a server asks for with `Retry-After` is followed up to here.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A reply of 500 tokens takes a slow server minutes.
const REPLY_TIMEOUT: Duration = Duration::from_secs(600);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A server and the model it is asked for.
pub(super) struct Endpoint {
    agent: Agent,
    /// Where completions are asked for.
    url: String,
    key: Option<String>,
    model: String,
    max_tokens: usize,
}

impl Endpoint {
    /// Finds out whether the server answers and, where no model is named, which it has.
    pub(super) fn connect(url: &str, model: Option<&str>, max_tokens: usize) -> Result<Self, Failure> {
        if url.starts_with("https://") {
            return Err(Failure::new(format!(
                "--endpoint {url}: expected an http:// address, found https://"
            ))
            .hint("run a local proxy that speaks TLS to the server, and give its http:// address"));
        }
        if !url.strip_prefix("http://").is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/')) {
            return Err(Failure::new(format!(
                "--endpoint {url}: expected an address such as http://127.0.0.1:8000/v1"
            )));
        }
        let base = url.trim_end_matches('/');
        let base = base.strip_suffix("/chat/completions").unwrap_or(base);
        // Statuses are read here, so that the server's own words reach the person.
        let agent: Agent = Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .max_redirects(0)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_global(Some(REPLY_TIMEOUT))
            .user_agent(concat!("taiyi/", env!("CARGO_PKG_VERSION")))
            .build()
            .into();
        let key = std::env::var(KEY).ok().filter(|key| !key.is_empty());
        let mut endpoint = Self {
            agent,
            url: format!("{base}/chat/completions"),
            key,
            model: model.unwrap_or_default().to_owned(),
            max_tokens,
        };
        if model.is_none() {
            endpoint.model = endpoint.first_model(&format!("{base}/models"))?;
        }
        Ok(endpoint)
    }

    /// What the endpoint calls its model.
    pub(super) fn model(&self) -> &str {
        &self.model
    }

    /// Sends up to `parallel` requests at once; `watch` is told how many of a batch are answered.
    pub(super) fn replier<'a>(&'a self, parallel: usize, watch: &'a dyn Fn(usize)) -> EndpointReplier<'a> {
        EndpointReplier { endpoint: self, parallel, watch }
    }

    fn first_model(&self, url: &str) -> Result<String, Failure> {
        let mut request = self.agent.get(url);
        if let Some(key) = &self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let response = request.call().map_err(|error| {
            Failure::new(format!("{url}: {error}")).hint("is the server running, and the port right?")
        })?;
        let named = match body(response) {
            (200, text) => serde_json::from_str::<Value>(&text)
                .ok()
                .and_then(|value| value["data"][0]["id"].as_str().map(str::to_owned)),
            (status @ (401 | 403), text) => {
                return Err(refused(url, status, &text).hint(format!("set {KEY} to the server's key")));
            }
            _ => None,
        };
        named.ok_or_else(|| {
            Failure::new(format!("{url}: expected a list of models, found none"))
                .hint("name the model with --endpoint-model")
        })
    }

    /// Asks until there is an answer, a refusal, or patience ends.
    fn ask(&self, prompt: &str) -> Result<Reply, ReplyError> {
        let mut pause = FIRST_PAUSE;
        let mut attempt = 0;
        loop {
            attempt += 1;
            let (problem, wanted) = match self.ask_once(prompt) {
                Asked::Answered(reply) => return Ok(reply),
                Asked::Refused(failure) => return Err(ReplyError::new(failure.message)),
                Asked::Later(problem, wanted) => (problem, wanted),
            };
            if attempt == ATTEMPTS {
                return Err(ReplyError::new(format!("{}: {problem}, {ATTEMPTS} times", self.url)));
            }
            std::thread::sleep(wanted.unwrap_or(pause).min(LONGEST_PAUSE));
            pause *= 2;
        }
    }

    fn ask_once(&self, prompt: &str) -> Asked {
        let question = json!({
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": self.max_tokens,
        });
        let mut request = self.agent.post(&self.url).header("content-type", "application/json");
        if let Some(key) = &self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let response = match request.send(question.to_string()) {
            Ok(response) => response,
            Err(error @ (ureq::Error::BadUri(_) | ureq::Error::Http(_) | ureq::Error::HostNotFound)) => {
                return Asked::Refused(Failure::new(format!("{}: {error}", self.url)));
            }
            Err(error) => return Asked::Later(error.to_string(), None),
        };
        let wanted = response
            .headers()
            .get("retry-after")
            .and_then(|value| value.to_str().ok()?.trim().parse().ok())
            .map(Duration::from_secs);
        match body(response) {
            (200, text) => match reply(&text) {
                Some(reply) => Asked::Answered(reply),
                None => Asked::Refused(Failure::new(format!(
                    "{}: expected {{\"choices\": [{{\"message\": {{\"content\": …}}}}]}}, found {}",
                    self.url,
                    excerpt(&text)
                ))),
            },
            // The prompt's own fault: an empty reply, which is counted.
            (status, text) if is_too_long(status, &text) => Asked::Answered(Reply::default()),
            (status @ (408 | 425 | 429 | 500 | 502 | 503 | 504), text) => {
                Asked::Later(format!("status {status}: {}", excerpt(&text)), wanted)
            }
            (status, text) => Asked::Refused(refused(&self.url, status, &text)),
        }
    }
}

/// What became of a request.
enum Asked {
    Answered(Reply),
    /// Asking again is pointless.
    Refused(Failure),
    /// Why not now, and when to ask again if the server says.
    Later(String, Option<Duration>),
}

fn refused(url: &str, status: u16, text: &str) -> Failure {
    Failure::new(format!("{url}: status {status}: {}", excerpt(text)))
}

/// The status and the text; what cannot be read as text is left out.
fn body(mut response: Response<ureq::Body>) -> (u16, String) {
    let status = response.status().as_u16();
    let text = response.body_mut().read_to_string();
    match text {
        Ok(text) => (status, text),
        // The connection broke in the middle: as good as no answer.
        Err(error) if status == 200 => (503, error.to_string()),
        Err(_) => (status, String::new()),
    }
}

fn reply(text: &str) -> Option<Reply> {
    let value: Value = serde_json::from_str(text).ok()?;
    let choice = value.get("choices")?.get(0)?;
    let content = choice.get("message")?.get("content")?;
    let text = if content.is_null() { "" } else { content.as_str()? };
    Some(Reply { text: text.to_owned(), cut_off: choice["finish_reason"] == "length" })
}

fn is_too_long(status: u16, text: &str) -> bool {
    let words = ["context length", "context_length", "maximum context", "too long", "too many tokens"];
    status == 413
        || (matches!(status, 400 | 422) && words.iter().any(|word| text.to_lowercase().contains(word)))
}

/// What a server said, short enough for a line: its `error.message` where there is one.
fn excerpt(text: &str) -> String {
    let value: Option<Value> = serde_json::from_str(text).ok();
    let message = value.as_ref().and_then(|value| value["error"]["message"].as_str()).unwrap_or(text);
    let line = message.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(200) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None if line.is_empty() => "an empty body".to_owned(),
        None => line,
    }
}

/// Answers prompts with several requests at once.
pub(super) struct EndpointReplier<'a> {
    endpoint: &'a Endpoint,
    parallel: usize,
    watch: &'a dyn Fn(usize),
}

impl Replier for EndpointReplier<'_> {
    fn reply(&mut self, prompts: &[Prompt]) -> Result<Vec<Reply>, ReplyError> {
        let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let (sender, receiver) = mpsc::channel();
        let endpoint = self.endpoint;
        std::thread::scope(|scope| {
            for _ in 0..self.parallel.min(prompts.len()) {
                let (sender, next, stop) = (sender.clone(), &next, &stop);
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed)
                        && let at = next.fetch_add(1, Ordering::Relaxed)
                        && let Some(prompt) = prompts.get(at)
                    {
                        let reply = endpoint.ask(prompt.text);
                        stop.fetch_or(reply.is_err(), Ordering::Relaxed);
                        if sender.send((at, reply)).is_err() {
                            break;
                        }
                    }
                });
            }
            drop(sender);
            let mut replies = vec![Reply::default(); prompts.len()];
            for (done, (at, reply)) in receiver.into_iter().enumerate() {
                replies[at] = reply?;
                (self.watch)(done + 1);
            }
            Ok(replies)
        })
    }

    fn batch(&self) -> usize {
        4 * self.parallel
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_in_the_published_shape() {
        let text =
            r#"{"choices": [{"message": {"role": "assistant", "content": "是"}, "finish_reason": "stop"}]}"#;
        assert_eq!(reply(text), Some(Reply { text: "是".to_owned(), cut_off: false }));
        let text = r#"{"choices": [{"message": {"content": null}, "finish_reason": "length"}]}"#;
        assert_eq!(reply(text), Some(Reply { text: String::new(), cut_off: true }));
        for text in ["", "[]", r#"{"choices": []}"#, r#"{"choices": [{"message": {"content": 7}}]}"#] {
            assert_eq!(reply(text), None, "{text}");
        }
    }

    #[test]
    fn only_a_prompt_that_is_too_long_is_its_own_fault() {
        let text = r#"{"error": {"message": "This model's maximum context length is 2048 tokens"}}"#;
        assert!(is_too_long(400, text) && is_too_long(413, "") && !is_too_long(500, text));
        assert!(!is_too_long(400, r#"{"error": {"message": "unknown model"}}"#));
        assert_eq!(excerpt(r#"{"error": {"message": "unknown\nmodel"}}"#), "unknown model");
        assert_eq!(excerpt(""), "an empty body");
        assert_eq!(excerpt(&"字".repeat(300)).chars().count(), 201);
    }
}
