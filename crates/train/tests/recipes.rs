//! Every recipe file in the repository reads, explains itself, and the published one holds the published numbers.

use std::fs;
use std::path::{Path, PathBuf};
use taiyi_train::recipe::{Dtype, Kind, Recipe};
use taiyi_train::schedule::Shape;

fn recipes() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/recipes")
}

/// Training recipes, by their file names; mixes and texts have their own readers.
fn files() -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(recipes())
        .unwrap()
        .flat_map(|system| {
            ["stage1.toml", "stage2.toml", "pretrain.toml", "ner.toml", "classification.toml"]
                .map(|name| system.as_ref().unwrap().path().join(name))
        })
        .filter(|path| path.exists())
        .collect();
    files.sort();
    assert!(files.len() >= 7, "{files:?}");
    files
}

#[test]
fn every_recipe_opens_with_its_command_and_explains_every_value() {
    for path in files() {
        Recipe::load(&path).unwrap_or_else(|error| panic!("{error}"));
        let text = fs::read_to_string(&path).unwrap();
        let head: String = text.lines().take_while(|line| line.starts_with('#')).collect();
        let name = path.strip_prefix(recipes()).unwrap().display().to_string();
        let command = format!("taiyi train --recipe data/recipes/{}", name.replace('\\', "/"));
        assert!(head.contains(&command), "{name} does not open with `{command}`");
        let table_rows = |line: &&str| !line.starts_with(['#', ' ', '[', ']']) && line.contains('=');
        for line in text.lines().filter(table_rows) {
            let remark = line.split_once(" # ").map_or("", |(_, remark)| remark);
            assert!(remark.len() >= 10, "{name}: no remark beside `{line}`");
        }
    }
}

#[test]
fn encoders_are_tuned_in_full_as_is_usual() {
    for (name, kind) in [("ner", Kind::TokenClassification), ("classification", Kind::SequenceClassification)]
    {
        let recipe = Recipe::load(&recipes().join(format!("encoders/{name}.toml"))).unwrap();
        assert_eq!((recipe.kind, recipe.lora_rank, recipe.schedule), (kind, 0, Shape::Linear));
        assert_eq!((recipe.warmup_ratio, recipe.weight_decay, recipe.max_length), (Some(0.1), 0.01, 512));
        assert_eq!(recipe.multi_label, name == "classification");
    }
}

#[test]
fn the_published_recipe_holds_the_published_numbers() {
    for (stage, epochs) in [("stage1", 5.0), ("stage2", 3.0)] {
        let recipe = Recipe::load(&recipes().join(format!("taiyi1/{stage}.toml"))).unwrap();
        assert_eq!((recipe.kind, recipe.dtype, recipe.stage.as_str()), (Kind::Sft, Dtype::Nf4, stage));
        assert_eq!((recipe.lora_rank, recipe.lora_alpha, recipe.lora_dropout), (64, 16.0, 0.05));
        assert_eq!(recipe.lora_targets, ["all-linear"]);
        assert_eq!((recipe.learning_rate, recipe.weight_decay, recipe.max_grad_norm), (2e-4, 0.0, 0.3));
        assert_eq!((recipe.schedule, recipe.warmup_ratio), (Shape::ConstantWithWarmup, Some(0.1)));
        assert_eq!((recipe.betas, recipe.eps), ([0.9, 0.999], 1e-8));
        assert_eq!((recipe.max_length, recipe.per_device_batch, recipe.accumulation), (1024, 12, 2));
        assert_eq!((recipe.samples_per_step(), recipe.epochs), (24, Some(epochs)));
        assert_eq!(recipe.adapter.is_some(), stage == "stage2", "the second stage goes on with the first");
    }
}
