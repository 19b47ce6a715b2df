"""PEFT and taiyi with each other's adapters, on random checkpoints, apart and merged."""

import json

import peft
import torch
import transformers

LIMIT = 1e-4
LENGTHS = (1, 9, 40)
TARGETS = {
    "qwen2": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "bloom": ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"],
}
KINDS = {"LoRA": {}, "rsLoRA": {"use_rslora": True}, "DoRA": {"use_dora": True}}


def base(context, name, vocab_size, seed):
    if name == "qwen2":
        config = transformers.Qwen2Config(
            vocab_size=vocab_size,
            hidden_size=256,
            intermediate_size=512,
            num_hidden_layers=2,
            num_attention_heads=8,
            num_key_value_heads=2,
            max_position_embeddings=512,
            tie_word_embeddings=False,
        )
    else:
        config = transformers.BloomConfig(vocab_size=vocab_size, hidden_size=256, n_layer=2, n_head=8)
    model = context.seeded(transformers.AutoModelForCausalLM.from_config(config), seed)
    folder = context.folder(f"{name}-base")
    model.save_pretrained(folder)
    return folder


def fresh(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def reference(model, sequences):
    with torch.no_grad():
        return [model(input_ids=torch.tensor([ids])).logits[0] for ids in sequences]


def run(context):
    rows = []
    for name in TARGETS:
        for seed, kind in enumerate(KINDS):
            theirs(context, rows, name, kind, seed)
    for kind in KINDS:
        ours(context, rows, kind)
    return rows


def theirs(context, rows, name, kind, seed):
    """An adapter that PEFT made and wrote."""
    folder = base(context, name, 1000, seed)
    settings = peft.LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=12, target_modules=TARGETS[name], **KINDS[kind])
    model = peft.get_peft_model(fresh(folder), settings)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, parameter in sorted(model.named_parameters()):
            if "lora_A" in key or "lora_B" in key:
                # Strong enough to matter, weak enough that rsLoRA's larger scale does not blow the activations up.
                drawn = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(drawn / parameter.shape[-1] ** 0.5 * (0.3 if "lora_B" in key else 1.0))
            elif "magnitude" in key:
                parameter.mul_(1 + 0.2 * torch.randn(parameter.shape, generator=generator))
    model.eval()
    adapter = context.path("adapter")
    model.save_pretrained(adapter)
    sequences = context.sequences(1000, LENGTHS, seed)
    expected = reference(model, sequences)
    changed = context.worst(expected, reference(fresh(folder), sequences))
    label = f"{name}, {kind}"
    rows.append((label, "PEFT's adapter changes its logits by", changed, None, changed > 0.1))
    worst = context.worst(context.logits(folder, sequences, adapter=adapter), expected)
    rows.append((label, "our logits with PEFT's adapter", worst, LIMIT, worst <= LIMIT))
    merged = context.path("merged")
    context.taiyi("model", "merge", "--model", folder, "--adapter", adapter, "--dtype", "f32", "--out", merged)
    worst = context.worst(reference(fresh(merged), sequences), expected)
    rows.append((label, "transformers' logits of our merge of it", worst, LIMIT, worst <= LIMIT))


PAIRS = [
    ("Drug in: aspirin helps", "aspirin"),
    ("Drug in: no relief from warfarin, he said", "warfarin"),
    ("疾病：患者有糖尿病", "糖尿病"),
    ("意图：多少钱", "价格"),
]
RECIPE = """
kind = "sft"
stage = "stage1"
base = "{base}"
data = "{data}"
seed = 5
dtype = "f32"
lora_rank = 8
lora_alpha = 16
lora_rslora = {rslora}
lora_dora = {dora}
learning_rate = 1e-2
warmup_ratio = 0.1
max_length = 256
per_device_batch = 4
accumulation = 1
epochs = 4
save_every = 100
"""


def ours(context, rows, kind):
    """An adapter that taiyi trained and wrote."""
    text = context.path("text.txt")
    text.write_text("\n".join(f"{a} {b}" for a, b in PAIRS) * 20, encoding="utf-8")
    tokenizer = context.path("tokenizer")
    context.taiyi("tokenizer", "train", "--input", text, "--vocab-size", "320", "--out", tokenizer)
    vocab_size = 384
    folder = base(context, "qwen2", vocab_size, 7)
    for file in tokenizer.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    data = context.path("data.jsonl")
    conversations = [
        {
            "conversation_id": at + 1,
            "dataset": "made_up",
            "category": "QA",
            "language": "en",
            "conversation": [{"human": human, "assistant": assistant}],
        }
        for at, (human, assistant) in enumerate(PAIRS)
    ]
    data.write_text("".join(json.dumps(c, ensure_ascii=False) + "\n" for c in conversations), encoding="utf-8")
    recipe = context.path("recipe.toml")
    flags = {"rslora": str(kind == "rsLoRA").lower(), "dora": str(kind == "DoRA").lower()}
    recipe.write_text(RECIPE.format(base=folder, data=data, **flags))
    adapter = context.path("trained")
    context.taiyi("train", "--recipe", recipe, "--out", adapter)
    sequences = context.sequences(300, LENGTHS, 3)
    found = context.logits(folder, sequences, adapter=adapter)
    plain = fresh(folder)
    label = f"qwen2, {kind}"
    changed = context.worst(found, reference(plain, sequences))
    rows.append((label, "our adapter changes our logits by", changed, None, changed > 0.01))
    model = peft.PeftModel.from_pretrained(plain, adapter).eval()
    worst = context.worst(reference(model, sequences), found)
    rows.append((label, "PEFT's logits with our adapter", worst, LIMIT, worst <= LIMIT))
