"""bitsandbytes (through transformers) and taiyi with each other's checkpoints in 4 bits. It runs on the CPU."""

import bitsandbytes
import torch
import transformers
from safetensors.torch import load_file

LIMIT = 1e-4
LENGTHS = (1, 9, 40)


def configurations():
    shared = {"vocab_size": 1000, "hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 8}
    more = {"intermediate_size": 512, "max_position_embeddings": 256, "num_key_value_heads": 2}
    yield "qwen2", transformers.Qwen2Config(**shared, **more, tie_word_embeddings=False)
    yield "llama, tied", transformers.LlamaConfig(**shared, **more, tie_word_embeddings=True)
    glm = {"head_dim": 32, "attention_bias": True, "pad_token_id": 0, "eos_token_id": 1}
    yield "glm", transformers.GlmConfig(**shared, **more, **glm, tie_word_embeddings=False)
    yield "bloom", transformers.BloomConfig(vocab_size=1000, hidden_size=256, n_layer=2, n_head=8)
    yield "biogpt", transformers.BioGptConfig(**shared, intermediate_size=512, max_position_embeddings=256)


def reference(model, sequences):
    with torch.no_grad():
        return [model(input_ids=torch.tensor([ids])).logits[0] for ids in sequences]


def load(folder, **more):
    loaded = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, device_map="cpu", **more)
    for module in loaded.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            # On processors with bf16 its kernel for them rounds activations whatever type they have; this is its exact one.
            module.support_avx512bf16_for_cpu = False
    return loaded.eval()


def four_bit_layers(model):
    return sum(isinstance(module, bitsandbytes.nn.Linear4bit) for module in model.modules())


def run(context):
    rows = []
    for seed, (name, config) in enumerate(configurations()):
        try:
            check(context, rows, name, config, seed)
        except Exception as error:
            rows.append((name, str(error).splitlines()[0][:200] if str(error) else repr(error), None, None, False))
    return rows


def check(context, rows, name, config, seed):
    whole = context.folder("whole")
    context.seeded(transformers.AutoModelForCausalLM.from_config(config), seed).save_pretrained(whole)
    sequences = context.sequences(1000, LENGTHS, seed)

    # Ours in theirs.
    four = context.path("ours")
    context.taiyi("model", "export", "--model", whole, "--to", "bnb-nf4", "--dtype", "f32", "--out", four)
    model = load(four)
    layers = four_bit_layers(model)
    rows.append((name, "layers of our file that bitsandbytes holds in 4 bits", layers, None, layers > 0))
    found = context.logits(four, sequences)
    worst = context.worst(reference(model, sequences), found)
    rows.append((name, "bitsandbytes' logits of our file", worst, LIMIT, worst <= LIMIT))

    # Theirs in ours, with and without quantised scales.
    for double in (True, False):
        what = "double" if double else "plain"
        settings = transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=double,
            bnb_4bit_compute_dtype=torch.float32,
        )
        quantised = load(whole, quantization_config=settings)
        theirs = context.folder(f"theirs-{what}")
        quantised.save_pretrained(theirs)
        expected = reference(load(theirs), sequences)
        worst = context.worst(context.logits(theirs, sequences), expected)
        rows.append((name, f"our logits of its file, {what} scales", worst, LIMIT, worst <= LIMIT))
        again = context.path(f"again-{what}")
        context.taiyi("model", "export", "--model", theirs, "--to", "bnb-nf4", "--dtype", "f32", "--out", again)
        a, b = load_file(theirs / "model.safetensors"), load_file(again / "model.safetensors")
        codes = [key.removesuffix(".quant_map") for key in b if key.endswith(".quant_map") and "nested" not in key]
        wrong = sum(not torch.equal(a[key], b[key]) for key in codes)
        rows.append((name, f"of {len(codes)} matrices, {what} scales, codes not as they were", wrong, 0, wrong == 0 and bool(codes)))
        if double:
            scales = [key for key in b if key.endswith(("absmax", "nested_quant_map"))]
            wrong = sum(not torch.equal(a[key], b[key]) for key in scales)
            rows.append((name, f"of {len(scales)} tensors of scales, not as they were", wrong, 0, wrong == 0))
