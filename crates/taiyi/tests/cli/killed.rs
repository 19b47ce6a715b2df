//! A run killed with SIGKILL at random moments goes on as if nothing had happened.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

use crate::place::{PAIRS, Place, RECIPE, conversations, tiny_model};

const STEPS: u64 = 300;
const KILLS: u64 = 5;

fn steps(path: &Path) -> u64 {
    std::fs::read(path).map_or(0, |bytes| bytes.iter().filter(|&&byte| byte == b'\n').count() as u64)
}

/// The records of a run without what the clock says.
fn records(place: &Place, out: &str) -> Vec<Value> {
    let timeless = |line: &str| {
        let mut record: Value = serde_json::from_str(line).unwrap();
        for key in ["seconds", "tokens_per_second", "peak_memory_bytes"] {
            record.as_object_mut().unwrap().remove(key).unwrap();
        }
        record
    };
    place.read(&format!("{out}/metrics.jsonl")).lines().map(timeless).collect()
}

#[test]
fn five_kills_change_no_bit() {
    let place = Place::new();
    tiny_model(&place.path("model"), 11);
    place.write("data.jsonl", conversations(&PAIRS));
    let recipe = RECIPE
        .replace("epochs = 10", &format!("max_steps = {STEPS}\nlora_dropout = 0.05"))
        // A checkpoint every other step, so that kills also hit the writing of one.
        .replace("save_every = 5", "save_every = 2");
    place.write("recipe.toml", recipe);
    place.taiyi("train --recipe recipe.toml --out whole").fine();

    let mut random = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64;
    eprintln!("seed {random}");
    let mut draw = |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    let metrics = place.path("killed/metrics.jsonl");
    let mut resumed = 0;
    for kill in 0..KILLS {
        let mut child = place
            .command("train --recipe recipe.toml --out killed --resume")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A moment in this kill's share of the run: after some step, and some microseconds.
        let share = STEPS / (KILLS + 1);
        let step = kill * share + 1 + draw(share);
        let started = Instant::now();
        while steps(&metrics) < step {
            assert!(started.elapsed() < Duration::from_secs(300), "step {step} does not come");
            assert!(child.try_wait().unwrap().is_none(), "the run ended before kill {kill} at step {step}");
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_micros(draw(10_000)));
        child.kill().unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), None, "killed, not ended");
        resumed += u64::from(String::from_utf8_lossy(&output.stderr).contains("resumed from step"));
        assert!(!place.path("killed/manifest.json").exists(), "the manifest means complete");
    }
    let last = place.taiyi("train --recipe recipe.toml --out killed --resume").fine();
    assert!(last.stderr.contains("resumed from step") && resumed >= KILLS - 2, "{resumed}: {}", last.stderr);

    let (whole, killed) = (records(&place, "whole"), records(&place, "killed"));
    assert_eq!(whole.len() as u64, STEPS);
    assert_eq!(whole, killed, "losses, norms and rates of every step");
    for file in ["adapter_model.safetensors", "adapter_config.json"] {
        let bytes = |out: &str| std::fs::read(place.path(out).join(file)).unwrap();
        assert_eq!(bytes("whole"), bytes("killed"), "{file}");
    }
    assert_eq!(place.names("killed"), place.names("whole"), "nothing of the killed processes is left");
    assert_eq!(place.names("killed/checkpoints"), place.names("whole/checkpoints"));
}
